"""A run over thousands of observations: what it costs over the bare loop, two workers, memory and files.

Overhead is paired: after every chunk of a run, the same chunk is inverted by ``unrelu.invert``
alone, in the same process on the same thread, and the sums of both times are compared. What a run adds is reading,
looking for bad rows, the store, the journal and the line and bar in the terminal. Both come to the same bits, which is
checked. Two workers are compared with one, for the chunks (from the first one's beginning to the last one's
end) and for the whole command with its imports; the most that this machine gives is measured by two bare loops side by
side. Memory is what all processes of a run hold together (proportional set size, so that shared pages count once),
sampled every 50 ms. A million small observations, of a 10-30-60 network and with two
iterations of lm, are compared with two processes that invert such chunks and write nothing.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import time
from functools import partial
from multiprocessing.managers import SyncManager
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import unrelu
from unrelu.cli.run_progress import watching
from unrelu.runs import RunProgress
from unrelu.runs.chunk_work import chunk_seed
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.kit.markdown_tables import aims, table
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

CHUNK = 256
# Observations, and runs of each; both in a quick run.
SIZE, RUNS = 2_560, 2
QUICK_SIZE, QUICK_RUNS = 1_024, 1
COMMAND = [sys.executable, "-c", "from unrelu.cli.process import main; main()", "run", "mnist-relu"]
# Observations of the small network, and how many of them the bare loops invert.
MILLION, QUICK_MILLION, LOOPS = 1_000_000, 20_000, 20_000
# Noise in the data, which is stated where there is some.
NOISES = (0.0, 0.1)


def data(folder: Path, size: int, noise: float, seed: int) -> Path:
    """Outputs of the network under Gaussian noise, as a file."""
    network = unrelu.zoo.load("mnist-relu")
    path = folder / f"y-{size}-{noise}.npy"
    if not path.exists():
        truth, e = (stream(f"data sets, {what}", seed, size) for what in ("truth", "noise"))
        np.save(path, network(truth.standard_normal((size, 20))) + noise * e.standard_normal((size, 784)))
    return path


def stated(noise: float) -> str | None:
    """What ``noise=`` is."""
    return f"gaussian:{noise}" if noise else None


def overhead(path: Path, noise: float, output: Path) -> tuple[float, float]:
    """Seconds of all chunks of a run, and of the same chunks inverted alone."""
    network, y = unrelu.zoo.load("mnist-relu"), np.load(path)
    seconds: dict[str, list[float]] = {"run": [], "bare": []}
    torch.set_num_threads(1)
    with threadpool_limits(1), watching(False) as watcher:
        mark = time.perf_counter()

        def callback(progress: RunProgress) -> None:
            nonlocal mark
            watcher(progress)
            if (record := progress.record) is not None:
                seconds["run"].append(time.perf_counter() - mark)
                began = time.perf_counter()
                alone = unrelu.invert(
                    network, y[record.start : record.stop], noise=stated(noise), seed=chunk_seed(0, record.chunk)
                )
                seconds["bare"].append(time.perf_counter() - began)
                assert (unrelu.open_run(output).read("codes", record.start, record.stop) == alone.z).all()
            mark = time.perf_counter()

        unrelu.run(network, path, output, noise=stated(noise), chunk=CHUNK, workers=1, callback=callback)
    # The first chunk loads the kernels, for both.
    return sum(seconds["run"][1:]), sum(seconds["bare"][1:])


def loop(path: Path, noise: float, barrier: Barrier) -> float:
    """Seconds of the bare loop in this process, which another may wait for."""
    network, y = unrelu.zoo.load("mnist-relu"), np.load(path)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        unrelu.invert(network, y[:CHUNK], noise=stated(noise))
        barrier.wait()
        began = time.perf_counter()
        for start in range(0, len(y), CHUNK):
            unrelu.invert(network, y[start : start + CHUNK], noise=stated(noise))
        return time.perf_counter() - began


def side_by_side(path: Path, noise: float) -> float:
    """How many times the work of one process two processes do in its time."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        alone = _loops(path, noise, manager, 1)
        return 2 * alone / _loops(path, noise, manager, 2)


def _loops(path: Path, noise: float, manager: SyncManager, processes: int) -> float:
    barrier = manager.Barrier(processes)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return max(pool.starmap(loop, [(path, noise, barrier)] * processes, chunksize=1))


def whole_command(path: Path, noise: float, output: Path, *arguments: str) -> tuple[float, float]:
    """Seconds of the whole command, and from its first chunk's beginning to its last one's end."""
    line = asked(path, noise, output, *arguments)
    _, whole = timed(partial(subprocess.run, line, check=True, stderr=subprocess.DEVNULL))
    records = unrelu.open_run(output).records.values()
    return whole, max(r.at for r in records) - min(r.at - r.seconds for r in records)


def asked(path: Path, noise: float, output: Path, *arguments: str) -> list[str]:
    """The command line."""
    return [*COMMAND, str(path), "-o", str(output), *(("--noise", stated(noise)) if noise else ()), *arguments]


def peak(line: list[str], every: float = 0.05) -> float:
    """The most memory that the processes of a command held together, in MiB."""
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, sum(held(pid) for pid in family(process.pid)))
        time.sleep(every)
    assert process.returncode == 0
    return most / 1024


def family(pid: int) -> list[int]:
    """A process and all below it."""
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below += [int(child) for child in task.read_text().split()]
        except OSError:  # it has just ended
            continue
    return [pid, *(found for child in below for found in family(child))]


def held(pid: int) -> int:
    """Proportional set size of a process in KiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def _overheads(folder: Path, command: Command, noise: float) -> dict[str, Any]:
    """Seconds of a run and of the bare loop inside it, means over the runs after a first one, which learns."""
    size, runs = _size(command)
    path = data(folder, size, noise, command.seed)
    pairs = [overhead(path, noise, folder / f"overhead-{i}") for i in range(runs + 1)][1:]
    run, bare = map(sum, zip(*pairs, strict=True))
    return {"noise": noise, "bare": bare / runs, "run": run / runs}


def _workers(folder: Path, command: Command, noise: float) -> dict[str, Any]:
    """Seconds of one worker and of two: for the chunks, and for the whole command; of each the quickest run."""
    size, runs = _size(command)
    path = data(folder, size, noise, command.seed)
    row: dict[str, Any] = {"noise": noise}
    row["bare_loops"] = side_by_side(data(folder, size // 4, noise, command.seed), noise)
    for n in (1, 2):
        times = [whole_command(path, noise, folder / f"{n}-{i}", "--workers", str(n)) for i in range(runs)]
        row[f"whole_{n}"], row[f"chunks_{n}"] = (min(seconds) for seconds in zip(*times, strict=True))
    return row


def _memory(folder: Path, command: Command, size: int) -> dict[str, Any]:
    """Peak memory of a run with two workers, noise 0.1, in MiB."""
    line = asked(data(folder, size, 0.1, command.seed), 0.1, folder / "out")
    return {"observations": size, "peak": peak(line)}


def small_network() -> unrelu.Network:
    """A 10-30-60 network with random weights."""
    weights = stream("data sets, weights", 0)
    return unrelu.from_arrays([weights.standard_normal((30, 10)) / 3, weights.standard_normal((60, 30)) / 5])


def small_loop(path: Path, start: int, stop: int, chunk: int, barrier: Barrier) -> float:
    """Seconds in which a process inverts observations of the small network, after all others are ready."""
    network, y = small_network(), np.load(path, mmap_mode="r")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        unrelu.invert(network, np.array(y[start : start + chunk]), "lm", max_iterations=2)
        barrier.wait()
        began = time.perf_counter()
        for first in range(start, stop, chunk):
            unrelu.invert(network, np.array(y[first : first + chunk]), "lm", max_iterations=2)
        return time.perf_counter() - began


def _million(folder: Path, command: Command) -> dict[str, Any]:
    """A run over small observations with two workers: speed, memory and files."""
    size, network, path = QUICK_MILLION if command.quick else MILLION, small_network(), folder / "small.npy"
    truth, e = (stream(f"data sets, small {what}", command.seed) for what in ("truth", "noise"))
    y = np.lib.format.open_memmap(path, "w+", np.float64, (size, 60))
    for start in range(0, size, 10_000):
        some = min(10_000, size - start)
        y[start : start + some] = network(truth.standard_normal((some, 10))) + 0.1 * e.standard_normal((some, 60))
    y.flush()
    layers: dict[str, Any] = {f"W{i}": layer.matrix() for i, layer in enumerate(network.layers)}
    np.savez(folder / "small.npz", activation="relu", **layers)
    with multiprocessing.get_context("spawn").Manager() as manager:
        barrier, half = manager.Barrier(2), min(LOOPS, size) // 2
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            parts = [(path, i * half, (i + 1) * half, CHUNK, barrier) for i in range(2)]
            bare = 2 * half / max(pool.starmap(small_loop, parts, chunksize=1))
    out = folder / "million"
    asked_for = ("-o", str(out), "--method", "lm", "-O", "max_iterations=2")
    memory = peak([*COMMAND[:-1], str(folder / "small.npz"), str(path), *asked_for], every=0.5)
    records = unrelu.open_run(out).records.values()
    wall = max(r.at for r in records) - min(r.at - r.seconds for r in records)
    files = sum(found.is_file() for found in out.rglob("*"))
    return {"observations": size, "bare": bare, "run": size / wall, "peak": memory, "files": files}


def _size(command: Command) -> tuple[int, int]:
    """Observations, and runs of each."""
    return (QUICK_SIZE, QUICK_RUNS) if command.quick else (SIZE, RUNS)


def _units(command: Command) -> list[Unit]:
    """A row of the tables each, or both of the workers."""
    size, _ = _size(command)
    overheads: list[Unit] = [("overhead", noise) for noise in NOISES]
    workers: list[Unit] = [("workers", noise) for noise in NOISES]
    return [*overheads, *workers, ("memory", size // 10), ("memory", size), ("million",)]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, what = Path(scratch), str(unit[0])
        if what == "million":
            return {what: [_million(folder, command)]}
        if what == "memory":
            return {what: [_memory(folder, command, int(unit[1]))]}
        measured = _overheads if what == "overhead" else _workers
        return {what: [measured(folder, command, float(unit[1]))]}


def _collect(command: Command, parts: list[Any]) -> Results:
    size, runs = _size(command)
    tables = gathered(parts, "overhead", "workers", "memory", "million")
    return {"observations": size, "runs": runs, "chunk": CHUNK, **tables}


def _overhead_table(results: Results) -> str:
    text = (
        f"{results['observations']:,} observations, chunks of {results['chunk']}, seconds, means of {results['runs']} "
        "runs:\n\n"
    )
    return text + table(
        ("noise", "bare", "run", "overhead"),
        (
            (f"{r['noise']:g}", f"{r['bare']:.1f}", f"{r['run']:.1f}", f"{r['run'] / r['bare'] - 1:+.1%}")
            for r in results["overhead"]
        ),
    )


def _workers_table(results: Results) -> str:
    rows = (
        (
            f"{r['noise']:g}", f"{r['chunks_1']:.1f}", f"{r['chunks_2']:.1f}", f"{r['chunks_1'] / r['chunks_2']:.2f}",
            f"{r['whole_1']:.1f} to {r['whole_2']:.1f}: {r['whole_1'] / r['whole_2']:.2f}", f"{r['bare_loops']:.2f}",
        )
        for r in results["workers"]
    )  # fmt: skip
    head = ("noise", "1 worker, s", "2 workers, s", "times as fast", "whole command, s", "two bare loops")
    return table(head, rows)


def _memory_table(results: Results) -> str:
    return table(
        ("observations", "peak, MiB"), ((f"{r['observations']:,}", f"{r['peak']:.0f}") for r in results["memory"])
    )


def _million_table(results: Results) -> str:
    head = ("observations", "two bare loops, 1/s", "run, 1/s", "peak, MiB", "files")
    return table(
        head,
        (
            (f"{r['observations']:,}", f"{r['bare']:.0f}", f"{r['run']:.0f}", f"{r['peak']:.0f}", f"{r['files']:,}")
            for r in results["million"]
        ),
    )


def _reached(results: Results) -> str:
    cost = max(r["run"] / r["bare"] - 1 for r in results["overhead"])
    gain = min(r["chunks_1"] / r["chunks_2"] for r in results["workers"])
    (small,) = results["million"]
    share = small["run"] / small["bare"]
    return aims((
        ("overhead of 5%", f"{cost:.1%} at most", cost <= 0.05),
        ("two workers 1.8 times as fast", f"{gain:.2f} at least", gain >= 1.8),
        ("a million small observations within 1,024 MiB", f"{small['peak']:.0f}", small["peak"] <= 1024),
        (".8 of the speed of two bare loops", f"{share:.2f}", share >= 0.8),
        ("fewer than 5,000 files", f"{small['files']:,}", small["files"] < 5000),
    ))  # fmt: skip


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={
        "datasets overhead": _overhead_table,
        "datasets workers": _workers_table,
        "datasets memory": _memory_table,
        "datasets million": _million_table,
        "datasets aims": _reached,
    },
    collect=_collect,
    workers=1,
)

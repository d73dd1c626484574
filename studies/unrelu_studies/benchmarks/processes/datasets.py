"""A run over thousands of observations of mnist-relu: what it costs over the bare loop, two workers, and memory.

Overhead is paired: after every chunk of a run, the same chunk is inverted by ``unrelu.invert``
alone, in the same process on the same thread, and the sums of both times are compared. What a run adds is reading,
looking for bad rows, hashes, the table, the journal and the line and bar in the terminal. Both come to the same bits,
which is checked. Two workers are compared with one, for the chunks (from the first one's beginning to the last one's
end) and for the whole command with its imports; the most that this machine gives is measured by two bare loops side by
side. Memory is what all processes of a run hold together (proportional set size, so that shared pages count once),
sampled every 50 ms.
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
from unrelu.runs.chunk_work import chunk_seed
from unrelu.runs.running import Moment
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.kit.markdown_tables import aims, table
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

CHUNK = 256
# Observations, and runs of each; both in a quick run.
SIZE, RUNS = 10_000, 2
QUICK_SIZE, QUICK_RUNS = 1_024, 1
COMMAND = [sys.executable, "-c", "from unrelu.cli.process import main; main()", "run", "mnist-relu"]
KINDS = ("npy", "zarr")
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


def overhead(path: Path, noise: float, output: Path, kind: str) -> tuple[float, float]:
    """Seconds of all chunks of a run, and of the same chunks inverted alone."""
    network, y = unrelu.zoo.load("mnist-relu"), np.load(path)
    seconds: dict[str, list[float]] = {"run": [], "bare": []}
    torch.set_num_threads(1)
    with threadpool_limits(1), watching(False, output) as watcher:
        mark = time.perf_counter()

        def callback(moment: Moment) -> None:
            nonlocal mark
            watcher(moment)
            if moment.settled is not None:
                seconds["run"].append(time.perf_counter() - mark)
                record = moment.settled.record
                began = time.perf_counter()
                alone = unrelu.invert(
                    network, y[record.start : record.stop], noise=stated(noise), seed=chunk_seed(0, record.chunk)
                )
                seconds["bare"].append(time.perf_counter() - began)
                assert (unrelu.open_run(output).read("codes", record.start, record.stop) == alone.z).all()
            mark = time.perf_counter()

        unrelu.run(network, path, output, noise=stated(noise), results=kind, workers=1, callback=callback)
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


def peak(path: Path, noise: float, output: Path, kind: str) -> float:
    """The most memory that the processes of a command held together, in MiB."""
    process = subprocess.Popen(asked(path, noise, output, "--results", kind), stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, sum(held(pid) for pid in family(process.pid)))
        time.sleep(0.05)
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


def _overheads(folder: Path, command: Command, noise: float, kind: str) -> dict[str, Any]:
    """Seconds of a run and of the bare loop inside it, means over the runs."""
    size, runs = _size(command)
    path = data(folder, size, noise, command.seed)
    pairs = [overhead(path, noise, folder / f"overhead-{i}", kind) for i in range(runs)]
    run, bare = map(sum, zip(*pairs, strict=True))
    return {"noise": noise, "results": kind, "bare": bare / runs, "run": run / runs}


def _workers(folder: Path, command: Command, noise: float) -> list[dict[str, Any]]:
    """Seconds of one worker and of two: for the chunks, and for the whole command; of each the quickest run."""
    size, runs = _size(command)
    path, rows = data(folder, size, noise, command.seed), []
    ceiling = side_by_side(data(folder, size // 4, noise, command.seed), noise)
    for kind in KINDS:
        row: dict[str, Any] = {"noise": noise, "results": kind, "bare_loops": ceiling}
        for n in (1, 2):
            given = ("--results", kind, "--workers", str(n))
            times = [whole_command(path, noise, folder / f"{kind}-{n}-{i}", *given) for i in range(runs)]
            row[f"whole_{n}"], row[f"chunks_{n}"] = (min(seconds) for seconds in zip(*times, strict=True))
        rows.append(row)
    return rows


def _memory(folder: Path, command: Command, size: int) -> dict[str, Any]:
    """Peak memory of a run with two workers, noise 0.1, in MiB."""
    path = data(folder, size, 0.1, command.seed)
    return {"observations": size} | {kind: peak(path, 0.1, folder / kind, kind) for kind in KINDS}


def _size(command: Command) -> tuple[int, int]:
    """Observations, and runs of each."""
    return (QUICK_SIZE, QUICK_RUNS) if command.quick else (SIZE, RUNS)


def _units(command: Command) -> list[Unit]:
    """A row of the tables each, or both of the workers."""
    size, _ = _size(command)
    overheads: list[Unit] = [("overhead", noise, kind) for noise in NOISES for kind in KINDS]
    workers: list[Unit] = [("workers", noise) for noise in NOISES]
    return [*overheads, *workers, ("memory", size // 10), ("memory", size)]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, what = Path(scratch), str(unit[0])
        if what == "overhead":
            return {what: [_overheads(folder, command, float(unit[1]), str(unit[2]))]}
        if what == "workers":
            return {what: _workers(folder, command, float(unit[1]))}
        return {what: [_memory(folder, command, int(unit[1]))]}


def _collect(command: Command, parts: list[Any]) -> Results:
    size, runs = _size(command)
    tables = gathered(parts, "overhead", "workers", "memory")
    return {"observations": size, "runs": runs, "chunk": CHUNK, **tables}


def _overhead_table(results: Results) -> str:
    text = (
        f"{results['observations']:,} observations, chunks of {results['chunk']}, seconds, means of {results['runs']} "
        "runs:\n\n"
    )
    return text + table(
        ("noise", "results", "bare", "run", "overhead"),
        (
            (f"{r['noise']:g}", r["results"], f"{r['bare']:.1f}", f"{r['run']:.1f}", f"{r['run'] / r['bare'] - 1:+.1%}")
            for r in results["overhead"]
        ),
    )


def _workers_table(results: Results) -> str:
    rows = (
        (
            f"{r['noise']:g}", r["results"], f"{r['chunks_1']:.1f}", f"{r['chunks_2']:.1f}",
            f"{r['chunks_1'] / r['chunks_2']:.2f}",
            f"{r['whole_1']:.1f} to {r['whole_2']:.1f}: {r['whole_1'] / r['whole_2']:.2f}", f"{r['bare_loops']:.2f}",
        )
        for r in results["workers"]
    )  # fmt: skip
    head = ("noise", "results", "1 worker, s", "2 workers, s", "times as fast", "whole command, s", "two bare loops")
    return table(head, rows)


def _memory_table(results: Results) -> str:
    rows = ((f"{r['observations']:,}", *(f"{r[kind]:.0f}" for kind in KINDS)) for r in results["memory"])
    return table(("observations", *KINDS), rows)


def _reached(results: Results) -> str:
    cost = max(r["run"] / r["bare"] - 1 for r in results["overhead"])
    gain = min(r["chunks_1"] / r["chunks_2"] for r in results["workers"])
    most = max(r[kind] for r in results["memory"] for kind in KINDS)
    return aims((
        ("overhead of 5%", f"{cost:.1%} at most", cost <= 0.05),
        ("two workers 1.8 times as fast", f"{gain:.2f} at least", gain >= 1.8),
        ("1,536 MiB, whatever the number of observations", f"{most:.0f} at most", most <= 1536),
    ))  # fmt: skip


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={
        "datasets overhead": _overhead_table,
        "datasets workers": _workers_table,
        "datasets memory": _memory_table,
        "datasets aims": _reached,
    },
    collect=_collect,
)

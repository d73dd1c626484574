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
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import unrelu
from unrelu.cli.run_progress import watching
from unrelu.runs.chunk_work import chunk_seed
from unrelu.runtime.streams import stream

CHUNK = 256
# Observations, and runs of each; both in a quick run.
SIZE, RUNS = 10_000, 2
QUICK_SIZE, QUICK_RUNS = 1_024, 1
COMMAND = [sys.executable, "-c", "from unrelu.cli.process import main; main()", "run", "mnist-relu"]
KINDS = ("npy", "zarr")
# Noise in the data, which is stated where there is some.
NOISES = (0.0, 0.1)


def data(folder, size, noise, seed):
    """Outputs of the network under Gaussian noise, as a file."""
    network = unrelu.zoo.load("mnist-relu")
    path = folder / f"y-{size}-{noise}.npy"
    if not path.exists():
        truth, e = (stream(f"data sets, {what}", seed, size) for what in ("truth", "noise"))
        np.save(path, network(truth.standard_normal((size, 20))) + noise * e.standard_normal((size, 784)))
    return path


def stated(noise):
    """What ``noise=`` is."""
    return f"gaussian:{noise}" if noise else None


def overhead(path, noise, output, kind):
    """Seconds of all chunks of a run, and of the same chunks inverted alone."""
    network, y = unrelu.zoo.load("mnist-relu"), np.load(path)
    seconds = {"run": [], "bare": []}
    torch.set_num_threads(1)
    with threadpool_limits(1), watching(False, False, output) as watcher:
        mark = time.perf_counter()

        def watch(moment):
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

        unrelu.run(network, path, output, noise=stated(noise), results=kind, workers=1, watch=watch)
    # The first chunk loads the kernels, for both.
    return sum(seconds["run"][1:]), sum(seconds["bare"][1:])


def loop(path, noise, barrier=None):
    """Seconds of the bare loop in this process, which another may wait for."""
    network, y = unrelu.zoo.load("mnist-relu"), np.load(path)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        unrelu.invert(network, y[:CHUNK], noise=stated(noise))
        if barrier is not None:
            barrier.wait()
        began = time.perf_counter()
        for start in range(0, len(y), CHUNK):
            unrelu.invert(network, y[start : start + CHUNK], noise=stated(noise))
        return time.perf_counter() - began


def side_by_side(path, noise):
    """How many times the work of one process two processes do in its time."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        alone = _loops(path, noise, manager, 1)
        return 2 * alone / _loops(path, noise, manager, 2)


def _loops(path, noise, manager, processes):
    barrier = manager.Barrier(processes)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return max(pool.starmap(loop, [(path, noise, barrier)] * processes, chunksize=1))


def command(path, noise, output, *arguments):
    """Seconds of the whole command, and from its first chunk's beginning to its last one's end."""
    began = time.perf_counter()
    subprocess.run(asked(path, noise, output, *arguments), check=True, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    records = unrelu.open_run(output).records.values()
    return whole, max(r.at for r in records) - min(r.at - r.seconds for r in records)


def asked(path, noise, output, *arguments):
    """The command line."""
    return [*COMMAND, str(path), "-o", str(output), *(("--noise", stated(noise)) if noise else ()), *arguments]


def peak(path, noise, output, kind):
    """The most memory that the processes of a command held together, in MiB."""
    process = subprocess.Popen(asked(path, noise, output, "--results", kind), stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, sum(held(pid) for pid in family(process.pid)))
        time.sleep(0.05)
    assert process.returncode == 0
    return most / 1024


def family(pid):
    """A process and all below it."""
    below = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below += [int(child) for child in task.read_text().split()]
        except OSError:  # it has just ended
            continue
    return [pid, *(found for child in below for found in family(child))]


def held(pid):
    """Proportional set size of a process in KiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def overheads(folder, size, runs, seed):
    """Seconds of a run and of the bare loop inside it, means over the runs."""
    table = []
    for noise in NOISES:
        for kind in KINDS:
            path = data(folder, size, noise, seed)
            pairs = [overhead(path, noise, folder / f"overhead-{noise}-{kind}-{i}", kind) for i in range(runs)]
            run, bare = map(sum, zip(*pairs, strict=True))
            table.append({"noise": noise, "results": kind, "bare": bare / runs, "run": run / runs})
    return table


def workers(folder, size, runs, seed):
    """Seconds of one worker and of two: for the chunks, and for the whole command; of each the quickest run."""
    table = []
    for noise in NOISES:
        path = data(folder, size, noise, seed)
        ceiling = side_by_side(data(folder, size // 4, noise, seed), noise)
        for kind in KINDS:
            row = {"noise": noise, "results": kind, "bare_loops": ceiling}
            for n in (1, 2):
                given = ("--results", kind, "--workers", str(n))
                times = [command(path, noise, folder / f"{noise}-{kind}-{n}-{i}", *given) for i in range(runs)]
                row[f"whole_{n}"], row[f"chunks_{n}"] = (min(seconds) for seconds in zip(*times, strict=True))
            table.append(row)
    return table


def memory(folder, sizes, seed):
    """Peak memory of a run with two workers, noise 0.1, in MiB."""
    return [
        {"observations": size}
        | {kind: peak(data(folder, size, 0.1, seed), 0.1, folder / f"memory-{size}-{kind}", kind) for kind in KINDS}
        for size in sizes
    ]


def measure(quick, seed):
    """All three tables."""
    size, runs = (QUICK_SIZE, QUICK_RUNS) if quick else (SIZE, RUNS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return {
            "observations": size,
            "runs": runs,
            "chunk": CHUNK,
            "overhead": overheads(folder, size, runs, seed),
            "workers": workers(folder, size, runs, seed),
            "memory": memory(folder, (size // 10, size), seed),
        }

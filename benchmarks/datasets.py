"""A run over 20,000 observations of mnist-relu: what it costs over the bare loop, two workers, and memory.

Prints Markdown tables. ``bare`` is ``unrelu.invert`` on one chunk after the other, with the chunks' seeds, on one
thread; ``run`` adds reading, looking for bad rows, hashes, the table, the journal and the progress bar. Both come to
the same bits, which is checked. Memory is what all processes of a run hold together (proportional set size, so that
shared pages count once), sampled every 50 ms.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import unrelu
from unrelu.batch.work import chunk_seed
from unrelu.machine import describe

CHUNK = 256
COMMAND = [sys.executable, "-c", "from unrelu.cli import main; main()", "run", "mnist-relu"]
# Observations, and what is asked: noise in the data, options of the command.
CASES = {
    "auto, no noise": (0.0, ("--method", "auto")),
    "auto, noise .1": (0.1, ("--method", "auto", "--noise", "gaussian:0.1")),
}


def data(folder, size, noise):
    """Outputs of the network under Gaussian noise, as a file."""
    network, rng = unrelu.zoo.load("mnist-relu"), np.random.default_rng(20)
    path = folder / f"y-{size}-{noise}.npy"
    np.save(path, network(rng.standard_normal((size, 20))) + noise * rng.standard_normal((size, 784)))
    return path


def bare(path, noise, method):
    """Seconds and codes of the loop that a user would write, on one thread."""
    network, y = unrelu.zoo.load("mnist-relu"), np.load(path, mmap_mode="r")
    stated = f"gaussian:{noise}" if noise else None
    torch.set_num_threads(1)
    began = time.perf_counter()
    with threadpool_limits(1):
        found = [
            unrelu.invert(network, y[start : start + CHUNK], method, noise=stated, seed=chunk_seed(0, i)).z
            for i, start in enumerate(range(0, len(y), CHUNK))
        ]
    return time.perf_counter() - began, np.concatenate(found)


def run(path, output, arguments):
    """Seconds of the whole command, seconds from its first chunk's beginning to its last one's end, and the run."""
    began = time.perf_counter()
    subprocess.run([*COMMAND, str(path), "-o", str(output), *arguments], check=True, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    ended = unrelu.open_run(output)
    first = min(record.at - record.seconds for record in ended.records.values())
    return whole, max(record.at for record in ended.records.values()) - first, ended


def peak(path, output, arguments):
    """The most memory that the processes of a command held together, in MiB."""
    process = subprocess.Popen([*COMMAND, str(path), "-o", str(output), *arguments], stderr=subprocess.DEVNULL)
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


def speed(folder, size):
    """The tables of overhead and of two workers."""
    print(f"\n{size:,} observations, chunks of {CHUNK}; seconds\n")
    print(
        "| method | results | bare | run, 1 worker | overhead | run, 2 workers | 1 / 2, chunks | 1 / 2, whole command |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (noise, arguments) in CASES.items():
        path = data(folder, size, noise)
        method = arguments[1]
        bare(path, noise, method)  # kernels, page cache
        before, codes = bare(path, noise, method)
        lines = []
        for kind in ("npy", "zarr"):
            output = folder / f"{name}-{kind}"
            whole, chunks, ended = run(path, output / "1", (*arguments, "--results", kind, "--workers", "1"))
            whole_2, chunks_2, ended_2 = run(path, output / "2", (*arguments, "--results", kind, "--workers", "2"))
            assert ended.read("codes").tobytes() == ended_2.read("codes").tobytes() == codes.tobytes()
            lines.append((kind, chunks, chunks_2, whole, whole_2))
        after, _ = bare(path, noise, method)
        loop = (before + after) / 2
        for kind, chunks, chunks_2, whole, whole_2 in lines:
            print(
                f"| {name} | {kind} | {loop:.1f} | {chunks:.1f} | {chunks / loop - 1:+.1%} | {chunks_2:.1f} "
                f"| {chunks / chunks_2:.2f} | {whole / whole_2:.2f} |",
                flush=True,
            )


def memory(folder, sizes):
    """The table of memory."""
    print("\nPeak memory of a run with two workers (auto, noise .1), MiB\n")
    print("| observations | " + " | ".join(("npy", "zarr")) + " |\n|---|---|---|")
    for size in sizes:
        path = data(folder, size, 0.1)
        cells = [
            peak(path, folder / f"memory-{size}-{kind}", ("--noise", "gaussian:0.1", "--results", kind))
            for kind in ("npy", "zarr")
        ]
        print(f"| {size:,} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000, help="observations")
    asked = parser.parse_args()
    machine = describe()
    print(f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, numpy {machine['numpy']}")
    with tempfile.TemporaryDirectory() as scratch:
        speed(Path(scratch), asked.size)
        memory(Path(scratch), (asked.size // 10, asked.size))

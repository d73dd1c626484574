"""Runs over data sets that are killed, meet a full disk, find a torn journal or other data, and are started again.

What is promised: afterwards the results are the same bytes as those of a run that nobody disturbed, and no chunk that
was recorded is computed again. Data whose first chunk changed meanwhile are refused.

    python fuzz/runs.py [--quick] [--seed N] --output FILE
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import unrelu
from fuzzing import run_fuzzer
from unrelu.errors import InputError
from unrelu.runs.journal import read_records
from unrelu.runtime.streams import stream

CHUNK = 16
# How often each is tried, in full and quick.
TRIES = {"killed": (20, 1), "full disk": (15, 1), "torn journal": (15, 2), "changed data": (10, 1)}
ARGUMENTS = ("mnist-relu", "y.npy", "--method", "lm", "--chunk", str(CHUNK), "-O", "max_iterations=40", "-q")


class Runs:
    """The same run again and again, in folders of their own."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.folder, self.size = folder, size
        self.network = unrelu.zoo.load("mnist-relu")
        self.random = stream("fuzz runs", seed)
        codes = self.random.standard_normal((size, self.network.latent_dim))
        np.save(folder / "y.npy", self.network(codes) + self.random.normal(0, 0.05, (size, 784)))
        self.undisturbed = self.bytes_of(self.here(folder / "undisturbed"))

    def here(self, out: Path, callback: Callable[[Any], Any] | None = None) -> unrelu.Run:
        """The run in this process; goes on where it was."""
        return unrelu.run(
            self.network, self.folder / "y.npy", out, "lm", chunk=CHUNK, workers=1, max_iterations=40,
            callback=callback,
        )  # fmt: skip

    def apart(self, out: Path, limit: int | None = None) -> subprocess.Popen[str]:
        """The command in a process group of its own, whose files cannot grow beyond a limit in bytes."""
        limited = None if limit is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
        script = ("-c", "from unrelu.cli.process import main; main()", "run", *ARGUMENTS)
        workers = str(self.random.integers(1, 3))
        return subprocess.Popen(
            [sys.executable, *script, "-o", str(out), "--workers", workers],
            cwd=self.folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=limited,  # noqa: PLW1509 -- sets a limit before it becomes another program
        )  # fmt: skip

    @staticmethod
    def bytes_of(run: unrelu.Run) -> dict[str, bytes]:
        """All columns but the seconds."""
        return {c.name: run.store.read(c.name).tobytes() for c in run.store.columns if c.name != "seconds"}

    def go_on(self, out: Path, count: Counter[str]) -> None:
        """Start it again, and count what is not as promised."""
        before, computed = set(read_records(out)), set[int]()

        def callback(progress: Any) -> None:
            if progress.record is not None:
                computed.add(progress.record.chunk)

        run = self.here(out, callback)
        count["chunks recorded before"] += len(before)
        count["recorded chunks computed again"] += len(before & computed)
        count["other bytes"] += not run.finished or self.bytes_of(run) != self.undisturbed


def killed(runs: Runs, out: Path, count: Counter[str]) -> None:
    """SIGKILL to all processes of a run: at any time, its start included, or when a chunk has just been recorded."""
    process = runs.apart(out)
    chunks = int(runs.random.integers(1, runs.size // CHUNK)) if runs.random.random() < 0.7 else 0
    end = time.monotonic() + runs.random.uniform(0, 6)
    while process.poll() is None and (len(read_records(out)) < chunks if chunks else time.monotonic() < end):
        time.sleep(0.005)
    time.sleep(runs.random.uniform(0, 0.05))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        count["in the middle"] += 1
    process.communicate()
    runs.go_on(out, count)


def full_disk(runs: Runs, out: Path, count: Counter[str]) -> None:
    """No file can grow beyond some size: a journal or a column, whichever comes first."""
    process = runs.apart(out, limit=int(2 ** runs.random.uniform(9, 20)))
    _, said = process.communicate()
    count["in the middle"] += process.returncode == 2
    count["tracebacks"] += "Traceback" in said or process.returncode not in (0, 2)
    runs.go_on(out, count)


def torn_journal(runs: Runs, out: Path, count: Counter[str]) -> None:
    """The journal cut off anywhere, after some chunks."""
    stop = int(runs.random.integers(1, runs.size // CHUNK + 1))
    runs.here(out, lambda progress: progress.done >= stop * CHUNK)
    os.truncate(out / "chunks.jsonl", int(runs.random.integers(os.path.getsize(out / "chunks.jsonl"))))
    count["in the middle"] += stop < runs.size // CHUNK
    runs.go_on(out, count)


def changed_data(runs: Runs, out: Path, count: Counter[str]) -> None:
    """One value of the first chunk is another one when the run is started again; then it is brought back."""
    stop = int(runs.random.integers(1, runs.size // CHUNK))
    runs.here(out, lambda progress: progress.done >= stop * CHUNK)
    whole = (runs.folder / "y.npy").read_bytes()
    y, at = np.load(runs.folder / "y.npy"), int(runs.random.integers(CHUNK))
    y[at, runs.random.integers(784)] += 1e-9
    np.save(runs.folder / "y.npy", y)
    try:
        runs.here(out)
        count["not noticed"] += 1
    except InputError:
        count["not noticed"] += 0
    (runs.folder / "y.npy").write_bytes(whole)
    count["in the middle"] += 1
    runs.go_on(out, count)


# What the rows are called, and what counts in them as broken.
KINDS = {"killed": killed, "full disk": full_disk, "torn journal": torn_journal, "changed data": changed_data}
NAMES = {
    "killed": "runs killed at a random time",
    "full disk": "runs whose files cannot grow (as on a full disk)",
    "torn journal": "journals cut off",
    "changed data": "an observation of the first chunk changed while the run was stopped",
}
BROKEN = ("recorded chunks computed again", "other bytes", "tracebacks", "not noticed")


def measure(quick: bool, seed: int) -> list[dict[str, Any]]:
    """The rows."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="unrelu-fuzz-") as scratch:
        runs = Runs(Path(scratch), CHUNK * (8 if quick else 60), seed)
        for name, attempt in KINDS.items():
            count: Counter[str] = Counter({"in the middle": 0, "chunks recorded before": 0, **dict.fromkeys(BROKEN, 0)})
            tries = TRIES[name][quick]
            for i in range(tries):
                attempt(runs, Path(scratch, f"{name}-{i}"), count)
            rows.append({"what": NAMES[name], "tried": tries, **count})
    return rows


if __name__ == "__main__":
    run_fuzzer("runs", __doc__, measure, BROKEN)

"""Small runs and their folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import unrelu

SIZE, CHUNK = 23, 5
RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal((8, 3)), RNG.standard_normal((20, 8))]
NETWORK = unrelu.from_arrays(WEIGHTS)
CODES = RNG.standard_normal((SIZE, 3))
Y = NETWORK(CODES) + RNG.normal(0, 0.01, (SIZE, 20))


def small_run(output: Path, **options) -> unrelu.Run:
    """23 observations of a 3-8-20 network, in five chunks, in this process."""
    asked = {"data": Y, "method": "lm", "seed": 7, "chunk": CHUNK, "workers": 1} | options
    return unrelu.run(NETWORK, asked.pop("data"), output, **asked)


def copy(run: unrelu.Run, folder: Path) -> Path:
    """The folder of a run, elsewhere."""
    return Path(shutil.copytree(run.folder, folder))


def results(run: unrelu.Run) -> dict[str, bytes]:
    """Bytes of every column but the seconds."""
    return {c.name: run.store.read(c.name).tobytes() for c in run.store.columns if c.name != "seconds"}


def recorded(out: Path) -> list[int]:
    """Chunks in the journal, in order, as often as they were recorded."""
    path = out / "chunks.jsonl"
    return [json.loads(line)["chunk"] for line in path.read_text().splitlines()] if path.exists() else []


def command(*arguments: str) -> list[str]:
    """The command line in a process of its own."""
    return [sys.executable, "-c", "from unrelu.cli.process import main; main()", *arguments]


def zoo_data(folder: Path, size: int, noise: float = 0.05) -> Path:
    """Noisy outputs of mnist-relu as y.npy."""
    network, rng = unrelu.zoo.load("mnist-relu"), np.random.default_rng(1)
    np.save(folder / "y.npy", network(rng.standard_normal((size, 20))) + rng.normal(0, noise, (size, 784)))
    return folder / "y.npy"


def reference(folder: Path, name: str, *arguments: str) -> dict[str, bytes]:
    """The results of a command in one process that nobody disturbs; its folder is removed."""
    subprocess.run(command("run", *arguments, "-o", name, "--workers", "1", "-q"), cwd=folder, check=True)
    found = results(unrelu.open_run(folder / name))
    shutil.rmtree(folder / name)
    return found

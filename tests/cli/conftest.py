"""The command in this process, or in one of its own."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import unrelu
from unrelu.cli import process


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a 3-8-20 network and observations of it, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("PYTHONPATH", str(Path(unrelu.__file__).parents[1]))
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((8, 3)), rng.standard_normal((20, 8))
    np.savez("net.npz", W0=first, W1=second, activation="relu")
    y = unrelu.from_arrays([first, second])(rng.standard_normal((4, 3)))
    np.save("y.npy", y)
    np.save("one.npy", y[0])
    np.save("noisy.npy", y + rng.uniform(-0.1, 0.1, y.shape))
    y[1, 2] = np.nan
    np.save("hole.npy", y)
    return tmp_path


@pytest.fixture
def run(files, monkeypatch, capsys):
    """Run ``main`` in this process: exit code, stdout, stderr."""
    before = signal.getsignal(signal.SIGINT)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unrelu", *arguments])
        with pytest.raises(SystemExit) as end:
            process.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    yield call
    signal.signal(signal.SIGINT, before)


def command(*arguments: str) -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-c", "from unrelu.cli.process import main; main()", *arguments]


def lines(path: str = "out/results.jsonl") -> list[dict]:
    """The records of a file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]

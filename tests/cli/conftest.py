"""The command in this process."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import unrelu
from unrelu.cli import process


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a 3-8-20 network and observations of it, as the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((8, 3)), rng.standard_normal((20, 8))
    np.savez("net.npz", W0=first, W1=second, activation="relu")
    y = unrelu.from_arrays([first, second])(rng.standard_normal((4, 3)))
    np.save("y.npy", y)
    y[1, 2] = np.nan
    np.save("hole.npy", y)
    return tmp_path


@pytest.fixture
def run(files, monkeypatch, capsys):
    """Run ``main`` in this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unrelu", *arguments])
        with pytest.raises(SystemExit) as end:
            process.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call

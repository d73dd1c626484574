"""Noise of arrays on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.cli.argument_files import read_noise_model

NET = random_network((3, 12, 20), seed=4, bias=True)
RNG = np.random.default_rng([37, 4])
COVARIANCE = 0.01 * (np.exp(-np.abs(np.subtract.outer(np.arange(20), np.arange(20))) / 3) + 0.1 * np.eye(20))
Y = NET(RNG.normal(size=(5, 3))) + RNG.normal(size=(5, 20)) @ np.linalg.cholesky(COVARIANCE).T


def test_the_command_line_reads_it_from_a_file(tmp_path, monkeypatch, capsys):
    from unrelu.cli import process

    monkeypatch.chdir(tmp_path)
    first, second = (layer.matrix() for layer in NET.layers)
    np.savez("net.npz", W0=first, b0=NET.layers[0].bias(), W1=second, b1=NET.layers[1].bias(), activation="relu")
    np.save("y.npy", Y[0])
    np.savez("noise.npz", covariance=COVARIANCE)

    def called(*arguments):
        monkeypatch.setattr("sys.argv", ["unrelu", *arguments])
        with pytest.raises(SystemExit):
            process.main()
        return json.loads(capsys.readouterr().out)

    found = called("invert", "net.npz", "y.npy", "-o", "out", "--noise", "noise.npz", "--method", "lm", "--json")
    z = np.array(found["observations"][0]["z"])
    residual = Y[0] - NET(z)
    assert found["observations"][0]["objective"] == pytest.approx(residual @ np.linalg.solve(COVARIANCE, residual))
    np.savez("both.npz", covariance=COVARIANCE, std=np.ones(20))
    found = called("invert", "net.npz", "y.npy", "-o", "other", "--noise", "both.npz", "--json")
    assert "one of them" in found["error"]["message"]


def test_a_text_is_no_file(tmp_path):
    assert read_noise_model("gaussian:0.1") == "gaussian:0.1"
    assert read_noise_model(None) is None
    np.savez(tmp_path / "std.npz", std=np.ones(3))
    assert read_noise_model(str(tmp_path / "std.npz")) == unrelu.Gaussian(np.ones(3))

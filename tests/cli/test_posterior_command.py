"""``unrelu posterior``: the draws of the library in a folder, and what it says where they cannot be relied on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import unrelu
from tests.cli.conftest import command, lines
from unrelu.cli.terminal import unmixed
from unrelu.runs.columns import INTERVAL

OUTPUTS = ["posterior.npz", "posterior.png", "results.jsonl"]
SMALL = ("--noise", "gaussian:0.1", "--draws", "150")


@pytest.fixture
def noisy(files):
    y = np.load("y.npy") + 0.1 * np.random.default_rng([5, 1]).standard_normal((4, 20))
    np.save("noisy.npy", y)
    np.save("one.npy", y[0])
    return y


def test_the_folder_has_the_draws_of_the_library(run, noisy):
    code, out, err = run("posterior", "net.npz", "one.npy", "-o", "out", *SMALL)
    assert (code, "posterior" in err) == (0, True)
    network = unrelu.load("net.npz")
    p = unrelu.posterior(network, noisy[0], noise="gaussian:0.1", draws=150)
    assert p.status is unrelu.Status.MIXED
    assert sorted(path.name for path in Path("out").iterdir()) == OUTPUTS
    np.testing.assert_array_equal(unrelu.load_posterior("out/posterior.npz", network).z, p.z)
    (row,) = lines()
    lower, upper = p.interval(INTERVAL)
    for name, value in {"mean": p.mean, "std": p.std, "lower": lower, "upper": upper}.items():
        np.testing.assert_array_equal(row[name], value)
    assert (row["index"], row["name"], row["seed"], row["status"]) == (0, None, 0, "MIXED")
    assert (row["message"], row["log_evidence"]) == (p.message, p.log_evidence)
    assert [mode["weight"] for mode in row["modes"]] == [mode.weight for mode in p.modes]
    assert out.endswith("written to out/: posterior.npz results.jsonl posterior.png\n")


def test_chains_that_have_not_mixed_are_exit_status_1(run, noisy):
    few = ("--noise", "gaussian:0.1", "--draws", "5")
    code, _, err = run("posterior", "net.npz", "noisy.npy", "-o", "out", *few)
    end = "of 4 posteriors, 0 mixed, 4 did not mix and 0 were not sampled to the end; see"
    assert code == 1
    assert err.endswith(f"{end} out/results.jsonl\n")
    assert {row["status"] for row in lines()} == {"NOT_MIXED"}
    code, _, err = run(
        "run", "net.npz", "noisy.npy", "-o", "run", "--method", "lm", "--workers", "1", "--posterior", "5", *few[:2]
    )
    assert code == 1
    assert "0 of 4 posteriors have mixed\n" in err
    assert err.endswith(f"{end} `unrelu report run`\n")


def test_posteriors_are_counted_by_how_they_ended():
    found = unmixed(["MIXED", "NOT_MIXED", "STOPPED", "STOPPED", "ERROR"], "there")
    assert found == "of 5 posteriors, 1 mixed, 1 did not mix and 3 were not sampled to the end; see there"
    assert unmixed(["MIXED", "MIXED"], "there") == unmixed([], "there") == ""


def test_prior_bounds_and_measurements_are_those_of_the_library(run, noisy):
    matrix = np.random.default_rng([5, 2]).standard_normal((6, 20))
    np.save("matrix.npy", matrix)
    np.save("measured.npy", noisy[0] @ matrix.T)
    np.savez("prior.npz", mean=np.full(3, 0.5), std=np.array([0.5, 1.0, 2.0]))
    given = ("--operator", "matrix.npy", "--bounds=-3,3", "--prior", "prior.npz", "--seed", "3")
    run("posterior", "net.npz", "measured.npy", "-o", "out", "-q", *SMALL, *given)
    p = unrelu.posterior(
        unrelu.load("net.npz"), noisy[0] @ matrix.T, noise="gaussian:0.1", operator=matrix, bounds=(-3, 3), seed=3,
        draws=150, prior=unrelu.Normal(np.full(3, 0.5), [0.5, 1.0, 2.0]),
    )  # fmt: skip
    np.testing.assert_array_equal(lines()[0]["mean"], p.chains[0].mean)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "error: noise=None .*state 'gaussian:S'"),
        (("--noise", "uniform:0.1"), "error: noise=uniform:0.1 .*state 'gaussian:S'"),
        ((*SMALL, "--draws", "2"), "error: draws=2 must be a whole number of at least 4"),
        ((*SMALL, "--prior", "0.1"), "error: prior=0.1 must be a distribution of codes"),
        ((*SMALL, "--prior", "0,-1"), "error: .*std is -1, and must be above 0"),
        ((*SMALL, "--prior", "lacks.npz"), "error: lacks.npz holds mean, x; name the array 'std'"),
        ((*SMALL, "--size", "5,4"), "error: --size 5,4 resizes pictures"),
    ],
)
def test_what_is_refused_leaves_no_folder(run, noisy, arguments, said):
    np.savez("lacks.npz", mean=np.zeros(3), x=np.zeros(3))
    code, _, err = run("posterior", "net.npz", "noisy.npy", "-o", "out", *arguments)
    assert code == 2
    assert re.search(said, err), err
    assert not Path("out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for other processes")
def test_an_interrupt_writes_the_draws_so_far_and_does_not_call_the_rest_not_mixed(noisy):
    words = ("posterior", "net.npz", "noisy.npy", "-o", "out", "--noise", "gaussian:0.1", "--draws", "100000")
    with subprocess.Popen(command(*words), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        timer = threading.Timer(300, process.kill)  # kernels may have to be compiled first
        timer.start()
        while not Path("out").exists():
            time.sleep(0.05)
        time.sleep(2)  # sampling
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate()
        timer.cancel()
    assert process.returncode == 130, err
    assert {row["status"] for row in lines()} == {"STOPPED"}
    assert "of 4 posteriors, 0 mixed, 0 did not mix and 4 were not sampled to the end" in err
    assert unrelu.load_posterior("out/posterior.npz", unrelu.load("net.npz")).z.shape[:2] == (4, 8)

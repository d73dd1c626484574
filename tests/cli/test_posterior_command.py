"""``unrelu posterior``: the draws of the library in a folder, and what it says where they cannot be relied on."""

from __future__ import annotations

import json
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
from unrelu.runs.columns import INTERVAL

OUTPUTS = ["posterior.npz", "posterior.png", "results.jsonl"]
SMALL = ("--noise", "gaussian:0.1", "--draws", "150")


@pytest.fixture
def noisy(files):
    y = np.load("y.npy") + 0.1 * np.random.default_rng([5, 1]).standard_normal((4, 20))
    np.save("noisy.npy", y)
    np.save("one.npy", y[0])
    return y


def rows() -> list[dict]:
    return [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]


def test_the_folder_has_the_draws_of_the_library(run, noisy):
    code, out, err = run("posterior", "net.npz", "one.npy", "-o", "out", *SMALL)
    assert (code, "posterior" in err) == (0, True)
    network = unrelu.load("net.npz")
    p = unrelu.posterior(network, noisy[0], noise="gaussian:0.1", draws=150)
    assert p.status is unrelu.Status.MIXED
    assert sorted(path.name for path in Path("out").iterdir()) == OUTPUTS
    np.testing.assert_array_equal(unrelu.load_posterior("out/posterior.npz", network).z, p.z)
    (row,) = rows()
    lower, upper = p.interval(INTERVAL)
    for name, value in {"mean": p.mean, "std": p.std, "lower": lower, "upper": upper}.items():
        np.testing.assert_array_equal(row[name], value)
    assert (row["index"], row["name"], row["seed"], row["status"]) == (0, None, 0, "MIXED")
    assert (row["message"], row["log_evidence"]) == (p.message, p.log_evidence)
    assert [mode["weight"] for mode in row["modes"]] == [mode.weight for mode in p.modes]
    assert "mixed" in out.splitlines()[0]
    assert out.endswith("written to out/: posterior.npz results.jsonl posterior.png\n")


def test_a_batch_as_json(run, noisy):
    code, out, _ = run("posterior", "net.npz", "noisy.npy", "-o", "out", *SMALL, "--json")
    document = json.loads(out)
    assert (document["size"], document["interrupted"]) == (4, False)
    assert document["mixed"] == document["counts"].get("MIXED", 0)
    assert code == int(document["mixed"] < 4)
    assert document["observations"] == rows()
    assert [row["index"] for row in rows()] == [0, 1, 2, 3]


def test_chains_that_have_not_mixed_are_exit_status_1(run, noisy):
    code, out, err = run("posterior", "net.npz", "noisy.npy", "-o", "out", "--noise", "gaussian:0.1", "--draws", "5")
    assert code == 1
    assert "0 mixed" in out
    assert err.endswith("4 of 4 posteriors have not mixed, see out/results.jsonl\n")
    assert {row["status"] for row in rows()} == {"NOT_MIXED"}
    assert all("effective draws" in row["message"] for row in rows())


def test_prior_bounds_and_measurements_are_those_of_the_library(run, noisy):
    matrix = np.random.default_rng([5, 2]).standard_normal((6, 20))
    np.save("matrix.npy", matrix)
    np.save("measured.npy", noisy[0] @ matrix.T)
    np.savez("prior.npz", mean=np.full(3, 0.5), std=np.array([0.5, 1.0, 2.0]))
    given = ("--operator", "matrix.npy", "--bounds=-3,3", "--prior", "prior.npz", "--seed", "3", "--chains", "2")
    run("posterior", "net.npz", "measured.npy", "-o", "out", "-q", *SMALL, *given)
    network = unrelu.load("net.npz")
    p = unrelu.posterior(
        network, noisy[0] @ matrix.T, noise="gaussian:0.1", operator=matrix, bounds=(-3, 3), chains=2, seed=3,
        draws=150, prior=unrelu.Normal(np.full(3, 0.5), [0.5, 1.0, 2.0]),
    )  # fmt: skip
    np.testing.assert_array_equal(rows()[0]["mean"], p.chains[0].mean)
    assert np.abs(unrelu.load_posterior("out/posterior.npz", network).z).max() <= 3


def test_a_run_with_posteriors_says_how_many_have_mixed(run, noisy):
    words = ("run", "net.npz", "noisy.npy", "-o", "out", "--noise", "gaussian:0.1", "--method", "lm", "--workers", "1")
    code, _, err = run(*words, "--posterior", "5")
    assert code == 1
    assert "0 of 4 posteriors have mixed\n" in err
    assert err.endswith("4 of 4 posteriors have not mixed, see out/results.jsonl\n")
    assert json.loads(run("status", "out", "--json")[1])["mixed"] == 0


def test_a_prior_of_the_command_line_is_a_distribution_or_a_weight(run, noisy):
    network = unrelu.load("net.npz")
    for text, prior in (("0.5,2", unrelu.Normal(0.5, 2.0)), ("0.3", 0.3)):
        run(
            "invert", "net.npz", "one.npy", "-o", "out", "-q", "--overwrite", "--noise", "gaussian:0.1", "--prior", text
        )
        wanted = unrelu.invert(network, noisy[0], noise="gaussian:0.1", prior=prior)
        np.testing.assert_array_equal(np.load("out/codes.npy"), wanted.z)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "error: --noise None .*state 'gaussian:S'"),
        (("--noise", "uniform:0.1"), "error: --noise uniform:0.1 .*state 'gaussian:S'"),
        (("--noise", "gauss:1"), "error: --noise 'gauss:1'"),
        ((*SMALL, "--draws", "2"), "error: --draws 2 must be a whole number of at least 4"),
        ((*SMALL, "--chains", "1"), "error: --chains 1 must be a whole number of at least 2"),
        ((*SMALL, "--prior", "0.1"), r"error: --prior 0.1 must be a distribution of codes.*--prior MEAN,STD"),
        ((*SMALL, "--prior", "a,b"), "error: --prior 'a,b': write MEAN,STD, numbers for all coordinates such as 0,2"),
        ((*SMALL, "--prior", "0,-1"), "error: --prior Normal: std is -1, and must be above 0"),
        ((*SMALL, "--prior", "lacks.npz"), "error: lacks.npz holds mean; name the prior 'mean' and 'std'"),
        ((*SMALL, "--bounds", "1"), "error: --bounds '1': write LOW,HIGH"),
        ((*SMALL, "--time-limit", "0"), "error: --time-limit 0 must be above 0"),
        ((*SMALL, "--mask", "gone.npy"), "error: gone.npy does not exist"),
        ((*SMALL, "--size", "5,4"), "error: --size 5,4 resizes pictures"),
    ],
)
def test_what_is_refused_leaves_no_folder(run, noisy, arguments, said):
    np.savez("lacks.npz", mean=np.zeros(3))
    code, _, err = run("posterior", "net.npz", "noisy.npy", "-o", "out", *arguments)
    assert code == 2
    assert re.match(said, err.splitlines()[-1]), err
    assert not Path("out").exists()


def test_observations_that_cannot_be_read_and_folders_that_hold_something(run, noisy):
    code, _, err = run("posterior", "net.npz", "hole.npy", "-o", "out", *SMALL)
    assert (code, "1 value" in err or "NaN" in err) == (2, True)
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    code, _, err = run("posterior", "net.npz", "one.npy", "-o", "out", *SMALL)
    assert (code, "pass --overwrite" in err) == (2, True)
    assert run("posterior", "net.npz", "one.npy", "-o", "out", *SMALL, "--overwrite", "-q")[0] == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["mine.txt", *OUTPUTS]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for other processes")
def test_an_interrupt_writes_the_draws_so_far(noisy, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(unrelu.__file__).parents[1]))
    command = "from unrelu.cli.process import main; main()"
    words = ["posterior", "net.npz", "noisy.npy", "-o", "out", "--noise", "gaussian:0.1", "--draws", "100000"]
    with subprocess.Popen([sys.executable, "-c", command, *words], stderr=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(300, process.kill)  # kernels may have to be compiled first
        timer.start()
        while not Path("out").exists():
            time.sleep(0.05)
        time.sleep(2)  # sampling
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate()
        timer.cancel()
    assert process.returncode == 130, err
    assert {row["status"] for row in rows()} <= {"STOPPED", "MIXED"}
    assert len(rows()) == 4
    assert unrelu.load_posterior("out/posterior.npz", unrelu.load("net.npz")).z.shape[:2] == (4, 8)


def test_a_picture_is_an_observation(run, tmp_path):
    picture = str(Path(unrelu.__file__).parents[2] / "docs" / "digit.png")
    words = ("--noise", "gaussian:0.3", "--draws", "60", "--json")
    code, out, _ = run("posterior", "mnist-relu", picture, "-o", "out", *words)
    assert code in (0, 1)
    (row,) = json.loads(out)["observations"]
    assert row["name"] == "digit.png"
    assert np.all(np.array(row["lower"]) < row["upper"])

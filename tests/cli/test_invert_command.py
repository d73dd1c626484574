"""``unrelu invert`` and ``inspect``: what they print, what they write, how they fail, and how they stop."""

from __future__ import annotations

import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy import sparse

import unrelu
from tests.cli.conftest import command, lines
from unrelu.methods import METHODS
from unrelu.problem import Problem

OUTPUTS = ["codes.npy", "reconstructions.npy", "results.jsonl"]


@pytest.mark.parametrize(("data", "leading"), [("y.npy", (4,)), ("one.npy", ())])
def test_it_writes_what_the_library_returns(run, data, leading):
    code, out, err = run("invert", "net.npz", data, "-o", "out")
    assert code == 0
    assert sorted(p.name for p in Path("out").iterdir()) == OUTPUTS
    network, y = unrelu.load("net.npz"), np.load(data)
    result = unrelu.invert(network, y)
    codes = np.load("out/codes.npy")
    assert codes.shape == (*leading, 3)
    np.testing.assert_array_equal(codes, result.z)
    np.testing.assert_array_equal(np.load("out/reconstructions.npy"), network(codes))
    assert [row["status"] for row in lines()] == ["EXACT_FIT"] * len(np.atleast_1d(result.status))
    assert [row["identifiable"] for row in lines()] == np.atleast_1d(result.identifiable).tolist()
    said = [line for line in str(result).splitlines() if "time" not in line and "effort" not in line]
    assert said == [line for line in out.splitlines()[:-1] if "time" not in line and "effort" not in line]
    assert out.endswith("written to out/: codes.npy reconstructions.npy results.jsonl\n")
    assert f"{len(lines())}/{len(lines())}" in err


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_offered_and_runs(run, method):
    options = ["-O", "max_iterations=20"] if method in {"gradient_descent", "adam"} else []
    assert run("invert", "net.npz", "noisy.npy", "-o", "out", "--method", method, *options, "-q") == (0, "", "")
    assert {row["method"] for row in lines()} == {method}


def test_options_reach_the_method_and_the_problem(run):
    asked = ("invert", "net.npz", "noisy.npy", "-q", "--method", "lm", "-O", "max_iterations=1", "-O", "damping=0.5")
    assert run(*asked, "-o", "out", "--seed", "7")[0] == 0
    wanted = unrelu.invert(unrelu.load("net.npz"), np.load("noisy.npy"), "lm", max_iterations=1, damping=0.5, seed=7)
    np.testing.assert_array_equal(np.load("out/codes.npy"), wanted.z)
    assert {(row["nit"], row["seed"]) for row in lines()} == {(1, 7)}
    run("invert", "net.npz", "noisy.npy", "-o", "l1", "--noise", "uniform:0.5", "--norm", "l1", "-q")
    assert {(row["status"], row["p_value"]) for row in lines("l1/results.jsonl")} == {("NOISE_LEVEL", 1.0)}
    assert all(row["objective"] == row["residual_l1"] for row in lines("l1/results.jsonl"))


def test_an_empty_folder_is_filled_and_kept_when_the_work_fails(run, monkeypatch):
    Path("out").mkdir()
    with monkeypatch.context() as failing:
        failing.setattr("unrelu.invert", lambda *args, **options: (_ for _ in ()).throw(MemoryError))
        assert run("invert", "net.npz", "y.npy", "-o", "out")[0] == 2
    assert Path("out").is_dir()
    assert run("invert", "net.npz", "y.npy", "-o", "out")[0] == 0


def test_overwrite_replaces_the_results_and_nothing_else(run):
    Path("out").mkdir()
    Path("out/codes.npy").write_text("old")
    Path("out/mine.txt").write_text("mine")
    assert run("invert", "net.npz", "y.npy", "-o", "out", "--overwrite")[0] == 0
    assert np.load("out/codes.npy").shape == (4, 3)
    assert Path("out/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.npz", "y.npy"), "gone.npz does not exist"),
        (("nonsense", "y.npy"), "nonsense: no such file; the bundled generators are mnist-relu"),
        (("y.npy", "y.npy"), "y.npy: unknown suffix '.npy'"),
        (("net.npz", "."), ".: observations are read from files that end in .npy or .npz; `unrelu run` reads folders"),
        (("net.npz", "hole.npy"), "y has NaN or infinite entries in 1 of 4 observations"),
        (("net.npz", "net.npz"), "net.npz holds W0, W1, activation; name the array 'y'"),
        (("net.npz", "y.npy", "--method", "best"), "method 'best' is unknown; use one of auto, exact, linf"),
        (("net.npz", "y.npy", "-O", "starts"), "--option 'starts': write NAME=VALUE"),
        (("net.npz", "y.npy", "-O", "=3"), "--option '=3': write NAME=VALUE"),
        (("net.npz", "y.npy", "-O", "rounds=1", "-O", "rounds=2"), "--option 'rounds=2': write NAME=VALUE"),
        (("net.npz", "y.npy", "-O", "speed=3"), "method 'auto' has no option 'speed'; it takes confidence"),
        (("net.npz", "y.npy", "-O", "rounds=many"), "option rounds='many' of method 'auto' must be a whole number"),
        (("net.npz", "y.npy", "--noise", "gaussian"), "noise='gaussian': the level '' is not a number"),
        (("net.npz", "y.npy", "--bounds", "1"), "--bounds '1': write two numbers for all coordinates"),
        (("net.npz", "y.npy", "--bounds", "0,high"), "--bounds '0,high': write two numbers"),
        (("net.npz", "y.npy", "--bounds", "1,-1"), "lower bound 1 and the upper one -1; pass (lower, upper)"),
        (("net.npz", "y.npy", "--bounds", "gone.npz"), "gone.npz"),
        (("net.npz", "y.npy", "--bounds", "net.npz"), "net.npz holds W0, W1, activation; name the array 'lower'"),
        (("net.npz", "y.npy", "--activation", "maxout"), "unknown activation 'maxout'"),
        (("net.npz", "y.npy", "--layers", "W7"), "W7"),
        (("net.npz", "y.npy", "--model-option", "speed=3"), "--model-option speed is unknown; use one of latent_shape"),
        (("mnist-relu", "y.npy", "--activation", "relu"), "mnist-relu is a bundled generator; --layers, --activation"),
        (("net.npz", "y.npy", "--mask", "y.npy"), "y.npy has entries like"),
        (("net.npz", "y.npy", "--operator", "net.npz"), "net.npz holds W0, W1, activation; name the array 'operator'"),
        (("net.npz", "y.npy", "--operator", "y.npy", "--mask", "y.npy"), "were both given; pass one of them"),
        (("net.npz", "y.npy", "--prior", "a,b"), "--prior 'a,b': write two numbers"),
        (("net.npz", "y.npy", "--prior", "-1"), "prior=-1 must be finite and at least 0"),
    ],
)
def test_errors_are_lines_on_stderr_and_leave_no_folder(run, arguments, message):
    code, out, err = run("invert", *arguments, "-o", "out")
    assert (code, out) == (2, "")
    said = err.splitlines()
    assert said[0].startswith("error: ")
    assert message in said[0]
    assert all(line.startswith("On the command line: ") for line in said[1:])
    assert not re.search(r"=\S* *--|--\S+ unrelu\.", err)  # Python and options mixed
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["invert", "run"])
def test_a_method_that_does_not_suit_the_generator_is_refused_before_the_folder_is_made(run, command):
    np.save("digits.npy", unrelu.zoo.observations("mnist-dcgan")[:2])
    code, out, err = run(command, "mnist-dcgan", "digits.npy", "-o", "out", "--method", "linf")
    assert (code, out) == (2, "")
    assert "layer 3 (6272 -> 784) has fewer outputs than inputs" in err
    assert err.splitlines()[-1].startswith("On the command line: --method")
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["invert", "certify", "run"])
def test_data_on_another_scale_are_refused_with_the_option_that_fits(run, command):
    np.save("bytes.npy", np.round(255 * unrelu.zoo.digits()[0][:2].reshape(2, -1)).astype(np.uint8))
    limits = {"certify": ("--time-limit", "0.1"), "run": ("--method", "lm", "--workers", "1")}.get(command, ())
    code, _, err = run(command, "mnist-relu", "bytes.npy", "-o", "out", *limits)
    assert code == 2
    assert "the observations go from 0 to 254, outputs of the generator from 0 to 1.3" in err
    option = re.search(r"\((--scale \S+)\), which", err)[1].split()
    assert run(command, "mnist-relu", "bytes.npy", "-o", "out", *limits, *option)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for other processes")
def test_ctrl_c_writes_what_was_found(files):
    endless = ("--method", "gradient_descent", "-O", "max_iterations=1000000000", "-O", "learning_rate=1e-12")
    arguments = command("invert", "net.npz", "y.npy", "-o", "out", *endless)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not Path("out").exists():
            time.sleep(0.1)
        time.sleep(2)  # the folder is made just before the work begins
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "stopping; the results so far will be written" in err
    assert "STOPPED" in out
    assert {row["status"] for row in lines()} == {"STOPPED"}
    start = Problem.build(unrelu.load("net.npz"), np.load("y.npy"), seed=0).start()
    np.testing.assert_allclose(np.load("out/codes.npy"), start, atol=1e-3)


def test_masks_and_matrices_come_from_files(run):
    rng = np.random.default_rng(1)
    y, mask, matrix = np.load("y.npy"), np.arange(20) < 16, rng.standard_normal((15, 20))
    np.save("hidden.npy", np.where(mask, y, np.nan))
    np.save("mask.npy", mask.astype(int))
    np.save("matrix.npy", matrix)
    sparse.save_npz("matrix.npz", sparse.csr_array(matrix))
    np.save("measured.npy", y @ matrix.T)
    for name, arguments in {
        "mask": ("hidden.npy", "--mask", "mask.npy"),
        "dense": ("measured.npy", "--operator", "matrix.npy"),
        "sparse": ("measured.npy", "--operator", "matrix.npz"),
    }.items():
        assert run("invert", "net.npz", *arguments, "-o", name, "--quiet") == (0, "", "")
        assert all(row["success"] for row in lines(f"{name}/results.jsonl"))
    np.testing.assert_array_equal(np.load("dense/codes.npy"), np.load("sparse/codes.npy"))


def test_bounds_of_all_coordinates_or_from_a_file(run):
    assert run("invert", "net.npz", "y.npy", "-o", "out", "--bounds", "-0.5,0.5", "--quiet")[0] == 0
    codes = np.load("out/codes.npy")
    assert (np.abs(codes) <= 0.5).all()
    assert (np.abs(codes) == 0.5).any()
    lower, upper = np.array([-0.5, 0.0, -np.inf]), np.array([0.25, np.inf, 0.5])
    np.savez("box.npz", lower=lower, upper=upper)
    assert run("invert", "net.npz", "y.npy", "-o", "each", "--bounds", "box.npz", "--quiet")[0] == 0
    codes = np.load("each/codes.npy")
    assert ((codes >= lower) & (codes <= upper)).all()


@pytest.mark.parametrize(("text", "prior"), [("0.5,2", unrelu.Normal(0.5, 2.0)), ("0.3", 0.3)])
def test_a_prior_is_a_distribution_or_a_weight(run, text, prior):
    run("invert", "net.npz", "noisy.npy", "-o", "out", "-q", "--noise", "gaussian:0.1", "--prior", text)
    wanted = unrelu.invert(unrelu.load("net.npz"), np.load("noisy.npy"), noise="gaussian:0.1", prior=prior)
    np.testing.assert_array_equal(np.load("out/codes.npy"), wanted.z)


def test_noise_comes_from_a_file(run):
    distance = np.abs(np.subtract.outer(np.arange(20), np.arange(20)))
    covariance, y = 0.01 * np.exp(-distance / 3), np.load("noisy.npy")[0]
    np.save("y.npy", y)
    np.savez("noise.npz", covariance=covariance)
    assert run("invert", "net.npz", "y.npy", "-o", "out", "--noise", "noise.npz", "--method", "lm", "-q")[0] == 0
    residual = y - np.load("out/reconstructions.npy")
    assert lines()[0]["objective"] == pytest.approx(residual @ np.linalg.solve(covariance, residual))
    np.savez("both.npz", covariance=covariance, std=np.ones(20))
    assert "one of them" in run("invert", "net.npz", "y.npy", "-o", "other", "--noise", "both.npz")[2]


def test_inspect_describes_layers_and_says_what_to_expect(run):
    code, out, err = run("inspect", "net.npz", "--activation", "leaky_relu:0.2")
    assert (code, err) == (0, "")
    seen = unrelu.inspect(unrelu.load("net.npz", activation="leaky_relu:0.2"))
    assert "net.npz: latent (3,) to output (20,)" in out
    first, second = ({*line.split()} for line in out.splitlines() if "Dense" in line)
    assert first >= {"1", "Dense", "leaky_relu:0.2", "3", "8", "2.67", "yes"}
    assert second >= {"2", "Dense", "leaky_relu:0.2", "8", "20", "2.50", "yes"}
    assert seen.verdict in " ".join(out.split())


@pytest.mark.parametrize("name", ["plain.npz", "plain.safetensors", "plain.pt"])
def test_activations_that_a_file_does_not_tell_are_asked_for(run, name):
    weights = {f"fc{i}.weight": np.load("net.npz")[f"W{i}"] for i in (0, 1)}
    np.savez("plain.npz", **weights)
    save_file(weights, "plain.safetensors")
    torch.save({key: torch.from_numpy(value) for key, value in weights.items()}, "plain.pt")
    for arguments in (("inspect", name), ("run", name, "y.npy", "-o", "out")):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {name}: weights do not say what their activations are; its layers are fc0 ")
        assert "--activation" in err
    code, out, _ = run("inspect", name, "--activation", "relu,sigmoid")
    assert (code, "sigmoid" in out) == (0, True)


def test_emulators_put_out_spectra_or_their_logarithms(run):
    weights = [np.random.default_rng(1).normal(size=shape).astype(np.float32) for shape in ((3, 8), (8, 20))]
    held = {f"W_{i}": w for i, w in enumerate(weights)} | {"b_0": np.zeros(8), "b_1": np.zeros(20)}
    held |= {"alphas_0": np.ones(8), "betas_0": np.zeros(8), "parameters": ["a", "b", "c"]}
    held |= {"parameters_mean": np.zeros(3), "parameters_std": np.ones(3)}
    held |= {"features_mean": np.zeros(20), "features_std": np.full(20, 0.1)}
    Path("emulator.pkl").write_bytes(pickle.dumps(held))
    truth = np.array([0.3, -0.2, 0.4])
    np.save("y.npy", y := unrelu.load("emulator.pkl")(truth))
    np.save("spectrum.npy", 10**y)
    for data, more in (("y.npy", []), ("spectrum.npy", ["--model-option", "output_log=10"])):
        assert run("invert", "emulator.pkl", data, "-o", f"out of {data}", "-q", *more)[0] == 0
        found = lines(f"out of {data}/results.jsonl")[0]["parameters"]
        np.testing.assert_allclose([found[name] for name in "abc"], truth, rtol=1e-6)
    wrong = run("invert", "emulator.pkl", "y.npy", "-o", "x", "--model-option", "output_log=1")[2]
    assert wrong.splitlines()[1] == "On the command line: --model-option output_log="


def test_coordinates_are_named(run):
    arguments = ("invert", "net.npz", "y.npy", "-q", "--method", "lm", "--model-option")
    assert run(*arguments, "names=h, omega_b,n_s", "-o", "out")[0] == 0
    assert [list(row["parameters"]) for row in lines()] == [["h", "omega_b", "n_s"]] * 4
    assert [list(row["parameters"].values()) for row in lines()] == np.load("out/codes.npy").tolist()
    assert "'h' is that of two coordinates" in run(*arguments, "names=h,h,n_s", "-o", "other")[2]

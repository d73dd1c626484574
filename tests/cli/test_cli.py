"""The command line: what it prints, what it writes, how it fails, and how it stops."""

from __future__ import annotations

import json
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
import typer
from safetensors.numpy import save_file
from typer.testing import CliRunner

import unrelu
from unrelu.cli import _app as commands
from unrelu.cli._app import app
from unrelu.errors import MissingPackageError
from unrelu.methods import METHODS
from unrelu.problem import Problem

OUTPUTS = ["codes.npy", "reconstructions.npy", "results.jsonl"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a 3-8-20 network and observations of it, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPATH", str(Path(unrelu.__file__).parents[1]))
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((8, 3)), rng.standard_normal((20, 8))
    np.savez("net.npz", W0=first, W1=second, activation="relu")
    y = unrelu.from_arrays([first, second])(rng.standard_normal((4, 3)))
    np.save("y.npy", y)
    np.save("noisy.npy", y + rng.uniform(-0.1, 0.1, y.shape))
    np.save("one.npy", y[0])
    np.save("nan.npy", np.full((4, 20), np.nan))
    return tmp_path


def command(*arguments: str) -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-c", "from unrelu.cli.process import main; main()", *arguments]


def rows(folder: str = "out") -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "results.jsonl").read_text().splitlines()]


# --- certify ----------------------------------------------------------------------------------------------------------

PROOFS = ["bounds.png", "box.png", "certificate-0.npz", "certificates.jsonl", "codes.npy"]


def test_certify_writes_certificates_that_verify(run):
    code, out, err = run("certify", "net.npz", "noisy.npy", "-o", "out", "--noise", "uniform:0.1")
    assert code == 0
    assert "Smallest linf error over all codes\n4 certificates: 4 OPTIMAL; the largest gaps:\n" in out
    assert "certify" in err
    network, y = unrelu.load("net.npz"), np.load("noisy.npy")
    lines = [json.loads(line) for line in Path("out/certificates.jsonl").read_text().splitlines()]
    assert np.load("out/codes.npy").shape == (4, 3)
    for i, (row, one) in enumerate(zip(lines, y, strict=True)):
        certificate = unrelu.Certificate.load(f"out/certificate-{i}.npz")
        assert certificate.verify(network, one)
        assert (row["index"], row["status"], row["lower"]) == (i, certificate.status.name, certificate.lower)
        assert row["box"] is not None


def test_certify_takes_the_codes_of_a_folder_and_one_observation(run):
    run("invert", "net.npz", "one.npy", "-o", "codes")
    code, _, _ = run("certify", "net.npz", "one.npy", "-o", "out", "--codes", "codes", "--noise", "uniform:0.1", "-q")
    assert code == 0
    assert sorted(p.name for p in Path("out").iterdir()) == PROOFS
    assert np.load("out/codes.npy").shape == (3,)


def test_overwritten_certificates_leave_none_of_the_earlier_run(run):
    run("certify", "net.npz", "noisy.npy", "-o", "out", "--noise", "uniform:0.1", "-q")
    run("certify", "net.npz", "one.npy", "-o", "out", "--overwrite", "-q")
    assert sorted(p.name for p in Path("out").iterdir()) == [name for name in PROOFS if name != "box.png"]


def test_a_refused_certificate_leaves_no_folder(run):
    code, _, err = run("certify", "mnist-sigmoid", "noisy.npy", "-o", "out")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    code, _, err = run("certify", "net.npz", "noisy.npy", "-o", "out", "--norm", "l2")
    assert (code, err.splitlines()[-1][:17]) == (2, "error: --norm 'l2")
    assert not Path("out").exists()


# --- invert -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "leading"), [("y.npy", (4,)), ("one.npy", ())])
def test_invert_writes_what_the_library_returns(run, data, leading):
    code, out, err = run("invert", "net.npz", data, "-o", "out")
    assert code == 0
    assert sorted(p.name for p in Path("out").iterdir()) == OUTPUTS
    network, y = unrelu.load("net.npz"), np.load(data)
    result = unrelu.invert(network, y)
    codes, reconstructions = np.load("out/codes.npy"), np.load("out/reconstructions.npy")
    assert codes.shape == (*leading, 3)
    np.testing.assert_array_equal(codes, result.z)
    np.testing.assert_array_equal(reconstructions, network(codes))
    np.testing.assert_allclose(reconstructions, y, rtol=1e-8)
    assert [row["status"] for row in rows()] == ["EXACT_FIT"] * len(np.atleast_1d(result.status))
    assert "EXACT_FIT" in out
    assert [line for line in str(result).splitlines() if "time" not in line and "effort" not in line] == [
        line for line in out.splitlines()[:-1] if "time" not in line and "effort" not in line
    ]
    assert [row["confidence"] for row in rows()] == [1.0] * len(rows())
    assert [row["p_value"] for row in rows()] == [None] * len(rows())
    assert [row["rank"] for row in rows()] == np.atleast_1d(result.rank).tolist()
    assert [row["identifiable"] for row in rows()] == np.atleast_1d(result.identifiable).tolist()
    assert out.endswith("written to out/: codes.npy reconstructions.npy results.jsonl\n")
    assert f"{len(rows())}/{len(rows())}" in err


def test_npz_observations(run):
    np.savez("y.npz", y=np.load("y.npy"), labels=np.arange(4))
    assert run("invert", "net.npz", "y.npz", "-o", "out")[0] == 0
    assert len(rows()) == 4


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_offered_and_runs(run, method):
    short = {"gradient_descent", "adam"}
    options = ["-O", "max_iterations=20"] if method in short else []
    assert run("invert", "net.npz", "noisy.npy", "-o", "out", "--method", method, *options)[0] == 0
    assert {row["method"] for row in rows()} == {method}
    assert method in run("invert", "--help")[1]


def test_options_reach_the_method(run):
    arguments = ("invert", "net.npz", "noisy.npy", "--method", "lm", "-O", "max_iterations=1", "-O", "damping=0.5")
    assert run(*arguments, "-o", "out")[0] == 0
    expected = unrelu.invert(unrelu.load("net.npz"), np.load("noisy.npy"), "lm", max_iterations=1, damping=0.5)
    np.testing.assert_array_equal(np.load("out/codes.npy"), expected.z)
    assert {row["nit"] for row in rows()} == {1}


def test_noise_norm_and_seed_reach_the_problem(run):
    arguments = ("invert", "net.npz", "noisy.npy", "-o", "out", "--noise", "uniform:0.5", "--norm", "l1", "--seed", "7")
    _, out, _ = run(*arguments)
    assert {row["status"] for row in rows()} == {"NOISE_LEVEL"}
    assert {row["p_value"] for row in rows()} == {1.0}
    assert "p-value" in out
    assert {row["seed"] for row in rows()} == {7}
    assert all(row["objective"] == row["residual_l1"] for row in rows())


def test_a_time_limit_is_reported_and_what_was_not_reached_has_a_start(run):
    code, out, err = run("invert", "net.npz", "noisy.npy", "-o", "out", "--method", "linf", "--time-limit", "1e-9")
    assert code == 0
    assert "failed" not in err
    assert "TIME_LIMIT" in out
    assert all(row["objective"] > 0 for row in rows())
    assert np.isfinite(np.load("out/codes.npy")).all()


def test_quiet_prints_nothing(run):
    assert run("invert", "net.npz", "y.npy", "-o", "out", "--quiet") == (0, "", "")
    assert len(rows()) == 4


# --- existing results -------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_refused_before_anything_is_computed(run, monkeypatch):
    Path("out").mkdir()
    Path("out/codes.npy").write_text("precious")
    monkeypatch.setattr("unrelu.invert", lambda *args, **options: pytest.fail("computed"))
    code, out, err = run("invert", "net.npz", "y.npy", "-o", "out")
    assert (code, out) == (2, "")
    assert err == "error: out exists; choose another folder, or pass --overwrite to replace its results\n"
    assert Path("out/codes.npy").read_text() == "precious"


def test_an_empty_folder_is_filled_and_kept_when_the_work_fails(run, monkeypatch):
    Path("out").mkdir()
    with monkeypatch.context() as failing:
        failing.setattr("unrelu.invert", lambda *args, **options: (_ for _ in ()).throw(MemoryError))
        assert run("invert", "net.npz", "y.npy", "-o", "out")[0] != 0
    assert Path("out").is_dir()
    assert run("invert", "net.npz", "y.npy", "-o", "out")[0] == 0
    assert Path("out/codes.npy").exists()


def test_overwrite_replaces_the_results_and_nothing_else(run):
    Path("out").mkdir()
    Path("out/codes.npy").write_text("old")
    Path("out/mine.txt").write_text("mine")
    assert run("invert", "net.npz", "y.npy", "-o", "out", "--overwrite")[0] == 0
    assert np.load("out/codes.npy").shape == (4, 3)
    assert Path("out/mine.txt").read_text() == "mine"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.npz", "y.npy"), "gone.npz does not exist"),
        (("y.npy", "y.npy"), "y.npy: unknown suffix '.npy'"),
        (("net.npz", "gone.npy"), "gone.npy does not exist; pass a .npy or .npz file of observations"),
        (("net.npz", "nan.npy"), "y has NaN or infinite entries in 4 of 4 observations"),
        (("net.npz", "net.npz"), "net.npz holds the arrays W0, W1, activation; name the observations 'y'"),
        (("net.npz", "y.npy", "--method", "best"), "method 'best' is unknown; use one of auto, exact, linf"),
        (("net.npz", "y.npy", "-O", "starts"), "--option 'starts': write name=value"),
        (("net.npz", "y.npy", "-O", "=3"), "--option '=3': write name=value"),
        (("net.npz", "y.npy", "-O", "speed=3"), "method 'auto' has no option 'speed'; it takes confidence"),
        (("net.npz", "y.npy", "-O", "rounds=many"), "option rounds='many' of method 'auto' must be a whole number"),
        (("net.npz", "y.npy", "-O", "rounds=-1"), "rounds=-1 must be at least 0"),
        (("net.npz", "y.npy", "-O", "rounds=0"), "rounds=0 makes no restarts"),
        (("net.npz", "y.npy", "--noise", "gaussian"), "--noise 'gaussian': the level '' is not a number"),
        (("net.npz", "y.npy", "--norm", "l0"), "--norm 'l0' is unknown"),
        (
            ("net.npz", "y.npy", "--bounds", "1"),
            "--bounds '1': write LOW,HIGH, numbers for all coordinates such as -1,1",
        ),
        (("net.npz", "y.npy", "--bounds", "0,high"), "--bounds '0,high': write LOW,HIGH"),
        (("net.npz", "y.npy", "--bounds", "1,-1"), "lower bound 1 and the upper one -1; pass (lower, upper)"),
        (("net.npz", "y.npy", "--bounds", "gone.npz"), "gone.npz"),
        (("net.npz", "y.npy", "--bounds", "net.npz"), "net.npz holds W0, W1, activation; name the bounds 'lower'"),
        (("net.npz", "y.npy", "--seed", "-1"), "--seed -1 must be a whole number from 0 to"),
        (("net.npz", "y.npy", "--time-limit", "0"), "--time-limit 0 must be above 0"),
        (("net.npz", "y.npy", "--activation", "maxout"), "unknown activation 'maxout'"),
        (("net.npz", "y.npy", "--latent-shape", "3,x"), "--latent-shape '3,x': write whole numbers with commas"),
        (("net.npz", "y.npy", "--layers", "W7"), "W7"),
    ],
)
def test_errors_are_one_line_on_stderr_and_leave_no_folder(run, arguments, message):
    code, out, err = run("invert", *arguments, "-o", "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("invert", "net.npz", "y.npy"),
        ("invert", "net.npz", "y.npy", "-o", "out", "--seed", "x"),
        ("invert", "net.npz", "y.npy", "-o", "out", "--speed", "1"),
        ("inspect",),
        ("encode",),
    ],
)
def test_usage_errors(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "Usage" in err


def test_options_of_files_do_not_go_with_networks_of_the_zoo(run):
    code, _, err = run("inspect", "mnist-relu", "--activation", "relu")
    assert code == 2
    assert "mnist-relu is a network of the zoo" in err


# --- inspect, version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (("invert", "mnist-relu", "y.npy", "-o", "out"), "y.npy"),
        (("certify", "net.npz", "y.npy", "-o", "out"), "y.npy"),
        (("inspect", "net.npz"), "net.npz"),
        (("run", "mnist-relu", "net.npz", "--array", "W0", "-o", "out"), "net.npz"),
    ],
)
def test_files_of_more_than_may_be_read_are_refused(run, arguments, file):
    code, _, err = run(*arguments, "--max-bytes", "100")
    assert code == 2
    assert re.search(rf"{file} (holds|would decompress to) .*; at most 100 bytes are read", err)
    assert not Path("out").exists()


def test_inspect_describes_layers_and_says_what_to_expect(run):
    code, out, err = run("inspect", "net.npz")
    assert (code, err) == (0, "")
    seen = unrelu.inspect(unrelu.load("net.npz"))
    assert "net.npz: latent (3,) to output (20,)" in out
    first, second = ({*line.replace("│", " ").split()} for line in out.splitlines() if "Dense" in line)
    assert first >= {"1", "Dense", "relu", "3", "8", "2.67", "yes"}
    assert second >= {"2", "Dense", "relu", "8", "20", "2.50", "yes"}
    assert seen.verdict in " ".join(out.split())
    assert seen.recommended in " ".join(out.split())


def test_inspect_takes_the_activation_of_bare_weights(run):
    assert "leaky_relu:0.2" in run("inspect", "net.npz", "--activation", "leaky_relu:0.2")[1]


def test_a_file_of_keras_is_refused_with_what_to_call(run):
    code, _, err = run("inspect", "decoder.keras")
    assert code == 2
    assert "model.export('m.onnx', format='onnx')" in " ".join(err.split())


def test_emulators_put_out_spectra_or_their_logarithms(run):
    weights = [np.random.default_rng(1).normal(size=shape).astype(np.float32) for shape in ((3, 8), (8, 20))]
    held = {f"W_{i}": w for i, w in enumerate(weights)} | {"b_0": np.zeros(8), "b_1": np.zeros(20)}
    held |= {
        "alphas_0": np.ones(8),
        "betas_0": np.zeros(8),
        "parameters": ["a", "b", "c"],
        "parameters_mean": np.zeros(3),
    }
    held |= {"parameters_std": np.ones(3), "features_mean": np.zeros(20), "features_std": np.full(20, 0.1)}
    Path("emulator.pkl").write_bytes(pickle.dumps(held))
    truth = np.array([0.3, -0.2, 0.4])
    np.save("y.npy", y := unrelu.load("emulator.pkl")(truth))
    np.save("spectrum.npy", 10**y)
    for data, more in (("y.npy", []), ("spectrum.npy", ["--output-log", "10"])):
        code, out, err = run("invert", "emulator.pkl", data, "-o", f"out of {data}", "--json", *more)
        assert code == 0, err
        (found,) = json.loads(out)["observations"]
        np.testing.assert_allclose([found["parameters"][name] for name in "abc"], truth, rtol=1e-6)
    for model, base, message in (
        ("emulator.pkl", "1", "--output-log 1.0 must be the base"),
        ("mnist-relu", "10", "are for"),
    ):
        assert message in run("invert", model, "y.npy", "-o", "x", "--output-log", base)[2]


def test_version_and_help():
    runner = CliRunner()
    version = runner.invoke(app, ["--version"])
    assert (version.exit_code, version.stdout) == (0, f"unrelu {unrelu.__version__}\n")
    shown = runner.invoke(app, ["--help"]).stdout
    assert all(name in shown for name in ("invert", "inspect", "demo"))


# --- processes of their own -------------------------------------------------------------------------------------------


def test_a_process_inverts(files):
    done = subprocess.run(
        command("invert", "net.npz", "y.npy", "-o", "out"), capture_output=True, text=True, check=True
    )
    assert "EXACT_FIT" in done.stdout
    assert "EXACT_FIT" not in done.stderr
    assert len(rows()) == 4


@pytest.mark.parametrize("name", ["plain.npz", "plain.safetensors", "plain.pt"])
def test_activations_that_a_file_does_not_tell_are_asked_for(run, name):
    weights = {f"fc{i}.weight": np.load("net.npz")[f"W{i}"] for i in (0, 1)}
    np.savez("plain.npz", **weights)
    save_file(weights, "plain.safetensors")
    torch.save({key: torch.from_numpy(value) for key, value in weights.items()}, "plain.pt")
    for command in (
        ("inspect", name),
        ("invert", name, "y.npy", "-o", "out", "-q"),
        ("run", name, "y.npy", "-o", "out"),
    ):
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {name}: weights do not say what their activations are; its layers are fc0 ")
        assert "--activation relu or relu,sigmoid" in err
    assert run("inspect", name, "--activation", "relu")[::2] == (0, "")
    code, out, _ = run("inspect", name, "--activation", "relu,sigmoid")
    assert (code, "sigmoid" in out) == (0, True)
    assert run("inspect", "net.npz")[2] == ""


@pytest.mark.parametrize("command", ["invert", "certify", "run"])
def test_data_on_another_scale_are_refused_with_the_option_that_fits(run, command):
    images = unrelu.zoo.digits()[0][:2].reshape(2, -1)
    np.save("bytes.npy", np.round(255 * images).astype(np.uint8))
    limits = {"certify": ("--max-nodes", "1", "--no-box"), "run": ("--method", "lm", "--workers", "1")}.get(command, ())
    code, _, err = run(command, "mnist-relu", "bytes.npy", "-o", "out", *limits)
    assert code == 2
    assert "the observations go from 0 to 254, outputs of the generator from 0 to 1.3" in err
    option = re.search(r"\((--scale \S+)\), which", err)[1].split()
    assert option == ["--scale", "0,1"]
    assert run(command, "mnist-relu", "bytes.npy", "-o", "out", *limits, *option)[0] == 0


def test_a_process_fails_without_a_traceback(files):
    done = subprocess.run(command("inspect", "gone.npz"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: gone.npz does not exist; check the path\n"


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
    assert {row["status"] for row in rows()} == {"STOPPED"}
    assert all(row["nit"] > 0 for row in rows())
    codes = np.load("out/codes.npy")
    assert codes.shape == (4, 3)
    start = Problem.build(unrelu.load("net.npz"), np.load("y.npy"), seed=0).start()
    np.testing.assert_allclose(codes, start, atol=1e-3)


# --- measurements -----------------------------------------------------------------------------------------------------


def test_masks_and_matrices_come_from_files(run):
    from scipy import sparse

    rng = np.random.default_rng(1)
    y, mask, matrix = np.load("y.npy"), np.arange(20) < 16, rng.standard_normal((15, 20))
    np.save("hidden.npy", np.where(mask, y, np.nan))
    np.save("mask.npy", mask.astype(int))
    np.save("matrix.npy", matrix)
    sparse.save_npz("matrix.npz", sparse.csr_array(matrix))
    np.save("measured.npy", y @ matrix.T)
    codes = {}
    for name, arguments in {
        "mask": ("hidden.npy", "--mask", "mask.npy"),
        "dense": ("measured.npy", "--operator", "matrix.npy"),
        "sparse": ("measured.npy", "--operator", "matrix.npz"),
    }.items():
        code, _, err = run("invert", "net.npz", *arguments, "-o", name, "--quiet")
        assert (code, err) == (0, "")
        assert all(row["success"] for row in rows(name))
        codes[name] = np.load(f"{name}/codes.npy")
    np.testing.assert_array_equal(codes["dense"], codes["sparse"])
    full = run("invert", "net.npz", "y.npy", "-o", "full", "--quiet")
    assert full[0] == 0
    np.testing.assert_allclose(codes["dense"], np.load("full/codes.npy"), atol=1e-6)


def test_a_prior_shortens_codes(run):
    assert run("invert", "net.npz", "noisy.npy", "-o", "free", "--quiet")[0] == 0
    assert run("invert", "net.npz", "noisy.npy", "-o", "out", "--prior", "5", "--quiet")[0] == 0
    shorter = np.linalg.norm(np.load("out/codes.npy"), axis=1) < np.linalg.norm(np.load("free/codes.npy"), axis=1)
    assert shorter.all()


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
    assert run("run", "net.npz", "y.npy", "-o", "run", "--bounds", "box.npz", "--workers", "1", "--quiet")[0] == 0
    assert unrelu.open_run("run").manifest["bounds"] == [[-0.5, 0.0, "-inf"], [0.25, "inf", 0.5]]
    status, _, err = run("certify", "net.npz", "y.npy", "-o", "none", "--bounds", "box.npz")
    assert status == 2
    assert "proofs need two finite ends of every coordinate" in err


def test_certificates_within_bounds(run):
    arguments = ("certify", "net.npz", "noisy.npy", "-o", "out", "--noise", "uniform:0.1", "--bounds", "-0.5,0.5")
    status, out, _ = run(*arguments)
    assert status == 0
    assert "error over codes within the bounds" in out
    y = np.load("noisy.npy")
    first = unrelu.Certificate.load("out/certificate-0.npz")
    assert (first.bounds == [-0.5, 0.5]).all()
    assert first.verify(unrelu.load("net.npz"), y[0])
    line = json.loads(Path("out/certificates.jsonl").read_text().splitlines()[0])
    assert line["bounds"] == [[-0.5, 0.5]] * 3
    assert "within the bounds" in line["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mask", "y.npy"), "y.npy has entries like"),
        (("--mask", "no.npy"), "no.npy does not exist; pass a .npy or .npz file of masks"),
        (("--operator", "net.npz"), "net.npz holds the arrays W0, W1, activation; name the operators 'operator'"),
        (("--operator", "y.npy", "--mask", "y.npy"), "were both given; pass one of them"),
        (("--prior", "-1"), "--prior -1 must be finite and at least 0"),
    ],
)
def test_measurements_that_make_no_sense_are_refused(run, arguments, message):
    code, _, err = run("invert", "net.npz", "y.npy", "-o", "out", *arguments)
    assert code == 2
    assert message in err
    assert not Path("out").exists()


def test_commands_of_the_studies_say_where_to_get_it(monkeypatch):
    """As in an environment in which only ``unrelu`` is installed."""
    monkeypatch.setattr(commands, "entry_points", lambda group: ())
    lonely = typer.Typer()
    commands.add_studies(lonely)
    lonely.command()(lambda: None)
    for name in ("reproduce", "benchmark"):
        found = CliRunner().invoke(lonely, [name, "fig1a", "--quick"])
        assert isinstance(found.exception, MissingPackageError)
        assert f"`unrelu {name}` is part of the studies" in str(found.exception)
    assert "reproduce" not in CliRunner().invoke(lonely, ["--help"]).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--noise", "0.1"), "is it a standard deviation, 'gaussian:0.1', or the largest error, 'uniform:0.1'?"),
        (("--noise", "gaus:0.1"), "error: --noise 'gaus:0.1': use one of "),
        (("--norm", "l3"), "error: --norm 'l3' is unknown; use 'l2', 'l1', 'linf' or 'huber:D'"),
        (("--prior", "1", "--method", "linf"), "error: --prior 1: --method 'linf' inverts layers, which have no"),
        (("--time-limit", "0"), "error: --time-limit 0 must be above 0 seconds"),
        (("--max-bytes", "100"), "pass a larger --max-bytes if you trust the file"),
    ],
)
def test_errors_name_options_as_they_are_typed(run, arguments, said):
    code, _, err = run("invert", "net.npz", "one.npy", "-o", "typed", *arguments)
    assert code == 2
    assert said in err
    assert "unrelu." not in err
    assert not re.search(r"(?<!-)\b(noise|norm|prior|method|time_limit|max_bytes)=", err)

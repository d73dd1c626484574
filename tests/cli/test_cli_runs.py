"""``unrelu run`` and ``unrelu status``: what they print, and every bad input by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

import unrelu

SIZE = 12


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with a 3-8-20 network and observations of it, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    rng = np.random.default_rng(0)
    weights = {"W0": rng.standard_normal((8, 3)), "W1": rng.standard_normal((20, 8))}
    np.savez("net.npz", **weights, activation="relu")
    np.save("y.npy", unrelu.from_arrays(list(weights.values()))(rng.standard_normal((SIZE, 3))))
    return tmp_path


RUN = ("run", "net.npz", "y.npy", "-o", "out", "--chunk", "5", "--workers", "1")


def test_a_run_says_a_line_a_chunk_and_how_it_ended(run):
    code, out, err = run(*RUN)
    assert (code, out) == (0, "")
    assert [line.split(" in ")[0] for line in err.splitlines() if line.startswith("chunk")] == [
        "chunk 0: observations 0 to 4", "chunk 1: observations 5 to 9", "chunk 2: observations 10 to 11",
    ]  # fmt: skip
    assert "12/12" in err
    assert "0:00:00 left" in err
    assert "12 observations, 12 with success" in err
    assert "written to out/: codes.npy, reconstructions.npy, results.jsonl" in err


def test_quiet_says_nothing_but_errors(run):
    assert run(*RUN, "-q") == (0, "", "")
    code, out, err = run(*RUN, "-q", "--seed", "2")
    assert (code, out) == (2, "")
    assert err.startswith("error: out holds another run: seed is 0, asked for is 2; ")
    assert "--overwrite" in err
    assert run(*RUN, "-q", "--seed", "2", "--overwrite") == (0, "", "")


def test_json_is_for_scripts(run):
    code, out, err = run(*RUN, "--json", "-q")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert [record["stop"] for record in told["records"]] == [5, 10, 12]
    assert told["records"][0]["counts"] == {"EXACT_FIT": 5}
    assert (told["finished"], told["success"], told["errors"]) == (True, 12, 0)
    _, again, _ = run(*RUN, "--json")
    assert [record["how"] for record in json.loads(again)["records"]] == ["kept"] * 3


def test_lines_of_results_name_the_files(run):
    Path("images").mkdir()
    for name, digit in zip(("b.png", "a.png"), unrelu.zoo.digits()[0], strict=False):
        Image.fromarray((255 * digit).round().astype(np.uint8)).save(Path("images", name))
    limits = ("--scale", "0,1", "--method", "lm", "-O", "max_iterations=3", "--workers", "1", "-q")
    assert run("run", "mnist-relu", "images", "-o", "named", *limits)[0] == 0
    assert run(*RUN, "-q", "--method", "lm")[0] == 0
    for folder, names in (("named", ["a.png", "b.png"]), ("out", [None] * SIZE)):
        lines = [json.loads(line) for line in Path(folder, "results.jsonl").read_text().splitlines()]
        assert [(line["index"], line["name"]) for line in lines] == list(enumerate(names))


@pytest.mark.parametrize("command", ["run", "invert"])
def test_a_method_that_does_not_suit_the_generator_is_refused_before_the_folder_is_made(run, command):
    digits = unrelu.zoo.observations("mnist-dcgan")[:2]
    np.save("digits.npy", digits)
    narrow, large = "layer 3 (6272 -> 784) has fewer outputs than inputs", "layer 2 (3136 -> 6272) is too large for"
    for method in ("linf", "exact", "l1", "relaxed", "least_squares"):
        code, out, err = run(command, "mnist-dcgan", "digits.npy", "-o", "out", "--method", method)
        assert (code, out) == (2, "")
        assert (large if method == "exact" else narrow) in err
        assert "'lm'" in err.partition("use --method ")[2]
        assert not Path("out").exists()


def test_status_of_a_finished_run(run):
    run(*RUN, "-q", "-O", "max_iterations=150")
    code, out, err = run("status", "out")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "out: net.npz on" in text
    assert "method auto confidence=" in text
    assert "finished: 12 of 12 observations, 3 of 3 chunks" in text
    assert "EXACT_FIT 12 fits the observation exactly" in text
    code, out, _ = run("status", "out", "--json")
    told = json.loads(out)
    assert (told["finished"], told["running"], told["done"], told["counts"]) == (True, False, 12, {"EXACT_FIT": 12})


def test_what_a_manifest_says_does_not_steer_the_terminal(run):
    run(*RUN)
    path = Path("out/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["version"] = "\x1b[2J\x9b1m[bold]"
    path.write_text(json.dumps(manifest))
    _, out, _ = run("status", "out")
    assert "unrelu \\x1b[2J\\x9b1m[bold]" in out.replace("\n", " ")


def test_names_are_not_read_as_markup(run):
    name = "o [/x] [red] é"
    code, _, err = run("run", "net.npz", "y.npy", "-o", name, "--workers", "1")
    assert (code, name in err) == (0, True), err
    code, out, _ = run("status", name)
    assert (code, f"{name}: net.npz on " in out) == (0, True), out


def test_activations_one_a_layer(run):
    weights = [np.load("net.npz")[name] for name in ("W0", "W1")]
    np.savez("bare.npz", W0=weights[0], W1=weights[1])
    np.save("y.npy", unrelu.from_arrays(weights, activation=["relu", "sigmoid"])(np.ones((2, 3))))
    asked = ("run", "bare.npz", "y.npy", "-o", "out", "--activation", "relu,sigmoid", "--json", "--workers", "1")
    code, out, err = run(*asked)
    assert code == 0, err
    assert json.loads(out)["success"] == 2


def test_status_of_what_is_no_run(run):
    code, _, err = run("status", "nowhere")
    assert code == 2
    assert err == "error: nowhere holds no manifest.json, so it is no folder of `unrelu run`; check the path\n"


def test_data_on_another_scale_are_refused_unless_they_are_said_to_be_right(run):
    np.save("bytes.npy", np.full((3, 20), 200, dtype=np.uint8))
    code, _, err = run("run", "net.npz", "bytes.npy", "-o", "out", "--method", "lm")
    assert code == 2
    assert "the observations go from 200 to 200, outputs of the generator from" in err
    assert not Path("out").exists()
    code, _, err = run("run", "net.npz", "bytes.npy", "-o", "out", "--method", "lm", "--scale", "none")
    assert code == 0, err


# --- measurements -----------------------------------------------------------------------------------------------------


def test_masks_one_for_all_or_one_for_each(run):
    y, rng = np.load("y.npy"), np.random.default_rng(1)
    each = rng.random((SIZE, 20)) < 0.8
    np.save("each.npy", each)
    np.save("one.npy", each[0])
    np.save("holes.npy", np.where(each, y, np.nan))
    network = unrelu.load("net.npz")
    for mask, operator, data in (("each.npy", each, "holes.npy"), ("one.npy", each[0], "y.npy")):
        code, _, err = run("run", "net.npz", data, "-o", mask[:-4], "--mask", mask, "--method", "lm")
        assert code == 0, err
        found = unrelu.open_run(mask[:-4])
        assert not found.errors
        assert found.manifest["masks"] == (mask == "each.npy")
        x = network(found.read("codes"))
        seen = np.broadcast_to(operator, x.shape)
        assert np.abs(np.where(seen, x - y, 0)).max(axis=1).min() < 1e-8


def test_a_matrix_from_a_file(run):
    matrix = np.random.default_rng(2).standard_normal((12, 20))
    np.save("matrix.npy", matrix)
    np.save("measured.npy", np.load("y.npy") @ matrix.T)
    code, _, err = run("run", "net.npz", "measured.npy", "-o", "out", "--operator", "matrix.npy", "-q")
    assert (code, err) == (0, "")
    assert unrelu.open_run("out").success == SIZE


# --- bad input --------------------------------------------------------------------------------------------------------


def bad_images(folder: Path) -> None:
    """1,000 images of 28 x 28, of which one is truncated, one of another size, and one no image."""
    folder.mkdir()
    pictures = (unrelu.zoo.digits()[0].reshape(-1, 28, 28) * 255).round().astype(np.uint8)
    for i in range(1000):
        Image.fromarray(pictures[i % len(pictures)]).save(folder / f"{i:04}.png")
    whole = (folder / "0123.png").read_bytes()
    (folder / "0123.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((27, 28), np.uint8)).save(folder / "0500.png")
    (folder / "0999.png").write_text("no image")


@pytest.mark.long
def test_bad_images_among_a_thousand_are_named_and_the_run_goes_on(run):
    bad_images(Path("images"))
    arguments = (
        "run",
        "mnist-relu",
        "images",
        "-o",
        "out",
        "--method",
        "lm",
        "-O",
        "max_iterations=3",
        "--scale",
        "0,1",
    )
    code, _, err = run(*arguments)
    assert code == 1
    assert err.endswith("3 of 1000 observations failed, their messages are in out/results.jsonl\n")
    found = unrelu.open_run("out")
    assert found.finished
    assert sorted(found.errors) == [123, 500, 999]
    assert found.counts["ERROR"] == 3
    assert found.errors[123].startswith("0123.png: cannot be read: ")
    assert found.errors[500].startswith("0500.png: is 27x28 grey uint8; the first is 28x28 grey uint8: make them equal")
    assert found.errors[999].startswith("0999.png: cannot be read: cannot identify image file")
    assert "observation 500: 0500.png: is 27x28 grey uint8" in err
    assert np.isfinite(found.read("codes")[[0, 124, 998]]).all()
    _, out, _ = run("status", "out")
    assert "observation 123: 0123.png: cannot be read" in out
    code, _, _ = run(*arguments, "--size", "28,28", "-o", "resized")
    assert sorted(unrelu.open_run("resized").errors) == [123, 999]


@pytest.fixture
def stores(files) -> None:
    Path("empty").mkdir()
    Path("torn.npy").write_bytes(Path("y.npy").read_bytes()[:300])
    Path("torn.npz").write_bytes(Path("net.npz").read_bytes()[:200])
    Path("data.csv").write_text("1,2,3")
    group = zarr.open_group("several.zarr", mode="w", zarr_format=3)
    for name in "ab":
        group.create_array(name, data=np.ones((2, 20)))


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("net.npz", "empty"), "empty holds no files that end in .png, .jpg, .jpeg; pass a folder of images"),
        (("net.npz", "torn.npy"), "torn.npy states the shape (12, 20) of float64"),
        (("net.npz", "torn.npz"), "torn.npz is not a readable .npz archive"),
        (("net.npz", "nowhere.zarr"), "nowhere.zarr does not exist"),
        (("net.npz", "data.csv"), "data.csv is no data set; pass a .npy, .npz, .h5 or .hdf5 file, a Zarr store"),
        (("net.npz", "several.zarr"), "holds the arrays a, b; say which with --array"),
        (("net.npz", "several.zarr", "--array", "c"), "has no array 'c'; it holds a, b"),
        (("net.npz", "https://127.0.0.1:9/y.npy"), "only Zarr stores are read from URLs"),
        (("nonsense", "y.npy"), "nonsense: no such file; the zoo has"),
        (("mnist-relu", "y.npy"), "has observations of shape (20,), and the generator puts out (784,)"),
        (("net.npz", "y.npy", "--method", "lmm"), "method 'lmm' is unknown"),
        (("net.npz", "y.npy", "-O", "max_iteration=3"), "method 'auto' has no option 'max_iteration'; it takes "),
        (("net.npz", "y.npy", "-O", "rounds"), "--option 'rounds': write name=value"),
        (("net.npz", "y.npy", "--noise", "gauss:1"), "--noise 'gauss:1'"),
        (("net.npz", "y.npy", "--scale", "0-1"), "scale '0-1' is not LOW,HIGH"),
        (("net.npz", "y.npy", "--size", "28"), "--size '28' is not HEIGHT,WIDTH"),
        (("net.npz", "y.npy", "--size", "28,28"), "resizes images only"),
        (("net.npz", "y.npy", "--results", "csv"), "--results 'csv' is unknown"),
        (("net.npz", "y.npy", "--mask", "y.npy", "--operator", "y.npy"), "were both given"),
        (("net.npz", "y.npy", "--dask", "2"), "--dask 2: write local:N"),
        (("net.npz", "y.npy", "--dask", "local:0"), "write local:N"),
        (("net.npz", "y.npy", "--dask", "local:2", "--scheduler", "tcp://h:1"), "were both given"),
        (("net.npz", "y.npy", "--dask", "local:2", "--workers", "2"), "--workers 2 is for this machine"),
    ],
)
def test_bad_input_is_named(run, arguments, said):
    code, out, err = run("run", *arguments, "-o", "out")
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert not Path("out").exists()

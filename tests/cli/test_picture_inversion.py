"""``unrelu invert MODEL photo.png -o out.png``: one picture in, one picture out, and what is no such picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import unrelu
from unrelu.cli._picture_files import read_picture, stored_shape, write_picture
from unrelu.errors import InputError
from unrelu.measurements.picture_scale import scale_of

LM = ("--method", "lm", "-O", "max_iterations=30")


def written(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A digit that mnist-relu made as digit.png, the same in other kinds, and a decoder of small RGB pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    made = unrelu.zoo.load("mnist-relu")(0.5 * np.random.default_rng(3).standard_normal(20)).reshape(28, 28)
    grey = Image.fromarray(np.rint(255 * np.clip(made, 0, 1)).astype(np.uint8))
    grey.save("digit.png")
    grey.save("digit.jpg", quality=95)
    grey.resize((40, 32)).save("wide.png")
    grey.convert("RGB").save("rgb.png")
    grey.convert("RGBA").save("rgba.png")
    np.save("one.npy", made.ravel())
    np.save("two.npy", np.stack([made.ravel()] * 2))
    Path("text.png").write_text("no picture")
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(3, 3 * 6 * 5), nn.Tanh())
    names = {"weight": "fc.weight", "bias": "fc.bias"}
    np.savez("colour.npz", **{names[k]: v.detach().double().numpy() for k, v in decoder[0].named_parameters()})
    colours = np.tanh(2 * np.random.default_rng(0).standard_normal((3, 6, 5)))
    Image.fromarray(np.rint(127.5 * (colours + 1)).astype(np.uint8).transpose(1, 2, 0)).save("colour.png")
    return tmp_path


@pytest.mark.parametrize(("model", "scale"), [("mnist-relu", "0,1"), ("mnist-dcgan", "-1,1")])
def test_a_picture_in_a_picture_out_and_the_verdict_on_the_terminal(run, model, scale):
    code, out, err = run("invert", model, "digit.png", "-o", "out.png", "--noise", "gaussian:0.1", *LM)
    assert code == 0, err
    assert f"digit.png: 28x28 grey, 0..255 mapped to {scale}" in out
    assert any(said in " ".join(out.split()) for said in ("does not explain the observation", "stated noise level"))
    assert "written to out.png" in out
    low, high = map(float, scale.split(","))
    y = low + (high - low) * written("digit.png") / 255
    network = unrelu.zoo.load(model)
    result = unrelu.invert(network, y.reshape(network.output_shape), "lm", noise="gaussian:0.1", max_iterations=30)
    expected = 255 * np.clip((result.reconstruction.reshape(28, 28) - low) / (high - low), 0, 1)
    assert np.abs(written("out.png") - expected).max() <= 0.51
    if model == "mnist-relu":  # which made the digit
        assert np.abs(written("out.png").astype(int) - written("digit.png")).mean() < 8


def test_a_picture_into_a_folder_has_its_name_in_the_record(run):
    assert run("invert", "mnist-relu", "digit.jpg", "-o", "out", *LM)[0] == 0
    (row,) = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert (row["index"], row["name"]) == (0, "digit.jpg")
    assert np.load("out/codes.npy").shape == (20,)


def test_an_array_of_one_observation_may_come_out_as_a_picture(run):
    code, _, err = run("invert", "mnist-relu", "one.npy", "-o", "out.jpg", *LM)
    assert code == 0, err
    assert written("out.jpg").shape == (28, 28)
    code, _, err = run("invert", "mnist-relu", "two.npy", "-o", "both.png", *LM)
    assert (code, err) == (2, "error: -o both.png is one picture, for 2 observations; name a folder, e.g. -o out\n")
    assert not Path("both.png").exists()


def test_colours(run):
    arguments = ("invert", "colour.npz", "colour.png", "-o", "out.png", "--activation", "tanh", *LM)
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    assert json.loads(out)["observations"][0]["name"] == "colour.png"
    assert written("out.png").shape == (6, 5, 3)
    assert np.abs(written("out.png").astype(int) - written("colour.png")).mean() < 120


def test_an_existing_picture_is_replaced_only_where_that_is_asked_for(run):
    Path("out.png").write_text("precious")
    code, _, err = run("invert", "mnist-relu", "digit.png", "-o", "out.png", *LM)
    assert (code, err) == (2, "error: out.png exists; choose another name, or pass --overwrite to replace it\n")
    assert Path("out.png").read_text() == "precious"
    assert run("invert", "mnist-relu", "digit.png", "-o", "out.png", "--overwrite", *LM)[0] == 0
    assert written("out.png").shape == (28, 28)
    assert not Path("out.png.draft").exists()


def test_what_a_time_limit_leaves_is_the_picture_of_a_start(run):
    limited = ("--method", "linf", "--time-limit", "1e-9")
    arguments = ("invert", "mnist-relu", "digit.png", "-o", "out.png", "--noise", "uniform:0.1", *limited)
    code, out, _ = run(*arguments)
    assert code == 0
    assert "TIME_LIMIT" in out
    assert written("out.png").shape == (28, 28)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("wide.png",),
            "wide.png is 32x40 grey, and the generator makes 28x28 grey pictures (784 numbers): resize it by",
        ),
        (("rgb.png",), "rgb.png is 28x28 RGB, and the generator makes 28x28 grey pictures"),
        (("rgb.png",), "convert it: PIL.Image.open('rgb.png').convert('L').save('grey.png')"),
        (("rgba.png",), "has Pillow's mode RGBA; save it as grey or RGB, without palette or transparency"),
        (("rgba.png",), "PIL.Image.open('rgba.png').convert('L').save('grey.png')"),
        (("text.png",), "text.png cannot be read: cannot identify image file"),
        (("gone.png",), "gone.png does not exist; pass a picture (.png, .jpg) or a .npy or .npz file"),
        (("digit.png", "--operator", "one.npy"), "--operator needs measured numbers, and digit.png is a picture"),
        (("digit.png", "--size", "28"), "--size '28' is not HEIGHT,WIDTH"),
        (("one.npy", "--size", "28,28"), "--size 28,28 resizes pictures; leave it out, one.npy is not a picture"),
        (("digit.png", "--scale", "0"), "scale '0' is not LOW,HIGH"),
    ],
)
def test_what_is_no_such_picture_is_refused(run, arguments, said):
    code, out, err = run("invert", "mnist-relu", *arguments, "-o", "out.png")
    assert (code, out) == (2, "")
    assert said in err
    assert not Path("out.png").exists()


def test_the_size_that_is_advised_works(run):
    assert run("invert", "mnist-relu", "wide.png", "-o", "out.png", "--size", "28,28", *LM)[0] == 0
    assert written("out.png").shape == (28, 28)


def test_the_conversion_that_is_advised_works(run):
    Image.open("rgba.png").convert("L").save("grey.png")
    assert run("invert", "mnist-relu", "grey.png", "-o", "out.png", *LM)[0] == 0


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        ((784,), (28, 28)), ((3 * 64 * 64,), (3, 64, 64)), ((1, 28, 30), (28, 30)), ((28, 30), (28, 30)),
        ((3, 8, 9), (3, 8, 9)), ((20,), None), ((4, 8, 8), None), ((1, 50), None),
    ],
)  # fmt: skip
def test_outputs_that_are_pictures(output, shape):
    assert stored_shape(output) == shape


def test_values_beyond_black_and_white_are_cut(tmp_path):
    path = tmp_path / "x.png"
    write_picture(path, np.array([[-3.0, -1.0, 0.0], [1.0, 7.0, 0.5]]), (-1.0, 1.0))
    assert written(path).tolist() == [[0, 0, 128], [255, 255, 191]]
    values, shape = read_picture(path, (1, 2, 3))
    assert (values.shape, shape, values.dtype) == ((1, 2, 3), (2, 3), np.uint8)
    with pytest.raises(InputError, match="no code was found"):
        write_picture(path, np.array([[np.nan]]), (0.0, 1.0))


def test_a_generator_of_no_scale_asks_for_it():
    with pytest.raises(InputError, match=r"which is not \[0, 1\]: .* e\.g\. --scale 0,"):
        scale_of(unrelu.from_arrays([[[200.0], [-100.0], [30.0]]]))


@pytest.mark.parametrize(("model", "ends"), [("mnist-relu", (0, 1)), ("mnist-dcgan", (-1, 1))])
def test_its_own_picture_is_a_success_and_a_run_says_the_same(run, model, ends):
    """A picture of 8 bits is rounded, and a ReLU's values above white are cut off."""
    Path("folder").mkdir()
    net, (low, high) = unrelu.zoo.load(model), ends
    z = np.random.default_rng(1).standard_normal(20)
    pixels = {
        "own": np.clip((net(z).reshape(28, 28) - low) / (high - low), 0, 1),
        "stranger": unrelu.zoo.digits()[0][4].reshape(28, 28),
    }
    for name, values in pixels.items():
        Image.fromarray(np.rint(255 * values).astype(np.uint8)).save(f"folder/{name}.png")
    one = {}
    for name, success in (("own", True), ("stranger", False)):
        code, out, err = run("invert", model, f"folder/{name}.png", "-o", f"{name}.png", "--json")
        assert code == 0, err
        (one[name],) = json.loads(out)["observations"]
        assert one[name]["success"] is success
        assert "the rounding of integers of 8 bits" in one[name]["message"]
    assert np.abs(written("own.png").astype(int) - written("folder/own.png")).max() <= 2
    assert np.abs(np.array(one["own"]["z"]) - z).max() < 0.1
    assert run("run", model, "folder", "-o", "out", "--workers", "1", "--quiet")[0] == 0
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    for row, name in zip(rows, pixels, strict=True):
        assert {key: row[key] for key in ("name", "status", "success", "message")} == {
            "name": f"{name}.png", **{key: one[name][key] for key in ("status", "success", "message")},
        }  # fmt: skip
    found = np.load("out/codes.npy")[0]  # from other random starts to the same optimum, up to where descents end
    np.testing.assert_allclose(found, one["own"]["z"], rtol=0, atol=1e-3)


def test_the_picture_of_the_readme_is_the_generators_own():
    """The first picture command there ends in a success."""
    root = Path(__file__).parents[2]
    assert "unrelu invert mnist-relu docs/digit.png -o out.png" in (root / "README.md").read_text()
    net = unrelu.zoo.load("mnist-relu")
    made = net(0.7 * np.random.default_rng(4).standard_normal(net.latent_dim)).reshape(28, 28)
    np.testing.assert_array_equal(written(root / "docs/digit.png"), np.rint(255 * np.clip(made, 0, 1)))

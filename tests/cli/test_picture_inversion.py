"""``unrelu invert MODEL photo.png -o out.png``: one picture in, one picture out, and what is no such picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import unrelu
from tests.cli.conftest import lines
from unrelu.cli._picture_inversion import read_picture, write_picture

LM = ("--method", "lm", "-O", "max_iterations=30")


def written(name: str | Path) -> np.ndarray:
    return np.asarray(Image.open(name))


@pytest.fixture
def pictures(files):
    """A digit that mnist-relu made as digit.png, the same in other kinds, and a decoder of small RGB pictures."""
    made = unrelu.zoo.load("mnist-relu")(0.5 * np.random.default_rng(3).standard_normal(20)).reshape(28, 28)
    grey = Image.fromarray(np.rint(255 * np.clip(made, 0, 1)).astype(np.uint8))
    grey.save("digit.png")
    grey.save("digit.jpg", quality=95)
    grey.resize((40, 32)).save("wide.png")
    grey.convert("RGB").save("rgb.png")
    grey.convert("RGBA").save("rgba.png")
    np.save("digit.npy", made.ravel())
    np.save("two.npy", np.stack([made.ravel()] * 2))
    Path("text.png").write_text("no picture")
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(3, 3 * 6 * 5), nn.Tanh())
    names = {"weight": "fc.weight", "bias": "fc.bias"}
    np.savez("colour.npz", **{names[k]: v.detach().double().numpy() for k, v in decoder[0].named_parameters()})
    colours = np.tanh(2 * np.random.default_rng(0).standard_normal((3, 6, 5)))
    Image.fromarray(np.rint(127.5 * (colours + 1)).astype(np.uint8).transpose(1, 2, 0)).save("colour.png")
    return files


@pytest.mark.parametrize(("model", "scale"), [("mnist-relu", "0,1"), ("mnist-dcgan", "-1,1")])
def test_a_picture_in_a_picture_out_and_the_verdict_on_the_terminal(run, pictures, model, scale):
    code, out, err = run("invert", model, "digit.png", "-o", "out.png", "--noise", "gaussian:0.1", *LM)
    assert code == 0, err
    assert f"digit.png: 28x28 grey, 0..255 mapped to {scale}" in out
    assert out.endswith("written to out.png\n")
    low, high = map(float, scale.split(","))
    y = low + (high - low) * written("digit.png") / 255
    network = unrelu.zoo.load(model)
    result = unrelu.invert(network, y.reshape(network.output_shape), "lm", noise="gaussian:0.1", max_iterations=30)
    expected = 255 * np.clip((result.reconstruction.reshape(28, 28) - low) / (high - low), 0, 1)
    assert np.abs(written("out.png") - expected).max() <= 0.51


def test_an_array_of_one_observation_may_come_out_as_a_picture(run, pictures):
    assert run("invert", "mnist-relu", "digit.npy", "-o", "out.jpg", *LM)[0] == 0
    assert written("out.jpg").shape == (28, 28)
    for model, data in (("mnist-relu", "two.npy"), ("net.npz", "one.npy")):
        code, _, err = run("invert", model, data, "-o", "both.png", *LM)
        assert (code, "-o both.png is one picture, and DATA is more than one, or none" in err) == (2, True)
    assert not Path("both.png").exists()


def test_colours(run, pictures):
    asked = ("invert", "colour.npz", "colour.png", "-o", "out.png", "--activation", "tanh", *LM)
    assert run(*asked)[0] == 0
    assert written("out.png").shape == (6, 5, 3)
    assert np.abs(written("out.png").astype(int) - written("colour.png")).mean() < 120


def test_an_existing_picture_is_replaced_only_where_that_is_asked_for(run, pictures):
    Path("out.png").write_text("precious")
    code, _, err = run("invert", "mnist-relu", "digit.png", "-o", "out.png", *LM)
    said = "error: out.png exists; choose another name, or pass --overwrite to replace its results\n"
    assert (code, err) == (2, said)
    assert Path("out.png").read_text() == "precious"
    assert run("invert", "mnist-relu", "digit.png", "-o", "out.png", "--overwrite", *LM)[0] == 0
    assert written("out.png").shape == (28, 28)
    assert not Path("out.png.draft").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("wide.png",), "wide.png is 32x40 grey, and the generator makes 28x28 grey pictures; make it such"),
        (("rgb.png",), "rgb.png is 28x28 RGB, and the generator makes 28x28 grey pictures; make it such"),
        (("rgba.png",), "has Pillow's mode RGBA; save it as grey or RGB, without palette or transparency"),
        (("text.png",), "text.png is no PNG or JPEG file"),
        (("digit.png", "--size", "28"), "--size '28' is not HEIGHT,WIDTH"),
        (("digit.npy", "--size", "28,28"), "--size 28,28 resizes pictures; leave it out, digit.npy is not a picture"),
        (("digit.png", "--scale", "0"), "scale '0' is not LOW,HIGH"),
        (("digit.png", "-o", "none/out.png"), "none/out.png is a link, or its folder does not exist"),
    ],
)
def test_what_is_no_such_picture_is_refused(run, pictures, arguments, said):
    code, out, err = run("invert", "mnist-relu", "-o", "out.png", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert not Path("out.png").exists()


def test_values_beyond_black_and_white_are_cut(tmp_path):
    path, values = tmp_path / "x.png", np.array([[-3.0, -1.0, 0.0], [1.0, 7.0, 0.5]])
    assert write_picture(path, values, (2, 3), (-1.0, 1.0)) == f"written to {path}"
    assert written(path).tolist() == [[0, 0, 128], [255, 255, 191]]
    read, shape = read_picture(path, (1, 2, 3), None)
    assert (read.shape, shape, read.dtype) == ((1, 2, 3), (2, 3), np.uint8)
    assert "no code was found" in write_picture(tmp_path / "nan.png", np.array([[np.nan]]), (1, 1), (0.0, 1.0))
    assert not (tmp_path / "nan.png").exists()


@pytest.mark.parametrize(("model", "ends"), [("mnist-relu", (0, 1)), ("mnist-dcgan", (-1, 1))])
def test_its_own_picture_is_a_success_and_a_run_says_the_same(run, model, ends):
    """A picture of 8 bits is rounded, and a ReLU's values above white are cut off."""
    Path("folder").mkdir()
    net, (low, high) = unrelu.zoo.load(model), ends
    z = np.random.default_rng(1).standard_normal(20)
    own = np.clip((net(z).reshape(28, 28) - low) / (high - low), 0, 1)
    pixels = {"own": own, "stranger": unrelu.zoo.digits()[0][4].reshape(28, 28)}
    one = {}
    for name, values in pixels.items():
        Image.fromarray(np.rint(255 * values).astype(np.uint8)).save(f"folder/{name}.png")
        assert run("invert", model, f"folder/{name}.png", "-o", name)[0] == 0
        (one[name],) = lines(f"{name}/results.jsonl")
        assert one[name]["success"] is (name == "own")
        assert "the rounding of integers of 8 bits" in one[name]["message"]
    assert np.abs(np.load("own/codes.npy") - z).max() < 0.1
    assert run("run", model, "folder", "-o", "out", "--workers", "1", "--quiet")[0] == 0
    for row, name in zip(unrelu.open_run("out").rows(), pixels, strict=True):
        assert row["name"] == f"{name}.png"
        assert all(row[key] == one[name][key] for key in ("status", "success", "message"))


def test_the_picture_of_the_readme_is_the_generators_own():
    """The first picture command there ends in a success."""
    net = unrelu.zoo.load("mnist-relu")
    made = net(0.7 * np.random.default_rng(4).standard_normal(net.latent_dim)).reshape(28, 28)
    picture = written(Path(__file__).parents[2] / "docs" / "digit.png")
    np.testing.assert_array_equal(picture, np.rint(255 * np.clip(made, 0, 1)))

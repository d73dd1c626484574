"""What the playground reads from its canvas, and what it says of it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw
from torch import nn

import unrelu
from tests.support import random_network
from unrelu import zoo
from unrelu.display.pixels import HIDDEN
from unrelu.errors import InputError, MissingPackageError
from unrelu.playground import PictureGenerator, page

CANVAS = 336


@pytest.fixture(scope="module")
def digits():
    return PictureGenerator.of("mnist-relu", zoo.load("mnist-relu"), digits=zoo.observations("mnist-relu"))


@pytest.fixture(scope="module")
def colours():
    """8 x 8 pixels in three colours."""
    module = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
    weights = np.random.default_rng(0)
    for parameter in module.parameters():
        parameter.data = parameter.data.new_tensor(weights.standard_normal(parameter.shape) / 2)
    return PictureGenerator.of("colours", unrelu.from_torch(module, latent_shape=(3,)), scale="0,1")


def strokes(*drawn):
    """A layer with lines: (colour, points from 0 to 1, width in pixels)."""
    layer = Image.new("RGBA", (CANVAS, CANVAS))
    for colour, points, width in drawn:
        ImageDraw.Draw(layer).line([tuple(CANVAS * np.array(point)) for point in points], fill=colour, width=width)
    return layer


def shown(generator, base, *drawn):
    """The canvas with a picture and strokes."""
    background = None if base is None else generator.canvas(base).convert("RGBA")
    return {"background": background, "layers": [strokes(*drawn)], "composite": None}


def said(generator, unit, visible=None, kind="gaussian", level=0.2, **options):
    """The answer without tags."""
    every = np.ones(generator.shape[1:], dtype=bool)
    found = generator.answer(unit, every if visible is None else visible, kind, level, **{"time_limit": 10, **options})
    return re.sub(r"<[^>]+>", " ", found)


def test_pictures_to_begin_with(digits, colours):
    sample = digits.picture("sample", 3)
    assert (sample == digits.picture("sample", 3)).all()
    assert (sample != digits.picture("sample", 4)).any()
    digit = digits.picture("digit", 0)
    assert any(np.array_equal(digit.ravel(), known.ravel()) for known in zoo.observations("mnist-relu"))
    assert colours.picture("digit", 0).shape == (3, 8, 8)  # it has no digits, and draws one


def test_an_empty_canvas_is_no_picture(digits):
    assert digits.read(None, None) is None
    assert digits.read({"background": None, "layers": [], "composite": None}, None) is None
    assert digits.read(shown(digits, None), None) is None


@pytest.mark.parametrize("name", ["digits", "colours"])
def test_values_of_a_chosen_picture_are_kept_where_nothing_is_drawn(request, name):
    generator = request.getfixturevalue(name)
    base = generator.picture("sample", 3)
    picture, visible = generator.read(shown(generator, base), base)
    assert (picture == base).all()
    assert visible.all()
    side = base.shape[-1]
    line = ("#ffffff", ((0.5, 0), (0.5, 1)), 2 * CANVAS // side)
    picture, visible = generator.read(shown(generator, base, line), base)
    touched = (picture != base).any(axis=(0, 1))
    assert visible.all()
    assert 2 <= touched.sum() <= 4
    assert picture[:, side // 2, side // 2] == pytest.approx(1)


def test_black_erases_and_light_blue_hides(digits):
    base = np.ones((1, 28, 28))
    lines = ("#000000", ((0, 0.25), (1, 0.25)), 48), (HIDDEN, ((0, 0.75), (1, 0.75)), 48)
    picture, visible = digits.read(shown(digits, base, *lines), base)
    assert not picture[0, 6].any()
    assert visible[:18].all()
    assert not visible[20:22].any()
    assert (picture[0, 12:16] == 1).all()


def test_its_own_picture_is_drawn_exactly_and_hidden_pixels_are_filled_in(digits, colours):
    for generator in (digits, colours):
        y = generator.picture("sample", 3)
        assert "EXACT_FIT" in said(generator, y)
        visible = np.arange(y[0].size).reshape(y[0].shape) >= y[0].size // 2
        found = said(generator, np.where(visible, y, 7.0), visible, kind="unknown")
        assert "EXACT_FIT" in found
        assert "no other code near it gives the same observation" in found


def test_the_words_are_those_of_the_result(digits):
    y = digits.picture("sample", 3) + 0.1 * np.random.default_rng(0).standard_normal((1, 28, 28))
    found = " ".join(said(digits, y, level=0.1).split())
    printed = unrelu.invert(digits.network, y.reshape(-1), noise="gaussian:0.1", scale="none")
    assert found.startswith(str(printed).splitlines()[0])
    assert f"NOISE_LEVEL {printed.message}" in found


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_stated_noise_judges(digits, kind):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 28, 28)) if kind == "gaussian" else rng.uniform(-1, 1, (1, 28, 28))
    assert "NOISE_LEVEL" in said(digits, digits.picture("sample", 3) + 0.1 * noise, kind=kind, level=0.1)
    assert "MISFIT" in said(digits, digits.picture("digit", 0), kind=kind, level=0.03)


def test_what_cannot_be_answered_is_said(digits):
    everything = np.zeros((28, 28), dtype=bool)
    assert "Everything is hidden" in said(digits, digits.picture("sample", 3), everything)
    assert "time_limit=-1 must be above 0" in said(digits, digits.picture("sample", 3), time_limit=-1)


@pytest.mark.parametrize(
    ("shape", "scale", "why"),
    [
        ((50,), None, "puts out .50,.; the playground takes"),
        ((2, 300), None, "of up to 256 x 256 pixels"),
        ((64,), "1,0", "pass two finite numbers, the lower one first"),
    ],
)
def test_generators_of_no_pictures(shape, scale, why):
    n = int(np.prod(shape))
    module = nn.Sequential(nn.Linear(2, n), nn.Unflatten(1, shape))
    with pytest.raises(InputError, match=why):
        PictureGenerator.of("net", unrelu.from_torch(module, latent_shape=(2,)), scale)


def test_black_and_white_have_to_be_known():
    with pytest.raises(InputError, match=r"outputs of the generator go from 0 to 0, .* --scale 0,0"):
        PictureGenerator.of("net.npz", unrelu.from_arrays([np.zeros((64, 2))]))


def test_gradio_is_needed_by_the_page_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    generator = partial(PictureGenerator.of, "net", random_network((2, 8, 64), seed=0), "0,1")
    with pytest.raises(MissingPackageError, match="pip install gradio"):
        page([generator()], threading.Event())
    code = "import sys, unrelu.playground, unrelu.cli._app; print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

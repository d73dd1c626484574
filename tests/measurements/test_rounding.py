"""Pictures of integers: their rounding is noise that they tell, and pixels that white cut off are hidden."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.measurements.additive_noise import RoundingNoise
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.problem import Problem
from unrelu.runtime.streams import stream

NET = random_network((3, 12, 80), bias=True, seed=1)
ENDS = (0.0, float(np.quantile(NET.typical_outputs, 0.95)))


def stored(x, ends=ENDS, dtype=np.uint8, written=np.rint):
    """Outputs as integers: cut off, rounded or truncated."""
    low, high = ends
    most = np.iinfo(dtype).max
    return written(most * np.clip((x - low) / (high - low), 0, 1)).astype(dtype)


@pytest.fixture(scope="module")
def truth():
    z = stream("test, rounded outputs").standard_normal((6, 3))
    return z, NET(z)


@pytest.mark.parametrize(("dtype", "written"), [(np.uint8, np.rint), (np.uint8, np.floor), (np.uint16, np.rint)])
def test_rounded_outputs_are_explained_and_strangers_are_not(truth, dtype, written):
    y = stored(truth[1], dtype=dtype, written=written)
    assert (y == np.iinfo(dtype).max).any()  # white cuts some off
    r = unrelu.invert(NET, y, scale=ENDS)
    assert r.success.all()
    assert {s.name for s in r.status} == {"NOISE_LEVEL"}
    level = (ENDS[1] - ENDS[0]) / np.iinfo(dtype).max
    assert (r.residual("l2") <= level * np.sqrt(80)).all()
    bits = np.dtype(dtype).itemsize * 8
    assert all(f"rounding of integers of {bits} bits, 'rounding:{level:.2g}'; pass noise=" in m for m in r.message)
    strange = unrelu.invert(NET, y[:, ::-1], scale=ENDS)
    assert not strange.success.any()
    assert {s.name for s in strange.status} == {"MISFIT"}


def test_an_even_background_is_no_misfit():
    """All of its pixels have the same rounding error, whose mean square is up to three times that of uniform errors."""
    flat = unrelu.from_arrays(
        [np.eye(3), np.vstack([np.eye(3), np.zeros((200, 3))])],
        [np.zeros(3), np.r_[np.zeros(3), np.full(200, 0.98 / 255)]],
        activation=["identity", "identity"],
    )
    z, ends = np.array([0.4, 0.2, 0.9]), (0, 1)
    y = stored(flat(z), ends, written=np.floor)
    r = unrelu.invert(flat, y, "lm", scale=ends, noise=RoundingNoise(1 / 255), z0=[0.5, 0.5, 0.5])
    assert r.success
    assert r.residual("l2") > np.sqrt(200 / 3) / 255  # more than uniform errors leave


def test_what_tells_no_rounding(truth):
    y = stored(truth[1])
    as_floats = ENDS[1] * y / 255
    for values, scale in ((as_floats, "none"), (y > 128, (0, 1)), (y.astype(float), "none")):
        assert not Problem.build(NET, values, scale=scale).noise.stated
    assert str(Problem.build(NET, y, scale=ENDS, noise="gaussian:0.1").noise) == "gaussian:0.1"
    assert Scaling().step(np.uint8) is None
    assert Scaling.parse("0,1").step(np.int32) is None
    assert Scaling.parse("-1,1").step(np.int16) == 2 / 65535
    told = RoundingNoise(0.004 * ENDS[1])  # a user who reads pictures as floats states it
    assert unrelu.invert(NET, as_floats, scale="none", operator=y < 255, noise=told).success.all()
    problem = Problem.build(NET, y, scale=ENDS)
    np.testing.assert_array_equal(problem.operator.seen(6), y < 255)
    assert (problem.y[y == 255] == 0).all()
    wide = (0.0, 2 * float(NET.typical_outputs.max()))
    assert Problem.build(NET, stored(truth[1], wide), scale=wide).operator.kind == "identity"


def test_hidden_pixels(truth):
    z, x = truth
    mask = stream("test, hidden pixels").uniform(size=x.shape) < 0.7
    r = unrelu.invert(NET, np.where(mask, stored(x), 7).astype(np.uint8), operator=unrelu.Mask(mask), scale=ENDS)
    assert r.success.all()
    assert np.abs(r.z - z).max() < 0.2


def test_the_model_by_its_text():
    model = parse_noise("rounding:0.01")
    assert (model, str(model), model.note) == (RoundingNoise(0.01), "rounding:0.01", "")
    told = RoundingNoise.told(0.02, "integers of 8 bits")
    text, kept = told.saved()
    assert Noise.restored(text, kept) == told
    assert (told.level, told != model) == (0.02, True)

"""Pictures of integers: their rounding is noise that they tell, and black and white cut outputs off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.errors import UnsupportedModelError
from unrelu.measurements._clipped_operator import ClippedOperator
from unrelu.measurements.additive_noise import RoundingNoise
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.operator_arguments import restored
from unrelu.measurements.operators import hiding
from unrelu.measurements.picture_scale import Scaling
from unrelu.problem import Problem
from unrelu.runtime.streams import stream

NET = random_network((3, 12, 80), bias=True, seed=1)
ENDS = (0.0, float(np.quantile(NET.typical_outputs, 0.9)))


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
    _, x = truth
    y = stored(x, dtype=dtype, written=written)
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
    z = np.array([0.4, 0.2, 0.9])
    r = unrelu.invert(flat, stored(flat(z), (0.0, 1.0), written=np.floor), "lm", scale=(0, 1), z0=[0.5, 0.5, 0.5])
    assert r.success
    assert r.residual("l2") > np.sqrt(200 / 3) / 255  # more than uniform errors leave


def test_what_tells_no_rounding(truth):
    _, x = truth
    y = stored(x)
    as_floats = ENDS[1] * y / 255
    for values, scale in ((as_floats, "none"), (y > 128, (0, 1)), (y.astype(float), "none")):
        assert not Problem.build(NET, values, scale=scale).noise.stated
    stated = Problem.build(NET, y, scale=ENDS, noise="gaussian:0.1")
    assert (str(stated.noise), stated.operator.kind) == ("gaussian:0.1", "identity")
    assert Scaling().step(np.uint8) is None
    assert Scaling.parse("0,1").step(np.int32) is None
    assert Scaling.parse("-1,1").step(np.int16) == 2 / 65535
    told = RoundingNoise(0.004 * ENDS[1])  # a user who reads pictures as floats states it
    assert unrelu.invert(NET, as_floats, scale="none", operator=y < 255, noise=told).success.all()


def test_outputs_within_black_and_white_are_measured_as_they_are(truth):
    _, x = truth
    wide = (0.0, 2 * float(NET.typical_outputs.max()))
    assert Problem.build(NET, stored(x, wide), scale=wide).operator.kind == "identity"
    assert Problem.build(NET, stored(x), scale=ENDS).operator.kind == "clipped"


def test_hidden_pixels(truth):
    z, x = truth
    mask = stream("test, hidden pixels").uniform(size=x.shape) < 0.7
    y = np.where(mask, stored(x), 7)
    r = unrelu.invert(NET, y.astype(np.uint8), operator=unrelu.Mask(mask), scale=ENDS)
    assert r.success.all()
    assert (r.problem.operator.seen(6) == mask).all()
    assert np.abs(r.z - z).max() < 0.1


def test_methods_for_linear_measurements_say_why_they_refuse(truth):
    _, x = truth
    with pytest.raises(UnsupportedModelError, match=r"black and white cut off outputs .* \(pass noise= to compare"):
        unrelu.invert(NET, stored(x), "linf", scale=ENDS)
    with pytest.raises(UnsupportedModelError, match=r"black and white cut off outputs .* what is certified"):
        unrelu.certify(NET, stored(x[0]), unrelu.invert(NET, stored(x[0]), scale=ENDS), scale=ENDS)
    assert unrelu.certify(NET, stored(x[0]), scale=ENDS, time_limit=0.5).norm == "linf"  # of the picture as it is
    assert np.isfinite(unrelu.invert(NET, stored(x), "linf", scale=ENDS, noise="uniform:0.1").z).all()


def test_a_saved_result_is_judged_alike(truth, tmp_path):
    _, x = truth
    r = unrelu.invert(NET, stored(x), scale=ENDS)
    r.save(tmp_path / "r.npz")
    again = unrelu.load_result(tmp_path / "r.npz", NET)
    assert (again.success == r.success).all()
    assert (again.message == r.message).all()
    assert again.problem.operator.kind == "clipped"
    np.testing.assert_array_equal(again.residual(), r.residual())


def test_the_model_by_its_text():
    model = parse_noise("rounding:0.01")
    assert (model, str(model), model.note) == (RoundingNoise(0.01), "rounding:0.01", "")
    told = RoundingNoise.told(0.02, "integers of 8 bits")
    text, kept = told.saved()
    assert Noise.restored(text, kept) == told
    assert (told.level, told != model) == (0.02, True)


MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], dtype=bool)
WHOLE = ClippedOperator((4,), -0.5, 1.0)
OPERATORS = [WHOLE, hiding(WHOLE, MASK), hiding(WHOLE, MASK[0]).in_units(-3, 3)]


@pytest.mark.parametrize("operator", OPERATORS)
def test_derivatives_are_those_of_finite_differences(operator):
    rng = stream("test, clipped outputs")
    x = torch.from_numpy(rng.uniform(-1, 2, (2, 4)))  # no entry is within a step of an end
    t = torch.from_numpy(rng.standard_normal((2, 3, 4)))
    values, pushed = operator.linearize(x, t)
    assert torch.equal(values, operator.forward(x))
    step = 1e-6
    for i in range(3):
        difference = (operator.forward(x + step * t[:, i]) - operator.forward(x - step * t[:, i])) / (2 * step)
        torch.testing.assert_close(pushed[:, i], difference, rtol=0, atol=1e-8)


@pytest.mark.parametrize("operator", OPERATORS[:2])
def test_units_masks_and_files(operator):
    x = torch.from_numpy(stream("test, clipped outputs").uniform(-1, 2, (2, 4)))
    other = operator.in_units(-3, 5)
    assert torch.equal(other.forward(8 * x), 32 * operator.forward(x))
    assert torch.equal(operator.take([1]).forward(x[1:]), operator.forward(x)[1:])
    again = restored("clipped", (4,), lambda name, _: operator.saved()[name])
    assert torch.equal(again.forward(x), operator.forward(x))
    twice = hiding(operator, MASK)
    again = restored("clipped", (4,), lambda name, _: twice.saved()[name])
    assert torch.equal(again.forward(x), twice.forward(x))
    for undefined in (operator.adjoint, operator.tangents):
        with pytest.raises(UnsupportedModelError, match="black and white"):
            undefined(x)


def test_integers_that_a_matrix_picks_tell_no_noise(truth):
    """What black and white cut off is modelled for pictures and masks only."""
    picks = unrelu.Matrix(np.eye(80)[::2])
    y = stored(truth[1])[:, ::2]
    problem = Problem.build(NET, y, operator=picks, scale=ENDS)
    assert not problem.noise.stated

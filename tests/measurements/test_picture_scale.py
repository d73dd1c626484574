"""Values of a data set and of a generator brought together."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
import torch

import unrelu
from unrelu import zoo
from unrelu.errors import InputError
from unrelu.measurements.picture_scale import Scaling
from unrelu.models.activations import Activation
from unrelu.models.affine import Affine, Dense
from unrelu.models.network import Layer, Network
from unrelu.problem import Problem


@pytest.mark.parametrize(
    ("text", "ends", "written"),
    [
        ("0,1", (0, 1), "0,1"),
        (" -1 , 1.0", (-1, 1), "-1,1"),
        ("0.1,2e3", (0.1, 2000), "0.1,2000"),
        (None, None, "none"),
        ("none", None, "none"),
    ],
)
def test_parse(text, ends, written):
    scaling = Scaling.parse(text)
    assert (scaling.ends, str(scaling)) == (ends, written)
    assert scaling.checked == (text != "none")
    if text is not None:
        assert Scaling.parse(str(scaling)) == scaling


@pytest.mark.parametrize("text", ["", "0", "0;1", "0,1,2", "a,b", ","])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(InputError, match="is not LOW,HIGH: pass two finite numbers, the lower one first") as caught:
        Scaling.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int8", -128, 127),
        ("uint16", 0, 65535),
        (">i2", -32768, 32767),
        ("bool", 0, 1),
        ("float32", 0, 1),
        ("float64", 0, 1),
    ],
)
def test_the_own_range_is_mapped_to_the_ends(dtype, low, high):
    values = np.array([[low, (low + high) / 2, high]], dtype=float)
    kept = values.copy()
    np.testing.assert_allclose(Scaling((-1, 3)).apply(values, dtype), [[-1, 1, 3]], atol=1e-12)
    np.testing.assert_array_equal(Scaling().apply(values, dtype), values)
    np.testing.assert_array_equal(values, kept)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_wide_integers_have_no_range_of_their_own(dtype):
    with pytest.raises(InputError, match=rf"scale 0,1 needs .* integers of type {dtype} .* save them as 8- or 16-bit"):
        Scaling.parse("0,1").apply(np.zeros(3), dtype)
    np.testing.assert_array_equal(Scaling().apply(np.ones(3), dtype), np.ones(3))


def check(network, y, **how):
    """As invert reads y, without inverting it."""
    Problem.build(network, y, **how)


def advice(network, y, **how):
    """What the message says to pass, as arguments: of the call, and what y becomes."""
    with pytest.raises(InputError) as caught:
        check(network, y, **how)
    text = str(caught.value)
    assert text.endswith('If the values are right as they are, pass scale="none" (--scale none)')
    if scale := re.search(r"pass scale=(\(.*?\)) \(--scale (.*?)\), which", text):
        assert Scaling.parse(scale[2]).ends == ast.literal_eval(scale[1])
        return {"y": y, "scale": ast.literal_eval(scale[1])}, text
    return {"y": eval(re.search(r"; pass (.*)\. If", text)[1], {"y": y})}, text


FLAT = zoo.digits()[0][:10].reshape(10, -1)
UNIT, CENTRED, BYTES = FLAT, 2 * FLAT - 1, np.round(255 * FLAT)


@pytest.mark.parametrize(
    ("network", "y", "how", "passed"),
    [
        ("mnist-relu", BYTES.astype(np.uint8), {}, "scale=(0, 1)"),
        ("mnist-relu", torch.tensor(BYTES).to(torch.uint8), {}, "scale=(0, 1)"),
        ("mnist-relu", BYTES.astype(np.uint8), {"scale": (0, 255)}, "scale=(0, 1)"),
        ("mnist-relu", 257 * BYTES.astype(np.uint16), {}, "scale=(0, 1)"),
        ("mnist-relu", BYTES, {}, "y / 255"),
        ("mnist-relu", BYTES.astype(np.int64), {}, "y / 255"),
        ("mnist-dcgan", BYTES.astype(np.uint8), {}, "scale=(-1, 1)"),
        ("mnist-dcgan", BYTES, {}, "y / 127.5 - 1"),
        ("bytes", UNIT, {}, "255 * y"),
    ],
)
def test_what_the_message_says_to_pass_is_accepted_and_on_the_generator_s_scale(network, y, how, passed):
    generator = bytes_network() if network == "bytes" else zoo.load(network)
    given, text = advice(generator, y, **how)
    assert f"pass {passed}" in text
    problem = Problem.build(generator, given.pop("y"), **given)
    target = {"mnist-dcgan": CENTRED, "bytes": BYTES}.get(network, UNIT)
    np.testing.assert_allclose(problem.y.reshape(target.shape), target, atol=0.5 * np.ptp(target) / 255)


@pytest.mark.parametrize("spread", [10.0, 25.5, 60.0])
def test_noise_below_0_does_not_hide_the_scale_of_bytes(spread):
    noisy = BYTES + spread * np.random.default_rng([3, 1]).standard_normal(BYTES.shape)
    assert noisy.min() < -30
    assert "pass y / 255" in advice(zoo.load("mnist-relu"), noisy)[1]


def bytes_network() -> Network:
    """The digits of mnist-relu times 255."""
    network = zoo.load("mnist-relu")
    affine = Affine.compose([Dense(255 * torch.eye(784, dtype=torch.float64))], (784,))
    return Network((*network.layers, Layer(affine, Activation("identity"))), network.latent_shape)


def test_only_entries_that_were_observed_are_compared():
    network, y = zoo.load("mnist-relu"), zoo.digits()[0][0].ravel()
    hidden = np.where(np.arange(784) % 2, y, 255.0)
    check(network, hidden, operator=unrelu.Mask(np.arange(784) % 2))
    check(network, np.where(np.arange(784) % 2, y, np.nan), operator=unrelu.Mask(np.arange(784) % 2))
    with pytest.raises(InputError, match="pass y / 255"):
        check(network, 255 * y, operator=unrelu.Mask(np.arange(784) % 2))


def test_invert_scales_y_and_noise_is_in_the_scaled_units():
    network = zoo.load("mnist-relu")
    stored = np.round(255 * zoo.digits()[0][:3].reshape(3, -1)).astype(np.uint8)
    scaled = unrelu.invert(network, stored, "lm", scale=(0, 1), noise="gaussian:0.1")
    by_hand = unrelu.invert(network, stored / 255, "lm", noise="gaussian:0.1")
    np.testing.assert_allclose(scaled.z, by_hand.z, atol=1e-9)
    np.testing.assert_allclose(scaled.fun, by_hand.fun)
    with pytest.raises(InputError, match=r"pass scale=\(0, 1\)"):
        unrelu.invert(network, stored, "lm")
    with pytest.raises(InputError, match=r"pass scale=\(0, 1\)"):
        unrelu.certify(network, stored)


def test_a_scale_is_of_outputs_not_of_their_mixtures():
    network = zoo.load("mnist-sigmoid")
    mixed = np.ones((3, 784))
    with pytest.raises(InputError, match=r"scale=\(-1, 1\) maps values of the output, and operator= mixes them"):
        Problem.build(network, np.ones(3), operator=mixed, scale=(-1, 1))

"""Values of a data set and of a generator brought together."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from support import image_network, random_network
from unrelu import zoo
from unrelu.activations import Activation
from unrelu.affine import Dense
from unrelu.errors import InputError
from unrelu.network import Network
from unrelu.stores import Scaling, range_warning
from unrelu.streams import stream

RNG = np.random.default_rng(0)
DIGITS = RNG.choice([0.0, 0.0, 0.3, 0.8, 1.0], (10, 28, 28))


@pytest.mark.parametrize(
    ("text", "ends", "written"),
    [
        ("0,1", (0, 1), "0,1"),
        (" -1 , 1.0", (-1, 1), "-1,1"),
        ("0.1,2e3", (0.1, 2000), "0.1,2000"),
        (None, None, "none"),
    ],
)
def test_parse(text, ends, written):
    scaling = Scaling.parse(text)
    assert (scaling.ends, str(scaling)) == (ends, written)
    if text is not None:
        assert Scaling.parse(str(scaling)) == scaling


@pytest.mark.parametrize("text", ["", "0", "0;1", "0,1,2", "a,b", ","])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(InputError, match="is not LOW,HIGH; pass two numbers such as 0,1 or -1,1") as caught:
        Scaling.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["1,0", "1,1", "nan,1", "0,inf", "-inf,0"])
def test_ends_out_of_order_are_refused(text):
    with pytest.raises(InputError, match="needs two finite numbers, the lower one first"):
        Scaling.parse(text)


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


def test_images_are_mapped_as_torchvision_does():
    image = np.arange(256.0)
    np.testing.assert_allclose(Scaling.parse("0,1").apply(image, np.uint8), image / 255)
    np.testing.assert_allclose(Scaling.parse("-1,1").apply(image, np.uint8), (image / 255 - 0.5) / 0.5, atol=1e-15)
    noisy = np.array([-0.2, 1.3])
    np.testing.assert_allclose(Scaling.parse("-1,1").apply(noisy, float), 2 * noisy - 1)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_wide_integers_have_no_range_of_their_own(dtype):
    with pytest.raises(InputError, match=rf"scale 0,1 needs .* integers of type {dtype} .* save them as 8- or 16-bit"):
        Scaling.parse("0,1").apply(np.zeros(3), dtype)
    np.testing.assert_array_equal(Scaling().apply(np.ones(3), dtype), np.ones(3))


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_no_warning_where_values_fit():
    digits = zoo.load("mnist-relu")
    held_out, _ = zoo.digits()
    assert range_warning(held_out, digits) is None
    assert range_warning(np.round(held_out * 255), digits, np.uint8, Scaling.parse("0,1")) is None
    assert range_warning(held_out + 0.1 * RNG.standard_normal(held_out.shape), digits) is None
    assert range_warning(2 * DIGITS - 1, tanh_network()) is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [(3, 8, 20), (5, 20, 40), (2, 10, 30, 60)])
def test_no_warning_of_the_network_s_own_outputs(sizes, seed):
    network = random_network(sizes, seed=seed)
    assert range_warning(network(RNG.standard_normal((16, sizes[0]))), network) is None


def tanh_network() -> Network:
    """Outputs that reach both ends of [-1, 1]."""
    network = random_network((4, 40, 784), last="tanh")
    layers = network.layers
    return Network((layers[0], layers[1]), network.latent_shape)


def test_bytes_for_a_generator_of_units():
    message = range_warning(DIGITS * 255, zoo.load("mnist-relu"), np.uint8)
    assert message is not None
    assert message.startswith("the observations go from 0 to 255, outputs of the generator typically from 0 to 1.3")
    assert message.endswith("pass --scale 0,1 if they are of the kind that the generator was trained on")


@pytest.mark.parametrize(("dtype", "scaling"), [(np.uint8, "0,1"), (float, None)])
def test_units_for_a_generator_that_is_centred(dtype, scaling):
    values = DIGITS * 255 if dtype is np.uint8 else DIGITS
    message = range_warning(values, tanh_network(), dtype, Scaling.parse(scaling))
    assert message is not None
    told = re.match("the observations go from 0 to 1, outputs of the generator typically from (.*) to (.*): ", message)
    assert told is not None
    # Of tanh, rounded to three digits.
    assert -1 <= float(told[1]) < -0.95
    assert 0.95 < float(told[2]) <= 1
    assert "pass --scale -1,1" in message


def test_centred_values_for_a_generator_of_units():
    message = range_warning(DIGITS * 255, zoo.load("mnist-relu"), np.uint8, Scaling.parse("-1,1"))
    assert message is not None
    assert "go from -1 to 1" in message
    assert "pass --scale 0,1" in message


def test_floats_in_other_units_have_to_be_saved_again():
    message = range_warning(DIGITS * 255, zoo.load("mnist-relu"))
    assert message is not None
    assert "--scale takes floats to be in [0, 1], so save them like that, and pass --scale 0,1" in message


def test_wide_integers_have_to_be_saved_again():
    message = range_warning(DIGITS * 255, zoo.load("mnist-relu"), np.int64)
    assert message is not None
    assert "save them as 8-bit integers or as floats in [0, 1], and pass --scale 0,1" in message


def test_values_divided_twice():
    message = range_warning(DIGITS / 255, zoo.load("mnist-relu"))
    assert message is not None
    assert "no --scale brings them together" in message


def test_other_generators_are_offered_what_they_put_out():
    network = random_network((3, 8, 20))
    message = range_warning(DIGITS.reshape(10, -1) * 1000, network, np.uint16)
    assert message is not None
    low, high = 0, np.median(network(stream("scaling check").standard_normal((64, 3))).max(axis=1))
    assert f"pass --scale {low},{high:.3g}" in message


def test_nothing_to_compare():
    assert range_warning(np.full((3, 1, 6, 6), np.nan), image_network()) is None
    assert range_warning(np.empty((0, 1, 6, 6)), image_network()) is None
    constant = Network.chain([Dense(torch.zeros(4, 3, dtype=torch.float64)), Activation("relu")], (3,))
    assert range_warning(np.full((2, 4), 9.0), constant) is None
    mixed = np.stack([np.full(784, np.nan), DIGITS[0].ravel() * 255])
    assert range_warning(mixed, zoo.load("mnist-relu"), np.uint8) is not None

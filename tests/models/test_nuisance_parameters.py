"""Generators with nuisance parameters: what they put out, their Jacobian, what is found, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import unrelu
from tests.opaque_modules import OPAQUE
from tests.support import random_network
from unrelu.errors import InputError, OptionError, UnsupportedModelError
from unrelu.methods import METHODS
from unrelu.result import Status

K, N = 4, 60
# Biases: a ReLU network without them is homogeneous, so that the length of its code is its scale.
NETWORK = random_network((K, 30, N), seed=2, bias=True)
GRID = torch.linspace(-1, 1, N, dtype=torch.float64)


def continuum(x, slope, curve):
    return x * (1 + slope * GRID.to(x.dtype) + curve * GRID.to(x.dtype) ** 2)


EVERY = {
    "scale": {"scale": (0.5, 2)},
    "offset": {"offset": (-1, 1)},
    "shift": {"shift": (-2, 2)},
    "all": {"scale": (0.2, 5), "offset": True, "shift": True},
    "function": {"function": continuum, "slope": (-0.3, 0.3), "curve": (-0.3, 0.3)},
    "function and scale": {"function": continuum, "slope": (-0.3, 0.3), "curve": (-0.3, 0.3), "scale": True},
}
every_extension = pytest.mark.parametrize("name", EVERY)


def extended(name, network=NETWORK):
    options = dict(EVERY[name])
    return unrelu.extend(network, options.pop("function", None), **options)


def codes(network, batch=4):
    return np.random.default_rng(3).standard_normal((batch, network.latent_dim))


# --- what it computes -------------------------------------------------------------------------------------------------


def test_it_is_the_generator_shifted_scaled_and_offset():
    net = unrelu.extend(NETWORK, scale=(0.5, 2), offset=(-1, 1), shift=(-3, 3))
    z = codes(NETWORK)
    scale, offset, shift = np.array([0.6, 1.0, 1.5, 1.9]), np.array([-0.9, 0.0, 0.3, 0.9]), np.array([-2.5, 0, 1, 2.25])
    moved = [np.interp(np.arange(N) - d, np.arange(N), x) for d, x in zip(shift, NETWORK(z), strict=True)]
    expected = scale[:, None] * np.array(moved) + offset[:, None]
    np.testing.assert_allclose(net(net.join(z, scale=scale, offset=offset, shift=shift)), expected, atol=1e-12)


def test_a_function_comes_first_and_takes_parameters_by_name():
    net = extended("function and scale")
    z = codes(NETWORK)
    x = NETWORK(z) * (1 + 0.1 * GRID.numpy() - 0.2 * GRID.numpy() ** 2)
    np.testing.assert_allclose(net(net.join(z, scale=1.5, slope=0.1, curve=-0.2)), 1.5 * x, atol=1e-12)


def test_an_emulator_in_units_of_its_own_is_extended_though_it_overflows_at_normal_codes():
    net = unrelu.from_arrays([[[1.0], [2.0]]], input_scale=([0.02], [1e-5]), output_log=10)
    lifted = unrelu.extend(net, scale=(0.9, 1.1))
    code = lifted.join([0.020003], scale=1.05)
    np.testing.assert_allclose(lifted(code), 1.05 * net([0.020003]), rtol=1e-12)
    np.testing.assert_allclose(net([0.020003]), [10**0.3, 10**0.6], rtol=1e-9)


def test_parameters_are_uniform_within_their_bounds():
    net = unrelu.extend(NETWORK, scale=(0.5, 2))
    _, found = net.split(np.random.default_rng(1).standard_normal((4000, K + 1)))
    assert stats.kstest(found["scale"], stats.uniform(0.5, 1.5).cdf).pvalue > 0.01
    assert net.split(np.full(K + 1, 40.0))[1]["scale"] == 2


@every_extension
def test_split_undoes_join(name):
    net = extended(name)
    z = codes(net)
    own, found = net.split(z)
    np.testing.assert_allclose(net.join(own, **found), z, atol=1e-12)
    one, alone = net.split(z[0])
    assert one.shape == (K,)
    assert {key: float(value) for key, value in alone.items()} == {key: value[0] for key, value in found.items()}


@every_extension
@pytest.mark.parametrize("base", [NETWORK, OPAQUE["residual"]], ids=["chain", "opaque"])
def test_the_jacobian_is_that_of_finite_differences(name, base):
    if "function" in name and base.output_dim != N:
        base = random_network((K, 30, N), "sigmoid", seed=2)
    net = extended(name, base)
    z = codes(net)
    steps = 1e-6 * np.eye(net.latent_dim)
    slopes = np.stack([(net(z + step) - net(z - step)) / 2e-6 for step in steps], axis=2)
    np.testing.assert_allclose(net.jacobian(z), slopes, atol=1e-6 * np.abs(slopes).max())
    _, gradient = torch.autograd.functional.vjp(net.forward, torch.from_numpy(z), torch.ones(slopes.shape[:2]).double())
    np.testing.assert_allclose(gradient, net.jacobian(z).sum(axis=1), atol=1e-9)


@every_extension
def test_single_precision_agrees(name):
    net = extended(name)
    single = net.to(torch.float32)
    z = codes(net)
    np.testing.assert_allclose(single(z), net(z), atol=1e-4)
    np.testing.assert_allclose(single.jacobian(z), net.jacobian(z), atol=1e-4)
    assert single.to(torch.float64).dtype == torch.float64


# --- what is found ----------------------------------------------------------------------------------------------------


@every_extension
def test_codes_and_parameters_are_found(name):
    net = extended(name)
    z = codes(net, 6)
    y = net(z)
    r = unrelu.invert(net, y)
    assert set(r.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(r.z, z, atol=1e-6)
    np.testing.assert_allclose(r.reconstruction, y, atol=1e-8)


def test_a_scale_that_the_code_has_already_is_told():
    homogeneous = random_network((K, 30, N), seed=2)
    net = unrelu.extend(homogeneous, scale=(0.5, 2))
    r = unrelu.invert(net, net(codes(net)[0]))
    assert (r.status, r.freedom) == (Status.NOT_UNIQUE, 1)


def test_it_can_be_measured_by_a_function():
    net = unrelu.extend(NETWORK, offset=(-1, 1))
    z = codes(net)
    y = np.tanh(net(z) / 2)
    r = unrelu.invert(net, y, operator=lambda x: torch.tanh(x / 2))
    np.testing.assert_allclose(r.z, z, atol=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (OptionError, {}, "there is nothing to extend by: pass scale=, offset=, shift=, or a function"),
        (InputError, {"scale": (2, 0.5)}, r"scale=\(2, 0.5\) must be two numbers, a lower and a higher bound"),
        (InputError, {"offset": (-1.7e308, 1.7e308)}, "must be two numbers, a lower and a higher bound, both finite"),
        (InputError, {"function": lambda x: x.exp(), "tilt": (0, 1)}, "cannot be used: .* unexpected keyword.*'tilt'"),
        (
            InputError,
            {"function": lambda x, t: t * x.mean(0), "t": (1, 2)},
            "an input has another output alone than in a batch; each must",
        ),
    ],
)
def test_extensions_that_are_none_are_refused(error, options, message):
    with pytest.raises(error, match=message):
        unrelu.extend(NETWORK, **options)


def test_parameters_out_of_their_bounds_are_refused():
    net = extended("scale")
    with pytest.raises(InputError, match=r"scale=2.5 must be within its bounds, above 0.5 and below 2"):
        net.join(codes(NETWORK), scale=2.5)
    with pytest.raises(InputError, match=r"scale has shape \(3,\), the codes .*; pass a number, or one for each code"):
        net.join(codes(NETWORK), scale=np.ones(3))
    with pytest.raises(InputError, match=r"scale has shape \(3,\), the codes"):
        net.join(codes(NETWORK)[0], scale=np.ones(3))
    with pytest.raises(OptionError, match="join takes scale; it was given offset"):
        net.join(codes(NETWORK), offset=0.0)
    with pytest.raises(InputError, match=r"this network takes codes of shape \(5,\)"):
        net.split(codes(NETWORK))


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.layerwise])
def test_methods_that_need_layers_say_so(method):
    message = f"extended by nuisance parameters is no chain of layers; method='{method}' needs a chain of layers"
    with pytest.raises(UnsupportedModelError, match=message):
        unrelu.invert(extended("scale"), np.ones(N), method)


# --- normal parameters ------------------------------------------------------------------------------------------------

TEMPLATE, SIZE = np.linspace(-1, 1, N) ** 3, 0.7


def with_template(network):
    template = torch.from_numpy(TEMPLATE)
    return unrelu.extend(network, lambda x, beam: x + beam * template.to(x), beam=unrelu.Normal(0.1, SIZE))


def test_a_normal_parameter_is_its_mean_and_deviations():
    wide = with_template(NETWORK)
    z = codes(wide)
    _, found = wide.split(z)
    np.testing.assert_allclose(found["beam"], 0.1 + SIZE * z[:, K])
    np.testing.assert_allclose(wide(z), NETWORK(z[:, :K]) + found["beam"][:, None] * TEMPLATE)
    np.testing.assert_allclose(wide.join(z[:, :K], beam=found["beam"]), z)
    np.testing.assert_allclose(wide.jacobian(z)[:, :, K], np.broadcast_to(SIZE * TEMPLATE, (4, N)))
    assert "beam N(0.1, 0.7^2)" in str(wide)
    mixed = unrelu.extend(NETWORK, offset=unrelu.Normal(2, 3), scale=(0.5, 2))
    _, both = mixed.split(np.zeros(K + 2))
    assert both == pytest.approx({"offset": 2.0, "scale": 1.25})


@pytest.mark.parametrize("given", [unrelu.Normal(0, np.inf), unrelu.Normal([0, 1], 1), unrelu.Normal(std={"a": 1})])
def test_a_parameter_has_one_mean_and_one_deviation(given):
    with pytest.raises(InputError, match=r"scale=Normal.* must be Normal\(mean, std\) of two finite numbers"):
        unrelu.extend(NETWORK, scale=given)

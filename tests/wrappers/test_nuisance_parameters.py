"""Generators with nuisance parameters: what they put out, their Jacobian, what is found, what is refused."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

import unrelu
from tests.opaque_modules import OPAQUE
from tests.support import at_least, at_most, farthest, random_network
from unrelu.errors import InputError, OptionError, UnsupportedModelError
from unrelu.measurements.working_units import Coordinates, on_coordinates
from unrelu.methods import METHODS
from unrelu.parameters.latent_bounds import Bounds
from unrelu.result import Status
from unrelu.result.fingerprint import fingerprint
from unrelu.wrappers.nuisance_parameters import ExtendedGenerator

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
    assert stats.kstest(found["scale"], stats.uniform(0.5, 1.5).cdf).statistic < farthest(4000)
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


def test_the_kinks_that_are_rounded_off_are_those_of_the_generator():
    net = extended("scale")
    z = net.join(codes(NETWORK), scale=1.5)
    np.testing.assert_allclose(net.smoothed(0.3)(z), 1.5 * NETWORK.smoothed(0.3)(codes(NETWORK)), atol=1e-12)
    opaque = unrelu.extend(OPAQUE["residual"], scale=True)
    kinks = OPAQUE["residual"].smoothed(0.3)
    assert (opaque.smoothed(0.3) is opaque.plain) == (kinks is OPAQUE["residual"])


def in_units_of(centre, half):
    """A rough generator whose parameters are within half of the centre, with an amplitude, and the bounds."""
    rng = np.random.default_rng(26)
    sizes = (2, 15, 15, 15, 14)
    weights = [rng.normal(0, math.sqrt(2 / a), (b, a)) for a, b in itertools.pairwise(sizes)]
    biases = [rng.normal(0, 0.5, b) for b in sizes[1:]]
    net = unrelu.from_arrays(weights, biases, input_scale=(centre, half / 2.5))
    bounds = np.append(centre - half, -np.inf), np.append(centre + half, np.inf)
    return unrelu.extend(net, lambda x, a: x * a, a=unrelu.Normal(1.0, 0.1)), bounds


SCALES = [(np.zeros(2), np.ones(2)), (np.array([3.0, -6.0]), np.array([30.0, 0.03]))]


def test_kinks_are_rounded_off_by_as_much_in_all_units_of_the_parameters():
    """Their sizes are those at the codes that are searched, not at codes from N(0, I)."""
    found = []
    for centre, half in SCALES:
        net, ends = in_units_of(centre, half)
        bounds = Bounds.parse(ends, net.latent_shape)
        standard = on_coordinates(net.plain, Coordinates.of(bounds))
        t = np.random.default_rng(1).uniform(-1.5, 1.5, (20, 3))
        assert not np.allclose(standard.smoothed(0.5)(t), standard(t), rtol=1e-3)
        found.append(standard.smoothed(0.5)(t))
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("at", range(2))
def test_codes_are_found_in_all_units_of_the_parameters(at):
    centre, half = SCALES[at]
    net, bounds = in_units_of(centre, half)
    rng = np.random.default_rng(27)
    z = np.column_stack([centre + half * rng.uniform(-1, 1, (20, 2)), rng.standard_normal(20)])
    clean = net(z)
    sigma = 0.003 * clean.std() * 10 ** rng.uniform(-0.5, 0.5, clean.shape[1])
    y = clean + sigma * rng.standard_normal(clean.shape)
    prior = unrelu.Normal(np.zeros(3), [np.inf, np.inf, 1.0])
    r = unrelu.invert(net, y, noise=unrelu.Gaussian(sigma), bounds=bounds, prior=prior)
    of_truth = np.square((clean - y) / sigma).sum(axis=1) + z[:, 2] ** 2
    assert (r.fun <= 1.001 * of_truth).sum() >= at_least(20, 0.99)
    assert (r.status == Status.MISFIT).sum() <= at_most(20, 0.01)


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


def test_units_do_not_matter():
    """Fluxes of 1e-17: the same codes and parameters."""
    tiny = unrelu.from_arrays(
        [NETWORK.layers[0].matrix(), np.ldexp(NETWORK.layers[1].matrix(), -57)],
        [NETWORK.layers[0].bias(), np.ldexp(NETWORK.layers[1].bias(), -57)],
    )
    net = unrelu.extend(tiny, scale=(0.5, 2), offset=(-(2.0**-57), 2.0**-57))
    z = codes(net)
    r = unrelu.invert(net, net(z))
    assert set(r.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(r.z, z, atol=1e-6)


@pytest.mark.parametrize("exponent", [0, -57])
def test_codes_may_have_bounds(exponent):
    """Of the generator's own coordinates, in any units; those of the parameters stay as they are."""
    tiny = unrelu.from_arrays(
        [NETWORK.layers[0].matrix(), np.ldexp(NETWORK.layers[1].matrix(), exponent)],
        [NETWORK.layers[0].bias(), np.ldexp(NETWORK.layers[1].bias(), exponent)],
    )
    net = unrelu.extend(tiny, scale=(0.5, 2))
    lower, upper = np.array([0.0, -1, -2, -np.inf, -np.inf]), np.array([0.2, 1, 2, np.inf, np.inf])
    z = np.random.default_rng(4).uniform(np.maximum(lower, -1.5), np.minimum(upper, 1.5), (5, K + 1))
    r = unrelu.invert(net, net(z), bounds=(lower, upper))
    assert set(r.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(r.z, z, atol=1e-6)
    with pytest.raises(UnsupportedModelError, match="extended by nuisance parameters is no chain of layers"):
        unrelu.invert(net, net(z), "linf", bounds=(lower, upper))


def test_it_can_be_measured_by_a_function():
    net = unrelu.extend(NETWORK, offset=(-1, 1))
    z = codes(net)
    y = np.tanh(net(z) / 2)
    r = unrelu.invert(net, y, operator=lambda x: torch.tanh(x / 2))
    np.testing.assert_allclose(r.z, z, atol=1e-6)


def test_it_is_a_generator_for_everything_else():
    net = extended("function and scale")
    assert unrelu.inspect(net).identifiable > 0.9
    assert unrelu.identifiability(net, codes(net)).identifiable.all()
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again(codes(net)), net(codes(net)))
    assert fingerprint(again) == fingerprint(net)
    assert fingerprint(net) != fingerprint(extended("function"))
    assert str(net).startswith(f"ExtendedGenerator 7 -> {N}: slope -0.3 to 0.3, curve -0.3 to 0.3, scale 0.5 to 2\n")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (OptionError, {}, "there is nothing to extend by: pass scale=, offset=, shift=, or a function"),
        (OptionError, {"tilt": (0, 1)}, "tilt: bounds of parameters that no function takes; pass f"),
        (InputError, {"scale": (2, 0.5)}, r"scale=\(2, 0.5\) must be two numbers, a lower and a higher bound"),
        (InputError, {"scale": 2}, "scale=2 must be two numbers"),
        (InputError, {"offset": (-1.7e308, 1.7e308)}, "must be two numbers, a lower and a higher bound, both finite"),
        (InputError, {"offset": (0, np.inf)}, "must be two numbers, a lower and a higher bound"),
        (InputError, {"function": lambda x: x.exp(), "tilt": (0, 1)}, "cannot be used: .* unexpected keyword.*'tilt'"),
        (InputError, {"function": lambda x, t: t * x.detach(), "t": (1, 2)}, "its derivative is off by"),
        (InputError, {"function": lambda x, t: t * x.mean(0), "t": (1, 2)},
         "an input has another output alone than in a batch; each must"),
        (InputError, {"function": lambda x, t: (t * x).sum(), "t": (1, 2)}, "the batch axis must stay the first"),
    ],
)  # fmt: skip
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


def test_it_is_made_by_extend_alone():
    assert isinstance(extended("scale").plain, ExtendedGenerator)
    with pytest.raises(OptionError, match="network is a Linear; make one with"):
        unrelu.extend(torch.nn.Linear(2, 3), scale=True)


# --- normal parameters ------------------------------------------------------------------------------------------------

TEMPLATE, SIZE = np.linspace(-1, 1, N) ** 3, 0.7
COVARIANCE = 0.09 * (np.eye(N) + 0.5 * np.exp(-np.abs(np.subtract.outer(np.arange(N), np.arange(N))) / 3))


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


def test_fitted_and_marginalised_amplitudes_agree():
    """The least chi-square with an amplitude and its prior is that under the covariance with the template's added."""
    matrix = np.random.default_rng(5).normal(size=(N, 2))
    net = unrelu.from_arrays([matrix], activation="identity").named(["a", "b"])
    rng = np.random.default_rng(6)
    y = net([1.0, -1.0]) + 0.5 * TEMPLATE + np.linalg.cholesky(COVARIANCE) @ rng.normal(size=N)
    added = COVARIANCE + SIZE**2 * np.outer(TEMPLATE, TEMPLATE)
    fitted = unrelu.invert(
        with_template(net), y, noise=unrelu.Gaussian(covariance=COVARIANCE), prior=unrelu.Normal(std={})
    )
    summed = unrelu.invert(net, y - 0.1 * TEMPLATE, noise=unrelu.Gaussian(covariance=added))
    inverse = np.linalg.inv(added)
    exact = np.linalg.solve(matrix.T @ inverse @ matrix, matrix.T @ inverse @ (y - 0.1 * TEMPLATE))
    np.testing.assert_allclose(fitted.fun, summed.fun, rtol=1e-9)
    np.testing.assert_allclose(fitted.z[:2], exact, atol=1e-5)
    np.testing.assert_allclose(summed.z, exact, atol=1e-5)
    np.testing.assert_allclose(fitted.laplace().std[:2], summed.laplace().std, rtol=1e-6)
    np.testing.assert_allclose(summed.laplace().std, np.sqrt(np.diag(np.linalg.inv(matrix.T @ inverse @ matrix))))


@pytest.mark.parametrize("given", [unrelu.Normal(0, np.inf), unrelu.Normal([0, 1], 1), unrelu.Normal(std={"a": 1})])
def test_a_parameter_has_one_mean_and_one_deviation(given):
    with pytest.raises(InputError, match=r"scale=Normal.* must be Normal\(mean, std\) of two finite numbers"):
        unrelu.extend(NETWORK, scale=given)

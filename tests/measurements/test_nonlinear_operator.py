"""Measurements that are differentiable functions of the output: what they compute, invert and refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from tests.opaque_modules import OPAQUE
from tests.support import at_least, random_network
from unrelu.errors import InputError, UnsupportedModelError
from unrelu.measurements import NonlinearOperator, read_operator
from unrelu.methods import METHODS
from unrelu.result import Status
from unrelu.result.fingerprint import fingerprint

K, N, M = 4, 60, 50
NETWORK = random_network((K, 30, N), seed=1)
RNG = np.random.default_rng(8)
F = torch.from_numpy(RNG.standard_normal((M, N)) + 1j * RNG.standard_normal((M, N)))


def magnitudes(x):
    """|F x|, F complex: phase retrieval."""
    return (x.to(F.dtype) @ F.T).abs()


def saturated(x):
    return torch.tanh(x / 2)


class Exposure(nn.Module):
    """Pictures of (3, 4, 5), averaged over their channels and saturated: a module with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((3, 1, 1), 0.5))

    def forward(self, x):
        return 1 - torch.exp(-(self.gain * x).sum(1))


class NoForwardMode(torch.autograd.Function):
    """tanh, of which PyTorch is told the backward pass only."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


def codes(batch=3):
    return np.random.default_rng(3).standard_normal((batch, K))


def read(function, network=NETWORK):
    operator = read_operator(function, network.output_shape, (), network)
    assert isinstance(operator, NonlinearOperator)
    return operator


@pytest.mark.parametrize("function", [magnitudes, saturated, NoForwardMode.apply])
def test_the_derivative_is_that_of_autograd(function):
    operator = read(function)
    x = torch.from_numpy(RNG.standard_normal((3, N)))
    t = torch.from_numpy(RNG.standard_normal((3, K, N)))
    values, pushed = operator.linearize(x, t)
    torch.testing.assert_close(values, function(x))
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: function(v[None])[0], x[row])
        torch.testing.assert_close(pushed[row], t[row] @ jacobian.T)
    assert operator.function.forward_mode == (function in (magnitudes, saturated))


def test_a_module_sees_the_outputs_in_their_shape_and_is_not_changed():
    module = Exposure()
    operator = read_operator(module, (3, 4, 5), ())
    x = RNG.random((2, 3, 4, 5))
    expected = 1 - np.exp(-0.5 * x.sum(axis=1))
    np.testing.assert_allclose(operator.values(x.reshape(2, -1)), expected.reshape(2, -1))
    assert (operator.shape, operator.n, operator.m) == ((4, 5), 60, 20)
    assert module.gain.dtype == torch.float32
    assert module.gain.requires_grad
    assert module.training


@pytest.mark.parametrize("network", [NETWORK, OPAQUE["residual"]], ids=["chain", "opaque"])
@pytest.mark.parametrize("function", [magnitudes, saturated])
def test_auto_finds_the_codes(network, function):
    function = function if network.output_dim == N else saturated
    z = np.random.default_rng(3).standard_normal((5, network.latent_dim))
    x = network(z)
    y = function(torch.from_numpy(x)).numpy()
    r = unrelu.invert(network, y, operator=function)
    assert set(r.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(r.z, z, atol=1e-6)
    np.testing.assert_allclose(r.reconstruction, x, atol=1e-6)  # the output itself, not what was measured of it
    assert (r.residual("linf") <= 1e-8 * np.abs(y).max(axis=1)).all()
    assert r.identifiable.all()
    assert (r.rank == network.latent_dim).all()


def test_noise_is_judged_and_its_residual_is_that_of_the_measurement():
    y = saturated(torch.from_numpy(NETWORK(codes(40)))).numpy()
    y += 0.02 * RNG.standard_normal(y.shape)
    r = unrelu.invert(NETWORK, y, operator=saturated, noise="gaussian:0.02")
    assert r.success.sum() >= at_least(40, 0.99)
    by_hand = np.linalg.norm(y - np.tanh(r.reconstruction / 2), axis=1)
    np.testing.assert_allclose(r.residual(), by_hand)
    assert not unrelu.invert(NETWORK, y, operator=saturated, noise="gaussian:0.01").success.any()


@pytest.mark.parametrize("method", ["lm", "adam", "gradient_descent"])
def test_methods_that_need_no_adjoint_go_down_the_composition(method):
    z = codes()
    y = saturated(torch.from_numpy(NETWORK(z))).numpy()
    start = z + 0.01
    options = {"restarts": 1} if method == "adam" else {}
    r = unrelu.invert(NETWORK, y, method, operator=saturated, z0=start, **options)
    before = np.square(y - np.tanh(NETWORK(start) / 2)).sum(axis=1)
    assert (r.fun <= 0.1 * before).all()
    np.testing.assert_allclose(r.fun, np.square(y - np.tanh(NETWORK(r.z) / 2)).sum(axis=1), rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("exponent", [-200, -60, 60, 200])
def test_units_do_not_matter(exponent):
    """Outputs in units 2^exponent times smaller, of which the function knows: the same codes."""
    layers = NETWORK.layers
    large = unrelu.from_arrays(
        [layers[0].matrix(), np.ldexp(layers[1].matrix(), exponent)], [layers[0].bias(), layers[1].bias()]
    )
    y = saturated(torch.from_numpy(NETWORK(codes()))).numpy()
    given = {"operator": lambda x: saturated(2.0**-exponent * x)}
    r = unrelu.invert(large, y, **given)
    assert set(r.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(r.z, codes(), atol=1e-6)
    scaled = unrelu.invert(large, np.ldexp(y, exponent), operator=lambda x: 2.0**exponent * given["operator"](x))
    assert set(scaled.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(scaled.z, codes(), atol=1e-6)


def test_codes_may_have_bounds_and_the_function_is_tried_within_them(tmp_path):
    """Outputs of codes in the box are positive, those of N(0, 1) are not."""
    net = unrelu.from_arrays([RNG.uniform(0.1, 1, (20, 3))], activation="identity")
    z = RNG.uniform(5, 9, (4, 3))
    r = unrelu.invert(net, np.log(net(z)), operator=torch.log, bounds=(5, 9))
    assert set(r.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(r.z, z, atol=1e-6)
    with pytest.raises(InputError, match="NaN or infinite numbers"):
        unrelu.invert(net, np.log(net(z)), operator=torch.log)
    r.save(tmp_path / "r.npz")
    np.testing.assert_array_equal(unrelu.load_result(tmp_path / "r.npz", net, operator=torch.log).z, r.z)
    run = unrelu.run(net, np.log(net(z)), tmp_path / "run", operator=torch.log, bounds=(5, 9), workers=1)
    assert run.counts == {"EXACT_FIT": 4}
    assert unrelu.calibrate(net, torch.log, "gaussian:0.1", bounds=(5, 9), observations=20).observations == 20
    inverter = unrelu.LatentInverter(net, operator=torch.log, bounds=(5, 9))
    np.testing.assert_allclose(inverter.fit_transform(np.log(net(z))), z, atol=1e-6)


def test_its_fingerprint_is_what_it_does():
    same, other = read(lambda x: torch.tanh(x / 2)), read(lambda x: torch.tanh(x / 3))
    assert fingerprint(read(saturated)) == fingerprint(same)
    assert fingerprint(same) != fingerprint(other)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.detach().exp(), "it cannot be differentiated: RuntimeError: element 0 of tensors"),
        (lambda x: x + x.detach().exp(), "its derivative is off by .* rounding, detach"),
        (lambda x: torch.round(10 * x), "its derivative is zero at random inputs, though its output changes"),
        (lambda x: np.tanh(x.numpy()), ".* returns a ndarray; a measurement returns one tensor"),
        (lambda x: x.sum(), r"it maps inputs of shape \(2, 60\) to a tensor of shape \(\); the batch axis"),
        (lambda x: x[:1], r".*to a tensor of shape \(1, 60\); the batch axis must stay the first"),
        (lambda x: x.T, r".*to a tensor of shape \(60, 2\); the batch axis must"),
        (lambda x: x - x.mean(0), "an input has another output alone than in a batch; each must"),
        (lambda x: x + torch.randn_like(x), "it draws random numbers; a measurement must be deterministic"),
        (torch.fft.fft, ".* kind torch.complex128, .*; a measurement returns a dense one of real"),
        (lambda x: torch.log(x - 1e9), "it maps outputs of the generator to NaN or infinite numbers"),
        (lambda x: x.to_sparse(), ".*torch.sparse_coo; a measurement returns a dense one"),
        (lambda x: x.to("meta"), ".*meta tensor"),
        (lambda x: 0 * x, "two random inputs have the same output; it does not depend on the input"),
        (lambda x: x @ torch.ones(3, 2), r"for float64 inputs of shape \(2, 60\) it raises RuntimeError: .*"),
    ],
)  # fmt: skip
def test_functions_that_are_no_measurements_are_refused(function, message):
    with pytest.raises(
        InputError, match=f"(?s)operator= is a function that cannot be used as a measurement: {message}"
    ):
        unrelu.invert(NETWORK, np.ones(N), operator=function)


LAYERWISE = [name for name, entry in METHODS.items() if entry.layerwise]


@pytest.mark.parametrize("method", LAYERWISE)
@pytest.mark.parametrize("last", ["relu", "identity"])
def test_methods_that_need_a_linear_measurement_say_so(method, last):
    network = random_network((K, 30, N), seed=1, last=last)
    with pytest.raises(UnsupportedModelError, match=r"operator= is a function, which .*use method='auto'"):
        unrelu.invert(network, np.full(N, 0.5), method, operator=saturated)
    with pytest.raises(UnsupportedModelError, match="a function, which is not taken to be linear"):
        unrelu.invert(network, np.full(N, 0.5), "lm", start=method, operator=saturated)

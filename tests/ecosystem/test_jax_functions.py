"""Functions of JAX: read as layers where they are a chain, otherwise evaluated by JAX; with the values of JAX."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import unrelu
from tests.test_docs import check
from unrelu.errors import HostError, InputError, MissingPackageError, ModelError, OptionError, UnsupportedModelError
from unrelu.loaders.jax_functions import JaxNetwork

KEY = jax.random.PRNGKey(0)
RNG = np.random.default_rng(1)
A, B = (np.float32(RNG.standard_normal(shape) / 2) for shape in ((9, 3), (12, 9)))


def gated(z):
    """No chain: a layer times a function of the code."""
    return jnp.asarray(B) @ (jnp.tanh(jnp.asarray(A) @ z) * jnp.cos(z[0]))


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, z):
        x = nn.relu(nn.Dense(3 * 3 * 4)(z)).reshape(3, 3, 4)
        return nn.sigmoid(nn.Conv(2, (3, 3))(nn.leaky_relu(nn.ConvTranspose(4, (3, 3), strides=(2, 2))(x))))


class Transposed(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.ConvTranspose2d

    def __init__(self):
        self.first = eqx.nn.Linear(3, 8 * 3 * 3, key=KEY)
        self.second = eqx.nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2, key=KEY)

    def __call__(self, z):
        return self.second(jax.nn.softplus(self.first(z)).reshape(8, 3, 3))


def own(function, z):
    """Values and Jacobians by JAX in double precision, (B, n) and (B, n, k)."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(np.float64) if getattr(x, "dtype", None) == np.float32 else x, function)
        x, jacobian = jax.jit(lambda z: (jax.vmap(wide)(z), jax.vmap(jax.jacrev(wide))(z)))(z)
    return np.asarray(x).reshape(len(z), -1), np.asarray(jacobian).reshape(len(z), -1, z[0].size)


def agrees(net, function):
    z = RNG.standard_normal((3, *net.latent_shape))
    x, jacobian = own(function, z)
    np.testing.assert_allclose(net(z).reshape(3, -1), x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(net.jacobian(z), jacobian, rtol=1e-8, atol=1e-11)


def flax_decoder():
    model = Decoder()
    weights = model.init(KEY, jnp.ones(3))
    return lambda z: model.apply(weights, z)


CHAINS = [
    (lambda z: jnp.asarray(B) @ jax.nn.relu(A @ z + 1) - 2, ["relu", "identity"]),
    (eqx.nn.MLP(3, 5, 7, 2, activation=jax.nn.silu, key=KEY), ["swish", "swish", "identity"]),
    (lambda z: jnp.sin(jnp.full(3, 2.0) ** 2 * z.reshape(3, 1).T), ["sin"]),
]
LONGER = [
    (lambda z: 10.0 ** (z[jnp.array([2, 0])] / 3), ["exp"]),
    (lambda z: jnp.clip(jnp.einsum("ij,kj->ik", A[:, :1], z[:, None]), -1, 1), ["relu", "relu", "identity"]),
    (lambda z: jax.nn.gelu(z @ A.T, approximate=False)[::-1], ["gelu", "identity"]),
    (lambda z: jax.nn.elu(jnp.broadcast_to(z, (2, 3)).sum(1, keepdims=True)), ["elu"]),
]


@pytest.mark.parametrize(
    ("function", "activations"), [*CHAINS, *(pytest.param(*each, marks=pytest.mark.long) for each in LONGER)]
)
def test_chains_are_read_as_layers(function, activations):
    net = unrelu.from_jax(function, latent_shape=3)
    assert isinstance(net, unrelu.Network), net
    assert [str(layer.activation).split(":")[0] for layer in net.layers] == activations
    agrees(net, function)


@pytest.mark.parametrize(
    ("function", "forward"),
    [(gated, True), (lambda z: gated(z)[:2].prod(), False), (flax_decoder(), True), (Transposed(), True)],
)
def test_others_are_evaluated_by_jax(function, forward):
    net = unrelu.from_jax(function, latent_shape=3)
    assert isinstance(net, JaxNetwork)
    assert net.forward_mode is forward, "reverse mode where it has fewer rows than columns"
    agrees(net, function)
    z = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net.forward(z).sum(), z)
    np.testing.assert_allclose(gradient, own(function, z.detach().numpy())[1].sum(axis=1), atol=1e-12)
    assert not jax.config.jax_enable_x64, "the user's configuration is left alone"


@pytest.mark.long
def test_batches_of_all_sizes_have_the_same_rows():
    net = unrelu.from_jax(gated, latent_shape=3)
    z = RNG.standard_normal((21, 3))
    whole = net(z)
    for size in (1, 2, 5, 16, 17):
        np.testing.assert_allclose(net(z[:size]), whole[:size], rtol=1e-12)
    sizes = {key[1][0] for key in net.function._compiled if key[0] == "values"}
    assert sizes <= {1, 4, 16, 64, 1024}, "the last for the 300 codes that are compared when it is read"


@pytest.mark.long
def test_functions_with_derivatives_of_their_own_have_reverse_mode():
    @jax.custom_vjp
    def cubed(z):
        return z**3

    cubed.defvjp(lambda z: (z**3, z), lambda z, v: (3 * z**2 * v,))
    net = unrelu.from_jax(lambda z: jnp.concatenate([cubed(z), jnp.cos(z)]), latent_shape=2)
    assert not net.forward_mode
    np.testing.assert_allclose(net.jacobian([2.0, 1.0])[:2], [[12, 0], [0, 3]])


def test_bounds_are_the_domain_in_which_it_is_tried_and_searched():
    def spectrum(p):  # NaN outside of the box
        return jnp.sqrt(p[0] - 100) * jnp.cos(jnp.arange(8) * p[1])

    net = unrelu.from_jax(spectrum, bounds={"height": (110.0, 190.0), "frequency": (0.1, 0.4)})
    found = unrelu.invert(net, net([150.0, 0.3]))
    assert found.parameters == pytest.approx({"height": 150.0, "frequency": 0.3}, rel=1e-6)
    np.testing.assert_array_equal(net.domain.ends, [[110, 0.1], [190, 0.4]])
    with pytest.raises(UnsupportedModelError, match="NaN or infinite"):
        unrelu.from_jax(spectrum, latent_shape=2)


def test_outputs_become_parts():
    def both(z):
        return {"tt": gated(z), "te": z[:2] ** 2}

    net = unrelu.from_jax(both, latent_shape=3, output=["te", "tt"])
    parts = net.by_part(net([1.0, 2.0, 0.5]))
    np.testing.assert_allclose(parts["te"], [1, 4])
    one = unrelu.from_jax(both, latent_shape=3, output="tt")
    np.testing.assert_allclose(one([1.0, 2.0, 0.5]), parts["tt"], rtol=1e-12)


def test_noise_of_a_fixed_key_is_that_of_the_users_precision():
    noise = np.asarray(jax.random.normal(KEY, (12,)))
    net = unrelu.from_jax(lambda z: gated(z) + jax.random.normal(KEY, (12,)), latent_shape=3)
    np.testing.assert_allclose(net(np.zeros(3)), noise, rtol=1e-6)


def test_it_is_pickled_with_what_it_refers_to():
    scale = jnp.arange(1.0, 13.0)
    net = unrelu.from_jax(lambda z: scale * gated(z), latent_shape=3)
    again = pickle.loads(pickle.dumps(net))
    z = RNG.standard_normal((2, 3))
    np.testing.assert_array_equal(again(z), net(z))


def test_a_forked_process_is_refused():
    net = unrelu.from_jax(gated, latent_shape=3)
    net.function._process -= 1  # as a fork's would be
    with pytest.raises(HostError, match="'spawn' or 'forkserver'"):
        net([1.0, 2.0, 3.0])


REFUSED = [
    (lambda z: z if z[0] > 0 else -z, {}, UnsupportedModelError,
     r"TracerBoolConversionError.*use jax\.numpy, jnp\.where and jax\.lax\.cond"),
    (lambda z: jnp.asarray(np.sin(z)), {}, UnsupportedModelError, "NumPy or Python"),
    (lambda z: (z, {"a": z[:2] * 2}), {}, UnsupportedModelError,
     r"returns \('float32\[3\]', \{'a': 'float32\[2\]'\}\).*pass output="),
    (lambda z: z.astype(int), {}, UnsupportedModelError, r"int32\[3\].*real numbers"),
    (lambda z: z[:, 0], {}, UnsupportedModelError,
     r"for one code of shape \(3,\).*pass lambda z: function\(z\[None\]\)\[0\]"),
    (lambda z: jnp.ones(3), {}, UnsupportedModelError, "the same output"),
    (lambda z: jnp.cos(jax.lax.stop_gradient(z)), {}, UnsupportedModelError, "its derivative is off"),
    (lambda z: jnp.log(z) * z[0], {}, UnsupportedModelError, "NaN or infinite"),
    (gated, {"latent_shape": None}, ModelError, "pass latent_shape="),
    ("gated", {}, ModelError, "takes a function of one code"),
    (gated, {"bounds": {"a": (0, 1)}}, OptionError, "leave one out"),
    (gated, {"latent_shape": None, "bounds": {"a": (1, 0)}}, InputError, r"\(a\) has the lower bound 1"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "error", "said"), REFUSED)
def test_refusals(function, arguments, error, said):
    with pytest.raises(error, match=said):
        unrelu.from_jax(function, **{"latent_shape": 3, **arguments})


def test_the_example_of_its_docstring():
    check(inspect.cleandoc(unrelu.from_jax.__doc__), "from_jax")


def test_without_jax(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "unrelu.loaders.jax_functions")
    with pytest.raises(MissingPackageError, match="pip install jax cloudpickle"):
        importlib.import_module("unrelu.loaders.jax_functions")


def test_a_function_with_the_name_of_an_activation_is_the_users():
    def elu(x):
        return jnp.where(x > 5, 5 + 0.1 * (x - 5), jax.nn.elu(x))

    net = unrelu.from_jax(jax.jit(elu), latent_shape=2)
    np.testing.assert_allclose(net([20.0, -1.0]), [6.5, np.expm1(-1.0)], rtol=1e-6)


def test_a_function_that_was_changed_is_not_sent_to_workers():
    held = {"factor": 2.0}
    net = unrelu.from_jax(lambda z: jnp.exp(held["factor"] * z) + jnp.cumprod(z), latent_shape=2)
    held["factor"] = 3.0
    with pytest.raises(ModelError, match="no longer what from_jax has read"):
        pickle.dumps(net.plain)

"""Networks: values, traces, patterns and Jacobians, one code or a batch, and what cannot be built."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import unrelu
from tests.support import image_network, random_network, rounding, tensor
from unrelu.errors import InputError, ModelError, OptionError
from unrelu.models import generator as generator_module
from unrelu.models.activations import Activation
from unrelu.models.affine import Affine, Dense, Reshape
from unrelu.models.network import Layer, Network

NETWORKS = {
    "relu": random_network((3, 8, 20)),
    "relu_bias": random_network((3, 8, 20), bias=True),
    "leaky": random_network((4, 6, 9, 12), "leaky_relu:0.1", bias=True),
    "sigmoid": random_network((3, 8, 20), "tanh", bias=True, last="sigmoid"),
    "one_layer": random_network((3, 5)),
    "narrow": random_network((5, 3, 4), "identity", bias=True),
    "image": image_network(),
}
each = pytest.mark.parametrize("name", NETWORKS)


def codes(network: Network, seed: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, network.latent_dim))


@each
def test_the_output_is_the_formula(name):
    network = NETWORKS[name]
    z = codes(network, 0)
    x = z
    for layer in network.layers:
        x = layer.activation.value((layer.matrix() @ x.T).T + layer.bias())
    np.testing.assert_allclose(network(z), x.reshape(3, *network.output_shape), rtol=0, atol=rounding(network, z))


@each
def test_trace_is_the_output_of_every_layer_and_pattern_its_sign(name):
    network = NETWORKS[name]
    z = codes(network, 1)
    trace, pattern = network.trace(z), network.pattern(z)
    assert [x.shape for x in trace] == [p.shape for p in pattern] == [(3, *layer.out_shape) for layer in network.layers]
    np.testing.assert_array_equal(trace[-1], network(z))
    h = z
    for layer, x, on in zip(network.layers, trace, pattern, strict=True):
        np.testing.assert_allclose(layer.value(h), x.reshape(3, -1), rtol=0, atol=rounding(network, z))
        u = (layer.matrix() @ h.T).T + layer.bias()
        np.testing.assert_array_equal(on.reshape(3, -1), u > 0)
        h = x.reshape(3, -1)


@each
def test_jacobian_agrees_with_pytorch(name):
    network = NETWORKS[name]
    z = codes(network, 2)
    for code, jacobian in zip(z, network.jacobian(z), strict=True):
        expected = torch.autograd.functional.jacobian(lambda v: network.forward(v[None])[0], torch.from_numpy(code))
        np.testing.assert_allclose(jacobian, expected, rtol=0, atol=rounding(network, np.eye(network.latent_dim)))


def test_jacobian_at_a_kink_takes_the_lower_slope():
    network = Network.chain([Dense(torch.ones(1, 1)), Activation("leaky_relu", 0.25)], (1,))
    assert network.jacobian([0.0]) == 0.25
    assert not network.pattern([0.0])[0]


@each
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_a_batch_is_its_codes_one_by_one(name, batch):
    network = NETWORKS[name]
    z = codes(network, 3, batch)
    assert network(z).shape == (batch, *network.output_shape)
    assert network.jacobian(z).shape == (batch, network.output_dim, network.latent_dim)
    off, slope_off = rounding(network, z), rounding(network, np.eye(network.latent_dim))
    assert max(off, slope_off) < 1e-12
    for i in range(batch):
        np.testing.assert_allclose(network(z[i]), network(z)[i], rtol=0, atol=off)
        np.testing.assert_allclose(network.jacobian(z[i]), network.jacobian(z)[i], rtol=0, atol=slope_off)
        for one, all_of_them in zip(network.trace(z[i]), network.trace(z), strict=True):
            np.testing.assert_allclose(one, all_of_them[i], rtol=0, atol=off)


def test_a_large_batch_is_worked_on_in_pieces(monkeypatch):
    network = NETWORKS["image"]
    z = codes(network, 4, 50)
    whole = network(z)
    sizes = []
    forward = Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, part: sizes.append(len(part)) or forward(self, part))
    monkeypatch.setattr(generator_module, "LAYER_NUMBERS", 36 * 8)
    np.testing.assert_allclose(network(z), whole, rtol=0, atol=rounding(network, z))
    assert sizes == [8] * 6 + [2]


def test_float32_copy():
    network = NETWORKS["relu_bias"]
    single = network.to(torch.float32)
    z = codes(network, 5)
    assert single.dtype == torch.float32
    assert network.dtype == torch.float64
    assert single(z).dtype == single.jacobian(z).dtype == np.float64
    assert np.abs(single(z) - network(z)).max() > 0
    np.testing.assert_allclose(single(z), network(z), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(single.jacobian(z), network.jacobian(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"dtype": "float32"}, "dtype='float32' must be torch.float64 or another floating-point type"),
        ({"dtype": torch.int32}, "dtype=torch.int32 must be"),
        ({"device": "abacus"}, "device='abacus' cannot be used"),
        ({"device": 1.5}, "device=1.5 cannot be used"),
    ],
)
def test_dtypes_and_devices_that_cannot_be_used(where, message):
    with pytest.raises(OptionError, match=message):
        NETWORKS["relu_bias"].to(**where)


def test_latent_and_output_shapes():
    network = NETWORKS["image"]
    assert (network.latent_shape, network.latent_dim) == ((3, 1, 1), 3)
    assert (network.output_shape, network.output_dim) == ((1, 6, 6), 36)
    assert network(np.zeros(3)).shape == (1, 6, 6)
    assert [layer.expansion for layer in network.layers] == [12, 1]


def test_a_network_prints_as_a_table_of_its_layers():
    network = NETWORKS["image"]
    title, headings, first, second = str(network).splitlines()
    weights = sum(step.weight.numel() + step.bias.numel() for layer in network.layers for step in layer.affine.steps)
    assert title == f"Network 3x1x1 -> 1x6x6, {weights} parameters"
    assert headings.split() == ["layer", "kind", "shape", "activation", "parameters", "expansion"]
    assert first.split() == ["1", "ConvTranspose", "3x1x1", "->", "4x3x3", "relu", "112", "12"]
    assert second.split()[-1] == "1"
    assert repr(network) == "<Network 3x1x1 -> 1x6x6>"
    assert repr(network.layers[0]) == "ConvTranspose 3x1x1 -> 4x3x3, relu"
    assert "3x1x1 -&gt; 4x3x3" in network._repr_html_()


def test_of_very_many_layers_the_first_and_last_are_printed():
    lines = str(unrelu.from_arrays([np.eye(2)] * 100)).splitlines()
    assert len(lines) == 2 + 41
    assert lines[2].split()[0] == "1"
    assert lines[-1].split()[0] == "100"
    assert "..." in lines[22]


@each
def test_pickling(name):
    network = NETWORKS[name]
    z = codes(network, 6)
    network.jacobian(z)  # fills what is cached
    copy = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(copy(z), network(z))
    np.testing.assert_array_equal(copy.jacobian(z), network.jacobian(z))


def test_matrices_are_kept_and_read_only():
    layer = NETWORKS["relu_bias"].layers[0]
    assert layer.matrix() is layer.matrix()
    for array in (layer.matrix(), layer.bias()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_codes_may_be_lists_or_tensors():
    network = NETWORKS["relu"]
    z = codes(network, 8)
    for same in (z.tolist(), z.astype(object)):
        np.testing.assert_array_equal(network(same), network(z))
    for same in (torch.from_numpy(z), torch.from_numpy(z).requires_grad_()):
        np.testing.assert_array_equal(network(same).detach(), network(z))
        np.testing.assert_array_equal(network.outputs(same), network(z))
        np.testing.assert_array_equal(network.jacobian(same), network.jacobian(z))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.zeros(2), r"z has shape \(2,\); this network takes codes of shape \(3,\) or \(B, 3\)"),
        (np.zeros((3, 2)), r"z has shape \(3, 2\)"),
        (np.zeros((2, 2, 3)), r"z has shape \(2, 2, 3\)"),
        (1.0, r"z has shape \(\)"),
        ([[1, 2, 3], [4]], "z cannot be read as numbers"),
        (["1", "2", "3"], "z has text entries"),
        (np.ones(3) * 1j, "z has complex entries"),
        (np.ma.masked_equal(np.arange(3), 1), "z has masked entries"),
    ],
)
def test_codes_of_another_kind_are_refused(z, message):
    network = NETWORKS["relu"]
    for function in (network, network.trace, network.pattern, network.jacobian):
        with pytest.raises(InputError, match=message):
            function(z)


def test_chain_ends_with_the_identity_after_the_last_activation():
    rng = np.random.default_rng(0)
    parts = [Dense(tensor(rng, 4, 2)), Activation("relu"), Dense(tensor(rng, 6, 4)), Reshape((2, 3))]
    network = Network.chain(parts, (2,))
    assert [layer.activation.name for layer in network.layers] == ["relu", "identity"]
    assert network.output_shape == (2, 3)


def test_prelu_slopes_are_spread_over_the_output():
    rng = np.random.default_rng(0)
    slopes = np.array([0.1, 0.7])
    network = Network.chain([Dense(tensor(rng, 6, 3)), Reshape((2, 3)), Activation("prelu", slopes[:, None])], (3,))
    z = rng.standard_normal((4, 3))
    u = (z @ network.layers[0].matrix().T).reshape(4, 2, 3)
    np.testing.assert_allclose(network(z), np.where(u > 0, u, slopes[:, None] * u), rtol=0, atol=rounding(network, z))
    np.testing.assert_array_equal(network.layers[0].activation.slope, np.repeat(slopes, 3))


def test_networks_that_cannot_be_built():
    dense = Dense(torch.ones(4, 3))
    with pytest.raises(ModelError, match="at least one layer"):
        Network.chain([], (3,))
    with pytest.raises(ModelError, match=r"does not fit an input of shape \(5,\)"):
        Network.chain([dense, Activation("relu")], (5,))
    with pytest.raises(ModelError, match=r"prelu slopes of shape \(3,\) .*do not fit an output of shape \(4,\)"):
        Network.chain([dense, Activation("prelu", [0.1, 0.2, 0.3])], (3,))
    layer = Layer(Affine.compose([dense], (3,)), Activation("relu"))
    with pytest.raises(ModelError, match="layer 2 takes 3 inputs but is given 4"):
        Network((layer, layer), (3,))

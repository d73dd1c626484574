"""What inspect() says of a network, against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import freedom, random_network, tensor
from unrelu._inspect import inspect
from unrelu.errors import OptionError
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense
from unrelu.models.network import Network
from unrelu.runtime.streams import stream


def test_layers_are_described():
    first, second = inspect(random_network((10, 21, 44), "leaky_relu:0.1")).layers
    assert (first.name, first.n_in, first.n_out, first.activation) == ("Dense", 10, 21, "leaky_relu:0.1")
    assert (first.expansion, second.expansion) == (2.1, 44 / 21)
    assert (first.expands, second.expands) == (True, False)  # 2.1 is enough, 2.095 is not


def test_determined_counts_codes_with_enough_active_rows():
    network = random_network((3, 6, 20))
    z = stream("inspection", 5).standard_normal((400, 3))
    enough = [on.sum(axis=1) >= width for on, width in zip(network.pattern(z), (3, 6), strict=True)]
    seen = inspect(network, 400, seed=5)
    assert [layer.determined for layer in seen.layers] == [e.mean() for e in enough]
    assert all(0 < layer.determined < 1 for layer in seen.layers)
    assert seen.exact == (enough[0] & enough[1]).mean()
    assert seen.identifiable == (freedom(network, z) == 0).mean()
    assert seen.samples == 400


@pytest.mark.parametrize("kind", ["leaky_relu:0.1", "identity", "sigmoid", "tanh"])
def test_invertible_activations_need_only_as_many_outputs_as_inputs(kind):
    wide, narrow = (inspect(random_network(sizes, kind), 20) for sizes in ((3, 3, 4), (3, 5, 4)))
    assert [layer.determined for layer in wide.layers] == [1, 1]
    assert [layer.determined for layer in narrow.layers] == [1, 0]


def test_prelu_counts_the_neurons_with_a_positive_slope():
    rng = np.random.default_rng(0)
    weight = torch.cat([tensor(rng, 3, 3), -torch.ones(3, 3, dtype=torch.float64)])
    network = Network.chain([Dense(weight), Activation("prelu", [0.1, 0.1, 0.1, 0, -1, 0])], (3,))
    assert inspect(network, 20).layers[0].determined == 1
    network = Network.chain([Dense(weight), Activation("prelu", [0.0, 0.1, 0.1, 0, -1, 0])], (3,))
    assert 0 < inspect(network, 20).layers[0].determined < 1


@pytest.mark.parametrize(
    ("sizes", "kind", "verdict", "method"),
    [
        ((3, 60, 300), "relu", "exact inversion without noise can be expected", "samples, layer-wise least squares"),
        ((3, 30, 40), "relu", "codes are identifiable, but a layer has too few", "samples, layer-wise least squares"),
        ((3, 6, 20), "relu", "of codes are identifiable; each of the others", "samples, layer-wise least squares"),
        ((5, 3), "identity", "codes are not identifiable", "since layer 1 does not expand (5 -> 3)"),
    ],
)
def test_verdict_and_recommendation(sizes, kind, verdict, method):
    seen = inspect(random_network(sizes, kind))
    assert verdict in seen.verdict
    assert method in seen.recommended


def test_a_negative_slope_keeps_auto_from_going_layer_by_layer():
    network = Network.chain([Dense(torch.ones(2, 1)), Activation("prelu", [-0.5, 0.5])], (1,))
    assert inspect(network, 5).recommended.endswith("since layer 1 has a PReLU with a negative slope (-0.5)")


@pytest.mark.parametrize("samples", [0, -1, 10**23, 2.0, True])
def test_there_must_be_codes_to_look_at(samples):
    with pytest.raises(OptionError, match=f"samples={samples} must be a whole number from 1 to 1000000"):
        inspect(random_network((3, 6)), samples)


def test_it_prints_as_a_table_and_what_to_expect():
    network = random_network((10, 21, 44), "leaky_relu:0.1")
    seen = inspect(network, 20)
    lines = str(seen).splitlines()
    assert lines[0].split() == ["layer", "map", "activation", "in", "out", "out/in", ">=", "2.1", "exact"]
    assert lines[1].split() == ["1", "Dense", "leaky_relu:0.1", "10", "21", "2.10", "yes", "100%"]
    assert lines[2].split()[-3:] == ["2.10", "no", "100%"]
    assert f"expect        {seen.verdict}" in str(seen)
    assert "identifiable  100% of 20 sampled codes" in str(seen)
    assert all(len(line) <= 100 for line in lines)
    assert seen._repr_html_().startswith("<pre>  layer  map")
    assert "&gt;= 2.1" in seen._repr_html_()

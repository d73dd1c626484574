"""The layers of A G have the outputs of A G, for every kind of measurement."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from unrelu.measurements.folding import FoldedChain, FoldedLayer
from unrelu.models.activations import Activation
from unrelu.problem import Problem


def drawn(*shape):
    return np.random.default_rng(45).standard_normal(shape)


NETWORKS = {
    output: unrelu.from_arrays([drawn(6, 3), drawn(8, 6)], [drawn(6), drawn(8)], activation=["relu", output])
    for output in ("identity", "leaky_relu:0.2", "sigmoid")
}
OPERATORS = {"none": None, "mask": np.arange(8) % 3 > 0, "masks": drawn(4, 8) > -0.5, "matrix": drawn(5, 8)}


@pytest.mark.parametrize("noise", [None, unrelu.Gaussian(np.linspace(0.1, 0.5, 8))])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("exact", [False, True])
def test_the_layers_have_the_measured_outputs(network, operator, noise, exact):
    y = np.abs(drawn(4, 5 if operator == "matrix" else 8)) / 10
    noise = noise if operator != "matrix" else None
    problem = Problem.build(NETWORKS[network], y, operator=OPERATORS[operator], noise=noise)
    chain, z = FoldedChain(problem.network, problem.operator, problem.y, exact), drawn(4, 3)
    measured = problem.operator.values(np.asarray(problem.network(z)))
    for i in range(4):
        layers, values = chain.of(i)
        h = z[i]
        for layer in layers:
            h = layer.activation.value(layer.dense @ h + layer.bias)
            h = h if layer.weight is None else layer.weight * h
        seen = problem.operator.seen(4)[i]
        np.testing.assert_allclose(h, measured[i][seen], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(values, problem.y[i][seen])


def test_an_exact_chain_multiplies_no_matrices():
    problem = Problem.build(NETWORKS["identity"], drawn(2, 5), operator=OPERATORS["matrix"])
    chains = [FoldedChain(problem.network, problem.operator, problem.y, exact) for exact in (False, True)]
    assert [len(chain.layers) for chain in chains] == [2, 3]
    np.testing.assert_array_equal(chains[1].layers[-1].dense, OPERATORS["matrix"])


def test_some_rows_of_a_layer_keep_their_own_slopes():
    slopes = np.linspace(-1, 1, 6)
    layer = FoldedLayer(drawn(6, 3), np.arange(6.0), Activation("prelu", slopes))
    part = layer.outputs(np.array([4, 1]))
    np.testing.assert_array_equal(part.activation.slope, slopes[[4, 1]])
    np.testing.assert_array_equal(part.matrix, layer.matrix[[4, 1]])
    assert part.bias.tolist() == [4, 1]
    one = layer._replace(activation=Activation("leaky_relu", 0.1)).outputs(slice(2))
    assert one.activation.slope == 0.1
    assert len(one.matrix) == 2

"""Dense layers in NumPy beside the network in PyTorch: outputs, and gradients by the codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import random_network
from unrelu.measurements.folding import FoldedLayer
from unrelu.sampling._target import DenseLayers


@pytest.mark.parametrize("last", [None, "identity", "exp"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2", "sigmoid", "tanh", "swish", "gelu", "softplus"])
def test_outputs_and_gradients(activation, last):
    network = random_network((3, 8, 12), activation, seed=1, bias=True, last=last)
    weight = np.linspace(0.5, 2.0, 12)
    packed = [FoldedLayer(layer.matrix(), layer.bias(), layer.activation) for layer in network.layers]
    layers = DenseLayers([packed[0], packed[1]._replace(weight=weight)])
    rng = np.random.default_rng(2)
    z, derivatives = rng.normal(size=(5, 3)), rng.normal(size=(5, 12))
    np.testing.assert_allclose(layers.outputs(z, differentiated=True), network(z) * weight, rtol=1e-12)
    codes = torch.tensor(z, requires_grad=True)
    (network.forward(codes) * torch.tensor(weight * derivatives)).sum().backward()
    np.testing.assert_allclose(layers.gradients(derivatives), codes.grad, rtol=1e-10, atol=1e-12)

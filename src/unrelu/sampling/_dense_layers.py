"""Small dense networks as matrix products in double precision: a few codes at a time cost less than in PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from unrelu.measurements.folding import FoldedLayer
from unrelu.models.activations import Activation
from unrelu.runtime.array_types import Array


class DenseLayers:
    """Layers x = weight * phi(W h + b), evaluated at several codes, and the reverse pass from there."""

    def __init__(self, layers: list[FoldedLayer]) -> None:
        self._layers = [(layer, np.ascontiguousarray(layer.dense.T)) for layer in layers]
        self._slopes: list[Array] = []

    def outputs(self, z: Array, differentiated: bool = False) -> Array:
        """The outputs at codes z (c, k), (c, m); ``differentiated`` prepares :meth:`gradients`."""
        x, self._slopes = z, []
        for layer, transposed in self._layers:
            u = x @ transposed + layer.bias
            x = np.maximum(u, 0.0) if layer.activation.name == "relu" else layer.activation.value(u)
            if differentiated:
                self._slopes.append(_slopes(layer.activation, u, x))
        weight = self._layers[-1][0].weight
        return x if weight is None else x * weight

    def gradients(self, derivatives: Array) -> Array:
        """The derivatives by the codes of the last call of :meth:`outputs`, (c, k), from those by outputs, (c, m)."""
        weight = self._layers[-1][0].weight
        back = derivatives if weight is None else derivatives * weight
        for (_, transposed), slopes in zip(reversed(self._layers), reversed(self._slopes), strict=True):
            back = (back * slopes) @ transposed.T
        return back


def _slopes(activation: Activation, u: Array, x: Array) -> Array:
    """phi'(u), where x = phi(u); at a kink, the slope for negative arguments."""
    if activation.name == "relu":
        return np.asarray(u > 0)
    if activation.smooth:
        return activation.derivative(torch.from_numpy(u), torch.from_numpy(x)).numpy()
    return np.where(u > 0, 1.0, activation.slope)

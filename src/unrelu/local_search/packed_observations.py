"""Small dense networks packed into one vector of numbers for the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from unrelu.measurements.folding import FoldedChain, FoldedLayer
from unrelu.measurements.linear_operators import Operator
from unrelu.models.affine import Dense, Reshape, Scale
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Integers

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
Precision: TypeAlias = type[np.floating[Any]]

# Columns of the layout: where a layer's transposed matrix, its biases and the parameters of its activation begin, its
# numbers of inputs and outputs, and the kind of its activation.
MATRIX, BIAS, ACTIVATION, INPUTS, OUTPUTS, KIND = range(6)
# The most numbers in the matrices of a packable network, and in the matrix of its operator.
_SMALL = 2**19


class PackedNetwork(NamedTuple):
    """Layers x = w phi(W h + b) in one vector.

    Attributes:
        numbers: for each layer W^T, (inputs, outputs), then b, the slopes and steepnesses of its activation, and the
            weights w, (outputs,) each.
        layout: (d, 6); its columns are :data:`MATRIX` to :data:`KIND`.
        sizes: the smoothing width that a width of 1 stands for in each layer, (d,).
    """

    numbers: Numbers
    layout: Integers
    sizes: Array

    @classmethod
    def of(cls, layers: Sequence[FoldedLayer], sizes: Sequence[float], dtype: Precision = np.float32) -> PackedNetwork:
        """Pack layers, first to last; ``sizes`` are the smoothing widths that a width of 1 stands for."""
        numbers, layout, begin = [], [], 0
        for layer in layers:
            (outputs, inputs), activation = layer.matrix.shape, layer.activation
            weight = 1.0 if layer.weight is None else layer.weight
            each = layer.bias, activation.slope, activation.steepness, weight
            numbers += [layer.dense.T.ravel(), *(np.broadcast_to(values, outputs) for values in each)]
            bias = begin + inputs * outputs
            layout.append([begin, bias, bias + outputs, inputs, outputs, activation.kind])
            begin = bias + len(each) * outputs
        return cls(np.concatenate(numbers, dtype=dtype), np.array(layout), np.array(sizes))


def packable(network: Generator, operator: Operator) -> TypeGuard[Network]:
    """Whether the network is small, dense and on the CPU, and the measurement a choice of outputs or a matrix.

    The layers are small with the matrix, which is folded into a last layer without an activation.
    """
    inner = operator.unweighted
    if not (isinstance(network, Network) and network.device.type == "cpu" and inner.linear):
        return False
    sizes, matrix, last = [layer.n_in * layer.n_out for layer in network.layers], 0, network.layers[-1]
    if not inner.selects and last.activation.linear:
        sizes[-1] = last.n_in * inner.m
    elif not inner.selects:
        matrix = inner.n * inner.m
    dense = all(isinstance(step, Dense | Scale | Reshape) for layer in network.layers for step in layer.affine.steps)
    return dense and (inner.selects or not inner.count) and max(sum(sizes), matrix) <= _SMALL


class PackedObservations:
    """Packed networks whose outputs are the observed entries, for observations (B, m) that are :func:`packable`.

    Attributes:
        layout: the layout of the network that shows all outputs, see :class:`PackedNetwork`.
    """

    def __init__(self, network: Network, operator: Operator, y: Array, dtype: Precision = np.float32) -> None:
        self._chain, self._dtype = FoldedChain(network, operator, y), dtype
        self._sizes = [*network.activation_sizes, network.activation_sizes[-1]]
        self._packed = self._pack(self._chain.layers)
        self._entries: object = self  # what the network was packed for: at first, all outputs without weights
        self.layout = self._packed.layout

    def of(self, i: int) -> tuple[PackedNetwork, Numbers]:
        """The network whose outputs are the entries of observation ``i``, and the observation."""
        entries, (layers, y) = self._chain.entries(i), self._chain.of(i)
        if not self._chain.alike or self._entries is not entries:
            self._packed, self._entries = self._pack(layers), entries
        return self._packed, y.astype(self._dtype)

    def _pack(self, layers: list[FoldedLayer]) -> PackedNetwork:
        """The packed layers; a layer that is A alone has the smoothing width of the layer before."""
        return PackedNetwork.of(layers, self._sizes[: len(layers)], self._dtype)

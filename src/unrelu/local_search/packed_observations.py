"""Small dense networks packed into one vector of numbers for the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from unrelu.measurements.folding import FoldedChain, FoldedLayer
from unrelu.measurements.operators import Operator
from unrelu.models.affine import Dense, Reshape, Scale
from unrelu.models.affine_head import AffineHead
from unrelu.models.generator import Generator
from unrelu.models.network import LARGEST_COMPILED
from unrelu.runtime.array_types import Array, Integers

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
Precision: TypeAlias = type[np.floating[Any]]

# Columns of the layout: where a layer's transposed matrix, its biases and the parameters of its activation begin, its
# numbers of inputs and outputs, and the kind of its activation. An affine head has the kind HEAD and as many inputs as
# parameters. Its arrays are, in this order, its scale, its offset and its latent coordinates.
MATRIX, BIAS, ACTIVATION, INPUTS, OUTPUTS, KIND = range(6)
HEAD = -1
# The most numbers in the matrices of a packable network, and in the matrix of its operator.
_SMALL = LARGEST_COMPILED


class PackedNetwork(NamedTuple):
    """A network in one vector: layers x = w phi(W h + b), and affine heads behind them.

    Attributes:
        numbers: for each layer W^T, (inputs, outputs), then b, the slopes and steepnesses of its activation, and the
            weights w, (outputs,) each; for each head its arrays.
        layout: (d, 6), layers and heads; its columns are :data:`MATRIX` to :data:`KIND`.
        heads: the number of heads; None without heads, so that their code is not compiled.
        sizes: the smoothing width that a width of 1 stands for in each layer, 0 in a head, (d,).
    """

    numbers: Numbers
    layout: Integers
    heads: int | None
    sizes: Array

    @classmethod
    def of(
        cls, layers: Sequence[FoldedLayer], sizes: Sequence[float], dtype: Precision = np.float32,
        heads: Sequence[AffineHead] = (),
    ) -> PackedNetwork:  # fmt: skip
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
        for head in heads:
            numbers += [array.ravel() for array in head]
            ends = begin + np.cumsum([array.size for array in head])
            layout.append([begin, *ends[:2], len(head.latent), head.scale.shape[1], HEAD])
            begin = ends[2]
        widths = np.array([*sizes, *[0.0] * len(heads)])
        return cls(np.concatenate(numbers, dtype=dtype), np.array(layout), len(heads) or None, widths)


def latent_dim(layout: Integers) -> int:
    """Return the number of latent coordinates: inputs of the first layer, and parameters of heads."""
    return int(layout[0, INPUTS] + (layout[-1, INPUTS] if layout[-1, KIND] == HEAD else 0))


def packable(network: Generator, operator: Operator) -> bool:
    """Check whether the network is small, dense and on the CPU, and the measurement a choice of outputs or a matrix.

    The layers must be small together with the matrix, which is folded into a last layer without an activation. Affine
    heads may follow. With a matrix, they must scale all outputs alike.
    """
    inner = operator.unweighted
    if network.device.type != "cpu" or not inner.linear or (chain := network.headed) is None:
        return False
    if not (inner.selects or all(head.uniform for head in chain.heads)):
        return False
    layers = chain.network.layers
    sizes, matrix, last = [layer.n_in * layer.n_out for layer in layers], 0, layers[-1]
    if not inner.selects and last.activation.linear:
        sizes[-1] = last.n_in * inner.m
    elif not inner.selects:
        matrix = inner.n * inner.m
    dense = all(isinstance(step, Dense | Scale | Reshape) for layer in layers for step in layer.affine.steps)
    return dense and (inner.selects or not inner.count) and max(sum(sizes), matrix) <= _SMALL


class PackedObservations:
    """Packed networks whose outputs are the observed entries, for observations (B, m) that are :func:`packable`.

    Attributes:
        layout, heads: the layout and heads of the network with all outputs, see :class:`PackedNetwork`.
    """

    def __init__(self, network: Generator, operator: Operator, y: Array, dtype: Precision = np.float32) -> None:
        headed = network.headed
        assert headed is not None
        sizes = headed.network.activation_sizes
        self._chain, self._dtype = FoldedChain(headed.network, operator, y, heads=headed.heads), dtype
        self._sizes = [*sizes, sizes[-1]]
        self._packed = self._pack(self._chain.layers, self._chain.heads)
        self._entries: object = self  # what the network was packed for: at first, all outputs without weights
        self.layout, self.heads = self._packed.layout, self._packed.heads

    def of(self, i: int) -> tuple[PackedNetwork, Numbers]:
        """Return the network whose outputs are the entries of observation ``i``, and the observation."""
        entries, (layers, y) = self._chain.entries(i), self._chain.of(i)
        if not self._chain.alike or self._entries is not entries:
            self._packed, self._entries = self._pack(layers, self._chain.heads_of(i)), entries
        return self._packed, y.astype(self._dtype)

    def _pack(self, layers: list[FoldedLayer], heads: Sequence[AffineHead]) -> PackedNetwork:
        """Pack the layers; a layer that consists of A alone has the smoothing width of the layer before."""
        return PackedNetwork.of(layers, self._sizes[: len(layers)], self._dtype, heads)

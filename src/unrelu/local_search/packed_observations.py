"""Small dense networks packed into one vector of numbers for the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from unrelu.measurements.folding import FoldedChain, FoldedLayer
from unrelu.measurements.linear_operators import Operator
from unrelu.models.affine import Dense, Reshape, Scale
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Integers

Numbers = npt.NDArray[np.floating[Any]]

# Columns of the layout: where a layer's transposed matrix, biases and slopes begin, its numbers of inputs and outputs,
# the kind of its activation, and where the weights of its outputs begin (-1 without weights). After the slopes come the
# steepnesses.
MATRIX, BIAS, SLOPE, INPUTS, OUTPUTS, KIND, WEIGHT = range(7)
_COLUMNS = 7
# The most numbers in the matrices of a packable network, and in the matrix of its operator.
_SMALL = 2**19


class PackedNetwork(NamedTuple):
    """Layers x = phi(W h + b) in one vector.

    Attributes:
        numbers: for each layer W^T, (inputs, outputs), then b, the slopes and steepnesses of its activation, and the
            weights, (outputs,).
        layout: (d, 7); its columns are :data:`MATRIX` to :data:`WEIGHT`.
        sizes: the smoothing width that a width of 1 stands for in each layer, (d,).
    """

    numbers: Numbers
    layout: Integers
    sizes: Array

    @classmethod
    def of(
        cls, layers: Sequence[FoldedLayer], sizes: Sequence[float], dtype: type[np.floating[Any]] = np.float32
    ) -> PackedNetwork:
        """Pack layers, first to last; ``sizes`` are the smoothing widths that a width of 1 stands for."""
        numbers: list[Numbers] = []
        layout = np.zeros((len(layers), _COLUMNS), dtype=np.int64)
        begin = 0
        for row, layer in zip(layout, layers, strict=True):
            matrix, activation, weight = layer.dense, layer.activation, layer.weight
            outputs, inputs = matrix.shape
            slopes, steepnesses = (np.broadcast_to(v, (outputs,)) for v in (activation.slope, activation.steepness))
            row[:] = begin, begin + matrix.size, begin + matrix.size + outputs, inputs, outputs, activation.kind, -1
            numbers += [part.astype(dtype).ravel() for part in (matrix.T, layer.bias, slopes, steepnesses)]
            begin = row[SLOPE] + 2 * outputs
            if weight is not None:
                numbers.append(weight.astype(dtype))
                row[WEIGHT], begin = begin, begin + outputs
        return cls(np.concatenate(numbers), layout, np.array(sizes))


def packable(network: Generator, operator: Operator) -> TypeGuard[Network]:
    """Whether the network is small, dense and on the CPU, and the measurement a choice of outputs or a matrix.

    The layers are small with the matrix, which is folded into a last layer without an activation.
    """
    inner = operator.unweighted
    if not isinstance(network, Network) or (inner.count and not inner.selects):
        return False
    sizes = [layer.n_in * layer.n_out for layer in network.layers]
    last, matrix = network.layers[-1], inner.n * inner.m
    if not inner.selects and last.activation.linear:
        sizes[-1], matrix = last.n_in * inner.m, 0
    return (
        network.device.type == "cpu"
        and inner.linear
        and sum(sizes) <= _SMALL
        and (inner.selects or matrix <= _SMALL)
        and all(
            all(isinstance(step, Dense | Scale | Reshape) for step in layer.affine.steps) for layer in network.layers
        )
    )


class PackedObservations:
    """Packed networks whose outputs are the observed entries, for observations (B, m) that are :func:`packable`.

    Args:
        dtype: single or double precision.
    """

    def __init__(
        self, network: Network, operator: Operator, y: Array, dtype: type[np.floating[Any]] = np.float32
    ) -> None:
        self._chain, self._dtype = FoldedChain(network, operator, y), dtype
        self._sizes = [*network.activation_sizes, network.activation_sizes[-1]]
        # What the network was packed for: at first, all outputs without weights.
        self._packed: tuple[object, PackedNetwork] = (self, self._pack(self._chain.layers))

    @property
    def layout(self) -> Integers:
        """The layout of the network, see :class:`PackedNetwork`."""
        return self._packed[1].layout

    def of(self, i: int) -> tuple[PackedNetwork, Numbers]:
        """The network whose outputs are the entries of observation ``i``, and the observation."""
        entries, (layers, y) = self._chain.entries(i), self._chain.of(i)
        if not self._chain.alike or self._packed[0] is not entries:
            self._packed = (entries, self._pack(layers))
        return self._packed[1], y.astype(self._dtype)

    def _pack(self, layers: list[FoldedLayer]) -> PackedNetwork:
        """The packed layers; a layer that is A alone has the smoothing width of the layer before."""
        return PackedNetwork.of(layers, self._sizes[: len(layers)], self._dtype)

"""Small dense networks packed into one vector of numbers for the compiled kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.measurements.linear_operators import Operator
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense, Reshape, Scale
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Index, Integers

Numbers = npt.NDArray[np.floating[Any]]

# Columns of the layout: where a layer's transposed matrix, biases and slopes begin, its numbers of inputs and outputs,
# the kind of its activation, and where the weights of its outputs begin (-1 without weights). After the slopes come the
# steepnesses.
MATRIX, BIAS, SLOPE, INPUTS, OUTPUTS, KIND, WEIGHT = range(7)
_COLUMNS = 7
# The most numbers in the matrices of a packable network, and in the matrix of its operator.
_SMALL = 2**19


class PackedLayer(NamedTuple):
    """x = phi(W h + b): W (n_out, n_in), b (n_out,), and the smoothing width that a width of 1 stands for.

    Observed outputs may have weights, (n_out,), which multiply the smoothed phi.
    """

    matrix: Array
    bias: Array
    activation: Activation
    size: float
    weight: Array | None = None

    def outputs(self, index: Index | slice) -> PackedLayer:
        """The layer with only some of its outputs, without weights."""
        return PackedLayer(self.matrix[index], self.bias[index], self.activation.of(index), self.size)


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
    def of(cls, layers: list[PackedLayer], dtype: type[np.floating[Any]] = np.float32) -> PackedNetwork:
        """Pack layers, first to last."""
        numbers: list[Numbers] = []
        layout = np.zeros((len(layers), _COLUMNS), dtype=np.int64)
        begin = 0
        for row, (matrix, bias, activation, _, weight) in zip(layout, layers, strict=True):
            outputs, inputs = matrix.shape
            slopes, steepnesses = (np.broadcast_to(v, (outputs,)) for v in (activation.slope, activation.steepness))
            row[:] = begin, begin + matrix.size, begin + matrix.size + outputs, inputs, outputs, activation.kind, -1
            numbers += [part.astype(dtype).ravel() for part in (matrix.T, bias, slopes, steepnesses)]
            begin = row[SLOPE] + 2 * outputs
            if weight is not None:
                numbers.append(weight.astype(dtype))
                row[WEIGHT], begin = begin, begin + outputs
        return cls(np.concatenate(numbers), layout, np.array([layer.size for layer in layers]))


def packable(network: Generator, operator: Operator) -> bool:
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
        self.y, self._dtype = y, dtype
        inner, weights = operator.unweighted, operator.weights(len(y))
        sizes = network.activation_sizes
        matrices = [layer.matrix() for layer in network.layers]  # a layer of a scale alone has a sparse one
        dense = [m if isinstance(m, np.ndarray) else m.toarray() for m in matrices]
        layers = [
            PackedLayer(m, layer.bias(), layer.activation, size)
            for m, layer, size in zip(dense, network.layers, sizes, strict=True)
        ]
        self._shown = inner.observed_outputs(y)
        if self._shown is None:
            last = layers[-1]
            if last.activation.linear:
                matrix, bias = inner.folded(last.matrix, last.bias)
                layers[-1] = PackedLayer(matrix, bias, last.activation, last.size)
            else:
                a = inner.matrix()
                layers.append(PackedLayer(a, np.zeros(len(a)), Activation("identity"), last.size))
        shown = None if weights is None else inner.observed_outputs(weights)
        # The weights of the entries of each observation, and whether all observations have the same.
        self._weights = weights if shown is None else [values for _, values in shown]
        self._alike = weights is None or not operator.count
        self._layers = layers
        # What the network was packed for: at first, the outputs without weights.
        self._packed: tuple[object, PackedNetwork] = (self, PackedNetwork.of(layers, dtype))

    @property
    def layout(self) -> Integers:
        """The layout of the network, see :class:`PackedNetwork`."""
        return self._packed[1].layout

    def of(self, i: int) -> tuple[PackedNetwork, Numbers]:
        """The network whose outputs are the entries of observation ``i``, and the observation."""
        entries, y = (None, self.y[i]) if self._shown is None else self._shown[i]
        if not self._alike or self._packed[0] is not entries:
            self._packed = (entries, PackedNetwork.of(self.layers(i)[0], self._dtype))
        return self._packed[1], y.astype(self._dtype)

    def layers(self, i: int) -> tuple[list[PackedLayer], Array]:
        """The layers whose outputs are the entries of observation ``i``, and the observation."""
        entries, y = (None, self.y[i]) if self._shown is None else self._shown[i]
        last = self._layers[-1]
        last = last if entries is None else last.outputs(entries)
        if self._weights is not None:
            last = last._replace(weight=self._weights[i])
        return [*self._layers[:-1], last], y

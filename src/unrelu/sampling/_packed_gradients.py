"""Compiled outputs and gradients of small dense networks in double precision, row by row.

Each row is computed on its own, so its result does not depend on the other rows.
"""

from __future__ import annotations

import numpy as np

from unrelu.local_search.descent_kernel import ROOM, forward
from unrelu.local_search.packed_observations import INPUTS, OUTPUTS, PackedLayer, PackedNetwork
from unrelu.local_search.refinement import backward
from unrelu.lp.compilation import compile_by
from unrelu.lp.dense_linear_algebra import kernel
from unrelu.models.activations import Activation
from unrelu.runtime.array_types import Array


@kernel
def _forward_rows(numbers, layout, widths, ends, z, u, x, slopes):
    """Write pre-activations, outputs and slopes of all layers for codes z (c, k), a row each."""
    for i in range(len(z)):
        forward(numbers, layout, widths, z[i], ends, u[i], x[i], slopes[i])


@kernel
def _backward_rows(numbers, layout, ends, slopes, back):
    """Write the derivatives by codes at the beginnings of rows, from those by outputs at their ends."""
    for i in range(len(back)):
        backward(numbers, layout, ends, slopes[i], back[i])


class PackedGradients:
    """A packed network evaluated at several codes, and the reverse pass from there."""

    def __init__(self, network: PackedNetwork) -> None:
        compile_by(_smallest_gradient, _forward_rows.stats.cache_path, "gradients")
        self._numbers, self._layout = network.numbers, network.layout
        self._ends = np.concatenate([[0, self._layout[0, INPUTS]], self._layout[:, OUTPUTS]]).cumsum()
        self._widths = np.zeros(len(self._layout))
        self._arrays: tuple[Array, Array, Array, Array] = (np.empty((0, 0)),) * 4

    def outputs(self, z: Array) -> Array:
        """The outputs at codes z (c, k), (c, m)."""
        if len(self._arrays[0]) != len(z):
            u, x, slopes, back = (np.zeros((len(z), self._ends[-1] + 2 * ROOM)) for _ in range(4))
            self._arrays = u, x, slopes, back
        u, x, slopes, _ = self._arrays
        _forward_rows(self._numbers, self._layout, self._widths, self._ends, z, u, x, slopes)
        return x[:, self._ends[-2] : self._ends[-1]]

    def gradients(self, derivatives: Array) -> Array:
        """The derivatives by the codes of the last call of :meth:`outputs`, (c, k), from those by outputs, (c, m)."""
        _, _, slopes, back = self._arrays
        back[:, self._ends[-2] : self._ends[-1]] = derivatives
        _backward_rows(self._numbers, self._layout, self._ends, slopes, back)
        return back[:, : self._ends[1]].copy()


def _smallest_gradient() -> None:
    """Evaluate G(z) = relu(z) and its gradient."""
    one = np.ones((1, 1))
    weights, layout, _ = PackedNetwork.of([PackedLayer(one, np.zeros(1), Activation("relu"), 1.0)], np.float64)
    ends, rows = np.array([0, 1, 2]), np.zeros((4, 1, 2 + 2 * ROOM))
    _forward_rows(weights, layout, np.zeros(1), ends, one, rows[0], rows[1], rows[2])
    _backward_rows(weights, layout, ends, rows[2], rows[3])

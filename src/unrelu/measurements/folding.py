r"""A network and its measurement as one chain of layers, whose outputs are the observed entries.

**The last layer phi(W h + b) and A together** often are a single layer whose whole output is observed:

- A selects outputs (all, those of a mask, or rows with a single 1) by a matrix S: it is the layer of the selected
  rows, since S phi(W h + b) = phi(S W h + S b).
- phi is the identity: it is the layer A (W h + b) = (A W) h + A b, for any A.
- A mixes outputs of another phi: it is not one layer. A linear layer with matrix A follows the last one. Layer methods
  cannot invert it; proofs can use it.
- A weights what it selects, as noise of different sizes does, and phi(s u) = s phi(u) for s > 0 (not a sigmoid or
  tanh): it is the layer of rows S W and biases S b, multiplied by the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from unrelu.measurements.operators import Operator, OutputIndex
from unrelu.models.activations import Activation
from unrelu.models.affine_head import AffineHead
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Index


def is_one_layer(network: Generator, operator: Operator) -> bool:
    """Whether the last layer and A together are a single layer (see the top of this module)."""
    last = network.layers[-1].activation if isinstance(network, Network) else None
    if not operator.linear or (last is not None and last.linear):
        return operator.linear
    weighs = operator.unweighted is not operator
    return operator.unweighted.selects and not (weighs and (last is None or last.smooth))


def observed_outputs(operator: Operator, y: Array) -> list[tuple[OutputIndex, Array]] | None:
    """For each of the observations (B, m), the outputs that it shows and their values; None if A mixes outputs.

    Observations that show the same outputs share one index object.
    """
    chosen, seen = operator.selection(), operator.seen(len(y))
    if chosen is None or seen.all():
        return None if chosen is None else [(chosen, row) for row in y]
    shared = None if operator.count else np.flatnonzero(seen[0])  # a mask, of which an entry is the output of its place
    rows = [np.flatnonzero(row) if shared is None else shared for row in seen]
    return [(shown, row[shown]) for shown, row in zip(rows, y, strict=True)]


class FoldedLayer(NamedTuple):
    """x = w phi(W h + b): W (n_out, n_in), dense or sparse, b (n_out,), and the weights w (n_out,), if any."""

    matrix: Array | sparse.csr_array
    bias: Array
    activation: Activation
    weight: Array | None = None

    def outputs(self, index: Index | slice) -> FoldedLayer:
        """The layer with only some of its outputs, without weights."""
        if isinstance(index, slice) and index == slice(None):
            return self._replace(weight=None)
        return FoldedLayer(self.matrix[index], self.bias[index], self.activation.of(index))

    @property
    def dense(self) -> Array:
        """W as a dense array."""
        return self.matrix if isinstance(self.matrix, np.ndarray) else np.asarray(self.matrix.toarray())


class FoldedChain:
    r"""The layers of A G, for each of the observations y (B, m).

    Where A picks outputs, the last layer is restricted to them. Otherwise A follows as one more layer without an
    activation. If the last layer has no activation either, A is multiplied into it, unless ``exact``: the product is
    rounded, and a proof for the rounded chain would not hold for A G. Weights of entries, which stated noise gives,
    multiply the outputs of the last layer.

    Affine heads may follow the layers. A matrix A passes through heads that scale all outputs alike.

    Attributes:
        layers: the layers whose outputs are all that A takes in, or gives out if it mixes outputs; without weights.
        heads: the heads behind them, of the same outputs.
        alike: whether all observations that show the same entries have the same weights.

    Args:
        network, operator: G and A, which is linear.
        y: the observations, (B, m).
        exact: whether no number may be rounded.
        heads: affine heads behind G, first to last; uniform if A mixes outputs.
    """

    def __init__(
        self, network: Network, operator: Operator, y: Array, exact: bool = False, heads: Sequence[AffineHead] = ()
    ) -> None:
        inner, self._y = operator.unweighted, y
        layers = [FoldedLayer(layer.matrix(), layer.bias(), layer.activation) for layer in network.layers]
        self._shown = observed_outputs(inner, y)
        if self._shown is None:
            last = layers[-1]
            if last.activation.linear and not exact:
                columns = inner.values(np.ascontiguousarray(last.dense.T))
                bias = inner.values(last.bias[None, :])[0]
                layers[-1] = FoldedLayer(np.ascontiguousarray(columns.T), bias, last.activation)
            else:
                a = inner.matrix()
                layers.append(FoldedLayer(a, np.zeros(len(a)), Activation("identity")))
            each = [(head, np.repeat(head.scale[:, :1], inner.m, axis=1)) for head in heads]
            heads = [head._replace(scale=scale, offset=inner.values(head.offset)) for head, scale in each]
        self.layers, self.heads = layers, list(heads)
        self._last: dict[int, FoldedLayer] = {}
        weights = operator.weights(len(y))
        picked = None if weights is None else observed_outputs(inner, weights)
        self._weights = weights if picked is None else [values for _, values in picked]
        self.alike = weights is None or not operator.count

    def entries(self, i: int) -> OutputIndex | None:
        """What observation ``i`` shows of the last layer; None for all. Observations that show the same share it."""
        return None if self._shown is None else self._shown[i][0]

    def of(self, i: int) -> tuple[list[FoldedLayer], Array]:
        """The layers whose outputs are the entries of observation ``i``, and the observation."""
        last, y = self.layers[-1], self._y[i]
        if self._shown is not None:
            index, y = self._shown[i]
            if id(index) not in self._last:
                self._last[id(index)] = last.outputs(index)
            last = self._last[id(index)]
        if self._weights is not None:
            last = last._replace(weight=self._weights[i])
        return [*self.layers[:-1], last], y

    def heads_of(self, i: int) -> list[AffineHead]:
        """The heads behind those layers."""
        index, weight = self.entries(i), 1.0 if self._weights is None else self._weights[i]
        heads = self.heads if index is None else [head.outputs(index) for head in self.heads]
        return [head._replace(offset=weight * head.offset) for head in heads]

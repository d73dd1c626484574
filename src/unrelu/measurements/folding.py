r"""Fold a measurement into a network: one chain of layers whose outputs are the observed entries.

**The last layer phi(W h + b) and A together** are often a single layer whose whole output is observed:

- A selects outputs (all, by a mask, or by rows with a single 1) with a matrix S. The single layer consists of the
  selected rows, since S phi(W h + b) = phi(S W h + S b).
- phi is the identity. The single layer is A (W h + b) = (A W) h + A b, for any A.
- A mixes outputs, and phi is not the identity. There is no single layer: a linear layer with matrix A follows the last
  one. Layer methods cannot invert it; proofs can use it.
- A selects and weights outputs, as for noise of different sizes, and phi(s u) = s phi(u) for s > 0 (not a sigmoid or
  tanh). The single layer has the rows S W and the biases S b, multiplied by the weights.
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
    """Check whether the last layer and A together are a single layer (see the top of this module)."""
    last = network.layers[-1].activation if isinstance(network, Network) else None
    if not operator.linear or (last is not None and last.linear):
        return operator.linear
    weighs = operator.unweighted is not operator
    return operator.unweighted.selects and not (weighs and (last is None or last.smooth))


def observed_outputs(operator: Operator, y: Array) -> list[tuple[OutputIndex, Array]] | None:
    """Return the observed outputs and their values for each observation (B, m); None if A mixes outputs.

    Observations of the same outputs share one index object.
    """
    chosen, seen = operator.selection(), operator.seen(len(y))
    if chosen is None or seen.all():
        return None if chosen is None else [(chosen, row) for row in y]
    shared = None if operator.count else np.flatnonzero(seen[0])  # for a mask, entry j is output j
    rows = [np.flatnonzero(row) if shared is None else shared for row in seen]
    return [(shown, row[shown]) for shown, row in zip(rows, y, strict=True)]


class FoldedLayer(NamedTuple):
    """A layer x = w phi(W h + b): W (n_out, n_in), dense or sparse, b (n_out,), and the weights w (n_out,), if any."""

    matrix: Array | sparse.csr_array
    bias: Array
    activation: Activation
    weight: Array | None = None

    def outputs(self, index: Index | slice) -> FoldedLayer:
        """Restrict the layer to some of its outputs, without weights."""
        if isinstance(index, slice) and index == slice(None):
            return self._replace(weight=None)
        return FoldedLayer(self.matrix[index], self.bias[index], self.activation.of(index))

    @property
    def dense(self) -> Array:
        """W as a dense array."""
        return self.matrix if isinstance(self.matrix, np.ndarray) else np.asarray(self.matrix.toarray())


class FoldedChain:
    r"""The layers of A G for each observation y (B, m).

    If A selects outputs, the last layer is restricted to them. Otherwise A follows as one more layer without an
    activation. If the last layer has no activation either, A is multiplied into it, unless ``exact``: the product is
    rounded, and a proof for the rounded chain would not hold for A G. Weights of entries, which follow from stated
    noise, multiply the outputs of the last layer.

    Affine heads may follow the layers. A matrix A can be applied before heads that scale all outputs alike.

    Attributes:
        layers: the layers up to the inputs of A, or up to its outputs if A mixes outputs; without weights.
        heads: the affine heads after these layers, for the same outputs.
        alike: whether all observations of the same entries have the same weights.

    Args:
        network, operator: G and a linear A.
        y: the observations, (B, m).
        exact: whether no number may be rounded.
        heads: affine heads after G, first to last; uniform if A mixes outputs.
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
        """Return the outputs of the last layer that observation ``i`` shows; None for all.

        Observations of the same outputs share one index object.
        """
        return None if self._shown is None else self._shown[i][0]

    def of(self, i: int) -> tuple[list[FoldedLayer], Array]:
        """Return the layers whose outputs are the entries of observation ``i``, and the observation."""
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
        """Return the affine heads after the layers of observation ``i``."""
        index, weight = self.entries(i), 1.0 if self._weights is None else self._weights[i]
        heads = self.heads if index is None else [head.outputs(index) for head in self.heads]
        return [head._replace(offset=weight * head.offset) for head in heads]

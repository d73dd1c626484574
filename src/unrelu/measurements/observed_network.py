r"""What the last layer phi(W h + b) of a network becomes under a measurement A: layers whose whole output is observed.

- A picks outputs S (all of them, those of a mask, or rows with a single 1): the layer of these rows, as
  S phi(W h + b) = phi(S W h + S b).
- phi is the identity: A (W h + b) = (A W) h + A b for any A.
- A mixes outputs of another phi: one more linear layer, of matrix A. Layer methods cannot invert it; proofs can use it.
- A weighs what is picked, as noise of different sizes does, and phi(s u) = s phi(u) for s > 0 (no sigmoid or tanh): the
  layer of rows S W and biases S b, scaled alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.measurements.linear_operators import Identity, MaskOperator, Operator, Weighted
from unrelu.measurements.noise import Noise, RoundingNoise
from unrelu.models.generator import Generator
from unrelu.models.network import Network

Array = npt.NDArray[np.float64]
# The outputs that an observation shows: an index into the rows of the last layer.
OutputRows = npt.NDArray[np.intp] | slice


def selects_outputs(operator: Operator) -> bool:
    """Whether A picks entries of the output, and mixes none."""
    return isinstance(operator, Identity | MaskOperator) or operator.selection() is not None


def is_layer(network: Generator, operator: Operator) -> bool:
    """Whether what was observed is the output of a single layer: A picks outputs, or no activation is before it.

    It may weigh what it picks, where the activation is none with a unit of its own.
    """
    if not operator.linear:
        return False
    last = network.layers[-1].activation if isinstance(network, Network) else None
    if last is not None and last.linear:
        return True
    if isinstance(operator, Weighted):
        return last is not None and not last.smooth and selects_outputs(operator.inner)
    return selects_outputs(operator)


def unweighted(operator: Operator, size: int) -> tuple[Operator, Array | None]:
    """The operator without its weights, and these for ``size`` observations, (size, m); None where it has none."""
    return (operator.inner, operator.weights(size)) if isinstance(operator, Weighted) else (operator, None)


def observed_rows(operator: Operator, y: Array) -> list[tuple[OutputRows, Array]] | None:
    """Which outputs each of the observations (B, m) shows, and what they are; None where A mixes outputs.

    Observations that show the same outputs have the same object for them.
    """
    if isinstance(operator, MaskOperator):
        seen = operator.seen(len(y))
        shared = None if operator.count else np.flatnonzero(seen[0])
        rows = [np.flatnonzero(row) if shared is None else shared for row in seen]
        return [(shown, row[shown]) for shown, row in zip(rows, y, strict=True)]
    chosen = slice(None) if isinstance(operator, Identity) else operator.selection()
    return None if chosen is None else [(chosen, row) for row in y]


def folded(operator: Operator, matrix: Array | sparse.csr_array, bias: Array) -> tuple[Array, Array]:
    """A W, (m, k), and A b, (m,), dense."""
    dense = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    columns = operator.values(np.ascontiguousarray(dense.T))
    return np.ascontiguousarray(columns.T), operator.values(bias[None, :])[0]


def written_out(operator: Operator) -> Array:
    """A as a matrix, (m, n)."""
    matrix = operator.matrix()
    return np.ascontiguousarray(operator.values(np.eye(operator.n)).T if matrix is None else matrix)


def rounding_noise(network: Generator, stated: Noise, y: Array, operator: Operator) -> Noise:
    """The noise that is known: where none is stated, the rounding of the module, if y (B, m) was computed by it."""
    found = network.rounding
    if found is None or stated.stated or not selects_outputs(operator) or not found.stored(y):
        return stated
    return RoundingNoise(found.level, precision=found.name, given=found.level)

"""The last layer of a network as it was observed: the systems of the layer methods under a measurement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from unrelu.activations import Activation
from unrelu.errors import UnsupportedModelError
from unrelu.layer import LayerSystem
from unrelu.network import Network
from unrelu.operators import Identity, MaskOperator
from unrelu.problem import Problem

__all__ = ["ObservedLayer", "mixes"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ObservedLayer:
    r"""x = phi(W h + b) seen through A, as a layer whose whole output is observed.

    - A picks entries (a mask, or rows with a single 1): the layer of these rows, S phi(W h + b) = phi(S W h + S b).
    - phi is the identity: A (W h + b) = (A W) h + A b for any A.

    Raises:
        UnsupportedModelError: A mixes entries behind an activation, which no layer does.
    """

    problem: Problem
    last: LayerSystem
    method: str

    def __post_init__(self) -> None:
        if not mixes(self.problem):
            return
        raise UnsupportedModelError(
            f"method={self.method!r} inverts layer by layer, but operator= mixes the outputs of the last activation "
            f"({self.last.activation}): use method='auto', 'lm' or 'projected'"
        )

    def systems(self) -> list[tuple[LayerSystem, Array]]:
        """The observed layer and its output, (m,), of every observation; one system where they share it."""
        y, operator = self.problem.y, self.problem.operator
        if isinstance(operator, MaskOperator):
            seen = operator.seen(len(y))
            if operator.count:
                return [(restricted(self.last, kept), row[kept]) for kept, row in zip(seen, y, strict=True)]
            shared = restricted(self.last, seen[0])
            return [(shared, row[seen[0]]) for row in y]
        chosen = operator.selection()
        if chosen is not None:
            shared = restricted(self.last, chosen)
        elif isinstance(operator, Identity):
            shared = self.last
        else:
            through = partial(_through, self.problem)
            matrix = self.last.matrix
            dense = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
            bias = through(self.last.bias[None, :])[0]
            shared = replace(self.last, matrix=np.ascontiguousarray(through(dense.T).T), bias=bias)
        return [(shared, row) for row in y]


def mixes(problem: Problem) -> bool:
    """Whether A mixes outputs of an activation, so that what was observed is no output of a layer."""
    operator, network = problem.operator, problem.network
    linear = isinstance(network, Network) and network.layers[-1].activation.name == "identity"
    return not (isinstance(operator, Identity | MaskOperator) or linear or operator.selection() is not None)


def restricted(system: LayerSystem, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> LayerSystem:
    """The layer with some of its outputs."""
    activation = system.activation
    if activation.slope.ndim:
        activation = Activation(activation.name, activation.slope[rows])
    return replace(system, matrix=system.matrix[rows], bias=system.bias[rows], activation=activation)


def _through(problem: Problem, x: Array) -> Array:
    return problem.operator.values(np.ascontiguousarray(x))

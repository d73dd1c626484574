"""The networks of Theorem 1 and Example 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.loaders import from_arrays
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags
from unrelu_studies.paper.hardness.formula import Formula, as_assignments

#: A max-norm residual below this proves a formula satisfiable; an unsatisfiable formula has none (but for rounding).
SEPARATION = 0.5


@dataclass(frozen=True, eq=False)
class Reduction:
    r"""A formula as an inversion problem: it is satisfiable exactly when some z has G(z) = y.

    Where :math:`|y - G(z)|_\infty < \tfrac12`, ``decode(z)`` satisfies the formula; if it cannot be satisfied, the
    residual is at least 1/2 (:data:`SEPARATION`) for every z. Where :math:`|y - G(z)|_\infty \le t`, every
    :math:`z_i` is within t of 0 or 1.

    Attributes:
        formula: of n variables and m clauses.
        network: G, n -> 2n -> 2n + m -> 2 -> 2, every layer ReLU.
        observation: y = (1, 1).

    Source: Theorem 1 of the paper.
    """

    formula: Formula
    network: Network
    observation: Array

    def decode(self, z: npt.ArrayLike) -> Flags:
        """The assignment nearest to each code, z_i > 1/2: booleans, shaped like z.

        Args:
            z: codes, (n,) or (B, n).

        Raises:
            InputError: z has another shape, or entries that are NaN.
        """
        codes, n = np.asarray(z, dtype=np.float64), self.formula.variables
        if codes.shape[-1:] != (n,) or codes.ndim > 2:
            raise InputError(f"z has shape {codes.shape}; the formula has {n} variables, pass ({n},) or (B, {n})")
        nans = int(np.isnan(codes).sum())
        if nans:
            raise InputError(f"{nans} of {codes.size} entries of z are NaN, which is nearest to no assignment")
        return codes > 0.5

    def encode(self, assignment: npt.ArrayLike) -> Array:
        """The code of each assignment, 1 for true and 0 for false; one that satisfies the formula has exactly G(z) = y.

        Args:
            assignment: booleans, (n,) or (B, n).

        Raises:
            InputError: it has another shape, or is not boolean.
        """
        return as_assignments(assignment, self.formula.variables).astype(np.float64)


def reduction(formula: Formula) -> Reduction:
    """The network that reaches (1, 1) exactly where the formula is satisfied: layers of 2n, 2n + m, 2 and 2 neurons.

    Its matrices are dense, and take some 16 n (2n + m) bytes.

    Source: Theorem 1 of the paper, whose proof is in :mod:`unrelu_studies.paper.hardness`.
    """
    n, m = formula.variables, len(formula.clauses)
    # A literal is 1/2 + sign (p - q), so 1 - sum of the literals = 1 - |C|/2 - sum of sign (p - q).
    signs, constants = np.zeros((m, n)), np.ones(m)
    for j, clause in enumerate(formula.clauses):
        for literal in set(clause):
            signs[j, abs(literal) - 1] += np.sign(literal)
            constants[j] -= 0.5
    one, half = np.eye(n), np.full(n, 0.5)
    network = from_arrays(
        [
            np.vstack([one, -one]),
            np.block([[one, one], [-one, -one], [-signs, signs]]),
            np.repeat(np.eye(2), [2 * n, m], axis=1),
            np.eye(2),
        ],
        [np.concatenate([-half, half]), np.concatenate([-half, half, constants]), None, np.ones(2)],
    )
    return Reduction(formula, network, _frozen([1, 1]))


@dataclass(frozen=True, eq=False)
class Example:
    """A network R^k -> R^n, an observation (n,), and two codes (2, k) that reach it while their midpoint does not."""

    network: Network
    observation: Array
    codes: Array


def example_1() -> Example:
    r"""Two layers with a preimage that is not convex, as that of one layer always is.

    .. math:: G(z) = ([|z_1| + |z_2| - 2]_+, [1 - |z_1| - |z_2|]_+), \quad y = (0, 0)

    where the first layer's neurons are :math:`h = ([z_1]_+, [z_2]_+, [-z_1]_+, [-z_2]_+)`. Under the second layer
    alone, the preimage of y is the polytope :math:`1 \le h_1 + h_2 + h_3 + h_4 \le 2`. Under both it is the square ring
    :math:`1 \le |z_1| + |z_2| \le 2`: the codes (-3/2, 0) and (3/2, 0) lie in it, but G(0, 0) = (0, 1).

    Source: Example 1 of the paper claims a preimage that is not convex; this network is ours.
    """
    first = np.vstack([np.eye(2), -np.eye(2)])
    network = from_arrays([first, np.vstack([np.ones(4), -np.ones(4)])], [None, [-2, 1]])
    return Example(network, _frozen([0, 0]), _frozen([[-1.5, 0], [1.5, 0]]))


def _frozen(values: npt.ArrayLike) -> Array:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array

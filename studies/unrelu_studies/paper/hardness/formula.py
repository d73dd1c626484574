"""Formulas in conjunctive normal form, with clauses of at most three literals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.runtime.array_types import Flags
from unrelu.runtime.streams import stream

# The most that a clause may have.
_LITERALS = 3
# 2^20 assignments of 20 variables are 20 MB.
_ENUMERABLE = 20


@dataclass(frozen=True)
class Formula:
    """A conjunction of clauses, each a disjunction of one to three literals.

    Args:
        variables: their number n, at least 1; they are called 1, ..., n.
        clauses: tuples of literals as DIMACS writes them: i is variable i, -i its negation.

    Raises:
        InputError: there is no variable, or a clause is empty, has more than three literals, or one out of range.
    """

    variables: int
    clauses: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if self.variables < 1:
            raise InputError(f"a formula of {self.variables} variables; it needs at least one")
        clauses = tuple(tuple(int(literal) for literal in clause) for clause in self.clauses)
        for number, clause in enumerate(clauses, 1):
            if not 1 <= len(clause) <= _LITERALS:
                raise InputError(f"clause {number}, {clause}, has {len(clause)} literals; it needs 1 to {_LITERALS}")
            if off := [literal for literal in clause if not 1 <= abs(literal) <= self.variables]:
                raise InputError(
                    f"clause {number}, {clause}: literal {off[0]} is out of range; the variables are 1 to "
                    f"{self.variables}"
                )
        object.__setattr__(self, "clauses", clauses)

    def satisfied_by(self, assignment: npt.ArrayLike) -> bool:
        """Whether every clause has a true literal.

        Args:
            assignment: the value of every variable, booleans (n,).

        Raises:
            InputError: it is not (n,), or not boolean.
        """
        return bool(self._satisfied(as_assignments(assignment, self.variables, batch=False)[None])[0])

    def models(self) -> Flags:
        """All satisfying assignments, (number, n), by trying all 2^n.

        Raises:
            InputError: there are more than 20 variables.
        """
        if self.variables > _ENUMERABLE:
            raise InputError(f"{self.variables} variables: every assignment can be tried of {_ENUMERABLE} at most")
        numbers = np.arange(2**self.variables, dtype=np.uint32)
        assignments = np.stack([(numbers >> i) & 1 == 1 for i in range(self.variables)], axis=1)
        return assignments[self._satisfied(assignments)]

    def satisfiable(self) -> bool:
        """Whether there is a satisfying assignment, by trying all 2^n; raises as :meth:`models`."""
        return len(self.models()) > 0

    def _satisfied(self, assignments: Flags) -> Flags:
        """For each of the assignments (B, n) whether it satisfies the formula, (B,)."""
        satisfied = np.ones(len(assignments), dtype=bool)
        for clause in self.clauses:
            true = np.zeros(len(assignments), dtype=bool)
            for literal in clause:
                true |= assignments[:, abs(literal) - 1] == (literal > 0)
            satisfied &= true
        return satisfied


def random_formula(variables: int, clauses: int, seed: int) -> Formula:
    """Uniform random 3SAT: each clause has three distinct variables, each negated with probability 1/2.

    Raises:
        InputError: fewer than three variables, or a negative number of clauses.
    """
    if variables < _LITERALS or clauses < 0:
        raise InputError(
            f"a random formula of {variables} variables and {clauses} clauses; it needs at least {_LITERALS} variables "
            "and not less than no clause"
        )
    rng = stream("3SAT formula", seed)
    chosen = [1 + rng.choice(variables, _LITERALS, replace=False) for _ in range(clauses)]
    return Formula(variables, tuple(tuple((c * rng.choice((-1, 1), _LITERALS)).tolist()) for c in chosen))


def as_assignments(values: npt.ArrayLike, variables: int, batch: bool = True) -> Flags:
    """An assignment (n,), or with ``batch`` also several (B, n), as a boolean array.

    Raises:
        InputError: another shape, or not boolean: of DIMACS's 3 and -3, both would count as true.
    """
    array = np.asarray(values)
    if array.shape[-1:] != (variables,) or array.ndim > 1 + batch:
        shapes = f"({variables},)" + f" or (B, {variables})" * batch
        raise InputError(
            f"the assignment has shape {array.shape}; the formula has {variables} variables, pass {shapes}"
        )
    if array.dtype != np.bool_:
        raise InputError(f"the assignment has dtype {array.dtype}; pass booleans, one for each variable")
    return array

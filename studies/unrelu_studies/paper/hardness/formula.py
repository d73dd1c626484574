"""Formulas in conjunctive normal form, with clauses of at most three literals, and the DIMACS text that holds them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.runtime.file_reading import read_bytes
from unrelu.runtime.streams import stream

Booleans = npt.NDArray[np.bool_]

# The most that a clause may have.
_LITERALS = 3
# 2^20 assignments of 20 variables are 20 MB.
_ENUMERABLE = 20
_HEADER = "'p cnf VARIABLES CLAUSES'"
# Bytes of text that are read; a literal of two bytes takes up to a hundred as Python's objects.
_LARGEST = 2**26
_SHOWN = 60  # characters of a line in a message


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
            where = f"clause {number}, {clause}"
            _check_length(clause, where)
            for literal in clause:
                _check_literal(literal, self.variables, where)
        object.__setattr__(self, "clauses", clauses)

    def satisfied_by(self, assignment: npt.ArrayLike) -> bool:
        """Whether every clause has a true literal.

        Args:
            assignment: the value of every variable, booleans (n,).

        Raises:
            InputError: it is not (n,), or not boolean.
        """
        return bool(self._satisfied(as_assignments(assignment, self.variables, batch=False)[None])[0])

    def models(self) -> Booleans:
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

    def dimacs(self) -> str:
        """The formula as DIMACS CNF text, a clause a line."""
        lines = [f"p cnf {self.variables} {len(self.clauses)}"]
        lines += [" ".join(map(str, [*clause, 0])) for clause in self.clauses]
        return "\n".join(lines) + "\n"

    def _satisfied(self, assignments: Booleans) -> Booleans:
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


def as_assignments(values: npt.ArrayLike, variables: int, batch: bool = True) -> Booleans:
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


def _check_length(clause: Sequence[int], where: str) -> None:
    """Refuse a clause that is empty or too long; ``where`` begins the message."""
    if not clause:
        raise InputError(f"{where}: a clause is empty; it cannot be satisfied, nor can the formula")
    if len(clause) > _LITERALS:
        raise InputError(f"{where}: a clause has more than {_LITERALS} literals; split it first")


def _check_literal(literal: int, variables: int, where: str) -> None:
    """Refuse a literal of a variable that there is not; ``where`` begins the message."""
    if not 1 <= abs(literal) <= variables:
        raise InputError(f"{where}: literal {literal} is out of range; the variables are 1 to {variables}")


def read_dimacs(path: str | Path) -> Formula:
    """The formula in a DIMACS CNF file; see :func:`parse_dimacs`.

    Raises:
        InputError: the file cannot be read, or is not DIMACS CNF.
    """
    # Comments may be in any encoding; elsewhere the replacement character is refused as a literal.
    text = read_bytes(path, _LARGEST).decode("utf-8", errors="replace")
    return parse_dimacs(text, str(path))


def parse_dimacs(text: str, name: str = "the text") -> Formula:
    """The formula in DIMACS CNF text: comments ``c``, a line ``p cnf VARIABLES CLAUSES``, clauses that end with 0.

    A clause may run over lines and a line may hold several; a line ``%`` ends the text, as in SATLIB's files.

    Args:
        text: the text.
        name: what messages call it, usually a file's name.

    Raises:
        InputError: with ``name``, the number of the line and what stands there. No p line, a second or a garbled one; a
            clause before it; a literal that is not an integer or out of range; a clause that is empty, has more than
            three literals or does not end with 0; another number of clauses than announced.
    """
    lines = [(f"{name} line {number}", line) for number, line in _lines(text)]
    if not lines:
        raise InputError(f"{name} line {len(text.splitlines()) or 1}: the text ends without a line {_HEADER}")
    (where, header), *rest = lines
    variables, announced = _numbers(header, where)
    clauses = tuple(_clauses(rest, variables))
    if len(clauses) != announced:
        raise InputError(f"{where}: {_shown(header)} announces {announced} clauses, but there are {len(clauses)}")
    return Formula(variables, clauses)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers from 1."""
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped.startswith("%"):
            return
        if stripped and not stripped.startswith("c"):
            yield number, stripped


def _numbers(header: str, where: str) -> tuple[int, int]:
    """How many variables and clauses the p line announces."""
    if not header.startswith("p"):
        raise InputError(f"{where}: {_shown(header)} comes before the line {_HEADER}")
    match = re.fullmatch(r"p\s+cnf\s+([0-9]{1,18})\s+([0-9]{1,18})", header)
    if match is None or not int(match[1]):
        raise InputError(f"{where}: {_shown(header)} is not {_HEADER} with at least one variable")
    return int(match[1]), int(match[2])


def _clauses(lines: list[tuple[str, str]], variables: int) -> Iterator[tuple[int, ...]]:
    clause: list[int] = []
    begun = ""
    for where, line in lines:
        if line.startswith("p"):
            raise InputError(f"{where}: {_shown(line)} is a second line {_HEADER}; a file holds one formula")
        for word in line.split():
            if not re.fullmatch(r"-?[0-9]{1,18}", word):
                raise InputError(f"{where}: {_shown(word)} is not an integer")
            literal = int(word)
            if literal:
                begun = begun if clause else where
                _check_literal(literal, variables, where)
                clause.append(literal)
            if not literal or len(clause) > _LITERALS:
                _check_length(clause, f"{where}: {_shown(line)}")
                yield tuple(clause)
                clause = []
    if clause:
        raise InputError(f"{begun}: the last clause, '{' '.join(map(str, clause))}', does not end with 0")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")

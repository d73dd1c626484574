"""DIMACS CNF, the text format of SAT solvers and of their collections of formulas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from unrelu.errors import InputError
from unrelu.hardness.formula import LITERALS, Formula, check_length, check_literal
from unrelu.runtime.file_reading import read_bytes

_HEADER = "'p cnf VARIABLES CLAUSES'"
# Bytes of text that are read; a literal of two bytes takes up to a hundred as Python's objects.
_LARGEST = 2**26
_SHOWN = 60  # characters of a line in a message


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
                check_literal(literal, variables, where)
                clause.append(literal)
            if not literal or len(clause) > LITERALS:
                check_length(clause, f"{where}: {_shown(line)}")
                yield tuple(clause)
                clause = []
    if clause:
        raise InputError(f"{begun}: the last clause, '{' '.join(map(str, clause))}', does not end with 0")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")

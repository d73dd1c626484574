"""Numbers in files: the rows of an experiment, and what a benchmark writes, each with versions and machine.

The tables and pages of the documentation are made of these files alone.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu.errors import InputError
from unrelu.runtime.file_reading import read_json
from unrelu.runtime.machine import describe

# One run: a value for every column.
Row = Sequence[Any]


def plain(value: Any, digits: int | None = None) -> Any:
    """A value as JSON has it: NumPy's numbers as Python's, tuples as lists, and None for what is not finite.

    Args:
        value: a number, text, or something that holds them.
        digits: that are kept of numbers with a point; all without it.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry, digits) for key, entry in value.items()}
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, list | tuple):
        return [plain(entry, digits) for entry in value]
    if isinstance(value, float):
        return None if not math.isfinite(value) else value if digits is None else float(f"{value:.{digits}g}")
    return value


def plain_row(row: Row) -> tuple[Any, ...]:
    """The entries of a row with 4 digits."""
    return tuple(plain(row, 4))


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name and rename it when it is whole: numbers that exist are complete."""
    draft = path.with_suffix(f"{path.suffix}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def write_results(path: Path, command: Mapping[str, Any], numbers: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Write the numbers of a benchmark; those that are not finite become null.

    Args:
        path: of the file, ``NAME.json``.
        command: what was asked for: at least ``measurement``, ``quick`` and ``seed``.
        numbers: what was measured.
        seconds: of the processor, that the benchmark took.

    Returns:
        What the file holds.
    """
    stated = {"command": command, "commit": _commit(), "seconds": round(seconds, 1), "machine": describe()}
    held: dict[str, Any] = plain({**stated, **numbers})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(held, indent=1, allow_nan=False) + "\n")
    return held


def _commit() -> str | None:
    """The commit of the library, "+" behind it where sources were changed; None outside a repository."""

    def git(*arguments: str) -> str:
        folder = Path(unrelu.__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/src", ":/studies/unrelu_studies")
        return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass(frozen=True)
class Numbers:
    """The rows of an experiment, with what is needed to run it again.

    Attributes:
        experiment: its name.
        quick: whether it was the small version.
        seed: of all its random choices.
        columns: what the entries of a row are.
        rows: one a run.
        machine: processor, versions and date; empty while the experiment runs.
        network: of a figure that was run on a generator from a file: its name and digest; empty otherwise.
    """

    experiment: str
    quick: bool
    seed: int
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    machine: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)

    def where(self, **values: Any) -> Numbers:
        """The rows in which the columns have these values."""
        places = [(self.columns.index(name), value) for name, value in values.items()]
        return replace(self, rows=tuple(row for row in self.rows if all(row[i] == value for i, value in places)))

    def column(self, name: str, **values: Any) -> npt.NDArray[Any]:
        """One column as an array, of the rows in which others have these values; what is missing (null) is NaN."""
        place = self.columns.index(name)
        entries = [row[place] for row in self.where(**values).rows]
        return np.array([math.nan if entry is None else entry for entry in entries])

    def distinct(self, name: str) -> list[Any]:
        """The values of a column, each once, in order of appearance."""
        place = self.columns.index(name)
        return list(dict.fromkeys(row[place] for row in self.rows))

    def save(self, path: Path) -> None:
        """Write JSON, one row a line; numbers get 4 digits, and null where they are not finite."""
        names = ("experiment", "quick", "seed", "network", "machine", "columns")
        head = {name: getattr(self, name) for name in names if name != "network" or self.network}
        lines = ",\n".join(json.dumps(plain(row, 4), allow_nan=False) for row in self.rows)
        write_whole(path, f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> Numbers:
        """What :meth:`save` wrote.

        Raises:
            InputError: the file cannot be read or holds something else.
        """
        try:
            held = read_json(path)
            rows = tuple(tuple(row) for row in held["rows"])
            numbers = cls(
                str(held["experiment"]), bool(held["quick"]), int(held["seed"]), tuple(held["columns"]), rows,
                dict(held["machine"]), dict(held.get("network", {})),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} does not hold the numbers of an experiment: {error!r}; remove it") from error
        if any(len(row) != len(numbers.columns) for row in rows):
            raise InputError(f"{path} has rows that do not have its {len(numbers.columns)} columns; remove it")
        return numbers

"""What an experiment is: units of work, the numbers they give, a picture of them, and the claims they decide."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.figure import Figure

from unrelu.errors import InputError
from unrelu.runtime.file_reading import read_json
from unrelu.runtime.streams import stream

# Of the reported runs, fixed before the first of them.
SEED = 2026

# What identifies a unit of work among those of its experiment: strings and numbers.
Unit = tuple[str | float, ...]
# One run: a value for every column.
Row = Sequence[Any]


class Verdict(enum.Enum):
    """Whether a claim of the paper stands."""

    HOLDS = "holds"
    PARTLY = "holds partly"
    FAILS = "does not hold"

    @classmethod
    def of(cls, whole: bool, part: bool = False) -> Verdict:
        """HOLDS where ``whole`` is true, else PARTLY where ``part`` is, else FAILS."""
        return cls.HOLDS if whole else cls.PARTLY if part else cls.FAILS


@dataclass(frozen=True)
class Claim:
    """A claim, and what the numbers say to it.

    Attributes:
        source: where it is made: "Figure 1(a)", "Theorem 2", ...; "unrelu" for one of our own.
        says: the claim in short.
        measured: our numbers, written from what was measured.
        verdict: whether it stands, by a rule that the experiment states.
        reason: why, where it does not hold as it is.
        reading: what is understood by the claim, if not what the figure's own description says; claims with the same
            source and words are readings of one claim.
        only: why there is no other reading to try, of a claim that does not hold as it is.
    """

    source: str
    says: str
    measured: str
    verdict: Verdict
    reason: str = ""
    reading: str = ""
    only: str = ""


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
        lines = ",\n".join(json.dumps(plain(row), allow_nan=False) for row in self.rows)
        text = json.dumps(head, indent=1)[:-2]
        path.write_text(f'{text},\n "rows": [\n{lines}\n]}}\n', encoding="utf-8")

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


@dataclass(frozen=True)
class Experiment:
    """Something to run and to draw.

    Attributes:
        name: on the command line and of its files.
        title: what it shows, in a line.
        about: what is run, for the page: networks, data, methods, counts. Markdown.
        columns: what a row has.
        units: ``units(quick)``, the pieces of work; finished ones are not run again when a run goes on.
        measure: ``measure(unit, seed, quick)``, the rows of one unit; pure, run in a process of its own.
        draw: the picture of the numbers.
        claims: what the numbers decide.
        alone: whether it is about time, so that its units run one after another, in a process on one core.
        network: of a figure on a generator from a file, what its numbers say of it; empty otherwise.
    """

    name: str
    title: str
    about: str
    columns: tuple[str, ...]
    units: Callable[[bool], Sequence[Unit]]
    measure: Callable[[Unit, int, bool], Sequence[Row]]
    draw: Callable[[Numbers], Figure]
    claims: Callable[[Numbers], Sequence[Claim]]
    alone: bool = False
    network: dict[str, Any] = field(default_factory=dict)

    def run(self, quick: bool = False, seed: int = SEED) -> Numbers:
        """Run all units here and now; :mod:`unrelu_studies.paper.running` runs them on all cores, and can go on."""
        rows = [row for unit in self.units(quick) for row in self.measure(unit, seed, quick)]
        return self.numbers(rows, quick, seed)

    def numbers(self, rows: Sequence[Row], quick: bool, seed: int, machine: dict[str, Any] | None = None) -> Numbers:
        """Rows as :class:`Numbers`, as they would be read back from a file."""
        return Numbers(self.name, quick, seed, self.columns, tuple(map(plain, rows)), machine or {}, self.network)

    def plot(self, numbers: Numbers, folder: Path) -> tuple[Path, Path]:
        """Draw ``NAME.png`` and ``NAME.svg`` into a folder."""
        paths = folder / f"{self.name}.png", folder / f"{self.name}.svg"
        # Without the date and random names, equal numbers give equal files.
        with rc_context({"svg.hashsalt": self.name}):
            figure = self.draw(numbers)
            figure.savefig(paths[0], dpi=200)
            figure.savefig(paths[1], dpi=200, metadata={"Date": None})
        return paths


def random(purpose: str, *key: str | float) -> np.random.Generator:
    """The stream of a purpose, such as "weights", "truth", "noise" or "starts"; keys are the seed, a name, the unit."""
    return stream(f"experiments, {purpose}", *key)


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for ``invert``, so that starts differ from unit to unit."""
    return int(rng.integers(2**31))


def plain(row: Row) -> tuple[Any, ...]:
    """Entries as JSON has them: NumPy's numbers as Python's, 4 digits, None for what is not finite."""
    return tuple(_plain(entry) for entry in row)


def _plain(entry: Any) -> Any:
    entry = entry.tolist() if isinstance(entry, np.generic | np.ndarray) else entry
    if isinstance(entry, float):
        return float(f"{entry:.4g}") if math.isfinite(entry) else None
    return [_plain(part) for part in entry] if isinstance(entry, list | tuple) else entry

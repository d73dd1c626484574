"""What an experiment is: units of work, the numbers they give, a picture of them, and the claims they decide."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from unrelu import __version__
from unrelu.runtime.host import cores
from unrelu.runtime.machine import describe
from unrelu_studies.kit.numbers_file import Numbers, Row, plain_row
from unrelu_studies.kit.picture_style import save
from unrelu_studies.kit.unit_runner import (
    Report,
    StudyRun,
    Unit,
    check_same,
    journal_of,
    keeping_what_is_finished,
    run_units,
)

# Of the reported runs, fixed before the first of them.
SEED = 2026


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
    """

    source: str
    says: str
    measured: str
    verdict: Verdict
    reason: str = ""
    reading: str = ""


def on_each_generator(numbers: Numbers, claims: Callable[[Numbers], Sequence[Claim]]) -> list[Claim]:
    """The claims on the first generator of the rows, and on every other one as further readings."""
    names = numbers.distinct("generator")
    return [
        replace(claim, reading=also("" if name == names[0] else f"on the {name}", claim.reading))
        for name in names for claim in claims(numbers.where(generator=name))
    ]  # fmt: skip


def also(*readings: str) -> str:
    """Several readings at once; empty ones say nothing."""
    return ", ".join(filter(None, readings))


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
        """Run all units here and now; :func:`execute` runs them on all cores, and can go on."""
        rows = [row for unit in self.units(quick) for row in self.measure(unit, seed, quick)]
        return self.numbers(rows, quick, seed)

    def numbers(self, rows: Sequence[Row], quick: bool, seed: int, machine: dict[str, Any] | None = None) -> Numbers:
        """Rows as :class:`Numbers`, as they would be read back from a file."""
        return Numbers(self.name, quick, seed, self.columns, tuple(map(plain_row, rows)), machine or {}, self.network)

    def plot(self, numbers: Numbers, folder: Path) -> tuple[Path, Path]:
        """Draw ``NAME.png`` and ``NAME.svg`` into a folder."""
        return save(self.draw, numbers, folder, self.name)


def execute(
    experiment: Experiment, folder: Path, quick: bool, seed: int, workers: int | None = None,
    report: Report = lambda done, total: False,
) -> Numbers | None:  # fmt: skip
    """Run what is not finished, then write ``NAME.json``, ``NAME.png`` and ``NAME.svg`` into ``folder``.

    Args:
        experiment: what to run.
        folder: which may hold finished units of an earlier run, or its numbers, which are then drawn again.
        quick: the small version.
        seed: of all random choices; the rows do not depend on the workers, but for seconds.
        workers: processes, each on one core; all cores by default and at most. 1: in this process, unless it is about
            time.
        report: told how many units are done; the run stops when it returns True.

    Returns:
        The numbers; None if it was stopped, which leaves what is finished in ``NAME.partial.jsonl``.

    Raises:
        InputError: the folder holds numbers of another version, seed or size, or a damaged file, cannot be written, or
            is being written by another run.
        SolverError: a process was killed.
    """
    path, head = folder / f"{experiment.name}.json", _head(experiment, quick, seed)
    with keeping_what_is_finished(folder):
        if path.exists():
            numbers = Numbers.load(path)
            check_same(head, _head_of(experiment, numbers), path)
        else:
            measure = partial(_plain_rows, experiment.measure, seed, quick)
            units = list(experiment.units(quick))
            work = StudyRun(experiment.name, head, units, measure, workers or cores(), experiment.alone)
            parts = run_units(work, folder, report)
            if parts is None:
                return None
            numbers = experiment.numbers([row for rows, _ in parts for row in rows], quick, seed, describe())
            numbers.save(path)
            journal_of(experiment.name, folder).unlink()
        experiment.plot(numbers, folder)
    return numbers


def _plain_rows(
    measure: Callable[[Unit, int, bool], Sequence[Row]], seed: int, quick: bool, unit: Unit
) -> list[tuple[Any, ...]]:
    return [plain_row(row) for row in measure(unit, seed, quick)]


def _head(experiment: Experiment, quick: bool, seed: int) -> dict[str, Any]:
    """What has to be equal for one run to go on with what another began."""
    return {"experiment": experiment.name, "quick": quick, "seed": seed, "columns": list(experiment.columns),
            "units": len(experiment.units(quick)), "version": __version__, "network": experiment.network}  # fmt: skip


def _head_of(experiment: Experiment, numbers: Numbers) -> dict[str, Any]:
    """What :func:`_head` was when the numbers were made, as far as they tell."""
    now = _head(experiment, numbers.quick, numbers.seed)
    version = numbers.machine.get("unrelu", __version__)
    return {**now, "experiment": numbers.experiment, "columns": list(numbers.columns), "version": version,
            "network": numbers.network}  # fmt: skip

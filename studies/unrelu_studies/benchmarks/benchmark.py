"""What a benchmark is: units of work, the numbers made of them, and tables; and running one.

Every JSON file holds the command, the commit, the machine and the raw numbers. The tables on the terminal are those of
the documentation.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from unittest import mock

from rich.console import Console

from unrelu import __version__
from unrelu.cli.result_folders import prepare_output
from unrelu.errors import OptionError
from unrelu.runtime.file_writing import check_own_files
from unrelu_studies.benchmarks import BENCHMARKS
from unrelu_studies.kit.numbers_file import plain, write_results
from unrelu_studies.kit.unit_runner import (
    Report,
    StudyRun,
    Unit,
    forget,
    interrupts,
    journal_of,
    keeping_what_is_finished,
    progress_bar,
    run_units,
    say_stopped,
    show,
)

# What a file of results holds, and a table that is made of it.
Results = dict[str, Any]
Render = Callable[[Results], str]


@dataclass(frozen=True)
class Command:
    """What was asked for.

    Attributes:
        measurement: a name of :data:`~unrelu_studies.benchmarks.BENCHMARKS`.
        instances: how many of each kind; None: as many as the measurement thinks right.
        quick: few instances of small layers.
        seed: of the instances.
        parts: of the measurement; all if there are none.
        data: the folder with data of others, for benchmarks that take one; no part of what was asked for.
    """

    measurement: str
    instances: int | None
    quick: bool
    seed: int
    parts: tuple[str, ...] = ()
    data: str | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """What identifies the run, and is written with its numbers."""
        return {name: value for name, value in asdict(self).items() if name != "data"}

    def count(self, full: int, quick: int) -> int:
        """As many as were asked for, or as the measurement thinks right."""
        return self.instances or (quick if self.quick else full)


def rows_of(command: Command, parts: Sequence[Any]) -> Results:
    """The numbers of a benchmark whose units give rows, or one row each."""
    return {"rows": [row for part in parts for row in (part if isinstance(part, list) else [part])]}


def gathered(parts: Sequence[Any], *names: str) -> Results:
    """Of units that give rows by the name of their table: the rows of each table."""
    return {name: [row for part in parts for row in part.get(name, ())] for name in names}


@dataclass(frozen=True)
class Benchmark:
    """Something to measure.

    Attributes:
        units: of a command, the pieces of work.
        measure: what a unit gives, as JSON has it.
        blocks: tables of the documentation by name, the first word of which is the benchmark's.
        collect: the numbers that are written, of the parts of all units in order.
        parts: what a command can choose of it, by name.
        workers: processes of a full run, each on one core; 1: units run one after another in this process, as where
            other processes or the clock are measured.
        takes_data: whether it reads data of others from a folder.
    """

    units: Callable[[Command], Sequence[Unit]]
    measure: Callable[[Command, Unit], Any]
    blocks: Mapping[str, Render]
    collect: Callable[[Command, list[Any]], Results] = rows_of
    parts: tuple[str, ...] = ()
    workers: int = 2
    takes_data: bool = False


def load(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        OptionError: there is none.
    """
    if name not in BENCHMARKS:
        raise OptionError(f"benchmark {name!r} is unknown; use one of {', '.join(BENCHMARKS)}")
    return cast(Benchmark, import_module(f"unrelu_studies.benchmarks.{BENCHMARKS[name]}").BENCHMARK)


def execute(
    benchmark: Benchmark, command: Command, folder: Path, report: Report = lambda done, total: False
) -> Results | None:
    """Run what is not finished, then write ``NAME.json``.

    What earlier runs have learned of the confidence on a generator is not used.

    Returns:
        What the file holds; None if it was stopped, which leaves what is finished in ``NAME.partial.jsonl``.
    """
    name = command.measurement
    head = {**plain(command.asked), "version": __version__}
    with keeping_what_is_finished(folder):
        workers = 1 if command.quick else benchmark.workers
        work = StudyRun(name, head, benchmark.units(command), partial(benchmark.measure, command), workers)
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, UNRELU_CACHE=cache):
            parts = run_units(work, folder, report)
        if parts is None:
            return None
        numbers = benchmark.collect(command, [part for part, _ in parts])
        seconds = sum(spent for _, spent in parts)
        results = write_results(folder / f"{name}.json", command.asked, numbers, seconds)
        journal_of(name, folder).unlink()
    return results


def run(command: Command, folder: Path, overwrite: bool, console: Console) -> bool:
    """Run a benchmark, print its tables and say where its files are; whether it was finished.

    Raises:
        OptionError: there is no benchmark of that name.
        OutputExistsError: the folder exists, and holds no begun run that this one could go on with.
        InputError: it cannot be written, or what was begun in it is another run.
    """
    name = command.measurement
    benchmark = load(name)
    if overwrite or not journal_of(name, folder).exists():
        prepare_output(folder, overwrite)
        forget(name, folder)
    check_own_files(folder)
    with interrupts(console) as interrupted, progress_bar(name, interrupted, console) as report:
        results = execute(benchmark, command, folder, report)
    if results is None:
        say_stopped(name, folder, overwrite, console)
        return False
    for title, render in benchmark.blocks.items():
        show(f"## {title}\n\n{render(results)}", console)
    machine = results["machine"]
    console.print(f"{machine['processor']}, {machine['cores']} cores; {'; '.join(machine['blas'])}")
    console.print(f"written to {folder}/: {' '.join(sorted(p.name for p in folder.glob(f'{name}.*')))}")
    return True

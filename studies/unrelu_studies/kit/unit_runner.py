"""Running the units of a study, so that it can be stopped and go on.

``NAME.partial.jsonl`` holds the finished units while a study runs: a line that says what is run, then a line a unit.
Who asked for them removes it when the numbers of all units are written.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unrelu.errors import InputError, SolverError
from unrelu.runtime.file_reading import read_bytes
from unrelu.runtime.file_writing import sole_writer
from unrelu.runtime.host import cores
from unrelu.runtime.interrupts import fresh_processes, interruptible, without_interrupts
from unrelu.runtime.streams import stream
from unrelu_studies.kit.timing import processor_seconds

# What identifies a unit of work among those of its study: strings and numbers.
Unit = tuple[str | float, ...]
# Units done, units in all -> whether to stop when what has begun is finished.
Report = Callable[[int, int], bool]


@dataclass(frozen=True)
class StudyRun:
    """The units of a study as it was asked for.

    Attributes:
        name: of the study and of its files.
        head: what has to be equal for one run to go on with what another began.
        units: the pieces of work; finished ones are not run again.
        measure: what a unit gives, as JSON has it; pure, run in any process.
        workers: processes, each on one core; 1: in this process.
        alone: whether it is about time, so that its units run one after another, in a process on one core.
    """

    name: str
    head: dict[str, Any]
    units: Sequence[Unit]
    measure: Callable[[Unit], Any]
    workers: int = 1
    alone: bool = False


def journal_of(name: str, folder: Path) -> Path:
    """Where the finished units of a study are kept."""
    return folder / f"{name}.partial.jsonl"


def forget(name: str, folder: Path) -> None:
    """Remove what was written of a study, finished or not."""
    for suffix in ("json", "json.draft", "partial.jsonl", "png", "svg"):
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)


def run_units(work: StudyRun, folder: Path, report: Report) -> list[tuple[Any, float]] | None:
    """Run the units that are not in the journal.

    Args:
        work: what to run.
        folder: of the journal.
        report: told how many units are done; the run stops when it returns True.

    Returns:
        What each unit gave, and the seconds of the processor it took, in the order of the units; None if the run was
        stopped, which leaves what is finished in the journal.

    Raises:
        InputError: the journal is of another run, damaged, or being written by another run.
        SolverError: a process was killed.
    """
    journal = journal_of(work.name, folder)
    keys = [json.dumps(unit) for unit in work.units]
    with journal.open("a", encoding="utf-8") as kept, sole_writer(kept.fileno(), journal):
        done = _read(journal, work.head)
        left = [unit for unit, key in zip(work.units, keys, strict=True) if key not in done]
        stopping = threading.Event()
        if report(len(keys) - len(left), len(keys)) and left:
            return None
        for finished, (unit, (part, seconds)) in enumerate(_measured(work, left, stopping), len(keys) - len(left) + 1):
            line = json.dumps({"unit": unit, "part": part, "seconds": seconds})
            kept.write(line + "\n")
            kept.flush()
            # As it would be read back.
            entry = json.loads(line)
            done[json.dumps(unit)] = entry["part"], entry["seconds"]
            if report(finished, len(keys)):
                stopping.set()
    return [done[key] for key in keys] if all(key in done for key in keys) else None


def _read(journal: Path, head: dict[str, Any]) -> dict[str, tuple[Any, float]]:
    """The finished units; the line that was being written when the process died is cut off."""
    kept = 0
    done: dict[str, tuple[Any, float]] = {}
    for i, line in enumerate(read_bytes(journal).splitlines(keepends=True)):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
            if i == 0:
                check_same(head, entry, journal)
            else:
                done[json.dumps(entry["unit"])] = entry["part"], float(entry["seconds"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{journal}, line {i + 1} is damaged: {error!r}; remove the file") from error
        kept += len(line)
    if not kept:
        text = json.dumps(head) + "\n"
        journal.write_text(text, encoding="utf-8")
        kept = len(text.encode())
    os.truncate(journal, kept)
    return done


def check_same(expected: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    """Refuse what another run has written.

    Raises:
        InputError: the heads differ.
    """
    different = [name for name in expected if found.get(name) != expected[name]]
    if different:
        said = "; ".join(f"{name} is {found.get(name)!r}, asked for is {expected[name]!r}" for name in different)
        raise InputError(f"{path} is of another run: {said}; choose another folder, or pass --overwrite")


def _measured(work: StudyRun, units: list[Unit], stopping: threading.Event) -> Iterator[tuple[Unit, tuple[Any, float]]]:
    """The units with what they give as they finish, in an order that makes the remaining time easy to tell.

    When ``stopping`` is set, what has begun is finished and the rest is dropped.
    """
    units = [units[i] for i in stream("order of units").permutation(len(units))]
    workers = 1 if work.alone else min(work.workers, cores(), len(units))
    if not work.alone and workers <= 1:
        for unit in units:
            if stopping.is_set():
                return
            yield unit, _timed(work.measure, unit)
        return
    with fresh_processes(workers, _pin, multiprocessing.get_context("spawn").Value("i", 0)) as pool:
        with without_interrupts():
            futures: dict[Future[tuple[Any, float]], Unit] = {
                pool.submit(_timed, work.measure, unit): unit for unit in units
            }
        while futures:
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                unit = futures.pop(future)
                try:
                    yield unit, future.result()
                except BrokenProcessPool:
                    raise SolverError(
                        "a worker process ended: it was killed, memory ran out, or a script that starts it has no "
                        "if __name__ == '__main__'; run it again to go on, perhaps with fewer workers"
                    ) from None
            if stopping.is_set():
                futures = {future: unit for future, unit in futures.items() if not future.cancel()}


def _pin(begun: Any) -> None:
    """In a worker: stay on a core of its own, for timings. Two pools would get the same cores."""
    if hasattr(os, "sched_setaffinity"):
        with begun.get_lock():
            place, begun.value = begun.value, begun.value + 1
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[place % len(mine)]})


def _timed(measure: Callable[[Unit], Any], unit: Unit) -> tuple[Any, float]:
    """What a unit gives, and the seconds of the processor."""
    begin = processor_seconds()
    return measure(unit), processor_seconds() - begin


@contextmanager
def keeping_what_is_finished(folder: Path) -> Iterator[None]:
    """Say of a folder that cannot be written that the journal is kept.

    Raises:
        InputError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror}; what is finished is kept, run it again when that is mended"
        ) from error


# --- on a terminal ----------------------------------------------------------------------------------------------------


@contextmanager
def interrupts(console: Console) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one ends at once."""
    told = "stopping when what has begun is finished (Ctrl-C again to end at once)"
    with interruptible("" if console.quiet else told) as event:
        yield event.is_set


@contextmanager
def progress_bar(name: str, interrupted: Callable[[], bool], console: Console) -> Iterator[Report]:
    """A progress bar on stderr, as the report that :func:`run_units` asks for."""
    columns = (
        TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True, quiet=console.quiet), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def report(done: int, total: int) -> bool:
            bar.update(task, completed=done, total=total)
            return interrupted()

        yield report


def say_stopped(name: str, folder: Path, overwrite: bool, console: Console) -> None:
    """How a study that was stopped goes on."""
    how = "without --overwrite" if overwrite else "with the same command"
    console.print(f"stopped; {journal_of(name, folder)} keeps what is finished: run it again {how} to go on")


def show(text: str, console: Console) -> None:
    """Markdown, as a page of the documentation has it."""
    console.print(Markdown(text))

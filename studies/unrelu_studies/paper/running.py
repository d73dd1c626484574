"""Running an experiment on all cores, so that it can be stopped and go on.

``NAME.partial.jsonl`` holds the finished units while it runs: a line that says what is run, then a line a unit. When
all are there they become ``NAME.json``, with the machine, and are drawn.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from unrelu import __version__
from unrelu.errors import InputError, SolverError
from unrelu.runtime.file_reading import read_bytes
from unrelu.runtime.file_writing import sole_writer
from unrelu.runtime.host import cores
from unrelu.runtime.machine import describe
from unrelu.runtime.processes import fresh_processes, without_interrupts
from unrelu.runtime.streams import stream
from unrelu_studies.paper.experiment import Experiment, Numbers, Row, Unit, plain

# Units done, units in all -> whether to stop when what has begun is finished.
Report = Callable[[int, int], bool]


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
    path = folder / f"{experiment.name}.json"
    try:
        if path.exists():
            numbers = Numbers.load(path)
            _check_same(head(experiment, quick, seed), _head_of(experiment, numbers), path)
        elif _run(experiment, folder, quick, seed, min(workers or cores(), cores()), report):
            numbers = _finish(experiment, folder, quick, seed)
        else:
            return None
        experiment.plot(numbers, folder)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror}; what is finished is kept, run it again when that is mended"
        ) from error
    return numbers


def forget(experiment: Experiment, folder: Path) -> None:
    """Remove what :func:`execute` wrote for an experiment, finished or not."""
    for suffix in ("json", "json.draft", "partial.jsonl", "png", "svg"):
        (folder / f"{experiment.name}.{suffix}").unlink(missing_ok=True)


def head(experiment: Experiment, quick: bool, seed: int) -> dict[str, Any]:
    """What has to be equal for one run to go on with what another began."""
    return {"experiment": experiment.name, "quick": quick, "seed": seed, "columns": list(experiment.columns),
            "units": len(experiment.units(quick)), "version": __version__, "network": experiment.network}  # fmt: skip


def _head_of(experiment: Experiment, numbers: Numbers) -> dict[str, Any]:
    """What :func:`head` was when the numbers were made, as far as they tell."""
    now = head(experiment, numbers.quick, numbers.seed)
    version = numbers.machine.get("unrelu", __version__)
    return {**now, "experiment": numbers.experiment, "columns": list(numbers.columns), "version": version,
            "network": numbers.network}  # fmt: skip


def _run(experiment: Experiment, folder: Path, quick: bool, seed: int, workers: int, report: Report) -> bool:
    """Run the units that are not in the journal; whether all are there now."""
    journal = folder / f"{experiment.name}.partial.jsonl"
    with journal.open("a", encoding="utf-8") as stream, sole_writer(stream.fileno(), journal):
        done = set(_read(journal, head(experiment, quick, seed)))
        units = list(experiment.units(quick))
        left = [unit for unit in units if json.dumps(unit) not in done]
        finished = len(units) - len(left)
        stopping = threading.Event()
        if report(finished, len(units)):
            return not left
        for unit, rows in _measured(experiment, left, quick, seed, workers, stopping):
            stream.write(json.dumps({"unit": unit, "rows": rows}, allow_nan=False) + "\n")
            stream.flush()
            finished += 1
            if report(finished, len(units)):
                stopping.set()
    return finished == len(units)


def _finish(experiment: Experiment, folder: Path, quick: bool, seed: int) -> Numbers:
    """Turn a journal that has all units into the numbers, in the order of the units."""
    journal, path = folder / f"{experiment.name}.partial.jsonl", folder / f"{experiment.name}.json"
    done = _read(journal, head(experiment, quick, seed))
    rows = [row for unit in experiment.units(quick) for row in done[json.dumps(unit)]]
    numbers = experiment.numbers(rows, quick, seed, describe())
    # Renamed when whole: numbers that exist are complete.
    draft = path.with_suffix(".json.draft")
    numbers.save(draft)
    draft.replace(path)
    journal.unlink()
    return numbers


def _read(journal: Path, expected: dict[str, Any]) -> dict[str, Sequence[Row]]:
    """The finished units; the line that was being written when the process died is cut off."""
    kept = 0
    done: dict[str, Sequence[Row]] = {}
    if journal.exists():
        lines = read_bytes(journal).splitlines(keepends=True)
        for i, line in enumerate(lines):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if i == 0:
                    _check_same(expected, entry, journal)
                else:
                    done[json.dumps(entry["unit"])] = entry["rows"]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{journal}, line {i + 1} is damaged: {error!r}; remove the file") from error
            kept += len(line)
    if not kept:
        text = json.dumps(expected) + "\n"
        journal.write_text(text, encoding="utf-8")
        kept = len(text.encode())
    os.truncate(journal, kept)
    return done


def _check_same(expected: dict[str, Any], found: dict[str, Any], path: Path) -> None:
    different = [name for name in expected if found.get(name) != expected[name]]
    if different:
        said = "; ".join(f"{name} is {found.get(name)!r}, asked for is {expected[name]!r}" for name in different)
        raise InputError(f"{path} is of another run: {said}; choose another folder, or pass --overwrite")


def _measured(
    experiment: Experiment, units: list[Unit], quick: bool, seed: int, workers: int, stopping: threading.Event
) -> Iterator[tuple[Unit, Sequence[Row]]]:
    """The units with their rows as they finish, in an order that makes the remaining time easy to tell.

    When ``stopping`` is set, what has begun is finished and the rest is dropped.
    """
    units = [units[i] for i in stream("order of units").permutation(len(units))]
    if not experiment.alone and (workers == 1 or len(units) <= 1):
        for unit in units:
            if stopping.is_set():
                return
            yield unit, _measure(experiment.measure, unit, seed, quick)
        return
    with fresh_processes(1 if experiment.alone else min(workers, len(units)), pinned=True) as pool:
        with without_interrupts():
            futures: dict[Future[Sequence[Row]], Unit] = {
                pool.submit(_measure, experiment.measure, unit, seed, quick): unit for unit in units
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


def _measure(measure: Callable[[Unit, int, bool], Sequence[Row]], unit: Unit, seed: int, quick: bool) -> Sequence[Row]:
    """The rows of a unit, as JSON has them."""
    return [plain(row) for row in measure(unit, seed, quick)]

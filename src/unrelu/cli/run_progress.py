"""The output of a run: a line for each chunk, a progress bar, the outcome, and columns as files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.text import Text

from unrelu.cli.terminal import interruptible_bar, plain, unmixed
from unrelu.display.text_tables import text_table
from unrelu.errors import InputError
from unrelu.result import Status
from unrelu.runs import Record, Run, RunProgress
from unrelu.runs.columns import columns_of
from unrelu.runs.journal import busy_seconds
from unrelu.runtime.file_writing import drafted
from unrelu.runtime.interrupts import STOPS

# The most errors that are printed for one chunk or for a whole run. The report shows all.
_ERRORS = 5

# The meaning of each status.
_MEANINGS = {status.name: status.value for status in Status}


class Watcher:
    """A callback of :func:`unrelu.run` that prints chunks and warnings, and stops the run after an interrupt.

    Attributes:
        records: the record of every chunk that was computed, for JSON.
        warnings: the texts of the warnings.
    """

    def __init__(self, bar: Progress, interrupted: threading.Event) -> None:
        self._bar, self._interrupted = bar, interrupted
        self.records: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._began, self._computed = time.monotonic(), 0

    def __call__(self, progress: RunProgress) -> bool:
        """Show a chunk or a warning, and return whether to stop."""
        if progress.warning:
            self.warnings.append(progress.warning)
            self.print(f"warning: {progress.warning}")
        note = ""
        if (record := progress.record) is not None:
            self.records.append(asdict(record))
            self._computed += record.stop - record.start
            rate = self._computed / max(time.monotonic() - self._began, 1e-9)
            note = f"{rate:.3g}/s, {timedelta(seconds=round((progress.size - progress.done) / rate))} left"
            ends = ", ".join(f"{count} {name}" for name, count in record.counts.items())
            which = f"chunk {record.chunk}: observations {record.start} to {record.stop - 1}"
            self.print(f"{which} in {record.seconds:.2f} s: {ends}", *_errors(record.errors))
        self._bar.start()  # only here, after the arguments of the run have been checked
        self._bar.update(self._bar.task_ids[0], completed=progress.done, total=progress.size, note=note)
        return self._interrupted.is_set()

    def print(self, *lines: str) -> None:
        """Print lines above the bar, or after it."""
        for line in lines:
            self._bar.console.print(Text(plain(line)), soft_wrap=True)


@contextmanager
def watching(quiet: bool) -> Iterator[Watcher]:
    """Yield a watcher with its bar. A Ctrl-C or SIGTERM of a batch system asks it to stop; a second one raises."""
    said = (
        "stopping when the running chunks are finished (Ctrl-C again to end at once)",
        "ended at once; run the same command again to resume from the last finished chunk",
    )
    with interruptible_bar(quiet, "observations", *said, STOPS) as (bar, interrupted):
        yield Watcher(bar, interrupted)


# --- columns as files -------------------------------------------------------------------------------------------------


def check_exports(paths: Sequence[Path]) -> None:
    """Refuse files that cannot be written or do not have a column's name, before anything is computed."""
    every = {column.name for column in columns_of((), (), (), predictions=True, posterior=True, named=1)}
    for path in paths:
        if path.suffix != ".npy" or path.stem not in every or not path.parent.is_dir():
            columns = ", ".join(sorted(every))
            raise InputError(f"--export {path}: name a .npy file in a folder that exists, called as one of {columns}")


def export_columns(run: Run, paths: Sequence[Path]) -> None:
    """Write the column with the name of each file, chunk by chunk, from a finished run."""
    for path in paths:
        first = run.read(path.stem, 0, 1)
        header = {"descr": first.dtype.str, "fortran_order": False, "shape": (run.size, *first.shape[1:])}
        with drafted(path, "free space, or name another file") as stream:
            np.lib.format.write_array_header_2_0(stream, header)
            for _, record in sorted(run.records.items()):
                stream.write(run.read(path.stem, record.start, record.stop).tobytes())


# --- in words ---------------------------------------------------------------------------------------------------------


def summary(run: Run) -> dict[str, Any]:
    """Return the progress of a run for JSON."""
    names = ("finished", "running", "chunks", "size", "done", "success", "counts", "mixed", "failed")
    counted = {"finished_chunks": len(run.records), "errors": len(run.errors)}
    return {"folder": run.folder, **{name: getattr(run, name) for name in names}, **counted}


def problems(run: Run) -> list[str]:
    """Return the last lines of a command: how many observations failed, and how many posteriors have not mixed."""
    failed = f"{run.failed} of {run.done} observations failed, `unrelu report {run.folder}` has their messages"
    posteriors = [] if run.mixed is None else run.column("posterior_status").tolist()
    return [failed if run.failed else "", unmixed(posteriors, f"`unrelu report {run.folder}`")]


def status_lines(run: Run) -> list[str]:
    """Return the progress of a run as lines of text."""
    about = run.manifest["about"]
    what = ", ".join(f"{name} {about['question'].get(name, 'unknown')}" for name in ("method", "noise", "seed"))
    state = "finished" if run.finished else "running" if run.running else "stopped"
    lines = [
        f"{run.folder}: {about['question'].get('model', 'a network')} on {about['data']}, {what}",
        f"{state}: {run.done} of {run.size} observations, {len(run.records)} of {run.chunks} chunks",
        *(outcome_lines(run) if run.records else ()),
        *_errors(run.errors),
    ]
    resume = "command" in about and not run.finished and not run.running
    return [*lines, f"resume with: {about['command']}"] if resume else lines


def outcome_lines(run: Run) -> list[str]:
    """Return a table of statuses with their counts, the time, and the location of the results, as lines."""
    rows = [[name, str(count), _MEANINGS.get(name, "of another version")] for name, count in run.counts.items()]
    return [
        f"{run.done} observations, {run.success} with success",
        *text_table(("status", "count", "meaning"), rows, ("status", "meaning")),
        *([] if run.mixed is None else [f"{run.mixed} of {run.done} posteriors have mixed"]),
        work_of(list(run.records.values())),
        f"written to {run.folder}/: results.zarr; `unrelu report {run.folder}` writes a page on them",
    ]


def work_of(records: Sequence[Record]) -> str:
    """Describe the total time of all workers, and the wall time in which at least one of them worked."""
    wall = busy_seconds(records)
    count, work = len({record.worker for record in records}), sum(record.seconds for record in records)
    return f"{work:.1f} s of work by {count} worker{'s' * (count > 1)}, {wall:.1f} s of wall time"


def _errors(errors: dict[int, str]) -> list[str]:
    """Return the first error messages, by observation, and the number of further messages."""
    lines = [f"  observation {i}: {text}" for i, text in list(errors.items())[:_ERRORS]]
    more = len(errors) - _ERRORS
    return [*lines, f"  and {more} more; the report has them all"] if more > 0 else lines

"""The output of a run in the terminal: a line for each chunk, a bar, and how the run ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from unrelu.cli.terminal import console_of, plain, unmixed
from unrelu.display.progress_bar import bar_of
from unrelu.display.text_tables import text_table
from unrelu.errors import InputError
from unrelu.result import Status
from unrelu.runs import Record, Run
from unrelu.runtime.file_writing import drafted
from unrelu.runtime.interrupts import STOPS, interruptible

if TYPE_CHECKING:
    from unrelu.runs import RunProgress

# The most errors that are printed for one chunk and for a whole run; the report has all.
_ERRORS, _ALL_ERRORS = 3, 10


class Watcher:
    """A callback of :func:`unrelu.run` that prints chunks and warnings, and stops the run after an interrupt.

    Attributes:
        records: the record of every chunk that was computed, for JSON.
        warnings: the texts of the warnings.
    """

    def __init__(self, console: Console, folder: Path, interrupted: threading.Event) -> None:
        self._console, self._folder, self._interrupted = console, folder, interrupted
        self.records: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._bar = bar_of(console, "observations", None, clock=False)
        self._began = time.monotonic()
        self._computed = 0

    def __call__(self, progress: RunProgress) -> bool:
        """Show a chunk or a warning; return whether to stop."""
        if progress.warning:
            self.warnings.append(progress.warning)
            self._print(f"warning: {progress.warning}")
        if progress.record is not None:
            self.records.append(asdict(progress.record))
            self._computed += progress.record.stop - progress.record.start
            self._print(_line(progress.record), *_errors(progress.record.errors, _ERRORS, "  "))
        self._bar.start()  # only here, after the arguments of the run have been checked
        rate = self._computed / max(time.monotonic() - self._began, 1e-9)
        left = timedelta(seconds=round((progress.size - progress.done) / rate)) if rate else ""
        note = f"{rate:.3g}/s, {left} left" if rate else ""
        self._bar.update(self._bar.task_ids[0], completed=progress.done, total=progress.size, note=note)
        return self._interrupted.is_set()

    def end(self, run: Run) -> None:
        """Print how the run ended."""
        self.stop()
        if run.finished:
            self._print(*_counts(run))
        else:
            self._print(
                f"stopped: {len(run.records)} of {run.chunks} chunks are finished; run the same command again to "
                f"resume, or see `unrelu status {self._folder}`"
            )

    def stop(self) -> None:
        """Stop updating the bar."""
        if self._bar.live.is_started:
            self._bar.stop()

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._console.print(Text(plain(line)), soft_wrap=True)


@contextmanager
def watching(quiet: bool, folder: Path) -> Iterator[Watcher]:
    """A watcher with its bar. Ctrl-C and a batch system's SIGTERM ask it to stop."""
    first = "stopping when the running chunks are finished (Ctrl-C again to end at once)"
    second = "ended at once; run the same command again to resume from the last finished chunk"
    with interruptible(*(("", "") if quiet else (first, second)), signals=STOPS) as interrupted:
        watcher = Watcher(console_of(quiet), folder, interrupted)
        try:
            yield watcher
        finally:
            watcher.stop()


# --- columns as files -------------------------------------------------------------------------------------------------


def check_exports(paths: Sequence[Path]) -> None:
    """Refuse files for columns that cannot be written, before anything is computed."""
    for path in paths:
        if path.suffix != ".npy" or not path.parent.is_dir():
            raise InputError(
                f"--export {path}: name a .npy file in a folder that exists, called as a column: codes.npy"
            )


def export_columns(run: Run, paths: Sequence[Path]) -> None:
    """Write each column of a finished run that is called as the file, chunk by chunk."""
    for path in paths:
        first = run.read(path.stem, 0, 1)
        header = {"descr": first.dtype.str, "fortran_order": False, "shape": (run.size, *first.shape[1:])}
        with drafted(path, "free space, or name another file") as stream:
            np.lib.format.write_array_header_2_0(stream, header)
            for _, record in sorted(run.records.items()):
                stream.write(np.ascontiguousarray(run.read(path.stem, record.start, record.stop)).tobytes())


# --- in words ---------------------------------------------------------------------------------------------------------


def summary(run: Run) -> dict[str, Any]:
    """The progress of a run, for JSON."""
    return {
        "folder": str(run.folder), "finished": run.finished, "running": run.running, "chunks": run.chunks,
        "finished_chunks": len(run.records), "size": run.size, "done": run.done, "success": run.success,
        "counts": run.counts, "mixed": run.mixed, "failed": run.failed, "errors": len(run.errors),
    }  # fmt: skip


def problems(run: Run) -> list[str]:
    """What is wrong with which observations of the finished chunks, as the last lines of a command."""
    failed = f"{run.failed} of {run.done} observations failed, `unrelu report {run.folder}` has their messages"
    posteriors = [] if run.mixed is None else run.column("posterior_status").tolist()
    return [failed if run.failed else "", unmixed(posteriors, f"`unrelu report {run.folder}`")]


def status_lines(run: Run) -> list[str]:
    """The progress of a run, as lines of text."""
    about = run.manifest["about"]
    question = about["question"]
    what = ", ".join(
        f"{name} {question[name]}" for name in ("method", "options", "noise", "seed") if question.get(name)
    )
    state = "finished" if run.finished else "running" if run.running else "stopped"
    lines = [
        f"{run.folder}: {about['model']} on {about['data']}, {what}",
        f"{state}: {run.done} of {run.size} observations, {len(run.records)} of {run.chunks} chunks",
        *(_counts(run) if run.records else ()),
        *_errors(run.errors, _ALL_ERRORS, ""),
    ]
    if not run.finished and not run.running and "command" in about:
        lines.append(f"resume with: {about['command']}")
    return lines


def work_of(records: Sequence[Record]) -> str:
    """The time of all workers, and that in which at least one of them worked: stops of a run do not count."""
    spans = sorted((record.at - record.seconds, record.at) for record in records)
    wall, end = 0.0, -np.inf
    for begin, stop in spans:
        wall += max(stop - max(begin, end), 0.0)
        end = max(end, stop)
    count = len({record.worker for record in records})
    workers = "1 worker" if count == 1 else f"{count} workers"
    return f"{sum(record.seconds for record in records):.1f} s of work by {workers}, {wall:.1f} s of wall time"


def _line(record: Record) -> str:
    ends = ", ".join(f"{count} {name}" for name, count in record.counts.items())
    return f"chunk {record.chunk}: observations {record.start} to {record.stop - 1} in {record.seconds:.2f} s: {ends}"


def _counts(run: Run) -> list[str]:
    """A table of statuses with their counts, the time, and the location of the results."""
    rows = [[name, str(count), Status[name].value] for name, count in run.counts.items()]
    return [
        f"{run.done} observations, {run.success} with success",
        *text_table(("status", "count", "meaning"), rows, ("status", "meaning")),
        *([] if run.mixed is None else [f"{run.mixed} of {run.done} posteriors have mixed"]),
        work_of(list(run.records.values())),
        f"written to {run.folder}/: results.zarr"
        + (f"; `unrelu report {run.folder}` writes a page on them" if run.finished else ""),
    ]


def _errors(errors: dict[int, str], most: int, indent: str) -> list[str]:
    """The first error messages, by observation, and the number of further ones."""
    lines = [f"{indent}observation {i}: {text}" for i, text in list(errors.items())[:most]]
    more = len(errors) - most
    return [*lines, f"{indent}and {more} more; the report has them all"] if more > 0 else lines

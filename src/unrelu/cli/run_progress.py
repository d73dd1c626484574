"""The output of a run in the terminal: a line for each chunk, and a bar with the rate and the remaining time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from unrelu.cli.terminal import plain
from unrelu.display.progress_bar import bar_of
from unrelu.display.text_tables import text_table
from unrelu.result import Status
from unrelu.runs import Moment, Run, Settled
from unrelu.runtime.interrupts import STOPS, interruptible

# The most errors that are printed for one chunk and for a whole run; the report has all.
_ERRORS, _ALL_ERRORS = 3, 10


class Watcher:
    """A callback of :func:`unrelu.runs.run` that prints chunks and warnings, and stops the run after an interrupt.

    Attributes:
        records: the record of every chunk and ``how`` it was settled, for JSON.
        warnings: the texts of the warnings.
    """

    def __init__(self, console: Console, folder: Path, interrupted: threading.Event) -> None:
        self._console, self._folder, self._interrupted = console, folder, interrupted
        self.records: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._bar = bar_of(console, "observations", None, clock=False)
        self._began = time.monotonic()
        self._computed = 0

    def __call__(self, moment: Moment) -> bool:
        """Show a chunk or a warning; return whether to stop."""
        if moment.text:
            self.warnings.append(moment.text)
            self._print(f"warning: {moment.text}")
        if moment.settled is not None:
            self._chunk(moment.settled)
        self._bar.start()  # only here, after the arguments of the run have been checked
        self._bar.update(self._bar.task_ids[0], completed=moment.done, total=moment.size, note=self._pace(moment))
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

    def _chunk(self, settled: Settled) -> None:
        record = settled.record
        self.records.append({"how": settled.how, **asdict(record)})
        if settled.how == "kept":
            self._began = time.monotonic()
            return
        self._computed += record.stop - record.start
        ends = ", ".join(f"{count} {name}" for name, count in record.counts.items())
        mended = " (computed again: its rows were damaged)" if settled.how == "repaired" else ""
        self._print(
            f"chunk {record.chunk}: observations {record.start} to {record.stop - 1} in {record.seconds:.2f} s: "
            f"{ends}{mended}",
            *_errors(record.errors, _ERRORS, "  "),
        )

    def _pace(self, moment: Moment) -> str:
        """Observations per second and the remaining time, from the observations computed since this start."""
        if not self._computed:
            return ""
        rate = self._computed / max(time.monotonic() - self._began, 1e-9)
        left = timedelta(seconds=round((moment.size - moment.done) / rate))
        return f"{rate:.3g}/s, {left} left"

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._console.print(Text(plain(line)), soft_wrap=True)


@contextmanager
def watching(quiet: bool, folder: Path) -> Iterator[Watcher]:
    """A watcher with its bar. Ctrl-C and a batch system's SIGTERM ask it to stop."""
    first = "stopping when the running chunks are finished (Ctrl-C again to end at once)"
    second = "ended at once; run the same command again to resume from the last finished chunk"
    messages = ("", "") if quiet else (first, second)
    with interruptible(*messages, signals=STOPS) as interrupted:
        watcher = Watcher(Console(stderr=True, quiet=quiet), folder, interrupted)
        try:
            yield watcher
        finally:
            watcher.stop()


def summary(run: Run) -> dict[str, Any]:
    """The progress of a run, for JSON."""
    return {
        "folder": str(run.folder), "finished": run.finished, "running": run.running, "chunks": run.chunks,
        "finished_chunks": len(run.records), "size": run.size, "done": run.done, "success": run.success,
        "counts": run.counts, "mixed": run.mixed, "failed": run.failed, "errors": len(run.errors),
    }  # fmt: skip


def status_lines(run: Run) -> list[str]:
    """The progress of a run, as lines of text."""
    manifest, about = run.manifest, run.manifest["about"]
    options = "".join(f" {name}={value}" for name, value in manifest["options"].items() if value is not None)
    what = f"{about.get('model', 'a network')} on {about['data']}, method {manifest['method']}{options}"
    state = "finished" if run.finished else "running" if run.running else "stopped"
    lines = [
        f"{run.folder}: {what}, seed {manifest['seed']}, unrelu {manifest['version']}",
        f"{state}: {run.done} of {run.size} observations, {len(run.records)} of {run.chunks} chunks",
        *(_counts(run) if run.records else ()),
        *_errors(run.errors, _ALL_ERRORS, ""),
    ]
    if not run.finished and not run.running and "command" in about:
        lines.append(f"resume with: {about['command']}")
    return lines


def _counts(run: Run) -> list[str]:
    """A table of statuses with their counts, and the location of the results."""
    rows = [[name, str(count), Status[name].value] for name, count in run.counts.items()]
    seconds = sum(record.seconds for record in run.records.values())
    lines = ", results.jsonl" if run.finished else ""
    written = "results.zarr" if run.manifest["results"] == "zarr" else f"codes.npy, reconstructions.npy{lines}"
    return [
        f"{run.done} observations, {run.success} with success",
        *text_table(("status", "count", "meaning"), rows, ("status", "meaning")),
        *([] if run.mixed is None else [f"{run.mixed} of {run.done} posteriors have mixed"]),
        f"{seconds:.1f} s of work; written to {run.folder}/: {written}",
        *([f"`unrelu report {run.folder}` writes a page on them"] if run.finished else ()),
    ]


def _errors(errors: dict[int, str], most: int, indent: str) -> list[str]:
    """The first error messages, by observation, and the number of further ones."""
    lines = [f"{indent}observation {i}: {text}" for i, text in list(errors.items())[:most]]
    more = len(errors) - most
    return [*lines, f"{indent}and {more} more; the report has them all"] if more > 0 else lines

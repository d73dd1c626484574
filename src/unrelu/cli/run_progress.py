"""What a run shows in the terminal: a line a chunk, a bar with the rate and the remaining time, or JSON lines."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from unrelu.cli.terminal import plain, tell
from unrelu.result import Status
from unrelu.runs import Moment, Run, Settled

# Errors that are printed of one chunk; the others are in the report.
_ERRORS = 3


class Watcher:
    """A callback of :func:`unrelu.runs.run` that tells what happens, and stops the run after an interrupt."""

    def __init__(self, console: Console, bar: Progress, lines: bool, folder: Path) -> None:
        self._console, self._bar, self._lines, self._folder = console, bar, lines, folder
        self._began = time.monotonic()
        self._kept = self._computed = 0
        self.interrupted = False

    def __call__(self, moment: Moment) -> bool:
        """Show a chunk or a warning; whether to stop."""
        if moment.text:
            said = f"[yellow]warning:[/yellow] {escape(moment.text)}"
            self._say({"event": "warning", "message": moment.text}, said)
        if moment.settled is not None:
            self._count(moment.settled)
            self._chunk(moment.settled, moment.done, moment.size)
        self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=moment.done, total=moment.size, pace=self._pace(moment))
        return self.interrupted

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The first Ctrl-C, or a batch system's SIGTERM: finish the chunks at work. The second ends at once."""
        if self.interrupted:
            tell(self._console, "ended at once; run the same command again to go on from the last finished chunk")
            raise KeyboardInterrupt
        self.interrupted = True
        tell(self._console, "stopping when the chunks at work are finished (Ctrl-C again to end at once)")

    def end(self, run: Run) -> None:
        """Tell how it ended."""
        if self._lines:
            _print_line({"event": "end", **summary(run)})
        if self._bar.live.is_started:
            self._bar.stop()
        if not run.finished:
            self._console.print(
                f"stopped: {len(run.records)} of {run.chunks} chunks are finished; run the same command again to go on,"
                f" or see `unrelu status {escape(str(self._folder))}`",
                soft_wrap=True,
            )
        elif not self._console.quiet:
            print_counts(Console(stderr=True), run)

    def _count(self, settled: Settled) -> None:
        size = settled.record.stop - settled.record.start
        if settled.how == "kept":
            self._kept += size
            self._began = time.monotonic()
        else:
            self._computed += size

    def _pace(self, moment: Moment) -> str:
        """Observations a second and the time that is left, by those computed since this start."""
        if not self._computed:
            return ""
        rate = self._computed / max(time.monotonic() - self._began, 1e-9)
        left = timedelta(seconds=round((moment.size - moment.done) / rate))
        return f"{rate:.3g}/s, {left} left"

    def _chunk(self, settled: Settled, done: int, size: int) -> None:
        record = settled.record
        if self._lines:
            _print_line({"event": "chunk", "how": settled.how, "done": done, "size": size, **asdict(record)})
        if settled.how == "kept":
            return
        ends = ", ".join(f"{count} {name}" for name, count in record.counts.items())
        mended = " (computed again: its rows were damaged)" if settled.how == "repaired" else ""
        self._console.print(
            f"chunk {record.chunk}: observations {record.start} to {record.stop - 1} in {record.seconds:.2f} s: "
            f"{ends}{mended}",
            highlight=False,
            soft_wrap=True,
        )
        for i, text in list(record.errors.items())[:_ERRORS]:
            self._console.print(f"  [red]observation {i}[/red]: {escape(text)}", highlight=False, soft_wrap=True)
        if len(record.errors) > _ERRORS:
            self._console.print(f"  and {len(record.errors) - _ERRORS} more", highlight=False)

    def _say(self, line: dict[str, Any], text: str) -> None:
        if self._lines:
            _print_line(line)
        self._console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def watching(quiet: bool, lines: bool, folder: Path) -> Iterator[Watcher]:
    """A watcher with its bar, to which Ctrl-C and SIGTERM go meanwhile.

    Args:
        quiet: show nothing but errors.
        lines: JSON lines on standard output in place of text.
        folder: of the run, for hints.
    """
    console = Console(stderr=True, quiet=quiet or lines)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"),
    )  # fmt: skip
    bar = Progress(*columns, console=console)  # started by the first moment, when everything is known to fit
    bar.add_task("observations", total=None, pace="")
    watcher = Watcher(console, bar, lines, folder)
    before = {number: signal.signal(number, watcher.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield watcher
    finally:
        if bar.live.is_started:
            bar.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def summary(run: Run) -> dict[str, Any]:
    """How far a run is, as JSON has it."""
    return {
        "folder": str(run.folder), "finished": run.finished, "running": run.running, "chunks": run.chunks,
        "finished_chunks": len(run.records), "size": run.size, "done": run.done, "success": run.success,
        "counts": run.counts, "failed": run.failed, "errors": len(run.errors),
    }  # fmt: skip


def print_status(run: Run, lines: bool) -> None:
    """Print how far a run is, as text or as one JSON line."""
    if lines:
        _print_line(summary(run))
        return
    console = Console(highlight=False)
    manifest, about = run.manifest, run.manifest["about"]
    given = {name: value for name, value in manifest["options"].items() if value is not None}
    what = f"{about.get('model', 'a network')} on {about['data']}, method {manifest['method']}"
    options = "".join(f" {name}={value}" for name, value in given.items())
    console.print(
        plain(f"{run.folder}: {what}{options}, seed {manifest['seed']}, unrelu {manifest['version']}"), soft_wrap=True
    )
    state = "finished" if run.finished else "running" if run.running else "stopped"
    console.print(f"{state}: {run.done} of {run.size} observations, {len(run.records)} of {run.chunks} chunks")
    if run.records:
        print_counts(console, run)
    for i, text in list(run.errors.items())[:10]:
        console.print(f"[red]observation {i}[/red]: {plain(text)}", soft_wrap=True)
    if len(run.errors) > 10:
        folder = escape(str(run.folder))
        console.print(f"and {len(run.errors) - 10} more; `unrelu report {folder}` has them all", soft_wrap=True)
    if not run.finished and not run.running and "command" in about:
        console.print(f"go on with: {plain(about['command'])}", soft_wrap=True)


def print_counts(console: Console, run: Run) -> None:
    """A table of how the observations ended."""
    title = f"{run.done} observations, {run.success} with success"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("status", "count", "meaning"):
        table.add_column(heading, justify="right" if heading == "count" else "left")
    for name, count in run.counts.items():
        table.add_row(name, str(count), Status[name].value)
    console.print(table)
    seconds = sum(record.seconds for record in run.records.values())
    folder = escape(str(run.folder))
    console.print(f"{seconds:.1f} s of work; written to {folder}/: {', '.join(_written(run))}", soft_wrap=True)
    if run.finished:
        console.print(f"`unrelu report {folder}` writes a page on them", soft_wrap=True)


def _written(run: Run) -> list[str]:
    if run.manifest["results"] == "zarr":
        return ["results.zarr"]
    return ["codes.npy", "reconstructions.npy", *(["results.jsonl"] if run.finished else [])]


def _print_line(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()

"""A study on a terminal: a bar with the remaining time, Ctrl-C that keeps what is finished, tables as on its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unrelu.runtime.interrupts import interruptible
from unrelu_studies.kit.unit_runner import Report, journal_of


@contextmanager
def interrupts(console: Console) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one ends at once."""
    told = "stopping when what has begun is finished (Ctrl-C again to end at once)"
    with interruptible("" if console.quiet else told) as event:
        yield event.is_set


@contextmanager
def progress_bar(name: str, interrupted: Callable[[], bool], console: Console) -> Iterator[Report]:
    """A progress bar on stderr, as the report that :func:`~unrelu_studies.kit.unit_runner.run_units` asks for."""
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

"""A progress bar on standard error, in a terminal or a notebook; nothing elsewhere, unless it is asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from unrelu.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

# Rich is imported where something is drawn: its import draws from Python's random numbers, which are the user's.

# Seconds between two drawings.
_EVERY = 0.1


def bar_of(
    console: Console, description: str, total: int | None, clock: bool = True, threaded: bool = True
) -> Progress:
    """A progress bar with one task: so many of all, a note, and the time that has passed.

    Args:
        console: where it is drawn.
        description: what is counted.
        total: how many there are; None where that is not known yet.
        clock: whether the time is shown.
        threaded: whether a thread of its own draws it; otherwise :meth:`rich.progress.Progress.refresh` does, and
            standard output and error stay as they are.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns.append(TextColumn("{task.fields[note]}"))
    bar = Progress(
        *columns, *([TimeElapsedColumn()] if clock else []), console=console, auto_refresh=threaded,
        redirect_stdout=threaded, redirect_stderr=threaded,
    )  # fmt: skip
    bar.add_task(description, total=total, note="")
    return bar


@contextmanager
def reporting(
    asked: bool | str, description: str, callback: Callable[[Any], Any] | None
) -> Iterator[Callable[[Any], Any] | None]:
    """The callback with a bar before it, for the time of the context; the callback itself where none is shown.

    The bar is drawn by the calls themselves, so there is no thread and no signal handler, and nothing that is computed
    depends on it.

    Args:
        asked: False; True, for a terminal or a notebook; "always", also where standard error is a file.
        description: what is at work.
        callback: is given what the bar is given, an object with ``done``, ``total`` and ``nit``.

    Raises:
        OptionError: ``asked`` is something else.
    """
    if not isinstance(asked, bool) and asked != "always":
        raise OptionError(f"progress={asked!r}: use True, False, or 'always' where standard error is no terminal")
    console = _console(asked)
    if console is None:
        yield callback
        return
    with bar_of(console, description, None, threaded=False) as bar:
        task, drawn = bar.task_ids[0], 0.0

        def report(progress: Any) -> Any:
            nonlocal drawn
            bar.update(task, completed=progress.done, total=progress.total, note=f"iteration {progress.nit:,}")
            if time.monotonic() - drawn >= _EVERY:
                bar.refresh()
                drawn = time.monotonic()
            return callback(progress) if callback is not None else None

        yield report
        bar.update(task, completed=bar.tasks[0].total)


def _console(asked: bool | str) -> Console | None:
    """Where the bar is drawn, if anywhere."""
    if not asked:
        return None
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if console.is_jupyter:
        # Rich draws by widgets there; without them a line that is written over does.
        widgets = find_spec("ipywidgets") is not None
        return console if widgets else Console(file=sys.stderr, force_terminal=True, force_jupyter=False)
    if console.is_terminal:
        return console
    return Console(stderr=True, force_terminal=True, width=80, no_color=True) if asked == "always" else None

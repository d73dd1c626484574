"""A progress bar on standard error: in a terminal or a notebook, elsewhere only on request."""

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
    from rich.progress import Progress

# Rich is imported only when something is drawn, because its import advances Python's random numbers.

# Seconds between two refreshes of the bar.
_EVERY = 0.1


def bar_of(console: Console, description: str, total: int | None, threaded: bool = True) -> Progress:
    """Make a progress bar with one task: the number done of the total, a note, and the elapsed time.

    If ``threaded``, a separate thread draws the bar. Otherwise :meth:`rich.progress.Progress.refresh` draws it, and
    standard output and error are not redirected.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(), console=console, auto_refresh=threaded, redirect_stdout=threaded, redirect_stderr=threaded,
    )  # fmt: skip
    bar.add_task(description, total=total, note="")
    return bar


@contextmanager
def reporting(
    asked: bool | str, description: str, callback: Callable[[Any], Any] | None
) -> Iterator[Callable[[Any], Any] | None]:
    """Yield a callback that updates a progress bar and then calls ``callback``; without a bar, ``callback`` itself.

    The callback draws the bar, without a thread or a signal handler. Computations do not depend on the bar.

    Args:
        asked: True shows the bar in a terminal or a notebook; "always" shows it also if standard error is a file.
        description: what is in progress.
        callback: a function of an object with ``done``, ``total`` and ``nit``.

    Raises:
        OptionError: ``asked`` is none of True, False and "always".
    """
    if not isinstance(asked, bool) and asked != "always":
        raise OptionError(f"progress={asked!r}: use True, False, or 'always' where standard error is no terminal")
    console = _console(asked) if asked else None
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
    """Return the console for the bar; None if standard error is a file, except if ``asked`` is "always"."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    if console.is_jupyter and find_spec("ipywidgets") is None:  # one line of text is overwritten instead
        return Console(file=sys.stderr, force_terminal=True, force_jupyter=False)
    if console.is_jupyter or console.is_terminal:
        return console
    return Console(stderr=True, force_terminal=True, width=80, no_color=True) if asked == "always" else None

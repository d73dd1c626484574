"""Functions that commands share: parsing of options, progress bars that can be interrupted, printing of results.

Heavy modules are imported where they are used, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unrelu.errors import InputError, OptionError

if TYPE_CHECKING:
    from unrelu.runtime.run_control import Progress


# What is said of observations with which a command ends with status 1, before the name of a file.
FAILED, UNMIXED = "observations failed, their messages are in", "posteriors have not mixed, see"


def size_of(text: str | None) -> tuple[int, int] | None:
    """Parse the value of ``--size``: (height, width)."""
    if text is None:
        return None
    try:
        height, width = map(int, text.split(","))
    except ValueError:
        raise InputError(f"--size {text!r} is not HEIGHT,WIDTH; pass two whole numbers such as 28,28") from None
    if min(height, width) < 1:
        raise InputError(f"--size {text!r}: a picture has at least one pixel; pass two whole numbers such as 28,28")
    return height, width


def options_of(pairs: list[str] | None) -> dict[str, Any]:
    """Parse ``name=value`` pairs."""
    options: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise OptionError(f"--option {pair!r}: write name=value, e.g. alpha=1.5")
        if name in options:
            raise OptionError(f"--option {name} is given twice")
        options[name] = _value(text)
    return options


def _value(text: str) -> Any:
    """The text as a number or as JSON; the text itself if it is neither."""
    for read in (int, float, json.loads):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return text


def plain(text: str) -> str:
    """Escape control characters in a text from a file, so that they cannot control the terminal."""
    return "".join(c if c >= " " and not "\x7f" <= c < "\xa0" else f"\\x{ord(c):02x}" for c in text)


def show(silent: bool, *texts: object) -> None:
    """Print the texts, without empty ones; print nothing if ``silent``."""
    for line in "\n".join(str(text) for text in texts if str(text)).split("\n"):
        if not silent:
            print(plain(line))


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove an output folder that was created in this context and is still empty when the work fails."""
    made = not folder.exists()
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if made:
                folder.rmdir()
        raise


def end(failed: int, size: int, interrupted: bool, messages: Path | None, what: str = FAILED) -> None:
    """End a command with exit status 130, 1 or 0; print how many observations failed, and which file says more."""
    if failed and messages is not None:
        print(f"{failed} of {size} {what} {messages}", file=sys.stderr)
    if interrupted or failed:
        raise typer.Exit(130 if interrupted else 1)


@contextmanager
def progress_bar(
    quiet: bool, method: str, size: int, unit: str = "iteration"
) -> Iterator[tuple[Callable[[Progress], bool], threading.Event]]:
    """A callback that updates a progress bar, and an event that the first Ctrl-C sets to stop and keep the results."""
    from rich.console import Console

    from unrelu.display.progress_bar import bar_of
    from unrelu.runtime.interrupts import interruptible

    console = Console(stderr=True, quiet=quiet)
    message = "stopping; the results so far will be written (Ctrl-C again to end at once)"
    with interruptible("" if quiet else message) as interrupted, bar_of(console, method, size) as bar:
        task = bar.task_ids[0]
        bar.update(task, note=f"{unit} 0")

        def callback(progress: Progress) -> bool:
            bar.update(task, completed=progress.done, total=progress.total, note=f"{unit} {progress.nit}")
            return interrupted.is_set()

        yield callback, interrupted
        if not interrupted.is_set():
            bar.update(task, completed=bar.tasks[0].total)

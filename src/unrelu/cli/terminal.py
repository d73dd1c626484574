"""The output of commands: results, progress bars that can be interrupted, and the number of failed observations.

Heavy modules are imported where they are used, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrelu._version import __version__
from unrelu.errors import InputError, OutputExistsError, StorageError
from unrelu.runtime.file_writing import as_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from unrelu.cli.options import Folder as OutputFolder
    from unrelu.runtime.run_control import Progress


class Interrupted(Exception):
    """A second Ctrl-C, after which nothing is written any more."""


# --- standard output and error ----------------------------------------------------------------------------------------


def write(text: str) -> None:
    """Write a line to standard output. If the reader has ended, as ``head`` does, drop all further output.

    Raises:
        StorageError: standard output is a file on a full disk.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nothing_more()
    except OSError as error:
        raise StorageError(f"standard output cannot be written: {error.strerror}; what is finished is kept") from error


def nothing_more() -> None:
    """Drop all further standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Write a line to standard error, if it can be written."""
    with suppress(OSError):
        print(plain(text), file=sys.stderr, flush=True)


def show(silent: bool, *texts: object) -> None:
    """Print the texts, without empty ones; print nothing if ``silent``."""
    if not silent:
        write(plain("\n".join(str(text) for text in texts if str(text))))


def plain(text: str) -> str:
    """Escape control characters in a text from a file, so that they cannot control the terminal."""
    return "".join(c if c in "\n" or (c >= " " and not "\x7f" <= c < "\xa0") else f"\\x{ord(c):02x}" for c in text)


def console_of(quiet: bool) -> Console:
    """Return a console on standard error for progress. If its reader ends, the work continues."""
    from rich.console import Console

    class StandardError(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True

    return StandardError(stderr=True, quiet=quiet)


# --- one JSON document on standard output for --json; docs/command_line.md lists the keys -----------------------------


def leave(command: str, document: Mapping[str, Any]) -> None:
    """Write the document of a command. The command does nothing afterwards that can fail."""
    write(json.dumps(as_json({"command": command, "version": __version__, **document}), allow_nan=False))


def error_document(kind: str, message: str, status: int) -> str:
    """Return the document of an error, as one line."""
    return json.dumps({"error": {"type": kind, "message": message, "status": status}})


# --- places for results -----------------------------------------------------------------------------------------------


def is_picture(path: Path) -> bool:
    """Check whether the name ends like the name of a PNG or JPEG file."""
    return path.suffix.lower() in (".png", ".jpg", ".jpeg") and not path.is_dir()


def refuse_existing(output: Path, overwrite: bool, resumes: bool = False) -> None:
    """Refuse an output that exists, before anything is imported. ``resumes`` allows the folder of a run.

    Raises:
        InputError: the output is a file and should be a folder.
        OutputExistsError: a picture of this name exists, or a folder that is not empty.
    """
    if not output.exists():
        return
    if not output.is_dir() and not is_picture(output):
        raise InputError(f"{output} is a file; name a folder for the results")
    runs = resumes and (output / "chunks.jsonl").exists()  # also a run that ended before its first chunk
    if not overwrite and not runs and (output.is_file() or any(output.iterdir())):
        other = "folder" if output.is_dir() else "name"
        raise OutputExistsError(f"{output} exists; choose another {other}, or pass --overwrite to replace its results")


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


# --- progress and the end ---------------------------------------------------------------------------------------------


@contextmanager
def interruptible_bar(
    quiet: bool, description: str, first: str, second: str = "", signals: tuple[int, ...] = (signal.SIGINT,)
) -> Iterator[tuple[Bar, threading.Event]]:
    """Yield a bar that the work has to start, and an event that the first Ctrl-C sets. Messages are for each Ctrl-C."""
    from unrelu.display.progress_bar import bar_of
    from unrelu.runtime.interrupts import interruptible

    bar = bar_of(console_of(quiet), description, None)
    with interruptible("" if quiet else first, "" if quiet else second, signals) as interrupted:
        try:
            yield bar, interrupted
        finally:
            if bar.live.is_started:
                bar.stop()


@contextmanager
def progress_bar(
    quiet: bool, method: str, unit: str = "iteration"
) -> Iterator[tuple[Callable[[Progress], bool], threading.Event]]:
    """Yield a callback that updates a progress bar, and an event: the first Ctrl-C sets it to stop and keep results."""
    message = "stopping; the results so far will be written (Ctrl-C again to end at once)"
    with interruptible_bar(quiet, method, message) as (bar, interrupted):

        def callback(progress: Progress) -> bool:
            bar.start()
            note = f"{unit} {progress.nit}"
            bar.update(bar.task_ids[0], completed=progress.done, total=progress.total, note=note)
            return interrupted.is_set()

        yield callback, interrupted
        if not interrupted.is_set():
            bar.update(bar.task_ids[0], completed=bar.tasks[0].total)


def unmixed(statuses: Sequence[str], where: str) -> str:
    """Say how many posteriors mixed, did not mix or were cut short, and which file says more; "" if all mixed."""
    mixed, not_mixed = statuses.count("MIXED"), statuses.count("NOT_MIXED")
    if mixed == len(statuses):
        return ""
    short = len(statuses) - mixed - not_mixed
    found = f"{mixed} mixed, {not_mixed} did not mix and {short} were not sampled to the end"
    return f"of {len(statuses)} posteriors, {found}; see {where}"


def finish(
    command: str, folder: OutputFolder, interrupted: threading.Event, rows: Sequence[Mapping[str, Any]], *texts: object,
    problem: str = "", **more: Any,
) -> None:  # fmt: skip
    """Print the JSON document of a command, with a row for each observation, or its texts. Then end the command."""
    if folder.json:
        counts = dict(sorted(Counter(row["status"] for row in rows if "status" in row).items()))
        found = {"output": folder.output, "size": len(rows), "counts": counts, **more}
        leave(command, {**found, "interrupted": interrupted.is_set(), "observations": rows})
    show(folder.quiet or folder.json, *texts)
    end(interrupted.is_set(), problem)


def end(interrupted: bool, *problems: str) -> None:
    """End a command with exit status 130, 1 or 0, and print the problems, if any."""
    import typer

    found = [problem for problem in problems if problem]
    for problem in found:
        say(problem)
    if interrupted or found:
        raise typer.Exit(130 if interrupted else 1)

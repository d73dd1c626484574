"""The process of the command line: Ctrl-C, errors and the exit status, the same for every command.

====  ==============================================================================================================
0     done
1     done, but at least one observation failed and has no code, or its posterior has not mixed. The last line on
      standard error says how many
2     wrong use, or the command cannot be carried out: unusable files, a full disk, a missing package
130   interrupted; the results found so far are written
====  ==============================================================================================================

With ``--json`` standard output is one JSON document, also for an error: ``{"error": {"type", "message", "status"}}``.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from unrelu.cli.terminal import Interrupted, error_document, nothing_more, say, write
from unrelu.errors import UnreluError


def main() -> None:
    """Run the command line, and end the process with its exit status. Print errors on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot encode
    # The parent process may ignore interrupts, as a shell does for background jobs. Then they stay ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        status = _status()
    except Exception as error:
        status = _failed(error)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # already reported, or the reader has ended
        nothing_more()
    sys.exit(status)


def _asked_for_json() -> bool:
    return "--json" in sys.argv[1:]


def _status() -> int:
    from unrelu.cli._app import app  # only after Ctrl-C is handled

    try:
        status = app(prog_name="unrelu", standalone_mode=not _asked_for_json())
    except SystemExit as end:  # Typer raises it, also after success
        status = end.code
    return status if isinstance(status, int) else 0


def _interrupted(number: int, frame: Any) -> None:
    """End the process at once. An exception would break packages during their import, or get lost in a finalizer.

    Commands that write partial results handle the first Ctrl-C themselves.
    """
    with suppress(OSError):
        os.write(2, b"\x1b[?25hinterrupted\n" if os.isatty(2) else b"interrupted\n")  # a bar has hidden the cursor
        if _asked_for_json():
            os.write(1, f"{error_document('Interrupted', 'interrupted', 130)}\n".encode())
    os._exit(130)


def _failed(error: Exception) -> int:
    """Print the error and return the exit status."""
    status = 2
    if isinstance(error, Interrupted):
        message, status = "interrupted", 130
    elif isinstance(error, UnreluError):
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
    elif isinstance(error, MemoryError):
        message = f"memory ran out ({error}); work on fewer observations at once, with --chunk or in smaller files"
    elif isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        message = f"{where}{error.strerror or error}"
    elif hasattr(error, "format_message"):  # an error of Typer, with --json
        message = f"{error.format_message()} (see --help)"
    else:
        raise error
    say(message if status == 130 else f"error: {message}")
    if _asked_for_json():
        with suppress(OSError):
            write(error_document(type(error).__name__, message, status))
    return status

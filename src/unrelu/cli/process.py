"""The process of the command line: its output, Ctrl-C, and the exit status, alike for every command.

====  ==============================================================================================================
0     done
1     done, but at least one observation failed: it has no code. How many is the last line on standard error
2     wrong use, or what was asked for cannot be done: unusable files, a full disk, a missing package
130   interrupted; what was found until then is written
====  ==============================================================================================================

With ``--json`` standard output is one JSON document, also of an error: ``{"error": {"type", "message", "status"}}``.

Nothing heavy is imported before Ctrl-C is prepared for, and the commands only then.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from unrelu.cli.json_output import asked_for, leave_error, taken
from unrelu.errors import StorageError, UnreluError


def main() -> None:
    """Run the command line, and end the process with its exit status. Errors are a line on standard error."""
    sys.stdout, sys.stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)
    interrupted, json = threading.Event(), asked_for(sys.argv[1:])
    taken()

    def interrupt(number: int, frame: Any) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    # Not where the one that started us wants interrupts to be ignored, as a shell does for jobs in the background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    with _nothing_ignored():
        try:
            status = _command(json)
            _write(json, status)
            if interrupted.is_set():  # Typer makes an exit status of it
                raise KeyboardInterrupt
        except BaseException as error:
            status = _failed(error, interrupted.is_set())
            with suppress(OSError, StorageError):  # said above
                _write(json, status)
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done; while the interpreter ends, a Ctrl-C just ends it
    sys.exit(status)


@contextmanager
def _nothing_ignored() -> Iterator[None]:
    """An interrupt of a finalizer, which Python would print and then ignore, ends the process there."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            os._exit(_failed(unraisable.exc_value, True))
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _command(json: bool) -> int:
    from unrelu.cli._app import app

    try:
        status = app(prog_name="unrelu", standalone_mode=not json)
    except SystemExit as end:  # of Typer, also after success
        return end.code if isinstance(end.code, int) else 0
    return status if isinstance(status, int) else 0


def _write(json: bool, status: int) -> None:
    """Write the document, if ``json`` asks for one, and flush."""
    if json:
        document = taken()
        if not document and status == 130:  # of a second Ctrl-C, of which Typer makes an exit status
            leave_error("Interrupted", "interrupted", status)
            document = taken()
        sys.stdout.write(document)
    sys.stdout.flush()


def _failed(error: BaseException, interrupted: bool) -> int:
    """Print what went wrong, and return the exit status."""
    # An interrupt of an import or of compiled code comes out as an error of some other kind.
    if interrupted or isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        leave_error("Interrupted", "interrupted", 130)
        return 130
    if isinstance(error, UnreluError):
        message = str(error)
    elif isinstance(error, MemoryError):
        message = f"memory ran out ({error}); work on fewer observations at once, with --chunk or in smaller files"
    elif isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        message = f"{where}{error.strerror or error}"
    elif hasattr(error, "exit_code") and hasattr(error, "format_message"):  # of Typer, which shows it itself otherwise
        message = f"{error.format_message()} (see --help)"
    else:
        raise error
    print(f"error: {message}", file=sys.stderr)
    leave_error(type(error).__name__, message, 2)
    return 2


class _Output(io.FileIO):
    """Standard output or error. What nobody reads any more is dropped, so a run goes on when ``head`` has ended."""

    _lost = False

    def write(self, data: Any) -> int:
        """Write what the system takes at once; drop everything where nobody reads.

        Raises:
            StorageError: standard output is on a full disk. It is raised once, and never for standard error.
        """
        try:
            if not self._lost:
                return super().write(data) or 0
        except OSError as error:
            self._lost = True
            if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                raise StorageError(
                    f"standard output cannot be written: {error.strerror}; what is finished is kept"
                ) from error
        return memoryview(data).nbytes


def _safe(stream: Any, number: int) -> Any:
    """The stream, made safe: it escapes what the terminal cannot encode, and may be closed or full.

    A stream that is no file of this process, such as a test's, only escapes.
    """
    if stream is None:  # closed by the one that started us
        return open(os.devnull, "w", encoding="utf-8")
    own: bool = stream in (sys.__stdout__, sys.__stderr__)
    if not own or os.name == "nt":
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Output(number, "wb", closefd=False))
    return io.TextIOWrapper(
        raw, encoding=stream.encoding, errors="backslashreplace", line_buffering=number == 2 or stream.isatty()
    )

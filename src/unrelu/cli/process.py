"""The process of the command line: output, Ctrl-C and the exit status, the same for every command.

====  ==============================================================================================================
0     done
1     done, but at least one observation failed and has no code, or its posterior has not mixed. The last line on
      standard error says how many
2     wrong use, or the command cannot be carried out: unusable files, a full disk, a missing package
130   interrupted; the results found so far are written
====  ==============================================================================================================

With ``--json`` standard output is one JSON document, also for an error: ``{"error": {"type", "message", "status"}}``.

The commands and everything heavy are imported only after Ctrl-C is handled.
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

    # The parent process may have interrupts ignored, as a shell does for background jobs. They stay ignored then.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    with _nothing_ignored():
        try:
            status = _command(json)
            _write(json, status)
            if interrupted.is_set():  # Typer turns an interrupt into an exit status
                raise KeyboardInterrupt
        except BaseException as error:
            status = _failed(error, interrupted.is_set())
            with suppress(OSError, StorageError):  # already reported
                _write(json, status)
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the interpreter ends, Ctrl-C just kills it
    sys.exit(status)


@contextmanager
def _nothing_ignored() -> Iterator[None]:
    """End the process at an interrupt in a finalizer, which Python would print and ignore."""
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
    except SystemExit as end:  # Typer raises it, also after success
        return end.code if isinstance(end.code, int) else 0
    return status if isinstance(status, int) else 0


def _write(json: bool, status: int) -> None:
    """Write the document, if ``json`` asks for one, and flush."""
    if json:
        document = taken()
        if not document and status == 130:  # a second Ctrl-C, which Typer turns into an exit status
            leave_error("Interrupted", "interrupted", status)
            document = taken()
        sys.stdout.write(document)
    sys.stdout.flush()


def _failed(error: BaseException, interrupted: bool) -> int:
    """Print the error and return the exit status."""
    # An interrupt during an import or in compiled code may surface as an error of another type.
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
    elif hasattr(error, "exit_code") and hasattr(error, "format_message"):  # an error of Typer with --json
        message = f"{error.format_message()} (see --help)"
    else:
        raise error
    print(f"error: {message}", file=sys.stderr)
    leave_error(type(error).__name__, message, 2)
    return 2


class _Output(io.FileIO):
    """Standard output or error. After the reader has ended, as ``head`` does, output is dropped and a run goes on."""

    _lost = False

    def write(self, data: Any) -> int:
        """Write as much as the system takes at once; drop everything after a failure.

        Raises:
            StorageError: standard output is on a full disk. This is raised once, and never for standard error.
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
    """A safe form of the stream: it escapes what the terminal cannot encode, and tolerates a closed or full output.

    A stream that is not this process's own, such as a test's, only escapes.
    """
    if stream is None:  # closed by the parent process
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

"""Writing files. System errors become StorageErrors, files appear complete or not at all, journals have one writer."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from unrelu.errors import InputError, StorageError

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

# The advice when results can no longer be written.
AGAIN = "what is finished is kept: mend that, and run it again"


@contextmanager
def storing(where: str | Path, advice: str) -> Iterator[None]:
    """Turn system errors into StorageErrors with advice while ``where`` is written.

    If ``where`` is a folder, the message names the file in it, if the system reports one.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:  # NumPy's OSErrors have neither a reason nor a file
        place = error.filename if error.filename and os.path.isdir(where) else where
        raise StorageError(f"{place} cannot be written: {error.strerror or error}; {advice}") from error


@contextmanager
def drafted(path: Path, advice: str) -> Iterator[IO[bytes]]:
    """Yield a stream. At the end its content becomes the file, complete or not at all."""
    draft = path.with_name(path.name + ".draft")
    with storing(path, advice):
        try:
            draft.unlink(missing_ok=True)  # it may be a link to another place
            with draft.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())  # otherwise a power cut could leave an empty file
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def write_whole(path: Path, text: Iterable[str], advice: str) -> None:
    """Write a text file, complete or not at all."""
    with drafted(path, advice) as stream:
        stream.writelines(line.encode() for line in text)


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write each row as a line of JSON, into a file that appears complete or not at all."""
    lines = (json.dumps(row, allow_nan=False) + "\n" for row in rows)
    write_whole(path, lines, "free space, or name another folder")


def as_json(value: Any) -> Any:
    """Convert a value to JSON types: NumPy types to Python's, numbers that are not finite to None, others to text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(name): as_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def check_own_files(folder: Path, why: str = "results are written there: remove it, or name another folder") -> None:
    """Refuse a folder that contains links, which lead elsewhere, or pipes, which may block forever."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is a link or no file; {why}")


@contextmanager
def sole_writer(file: int, path: Path) -> Iterator[None]:
    """Lock an open file against other runs that write, if the system has locks. A lock ends with its process."""
    for _ in range(10):
        if _lock(file):
            yield
            return
        time.sleep(0.1)  # a process that checks the lock holds it for a moment
    raise InputError(f"{path} is being written by another run; wait for it, or name another folder")


@contextmanager
def taking_turns(path: Path, stopped: Callable[[], Any]) -> Iterator[None]:
    """Wait for the lock of a file, until ``stopped()`` or for ten minutes. Do not wait if the file cannot be made."""
    with ExitStack() as stack:
        file = None
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
        for _ in range(12_000):  # not forever: a suspended process keeps its lock
            if not file or _lock(file.fileno()) or stopped():
                break
            time.sleep(0.05)
        yield


def locked(path: Path) -> bool:
    """Check whether a run is writing the file now, by its lock. Return False if there is no such file."""
    if not path.exists():
        return False
    with path.open("rb") as stream:
        return not _lock(stream.fileno())  # closing the file releases the lock


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):  # a file system or a system without locks
        pass
    return True

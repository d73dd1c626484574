"""Writing files: errors of the system are StorageErrors, files appear as a whole, and one process writes a journal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, StorageError

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

# Tenths of a second that a lock is waited for.
_TRIES = 10


@contextmanager
def storing(where: str | Path, advice: str) -> Iterator[None]:
    """Tell of an error of the system while ``where`` is written, and what can be done about it.

    Of a folder, the file in it is named where the system tells which it was.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:  # NumPy's own have neither a reason nor a file
        place = error.filename if error.filename and os.path.isdir(where) else where
        raise StorageError(f"{place} cannot be written: {error.strerror or error}; {advice}") from error


@contextmanager
def drafted(path: Path, advice: str) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file as a whole, at the end, or not at all."""
    draft = path.with_name(path.name + ".draft")
    with storing(path, advice):
        try:
            draft.unlink(missing_ok=True)  # a link would lead elsewhere
            with draft.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())  # a power cut would leave a name without content
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def write_whole(path: Path, text: Iterable[str], advice: str) -> None:
    """Write a file of text as a whole or not at all."""
    with drafted(path, advice) as stream:
        stream.writelines(line.encode() for line in text)


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]], advice: str) -> None:
    """Write a compressed ``.npz`` file of numbers and words, as a whole or not at all."""
    with drafted(path, advice) as stream:
        np.savez_compressed(stream, **arrays, allow_pickle=False)


@contextmanager
def sole_writer(file: int, path: Path) -> Iterator[None]:
    """Keep other runs from writing an open file, where the system has locks; a lock ends with its process."""
    # Whoever looks whether it is locked has it for a moment.
    for _ in range(_TRIES):
        if _lock(file):
            break
        time.sleep(0.1)
    else:
        raise InputError(f"{path} is being written by another run; wait for it, or name another folder")
    yield


def locked(path: Path) -> bool:
    """Whether a run is writing the file now, as far as locks tell; False where there is no such file."""
    if fcntl is None or not path.exists():
        return False
    with path.open("rb") as stream:
        return not _lock(stream.fileno())  # closing the file gives a lock back


def _lock(file: int) -> bool:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True

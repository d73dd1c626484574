"""Reading files that may be damaged or malicious.

Every file that a user names is opened here. Only regular files are opened, because a FIFO or a device could block. The
size in a header is compared with the environment variable ``UNRELU_MAX_FILE_BYTES`` before memory is allocated. Only
``loaders._pickled_arrays`` reads pickles.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError, UnreluError
from unrelu.runtime.words import shown

# The environment variable that limits the size that a file may state, in bytes, and its default.
LIMIT_VARIABLE, _LIMIT_BY_DEFAULT = "UNRELU_MAX_FILE_BYTES", 2**32
# The most characters in the name of an array, and the most axes that every version of NumPy supports.
_NAME, _AXES = 1000, 32


def shown_size(size: int) -> str:
    """Format a number of bytes for messages."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.4g} {name}"
    return f"{size} bytes"


def check_stated_size(said: str, size: int, instead: str = "") -> None:
    """Refuse a stated size in bytes that is larger than the setting allows, before anything is read.

    Args:
        said: the beginning of the message: what has this size, with a verb.
        size: the stated number of bytes.
        instead: the alternative that the message offers.

    Raises:
        InputError: the size is larger.
        OptionError: the setting is not a number of bytes.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(_LIMIT_BY_DEFAULT)
    most = int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else 0
    if most < 1:
        raise OptionError(
            f"the environment variable {LIMIT_VARIABLE}={text[:40]!r} must be a whole number of bytes, of at least 1: "
            f"{_LIMIT_BY_DEFAULT} is the default"
        )
    if size > most:
        raise InputError(
            f"{said} {shown_size(size)}; at most {shown_size(most)} are read: {f'{instead}, or ' if instead else ''}"
            f"set the environment variable {LIMIT_VARIABLE}={size} if you trust the file"
        )


# --- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: str | Path, within: Path | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for reading; yield the stream and the size in bytes. Links are followed.

    With ``within``, the file has to lie in that folder after all links are resolved.
    """
    with _reading(path):
        if within is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within)):
            raise InputError(f"{path} is a link that leads out of {within}; put the file itself there")
        found = os.stat(path)  # opening a FIFO waits for a writer, and opening a device may have an effect
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is a folder, a pipe or a device; pass a regular file")
        stream = open(path, "rb")  # noqa: SIM115 -- closed below
    with stream:
        yield stream, found.st_size


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Turn system errors into InputErrors while a file is read."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check the path and its rights") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no path of a file ({error}); check it") from error


def read_bytes(path: str | Path, within: Path | None = None) -> bytes:
    """Read all bytes of a file."""
    with opened(path, within) as (stream, size), _reading(path):
        check_stated_size(f"{path} has", size)
        return stream.read(size)


def read_json(path: str | Path, within: Path | None = None) -> Any:
    """Read a JSON file and return its value."""
    content = read_bytes(path, within)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def read_json_lines(path: str | Path, most: int, within: Path) -> Iterator[Any]:
    """Yield the value of each line of a file as JSON, or None for a damaged line; lines have at most ``most`` bytes."""
    with opened(path, within) as (stream, _), _reading(path):
        for line in iter(lambda: stream.readline(most), b""):
            try:
                yield json.loads(line.decode("utf-8", errors="replace"))
            except (ValueError, RecursionError):
                yield None


# --- arrays -----------------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """Shape and type of an array, as the header of a ``.npy`` file states them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def check_names(names: Iterable[str], where: str | Path) -> None:
    """Refuse names of arrays that are too long or contain control characters."""
    for name in names:
        if len(name) > _NAME or not name.isprintable():
            raise InputError(
                f"{where} holds an array called {name[:40]!a}{'...' if len(name) > 40 else ''}, with {len(name)} "
                f"characters; names have at most {_NAME:,}, all printable: save it under another name"
            )


def check_array(shape: Sequence[int], dtype: np.dtype[Any], where: str) -> None:
    """Refuse types that are neither numbers nor text, such as objects, and shapes that no memory can hold."""
    if dtype.hasobject:
        raise InputError(f"{where} holds Python objects, which could run code (allow_pickle=False); save numbers")
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        raise InputError(f"{where} has entries of type {str(dtype)[:80]}; save real numbers")
    if len(shape) > _AXES or any(isinstance(n, bool) or n < 0 for n in shape):
        raise InputError(
            f"{where} states the shape {shown(tuple(shape))}; a shape is at most {_AXES} whole numbers, none negative"
        )
    if math.prod(max(1, n) for n in shape) * dtype.itemsize >= 2**62:
        raise InputError(f"{where} states the shape {shown(tuple(shape))}, which no memory can hold")


def check_text(array: npt.NDArray[Any], where: str) -> None:
    """Refuse text with invalid characters, since Python fails at them in many ways."""
    if array.dtype.kind == "U" and array.size:
        characters = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if characters.max() > sys.maxunicode:
            raise InputError(f"{where} holds text with characters beyond {sys.maxunicode:#x}: it is damaged")


def npy_header(stream: IO[bytes], size: int, where: str, objects: bool = False) -> Header:
    """Read the header of a ``.npy`` file of ``size`` bytes. The file has to contain all entries that the header states.

    With ``objects``, entries may be pickled objects; their size is not in the header.
    """
    try:
        version = np.lib.format.read_magic(stream)
        # Version 3 differs only in the names of structured types, and these types are refused.
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = readers[version](stream)
    except Exception as error:  # the parser raises ValueError, KeyError, TypeError, RecursionError, MemoryError, ...
        raise InputError(f"{where} is not a readable .npy array ({error!s:.80}); save it with numpy.save") from error
    if objects and dtype.hasobject:
        return Header((), dtype)
    check_array(shape, dtype, where)
    stated, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if stated > held:
        raise InputError(
            f"{where} states the shape {shown(shape)} of {dtype}, {shown_size(stated)}, but holds {shown_size(held)}: "
            "it is cut short or damaged"
        )
    return Header(tuple(map(int, shape)), dtype)


def read_npy(path: str | Path) -> npt.NDArray[Any]:
    """Read the array in a ``.npy`` file."""
    with opened(path) as (stream, size):
        shape, dtype = npy_header(stream, size, str(path))
        check_stated_size(f"{path} holds", math.prod(shape) * dtype.itemsize)
        return _array(stream, str(path))


def _array(stream: IO[bytes], where: str) -> npt.NDArray[Any]:
    """Read the array of a ``.npy`` file after its header was checked."""
    stream.seek(0)
    array = np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    check_text(array, where)
    return array


def read_npz(
    path: str | Path, choose: Callable[[list[str]], Sequence[str]] | None = None,
    unpickle: Callable[..., Any] | None = None,
) -> dict[str, npt.NDArray[Any]]:  # fmt: skip
    """Read the arrays of a ``.npz`` file by name: all, or the names that ``choose`` picks.

    The sizes that the archive states are checked before anything is read. ``zipfile`` never returns more. Pickled
    objects are refused, or read by ``unpickle(stream, size)``.
    """

    def read(info: zipfile.ZipInfo, where: str) -> Any:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others need memory without bound
            raise InputError(f"{where} is compressed in another way than zlib's; save it again")
        with archive.open(info) as stream:
            header = npy_header(stream, info.file_size, where, unpickle is not None)
            if unpickle is not None and header.dtype.hasobject:
                array = unpickle(stream, info.file_size)
            else:
                array = _array(stream, where)
            if stream.read(1):  # reading to the end verifies the checksum
                raise InputError(f"{where} is longer than its header states; save it again")
            return array

    with opened(path) as (file, _):
        try:
            with zipfile.ZipFile(file) as archive:
                check_names(archive.namelist(), path)
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                chosen = list(members) if choose is None else choose(list(members))
                check_stated_size(f"{path} would decompress to", sum(members[name].file_size for name in chosen))
                return {name: read(members[name], f"{path}: {name}") for name in chosen}
        except (UnreluError, MemoryError):
            raise
        except Exception as error:  # zipfile and zlib raise BadZipFile, EOFError, struct.error, ...
            raise InputError(f"{path} is not a readable .npz archive ({error}); save it with numpy.savez") from error

"""Reading files that may be damaged or malicious.

Every file that a user names is opened here. Only regular files are opened, because a FIFO or a device could block. The
sizes that a header states are compared with the size of the file and with ``max_bytes`` before memory is allocated.
Members of zip files are refused by their stated size before they are decompressed, and Python's ``zipfile`` returns no
more than that size. Pickles are read by ``loaders._pickled_arrays`` alone.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, ModelError
from unrelu.runtime.argument_numbers import whole_number
from unrelu.runtime.words import shown

# The default for the largest size of a file after decompression, and of the tensors of a model.
MAX_BYTES, MODEL_BYTES = 2**32, 2**30
# Python objects take up to 32 times the bytes of their JSON text: {"":0} takes 232 bytes.
_JSON_EXPANDS = 32
# What is larger than _SMALL once decompressed may be at most _DENSER times as large as its file. Deflate reaches 1,030
# times for nothing but zeros, and 330 times for weights of which one in a thousand is not zero.
_SMALL, _DENSER = 2**26, 500
# The most characters in the name of an array, and the most axes that every version of NumPy supports.
_NAME, _AXES = 1000, 32


def check_limit(max_bytes: object) -> int:
    """Check ``max_bytes`` and return it as an int."""
    return whole_number("max_bytes", max_bytes, 1)


def shown_size(size: int) -> str:
    """A number of bytes as text for messages."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.4g} {name}"
    return f"{size} bytes"


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
    """Turn errors of the system while a file is read into InputErrors."""
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


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES, within: Path | None = None) -> bytes:
    """All bytes of a file, which may have at most ``max_bytes``."""
    with opened(path, within) as (stream, size), _reading(path):
        if size > max_bytes:
            raise InputError(f"{path} has {shown_size(size)}; {_limit(max_bytes)}")
        return stream.read(size)


def read_json(path: str | Path, max_bytes: int = MAX_BYTES, within: Path | None = None) -> Any:
    """The value of the JSON text in a file, which may have at most :func:`json_limit` bytes."""
    content = read_bytes(path, json_limit(max_bytes), within)
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


def json_limit(max_bytes: int) -> int:
    """The most bytes of JSON that are read, at least 1 MiB: in memory JSON may take 32 times its size."""
    return max(2**20, max_bytes // _JSON_EXPANDS)


def _limit(max_bytes: int) -> str:
    return f"at most {shown_size(max_bytes)} are read, pass a larger max_bytes= (--max-bytes) if you trust the file"


# --- arrays -----------------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """What the header of a ``.npy`` file states of its array."""

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
    """Refuse objects, structures and other types that are no numbers or words, and shapes that no memory can hold."""
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
    """Refuse words with characters that no text has: Python fails at them, in many ways."""
    if array.dtype.kind == "U" and array.size:
        characters = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if characters.max() > sys.maxunicode:
            raise InputError(f"{where} holds text with characters beyond {sys.maxunicode:#x}: it is damaged")


def npy_header(stream: IO[bytes], size: int, where: str, objects: bool = False) -> Header:
    """Read the header of a ``.npy`` file of ``size`` bytes, which has to contain all entries that the header states.

    With ``objects``, entries may be pickled objects, whose number of bytes no header states.
    """
    try:
        version = np.lib.format.read_magic(stream)
        # Version 3 is only for names in structures, and structures are refused.
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


def read_npy(path: str | Path, max_bytes: int = MAX_BYTES) -> npt.NDArray[Any]:
    """The array in a ``.npy`` file."""
    with opened(path) as (stream, size):
        shape, dtype = npy_header(stream, size, str(path))
        if (stated := math.prod(shape) * dtype.itemsize) > max_bytes:
            raise InputError(f"{path} holds {shown_size(stated)}; {_limit(max_bytes)}")
        return _array(stream, str(path))


def _array(stream: IO[bytes], where: str) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file whose header was checked."""
    stream.seek(0)
    array = np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    check_text(array, where)
    return array


# --- zip files --------------------------------------------------------------------------------------------------------


def zip_members(archive: zipfile.ZipFile, where: str | Path) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip file by name; links, doubles and what cannot be read with a bounded output are refused."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        check_names([info.filename], where)
        faults = {
            "is there twice": info.filename in found,
            "is encrypted": info.flag_bits & 1,
            "is compressed in another way than zlib's": info.compress_type not in (0, zipfile.ZIP_DEFLATED),
            "is a link": stat.S_ISLNK(info.external_attr >> 16),
        }
        for fault in filter(faults.__getitem__, faults):
            raise InputError(f"{where}: {info.filename!r} {fault}; save it again")
        found[info.filename] = info
    return found


def check_members(members: Iterable[zipfile.ZipInfo], where: str | Path, size: int, max_bytes: int) -> None:
    """Refuse members that would decompress to more than ``max_bytes`` in total, or to far more than the file's size."""
    sizes = {info.filename: info.file_size for info in members}
    if (total := sum(sizes.values())) > max_bytes:
        largest = max(sizes, key=sizes.__getitem__)
        raise InputError(f"{where} would decompress to {shown_size(total)} (most: {largest!r}); {_limit(max_bytes)}")
    if total > max(_SMALL, _DENSER * size):
        raise InputError(
            f"{where} has {shown_size(size)} and would decompress to {shown_size(total)}, "
            f"{total // max(size, 1):,} times as much, as a decompression bomb does; at most {_DENSER} times are read: "
            "if you trust the file, save it again without compression"
        )


def read_npz(
    path: str | Path, max_bytes: int = MAX_BYTES, choose: Callable[[list[str]], Sequence[str]] | None = None,
    unpickle: Callable[..., Any] | None = None,
) -> dict[str, npt.NDArray[Any]]:  # fmt: skip
    """The arrays of a ``.npz`` file by name: all, or those that ``choose`` picks from the names.

    Together they may have at most ``max_bytes``, which is checked before they are read. Pickled objects are refused, or
    read by ``unpickle(stream, size)``.
    """

    def read(info: zipfile.ZipInfo, where: str) -> Any:
        with archive.open(info) as stream:
            header = npy_header(stream, info.file_size, where, unpickle is not None)
            if unpickle is not None and header.dtype.hasobject:
                array = unpickle(stream, info.file_size)
            else:
                array = _array(stream, where)
            if stream.read(1):  # reading to the end verifies the check sum
                raise InputError(f"{where} is longer than its header states; save it again")
            return array

    with opened(path) as (file, size):
        try:
            with zipfile.ZipFile(file) as archive:
                members = {name.removesuffix(".npy"): info for name, info in zip_members(archive, path).items()}
                chosen = list(members) if choose is None else choose(list(members))
                check_members([members[name] for name in chosen], path, size, max_bytes)
                return {name: read(members[name], f"{path}: {name}") for name in chosen}
        except (InputError, ModelError, MemoryError):
            raise
        except Exception as error:  # zipfile and zlib raise BadZipFile, EOFError, struct.error, ...
            raise InputError(f"{path} is not a readable .npz archive ({error}); save it with numpy.savez") from error

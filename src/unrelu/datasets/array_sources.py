"""Data sets that are one array (B, ...): a ``.npy`` or ``.npz`` file, a Zarr or an HDF5 store."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unrelu.datasets.batches import Batch, BatchPart, Seen, Shape, Source, checked, pieces
from unrelu.errors import InputError, MissingPackageError
from unrelu.runtime.file_reading import MAX_BYTES, Header, npy_header, opened, read_npz, shown_size

# Bytes read at once for a digest.
_PIECE = 2**23


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """An open array.

    Attributes:
        shape: (B, ...).
        dtype: of its entries.
        read: from start and stop to the entries ``[start:stop]``.
    """

    shape: Shape
    dtype: np.dtype[Any]
    read: Callable[[int, int], npt.NDArray[Any]]


class Store(Protocol):
    """Where an array is; can be pickled."""

    @property
    def location(self) -> str:
        """Of the store, for messages."""

    def open(self) -> ArrayRows:
        """The array. Any exception is read as a damaged store, unless it is one of unrelu's own."""


class ArraySource(Source):
    """A data set in one array.

    Args:
        store: where the array is.
        max_bytes: the most that one observation may take, as float64.

    Raises:
        InputError: it cannot be opened, is no batch (B, ...), is empty, is not made of real numbers, or of too many.
    """

    def __init__(self, store: Store, max_bytes: int = MAX_BYTES) -> None:
        self.location = store.location
        self._store = store
        self._opened: tuple[int, ArrayRows] | None = None
        rows = self._open()
        if len(rows.shape) < 2:
            raise InputError(
                f"{self.location} has shape {rows.shape}; a data set is a batch (B, ...): reshape a single observation "
                "to (1, ...), numbers observed one by one to (B, 1)"
            )
        if math.prod(rows.shape) == 0:
            raise InputError(f"{self.location} has shape {rows.shape}, so it holds no values; pass one that does")
        if rows.dtype.kind not in "biuf":
            raise InputError(f"{self.location} has entries of type {rows.dtype}; save real numbers")
        if (row := 8 * math.prod(rows.shape[1:])) > max_bytes:
            raise InputError(
                f"{self.location} has shape {rows.shape}, so one observation takes {shown_size(row)}; at most "
                f"{shown_size(max_bytes)} are read, pass a larger max_bytes= (--max-bytes) if you trust it"
            )
        self.size, self.shape, self.dtype = rows.shape[0], rows.shape[1:], rows.dtype
        self._opened = (os.getpid(), rows)

    def read(self, start: int, stop: int, seen: Seen | None = None) -> Batch:
        """Observations start to stop - 1 (see :meth:`Source.read`)."""
        self.check_range(start, stop)
        values = np.full((stop - start, *self.shape), np.nan)
        problems: dict[int, str] = {}
        for piece in self._pieces(start, stop):
            at = piece.start - start
            if piece.values is None:
                problems[at] = piece.problem
            else:
                # Extended precision may overflow; the infinity is then a problem of its observation.
                with np.errstate(over="ignore"):
                    values[at : at + len(piece.values)] = piece.values
        return checked(values, problems, seen)

    def digest(self, start: int, stop: int) -> str:
        """SHA-256 of the values' bytes in C order, in the stored type; the text "unreadable" for those without."""
        self.check_range(start, stop)
        digest = hashlib.sha256()
        step = max(1, _PIECE // (math.prod(self.shape) * self.dtype.itemsize))
        for first in range(start, stop, step):
            for piece in self._pieces(first, min(first + step, stop)):
                digest.update(b"unreadable" if piece.values is None else np.ascontiguousarray(piece.values).data)
        return digest.hexdigest()

    def _pieces(self, start: int, stop: int) -> Iterator[BatchPart]:
        """What can be read; observations are to blame for the rest only if the store is still there.

        A disk or a connection that is lost would make problems of all that follow.
        """
        try:
            values = self._rows().read(start, stop)
        except (InputError, MissingPackageError, MemoryError):
            raise
        except Exception:  # of many kinds, see pieces
            return pieces(self._reopened().read, start, stop)
        return iter([BatchPart(start, values)])

    def _rows(self) -> ArrayRows:
        """The array as opened in this process: open files and connections do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            return self._reopened()
        return self._opened[1]

    def _reopened(self) -> ArrayRows:
        rows = self._open()
        if (rows.shape, rows.dtype) != ((self.size, *self.shape), self.dtype):
            raise InputError(
                f"{self.location} now has shape {rows.shape} and type {rows.dtype}; it had "
                f"{(self.size, *self.shape)} and {self.dtype}: do not change a data set while it is read"
            )
        self._opened = (os.getpid(), rows)
        return rows

    def _open(self) -> ArrayRows:
        try:
            return self._store.open()
        except (InputError, MissingPackageError, MemoryError):
            raise
        except Exception as error:  # every library has its own for damaged and missing stores
            raise InputError(f"{self.location} cannot be opened: {error}; pass a whole, readable data set") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


@dataclass(frozen=True)
class Npy:
    """A ``.npy`` file."""

    location: str

    def open(self) -> ArrayRows:
        """The array, of which nothing is read yet."""
        header = self._header()
        shape, dtype, length = header.shape, header.dtype, math.prod(header.shape[1:])

        # Rows lie one behind the other, so the file is read in place of a mapping: a disk that fails, or a file that is
        # cut short, would end a process that maps it, but is an error here.
        def read(start: int, stop: int) -> npt.NDArray[Any]:
            with opened(self.location) as (stream, _):
                first = header.offset + start * length * dtype.itemsize
                flat = np.fromfile(stream, dtype, (stop - start) * length, offset=first)
            return flat.reshape(stop - start, *shape[1:])

        return ArrayRows(shape, dtype, self._copy if header.fortran and len(shape) > 1 else read)

    def _header(self) -> Header:
        with opened(self.location) as (stream, size):
            return npy_header(stream, size, self.location)

    def _copy(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Of an array in Fortran order. It is mapped each time: pages of a mapping count as memory of this process."""
        with opened(self.location) as (stream, size):
            header = npy_header(stream, size, self.location)
            mapped = np.memmap(stream, header.dtype, "r", header.offset, header.shape, "F")
            return np.array(mapped[start:stop])


@dataclass(frozen=True)
class Npz:
    """An array of a ``.npz`` file: ``array``, else the one called ``name``, else the only one."""

    location: str
    array: str | None
    name: str
    max_bytes: int = MAX_BYTES

    def open(self) -> ArrayRows:
        """The array, read as a whole: zip files cannot be read in parts."""
        arrays = read_npz(
            self.location, self.max_bytes, lambda names: [choose(names, self.array, self.name, self.location)]
        )
        (array,) = arrays.values()
        array.setflags(write=False)
        return ArrayRows(array.shape, array.dtype, lambda a, b: array[a:b])


@dataclass(frozen=True, eq=False)
class Memory:
    """An array in memory; it travels with whatever it is a part of."""

    location: str
    values: npt.NDArray[Any]

    def open(self) -> ArrayRows:
        """The array."""
        return ArrayRows(self.values.shape, self.values.dtype, lambda start, stop: self.values[start:stop])


def choose(names: Sequence[str], array: str | None, name: str, location: str) -> str:
    """Which of the arrays ``names`` to read: ``array`` if given, else the one called ``name``, else the only one.

    Raises:
        InputError: there is none, or more than one.
    """
    held = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    if not names:
        raise InputError(f"{location} holds no arrays; pass a store with an array {array or name!r}")
    if array is not None:
        if array in names:
            return array
        raise InputError(f"{location} has no array {array!r}; it holds {held}")
    if name in names:
        return name
    if len(names) == 1:
        return names[0]
    raise InputError(f"{location} holds the arrays {held}; say which with array=, or name it {name!r}")

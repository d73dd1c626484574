"""Data sets of observations that are never held as a whole, and those that are one array (B, ...).

A :class:`Source` gives batches in which bad observations are named. An :class:`ArraySource` reads one array, of which
it asks for a shape, a type, and entries i to j (:class:`OpenArray`): that is all that a format has to offer.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, MissingPackageError
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.file_reading import MAX_BYTES, shown_size

Shape = tuple[int, ...]
# Which entries of observations count, (B, n).
Entries = Flags
# Neighbouring observations: the index of the first, and their stored values, or why the only one cannot be read.
Part = tuple[int, npt.NDArray[Any] | str]

# Bytes read at once for a digest.
_PIECE = 2**23
# Chunks that one observation may be in: each may be a file.
_CHUNKS = 2**14


@dataclass(frozen=True, eq=False)
class Batch:
    """Some observations of a data set, in order.

    Attributes:
        values: (B, \\*shape), float64; NaN in every entry of an observation that cannot be used.
        problems: why, of each of those: from its index in the batch, 0 to B - 1, to a message.
    """

    values: Array
    problems: dict[int, str]


class Source(ABC):
    """A data set of observations that is never held as a whole.

    It can be pickled, and is opened again in the process that unpickles it: what travels is where the data set is and
    what it was seen to hold, no data and no open file.

    Attributes:
        location: where it is, as it was given.
        size: number of observations.
        shape: of one observation.
        dtype: of the stored values; :meth:`read` gives float64.
        resized: (height, width) that images are resized to, or None.
    """

    location: str
    size: int
    shape: Shape
    dtype: np.dtype[Any]
    resized: tuple[int, int] | None = None

    def name(self, i: int) -> str:
        """What to call observation i in messages: the name of its file, else its index."""
        return str(i)

    def file_name(self, i: int) -> str | None:
        """The name of the file that observation i is; None where there is only its index."""
        name = self.name(i)
        return None if name == str(i) else name

    @abstractmethod
    def read(self, start: int, stop: int, seen: Entries | None = None) -> Batch:
        """Observations start to stop - 1. One that cannot be read, or has NaN or infinite values, is a problem.

        Args:
            start, stop: which.
            seen: (stop - start, prod(shape)), which entries count; others are read as 0, whatever they hold. All by
                default.

        Raises:
            InputError: not 0 <= start <= stop <= size, or the data set is gone or has changed its size, shape or type.
        """

    @abstractmethod
    def digest(self, start: int, stop: int) -> str:
        """SHA-256, in hexadecimal, of observations start to stop - 1 as they are stored.

        Raises:
            InputError: as :meth:`read`.
        """

    def check_range(self, start: int, stop: int) -> None:
        """Refuse a range that is not within the data set."""
        if not 0 <= start <= stop <= self.size:
            raise InputError(
                f"{self.location} has observations 0 to {self.size - 1}; {start}:{stop} is not within them"
            )

    def __len__(self) -> int:
        return self.size


class StoredSource(Source):
    """A data set that is read in parts."""

    @abstractmethod
    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Observations start to stop - 1: what can be read of them, and why the others cannot."""

    def read(self, start: int, stop: int, seen: Entries | None = None) -> Batch:
        """Observations start to stop - 1 (see :meth:`Source.read`)."""
        self.check_range(start, stop)
        values = np.full((stop - start, *self.shape), np.nan)
        problems: dict[int, str] = {}
        for first, found in self.parts(start, stop):
            at = first - start
            if isinstance(found, str):
                problems[at] = found
            else:
                # Extended precision may overflow; the infinity is then a problem of its observation.
                with np.errstate(over="ignore"):
                    values[at : at + len(found)] = found
        if seen is not None:
            values[~seen.reshape(values.shape)] = 0.0
        finite = np.isfinite(values).reshape(stop - start, math.prod(self.shape))
        for i in np.flatnonzero(~finite.all(axis=1)).tolist():
            problems.setdefault(i, f"{int((~finite[i]).sum())} of {finite[i].size} values are NaN or infinite")
        values[sorted(problems)] = np.nan
        return Batch(values, dict(sorted(problems.items())))


def pieces(read: Callable[[int, int], npt.NDArray[Any]], start: int, stop: int) -> Iterator[Part]:
    """Read start to stop - 1; where that fails, the halves, down to the observations that are to blame."""
    if start == stop:
        return
    try:
        values = read(start, stop)
    except MemoryError:
        raise
    except Exception as error:  # h5py, Zarr, its codecs and its file systems raise errors of many kinds
        if stop - start == 1:
            yield start, f"cannot be read: {error}"
            return
        middle = (start + stop) // 2
        yield from pieces(read, start, middle)
        yield from pieces(read, middle, stop)
    else:
        yield start, values


def optional(module: str, what: str, package: str) -> Any:
    """The optional package ``module``, which ``what`` need; ``package`` is what pip installs."""
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise MissingPackageError(f'{what} need {name}: pip install "{package}"', name=name) from None


@dataclass(frozen=True, eq=False)
class OpenArray:
    """An open array: its shape (B, ...), the type of its entries, and a function from i, j to the entries ``[i:j]``."""

    shape: Shape
    dtype: np.dtype[Any]
    read: Callable[[int, int], npt.NDArray[Any]]


class ArraySource(StoredSource):
    """A data set in one array, which ``opening`` opens; it can be pickled.

    One observation may take ``max_bytes`` as float64. Errors of libraries are read as a damaged store.
    """

    def __init__(self, location: str, opening: Callable[[], OpenArray], max_bytes: int = MAX_BYTES) -> None:
        self.location, self._opening = location, opening
        self._opened: tuple[int, OpenArray] | None = None
        held = self._open()
        if len(held.shape) < 2:
            raise InputError(
                f"{self.location} has shape {held.shape}; a data set is a batch (B, ...): reshape a single observation "
                "to (1, ...), numbers observed one by one to (B, 1)"
            )
        if math.prod(held.shape) == 0:
            raise InputError(f"{self.location} has shape {held.shape}, so it holds no values; pass one that does")
        if held.dtype.kind not in "biuf":
            raise InputError(f"{self.location} has entries of type {held.dtype}; save real numbers")
        if (size := 8 * math.prod(held.shape[1:])) > max_bytes:
            raise InputError(
                f"{self.location} has shape {held.shape}, so one observation takes {shown_size(size)}; at most "
                f"{shown_size(max_bytes)} are read, pass a larger max_bytes= (--max-bytes) if you trust it"
            )
        self.size, self.shape, self.dtype = held.shape[0], held.shape[1:], held.dtype
        self._opened = (os.getpid(), held)

    def digest(self, start: int, stop: int) -> str:
        """SHA-256 of the values' bytes in C order, in the stored type; the text "unreadable" for those without."""
        self.check_range(start, stop)
        digest = hashlib.sha256()
        step = max(1, _PIECE // (math.prod(self.shape) * self.dtype.itemsize))
        for first in range(start, stop, step):
            for _, found in self.parts(first, min(first + step, stop)):
                digest.update(b"unreadable" if isinstance(found, str) else np.ascontiguousarray(found).data)
        return digest.hexdigest()

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """What can be read; observations are to blame for the rest only if the store is still there.

        A disk or a connection that is lost would make problems of all that follow.
        """
        try:
            return iter([(start, self._array().read(start, stop))])
        except (InputError, MissingPackageError, MemoryError):
            raise
        except Exception:  # of many kinds, see pieces
            return pieces(self._array(again=True).read, start, stop)

    def _array(self, again: bool = False) -> OpenArray:
        """The array as opened in this process: open files and connections do not survive a fork."""
        if again or self._opened is None or self._opened[0] != os.getpid():
            array = self._open()
            if (array.shape, array.dtype) != ((self.size, *self.shape), self.dtype):
                raise InputError(
                    f"{self.location} now has shape {array.shape} and type {array.dtype}; it had "
                    f"{(self.size, *self.shape)} and {self.dtype}: do not change a data set while it is read"
                )
            self._opened = (os.getpid(), array)
        return self._opened[1]

    def _open(self) -> OpenArray:
        try:
            return self._opening()
        except (InputError, MissingPackageError, MemoryError):
            raise
        except Exception as error:  # every library has its own for damaged and missing stores
            raise InputError(f"{self.location} cannot be opened: {error}; pass a whole, readable data set") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def choose(names: Sequence[str], array: str | None, name: str, location: str) -> str:
    """Which of the arrays ``names`` to read: ``array`` if given, else the one called ``name``, else the only one."""
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


def check_chunks(location: str, shape: Shape, chunk: Shape, itemsize: int, max_bytes: int) -> None:
    """Refuse to read an array in chunks that are too large, or so small that an observation is in thousands."""
    if (size := math.prod(chunk) * itemsize) > max_bytes:
        raise InputError(
            f"{location} has chunks of {shown_size(size)}; at most {shown_size(max_bytes)} are read at once, pass a "
            "larger max_bytes= (--max-bytes) if you trust the store, or write it in smaller chunks"
        )
    count = math.prod(math.ceil(n / c) for n, c in zip(shape[1:], chunk[1:], strict=True))
    if count > _CHUNKS:
        raise InputError(f"{location} keeps an observation in {count:,} chunks; write it in larger ones")

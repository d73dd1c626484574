"""What a data set of observations offers: its size and shape, and batches in which bad observations are named."""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, MissingPackageError

Array = npt.NDArray[np.float64]
Shape = tuple[int, ...]
Seen = npt.NDArray[np.bool_]


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

    @abstractmethod
    def read(self, start: int, stop: int, seen: Seen | None = None) -> Batch:
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


@dataclass(frozen=True, eq=False)
class BatchPart:
    """Neighbouring observations that could be read, or one that could not.

    Attributes:
        start: index of the first.
        values: (n, \\*shape) as stored, or None.
        problem: why they could not be read, or "".
    """

    start: int
    values: npt.NDArray[Any] | None
    problem: str = ""


def pieces(read: Callable[[int, int], npt.NDArray[Any]], start: int, stop: int) -> Iterator[BatchPart]:
    """Read start to stop - 1; where that fails, the halves, down to the observations that are to blame."""
    if start == stop:
        return
    try:
        values = read(start, stop)
    except MemoryError:
        raise
    except Exception as error:  # h5py, Zarr, its codecs and its file systems raise errors of many kinds
        if stop - start == 1:
            yield BatchPart(start, None, f"cannot be read: {error}")
            return
        middle = (start + stop) // 2
        yield from pieces(read, start, middle)
        yield from pieces(read, middle, stop)
    else:
        yield BatchPart(start, values)


def checked(values: Array, problems: dict[int, str], seen: Seen | None = None) -> Batch:
    """The batch of these values, changed in place: observations with NaN or infinite values are problems as well.

    Entries that are not ``seen``, (B, n), become 0 before.
    """
    if seen is not None:
        values[~seen.reshape(values.shape)] = 0.0
    finite = np.isfinite(values).reshape(len(values), math.prod(values.shape[1:]))
    for i in np.flatnonzero(~finite.all(axis=1)).tolist():
        if i not in problems:
            problems[i] = f"{int((~finite[i]).sum())} of {finite[i].size} values are NaN or infinite"
    values[sorted(problems)] = np.nan
    return Batch(values, dict(sorted(problems.items())))


def optional(module: str, what: str, extra: str) -> Any:
    """The optional package ``module``, which ``what`` need.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise MissingPackageError(f'{what} need {name}: pip install "unrelu[{extra}]"', name=name) from None

"""A data set that is read in parts, and its observations with masks and scale."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.measurements.operators import Operator
from unrelu.measurements.picture_scale import Scaling
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.file_reading import check_stated_size

Shape = tuple[int, ...]
# The most chunks that may hold one observation: each may be a file.
_CHUNKS = 2**14
# Why observations cannot be used, by their index in a batch.
Problems = dict[int, str]


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array in a file: its shape, its type, and a function that reads the entries ``[i:j]`` for i and j.

    Every read opens and closes the file.
    """

    shape: Shape
    dtype: np.dtype[Any]
    read: Callable[[int, int], npt.NDArray[Any]]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        return self.read(*rows.indices(self.shape[0])[:2])


@dataclass(frozen=True, eq=False)
class DataSet:
    """Observations (B, \\*shape) in any kind of array: NumPy, h5py, Zarr, or files that behave like an array.

    Attributes:
        location: where the data set is, for messages.
        values: the array. It has a shape, a dtype and slices ``[i:j]``. Only this class reads it.
        names: the file name of each observation; empty if observations are not files.
        white: the value that counts as 1 in masks: 1, or full white in images.
    """

    location: str
    values: Any
    names: Sequence[str] = ()
    white: float = 1.0

    @property
    def size(self) -> int:
        """The number of observations."""
        return int(self.values.shape[0])

    @property
    def shape(self) -> Shape:
        """The shape of one observation."""
        return tuple(map(int, self.values.shape[1:]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored values."""
        dtype: np.dtype[Any] = np.dtype(self.values.dtype)
        return dtype

    def check(self) -> DataSet:
        """Refuse a data set that is not a batch of real numbers, or has observations larger than the setting allows."""
        shape = tuple(self.values.shape)
        if len(shape) < 2:
            raise InputError(
                f"{self.location} has shape {shape}; a data set is a batch (B, ...): reshape a single observation to "
                "(1, ...), numbers observed one by one to (B, 1)"
            )
        if math.prod(shape) == 0:
            raise InputError(f"{self.location} has shape {shape}, so it holds no values; pass one that does")
        if self.dtype.kind not in "biuf":
            raise InputError(f"{self.location} has entries of type {self.dtype}; save real numbers")
        said = f"{self.location} has shape {shape}, so one observation takes"
        check_stated_size(said, 8 * math.prod(self.shape))
        return self

    def read(self, start: int, stop: int) -> tuple[Array, Problems]:
        """Read observations start to stop - 1 as float64. One that cannot be read is NaN, with its problem in words.

        Raises:
            InputError: none of them can be read, and neither can the first observation of the data set.
        """
        try:
            with np.errstate(over="ignore"):  # extended precision may overflow to infinity, which is reported
                return np.array(self.values[start:stop], dtype=np.float64), {}
        except MemoryError:
            raise
        except Exception as error:  # h5py, Zarr, their codecs and Pillow raise errors of many kinds
            if stop - start == 1:
                text = str(error) if isinstance(error, InputError) else f"cannot be read: {error}"
                return np.full((1, *self.shape), np.nan), {0: text}
            each = [self.read(i, i + 1) for i in range(start, stop)]
            problems = {i: found[0] for i, (_, found) in enumerate(each) if found}
            if len(problems) == len(each) and self.read(0, 1)[1]:
                raise InputError(
                    f"{self.location} cannot be read any more: {error}; bring it back. What is finished is kept"
                ) from error
            return np.concatenate([values for values, _ in each]), problems

    def read_masks(self, start: int, stop: int) -> tuple[Flags, Problems]:
        """Read masks start to stop - 1, (B, n): which entries were observed. Files hold 0 and 1, or black and white."""
        values, problems = self.read(start, stop)
        flat = values.reshape(stop - start, -1)
        seen, odd = flat == self.white, (flat != 0) & (flat != self.white)
        for i in np.flatnonzero(odd.any(axis=1)).tolist():
            allowed = "0 and 1" if self.white == 1 else f"black and white, 0 and {self.white:g}"
            problems.setdefault(i, f"has entries like {flat[i, odd[i].argmax()]:g}; a mask is made of {allowed}")
        for i in np.flatnonzero(~seen.any(axis=1)).tolist():
            problems.setdefault(i, "is 0 everywhere: nothing is observed")
        return seen, {i: f"its mask {text}" for i, text in problems.items()}


@dataclass(frozen=True, eq=False)
class Observations:
    """A data set with its masks and its scale.

    Attributes:
        data: the observations as they are stored.
        masks: a mask for every observation, or None.
        operator: A, the same for all observations.
        scaling: maps stored values to the units of the generator.
    """

    data: DataSet
    masks: DataSet | None
    operator: Operator
    scaling: Scaling

    def read(self, start: int, stop: int) -> tuple[Array, Flags, Problems]:
        """Read observations start to stop - 1 as stored, (B, m), which entries were observed, (B, m), and problems.

        Entries that were not observed become 0. Observations with a problem become NaN.
        """
        seen, problems = self.operator.seen(stop - start), Problems()
        if self.masks is not None:
            seen, problems = self.masks.read_masks(start, stop)
        stored, unread = self.data.read(start, stop)
        flat = np.where(seen, stored.reshape(stop - start, -1), 0.0)
        problems |= unread
        finite = np.isfinite(flat)
        for i in np.flatnonzero(~finite.all(axis=1)).tolist():
            problems.setdefault(i, f"{int((~finite[i]).sum())} of {finite[i].size} values are NaN or infinite")
        flat[sorted(problems)] = np.nan
        return flat, seen, dict(sorted(problems.items()))

    def digest(self, start: int, stop: int) -> str:
        """Return the SHA-256 of observations start to stop - 1, as :meth:`read` returns them, and of their masks."""
        values, seen, _ = self.read(start, stop)
        return hashlib.sha256(values.tobytes() + (b"" if self.masks is None else seen.tobytes())).hexdigest()


def check_chunks(location: str, shape: Shape, chunk: Shape, itemsize: int) -> None:
    """Refuse an array whose chunks are too large, or so small that one observation lies in thousands of them."""
    check_stated_size(f"{location} has chunks of", math.prod(chunk) * itemsize, "write it in smaller ones")
    count = math.prod(math.ceil(n / c) for n, c in zip(shape[1:], chunk[1:], strict=True))
    if count > _CHUNKS:
        raise InputError(f"{location} keeps an observation in {count:,} chunks; write it in larger ones")

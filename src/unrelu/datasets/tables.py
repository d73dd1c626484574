"""Results of a data set as columns, one row an observation, written in parts by any number of processes.

A :class:`NpyTable` is a ``.npy`` file a column, a :class:`ZarrTable` a Zarr group with an array a column. Both are
made at their full size, and rows are written in place. Rows that were not written yet have ``status`` 0.
"""

from __future__ import annotations

import math
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

from unrelu.datasets.sources import Shape, optional
from unrelu.errors import InputError, StorageError
from unrelu.result import TESTS
from unrelu.runtime.archives import digest
from unrelu.runtime.file_reading import MAX_BYTES, npy_header, opened, shown_size
from unrelu.runtime.file_writing import storing

Values = Mapping[str, npt.NDArray[Any]]
# What to do where results cannot be written.
AGAIN = "what is finished is kept: mend that, and run it again"
# The columns of a Zarr group that gain by compression.
_COMPRESSED = ("reconstructions", "reconstruction_std")


@dataclass(frozen=True)
class Column:
    """One number, or an array of this shape, for every observation."""

    name: str
    shape: Shape
    dtype: str

    @property
    def empty(self) -> float | int:
        """What stands where there is no result: NaN, -1, or 0."""
        return {"f": math.nan, "i": -1}.get(np.dtype(self.dtype).kind, 0)

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def columns_of(latent_shape: Shape, output_shape: Shape, posterior: bool = False, named: int = 0) -> tuple[Column, ...]:
    """The columns of an inversion: those of :class:`~unrelu.Inversion`, with the residuals in three norms.

    ``named`` is the number of coordinates if they have names: the column "parameters" is what is reported by name.
    With ``posterior``, also those of draws of the code: mean, standard deviation and the ends of the interval of each
    coordinate, the standard deviation of each output, how the sampling ended, and its statistics.
    """
    numbers = ("p_value", *TESTS, "confidence", "objective", "residual_l2", "residual_l1", "residual_linf")
    return (
        Column("codes", latent_shape, "<f8"),
        Column("reconstructions", output_shape, "<f8"),
        Column("status", (), "|u1"),
        Column("success", (), "|b1"),
        *(Column(name, (), "<f8") for name in numbers),
        Column("freedom", (), "<i8"),
        Column("rank", (), "<i8"),
        Column("identifiable", (), "|b1"),
        Column("nit", (), "<i8"),
        Column("seconds", (), "<f8"),
        *([Column("parameters", (named,), "<f8")] if named else []),
        *(_posterior_columns(latent_shape, output_shape) if posterior else ()),
    )


def _posterior_columns(latent_shape: Shape, output_shape: Shape) -> tuple[Column, ...]:
    return (
        *(Column(name, latent_shape, "<f8") for name in ("mean", "std", "lower", "upper")),
        Column("reconstruction_std", output_shape, "<f8"),
        Column("posterior_status", (), "|u1"),
        *(Column(name, (), "<f8") for name in ("rhat", "ess", "tail_ess")),
    )


@dataclass(frozen=True)
class Table(ABC):
    """Where the columns of a run are: in its folder, ``size`` rows, of which ``chunk`` are written at once.

    It can be pickled.
    """

    format: ClassVar[str]
    folder: str
    size: int
    chunk: int
    columns: tuple[Column, ...]

    @abstractmethod
    def create(self, attributes: Mapping[str, Any]) -> None:
        """Create the columns that are missing or not of their full size, empty; the others stay as they are.

        ``attributes`` are kept with the table where the format can. A StorageError says that there is too little space,
        or that the folder cannot be written.
        """

    @abstractmethod
    def write(self, start: int, values: Values) -> None:
        """Write the rows of a whole chunk, which begins at ``start``, of every column."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows start to stop - 1 of a column; all of them by default."""
        column = self.column(name)
        stop = self.size if stop is None else stop
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in (start, stop))
        if not whole or not 0 <= start <= stop <= self.size:
            raise InputError(f"there are no rows {start!r} to {stop!r}; pass whole numbers from 0 to {self.size}")
        if (size := (stop - start) * column.row_bytes) > MAX_BYTES:
            raise InputError(
                f"{self.folder}: rows {start} to {stop} of {name} take {shown_size(size)}; read fewer at once"
            )
        return self._read(column, start, stop)

    @abstractmethod
    def _read(self, column: Column, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows that there are, and that can be held."""

    def column(self, name: str) -> Column:
        """The column of that name."""
        named = {column.name: column for column in self.columns}
        if name not in named:
            raise InputError(f"there is no column {name!r}; there are {', '.join(named)}")
        return named[name]

    def read_all(self, start: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        """Rows start to stop - 1 of every column."""
        return {column.name: self.read(column.name, start, stop) for column in self.columns}

    def digests(self, values: Values) -> dict[str, str]:
        """SHA-256 of rows: ``result`` of all columns but the seconds, which no two runs share, and ``seconds``."""
        rows = {c.name: np.ascontiguousarray(values[c.name], dtype=c.dtype) for c in self.columns}
        seconds = rows.pop("seconds")
        return {"result": digest(rows), "seconds": digest({"seconds": seconds})}


class NpyTable(Table):
    """``codes.npy``, ``reconstructions.npy``, and a file for every other column in ``columns/``.

    Files are preallocated sparse files; rows are written at their places. For a disk of this machine: network file
    systems may mix up what several machines write into one file.
    """

    format = "npy"

    def create(self, attributes: Mapping[str, Any]) -> None:
        """The space that all rows will need has to be free."""
        with storing(self.folder, AGAIN):
            self._folder.mkdir(exist_ok=True)
            missing = [column for column in self.columns if not self._whole(column)]
            needed = self.size * sum(column.row_bytes for column in missing)
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                raise StorageError(
                    f"{self.folder}: the results need {needed / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free; "
                    "free some space, or name a folder on another disk"
                )
            for column in missing:
                shape = (self.size, *column.shape)
                # In mode w+, NumPy makes the file at its full size without writing it.
                np.lib.format.open_memmap(self._path(column), "w+", column.dtype, shape).flush()

    def write(self, start: int, values: Values) -> None:
        for column in self.columns:
            path = self._path(column)
            rows = np.ascontiguousarray(values[column.name], dtype=column.dtype)
            # Written, not mapped: a full disk is an error here, and would end a process that maps the file.
            with storing(path, AGAIN), path.open("r+b") as stream:
                stream.seek(_begin(stream, path, column, self.size) + start * column.row_bytes)
                stream.write(rows.tobytes())

    def _read(self, column: Column, start: int, stop: int) -> npt.NDArray[Any]:
        path, count = self._path(column), (stop - start) * math.prod(column.shape)
        try:
            with opened(path, Path(self.folder)) as (stream, _):
                stream.seek(_begin(stream, path, column, self.size) + start * column.row_bytes)
                return np.fromfile(stream, column.dtype, count).reshape(stop - start, *column.shape)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from error

    def _whole(self, column: Column) -> bool:
        path = self._path(column)
        try:
            with path.open("rb") as stream:
                return bool(_begin(stream, path, column, self.size))
        except (FileNotFoundError, ValueError):  # any other error is of the disk
            return False

    @property
    def _folder(self) -> Path:
        return Path(self.folder, "columns")

    def _path(self, column: Column) -> Path:
        folder = Path(self.folder) if column.name in ("codes", "reconstructions") else self._folder
        return folder / f"{column.name}.npy"


class ZarrTable(Table):
    """``results.zarr``, a Zarr group of format 3 with an array for every column, in chunks of ``chunk`` rows.

    Chunks are files of their own, so machines that share the folder do not disturb each other. Outputs are
    compressed, at level 1, which costs less than Zarr's own choice. A chunk of any other column is its numbers in
    little-endian order and no more (the ``bytes`` codec of Zarr v3), so that :meth:`write` writes its file as it is: by
    way of Zarr a kilobyte takes much longer.
    """

    format = "zarr"

    def create(self, attributes: Mapping[str, Any]) -> None:
        """What the rows will need is not known, as they are compressed."""
        zarr = optional("zarr", "results in Zarr stores", "zarr>=3")
        with storing(self._location, AGAIN):
            try:
                self._create(zarr, attributes)
            except OSError:
                raise
            except Exception as error:  # of its metadata
                raise StorageError(f"{self._location} is damaged: {error}; remove it, and run it again") from error

    def _create(self, zarr: Any, attributes: Mapping[str, Any]) -> None:
        group = zarr.open_group(self._location, mode="a", zarr_format=3)
        group.update_attributes(dict(attributes))
        for column in self.columns:
            if _is_whole(group.get(column.name), (self.size, *column.shape), column.dtype):
                continue
            compressors = [zarr.codecs.ZstdCodec(level=1)] if column.name in _COMPRESSED else None
            names = ("observation", *(f"{column.name}_{i}" for i in range(len(column.shape))))
            group.create_array(
                column.name, shape=(self.size, *column.shape), chunks=(self.chunk, *column.shape),
                dtype=column.dtype, fill_value=column.empty, dimension_names=names, compressors=compressors,
                serializer=zarr.codecs.BytesCodec(endian="little"), overwrite=True,
            )  # fmt: skip

    def write(self, start: int, values: Values) -> None:
        zarr = optional("zarr", "results in Zarr stores", "zarr>=3")
        with storing(self._location, AGAIN):
            os.stat(Path(self._location, "zarr.json"))  # a store that is gone is not begun anew
            for column in self.columns:
                rows, place = np.ascontiguousarray(values[column.name], dtype=column.dtype), self._location
                if column.name in _COMPRESSED:
                    zarr.open_array(f"{place}/{column.name}", mode="r+")[start : start + len(rows)] = rows
                    continue
                # Its chunk is c/index/0/...; chunks have one length, so the last one is filled up.
                path = Path(place, column.name, "c", str(start // self.chunk), *("0" for _ in column.shape))
                missing = np.full((self.chunk - len(rows), *column.shape), column.empty, column.dtype)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(rows.tobytes() + missing.tobytes())

    def _read(self, column: Column, start: int, stop: int) -> npt.NDArray[Any]:
        try:
            array = _opened(self._location)[column.name]
            if not _is_whole(array, (self.size, *column.shape), column.dtype):
                raise InputError(f"{self._location}/{column.name} has shape {array.shape}, {array.dtype}; run it again")
            return np.asarray(array[start:stop], dtype=column.dtype)
        except InputError:
            raise
        except Exception as error:  # of its codecs and stores, of many kinds
            raise InputError(f"{self._location}/{column.name} cannot be read: {error}") from error

    @property
    def _location(self) -> str:
        return str(Path(self.folder, "results.zarr"))


FORMATS: dict[str, type[Table]] = {kind.format: kind for kind in (NpyTable, ZarrTable)}


def _opened(location: str) -> dict[str, Any]:
    """The arrays of a group by name."""
    return _arrays(location, os.getpid(), os.stat(Path(location, "zarr.json")).st_mtime)


@lru_cache(maxsize=4)
def _arrays(location: str, _process: int, _made: float) -> dict[str, Any]:
    """Those that this process has open: opening a group reads a file a column."""
    optional("zarr", "results in Zarr stores", "zarr>=3")
    from unrelu.datasets._zarr_reading import bounded, zarr_node  # noqa: PLC0415 -- an optional dependency

    group = zarr_node(location)
    return {name: bounded(group[name], location, MAX_BYTES) for name in group.array_keys()}


def _is_whole(array: Any, shape: Shape, dtype: str) -> bool:
    return array is not None and (array.shape, array.dtype) == (shape, np.dtype(dtype))


def _begin(stream: BinaryIO, path: Path, column: Column, size: int) -> int:
    """Where the rows of a ``.npy`` file begin. A file of another length is not the one that was made."""
    length = os.fstat(stream.fileno()).st_size
    begin = npy_header(stream, length, str(path)).offset
    if length != begin + size * column.row_bytes:
        raise InputError(f"{path} has {length} bytes instead of {begin + size * column.row_bytes}; run it again")
    return begin

"""``results.zarr``: the rows of a run. One process writes a Zarr group in parts, with an array for every column.

Chunks of the arrays are not compressed: the ``bytes`` codec of Zarr v3, little-endian. So an array chunk is a file of
rows, and any rows are written and read in place, whatever the chunks of the run are. Writing through Zarr would first
read a whole array chunk, or need a file for every column of every chunk of the run. Rows that are not written yet have
``status`` 0, and NaN, -1 or False elsewhere.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, StorageError
from unrelu.runs.columns import Column
from unrelu.runtime.file_reading import check_stated_size, opened, shown_size
from unrelu.runtime.file_writing import AGAIN, storing

Values = Mapping[str, npt.NDArray[Any]]

STORE = "results.zarr"
# Bytes of an array chunk: a column of a million numbers is one file.
_CHUNK = 2**24


@dataclass(frozen=True)
class Store:
    """The columns of a run in its folder, with ``size`` rows."""

    folder: Path
    size: int
    columns: tuple[Column, ...]

    def create(self, attributes: Mapping[str, Any]) -> None:
        """Create empty columns in place of an earlier store. The Zarr group gets these ``attributes``.

        Raises:
            StorageError: there is too little space, or the folder cannot be written.
        """
        import zarr  # noqa: PLC0415 -- takes a third of a second
        from zarr.codecs import BytesCodec  # noqa: PLC0415

        with storing(self.folder, AGAIN):
            needed = self.size * sum(column.row_bytes for column in self.columns)
            if needed > (free := shutil.disk_usage(self.folder).free):
                raise StorageError(
                    f"{self.folder}: the results need {shown_size(needed)}, {shown_size(free)} are free; free some "
                    "space, or name a folder on another disk"
                )
            group = zarr.open_group(str(self.folder / STORE), mode="w", zarr_format=3, attributes=dict(attributes))
            for column in self.columns:
                group.create_array(
                    column.name, shape=(self.size, *column.shape), chunks=(self._rows(column), *column.shape),
                    dtype=column.dtype, fill_value=column.empty, compressors=None, filters=None,
                    serializer=BytesCodec(endian="little"),
                    dimension_names=("observation", *(f"{column.name}_{i}" for i in range(len(column.shape)))),
                )  # fmt: skip

    def write(self, start: int, values: Values) -> None:
        """Write rows of every column from ``start`` on."""
        for column in self.columns:
            rows = np.ascontiguousarray(values[column.name], dtype=column.dtype)
            for path, place, part in self._parts(column, start, start + len(rows)):
                with storing(path, AGAIN):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("r+b" if path.exists() else "w+b") as stream:
                        # A new file is filled up first, or one that a killed process left incomplete.
                        missing = self._rows(column) * column.row_bytes - stream.seek(0, 2)
                        if missing > 0:
                            stream.write(column.filled(self._rows(column)).tobytes()[-missing:])
                        stream.seek(place * column.row_bytes)
                        stream.write(rows[part].tobytes())

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Read rows start to stop - 1 of a column, (stop - start, \\*shape); by default all rows.

        Raises:
            InputError: there is no such column or row, the rows take more bytes than the setting
                ``UNRELU_MAX_FILE_BYTES`` allows, or the store is damaged.
        """
        named = {column.name: column for column in self.columns}
        if name not in named:
            raise InputError(f"there is no column {name!r}; there are {', '.join(named)}")
        column, stop = named[name], self.size if stop is None else stop
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in (start, stop))
        if not whole or not 0 <= start <= stop <= self.size:
            raise InputError(f"there are no rows {start!r} to {stop!r}; pass whole numbers from 0 to {self.size}")
        size = (stop - start) * column.row_bytes
        check_stated_size(f"rows {start} to {stop} of {name} take", size, "read fewer at once")
        found = column.filled(stop - start)
        for path, place, part in self._parts(column, start, stop):
            if path.exists():
                with opened(path, self.folder) as (stream, _):
                    stream.seek(place * column.row_bytes)
                    content = stream.read(found[part].nbytes)
                if len(content) < found[part].nbytes:
                    raise InputError(f"{path} is cut short; begin the run again with overwrite=True (--overwrite)")
                found[part] = np.frombuffer(content, column.dtype).reshape(found[part].shape)
        return found

    def _rows(self, column: Column) -> int:
        """Return the number of rows in an array chunk of a column."""
        return max(1, min(self.size, _CHUNK // column.row_bytes))

    def _parts(self, column: Column, start: int, stop: int) -> Iterator[tuple[Path, int, slice]]:
        """Yield each file with rows start to stop - 1, the place of the first one in it, and the slice of its rows."""
        rows, ends = self._rows(column), ["0"] * len(column.shape)
        for i in range(start // rows, math.ceil(stop / rows)):
            first, last = max(start, i * rows), min(stop, (i + 1) * rows)
            path = Path(self.folder, STORE, column.name, "c", str(i), *ends)
            yield path, first - i * rows, slice(first - start, last - start)

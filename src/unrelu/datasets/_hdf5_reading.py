"""Datasets of HDF5 files that strangers made: nothing outside of a file is read, and no chunk that has no bound.

Importing it needs h5py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from unrelu.datasets.sources import OpenArray, check_chunks, choose
from unrelu.errors import InputError
from unrelu.runtime.file_reading import MAX_BYTES, check_names, inflated_size, opened, shown_size

# Nodes of a path in an HDF5 file, with those that soft links in it lead to.
_STEPS = 64
# Filters that change nothing but the order of bytes, add a check sum, or decompress to a size that is checked: shuffle,
# Fletcher's check sum; gzip and LZF. Others (SZIP, N-bit, scale-offset, plugins) take memory as the file states.
_SHUFFLE, _FLETCHER, _GZIP, _LZF = 2, 3, 1, 32000
# What a byte may decompress to at most: see zarr_reading; LZF copies up to 264 bytes for three.
_EXPANDS = {_GZIP: 1032, _LZF: 88}


@dataclass(frozen=True)
class Hdf5:
    """A dataset of an HDF5 file, stored in that file: nothing that links or layouts name elsewhere is read."""

    location: str
    array: str | None
    name: str
    max_bytes: int = MAX_BYTES

    def open(self) -> OpenArray:
        """The dataset. The file is opened at every read, so that no handle is shared with another process."""

        def hdf5() -> Any:
            with opened(self.location):  # a regular file, which h5py is then given the name of
                # Many network file systems have no locks; a reader needs none.
                return h5py.File(self.location, "r", locking="best-effort")

        with hdf5() as file:
            names = list(file)
            check_names(names, self.location)
            names = [name for name in names if self._is_dataset(file, name)]
            if self.array is not None and self.array not in names and self._is_dataset(file, self.array):
                names.append(self.array)
            chosen = choose(names, self.array, self.name, self.location)
            dataset = self._found(file, chosen)
            shape, dtype = tuple(dataset.shape or ()), dataset.dtype
            if dtype.kind in "biufc" and shape:
                self._check(file, dataset)

        def read(start: int, stop: int) -> Any:
            with hdf5() as file:
                dataset = self._found(file, chosen)
                self._check_chunks(dataset, start, stop)
                return dataset[start:stop]

        return OpenArray(shape, dtype, read)

    def _is_dataset(self, file: Any, name: str) -> bool:
        try:
            return isinstance(self._found(file, name), h5py.Dataset)
        except KeyError:
            return False
        except InputError:
            if name in (self.array, self.name):
                raise
            return False

    def _found(self, file: Any, name: str) -> Any:
        """What a name leads to in the file, KeyError if there is nothing. HDF5 would follow links out of the file."""
        node, left = file["/"], name.split("/")
        for _ in range(_STEPS):
            if not left:
                return node
            part, *left = left
            if part in ("", "."):
                continue
            link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise KeyError(name)
            if isinstance(link, h5py.ExternalLink):
                raise InputError(
                    f"{self.location}: {name} leads to another file, {link.filename!r}, which is not read; pass that "
                    "file itself"
                )
            if isinstance(link, h5py.SoftLink):
                left = [*link.path.split("/"), *left]
                node = file["/"] if link.path.startswith("/") else node
            else:
                node = node[part]
        raise InputError(f"{self.location}: {name} leads through more than {_STEPS} groups and links; write it anew")

    def _check(self, file: Any, dataset: Any, steps: int = 8) -> None:
        """Refuse a dataset that is stored elsewhere, or in chunks that cannot be read within bounds."""
        if dataset.external:
            raise InputError(f"{self.location}: {dataset.name} is stored in other files, which are not read; copy it")
        if dataset.is_virtual:
            for source in dataset.virtual_sources():
                if source.file_name != "." or "%" in source.dset_name or not steps:
                    raise InputError(
                        f"{self.location}: {dataset.name} is a virtual dataset of other files, which are not read; "
                        "copy its values into one file"
                    )
                self._check(file, self._found(file, source.dset_name), steps - 1)
        if dataset.chunks is None:
            return
        check_chunks(self.location, dataset.shape, dataset.chunks, dataset.dtype.itemsize, self.max_bytes)
        filters = _filters(dataset)
        if odd := [f for f in filters if f not in (_SHUFFLE, _FLETCHER, *_EXPANDS)]:
            raise InputError(
                f"{self.location}: {dataset.name} is compressed by HDF5's filter {odd[0]}; gzip, LZF, shuffle and "
                "fletcher32 are read: h5repack -f GZIP=4"
            )
        if sum(f in _EXPANDS for f in filters) > 1:
            raise InputError(f"{self.location}: {dataset.name} is compressed twice; write it with one compressor")

    def _check_chunks(self, dataset: Any, start: int, stop: int) -> None:
        """Refuse chunks that would decompress to more than a chunk holds: HDF5 takes memory until a chunk ends."""
        kinds = [f for f in (_filters(dataset) if dataset.chunks else ()) if f in _EXPANDS]
        if not kinds:
            return
        size = math.prod(dataset.chunks) * dataset.dtype.itemsize
        first = start // dataset.chunks[0] * dataset.chunks[0]
        counts = [math.ceil(n / c) for n, c in zip((stop - first, *dataset.shape[1:]), dataset.chunks, strict=True)]
        for place in np.ndindex(*counts):
            corner = [i * c for i, c in zip(place, dataset.chunks, strict=True)]
            corner[0] += first
            stored = dataset.id.get_chunk_info_by_coord(tuple(corner)).size
            if stored * _EXPANDS[kinds[0]] <= self.max_bytes:
                continue
            if kinds[0] == _GZIP and inflated_size(dataset.id.read_direct_chunk(tuple(corner))[1], size) <= size:
                continue
            raise ValueError(f"a chunk of {shown_size(size)} would decompress to more; it is damaged")


def _filters(dataset: Any) -> list[int]:
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]

"""Datasets of HDF5 files that strangers made: nothing outside of a file is read, and no chunk that has no bound.

Importing it needs h5py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np

from unrelu.datasets.data_set import StoredArray, check_chunks
from unrelu.errors import InputError
from unrelu.runtime.file_reading import check_names, opened, shown_size

# Filters of HDF5 and what a byte of theirs may decompress to at most. Shuffle and Fletcher's check sum keep the size;
# 258 bytes of two bits in gzip; LZF copies up to 264 bytes for three. All others take memory as the file states.
_EXPANDS = {2: 1, 3: 1, 1: 1032, 32000: 88}


def open_hdf5(location: str, choose: Callable[[Sequence[str]], str], max_bytes: int) -> StoredArray:
    """The dataset of a file that ``choose`` picks by its path. Soft and external links are not followed."""
    with _file(location) as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        check_names(names, location)
        name = choose(names)
        dataset = file[name]
        shape, dtype = tuple(dataset.shape or ()), dataset.dtype
        _check(dataset, location, max_bytes)

    def read(start: int, stop: int) -> Any:
        with _file(location) as file:
            dataset = file[name]
            if dataset.chunks:
                _check_chunks(dataset, start, stop, location, max_bytes)
            return dataset[start:stop]

    return StoredArray(shape, dtype, read)


def _file(location: str) -> Any:
    with opened(location):  # a regular file, which h5py is then given the name of
        # Many network file systems have no locks; a reader needs none.
        return h5py.File(location, "r", locking="best-effort")


def _check(dataset: Any, location: str, max_bytes: int) -> None:
    """Refuse a dataset that is stored elsewhere, or whose chunks have no bound."""
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{location}: {dataset.name} is stored in other files, which are not read; copy it into one")
    if dataset.chunks is None:
        return
    check_chunks(location, dataset.shape, dataset.chunks, dataset.dtype.itemsize, max_bytes)
    if odd := [code for code in _filters(dataset) if code not in _EXPANDS]:
        raise InputError(
            f"{location}: {dataset.name} is compressed by HDF5's filter {odd[0]}; gzip, LZF, shuffle and fletcher32 "
            "are read: h5repack -f GZIP=4"
        )


def _check_chunks(dataset: Any, start: int, stop: int, location: str, max_bytes: int) -> None:
    """Refuse chunks that could decompress to more than ``max_bytes``: HDF5 takes memory until a chunk ends."""
    expands = math.prod(_EXPANDS[code] for code in _filters(dataset))
    first, length = start // dataset.chunks[0], dataset.chunks[0]
    counts = [math.ceil(stop / length) - first, *map(math.ceil, np.divide(dataset.shape[1:], dataset.chunks[1:]))]
    for place in np.ndindex(*counts):
        corner = tuple(i * c for i, c in zip((place[0] + first, *place[1:]), dataset.chunks, strict=True))
        stored = dataset.id.get_chunk_info_by_coord(corner).size
        if stored * expands > max_bytes:
            raise InputError(
                f"{location} has a chunk of {shown_size(stored)} that could decompress to "
                f"{shown_size(stored * expands)}; write it in smaller ones, or raise max_bytes= (--max-bytes)"
            )


def _filters(dataset: Any) -> list[int]:
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]

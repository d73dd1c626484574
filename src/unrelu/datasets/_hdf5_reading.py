"""Reading untrusted HDF5 files: nothing outside a file is read, and only HDF5's own filters run.

Importing this module needs h5py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import h5py

from unrelu.datasets.data_set import StoredArray, check_chunks
from unrelu.errors import InputError
from unrelu.runtime.file_reading import check_names, opened

# HDF5's own filters: gzip, shuffle, Fletcher's checksum and LZF. Other filters may be libraries that HDF5 would load.
_FILTERS = (1, 2, 3, 32000)


def open_hdf5(location: str, choose: Callable[[Sequence[str]], str]) -> StoredArray:
    """Open the dataset of a file that ``choose`` picks by its path. Do not follow soft and external links."""
    with _file(location) as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        check_names(names, location)
        name = choose(names)
        dataset = file[name]
        shape, dtype = tuple(dataset.shape or ()), dataset.dtype
        _check(dataset, location)

    def read(start: int, stop: int) -> Any:
        with _file(location) as file:
            return file[name][start:stop]

    return StoredArray(shape, dtype, read)


def _file(location: str) -> Any:
    with opened(location):  # checks that it is a regular file; h5py then opens it by its name
        # Many network file systems have no locks; a reader needs none.
        return h5py.File(location, "r", locking="best-effort")


def _check(dataset: Any, location: str) -> None:
    """Refuse a dataset that is stored in other files, has too large chunks, or is compressed by another filter."""
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{location}: {dataset.name} is stored in other files, which are not read; copy it into one")
    if dataset.chunks is None:
        return
    check_chunks(location, dataset.shape, dataset.chunks, dataset.dtype.itemsize)
    plist = dataset.id.get_create_plist()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if odd := [code for code in codes if code not in _FILTERS]:
        raise InputError(
            f"{location}: {dataset.name} is compressed by HDF5's filter {odd[0]}; gzip, LZF, shuffle and fletcher32 "
            "are read: h5repack -f GZIP=4"
        )

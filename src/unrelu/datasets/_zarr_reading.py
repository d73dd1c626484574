"""Reading untrusted Zarr stores: nothing outside a store is read, and no code in it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from unrelu.datasets.data_set import StoredArray, check_chunks
from unrelu.errors import InputError
from unrelu.runtime.file_reading import check_names
from unrelu.runtime.file_writing import check_own_files

# Codecs that cannot run code of the store's author.
_CODECS = ("transpose", "bytes", "crc32c", "zstd", "gzip", "blosc")


def open_zarr(location: str, choose: Callable[[Sequence[str]], str]) -> StoredArray:
    """Open the array in a folder. If the folder holds a group, ``choose`` names the array.

    Chunks that were never written hold the fill value. Only format 3 is read: format 2 may name pickle as a codec,
    and pickle would run code of the store's author.
    """
    folder = Path(location)
    check_own_files(folder, "only files in the store itself are read")
    node: Any = zarr.open(location, mode="r", zarr_format=3)
    if isinstance(node, zarr.Group):
        names = sorted(node.array_keys())
        check_names(names, location)
        node = node[choose(names)]
    else:
        choose([""])  # a single array has no name
    _check_codecs(node, location)
    check_chunks(location, tuple(node.shape), tuple(node.chunks), np.dtype(node.dtype).itemsize)

    def read(start: int, stop: int) -> npt.NDArray[Any]:
        if not (folder / "zarr.json").is_file():  # Zarr would read the fill value everywhere
            raise InputError(f"{location} is gone")
        return np.asarray(node[start:stop])

    return StoredArray(tuple(node.shape), np.dtype(node.dtype), read)


def _check_codecs(array: Any, location: str) -> None:
    """Refuse an array with a codec that is not allowed, or with chunks of several sizes."""
    if odd := [name for codec in array.metadata.codecs if (name := codec.to_dict()["name"]) not in _CODECS]:
        check_names(odd, location)
        raise InputError(
            f"{location} has chunks of codec {odd[0]}; zstd, gzip, blosc, crc32c and transpose are read. If you trust "
            "the store, open it in Python and pass the array: data=zarr.open(...)"
        )
    if type(array.metadata.chunk_grid).__name__ != "RegularChunkGrid":
        raise InputError(f"{location} has chunks of several sizes; write it anew")

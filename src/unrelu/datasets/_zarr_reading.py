"""Zarr stores that strangers made: nothing outside of them is read, and no chunk decompresses to more than it may."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from unrelu.datasets.data_set import StoredArray, check_chunks
from unrelu.errors import InputError
from unrelu.runtime.file_reading import check_names, json_limit, opened, read_bytes, shown_size
from unrelu.runtime.file_writing import check_own_files

# Codecs that keep the size of a chunk, and compressors whose chunks say, or bound, what they decompress to.
_PLAIN, _COMPRESSORS = ("transpose", "bytes", "crc32c"), ("zstd", "gzip", "blosc")
# What a byte of gzip may decompress to: 258 bytes of two bits.
_DEFLATE = 1032
# Bytes that codecs add, such as check sums.
_SLACK = 2**10
# The size of a frame that states none.
_UNKNOWN = 2**62


def open_zarr(location: str, choose: Callable[[Sequence[str]], str], max_bytes: int) -> StoredArray:
    """The array in a folder, or that of the group there which ``choose`` names.

    Chunks that were never written hold its fill value. Only format 3 is read: format 2 may name pickle as a codec,
    which would run code of the store's author.
    """
    folder = Path(location)
    check_own_files(folder, "only files in the store itself are read")
    for path in (folder / "zarr.json", *folder.glob("*/zarr.json")):
        read_bytes(path, json_limit(max_bytes))
    node: Any = zarr.open(location, mode="r", zarr_format=3)
    if isinstance(node, zarr.Group):
        names = sorted(node.array_keys())
        check_names(names, location)
        node = node[choose(names)]
    else:
        choose([""])  # it has no name
    compressor = _checked_codec(node, location)
    chunk, itemsize = tuple(node.chunks), np.dtype(node.dtype).itemsize
    check_chunks(location, tuple(node.shape), chunk, itemsize, max_bytes)

    def read(start: int, stop: int) -> npt.NDArray[Any]:
        if not (folder / "zarr.json").is_file():  # Zarr would read the fill value everywhere
            raise InputError(f"{location} is gone")
        for path in _chunk_files(node, start, stop):
            _check_stated(path, compressor, math.prod(chunk) * itemsize + _SLACK, max_bytes)
        return np.asarray(node[start:stop])

    return StoredArray(tuple(node.shape), np.dtype(node.dtype), read)


def _checked_codec(array: Any, location: str) -> str | None:
    """The compressor of an array. Others than those that are bounded are refused, and so are two."""
    names = [codec.to_dict()["name"] for codec in array.metadata.codecs]
    if odd := [name for name in names if name not in (*_PLAIN, *_COMPRESSORS)]:
        check_names(odd, location)
        raise InputError(
            f"{location} has chunks of codec {odd[0]}; zstd, gzip, blosc, crc32c and transpose are read. If you trust "
            "the store, open it in Python and pass the array: data=zarr.open(...)"
        )
    found = [name for name in names if name in _COMPRESSORS]
    if len(found) > 1 or type(array.metadata.chunk_grid).__name__ != "RegularChunkGrid":
        raise InputError(f"{location} has chunks of several sizes, or compressed twice; write it anew")
    return found[0] if found else None


def _chunk_files(array: Any, start: int, stop: int) -> Iterator[Path]:
    """The files of the chunks with rows start to stop - 1, those that exist."""
    length, root = array.chunks[0], Path(array.store.root, array.path)
    rest = [math.ceil(n / c) for n, c in zip(array.shape[1:], array.chunks[1:], strict=True)]
    for place in np.ndindex(math.ceil(stop / length) - start // length, *rest):
        path = root / array.metadata.encode_chunk_key((place[0] + start // length, *place[1:]))
        if path.exists():
            yield path


def _check_stated(path: Path, compressor: str | None, held: int, max_bytes: int) -> None:
    """Refuse a chunk that would decompress to more than the array's chunks hold."""
    with opened(path) as (stream, stored):
        head = stream.read(18)
    if compressor == "gzip":
        size, held = stored * _DEFLATE, max_bytes
    elif compressor == "blosc":  # 16 bytes, of which the second four are the size of what is compressed
        size = int.from_bytes(head[4:8], "little") if len(head) >= 16 else held + 1
    elif compressor == "zstd":
        size = _zstd_size(head)
    else:
        size = stored
    if size > held:
        stated = f"states {shown_size(size)}" if size < _UNKNOWN else "does not state how much"
        raise InputError(f"{path} {stated} when decompressed; {shown_size(held)} are read at most: it is damaged")


def _zstd_size(head: bytes) -> int:
    """What the header of a Zstandard frame states of its content; more than any chunk holds where it states nothing.

    Source: RFC 8878, section 3.1.1.1.
    """
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 6:
        return _UNKNOWN
    single, flag = head[4] >> 5 & 1, head[4] >> 6
    width = (1 if single else 0, 2, 4, 8)[flag]
    if not width:
        return _UNKNOWN
    begin = 5 + (not single) + (0, 1, 2, 4)[head[4] & 3]
    size = int.from_bytes(head[begin : begin + width], "little")
    return size + 256 if width == 2 else size

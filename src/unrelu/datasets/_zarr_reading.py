"""Zarr stores that strangers made: nothing outside of them is read, and no chunk decompresses to more than it may.

Zarr follows links, reads whatever codec a store names, and decompresses without a bound. So folders are read by a store
that looks where a key leads, and an array's codecs are wrapped in ones that look at what a chunk states. Importing it
needs Zarr.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.storage import LocalStore

from unrelu.datasets.sources import OpenArray, check_chunks, choose
from unrelu.errors import InputError, MissingPackageError
from unrelu.runtime.file_reading import MAX_BYTES, check_names, inflated_size, json_limit, shown_size

# Codecs that change nothing but the order of bytes, add a check sum, or are bounded below. All others are refused.
_PLAIN = {"TransposeCodec", "BytesCodec", "Crc32cCodec"}
_COMPRESSORS = {"ZstdCodec": "zstd", "GzipCodec": "gzip", "BloscCodec": "blosc"}
# What one byte may decompress to at most: 258 bytes of 2 bits in DEFLATE; a block of 128 KiB of 4 bytes in Zstandard.
_DEFLATE, _ZSTD = 1032, 2**15
# Bytes that codecs add, such as check sums.
_SLACK = 2**10
# Chunks in a shard, whose index has 16 bytes for each and is read as a whole.
_SHARDS = 2**20


def open_zarr(location: str, array: str | None, name: str, max_bytes: int = MAX_BYTES) -> OpenArray:
    """The array at a place, or that of a group which :func:`~unrelu.datasets.sources.choose` names; read later.

    Chunks that were never written hold its fill value. Only format 3 is read: format 2 may name pickle as a codec,
    which would run code of the store's author.
    """
    node = zarr_node(location, max_bytes)
    if isinstance(node, zarr.Group):
        found = node.get(array or name)
        if not isinstance(found, zarr.Array):  # listing a group behind a URL may be slow, or not allowed
            names = sorted(node.array_keys())
            check_names(names, location)
            found = node[choose(names, array, name, location)]
        node = found
    elif array is not None:
        raise InputError(f"{location} is one array, so it has none called {array!r}; leave array= out")
    shape, dtype, fill = tuple(node.shape), np.dtype(node.dtype), node.fill_value
    if dtype.kind not in "biufc":  # which is refused by its type; its codecs may be any
        return OpenArray(shape, dtype, lambda start, stop: np.empty(0))
    values = bounded(node, location, max_bytes)

    def read(start: int, stop: int) -> npt.NDArray[Any]:
        found = np.asarray(values[start:stop])
        unwritten = np.isnan(found) if np.isnan(fill) else found == fill
        # Zarr reads the fill value everywhere where the store is gone.
        if unwritten.reshape(stop - start, math.prod(shape[1:])).all(axis=1).any():
            zarr_node(location, max_bytes)
        return found

    return OpenArray(shape, dtype, read)


def zarr_node(location: str, max_bytes: int = MAX_BYTES) -> Any:
    """The Zarr group or array at a place, for reading."""
    try:
        return zarr.open(_store(location, max_bytes), mode="r", zarr_format=3)
    except FileNotFoundError as error:
        raise InputError(
            f"{location} holds no Zarr group or array of format 3 (no zarr.json); check the path, and convert "
            "older stores with `zarr migrate v3`"
        ) from error
    except ImportError as error:  # of the file system behind the URL
        raise MissingPackageError(f"{location} needs one more package: {error}", name=error.name) from error


def _store(location: str, max_bytes: int) -> Any:
    """Where Zarr reads: a URL as the user wrote it, or a folder without what links in it lead to."""
    scheme, mark, rest = location.partition("://")
    if not mark or scheme in ("file", "local"):
        return Inside(Path(rest if mark else location), read_only=True, max_bytes=max_bytes)
    if "reference" in scheme.split("::"):
        raise InputError(f"{location} is a list of references to other files, which are not read; pass a Zarr store")
    return location


class Inside(LocalStore):
    """A folder of which only regular files are read, that lie in it, are no links, and have at most ``max_bytes``.

    Metadata may have less, see :func:`~unrelu.runtime.file_reading.json_limit`.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(root, read_only=read_only)
        self._max_bytes = max_bytes

    def with_read_only(self, read_only: bool = False) -> Inside:
        return Inside(self.root, read_only=read_only, max_bytes=self._max_bytes)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        self._check(key, byte_range is None)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        self._check(key, byte_range is None)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    def _check(self, key: str, whole: bool) -> None:
        path = os.path.join(os.path.realpath(self.root), key)
        if os.path.realpath(path) != os.path.normpath(path):
            raise PermissionError(f"{path} is a link; only files in the store itself are read")
        try:
            found = os.stat(path)
        except OSError:  # there is no such chunk, and Zarr knows what that means
            return
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{path} is a device, a socket or a pipe; only regular files are read")
        most = json_limit(self._max_bytes) if key.endswith("zarr.json") else self._max_bytes
        if whole and found.st_size > most:
            raise PermissionError(f"{path} has {shown_size(found.st_size)}; at most {shown_size(most)} are read")


class _BoundedCodec(BytesBytesCodec):
    """A compressor that refuses chunks that state to be larger than the array's chunks are."""

    is_fixed_size = False

    def __init__(self, codec: Any, max_bytes: int) -> None:
        self._codec, self._max_bytes = codec, max_bytes
        self._kind = _COMPRESSORS[type(codec).__name__]

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        held = math.prod(chunk_spec.shape) * _itemsize(chunk_spec.dtype) + _SLACK
        _check_stated(self._kind, chunk_bytes.to_bytes(), held, self._max_bytes)
        [values] = list(await self._codec.decode([(chunk_bytes, chunk_spec)]))
        return values

    def evolve_from_array_spec(self, array_spec: Any) -> _BoundedCodec:
        return _BoundedCodec(self._codec.evolve_from_array_spec(array_spec), self._max_bytes)

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = self._codec.to_dict()
        return found

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError  # not known, as of every compressor


def _itemsize(dtype: Any) -> int:
    """The bytes of NumPy's type, or of Zarr's own since 3.1."""
    return int((dtype.to_native_dtype() if hasattr(dtype, "to_native_dtype") else dtype).itemsize)


def _check_stated(kind: str, content: bytes, held: int, max_bytes: int) -> None:
    """Refuse a chunk that would decompress to more than ``held`` bytes; where that cannot be told, ``max_bytes``."""
    if kind == "gzip":
        size = inflated_size(content, held) if len(content) * _DEFLATE > max_bytes else 0
    elif kind == "blosc":  # 16 bytes, of which the second four are the size of what is compressed
        size = int.from_bytes(content[4:8], "little") if len(content) >= 16 else held + 1
    else:
        size = _zstd_size(content)
        held = max(held, 0 if size >= 0 else max_bytes)
        size = size if size >= 0 else len(content) * _ZSTD
    if size > held:
        raise ValueError(f"a chunk of {shown_size(held)} would decompress to more; it is damaged")


def _zstd_size(content: bytes) -> int:
    """What the header of a Zstandard frame states of its content, or -1 where it states nothing.

    Source: RFC 8878, section 3.1.1.1.
    """
    if content[:4] != b"\x28\xb5\x2f\xfd" or len(content) < 6:
        return -1
    descriptor = content[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    width = (1 if single else 0, 2, 4, 8)[flag]
    if not width:
        return -1
    begin = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(content[begin : begin + width], "little")
    return size + 256 if width == 2 else size


def bounded(array: Any, location: str, max_bytes: int) -> Any:
    """The array, such that a chunk is refused where it would decompress to more than a chunk holds."""
    chunk = tuple(getattr(array.metadata.chunk_grid, "chunk_shape", ()))
    if len(chunk) != len(array.shape):
        raise InputError(f"{location} has chunks of more than one shape, which are not read; write it in equal ones")
    inner = next((c.chunk_shape for c in array.metadata.codecs if type(c).__name__ == "ShardingCodec"), chunk)
    check_chunks(location, array.shape, inner, array.dtype.itemsize, max_bytes)
    shards = math.prod(math.ceil(n / c) for n, c in zip(chunk, inner, strict=True))
    if shards > _SHARDS:
        raise InputError(f"{location} has {shards:,} chunks in a shard; write it with larger ones")
    metadata = replace(array.metadata, codecs=_wrapped(array.metadata.codecs, location, max_bytes))
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path))


def _wrapped(codecs: Any, location: str, max_bytes: int) -> tuple[Any, ...]:
    wrapped = []
    for codec in codecs:
        name = type(codec).__name__
        if name == "ShardingCodec":
            _wrapped(codec.index_codecs, location, max_bytes)
            inner = _wrapped(codec.codecs, location, max_bytes)
            options = {"chunk_shape": codec.chunk_shape, "index_codecs": codec.index_codecs}
            wrapped.append(type(codec)(codecs=inner, index_location=codec.index_location, **options))
        elif name in _COMPRESSORS:
            wrapped.append(_BoundedCodec(codec, max_bytes))
        elif name in _PLAIN:
            wrapped.append(codec)
        else:
            check_names([name], location)
            raise InputError(
                f"{location} has chunks of codec {name}; zstd, gzip, blosc, crc32c, transpose and sharding are read"
            )
    if sum(isinstance(codec, _BoundedCodec) for codec in wrapped) > 1:
        raise InputError(f"{location} has chunks that are compressed twice; write it with one compressor")
    return tuple(wrapped)

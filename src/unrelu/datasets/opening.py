"""Opening data sets of observations and of masks, whatever they are stored in."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.datasets.pictures import ENDINGS, Folder
from unrelu.datasets.sources import ArraySource, Batch, Entries, OpenArray, Source, choose, optional
from unrelu.errors import InputError
from unrelu.runtime.file_reading import MAX_BYTES, check_limit, npy_header, opened, read_npz

_HDF5 = (".h5", ".hdf5")
_KINDS = "a .npy, .npz, .h5 or .hdf5 file, a Zarr store (folder or URL), or a folder of PNG or JPEG images"


def open_source(
    location: str | Path | npt.ArrayLike | Source,
    array: str | None = None,
    size: tuple[int, int] | None = None,
    name: str = "y",
    max_bytes: int = MAX_BYTES,
) -> Source:
    """The data set at a place, of which little or nothing is read yet. Nothing outside of that place is ever read.

    Args:
        location: a ``.npy`` file; a ``.npz`` file, which is read as a whole; a ``.h5`` or ``.hdf5`` file;
            a Zarr store of format 3, which is a folder or any URL of fsspec (``s3://``, ``memory://``, ``file://``); or
            a folder of PNG or JPEG files. An array, which is copied; or a data set, which is returned. Arrays are
            batches (B, ...).
        array: which array to read, where there are several. Without it, the one called ``name``, or the only one.
        size: (height, width) to resize images to; without it they are taken as they are.
        name: see ``array``.
        max_bytes: the most that a ``.npz`` file, one observation or one chunk of a store may take once it is
            decompressed; 4 GiB by default.

    Raises:
        InputError: nothing is there, or no data set; the array is not there or not the only one; ``array`` or ``size``
            is given where there are no arrays or no images; it is stored elsewhere, or larger than ``max_bytes``; an
            array in memory is no batch of real numbers.
        OptionError: ``max_bytes`` is no number of bytes.
        MissingPackageError: an optional package is not installed: Zarr, h5py, Pillow, or a file system of fsspec.
    """
    return _open(location, array, size, name, check_limit(max_bytes), "data")


def open_masks(
    location: str | Path | npt.ArrayLike | Source,
    array: str | None = None,
    size: tuple[int, int] | None = None,
    name: str = "mask",
    max_bytes: int = MAX_BYTES,
) -> Source:
    """A mask an observation, opened as by :func:`open_source`. Masks with entries other than 0 and 1 are problems.

    In images, black is 0 and white is 1; they are resized to ``size`` by the nearest pixel.
    """
    source = _open(location, array, size, name, check_limit(max_bytes), "masks")
    return source if isinstance(location, Source) else _Masks(source)


class _Masks(Source):
    """The masks in a data set: entries 0 and 1. In images, full white counts as 1."""

    def __init__(self, stored: Source) -> None:
        self._stored = stored
        self.location, self.size, self.shape = stored.location, stored.size, stored.shape
        self.dtype = np.dtype(bool)
        white = isinstance(stored, Folder) and stored.dtype.kind == "u"
        self._one = float(np.iinfo(stored.dtype).max) if white else 1.0

    def name(self, i: int) -> str:
        """As the data set has it."""
        return self._stored.name(i)

    def read(self, start: int, stop: int, seen: Entries | None = None) -> Batch:
        """Masks start to stop - 1 (see :meth:`Source.read`)."""
        batch = self._stored.read(start, stop, seen)
        problems = dict(batch.problems)
        flat = batch.values.reshape(stop - start, math.prod(self.shape))
        odd = (flat != 0) & (flat != self._one)
        for i in np.flatnonzero(odd.any(axis=1)).tolist():
            allowed = "0 and 1" if self._one == 1 else f"black and white, 0 and {self._one:g}"
            problems.setdefault(i, f"has entries like {flat[i, odd[i].argmax()]:g}; a mask is made of {allowed}")
        values = batch.values / self._one
        values[sorted(problems)] = np.nan
        return Batch(values, dict(sorted(problems.items())))

    def digest(self, start: int, stop: int) -> str:
        """Of what is stored (see :meth:`Source.digest`)."""
        return self._stored.digest(start, stop)


def _open(
    given: str | Path | npt.ArrayLike | Source, array: str | None, size: tuple[int, int] | None, name: str, most: int,
    what: str,
) -> Source:  # fmt: skip
    """The data set at a place, or an array as one, which messages call ``what``: "data" or "masks"."""
    if isinstance(given, str | Path):
        return _stored(str(given), array, size, name, most, nearest=what == "masks")
    if array is not None or size is not None:
        raise InputError(f"array={array!r} and size={size} are for data in files; pass a path, or leave them out")
    if isinstance(given, Source):
        return given
    if np.ma.is_masked(given):
        raise InputError(f"{what} has masked entries; fill them, or pass masks= for what was not observed")
    return ArraySource(what, partial(_in_memory, np.array(given)))


def _stored(
    location: str, array: str | None, size: tuple[int, int] | None, name: str, most: int, nearest: bool
) -> Source:
    url = "://" in location
    ending = (PurePosixPath(location) if url else Path(location)).suffix.lower()
    if url and ending in (".npy", ".npz", *_HDF5, *ENDINGS):
        raise InputError(
            f"{location}: only Zarr stores are read from URLs; copy the {ending} file here and pass its path"
        )
    if not url and not Path(location).exists():
        raise InputError(f"{location} does not exist; pass {_KINDS}")
    zarr = url or ending == ".zarr" or Path(location, "zarr.json").is_file()
    if not zarr and Path(location).is_dir():
        if array is not None:
            raise InputError(f"{location} is a folder of images, so it has no array {array!r}; leave array= out")
        return Folder(location, size, nearest=nearest, max_bytes=most)
    if size is not None:
        raise InputError(f"size={size} resizes images only; {location} is read as it is")
    which = (location, array, name, most)
    if zarr:
        optional("zarr", "Zarr stores", "zarr>=3")
        from unrelu.datasets._zarr_reading import open_zarr  # noqa: PLC0415 -- an optional dependency

        return ArraySource(location, partial(open_zarr, *which), most)
    if ending == ".npz":
        return ArraySource(location, partial(_open_npz, *which), most)
    if ending in _HDF5:
        optional("h5py", "HDF5 files", "h5py")
        from unrelu.datasets._hdf5_reading import Hdf5  # noqa: PLC0415 -- an optional dependency

        return ArraySource(location, Hdf5(*which).open, most)
    if ending != ".npy":
        raise InputError(f"{location} is no data set; pass {_KINDS}")
    if array is not None:
        raise InputError(f"{location} holds one array without a name, so there is no {array!r}; leave array= out")
    return ArraySource(location, partial(_open_npy, location), most)


def _open_npy(location: str) -> OpenArray:
    """The array in a ``.npy`` file, of which nothing is read yet."""
    with opened(location) as (stream, size):
        header = npy_header(stream, size, location)
    shape, dtype, length = header.shape, header.dtype, math.prod(header.shape[1:])

    # Observations lie one behind the other. The file is read, not mapped: a disk that fails, or a file that is cut
    # short, would end a process that maps it, but is an error here.
    def read(start: int, stop: int) -> npt.NDArray[Any]:
        with opened(location) as (stream, _):
            first = header.offset + start * length * dtype.itemsize
            flat = np.fromfile(stream, dtype, (stop - start) * length, offset=first)
        return flat.reshape(stop - start, *shape[1:])

    # They do not in Fortran order. The file is mapped each time: pages of a mapping count as memory of this process.
    def copy(start: int, stop: int) -> npt.NDArray[Any]:
        with opened(location) as (stream, size):
            now = npy_header(stream, size, location)
            return np.array(np.memmap(stream, now.dtype, "r", now.offset, now.shape, "F")[start:stop])

    return OpenArray(shape, dtype, copy if header.fortran and len(shape) > 1 else read)


def _open_npz(location: str, array: str | None, name: str, max_bytes: int) -> OpenArray:
    """The array of a ``.npz`` file that :func:`choose` names, read as a whole: zip files cannot be read in parts."""
    (values,) = read_npz(location, max_bytes, lambda names: [choose(names, array, name, location)]).values()
    return _in_memory(values)


def _in_memory(values: npt.NDArray[Any]) -> OpenArray:
    """An array in memory; it travels with whatever it is a part of."""
    return OpenArray(values.shape, values.dtype, lambda start, stop: values[start:stop])

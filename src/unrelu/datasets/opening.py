"""Opening data sets of observations and of masks, whatever they are stored in."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from unrelu.datasets.images import ENDINGS, Folder
from unrelu.datasets.sources import ArraySource, Batch, Entries, Source, memory_rows, npy_rows, npz_rows, optional
from unrelu.errors import InputError
from unrelu.runtime.file_reading import MAX_BYTES, check_limit

_HDF5 = (".h5", ".hdf5")
_KINDS = "a .npy, .npz, .h5 or .hdf5 file, a Zarr store (folder or URL), or a folder of PNG or JPEG images"


def open_source(
    location: str | Path,
    array: str | None = None,
    size: tuple[int, int] | None = None,
    name: str = "y",
    max_bytes: int = MAX_BYTES,
) -> Source:
    """The data set at a place, of which little or nothing is read yet. Nothing outside of that place is ever read.

    Args:
        location: a ``.npy`` file; a ``.npz`` file, which is read as a whole; a ``.h5`` or ``.hdf5`` file;
            a Zarr store of format 3, which is a folder or any URL of fsspec (``s3://``, ``memory://``, ``file://``); or
            a folder of PNG or JPEG files. Arrays are batches (B, ...).
        array: which array to read, where there are several. Without it, the one called ``name``, or the only one.
        size: (height, width) to resize images to; without it they are taken as they are.
        name: see ``array``.
        max_bytes: the most that a ``.npz`` file, one observation or one chunk of a store may take once it is
            decompressed; 4 GiB by default.

    Raises:
        InputError: nothing is there, or no data set; the array is not there or not the only one; ``array`` or ``size``
            is given where there are no arrays or no images; it is stored elsewhere, or larger than ``max_bytes``.
        OptionError: ``max_bytes`` is no number of bytes.
        MissingPackageError: an optional package is not installed: Zarr, h5py, Pillow, or a file system of fsspec.
    """
    return _open(str(location), array, size, name, check_limit(max_bytes), masks=False)


def open_masks(
    location: str | Path,
    array: str | None = None,
    size: tuple[int, int] | None = None,
    name: str = "mask",
    max_bytes: int = MAX_BYTES,
) -> Source:
    """A mask an observation, opened as by :func:`open_source`. Masks with entries other than 0 and 1 are problems.

    In images, black is 0 and white is 1; they are resized to ``size`` by the nearest pixel.
    """
    return Masks(_open(str(location), array, size, name, check_limit(max_bytes), masks=True))


def in_memory(values: npt.ArrayLike, location: str = "the array") -> Source:
    """An array (B, ...) as a data set, or masks as one; a copy of it. ``location`` is for messages.

    Raises:
        InputError: it is no batch (B, ...) of real numbers.
    """
    if np.ma.is_masked(values):
        raise InputError(f"{location} has masked entries; fill them, or pass masks= for what was not observed")
    return ArraySource(location, partial(memory_rows, np.array(values)))


class Masks(Source):
    """The masks in a data set: entries 0 and 1.

    Args:
        stored: the data set; of a folder of images, full white counts as 1.
    """

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


def _open(location: str, array: str | None, size: tuple[int, int] | None, name: str, most: int, masks: bool) -> Source:
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
        return Folder(location, size, nearest=masks, max_bytes=most)
    if size is not None:
        raise InputError(f"size={size} resizes images only; {location} is read as it is")
    which = (location, array, name, most)
    if zarr:
        optional("zarr", "Zarr stores", "zarr")
        from unrelu.datasets.zarr_reading import zarr_rows  # noqa: PLC0415 -- an optional dependency

        return ArraySource(location, partial(zarr_rows, *which), most)
    if ending == ".npz":
        return ArraySource(location, partial(npz_rows, *which), most)
    if ending in _HDF5:
        optional("h5py", "HDF5 files", "hdf5")
        from unrelu.datasets.hdf5_reading import Hdf5  # noqa: PLC0415 -- an optional dependency

        return ArraySource(location, Hdf5(*which).open, most)
    if ending != ".npy":
        raise InputError(f"{location} is no data set; pass {_KINDS}")
    if array is not None:
        raise InputError(f"{location} holds one array without a name, so there is no {array!r}; leave array= out")
    return ArraySource(location, partial(npy_rows, location), most)

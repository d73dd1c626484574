"""Opening a path, an array or a list of pictures as a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.datasets.data_set import DataSet, StoredArray
from unrelu.errors import InputError, MissingPackageError, UnreluError
from unrelu.runtime.file_reading import npy_header, opened, read_npz
from unrelu.runtime.words import listed

_HDF5, _PICTURES = (".h5", ".hdf5"), (".png", ".jpg", ".jpeg")
_KINDS = "a .npy, .npz, .h5 or .hdf5 file, a folder of Zarr (format 3), or a folder of PNG or JPEG images"


def open_data(given: Any, array: str | None = None, size: tuple[int, int] | None = None, what: str = "data") -> DataSet:
    """Open the given data set, and read little or nothing of it yet.

    Args:
        given: a ``.npy`` file; a ``.npz`` file, which is read as a whole; a ``.h5`` or ``.hdf5`` file; a folder of Zarr
            format 3; a folder or a list of PNG or JPEG files; or anything with a shape (B, ...), a dtype and slices,
            such as an array of NumPy, h5py or Zarr.
        array: the name of the array in a store of several. By default, "y" for observations, "mask" for masks, or the
            only array.
        size: (height, width) to resize images to; without it they keep their size.
        what: "data" or "masks", for messages. Masks are resized by the nearest pixel.

    Raises:
        InputError: there is no such path, or no data set in it; the array does not exist, or several do; ``array`` or
            ``size`` is given without arrays or images; the array is stored in other files; or a ``.npz`` file, an
            observation or a chunk of a store is larger than the setting ``UNRELU_MAX_FILE_BYTES`` allows.
        MissingPackageError: h5py is not installed.
    """
    files = _picture_files(given)
    if files is not None or isinstance(given, str | os.PathLike):
        found = _stored(given, files, array, size, what)
    elif array is not None or size is not None:
        raise InputError(f"array={array!r} and size={size} are for data in files; pass a path, or leave them out")
    elif np.ma.is_masked(given):
        raise InputError(f"{what} has masked entries; fill them, or pass masks= for what was not observed")
    else:
        if isinstance(given, Tensor):
            given = given.detach().cpu()
            given = (given if given.dtype != torch.bfloat16 else given.float()).numpy()
        sliced = all(hasattr(given, name) for name in ("shape", "dtype", "__getitem__"))
        found = DataSet(what, given if sliced else np.asarray(given))
    return found.check()


def _picture_files(given: Any) -> list[Path] | None:
    """Return the files in a folder of images, sorted by name, or in a list of paths; None for anything else."""
    if isinstance(given, list | tuple) and given and all(isinstance(each, str | os.PathLike) for each in given):
        return [Path(each) for each in given]
    if not isinstance(given, str | os.PathLike) or not Path(given).is_dir() or Path(given, "zarr.json").exists():
        return None
    try:
        return sorted(path for path in Path(given).iterdir() if path.suffix.lower() in _PICTURES and path.is_file())
    except OSError as error:
        raise InputError(f"{given} cannot be read as a folder of images: {error.strerror}") from error


def _stored(
    given: Any, files: Sequence[Path] | None, array: str | None, size: tuple[int, int] | None, what: str
) -> DataSet:
    location = f"{len(given)} files" if isinstance(given, list | tuple) else str(given)
    if any(Path(location, name).exists() for name in (".zgroup", ".zarray")):
        raise InputError(f"{location} is Zarr of format 2; format 3 is read: convert it with `zarr migrate v3`")
    if files is not None:
        if array is not None:
            raise InputError(f"{location}: images have no array {array!r}; leave array= (--array) out")
        from unrelu.datasets.pictures import Pictures  # noqa: PLC0415 -- needs Pillow

        if not files:
            raise InputError(f"{location} holds no file that ends in {', '.join(_PICTURES)}; pass {_KINDS}")
        pictures = Pictures.of(files, size, nearest=what == "masks")
        white = float(np.iinfo(pictures.dtype).max) if pictures.dtype.kind == "u" else 1.0
        return DataSet(location, pictures, [path.name for path in files], white)
    if "://" in location:
        raise InputError(f"{location} is a URL: open it in Python and pass the array, data=zarr.open(...)")
    if not Path(location).exists():
        raise InputError(f"{location} does not exist; pass {_KINDS}")
    if size is not None:
        raise InputError(f"size={size} (--size) resizes images only; {location} is read as it is")
    name, ending = "mask" if what == "masks" else "y", Path(location).suffix.lower()
    if ending == ".npy" and array is not None:
        raise InputError(f"{location} holds one array without a name, so there is no {array!r}; leave array= out")
    choose = partial(_choose, array=array, name=name, location=location)
    try:
        return DataSet(location, _array(location, ending, choose))
    except (UnreluError, MemoryError):
        raise
    except Exception as error:  # every library has its own errors for damaged and missing stores
        raise InputError(f"{location} cannot be opened: {error}; pass a whole, readable data set") from error


def _array(location: str, ending: str, choose: Callable[[Sequence[str]], str]) -> Any:
    if Path(location).is_dir():
        from unrelu.datasets._zarr_reading import open_zarr  # noqa: PLC0415 -- Zarr takes a third of a second

        return open_zarr(location, choose)
    if ending in _HDF5:
        try:
            from unrelu.datasets._hdf5_reading import open_hdf5  # noqa: PLC0415 -- an optional dependency
        except ImportError:
            raise MissingPackageError("HDF5 files need h5py: pip install h5py", name="h5py") from None

        return open_hdf5(location, choose)
    if ending == ".npz":  # zip files cannot be read in parts
        return next(iter(read_npz(location, lambda names: [choose(names)]).values()))
    if ending != ".npy":
        raise InputError(f"{location} is no data set; pass {_KINDS}")
    with opened(location) as (stream, size):
        header = npy_header(stream, size, location)

    # Every read maps the file anew: the pages of a mapping count as memory of this process as long as it exists.
    def read(start: int, stop: int) -> npt.NDArray[Any]:
        with opened(location):
            return np.array(np.load(location, mmap_mode="r", allow_pickle=False)[start:stop])

    return StoredArray(header.shape, header.dtype, read)


def _choose(names: Sequence[str], array: str | None, name: str, location: str) -> str:
    """Choose one of the arrays ``names``: ``array`` if given, else the one called ``name``, else the only one."""
    held = listed(names)
    wanted = array or (name if name in names else names[0] if len(names) == 1 else None)
    if wanted in names:
        return str(wanted)
    if wanted is None:
        raise InputError(
            f"{location} holds {f'the arrays {held}' if names else 'no arrays'}; say which with array= (--array), or "
            f"name it {name!r}"
        )
    raise InputError(f"{location} has no array {wanted!r}; it holds {held or 'none'}")

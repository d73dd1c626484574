"""A small data set written as each kind of store."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

Y = np.random.default_rng(0).integers(0, 256, (7, 3, 4)).astype(np.uint8)
FLOATS = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
COLOUR = np.random.default_rng(2).integers(0, 256, (7, 3, 5, 4)).astype(np.uint8)


def npy(folder: Path, y=Y) -> str:
    np.save(folder / "y.npy", y)
    return str(folder / "y.npy")


def fortran(folder: Path, y=Y) -> str:
    return npy(folder, np.asfortranarray(y))


def npz(folder: Path, y=Y) -> str:
    np.savez_compressed(folder / "y.npz", y=y, labels=np.arange(3))
    return str(folder / "y.npz")


def zarr_group(folder: Path, y=Y) -> str:
    group = zarr.open_group(str(folder / "g.zarr"), mode="w", zarr_format=3)
    group.create_array("y", data=y, chunks=(2, *y.shape[1:]))
    group.create_array("labels", data=np.arange(3))
    return str(folder / "g.zarr")


def zarr_array(folder: Path, y=Y) -> str:
    zarr.create_array(str(folder / "a.zarr"), data=y, chunks=(3, *y.shape[1:]), zarr_format=3, overwrite=True)
    return str(folder / "a.zarr")


def hdf5(folder: Path, y=Y) -> str:
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("y", data=y, chunks=(2, *y.shape[1:]), compression="gzip")
        file.create_dataset("labels", data=np.arange(3))
    return str(folder / "y.h5")


def images(folder: Path, y=Y) -> str:
    (folder / "images").mkdir(exist_ok=True)
    for i, values in enumerate(y):
        picture = Image.fromarray(values.transpose(1, 2, 0) if values.ndim == 3 else values)
        picture.save(folder / "images" / f"{i:03}.{'PNG' if i == 0 else 'png'}")
    (folder / "images" / "labels.csv").write_text("1,2,3")
    (folder / "images" / "more.png").mkdir(exist_ok=True)
    return str(folder / "images")


ARRAYS = (npy, fortran, npz, zarr_group, zarr_array, hdf5)
KINDS = (*ARRAYS, images)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)

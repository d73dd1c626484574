"""Arrays in Zarr and HDF5 stores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, MissingPackageError
from unrelu.stores.arrays import Rows, choose
from unrelu.stores.batches import optional

__all__ = ["Hdf5", "Zarr"]


@dataclass(frozen=True)
class Zarr:
    """An array, or an array of a group, in Zarr format 3: a folder, or a URL that fsspec knows.

    Only format 3 is read: format 2 may name pickle as a codec, which would run code of the store's author.
    """

    location: str
    array: str | None
    name: str

    def open(self) -> Rows:
        """The array, of which nothing is read yet. Chunks that were never written hold its fill value."""
        zarr = optional("zarr", "Zarr stores", "zarr")
        node = self._node(zarr)
        if isinstance(node, zarr.Group):
            found = node.get(self.array or self.name)
            if not isinstance(found, zarr.Array):  # listing a group behind a URL may be slow, or not allowed
                found = node[choose(sorted(node.array_keys()), self.array, self.name, self.location)]
            node = found
        elif self.array is not None:
            raise InputError(f"{self.location} is one array, so it has none called {self.array!r}; leave array= out")
        array, fill = node, node.fill_value

        def read(start: int, stop: int) -> npt.NDArray[Any]:
            values = np.asarray(array[start:stop])
            unwritten = np.isnan(values) if np.isnan(fill) else values == fill
            # Of a store that is gone, Zarr reads the fill value everywhere.
            if unwritten.reshape(stop - start, math.prod(array.shape[1:])).all(axis=1).any():
                self._node(zarr)
            return values

        return Rows(tuple(array.shape), np.dtype(array.dtype), read)

    def _node(self, zarr: Any) -> Any:
        try:
            return zarr.open(self.location, mode="r", zarr_format=3)
        except FileNotFoundError as error:
            raise InputError(
                f"{self.location} holds no Zarr group or array of format 3 (no zarr.json); check the path, and convert "
                "older stores with `zarr migrate v3`"
            ) from error
        except ImportError as error:  # of the file system behind the URL
            raise MissingPackageError(f"{self.location} needs one more package: {error}", name=error.name) from error


@dataclass(frozen=True)
class Hdf5:
    """A dataset of an HDF5 file."""

    location: str
    array: str | None
    name: str

    def open(self) -> Rows:
        """The dataset. The file is opened at every read, so that no handle is shared with another process."""
        h5py = optional("h5py", "HDF5 files", "hdf5")

        def opened() -> Any:
            # Many network file systems have no locks; a reader needs none.
            return h5py.File(self.location, "r", locking="best-effort")

        with opened() as file:
            names = [key for key in file if isinstance(file.get(key), h5py.Dataset)]
            if self.array is not None and isinstance(file.get(self.array), h5py.Dataset):
                names.append(self.array)
            chosen = choose(names, self.array, self.name, self.location)
            shape, dtype = tuple(file[chosen].shape or ()), file[chosen].dtype

        def read(start: int, stop: int) -> Any:
            with opened() as file:
                return file[chosen][start:stop]

        return Rows(shape, dtype, read)

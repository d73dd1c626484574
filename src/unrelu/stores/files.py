"""Small files of observations, masks and matrices, read at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.errors import InputError
from unrelu.operators import Mask, Matrix

__all__ = ["read_measurement", "read_observations"]


def read_observations(path: Path, what: str = "observations", name: str = "y") -> npt.NDArray[Any]:
    """The array in a ``.npy`` file, or the one in a ``.npz`` file (named ``y`` if it holds several). Never unpickles.

    Args:
        path: the file.
        what: what it holds, for messages.
        name: of the array, where there are several.

    Raises:
        InputError: the file is missing, a folder, of another kind, damaged, holds objects, or several arrays without y.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass a .npy or .npz file of {what}")
    if not path.exists():
        raise InputError(f"{path} does not exist; pass a .npy or .npz file of {what}")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{path}: {what} are read from files that end in .npy or .npz")
    try:
        # NumPy leaves a file that it opened itself open where it is damaged.
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = loaded.files
            if len(names) != 1 and name not in names:
                held = f"the arrays {', '.join(names)}" if names else "no arrays"
                raise InputError(f"{path} holds {held}; name the {what} {name!r}")
            return np.asarray(loaded[name if name in names else names[0]])
    except InputError:
        raise
    except Exception as error:  # NumPy raises ValueError, EOFError, OSError, BadZipFile, ... for damaged files
        raise InputError(f"{path} cannot be read as {path.suffix}: {error}") from error


def read_measurement(mask: Path | None, operator: Path | None) -> Mask | Matrix | None:
    """What ``operator=`` of :func:`unrelu.invert` takes, from a file: 0/1 masks, or a matrix, dense or SciPy sparse.

    Raises:
        InputError: both are given, or a file cannot be read (see :func:`read_observations`).
    """
    if mask is not None and operator is not None:
        raise InputError(f"--mask {mask} and --operator {operator} were both given; pass one of them")
    if mask is not None:
        array = read_observations(mask, "masks", "mask")
        odd = array[(array != 0) & (array != 1)]
        if odd.size:
            raise InputError(f"{mask} has entries like {odd[0]}; a mask is made of 0 and 1")
        return Mask(array.astype(bool))
    if operator is None:
        return None
    if operator.suffix.lower() == ".npz" and operator.is_file():
        with suppress(Exception):  # a .npz file that SciPy did not save is read as one of NumPy's below
            return Matrix(sparse.load_npz(operator))
    return Matrix(read_observations(operator, "operators", "operator"))

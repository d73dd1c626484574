"""Small files of observations, masks and matrices, read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.errors import InputError
from unrelu.measurements import Mask, Matrix
from unrelu.runtime.file_reading import MAX_BYTES, check_limit, read_npy, read_npz, shown_size


def read_observations(
    path: Path, what: str = "observations", name: str = "y", max_bytes: int = MAX_BYTES
) -> npt.NDArray[Any]:
    """The array in a ``.npy`` file, or the one in a ``.npz`` file (named ``y`` if it holds several). Never unpickles.

    Args:
        path: the file.
        what: what it holds, for messages.
        name: of the array, where there are several.
        max_bytes: the most that the array may take, as it is stored and as float64; 4 GiB by default.

    Raises:
        InputError: the file is missing, a folder, of another kind, damaged, too large, holds objects, or several arrays
            without y.
        OptionError: ``max_bytes`` is no number of bytes.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass a .npy or .npz file of {what}")
    if not path.exists():
        raise InputError(f"{path} does not exist; pass a .npy or .npz file of {what}")
    max_bytes = check_limit(max_bytes)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"{path}: {what} are read from files that end in .npy or .npz")

    def chosen(names: list[str]) -> list[str]:
        if len(names) != 1 and name not in names:
            held = f"the arrays {', '.join(names)}" if names else "no arrays"
            raise InputError(f"{path} holds {held}; name the {what} {name!r}")
        return [name if name in names else names[0]]

    npy = path.suffix.lower() == ".npy"
    (array,) = [read_npy(path, max_bytes)] if npy else read_npz(path, max_bytes, chosen).values()
    if (size := 8 * array.size) > max_bytes:
        raise InputError(
            f"{path} holds {what} that take {shown_size(size)} as float64; at most {shown_size(max_bytes)} are read, "
            "pass a larger max_bytes= (--max-bytes), or use unrelu.run, which reads in parts"
        )
    return array


def read_measurement(mask: Path | None, operator: Path | None, max_bytes: int = MAX_BYTES) -> Mask | Matrix | None:
    """What ``operator=`` of :func:`unrelu.invert` takes, from a file: 0/1 masks, or a matrix, dense or SciPy sparse.

    Raises:
        InputError: both are given, or a file cannot be read (see :func:`read_observations`).
    """
    if mask is not None and operator is not None:
        raise InputError(f"--mask {mask} and --operator {operator} were both given; pass one of them")
    if mask is not None:
        array = read_observations(mask, "masks", "mask", max_bytes)
        odd = array[(array != 0) & (array != 1)]
        if odd.size:
            raise InputError(f"{mask} has entries like {odd[0]}; a mask is made of 0 and 1")
        return Mask(array.astype(bool))
    if operator is None:
        return None
    if operator.suffix.lower() == ".npz" and operator.is_file():
        arrays = read_npz(operator, check_limit(max_bytes), lambda names: names if "format" in names else [])
        if arrays:
            return Matrix(_sparse(arrays, operator, max_bytes))
    return Matrix(read_observations(operator, "operators", "operator", max_bytes))


def read_bounds(text: str | None, max_bytes: int = MAX_BYTES) -> tuple[Any, Any] | None:
    """What ``bounds=`` of :func:`unrelu.invert` takes, from LOW,HIGH or a ``.npz`` file with arrays lower and upper.

    Raises:
        InputError: it is neither, or the file cannot be read.
    """
    if text is None:
        return None
    if text.lower().endswith(".npz"):

        def chosen(names: list[str]) -> list[str]:
            if not {"lower", "upper"} <= set(names):
                raise InputError(f"{text} holds {', '.join(names) or 'no arrays'}; name the bounds 'lower' and 'upper'")
            return ["lower", "upper"]

        ends = read_npz(text, check_limit(max_bytes), chosen)
        return ends["lower"], ends["upper"]
    try:
        low, high = (float(end) for end in text.split(","))
    except ValueError:
        raise InputError(
            f"--bounds {text!r}: write LOW,HIGH, numbers for all coordinates such as -1,1 or 0,inf, or name a .npz "
            "file with arrays lower and upper"
        ) from None
    return low, high


def _sparse(arrays: dict[str, npt.NDArray[Any]], path: Path, max_bytes: int) -> Any:
    """The matrix that ``scipy.sparse.save_npz`` wrote, with every index checked: SciPy's code does not look again."""
    try:
        kind = np.asarray(arrays["format"]).item()
        kind = kind.decode("ascii") if isinstance(kind, bytes) else str(kind)
        shape = tuple(int(n) for n in arrays["shape"].tolist())
        if len(shape) != 2 or min(shape) < 1 or 8 * sum(shape) > max_bytes:
            raise ValueError(f"its shape is {shape}")
        data = arrays["data"]
        if kind in ("csr", "csc", "bsr"):
            made = getattr(sparse, f"{kind}_array")((data, arrays["indices"], arrays["indptr"]), shape=shape)
            made.check_format(full_check=True)
        elif kind == "coo":
            # Of arrays SciPy writes the rows and columns as one.
            places = tuple(arrays["coords"]) if "coords" in arrays else (arrays["row"], arrays["col"])
            made = sparse.coo_array((data, places), shape=shape)
        elif kind == "dia":
            made = sparse.dia_array((data, arrays["offsets"]), shape=shape)
        else:
            raise ValueError(f"its format is {kind!r:.40}")
        return made.tocsr()
    except Exception as error:  # of SciPy and NumPy: ValueError, TypeError, KeyError, IndexError, OverflowError, ...
        raise InputError(f"{path} is no sparse matrix of SciPy ({error!s:.200}); use scipy.sparse.save_npz") from error

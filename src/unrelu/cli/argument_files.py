"""Small files of observations, masks and matrices, read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
from scipy import sparse

from unrelu.errors import InputError
from unrelu.measurements import Mask, Matrix
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.noise import Noise
from unrelu.models.code_prior import Normal
from unrelu.runtime.file_reading import MAX_BYTES, check_limit, read_npy, read_npz, shown_size


def read_observations(
    path: Path, what: str = "observations", name: str = "y", max_bytes: int = MAX_BYTES
) -> npt.NDArray[Any]:
    """The array in a ``.npy`` file, or the one in a ``.npz`` file (called ``name`` if it holds several).

    ``what`` it holds is for messages. The array may take ``max_bytes``, as it is stored and as float64.
    """
    if path.is_dir() or not path.exists():
        wrong = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {wrong}; pass a .npy or .npz file of {what}")
    max_bytes, ending = check_limit(max_bytes), path.suffix.lower()
    if ending not in (".npy", ".npz"):
        raise InputError(f"{path}: {what} are read from files that end in .npy or .npz")

    def chosen(names: list[str]) -> list[str]:
        if len(names) != 1 and name not in names:
            held = f"the arrays {', '.join(names)}" if names else "no arrays"
            raise InputError(f"{path} holds {held}; name the {what} {name!r}")
        return [name if name in names else names[0]]

    (array,) = [read_npy(path, max_bytes)] if ending == ".npy" else read_npz(path, max_bytes, chosen).values()
    if (size := 8 * array.size) > max_bytes:
        raise InputError(
            f"{path} holds {what} that take {shown_size(size)} as float64; at most {shown_size(max_bytes)} are read, "
            "pass a larger max_bytes= (--max-bytes), or use unrelu.run, which reads in parts"
        )
    return array


def read_measurement(mask: Path | None, operator: Path | None, max_bytes: int = MAX_BYTES) -> Mask | Matrix | None:
    """What ``operator=`` of :func:`unrelu.invert` takes, from a file: 0/1 masks, or a matrix, dense or SciPy sparse."""
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
    is_npz = operator.suffix.lower() == ".npz" and operator.is_file()
    # Every array is read and checked before SciPy reads it.
    if is_npz and read_npz(operator, check_limit(max_bytes), lambda names: names if "format" in names else []):
        return Matrix(_sparse(operator, max_bytes))
    return Matrix(read_observations(operator, "operators", "operator", max_bytes))


def read_noise_model(text: str | None, max_bytes: int = MAX_BYTES) -> Noise | str | None:
    """What ``noise=`` takes: a text, or from a ``.npz`` file with an array std or covariance, Gaussian noise."""
    if text is None or not text.lower().endswith(".npz"):
        return text

    def chosen(held: list[str]) -> list[str]:
        names = [name for name in held if name in ("std", "covariance")]
        if len(names) != 1:
            raise InputError(
                f"{text} holds {', '.join(held) or 'no arrays'}; name the standard deviations of the entries 'std', or "
                "their covariance 'covariance', one of them"
            )
        return names

    found = read_npz(text, check_limit(max_bytes), chosen)
    return Gaussian(found.get("std"), covariance=found.get("covariance"))


def read_bounds(text: str | None, max_bytes: int = MAX_BYTES) -> tuple[Any, Any] | None:
    """What ``bounds=`` of :func:`unrelu.invert` takes, from LOW,HIGH or a ``.npz`` file with arrays lower and upper."""
    return None if text is None else _pair(text, "bounds", ("lower", "upper"), "LOW,HIGH", "-1,1 or 0,inf", max_bytes)


def read_prior(text: str | None, max_bytes: int = MAX_BYTES) -> float | Normal | None:
    """What ``prior=`` takes: a weight from one number, a distribution from MEAN,STD or a ``.npz`` of mean and std."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return Normal(*_pair(text, "prior", ("mean", "std"), "MEAN,STD", "0,2", max_bytes))


def _pair(text: str, option: str, names: tuple[str, str], form: str, example: str, max_bytes: int) -> tuple[Any, Any]:
    """Two numbers, or two arrays of these names from a ``.npz`` file."""
    if text.lower().endswith(".npz"):

        def chosen(held: list[str]) -> list[str]:
            if not set(names) <= set(held):
                raise InputError(
                    f"{text} holds {', '.join(held) or 'no arrays'}; name the {option} {names[0]!r} and {names[1]!r}"
                )
            return list(names)

        arrays = read_npz(text, check_limit(max_bytes), chosen)
        return arrays[names[0]], arrays[names[1]]
    try:
        first, second = (float(number) for number in text.split(","))
    except ValueError:
        raise InputError(
            f"--{option} {text!r}: write {form}, numbers for all coordinates such as {example}, or name a .npz file "
            f"with arrays {names[0]} and {names[1]}"
        ) from None
    return first, second


def _sparse(path: Path, max_bytes: int) -> sparse.csr_array:
    """The matrix that ``scipy.sparse.save_npz`` wrote, with every index checked: SciPy's code does not look again."""
    try:
        made = sparse.load_npz(path)
        if len(made.shape) != 2 or min(made.shape) < 1 or 8 * sum(made.shape) > max_bytes:
            raise ValueError(f"its shape is {made.shape}")
        if made.format in ("csr", "csc", "bsr"):
            made.check_format(full_check=True)
        return sparse.csr_array(made)
    except Exception as error:  # of SciPy and NumPy: ValueError, TypeError, KeyError, IndexError, OverflowError, ...
        raise InputError(f"{path} is no sparse matrix of SciPy ({error!s:.200}); use scipy.sparse.save_npz") from error

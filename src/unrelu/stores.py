"""Observations in, results out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.errors import InputError, OutputExistsError
from unrelu.proofs import Certificate
from unrelu.result import Inversion

__all__ = ["prepare_output", "read_measurement", "read_observations", "records", "write_records", "write_result"]


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


def read_measurement(mask: Path | None, operator: Path | None) -> Any:
    """What ``operator=`` of :func:`unrelu.invert` takes, from a file: a 0/1 mask, or a matrix, dense or SciPy sparse.

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
        return array.astype(bool)
    if operator is None:
        return None
    if operator.suffix.lower() == ".npz" and operator.is_file():
        with suppress(Exception):  # a .npz file that SciPy did not save is read as one of NumPy's below
            return sparse.load_npz(operator)
    return read_observations(operator, "operators", "operator")


def prepare_output(folder: Path, overwrite: bool) -> None:
    """Make the output folder before any work starts.

    Raises:
        OutputExistsError: it exists and ``overwrite`` is not set.
        InputError: it is a file, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the results")
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} exists; choose another folder, or pass --overwrite to replace its results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error


def write_result(folder: Path, result: Inversion) -> None:
    """Write ``codes.npy``, (k,) or (B, k), ``reconstructions.npy`` and ``results.jsonl`` of a result."""
    np.save(folder / "codes.npy", result.z)
    np.save(folder / "reconstructions.npy", result.x)
    write_records(folder / "results.jsonl", records(result))


def records(result: Inversion) -> Iterator[dict[str, Any]]:
    """One dictionary an observation: what happened to it, and its residuals."""
    problem = result.problem
    columns: dict[str, Any] = {
        "status": [str(s) for s in np.atleast_1d(result.status)],
        "success": np.atleast_1d(result.success),
        "message": np.atleast_1d(result.message),
        "objective": np.atleast_1d(result.fun),
        **{f"residual_{norm}": np.atleast_1d(result.residual(norm)) for norm in ("l2", "l1", "linf")},
        "freedom": np.atleast_1d(result.freedom),
        "rank": np.atleast_1d(result.rank),
        "identifiable": np.atleast_1d(result.identifiable),
        "nit": np.atleast_1d(result.nit),
        "seconds": np.atleast_1d(result.seconds),
    }
    for i in range(problem.size):
        row = {name: _plain(values[i]) for name, values in columns.items()}
        yield {"index": i, "method": result.method, "seed": problem.seed, **row}


def write_certificates(folder: Path, certificates: Sequence[Certificate], single: bool) -> None:
    """Write ``certificate-N.json`` of each, ``certificates.jsonl`` and ``codes.npy``, (k,) if ``single`` or (B, k).

    Certificates and pictures of an earlier run in the folder are removed: they may be of other observations.
    """
    for old in (*folder.glob("certificate-*.json"), folder / "bounds.png", folder / "box.png"):
        old.unlink(missing_ok=True)
    digits = len(str(len(certificates) - 1))
    for i, certificate in enumerate(certificates):
        certificate.save(folder / f"certificate-{i:0{digits}}.json")
    codes = np.stack([certificate.z for certificate in certificates])
    np.save(folder / "codes.npy", codes[0] if single else codes)
    write_records(folder / "certificates.jsonl", _certificate_records(certificates))


def _certificate_records(certificates: Sequence[Certificate]) -> Iterator[dict[str, Any]]:
    names = ("lower", "upper", "gap", "message", "norm", "rank", "identifiable", "eps", "radius", "nodes", "seconds")
    for i, c in enumerate(certificates):
        row = {"index": i, "status": c.status.name, **{name: _plain(getattr(c, name)) for name in names}}
        box = None if c.box is None else [[_plain(float(end)) for end in ends] for ends in c.box]
        yield {**row, "box": box, "out_of_range": c.out_of_range}


def write_records(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write JSON lines; numbers that are not finite become null."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value

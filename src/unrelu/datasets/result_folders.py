"""Folders of results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.certification.certificate import Certificate
from unrelu.errors import InputError, OutputExistsError, StorageError
from unrelu.result import Inversion


def prepare_output(folder: Path, overwrite: bool) -> None:
    """Make the output folder before any work starts.

    Raises:
        OutputExistsError: it exists and ``overwrite`` is not set.
        InputError: it is a file, cannot be made, or see :func:`check_own_files`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the results")
    if folder.exists() and not overwrite:
        raise OutputExistsError(f"{folder} exists; choose another folder, or pass --overwrite to replace its results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}; name another folder") from error
    check_own_files(folder)


def check_own_files(folder: Path) -> None:
    """Refuse a folder for results in which a link would lead what is written elsewhere, or a pipe would wait for ever.

    Raises:
        InputError: it holds something that is neither a file nor a folder.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            what = "a link" if path.is_symlink() else "no file"
            raise InputError(f"{path} is {what}, and results are written there; remove it, or name another folder")


def write_result(folder: Path, result: Inversion) -> None:
    """Write ``codes.npy``, (k,) or (B, k), ``reconstructions.npy`` and ``results.jsonl`` of a result.

    Raises:
        StorageError: the disk is full, or cannot be written.
    """
    with _written(folder):
        np.save(folder / "codes.npy", result.z)
        np.save(folder / "reconstructions.npy", result.reconstruction)
        write_records(folder / "results.jsonl", records(result))


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # NumPy's own have neither a reason nor a file
        where, reason = error.filename or folder, error.strerror or str(error)
        raise StorageError(f"{where} cannot be written: {reason}; free space, or name another folder") from error


def records(result: Inversion) -> Iterator[dict[str, Any]]:
    """One dictionary an observation: what happened to it, and its residuals."""
    problem = result.problem
    columns: dict[str, Any] = {
        "status": [str(s) for s in np.atleast_1d(result.status)],
        "success": np.atleast_1d(result.success),
        "p_value": np.atleast_1d(result.p_value),
        "confidence": np.atleast_1d(result.confidence),
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

    Raises:
        StorageError: the disk is full, or cannot be written.
    """
    with _written(folder):
        _write_certificates(folder, certificates, single)


def _write_certificates(folder: Path, certificates: Sequence[Certificate], single: bool) -> None:
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

"""Certificates as JSON or npz: one flat table of names, numbers and arrays, with a digest of it all."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.proofs.branch_and_bound import Moment
from unrelu.proofs.proof import MultiplierRows, Proof
from unrelu.reading import MAX_BYTES, read_json, read_npz

if TYPE_CHECKING:
    from unrelu.proofs.certificate import Certificate, ProofStatus

__all__ = ["digest", "read", "write"]

_FORMAT = "unrelu certificate 1"
# Moments at which a bound improved; a search of an hour has thousands.
_LONGEST_HISTORY = 10**6
_NUMBERS = ("lower", "upper", "eps", "radius", "seconds", "scale")
_PROOFS = ("proof", "box_proof")


def digest(certificate: Certificate) -> str:
    """SHA-256 of all that a certificate says, as hexadecimal digits."""
    found = hashlib.sha256()
    for name, value in sorted(_table(certificate)):
        found.update(name.encode())
        if isinstance(value, np.ndarray):
            kind = np.float64 if value.dtype.kind == "f" else np.int64
            found.update(str(value.shape).encode() + np.ascontiguousarray(value, dtype=kind).tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def _table(certificate: Certificate) -> Iterator[tuple[str, Any]]:
    """Everything under one name each: strings, numbers and arrays."""
    yield "status", certificate.status.name
    yield "norm", certificate.norm
    yield "identifiable", bool(certificate.identifiable)
    yield "rank", int(certificate.rank)
    yield "nodes", int(certificate.nodes)
    for name in _NUMBERS:
        yield name, float(getattr(certificate, name))
    yield "z", certificate.z
    if certificate.box is not None:
        yield "box", certificate.box
    if certificate.exponents:
        yield "exponents", np.array(certificate.exponents, dtype=np.int64)
    history = [[moment.seconds, moment.nodes, moment.lower, moment.upper] for moment in certificate.history]
    yield "history", np.array(history, dtype=np.float64).reshape(-1, 4)
    for name in _PROOFS:
        proof = getattr(certificate, name)
        if proof is not None:
            yield from _proof_table(name, proof)


def _proof_table(prefix: str, proof: Proof) -> Iterator[tuple[str, Any]]:
    for field in fields(proof):
        value = getattr(proof, field.name)
        if isinstance(value, MultiplierRows):
            for part in fields(value):
                yield f"{prefix}.{field.name}.{part.name}", getattr(value, part.name)
        else:
            yield f"{prefix}.{field.name}", value


def write(certificate: Certificate, path: Path) -> None:
    """Write a table with its digest.

    Raises:
        InputError: the suffix is neither .json nor .npz.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    table = {**dict(_table(certificate)), "format": _FORMAT, "digest": certificate._digest}
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in table.items()}
        np.savez_compressed(path, **arrays)
    elif path.suffix == ".json":
        path.write_text(json.dumps({name: _plain(value) for name, value in table.items()}), encoding="utf-8")
    else:
        raise InputError(f"{path}: save a certificate as .json or .npz")


def _plain(value: Any) -> Any:
    """As JSON has it; infinities and NaN as strings, as JSON has none."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(kind: type[Certificate], statuses: type[ProofStatus], path: Path, max_bytes: int = MAX_BYTES) -> Certificate:
    """Read a table back.

    Raises:
        InputError: there is no such file, or it holds no certificate, or more than ``max_bytes``.
    """
    table = _read_table(path, max_bytes)
    if str(table.get("format")) != _FORMAT:
        raise InputError(f"{path}: no certificate of this version; its format is {table.get('format')!r}")
    try:
        values: dict[str, Any] = {name: float(table[name]) for name in _NUMBERS}
        values.update({name: _proof(table, name) for name in _PROOFS})
        rows = _array(table["history"], float).reshape(-1, 4)
        if len(rows) > _LONGEST_HISTORY:
            raise ValueError(f"the history has {len(rows):,} moments")
        box = _array(table["box"], np.float64).reshape(-1, 2) if "box" in table else None
        history = tuple(Moment(float(s), _whole(n), float(a), float(b)) for s, n, a, b in rows)
        return kind(
            **values, z=_array(table["z"], np.float64), box=box,
            status=statuses[str(table["status"])], norm=str(table["norm"]), rank=_whole(table["rank"]),
            exponents=tuple(_array(table.get("exponents", []), np.int64).reshape(-1).tolist()),
            identifiable=_flag(table["identifiable"]), nodes=_whole(table["nodes"]), history=history,
            _digest=str(table["digest"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: the certificate is damaged ({type(error).__name__}: {error})") from None


def _read_table(path: Path, max_bytes: int) -> dict[str, Any]:
    if path.suffix == ".npz":
        # Those without dimensions as plain values.
        return {name: a if a.ndim else a.item() for name, a in read_npz(path, max_bytes).items()}
    table = read_json(path, max_bytes)
    if not isinstance(table, dict):
        raise InputError(f"{path}: holds no certificate")
    return table


def _proof(table: dict[str, Any], prefix: str) -> Proof | None:
    if f"{prefix}.level" not in table:
        return None
    values: dict[str, Any] = {}
    for field in fields(Proof):
        name = f"{prefix}.{field.name}"
        if name in table:
            number = field.name in ("level", "reach")
            values[field.name] = float(table[name]) if number else _array(table[name], np.int64).reshape(-1)
        else:
            values[field.name] = _rows(table, name)
    return Proof(**values)


def _rows(table: dict[str, Any], name: str) -> MultiplierRows:
    return MultiplierRows(
        _array(table[f"{name}.pointer"], np.int64).reshape(-1),
        _array(table[f"{name}.index"], np.int64).reshape(-1),
        _array(table[f"{name}.value"], np.float64).reshape(-1),
        _whole(table[f"{name}.outputs"]),
        _whole(table[f"{name}.total"]),
    )


def _whole(value: Any) -> int:
    """A whole number; int() would make one of any number, so that a changed one could pass for the right one."""
    if isinstance(value, str | bool) or int(value) != value:
        raise ValueError(f"whole number expected, found {value!r}")
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false expected, found {value!r}")
    return value


def _array(value: Any, kind: Any) -> npt.NDArray[Any]:
    """An array of numbers exactly as written."""
    found = np.asarray(value)
    if kind is np.int64 and found.size and found.dtype.kind not in "iu":
        raise ValueError(f"whole numbers expected, found {found.dtype}")
    return found.astype(kind)

"""Storage of a certificate: one flat table of names, numbers and arrays, as JSON or npz, with a digest.

Functions take a certificate as any object with its fields, so that this module does not import the class.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.certification.proof import BoundsAt, MultiplierRows, Proof, ProofStatus
from unrelu.errors import InputError
from unrelu.runtime.array_types import Array, Integers
from unrelu.runtime.file_reading import check_limit, read_json, read_npz
from unrelu.runtime.file_writing import write_npz, write_whole

_FORMAT = "unrelu certificate 1"
_ADVICE = "free space, or name another file"
# The most entries of a history; a search of an hour has thousands.
_LONGEST_HISTORY = 10**6


def _whole(value: Any) -> int:
    """A whole number. int() would truncate other numbers, so a changed number could pass as the right one."""
    if isinstance(value, str | bool) or int(value) != value:
        raise ValueError(f"whole number expected, found {value!r}")
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false expected, found {value!r}")
    return value


def _integers(value: Any) -> Integers:
    """Whole numbers exactly as written, in a flat array."""
    found = np.asarray(value).reshape(-1)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"whole numbers expected, found {found.dtype}")
    return found.astype(np.int64)


def _floats(value: Any) -> Array:
    return np.asarray(value).astype(np.float64)


# The plain entries, with functions to write and read them. JSON has no infinities and NaN, so these are strings there.
_PLAIN: dict[str, tuple[Any, Any]] = {
    "norm": (str, str), "identifiable": (bool, _flag), "rank": (int, _whole), "nodes": (int, _whole),
    **dict.fromkeys(("lower", "upper", "eps", "radius", "seconds", "scale"), (float, float)),
}  # fmt: skip
# Functions to read the entries of a proof, by their annotated types.
_READ: dict[Any, Any] = {"float": float, "int": _whole, "Integers": _integers, "Array": _floats}


def digest(certificate: Any) -> str:
    """SHA-256 of the contents of a certificate, as hexadecimal digits."""
    found = hashlib.sha256()
    for name, value in sorted(_table(certificate).items()):
        found.update(name.encode())
        if isinstance(value, np.ndarray):
            kind = np.float64 if value.dtype.kind == "f" else np.int64
            found.update(str(value.shape).encode() + np.ascontiguousarray(value, dtype=kind).tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def write_certificate(path: Path, certificate: Any, known_digest: str) -> None:
    """Write a .json or .npz file with exact numbers. Raises the errors of :meth:`~unrelu.Certificate.save`."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    table = _table(certificate) | {"format": _FORMAT, "digest": known_digest}
    if path.suffix == ".npz":
        write_npz(path, {name: np.asarray(value) for name, value in table.items()}, _ADVICE)
    elif path.suffix == ".json":
        write_whole(path, [json.dumps({name: _plain(value) for name, value in table.items()})], _ADVICE)
    else:
        raise InputError(f"{path}: save a certificate as .json or .npz")


def read_certificate(path: Path, max_bytes: int) -> dict[str, Any]:
    """The fields of the certificate in a file. Raises the errors of :meth:`~unrelu.Certificate.load`."""
    check_limit(max_bytes)
    if path.suffix == ".npz":
        # Arrays without dimensions become plain values.
        table = {name: a if a.ndim else a.item() for name, a in read_npz(path, max_bytes).items()}
    else:
        table = read_json(path, max_bytes)
    if not isinstance(table, dict):
        raise InputError(f"{path}: holds no certificate")
    if str(table.get("format")) != _FORMAT:
        raise InputError(f"{path}: no certificate of this version; its format is {table.get('format')!r}")
    try:
        return _fields(table)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: the certificate is damaged ({type(error).__name__}: {error})") from None


def _table(certificate: Any) -> dict[str, Any]:
    """A table of all strings, numbers and arrays, each under its own name."""
    table = {name: write(getattr(certificate, name)) for name, (write, _) in _PLAIN.items()}
    table |= {"status": certificate.status.name, "z": certificate.z}
    table |= {name: a for name in ("box", "bounds") if (a := getattr(certificate, name)) is not None}
    if certificate.exponents:
        table["exponents"] = np.array(certificate.exponents, dtype=np.int64)
    history = [[moment.seconds, moment.nodes, moment.lower, moment.upper] for moment in certificate.history]
    table["history"] = np.array(history, dtype=np.float64).reshape(-1, 4)
    for name in ("proof", "box_proof"):
        table |= _flat(getattr(certificate, name), name)
    return table


def _flat(value: Any, name: str) -> dict[str, Any]:
    """The parts of a proof, or of multiplier rows in it, by name; empty for None."""
    if not isinstance(value, Proof | MultiplierRows):
        return {} if value is None else {name: value}
    parts = [_flat(getattr(value, entry.name), f"{name}.{entry.name}") for entry in fields(value)]
    return {key: part for found in parts for key, part in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _fields(table: dict[str, Any]) -> dict[str, Any]:
    """The fields of a certificate from its table."""
    values: dict[str, Any] = {name: read(table[name]) for name, (_, read) in _PLAIN.items()}
    moments = _floats(table["history"]).reshape(-1, 4)
    if len(moments) > _LONGEST_HISTORY:
        raise ValueError(f"the history has {len(moments):,} moments")
    return values | {
        "z": _floats(table["z"]), "status": ProofStatus[str(table["status"])],
        **{name: _floats(table[name]) if name in table else None for name in ("box", "bounds")},
        **{name: _part(Proof, table, name) if f"{name}.level" in table else None for name in ("proof", "box_proof")},
        "exponents": tuple(_integers(table.get("exponents", [])).tolist()),
        "history": tuple(BoundsAt(float(s), _whole(n), float(a), float(b)) for s, n, a, b in moments),
        "_digest": str(table["digest"]),
    }  # fmt: skip


def _part(kind: Any, table: dict[str, Any], name: str) -> Any:
    """A proof, or multiplier rows in it, from its parts."""
    values = {}
    for entry in fields(kind):
        key, rows = f"{name}.{entry.name}", entry.type == "MultiplierRows"
        values[entry.name] = _part(MultiplierRows, table, key) if rows else _READ[entry.type](table[key])
    return kind(**values)

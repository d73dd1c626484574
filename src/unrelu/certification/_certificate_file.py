"""Storage of a certificate: a table of numbers and arrays by name, in a file of arrays with a digest.

Functions take a certificate as any object with its fields, so that this module does not import the class.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from unrelu.certification.proof import BoundsAt, Proof, ProofStatus
from unrelu.result.array_file import Table, array_of, number_of, text_of

# The most entries of a history; a search of an hour has thousands.
_LONGEST_HISTORY = 10**6
# Numbers and their types; those of a proof by their annotations.
_NUMBERS: dict[str, Any] = {
    **dict.fromkeys(("lower", "upper", "eps", "radius", "seconds", "scale"), np.float64),
    **dict.fromkeys(("rank", "nodes"), np.int64), "identifiable": np.bool_,
}  # fmt: skip
_TYPES: dict[Any, Any] = {"float": np.float64, "Array": np.float64, "int": np.int64, "Integers": np.int64}


def table_of(certificate: Any) -> dict[str, Any]:
    """A table of all texts, numbers and arrays of a certificate, each under its own name."""
    table = {name: kind(getattr(certificate, name)) for name, kind in _NUMBERS.items()}
    table |= {"norm": certificate.norm, "status": certificate.status.name, "z": certificate.z}
    table |= {name: a for name in ("box", "bounds") if (a := getattr(certificate, name)) is not None}
    table["exponents"] = np.array(certificate.exponents, dtype=np.int64)
    table["history"] = np.array(certificate.history, dtype=np.float64).reshape(-1, 4)
    for name in ("proof", "box_proof"):
        if (proof := getattr(certificate, name)) is not None:
            table |= {f"{name}.{entry.name}": getattr(proof, entry.name) for entry in fields(Proof)}
    return table


def fields_of(table: Table) -> dict[str, Any]:
    """The fields of a certificate from its table; raises KeyError, TypeError or ValueError."""
    moments = array_of(table["history"], np.float64).reshape(-1, 4)
    if len(moments) > _LONGEST_HISTORY:
        raise ValueError(f"the history has {len(moments):,} moments")
    return {
        **{name: number_of(table[name], kind) for name, kind in _NUMBERS.items()},
        "norm": text_of(table["norm"]), "status": ProofStatus[text_of(table["status"])],
        "z": array_of(table["z"], np.float64),
        **{name: array_of(table[name], np.float64) if name in table else None for name in ("box", "bounds")},
        **{name: _proof(table, name) if f"{name}.level" in table else None for name in ("proof", "box_proof")},
        "exponents": tuple(array_of(table["exponents"], np.int64).reshape(-1).tolist()),
        "history": tuple(BoundsAt(float(s), int(n), float(a), float(b)) for s, n, a, b in moments),
    }  # fmt: skip


def _proof(table: Table, name: str) -> Proof:
    """A proof from its numbers and flat arrays."""
    values: dict[str, Any] = {}
    for entry in fields(Proof):
        array, kind = table[f"{name}.{entry.name}"], _TYPES[entry.type]
        number = entry.type in ("float", "int")
        values[entry.name] = number_of(array, kind) if number else array_of(array, kind).reshape(-1)
    return Proof(**values)

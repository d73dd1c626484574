"""What ``--json`` says of a command's outcome; docs/command_line.md lists the keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unrelu._inspect import Inspection
from unrelu.certification.certificate import Certificate
from unrelu.datasets.result_folders import certificate_records, records
from unrelu.models.generator import Generator
from unrelu.result import Inversion


def failures(result: Inversion) -> int:
    """How many observations have no code."""
    return int(np.sum(~np.isfinite(np.atleast_2d(result.z)).all(axis=1)))


def invert_document(result: Inversion, output: Path, names: Sequence[str] | None, interrupted: bool) -> dict[str, Any]:
    """Of ``unrelu invert``: counts, and a record an observation with its code."""
    rows = [{**row, "z": z} for row, z in zip(records(result, names), np.atleast_2d(result.z).tolist(), strict=True)]
    return {
        "output": str(output), "method": result.method, "size": len(rows),
        "success": sum(bool(row["success"]) for row in rows), "failed": failures(result),
        "counts": dict(sorted(Counter(row["status"] for row in rows).items())), "interrupted": interrupted,
        "seconds": result.problem.control.elapsed(), "observations": rows,
    }  # fmt: skip


def certify_document(certificates: Sequence[Certificate], output: Path, interrupted: bool) -> dict[str, Any]:
    """Of ``unrelu certify``: counts, and a record an observation with its best code."""
    rows = [{**row, "z": c.z} for row, c in zip(certificate_records(certificates), certificates, strict=True)]
    counts = Counter(row["status"] for row in rows)
    return {
        "output": str(output), "size": len(rows), "counts": dict(sorted(counts.items())), "interrupted": interrupted,
        "observations": rows,
    }  # fmt: skip


def inspect_document(model: str, network: Generator, seen: Inspection) -> dict[str, Any]:
    """Of ``unrelu inspect``: the layers, and what to expect."""
    return {
        "model": model, "latent_shape": network.latent_shape, "output_shape": network.output_shape, **asdict(seen),
        "verdict": seen.verdict, "recommended": seen.recommended, "provable": seen.provable,
    }  # fmt: skip

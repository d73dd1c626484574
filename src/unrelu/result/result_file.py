"""Results as files: codes, observations and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.errors import InputError
from unrelu.models.affine import Shape
from unrelu.models.generator import Generator
from unrelu.result._residual_tests import TESTS
from unrelu.result.saved_problem import NORMS, one_of, problem_arrays, read_problem, sizes_in
from unrelu.result.status import ending_of
from unrelu.runtime.archives import Table, array_of, number_of, read_archive, text_of, texts_of, write_archive
from unrelu.runtime.words import is_name

# Columns of numbers, (B,) or (B, ...), and their types; statuses and messages are text.
_KINDS = {
    "z": np.float64, "reconstruction": np.float64, "fun": np.float64, "success": np.bool_, "p_value": np.float64,
    "confidence": np.float64, "nit": np.int64, "seconds": np.float64, "freedom": np.int64, "rank": np.int64,
    "identifiable": np.bool_, "used": np.float64, **dict.fromkeys(TESTS, np.float64),
}  # fmt: skip
_ENDINGS = ("verdict", "ended")


def write_result_file(path: Path, result: Mapping[str, Any]) -> None:
    """Write the attributes of an ``Inversion`` of a batch; the file appears complete or not at all.

    Raises:
        InputError: the suffix is not .npz, the folder does not exist, or the method's name cannot be printed.
        StorageError: the disk is full or cannot be written to.
    """
    if not is_name(method := result["method"]):
        raise InputError(f"method={method!r:.100} is no name; pass Inversion.of a short one, of printable characters")
    columns: Table = {name: np.asarray(result[name], kind) for name, kind in _KINDS.items()}
    columns["z"] = columns["z"].reshape(-1, *result["problem"].network.latent_shape)
    table = {
        **{name: result[name] for name in ("method", "norm", "pool")},
        "options": json.dumps(dict(result["options"]), default=str),
        **problem_arrays(result["problem"], result["reconstruction"]), **columns,
        **{name: np.array([status.name for status in result[name]], dtype=np.str_) for name in _ENDINGS},
        "message": np.array([str(message) for message in result["message"]], dtype=np.str_),
    }  # fmt: skip
    write_archive(path, "result", table)


def read_result_file(path: Path, max_bytes: int, network: Generator | None, operator: Any) -> dict[str, Any]:
    """Read the attributes of an ``Inversion`` from a file; check them for damage and against the network.

    Raises:
        InputError: see :func:`unrelu.load_result`.
    """
    return read_archive(path, "result", max_bytes, lambda table: _result(table, network, operator))


def _result(table: Table, network: Generator | None, operator: Any) -> dict[str, Any]:
    result: dict[str, Any] = {name: array_of(table[name], kind) for name, kind in _KINDS.items()}
    for name in _ENDINGS:
        result[name] = np.array([ending_of(text) for text in texts_of(table[name])], dtype=object)
    result["message"] = np.array(texts_of(table["message"]), dtype=object)
    _check_columns(result, *sizes_in(table))
    result["problem"] = read_problem(table, result["reconstruction"], network, operator, "result")
    result["z"] = result["z"].reshape(-1, result["problem"].network.latent_dim)
    result["options"], result["method"] = json.loads(text_of(table["options"])), str(table["method"])
    if not isinstance(result["options"], dict):
        raise TypeError("options are no dictionary")
    if not is_name(result["method"]):
        raise ValueError(f"a method is {result['method'][:20]!r}")
    return result | {"norm": one_of(NORMS, text_of(table["norm"])), "pool": bool(number_of(table["pool"], np.bool_))}


def _check_columns(columns: Mapping[str, Any], size: int, latent: Shape, output: Shape) -> None:
    """Refuse columns with wrong shapes or impossible numbers."""
    z, k = columns["z"], math.prod(latent)
    if z.shape != (size, *latent) or columns["reconstruction"].shape != (size, *output):
        raise ValueError(f"z has shape {z.shape}, y has {size} observations of codes {latent}")
    for name in {*_KINDS, *_ENDINGS, "message"} - {"z", "reconstruction"}:
        if columns[name].shape != (size,):
            raise ValueError(f"{name} has shape {columns[name].shape}, y has {size} observations")
    ranges = {
        "p_value": (0, 1), "confidence": (0, 1), "nit": (0, math.inf), "seconds": (0, math.inf), "rank": (-1, k),
        "freedom": (-1, k), "used": (0, math.inf), **dict.fromkeys(TESTS, (0, 1)),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        bad = (columns[name] < low) | (columns[name] > high)
        if name == "seconds":
            bad = bad | ~np.isfinite(columns[name])
        if bad.any():
            raise ValueError(f"{name} is {columns[name][bad][0]}, which is not from {low} to {high}")

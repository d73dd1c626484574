"""Results as files: codes, observations and the verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.errors import InputError
from unrelu.models.generator import Generator
from unrelu.result._residual_tests import TESTS
from unrelu.result.saved_problem import Columns, columns_in, norm_of, problem_arrays, read_problem, sizes_in
from unrelu.result.status import ending_of
from unrelu.runtime.archives import Table, number_of, read_archive, text_of, texts_of, write_archive
from unrelu.runtime.words import is_name

# Columns of numbers, (B,) or (B, ...): their types, their least and their largest numbers, NaN for any.
_PROBABILITY, _COUNT, _ANY = (np.float64, 0, 1), (np.int64, -1, math.inf), (np.float64, math.nan, math.nan)
_COLUMNS: Columns = {
    **dict.fromkeys(("z", "reconstruction", "fun"), _ANY),
    **dict.fromkeys(("success", "identifiable"), (np.bool_, 0, 1)),
    **dict.fromkeys(("p_value", *TESTS, "confidence"), _PROBABILITY),
    **dict.fromkeys(("seconds", "used"), (np.float64, 0, math.inf)),
    "nit": (np.int64, 0, math.inf), "freedom": _COUNT, "rank": _COUNT,
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
    columns: Table = {name: np.asarray(result[name], kind) for name, (kind, *_) in _COLUMNS.items()}
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
    size, latent, output = sizes_in(table)
    result = columns_in(table, _COLUMNS, {"z": (size, *latent), "reconstruction": (size, *output)}, size)
    for name in (*_ENDINGS, "message"):
        texts = [ending_of(text) if name in _ENDINGS else text for text in texts_of(table[name])]
        result[name] = np.array(texts, dtype=object)
        if len(texts) != size:
            raise ValueError(f"{name} has {len(texts)} entries, y has {size} observations")
    result["problem"] = read_problem(table, result["reconstruction"], network, operator, "result")
    result["z"] = result["z"].reshape(size, math.prod(latent))
    result["options"], result["method"] = json.loads(text_of(table["options"])), str(table["method"])
    if not isinstance(result["options"], dict):
        raise TypeError("options are no dictionary")
    if not is_name(result["method"]):
        raise ValueError(f"a method is {result['method'][:20]!r}")
    return result | {"norm": norm_of(text_of(table["norm"])), "pool": bool(number_of(table["pool"], np.bool_))}

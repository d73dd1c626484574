"""Results as files: codes, the verdict, and the problem. Files of posteriors contain the problem in the same form.

A file contains no network. A measurement given as code is replaced by its values A G(z) at some codes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import InputError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.noise import Noise
from unrelu.measurements.objectives import DEGREES, Huber
from unrelu.measurements.operator_arguments import restored
from unrelu.measurements.working_units import searched
from unrelu.models.generator import Generator, as_generator
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names
from unrelu.problem import Problem
from unrelu.result._judged_codes import COLUMNS, JudgedCodes
from unrelu.result.fingerprint import fingerprint
from unrelu.result.status import Ending, ending_of
from unrelu.result.uniqueness import LocalUniqueness, Uniqueness
from unrelu.runtime import archives
from unrelu.runtime.archives import Columns, Table, array_of, columns_of, number_of, shape_of, text_of, texts_of
from unrelu.runtime.array_types import Array, Shape
from unrelu.runtime.streams import stream
from unrelu.runtime.words import is_name

# The columns of the verdict that are numbers, and those that are texts, or endings by their names.
_NUMBERS: Columns = {name: each[:3] for name, each in COLUMNS.items() if issubclass(each.kind, np.generic)}
_TEXTS = {name: each.kind is Ending for name, each in COLUMNS.items() if each.kind in (str, Ending)}
# Optional arrays with numbers for each coordinate.
_BY_COORDINATE = ("network.nuisance", "bounds", "problem.normal")
# The kind of a measurement given as code. Files do not contain the code.
_CODE = "code"


class AbsentGenerator(Generator):
    """A stand-in for the network of a result or posterior that was loaded without it. It cannot be evaluated.

    Attributes:
        known_fingerprint: the fingerprint of the network.
        what: what was loaded, "result" or "posterior".
    """

    def __init__(
        self, latent_shape: Shape, output_shape: Shape, dtype: torch.dtype, known_fingerprint: str, what: str
    ) -> None:
        self.latent_shape, self.output_shape, self.dtype = latent_shape, output_shape, dtype
        self.known_fingerprint, self.what = known_fingerprint, what
        self.width, self.device = math.prod(output_shape), torch.device("cpu")

    def _missing(self, *arguments: Any, **named: Any) -> NoReturn:
        raise InputError(
            f"the {self.what} was loaded without its network, which this needs: unrelu.load_{self.what}(path, network)"
        )

    __call__ = outputs = forward = linearize = to = _missing


def problem_arrays(problem: Problem) -> dict[str, Any]:
    """Collect the arrays, texts and numbers of a problem, by name."""
    single, problem = problem.single, problem.stated
    network, operator = problem.network, problem.operator
    kept = operator.saved()
    code, arrays = kept is None, {"measured": _measured(operator, len(problem.y))} if kept is None else kept
    table: dict[str, Any] = {
        "problem.norm": str(problem.stated_loss or problem.norm),
        "problem.prior": problem.prior, "problem.seed": problem.seed, "problem.single": single,
        "network": getattr(network, "known_fingerprint", None) or fingerprint(network),
        "network.latent_shape": np.array(network.latent_shape, np.int64),
        "network.output_shape": np.array(network.output_shape, np.int64),
        "network.dtype": str(network.dtype).removeprefix("torch."),
        "y": problem.y,
        **noise_arrays(problem.noise),
        "operator": _CODE if code else operator.kind, "operator.shape": np.array(operator.shape, np.int64),
        **{f"operator.{name}": array for name, array in arrays.items()},
    }  # fmt: skip
    names, normal, bounds = problem.names, problem.normal, problem.bounds
    optional = {
        "network.names": np.array(names.coordinate_names, dtype=np.str_) if names.coordinate_names else None,
        "network.nuisance": names.nuisance_table,
        "problem.normal": normal and np.stack([normal.mean, normal.std]),
        "bounds": None if bounds.none else np.stack([bounds.lower, bounds.upper]),
    }
    return table | {name: array for name, array in optional.items() if array is not None}


def _measured(operator: Operator, size: int) -> Array:
    """Measure fixed outputs by an operator that is code, (B, m); the values identify the operator."""
    return operator.values(stream("fixed outputs").random((size, operator.n)))


def noise_arrays(noise: Noise) -> dict[str, Any]:
    """Collect the arrays, texts and numbers of a noise model, by name."""
    text, kept = noise.saved()
    return {"noise": text, **{f"noise.{name}": value for name, value in kept.items()}}


def read_noise(table: Table) -> Noise:
    """Read the noise model from a table.

    Raises:
        InputError: the values define no model.
    """

    def value_of(array: npt.NDArray[Any]) -> Any:
        if array.dtype.kind == "U":
            return tuple(texts_of(array)) if array.ndim else text_of(array)
        return array if array.ndim else array.item()

    kept = {name.removeprefix("noise."): value_of(each) for name, each in table.items() if name.startswith("noise.")}
    return Noise.restored(text_of(table["noise"]), kept)


def sizes_in(table: Table) -> tuple[int, Shape, Shape]:
    """Read the number of observations and the shapes of codes and outputs; check arrays against these first."""
    latent, output = (shape_of(table[f"network.{name}_shape"]) for name in ("latent", "output"))
    y = array_of(table["y"], np.float64)
    if y.ndim != 2 or not np.isfinite(y).all() or (number_of(table["problem.single"], np.bool_) and len(y) != 1):
        raise ValueError(f"y has shape {y.shape}, or entries that are not finite")
    return len(y), latent, output


def texts_in(table: Table, name: str, size: int) -> list[str]:
    """Read a text for each observation."""
    texts = texts_of(table[name])
    if len(texts) != size:
        raise ValueError(f"{name} has {len(texts)} entries, y has {size} observations")
    return texts


def read_problem(table: Table, network: Generator | None, operator: Any, what: str) -> Problem:
    """Read the problem from a table.

    Args:
        table: the contents of a file, already checked by :func:`sizes_in`.
        network: G, whose fingerprint is checked; None for a stand-in.
        operator: A, if it is code.
        what: what is loaded, "result" or "posterior".

    Raises:
        InputError: the network or operator is another one; the file contains the operator; or none is passed.
        ValueError: the arrays do not fit together.
    """
    size, latent, output = sizes_in(table)
    k, y, known = math.prod(latent), array_of(table["y"], np.float64), text_of(table["network"])
    rows = {name: array_of(table[name], np.float64).reshape(-1, k) for name in _BY_COORDINATE if name in table}
    if network is None:
        dtype = {"float64": torch.float64, "float32": torch.float32}[text_of(table["network.dtype"])]
        network = AbsentGenerator(latent, output, dtype, known, what)
        names = Names(latent, output, nuisance_table=rows.get("network.nuisance"))
        names = names.named(texts_of(table["network.names"])) if "network.names" in table else names
    elif (found := fingerprint(as_generator(network))) != known:
        raise InputError(
            f"the {what} was found on another network: the fingerprint of its network is {known[:12]}..., that of this "
            f"one ({network.latent_dim} -> {network.output_dim}) {found[:12]}..."
        )
    else:
        names, network = network.names, network.plain
    box = Bounds.parse(tuple(rows["bounds"]) if "bounds" in rows else None, (k,), names)
    measured = _operator(table, y, searched(network, box), operator, what)
    if measured.n != math.prod(output) or measured.seen(size).shape != y.shape or measured.count not in (0, size):
        raise ValueError(f"y has shape {y.shape}, the operator gives {measured.m} numbers")
    y.setflags(write=False)
    norm = text_of(table["problem.norm"])
    loss = Huber.parse(norm, math.nan) if norm.startswith(Huber.name) else None
    problem = Problem(
        network, y, read_noise(table), norm_of(loss.name if loss else norm), measured,
        float(number_of(table["problem.prior"], np.float64)), bool(number_of(table["problem.single"], np.bool_)), None,
        int(number_of(table["problem.seed"], np.int64)), stated_loss=loss, bounds=box, names=names,
    ).whitened()  # fmt: skip
    return problem.whitened(Normal(*rows["problem.normal"])) if "problem.normal" in rows else problem


def _operator(table: Table, y: Array, network: Generator, given: Any, what: str) -> Operator:
    shape, kind = shape_of(table["operator.shape"]), text_of(table["operator"])
    if given is not None and kind != _CODE:
        raise InputError(f"operator= is in the file ({kind}); leave it out")
    if kind != _CODE:
        return restored(kind, shape, lambda name, dtype: array_of(table[f"operator.{name}"], dtype))
    if given is None:
        raise InputError(
            f"the {what} was measured by an operator that is code, which no file holds: "
            f"unrelu.load_{what}(path, network, operator=...)"
        )
    found = read_operator(given, network.output_shape, (len(y), *shape), network)
    kept = array_of(table["operator.measured"], np.float64)
    off = np.abs(_measured(found, len(y)) - kept)
    if not (np.nan_to_num(off) <= 1e-9 * np.nanmax(np.abs(kept), initial=0.0)).all():
        raise InputError(f"operator= is not the one that the {what} was measured with: its values differ")
    return found


def norm_of(text: str) -> str:
    """Return the norm with this name."""
    if text not in DEGREES:
        raise ValueError(f"a norm is {text[:20]!r}")
    return text


# --- results ----------------------------------------------------------------------------------------------------------


def write_result_file(path: Path, batch: JudgedCodes, options: Mapping[str, Any]) -> None:
    """Write a result; the file appears complete or not at all.

    Raises:
        InputError: the suffix is not .npz, the folder does not exist, or the method's name cannot be printed.
        StorageError: the disk is full or cannot be written to.
    """
    if not is_name(batch.method):
        raise InputError(
            f"method={batch.method!r:.100} is no name; pass Inversion.of a short one, of printable characters"
        )
    network, table = batch.problem.network, dict[str, Any]()
    table |= {name: np.asarray(getattr(batch, name), kind) for name, (kind, *_) in _NUMBERS.items()}
    for name, named in _TEXTS.items():
        table[name] = np.array([each.name if named else each for each in getattr(batch, name)], dtype=np.str_)
    archives.write_archive(path, "result", {
        "method": batch.method, "norm": batch.norm, "pool": batch.pool,
        "options": json.dumps(dict(options), default=str),
        **problem_arrays(batch.problem), **table, "z": network.shaped(batch.z),
        "restarts": np.concatenate([np.empty((0, network.latent_dim)), *batch.restarts]),
        "restarts.count": np.array([*map(len, batch.restarts)], np.int64),
    })  # fmt: skip


def read_result_file(
    path: str | Path, network: Generator | None, operator: Any
) -> tuple[JudgedCodes, Mapping[str, Any]]:
    """Read a result and the options of its method from a file; check them for damage and against the network.

    Raises:
        InputError: see :func:`unrelu.load_result`.
    """
    return archives.read_archive(path, "result", lambda table: _result(table, network, operator))


def _result(table: Table, network: Generator | None, operator: Any) -> tuple[JudgedCodes, Mapping[str, Any]]:
    size, latent, output = sizes_in(table)
    stated, shapes = {**_NUMBERS, "restarts.count": COLUMNS["nit"][:3]}, {"z": latent, "reconstruction": output}
    found: dict[str, Any] = columns_of(table, stated, size, {name: (size, *shape) for name, shape in shapes.items()})
    for name, named in _TEXTS.items():
        found[name] = np.array([ending_of(t) if named else t for t in texts_in(table, name, size)], dtype=object)
    problem, k = read_problem(table, network, operator, "result"), math.prod(latent)
    found["z"] = found["z"].reshape(size, k)
    ends = np.cumsum(found.pop("restarts.count"))
    codes = columns_of(table, {"restarts": COLUMNS["z"][:3]}, size, {"restarts": (sum(ends[-1:]), k)})["restarts"]
    found["restarts"] = np.fromiter(np.split(codes, ends), object, size)
    local = found.pop("rank"), found["freedom"], found.pop("identifiable")
    found["uniqueness"] = Uniqueness(partial(LocalUniqueness, *local))
    norm, pool = norm_of(text_of(table["norm"])), bool(number_of(table["pool"], np.bool_))
    batch = JudgedCodes(problem, text_of(table["method"]), norm, pool, **found)
    return batch, dict(json.loads(text_of(table["options"])))

"""A result as a ``.npz`` file: the codes, what was observed, the verdict, and a digest of it all. Nothing is pickled.

The network is not part of it, only its fingerprint; nor is a measurement given as code, of which the values A G(z) at
the codes are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu._version import __version__
from unrelu.errors import InputError
from unrelu.measurements import IdentityOperator, MaskOperator, MatrixOperator, Operator, SparseOperator, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.noise import Noise
from unrelu.models.affine import Shape
from unrelu.models.generator import Generator
from unrelu.problem import Control, Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.result.status import Status
from unrelu.runtime.file_reading import read_npz
from unrelu.runtime.file_writing import write_npz

Array = npt.NDArray[np.float64]
Table = dict[str, npt.NDArray[Any]]

_FORMAT = "unrelu result 1"
_ADVICE = "free space, or name another file"
# Columns of numbers, (B,), and their kinds; statuses and messages are text.
_KINDS = {
    "fun": np.float64, "success": np.bool_, "p_value": np.float64, "confidence": np.float64, "nit": np.int64,
    "seconds": np.float64, "freedom": np.int64, "rank": np.int64, "identifiable": np.bool_,
}  # fmt: skip
_NORMS = ("l2", "l1", "linf")
_LONGEST_NAME = 80
# The operators that a file holds, by kind, and what it says of a measurement given as code.
_STORED = {kind.kind: kind for kind in (IdentityOperator, MaskOperator, MatrixOperator, SparseOperator)}
_CODE = "code"


class AbsentGenerator(Generator):
    """Stands for the network of a result that was loaded without it: it has shapes, and no values.

    Attributes:
        known_fingerprint: that of the network.
    """

    def __init__(self, latent_shape: Shape, output_shape: Shape, dtype: torch.dtype, known_fingerprint: str) -> None:
        self.latent_shape, self.output_shape, self.dtype = latent_shape, output_shape, dtype
        self.known_fingerprint = known_fingerprint
        self.width, self.device = math.prod(output_shape), torch.device("cpu")

    def _missing(self) -> NoReturn:
        raise InputError(
            "the result was loaded without its network, which this needs: unrelu.load_result(path, network)"
        )

    def __call__(self, z: npt.ArrayLike) -> Array:
        """There are no values."""
        self._missing()

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """Itself: nothing is evaluated."""
        return self

    def forward(self, z: Tensor) -> Tensor:
        """There are no values."""
        self._missing()

    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """There are no values."""
        self._missing()


@dataclass(frozen=True, eq=False)
class AbsentOperator(Operator):
    """Stands for a measurement that no file can hold, since it is code: its values at the codes of a result.

    Attributes:
        outputs: G(z), (B, n).
        measured: A G(z), (B, m).
        shape: shape of one observation.
    """

    outputs: Array
    measured: Array
    shape: Shape

    linear = False
    present = False

    @property
    def n(self) -> int:  # type: ignore[override] # read-only, as the fields of a frozen dataclass are
        """Entries of an output."""
        return int(self.outputs.shape[1])

    @property
    def m(self) -> int:  # type: ignore[override]
        """Entries of an observation."""
        return int(self.measured.shape[1])

    @property
    def count(self) -> int:
        """B."""
        return len(self.outputs)

    def take(self, rows: npt.NDArray[np.intp] | Tensor) -> AbsentOperator:
        """That of some of the observations."""
        return replace(self, outputs=self.outputs[rows], measured=self.measured[rows])

    def forward(self, x: Tensor) -> Tensor:
        """A x, of the outputs that the result has."""
        if not np.array_equal(x.numpy(), self.outputs, equal_nan=True):
            self._missing()
        return torch.from_numpy(self.measured)

    def adjoint(self, r: Tensor) -> Tensor:
        """There is none."""
        self._missing()

    def _missing(self) -> NoReturn:
        raise InputError(
            "the result was measured by an operator that is code, which no file holds: "
            "unrelu.load_result(path, network, operator=...)"
        )


@dataclass(frozen=True, eq=False)
class Held:
    """What a file holds: the columns of the result, (B, ...) each, and its problem."""

    columns: dict[str, Any]
    problem: Problem
    method: str
    norm: str
    pool: bool
    options: dict[str, Any]
    version: str


def is_name(method: str) -> bool:
    """Whether a method can be called so: by one to 80 characters of one line, none of them at an end a space."""
    return 0 < len(method) <= _LONGEST_NAME and method.isprintable() and method == method.strip()


def write_result_file(path: Path, held: Held) -> None:
    """Write a result as a whole, or not at all.

    Raises:
        InputError: another suffix than .npz, no such folder, or a method without a name that can be printed.
        StorageError: the disk is full, or not ours to write to.
    """
    if path.suffix != ".npz":
        raise InputError(f"{path}: save a result as .npz, e.g. {path.with_suffix('.npz')}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if not is_name(held.method):
        raise InputError(
            f"method={held.method!r:.100} is no name; pass Inversion.of a short one, of printable characters"
        )
    table = {name: np.asarray(value) for name, value in _table(held).items()}
    write_npz(path, {**table, "digest": np.array(_digest(table))}, _ADVICE)


def _table(held: Held) -> dict[str, Any]:
    """All that is written, under one name each."""
    problem, columns = held.problem.given or held.problem, held.columns
    network = problem.network
    table: dict[str, Any] = {
        "format": _FORMAT, "version": held.version, "method": held.method, "norm": held.norm, "pool": held.pool,
        "options": json.dumps(dict(held.options), default=str), "problem.norm": problem.norm,
        "problem.prior": problem.prior, "problem.seed": problem.seed, "problem.single": held.problem.single,
        "network": _fingerprint_of(network), "network.latent_shape": np.array(network.latent_shape, np.int64),
        "network.output_shape": np.array(network.output_shape, np.int64),
        "network.dtype": str(network.dtype).removeprefix("torch."),
        "y": problem.y, "z": columns["z"], "reconstruction": columns["reconstruction"],
        **{name: np.asarray(columns[name], kind) for name, kind in _KINDS.items()},
        "status": np.array([status.name for status in columns["status"]], dtype=np.str_),
        "ended": np.array([status.name for status in columns["ended"]], dtype=np.str_),
        "message": np.array([str(message) for message in columns["message"]], dtype=np.str_),
        **_noise_table(problem.noise), **_operator_table(problem, columns["reconstruction"]),
    }  # fmt: skip
    if not problem.bounds.none:
        table["bounds"] = np.stack([problem.bounds.lower, problem.bounds.upper])
    return table


def _fingerprint_of(network: Generator) -> str:
    return network.known_fingerprint if isinstance(network, AbsentGenerator) else fingerprint(network)


def _noise_table(noise: Noise) -> dict[str, Any]:
    text, kept = noise.saved()
    return {"noise": text, **{f"noise.{name}": value for name, value in kept.items()}}


def _operator_table(problem: Problem, reconstruction: Array) -> dict[str, Any]:
    operator = problem.operator
    shape = {"operator.shape": np.array(operator.shape, np.int64)}
    if operator.stored is None:
        return {"operator": _CODE, "operator.measured": problem.mean_of(reconstruction), **shape}
    return {"operator": operator.kind, **{f"operator.{name}": a for name, a in operator.saved().items()}, **shape}


def _digest(table: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of all arrays with their names, as hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(table.keys() - {"digest"}):
        array = table[name]
        # Text is as long as its longest entry, which NumPy forgets of single ones.
        content = "\0".join(array.ravel().tolist()).encode() if array.dtype.kind == "U" else array.tobytes()
        kind = "text" if array.dtype.kind == "U" else array.dtype.str
        found.update(f"{name} {kind} {array.shape} {len(content)} ".encode() + content)
    return found.hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_result_file(path: Path, max_bytes: int, network: Generator | None, operator: Any) -> Held:
    """What :func:`write_result_file` wrote, checked for damage and against the network.

    Raises:
        InputError: see :func:`unrelu.load_result`.
    """
    table = read_npz(path, max_bytes, choose=lambda names: _of_a_result(path, names))
    _check_format(path, table)
    try:
        if _text(table["digest"]) != _digest(table):
            raise ValueError("its numbers are not those that it was written with")
        held = _held(table, network, operator)
    except InputError:
        raise
    # PyTorch's errors about shapes are RuntimeErrors, of which RecursionError is one.
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path}: the result is damaged ({error}); save it again") from None
    return held


def _of_a_result(path: Path, names: Sequence[str]) -> Sequence[str]:
    if "format" not in names:
        shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
        raise InputError(f"{path} holds no result but arrays {shown}; pass a file that r.save(path) wrote")
    return names


def _check_format(path: Path, table: Table) -> None:
    found = str(table["format"])[:80]
    if found == _FORMAT:
        return
    if found.startswith("unrelu certificate"):
        raise InputError(f"{path} holds a certificate: unrelu.Certificate.load(path)")
    if found.startswith("unrelu result "):
        version = repr(str(table.get("version", "a later version"))[:20]).strip("'")
        raise InputError(
            f"{path} is of format {found!r}, written by unrelu {version}; unrelu {__version__} reads {_FORMAT!r}: "
            "install that version"
        )
    raise InputError(f"{path} holds no result; its format is {found!r}, not {_FORMAT!r}")


def _held(table: Table, network: Generator | None, operator: Any) -> Held:
    columns = _columns(table)
    problem = _problem(table, columns, network, operator)
    options = json.loads(_text(table["options"]))
    if not isinstance(options, dict):
        raise TypeError("options are no dictionary")
    norm, version, method = _one_of(_NORMS, table["norm"]), _text(table["version"]), str(table["method"])
    if not is_name(method):
        raise ValueError(f"a method is {method[:20]!r}")
    return Held(columns, problem, method, norm, bool(_one(table["pool"], np.bool_)), options, version)


def _columns(table: Table) -> dict[str, Any]:
    columns: dict[str, Any] = {name: _array(table[name], kind) for name, kind in _KINDS.items()}
    columns |= {name: _array(table[name], np.float64) for name in ("z", "reconstruction")}
    for name, source in (("status", "status"), ("ended", "ended")):
        columns[name] = np.array([Status[text] for text in _texts(table[source])], dtype=object)
    columns["message"] = np.array(_texts(table["message"]), dtype=object)
    return columns


def _check_columns(columns: Mapping[str, Any], size: int, latent: Shape, output: Shape) -> None:
    """Refuse columns of other shapes, or with numbers that these can never be."""
    z, k = columns["z"], math.prod(latent)
    if z.shape != (size, k) or columns["reconstruction"].shape != (size, *output):
        raise ValueError(f"z has shape {z.shape}, y has {size} observations of {k} latent coordinates")
    if odd := [name for name in (*_KINDS, "status", "message", "ended") if columns[name].shape != (size,)]:
        raise ValueError(f"{odd[0]} has shape {columns[odd[0]].shape}, y has {size} observations")
    ranges = {
        "p_value": (0, 1), "confidence": (0, 1), "nit": (0, math.inf), "seconds": (0, math.inf), "rank": (-1, k),
        "freedom": (-1, k),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        bad = (columns[name] < low) | (columns[name] > high)
        if name == "seconds":
            bad = bad | ~np.isfinite(columns[name])
        if bad.any():
            raise ValueError(f"{name} is {columns[name][bad][0]}, which is not from {low} to {high}")


def _problem(table: Table, columns: Mapping[str, Any], network: Generator | None, operator: Any) -> Problem:
    latent, output = (_shape(table[f"network.{name}_shape"]) for name in ("latent", "output"))
    y = _array(table["y"], np.float64)
    single = bool(_one(table["problem.single"], np.bool_))
    if y.ndim != 2 or not np.isfinite(y).all() or (single and len(y) != 1):
        raise ValueError(f"y has shape {y.shape}, or entries that are not finite")
    _check_columns(columns, len(y), latent, output)
    known = _text(table["network"])
    if network is None:
        dtype = {"float64": torch.float64, "float32": torch.float32}[_text(table["network.dtype"])]
        network = AbsentGenerator(latent, output, dtype, known)
    elif fingerprint(network) != known:
        raise InputError(
            f"the result was found on another network: the fingerprint of its network is {known[:12]}"
            f"..., that of this one ({network.latent_dim} -> {network.output_dim}) {fingerprint(network)[:12]}..."
        )
    elif (network.latent_shape, network.output_shape) != (latent, output):
        raise ValueError(f"the network's shapes are {latent} and {output}")
    measured = _operator(table, y, columns["reconstruction"], output, network, operator)
    shape = (measured.n, measured.m, math.prod(measured.shape))
    seen = measured.seen(len(y)).shape
    if shape != (math.prod(output), y.shape[1], y.shape[1]) or seen != y.shape or measured.count not in (0, len(y)):
        raise ValueError(f"y has shape {y.shape}, the operator gives {measured.m} numbers")
    y.setflags(write=False)
    prior, seed = float(_one(table["problem.prior"], np.float64)), int(_one(table["problem.seed"], np.int64))
    if not 0 <= prior < math.inf or seed < 0:
        raise ValueError(f"the prior is {prior}, the seed {seed}")
    ends = _array(table["bounds"], np.float64) if "bounds" in table else None
    problem = Problem(
        network, y, _noise(table), _one_of(_NORMS, table["problem.norm"]), measured, prior, single, None, seed,
        Control(), bounds=Bounds.parse(None if ends is None else tuple(ends), (math.prod(latent),)),
    )  # fmt: skip
    return problem.whitened() if measured.present else problem


def _noise(table: Table) -> Noise:
    kept = {name.removeprefix("noise."): array for name, array in table.items() if name.startswith("noise.")}
    return Noise.restored(_text(table["noise"]), {name: _value(array) for name, array in kept.items()})


def _value(array: npt.NDArray[Any]) -> Any:
    """A text, a number or an array of numbers."""
    if array.dtype.kind == "U":
        return _text(array)
    return array if array.ndim else array.item()


def _operator(
    table: Table, y: Array, reconstruction: Array, output: Shape, network: Generator | None, given: Any
) -> Operator:
    shape, kind = _shape(table["operator.shape"]), _text(table["operator"])
    if given is not None and kind != _CODE:
        raise InputError(f"operator= is in the file ({kind}); leave it out")
    if kind in _STORED:
        names = _STORED[kind].stored or {}
        arrays = {name: _array(table[f"operator.{name}"], dtype) for name, dtype in names.items()}
        return _STORED[kind].restored(shape, arrays)
    if kind != _CODE:
        raise ValueError(f"the operator is {kind[:20]!r}")
    outputs, measured = reconstruction.reshape(len(reconstruction), -1), _array(table["operator.measured"], np.float64)
    if measured.shape != y.shape:
        raise ValueError(f"y has shape {y.shape}, A G(z) {measured.shape}")
    if given is None:
        return AbsentOperator(outputs, measured, shape)
    found = read_operator(given, output, (len(y), *shape), network)
    off = np.abs(found.values(outputs) - measured)
    if found.m != y.shape[1] or not (np.nan_to_num(off) <= 1e-9 * np.nanmax(np.abs(measured), initial=0.0)).all():
        raise InputError("operator= is not the one that the result was measured with: its values at the codes differ")
    return found


def _shape(array: npt.NDArray[Any]) -> Shape:
    shape = tuple(int(n) for n in _array(array, np.int64).ravel())
    if any(n < 1 for n in shape) or math.prod(shape) >= 2**48:
        raise ValueError(f"a shape is {shape!r:.60}")
    return shape


def _array(array: npt.NDArray[Any], kind: Any) -> npt.NDArray[Any]:
    """An array of the kind that is written."""
    if array.dtype != np.dtype(kind):
        raise TypeError(f"entries are {array.dtype}, not {np.dtype(kind)}")
    return np.ascontiguousarray(array)


def _one(array: npt.NDArray[Any], kind: Any) -> Any:
    """A single number."""
    return _array(array.reshape(()), kind).item()


def _texts(array: npt.NDArray[Any]) -> list[str]:
    """Texts, without what would steer a terminal."""
    if array.dtype.kind != "U":
        raise TypeError(f"entries are {array.dtype}, not text")
    return ["".join(c if c.isprintable() or c == "\n" else "?" for c in text) for text in array.ravel().tolist()]


def _text(array: npt.NDArray[Any]) -> str:
    """A single text."""
    (text,) = _texts(array)
    return text.replace("\n", "?")


def _one_of(allowed: Sequence[str], value: npt.NDArray[Any]) -> str:
    if (text := _text(value)) not in allowed:
        raise ValueError(f"a norm is {text[:20]!r}")
    return text

"""Results as ``.npz`` files: codes, observations, the verdict, and a digest of everything. Nothing is pickled.

A file contains the fingerprint of the network, not the network. For a measurement given as code, it contains the values
A G(z) at the codes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu._version import __version__
from unrelu.errors import InputError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.code_prior import Normal
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.losses import Huber
from unrelu.measurements.noise import Noise
from unrelu.models.affine import Shape
from unrelu.models.generator import Generator
from unrelu.problem import DEGREES, Control, Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.result.status import Status
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.file_reading import read_npz
from unrelu.runtime.file_writing import write_npz

Table = dict[str, npt.NDArray[Any]]

_FORMAT = "unrelu result 1"
_ADVICE = "free space, or name another file"
# Columns of numbers, (B,) or (B, ...), and their types; statuses and messages are text.
_KINDS = {
    "z": np.float64, "reconstruction": np.float64, "fun": np.float64, "success": np.bool_, "p_value": np.float64,
    "confidence": np.float64, "nit": np.int64, "seconds": np.float64, "freedom": np.int64, "rank": np.int64,
    "identifiable": np.bool_,
}  # fmt: skip
_STATUSES = ("status", "ended")
_NORMS = tuple(DEGREES)
_LONGEST_NAME = 80
# The kind of a measurement given as code, which files do not contain.
_CODE = "code"


class AbsentGenerator(Generator):
    """Stands for the network of a result that was loaded without it. It has shapes, but cannot be evaluated.

    Attributes:
        known_fingerprint: the fingerprint of the network.
    """

    def __init__(self, latent_shape: Shape, output_shape: Shape, dtype: torch.dtype, known_fingerprint: str) -> None:
        self.latent_shape, self.output_shape, self.dtype = latent_shape, output_shape, dtype
        self.known_fingerprint = known_fingerprint
        self.width, self.device = math.prod(output_shape), torch.device("cpu")

    def _missing(self, *arguments: Any, **named: Any) -> NoReturn:
        raise InputError(
            "the result was loaded without its network, which this needs: unrelu.load_result(path, network)"
        )

    __call__ = outputs = forward = linearize = to = _missing


@dataclass(frozen=True, eq=False)
class AbsentOperator(Operator):
    """Stands for a measurement given as code, in a result that was loaded without it: its values at the codes.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.outputs.shape[1])
        object.__setattr__(self, "m", self.measured.shape[1])

    @property
    def count(self) -> int:
        """B, the number of observations."""
        return len(self.outputs)

    def take(self, observations: Index | Tensor) -> AbsentOperator:
        """The values of some of the observations."""
        return replace(self, outputs=self.outputs[observations], measured=self.measured[observations])

    def forward(self, x: Tensor) -> Tensor:
        """A x if x are the outputs of the result; an error for any others."""
        return torch.from_numpy(self.measured) if np.array_equal(x, self.outputs, equal_nan=True) else self.adjoint(x)

    def adjoint(self, r: Tensor) -> NoReturn:
        """Not defined."""
        raise InputError(
            "the result was measured by an operator that is code, which no file holds: "
            "unrelu.load_result(path, network, operator=...)"
        )


def is_name(method: str) -> bool:
    """Whether a method can have this name: 1 to 80 printable characters, without spaces at the ends."""
    return 0 < len(method) <= _LONGEST_NAME and method.isprintable() and method == method.strip()


def write_result_file(path: Path, result: Mapping[str, Any]) -> None:
    """Write the attributes of an ``Inversion`` of a batch; the file appears complete or not at all.

    Raises:
        InputError: the suffix is not .npz, the folder does not exist, or the method's name cannot be printed.
        StorageError: the disk is full or cannot be written to.
    """
    if path.suffix != ".npz":
        raise InputError(f"{path}: save a result as .npz, e.g. {path.with_suffix('.npz')}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if not is_name(method := result["method"]):
        raise InputError(f"method={method!r:.100} is no name; pass Inversion.of a short one, of printable characters")
    table = {name: np.asarray(value) for name, value in _table(result).items()}
    write_npz(path, {**table, "digest": np.array(_digest(table))}, _ADVICE)


def _table(result: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a file, by name."""
    problem = result["problem"].given or result["problem"]
    network, operator, (noise, kept) = problem.network, problem.operator, problem.noise.saved()
    code = operator.stored is None
    arrays = {"measured": problem.mean_of(result["reconstruction"])} if code else operator.saved()
    columns: Table = {name: np.asarray(result[name], kind) for name, kind in _KINDS.items()}
    columns["z"] = columns["z"].reshape(-1, *network.latent_shape)
    table: dict[str, Any] = {
        "format": _FORMAT, "version": __version__, **{name: result[name] for name in ("method", "norm", "pool")},
        "options": json.dumps(dict(result["options"]), default=str),
        "problem.norm": str(problem.stated_loss or problem.norm),
        "problem.prior": problem.prior, "problem.seed": problem.seed, "problem.single": result["problem"].single,
        "network": getattr(network, "known_fingerprint", None) or fingerprint(network),
        "network.latent_shape": np.array(network.latent_shape, np.int64),
        "network.output_shape": np.array(network.output_shape, np.int64),
        "network.dtype": str(network.dtype).removeprefix("torch."),
        "y": problem.y, **columns,
        **{name: np.array([status.name for status in result[name]], dtype=np.str_) for name in _STATUSES},
        "message": np.array([str(message) for message in result["message"]], dtype=np.str_),
        "noise": noise, **{f"noise.{name}": value for name, value in kept.items()},
        "operator": _CODE if code else operator.kind, "operator.shape": np.array(operator.shape, np.int64),
        **{f"operator.{name}": array for name, array in arrays.items()},
    }  # fmt: skip
    if problem.normal is not None:
        table["problem.normal"] = np.stack([problem.normal.mean, problem.normal.std])
    if not problem.bounds.none:
        table["bounds"] = np.stack([problem.bounds.lower, problem.bounds.upper])
    return table


def _digest(table: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of all arrays with their names, as hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(table.keys() - {"digest"}):
        array = table[name]
        # The dtype of text depends on its longest entry, and NumPy does not restore it for single entries.
        content = "\0".join(array.ravel().tolist()).encode() if array.dtype.kind == "U" else array.tobytes()
        kind = "text" if array.dtype.kind == "U" else array.dtype.str
        found.update(f"{name} {kind} {array.shape} {len(content)} ".encode() + content)
    return found.hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_result_file(path: Path, max_bytes: int, network: Generator | None, operator: Any) -> dict[str, Any]:
    """Read the attributes of an ``Inversion`` from a file; check them for damage and against the network.

    Raises:
        InputError: see :func:`unrelu.load_result`.
    """
    table = read_npz(path, max_bytes, choose=lambda names: _of_a_result(path, names))
    _check_format(path, table)
    try:
        if _text(table["digest"]) != _digest(table):
            raise ValueError("its numbers are not those that it was written with")
        return _result(table, network, operator)
    except InputError:
        raise
    # PyTorch raises RuntimeErrors for shapes; RecursionError is one, too.
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path}: the result is damaged ({error}); save it again") from None


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


def _result(table: Table, network: Generator | None, operator: Any) -> dict[str, Any]:
    result: dict[str, Any] = {name: _array(table[name], kind) for name, kind in _KINDS.items()}
    for name in _STATUSES:
        result[name] = np.array([Status[text] for text in _texts(table[name])], dtype=object)
    result["message"] = np.array(_texts(table["message"]), dtype=object)
    result["problem"] = _problem(table, result, network, operator)
    result["z"] = result["z"].reshape(-1, result["problem"].network.latent_dim)
    result["options"], result["method"] = json.loads(_text(table["options"])), str(table["method"])
    if not isinstance(result["options"], dict):
        raise TypeError("options are no dictionary")
    if not is_name(result["method"]):
        raise ValueError(f"a method is {result['method'][:20]!r}")
    return result | {"norm": _one_of(_NORMS, _text(table["norm"])), "pool": bool(_one(table["pool"], np.bool_))}


def _check_columns(columns: Mapping[str, Any], size: int, latent: Shape, output: Shape) -> None:
    """Refuse columns with wrong shapes or impossible numbers."""
    z, k = columns["z"], math.prod(latent)
    if z.shape != (size, *latent) or columns["reconstruction"].shape != (size, *output):
        raise ValueError(f"z has shape {z.shape}, y has {size} observations of codes {latent}")
    for name in {*_KINDS, *_STATUSES, "message"} - {"z", "reconstruction"}:
        if columns[name].shape != (size,):
            raise ValueError(f"{name} has shape {columns[name].shape}, y has {size} observations")
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
    norm = _text(table["problem.norm"])
    loss = Huber.parse(norm, math.nan) if norm.startswith(Huber.name) else None
    problem = Problem(
        network, y, _noise(table), _one_of(_NORMS, loss.name if loss else norm), measured, prior, single, None, seed,
        Control(), stated_loss=loss, bounds=Bounds.parse(None if ends is None else tuple(ends), (math.prod(latent),)),
    )  # fmt: skip
    problem = problem.whitened() if measured.present else problem
    if "problem.normal" not in table:
        return problem
    kept = _array(table["problem.normal"], np.float64)
    if kept.shape != (2, math.prod(latent)) or not (np.isfinite(kept).all() and (kept[1] > 0).all()):
        raise ValueError(f"the prior has shape {kept.shape}, or numbers that are no mean and std")
    normal = Normal(*kept)
    return problem.with_normal(normal) if measured.present else replace(problem, normal=normal)


def _noise(table: Table) -> Noise:
    kept = {name.removeprefix("noise."): array for name, array in table.items() if name.startswith("noise.")}
    return Noise.restored(_text(table["noise"]), {name: _value(array) for name, array in kept.items()})


def _value(array: npt.NDArray[Any]) -> Any:
    """Return a text, a number or an array of numbers."""
    if array.dtype.kind == "U":
        return _text(array)
    return array if array.ndim else array.item()


def _operator(
    table: Table, y: Array, reconstruction: Array, output: Shape, network: Generator | None, given: Any
) -> Operator:
    shape, kind = _shape(table["operator.shape"]), _text(table["operator"])
    if given is not None and kind != _CODE:
        raise InputError(f"operator= is in the file ({kind}); leave it out")
    for known in Operator.__subclasses__():
        if known.stored is not None and known.kind == kind:
            arrays = {name: _array(table[f"operator.{name}"], dtype) for name, dtype in known.stored.items()}
            return known.restored(shape, arrays)
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
    """Return an array, which must have this type."""
    if array.dtype != np.dtype(kind):
        raise TypeError(f"entries are {array.dtype}, not {np.dtype(kind)}")
    return np.ascontiguousarray(array)


def _one(array: npt.NDArray[Any], kind: Any) -> Any:
    """Return a single number."""
    return _array(array.reshape(()), kind).item()


def _texts(array: npt.NDArray[Any]) -> list[str]:
    """Return texts, without control characters for a terminal."""
    if array.dtype.kind != "U":
        raise TypeError(f"entries are {array.dtype}, not text")
    return ["".join(c if c.isprintable() or c == "\n" else "?" for c in text) for text in array.ravel().tolist()]


def _text(array: npt.NDArray[Any]) -> str:
    """Return a single text."""
    (text,) = _texts(array)
    return text.replace("\n", "?")


def _one_of(allowed: Sequence[str], text: str) -> str:
    if text not in allowed:
        raise ValueError(f"a norm is {text[:20]!r}")
    return text

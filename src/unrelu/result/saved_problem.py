"""Problems as arrays of a file: observations, noise, bounds, prior and operator, and the network's fingerprint.

A file does not contain the network. For a measurement given as code, it contains the values A G(z) at some codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import InputError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.noise import Noise
from unrelu.measurements.objectives import DEGREES, Huber
from unrelu.measurements.operator_arguments import restored
from unrelu.measurements.working_units import searched
from unrelu.models.affine import Shape
from unrelu.models.code_prior import Normal
from unrelu.models.generator import Generator
from unrelu.models.names import Names
from unrelu.problem import Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.runtime.archives import Table, array_of, number_of, shape_of, text_of, texts_of
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.run_control import Control

NORMS = tuple(DEGREES)
# The kind of a measurement given as code, which files do not contain.
_CODE = "code"


class AbsentGenerator(Generator):
    """Stands for the network of a result or posterior that was loaded without it. It cannot be evaluated.

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


@dataclass(frozen=True, eq=False)
class AbsentOperator(Operator):
    """Stands for a measurement given as code, where it was loaded without it: its values at the codes in the file.

    Attributes:
        outputs: G(z), (B, n).
        measured: A G(z), (B, m).
        shape: shape of one observation.
        what: what was loaded, "result" or "posterior".
    """

    outputs: Array
    measured: Array
    shape: Shape
    what: str

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
        """A x if x are these outputs; an error for any others."""
        return torch.from_numpy(self.measured) if np.array_equal(x, self.outputs, equal_nan=True) else self.adjoint(x)

    def adjoint(self, r: Tensor) -> NoReturn:
        """Not defined."""
        raise InputError(
            f"the {self.what} was measured by an operator that is code, which no file holds: "
            f"unrelu.load_{self.what}(path, network, operator=...)"
        )


def problem_arrays(problem: Problem, outputs: Array) -> dict[str, Any]:
    """The arrays, texts and numbers of a problem, by name.

    Args:
        problem: the problem.
        outputs: G(z) of a code for each observation, (B, *output_shape), at which an operator that is code is kept.
    """
    single, problem = problem.single, problem.given or problem
    network, operator = problem.network, problem.operator
    kept = operator.saved()
    code, arrays = kept is None, {"measured": problem.mean_of(outputs)} if kept is None else kept
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
    if problem.names.coordinate_names:
        table["network.names"] = np.array(problem.names.coordinate_names, dtype=np.str_)
    if problem.names.nuisance_table is not None:
        table["network.nuisance"] = problem.names.nuisance_table
    if problem.normal is not None:
        table["problem.normal"] = np.stack([problem.normal.mean, problem.normal.std])
    if not problem.bounds.none:
        table["bounds"] = np.stack([problem.bounds.lower, problem.bounds.upper])
    return table


def noise_arrays(noise: Noise) -> dict[str, Any]:
    """The arrays, texts and numbers of a noise model, by name."""
    text, kept = noise.saved()
    return {"noise": text, **{f"noise.{name}": value for name, value in kept.items()}}


def sizes_in(table: Table) -> tuple[int, Shape, Shape]:
    """The number of observations, and the shapes of codes and outputs. Arrays are to be checked against them first.

    Raises:
        ValueError: y is no batch of finite numbers, or a shape is none.
    """
    latent, output = (shape_of(table[f"network.{name}_shape"]) for name in ("latent", "output"))
    y = array_of(table["y"], np.float64)
    if y.ndim != 2 or not np.isfinite(y).all() or (number_of(table["problem.single"], np.bool_) and len(y) != 1):
        raise ValueError(f"y has shape {y.shape}, or entries that are not finite")
    return len(y), latent, output


def read_problem(table: Table, outputs: Array, network: Generator | None, operator: Any, what: str) -> Problem:
    """The problem in a table.

    Args:
        table: the arrays of a file, see :func:`problem_arrays`.
        outputs: G(z) of the codes at which an operator that is code is kept, (B, *output_shape).
        network: G, whose fingerprint is checked; None for a stand-in.
        operator: A, if it is code; None for its values.
        what: what is loaded, "result" or "posterior".

    Raises:
        InputError: it is another network or operator, or one that the file contains.
        ValueError: the arrays do not fit together.
    """
    size, latent, output = sizes_in(table)
    y, single = array_of(table["y"], np.float64), bool(number_of(table["problem.single"], np.bool_))
    known = text_of(table["network"])
    if network is None:
        dtype = {"float64": torch.float64, "float32": torch.float32}[text_of(table["network.dtype"])]
        network = AbsentGenerator(latent, output, dtype, known, what)
        named = Names(latent, output, nuisance_table=_nuisance_table(table, math.prod(latent)))
        named = named.named(texts_of(table["network.names"])) if "network.names" in table else named
    elif fingerprint(network) != known:
        raise InputError(
            f"the {what} was found on another network: the fingerprint of its network is {known[:12]}"
            f"..., that of this one ({network.latent_dim} -> {network.output_dim}) {fingerprint(network)[:12]}..."
        )
    elif (network.latent_shape, network.output_shape) != (latent, output):
        raise ValueError(f"the network's shapes are {latent} and {output}")
    else:
        named, network = network.names, network.plain
    ends = tuple(array_of(table["bounds"], np.float64)) if "bounds" in table else None
    box = Bounds.parse(ends, (math.prod(latent),), named.latent_names)
    measured = _operator(table, y, outputs, searched(network, box), operator, what)
    shape = (measured.n, measured.m, math.prod(measured.shape))
    seen = measured.seen(size).shape
    if shape != (math.prod(output), y.shape[1], y.shape[1]) or seen != y.shape or measured.count not in (0, size):
        raise ValueError(f"y has shape {y.shape}, the operator gives {measured.m} numbers")
    y.setflags(write=False)
    prior, seed = float(number_of(table["problem.prior"], np.float64)), int(number_of(table["problem.seed"], np.int64))
    if not 0 <= prior < math.inf or seed < 0:
        raise ValueError(f"the prior is {prior}, the seed {seed}")
    norm = text_of(table["problem.norm"])
    loss = Huber.parse(norm, math.nan) if norm.startswith(Huber.name) else None
    problem = Problem(
        network, y, read_noise(table), one_of(NORMS, loss.name if loss else norm), measured, prior, single, None, seed,
        Control(), stated_loss=loss, bounds=box, names=named,
    )  # fmt: skip
    problem = problem.whitened() if measured.present else problem
    if "problem.normal" not in table:
        return problem
    kept = array_of(table["problem.normal"], np.float64)
    if kept.shape != (2, math.prod(latent)) or not (np.isfinite(kept[0]).all() and (kept[1] > 0).all()):
        raise ValueError(f"the prior has shape {kept.shape}, or numbers that are no mean and std")
    normal = Normal(*kept)
    return problem.with_normal(normal) if measured.present else replace(problem, normal=normal)


def _nuisance_table(table: Table, k: int) -> Array | None:
    """See :class:`~unrelu.models.names.Names`; None without nuisance parameters."""
    if "network.nuisance" not in table:
        return None
    nuisance = array_of(table["network.nuisance"], np.float64)
    if nuisance.shape != (3, k) or (np.isfinite(nuisance) != np.isfinite(nuisance[0])).any():
        raise ValueError(f"the table of nuisance parameters has shape {nuisance.shape}, or numbers that are none")
    return nuisance


def read_noise(table: Table) -> Noise:
    """The noise model in a table.

    Raises:
        InputError: no model is defined by these values.
    """
    kept = {name.removeprefix("noise."): array for name, array in table.items() if name.startswith("noise.")}
    return Noise.restored(text_of(table["noise"]), {name: _value(array) for name, array in kept.items()})


def _value(array: npt.NDArray[Any]) -> Any:
    """Return a text, a number or an array of numbers."""
    if array.dtype.kind == "U":
        return text_of(array)
    return array if array.ndim else array.item()


def _operator(table: Table, y: Array, outputs: Array, network: Generator, given: Any, what: str) -> Operator:
    shape, kind = shape_of(table["operator.shape"]), text_of(table["operator"])
    if given is not None and kind != _CODE:
        raise InputError(f"operator= is in the file ({kind}); leave it out")
    known = restored(kind, shape, lambda name, dtype: array_of(table[f"operator.{name}"], dtype))
    if known is not None:
        return known
    if kind != _CODE:
        raise ValueError(f"the operator is {kind[:20]!r}")
    flat, measured = outputs.reshape(len(outputs), network.output_dim), array_of(table["operator.measured"], np.float64)
    if measured.shape != y.shape:
        raise ValueError(f"y has shape {y.shape}, A G(z) {measured.shape}")
    if given is None:
        return AbsentOperator(flat, measured, shape, what)
    found = read_operator(given, network.output_shape, (len(y), *shape), network)
    off = np.abs(found.values(flat) - measured)
    if found.m != y.shape[1] or not (np.nan_to_num(off) <= 1e-9 * np.nanmax(np.abs(measured), initial=0.0)).all():
        raise InputError(f"operator= is not the one that the {what} was measured with: its values at the codes differ")
    return found


def one_of(allowed: Sequence[str], text: str) -> str:
    """Return the text, which must be one of those allowed."""
    if text not in allowed:
        raise ValueError(f"a norm is {text[:20]!r}")
    return text

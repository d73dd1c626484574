"""The columns of results. An observation is a row; a column holds a number or an array of fixed shape for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.measurements.objectives import norms
from unrelu.result import COLUMNS, Inversion
from unrelu.runtime.array_types import Array
from unrelu.sampling.draws import Posterior
from unrelu.sampling.sampled_chains import SampledChains, interval_of

Shape = tuple[int, ...]
# The probability of the intervals in files.
INTERVAL = 0.9
# The numbers of the verdict on an observation, and their types. ``fun`` is called objective, and residuals follow it.
_RESIDUALS = {f"residual_{norm}": norm for norm in ("l2", "l1", "linf")}
_NUMBERS = {
    name: np.dtype(column.kind).newbyteorder("<").str
    for own, column in COLUMNS.items() if column.reported and column.kind is not str
    for name in (("objective", *_RESIDUALS) if own == "fun" else (own,))
}  # fmt: skip
# The numbers of a posterior: for each coordinate of codes, and the worst statistics of all coordinates.
_OF_COORDINATES: dict[str, Callable[[SampledChains], Array]] = {
    "mean": lambda one: one.mean,
    "std": lambda one: one.deviation,
    "lower": lambda one: interval_of(one.flat, INTERVAL)[0],
    "upper": lambda one: interval_of(one.flat, INTERVAL)[1],
}
_STATISTICS = ("rhat", "ess", "tail_ess")


@dataclass(frozen=True)
class Column:
    """A column: one number, or an array of this shape, for every observation."""

    name: str
    shape: Shape
    dtype: str

    @property
    def empty(self) -> float | int:
        """The value that stands for a missing result: NaN, -1 or 0."""
        return {"f": math.nan, "i": -1}.get(np.dtype(self.dtype).kind, 0)

    @property
    def row_bytes(self) -> int:
        """The bytes of one entry."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def filled(self, rows: int) -> npt.NDArray[Any]:
        """Return this number of rows without a result."""
        return np.full((rows, *self.shape), self.empty, dtype=self.dtype)


def columns_of(
    latent: Shape, output: Shape, observation: Shape, *, predictions: bool, posterior: bool, named: int
) -> tuple[Column, ...]:
    """Return the columns of a run.

    They hold the numbers of :class:`~unrelu.Inversion`, with the residuals in three norms. ``residuals`` is y - A G(z)
    in single precision and the generator's units, NaN where nothing was observed. With it, an observation can be
    restored without the data set.

    Args:
        latent, output, observation: the shapes of a code, an output and an observation.
        predictions: whether A G(z) is a column, because it is not a part of G(z).
        posterior: whether there are columns of draws: mean, standard deviation and interval of each coordinate, the
            standard deviation of each output, the status of the sampling, and its statistics.
        named: the number of coordinates if they have names. Then ``parameters`` is a column.
    """
    return (
        Column("codes", latent, "<f8"),
        Column("reconstructions", output, "<f8"),
        Column("residuals", observation, "<f4"),
        *([Column("predictions", observation, "<f4")] if predictions else []),
        Column("status", (), "|u1"),
        *(Column(name, (), kind) for name, kind in _NUMBERS.items()),
        *([Column("parameters", (named,), "<f8")] if named else []),
        *(
            (
                *(Column(name, latent, "<f8") for name in _OF_COORDINATES),
                Column("reconstruction_std", output, "<f8"),
                Column("posterior_status", (), "|u1"),
                *(Column(name, (), "<f8") for name in _STATISTICS),
            )
            if posterior
            else ()
        ),
    )


def numbers_of(result: Inversion, residual: Array) -> dict[str, Any]:
    """Return the numbers of the verdict on every observation, (B,), by column name; ``residual`` has shape (B, m)."""
    own = {"objective": result.batch.fun} | {name: norms(residual, norm) for name, norm in _RESIDUALS.items()}
    return {name: own[name] if name in own else getattr(result.batch, name) for name in _NUMBERS}


def numbers_of_posterior(posterior: Posterior) -> dict[str, Any]:
    """Summarise the draws of each observation, by column name: (B, \\*latent_shape) for codes, (B,) for the others."""
    chains, network = posterior.chains, posterior.problem.network
    shape = (len(chains), *network.latent_shape)
    return {
        **{name: np.reshape([number(one) for one in chains], shape) for name, number in _OF_COORDINATES.items()},
        **{name: np.array([one.worst(name)[0] for one in chains]) for name in _STATISTICS},
    }

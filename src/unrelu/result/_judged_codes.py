"""The verdict on a batch of codes: its columns, and how it is decided. It depends on the codes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self, get_type_hints

import numpy as np

from unrelu.measurements.noise import Fit
from unrelu.measurements.objectives import DEGREES
from unrelu.problem import Problem
from unrelu.result.residual_tests import TESTS, together, too_large
from unrelu.result.status import (
    CUT_OFF,
    HAS_CODE,
    SEARCHED,
    TELLING,
    Ending,
    Status,
    among,
    meaning_of,
    message_of,
    status_of,
)
from unrelu.result.uniqueness import Uniqueness
from unrelu.result.verdict_text import TOO_LARGE
from unrelu.runtime.array_types import Array, Flags, Index, Integers, Objects
from unrelu.runtime.host import flush_subnormals
from unrelu.runtime.words import number
from unrelu.thresholds import CHANCE, CONFIDENT, SIGNIFICANCE

# Codes seem to have another scale if outputs of N(0, I) are this many times as large as y, or as small.
_UNUSUAL = 10.0


class VerdictColumn(NamedTuple):
    """A column of the verdict: the type of its entries, and the limits of what a file may hold; NaN is no limit.

    The type is one of NumPy, ``str``, :class:`Ending`, or ``object`` for a column that files keep in a form of its own.
    Data frames have the ``reported`` columns, and runs those of numbers. The column has the name of its field if no
    other is given.
    """

    kind: type
    least: float = math.nan
    most: float = math.nan
    reported: bool = False
    name: str = ""


_Endings = Annotated[Objects, VerdictColumn(Ending)]
_Probability = Annotated[Array, VerdictColumn(np.float64, 0, 1, reported=True)]
_RANK = VerdictColumn(np.int64, -1, math.inf, reported=True, name="rank")
_IDENTIFIABLE = VerdictColumn(np.bool_, 0, 1, reported=True, name="identifiable")


@dataclass(frozen=True, eq=False)
class JudgedCodes:
    """The codes of a batch, flat, and their verdict; :class:`~unrelu.Inversion` documents the attributes.

    The annotations with columns are the table from which results, files, data frames and runs take theirs.
    """

    problem: Problem
    method: str
    norm: str
    pool: bool
    z: Annotated[Array, VerdictColumn(np.float64)]
    reconstruction: Annotated[Array, VerdictColumn(np.float64)]
    verdict: _Endings
    ended: _Endings
    restarts: Annotated[Objects, VerdictColumn(object)]
    used: Annotated[Array, VerdictColumn(np.float64, 0, math.inf)]
    success: Annotated[Flags, VerdictColumn(np.bool_, 0, 1, reported=True)]
    p_value: _Probability
    p_size: _Probability
    p_largest: _Probability
    p_structure: _Probability
    confidence: _Probability
    fun: Annotated[Array, VerdictColumn(np.float64, reported=True)]
    freedom: Annotated[Integers, VerdictColumn(np.int64, -1, math.inf, reported=True)]
    uniqueness: Annotated[Uniqueness, _RANK, _IDENTIFIABLE]
    nit: Annotated[Integers, VerdictColumn(np.int64, 0, math.inf, reported=True)]
    seconds: Annotated[Array, VerdictColumn(np.float64, 0, math.inf, reported=True)]
    message: Annotated[Objects, VerdictColumn(str, reported=True)]

    def judged(self, fit: Fit, shape: Array | None = None, chance: Array | None = None) -> Self:
        """Decide the verdict: p-value, confidence, success, status and message. No other function decides them."""
        problem, residual, used, stated = self.problem, fit.residual, fit.used, self.problem.noise.stated
        exact = problem.is_exact(residual)
        tests = np.column_stack([problem.p_value(fit), np.full((problem.size, 2), np.nan) if shape is None else shape])
        tests[exact, 1:] = np.nan  # the residual of an exact fit is rounding errors
        p_value = together(tests, problem.observed, used)
        confidence = np.where(exact & (problem.prior == 0), 1.0, self.confidence)
        unseen = problem.looks_noiseless & (problem.prior == 0)  # a prior keeps codes from fitting exactly
        by_chance = np.zeros(problem.size, dtype=bool) if chance is None else (chance > CHANCE) & ~exact
        factor = np.zeros(problem.size)  # of an outlier, how far it is above the batch's noise level
        if self.pool and problem.tells_level:
            energy = problem.objective_of(residual, self.z, "l2")
            factor = too_large(np.where(exact | unseen, np.nan, energy), problem.observed - used)
        explained = p_value >= SIGNIFICANCE
        fits = exact & (explained | (not stated))  # an error of 1e-8 max|y| may be more than the noise of small entries
        ends = self.ended.copy()
        searched, finished = among(ends, SEARCHED), ~among(ends, CUT_OFF)
        ends[unseen & searched] = Status.NO_EXACT_FIT
        ends[by_chance & ~unseen & searched] = Ending.NO_BETTER_THAN_CHANCE
        ends[(factor > 0) & finished] = Ending.OUTLIER
        ends[(p_value < SIGNIFICANCE) & finished] = Status.MISFIT
        ends[explained] = Status.NOISE_LEVEL
        ends[fits] = Status.EXACT_FIT
        ends[fits & (self.freedom > 0)] = Status.NOT_UNIQUE
        confident = (confidence >= CONFIDENT) & ~unseen & ~by_chance & (factor == 0)
        success = explained if stated else exact | confident
        success &= np.isfinite(self.z).all(axis=1)  # whatever the method reports
        judged = replace(
            self, p_value=p_value, **dict(zip(TESTS, tests.T, strict=True)), confidence=confidence, verdict=ends,
            success=success, used=used,
        )  # fmt: skip
        excessive = among(ends, (Status.NOISE_LEVEL, Status.MISFIT)) & problem.noise.too_large_for(fit)
        messages = [
            self.message[i] if end is Status.ERROR else judged.message_for(i, factor[i], bool(excessive[i]))
            for i, end in enumerate(ends)
        ]
        return replace(judged, message=np.array(messages, dtype=object))

    def message_for(self, i: int, factor: float, excessive: bool) -> str:
        """Explain an observation's status, with the number that decided it.

        ``factor`` is an outlier's residual, as a multiple of the batch's noise level; ``excessive`` says that the
        stated noise is too large for the residual.
        """
        verdict, ended = self.verdict[i], self.ended[i]
        text = message_of(verdict, *(getattr(self, name)[i] for name in TELLING))
        if verdict is Ending.OUTLIER:
            text = f"{text} ({factor:.1f} times the batch's noise level)"
        if verdict in (Status.MISFIT, Ending.OUTLIER) and (ended not in HAS_CODE or ended is Ending.FLAT):
            text = f"{text}; {meaning_of(ended)}"
        if excessive:
            text = f"{TOO_LARGE}: it leaves so little in at most one of a million observations; the code {text}"
        if verdict is Status.MISFIT and not excessive and (advice := self.problem.stated.noise.on_misfit):
            text = f"{text}; {advice}"
        hint = ""
        if not (excessive or self.success[i]) and verdict in HAS_CODE:
            hint = _scale_hint(self.problem, i)
        return hint + text + self.problem.noise.note

    @cached_property
    def status(self) -> Objects:
        """The :class:`Status` of each observation, (B,)."""
        return np.asarray(np.frompyfunc(status_of, 1, 1)(self.verdict), dtype=object)

    @property
    def rank(self) -> Integers:
        """The rank of A J, (B,), computed on demand."""
        return self.uniqueness.known.rank

    @property
    def identifiable(self) -> Flags:
        """Whether no other code near z has the same A G(z), (B,), computed on demand."""
        return self.uniqueness.known.identifiable

    # --- on the way to the caller -------------------------------------------------------------------------------------

    @flush_subnormals(False)
    def in_units_of(self, problem: Problem, norm: str | None = None) -> Self:
        """Convert these codes, of the :meth:`~unrelu.problem.Problem.equilibrated` form, to ``problem`` itself.

        If a norm is given, ``fun`` is measured in this norm.
        """
        units = self.problem.units
        z, x = units.codes(self.z), units.outputs(self.reconstruction)
        fun = units.measured(self.fun, DEGREES[self.norm])
        if norm or (problem.prior and problem.bounds.fixed.any()):  # methods do not see the prior of fixed coordinates
            fun = problem.objective_of(problem.residual_of(x), z, norm or self.norm)
        return replace(self, z=z, reconstruction=x, fun=fun, problem=problem, norm=norm or self.norm)

    def subset(self, rows: Index, problem: Problem) -> Self:
        """Select some observations; ``problem`` is theirs."""
        return replace(self, problem=problem, **{name: getattr(self, name)[rows] for name in _PER_OBSERVATION})

    @classmethod
    def joined(cls, parts: Sequence[Self], problem: Problem) -> Self:
        """Join the parts of a batch, in order."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in _PER_OBSERVATION.keys() - {"uniqueness"}
        }
        uniqueness = Uniqueness.joined([part.uniqueness for part in parts])
        return replace(parts[0], problem=problem, uniqueness=uniqueness, **columns)


def _scale_hint(problem: Problem, i: int) -> str:
    """Return the beginning of a message if an observation's codes seem to have another scale; else an empty text."""
    size, typical = float(np.linalg.norm(problem.y[i])), problem.network.typical_outputs
    if not size or not (problem.bounds.none and problem.units.latent is None and problem.normal is None):
        return ""
    measured = problem.operator.take(np.full(len(typical), i)).values(typical)
    ratio = float(np.median(np.linalg.norm(measured, axis=1))) / size
    if not 0 < ratio < np.inf or 1 / _UNUSUAL < ratio < _UNUSUAL:
        return ""
    times = f"{number(max(ratio, 1 / ratio))} times as {'large' if ratio > 1 else 'small'}"
    return f"outputs of codes from N(0, I) are {times} as y: state the scale of codes by bounds= or prior=; "


# The columns of each field with an entry for each observation, and all columns by name.
_HINTS = get_type_hints(JudgedCodes, include_extras=True)
_PER_OBSERVATION = {name: hint.__metadata__ for name, hint in _HINTS.items() if hasattr(hint, "__metadata__")}
COLUMNS: dict[str, VerdictColumn] = {each.name or name: each for name, own in _PER_OBSERVATION.items() for each in own}

"""Codes and their verdict. The verdict depends on the codes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.measurements.noise import Fit
from unrelu.measurements.objectives import DEGREES
from unrelu.problem import Jacobians, Problem
from unrelu.result.answers import Answers
from unrelu.result.optima import Optima
from unrelu.result.residual_tests import TESTS, together, too_large
from unrelu.result.status import (
    CUT_OFF,
    HAS_CODE,
    JUDGED,
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
from unrelu.runtime.array_types import Array, Index, Integers
from unrelu.runtime.host import flush_subnormals
from unrelu.runtime.words import number
from unrelu.thresholds import CHANCE, CONFIDENT, SIGNIFICANCE

# Codes seem to have another scale if outputs of N(0, I) are this many times as large as y, or as small.
_UNUSUAL = 10.0


@dataclass(frozen=True, eq=False, repr=False)
class JudgedCodes(Answers):
    """Codes of a problem and their verdict; :class:`~unrelu.Inversion` documents the attributes."""

    z: Array
    reconstruction: Array
    fun: Any
    success: Any
    p_value: Any
    p_size: Any
    p_largest: Any
    p_structure: Any
    confidence: Any
    verdict: Any
    message: Any
    nit: Any
    seconds: Any
    method: str
    freedom: Any
    uniqueness: Uniqueness
    used: Any
    problem: Problem
    ended: npt.NDArray[Any]
    norm: str
    pool: bool
    restarts: npt.NDArray[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    find_optima: Callable[[Any, float], list[Optima] | None] | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        z: Array,
        *,
        method: str,
        status: Status | Ending | npt.ArrayLike = Status.CONVERGED,
        nit: npt.ArrayLike = 0,
        norm: str | None = None,
        seconds: npt.ArrayLike | None = None,
        confidence: npt.ArrayLike = math.nan,
        pool: bool = False,
        restarts: Sequence[Array] = (),
    ) -> Self:
        """Judge codes: compute outputs, objectives and the verdict. Your own method ends with this call.

        A verdict from the residual (exact fit, fit to the stated noise, misfit) overrides the ``status`` that is passed
        in. If a method passes one of these itself, CONVERGED replaces it. :func:`unrelu.invert` judges the codes once
        more, with the degrees of freedom that the fit used up.

        Args:
            problem: the problem that was solved.
            z: codes, (B, k) or ``(B, *latent_shape)``; codes with NaN are failures.
            method: a name to report.
            status: how the method ended, one for all or (B,); an :class:`~unrelu.result.Ending` says more.
            nit: iterations, one number or (B,).
            norm: the norm that the method minimises, if it is not the problem's norm.
            confidence: the probability that no code has an objective more than 1% lower, one number or (B,), for a
                method that searches.
            seconds: wall time of each observation, (B,); None divides the time so far equally.
            pool: whether to estimate the noise level from the residuals of the batch if none is stated. Residuals that
                are too large for it are outliers (:func:`~unrelu.result.residual_tests.too_large`).
            restarts: the ends of each observation's restarts, (c, k) each, for a method that searches.

        Raises:
            InputError: z has another shape.
            OptionError: a status is not a :class:`Status`, or a confidence is not a probability.
        """
        z, size, k = np.array(z, dtype=np.float64), problem.size, problem.network.latent_dim
        if z.shape not in ((size, k), (size, *problem.network.latent_shape)):
            raise InputError(f"z has shape {z.shape}; a method returns one code a row, ({size}, {k})")
        z = z.reshape(size, k)

        def full(value: Any, kind: Any = np.float64) -> npt.NDArray[Any]:
            return np.array(np.broadcast_to(np.asarray(value, dtype=kind), (size,)))

        ends, sure = full(status, object), full(confidence)
        if not all(isinstance(end, Status | Ending) for end in ends):
            raise OptionError(f"status={status!r} must be a Status, or one for each observation")
        if not (np.isnan(sure) | ((sure >= 0) & (sure <= 1))).all():
            raise OptionError(
                f"confidence={confidence!r} is a probability, from 0 to 1, or NaN for methods without one"
            )
        x = problem.network.outputs(z)
        known = np.isfinite(z).all(axis=1)
        ends[among(ends, JUDGED)] = Status.CONVERGED
        ends[~known & among(ends, HAS_CODE)] = Ending.NO_CODE
        sure[~known | ~np.isfinite(x).reshape(size, -1).all(axis=1)] = np.nan
        columns: dict[str, Any] = {
            **dict.fromkeys(("p_value", *TESTS), full(np.nan)),
            "freedom": full(-1, np.int64),
            "success": full(False, np.bool_),
            "uniqueness": Uniqueness.unknown(size),
            "seconds": full(problem.control.elapsed() / size if seconds is None else seconds),
            "message": np.array([meaning_of(end) for end in ends], dtype=object),
            "fun": problem.objective_of(problem.residual_of(x), z, norm),
        }
        unjudged = cls(
            z=z, reconstruction=x, confidence=sure, verdict=ends, ended=ends, nit=full(nit, np.int64), method=method,
            used=full(0), problem=problem, norm=norm or problem.norm, pool=pool,
            restarts=np.fromiter(map(problem.units.codes, restarts or [z[:0]] * size), object), **columns,
        )  # fmt: skip
        return unjudged.judged(problem.fit_of(x))

    def with_diagnostics(
        self,
        freedom: Integers,
        uniqueness: Uniqueness,
        used: Array,
        shape: Array | None = None,
        chance: Array | None = None,
        jacobians: Jacobians | None = None,
    ) -> Self:
        """Judge the same codes with further diagnostics.

        Args:
            freedom: the dimension of the solution set of each exact fit, (B,); -1 if unknown.
            uniqueness: the rank of A J at each code, and whether it is identifiable.
            used: the degrees of freedom that the fit used up, (B,).
            shape: p-values of the largest entry and the structure of the residual, (B, 2); NaN if not tested.
            chance: without stated noise, the probability that a fit explains white noise as well as y, (B,).
            jacobians: yields Jacobians of A G, for noise whose p-value depends on them
                (:class:`~unrelu.measurements.Fit`).
        """
        known = replace(self, freedom=freedom, uniqueness=uniqueness)
        return known.judged(self.problem.fit_of(self.reconstruction, used, jacobians), shape, chance)

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
            energy = problem.objective_of(residual, self._codes, "l2")
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
        success &= np.isfinite(self._codes).all(axis=1)  # whatever the method reports
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
        hint = ""
        if not (excessive or self.success[i]) and verdict in HAS_CODE:
            hint = _scale_hint(self.problem, i)
        return hint + text + self.problem.noise.note

    @cached_property
    def status(self) -> Any:
        """The :class:`Status` of each observation: how it ended, and what to do next."""
        return np.frompyfunc(status_of, 1, 1)(self.verdict)

    @property
    def rank(self) -> Any:
        """The rank of A J, with J the Jacobian of G at z, computed on demand; -1 without a code."""
        return self._each(self.uniqueness.known.rank)

    @property
    def identifiable(self) -> Any:
        """Whether no other code near z has the same A G(z), computed on demand."""
        return self._each(self.uniqueness.known.identifiable)

    # --- on the way to the caller -------------------------------------------------------------------------------------

    def measured_in(self, norm: str) -> Self:
        """Return the same codes with ``fun`` in this norm."""
        residual = self.problem.residual_of(self.reconstruction)
        return replace(self, fun=self.problem.objective_of(residual, self._codes, norm), norm=norm)

    @flush_subnormals(False)
    def in_units_of(self, problem: Problem) -> Self:
        """Convert this result, for the :meth:`~unrelu.problem.Problem.equilibrated` form, to ``problem`` itself."""
        units = self.problem.units
        if self.problem is problem:
            return self
        z, x = units.codes(self._codes), units.outputs(self.reconstruction)
        fun = units.measured(self.fun, DEGREES[self.norm])
        if problem.prior and problem.bounds.fixed.any():  # methods do not see their prior
            fun = problem.objective_of(problem.residual_of(x), z, self.norm)
        return replace(self, z=z, reconstruction=x, fun=fun, problem=problem)

    @classmethod
    def joined(cls, parts: Sequence[Self], problem: Problem) -> Self:
        """Join the results of parts of a batch, in order."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in _PER_OBSERVATION
            if name != "uniqueness"
        }
        uniqueness = Uniqueness.joined([part.uniqueness for part in parts])
        return replace(parts[0], problem=problem, uniqueness=uniqueness, **columns)

    @classmethod
    def failed(cls, problem: Problem, method: str, why: str) -> Self:
        """Make a result without codes, for observations on which a method broke down, with the reason."""
        z = np.full((problem.size, problem.network.latent_dim), np.nan)
        lost = cls.of(problem, z, method=method, status=Status.ERROR)
        return replace(lost, message=np.full(problem.size, f"could not be inverted: {why}", dtype=object))

    def shaped(self) -> Self:
        """Convert to the caller's shapes: shaped codes, and no batch axis if y was one observation without it.

        Before this call, methods and all other functions work with flat codes, (B, k).
        """
        z = self.problem.network.shaped(self._codes)
        shaped = self if z.shape == self.z.shape else replace(self, z=z)
        if not self.problem.single:
            return shaped
        return replace(shaped, **{name: self._each(getattr(shaped, name)) for name in _SHOWN})

    @property
    def _codes(self) -> Array:
        """The flattened codes of the batch, (B, k)."""
        return self.z.reshape(self.problem.size, self.problem.network.latent_dim)

    @property
    def _flat(self) -> Array:
        return self._codes[0] if self.problem.single else self._codes

    def batched(self) -> dict[str, Any]:
        """Return the attributes with an entry for each observation, always with a batch axis."""
        columns = {name: getattr(self, name) for name in (*_SHOWN, "rank", "identifiable", "status")}
        if self.problem.single:
            texts = ("verdict", "message", "status")
            columns = {name: np.array([value], object if name in texts else None) for name, value in columns.items()}
        return columns | {"ended": self.ended, "restarts": self.restarts}

    def _part(self, rows: Index, single: bool) -> Self:
        columns = {name: getattr(self, name)[rows] for name in _PER_OBSERVATION}
        part = replace(self, problem=self._problem_of(rows, single), **columns)
        return part.shaped() if single else part


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


# The attributes with an entry for each observation; those among them whose values are shaped for the caller.
_PER_OBSERVATION = [
    f.name for f in fields(JudgedCodes) if f.name not in ("method", "problem", "options", "find_optima", "norm", "pool")
]
_SHOWN = [name for name in _PER_OBSERVATION if name not in ("ended", "restarts", "uniqueness")]

"""What a method returns: codes with their status, and a check of every number from scratch."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.measurements.noise import SIGNIFICANCE
from unrelu.measurements.pooled_noise import too_large
from unrelu.problem import Problem, norms

Array = npt.NDArray[np.float64]


class Status(enum.Enum):
    """How an inversion ended; the value says what to do next.

    >>> import unrelu
    >>> print(unrelu.Status.TIME_LIMIT, "-", unrelu.Status.TIME_LIMIT.value)
    TIME_LIMIT - stopped at the time limit: raise time_limit or use a faster method
    """

    EXACT_FIT = "fits the observation exactly, to numerical precision"
    NOT_UNIQUE = "fits the observation exactly, but so does a whole set of codes; more observed outputs would be needed"
    NOISE_LEVEL = "fits the observation to the stated noise level"
    MISFIT = (
        "does not explain the observation under the stated noise: it is out of the generator's range, the noise is "
        "larger than stated, or a better code was missed"
    )
    NO_EXACT_FIT = (
        "no exact fit was found, though no entry of the observation shows noise: it is rounded, or out of the "
        "generator's range, or the search missed its code: raise rounds, or state noise= to judge the fit"
    )
    OUTLIER = (
        "its residual is far above that of the rest of the batch: a better code was missed, or the observation is "
        "unlike the others; look at it, or pass pool=False where the observations do not belong together"
    )
    REFOUND = (
        "independent starts came to the best objective again, to 1%: state noise= to judge the fit, or raise rounds "
        "for more confidence that no better code exists"
    )
    FOUND_ONCE = (
        "the best of all starts, but no independent start confirmed it: raise rounds, or state noise= to judge the fit"
    )
    LEAST_SQUARES = "the best code found by least squares: generators without known layers have no descent in this norm"
    CONVERGED = "converged, but the fit is not exact: state noise= to judge it, or compare other starts"
    NOT_REALIZABLE = "no code reproduces the observation exactly: use method='linf' or 'l1', or 'lm' from their codes"
    UNDETERMINED = "a layer does not determine its input, so going on layer by layer lost the code: use method='lm'"
    ITERATION_LIMIT = "stopped at the iteration limit before convergence: raise max_iterations"
    TIME_LIMIT = "stopped at the time limit: raise time_limit or use a faster method"
    DIVERGED = (
        "the search left the range of numbers; the last finite code is returned: start nearer or take shorter steps"
    )
    FLAT = "the output does not change with the code here, as all neurons are off or saturated: start elsewhere"
    NO_CODE = "no code was found for this observation"
    STOPPED = "stopped by the callback; the codes are the best so far"
    ERROR = "could not be inverted: its message says why"
    SOLVER_FAILED = (
        "a layer's program could not be solved to its optimum; the weights may be badly conditioned: use method='lm'"
    )

    def __str__(self) -> str:
        return self.name


# What the confidence has to be for a success where no noise is stated.
_CONFIDENT = 0.99

# These speak of a code.
_HAS_CODE = frozenset(
    {Status.EXACT_FIT, Status.NOT_UNIQUE, Status.NOISE_LEVEL, Status.MISFIT, Status.NO_EXACT_FIT, Status.OUTLIER}
    | {Status.REFOUND, Status.CONVERGED, Status.FOUND_ONCE, Status.LEAST_SQUARES, Status.FLAT}
)
# These say of a method that it was cut off or broke down, which is what to mend before its misfit means anything.
_CUT_OFF = frozenset(
    {Status.TIME_LIMIT, Status.STOPPED, Status.DIVERGED, Status.NO_CODE, Status.ERROR, Status.SOLVER_FAILED}
)
# These are earned by the residual, not claimed by a method.
_JUDGED = frozenset(
    {Status.EXACT_FIT, Status.NOT_UNIQUE, Status.NOISE_LEVEL, Status.MISFIT, Status.NO_EXACT_FIT, Status.OUTLIER}
)
# The search's own endings, which claim nothing about the size of the misfit.
_SEARCHED = frozenset({Status.REFOUND, Status.FOUND_ONCE})


@dataclass(frozen=True, eq=False)
class Inversion:
    r"""Latent codes for one observation or a batch.

    All arrays have the batch's leading shape: scalars for one observation, (B,) for a batch.

    Attributes:
        z: codes, (k,) or (B, k). NaN where an observation was not reached before a limit.
        reconstruction: G(z), in the network's output shape.
        fun: the objective at z: that of the method, or of ``norm`` if one was asked for. Where the noise was stated for
            single entries or with a covariance it is that of whitened residuals, chi-square in l2; of counts their
            deviance. A prior is added to it.
        success: whether the answer can be relied on. With stated noise, that the code explains y: p_value >= 0.01.
            Without, that it fits exactly, or that confidence >= 0.99, y shows noise, and the residual does not stand
            out from those of the batch.
        p_value: goodness of fit: the probability that the stated noise leaves a residual at least as large as that of
            z, see :meth:`~unrelu.measurements.noise.Noise.p_value`, with the degrees of freedom that the fit used up,
            rank A J; with a prior :math:`\operatorname{tr} J_A (J_A^T J_A + \lambda I)^{-1} J_A^T`. NaN where no
            noise is stated or there is no code; 1 for an exact fit where the noise is below the rounding of y.
        confidence: the probability that no code has an objective more than 1% lower, from where independent chains of
            descents ended (:mod:`unrelu.search.confidence`). How far their agreement can be trusted was learned on
            other generators, or by :func:`unrelu.calibrate` on this one. 0 in l1 and linf. 1 for an exact fit without a
            prior, NaN for methods that do not search and where there is no code.
        status: one :class:`Status` an observation.
        message: what the status means, with the numbers that it rests on.
        nit: iterations (linear programs, Newton or gradient steps) spent.
        seconds: wall time of each observation; where they were worked on together, an equal share.
        method: the method's name.
        freedom: the dimension of the set of codes near z that fit equally well, where the fit is exact and it could be
            determined; else -1. At kinks it is a lower bound.
        rank: the rank of A J, J the Jacobian of G at z; -1 without a code.
        identifiable: whether no other code near z has the same A G(z): mostly, that the rank is k. Of an exact fit also
            that it tells z to 1e-6 of its length (1e-3 in single precision): that is what the residual that is left can
            hide in the softest direction. A code elsewhere may still fit as well. See :func:`unrelu.identifiability`.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> r = unrelu.invert(net, [[1.0, 0.0, 0.5], [1.0, 0.0, 0.7]], noise=unrelu.Uniform(0.01))
    >>> r.success, r.p_value, r.residual("linf").round(3)
    (array([ True, False]), array([1., 0.]), array([0.   , 0.133]))
    """

    z: Array
    reconstruction: Array
    fun: Any
    success: Any
    p_value: Any
    confidence: Any
    status: Any
    message: Any
    nit: Any
    seconds: Any
    method: str
    freedom: Any
    rank: Any
    identifiable: Any
    problem: Problem = field(repr=False)
    _ended: npt.NDArray[np.object_] = field(repr=False)
    _norm: str = field(repr=False)
    _pool: bool = field(repr=False)

    @classmethod
    def of(
        cls,
        problem: Problem,
        z: Array,
        *,
        method: str,
        status: Status | npt.ArrayLike = Status.CONVERGED,
        nit: npt.ArrayLike = 0,
        norm: str | None = None,
        seconds: npt.ArrayLike | None = None,
        confidence: npt.ArrayLike = math.nan,
        pool: bool = False,
    ) -> Inversion:
        """Judge codes: compute outputs, objectives and the verdict. This is how a method of your own ends.

        What the residual says overrides the ``status`` that is passed in: an exact fit, a fit to the stated noise, or
        a misfit; a method that claims one of them ended with CONVERGED. :func:`unrelu.invert` judges once more, with
        the degrees of freedom that the fit used up.

        Args:
            problem: the problem that was solved.
            z: codes, (B, k); rows with NaN are failures.
            method: a name to report.
            status: how the method ended, one for all or (B,).
            nit: iterations, one number or (B,).
            norm: the norm that the method minimises, if it is not the problem's.
            confidence: the probability that no code has an objective more than 1% lower, one number or (B,), for a
                method that searches.
            seconds: wall time of each observation, (B,); None shares the time so far equally.
            pool: whether residuals of the batch tell its noise level where none is stated, so that those that are too
                large for it are outliers (:func:`~unrelu.measurements.pooled_noise.too_large`).

        Raises:
            InputError: z has another shape.
            OptionError: a status is not a :class:`Status`, or a confidence no probability.
        """
        z = np.array(z, dtype=np.float64)
        if z.shape != (problem.size, problem.network.latent_dim):
            raise InputError(
                f"z has shape {z.shape}; a method returns one code a row, "
                f"({problem.size}, {problem.network.latent_dim})"
            )
        reached = np.isfinite(z).all(axis=1)
        states = np.full(problem.size, None, dtype=object)
        states[:] = status
        if not all(isinstance(s, Status) for s in states):
            raise OptionError(f"status={status!r} must be a Status, or one for each observation")
        states[_among(states, _JUDGED)] = Status.CONVERGED
        states[~reached & _among(states, _HAS_CODE)] = Status.NO_CODE
        sure = np.broadcast_to(np.asarray(confidence, dtype=np.float64), (problem.size,))
        if not (np.isnan(sure) | ((sure >= 0) & (sure <= 1))).all():
            raise OptionError(
                f"confidence={confidence!r} is a probability, from 0 to 1, or NaN for methods without one"
            )
        x = problem.network(z)
        reached &= np.isfinite(x).reshape(problem.size, -1).all(axis=1)
        residual = problem.residual_of(x)
        share = problem.control.elapsed() / problem.size
        unjudged = cls(
            z=z,
            reconstruction=x,
            fun=problem.objective_of(residual, z, norm),
            success=np.zeros(problem.size, dtype=bool),
            p_value=np.full(problem.size, np.nan),
            confidence=np.where(reached, sure, np.nan),
            status=states,
            message=np.array([s.value for s in states], dtype=object),
            nit=np.array(np.broadcast_to(nit, (problem.size,)), dtype=np.int64),
            seconds=np.array(np.broadcast_to(share if seconds is None else seconds, (problem.size,)), dtype=np.float64),
            method=method,
            freedom=np.full(problem.size, -1),
            rank=np.full(problem.size, -1),
            identifiable=np.zeros(problem.size, dtype=bool),
            problem=problem,
            _ended=states,
            _norm=norm or problem.norm,
            _pool=pool,
        )
        return unjudged._judged(np.zeros(problem.size), problem.null(x))

    def with_diagnostics(
        self,
        rank: npt.NDArray[np.int64],
        freedom: npt.NDArray[np.int64],
        identifiable: npt.NDArray[np.bool_],
        used: Array,
        null: Array | None = None,
    ) -> Inversion:
        """The same codes, judged with what is known of their neighbourhood.

        Args:
            rank: of A J at each code, (B,); -1 where there is none.
            freedom: the dimension of the solution set of each exact fit, (B,); -1 where unknown.
            identifiable: whether the code is, (B,).
            used: the degrees of freedom that the fit used up, (B,).
            null: of count noise, what :meth:`~unrelu.problem.Problem.null` says of the fit.
        """
        return replace(self, rank=rank, freedom=freedom, identifiable=identifiable)._judged(used, null)

    def _judged(self, used: Array, null: Array | None) -> Inversion:
        """The verdict: p-value, confidence, success, status and message. The only place that decides them."""
        problem, residual = self.problem, self.problem.residual_of(self.reconstruction)
        exact = problem.is_exact(residual)
        p_value = problem.p_value(residual, used, null)
        confidence = np.where(exact & (problem.prior == 0), 1.0, self.confidence)
        unseen = problem.looks_noiseless & (problem.prior == 0)  # of no prior, as that keeps codes from fitting exactly
        explained = p_value >= SIGNIFICANCE
        factor = self._outlying(residual, used, exact | unseen)
        states = self._ended.copy()
        states[unseen & _among(states, _SEARCHED)] = Status.NO_EXACT_FIT
        states[(factor > 0) & ~_among(states, _CUT_OFF)] = Status.OUTLIER
        states[(p_value < SIGNIFICANCE) & ~_among(states, _CUT_OFF)] = Status.MISFIT
        states[explained] = Status.NOISE_LEVEL
        stated = problem.noise.stated
        fits = exact & (explained | (not stated))  # an error of 1e-8 max|y| may be more than the noise of small entries
        states[fits] = Status.EXACT_FIT
        states[fits & (self.freedom > 0)] = Status.NOT_UNIQUE
        success = explained if stated else exact | ((confidence >= _CONFIDENT) & ~unseen & (factor == 0))
        success &= np.isfinite(self.z).all(axis=1)  # whatever a method says of itself
        judged = replace(self, p_value=p_value, confidence=confidence, status=states, success=success)
        messages = [judged._message(i, factor[i]) for i in range(problem.size)]
        return replace(judged, message=np.array(messages, dtype=object))

    def _outlying(self, residual: Array, used: Array, fitting: npt.NDArray[np.bool_]) -> Array:
        """How many times the batch's noise level the residuals that stand out are, (B,), 0 for all others.

        Codes that are ``fitting`` exactly, or should be, tell no level.
        """
        problem = self.problem
        if not (self._pool and problem.tells_level):
            return np.zeros(problem.size)
        energy = problem.objective_of(residual, self.z, "l2")
        return too_large(np.where(fitting, np.nan, energy), problem.observed - used)

    def _message(self, i: int, factor: float) -> str:
        """What the status of an observation means, with the number that decided it."""
        status, ended = self.status[i], self._ended[i]
        text = message_of(status, self.p_value[i], self.confidence[i], self.freedom[i])
        if status is Status.OUTLIER:
            text = f"{text} ({factor:.1f} times the batch's noise level)"
        hint = ended not in _HAS_CODE or ended is Status.FLAT
        text = f"{text}; {ended.value}" if status in (Status.MISFIT, Status.OUTLIER) and hint else text
        return text + self.problem.noise.note

    def measured_in(self, norm: str) -> Inversion:
        """The same codes with ``fun`` in another norm than the method's own."""
        residual = self.problem.residual_of(self.reconstruction)
        return replace(self, fun=self.problem.objective_of(residual, self.z, norm), _norm=norm)

    def in_units_of(self, problem: Problem) -> Inversion:
        """The result for a problem whose :meth:`~unrelu.problem.Problem.equilibrated` is the one of this result."""
        units = self.problem.units
        if self.problem is problem:
            return self
        z = units.codes(self.z)
        with np.errstate(over="ignore", under="ignore"):
            reconstruction = np.ldexp(self.reconstruction, -units.output)
            fun = np.ldexp(self.fun, -units.data * (2 if self._norm == "l2" else 1))
        return replace(self, z=z, reconstruction=reconstruction, fun=fun, problem=problem)

    @classmethod
    def joined(cls, parts: Sequence[Inversion], problem: Problem) -> Inversion:
        """The result of a batch from those of its observations, in order."""
        names = [f.name for f in fields(cls) if f.name not in ("method", "problem", "_norm", "_pool")]
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], problem=problem, **columns)

    @classmethod
    def failed(cls, problem: Problem, method: str, why: str) -> Inversion:
        """No codes, and why: what became of observations on which a method broke down."""
        z = np.full((problem.size, problem.network.latent_dim), np.nan)
        lost = cls.of(problem, z, method=method, status=Status.ERROR)
        return replace(lost, message=np.full(problem.size, f"could not be inverted: {why}", dtype=object))

    def shaped(self) -> Inversion:
        """The result as the caller sees it: without the batch axis if one observation was given without it."""
        if not self.problem.single:
            return self
        first = {
            "z": self.z[0], "reconstruction": self.reconstruction[0], "fun": float(self.fun[0]),
            "success": bool(self.success[0]),
            "p_value": float(self.p_value[0]), "confidence": float(self.confidence[0]),
            "status": self.status[0], "message": self.message[0], "nit": int(self.nit[0]),
            "seconds": float(self.seconds[0]),
            "freedom": int(self.freedom[0]), "rank": int(self.rank[0]), "identifiable": bool(self.identifiable[0]),
        }  # fmt: skip
        return replace(self, **first)

    @property
    def active_bounds(self) -> npt.NDArray[np.int8]:
        """Which bounds z is at, shaped like it: -1 the lower, 1 the upper, 0 neither, as in scipy.optimize."""
        return self.problem.bounds.active(self.z)

    def residual(self, norm: str = "l2") -> Any:
        """``|y - A G(z)|`` in "l2", "l1" or "linf", in the units of y, recomputed from z: a float, or (B,).

        Raises:
            InputError: the norm is none of these.
        """
        if norm not in ("l2", "l1", "linf"):
            raise InputError(f"norm {norm!r} is unknown; use 'l2', 'l1' or 'linf'")
        values = norms(self.problem.differences_of(self.problem.network(np.atleast_2d(self.z))), norm)
        return float(values[0]) if self.problem.single else values


def message_of(status: Status, p_value: float, confidence: float, freedom: int) -> str:
    """What the status of an observation means, with the number that decided it."""
    if status is Status.NOT_UNIQUE:
        return f"{status.value} ({freedom} free dimensions)"
    if status in (Status.NOISE_LEVEL, Status.MISFIT):
        return f"{status.value} (p = {p_value:.2g})"
    if status in (Status.REFOUND, Status.FOUND_ONCE, Status.NO_EXACT_FIT):
        return f"{status.value} (confidence {confidence:.2f})"
    return str(status.value)


def _among(states: npt.NDArray[np.object_], group: frozenset[Status]) -> npt.NDArray[np.bool_]:
    return np.array([state in group for state in states])

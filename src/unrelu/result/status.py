"""Statuses: how an inversion or a posterior ended, what that means, and what to do next."""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from unrelu.result._residual_tests import TESTS, deciding
from unrelu.runtime.array_types import Flags
from unrelu.runtime.words import number, probability


class Status(enum.Enum):
    """How an inversion or a posterior ended; the value says what to do next.

    >>> import unrelu
    >>> print(unrelu.Status.TIME_LIMIT, "-", unrelu.Status.TIME_LIMIT.value)
    TIME_LIMIT - stopped at the time limit: raise time_limit or use a faster method
    """

    EXACT_FIT = "fits the observation exactly, to numerical precision"
    NOT_UNIQUE = "fits the observation exactly, but so does a whole set of codes; more observed outputs would be needed"
    NOISE_LEVEL = "fits the observation to the stated noise level"
    MISFIT = (
        "does not explain the observation under the stated noise: it is out of the generator's range, the noise is "
        "not as stated, or a better code was missed"
    )
    NO_EXACT_FIT = (
        "no exact fit was found, though no entry of the observation shows noise: it is rounded, or out of the "
        "generator's range, or the search missed its code: raise rounds, or state noise= to judge the fit"
    )
    NO_BETTER_THAN_CHANCE = (
        "explains no more of the observation than a fit of white noise would: it is out of the generator's range, or "
        "the search missed its code: look at it, or state noise= to judge the fit"
    )
    OUTLIER = (
        "its residual is far above that of the rest of the batch: a better code was missed, or the observation is "
        "unlike the others; look at it, or pass pool=False where the observations do not belong together"
    )
    REFOUND = (
        "independent starts came to the best objective again, to 1%: state noise= to judge the fit, or raise rounds or "
        "calibrate for more confidence that no better code exists"
    )
    FOUND_ONCE = (
        "the best of all starts, but no independent start confirmed it: raise rounds, or state noise= to judge the fit"
    )
    LEAST_SQUARES = (
        "the best code found by least squares: there is no descent in this norm without a Jacobian, which does not fit "
        "into memory"
    )
    CONVERGED = (
        "converged to a first-order stationary code, but the fit is not exact: state noise= to judge it, or compare "
        "other starts"
    )
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

    MIXED = "the chains agree; nothing shows that a part of the posterior was missed"
    NOT_MIXED = "the chains have not mixed: raise draws, or state more of the code by prior= or bounds="

    def __str__(self) -> str:
        return self.name


# Statuses that follow from the residual; a method cannot claim them.
JUDGED = frozenset({
    Status.EXACT_FIT, Status.NOT_UNIQUE, Status.NOISE_LEVEL, Status.MISFIT, Status.NO_EXACT_FIT, Status.OUTLIER,
    Status.NO_BETTER_THAN_CHANCE,
})  # fmt: skip
# Statuses of observations that have a code.
HAS_CODE = JUDGED | {Status.REFOUND, Status.CONVERGED, Status.FOUND_ONCE, Status.LEAST_SQUARES, Status.FLAT}
# Statuses of a method that was stopped early or broke down: its misfit says nothing until that is fixed.
CUT_OFF = frozenset(
    {Status.TIME_LIMIT, Status.STOPPED, Status.DIVERGED, Status.NO_CODE, Status.ERROR, Status.SOLVER_FAILED}
)
# What the statuses of inversions mean of a posterior.
_OF_POSTERIORS = {
    Status.TIME_LIMIT: "stopped at the time limit before the chains agreed: raise time_limit",
    Status.STOPPED: "stopped by the callback or Ctrl-C before the chains agreed; the draws are those so far",
    Status.ERROR: (
        "could not be sampled: numbers overflowed, or y is so far out of the generator's range that log-likelihoods "
        "are rounding: look at invert first"
    ),
}
# Statuses with which the search ends; they say nothing about the size of the misfit.
SEARCHED = frozenset({Status.REFOUND, Status.FOUND_ONCE})


# The columns of an observation that :func:`message_of` tells.
TELLING = ("p_value", "confidence", "freedom", *TESTS)


def p_values(p_value: float, *tests: float, under: str = "") -> str:
    """The p-value in words, and those of its tests, (3,), if more than one was made; the one that decides is named."""
    whole, by = f"p = {probability(p_value)}{under}", int(deciding(np.array([tests]))[0])
    if by < 0:
        return whole
    made = [(name, probability(p), i == by) for i, (name, p) in enumerate(zip(TESTS.values(), tests, strict=True))]
    each = [f"{name} {p}{' (decides)' * decides}" for name, p, decides in made if p != number(None)]
    return f"{whole} of {len(each)} tests together: {', '.join(each)}"


def message_of(status: Status, p_value: float, confidence: float, freedom: int, *tests: float) -> str:
    """Return the meaning of an observation's status, with the numbers that decided it, see :data:`TELLING`."""
    if status is Status.NOT_UNIQUE:
        return f"{status.value} ({freedom} free dimensions)"
    if status is Status.NOISE_LEVEL:
        return f"{status.value} (p = {probability(p_value)})"
    if status is Status.MISFIT:
        return f"{status.value} ({p_values(p_value, *tests)})"
    if status in (Status.REFOUND, Status.FOUND_ONCE, Status.NO_EXACT_FIT):
        return f"{status.value} (confidence {probability(confidence)})"
    return str(status.value)


def meaning_of_posterior(status: Status) -> str:
    """Return the meaning of the status of a posterior."""
    return _OF_POSTERIORS.get(status, str(status.value))


def among(states: npt.NDArray[np.object_], group: frozenset[Status]) -> Flags:
    """Which statuses are in the group, (B,)."""
    return np.array([state in group for state in states])

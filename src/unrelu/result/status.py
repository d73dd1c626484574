"""Statuses: how an inversion or a posterior ended, what that means, and what to do next."""

from __future__ import annotations

import enum
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from unrelu.result.residual_tests import TESTS, deciding
from unrelu.runtime.array_types import Flags
from unrelu.runtime.words import number, p_value_text, probability


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
        "does not explain the observation: it is out of the generator's range, the noise is not as stated, or a better "
        "code was missed"
    )
    NO_EXACT_FIT = (
        "no exact fit was found, though no entry of the observation shows noise: it is rounded, or out of the "
        "generator's range, or the search missed its code: raise rounds, or state noise= to judge the fit"
    )
    REFOUND = (
        "independent starts came to the best objective again, to 1%: state noise= to judge the fit, or raise rounds or "
        "calibrate for more confidence that no better code exists"
    )
    CONVERGED = (
        "converged to a first-order stationary code, but the fit is not exact: state noise= to judge it, or compare "
        "other starts"
    )
    STOPPED = "stopped before the end, by the callback or at the iteration limit; the codes are the best so far"
    TIME_LIMIT = "stopped at the time limit: raise time_limit or use a faster method"
    ERROR = "could not be inverted: its message says why"

    MIXED = "the chains agree; nothing shows that a part of the posterior was missed"
    NOT_MIXED = "the chains have not mixed: raise draws, or state more of the code by prior= or bounds="

    def __str__(self) -> str:
        return self.name


class Ending(enum.Enum):
    """How a method ended, more precisely than its status: the status, and a message that replaces the status's."""

    FOUND_ONCE = (
        Status.CONVERGED,
        "the best of all starts, but no independent start confirmed it: raise rounds, or state noise= to judge the fit",
    )
    LEAST_SQUARES = (
        Status.CONVERGED,
        "the best code found by least squares: there is no descent in this norm without a Jacobian, which does "
        "not fit into memory",
    )
    FLAT = (
        Status.CONVERGED,
        "the output does not change with the code here, as all neurons are off or saturated: start elsewhere",
    )
    ITERATION_LIMIT = Status.STOPPED, "stopped at the iteration limit before convergence: raise max_iterations"
    NOT_REALIZABLE = (
        Status.NO_EXACT_FIT,
        "no code reproduces the observation exactly: use method='linf' or 'l1', or 'lm' from their codes",
    )
    UNDETERMINED = (
        Status.ERROR,
        "a layer does not determine its input, so going on layer by layer lost the code: use method='lm'",
    )
    DIVERGED = (
        Status.ERROR,
        "the search left the range of numbers; the last finite code is returned: start nearer or take shorter steps",
    )
    SOLVER_FAILED = (
        Status.ERROR,
        "a layer's program could not be solved to its optimum; the weights may be badly conditioned: use method='lm'",
    )
    NO_CODE = Status.ERROR, "no code was found for this observation"
    # Verdicts from the residuals of a search, if no noise is stated.
    OUTLIER = (
        Status.MISFIT,
        "its residual is far above that of the rest of the batch: a better code was missed, or the observation "
        "is unlike the others; look at it, or pass pool=False where the observations do not belong together",
    )
    NO_BETTER_THAN_CHANCE = (
        Status.MISFIT,
        "explains no more of the observation than a fit of white noise would: it is out of the generator's range, "
        "or the search missed its code: look at it, or state noise= to judge the fit",
    )

    def __str__(self) -> str:
        return self.name


def ending_of(name: str) -> Status | Ending:
    """Return the status or ending with this name, as in files; raise a KeyError for any other name."""
    return Status[name] if name in Status.__members__ else Ending[name]


def status_of(ending: Status | Ending) -> Status:
    """Return the status that users see."""
    return ending.value[0] if isinstance(ending, Ending) else ending


# Verdicts from the residual. A method cannot claim them.
JUDGED: frozenset[Status | Ending] = frozenset({
    Status.EXACT_FIT, Status.NOT_UNIQUE, Status.NOISE_LEVEL, Status.MISFIT, Status.NO_EXACT_FIT, Ending.OUTLIER,
    Ending.NO_BETTER_THAN_CHANCE,
})  # fmt: skip
# Endings that claim a code: a local optimum, or a verdict from its residual.
HAS_CODE: frozenset[Status | Ending] = JUDGED | {
    Status.REFOUND, Status.CONVERGED, Ending.FOUND_ONCE, Ending.LEAST_SQUARES, Ending.FLAT
}  # fmt: skip
# Endings of a method that was stopped or broke down. Until that is fixed, its misfit says nothing.
CUT_OFF: frozenset[Status | Ending] = frozenset({
    Status.TIME_LIMIT, Status.STOPPED, Status.ERROR, Ending.DIVERGED, Ending.NO_CODE, Ending.SOLVER_FAILED
})  # fmt: skip
# Endings of a search. They say nothing about the size of the misfit.
SEARCHED: frozenset[Status | Ending] = frozenset({Status.REFOUND, Ending.FOUND_ONCE})
# What an inversion's statuses mean for a posterior.
_OF_POSTERIORS = {
    Status.TIME_LIMIT: "stopped at the time limit before the chains agreed: raise time_limit",
    Status.STOPPED: "stopped by the callback or Ctrl-C before the chains agreed; the draws are those so far",
    Status.ERROR: (
        "could not be sampled: numbers overflowed, or y is so far out of the generator's range that log-likelihoods "
        "are rounding: look at invert first"
    ),
}


def among(endings: npt.NDArray[np.object_], group: Collection[Status | Ending]) -> Flags:
    """Check which endings are in the group, (B,)."""
    return np.array([ending in group for ending in endings], dtype=bool)


# The columns of an observation that :func:`message_of` reports.
TELLING = ("p_value", "confidence", "freedom", *TESTS)


def meaning_of(ending: Status | Ending) -> str:
    """Explain an ending, without numbers."""
    return str(ending.value) if isinstance(ending, Status) else str(ending.value[1])


def message_of(ending: Status | Ending, p_value: float, confidence: float, freedom: int, *tests: float) -> str:
    """Explain an observation's ending, with the numbers that decided it, see :data:`TELLING`."""
    told = {
        Status.NOT_UNIQUE: f" ({freedom} free dimensions)",
        Status.NOISE_LEVEL: f" ({p_value_text(p_value)})",
        Status.MISFIT: f" ({p_values(p_value, *tests)})",
        **dict.fromkeys((*SEARCHED, Status.NO_EXACT_FIT), f" (confidence {probability(confidence)})"),
    }
    return meaning_of(ending) + told.get(ending, "")


def p_values(p_value: float, *tests: float, under: str = "") -> str:
    """Format the p-value and, if several tests were made, the p-value of each, (3,), and name the test that decides."""
    whole, by = f"{p_value_text(p_value)}{under}", int(deciding(np.array([tests]))[0])
    if by < 0:
        return whole
    made = [(name, probability(p), i == by) for i, (name, p) in enumerate(zip(TESTS.values(), tests, strict=True))]
    each = [f"{name} {p}{' (decides)' * decides}" for name, p, decides in made if p != number(None)]
    return f"{whole} of {len(each)} tests together: {', '.join(each)}"


def meaning_of_posterior(status: Status) -> str:
    """Explain the status of a posterior."""
    return _OF_POSTERIORS.get(status, str(status.value))

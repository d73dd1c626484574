"""What a method returns: codes with their status, and a check of every number from scratch."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.problem import Problem

__all__ = ["Inversion", "Status"]

Array = npt.NDArray[np.float64]


class Status(enum.Enum):
    """How an inversion ended; the value says what to do next."""

    EXACT_FIT = "fits the observation exactly, to numerical precision"
    NOT_UNIQUE = "fits the observation exactly, but so does a whole set of codes; more observed outputs would be needed"
    NOISE_LEVEL = "fits the observation to the stated noise level"
    REFOUND = "the best objective was found again from other starts, to 1%; no better code is known"
    FOUND_ONCE = "the best of all starts, but no other start came to it: raise rounds, or state noise= to judge the fit"
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
    SOLVER_FAILED = "the LP solver broke down on this observation: use method='least_squares' or 'lm'"

    def __str__(self) -> str:
        return self.name


_SUCCESS = frozenset({Status.EXACT_FIT, Status.NOT_UNIQUE, Status.NOISE_LEVEL, Status.REFOUND})
# These speak of a code.
_HAS_CODE = _SUCCESS | {Status.CONVERGED, Status.FOUND_ONCE, Status.LEAST_SQUARES, Status.FLAT}


@dataclass(frozen=True, eq=False)
class Inversion:
    """Latent codes for one observation or a batch.

    All arrays have the batch's leading shape: scalars for one observation, (B,) for a batch.

    Attributes:
        z: codes, (k,) or (B, k). NaN where an observation was not reached before a limit.
        x: G(z), in the network's output shape.
        fun: the objective at z: that of the method, or of ``norm`` if one was asked for.
        success: fits exactly, or to the stated noise level, or was found again from another start.
        status: one :class:`Status` an observation.
        message: what the status means.
        nit: iterations (linear programs, Newton or gradient steps) spent.
        seconds: wall time of each observation; where they were worked on together, an equal share.
        method: the method's name.
        freedom: the dimension of the set of codes near z that fit equally well, where the fit is exact and it could be
            told; else -1. At kinks it is a lower bound.
        rank: the rank of A J, J the Jacobian of G at z; -1 without a code.
        identifiable: whether no other code near z has the same A G(z): mostly, that the rank is k. Of an exact fit also
            that it tells z to 1e-6 of its length (1e-3 in single precision): that is what the residual that is left can
            hide in the softest direction. A code elsewhere may still fit as well. See :func:`unrelu.identifiability`.
    """

    z: Array
    x: Array
    fun: Any
    success: Any
    status: Any
    message: Any
    nit: Any
    seconds: Any
    method: str
    freedom: Any
    rank: Any
    identifiable: Any
    problem: Problem = field(repr=False)

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
        found: npt.NDArray[np.int64] | None = None,
    ) -> Inversion:
        """Judge codes: compute outputs, objectives and status. This is how a method of your own ends.

        An exact fit, or one to the stated noise level, overrides the ``status`` that is passed in.

        Args:
            problem: the problem that was solved.
            z: codes, (B, k); rows with NaN are failures.
            method: a name to report.
            status: how the method ended, one for all or (B,).
            nit: iterations, one number or (B,).
            norm: the norm that the method minimises, if it is not the problem's.
            found: how often the best objective was found, (B,), for the message of REFOUND.
            seconds: wall time of each observation, (B,); None shares the time so far equally.

        Raises:
            InputError: z has another shape.
            OptionError: a status is not a :class:`Status`.
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
        states[~reached & np.array([s in _HAS_CODE for s in states])] = Status.NO_CODE
        states[reached & problem.fits_noise(z)] = Status.NOISE_LEVEL
        states[reached & problem.fits_exactly(z)] = Status.EXACT_FIT
        message = np.array([s.value for s in states], dtype=object)
        if found is not None:
            for i in np.flatnonzero(states == Status.REFOUND):
                message[i] = f"{Status.REFOUND.value} (found {found[i]} times)"
        share = problem.control.elapsed() / problem.size
        return cls(
            z=z,
            x=problem.network(z),
            fun=problem.objective(z, norm),
            success=np.array([s in _SUCCESS for s in states]),
            status=states,
            message=message,
            nit=np.array(np.broadcast_to(nit, (problem.size,)), dtype=np.int64),
            seconds=np.array(np.broadcast_to(share if seconds is None else seconds, (problem.size,)), dtype=np.float64),
            method=method,
            freedom=np.full(problem.size, -1),
            rank=np.full(problem.size, -1),
            identifiable=np.zeros(problem.size, dtype=bool),
            problem=problem,
        )

    def with_freedom(self, freedom: npt.NDArray[np.int64]) -> Inversion:
        """The same result with the dimension of the solution set of each exact fit, (B,), -1 where unknown."""
        states = self.status.copy()
        states[freedom > 0] = Status.NOT_UNIQUE
        message = self.message.copy()
        for i in np.flatnonzero(freedom > 0):
            message[i] = f"{Status.NOT_UNIQUE.value} ({freedom[i]} free dimensions)"
        return replace(self, status=states, message=message, freedom=freedom)

    def with_identifiability(self, rank: npt.NDArray[np.int64], identifiable: npt.NDArray[np.bool_]) -> Inversion:
        """The same result with the rank of A J at each code, -1 where there is none, and whether it is identifiable."""
        return replace(self, rank=rank, identifiable=identifiable)

    def measured_in(self, norm: str) -> Inversion:
        """The same codes with ``fun`` in another norm than the method's own."""
        return replace(self, fun=self.problem.objective(self.z, norm))

    def shaped(self) -> Inversion:
        """The result as the caller sees it: without the batch axis if one observation was given without it."""
        if not self.problem.single:
            return self
        first = {
            "z": self.z[0], "x": self.x[0], "fun": float(self.fun[0]), "success": bool(self.success[0]),
            "status": self.status[0], "message": self.message[0], "nit": int(self.nit[0]),
            "seconds": float(self.seconds[0]),
            "freedom": int(self.freedom[0]), "rank": int(self.rank[0]), "identifiable": bool(self.identifiable[0]),
        }  # fmt: skip
        return replace(self, **first)

    def residual(self, norm: str = "l2") -> Any:
        """``|y - A G(z)|`` in "l2", "l1" or "linf", recomputed from z: a float, or (B,).

        Raises:
            InputError: the norm is none of these.
        """
        if norm not in ("l2", "l1", "linf"):
            raise InputError(f"norm {norm!r} is unknown; use 'l2', 'l1' or 'linf'")
        r = self.problem.residual(np.atleast_2d(self.z))
        order = {"l2": 2, "l1": 1, "linf": np.inf}[norm]
        with np.errstate(over="ignore"):  # a diverged code may be astronomically large
            values = np.linalg.norm(r, ord=order, axis=1)
        return float(values[0]) if self.problem.single else values

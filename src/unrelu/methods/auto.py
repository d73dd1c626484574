"""``auto``: a layer-wise start where the layers allow it, joint refinement, and more starts until one is re-found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.errors import OptionError
from unrelu.generator import Generator
from unrelu.methods.lm import LevenbergMarquardt
from unrelu.methods.observed import mixes
from unrelu.methods.starts import LAYER_METHODS, starting_codes
from unrelu.network import Network
from unrelu.opaque import unchained
from unrelu.problem import Control, Problem, Progress
from unrelu.result import Inversion, Status

__all__ = ["Auto", "layerwise_reason"]

Array = npt.NDArray[np.float64]

# Two objectives this close relative to each other are the same optimum.
_SAME = 1e-6
# Codes further apart than this, relative to their length, are not the same optimum even at the same objective.
_APART = 1e-3
# A layer with more entries in its matrix than this is not inverted layer by layer just to get a start.
_ENTRIES = 4_000_000


@dataclass(frozen=True)
class Auto:
    """Levenberg-Marquardt from a layer-wise start, then from random ones, keeping the best code of each observation.

    The first start is z0 if given, else the ``layer_method``'s code if every layer expands and is monotone, else
    random. An observation is finished when its code fits exactly or to the stated noise level, when its best objective
    was found ``consensus`` times, or after ``starts`` starts. Codes are refined in l2 and compared in the problem's
    norm: for linf and l1 the best is the best of the codes seen, no optimum, and is not said to be re-found.

    Args:
        starts: starts at most.
        consensus: how often the best objective has to be found to be trusted.
        layer_method: what gives the layer-wise start; least squares is the cheapest.
        max_iterations: Levenberg-Marquardt steps of each start.

    Raises:
        OptionError: an option has a value it cannot take.
    """

    starts: int = 20
    consensus: int = 3
    layer_method: str = "least_squares"
    max_iterations: int = 200

    def __post_init__(self) -> None:
        for name in ("starts", "consensus"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)} must be at least 1")
        if self.layer_method not in LAYER_METHODS:
            raise OptionError(f"layer_method={self.layer_method!r} is unknown; use one of {', '.join(LAYER_METHODS)}")
        LevenbergMarquardt(max_iterations=self.max_iterations)

    def __call__(self, problem: Problem) -> Inversion:
        """Search for the best code of every observation."""
        refine = LevenbergMarquardt(max_iterations=self.max_iterations)
        tally = _Tally(problem)
        rng = np.random.default_rng(problem.seed)
        layerwise = problem.z0 is None and layerwise_reason(problem.network) is None and not mixes(problem)
        reason = Status.CONVERGED
        for attempt in range(self.starts):
            rows = np.flatnonzero(~tally.finished(self.consensus))
            if not len(rows):
                break
            # A further start needs a Jacobian of every open observation before it can be stopped.
            if problem.control.remaining() < (0.1 * problem.control.time_limit if attempt else 1e-9):
                reason = Status.TIME_LIMIT
                break
            # All rows draw, so that the codes tried on one observation do not depend on the others' progress.
            draw = rng.standard_normal((problem.size, problem.network.latent_dim))[rows]
            part = problem.part(rows, _watch(problem, tally))
            if attempt == 0 and layerwise:
                start, spent, _, stopped = starting_codes(part, self.layer_method)
                tally.add(rows, start, spent, np.full(len(rows), Status.CONVERGED, dtype=object))
                if stopped:
                    reason = Status.STOPPED
                    break
            elif attempt == 0 and problem.z0 is not None:
                start = problem.z0[rows]
            else:
                start = draw
            z, status, steps = refine.minimise(part, start)
            tally.add(rows, z, steps, status, final=True)
            if Status.STOPPED in status:
                reason = Status.STOPPED
                break
        states = np.full(problem.size, reason, dtype=object)
        if reason is Status.CONVERGED:
            states = tally.status.copy()
        states[tally.count >= self.consensus] = Status.REFOUND
        return Inversion.of(problem, tally.z, method="auto", status=states, nit=tally.nit)


class _Tally:
    """The best code of each observation and how often its objective was found."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.z = np.full((problem.size, problem.network.latent_dim), np.nan)
        self.fun = np.full(problem.size, np.inf)
        self.status = np.full(problem.size, Status.CONVERGED, dtype=object)
        self.count = np.zeros(problem.size, dtype=np.int64)
        self.nit = np.zeros(problem.size, dtype=np.int64)

    def add(
        self,
        rows: npt.NDArray[np.intp],
        z: Array,
        steps: npt.NDArray[np.int64],
        status: npt.NDArray[np.object_],
        final: bool = False,
    ) -> None:
        """Compare codes of some rows with the best so far; only ``final`` ones, local optima, count as found again."""
        full = self.z.copy()
        full[rows] = z
        fun = self.problem.objective(full)[rows]
        with np.errstate(invalid="ignore"):  # the objective of a huge code is infinite
            same = np.abs(fun - self.fun[rows]) <= _SAME * np.minimum(fun, self.fun[rows])
        better = fun < self.fun[rows]
        # Only a converged run is a local optimum, and only those of the norm that was minimised can be found again.
        found = final & (status == Status.CONVERGED) & (self.problem.norm == "l2")
        # Dead neurons bring many starts to the objective of z = 0 or of no output at all: that is no agreement.
        with np.errstate(over="ignore", invalid="ignore"):
            apart = np.linalg.norm(z - self.z[rows], axis=1) > _APART * (1 + np.linalg.norm(z, axis=1))
            found &= fun < (1 - _SAME) * (self.problem.y[rows] ** 2).sum(axis=1)
        same &= ~apart
        self.count[rows] = np.where(same, self.count[rows] + found, np.where(better, found, self.count[rows]))
        self.z[rows[better]], self.fun[rows[better]] = z[better], fun[better]
        # A start that did better or as well, and converged, settles how the best code ended.
        settled = better | (same & (status == Status.CONVERGED))
        self.status[rows[settled]] = status[settled]
        self.nit[rows] += steps

    def finished(self, consensus: int) -> npt.NDArray[np.bool_]:
        """Rows with an exact fit, a fit to the stated noise, or enough agreement."""
        reached = np.isfinite(self.z).all(axis=1)
        fits = self.problem.fits_exactly(self.z) | self.problem.fits_noise(self.z)
        return np.asarray((reached & fits) | (self.count >= consensus))


def _watch(problem: Problem, tally: _Tally) -> Control:
    """The control of one start: what is left of the time, and the callback shown the whole batch."""
    callback = problem.control.callback

    def report(progress: Progress) -> bool:
        assert callback is not None
        done = problem.size - progress.total  # what this start is still working on may need another one
        nit = int(tally.nit.max()) + progress.nit
        return bool(callback(Progress("auto", nit, done, problem.size, tally.z.copy())))

    return Control(problem.control.remaining(), report if callback else None)


def layerwise_reason(network: Generator) -> str | None:
    """Why ``auto`` does not start layer by layer on this network; None if it does."""
    if not isinstance(network, Network):
        return unchained(network)
    for i, layer in enumerate(network.layers, 1):
        if layer.expansion < 1:
            return f"layer {i} does not expand ({layer.n_in} -> {layer.n_out})"
    for i, layer in enumerate(network.layers, 1):
        if not layer.activation.monotone:
            return f"layer {i} has a PReLU with a negative slope"
        if layer.n_in * layer.n_out > _ENTRIES:
            return f"layer {i} is large ({layer.n_in} -> {layer.n_out})"
    return None

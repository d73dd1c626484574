"""``auto``: the joint search for the best code of every observation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from weakref import WeakMethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import OptionError
from unrelu.models.network import Network
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion, Status
from unrelu.search.confidence import Candidates
from unrelu.search.halting import Watch
from unrelu.search.levenberg_marquardt import LevenbergMarquardtSteps, polish
from unrelu.search.norm_finish import finish
from unrelu.search.sample_bank import Bank, fits_single
from unrelu.search.search_starts import SearchStart, SearchStarts, cheap_by_layer
from unrelu.search.squared_error import MixedSquaredError, SquaredError

Array = npt.NDArray[np.float64]

# Smoothing schedule: widths of the smoothed kinks, as fractions of what their layer puts out; one step with each.
_WIDTHS = tuple(0.5 * 50 ** (-i / 7) for i in range(8))
# Steps on the exact generator after those, and the decrease at which they end.
_EXACT_STEPS = 16
_ENOUGH_DECREASE = 1e-2
# Fractions of |y|^2. Below the first a code found in single precision may be an exact fit, below the second an exact
# fit may be next to it, on the other side of a kink, and below the third single precision sees no difference.
_EXACT = 1e-8
_NEARLY_EXACT = 1e-6
_ZERO = 1e-12
# Steps in double precision that an exact fit may take.
_EXACT_FIT_STEPS = 200
# A larger prior leaves single precision.
_LARGEST_PRIOR = 1e12
# A code is refined until two steps in a row each gain less than this fraction of its objective, and has converged if
# the last ten together gained less than that one; agreement means agreement to 1%.
_REFINED_DECREASE = 3e-4
_LAST_STEPS, _CONVERGED = 10, 1e-3


@dataclass(frozen=True)
class Search:
    r"""Multi-start descents and basin hopping from the best code, until independent starts agree.

    One descent goes down :math:`|y - A G(z)|_2^2 + \lambda |z|_2^2` by Levenberg-Marquardt with a smoothing homotopy:
    one step on each of eight generators whose kinks are rounded off, less and less, then steps on the exact one. The
    first starts from the linear minimum mean square error estimate of z that 4,096 samples of the generator give for
    this measurement (or from ``z0``), the second from the nearest of the samples, the others from random codes and, on
    the exact generator only, from perturbations of the best code (basin hopping), longer along directions that change
    the output little. Where the layers allow it, a layer-wise code is one of the starts: that of ``exact`` for
    observations without visible noise, and that of ``least_squares`` where no two descents have agreed by the third
    round.

    An observation is finished when its code fits exactly, when its objective is at most the mean energy of the stated
    noise (not with a prior), when ``consensus`` descents from independent starts ended at its best objective, to 1%
    (once more below 1e-6 of :math:`|y|^2`, where an exact fit may be near), or after ``rounds`` rounds. Perturbations
    of the best code and ``z0`` are no independent starts: descents from them may find a better code, but that they
    come back to this one is no evidence for it. The confidence of the result follows from the number of independent
    descents and of the optima they ended in, see :func:`~unrelu.search.confidence.best_seen_probability`.

    The search runs in single precision; its best code is refined in double precision. For l1 and linf that code is
    where :class:`~unrelu.search.norm_descent.NormDescent` starts, beside a reweighted (l1) and a layer-wise one; of a
    generator without known layers the l2 code is returned.

    Args:
        rounds: rounds of descents at most; the first two have one start each beside the layer-wise one, the others a
            random code and two perturbations of the best.
        consensus: how many independent descents have to end at the best objective. Two that agree are a confidence of
            0.64, 51 of 0.99; small and contracting generators, noise and few measurements need more than two.
        max_iterations: Levenberg-Marquardt steps of the refinement at most.
        max_programs: linear programs of a descent in l1 or linf.

    Raises:
        OptionError: an option has a value it cannot take.
    """

    rounds: int = 8
    consensus: int = 2
    max_iterations: int = 50
    max_programs: int = 100

    def __post_init__(self) -> None:
        for name in ("rounds", "consensus", "max_iterations", "max_programs"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)} must be at least 1")

    def __call__(self, problem: Problem) -> Inversion:
        """Search for the best code of every observation."""
        run = _Run(problem, self)
        run.search()
        z, status = run.refined()
        return Inversion.of(
            problem, z, method="auto", status=status, nit=run.best.steps.cpu().numpy(), confidence=run.confidence()
        )


class _Run:
    """One search: its generators in single precision, its starts and its candidates."""

    def __init__(self, problem: Problem, options: Search) -> None:
        self.problem, self.options = problem, options
        self.bank = Bank.of(problem.network)
        single = self.bank.fits and fits_single(float(np.abs(problem.y).max())) and problem.prior < _LARGEST_PRIOR
        network = self.bank.single if single else problem.network
        self.objective = SquaredError.of(problem, network)
        self.rounded = [self.objective.with_network(self.bank.rounded(width, network)) for width in _WIDTHS]
        self.best = Candidates(self.objective.y, problem.network.latent_dim)
        self.cutoff = self._cutoff()
        self.exact = torch.zeros(problem.size, dtype=torch.bool, device=self.objective.y.device)
        self.refuted = torch.full_like(self.best.f, torch.inf)  # objectives of codes that proved to be no exact fits
        # Of a cycle of references, the tensors would stay until the garbage collector comes by, hundreds of megabytes
        # later in a long row of searches.
        progress = WeakMethod(self._progress)

        def report() -> Progress:
            method = progress()
            assert method is not None
            return method()

        self.starts = SearchStarts(problem, self.bank, self.objective, self.best, report)
        self.watch = Watch(problem.control, report)

    def _cutoff(self) -> Tensor:
        """The mean of the stated noise's energy, (B,); below every objective where that says nothing.

        More of it would not prove a code wrong, but may be a local optimum. Of few entries the fit takes so many
        degrees of freedom that less is no explanation either. With a prior a code at the noise level need not be the
        most probable one.
        """
        problem = self.problem
        if problem.prior:
            return self.objective.y.new_full((problem.size,), -1.0)
        used = np.full(problem.size, float(problem.network.latent_dim))
        accepted = problem.noise.accepted_energy(problem.observed, used)
        return self.objective.y.new_tensor(np.minimum(problem.noise.energy(problem.observed), accepted))

    def _progress(self) -> Progress:
        # In another norm an observation is finished when its descent in that norm is.
        done = int(self.finished().sum()) if self.problem.norm == "l2" else 0
        return Progress("auto", int(self.best.steps.max()), done, self.problem.size, self.best.codes())

    # --- rounds -------------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Round after round, until every observation is finished or the watch says stop."""
        if self.problem.z0 is not None:
            self._accept_exact_starts(self.problem.z0)
        for turn in range(self.options.rounds):
            for start in self.starts.of_round(turn):
                rows = torch.nonzero(~self.finished())[:, 0]
                if not len(rows) or self.watch():
                    return
                rows, z = start.codes(rows)
                self.watch.rest()
                self._descend(rows, z, start)
                if self.watch.reason:
                    return
                self._confirm_exact()

    def finished(self) -> Tensor:
        """Observations with an exact fit, a fit to the stated noise, or enough agreement, (B,)."""
        return self.exact | (self.best.f <= self.cutoff) | (self.best.times_found >= self._wanted())

    def _wanted(self) -> Tensor:
        """How often the best objective has to be found, (B,): once more where an exact fit may be near."""
        return self.options.consensus + (self.best.f <= _NEARLY_EXACT * self.best.size).long()

    def _accept_exact_starts(self, z0: Array) -> None:
        fits = self.problem.fits_exactly(z0)
        rows = torch.nonzero(torch.from_numpy(fits).to(self.exact.device))[:, 0]
        if len(rows) and not self.problem.prior:
            at_start = LevenbergMarquardtSteps(self.objective, self.objective.tensor(z0[fits]), rows)
            self.best.add(at_start, torch.zeros_like(rows), independent=False)
            self.best.replace(rows, z0[fits])
            self.exact[rows] = True

    def _descend(self, rows: Tensor, z: Tensor, start: SearchStart) -> None:
        """One descent of every starting code; the candidates get where it ends."""
        if not len(rows):
            return
        steps = torch.zeros_like(rows)
        damping: Tensor | float = 1e-2
        for objective in self.rounded if start.smoothed else []:
            if self.watch():
                break
            state = LevenbergMarquardtSteps(objective, z, rows, damping=damping, tiny_decrease=1e-4).run(1)
            z, damping, steps = state.z, state.damping, steps + state.steps
        if self.watch.reason and torch.isfinite(self.best.f[rows]).all():
            return
        floor = _ZERO * self.best.size[rows]
        state = LevenbergMarquardtSteps(
            self.objective, z, rows, damping=damping, tiny_decrease=_ENOUGH_DECREASE, tiny_step=1e-9, foresee=True,
            enough=torch.maximum(floor, self.cutoff[rows]),
        )  # fmt: skip
        state.run(_EXACT_STEPS, self.watch)
        # Where a descent was cut off it has not found anything again.
        self.best.add(state, steps + state.steps, independent=start.independent and self.watch.reason is None)

    def confidence(self) -> Array:
        """Of the agreement of the starts, (B,); 0 in l1 and linf, since what they agree on is the l2 objective."""
        known = self.best.confidence()
        return known if self.problem.norm == "l2" else np.zeros_like(known)

    # --- double precision ---------------------------------------------------------------------------------------------

    def _confirm_exact(self) -> None:
        """Refine codes that look like exact fits in double precision, and see whether they are."""
        near = (self.best.f <= _EXACT * self.best.size) & ~self.exact & (self.best.f < 0.5 * self.refuted)
        rows = torch.nonzero(near)[:, 0]
        if self.problem.prior or not len(rows):
            return
        self.refuted[rows] = self.best.f[rows]
        z, _ = self._in_double(rows, _EXACT_FIT_STEPS)
        fits = torch.from_numpy(self.problem.part(rows.cpu().numpy()).fits_exactly(z)).to(rows.device)
        self.best.replace(rows, z)
        self.exact[rows[fits]] = True

    def _in_double(self, rows: Tensor, steps: int) -> tuple[Array, Tensor]:
        """Codes of some observations in the network's own precision, (b, k), and whether they converged, (b,)."""
        objective = MixedSquaredError(SquaredError.of(self.problem), self.objective)
        z = objective.tensor(self.best.double[rows.cpu().numpy()])
        exact = 1e-30 * objective.y[rows].square().sum(dim=1)
        z, f, arrived = polish(objective, z, rows, self.best.gram[rows], exact)
        for precise, most, decrease in (
            (objective, self.options.max_iterations, _REFINED_DECREASE),
            (objective.double, steps, 1e-13),
        ):
            # Where the generator is badly conditioned, single precision arrives before an exact fit is reached.
            left = torch.nonzero(~arrived if precise is objective else f > exact)[:, 0]
            if len(left) and most:
                state = LevenbergMarquardtSteps(
                    precise, z[left], rows[left], damping=1e-4, enough=exact[left], tiny_decrease=decrease
                )
                before = state.run(max(0, most - _LAST_STEPS), self.watch).f.clone()
                z[left] = state.run(min(most, _LAST_STEPS), self.watch).z
                f[left] = state.f
                arrived[left] = state.done | (state.f >= (1 - _CONVERGED) * before)
        return z.cpu().double().numpy(), arrived

    def refined(self) -> tuple[Array, npt.NDArray[np.object_]]:
        """Codes (B, k) and how each search ended, (B,)."""
        rows = torch.nonzero(~self.exact & torch.isfinite(self.best.f))[:, 0]
        status = np.full(self.problem.size, Status.FOUND_ONCE, dtype=object)
        status[self.best.times_found.cpu().numpy() > 1] = Status.REFOUND
        near = self.best.f[rows] <= _EXACT * self.best.size[rows]
        for some, steps in ((rows[~near], 0), (rows[near], 0 if self.problem.prior else _EXACT_FIT_STEPS)):
            if len(some) and not self.watch.reason:
                refined, converged = self._in_double(some, steps)
                self.best.replace(some, refined)
                status[some[~converged].cpu().numpy()] = Status.ITERATION_LIMIT
        status[self.best.flat().cpu().numpy()] = Status.FLAT
        if self.watch.reason:
            # What is found again in l2 need not be the best in another norm.
            unfinished = ~self.finished().cpu().numpy() | (self.problem.norm != "l2")
            status[unfinished] = self.watch.reason
        elif self.problem.norm != "l2":
            return self._in_norm(status)
        return self.best.double, status

    def _in_norm(self, status: npt.NDArray[np.object_]) -> tuple[Array, npt.NDArray[np.object_]]:
        """The codes after the descent in l1 or linf, and how that ended."""
        z = self.best.double
        known = np.flatnonzero(np.isfinite(z).all(axis=1))
        if not isinstance(self.problem.network, Network):
            status[known] = Status.LEAST_SQUARES
        elif len(known):
            control = self.problem.control.part(lambda progress: replace(self._progress(), done=progress.done))
            part = self.problem.part(known, control)
            z[known], status[known] = finish(part, z[known], self.options.max_programs, cheap_by_layer(part))
        return z, status

"""``auto``: the joint search for the best code of every observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.special import chdtri
from torch import Tensor

from unrelu.layerwise.layer_by_layer import layerwise_reason
from unrelu.local_search.halting import Watch
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps, on_plateau, refine_damped
from unrelu.local_search.norm_descent import NormDescent
from unrelu.local_search.refinement import refine
from unrelu.local_search.squared_error import SquaredError
from unrelu.local_search.starts import starting_codes
from unrelu.measurements.folding import is_one_layer
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.result import Ending, Status
from unrelu.result.residual_tests import too_large
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.memory_limits import PERTURBATION_NUMBERS, at_once
from unrelu.runtime.run_control import Progress
from unrelu.runtime.streams import stream
from unrelu.search._norm_finish import PERTURBATIONS, finish
from unrelu.search._schedules import effort
from unrelu.search._search_state import SearchState
from unrelu.search._stopping_rule import BudgetUsed, StoppingRule
from unrelu.search.confidence import FLAT, confidence
from unrelu.search.descents import BatchDescents, CompiledDescents, Start, descents_for
from unrelu.search.sample_cache import SampleCache, SearchStarts, fits_single, single
from unrelu.thresholds import SAME_OPTIMUM, SIGNIFICANCE

# A code found in single precision may be an exact fit if its objective is below this fraction of |y|^2.
_EXACT = 1e-6
# Without stated noise, an exact fit may exist if a code explains all but this fraction of |y|^2.
_CLOSE = 1e-4
# The number of perturbations of the best code before the first test for an exact fit; it doubles after each test.
_AT_ONCE = 16
# If half of the restarts end above this multiple of the best objective, a far better code may exist. Tuned on NNERO's
# emulator, where this happens, and on real digits with four decoders of TUNE, where it does not.
_SCATTERED = 2.0
# Below this confidence, a longer search may find a better code. On ambiguous observations of the tuning generators,
# sixteen times the budget misses half as many best codes, in the same median time.
_UNSURE = 0.9
# In l1 the l2 code is only a start, so this many agreeing restarts are enough.
_AGREE = 2
# The most steps towards an exact fit in double precision. A Jacobian of a large generator is expensive.
_EXACT_FIT_STEPS, _EXACT_FIT_STEPS_LARGE = 200, 10
# A layer-wise start is tried if the least-squares problem of each layer takes at most this work, n k^2.
_LAYER_WORK = 5e7
# A prior above this one needs double precision.
_LARGEST_PRIOR = 1e12
# The most steps of a refinement, if the user states none: trained decoders take 70 to 800 on average.
REFINED = 3000
# Objectives below this fraction of |y|^2 are rounding in double precision: outputs are off by 100 units.
_ROUNDING = 5e-28
# The most further local optima in l2 from which descents seek a code within the bounds of uniform noise.
_FURTHER = 6


def flat_confidence(search: JointSearch, observations: Index) -> Array:
    """Compute the confidence of some observations with the flat prior, (b,)."""
    return confidence(FLAT, search.state.count_restarts().subset(observations))


def by_agreement(search: JointSearch, observations: Index) -> Array:
    """Return 1 for observations whose restarts agree in l2, else 0; this is enough for a starting code in l1."""
    return np.where(search.state.count_restarts().best[observations] >= _AGREE, 1.0, 0.0)


def searched_objective(problem: Problem, cache: SampleCache) -> SquaredError:
    """Return the objective of a search, in single precision unless the generator, y or the prior exceed its range."""
    fits = cache.fits and fits_single(float(np.abs(problem.y).max())) and problem.prior < _LARGEST_PRIOR
    return SquaredError.of(problem, single(problem.network) if fits else problem.network)


class JointSearch:
    """One search: independent restarts, and the best code of each observation.

    Attributes:
        state: what the search has found and done so far.
        rule: decides when the search stops.
        large: whether the generator is large, see :class:`~unrelu.search.sample_cache.SampleCache`.
        noiseless: whether y looks noiseless, so that an exact fit exists if the generator made the observation, (B,).
        watch: checks whether the time limit or the callback ends the search.

    Args:
        problem: an equilibrated problem.
        judge: returns the confidence of some observations of a search, (b,).
        sure: the confidence that ends the search of an observation.
        rounds: the largest number of rounds; with None, the schedule of the descents decides.
        pool: see :class:`~unrelu.search.auto.Search`.
        simulated: whether the observations are simulated. These have no exact fits, and no longer searches.
    """

    def __init__(
        self, problem: Problem, judge: Callable[[JointSearch, Index], Array] = flat_confidence, sure: float = 1.0,
        rounds: int | None = None, pool: bool = False, simulated: bool = False,
    ) -> None:  # fmt: skip
        self.problem, self.judge, self.pool, self.simulated = problem, judge, pool, simulated
        self.cache = SampleCache.of(problem)
        self.objective = searched_objective(problem, self.cache)
        self.descents = descents_for(problem, self.cache, self.objective)
        self.starts = SearchStarts(problem, self.cache, self.objective, self.descents.first_tempered)
        self.large = self.descents.schedule.large
        self.rule = rule = StoppingRule(self.descents.schedule, sure, rounds)
        self.noiseless = problem.looks_noiseless & (not simulated)
        self.state = state = SearchState(problem, rule.begin(self.noiseless), torch.finfo(self.objective.y.dtype).eps)

        def report() -> Progress:  # without self: in a cycle of references, tensors would stay in memory for long
            # In l1 and linf, an observation is not finished before its descent in that norm.
            sure = (state.exact | (state.probability >= rule.confidence)) & problem.differentiable
            return Progress("auto", int(state.steps.max()), int(sure.sum()), problem.size, state.z.copy())

        self.report = report
        self.watch = Watch(problem.control, report)

    # --- rounds -------------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Make rounds, then spend the rest of the budget on perturbations, until the watch says stop."""
        if self.problem.z0 is not None:
            self._begin_at(self.problem.z0)
        self.make_rounds()
        if self.rule.rounds is None and not self.watch.reason:
            unsure = np.flatnonzero(~self.rule.finished(self.budget_used()))
            self.perturb_best(unsure)
            if not self.watch.reason:  # descents that are cut off are no evidence
                self._judge(unsure)

    def make_rounds(self) -> None:
        """Make rounds until the rule stops every observation, or the watch says stop."""
        state = self.state
        while not self.watch.reason and len(observations := self._next()) and not self.watch():
            self.advance(observations, *effort(int(state.rounds[observations[0]]) + 1))
            if not self.watch.reason:
                state.rounds[observations] += 1
                if not self.simulated:
                    self._confirm_exact()
                self._judge(observations)
                if state.rounds[observations[0]] == 1:
                    self._start_by_layer(observations[self.noiseless[observations] & ~state.exact[observations]])

    def _next(self) -> Index:
        """Return the observations of the next round, which have all been through the same number of rounds."""
        state, wanted = self.state, self.rule.next(self.budget_used(), self._outlying)
        observations = np.flatnonzero(wanted & (state.rounds == state.rounds[wanted].min(initial=state.rounds.max())))
        # Noiseless observations already have restarts from the first rounds, which the others skipped.
        made = state.made[observations]
        return np.asarray(observations[made == made.min(initial=state.ends.shape[1])])

    def budget_used(self) -> BudgetUsed:
        """Return what the search has used of each observation's budget."""
        state, problem = self.state, self.problem
        close = (state.f <= _CLOSE * problem.energy) | state.exact.any()
        noiseless = self.noiseless | (close & (not (problem.prior or problem.noise.stated or self.simulated)))
        used = self.descents.microseconds(state.steps)
        learned = problem.differentiable and not (self.simulated or self.judge is flat_confidence)
        unsure = learned & (state.probability < _UNSURE)
        return BudgetUsed(state.rounds, used, state.exact, noiseless, self._misfit(), state.probability, unsure)

    def _misfit(self) -> Flags:
        """Check whether stated noise gives the objective a p-value below 1%, and restarts end far above it, (B,).

        Return False for noise without a density: pictures state their own rounding, but it explains no photograph.
        """
        problem, f = self.problem, self.state.f
        if problem.noise.without_density or not self.objective.squares or self.simulated or not self.state.ends.size:
            return np.zeros(problem.size, dtype=bool)
        left = np.maximum(problem.observed - (problem.weights == 0).sum(), 1)
        missed = np.median(self.state.ends, axis=1) > _SCATTERED * f
        return np.asarray(missed & (f > problem.noise.variance(problem.y) * chdtri(left, SIGNIFICANCE)))

    def _outlying(self) -> Flags:
        """Check whether the residual stands out from the batch, (B,), assuming a Jacobian of full rank."""
        if not (self.pool and self.problem.tells_level):
            return np.zeros(self.problem.size, dtype=bool)
        f = np.where(self.state.exact | self.problem.looks_noiseless, np.nan, self.state.f)
        return too_large(f, np.asarray(self.problem.observed - float(self.problem.network.latent_dim))) > 0

    def _judge(self, observations: Index) -> None:
        """Compute the confidence of some observations."""
        state = self.state
        open_ = observations[~state.exact[observations] & np.isfinite(state.f[observations])]
        if len(open_):
            state.probability[open_] = self.judge(self, open_)
        self.watch.rest()  # learning the prior does not count as a step
        if not self.simulated:
            sure = open_[state.probability[open_] >= self.rule.confidence]
            state.probability[sure[self._flat(sure)]] = 0.0  # dead neurons bring many starts to the same plateau

    def _flat(self, observations: Index) -> Flags:
        """Check by a reverse pass whether J is zero at the best codes of some observations (a plateau), (b,)."""
        if not len(observations):
            return np.zeros(0, dtype=bool)
        at, z = self.objective.index(observations), self.objective.tensor(self.state.z[observations])
        t = self.objective.sketch(z, at)
        return on_plateau(z, self.objective.values(z, at), t[:, :, None] * t[:, None, :]).cpu().numpy()

    # --- descents -----------------------------------------------------------------------------------------------------

    def advance(self, observations: Index, restarts: int, perturbations: int) -> None:
        """Raise the numbers of restarts and of perturbations of each restart, which all these observations share."""
        state = self.state
        room = ((0, 0), (0, max(0, restarts - state.ends.shape[1])))
        state.ends = np.pad(state.ends, room, constant_values=np.inf)
        state.restarts = np.pad(state.restarts, (*room, (0, 0)), constant_values=np.nan)
        done, old = int(state.perturbations[observations[0]]), int(state.made[observations[0]])
        for part in self._parts(observations, restarts * max(perturbations, 1)):
            if perturbations > done and old:
                self._improve(part, slice(0, old), perturbations - done)
            if restarts > old:
                state.restarts[part, old:restarts] = self.starts.codes(part, old, restarts - old)
                self._improve(part, slice(old, restarts), perturbations)
        state.perturbations[observations], state.made[observations] = perturbations, restarts

    def _improve(self, observations: Index, some: slice, perturbations: int) -> None:
        """Descend from the starts of new restarts, then perturb each restart ``perturbations`` times."""
        z, f = self.state.restarts[observations, some], self.state.ends[observations, some]
        self._descend(Start(observations, z, f, self.starts.perturbations(observations, f.shape[1], perturbations)))
        self.state.record(observations, some, z, f)

    def perturb_best(self, observations: Index, most: Index | None = None) -> None:
        """Spend the rest of the budget on perturbations of the best restarts, which find more than new restarts do.

        Each observation gets at most ``most`` perturbations, (b,).
        """
        state, left = self.state, self.rule.perturbations(self.budget_used())[observations]
        before = state.f[observations]
        state.perturbed[observations] = left > 0
        left = left if most is None else np.minimum(left, most)
        most_at_once = _AT_ONCE
        while (count := np.where(state.exact[observations], 0, np.minimum(left, most_at_once))).any():
            for each in np.unique(count[count > 0]).tolist():
                for part in self._parts(observations[count == each], each):
                    if self.watch():
                        return
                    perturbations = self.starts.perturbations(part, 1, each)
                    old = state.z[part], state.f[part]
                    end = self._descend(Start(part, state.z[part, None], state.f[part, None], perturbations))
                    state.leave(part, *old, end.f[:, 0])
                    state.replace_best(part, end.z[:, 0], end.f[:, 0])
            self._confirm_exact()
            left, most_at_once = left - count, 2 * most_at_once
        state.improved[observations] = state.f[observations] < (1 - SAME_OPTIMUM) * before

    def make_restarts(self, least: int) -> None:
        """Make further descents from random codes, up to ``least`` restarts for each observation, to find more optima.

        These descents are not smoothed, as smoothing leads to the same few optima. The confidence ignores them.
        """
        state, problem = self.state, self.problem
        for i in np.flatnonzero(state.made < least):
            if not self.watch():
                z = problem.bounds.draw(stream("optima", problem.seed, int(i)), (1, int(least - state.made[i])))
                end = self._descend(Start.unperturbed(np.array([i]), z))
                known = np.isfinite(end.f)
                state.further.append((np.repeat(i, known.sum()), end.z[known]))
                state.accept(end.observations, end.z[:, end.f[0].argmin()], end.f.min(axis=1))
        self._confirm_exact()

    def descend_from(self, observations: Index, z: Array) -> None:
        """Descend from codes (b, k) near an optimum. As these are not random, the confidence ignores the descents."""
        end = self._descend(Start.unperturbed(observations, self.problem.bounds.clip(z)[:, None]))
        self.state.accept(observations, end.z[:, 0], end.f[:, 0])

    def _descend(self, start: Start) -> Start:
        """Descend from some codes, in place."""
        enough = self.state.enough[start.observations]
        self.state.steps[start.observations] += self.descents.improve(start, enough, self.watch)
        return start

    def _parts(self, observations: Index, codes: int) -> list[Index]:
        """Split observations into parts small enough to hold ``codes`` codes of each observation in memory."""
        size = at_once(PERTURBATION_NUMBERS, codes * self.state.z.shape[1])
        return np.split(observations, range(size, len(observations), size))

    def _begin_at(self, z0: Array) -> None:
        """Accept the user's codes that fit exactly, and descend from the others."""
        state, everyone = self.state, np.arange(self.problem.size)
        exact = self.problem.fits_exactly(z0) & (not self.problem.prior)
        state.accept(everyone, z0, np.where(exact, 0.0, self._values(everyone, z0)))
        state.exact = exact
        others = np.flatnonzero(~state.exact)
        # There is no descent if the refinement makes the same steps: both would take twice as long.
        refined = self.rule.rounds == 0 and self.large and self.problem.noise.noisy
        if len(others) and not refined and not self.watch():
            self.descend_from(others, z0[others])
            self._confirm_exact()

    def _start_by_layer(self, observations: Index) -> None:
        """Descend from the codes of method ``exact`` for observations that look noiseless but have no exact fit yet.

        The method costs as much as many restarts, but finds exact fits that few restarts reach.
        """
        network = self.problem.network
        if self.problem.z0 is not None or not len(observations) or not isinstance(network, Network):
            return
        work = max(layer.n_out * layer.n_in**2 for layer in network.layers)
        if work > _LAYER_WORK or layerwise_reason(network) or not is_one_layer(network, self.problem.operator):
            return
        control = self.problem.control.part(lambda _: self.report())
        z = starting_codes(self.problem.part(observations, control), "exact")[0]
        self.watch.rest()
        self.descend_from(observations, z)
        self._confirm_exact()

    def _values(self, observations: Index, z: Array) -> Array:
        """Compute the objective at codes (b, k) in the precision of the search, (b,)."""
        objective = self.objective
        return objective.values(objective.tensor(z), objective.index(observations)).cpu().double().numpy()

    # --- double precision ---------------------------------------------------------------------------------------------

    def _confirm_exact(self) -> None:
        """Refine in double precision the codes that look like exact fits, and check whether they fit exactly."""
        state, energy = self.state, self.problem.energy
        observations = np.flatnonzero((state.f <= _EXACT * energy) & ~state.exact & (state.f < 0.5 * state.refuted))
        if self.problem.prior or self.problem.network.too_large or not len(observations):
            return  # without a Jacobian, the fit keeps its single precision
        state.refuted[observations] = state.f[observations]
        objective, *given = self._in_double(observations, state.z[observations])
        state.z[observations] = self._fitted(objective, *given)
        state.exact[observations] = self.problem.part(observations).fits_exactly(state.z[observations])
        left = observations[~state.exact[observations]]
        if len(left) and isinstance(self.descents, CompiledDescents):
            # Single precision may not resolve the rest of the misfit on an ill-conditioned generator.
            self.descents.resolve(left)
            values = objective.values(objective.tensor(state.z[left]), objective.index(left)).cpu().numpy()
            state.replace_best(left, state.z[left], values)
            state.refuted[left], state.enough[left] = values, _ROUNDING * energy[left]

    def _in_double(self, observations: Index, z: Array) -> tuple[SquaredError, Tensor, Tensor, Tensor]:
        """Return the objective in double precision, codes (b, k), their observations, and the f that counts as 0."""
        objective = SquaredError.of(self.problem)
        exact = objective.tensor(_ROUNDING * self.problem.energy[observations])
        return objective, objective.tensor(z), objective.index(observations), exact

    def _fitted(self, objective: SquaredError, z: Tensor, where: Tensor, exact: Tensor) -> Array:
        """Refine codes near exact fits to full precision, (b, k)."""
        if self.large:
            z, _, _, arrived = refine(objective, z, where, exact, _EXACT_FIT_STEPS_LARGE, self.watch, self.objective)
        else:
            z, f, _, _ = refine(objective, z, where, exact, REFINED, self.watch)
            arrived = f <= exact
        # On an ill-conditioned generator, an exact fit needs a new Jacobian at every step.
        left = torch.nonzero(~arrived)[:, 0]
        if len(left):
            state = LevenbergMarquardtSteps(objective, z[left], where[left], enough=exact[left])
            z[left] = state.run(_EXACT_FIT_STEPS_LARGE if self.cache.large else _EXACT_FIT_STEPS, self.watch).z
        return z.cpu().double().numpy()

    # --- the end ------------------------------------------------------------------------------------------------------

    def refine(self, most: int, max_programs: int) -> None:
        """Refine the best codes by at most ``most`` steps, descend in l1 or linf, and record how each search ended."""
        state = self.state
        state.status[state.count_restarts().best > 1] = Status.REFOUND
        observations = np.flatnonzero(~state.exact & np.isfinite(state.f))
        if len(observations) and not self.watch.reason:
            state.z[observations], optimal = self._refined(observations, state.z[observations], most)
            if self.large and isinstance(self.descents, BatchDescents):
                state.f[observations] = self._values(observations, state.z[observations])
                self._confirm_exact()
            state.status[observations[~optimal]] = Ending.ITERATION_LIMIT
        flat = observations[self._flat(observations)]
        state.status[flat], state.probability[flat] = Ending.FLAT, 0.0
        if self.watch.reason:
            # Confidence in l2 says nothing about another norm.
            sure = self.rule.finished(self.budget_used()) & self.problem.differentiable
            state.status[~sure] = self.watch.reason
        elif not self.problem.differentiable:
            self._descend_in_norm(max_programs)

    def _refined(self, observations: Index, z: Array, most: int) -> tuple[Array, Flags]:
        """Refine codes (b, k) by at most ``most`` steps in l2; return the codes, and whether each is optimal, (b,)."""
        if self.large and isinstance(self.descents, BatchDescents):
            return self.descents.refined(observations, z, most, self.watch)
        found = refine_damped(*self._in_double(observations, z), most, self.watch)
        return found.z.cpu().double().numpy(), found.optimal.cpu().numpy()

    def optima_from(self, observations: Index, z: Array) -> Array:
        """Refine the ends of restarts (b, k) as the best code is refined; return the local optima reached, (b, k)."""
        problem, z = self.problem, z.copy()
        near = self._values(observations, z) <= _EXACT * problem.energy[observations]
        near &= not (problem.prior or problem.network.too_large)
        if near.any():
            z[near] = self._fitted(*self._in_double(observations[near], z[near]))
        if not near.all():
            z[~near] = self._refined(observations[~near], z[~near], REFINED)[0]
        if not (problem.differentiable or problem.network.too_large):
            z = NormDescent().minimise(problem.part(observations), z)[0]
        return z

    def _descend_in_norm(self, max_programs: int) -> None:
        """Descend in l1 or linf from the best codes, and record how the descents ended."""
        state, report = self.state, self.report
        known = np.flatnonzero(np.isfinite(state.z).all(axis=1))
        if self.problem.network.too_large:
            state.status[known] = Ending.LEAST_SQUARES
        elif len(known):
            done = 0

            def whole(progress: Progress) -> Progress:  # descents from other starts count from zero again
                nonlocal done
                done = max(done, progress.done)
                return replace(report(), done=done)

            part = self.problem.part(known, self.problem.control.part(whole))
            starts = [state.z[known], *state.other_optima(known, _FURTHER)]
            perturbations = self.starts.perturbations(known, 1, PERTURBATIONS)[:, 0]
            state.z[known], state.status[known] = finish(part, starts, perturbations, max_programs)

    def confidence(self) -> Array:
        """Return the probability that no objective is more than 1% lower, (B,); NaN in l1 and linf: restarts are l2."""
        return self.state.probability if self.problem.differentiable else np.full(self.problem.size, np.nan)

"""``auto``: the joint search for the best code of every observation."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakMethod

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import chdtri
from torch import Tensor

from unrelu.local_search.halting import Watch
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps, chord_steps, on_plateau
from unrelu.local_search.refinement import refine
from unrelu.local_search.squared_error import SquaredError
from unrelu.local_search.starts import starting_codes
from unrelu.problem import Problem, Progress
from unrelu.result import Status
from unrelu.result.pooled_noise import too_large
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.words import SIGNIFICANCE
from unrelu.search._search_starts import SearchStarts, cheap_by_layer
from unrelu.search._stopping_rule import Spent, StoppingRule, effort
from unrelu.search.confidence import FLAT, SAME, Hits, confidence
from unrelu.search.descents import Descents, Start
from unrelu.search.norm_finish import PERTURBATIONS, finish
from unrelu.search.sample_cache import SampleCache, fits_single

# Fractions of |y|^2: below the first, a code found in single precision may be an exact fit; below the second, single
# precision resolves no difference.
_EXACT = 1e-6
_ZERO = 1e-12
# Without stated noise, an observation of which a code explains all but this fraction may have an exact fit.
_CLOSE = 1e-4
# Outputs of an exact fit are off by at most this many units of the precision.
_UNITS = 20
# The most numbers in the perturbations drawn at once.
_NUMBERS = 2**22
# Perturbations of the best code between two tests for an exact fit, at first; their number doubles.
_AT_ONCE = 16
# In l1 the l2 code is only a start, so this many agreeing restarts are enough.
_AGREE = 2
# The most steps in double precision to an exact fit; a Jacobian of a large generator is expensive.
_EXACT_FIT_STEPS, _EXACT_FIT_STEPS_LARGE = 200, 10
# A larger prior needs double precision.
_LARGEST_PRIOR = 1e12
# The most steps of a refinement, if the user states none: trained decoders take 70 to 800 on average. Large generators
# take fewer, as their restarts go further.
_REFINED, _REFINED_LARGE = 3000, 1000
# Objectives below this fraction of |y|^2 are rounding.
_ROUNDING = 1e-30
# The most local optima in l2 from which a code within the bounds of uniform noise is searched.
_FURTHER = 6


def flat_confidence(search: JointSearch, observations: Index) -> Array:
    """The confidence of some observations by the flat prior, (b,)."""
    return confidence(FLAT, search.hits().take(observations))


def by_agreement(search: JointSearch, observations: Index) -> Array:
    """1 for observations whose restarts agree in l2, else 0; this is enough where the code is only a start in l1."""
    return np.where(search.hits().take(observations).best >= _AGREE, 1.0, 0.0)


class JointSearch:
    """One search: its restarts, and the best code of each observation.

    Attributes:
        rule: when the search stops.
        restarts, ends: where the restarts ended, (B, C, k), and their objectives, (B, C), infinite for restarts that
            failed or were not made.
        made, perturbations: the number of restarts of each observation, and of perturbations of each restart, (B,).
        rounds: the number of finished rounds of each observation, (B,).
        z, f: the best codes (B, k), in the precision of the last refinement, and their objectives (B,).
        steps: the number of steps of all descents of each observation, (B,).
        exact: whether the code is an exact fit, (B,).
        by_layer: whether a code of ``exact`` was tried, (B,).
        perturbed, improved: whether the rest of the budget went to perturbations of the best restart, and whether they
            found a better code, (B,).
        probability: the confidence that the best code is the best of all, (B,).
        refuted: objectives of codes that proved to be no exact fits, (B,).
        enough: objectives at which a descent may end, (B,).

    Args:
        problem: an equilibrated problem.
        judge: returns the confidence of some observations of a search, (b,).
        sure: the confidence that ends the search of an observation.
        rounds: the largest number of rounds; None: by the schedule of the descents.
        pool: see :class:`~unrelu.search.auto.Search`.
        simulated: whether the observations are simulated, so that none has an exact fit.
    """

    def __init__(
        self,
        problem: Problem,
        judge: Callable[[JointSearch, Index], Array] = flat_confidence,
        sure: float = 1.0,
        rounds: int | None = None,
        pool: bool = False,
        simulated: bool = False,
    ) -> None:
        self.problem, self.judge, self.pool, self.size = problem, judge, pool, problem.energy
        self._simulated = simulated
        self.enough = _ZERO * self.size
        self.cache = SampleCache.of(problem.network, problem.bounds)
        single = self.cache.fits and fits_single(float(np.abs(problem.y).max())) and problem.prior < _LARGEST_PRIOR
        self.objective = SquaredError.of(problem, self.cache.single if single else problem.network)
        self.descents = Descents.of(problem, self.cache, self.objective)
        self.starts = SearchStarts(problem, self.cache, self.objective)
        self.rule = StoppingRule(self.descents.schedule, sure, rounds)
        self.rounds = self.rule.begin(problem.looks_noiseless)
        n, k = problem.size, problem.network.latent_dim
        self.restarts, self.ends = np.empty((n, 0, k)), np.empty((n, 0))
        self.perturbations, self.made, self.steps = (np.zeros(n, dtype=np.int64) for _ in range(3))
        self.z, self.f, self.refuted = np.full((n, k), np.nan), np.full(n, np.inf), np.full(n, np.inf)
        self.exact, self.by_layer, self.perturbed, self.improved = (np.zeros(n, dtype=bool) for _ in range(4))
        self.probability = np.zeros(n)
        # Without a cycle of references, the tensors are freed at once: the garbage collector would leave hundreds of
        # megabytes in a long sequence of searches.
        progress = WeakMethod(self._progress)

        def report() -> Progress:
            method = progress()
            assert method is not None
            return method()

        self.report = report
        self.watch = Watch(problem.control, report)

    def _progress(self) -> Progress:
        # In l1 and linf, an observation is only finished after its descent in that norm.
        done = int(self.sure.sum()) if self.problem.differentiable else 0
        return Progress("auto", int(self.steps.max()), done, self.problem.size, self.z.copy())

    # --- rounds -------------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Make rounds until every observation is finished and none stands out, or the watch says stop."""
        if self.problem.z0 is not None:
            self._begin_at(self.problem.z0)
        while not self.watch.reason and len(observations := self._next()) and not self.watch():
            if self._start_by_layer(observations):
                continue
            self.advance(observations, *effort(int(self.rounds[observations[0]]) + 1))
            if not self.watch.reason:
                self.rounds[observations] += 1
                self._confirm_exact()
                self._judge(observations)
        if self.rule.rounds is None and not self.watch.reason:
            self.perturb_best(np.flatnonzero(~self.sure))

    def perturb_best(self, observations: Index, most: Index | None = None) -> None:
        """Spend the rest of the budget on perturbations of the best restarts, which find more than new restarts do.

        Args:
            observations: the observations whose best restarts are perturbed.
            most: the largest number of perturbations, (b,).
        """
        left = self.rule.perturbations(self.spent())[observations]
        before = self.f[observations]
        self.perturbed[observations] = left > 0
        left = left if most is None else np.minimum(left, most)
        most_at_once = _AT_ONCE
        while (count := np.where(self.exact[observations], 0, np.minimum(left, most_at_once))).any():
            for each in np.unique(count[count > 0]).tolist():
                for part in self._parts(observations[count == each], each):
                    if self.watch():
                        return
                    self._perturb(part, each)
            self._confirm_exact()
            left, most_at_once = left - count, 2 * most_at_once
        self.improved[observations] = self.f[observations] < (1 - SAME) * before
        self._judge(observations)

    def _perturb(self, observations: Index, count: int) -> None:
        """Perturb the best code of some observations so many times."""
        perturbations = self.starts.perturbations(observations, 1, count)
        start = Start(observations, self.z[observations, None], self.f[observations, None].copy(), perturbations)
        self._descend(start)
        self._improve_best(observations, start.z[:, 0], start.f[:, 0])

    def _improve_best(self, observations: Index, z: Array, f: Array) -> None:
        """Keep codes (b, k) that descents reached from the best ones, also as the ends of the restarts of these."""
        lowest = self.ends[observations] == self.f[observations, None]  # none if the code came from z0 or a layer
        for i, restart in zip(*np.nonzero(lowest), strict=True):
            self.ends[observations[i], restart], self.restarts[observations[i], restart] = f[i], z[i]
        self._doubt(observations, f)
        self.z[observations], self.f[observations] = z, f

    def _parts(self, observations: Index, codes: int) -> list[Index]:
        """Split observations into parts, so that ``codes`` codes of each observation of a part fit into memory."""
        size = max(1, _NUMBERS // (codes * self.z.shape[1]))
        return np.split(observations, range(size, len(observations), size))

    def _next(self) -> Index:
        """The observations of the next round, all of which have been through the same number of rounds."""
        wanted = self.rule.next(self.spent(), self._outlying)
        fewest = self.rounds[wanted].min(initial=self.rounds.max())
        observations = np.flatnonzero(wanted & (self.rounds == fewest))
        # Noiseless observations already have restarts of the first rounds, which the others skipped.
        made = self.made[observations]
        return np.asarray(observations[made == made.min(initial=self.ends.shape[1])])

    def spent(self) -> Spent:
        """What the search has spent on every observation."""
        close = (self.f <= _CLOSE * self.size) & (self.problem.prior == 0) & (not self.problem.noise.stated)
        time, noiseless = self.descents.microseconds(self.steps), self.problem.looks_noiseless | close
        if self._simulated:  # their best codes are known, so none is searched for longer
            misfit = noiseless = np.zeros_like(self.exact)
        else:
            misfit = self._misfit()
        return Spent(self.rounds, time, self.exact, noiseless, misfit, self.probability)

    def _misfit(self) -> Flags:
        """Whether stated noise leaves as large an objective with a probability of at most 1%, (B,).

        False for noise without a density: rounding, which pictures tell of themselves, explains no photograph.
        """
        problem = self.problem
        if problem.noise.without_density or not self.objective.squares:
            return np.zeros(problem.size, dtype=bool)
        left = np.maximum(problem.observed - (problem.weights == 0).sum(), 1)
        return np.asarray(self.f > problem.noise.variance(problem.y) * chdtri(left, SIGNIFICANCE))

    def _outlying(self) -> Flags:
        """Whether the residual stands out from the batch, (B,), if the Jacobian has full rank."""
        if not (self.pool and self.problem.tells_level):
            return np.zeros(self.problem.size, dtype=bool)
        f = np.where(self.exact | self.problem.looks_noiseless, np.nan, self.f)
        return too_large(f, np.asarray(self.problem.observed - float(self.problem.network.latent_dim))) > 0

    def advance(self, observations: Index, restarts: int, perturbations: int) -> None:
        """Raise the number of restarts, the same for all these observations, and of perturbations of each restart."""
        have = self.ends.shape[1]
        if restarts > have:
            more = ((0, 0), (0, restarts - have))
            self.ends = np.pad(self.ends, more, constant_values=np.inf)
            self.restarts = np.pad(self.restarts, (*more, (0, 0)), constant_values=np.nan)
        done, old = int(self.perturbations[observations[0]]), int(self.made[observations[0]])
        for part in self._parts(observations, restarts * max(perturbations, 1)):
            if perturbations > done and old:
                self._improve(part, slice(0, old), perturbations - done)
            if restarts > old:
                self.restarts[part, old:restarts] = self.starts.codes(part, old, restarts - old)
                self._improve(part, slice(old, restarts), perturbations)
        self.perturbations[observations], self.made[observations] = perturbations, restarts

    def _improve(self, observations: Index, some: slice, perturbations: int) -> None:
        """Descend from those restarts that are new, then perturb each restart ``perturbations`` times."""
        z, f = self.restarts[observations, some], self.ends[observations, some]
        self._descend(Start(observations, z, f, self.starts.perturbations(observations, f.shape[1], perturbations)))
        self.restarts[observations, some], self.ends[observations, some] = z, f
        best = f.argmin(axis=1)
        self._keep(observations, z[np.arange(len(observations)), best], f.min(axis=1))

    def _descend(self, start: Start) -> None:
        """Descend from some codes, in place."""
        enough = self.enough[start.observations]
        self.steps[start.observations] += self.descents.improve(start, enough, self.watch)

    def _keep(self, observations: Index, z: Array, f: Array) -> None:
        lower = f < self.f[observations]
        self._doubt(observations, f)
        self.z[observations[lower]], self.f[observations[lower]] = z[lower], f[lower]

    def _doubt(self, observations: Index, f: Array) -> None:
        """Forget the confidence of a worse code, which does not hold for a better one should the search end now."""
        self.probability[observations[f < (1 - SAME) * self.f[observations]]] = 0.0

    def _start_by_layer(self, observations: Index) -> bool:
        """Try ``exact`` layer by layer where y looks noiseless and no restart fits exactly; whether any was tried.

        It costs as much as many restarts, but finds exact fits that few restarts reach.
        """
        untried = self.problem.looks_noiseless & (self.made > 0) & ~self.by_layer
        clean = observations[untried[observations]]
        if self.problem.z0 is not None or not len(clean) or not cheap_by_layer(self.problem):
            return False
        control = self.problem.control.part(lambda _: self.report())
        z = starting_codes(self.problem.part(clean, control), "exact").z
        self.watch.rest()
        self.descend_from(clean, z)
        self.by_layer[clean] = True
        self._confirm_exact()
        return True

    def descend_from(self, observations: Index, z: Array) -> None:
        """Descend from codes (b, k) near an optimum. These are no random restarts, so the confidence ignores them.

        Smoothed generators are left out, as they would lead away from the optimum.
        """
        start = Start.unperturbed(observations, self.problem.bounds.clip(z))
        self._descend(start)
        self._keep(observations, start.z[:, 0], start.f[:, 0])

    def _begin_at(self, z0: Array) -> None:
        """Accept the user's codes that fit exactly, and descend from the others."""
        if not self.problem.prior:
            self.exact = self.problem.fits_exactly(z0)
            self.z[self.exact], self.f[self.exact] = z0[self.exact], 0.0
        others = np.flatnonzero(~self.exact)
        if not len(others):
            return
        codes = self.objective.tensor(z0[others])
        self._keep(
            others, z0[others], self.objective.values(codes, self.objective.index(others)).cpu().double().numpy()
        )
        if self.rule.rounds == 0 and self.descents.refines and self.problem.noise.noisy:
            return  # the refinement makes the same steps
        if not self.watch():
            self.descend_from(others, z0[others])
            self._confirm_exact()

    def hits(self) -> Hits:
        """How many restarts of every observation ended in the best and the second best optimum."""
        return Hits.of(self.ends, self.f, self.rounding, self.made)

    @property
    def rounding(self) -> Array:
        """Objectives that are rounding in the search's precision, (B,)."""
        return np.asarray((_UNITS * torch.finfo(self.objective.y.dtype).eps) ** 2 * self.size)

    def _judge(self, observations: Index) -> None:
        """Compute the confidence of some observations."""
        open_ = observations[~self.exact[observations] & np.isfinite(self.f[observations])]
        self.probability[open_] = self.judge(self, open_)
        self.watch.rest()  # learning the prior does not count as a step
        sure = open_[self.probability[open_] >= self.rule.confidence]
        self.probability[sure[self._flat(sure)]] = 0.0  # dead neurons bring many starts to the same plateau
        self.starts.learn(self.f)

    @property
    def sure(self) -> Flags:
        """Whether observations have an exact fit, or enough confidence, (B,)."""
        return self.rule.finished(self.spent())

    def confidence(self) -> Array:
        """The probability that no objective is more than 1% lower, (B,); NaN in l1 and linf: the restarts are of l2."""
        return self.probability if self.problem.differentiable else np.full(self.problem.size, np.nan)

    def _flat(self, observations: Index) -> Flags:
        """Whether the best codes of some observations are on a plateau, (b,)."""
        if not len(observations):
            return np.zeros(0, dtype=bool)
        at = self.objective.index(observations)
        z = self.objective.tensor(self.z[observations])
        if self.cache.large:  # a reverse pass shows at less cost whether the Jacobian is zero
            t, f = self.objective.sketch(z, at), self.objective.values(z, at)
            gram = t[:, :, None] * t[:, None, :]
        else:
            gram, _, f = self.objective.system(z, at)
        return on_plateau(z, f, gram).cpu().numpy()

    # --- double precision ---------------------------------------------------------------------------------------------

    def _confirm_exact(self) -> None:
        """Refine codes that look like exact fits in double precision, and check whether they are."""
        near = (self.f <= _EXACT * self.size) & ~self.exact & (self.f < 0.5 * self.refuted)
        observations = np.flatnonzero(near)
        if self.problem.prior or self.problem.network.too_large or not len(observations):
            return  # without a Jacobian, the fit stays that of single precision
        self.refuted[observations] = self.f[observations]
        self.z[observations] = self._fitted(observations)
        self.exact[observations] = self.problem.part(observations).fits_exactly(self.z[observations])
        left = observations[~self.exact[observations]]
        if len(left) and self.descents.resolve(left):
            # Single precision may not resolve what is left of an ill-conditioned generator.
            objective, z, where, zero = self._in_double(left)
            self._improve_best(left, self.z[left], objective.values(z, where).cpu().numpy())
            self.refuted[left], self.enough[left] = self.f[left], zero.cpu().numpy()

    def _in_double(self, observations: Index) -> tuple[SquaredError, Tensor, Tensor, Tensor]:
        """The objective in double precision, the codes, their observations, and the f of each that counts as 0."""
        objective = SquaredError.of(self.problem)
        z, exact = objective.tensor(self.z[observations]), objective.tensor(_ROUNDING * self.size[observations])
        return objective, z, objective.index(observations), exact

    def _fitted(self, observations: Index) -> Array:
        """Refine codes near exact fits to full precision, (b, k)."""
        objective, z, where, exact = self._in_double(observations)
        if self.descents.refines and objective.squares:
            z, f, arrived = chord_steps(objective, self.objective, z, where, exact)
        else:
            z, f, _, arrived = refine(objective, z, where, exact, _REFINED, self.watch)
        # For a badly conditioned generator, an exact fit takes a new Jacobian at every step.
        left = torch.nonzero(~arrived if self.cache.large else f > exact)[:, 0]
        if len(left):
            state = LevenbergMarquardtSteps(objective, z[left], where[left], enough=exact[left])
            z[left] = state.run(_EXACT_FIT_STEPS_LARGE if self.cache.large else _EXACT_FIT_STEPS, self.watch).z
        return z.cpu().double().numpy()

    def _at_optimum(self, observations: Index, most: int | None) -> tuple[Array, Flags]:
        """Refine codes to first-order optima, (b, k), and say whether each is at one, (b,)."""
        noisy = bool((self.f[observations] > _EXACT * self.size[observations]).all())
        if self.descents.refines and (noisy or self.problem.network.too_large):
            ends = self.restarts[observations[:, None], np.argsort(self.ends[observations], axis=1)[:, 1:]]
            ends = np.concatenate([self.z[observations, None], ends], axis=1)
            return self.descents.refined(observations, ends, most or _REFINED_LARGE, self.watch)
        found = refine(*self._in_double(observations), most or _REFINED, self.watch)
        return found.z.cpu().double().numpy(), found.optimal.cpu().numpy()

    def refined(self, most: int | None, max_programs: int) -> tuple[Array, npt.NDArray[np.object_]]:
        """Codes (B, k) and how each search ended, (B,).

        Args:
            most: the largest number of steps of a refinement; None: the default.
            max_programs: linear programs of a descent in l1 or linf.
        """
        status = np.full(self.problem.size, Status.FOUND_ONCE, dtype=object)
        status[self.hits().best > 1] = Status.REFOUND
        observations = np.flatnonzero(~self.exact & np.isfinite(self.f))
        near = self.f[observations] <= _EXACT * self.size[observations]
        for some in (observations[~near], observations[near]):
            if len(some) and not self.watch.reason:
                self.z[some], optimal = self._at_optimum(some, most)
                status[some[~optimal]] = Status.ITERATION_LIMIT
        if self.descents.refines and len(observations) and not self.watch.reason:
            at = self.objective.index(observations)
            self.f[observations] = self.objective.values(self.objective.tensor(self.z[observations]), at).cpu().numpy()
            self._confirm_exact()
        flat = observations[self._flat(observations)]
        status[flat], self.probability[flat] = Status.FLAT, 0.0
        if self.watch.reason:
            # Confidence in l2 says nothing about another norm.
            status[~self.sure | (not self.problem.differentiable)] = self.watch.reason
        elif not self.problem.differentiable:
            return self._in_norm(status, max_programs)
        return self.z, status

    def _in_norm(self, status: npt.NDArray[np.object_], max_programs: int) -> tuple[Array, npt.NDArray[np.object_]]:
        """Descend in l1 or linf; return the codes and how the descents ended."""
        known = np.flatnonzero(np.isfinite(self.z).all(axis=1))
        if self.problem.network.too_large:
            status[known] = Status.LEAST_SQUARES
        elif len(known):
            control = self.problem.control.part(lambda _: self._progress())
            part = self.problem.part(known, control)
            starts = [self.z[known], *self._other_ends(known)]
            perturbations = self.starts.perturbations(known, 1, PERTURBATIONS)
            self.z[known], status[known] = finish(part, starts, perturbations[:, 0], max_programs)
        return self.z, status

    def _other_ends(self, observations: Index) -> list[Array]:
        """The codes of further local optima in l2 that restarts found, best first, (b, k) each.

        Observations with fewer optima repeat their best code.
        """
        order = np.argsort(self.ends[observations], axis=1)
        ends = np.take_along_axis(self.ends[observations], order, axis=1)
        new = np.isfinite(ends[:, 1:]) & (ends[:, 1:] > (1 + SAME) * ends[:, :-1])
        which = 1 + np.argsort(~new, axis=1, kind="stable")[:, :_FURTHER]
        which = np.where(np.take_along_axis(new, which - 1, axis=1), which, 0)
        most = max(1, int((which > 0).sum(axis=1).max(initial=1)))
        return [self.restarts[observations, order[np.arange(len(order)), i]] for i in which.T[:most]]

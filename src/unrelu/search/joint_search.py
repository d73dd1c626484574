"""``auto``: the joint search for the best code of every observation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from weakref import WeakMethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import OptionError
from unrelu.local_search.halting import Watch
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps, chord_steps, on_plateau
from unrelu.local_search.refinement import refine
from unrelu.local_search.squared_error import SquaredError
from unrelu.local_search.starts import starting_codes
from unrelu.measurements.pooled_noise import too_large
from unrelu.models.network import Network
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion, Status
from unrelu.search.basin_prior import prior_for
from unrelu.search.confidence import SAME, Hits
from unrelu.search.descents import Descents, Spent, Start
from unrelu.search.norm_finish import finish
from unrelu.search.sample_bank import Bank, fits_single
from unrelu.search.search_starts import SearchStarts, cheap_by_layer

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Fractions of |y|^2. Below the first a code found in single precision may be an exact fit, and below the second single
# precision sees no difference.
_EXACT = 1e-6
_ZERO = 1e-12
# Noise is light whose energy is at most this fraction of |y|^2.
_LIGHT_NOISE = 1e-2
# Objectives of outputs that are off by at most so many units of the precision are those of exact fits.
_UNITS = 20
# Numbers in the perturbations that are drawn at once.
_NUMBERS = 2**22
# In l1 and linf the l2 code is but a start: a search is finished that has found it so often.
_AGREE = 2
# Steps in double precision that an exact fit may take.
_EXACT_FIT_STEPS = 200
# A larger prior leaves single precision.
_LARGEST_PRIOR = 1e12
# Steps of a refinement if their number is not stated: trained decoders take 8 to 110 in the mean, and a fiftieth of all
# observations, real digits of which half is seen, more than these.
_REFINED = 500
# Objectives of this fraction of |y|^2 are rounding.
_ROUNDING = 1e-30
# In valleys: steps of a chain at most; they end when so many in a row gain less than this fraction.
_FOLLOWED, _VALLEY_STEPS, _VALLEY_DECREASE = 200, 20, 1e-4


@dataclass(frozen=True)
class Search:
    r"""Independent chains of descents and hops, until it is sure enough that the best of them is the best of all.

    One descent goes down :math:`|y - A G(z)|_2^2 + \lambda |z|_2^2` by Levenberg-Marquardt with a smoothing homotopy:
    one step each on smoothed generators, less and less smooth, then steps on the exact one. Chains start
    from independent draws of the codes that 4,096 samples of the generator suggest for this observation
    (:class:`~unrelu.search.search_starts.SearchStarts`). Where few of them agree, they go on by basin hopping: each
    perturbs its code, descends again, and keeps what is lower. Where several hidden layers are very narrow, the
    generator is small and no coordinate is in a box, every second hop starts where descents on the generator linearised
    above its first layer end (:func:`~unrelu.local_search.descent_kernel.descend_and_hop`). Where layers leave valleys
    (:func:`~unrelu.search.basin_prior.has_valleys`), each is followed to its end. The codes ``z0`` of the user and,
    where there is no visible noise and the first chain is no exact fit, that of ``exact`` layer by layer start further
    descents, which are no evidence of anything.

    An observation is finished when its code fits exactly, when its confidence is reached, or after all rounds. The
    confidence follows from how many chains ended at the best objective, to 1%, and where the others did, see
    :mod:`~unrelu.search.confidence`; how far agreement can be trusted was learned on other generators, whose layers are
    as wide or as narrow (:func:`~unrelu.search.basin_prior.width_class`), or by :func:`unrelu.calibrate` on this one.

    The search runs in single precision; its best code is refined in double precision to first-order optimality, at
    kinks by the one-sided derivatives (:mod:`~unrelu.local_search.refinement`). For l1 and linf that code is
    where :class:`~unrelu.local_search.norm_descent.NormDescent` starts, beside a reweighted (l1) and a layer-wise one;
    of a generator without known layers the l2 code is returned.

    Args:
        confidence: the search of an observation stops when it has this confidence.
        rounds: rounds at most. They bring an observation to 1 chain, to 6 without hops, to 6, 8 and 12 of 8 hops each,
            to 12 of 24 hops, to 18, and then to half as many more in each; while nearly all chains agree, half as many
            are added without further hops instead. None: as many as end within 0.1 seconds of the processor, three
            times as many where no noise is visible, twice where it is at most a tenth of y and layers are very narrow.
            Where descents are not compiled they are fewer: :attr:`~unrelu.search.descents.Descents.rounds` of each
            kind.
        max_iterations: steps of the refinement at most, each an evaluation of the objective and its gradient. None:
            500. A code that is not at an optimum by then is an ITERATION_LIMIT.
        max_programs: linear programs of a descent in l1 or linf.
        pool: whether the observations of a batch of at least 20 tell their noise level together, where none is stated
            (l2, no prior). An observation whose residual stands out from it
            (:func:`~unrelu.measurements.pooled_noise.too_large`) is searched again until it does not, or through all
            rounds, and is an ``OUTLIER`` if it still does. False for observations that do not belong together.

    Raises:
        OptionError: an option has a value it cannot take.
    """

    confidence: float = 0.99
    rounds: int | None = None
    max_iterations: int | None = None
    max_programs: int = 100
    pool: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise OptionError(f"confidence={self.confidence} is a probability, above 0 and at most 1")
        for name in ("rounds", "max_iterations", "max_programs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name}={value} must be at least 1")

    def __call__(self, problem: Problem) -> Inversion:
        """Search for the best code of every observation."""
        run = JointSearch(problem, self)
        run.search()
        z, status = run.refined()
        return Inversion.of(
            problem,
            z,
            method="auto",
            status=status,
            nit=run.steps + run.followed,
            confidence=run.confidence(),
            pool=self.pool,
        )


class JointSearch:
    """One search: its chains, and the best code of each observation.

    Attributes:
        ends: objectives that the chains have reached, (B, C), infinite where a chain ended on a plateau or nowhere.
        made, hops: how many chains each observation has, and the hops of each of them, (B,).
        rounds: that each observation has been through, (B,).
        z, f: the best codes (B, k), in the precision of the last refinement, and their objectives (B,).
        steps: of the descents and hops of each observation, (B,).
        followed: steps along valleys, which count against no budget, (B,).
        exact: whether the code is an exact fit, (B,).
        outlying: whether the residual stood out from the batch when all others were finished, (B,).
        by_layer: whether a code of ``exact`` was tried, (B,).
    """

    def __init__(self, problem: Problem, options: Search) -> None:
        self.problem, self.options = problem, options
        self.bank = Bank.of(problem.network, problem.bounds)
        single = self.bank.fits and fits_single(float(np.abs(problem.y).max())) and problem.prior < _LARGEST_PRIOR
        network = self.bank.single if single else problem.network
        self.objective = SquaredError.of(problem, network)
        self.descents = Descents.of(problem, self.bank, self.objective)
        self.starts = SearchStarts(problem, self.bank, self.objective)
        k = problem.network.latent_dim
        self.chains, self.ends = np.empty((problem.size, 0, k)), np.empty((problem.size, 0))
        self.hops, self.made, self.rounds = (np.zeros(problem.size, dtype=np.int64) for _ in range(3))
        if options.rounds is None:
            self.rounds[~problem.looks_noiseless] = self.descents.first
        self.z, self.f = np.full((problem.size, k), np.nan), np.full(problem.size, np.inf)
        self.steps, self.followed = (np.zeros(problem.size, dtype=np.int64) for _ in range(2))
        self.size = problem.energy
        self.exact, self.outlying, self.by_layer = (np.zeros(problem.size, dtype=bool) for _ in range(3))
        self._confidence = np.zeros(problem.size)
        self.refuted = np.full(problem.size, np.inf)  # objectives of codes that proved to be no exact fits
        # Of a cycle of references, the tensors would stay until the garbage collector comes by, hundreds of megabytes
        # later in a long row of searches.
        progress = WeakMethod(self._progress)

        def report() -> Progress:
            method = progress()
            assert method is not None
            return method()

        self.report = report
        self.watch = Watch(problem.control, report)

    def _progress(self) -> Progress:
        # In another norm an observation is finished when its descent in that norm is.
        done = int(self._finished.sum()) if self.problem.norm == "l2" else 0
        return Progress("auto", int(self.steps.max()), done, self.problem.size, self.z.copy())

    # --- rounds -------------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Round after round, until every observation is finished and none stands out, or the watch says stop."""
        if self.problem.z0 is not None:
            self._begin_at(self.problem.z0)
        while not self.watch.reason and len(rows := self._next_rows()) and not self.watch():
            if self._start_by_layer(rows):
                continue
            self._make_round(rows)
            if not self.watch.reason:
                self.rounds[rows] += 1
                self._confirm_exact()
                self._judge()

    def _next_rows(self) -> Index:
        """The observations of the next round, which all have been through equally many.

        They are those that are not finished; when all are, those whose residual is too large for the noise level that
        the batch tells.
        """
        stated = self.options.rounds
        more = self.descents.affordable(self._spent()) if stated is None else self.rounds < stated
        wanted = more & ~self._finished
        if not wanted.any():
            self.outlying = self._outlying()
            wanted = more & self.outlying
        fewest = self.rounds[wanted].min(initial=self.rounds.max())
        return np.flatnonzero(wanted & (self.rounds == fewest))

    def _spent(self) -> Spent:
        missed = self.made - self.hits().best
        noiseless = self.problem.looks_noiseless | ((self.f <= _EXACT * self.size) & (self.problem.prior == 0))
        light = self.f <= _LIGHT_NOISE * self.size
        return Spent(
            self.rounds, self.made, self.hops, missed, self.steps, self._confidence, noiseless, light, self.outlying
        )

    def _make_round(self, rows: Index) -> None:
        """The next round of some observations; those that have and need equally many chains and hops go together."""
        chains, hops = (effort[rows] for effort in self.descents.effort(self._spent()))
        groups, of = np.unique(np.stack([self.made[rows], self.hops[rows], chains, hops]), axis=1, return_inverse=True)
        for g, (*_, to_chains, to_hops) in enumerate(groups.T):
            self.advance(rows[of.ravel() == g], int(to_chains), int(to_hops))

    def _outlying(self) -> npt.NDArray[np.bool_]:
        """Whether the residual stands out from the batch, (B,), with the rank taken to be as large as it can be."""
        if not (self.options.pool and self.problem.tells_level):
            return np.zeros(self.problem.size, dtype=bool)
        told = np.where(self.exact | self.problem.looks_noiseless, np.nan, self.f)
        return too_large(told, np.asarray(self.problem.observed - float(self.problem.network.latent_dim))) > 0

    def advance(self, rows: Index, chains: int, hops: int) -> None:
        """Bring some observations, all of which have the same numbers of them, to so many chains of so many hops."""
        have = self.ends.shape[1]
        if chains > have:
            more = ((0, 0), (0, chains - have))
            self.ends = np.pad(self.ends, more, constant_values=np.inf)
            self.chains = np.pad(self.chains, (*more, (0, 0)), constant_values=np.nan)
        done, old = int(self.hops[rows[0]]), int(self.made[rows[0]])
        size = max(1, _NUMBERS // (chains * max(hops, 1) * self.chains.shape[2] * max(self.descents.trials, 1)))
        for part in np.split(rows, range(size, len(rows), size)):
            if hops > done and old:
                self._improve(part, slice(0, old), hops - done)
            if chains > old:
                self.chains[part, old:chains] = self.starts.codes(part, old, chains - old)
                self._improve(part, slice(old, chains), hops)
        self.hops[rows], self.made[rows] = hops, chains

    def _improve(self, rows: Index, some: slice, hops: int) -> None:
        """Descend from chains that have not yet, and hop; every second hop by linearised generators, if any is."""
        z, f = self.chains[rows, some], self.ends[rows, some]
        chains, trials = f.shape[1], self.descents.trials
        linear = hops // 2 if trials else 0
        moves = self.starts.moves(rows, chains, hops - linear)
        linearised = self.starts.trials(rows, chains, linear, trials) if linear else None
        self._descend(Start(rows, z, f, moves, linearised=linearised))
        self.chains[rows, some], self.ends[rows, some] = z, f
        best = f.argmin(axis=1)
        self._keep(rows, z[np.arange(len(rows)), best], f.min(axis=1))

    def _descend(self, start: Start) -> None:
        """Descend and hop from some codes, which become those reached; where there are valleys, to their ends."""
        before = start.f.copy()
        self.steps[start.rows] += self.descents.improve(start, _ZERO * self.size[start.rows], self.watch)
        if not self.descents.valleys:
            return
        objective, lower = SquaredError.of(self.problem), np.argwhere(start.f < before)
        size = max(1, _NUMBERS // max(objective.y.shape[1], start.z.shape[2] ** 2))
        for part in np.split(lower, range(size, len(lower), size)):
            if not len(part) or self.watch():
                break
            at, rows = tuple(part.T), start.rows[part[:, 0]]
            state = self._along_valleys(objective, objective.tensor(start.z[at]), rows, _FOLLOWED)
            start.z[at], start.f[at] = state.z.cpu().numpy(), state.f.cpu().numpy()
            np.add.at(self.followed, rows, state.steps.cpu().numpy())
        self.watch.rest()

    def _keep(self, rows: Index, z: Array, f: Array) -> None:
        lower = f < self.f[rows]
        # What was said of a worse code does not hold of this one, should the search be cut off before the next round.
        self._confidence[rows[f < (1 - SAME) * self.f[rows]]] = 0.0
        self.z[rows[lower]], self.f[rows[lower]] = z[lower], f[lower]

    def _start_by_layer(self, rows: Index) -> bool:
        """Try ``exact`` layer by layer where y looks noiseless and the first chain is no exact fit; whether any were.

        It costs many times a chain, and finds exact fits that few chains reach.
        """
        clean = rows[self.problem.looks_noiseless[rows] & (self.made[rows] > 0) & ~self.by_layer[rows]]
        if self.problem.z0 is not None or not len(clean) or not cheap_by_layer(self.problem):
            return False
        control = self.problem.control.part(lambda _: self.report())
        z = starting_codes(self.problem.part(clean, control), "exact").z
        self.watch.rest()
        self.descend_from(clean, z)
        self.by_layer[clean] = True
        self._confirm_exact()
        return True

    def descend_from(self, rows: Index, z: Array) -> None:
        """Descend from codes (b, k) that are believed to be near an optimum: what is found there is no evidence.

        Smoothed generators would lead away from it.
        """
        z = self.problem.bounds.clip(z)
        start = Start(rows, z[:, None].copy(), np.full((len(rows), 1), np.inf), np.empty((len(rows), 1, 0, 1)), False)
        self._descend(start)
        self._keep(rows, start.z[:, 0], start.f[:, 0])

    def _begin_at(self, z0: Array) -> None:
        """Accept the user's codes that fit exactly, and descend from the others."""
        if not self.problem.prior:
            self.exact = self.problem.fits_exactly(z0)
            self.z[self.exact], self.f[self.exact] = z0[self.exact], 0.0
        others = np.flatnonzero(~self.exact)
        if len(others) and not self.watch():
            self.descend_from(others, z0[others])

    def hits(self) -> Hits:
        """Where the chains ended, of every observation."""
        zero = (_UNITS * torch.finfo(self.objective.y.dtype).eps) ** 2 * self.size
        return Hits.of(self.ends, self.f, zero)._replace(chains=self.made)

    def _judge(self) -> None:
        """Compute the confidence of every observation."""
        prior = prior_for(self.problem)
        hits = self.hits()
        for hops in np.unique(self.hops):
            at = self.hops == hops
            self._confidence[at] = prior.confidence(int(hops), Hits(*(count[at] for count in hits)))
        sure = np.flatnonzero(self._confidence >= self.options.confidence)
        self._confidence[sure[self._flat(sure)]] = 0.0  # dead neurons bring many starts to the same plateau
        self.starts.learn(self.f)

    @property
    def _sure(self) -> npt.NDArray[np.bool_]:
        """Observations with an exact fit, or with enough confidence; in another norm, whose best was found twice."""
        enough = self._confidence >= self.options.confidence
        return self.exact | (enough if self.problem.norm == "l2" else self.hits().best >= _AGREE)

    @property
    def _finished(self) -> npt.NDArray[np.bool_]:
        """Observations that no further round is made for."""
        if self.options.rounds is not None or self.problem.norm != "l2":
            return self._sure
        return self._sure & (self.exact | self.descents.thorough(self._spent()))

    def confidence(self) -> Array:
        """The probability that no objective is more than 1% lower, (B,); 0 in l1 and linf, as the chains are of l2."""
        return self._confidence if self.problem.norm == "l2" else np.zeros(self.problem.size)

    def _flat(self, rows: Index) -> npt.NDArray[np.bool_]:
        """Whether the best codes of some observations are on a plateau, (b,)."""
        if not len(rows):
            return np.zeros(0, dtype=bool)
        at = self._rows(rows)
        z = self.objective.tensor(self.z[rows])
        if self.bank.large:  # a reverse pass tells as well whether the Jacobian is zero
            t, f = self.objective.sketch(z, at), self.objective.values(z, at)
            gram = t[:, :, None] * t[:, None, :]
        else:
            gram, _, f = self.objective.system(z, at)
        return on_plateau(z, f, gram).cpu().numpy()

    def _rows(self, rows: Index) -> Tensor:
        return torch.from_numpy(rows).to(self.objective.y.device)

    # --- double precision ---------------------------------------------------------------------------------------------

    def _confirm_exact(self) -> None:
        """Refine codes that look like exact fits in double precision, and see whether they are."""
        near = (self.f <= _EXACT * self.size) & ~self.exact & (self.f < 0.5 * self.refuted)
        rows = np.flatnonzero(near)
        if self.problem.prior or not len(rows):
            return
        self.refuted[rows] = self.f[rows]
        self.z[rows] = self._fitted(rows)
        self.exact[rows] = self.problem.part(rows).fits_exactly(self.z[rows])

    def _fitted(self, rows: Index) -> Array:
        """Codes of some observations, near exact fits, taken to the last digit, (b, k)."""
        objective, where = SquaredError.of(self.problem), self._rows(rows)
        z, exact = objective.tensor(self.z[rows]), objective.tensor(_ROUNDING * self.size[rows])
        if self.descents.refines and objective.counts is None:
            z, f, arrived = chord_steps(objective, self.objective, z, where, exact)
        else:
            z, f, _, arrived = refine(objective, z, where, exact, self._most, self.watch)
        # Where the generator is badly conditioned, an exact fit takes a new Jacobian at every step.
        left = torch.nonzero(~arrived if self.bank.large else f > exact)[:, 0]
        if len(left):
            state = LevenbergMarquardtSteps(objective, z[left], where[left], damping=1e-4, enough=exact[left])
            z[left] = state.run(_EXACT_FIT_STEPS, self.watch).z
        return z.cpu().double().numpy()

    def _at_optimum(self, rows: Index) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Codes of some observations at first-order optima, (b, k), and whether each is at one, (b,)."""
        if self.descents.refines and (self.f[rows] > _EXACT * self.size[rows]).all():
            ends = self.chains[rows[:, None], np.argsort(self.ends[rows], axis=1)]
            ends[:, 0] = self.z[rows]
            return self.descents.refined(rows, ends, self._most, self.watch)
        objective = SquaredError.of(self.problem)
        z, exact = objective.tensor(self.z[rows]), objective.tensor(_ROUNDING * self.size[rows])
        refined = refine(objective, z, self._rows(rows), exact, self._most, self.watch)
        return refined.z.cpu().double().numpy(), refined.optimal.cpu().numpy()

    @property
    def _most(self) -> int:
        return self.options.max_iterations or _REFINED

    def _along_valleys(self, objective: SquaredError, z: Tensor, rows: Index, most: int) -> LevenbergMarquardtSteps:
        """Codes (b, k) refined where steps may gain little each and much together, in the network's own precision."""
        exact = objective.tensor(1e-30 * self.size[rows])
        state = LevenbergMarquardtSteps(objective, z, self._rows(rows), damping=1e-4, enough=exact)
        for done in range(0, most, _VALLEY_STEPS):
            before, size = state.f.clone(), min(_VALLEY_STEPS, most - done)
            state.run(size, self.watch)
            if not len(state.active) or self.watch.reason:
                break
            if size == _VALLEY_STEPS:
                state.retire(state.f >= (1 - _VALLEY_DECREASE) * before)
        return state

    def refined(self) -> tuple[Array, npt.NDArray[np.object_]]:
        """Codes (B, k) and how each search ended, (B,)."""
        status = np.full(self.problem.size, Status.FOUND_ONCE, dtype=object)
        status[self.hits().best > 1] = Status.REFOUND
        rows = np.flatnonzero(~self.exact & np.isfinite(self.f))
        near = self.f[rows] <= _EXACT * self.size[rows]
        for some in (rows[~near], rows[near]):
            if len(some) and not self.watch.reason:
                self.z[some], optimal = self._at_optimum(some)
                status[some[~optimal]] = Status.ITERATION_LIMIT
        flat = rows[self._flat(rows)]
        status[flat], self._confidence[flat] = Status.FLAT, 0.0
        if self.watch.reason:
            # What is found again in l2 need not be the best in another norm.
            status[~self._sure | (self.problem.norm != "l2")] = self.watch.reason
        elif self.problem.norm != "l2":
            return self._in_norm(status)
        return self.z, status

    def _in_norm(self, status: npt.NDArray[np.object_]) -> tuple[Array, npt.NDArray[np.object_]]:
        """The codes after the descent in l1 or linf, and how that ended."""
        z = self.z
        known = np.flatnonzero(np.isfinite(z).all(axis=1))
        if not (isinstance(self.problem.network, Network) and self.problem.operator.linear):
            status[known] = Status.LEAST_SQUARES
        elif len(known):
            control = self.problem.control.part(lambda progress: replace(self._progress(), done=progress.done))
            part = self.problem.part(known, control)
            z[known], status[known] = finish(part, z[known], self.options.max_programs, cheap_by_layer(part))
        return z, status

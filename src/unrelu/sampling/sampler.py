r"""Sampling the posterior of one observation: warm-up, rounds of draws until the chains agree, modes, and the evidence.

After each round of draws, :mod:`~unrelu.sampling.convergence` compares the chains. Chains that agree may still all have
missed a mode. Further descents therefore look for overlooked modes, and the descents that end in each mode are counted
(:mod:`~unrelu.sampling._modes`). If the chains disagree or modes were overlooked, the draws are discarded and another
round begins. Its mixture is fitted to the old draws, with components at the overlooked modes. From the third round on,
each round makes twice as many transitions for each draw. Nothing is adapted within a round, so its chains are Markov
chains.

The evidence is estimated by bridge sampling, from the draws of the posterior and from the proposals of jumps, which are
independent draws of the mixture.

Sources: Meng and Wong, "Simulating ratios of normalizing constants via a simple identity", Statistica Sinica 6 (1996);
for the standard error, Frühwirth-Schnatter, "Estimating marginal likelihoods for mixture and Markov switching models
using bridge sampling techniques", Econometrics Journal 7 (2004).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit, logsumexp

from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Integers
from unrelu.sampling._mixture import Mixture
from unrelu.sampling._mixture_components import extended, overlooked, starting_mixture
from unrelu.sampling._modes import components_of, modes_of
from unrelu.sampling._target import Target
from unrelu.sampling._transitions import Chains, Transitions
from unrelu.sampling.convergence import ESS, ess_of_mean, sample_sizes
from unrelu.sampling.prior_transform import PriorTransform
from unrelu.sampling.sampled_chains import OVERLOOKED, SampledChains, statistics_of

# The number of transitions in each part of the warm-up. After each part, the mixture is fitted to the second half of
# the draws. If the least effective sample size is below this share of the draws, the mixture gets further components,
# and the last part is made.
_WARM_UP, _EFFICIENT = (60, 140, 280), 0.1
# The number of transitions between rounds, in which the step length adapts to the fitted mixture.
_ADAPTED = 40
# Transitions per draw in each round. The second round is as long as the first, because its mixture is better.
_THINNING = (1, 1, 2, 4, 8)
# The largest rounding error of a log-likelihood. Proposals are accepted by differences of log-likelihoods.
_ROUNDING = 0.05
# Bridge sampling: the number of iterations, and the largest standard error of the log evidence that is reported.
_ITERATIONS, _LARGEST_ERROR = 50, 0.5


def sample(problem: Problem, prior: PriorTransform, draws: int, chains: int, rng: np.random.Generator) -> SampledChains:
    """Sample the posterior of one observation.

    Args:
        problem: the problem as stated, of one observation.
        prior: the prior of codes.
        draws: the number of draws of each chain.
        chains: the number of chains.
        rng: the source of all random numbers.

    Raises:
        FloatingPointError: y is so far from all outputs, in units of the noise, that log-likelihoods are rounding.
    """
    target, from_prior = Target(problem, prior), np.arange(chains) >= (chains + 1) // 2
    mixture, starts = starting_mixture(target, from_prior, draws * chains, rng)
    rounding = target.rounding(mixture.means)
    if rounding > _ROUNDING:
        raise FloatingPointError(f"log-likelihoods are rounded by {rounding:.2g}")
    sampler = _Sampler(target, mixture, starts, rng)
    for count in _WARM_UP:
        if count == _WARM_UP[-1] and sampler.efficiency >= _EFFICIENT:
            break
        if not sampler.warm_up(count):
            break  # a round of a single draw follows: those of the warm-up are not draws from the posterior
    for number, thinning in enumerate(_THINNING):
        if not sampler.round(draws, thinning, number) or sampler.finished() or draws * chains < ESS:
            break
    return sampler.chains()


class _Sampler:
    """The chains of one observation, and the draws that they have made.

    Attributes:
        t, energies: the draws, (c, draw, k), and their U, (c, draw).
        proposed: log p / q of the jumps proposed while these draws were made.
        overlooked: see :class:`~unrelu.Posterior`.
        drawn_from: the mixture q with which these draws were made.
    """

    def __init__(self, target: Target, mixture: Mixture, starts: Array, rng: np.random.Generator) -> None:
        self.target, self.mixture, self._rng = target, mixture, rng
        self.transitions, self.state = Transitions(target, mixture, rng), Chains.at(starts, target, mixture)
        self.drawn_from, self.proposed, self.overlooked = mixture, np.empty(0), np.nan
        self.t, self.energies = np.empty((len(starts), 0, target.k)), np.empty((len(starts), 0))
        self.acceptance = np.nan

    def warm_up(self, count: int) -> bool:
        """Make adaptive transitions, and fit the mixture; return whether there is time left."""
        self._run(count, 1, adapt=True)
        if self.t.shape[1] > 1:
            self._fit(self.t.shape[1] // 2)
        return self.target.watch.reason is None

    def round(self, draws: int, thinning: int, number: int) -> bool:
        """Fit the mixture to the previous round's draws, if any, and draw anew; return whether there is time left."""
        if number:
            self._fit(0)
        before = self.t, self.energies, self.drawn_from, self.proposed, self.acceptance
        self._run(_ADAPTED, 1, adapt=True)
        self._run(draws, thinning, self._log_ratios.ravel())
        if self.t.shape[1] < draws and number:  # a whole round says more than a part of the next
            self.t, self.energies, self.drawn_from, self.proposed, self.acceptance = before
        return self.target.watch.reason is None

    def _run(self, draws: int, thinning: int, before: Array | None = None, adapt: bool = False) -> None:
        """Make transitions, and keep every ``thinning``-th state as a draw, until the watch says stop."""
        self.transitions.begin(self.mixture, before)
        t, energies = [], []
        for _ in range(draws):
            for _ in range(thinning):
                self.state = self.transitions.move(self.state, adapt)
            t.append(self.state.t)
            energies.append(self.state.energies)
            if self.target.watch():
                break
        self.t, self.energies = np.stack(t, axis=1), np.stack(energies, axis=1)
        self.drawn_from, self.proposed = self.mixture, self.transitions.proposed
        self.acceptance = float(np.mean(self.transitions.trajectories))

    def _fit(self, first: int) -> None:
        """Fit the mixture to the draws from index ``first`` on; first add components if the draws are inefficient."""
        draws, energies = self.t[:, first:].reshape(-1, self.target.k), self.energies[:, first:].ravel()
        if self.efficiency < _EFFICIENT:
            self.mixture = extended(self.target, self.mixture, draws, energies, self._rng)
        self.mixture = self.mixture.fitted(draws)
        self.state = Chains.at(self.state.t, self.target, self.mixture)

    @property
    def _log_ratios(self) -> Array:
        """log p / q, unnormalised, of the draws, (c, draw)."""
        log_density = self.drawn_from.log_density(self.t.reshape(-1, self.target.k))
        return -self.energies - log_density.reshape(self.energies.shape)

    @property
    def log_likelihood(self) -> Array:
        """The log-likelihoods of the draws, (c, draw)."""
        return np.asarray(0.5 * np.square(self.t).sum(axis=2) - self.energies)

    def finished(self) -> bool:
        """Check whether the chains agree, and whether further descents find nothing more that was overlooked."""
        self.overlooked = np.nan
        prior = self.target.prior
        if not statistics_of(prior.codes(self.t), self.log_likelihood, prior.of_codes.fixed).mixed.all():
            return False
        t, energies, log_z = self.t.reshape(-1, self.target.k), self.energies.ravel(), self._evidence()[0]
        before, most = self.mixture, len(t)
        self.overlooked, self.mixture = overlooked(self.target, before, t, energies, log_z, most, self._rng)
        return self.overlooked <= OVERLOOKED or self.mixture is before

    @property
    def efficiency(self) -> float:
        """The least effective sample size of the second half of the draws, divided by their number."""
        late = self.t[:, self.t.shape[1] // 2 :]
        return float(np.min(sample_sizes(late)) / (late.shape[0] * late.shape[1]))

    def chains(self) -> SampledChains:
        """Return the draws with their modes and the evidence, which is NaN if its error is above one half."""
        (mode, best), (log_z, error) = self._modes(), self._evidence()
        error = float(np.hypot(error, np.log1p(-OVERLOOKED)))
        known = error <= _LARGEST_ERROR and self.overlooked <= OVERLOOKED
        log_evidence = log_z - 0.5 * self.target.k * float(np.log(2 * np.pi)) if known else np.nan
        return SampledChains(
            self.target.prior.codes(self.t), self.log_likelihood, mode, self.target.prior.codes(best), log_evidence,
            error if known else np.nan, self.target.watch.reason, acceptance=self.acceptance,
            overlooked=self.overlooked, fixed=self.target.prior.of_codes.fixed,
        )  # fmt: skip

    def _modes(self) -> tuple[Integers, Array]:
        """Number the mode of each draw, (c, draw), and find the coordinates of each mode's best code, (M, k)."""
        target, mixture, found = self.target, self.drawn_from, self.target.best_optimum
        flat = np.concatenate([self.t.reshape(-1, target.k), found])
        u = np.concatenate([self.energies.ravel(), target.energies(found)])
        used, label, lowest = components_of(mixture, flat, u)
        mode, u = modes_of(target, lowest, mixture.whiteners[used])[label], target.code_energies(flat, u)
        each = range(int(mode.max()) + 1)
        best = target.lower(np.array([flat[np.flatnonzero(mode == i)[u[mode == i].argmin()]] for i in each]))
        order = np.argsort(target.code_energies(best, target.energies(best)), kind="stable")
        return np.argsort(order)[mode[: self.energies.size]].reshape(self.energies.shape), best[order]

    def _evidence(self) -> tuple[float, float]:
        """Estimate the log integral of exp(-U), and its standard error, by bridge sampling."""
        of_draws, proposed = self._log_ratios, self.proposed
        effective = float(ess_of_mean(expit(of_draws - np.median(of_draws))[..., None])[0])
        if not effective > 1 or not len(proposed):
            return np.nan, np.nan
        odds, log_z = np.log(effective / len(proposed)), float(np.median(of_draws))
        for _ in range(_ITERATIONS):
            # Each draw is weighted by the probability that it came from the other of the two densities.
            above = logsumexp(log_expit(proposed - log_z + odds) - odds) - np.log(len(proposed))
            below = logsumexp(log_expit(log_z - odds - of_draws)) - np.log(of_draws.size)
            log_z += float(above - below)
        first, second = expit(proposed - log_z + odds), expit(log_z - odds - of_draws)
        error = np.sqrt(first.var() / first.mean() ** 2 / len(proposed) + second.var() / second.mean() ** 2 / effective)
        return log_z, float(error)

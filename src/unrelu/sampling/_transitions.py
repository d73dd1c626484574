r"""Transitions that leave the posterior invariant: Hamiltonian Monte Carlo, and jumps between modes.

**Jumps.** A draw t' from the mixture q is accepted with probability
:math:`\min(1, p(t') q(t) / (p(t) q(t')))` (the independence sampler).

**Trajectories.** A component i of the mixture is drawn with probability :math:`r_i(t)`, which favours near components.
Leapfrog steps in the metric of its covariance lead from t with momentum m to t' with m', which is accepted with
probability

.. math:: \min\Big(1, \frac{r_i(t')}{r_i(t)} \exp(U(t) + |m|^2/2 - U(t') - |m'|^2/2)\Big).

This is Hamiltonian Monte Carlo on the joint density :math:`p(t) r_i(t)` for fixed i. Drawing i anew is a Gibbs step.
Each mode thus has a metric of its own. Leapfrog steps are reversible and keep volume across kinks of G as well, so the
posterior is invariant. The length of steps varies from trajectory to trajectory.

**How often.** Let w = p / q. In a state with w, a jump is rejected with probability
:math:`\lambda = 1 - E_q \min(1, w' / w)`. Transitions of n jumps alone thus have the autocorrelation time
:math:`E_p (1 + \lambda^n) / (1 - \lambda^n)`. Where it is short, trajectories are rare: their gradients cost several
times what the jumps do.

Sources: Pompe, Holmes and Latuszynski, "A framework for adaptive MCMC targeting multimodal distributions", Annals of
Statistics 48 (2020), for the auxiliary component and jumps; Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov
Chain Monte Carlo (2011); Andrieu and Thoms, "A tutorial on adaptive MCMC", Statistics and Computing 18 (2008), for the
adaptation of steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.sampling._mixture import Mixture
from unrelu.sampling._target import Target

# The length of a trajectory in whitened coordinates, about a quarter of a period; the fewest and the most steps of one.
_LENGTH, _FEWEST, _MOST = 1.5, 4, 32
# The standard deviation of the logarithm of the step length.
_JITTER = 0.2
# The mean acceptance probability that the adaptation of the step length aims at, and the first gain of the adaptation.
# When the adaptation goes on with another mixture, it counts as if it had made at most this many transitions.
_ACCEPTANCE, _GAIN, _ANEW = 0.8, 0.3, 8
# If the autocorrelation time of jumps alone is at most 1.25, only one transition in 64 has a trajectory. With one in
# each, at most 1.25 times as many draws would be effective, at four times the cost or more.
_SHORT_TIME, _SELDOM = 1.25, 64
# The number of proposals that are evaluated together, and the number of evaluations that each counts as.
_TOGETHER, _EVALUATIONS = 512, 16


class Chains(NamedTuple):
    """The states of chains, or proposals for them.

    Attributes:
        t: coordinates, (c, k).
        energies: U, (c,).
        log_density: log q of the mixture, (c,).
    """

    t: Array
    energies: Array
    log_density: Array

    @classmethod
    def at(cls, t: Array, target: Target, mixture: Mixture) -> Chains:
        """Evaluate U and log q at coordinates t (c, k)."""
        return cls(t, target.energies(t), mixture.log_density(t))

    @property
    def log_ratios(self) -> Array:
        """The logarithm of the unnormalised ratio p / q, (c,)."""
        return -self.energies - self.log_density

    def rows(self, index: Index | slice) -> Chains:
        """Return the states with these indices."""
        return Chains(*(each[index] for each in self))

    def moved(self, accepted: Flags, others: Chains) -> Chains:
        """Replace the states where ``accepted`` (c,) is true by the states of ``others``."""
        pairs = zip(self, others, strict=True)
        return Chains(*(np.where(accepted.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))


class Transitions:
    """Transitions of the chains of one observation: jumps in every one, and a trajectory in some or all.

    Attributes:
        step: the length of leapfrog steps in whitened coordinates.
        every: one transition in this many has a trajectory.
        proposed: log p / q, unnormalised, of all jumps proposed since the last :meth:`begin`.
        trajectories: the mean acceptance probability of each trajectory since then.
    """

    def __init__(self, target: Target, mixture: Mixture, rng: np.random.Generator) -> None:
        self.target, self._mixture, self._rng = target, mixture, rng
        self.step, self._adapted, self.proposed = 0.2, 0, np.empty(0)
        self.begin(mixture)

    def begin(self, mixture: Mixture, draws: Array | None = None) -> None:
        """Start new counts with this mixture, and decide how often to make trajectories.

        The decision uses log p / q of draws of the posterior, (N,), and of the proposals so far. Without draws,
        weighted proposals take their place.
        """
        if mixture is not self._mixture:
            self._mixture, self._adapted = mixture, min(self._adapted, _ANEW)
        known, self.proposed = self.proposed, np.empty(0)
        self.trajectories: list[float] = []
        self._waiting, self._moves = Chains(np.empty((0, self.target.k)), np.empty(0), np.empty(0)), 0
        if draws is None:
            self._propose(self.target.affordable(_TOGETHER, _EVALUATIONS))
            known = self.proposed
            draws = known[np.isfinite(known)]
            shares = np.exp(draws - logsumexp(draws))
        else:
            shares = np.full(len(draws), 1 / len(draws))
        short = len(draws) and _jump_time(draws, shares, known, self.steps) <= _SHORT_TIME
        self.every = _SELDOM if short else 1

    @property
    def steps(self) -> int:
        """The number of leapfrog steps in a trajectory, and of jumps proposed between two trajectories."""
        return int(np.clip(np.rint(_LENGTH / self.step), _FEWEST, _MOST))

    def move(self, chains: Chains, adapt: bool = False) -> Chains:
        """Propose jumps for every chain, then a trajectory if one is due; ``adapt`` adapts the step length."""
        chains, self._moves = self._jumped(chains), self._moves + 1
        if (self._moves - 1) % self.every:
            return chains
        chains, accepted = self._followed(chains)
        self.trajectories.append(float(accepted.mean()))
        if adapt:
            self._adapted += 1
            self.step *= float(np.exp(_GAIN / self._adapted**0.6 * (accepted.mean() - _ACCEPTANCE)))
        return chains

    def _propose(self, count: int) -> None:
        """Draw proposals, which are independent of the states of the chains."""
        new = Chains.at(self._mixture.draw(count, self._rng), self.target, self._mixture)
        self.proposed = np.concatenate([self.proposed, new.log_ratios])
        self._waiting = Chains(*map(np.concatenate, zip(self._waiting, new, strict=True)))

    def _jumped(self, chains: Chains) -> Chains:
        """Propose jumps for every chain, one after the other, as many as a trajectory has steps."""
        count, tries = len(chains.t), self.steps
        if len(self._waiting.t) < count * tries:
            self._propose(max(count * tries, self.target.affordable(_TOGETHER, _EVALUATIONS)))
        proposals = self._waiting.rows(slice(count * tries))
        self._waiting = self._waiting.rows(slice(count * tries, None))
        ratios = proposals.log_ratios.reshape(tries, count)
        uniform = np.log(self._rng.random((tries, count)))
        current, last = chains.log_ratios, np.full(count, -1)
        for i in range(tries):
            moved = uniform[i] < ratios[i] - current
            current, last = np.where(moved, ratios[i], current), np.where(moved, i, last)
        rows = np.maximum(last, 0) * count + np.arange(count)
        return chains.moved(last >= 0, proposals.rows(rows))

    def _followed(self, chains: Chains) -> tuple[Chains, Array]:
        """Make a trajectory from every chain; return the new states and the acceptance probabilities, (c,)."""
        (count, k), rng, each = chains.t.shape, self._rng, np.arange(len(chains.t))
        log_metrics = self._mixture.log_metrics(chains.t)
        # The Gumbel-max trick draws a component with these probabilities.
        component = (log_metrics + rng.gumbel(size=log_metrics.shape)).argmax(axis=1)
        factors, momentum, t = self._mixture.factors[component], rng.standard_normal((count, k)), chains.t
        step = self.step * np.exp(_JITTER * rng.standard_normal((count, 1)))
        energies, gradient = self.target.gradients(t)
        before = energies + 0.5 * np.square(momentum).sum(axis=1) - log_metrics[each, component]
        steps = self.steps
        with np.errstate(over="ignore", invalid="ignore"):
            momentum = momentum - 0.5 * step * _times(gradient, factors)
            for i in range(steps):
                t = t + step * (factors @ momentum[:, :, None])[:, :, 0]
                energies, gradient = self.target.gradients(t)
                momentum = momentum - (1.0 if i + 1 < steps else 0.5) * step * _times(gradient, factors)
            t = np.where(np.isfinite(t), t, 0.0)
            log_metrics = self._mixture.log_metrics(t)
            after = energies + 0.5 * np.square(momentum).sum(axis=1) - log_metrics[each, component]
            gain = before - after
        gain = np.where(np.isfinite(gain), gain, -np.inf)
        ended = Chains(t, energies, self._mixture.log_density(t))
        return chains.moved(np.log(rng.random(count)) < gain, ended), np.exp(np.minimum(gain, 0.0))


def _times(gradient: Array, factors: Array) -> Array:
    return np.asarray((gradient[:, None, :] @ factors)[:, 0])


def _jump_time(draws: Array, shares: Array, proposed: Array, tries: int) -> float:
    """Compute the autocorrelation time of ``tries`` jumps from log p / q of draws (shares, (N,)) and of proposals."""
    refused = 1 - np.exp(np.minimum(proposed - draws[:, None], 0.0)).mean(axis=1)
    with np.errstate(divide="ignore"):  # a draw that no jump leaves
        return float(shares @ ((1 + refused**tries) / (1 - refused**tries)))

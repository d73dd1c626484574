r"""Transitions that leave the posterior invariant: Hamiltonian Monte Carlo, and jumps between modes.

**Jumps.** A draw t' from the mixture q is accepted with probability
:math:`\min(1, p(t') q(t) / (p(t) q(t')))` (the independence sampler).

**Trajectories.** A component i of the mixture is drawn with probability :math:`r_i(t)`; near ones are probable.
Leapfrog steps in the metric of its covariance lead from t with momentum m to t' with m', which is accepted with
probability

.. math:: \min\Big(1, \frac{r_i(t')}{r_i(t)} \exp(U(t) + |m|^2/2 - U(t') - |m'|^2/2)\Big).

This is Hamiltonian Monte Carlo on the joint density :math:`p(t) r_i(t)` for fixed i. Drawing i anew is a Gibbs step.
Each mode thus has a metric of its own, and the chain is exact whatever the kinks of G. The length of steps varies from
trajectory to trajectory.

Sources: Pompe, Holmes and Latuszynski, "A framework for adaptive MCMC targeting multimodal distributions", Annals of
Statistics 48 (2020), for the auxiliary component and jumps; Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov
Chain Monte Carlo (2011); Andrieu and Thoms, "A tutorial on adaptive MCMC", Statistics and Computing 18 (2008), for the
adaptation of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unrelu.runtime.array_types import Array
from unrelu.sampling._mixture import Mixture
from unrelu.sampling._target import Target

# The length of a trajectory in whitened coordinates, about a quarter of a period, and the fewest and most steps of one.
_LENGTH, _FEWEST, _MOST = 1.5, 4, 32
# The standard deviation of the logarithm of the length of steps.
_JITTER = 0.2
# The mean probability of acceptance that the length of steps is adapted to; the first gain of the adaptation.
_ACCEPTANCE, _GAIN = 0.8, 0.3


@dataclass(eq=False)
class Chains:
    """The states of chains.

    Attributes:
        t: coordinates, (c, k).
        energies: U, (c,).
        log_mixture, log_metrics: see :meth:`Mixture.evaluated`.
    """

    t: Array
    energies: Array
    log_mixture: Array
    log_metrics: Array

    @classmethod
    def at(cls, t: Array, target: Target, mixture: Mixture) -> Chains:
        """Chains at t (c, k)."""
        return cls(t, target.energies(t), *mixture.evaluated(t))

    def accept(self, accepted: Array, others: Chains) -> None:
        """Move the chains where ``accepted`` (c,) is true."""
        self.t = np.where(accepted[:, None], others.t, self.t)
        self.energies = np.where(accepted, others.energies, self.energies)
        self.log_mixture = np.where(accepted, others.log_mixture, self.log_mixture)
        self.log_metrics = np.where(accepted[:, None], others.log_metrics, self.log_metrics)

    def part(self, rows: slice) -> Chains:
        """Some of the chains."""
        return Chains(self.t[rows], self.energies[rows], self.log_mixture[rows], self.log_metrics[rows])


class Transitions:
    """Transitions of the chains of one observation.

    Attributes:
        step: the length of leapfrog steps in whitened coordinates.
        proposed: the logarithms of p / q, unnormalised, of all proposals of jumps since the last :meth:`begin`.
        trajectories: the mean probabilities with which trajectories were accepted, of each transition since then.
    """

    def __init__(self, target: Target, mixture: Mixture, rng: np.random.Generator) -> None:
        self.target, self._mixture, self._rng = target, mixture, rng
        self.step, self._adapted = 0.2, 0
        self.begin()

    def begin(self, mixture: Mixture | None = None) -> None:
        """Count anew, with another mixture if one is given."""
        self._mixture = mixture or self._mixture
        self.proposed: list[Array] = []
        self.trajectories: list[float] = []

    @property
    def steps(self) -> int:
        """The number of leapfrog steps of a trajectory, and of proposals of jumps between two trajectories."""
        return int(np.clip(np.rint(_LENGTH / self.step), _FEWEST, _MOST))

    def move(self, chains: Chains, adapt: bool = False) -> None:
        """Propose jumps, then a trajectory, of every chain; ``adapt`` changes the length of steps afterwards."""
        self._jump(chains)
        accepted = self._follow(chains)
        self.trajectories.append(float(accepted.mean()))
        if adapt:
            self._adapted += 1
            self.step *= float(np.exp(_GAIN / self._adapted**0.6 * (accepted.mean() - _ACCEPTANCE)))

    def _jump(self, chains: Chains) -> None:
        count, tries = len(chains.t), self.steps
        drawn = self._mixture.draw(count * tries, self._rng)
        proposals = Chains.at(drawn, self.target, self._mixture)
        self.proposed.append(-proposals.energies - proposals.log_mixture)
        uniform = self._rng.random((tries, count))
        for i in range(tries):
            others = proposals.part(slice(i * count, (i + 1) * count))
            gain = chains.energies - others.energies + chains.log_mixture - others.log_mixture
            chains.accept(np.log(uniform[i]) < gain, others)

    def _follow(self, chains: Chains) -> Array:
        """Make a trajectory of every chain; return the probabilities with which they are accepted, (c,)."""
        (count, k), rng = chains.t.shape, self._rng
        # The Gumbel-max trick draws from the shares of the components.
        component = (chains.log_metrics + rng.gumbel(size=chains.log_metrics.shape)).argmax(axis=1)
        factors, each = self._mixture.factors[component], np.arange(count)
        momentum, t = rng.standard_normal((count, k)), chains.t
        step = self.step * np.exp(_JITTER * rng.standard_normal((count, 1)))
        energies, gradient = self.target.gradients(t)
        before = energies + 0.5 * np.square(momentum).sum(axis=1) - chains.log_metrics[each, component]
        with np.errstate(over="ignore", invalid="ignore"):
            momentum = momentum - 0.5 * step * _times(gradient, factors)
            for i in range(self.steps):
                t = t + step * np.einsum("cij,cj->ci", factors, momentum)
                energies, gradient = self.target.gradients(t)
                last = i + 1 == self.steps
                momentum = momentum - (0.5 if last else 1.0) * step * _times(gradient, factors)
            t = np.where(np.isfinite(t), t, 0.0)
            ended = Chains(t, energies, *self._mixture.evaluated(t))
            after = energies + 0.5 * np.square(momentum).sum(axis=1) - ended.log_metrics[each, component]
            gain = before - after
        gain = np.where(np.isfinite(gain), gain, -np.inf)
        chains.accept(np.log(rng.random(count)) < gain, ended)
        return np.exp(np.minimum(gain, 0.0))


def _times(gradient: Array, factors: Array) -> Array:
    return np.asarray(np.einsum("ci,cij->cj", gradient, factors))

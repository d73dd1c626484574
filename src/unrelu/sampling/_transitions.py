r"""Transitions that leave the posterior invariant: Hamiltonian Monte Carlo, and jumps between modes.

**Jumps.** A draw t' from the mixture q is accepted with probability
:math:`\min(1, p(t') q(t) / (p(t) q(t')))` (the independence sampler).

**Trajectories.** A component i of the mixture is drawn with probability :math:`r_i(t)`; near ones are probable.
Leapfrog steps in the metric of its covariance lead from t with momentum m to t' with m', which is accepted with
probability

.. math:: \min\Big(1, \frac{r_i(t')}{r_i(t)} \exp(U(t) + |m|^2/2 - U(t') - |m'|^2/2)\Big).

This is Hamiltonian Monte Carlo on the joint density :math:`p(t) r_i(t)` for fixed i. Drawing i anew is a Gibbs step.
Each mode thus has a metric of its own. Leapfrog steps are reversible and keep volume across kinks of G as well, so the
posterior is invariant. The length of steps varies from trajectory to trajectory.

Sources: Pompe, Holmes and Latuszynski, "A framework for adaptive MCMC targeting multimodal distributions", Annals of
Statistics 48 (2020), for the auxiliary component and jumps; Neal, "MCMC using Hamiltonian dynamics", Handbook of Markov
Chain Monte Carlo (2011); Andrieu and Thoms, "A tutorial on adaptive MCMC", Statistics and Computing 18 (2008), for the
adaptation of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unrelu.runtime.array_types import Array, Flags
from unrelu.sampling._mixture import Mixture
from unrelu.sampling._target import Target

# The length of a trajectory in whitened coordinates, about a quarter of a period, and the fewest and most steps of one.
_LENGTH, _FEWEST, _MOST = 1.5, 4, 32
# The standard deviation of the logarithm of the length of steps.
_JITTER = 0.2
# The mean probability of acceptance that the length of steps is adapted to; the first gain of the adaptation, and the
# number of its transitions that count when it goes on with another mixture.
_ACCEPTANCE, _GAIN, _ANEW = 0.8, 0.3, 8


@dataclass(frozen=True, eq=False)
class Chains:
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
        """Chains at t (c, k)."""
        return cls(t, target.energies(t), mixture.log_density(t))

    def moved(self, accepted: Flags, others: Chains) -> Chains:
        """The states of the others where ``accepted`` (c,) is true."""
        return Chains(
            np.where(accepted[:, None], others.t, self.t),
            np.where(accepted, others.energies, self.energies),
            np.where(accepted, others.log_density, self.log_density),
        )


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
        if mixture is not None:
            self._mixture, self._adapted = mixture, min(self._adapted, _ANEW)
        self.proposed: list[Array] = []
        self.trajectories: list[float] = []

    @property
    def steps(self) -> int:
        """The number of leapfrog steps of a trajectory, and of proposals of jumps between two trajectories."""
        return int(np.clip(np.rint(_LENGTH / self.step), _FEWEST, _MOST))

    def move(self, chains: Chains, adapt: bool = False) -> Chains:
        """Propose jumps, then a trajectory, of every chain; ``adapt`` changes the length of steps afterwards."""
        chains, accepted = self._followed(self._jumped(chains))
        self.trajectories.append(float(accepted.mean()))
        if adapt:
            self._adapted += 1
            self.step *= float(np.exp(_GAIN / self._adapted**0.6 * (accepted.mean() - _ACCEPTANCE)))
        return chains

    def _jumped(self, chains: Chains) -> Chains:
        """Propose one jump of every chain after the other, as many as a trajectory has steps."""
        count, tries = len(chains.t), self.steps
        proposals = Chains.at(self._mixture.draw(count * tries, self._rng), self.target, self._mixture)
        ratios = (-proposals.energies - proposals.log_density).reshape(tries, count)
        self.proposed.append(ratios.ravel())
        uniform = np.log(self._rng.random((tries, count)))
        current, last = -chains.energies - chains.log_density, np.full(count, -1)
        for i in range(tries):
            moved = uniform[i] < ratios[i] - current
            current, last = np.where(moved, ratios[i], current), np.where(moved, i, last)
        rows = np.maximum(last, 0) * count + np.arange(count)
        return chains.moved(
            last >= 0, Chains(*(x[rows] for x in (proposals.t, proposals.energies, proposals.log_density)))
        )

    def _followed(self, chains: Chains) -> tuple[Chains, Array]:
        """Make a trajectory of every chain; return the probabilities with which they were accepted too, (c,)."""
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

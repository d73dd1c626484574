"""``adam``: CSGM, Adam on the code from several random starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from unrelu.baselines._first_order import Step, descend
from unrelu.local_search.halting import HALTS
from unrelu.local_search.option_checks import above_zero, at_least, one_of
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.runtime.run_control import Progress

# Learning rate, iterations and starts of the released scripts for MNIST (VAE) and CelebA (DCGAN).
_SETTINGS = {"mnist": (0.01, 1_000, 10), "celeba": (0.1, 500, 2)}

_BETA1, _BETA2, _EPSILON, _TOLERANCE = 0.9, 0.999, 1e-8, 1e-9


@dataclass(frozen=True)
class Adam:
    r"""Minimise ``|y - A G(z)|_2^2 + prior |z|^2`` by Adam from several starts; keep the one that fits y best.

    .. math:: m \gets \beta_1 m + (1 - \beta_1) g, \quad v \gets \beta_2 v + (1 - \beta_2) g^2, \quad
              z \gets z - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + 10^{-8}}

    Here g is the gradient, :math:`\beta_1 = 0.9`, :math:`\beta_2 = 0.999`. The starts are ``z0``, if it is given, and
    draws from N(0, I). All starts of all observations move at once. CSGM always makes every step; here a start stops
    when its gradient vanishes.

    The weight of :math:`|z|^2` is the ``prior`` of the problem. CSGM has 0.1 for MNIST and 0.001 for CelebA with
    :math:`A_{ij} \sim N(0, 1/m)` (its "VAE + Reg"; the same weights with the mean over unscaled measurements in its
    code), and 0 for its "VAE". The start with the least :math:`|y - A G(z)|_2` is kept, as in the text of CSGM; its
    code compares the losses with the prior.

    Args:
        setting: the defaults. "mnist": learning rate 0.01, 1,000 iterations, 10 starts; "celeba": 0.1, 500 and 2.
        learning_rate: :math:`\eta`, if not the setting's.
        max_iterations: the largest number of steps of each start, if not the setting's.
        restarts: the number of starts, if not the setting's.
        gradient_tolerance: a start stops when its gradient norm is at most this, in units of y^2. The default is 1e-9
            in working units (:mod:`unrelu.measurements.working_units`).
        epsilon: the constant that keeps the quotient finite, in units of y^2. The default is 1e-8 in working units.

    Raises:
        OptionError: an option has a value it cannot take.

    Source: Bora, Jalal, Price and Dimakis, "Compressed sensing using generative models" (ICML 2017), section 6 and
    ``quant_scripts`` of https://github.com/AshishBora/csgm; Kingma and Ba, "Adam" (ICLR 2015), Algorithm 1.
    """

    setting: str = "mnist"
    learning_rate: float | None = None
    max_iterations: int | None = None
    restarts: int | None = None
    gradient_tolerance: float | None = None
    epsilon: float | None = None

    def __post_init__(self) -> None:
        one_of(_SETTINGS, setting=self.setting)
        above_zero(learning_rate=self.learning_rate)
        at_least(1, max_iterations=self.max_iterations, restarts=self.restarts)
        at_least(0, gradient_tolerance=self.gradient_tolerance, epsilon=self.epsilon)

    def __call__(self, problem: Problem) -> Inversion:
        """Run every start of every observation; start r of observation i is code r B + i of the batch."""
        rate, iterations, restarts = _SETTINGS[self.setting]
        objective, batch, restarts = SquaredError.of(problem), problem.size, self.restarts or restarts
        # problem.start(0) is also the start of the methods with a single one.
        starts = objective.tensor(np.concatenate([problem.start(r) for r in range(restarts)]))
        observations = torch.arange(len(starts), device=starts.device) % batch
        errors = torch.full_like(starts[:, 0], torch.inf)

        def gradient(z: Tensor, at: Tensor) -> Tensor:
            f, g = objective.gradient(z, observations[at])
            errors[at] = torch.nan_to_num(f - objective.penalty(z), nan=torch.inf, posinf=torch.inf)
            return g

        def best(errors: Tensor) -> Tensor:
            return errors.reshape(-1, batch).argmin(dim=0) * batch + torch.arange(batch, device=errors.device)

        def report(t: int, active: Tensor, z: Tensor) -> Progress:
            # The errors before the last step are known already, and good enough to choose a start.
            busy = len(torch.unique(observations[active]))
            return Progress("adam", t, batch - busy, batch, z[best(errors)].cpu().double().numpy())

        tolerance = _TOLERANCE if self.gradient_tolerance is None else problem.rescaled(self.gradient_tolerance, 2)
        epsilon = _EPSILON if self.epsilon is None else problem.rescaled(self.epsilon, 2)
        step = _adam_step(gradient, starts, self.learning_rate or rate, tolerance, epsilon)
        run = descend(starts, step, self.max_iterations or iterations, problem.control, report, objective.clip)
        misfits = objective.values(run.z, observations) - objective.penalty(run.z)
        kept = best(torch.nan_to_num(misfits, nan=torch.inf, posinf=torch.inf)).cpu().numpy()
        status = run.status[kept]
        for halt in HALTS:
            status[(run.status.reshape(-1, batch) == halt).any(axis=0)] = halt
        nit = run.nit.reshape(-1, batch).sum(axis=0)
        codes = run.z.cpu().double().numpy()[kept]
        return Inversion.of(problem, codes, method="adam", status=status, nit=nit, norm=problem.descent_norm)


def _adam_step(
    gradient: Callable[[Tensor, Tensor], Tensor], z: Tensor, rate: float, tolerance: float, epsilon: float
) -> Step:
    """Make the step of Adam. Each code has its own moments; the step count is shared.

    Args:
        gradient: maps codes (a, k) and their numbers (a,) to gradients (a, k).
        z: all codes, (b, k).
        rate: the learning rate.
        tolerance: a code has converged when its gradient norm is at most this.
        epsilon: the constant that keeps the quotient finite.
    """
    first, second, counted = torch.zeros_like(z), torch.zeros_like(z), count(1)

    def step(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        g, t = gradient(z, at), next(counted)
        first[at] = m = _BETA1 * first[at] + (1 - _BETA1) * g
        second[at] = v = _BETA2 * second[at] + (1 - _BETA2) * g * g
        m, v = m / (1 - _BETA1**t), v / (1 - _BETA2**t)
        return z - rate * m / (v.sqrt() + epsilon), g.norm(dim=1) <= tolerance

    return step

"""``adam``: CSGM, Adam on the latent code from several random starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.baselines.first_order import descend
from unrelu.errors import OptionError
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion, Status

# Learning rate, iterations and starts of the released scripts for MNIST (VAE) and CelebA (DCGAN).
_SETTINGS = {"mnist": (0.01, 1_000, 10), "celeba": (0.1, 500, 2)}

_BETA1, _BETA2, _EPSILON, _TOLERANCE = 0.9, 0.999, 1e-8, 1e-9


@dataclass(frozen=True)
class Adam:
    r"""Minimise ``|y - A G(z)|_2^2 + prior |z|^2`` by Adam from several starts; keep the one that fits y best.

    .. math:: m \gets \beta_1 m + (1 - \beta_1) g, \quad v \gets \beta_2 v + (1 - \beta_2) g^2, \quad
              z \gets z - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + 10^{-8}}

    with g the gradient, :math:`\beta_1 = 0.9`, :math:`\beta_2 = 0.999`. The starts are ``z0`` if it is given and draws
    from N(0, I); all starts of all observations move at once. CSGM always makes every step; here a start whose gradient
    vanishes stops.

    The weight of :math:`|z|^2` is the ``prior`` of the problem, nothing else. CSGM has 0.1 for MNIST and 0.001 for
    CelebA with :math:`A_{ij} \sim N(0, 1/m)` (its "VAE + Reg"; the same weights with the mean over unscaled
    measurements in its code), and 0 for its "VAE". Of the starts, the one with the least
    :math:`|y - A G(z)|_2` is kept, as the text of CSGM says; its code compares the losses with the prior.

    Args:
        setting: where the defaults come from. "mnist": learning rate 0.01, 1,000 iterations, 10 starts; "celeba": 0.1,
            500 and 2.
        learning_rate: :math:`\eta`, if not the setting's.
        max_iterations: steps of each start at most, if not the setting's.
        restarts: the number of starts, if not the setting's.
        gradient_tolerance: a start stops when its gradient norm is no more than this, in units of y^2; by default 1e-9
            for outputs of an ordinary size, from 1e-3 to 1e3 (:mod:`unrelu.measurements.equilibration`).
        epsilon: what keeps the quotient finite, in units of y^2; by default 1e-8 for outputs of an ordinary size.

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
        if self.setting not in _SETTINGS:
            raise OptionError(f"setting={self.setting!r} is unknown; use 'mnist' or 'celeba'")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise OptionError(f"learning_rate={self.learning_rate} must be above 0 and finite")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise OptionError(f"max_iterations={self.max_iterations} must be at least 1")
        if self.restarts is not None and self.restarts < 1:
            raise OptionError(f"restarts={self.restarts} must be at least 1")
        for name in ("gradient_tolerance", "epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise OptionError(f"{name}={value} must be at least 0 and finite")

    def __call__(self, problem: Problem) -> Inversion:
        """Run every start of every observation, one row of a batch each."""
        rate, iterations, restarts = _SETTINGS[self.setting]
        rate, iterations = self.learning_rate or rate, self.max_iterations or iterations
        starts = _starts(problem, self.restarts or restarts)
        objective, batch = SquaredError.of(problem), problem.size
        owner = torch.arange(len(starts), device=objective.y.device) % batch
        errors = torch.full((len(starts),), torch.inf, dtype=objective.y.dtype, device=objective.y.device)

        def gradient(z: Tensor, rows: Tensor) -> Tensor:
            f, g = objective.gradient(z, owner[rows])
            errors[rows] = torch.nan_to_num(f - objective.prior * (z * z).sum(dim=1), nan=torch.inf, posinf=torch.inf)
            return g

        def report(t: int, active: Tensor, z: Tensor) -> Progress:
            # The errors are those before the last step: good enough to tell the starts apart, and at hand.
            busy = len(torch.unique(owner[active]))
            return Progress("adam", t, batch - busy, batch, z[_best(errors, batch)].cpu().double().numpy())

        tolerance = _TOLERANCE if self.gradient_tolerance is None else problem.ordinary(self.gradient_tolerance, 2)
        epsilon = _EPSILON if self.epsilon is None else problem.ordinary(self.epsilon, 2)
        steps = AdamSteps(gradient, starts.shape, lambda t: rate, tolerance, epsilon)
        run = descend(objective.tensor(starts), steps, iterations, problem.control, report, objective.clip)
        best = _best(objective.measure(run.z, owner), batch).cpu().numpy()
        status = run.status[best]
        for halt in (Status.TIME_LIMIT, Status.STOPPED):
            status[(run.status.reshape(-1, batch) == halt).any(axis=0)] = halt
        codes = run.z.cpu().double().numpy()[best]
        nit = run.nit.reshape(-1, batch).sum(axis=0)
        return Inversion.of(problem, codes, method="adam", status=status, nit=nit, norm="l2")


class AdamSteps:
    """Adam as a :data:`~unrelu.baselines.first_order.Move`: rows have moments of their own and share the step count.

    Args:
        gradient: codes (a, k) and their rows (a,) -> gradients (a, k).
        shape: of all codes, (b, k).
        rate: the learning rate of step t = 0, 1, ...
        tolerance: a row has arrived when its gradient norm is no more than this.
        epsilon: what keeps the quotient finite.
    """

    def __init__(
        self,
        gradient: Callable[[Tensor, Tensor], Tensor],
        shape: tuple[int, ...],
        rate: Callable[[int], float],
        tolerance: float = 0.0,
        epsilon: float = _EPSILON,
    ) -> None:
        self.gradient, self.shape, self.rate, self.tolerance = gradient, shape, rate, tolerance
        self.epsilon = epsilon
        self.steps = 0
        self.moments: tuple[Tensor, Tensor] | None = None

    def __call__(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the rows that are still at work."""
        g = self.gradient(z, rows)
        if self.moments is None:
            self.moments = (z.new_zeros(self.shape), z.new_zeros(self.shape))
        first, second = self.moments
        first[rows] = m = _BETA1 * first[rows] + (1 - _BETA1) * g
        second[rows] = v = _BETA2 * second[rows] + (1 - _BETA2) * g * g
        rate = self.rate(self.steps)
        self.steps += 1
        m, v = m / (1 - _BETA1**self.steps), v / (1 - _BETA2**self.steps)
        return z - rate * m / (v.sqrt() + self.epsilon), g.norm(dim=1) <= self.tolerance


def _starts(problem: Problem, restarts: int) -> npt.NDArray[np.float64]:
    """Start r of observation i in row r B + i; the first starts are those of every method that has one."""
    return np.concatenate([problem.start(r) for r in range(restarts)])


def _best(errors: Tensor, batch: int) -> Tensor:
    """The row of each observation's best start, (B,), by the errors of all rows."""
    return errors.reshape(-1, batch).argmin(dim=0) * batch + torch.arange(batch, device=errors.device)

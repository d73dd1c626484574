"""``ilo``: intermediate-layer optimisation, Adam on the code and then on the inputs of later layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unrelu.baselines._first_order import Descent, Report, descend
from unrelu.baselines.adam import AdamSteps
from unrelu.errors import OptionError
from unrelu.local_search.halting import HALTS
from unrelu.local_search.option_checks import above_zero, at_least
from unrelu.local_search.squared_error import SquaredError
from unrelu.measurements import IdentityOperator
from unrelu.models.network import Layer, Network
from unrelu.models.opaque_network import as_chain
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion
from unrelu.runtime.array_types import Integers


@dataclass(frozen=True)
class Ilo:
    r"""Fit y by the code, then by the input of the second layer, the third, and so on; then find a code for that input.

    .. math:: \min_z |y - A G(z)|_2^2 + prior |z|_2^2, \qquad
              \min_h |y - A G_{i+1 \ldots d}(h)|_2^2 \;\text{ with }\; |h - h^0|_1 \le radius, \quad i = 1, 2, \ldots

    Each problem is solved by Adam. :math:`h^0` is the layer's input according to the round before. The learning rate
    rises over the first twentieth of a round and falls along a cosine over the last three quarters.

    A free hidden vector h gives more images than a code does. This is the strength of ILO if the observed image is not
    in the range of the generator. **But the image of h is in general not G of any code, and unrelu returns codes**. So
    the last round's h is inverted, :math:`\min_z |G_{1 \ldots i}(z) - h|_2^2`, by Adam from the first round's code. Of
    the two codes, the one with the lower objective is returned. The part of the fit that only h reached is lost.

    Two features of the released code are left out: its perceptual and other image losses, which its own commands for
    compressed sensing do not use either, and that it keeps the norm of the start, as is usual for StyleGAN.

    Args:
        steps: the numbers of Adam steps of the rounds, separated by commas: on the code, on the second layer's input,
            the third's, ... Rounds beyond the last layer are left out, and 0 skips a round. The default is that of the
            released code's command for compressed sensing; its configuration file, for inpainting, has "50,50,25,25".
        learning_rate: the largest learning rate of Adam, for layer outputs of size 1e-3 to 1e3. Other outputs are
            rescaled to that size (:mod:`unrelu.measurements.equilibration`).
        rampup: the fraction of a round over which the learning rate rises from 0; 0 for none.
        rampdown: the fraction of a round over which it falls to 0; 0 for none.
        radius: the radius of the l1 balls, in units of a layer's input; None for no ball, as in the released
            configuration.
        back_steps: the number of Adam steps from the last hidden vector back to a code; ours.

    Raises:
        OptionError: an option has a value it cannot take.
        UnsupportedModelError: the generator is not a chain of layers.

    Source: Daras, Dean, Jalal and Dimakis, "Intermediate layer optimization for inverse problems using deep generative
    models" (ICML 2021); ``README.md``, ``configs/config.yaml`` and ``ilo_stylegan.py`` of
    https://github.com/giannisdaras/ilo.
    """

    steps: str | int = "300,200,100"
    learning_rate: float = 0.1
    rampup: float = 0.05
    rampdown: float = 0.75
    radius: float | None = None
    back_steps: int = 300

    def __post_init__(self) -> None:
        if not self.rounds or self.rounds[0] < 1:
            raise OptionError(
                f"steps={self.steps!r} must be whole numbers with commas, the first at least 1: '300,200,100'"
            )
        above_zero(learning_rate=self.learning_rate)
        for name in ("rampup", "rampdown"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name}={getattr(self, name)} must be from 0 to 1, a fraction of a round")
        at_least(0, radius=self.radius)
        at_least(1, back_steps=self.back_steps)

    @property
    def rounds(self) -> list[int]:
        """``steps`` as a list of numbers, empty if it is malformed."""
        words = [word.strip() for word in str(self.steps).removesuffix(",").split(",")]
        return [int(word) for word in words] if all(word.isdecimal() for word in words) else []

    def check(self, problem: Problem) -> None:
        """Raise an error if the generator is no chain of layers."""
        as_chain(problem.network, "ilo")

    def __call__(self, problem: Problem) -> Inversion:
        """Run the rounds for all observations at once."""
        network = as_chain(problem.network, "ilo")
        rounds = self.rounds[: len(network.layers)]
        objective = SquaredError.of(problem)
        z = objective.tensor(problem.start())
        run = self._descend(problem, objective, z, rounds[0], _reporter(z, 0, done=len(rounds) == 1))
        status, nit = run.status, run.nit
        if len(rounds) > 1 and not run.halted:
            code, run, more = self._intermediate(problem, objective, network, rounds, z)
            everything = torch.arange(len(z), device=z.device)
            with torch.no_grad():
                better = objective.value(code, everything) < objective.value(z, everything)
            z[better] = code[better]
            changed = better.cpu().numpy() | np.array([s in HALTS for s in run.status])
            status, nit = np.where(changed, run.status, status), nit + more
        codes = z.cpu().double().numpy()
        return Inversion.of(problem, codes, method="ilo", status=status, nit=nit, norm=problem.descent_norm)

    def _intermediate(
        self, problem: Problem, objective: SquaredError, network: Network, rounds: list[int], z: Tensor
    ) -> tuple[Tensor, Descent, Integers]:
        """Run the rounds after the first, and invert the last h; return a code, the last descent, and all steps."""
        layers, h, before = network.layers, z, rounds[0]
        nit = np.zeros(len(z), dtype=np.int64)
        for depth, steps in enumerate(rounds[1:], 1):
            h = _part(network, layers[depth - 1 : depth]).forward(h).detach()
            upper = replace(objective, network=_part(network, layers[depth:]), prior=None, box=None)
            radius = None if self.radius is None else float(np.ldexp(self.radius, problem.units.layer(depth)))
            run = self._descend(problem, upper, h, steps, _reporter(z, before), radius)
            before, nit = before + steps, nit + run.nit
            if run.halted:
                return z, run, nit
        lower = _part(network, layers[:depth])
        code = z.clone()
        target = SquaredError(lower, IdentityOperator(lower.output_shape, lower.output_dim), h, box=objective.box)
        run = self._descend(problem, target, code, self.back_steps, _reporter(z, before, done=True))
        return code, run, nit + run.nit

    def _descend(
        self, problem: Problem, objective: SquaredError, h: Tensor, steps: int, report: Report,
        radius: float | None = None,
    ) -> Descent:  # fmt: skip
        """Run one round of Adam on h (B, n), in place, within the ball around its start if there is a radius."""
        step, centre = AdamSteps(lambda *at: objective.gradient(*at)[1], h, partial(self.rate, steps)), h.clone()

        def within(at: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
            reached, arrived = step(at, observations)
            if radius is not None:
                reached = centre[observations] + onto_l1_ball(reached - centre[observations], radius)
            return reached, arrived

        return descend(h, within, steps, problem.control, report, objective.clip)

    def rate(self, steps: int, t: int) -> float:
        """The learning rate of step t of a round with ``steps`` steps."""
        fraction = t / steps
        falling = min(1.0, (1 - fraction) / self.rampdown) if self.rampdown else 1.0
        rising = min(1.0, fraction / self.rampup) if self.rampup else 1.0
        return self.learning_rate * rising * (0.5 - 0.5 * math.cos(math.pi * falling))


def onto_l1_ball(x: Tensor, radius: float) -> Tensor:
    r"""The nearest point with :math:`|x|_1 \le radius`, for each x: all entries shrink by the same threshold.

    Source: Duchi, Shalev-Shwartz, Singer and Chandra, "Efficient projections onto the l1-ball for learning in high
    dimensions" (ICML 2008), Figure 1.
    """
    size = x.abs()
    largest, _ = size.sort(dim=1, descending=True)
    # theta_j is the threshold if the j largest entries remain above 0: the largest j with entry > theta_j is right.
    count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
    theta = (largest.cumsum(dim=1) - radius) / count
    kept = (largest > theta).sum(dim=1, keepdim=True).clamp_min(1)
    shrunk = x.sign() * (size - theta.gather(1, kept - 1)).clamp_min(0)
    return torch.where(size.sum(dim=1, keepdim=True) <= radius, x, shrunk)


def _part(network: Network, layers: Sequence[Layer]) -> Network:
    return Network(tuple(layers), layers[0].in_shape, network.dtype, network.device)


def _reporter(z: Tensor, before: int, done: bool = False) -> Report:
    """A report of progress with the codes z; observations count as done only in the last round."""

    def report(iteration: int, active: Tensor, h: Tensor) -> Progress:
        finished = len(z) - len(active) if done else 0
        return Progress("ilo", before + iteration, finished, len(z), z.cpu().double().numpy().copy())

    return report

"""ILO: intermediate-layer optimisation, Adam on the code and then on the inputs of later layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unrelu.models.network import Layer, Network
from unrelu.models.opaque_network import as_chain
from unrelu.problem import Problem
from unrelu.result import Ending, Inversion

# Steps on the code, on the second layer's input, on the third's, ... of the released command for compressed sensing.
_ROUNDS = (300, 200, 100)
# Steps from the last hidden vector back to a code; ours.
_BACK = 300
# The largest learning rate, and the fractions of a round over which it rises from 0 and falls to 0; as released.
_RATE, _RAMP_UP, _RAMP_DOWN = 0.1, 0.05, 0.75

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ilo:
    r"""Fit y by the code, then by the input of the second layer, the third, and so on; then find a code for that input.

    .. math:: \min_z |y - A G(z)|_2^2, \qquad \min_h |y - A G_{i+1 \ldots d}(h)|_2^2, \quad i = 1, 2, \ldots

    Each problem is solved by Adam, from what the layers below put out before the last round.

    A free hidden vector h gives more images than a code does. This is the strength of ILO if the observed image is not
    in the range of the generator. But the image of h is in general not G of any code, and a result has a code. So the
    last round's h is inverted, :math:`\min_z |G_{1 \ldots i}(z) - h|_2^2`, by Adam from the first round's code, and the
    better of the two codes is returned.

    Left out of the released code: its perceptual and other image losses, which its own commands for compressed sensing
    do not use either, its l1 balls around the start, which its configuration does not use, and that it keeps the norm
    of the start, as is usual for StyleGAN.

    Source: Daras, Dean, Jalal and Dimakis, "Intermediate layer optimization for inverse problems using deep generative
    models" (ICML 2021); ``README.md``, ``configs/config.yaml`` and ``ilo_stylegan.py`` of
    https://github.com/giannisdaras/ilo.
    """

    def __call__(self, problem: Problem) -> Inversion:
        """Run the rounds for all observations at once."""
        layers, y = as_chain(problem.network, "ilo").layers, torch.tensor(problem.y)
        rounds = _ROUNDS[: len(layers)]

        def measured(start: int) -> Map:
            return lambda h: problem.operator.forward(_image(layers[start:], h))

        z = h = fitted(measured(0), torch.tensor(problem.start()), y, rounds[0])
        for depth, steps in enumerate(rounds[1:], 1):
            h = fitted(measured(depth), _image(layers[depth - 1 : depth], h), y, steps)
        code = fitted(lambda z: _image(layers[: len(rounds) - 1], z), z, h, _BACK) if len(rounds) > 1 else z
        errors = [(measured(0)(each) - y).square().sum(dim=1, keepdim=True) for each in (z, code)]
        best = torch.where(errors[1] < errors[0], code, z)
        return Inversion.of(problem, best.numpy(), method="ilo", status=Ending.ITERATION_LIMIT, norm="l2")


def fitted(image: Map, start: Tensor, target: Tensor, steps: int) -> Tensor:
    """Minimise ``|image(h) - target|_2^2`` from ``start``, (B, n), by Adam with the learning rates of :func:`rate`."""
    h = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([h], lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: rate(t / steps))
    with torch.enable_grad():
        for _ in range(steps):
            (h.grad,) = torch.autograd.grad((image(h) - target).square().sum(), h)
            optimiser.step()
            schedule.step()
    return h.detach()


def rate(done: float) -> float:
    """The share of the largest learning rate when a share of a round is done: a line up, and half a cosine down."""
    falling = min(1.0, (1 - done) / _RAMP_DOWN)
    return min(1.0, done / _RAMP_UP) * (0.5 - 0.5 * math.cos(math.pi * falling))


def _image(layers: Sequence[Layer], h: Tensor) -> Tensor:
    return Network(tuple(layers), layers[0].in_shape).forward(h)

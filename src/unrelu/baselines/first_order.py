"""The loop of the first-order methods: many codes move at once, and each stops on its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.problem import Control, Progress
from unrelu.result import Status

# Codes (a, k) and their rows in the batch (a,) -> where each moves to, (a, k), and which have arrived instead, (a,).
Move = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# Iteration, the rows still at work, all codes (b, k) -> what the callback is told.
Report = Callable[[int, Tensor, Tensor], Progress]

# A code this long has diverged; its outputs still have finite squares.
ASTRONOMICAL = 1e100


class Descent(NamedTuple):
    """How the codes ended.

    Attributes:
        z: the codes, (b, k); where a step left the range of numbers, the one before it.
        status: CONVERGED, DIVERGED, or why all were stopped: ITERATION_LIMIT, TIME_LIMIT, STOPPED; (b,).
        nit: steps made, (b,).
    """

    z: Tensor
    status: npt.NDArray[np.object_]
    nit: npt.NDArray[np.int64]

    @property
    def halted(self) -> bool:
        """Whether the clock or the callback ended it."""
        return Status.TIME_LIMIT in self.status or Status.STOPPED in self.status


def descend(
    z: Tensor, move: Move, iterations: int, control: Control, report: Report, inside: Callable[[Tensor], Tensor]
) -> Descent:
    """Move codes z (b, k), which are changed in place, until each has arrived or a limit is met.

    ``inside`` projects codes onto their bounds, after every step.
    """
    active = torch.arange(len(z), device=z.device)
    status = np.full(len(z), Status.ITERATION_LIMIT, dtype=object)
    nit = np.full(len(z), iterations)
    for t in range(iterations):
        if not len(active):
            break
        if control.expired() or control.stopped(partial(report, t, active, z)):
            rows = active.cpu().numpy()
            status[rows] = Status.TIME_LIMIT if control.expired() else Status.STOPPED
            nit[rows] = t
            break
        moved, arrived = move(z[active], active)
        moved = inside(moved)
        lost = ~arrived & ~(moved.norm(dim=1) < ASTRONOMICAL)
        going = ~arrived & ~lost
        z[active[going]] = moved[going]
        for mask, reason in ((arrived, Status.CONVERGED), (lost, Status.DIVERGED)):
            if mask.any():
                rows = active[mask].cpu().numpy()
                status[rows], nit[rows] = reason, t
        active = active[going]
    return Descent(z, status, nit)


def progress_of(method: str, iteration: int, active: Tensor, z: Tensor) -> Progress:
    """What a callback is told of a method that works on the codes themselves."""
    return Progress(method, iteration, len(z) - len(active), len(z), z.cpu().double().numpy().copy())

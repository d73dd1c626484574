"""The loop of first-order methods: all codes move at once, and each stops on its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.result import Ending, Status
from unrelu.runtime.array_types import Integers
from unrelu.runtime.run_control import Control, Progress

# Maps codes (a, k) and their numbers in the batch (a,) to the codes after a step (a, k), and which have converged (a,).
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# Maps the iteration, the numbers of the active codes and all codes (b, k) to the progress for the callback.
Report = Callable[[int, Tensor, Tensor], Progress]

# A code of this length has diverged; the squares of its outputs are still finite.
ASTRONOMICAL = 1e100


class Descent(NamedTuple):
    """The end of each descent.

    Attributes:
        z: the codes, (b, k); the last finite code where a descent diverged.
        status: CONVERGED, DIVERGED, ITERATION_LIMIT, TIME_LIMIT or STOPPED, (b,).
        nit: the number of steps, (b,).
    """

    z: Tensor
    status: npt.NDArray[np.object_]
    nit: Integers


def descend(
    z: Tensor, step: Step, iterations: int, control: Control, report: Report, inside: Callable[[Tensor], Tensor]
) -> Descent:
    """Step codes z (b, k), in place, until each has converged or diverged, or a limit is reached.

    ``inside`` projects codes into their bounds after every step.
    """
    active = torch.arange(len(z), device=z.device)
    status = np.full(len(z), Ending.ITERATION_LIMIT, dtype=object)
    nit = np.full(len(z), iterations)
    for t in range(iterations):
        if not len(active):
            break
        if control.expired() or control.stopped(partial(report, t, active, z)):
            left = active.cpu().numpy()
            status[left], nit[left] = Status.TIME_LIMIT if control.expired() else Status.STOPPED, t
            break
        reached, arrived = step(z[active], active)
        reached = inside(reached)
        lost = ~arrived & ~(reached.norm(dim=1) < ASTRONOMICAL)
        going = ~arrived & ~lost
        if going.all():  # on a GPU, the only result of a step that the host waits for
            z[active] = reached
            continue
        z[active[going]] = reached[going]
        for ended, reason in ((arrived, Status.CONVERGED), (lost, Ending.DIVERGED)):
            if ended.any():
                left = active[ended].cpu().numpy()
                status[left], nit[left] = reason, t
        active = active[going]
    return Descent(z, status, nit)

"""``lm``: damped joint Levenberg-Marquardt on the whole network, a batch of observations at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import OptionError
from unrelu.generator import Generator
from unrelu.methods.starts import START_NAMES, starting_codes
from unrelu.problem import Control, Problem, Progress
from unrelu.result import Inversion, Status

__all__ = ["LevenbergMarquardt"]

Array = npt.NDArray[np.float64]

# Numbers in the Jacobians held at once, 128 MiB of float64.
_CHUNK = 2**24
# A step is the last one when the objective fell by less than this share, twice in a row.
_TINY_DECREASE = 1e-13
_TINY_STEP = 1e-11


@dataclass(frozen=True)
class LevenbergMarquardt:
    r"""Minimise ``|y - G(z)|_2^2`` by damped Gauss-Newton steps.

    .. math:: (J^T J + \mu I) s = J^T (y - G(z))

    with Nielsen's update of the damping mu, for all observations at once; each stops on its own. ReLU kinks are
    ignored: J is the Jacobian of the current linear piece. The result is a local optimum: which one depends on the
    start.

    Args:
        start: where to start if no ``z0`` is given: "random" (N(0, I) from the seed), "zero", or a layer-wise method
            ("linf", "l1", "relaxed", "least_squares", "exact").
        max_iterations: steps tried at most, accepted or not.
        damping: first mu, as a share of the mean diagonal of J^T J.

    Raises:
        OptionError: an option has a value it cannot take.

    Source: Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), section 3.2.
    """

    start: str = "random"
    max_iterations: int = 200
    damping: float = 1e-2

    def __post_init__(self) -> None:
        if self.start not in START_NAMES:
            raise OptionError(f"start={self.start!r} is unknown; use one of {', '.join(START_NAMES)}")
        if self.max_iterations < 1:
            raise OptionError(f"max_iterations={self.max_iterations} must be at least 1")
        if not 0 < self.damping < math.inf:
            raise OptionError(f"damping={self.damping} must be above 0 and finite")

    def __call__(self, problem: Problem) -> Inversion:
        """Refine the starting codes of every observation."""
        start = starting_codes(problem, self.start)
        if start.stopped:
            return Inversion.of(problem, start.z, method="lm", status=Status.STOPPED, nit=start.nit, norm="l2")
        z, status, steps = self.minimise(problem.network, problem.y, start.z, problem.control)
        z[start.late & (steps == 0)] = np.nan
        return Inversion.of(problem, z, method="lm", status=status, nit=steps + start.nit, norm="l2")

    def minimise(
        self, network: Generator, y: Array, z0: Array, control: Control
    ) -> tuple[Array, npt.NDArray[np.object_], npt.NDArray[np.int64]]:
        """Run from codes z0 (B, k): the codes reached, how each run ended, and the steps it took."""
        begin = control.elapsed()
        state = _State(network, y, np.nan_to_num(z0), self.damping)
        reason = Status.ITERATION_LIMIT
        longest = control.elapsed() - begin
        for step in range(self.max_iterations):
            if not len(state.active):
                break
            # A step that would end beyond the limit is not begun.
            before = control.elapsed()
            if control.expired() or control.remaining() < longest:
                reason = Status.TIME_LIMIT
                break
            state.step()
            longest = max(longest, control.elapsed() - before)
            if control.stopped(partial(state.progress, step + 1)):
                reason = Status.STOPPED
                break
        status = np.full(len(y), reason, dtype=object)
        status[state.done.cpu().numpy()] = Status.CONVERGED
        status[(state.done & state.flat()).cpu().numpy()] = Status.FLAT
        status[~torch.isfinite(state.f).cpu().numpy()] = Status.DIVERGED
        return state.codes(), status, state.steps.cpu().numpy()


class _State:
    """Per-observation state of the batch; ``active`` lists the rows still at work."""

    def __init__(self, network: Generator, y: Array, z0: Array, damping: float) -> None:
        def tensor(a: Array) -> Tensor:
            return torch.tensor(a, dtype=network.dtype, device=network.device)

        self.network, self.y, self.z = network, tensor(y), tensor(z0)
        batch, device = len(y), network.device
        self.active = torch.arange(batch, device=device)
        self.done = torch.zeros(batch, dtype=torch.bool, device=device)
        self.steps = torch.zeros(batch, dtype=torch.int64, device=device)
        self.small = torch.zeros(batch, dtype=torch.int64, device=device)
        self.growth = torch.full((batch,), 2.0, dtype=network.dtype, device=device)
        self.gram, self.gradient, self.f = self.system(self.active)
        self.damping = damping * self.gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(
            torch.finfo(network.dtype).tiny
        )
        self.exact = 1e-30 * (self.y * self.y).sum(dim=1)
        self.retire(self.f <= self.exact)

    def progress(self, iteration: int) -> Progress:
        return Progress("lm", iteration, int(self.done.sum()), len(self.z), self.codes())

    def codes(self) -> Array:
        return self.z.cpu().double().numpy().copy()

    def system(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """J^T J (b, k, k), J^T (G(z) - y) (b, k) and |G(z) - y|^2 (b,) for the given rows."""
        width = self.network.width * self.network.latent_dim
        parts = []
        for chunk in torch.split(rows, max(1, _CHUNK // width)):
            x, tangents = self.network.linearize(self.z[chunk])
            r = x - self.y[chunk]
            parts.append((tangents @ tangents.transpose(1, 2), (tangents @ r[:, :, None])[:, :, 0], (r * r).sum(dim=1)))
        gram, gradient, f = zip(*parts, strict=True)
        return torch.cat(gram), torch.cat(gradient), torch.cat(f)

    def step(self) -> None:
        """One trial step for every active row, and a new Jacobian where it was accepted."""
        rows = self.active
        z, f, mu = self.z[rows], self.f[rows], self.damping[rows]
        gram, gradient = self.gram[rows], self.gradient[rows]
        eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        factor, info = torch.linalg.cholesky_ex(gram + mu[:, None, None] * eye)
        s = -torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
        s = torch.where(((info == 0) & torch.isfinite(s).all(dim=1))[:, None], s, torch.zeros_like(s))
        trial = z + s
        r = self.network.forward(trial) - self.y[rows]
        f_trial = (r * r).sum(dim=1)
        better = f_trial < f
        self.z[rows] = torch.where(better[:, None], trial, z)
        self.f[rows] = torch.where(better, f_trial, f)
        self.steps[rows] += 1
        self.update_damping(rows, better, f - f_trial, (s * (mu[:, None] * s - gradient)).sum(dim=1))
        self.retire_converged(rows, better, f, f_trial, s)
        moved = rows[better & ~self.done[rows]]
        if len(moved):
            self.gram[moved], self.gradient[moved], self.f[moved] = self.system(moved)

    def update_damping(self, rows: Tensor, better: Tensor, fall: Tensor, predicted: Tensor) -> None:
        """Nielsen: mu * max(1/10, 1 - (2 rho - 1)^3) after a good step, rho = actual / predicted fall; else mu * nu."""
        rho = fall / predicted.clamp_min(torch.finfo(fall.dtype).tiny)
        mu, nu = self.damping[rows], self.growth[rows]
        self.damping[rows] = torch.where(better, mu * (1 - (2 * rho - 1) ** 3).clamp(0.1, 1.0), mu * nu)
        self.growth[rows] = torch.where(better, torch.full_like(nu, 2.0), nu * 2)

    def retire_converged(self, rows: Tensor, better: Tensor, f: Tensor, f_trial: Tensor, s: Tensor) -> None:
        size = s.norm(dim=1)
        curvature = self.gram[rows].diagonal(dim1=1, dim2=2).amax(dim=1).clamp_min(torch.finfo(size.dtype).tiny)
        tiny = better & (f - f_trial < _TINY_DECREASE * f)
        tiny |= size < _TINY_STEP * (self.z[rows].norm(dim=1) + 1e-3)
        tiny |= ~better & (self.damping[rows] > 1e12 * curvature)
        self.small[rows] = torch.where(tiny, self.small[rows] + 1, torch.zeros_like(self.small[rows]))
        finished = torch.zeros_like(self.done)
        finished[rows] = (self.small[rows] >= 2) | (self.f[rows] <= self.exact[rows])
        self.retire(finished)

    def flat(self) -> Tensor:
        """Rows whose misfit no step of the size of the code can change by a 1e-10th: the Jacobian is zero there."""
        reach = self.gram.diagonal(dim1=1, dim2=2).amax(dim=1).sqrt() * (1 + self.z.norm(dim=1))
        flat: Tensor = (reach <= 1e-10 * self.f.sqrt()) & (self.f > self.exact)
        return flat

    def retire(self, finished: Tensor) -> None:
        """Take rows (a mask over the batch) out of the active ones."""
        self.done |= finished
        self.active = torch.nonzero(~self.done)[:, 0]

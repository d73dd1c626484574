"""``auto``: the joint search for the best code of every observation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import OptionError
from unrelu.methods.bank import Bank
from unrelu.methods.candidates import Candidates
from unrelu.methods.finish import finish
from unrelu.methods.layerwise import layerwise_reason
from unrelu.methods.misfit import Misfit
from unrelu.methods.newton import DampedNewton
from unrelu.methods.observed import mixes
from unrelu.methods.polish import polish
from unrelu.methods.starts import starting_codes
from unrelu.methods.watch import Watch
from unrelu.network import Network
from unrelu.problem import Control, Problem, Progress
from unrelu.result import Inversion, Status

__all__ = ["Search"]

Array = npt.NDArray[np.float64]

# Widths of the rounded kinks, as shares of what their layer puts out, and steps with each.
_WIDTHS = (0.5, 0.1, 0.02, 0.004)
_STEPS = 3
# Steps on the exact generator after those, and the decrease at which they end.
_EXACT_STEPS = 8
_ENOUGH_DECREASE = 1e-3
# What a pixel's variance is taken to be by the linear estimate, beside the noise and what the samples leave over.
_ESTIMATE_NOISE = 1e-2
# Kicks are this long, as a share of the length sqrt(k) of a typical code; their number in a round.
_KICK = (0.06, 0.6)
_KICKS = 2
# Single precision has no room for the squares of observations outside this range.
_SINGLE = (1e-12, 1e12)
# Below this share of |y|^2 a code found in single precision may be an exact fit.
_EXACT = 1e-4
_EXACT_FIT_STEPS = 200
# And below this one single precision sees no difference.
_ZERO = 1e-12
# Work of a least-squares problem of one layer, n k^2, up to which a layer-wise start is tried.
_LAYER_WORK = 5e7


@dataclass(frozen=True)
class Search:
    r"""Several descents from good starts, then kicks from the best code until it is found again.

    One descent goes down :math:`|y - A G(z)|_2^2 + \lambda |z|_2^2` by Levenberg-Marquardt, first on generators whose
    kinks are rounded off, less and less, then on the exact one. The first starts from the linear minimum mean square
    error estimate of z that 4,096 samples of the generator give for this measurement (or from ``z0``), the second from
    the nearest of the samples, the third from layer-wise least squares where the layers allow it, the others from kicks
    off the best code, longer along directions that change the output little, and from random codes.

    An observation is finished when its code fits exactly or to the stated noise level, when its best objective was
    found ``consensus`` times, to 1%, or after ``rounds`` rounds. The search runs in single precision; its best code is
    refined in double precision. For l1 and linf that code is where :class:`~unrelu.methods.norm_descent.NormDescent`
    starts, beside a reweighted (l1) and a layer-wise one; of a generator without known layers the l2 code is returned.

    Args:
        rounds: rounds of descents at most.
        consensus: how often the best objective has to be found to be trusted.
        max_iterations: Levenberg-Marquardt steps of the refinement at most.
        max_programs: linear programs of a descent in l1 or linf.

    Raises:
        OptionError: an option has a value it cannot take.
    """

    rounds: int = 8
    consensus: int = 3
    max_iterations: int = 10
    max_programs: int = 100

    def __post_init__(self) -> None:
        for name in ("rounds", "consensus", "max_iterations", "max_programs"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)} must be at least 1")

    def __call__(self, problem: Problem) -> Inversion:
        """Search for the best code of every observation."""
        run = _Run(problem, self)
        run.search()
        z, status = run.refined()
        return Inversion.of(
            problem,
            z,
            method="auto",
            status=status,
            nit=run.best.steps.cpu().numpy(),
            found=run.best.found.cpu().numpy(),
        )


def _cheap_by_layer(problem: Problem) -> bool:
    """Whether the layers allow a layer-wise start that does not cost more than all other starts together."""
    network = problem.network
    if layerwise_reason(network) is not None or mixes(problem) or not isinstance(network, Network):
        return False
    return max(layer.n_out * layer.n_in**2 for layer in network.layers) <= _LAYER_WORK


class _Run:
    """One search: its generators in single precision, its starts and its candidates."""

    def __init__(self, problem: Problem, options: Search) -> None:
        self.problem, self.options = problem, options
        self.bank = Bank.of(problem.network, problem.seed)
        size = np.abs(problem.y).max()
        narrow = bool(_SINGLE[0] <= size <= _SINGLE[1]) or size == 0
        network = self.bank.single if narrow else problem.network
        self.misfit = Misfit.of(problem, network)
        self.rounded = [self.misfit.with_network(self.bank.rounded(width, network)) for width in _WIDTHS]
        self.best = Candidates(self.misfit.y, problem.network.latent_dim)
        self.level = self._level()
        self.exact = torch.zeros(problem.size, dtype=torch.bool, device=self.misfit.y.device)
        self.judged = torch.full_like(self.best.f, torch.inf)  # misfits of codes that proved to be no exact fits
        self.draws = torch.Generator().manual_seed(problem.seed)
        self.watch = Watch(problem.control, self._progress)

    def _level(self) -> Tensor:
        """The misfit that the stated noise explains, (B,); below every misfit where that says nothing.

        With a prior a code at the noise level need not be the most probable one.
        """
        none = np.full(self.problem.size, -1.0)
        return self.misfit.y.new_tensor(none if self.problem.prior else self.problem.noise_ceiling)

    def _progress(self) -> Progress:
        done = int(self.finished().sum())
        return Progress("auto", int(self.best.steps.max()), done, self.problem.size, self.best.codes())

    # --- rounds -------------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Round after round, until every observation is finished or the watch says stop."""
        if self.problem.z0 is not None:
            self._accept_exact_starts(self.problem.z0)
        for turn in range(self.options.rounds):
            todo = torch.nonzero(~self.finished())[:, 0]
            if not len(todo) or self.watch():
                break
            for rows, starts in self._starts(turn, todo):
                # A start of the user's is near what it stands for; rounding the kinks off would lead away from it.
                rounded = turn > 0 or self.problem.z0 is None
                self._descend(rows.repeat_interleave(starts.shape[1]), starts.flatten(0, 1), rounded)
                if self.watch.reason:
                    return
            self._confirm_exact()

    def finished(self) -> Tensor:
        """Observations with an exact fit, a fit to the stated noise, or enough agreement, (B,)."""
        return self.exact | (self.best.f <= self.level) | (self.best.found >= self.options.consensus)

    def _starts(self, turn: int, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The descents of one round: observations (b,) and starting codes of each, (b, starts, k)."""
        problem, k = self.problem, self.problem.network.latent_dim
        operator, y = self.misfit.operator.take(rows), self.misfit.y[rows]
        # All observations draw, so that the codes tried on one do not depend on the others' progress.
        draw = torch.randn(problem.size, _KICKS + 1, k, generator=self.draws).to(y)[rows]
        if turn == 0 and problem.z0 is not None:
            return [(rows, self.misfit.tensor(problem.z0)[rows, None])]
        if turn == 0:
            noise = problem.noise.level**2 if problem.noise.kind == "gaussian" else 0.0
            return [(rows, self.bank.estimate(operator, y, noise + _ESTIMATE_NOISE * self.bank.spread)[:, None])]
        if turn == 1:
            return [(rows, self.bank.nearest(operator, y, 1))]
        starts = [(rows, torch.cat([draw[:, :1], self._kicked(rows, draw[:, 1:])], dim=1))]
        if turn != 2 or problem.z0 is not None or not _cheap_by_layer(problem):
            return starts
        return [*self._layerwise(rows[self.best.found[rows] <= 1]), *starts]

    def _layerwise(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Layer-wise starts, where the first two descents did not agree."""
        if not len(rows):
            return []
        found = starting_codes(self._part(rows), "least_squares")
        self.watch.rest()
        return [] if found.stopped else [(rows, self.misfit.tensor(found.z)[:, None])]

    def _part(self, rows: Tensor) -> Problem:
        """The problem of some observations, with the time that is left and reports on all of them."""
        callback = self.problem.control.callback
        report = (lambda _: callback(self._progress())) if callback else None
        return self.problem.part(rows.cpu().numpy(), Control(self.problem.control.remaining(), report))

    def _kicked(self, rows: Tensor, draw: Tensor) -> Tensor:
        """Codes around the best ones; a kick is longer where J^T J has a small eigenvalue."""
        values, directions = torch.linalg.eigh(self.best.gram[rows])
        share = (values / values[:, -1:].clamp_min(torch.finfo(values.dtype).tiny)).clamp_min(1e-4)
        softness = share**-0.25
        softness = softness / softness.norm(dim=1, keepdim=True)
        low, high = (np.log(end) for end in _KICK)
        lengths = torch.rand(self.problem.size, draw.shape[1], 1, generator=self.draws).to(draw)[rows]
        lengths = torch.exp(low + (high - low) * lengths) * draw.shape[2] ** 0.5
        kicks = (softness[:, None, :] * draw) @ directions.transpose(1, 2)
        kicked: Tensor = self.best.z[rows, None] + lengths * kicks
        return kicked

    def _accept_exact_starts(self, z0: Array) -> None:
        fits = self.problem.fits_exactly(z0)
        rows = torch.nonzero(torch.from_numpy(fits).to(self.exact.device))[:, 0]
        if len(rows) and not self.problem.prior:
            self.best.add(DampedNewton(self.misfit, self.misfit.tensor(z0[fits]), rows), torch.zeros_like(rows))
            self.best.replace(rows, z0[fits])
            self.exact[rows] = True

    def _descend(self, rows: Tensor, z: Tensor, rounded: bool) -> None:
        """One descent of every starting code; the candidates get where it ends."""
        steps = torch.zeros_like(rows)
        damping: Tensor | float = 1e-2
        for misfit in self.rounded if rounded else []:
            state = DampedNewton(misfit, z, rows, damping=damping, tiny_decrease=1e-4).run(_STEPS, self.watch)
            z, damping, steps = state.z, state.damping, steps + state.steps
        floor = _ZERO * self.best.size[rows]
        state = DampedNewton(
            self.misfit, z, rows, damping=damping, tiny_decrease=_ENOUGH_DECREASE, tiny_step=1e-9, foresee=True,
            enough=torch.maximum(floor, self.level[rows]),
        )  # fmt: skip
        state.run(_EXACT_STEPS, self.watch)
        self.best.add(state, steps + state.steps)

    # --- double precision ---------------------------------------------------------------------------------------------

    def _confirm_exact(self) -> None:
        """Refine codes that look like exact fits in double precision, and see whether they are."""
        near = (self.best.f <= _EXACT * self.best.size) & ~self.exact & (self.best.f < 0.5 * self.judged)
        rows = torch.nonzero(near)[:, 0]
        if self.problem.prior or not len(rows):
            return
        self.judged[rows] = self.best.f[rows]
        z = self._in_double(rows, _EXACT_FIT_STEPS)
        fits = torch.from_numpy(self._part(rows).fits_exactly(z)).to(rows.device)
        self.best.replace(rows, z)
        self.exact[rows[fits]] = True

    def _in_double(self, rows: Tensor, steps: int) -> Array:
        """Codes of some observations refined in the network's own precision, (b, k)."""
        misfit = Misfit.of(self.problem)
        z = misfit.tensor(self.best.double[rows.cpu().numpy()])
        exact = 1e-30 * misfit.y[rows].square().sum(dim=1)
        z, _, arrived = polish(misfit, z, rows, self.best.gram[rows], exact)
        left = torch.nonzero(~arrived)[:, 0]
        if len(left):
            state = DampedNewton(misfit, z[left], rows[left], damping=1e-4, enough=exact[left]).run(steps, self.watch)
            z[left] = state.z
        return z.cpu().double().numpy()

    def refined(self) -> tuple[Array, npt.NDArray[np.object_]]:
        """Codes (B, k) and how each search ended, (B,)."""
        rows = torch.nonzero(~self.exact & torch.isfinite(self.best.f))[:, 0]
        if len(rows) and not self.watch.reason:
            self.best.replace(rows, self._in_double(rows, self.options.max_iterations))
        found = self.best.found.cpu().numpy()
        status = np.full(self.problem.size, Status.FOUND_ONCE, dtype=object)
        status[found >= self.options.consensus] = Status.REFOUND
        status[self.best.flat().cpu().numpy()] = Status.FLAT
        open_ = ~self.finished().cpu().numpy()
        z = self.best.double
        if self.watch.reason:
            status[open_] = self.watch.reason
        elif self.problem.norm != "l2":
            status[:] = Status.CONVERGED  # what is found again in l2 need not be the best in another norm
            if isinstance(self.problem.network, Network) and np.isfinite(z).all():
                by_layer = _cheap_by_layer(self.problem)
                every = torch.arange(self.problem.size)
                z, status = finish(self._part(every), z, self.options.max_programs, by_layer)
        return z, status

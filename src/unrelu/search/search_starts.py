"""Where the descents of the joint search start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrelu.layerwise.layer_by_layer import layerwise_reason
from unrelu.measurements.noise import Gaussian
from unrelu.measurements.observed_network import is_layer
from unrelu.models.network import Network
from unrelu.problem import Problem, Progress
from unrelu.runtime.streams import torch_stream
from unrelu.search.confidence import Candidates
from unrelu.search.sample_bank import Bank
from unrelu.search.squared_error import SquaredError
from unrelu.search.starts import starting_codes


class SearchStart(NamedTuple):
    """A start of a search.

    Attributes:
        codes: a function of the observations at work, (b,), that gives those it starts, (b,), and their codes, (b, k).
        smoothed: whether the descent begins on the smoothed generators. From a code that is believed to be near an
            optimum, the user's or a layer-wise one, they would lead away.
        independent: whether it owes nothing to what was found before. A perturbation of the best code comes back to it
            more often than not, and the user's code may be the result of an earlier search: that they end where others
            did is no evidence that there is nothing better.
    """

    codes: Callable[[Tensor], tuple[Tensor, Tensor]]
    smoothed: bool = True
    independent: bool = True


# What a pixel's variance is taken to be by the linear estimate, beside the noise and what the samples leave over.
_ESTIMATE_NOISE = 1e-2
# The length of a perturbation, as a fraction of the length sqrt(k) of a typical code; and their number in a round.
_LENGTH = (0.06, 0.6)
_PERTURBATIONS = 2
# Work of a least-squares problem of one layer, n k^2, up to which a layer-wise start is tried.
_LAYER_WORK = 5e7


def cheap_by_layer(problem: Problem) -> bool:
    """Whether the layers allow a layer-wise start that does not cost more than all other starts together."""
    network = problem.network
    if layerwise_reason(network) is not None or not isinstance(network, Network):
        return False
    if not is_layer(network, problem.operator):
        return False
    return max(layer.n_out * layer.n_in**2 for layer in network.layers) <= _LAYER_WORK


class SearchStarts:
    """The starts of one search, round after round.

    Args:
        problem: the problem.
        bank: samples of its generator.
        objective: its l2 objective, in the precision of the search.
        best: the candidates, which perturbations start from.
        report: the progress of the search, for a callback during a layer-wise start.
    """

    def __init__(
        self, problem: Problem, bank: Bank, objective: SquaredError, best: Candidates, report: Callable[[], Progress]
    ) -> None:
        self.problem, self.bank, self.objective, self.best, self.report = problem, bank, objective, best, report
        self.by_layer = problem.z0 is None and cheap_by_layer(problem)
        self.draws = torch_stream("search starts", problem.seed)

    def of_round(self, turn: int) -> Iterator[SearchStart]:
        """The starts of one round.

        Round 0: the linear estimate, or the user's codes; then ``exact`` layer by layer, where y looks noiseless. Round
        1: the nearest sample. From round 2 on: a random code and two perturbations of the best code; in round 2 also
        ``least_squares`` layer by layer, where no two descents have agreed.
        """
        if turn == 0:
            yield (
                SearchStart(self._estimated)
                if self.problem.z0 is None
                else SearchStart(self._given, smoothed=False, independent=False)
            )
            if self.by_layer:
                yield SearchStart(self._exact, smoothed=False)
        elif turn == 1:
            yield SearchStart(self._nearest)
        else:
            # All observations draw, so that the codes tried on one do not depend on the others' progress.
            size = (self.problem.size, self.problem.network.latent_dim)
            single = torch.float32
            drawn = torch.randn(_PERTURBATIONS + 1, *size, generator=self.draws, dtype=single)
            *perturbations, fresh = drawn.to(self.objective.y)
            lengths = torch.rand(_PERTURBATIONS, size[0], 1, generator=self.draws, dtype=single).to(self.objective.y)
            yield SearchStart(lambda rows: (rows, fresh[rows]))
            for direction, length in zip(perturbations, lengths, strict=True):
                yield SearchStart(
                    partial(self._perturbed, direction=direction, length=length), smoothed=False, independent=False
                )
            if turn == 2 and self.by_layer:
                yield SearchStart(self._least_squares, smoothed=False)

    def _given(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The user's codes."""
        assert self.problem.z0 is not None
        return rows, self.objective.tensor(self.problem.z0)[rows]

    def _estimated(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The linear estimate."""
        noise = self.problem.noise.mean_square if isinstance(self.problem.noise, Gaussian) else 0.0
        operator, y = self.objective.operator.take(rows), self.objective.y[rows]
        return rows, self.bank.estimate(operator, y, noise + _ESTIMATE_NOISE * self.bank.spread).to(y.dtype)

    def _nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest samples."""
        operator, y = self.objective.operator.take(rows), self.objective.y[rows]
        return rows, self.bank.nearest(operator, y, 1)[:, 0].to(y.dtype)

    def _exact(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Layer by layer from the neurons that are on, for observations without noise as far as one can see."""
        clean = torch.from_numpy(self.problem.looks_noiseless).to(rows.device)
        return self._layerwise(rows[clean[rows]], "exact")

    def _least_squares(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Layer by layer, where no two descents have agreed so far."""
        return self._layerwise(rows[self.best.times_found[rows] <= 1], "least_squares")

    def _layerwise(self, rows: Tensor, method: str) -> tuple[Tensor, Tensor]:
        if not len(rows):
            return rows, self.best.z[rows]
        control = self.problem.control.part(lambda _: self.report())
        found = starting_codes(self.problem.part(rows.cpu().numpy(), control), method)
        return rows, self.objective.tensor(found.z)

    def _perturbed(self, rows: Tensor, direction: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Perturbed best codes; the perturbation is longer along eigenvectors of J^T J with small eigenvalues."""
        values, directions = torch.linalg.eigh(self.best.gram[rows])
        fraction = (values / values[:, -1:].clamp_min(torch.finfo(values.dtype).tiny)).clamp_min(1e-4)
        softness = fraction**-0.25
        softness = softness / softness.norm(dim=1, keepdim=True)
        low, high = (np.log(end) for end in _LENGTH)
        size = torch.exp(low + (high - low) * length[rows]) * direction.shape[1] ** 0.5
        return rows, self.best.z[rows] + size * torch.einsum("bk,bjk->bj", softness * direction[rows], directions)

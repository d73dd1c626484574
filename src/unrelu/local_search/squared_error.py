"""The l2 objective of a batch in PyTorch: its value, and the normal equations of its Gauss-Newton step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unrelu.measurements import Operator
from unrelu.measurements.noise import Loss
from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.memory_limits import OBJECTIVE_NUMBERS, at_once
from unrelu.runtime.streams import torch_stream


@dataclass(frozen=True, eq=False)
class SquaredError:
    """f(z) = |A G(z) - y|_2^2 + sum_j prior_j z_j^2 for codes z of some observations.

    Another loss (:class:`~unrelu.measurements.noise.Loss`), such as a deviance, may take the place of the squares, and
    J^T J is then weighted.

    Codes (b, k) come with ``observations`` (b,), the observation of each code; an observation may have several codes.

    Attributes:
        network, operator, y: G, A and the observations (B, m) as tensors of one type.
        prior: the weights of the squares of the coordinates, (k,).
        box: lower and upper bounds of codes, (2, k).
        loss: what takes the place of the squares; None for squares.
    """

    network: Generator
    operator: Operator
    y: Tensor
    prior: Tensor
    box: Tensor
    loss: Loss | None = None

    @classmethod
    def of(cls, problem: Problem, network: Generator | None = None) -> SquaredError:
        """Return the objective of a problem, with its network or a copy of it in another precision."""
        network = network or problem.network
        y, loss = torch.tensor(problem.y, dtype=network.dtype, device=network.device), problem.loss
        box = torch.tensor(np.stack([problem.bounds.lower, problem.bounds.upper])).to(y)
        operator = problem.operator.to(network.dtype, network.device)
        prior = torch.tensor(problem.weights).to(y)
        return cls(network, operator, y, prior, box, loss)

    @property
    def squares(self) -> bool:
        """Whether f is a sum of squares."""
        return self.loss is None

    @cached_property
    def _seen(self) -> Tensor:
        return torch.from_numpy(self.operator.seen(len(self.y)).copy()).to(self.y)

    @property
    def jacobians(self) -> int:
        """The number of Jacobians that are held at once."""
        return at_once(OBJECTIVE_NUMBERS, self._width * self.network.latent_dim, self.y.device)

    @property
    def _width(self) -> int:
        return max(self.network.width, self.operator.width)

    def tensor(self, z: Array) -> Tensor:
        """Convert codes to a tensor of the right type."""
        return torch.tensor(z, dtype=self.network.dtype, device=self.network.device)

    def index(self, observations: Index) -> Tensor:
        """Convert indices of observations to a tensor on the right device."""
        return torch.from_numpy(observations.copy()).to(self.y.device)

    def clip(self, z: Tensor) -> Tensor:
        """Return the nearest codes inside the bounds, (b, k)."""
        return z.clamp(self.box[0], self.box[1])

    def held(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Find coordinates at a bound that a step against the gradient would cross, (b, k); they are not moved.

        Source: the active set of Bertsekas, "Projected Newton methods for optimization problems with simple
        constraints", SIAM J. Control and Optimization 20 (1982).
        """
        return ((z <= self.box[0]) & (gradient > 0)) | ((z >= self.box[1]) & (gradient < 0))

    def residual(self, z: Tensor, observations: Tensor) -> Tensor:
        """Compute A G(z) - y, (b, m), differentiable."""
        return self._measured(z, observations) - self.y[observations]

    def value(self, z: Tensor, observations: Tensor) -> Tensor:
        """Compute f, (b,), differentiable."""
        return self._misfit(self._measured(z, observations), observations) + self.penalty(z)

    def penalty(self, z: Tensor) -> Tensor:
        """Compute the term of the prior in f, (b,)."""
        return (self.prior * z * z).sum(dim=1)

    def _measured(self, z: Tensor, observations: Tensor) -> Tensor:
        return self.operator.take(observations).forward(self.network.forward(z))

    def _misfit(self, mean: Tensor, observations: Tensor) -> Tensor:
        """Compute |A x - y|_2^2 or another loss, (b,), for measurements A x, (b, m)."""
        if self.loss is None:
            r = mean - self.y[observations]
            return (r * r).sum(dim=1)
        return self.loss.total(self.y[observations], mean, self._seen[observations])

    @torch.no_grad()
    def values(self, z: Tensor, observations: Tensor) -> Tensor:
        """Compute f, (b,), a bounded number of codes at a time."""
        return torch.cat([self.value(*chunk) for chunk in self._chunks(z, observations)])

    def gradient(self, z: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Compute f, (b,), and 2 J^T (A G(z) - y) + 2 prior * z, (b, k), a bounded number of codes at a time."""
        return self._reverse(self.value, z, observations)

    def sketch(self, z: Tensor, observations: Tensor) -> Tensor:
        """Compute J^T u, (b, k), for a fixed draw u ~ N(0, I): zero if J is zero, else almost surely not."""
        u = torch.randn(self.operator.m, generator=torch_stream("sketch"), dtype=torch.float32).to(z)
        return self._reverse(lambda *chunk: self._measured(*chunk) @ u, z, observations)[1]

    @torch.enable_grad()
    def _reverse(
        self, function: Callable[[Tensor, Tensor], Tensor], z: Tensor, observations: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the values of a function of codes, (b,), and its gradients, (b, k)."""
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for part, where in self._chunks(z, observations):
            leaf = part.detach().requires_grad_(True)
            f = function(leaf, where)
            gradients += torch.autograd.grad(f.sum(), leaf)
            values.append(f.detach())
        return torch.cat(values), torch.cat(gradients)

    def _chunks(self, z: Tensor, observations: Tensor, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Split codes and their observations into parts; by default, the values of eight layers are held at once."""
        size = size or at_once(OBJECTIVE_NUMBERS, 8 * self._width, self.y.device)
        return zip(torch.split(z, size), torch.split(observations, size), strict=True)

    def jacobian(self, z: Tensor, observations: Tensor) -> Tensor:
        """Compute the transposed Jacobian of A G, (b, k, m)."""
        return self.operator.take(observations).linearize(*self.network.linearize(z))[1]

    def system(self, z: Tensor, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute J^T J + diag(prior) (b, k, k), half the gradient (b, k) and f (b,) for the Jacobian J of A G."""
        chunks = self._chunks(z, observations, self.jacobians)
        gram, gradient, f = zip(*(self._system(*chunk) for chunk in chunks), strict=True)
        return torch.cat(gram), torch.cat(gradient), torch.cat(f)

    def _system(self, z: Tensor, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, tangents = self.operator.take(observations).linearize(*self.network.linearize(z))
        r, weighted = mean - self.y[observations], tangents
        if self.loss is not None:
            r, weight = self.loss.scoring(self.y[observations], mean)
            weighted = tangents * weight[:, None, :]
        gram, gradient = weighted @ tangents.transpose(1, 2), (tangents @ r[:, :, None])[:, :, 0]
        gram.diagonal(dim1=1, dim2=2).add_(self.prior)
        return gram, gradient + self.prior * z, self._misfit(mean, observations) + self.penalty(z)

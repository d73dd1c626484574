"""Samplers that are wrong, as negative controls: a test of posterior draws that these pass tests nothing.

* ``laplace``: N(z_0, (J^T J / sigma^2 + I)^-1) at the best of eight local optima.
* ``unadjusted Langevin``: z + (eps^2 / 2) C grad log p + eps C^(1/2) xi without an accept step, C the covariance above
  and eps = 1.65 / k^(1/6), the step of the adjusted algorithm at its best acceptance (Roberts and Rosenthal, Optimal
  scaling of discrete approximations to Langevin diffusions, 1998).
* ``HMC in one mode``: Hamiltonian Monte Carlo with an accept step, all chains from one local optimum.

They share nothing with the sampler of the package but the generators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.runtime.streams import stream, torch_stream
from unrelu_studies.benchmarks.posterior.posterior_cells import PosteriorCell

Array = npt.NDArray[np.float64]

STARTS, _DESCENT = 8, 60
# Steps of a trajectory and their length in whitened coordinates, which is drawn within these shares of it.
_LEAPFROG, _LENGTH, _JITTER = 12, 0.13, (0.8, 1.2)
# Draws that are left out first, and iterations for each draw.
_WARM_UP, _EVERY = 50, 2
# Codes further out than this many deviations of the prior are held there.
_FAR = 100.0


@dataclass(frozen=True, eq=False)
class Local:
    """Local optima of observations, and the Laplace approximations there.

    Attributes:
        z: (B, k).
        energy: (B,).
        root: C^(1/2) with C = root root^T, (B, k, k).
    """

    z: Array
    energy: Array
    root: Array


def local_optima(cell: PosteriorCell, seen: Array, starts: Array) -> Local:
    """Damped Gauss-Newton steps on the energy from codes (B, k), of observations (B, m)."""
    z, damping = starts.copy(), np.full(len(starts), 1.0)
    energy, gradient, hessian = _expansion(cell, seen, z)
    identity = np.eye(z.shape[1])
    for _ in range(_DESCENT):
        step = np.linalg.solve(hessian + damping[:, None, None] * identity, gradient[:, :, None])[:, :, 0]
        after = _expansion(cell, seen, z - step)
        lower = after[0] < energy
        z = np.where(lower[:, None], z - step, z)
        energy = np.where(lower, after[0], energy)
        gradient = np.where(lower[:, None], after[1], gradient)
        hessian = np.where(lower[:, None, None], after[2], hessian)
        damping = np.where(lower, damping / 3, damping * 4).clip(1e-9, 1e12)
    inverse = np.linalg.inv(np.linalg.cholesky(hessian))
    return Local(z, energy, inverse.transpose(0, 2, 1))


def _expansion(cell: PosteriorCell, seen: Array, z: Array) -> tuple[Array, Array, Array]:
    """Energies (B,), gradients (B, k) and Gauss-Newton Hessians (B, k, k)."""
    jacobian = cell.network.jacobian(z).reshape(len(z), -1, z.shape[1])
    if cell.operator is not None and cell.operator.dtype == bool:
        jacobian = jacobian[:, cell.operator.ravel()]
    elif cell.operator is not None:
        jacobian = cell.operator @ jacobian
    size = np.broadcast_to(cell.noise.level, seen.shape[1:])
    r = (cell.measured(cell.network.outputs(z)) - seen) / size
    scaled = jacobian / size[:, None]
    energy = 0.5 * (np.square(r).sum(axis=1) + np.square(z).sum(axis=1))
    gradient = np.einsum("bmk,bm->bk", scaled, r) + z
    return energy, gradient, scaled.transpose(0, 2, 1) @ scaled + np.eye(z.shape[1])


def laplace(cell: PosteriorCell, y: Array, chains: int, draws: int, seed: int) -> Array:
    """Independent draws of the Laplace approximation at the best of several optima, (B, chains, draws, k)."""
    best = _best(cell, cell.seen(y), seed)
    xi = stream("control draws", seed).standard_normal((len(y), chains, draws, best.z.shape[1]))
    return np.asarray(best.z[:, None, None] + np.einsum("bij,bcdj->bcdi", best.root, xi))


def unadjusted_langevin(cell: PosteriorCell, y: Array, chains: int, draws: int, seed: int) -> Array:
    """Langevin steps that are all taken, from the best of several optima, (B, chains, draws, k)."""
    best = _best(cell, cell.seen(y), seed)
    eps = 1.65 / best.z.shape[1] ** (1 / 6)

    def advance(state: _State) -> None:
        xi = torch.randn(state.z.shape, generator=state.random, dtype=torch.float64)
        drift = state.whitened(state.transposed(state.gradient))
        # Steps across kinks may diverge.
        state.move((state.z - 0.5 * eps**2 * drift + eps * state.whitened(xi)).clamp(-_FAR, _FAR))

    return _run(cell, y, best, advance, chains, draws, seed)


def one_mode_hmc(cell: PosteriorCell, y: Array, chains: int, draws: int, seed: int) -> Array:
    """Hamiltonian Monte Carlo from one local optimum, (B, chains, draws, k)."""
    seen = cell.seen(y)
    start = stream("control starts", seed).standard_normal((len(y), cell.network.latent_dim))
    return _run(cell, y, local_optima(cell, seen, start), hmc_iteration, chains, draws, seed)


def hmc_from(cell: PosteriorCell, y: Array, codes: Array, chains: int, draws: int, seed: int) -> Array:
    """Hamiltonian Monte Carlo from codes (B, k), nothing left out, whitened at the optima below them.

    From exact draws of a posterior, all draws are exact.
    """
    below = local_optima(cell, cell.seen(y), codes)
    return _run(cell, y, Local(codes, below.energy, below.root), hmc_iteration, chains, draws, seed, warm_up=0)


class _State:
    """Chains of all observations, one a row."""

    def __init__(self, cell: PosteriorCell, y: Array, local: Local, chains: int, seed: int) -> None:
        self.cell, self.seen = cell, torch.from_numpy(np.repeat(cell.seen(y), chains, axis=0))
        self.root = torch.from_numpy(local.root)
        self.random = torch_stream("control chains", seed)
        self.chains = chains
        self.move(torch.from_numpy(np.repeat(local.z, chains, axis=0)))

    def move(self, z: Tensor) -> None:
        """To other codes."""
        self.z, (self.energy, self.gradient) = z, self.at(z)

    def at(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (N,) and gradients (N, k)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            energy = self.cell.energy(z, self.seen)
            (gradient,) = torch.autograd.grad(energy.sum(), z)
        return energy.detach(), gradient

    def whitened(self, v: Tensor) -> Tensor:
        """C^(1/2) v of rows (N, k)."""
        return self._each("bij,bcj->bci", v)

    def transposed(self, v: Tensor) -> Tensor:
        """C^(1/2)^T v of rows (N, k)."""
        return self._each("bji,bcj->bci", v)

    def _each(self, equation: str, v: Tensor) -> Tensor:
        split = v.reshape(len(self.root), self.chains, -1)
        return torch.einsum(equation, self.root, split).reshape(v.shape)


def hmc_iteration(state: _State) -> None:
    """One trajectory of every chain, accepted or not."""
    low, high = _JITTER
    length = _LENGTH * (low + (high - low) * torch.rand(len(state.z), 1, generator=state.random, dtype=torch.float64))
    p = torch.randn(state.z.shape, generator=state.random, dtype=torch.float64)
    before = state.energy + 0.5 * p.square().sum(dim=1)
    z, gradient, energy = state.z, state.gradient, state.energy
    for _ in range(_LEAPFROG):
        p = p - 0.5 * length * state.transposed(gradient)
        z = z + length * state.whitened(p)
        energy, gradient = state.at(z)
        p = p - 0.5 * length * state.transposed(gradient)
    after = energy + 0.5 * p.square().sum(dim=1)
    accepted = torch.rand(len(z), generator=state.random, dtype=torch.float64).log() < before - after
    state.z = torch.where(accepted[:, None], z, state.z)
    state.energy = torch.where(accepted, energy, state.energy)
    state.gradient = torch.where(accepted[:, None], gradient, state.gradient)


def _run(
    cell: PosteriorCell, y: Array, local: Local, advance: Callable[[_State], None], chains: int, draws: int, seed: int,
    warm_up: int = _WARM_UP,
) -> Array:  # fmt: skip
    state = _State(cell, y, local, chains, seed)
    kept = []
    for i in range(warm_up + draws * _EVERY):
        advance(state)
        if i >= warm_up and (i - warm_up) % _EVERY == _EVERY - 1:
            kept.append(state.z.reshape(len(y), chains, -1).numpy())
    return np.stack(kept, axis=2)


def _best(cell: PosteriorCell, seen: Array, seed: int) -> Local:
    """The best of several local optima of each observation."""
    starts = stream("control starts", seed).standard_normal((STARTS, len(seen), cell.network.latent_dim))
    ends = [local_optima(cell, seen, start) for start in starts]
    chosen, rows = np.argmin([end.energy for end in ends], axis=0), np.arange(len(seen))
    z, energy, root = (np.stack([getattr(end, name) for end in ends])[chosen, rows] for name in ("z", "energy", "root"))
    return Local(z, energy, root)


Control = Callable[[PosteriorCell, Array, int, int, int], Array]
CONTROLS: dict[str, Control] = {
    "Laplace approximation": laplace,
    "unadjusted Langevin": unadjusted_langevin,
    "HMC in one mode": one_mode_hmc,
}

"""The observations of the benchmark of proofs: outputs of ``mnist-relu`` under uniform noise, bright and dim ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu import zoo
from unrelu.models.network import Network
from unrelu.runtime.streams import stream

Array = npt.NDArray[np.float64]

GENERATOR = "mnist-relu"
# Pixels of G(z*) above the noise in a dim image.
_DIM = (10, 40)


@dataclass(frozen=True)
class CertifyCell:
    """A kind of observation.

    Attributes:
        noise: |e_j| is at most that, uniform.
        dim: whether z is scaled so that only 10 to 40 pixels of G(z) exceed the noise; otherwise z ~ N(0, I).
        clipped: whether y = max(G(z) + e, 0), as an output of a ReLU is not negative; otherwise y = G(z) + e.
    """

    noise: float
    dim: bool = False
    clipped: bool = True

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.noise:g}{', dim' if self.dim else ''}{'' if self.clipped else ', not clipped'}"


CELLS = (
    *(CertifyCell(noise) for noise in (1e-3, 1e-2, 0.1, 0.3)),
    CertifyCell(0.1, dim=True),
    CertifyCell(0.1, clipped=False),
)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Observations of a cell.

    Attributes:
        network: G.
        y: (B, n).
        truth: codes z*, (B, k).
    """

    network: Network
    y: Array
    truth: Array


def draw(cell: CertifyCell, count: int, seed: int) -> Drawn:
    """The first observations of a cell; equal arguments give equal bits, and more of them begin with the same."""
    network = zoo.load(GENERATOR)
    rows = [_one(network, cell, seed, index) for index in range(count)]
    y, truth = (np.stack(arrays) for arrays in zip(*rows, strict=True))
    return Drawn(network, y, truth)


def _one(network: Network, cell: CertifyCell, seed: int, index: int) -> tuple[Array, Array]:
    rng = stream("certify, truth", seed, cell.name, index)
    z = rng.standard_normal(network.latent_dim)
    x = np.asarray(network(z))
    if cell.dim:
        # G has no biases: scaling z scales G(z).
        z = z * cell.noise / np.sort(x)[-int(rng.integers(_DIM[0], _DIM[1] + 1))]
        x = np.asarray(network(z))
    noise = stream("certify, noise", seed, cell.name, index)
    y = x + noise.uniform(-cell.noise, cell.noise, x.shape)
    return np.maximum(y, 0.0) if cell.clipped else y, z

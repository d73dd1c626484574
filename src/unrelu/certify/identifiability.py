"""Is the code determined by the observation? The rank of the Jacobian on the linear piece around it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from unrelu.network import Network

__all__ = ["freedom"]

Array = npt.NDArray[np.float64]

# Singular values below this share of the largest count as zero.
_RANK_TOLERANCE = 1e-10
# Layer outputs below this share of the layer's largest count as those of a neuron that is off: a code found as a vertex
# of the preimage has neurons exactly at their kink, on either side by rounding.
_KINK_TOLERANCE = 1e-9
# Numbers in the Jacobians held at once.
_CHUNK = 2**22


def freedom(network: Network, z: Array) -> npt.NDArray[np.int64]:
    """k - rank J(z), the dimension of the set of codes around z with the same output, (B,) for codes (B, k).

    J is the Jacobian of the linear piece that G has at z, with neurons at their kink counted as off.
    """
    rows = max(1, _CHUNK // (network.latent_dim * max(layer.n_out for layer in network.layers)))
    codes = torch.as_tensor(z, dtype=torch.float64)
    exact = network.to(torch.float64, "cpu")
    ranks = [_ranks(exact, part) for part in torch.split(codes, rows)]
    return network.latent_dim - np.concatenate(ranks)


def _ranks(network: Network, z: torch.Tensor) -> npt.NDArray[np.int64]:
    batch, k = z.shape
    tangents, x = torch.eye(k, dtype=z.dtype).expand(batch, k, k), z
    for layer in network.layers:
        tangents = torch.unflatten(layer.affine.apply(tangents.flatten(0, 1), constant=False), 0, (batch, k))
        u = layer.affine.apply(x)
        x = layer.activation.forward(u)
        kink = _KINK_TOLERANCE * u.abs().amax(dim=1, keepdim=True)
        below = torch.where(u > kink, u, -u.abs())
        tangents = tangents * layer.activation.derivative(below if not layer.activation.smooth else u, x)[:, None, :]
    values = torch.linalg.svdvals(tangents)
    return np.asarray((values > _RANK_TOLERANCE * values[:, :1]).sum(dim=1), dtype=np.int64)

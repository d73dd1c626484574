"""Is the code determined by the observation? The dimension of the set of codes around it with the same output."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.generator import Generator
from unrelu.layer.preimage import always_tight, constraints_on, null_space, rank
from unrelu.network import Network
from unrelu.operators import Identity, Operator

__all__ = ["freedom"]

Array = npt.NDArray[np.float64]

# Singular values below this share of the largest count as zero.
_RANK_TOLERANCE = 1e-10
# Pre-activations below this share of the layer's largest are at the kink: a code found as a vertex of the preimage has
# neurons exactly there, on either side by rounding.
_KINK_TOLERANCE = 1e-7
# Numbers in the Jacobians held at once.
_CHUNK = 2**22


def freedom(network: Generator, z: Array, operator: Operator | None = None) -> npt.NDArray[np.int64]:
    r"""Dimension of a set of codes around z with the same observation A G(z), (B,) for codes (B, k).

    With J = A G' the Jacobian of the linear piece of A G at z, this is k - rank J. Where ReLU neurons are at their
    kink, several pieces meet in z; the one on which they all stay off and the one on which they all come on are looked
    at. With K the derivatives of their pre-activations, z may move on them along

    .. math:: \{d : J d = 0, \; K d \le 0\} \quad \text{or} \quad \{d : J d = 0, \; K d \ge 0\}

    and the larger dimension of these cones is returned. There it is a lower bound, as a mixed piece may leave more;
    where it is 0 because of neurons with layers behind them, -1 (unknown) is returned.

    Of a generator without known layers the kinks are not known either, and k - rank J at z is returned.
    """
    rows = max(1, _CHUNK // (network.latent_dim * network.width))
    codes = torch.as_tensor(z, dtype=torch.float64)
    exact = network.to(torch.float64, "cpu")
    measured = operator or Identity(network.output_shape, network.output_dim)
    parts = torch.split(torch.arange(len(codes)), rows)
    return np.concatenate([_free_dimensions(exact, codes[part], measured.take(part)) for part in parts])


def _free_dimensions(network: Generator, z: Tensor, operator: Operator) -> npt.NDArray[np.int64]:
    if not isinstance(network, Network):
        return _unspanned(operator.tangents(network.linearize(z)[1]))
    free, kinked, hidden = _piece(network, z, operator, on=False)
    if kinked.any():
        some = operator.take(np.flatnonzero(kinked))
        free[kinked] = np.maximum(free[kinked], _piece(network, z[torch.from_numpy(kinked)], some, on=True)[0])
    free[hidden & (free == 0)] = -1
    return free


def _piece(network: Network, z: Tensor, operator: Operator, on: bool) -> tuple[npt.NDArray[np.int64], ...]:
    """Free dimensions on the piece where all neurons at their kink are on, or all off.

    Also: which codes have neurons at their kink, and which have them before the last layer.
    """
    batch, k = z.shape
    tangents, x = torch.eye(k, dtype=z.dtype).expand(batch, k, k), z
    kinks: list[list[Tensor]] = [[] for _ in range(batch)]
    hidden = np.zeros(batch, dtype=bool)
    for depth, layer in enumerate(network.layers, 1):
        slopes = torch.unflatten(layer.affine.apply(tangents.flatten(0, 1), constant=False), 0, (batch, k))
        u = layer.affine.apply(x)
        x = layer.activation.forward(u)
        at_kink = _at_kink(layer.activation.slope, u)
        side = torch.where(at_kink, torch.full_like(u, 1.0 if on else -1.0), u)
        tangents = slopes * layer.activation.derivative(side, x)[:, None, :]
        for i in torch.nonzero(at_kink.any(dim=1))[:, 0].tolist():
            kinks[i].append(slopes[i][:, at_kink[i]].T)
            hidden[i] |= depth < len(network.layers)
    tangents = operator.tangents(tangents)
    free = _unspanned(tangents)
    kinked = np.array([bool(found) for found in kinks], dtype=bool)
    for i in np.flatnonzero(kinked & (free > 0)):
        outwards = torch.cat(kinks[i]).numpy()
        free[i] = _cone_dimension(tangents[i].T.numpy(), -outwards if on else outwards)
    return free, kinked, hidden


def _unspanned(tangents: Tensor) -> npt.NDArray[np.int64]:
    """k - rank J of each transposed Jacobian, (B, k, n)."""
    values = torch.linalg.svdvals(tangents)
    rank = (values > _RANK_TOLERANCE * values[:, :1]).sum(dim=1)
    return tangents.shape[1] - np.asarray(rank, dtype=np.int64)


def _at_kink(slope: Array, u: Tensor) -> Tensor:
    """Where a ReLU (slope 0 below zero) has a pre-activation of zero."""
    flat = torch.as_tensor(np.nan_to_num(slope, nan=1.0) == 0)
    return flat & (u.abs() <= _KINK_TOLERANCE * u.abs().amax(dim=1, keepdim=True))


def _cone_dimension(jacobian: Array, kinks: Array) -> int:
    """Dimension of {d: jacobian d = 0, kinks d <= 0}; -1 if it could not be computed."""
    basis = null_space(jacobian)
    normals = constraints_on(kinks, basis)
    normals = normals[normals.any(axis=1)]
    if not len(normals):
        return int(basis.shape[1])
    tight = always_tight(normals, np.zeros(len(normals)))
    return -1 if tight is None else int(basis.shape[1]) - rank(normals[tight])

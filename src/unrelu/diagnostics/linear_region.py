"""The linear region of A G around a code: its Jacobian, whether neurons are at their kink, how far it reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.diagnostics.solution_cones import RANK_TOLERANCE, at_kink, kink_map, picks
from unrelu.measurements import Operator
from unrelu.models.generator import Generator
from unrelu.models.network import Layer, Network

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

# The eigenvalues of J J^T are off by eps times the largest, so from this share of it on their roots are singular
# values to 1e-10; below, J itself is factored. A J of single precision is off by 1e-6 of its size, a thousandth of the
# root of this share.
_GRAM_SHARE = 1e-6
# Beyond, the squares in J J^T leave the range of numbers.
_GRAM_RANGE = (1e-200, 1e200)


@dataclass(frozen=True, eq=False)
class LinearRegions:
    """The linear regions at codes z, (B, k), with every neuron at its kink inactive.

    Attributes:
        tangents: the transposed Jacobian of A G, (B, k, m).
        margin: (B,); NaN where it is not known, or not asked for.
        kinked: where a neuron is at its kink, (B,).
        several: where rank k here does not rule out other codes, as regions meet that have other Jacobians, (B,).
        finite: where G(z) is, (B,).
    """

    tangents: Tensor
    margin: Array
    kinked: Flags
    several: Flags
    finite: Flags


def affine(network: Generator) -> bool:
    """Whether G is known to be affine on each of its linear regions: it is of layers without sigmoid and tanh."""
    return isinstance(network, Network) and not any(map(_curved, network.layers))


def linear_regions(network: Generator, z: Tensor, operator: Operator, single: Network | None = None) -> LinearRegions:
    r"""The Jacobian of A G at z, and the largest radius within which no pre-activation changes its sign.

    As long as no neuron before it changes its side, u_j is affine in z, and so its sign stays within

    .. math:: \min_j |u_j| / |\nabla u_j|_2

    of z, over the neurons that have a kink. Behind a sigmoid or tanh they are not affine, and there is no such radius.

    With ``single``, the network in single precision, the Jacobian is pushed through that, which takes a convolutional
    one a third of the time, and there is no margin; the pattern is found in double precision.
    """
    batch, k = z.shape
    none = np.zeros(batch, dtype=bool)
    if not isinstance(network, Network):
        x, tangents = network.linearize(z)
        return LinearRegions(operator.linearize(x, tangents)[1], np.full(batch, np.nan), none, none, _finite(x))
    fast = single or network
    x, straight, tangents = z, single is None, torch.eye(k, dtype=fast.dtype)[None]
    margin = torch.full((batch,), torch.inf, dtype=z.dtype)
    kinked, several, picked = none, none, picks(operator)
    for layer, pushing in zip(network.layers, fast.layers, strict=True):
        pushed = pushing.affine.apply(tangents.flatten(0, 1), constant=False)
        slopes = torch.unflatten(pushed, 0, tangents.shape[:2]).expand(batch, -1, -1)
        u = layer.affine.apply(x)
        kinks = at_kink(layer, x, u)
        x = layer.activation.forward(u)
        off = layer.activation.derivative(torch.where(kinks, -1.0, u), x)
        tangents = slopes * off.to(fast.dtype)[:, None, :]
        margin = torch.minimum(margin, _reach(layer, u, slopes) if straight else torch.full_like(margin, torch.nan))
        straight &= not _curved(layer)
        kinked = kinked | kinks.any(dim=1).numpy()
        several = several if picked and layer is network.layers[-1] else kinked
    if operator.selects:
        measured = operator.to(fast.dtype, x.device).tangents(tangents)
    else:
        measured = operator.linearize(x, tangents.to(x.dtype))[1]
    return LinearRegions(measured, margin.numpy(), kinked, several, _finite(x))


def certain(network: Network, single: Network, z: Tensor, operator: Operator) -> tuple[Array, Flags]:
    """The smallest singular value of A J to 1e-3, and where no other code near z surely has the same A G, (B,) each.

    That is where A J has rank k and no neuron is at its kink. One of the last layer may be where A picks outputs: if it
    is active it adds a row to the Jacobian. Elsewhere the outputs of neurons at their kink count as directions of their
    own, next to the k of z: if A J of all of these has full rank, so has every Jacobian around z.
    """
    regions = linear_regions(network, z, operator, single)
    smallest, sure = _by_gram(regions.tangents.double())
    for i in np.flatnonzero(sure & regions.several):
        around = kink_map(network, single, z[[i]], operator.take(np.array([i])), np.zeros((0, z.shape[1])))
        sure[i] = around is not None and _by_gram(around.measured[None].double())[1][0]
    return smallest, sure & regions.finite


def spectrum(tangents: Tensor) -> tuple[Array, Counts]:
    """The smallest of k singular values and the rank of transposed Jacobians (B, k, m); NaN and -1 if not finite."""
    _, k, m = tangents.shape
    smallest, sure = _by_gram(tangents)
    rank = np.where(sure, k, -1)
    rows = np.flatnonzero(~sure & torch.isfinite(tangents).flatten(1).all(dim=1).numpy())
    smallest[~sure] = np.nan
    if len(rows):
        values = torch.linalg.svdvals(tangents[torch.from_numpy(rows)])
        rank[rows] = (values > RANK_TOLERANCE * values[:, :1]).sum(dim=1).numpy()
        smallest[rows] = values[:, -1].numpy() if m >= k else 0.0
    return smallest, rank


def _by_gram(tangents: Tensor) -> tuple[Array, Flags]:
    """The smallest singular value by the eigenvalues of J J^T, (B,), and where that is to be relied on."""
    gram = tangents @ tangents.transpose(1, 2)
    usable = torch.isfinite(gram).flatten(1).all(dim=1)
    values = torch.linalg.eigvalsh(torch.where(usable[:, None, None], gram, torch.zeros_like(gram)))
    least, most = values[:, 0], values[:, -1]
    sure = usable & (least > _GRAM_SHARE * most) & (most > _GRAM_RANGE[0]) & (most < _GRAM_RANGE[1])
    return least.clamp_min(0).sqrt().numpy(), sure.numpy()


def _reach(layer: Layer, u: Tensor, slopes: Tensor) -> Tensor:
    """How far z may move until a neuron of the layer reaches its kink, (B,)."""
    bent = torch.from_numpy(layer.activation.kinks(layer.n_out))
    if _curved(layer) or not bent.any():
        return torch.full_like(u[:, 0], torch.inf)
    far = u.abs() / torch.linalg.vector_norm(slopes, dim=1)
    # 0 / 0: it does not move at all.
    return torch.where(bent & ~far.isnan(), far, torch.inf).amin(dim=1)


def _curved(layer: Layer) -> bool:
    return layer.activation.smooth or layer.activation.width > 0


def _finite(x: Tensor) -> Flags:
    return torch.isfinite(x).all(dim=1).numpy()

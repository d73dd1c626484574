"""The linear region of A G around a code: its Jacobian, the neurons at their kink, how far the region reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import get_lapack_funcs
from torch import Tensor

from unrelu.lp.polytopes import always_tight, constraints_on, null_space
from unrelu.measurements import Operator
from unrelu.measurements.observed_network import selects_outputs
from unrelu.models.generator import Generator
from unrelu.models.network import Layer, Network

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

# Singular values below this share of the largest count as zero. Outputs carry rounding errors of eps |y|, eps = 2e-16,
# and |y| is about sigma_max |z| at most, so at this share they leave z open by eps / 1e-10 = 2e-6 of its length (in
# runs by a tenth of that, as rounding is spread over all directions). Far below it, not even data that are exact to the
# last bit tell the code to 1e-6.
RANK_TOLERANCE = 1e-10
# Pre-activations below this share of the layer's largest are at the kink: a code found as a vertex of the preimage has
# neurons exactly there, on either side by rounding.
_KINK_TOLERANCE = 1e-7
# The eigenvalues of J J^T are off by eps times the largest, so from this share of it on their roots are singular
# values to 1e-10; below, J itself is factored. A J of single precision is off by 1e-6 of its size, a thousandth of the
# root of this share.
_GRAM_SHARE = 1e-6
# A reciprocal condition number of J J^T, as LAPACK estimates it, above which the rank is k: single precision leaves an
# error of about 1e-7, and estimates are rarely off by more than ten times.
_CONDITION = 1e-5
# Beyond, the squares in J J^T leave the range of numbers.
_GRAM_RANGE = (1e-200, 1e200)


@dataclass(frozen=True, eq=False)
class LinearRegions:
    """The linear regions at codes z, (B, k), with every neuron at its kink on, or every one off.

    Attributes:
        tangents: the transposed Jacobian of A G, (B, k, m).
        margin: (B,); NaN where it is not known.
        kinks: of every code the derivatives of the pre-activations at their kink, (count, k).
        hidden: where some of these neurons are before the last layer, (B,).
        finite: where G(z) is, (B,).
    """

    tangents: Tensor
    margin: Array
    kinks: list[Array]
    hidden: Flags
    finite: Flags


def affine(network: Generator) -> bool:
    """Whether G is known to be affine on each of its linear regions: it is of layers without sigmoid and tanh."""
    return isinstance(network, Network) and not any(map(_curved, network.layers))


def linear_regions(network: Generator, z: Tensor, operator: Operator, on: bool = False) -> LinearRegions:
    r"""The Jacobian of A G at z, and the largest radius within which no pre-activation changes its sign.

    As long as no neuron before it changes its side, u_j is affine in z, and so its sign stays within

    .. math:: \min_j |u_j| / |\nabla u_j|_2

    of z, over the neurons that have a kink. Behind a sigmoid or tanh they are not affine, and there is no such radius.
    """
    batch, k = z.shape
    if not isinstance(network, Network):
        x, tangents = network.linearize(z)
        none = np.zeros(batch, dtype=bool)
        kinks = [np.zeros((0, k))] * batch
        return LinearRegions(operator.linearize(x, tangents)[1], np.full(batch, np.nan), kinks, none, _finite(x))
    x, straight = z, True
    margin = torch.full((batch,), torch.inf, dtype=z.dtype)
    found: list[list[Tensor]] = [[] for _ in range(batch)]
    hidden = np.zeros(batch, dtype=bool)
    for depth, layer in enumerate(network.layers, 1):
        slopes = _pushed(layer, tangents if depth > 1 else torch.eye(k, dtype=z.dtype)[None], batch)
        u = layer.affine.apply(x)
        x = layer.activation.forward(u)
        at_kink = _at_kink(layer, u)
        side = torch.where(at_kink, torch.full_like(u, 1.0 if on else -1.0), u)
        tangents = slopes * layer.activation.derivative(side, x)[:, None, :]
        margin = torch.minimum(margin, _reach(layer, u, slopes) if straight else torch.full_like(margin, torch.nan))
        straight &= not _curved(layer)
        for i in torch.nonzero(at_kink.any(dim=1))[:, 0].tolist():
            found[i].append(slopes[i][:, at_kink[i]].T)
            hidden[i] |= depth < len(network.layers)
    kinks = [torch.cat(rows).numpy() if rows else np.zeros((0, k)) for rows in found]
    return LinearRegions(operator.linearize(x, tangents)[1], margin.numpy(), kinks, hidden, _finite(x))


class Certain(NamedTuple):
    """What is sure of codes, (B,) each: the smallest singular value to 1e-3, rank k on both sides, a hidden kink."""

    sigma: Array
    full_rank: Flags
    hidden: Flags


def certain(network: Network, single: Network, z: Tensor, operator: Operator, wanted: Flags) -> Certain:
    """Where A J surely has rank k, with every neuron at its kink on as well as with every one off.

    Neurons of the last layer are taken as off where A picks outputs: any that comes on adds a row to the Jacobian.
    ``hidden`` is where some at their kink are before the last layer.

    The pattern is found in double precision and the directions are pushed through ``single``, the network in single
    precision, which takes a convolutional one a third of the time; those of the other side from the first layer with a
    kink on. Singular values are for where they are ``wanted``, (B,), or the rank is not obvious; a condition number,
    which takes far less, is enough for the rank. They are NaN elsewhere.
    """
    batch, k = z.shape
    x, hidden, picked = z, torch.zeros(batch, dtype=torch.bool), selects_outputs(operator)
    off, kinked = torch.eye(k, dtype=single.dtype)[None], torch.zeros(batch, dtype=torch.bool)
    on = off.expand(0, -1, -1)  # the tangents of those that are kinked
    for layer, fast in zip(network.layers, single.layers, strict=True):
        hidden = kinked.clone()
        slopes = _pushed(fast, off, batch)
        u = layer.affine.apply(x)
        x = layer.activation.forward(u)
        kinks = _at_kink(layer, u)
        if not (picked and layer is network.layers[-1]):
            kinked = hidden | kinks.any(dim=1)
        if kinked.any():
            both = slopes[kinked]
            if len(on):
                both[hidden[kinked]] = _pushed(fast, on, len(on))
            on = both * _slope(layer, u, x, kinks, 1.0)[kinked].to(single.dtype)[:, None, :]
        off = slopes * _slope(layer, u, x, kinks, -1.0).to(single.dtype)[:, None, :]
    smallest, sure = _full_rank(_measured(operator, x, off, np.arange(batch)), wanted)
    some = torch.nonzero(kinked)[:, 0].numpy()
    if len(some):
        sure[some] &= _full_rank(_measured(operator, x, on, some), np.zeros(len(some), dtype=bool))[1]
    return Certain(smallest, sure & _finite(x), hidden.numpy())


def _slope(layer: Layer, u: Tensor, x: Tensor, kinks: Tensor, side: float) -> Tensor:
    """The derivatives of an activation, (B, n), with the neurons at their kink on one side of it."""
    return layer.activation.derivative(torch.where(kinks, side, u), x)


def _measured(operator: Operator, x: Tensor, tangents: Tensor, rows: npt.NDArray[np.intp]) -> Tensor:
    """What an operator makes of the tangents (b, k, n) of some outputs, (b, k, m)."""
    if selects_outputs(operator):
        return operator.take(rows).to(tangents.dtype, x.device).tangents(tangents)
    return operator.take(rows).linearize(x[torch.from_numpy(rows)], tangents.to(x.dtype))[1]


def _full_rank(measured: Tensor, wanted: Flags) -> tuple[Array, Flags]:
    """The smallest singular value, where it is wanted or the rank is not obvious, and where the rank is surely k."""
    smallest, sure = np.full(len(measured), np.nan), _well_conditioned(measured.to(torch.float32))
    rest = np.flatnonzero(wanted | ~sure)
    if len(rest):
        smallest[rest], sure[rest] = _by_gram(measured[torch.from_numpy(rest)].double())
    return smallest, sure


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


def free_basis(tangents: Tensor, kinks: Array, on: bool) -> Array | None:
    """An orthonormal basis, (k, dimension), of what the free directions at one code span; None if it was not found.

    They are the d with A J d = 0 along which the neurons at their kink stay on, or stay off.
    """
    basis = null_space(tangents.T.numpy())
    normals = constraints_on(-kinks if on else kinks, basis)
    normals = normals[normals.any(axis=1)]
    if not len(normals):
        return basis
    tight = always_tight(normals, np.zeros(len(normals)))
    return None if tight is None else basis @ null_space(normals[tight])


def _pushed(layer: Layer, tangents: Tensor, batch: int) -> Tensor:
    """The affine map on directions (B, k, n), or on (1, k, n) that are the same for the whole batch."""
    pushed = torch.unflatten(layer.affine.apply(tangents.flatten(0, 1), constant=False), 0, tangents.shape[:2])
    return pushed.expand(batch, -1, -1)


def _by_gram(tangents: Tensor) -> tuple[Array, Flags]:
    """The smallest singular value by the eigenvalues of J J^T, (B,), and where that is to be relied on."""
    gram = tangents @ tangents.transpose(1, 2)
    usable = torch.isfinite(gram).flatten(1).all(dim=1)
    values = torch.linalg.eigvalsh(torch.where(usable[:, None, None], gram, torch.zeros_like(gram)))
    least, most = values[:, 0], values[:, -1]
    sure = usable & (least > _GRAM_SHARE * most) & (most > _GRAM_RANGE[0]) & (most < _GRAM_RANGE[1])
    return least.clamp_min(0).sqrt().numpy(), sure.numpy()


def _well_conditioned(tangents: Tensor) -> Flags:
    """Where J J^T, computed as J is, has a condition number that proves rank k, (B,)."""
    gram = tangents @ tangents.transpose(1, 2)
    sizes = gram.abs().sum(dim=2).amax(dim=1).numpy()
    factors, failed = torch.linalg.cholesky_ex(gram)
    sure: Flags = (failed == 0).numpy() & np.isfinite(sizes) & (sizes > 0)
    for i in np.flatnonzero(sure):
        factor = factors[i].numpy()
        estimate, _ = get_lapack_funcs("pocon", (factor,))(factor, sizes[i], uplo="L")
        sure[i] = estimate > _CONDITION
    return sure


def _reach(layer: Layer, u: Tensor, slopes: Tensor) -> Tensor:
    """How far z may move until a neuron of the layer reaches its kink, (B,)."""
    bent = torch.as_tensor(np.broadcast_to(layer.activation.slope != 1, u.shape[1:]).copy())
    if _curved(layer) or not bent.any():
        return torch.full_like(u[:, 0], torch.inf)
    far = u.abs() / torch.linalg.vector_norm(slopes, dim=1)
    # 0 / 0: it does not move at all.
    return torch.where(bent & ~far.isnan(), far, torch.inf).amin(dim=1)


def _curved(layer: Layer) -> bool:
    return layer.activation.smooth or layer.activation.width > 0


def _at_kink(layer: Layer, u: Tensor) -> Tensor:
    """Where a ReLU (slope 0 below zero) has a pre-activation of zero."""
    flat = torch.as_tensor(np.nan_to_num(layer.activation.slope, nan=1.0) == 0)
    allowed = _KINK_TOLERANCE * u.abs().amax(dim=1, keepdim=True)
    return flat & (u.abs() <= allowed) & torch.isfinite(allowed)


def _finite(x: Tensor) -> Flags:
    return torch.isfinite(x).all(dim=1).numpy()

"""Whether the observation determines the code locally: rank, free directions, margin and error bound.

The answer follows from the linear region of A G around the code: its Jacobian, its neurons at their kink, and its
extent. If neurons are at their kink, :mod:`~unrelu.diagnostics._solution_cones` is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.diagnostics._solution_cones import RANK_TOLERANCE, KinkMap, at_kink, kink_map, picks, solution_cones
from unrelu.errors import InputError
from unrelu.measurements import IdentityOperator, Operator, read_operator
from unrelu.measurements.working_units import in_working_units
from unrelu.models.generator import Generator, as_generator
from unrelu.models.network import Layer, Network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.host import computing
from unrelu.runtime.memory_limits import JACOBIAN_NUMBERS, at_once
from unrelu.runtime.streams import torch_stream

# Without known layers, a kink within this distance of z, relative to z, counts as at z. An output has a kink if its
# second difference exceeds this share of its first difference, and what 100 times the usual curvature would cause.
_STEP, _BENT, _CURVATURE = 1e-6, 1e-5, 100.0
# The error in single precision: the number of directions along which it is measured, the step relative to the code, and
# the factor from the largest error seen to a bound. The bound fails with probability 10^-6 (10^1.5 for each of four).
_PROBES, _SHORT, _BOUND = 4, 1e-8, 10**1.5 * math.sqrt(2 / math.pi)
# The least ratio of singular values, and the least square of one, at which the Gram matrix yields eight digits.
_GRAM_RATIO, _LEAST_SQUARE = 1e-4, 1e-200


@dataclass(frozen=True, eq=False)
class Identifiability:
    r"""How far an observation y = A G(z*) + e determines the code near z. J is the Jacobian of G at z.

    G is piecewise linear, with a linear region for each pattern of active neurons. All results are exact within the
    region of z. They say nothing about codes in other regions, which may also explain y.

    Values are scalars for one code and (B,) for a batch. Codes with entries or outputs that are not finite are not
    identifiable: rank and dimension are -1, other numbers NaN. So are all codes if a Jacobian exceeds the memory.

    Attributes:
        rank: rank of A J, the active rank. Singular values below 1e-10 of the largest count as zero: at 1e-10,
            rounding errors of double precision alone make the code uncertain by about 1e-6 of its length.
        sigma_min: the smallest of the k singular values of A J.
        dimension: dimension of the set of codes near z with the same A G. If neurons are at their kink, up to 256 of
            the sign patterns that meet there are searched. If there are more, this is the largest dimension found, or
            -1 (unknown) if none above 0 was found.
        margin: the largest distance, in the 2-norm, that z can move before a pre-activation of a ReLU, LeakyReLU or
            PReLU changes its sign. Infinite if that never happens, NaN if a neuron with a kink comes after a sigmoid
            or tanh, or the layers are not known.
        identifiable: whether no other code nearby has the same A G: ``dimension`` is 0. Without a neuron at its kink,
            this means rank k. Otherwise it takes all regions that meet at z into account.

    Source: the discussion of Theorem 2 of the paper, extended from one layer to the network.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.identifiability(net, [0.5]).margin  # no pre-activation changes its sign within this radius
    0.5
    """

    rank: Any
    sigma_min: Any
    dimension: Any
    margin: Any
    identifiable: Any
    _network: Generator = field(repr=False)
    _z: Array = field(repr=False)
    _operator: Operator = field(repr=False)

    @computing()
    def directions(self, index: int = 0) -> Array:
        """Compute an orthonormal basis of the free directions of code ``index``, (k, dimension); (k, 0) if unknown.

        A G is constant along them. At kinks the code can only move within a cone, and the basis spans this cone.

        Raises:
            IndexError: no code has this index.
        """
        z = np.atleast_2d(self._z)[[index]]
        free, k = int(np.atleast_1d(self.dimension)[index]), self._network.latent_dim
        if free <= 0:
            return np.zeros((k, 0))
        operator = self._operator.take(np.array([index % np.size(self.dimension)]))
        return _cones(self._network, torch.from_numpy(z), operator, np.zeros((0, k)))[1]


@computing()
def identifiability(network: Generator, z: npt.ArrayLike, operator: Any = None) -> Identifiability:
    """Say how far the output, or the measurement of it by ``operator``, determines each code.

    Args:
        network: G. For an opaque generator, only the Jacobian is used, and there is no margin.
        z: a code or a batch of codes, ``(B, *latent_shape)``; for example ``r.z`` of a result.
        operator: A, as for :func:`unrelu.invert`, or ``r.problem.operator`` of a result. Pass masks as booleans, and a
            matrix of zeros and ones as a SciPy sparse matrix.

    Raises:
        InputError: z or operator do not fit the network or each other.
        HostError: the Jacobian of one code does not fit into the memory.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.identifiability(net, [0.5])
    Identifiability(rank=1, sigma_min=2.23606797749979, dimension=0, margin=0.5, identifiable=True)
    """
    network = as_generator(network).plain
    codes, k = network.flat_codes(z), network.latent_dim
    network.check_size()
    measured = read_operator(operator, network.output_shape, (*codes.shape[:-1], *network.output_shape), network)
    batch = codes.reshape(-1, k)
    if measured.count not in (0, len(batch)):
        raise InputError(
            f"operator= has {measured.count} masks for {len(batch)} codes; pass one for all, or one for each"
        )
    codes.setflags(write=False)
    found = replace(_examined(network, batch, measured), _z=codes)
    if codes.ndim == 2:
        return found
    names = ("rank", "sigma_min", "dimension", "margin", "identifiable")
    return replace(found, **{name: getattr(found, name)[0].item() for name in names})


@computing()
def local_rank(
    network: Generator, z: Array, operator: Operator | None = None, bounds: Bounds | None = None
) -> tuple[Integers, Integers, Array]:
    r"""Compute the rank of A J, the freedom and the smallest singular value at codes (B, k), (B,) each.

    All are unknown (-1, -1 and NaN) if the Jacobian of one code does not fit into the memory.

    The freedom is the dimension of the set of codes near z with the same observation A G(z). The code is identifiable
    if the freedom is 0. With J the Jacobian of the linear region of G at z, the freedom is k - rank A J. If neurons are
    at their kink, several regions meet at z. Each pattern s of the neurons' signs has a Jacobian J_s and derivatives
    K_s of their pre-activations. In this region, z can move along the cone

    .. math:: \{d : A J_s d = 0, \; s_j (K_s d)_j \ge 0\}.

    The freedom is the largest dimension of these cones, see :mod:`~unrelu.diagnostics._solution_cones`. It is -1
    (unknown) if there are too many patterns to search and no cone was found. An active bound acts like a kink: the code
    can move to one side only. For a generator without known layers, see :func:`bent`.

    The Jacobian of a large generator is computed in single precision first, see :func:`_full_rank`. If that proves rank
    k, a lower bound replaces the smallest singular value.
    """
    operator = IdentityOperator(network.output_shape) if operator is None else operator
    sigma = _full_rank(network, z, operator) if network.large else np.full(len(z), np.nan)
    rank, free = np.full(len(z), network.latent_dim), np.zeros(len(z), dtype=np.int64)
    left = np.flatnonzero(np.isnan(sigma))
    if len(left):
        found = _examined(network, z[left], operator.take(left), bounds)
        rank[left], free[left], sigma[left] = found.rank, found.dimension, found.sigma_min
    return rank, free, sigma


def _full_rank(network: Generator, z: Array, operator: Operator) -> Array:
    r"""Bound sigma_min from below, (B,), where single precision shows that A J has rank k at codes (B, k); else NaN.

    Let E be the error of a Jacobian in single precision. Differences of A G in double precision give E d along Gaussian
    directions d. With c = 10^{1.5}, the bound

    .. math:: |E|_2 \le c \sqrt{2 / \pi} \max_{i \le 4} |E d_i|_2

    fails with a probability of c^{-4}. Errors of singular values are at most |E|_2. Codes where regions with other
    Jacobians meet get NaN.

    Source: Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 53 (2011), lemma 4.1.
    """
    usual, sigma = in_working_units(network, operator), np.full(len(z), np.nan)
    double, operator = usual.network.to(torch.float64, "cpu"), usual.operator
    single, random = double.to(torch.float32), torch_stream("errors of Jacobians")
    for part, codes in () if network.too_large else _chunks(double, z, operator):
        measure = operator.take(part)
        coarse = measure.to(torch.float32, torch.device("cpu")).linearize(*single.linearize(codes.float()))[1].double()
        squares = torch.linalg.eigvalsh(coarse @ coarse.mT).clamp_min(0)
        here, error = measure.forward(double.forward(codes)), torch.zeros(len(codes), dtype=torch.float64)
        for _ in range(_PROBES):
            d = torch.randn(codes.shape, generator=random, dtype=codes.dtype)
            step = (_SHORT * codes.norm(dim=1).clamp_min(1) / d.norm(dim=1))[:, None]
            change = (measure.forward(double.forward(codes + step * d)) - here) / step
            error = error.maximum((change - (d[:, None, :] @ coarse)[:, 0]).norm(dim=1))
        least, largest = (squares[:, i].sqrt() for i in (0, -1))
        shown = (least - _BOUND * error > _GRAM_RATIO * largest) & ~_meeting(double, codes, measure)
        sigma[part] = torch.where(shown, least - _BOUND * error, torch.nan).numpy()
    return usual.units.measured(sigma)


def jacobians(network: Generator, z: Array, operator: Operator) -> Iterator[tuple[Index, Tensor]]:
    """Yield the transposed Jacobians of A G at the finite codes, (b, k, m), float64, in chunks with their indices."""
    exact = network.to(torch.float64, "cpu")
    for part, codes in _chunks(exact, z, operator):
        yield part, operator.take(part).linearize(*exact.linearize(codes))[1].nan_to_num(0.0, 0.0, 0.0)


def _chunks(network: Generator, z: Array, operator: Operator) -> Iterator[tuple[Index, Tensor]]:
    """Yield the finite codes and their indices, in chunks whose Jacobians fit in memory."""
    together = at_once(JACOBIAN_NUMBERS, network.latent_dim * max(network.width, operator.width))
    finite = np.flatnonzero(np.isfinite(z).all(axis=1))
    for begin in range(0, len(finite), together):
        part = finite[begin : begin + together]
        yield part, torch.from_numpy(z[part])


def _examined(network: Generator, z: Array, operator: Operator | None, bounds: Bounds | None = None) -> Identifiability:
    """Examine codes (B, k), in double precision and working units."""
    usual, k = in_working_units(network, operator), z.shape[1]
    network, operator = usual.network.to(torch.float64, "cpu"), usual.operator
    # Outward normals of the active bounds, zero for coordinates that are at no bound.
    outward = np.zeros((len(z), 0, k))
    if bounds is not None and not bounds.none:
        outward = np.eye(k) * bounds.active(z)[:, :, None]
    rank, dimension = np.full((2, len(z)), -1, dtype=np.int64)
    sigma, margin = np.full((2, len(z)), np.nan)
    for part, codes in () if network.too_large else _chunks(network, z, operator):
        regions = linear_regions(network, codes, operator.take(part))
        least, ranks = spectrum(regions.tangents)
        known = ranks >= 0
        kept = part[known]
        rank[kept], sigma[kept], margin[kept] = ranks[known], least[known], regions.margin[known]
        dimension[kept] = k - ranks[known]
        sided = regions.kinked | outward[part].any(axis=(1, 2))
        for i in np.flatnonzero(known & (regions.several | (sided & (ranks < k)))):
            measured = operator.take(part[[i]])
            dimension[part[i]] = _cones(network, codes[[i]], measured, outward[part[i]])[0]
    sigma = usual.units.measured(sigma)
    return Identifiability(rank, sigma, dimension, margin, dimension == 0, network, z, operator)


def _cones(network: Generator, z: Tensor, operator: Operator, outward: Array) -> tuple[int, Array]:
    """Compute the dimension of the set of codes near a code (1, k) with the same observation, and a basis of its span.

    Without known layers, the dimension at a kink is 0 if the entries without a kink have rank k, else unknown (-1).
    """
    k = z.shape[1]
    if isinstance(network, Network):
        return solution_cones(kink_map(network, z, operator, outward), k)
    away, tangents = ~bent(network, z, operator), operator.linearize(*network.linearize(z))[1][0]
    if away.all():
        return solution_cones(KinkMap(tangents, np.zeros((0, k)), outward), k)
    return 0 if spectrum(tangents[None, :, torch.from_numpy(away)])[1][0] == k else -1, np.zeros((k, 0))


def bent(network: Generator, z: Tensor, operator: Operator) -> Flags:
    """Find the entries of A G with a kink at a code (1, k), (m,), by second differences, whatever causes the kink.

    For a code at an end of the domain, differences are taken just inside, as nothing is known beyond.
    """
    step = torch.randn(z.shape, generator=torch_stream("steps across kinks"), dtype=z.dtype)
    step *= _STEP * max(1.0, float(z.abs().max())) / step.norm()
    if network.domain is not None:
        low, high = map(torch.from_numpy, network.domain.ends)
        z = z.maximum(low + step.abs()).minimum(high - step.abs())
    with torch.no_grad():
        here, ahead, behind = (operator.forward(network.forward(code))[0] for code in (z, z + step, z - step))
        usual = operator.forward(torch.tensor(network.typical_outputs, dtype=z.dtype)).abs().mean(dim=0)
    second, first = (ahead + behind - 2 * here).abs(), (ahead - behind).abs()
    # This form counts NaN as a kink.
    return ~(second <= torch.maximum(_BENT * first, _CURVATURE * _STEP**2 * usual)).numpy()


# --- linear regions ---------------------------------------------------------------------------------------------------


class LinearRegions(NamedTuple):
    """The linear regions at codes z, (B, k), in which every neuron at its kink is inactive.

    Attributes:
        tangents: the transposed Jacobian of A G, (B, k, m); NaN where G(z) is not finite.
        margin: the distance to the nearest other region, (B,); NaN if unknown.
        kinked: whether a neuron is at its kink, (B,).
        several: whether regions with other Jacobians meet at z, so that rank k does not exclude other codes, (B,).
    """

    tangents: Tensor
    margin: Array
    kinked: Flags
    several: Flags


def affine(network: Generator) -> bool:
    """Check whether G is known to be affine on each linear region: known layers, without sigmoid and tanh."""
    return isinstance(network, Network) and not any(map(_curved, network.layers))


def linear_regions(network: Generator, z: Tensor, operator: Operator) -> LinearRegions:
    r"""Compute the Jacobian of A G at z, and the largest radius within which no pre-activation changes its sign.

    A pre-activation u_j is affine in z as long as no earlier neuron changes its sign. All signs therefore stay the same
    within the distance

    .. math:: \min_j |u_j| / |\nabla u_j|_2

    of z, where j runs over the neurons with a kink. After a sigmoid or tanh, u_j is not affine: the radius is unknown.
    """
    (batch, k), several = z.shape, _meeting(network, z, operator).numpy()
    if not isinstance(network, Network):
        return LinearRegions(_measured(operator, *network.linearize(z)), np.full(batch, np.nan), several, several)
    x, straight, tangents = z, True, torch.eye(k, dtype=z.dtype)[None]
    margin, kinked = torch.full((batch,), torch.inf, dtype=z.dtype), np.zeros(batch, dtype=bool)
    for layer, u, x, kinks in _layers_at(network, z):
        pushed = layer.affine.apply(tangents.flatten(0, 1), constant=False)
        slopes = torch.unflatten(pushed, 0, tangents.shape[:2]).expand(batch, -1, -1)
        off = layer.activation.derivative(torch.where(kinks, -1.0, u), x)
        tangents = slopes * off[:, None, :]
        margin = torch.minimum(margin, _reach(layer, u, slopes) if straight else torch.full_like(margin, torch.nan))
        straight &= not _curved(layer)
        kinked = kinked | kinks.any(dim=1).numpy()
    return LinearRegions(_measured(operator, x, tangents), margin.numpy(), kinked, several)


def _layers_at(network: Network, z: Tensor) -> Iterator[tuple[Layer, Tensor, Tensor, Tensor]]:
    """Yield each layer with its pre-activations and outputs at codes z, and mark the neurons at their kink."""
    x = z
    for layer in network.layers:
        u = layer.affine.apply(x)
        kinks = at_kink(layer, x, u)
        x = layer.activation.forward(u)
        yield layer, u, x, kinks


def _meeting(network: Generator, z: Tensor, operator: Operator) -> Tensor:
    """Check whether regions with other Jacobians of A G meet at codes z, (B,); see :class:`LinearRegions`."""
    if not isinstance(network, Network):
        return torch.tensor([bool(bent(network, z[[i]], operator.take(np.array([i]))).any()) for i in range(len(z))])
    kinked = torch.stack([kinks.any(dim=1) for _, _, _, kinks in _layers_at(network, z)])
    return kinked[: len(kinked) - picks(operator)].any(dim=0)


def _measured(operator: Operator, x: Tensor, tangents: Tensor) -> Tensor:
    """Return the transposed Jacobian of A G, NaN where G(z) = x is not finite."""
    measured = operator.linearize(x, tangents)[1]
    finite = torch.isfinite(x).all(dim=1)
    return measured if finite.all() else torch.where(finite[:, None, None], measured, torch.nan)


def spectrum(tangents: Tensor) -> tuple[Array, Integers]:
    """Compute the least of k singular values, and the rank, of transposed Jacobians (B, k, m); NaN, -1 if not finite.

    The singular values come from the Gram matrix if it is well-conditioned, else from the triangular factor.
    """
    batch, k, m = tangents.shape
    gram = tangents @ tangents.mT
    finite = torch.isfinite(gram).flatten(1).all(dim=1)
    squares = torch.linalg.eigvalsh(torch.where(finite[:, None, None], gram, 0.0)).flip(1)
    values = squares.clamp_min(0).sqrt()[:, : min(k, m)]
    # This form counts values that overflow or underflow as near.
    near = ~((values[:, -1:] > _GRAM_RATIO * values[:, :1]) & (squares[:, :1] > _LEAST_SQUARE)).all(dim=1)
    known = torch.ones_like(near)
    known[near] = torch.isfinite(tangents[near]).flatten(1).all(dim=1)
    values[near & known] = torch.linalg.svdvals(torch.linalg.qr(tangents[near & known].mT, mode="r")[1])
    rank = (values > RANK_TOLERANCE * values[:, :1]).sum(dim=1)
    smallest = values[:, -1] if m >= k else torch.zeros(batch, dtype=values.dtype)
    return torch.where(known, smallest, torch.nan).numpy(), torch.where(known, rank, -1).numpy()


def _reach(layer: Layer, u: Tensor, slopes: Tensor) -> Tensor:
    """Compute how far z can move before a neuron of the layer reaches its kink, (B,)."""
    bent = torch.from_numpy(layer.activation.kinks(layer.n_out)) & (not _curved(layer))
    far = u.abs() / torch.linalg.vector_norm(slopes, dim=1)
    # 0 / 0 means that the neuron is at its kink and stays there.
    return torch.where(bent & ~far.isnan(), far, torch.inf).amin(dim=1)


def _curved(layer: Layer) -> bool:
    """Check whether a layer is not piecewise linear."""
    return layer.activation.smooth or layer.activation.width > 0

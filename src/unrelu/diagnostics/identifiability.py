"""Is the code determined by the observation? Locally: rank, free directions, margin, and what noise can do to it.

It is answered from the linear region of A G around the code: its Jacobian, whether neurons are at their kink, and how
far the region reaches. Where neurons are at their kink, :mod:`~unrelu.diagnostics._solution_cones` takes over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.diagnostics._solution_cones import RANK_TOLERANCE, KinkMap, at_kink, kink_map, picks, solution_cones
from unrelu.errors import InputError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.equilibration import equilibrate
from unrelu.measurements.latent_bounds import Bounds
from unrelu.models.generator import Generator, as_generator, numbers
from unrelu.models.network import Layer, Network
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.host import computing

Counts = npt.NDArray[np.int64]

# Numbers in the Jacobians held at once.
_CHUNK = 2**22
# The eigenvalues of J J^T are off by eps times the largest, so from this share of it on their roots are singular
# values to 1e-10; below, J itself is factored. A J of single precision is off by 1e-6 of its size, a thousandth of the
# root of this share.
_GRAM_SHARE = 1e-6
# Beyond, the squares in J J^T leave the range of numbers.
_GRAM_RANGE = (1e-200, 1e200)


@dataclass(frozen=True, eq=False)
class Identifiability:
    r"""How far an observation y = A G(z*) + e determines the code around z. J is the Jacobian of G at z.

    G is piecewise linear, with a linear region for each pattern of active neurons. Everything here is about the
    region of z: it is exact there, and says nothing of codes in other regions, where another explanation of y may lie.

    All arrays have the batch's leading shape: scalars for one code, (B,) for a batch. Codes that are not finite, or
    have an output that is not, are not identifiable: their rank and dimension are -1, their other numbers NaN.

    Attributes:
        rank: rank of A J, the active rank: singular values below 1e-10 of the largest count as zero. At 1e-10, the
            rounding errors of double precision alone leave the code open by about 1e-6 of its length.
        sigma_min: the smallest of the k singular values of A J.
        dimension: of the set of codes around z with the same A G. Where neurons are at their kink, up to 256 of the
            sign patterns that meet there are looked at: beyond, it is what was found, at least 1, or else -1 (unknown).
        margin: how far z can move, in the 2-norm, before the pre-activation of some ReLU, LeakyReLU or PReLU changes
            its sign: the largest such radius. Infinite if that never happens, NaN where a neuron with a kink lies
            behind a sigmoid or tanh, or the layers are not known.
        identifiable: whether no other code nearby has the same A G: ``dimension`` is 0. That is so where the rank is k
            and no neuron is at its kink; where some are, all regions that meet at z are looked at, not that of the rank
            alone.

    Source: the discussion of Theorem 2 of the paper, carried from one layer to the network.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.identifiability(net, [0.5]).margin  # no neuron changes its side within this radius
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

    def error_bound(self, noise: npt.ArrayLike, residual: npt.ArrayLike) -> Any:
        r"""A bound of \|z - z*\|_2 that holds if z* lies in the region of z: a float, or (B,).

        With r = y - A G(z), and A G affine in the region, A J (z* - z) = A G(z*) - A G(z) = r - e, so

        .. math:: |z - z^*|_2 \le \frac{|r - e|_2}{\sigma_{\min}} \le \frac{|e|_2 + |r|_2}{\sigma_{\min}}.

        Where z minimises \|r\|_2 in its region, r is orthogonal to the range of A J and only e counts: pass a residual
        of 0. :meth:`bound_holds` says whether the bound stays in the region. With sigmoids or tanh, or unknown layers,
        A G is not affine and this is its first order in the noise.

        Args:
            noise: \|e\|_2, or an upper bound of it; a number, or (B,).
            residual: \|r\|_2, as ``r.residual("l2")`` of a result, or 0 if z is a least-squares solution.

        Returns:
            The bound; infinite where the rank is below k, NaN where it is not known.

        Raises:
            InputError: a negative norm.
        """
        size = np.asarray(noise, dtype=np.float64) + np.asarray(residual, dtype=np.float64)
        if (size < 0).any():
            raise InputError(f"noise and residual are norms, of at least 0; their sum is {size.min():g}")
        rank, sigma = np.asarray(self.rank), np.asarray(self.sigma_min)
        full = rank == self._network.latent_dim
        bound = np.where(full, size / np.where(full, sigma, 1.0), np.where(rank < 0, np.nan, np.inf))
        return float(bound) if bound.ndim == 0 else bound

    def bound_holds(self, noise: npt.ArrayLike, residual: npt.ArrayLike) -> Any:
        r"""Whether :meth:`error_bound` is smaller than the margin: a bool, or (B,).

        Then the ball that it describes lies inside the region, and holds every code of the region that explains y with
        an error of up to \|e\|_2. None of them is on the border of the region, so no path of such codes leads out of
        the ball: z* is in it, or in another region and apart. That it is not in another region is not proved.

        Where it is False, the noise can carry z across a kink and the bound says nothing about what happens beyond;
        it is also False where A G is not affine on its regions (sigmoid, tanh, unknown layers).
        """
        holds = np.asarray(self.error_bound(noise, residual)) < np.asarray(self.margin)
        holds &= affine(self._network)
        return bool(holds) if holds.ndim == 0 else holds

    @computing()
    def directions(self, index: int = 0) -> Array:
        """An orthonormal basis of the free latent directions at code ``index``, (k, dimension); (k, 0) if unknown.

        Along them A G stays as it is. At kinks the code can move in a cone only, and this is a basis of its span.

        Raises:
            IndexError: there is no such code.
        """
        z = np.atleast_2d(self._z)[[index]]
        free, k = int(np.atleast_1d(self.dimension)[index]), self._network.latent_dim
        if free <= 0:
            return np.zeros((k, 0))
        operator = self._operator.take(np.array([index % np.size(self.dimension)]))
        return _cones(self._network, torch.from_numpy(z), operator, np.zeros((0, k)))[1]


@computing()
def identifiability(network: Generator, z: npt.ArrayLike, operator: Any = None) -> Identifiability:
    """Say how far codes are determined by the output there, or by what ``operator`` measures of it.

    Args:
        network: G; of an opaque one only the Jacobian is seen, and there is no margin.
        z: codes, (k,) or (B, k); for example ``r.z`` of a result.
        operator: A, as for :func:`unrelu.invert`, or ``r.problem.operator`` of a result. Pass masks as booleans, and a
            matrix of zeros and ones as a SciPy sparse one.

    Raises:
        InputError: z or operator do not fit the network, or each other.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.identifiability(net, [0.5])
    Identifiability(rank=1, sigma_min=2.23606797749979, dimension=0, margin=0.5, identifiable=True)
    """
    codes = numbers(z, "z")
    k = as_generator(network).latent_dim
    if codes.ndim not in (1, 2) or codes.shape[-1] != k:
        raise InputError(f"z has shape {codes.shape}; this network takes codes of shape ({k},) or (B, {k})")
    measured = read_operator(operator, network.output_shape, (*codes.shape[:-1], *network.output_shape), network)
    batch = codes.reshape(-1, k)
    if measured.count not in (0, len(batch)):
        raise InputError(
            f"operator= has {measured.count} masks for {len(batch)} codes; pass one for all, or one for each"
        )
    codes.setflags(write=False)
    exact, measured, unit = _equilibrated(network, measured)
    rank, dimension, sigma, margin = _examined(exact, batch, measured)
    sigma = np.ldexp(sigma, -unit)
    seen = Identifiability(rank, sigma, dimension, margin, dimension == 0, exact, codes, measured)
    if codes.ndim == 2:
        return seen
    names = ("rank", "sigma_min", "dimension", "margin", "identifiable")
    return replace(seen, **{name: getattr(seen, name)[0].item() for name in names})


@computing()
def local_rank(
    network: Generator, z: Array, operator: Operator | None = None, bounds: Bounds | None = None
) -> tuple[Counts, Counts, Array]:
    r"""Rank of A J, freedom and the smallest singular value, to 1e-3 at least, at codes (B, k): (B,) each.

    The freedom is the dimension of the set of codes around z with the same observation A G(z), and the code is
    identifiable where it is 0. With J the Jacobian of the linear region of G at z, it is k - rank A J. Where neurons
    are at their kink, several regions meet in z, with a Jacobian J_s for each pattern s of their signs. With K_s the
    derivatives of their pre-activations there, z may move on the region along

    .. math:: \{d : A J_s d = 0, \; s_j (K_s d)_j \ge 0\}

    and the freedom is the largest dimension of these cones, see :mod:`~unrelu.diagnostics._solution_cones`: -1
    (unknown) where there are more patterns than are looked at and no cone was found. For a generator without known
    layers the kinks are not known either, and it is k - rank A J. A bound that a code is at lets it move to one side
    only, as a kink does.

    What :func:`identifiability` says, in a fraction of its time where the rank is k beyond doubt.
    """
    exact, measured, unit = _equilibrated(network, operator)
    rank, free = np.full(len(z), network.latent_dim), np.zeros(len(z), dtype=np.int64)
    sigma, sure = np.full(len(z), np.nan), np.zeros(len(z), dtype=bool)
    if isinstance(exact, Network):
        single = exact.to(torch.float32)
        for part, codes in _chunks(exact, z, measured):
            sigma[part], sure[part] = certain(exact, single, codes, measured.take(part))
    rest = np.flatnonzero(~sure)
    if len(rest):
        rank[rest], free[rest], sigma[rest], _ = _examined(exact, z[rest], measured.take(rest), bounds)
    return rank, free, np.ldexp(sigma, -unit)


def jacobians(network: Generator, z: Array, operator: Operator) -> Iterator[tuple[npt.NDArray[np.intp], Tensor]]:
    """The transposed Jacobians of A G at the finite codes, (b, k, m), float64, some at a time with their places."""
    exact = network.to(torch.float64, "cpu")
    for part, codes in _chunks(exact, z, operator):
        yield part, operator.take(part).linearize(*exact.linearize(codes))[1].nan_to_num(0.0, 0.0, 0.0)


def _equilibrated(network: Generator, operator: Operator | None) -> tuple[Generator, Operator, int]:
    """The generator in double precision and the operator, in units that are 2^-unit of the user's."""
    found = equilibrate(network, operator)
    return found.network.to(torch.float64, "cpu"), found.operator, found.units.data


def _chunks(network: Generator, z: Array, operator: Operator) -> Iterator[tuple[npt.NDArray[np.intp], Tensor]]:
    """The finite codes, as many at a time as their Jacobians have room for, with their places."""
    rows = max(1, _CHUNK // (network.latent_dim * max(network.width, operator.width)))
    finite = np.flatnonzero(np.isfinite(z).all(axis=1))
    for begin in range(0, len(finite), rows):
        part = finite[begin : begin + rows]
        yield part, torch.from_numpy(z[part])


def _examined(
    network: Generator, z: Array, operator: Operator, bounds: Bounds | None = None
) -> tuple[Counts, Counts, Array, Array]:
    """Rank, dimension, smallest singular value and margin of all codes."""
    # Outward normals of the bounds that the codes are at, zero elsewhere.
    outward = np.zeros((len(z), 0, z.shape[1]))
    if bounds is not None and not bounds.none:
        outward = np.eye(z.shape[1]) * bounds.active(z)[:, :, None]
    rank, dimension = np.full((2, len(z)), -1, dtype=np.int64)
    sigma, margin = np.full((2, len(z)), np.nan)
    for part, codes in _chunks(network, z, operator):
        measured = operator.take(part)
        regions = linear_regions(network, codes, measured)
        least, ranks = spectrum(regions.tangents)
        known = regions.finite & (ranks >= 0)
        kept = part[known]
        rank[kept], sigma[kept], margin[kept] = ranks[known], least[known], regions.margin[known]
        dimension[kept] = z.shape[1] - ranks[known]
        sided = regions.kinked | outward[part].any(axis=(1, 2))
        for i in np.flatnonzero(known & (regions.several | (sided & (ranks < z.shape[1])))):
            dimension[part[i]] = _cones(network, codes[[i]], measured.take(np.array([i])), outward[part[i]])[0]
    return rank, dimension, sigma, margin


def _cones(network: Generator, z: Tensor, operator: Operator, outward: Array) -> tuple[int, Array]:
    """The dimension of the set of codes around a code (1, k) with the same observation, and a basis of its span."""
    k = z.shape[1]
    if isinstance(network, Network):
        return solution_cones(kink_map(network, network, z, operator, outward), k)
    measured = linear_regions(network, z, operator).tangents[0]
    return solution_cones(KinkMap(measured, np.zeros((0, k)), outward), k)


# --- linear regions ---------------------------------------------------------------------------------------------------


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

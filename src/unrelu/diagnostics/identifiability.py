"""Is the code determined by the observation? Locally: rank, free directions, margin, and what noise can do to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.diagnostics.linear_region import affine, certain, linear_regions, spectrum
from unrelu.diagnostics.solution_cones import KinkMap, kink_map, solution_cones
from unrelu.errors import InputError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.equilibration import equilibrate
from unrelu.measurements.latent_bounds import Bounds
from unrelu.models.generator import Generator, as_generator, numbers
from unrelu.models.network import Network
from unrelu.runtime.host import computing

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

# Numbers in the Jacobians held at once.
_CHUNK = 2**22


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

    and the freedom is the largest dimension of these cones, see :mod:`~unrelu.diagnostics.solution_cones`: -1
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

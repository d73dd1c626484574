r"""Bounds of latent codes, lower <= z <= upper, and standard coordinates for codes with bounds or a normal prior.

Searches expect codes that are about N(0, I), but the parameters of an emulator have physical units: a temperature of
4,000 to 8,000, say, and an abundance of -2.5 to 0.5. If both bounds of a coordinate are finite, then t with

.. math:: z_j = \frac{l_j + u_j}{2} + \frac{u_j - l_j}{\sqrt{12}} \, t_j, \qquad |t_j| \le \sqrt 3,

has mean 0 and variance 1 for z uniform between the bounds. A step in t then means the same in all coordinates. With a
prior z_j ~ N(mean, std^2), whether there are bounds or not, t_j = (z_j - mean) / std.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
import torch
from torch import Tensor

from unrelu.errors import InputError
from unrelu.measurements.linear_operators import times_power
from unrelu.models.affine import Affine, Scale, Shape
from unrelu.models.affine_head import HeadedChain
from unrelu.models.code_prior import Normal
from unrelu.models.generator import Generator, numbers, place_of
from unrelu.models.network import Network
from unrelu.models.opaque_network import unchained
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.words import shown

# The least distance of two bounds, so that dividing by it does not overflow.
_SHORTEST = 1e-290
# Half the length of an interval on which a uniform variable has variance 1.
_HALF = math.sqrt(3.0)


@dataclass(frozen=True, eq=False)
class Bounds:
    """lower <= z <= upper.

    Attributes:
        lower, upper: (k,), infinite where there is no bound.
        names: the names of the coordinates, (k,), "" for one without; or empty.
        normal: the coordinates whose random codes are N(0, 1), not uniform, between two finite bounds, (k,); or False.
    """

    lower: Array
    upper: Array
    names: tuple[str, ...] = ()
    normal: Flags | bool = False

    @classmethod
    def parse(cls, bounds: Any, shape: Shape, names: tuple[str, ...] = ()) -> Bounds:
        """Read bounds of codes of this shape: None, (lower, upper) of numbers or arrays, or ``scipy.optimize.Bounds``.

        Where coordinates have names, they can also be a dictionary {name: (lower, upper)} of those with bounds.

        Raises:
            InputError: ``bounds`` is not a pair, has entries that are not real numbers, or a wrong shape; a lower bound
                is not below the upper one; their distance overflows or is too small; or a name is unknown.
        """
        k = math.prod(shape)
        if bounds is None:
            return cls(np.full(k, -np.inf), np.full(k, np.inf), names)
        if isinstance(bounds, Mapping):
            bounds = _by_name(bounds, k, names)
        try:
            lower, upper = (bounds.lb, bounds.ub) if isinstance(bounds, scipy.optimize.Bounds) else bounds
        except (TypeError, ValueError):
            pairs = isinstance(bounds, list | tuple) and len(bounds) == k
            call = "tuple(zip(*bounds))" if pairs else "(lower, upper)"
            if isinstance(bounds, int | float):
                call = f"({-abs(bounds):g}, {abs(bounds):g}) or {call}"
            raise InputError(f"bounds={shown(bounds)} is no pair; pass {call}, numbers or arrays of {k}") from None
        below, above = _end(lower, "lower", shape), _end(upper, "upper", shape)
        found = cls(below, above, names)
        if not (below < above).all():
            j = int(np.flatnonzero(~(below < above))[0])
            raise InputError(
                f"bounds: {found.called(j)} has the lower bound {below[j]:g}, which is not below the upper one, "
                f"{above[j]:g}; pass (lower, upper) in this order, with some room between them"
            )
        with np.errstate(over="ignore"):
            distance = above - below
        odd = np.isfinite(below) & np.isfinite(above) & ~((distance > _SHORTEST) & np.isfinite(distance))
        if odd.any():
            j = int(np.argmax(odd))
            raise InputError(
                f"bounds: {found.called(j)} is between {below[j]:g} and {above[j]:g}, whose distance, {distance[j]:g}, "
                "is out of the range of numbers; use -inf or inf where there is no bound"
            )
        return found

    def called(self, coordinate: int) -> str:
        """A coordinate in messages, by its place, and by its name if it has one."""
        name = self.names[coordinate] if self.names else ""
        return f"coordinate {coordinate}" + (f" ({name})" if name else "")

    @property
    def none(self) -> bool:
        """Whether no coordinate has a bound."""
        return not (np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    @property
    def boxed(self) -> Flags:
        """Which coordinates have two finite bounds, (k,)."""
        return np.isfinite(self.lower) & np.isfinite(self.upper)

    @property
    def uniform(self) -> Flags:
        """The coordinates whose random codes are uniform between two finite bounds, (k,)."""
        return np.asarray(self.boxed & ~np.asarray(self.normal))

    def clip(self, z: Array) -> Array:
        """The nearest codes within the bounds, (..., k)."""
        return z if self.none else np.clip(z, self.lower, self.upper)

    def reflect(self, z: Array) -> Array:
        """Mirror codes (..., k) at the bounds that they exceed, repeatedly between two bounds.

        Clipping random codes instead would accumulate them at the bounds.
        """
        if self.none:
            return z
        low, width = (np.where(self.boxed, end, 1.0) for end in (self.lower, self.upper - self.lower))
        with np.errstate(invalid="ignore"):
            folded = (z - low) % (2 * width)
            z = np.where(self.boxed & (width > 0), low + np.minimum(folded, 2 * width - folded), z)
            z = np.where(z < self.lower, 2 * self.lower - z, z)
            z = np.where(z > self.upper, 2 * self.upper - z, z)
        return self.clip(z)

    def quantile(self, p: Array) -> Array:
        """Quantiles of uniform codes at probabilities p (..., k); 0 where a bound is infinite."""
        low, high = (np.where(self.boxed, end, 0.0) for end in (self.lower, self.upper))
        return low + (high - low) * p

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw codes (*shape, k): uniform between two finite bounds, else N(0, 1), mirrored at finite bounds."""
        z = rng.standard_normal((*shape, len(self.lower)))
        if self.uniform.any():
            z = np.where(self.uniform, self.quantile(rng.random(z.shape)), z)
        return self.reflect(z)

    def active(self, z: Array) -> npt.NDArray[np.int8]:
        """-1 where a code (..., k) is at its lower bound, 1 at its upper bound, else 0, as in scipy.optimize."""
        return np.where(z == self.lower, -1, np.where(z == self.upper, 1, 0)).astype(np.int8)

    def within(self, z: Array, distance: float) -> Index:
        """The coordinates of a code (k,) that are at most this far from a bound."""
        return np.flatnonzero((z - self.lower <= distance) | (self.upper - z <= distance))

    @property
    def ends(self) -> tuple[Array, Array] | None:
        """(lower, upper), as a user passes them; None without bounds."""
        return None if self.none else (self.lower, self.upper)

    def plain(self) -> list[Any] | None:
        """[lower, upper] for JSON, each a number if all coordinates share it, else a list; infinity is text."""

        def written(end: Array) -> Any:
            values = [x if math.isfinite(x) else str(x) for x in end.tolist()]
            return values[0] if len(set(values)) == 1 else values

        return None if self.none else [written(self.lower), written(self.upper)]

    @staticmethod
    def of_plain(plain: list[Any] | None) -> tuple[Array, ...] | None:
        """(lower, upper) from the value of :meth:`plain`."""
        return None if plain is None else tuple(np.asarray(end, dtype=np.float64) for end in plain)

    def check_finite(self) -> None:
        """Refuse bounds that are partly infinite: all must be finite, or none.

        Raises:
            InputError: they are partly infinite.
        """
        if not (self.none or self.boxed.all()):
            j = int(np.argmin(self.boxed))
            raise InputError(
                f"bounds: {self.called(j)} is between {self.lower[j]:g} and {self.upper[j]:g}; proofs need two finite "
                "ends of every coordinate: state them all, or pass bounds=(-inf, inf) for a proof about all codes"
            )

    def check(self, z0: Array, name: str = "z0") -> None:
        """Refuse codes (B, k) outside the bounds; ``name`` is the argument that they were passed as.

        Raises:
            InputError: a code is outside.
        """
        outside = np.argwhere((z0 < self.lower) | (z0 > self.upper))
        if len(outside):
            i, j = outside[0]
            code, low, high = (float(x) for x in (z0[i, j], self.lower[j], self.upper[j]))
            digits = "g" if f"{code:g}" not in (f"{low:g}", f"{high:g}") else ".17g"
            raise InputError(
                f"{name} of observation {i} has {code:{digits}} at {self.called(j)}, outside of bounds "
                f"[{low:g}, {high:g}]; start inside, or widen them"
            )


def _by_name(bounds: Mapping[Any, Any], k: int, names: tuple[str, ...]) -> tuple[Array, Array]:
    """Lower and upper bounds (k,) from pairs by name."""
    lower, upper = np.full(k, -np.inf), np.full(k, np.inf)
    for name, ends in bounds.items():
        pair = numbers(ends, f"bounds: {name}")
        if pair.shape != (2,):
            raise InputError(f"bounds: {shown(name)} has {shown(ends)}; pass a pair of numbers, (lower, upper)")
        j = place_of(name, names, "bounds")
        lower[j], upper[j] = pair
    return lower, upper


def _end(values: Any, name: str, shape: Shape) -> Array:
    """The lower or upper bounds (k,) from a number or an array; ``shape`` is that of a code."""
    array, k = numbers(values, f"bounds: {name}"), math.prod(shape)
    if array.shape not in ((), (k,), shape):
        raise InputError(f"bounds: the {name} one has shape {array.shape}, a code has {k} numbers")
    if np.isnan(array).any():
        raise InputError(f"bounds: the {name} one has NaN; use -inf or inf where there is no bound")
    return np.broadcast_to(array.reshape(-1) if array.ndim else array, (k,)).copy()


@dataclass(frozen=True, eq=False)
class Coordinates:
    """z = shift + factor t, and the bounds of both.

    Attributes:
        shift, factor: (k,).
        of_codes, standard: the bounds of z and of t.
    """

    shift: Array
    factor: Array
    of_codes: Bounds
    standard: Bounds

    @classmethod
    def of(cls, bounds: Bounds, scaled: bool = True) -> Coordinates:
        """Coordinates in which uniform codes between these bounds are standard; with ``scaled=False``, t = z."""
        boxed = bounds.boxed & scaled
        with np.errstate(invalid="ignore"):
            shift = np.where(boxed, bounds.lower + 0.5 * (bounds.upper - bounds.lower), 0.0)
            factor = np.where(boxed, (bounds.upper - bounds.lower) / (2 * _HALF), 1.0)
        lower, upper = np.where(boxed, -_HALF, bounds.lower), np.where(boxed, _HALF, bounds.upper)
        return cls(shift, factor, bounds, Bounds(lower, upper))

    @classmethod
    def of_prior(cls, bounds: Bounds, prior: Normal) -> Coordinates:
        """Coordinates in which the prior is N(0, I); those in which it is flat are those of :meth:`of`.

        Raises:
            InputError: two bounds are the same number, or exceed the range of numbers, in standard deviations.
        """
        flat, proper = cls.of(bounds), np.broadcast_to(prior.proper, bounds.lower.shape)
        shift, factor = np.where(proper, prior.mean, flat.shift), np.where(proper, prior.std, flat.factor)
        with np.errstate(over="ignore"):
            lower, upper = prior.standardised(bounds.lower), prior.standardised(bounds.upper)
        lost = ~(lower < upper) | (np.isinf(lower) & np.isfinite(bounds.lower))
        lost |= np.isinf(upper) & np.isfinite(bounds.upper)
        lost &= proper
        if lost.any():
            j = int(np.argmax(lost))
            raise InputError(
                f"bounds: {bounds.called(j)} is between {bounds.lower[j]:g} and {bounds.upper[j]:g}, which are "
                f"{lower[j]:g} and {upper[j]:g} standard deviations from the mean of prior={prior}: too far to compute "
                "with; state a prior of the size of the bounds"
            )
        lower, upper = np.where(proper, lower, flat.standard.lower), np.where(proper, upper, flat.standard.upper)
        return cls(shift, factor, bounds, Bounds(lower, upper, normal=proper))

    def codes(self, t: Array) -> Array:
        """z for t (..., k): within the bounds exactly, and exactly at a bound where t is at one."""
        z = self.of_codes.clip(self.shift + self.factor * t)
        z = np.where(t == self.standard.lower, self.of_codes.lower, z)
        return np.where(t == self.standard.upper, self.of_codes.upper, z)

    def coordinates(self, z: Array) -> Array:
        """t for codes z (..., k)."""
        t = self.standard.clip((z - self.shift) / self.factor)
        t = np.where(z == self.of_codes.lower, self.standard.lower, t)
        return np.where(z == self.of_codes.upper, self.standard.upper, t)


# By generator: its last coordinates and the generator on them. What a search learns is cached with that object.
_standard: weakref.WeakKeyDictionary[Generator, tuple[bytes, Generator]] = weakref.WeakKeyDictionary()


def on_coordinates(network: Generator, coordinates: Coordinates) -> Generator:
    """Return G(shift + factor t) as a generator of t; the same coordinates give the same object."""
    bounds, shift, factor = coordinates.of_codes, coordinates.shift, coordinates.factor
    normal = np.asarray(coordinates.standard.normal)
    key = b"".join(a.tobytes() for a in (shift, factor, bounds.lower, bounds.upper, normal))
    known = _standard.get(network)
    if known is None or known[0] != key:
        known = _standard[network] = key, _composed(network, torch.tensor(shift), torch.tensor(factor))
    return known[1]


def on_codes(network: Generator, coordinates: Coordinates) -> Generator:
    """Return the generator of codes z for a generator of t, the inverse of :func:`on_coordinates`."""
    factor = 1 / coordinates.factor
    return _composed(network, torch.tensor(-coordinates.shift * factor), torch.tensor(factor))


def _composed(network: Generator, shift: Tensor, factor: Tensor) -> Generator:
    if not isinstance(network, Network):
        return GeneratorInUnits.of(network, shift, factor)
    return _chain_on(network, shift, factor)


def _chain_on(network: Network, shift: Tensor, factor: Tensor) -> Network:
    first, *others = network.layers
    change = Scale(factor.reshape(first.in_shape), shift.reshape(first.in_shape))
    affine = Affine.compose([change, *first.affine.steps], first.in_shape).to(network.dtype, network.device)
    return replace(network, layers=(replace(first, affine=affine), *others))


@dataclass(frozen=True, eq=False)
class GeneratorInUnits(Generator):
    """2^exponent G(shift + factor t), for a generator G without known layers.

    Attributes:
        base: G.
        shift, factor: (k,).
        exponent: the exponent of the factor of outputs.
    """

    base: Generator
    shift: Tensor
    factor: Tensor
    exponent: int = 0

    def __post_init__(self) -> None:
        for name in ("latent_shape", "output_shape", "width", "dtype", "device"):
            object.__setattr__(self, name, getattr(self.base, name))
        object.__setattr__(self, "reason", unchained(self.base))

    @classmethod
    def of(
        cls, network: Generator, shift: Tensor | None = None, factor: Tensor | None = None, exponent: int = 0
    ) -> GeneratorInUnits:
        """Wrap a copy of a generator: this object is cached for the generator, and must not keep it alive."""
        like = torch.ones(network.latent_dim, dtype=network.dtype, device=network.device)
        shift, factor = (0 * like if shift is None else shift, like if factor is None else factor)
        return cls(copy(network), shift.to(like), factor.to(like), exponent)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> GeneratorInUnits:
        """The same generator with another dtype or on another device."""
        base = self.base.to(dtype, device)
        shift, factor = (t.to(base.device, base.dtype) for t in (self.shift, self.factor))
        return GeneratorInUnits(base, shift, factor, self.exponent)

    @cached_property
    def headed(self) -> HeadedChain | None:
        """See :attr:`Generator.headed`."""
        below = self.base.headed
        if below is None or not below.heads:
            return None
        k, (shift, factor) = below.network.latent_dim, (t.cpu().double().numpy() for t in (self.shift, self.factor))
        network = _chain_on(below.network, self.shift[:k], self.factor[:k])
        return below.in_units(network, shift[k:], factor[k:], 2.0**self.exponent)

    def smoothed(self, share: float, codes: Tensor | None = None) -> Generator:
        """The same with G smoothed; itself if no kinks of G are found."""
        codes = self.as_codes(self.typical_codes) if codes is None else codes
        base = self.base.smoothed(share, self.shift + self.factor * codes)
        return self if base is self.base else replace(self, base=base)

    def tangent_at(self, z: Tensor) -> Generator:
        """The same with the activations of G replaced by their tangents at t, (1, k)."""
        return replace(self, base=self.base.tangent_at(self.shift + self.factor * z))

    def forward(self, z: Tensor) -> Tensor:
        """2^exponent G(shift + factor t), (B, k) -> (B, n)."""
        return times_power(self.base.forward(self.shift + self.factor * z), self.exponent)

    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """2^exponent G(shift + factor t), (B, n), and its transposed Jacobian, (B, k, n)."""
        x, tangents = self.base.linearize(self.shift + self.factor * z)
        return times_power(x, self.exponent), times_power(tangents * self.factor[:, None], self.exponent)

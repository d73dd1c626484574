"""Bounds of latent codes, lower <= z <= upper: read them from the user, draw codes within them, and clip codes.

Equal bounds fix a coordinate. Searches see only free coordinates
(:class:`~unrelu.measurements.working_units.Coordinates`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from scipy.special import ndtr

from unrelu.errors import InputError
from unrelu.parameters.names import Names, plain_numbers
from unrelu.runtime.array_types import Array, Flags, Shape
from unrelu.runtime.words import shown

# The least distance of two bounds. Dividing by it does not overflow.
_SHORTEST = 1e-290
# Trial points of functions keep this distance from each bound, as a fraction of the width. It leaves room for the steps
# of finite differences.
_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class Bounds:
    """The bounds lower <= z <= upper of flat codes.

    Attributes:
        lower, upper: (k,), infinite where there is no bound, and equal where a coordinate is fixed.
        names: the names of the coordinates, (k,), "" for a coordinate without a name; or empty.
        normal: which coordinates are drawn from N(0, 1) even if both bounds are finite, (k,); or False for none. The
            others are then drawn uniformly.
    """

    lower: Array
    upper: Array
    names: tuple[str, ...] = ()
    normal: Flags | bool = False

    @classmethod
    def parse(
        cls, bounds: Any, shape: Shape, names: Names | None = None, fixed: Any = None, domain: Bounds | None = None
    ) -> Bounds:
        """Read bounds of codes of this shape: None, (lower, upper) of numbers or arrays, or ``scipy.optimize.Bounds``.

        If coordinates have names, a dictionary {name: (lower, upper)} can state the bounds of some of them. Bounds of a
        nuisance parameter are in its own units, and its prior stays. None, and coordinates that a dictionary leaves
        out, get the bounds of the ``domain``. ``fixed`` is a dictionary of values by coordinate name or index.

        Raises:
            InputError: ``bounds`` is not a pair, has entries that are not real numbers, or a wrong shape; a lower bound
                is above the upper one, or their distance is out of the range of numbers; a name is unknown; or a value
                is outside of the bounds.
        """
        k, names = math.prod(shape), names or Names(shape, ())
        domain = domain or cls(np.full(k, -np.inf), np.full(k, np.inf))
        if bounds is None or isinstance(bounds, Mapping):
            given, bounds = bounds or {}, np.stack(domain.ends)
            for j, pair in names.by_name(given, "bounds", pairs=True).items():
                bounds[:, j] = pair
        ends = (bounds.lb, bounds.ub) if isinstance(bounds, scipy.optimize.Bounds) else bounds
        try:
            low, high = ends
        except (TypeError, ValueError):
            pairs = isinstance(bounds, list | tuple) and len(bounds) == k
            call = "tuple(zip(*bounds))" if pairs else "(lower, upper)"
            if isinstance(bounds, int | float):
                call = f"({-abs(bounds):g}, {abs(bounds):g}) or {call}"
            raise InputError(f"bounds={shown(bounds)} is no pair; pass {call}, numbers or arrays of {k}") from None
        low, high = names.flat(low, "bounds: lower"), names.flat(high, "bounds: upper")
        for j, z in names.by_name({} if fixed is None else fixed, "fixed", ends=(low, high)).items():
            low[j] = high[j] = z
        found = cls(low, high, names.coordinate_names, names.nuisance)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = found.upper - found.lower
        odd = ~((distance > _SHORTEST) | found.fixed) | (found.boxed & np.isinf(distance))
        if odd.any():
            j = int(np.argmax(odd))
            raise InputError(
                f"bounds: {found.called(j)} has the lower bound {found.lower[j]:g} and the upper one "
                f"{found.upper[j]:g}; pass (lower, upper) in this order, at a distance in the range of numbers, and "
                "-inf or inf where there is no bound"
            )
        return found

    @property
    def fixed(self) -> Flags:
        """Which coordinates are fixed by equal bounds, (k,)."""
        return np.asarray(self.lower == self.upper)

    @property
    def free(self) -> Bounds:
        """The bounds of the coordinates that are not fixed."""
        free = ~self.fixed
        names = tuple(itertools.compress(self.names, free))
        return Bounds(self.lower[free], self.upper[free], names, np.broadcast_to(self.normal, free.shape)[free])

    def with_free(self, z: Array, fixed: Array | float | None = None) -> Array:
        """Expand free coordinates, (..., f), to codes (..., k). The others get their fixed values, or ``fixed``."""
        codes = np.empty((*z.shape[:-1], len(self.lower)))
        codes[:] = self.lower if fixed is None else fixed
        codes[..., ~self.fixed] = z
        return codes

    def called(self, coordinate: int) -> str:
        """Describe a coordinate in messages, by its index and its name if it has one."""
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
        """Which coordinates are drawn uniformly between two finite bounds, (k,)."""
        return np.asarray(self.boxed & ~np.asarray(self.normal))

    def clip(self, z: Array) -> Array:
        """Return the nearest codes within the bounds, (..., k)."""
        return z if self.none else np.clip(z, self.lower, self.upper)

    def reflect(self, z: Array) -> Array:
        """Reflect codes (..., k) at the bounds that they exceed, repeatedly between two bounds.

        If random codes were clipped instead, they would accumulate at the bounds.
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
        """Compute quantiles of uniform codes at probabilities p (..., k); 0 where a bound is infinite."""
        low, high = (np.where(self.boxed, end, 0.0) for end in (self.lower, self.upper))
        return low + (high - low) * p

    def of_normal(self, z: Array) -> Array:
        """Map standard normal draws z (..., k) to codes with the distribution of :meth:`draw`."""
        return self.reflect(np.where(self.uniform, self.quantile(ndtr(z)), z))

    def trial(self) -> tuple[Bounds, Array]:
        """Return narrower bounds, within which a function is tried, and the step lengths for the trial, (k,)."""
        with np.errstate(invalid="ignore"):
            width = np.where(self.boxed, self.upper - self.lower, 1.0)
        inner = Bounds(self.lower + _MARGIN * width, self.upper - _MARGIN * width)
        return inner, np.where(self.boxed, width / math.sqrt(12), 1.0)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw codes (*shape, k): uniform between two finite bounds, else N(0, 1), reflected at finite bounds."""
        z = rng.standard_normal((*shape, len(self.lower)))
        if self.uniform.any():
            z = np.where(self.uniform, self.quantile(rng.random(z.shape)), z)
        return self.reflect(z)

    def active(self, z: Array) -> npt.NDArray[np.int8]:
        """Return -1 where a code (..., k) is at its lower bound, 1 at its upper bound, else 0, as in scipy.optimize."""
        at = np.where(z == self.lower, -1, np.where(z == self.upper, 1, 0))
        return np.where(self.fixed, 0, at).astype(np.int8)

    @property
    def ends(self) -> tuple[Array, Array]:
        """The pair (lower, upper), as a user passes it."""
        return self.lower, self.upper

    def plain(self) -> list[Any] | None:
        """Return [lower, upper] for JSON, each a number if all coordinates share it, else a list; infinity is text."""

        written = map(plain_numbers, self.ends)
        return None if self.none else [each[0] if len(set(each)) == 1 else each for each in written]

    def check_finite(self) -> None:
        """Check that either all bounds are finite or there are none.

        Raises:
            InputError: some bounds are finite and others are not.
        """
        if not (self.none or self.boxed.all()):
            j = int(np.argmin(self.boxed))
            raise InputError(
                f"bounds: {self.called(j)} is between {self.lower[j]:g} and {self.upper[j]:g}; proofs need two finite "
                "ends of every coordinate: state them all, or pass bounds=(-inf, inf) for a proof about all codes"
            )

    def check(self, z0: Array, name: str = "z0") -> None:
        """Check that codes (B, k) are within the bounds. ``name`` is the argument that they were passed as.

        Raises:
            InputError: a code is outside.
        """
        for i, j in np.argwhere((z0 < self.lower) | (z0 > self.upper))[:1]:
            raise InputError(
                f"{name} of observation {i} has {z0[i, j]:.17g} at {self.called(j)}, outside of bounds "
                f"[{self.lower[j]:.17g}, {self.upper[j]:.17g}]; start inside, or widen them"
            )

"""Bounds of latent codes, lower <= z <= upper: as users state them, for random codes, and at the end of steps.

Equal bounds fix a coordinate. Searches never meet it (:class:`~unrelu.measurements.working_units.Coordinates`).
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

# The least distance of two bounds, so that dividing by it does not overflow.
_SHORTEST = 1e-290
# Trials of functions stay so far from each end, as a share of the width: they take steps for finite differences.
_MARGIN = 0.1


@dataclass(frozen=True, eq=False)
class Bounds:
    """lower <= z <= upper.

    Attributes:
        lower, upper: (k,), infinite where there is no bound, and equal where a coordinate is fixed.
        names: the names of the coordinates, (k,), "" for one without; or empty.
        normal: the coordinates whose random codes are N(0, 1), not uniform, between two finite bounds, (k,); or False.
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

        Where coordinates have names, they can also be a dictionary {name: (lower, upper)} of those with bounds. Those
        of nuisance parameters are in the parameter's own units, and keep its prior. What they leave out, and None, is
        that of the ``domain``. ``fixed`` is a dictionary of values by the names or the places of the coordinates.

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
        """Which coordinates have one value, (k,)."""
        return np.asarray(self.lower == self.upper)

    @property
    def free(self) -> Bounds:
        """The bounds of the coordinates that are not fixed."""
        free = ~self.fixed
        names = tuple(itertools.compress(self.names, free))
        return Bounds(self.lower[free], self.upper[free], names, np.broadcast_to(self.normal, free.shape)[free])

    def with_free(self, z: Array, fixed: Array | float | None = None) -> Array:
        """Codes (..., k) with these free coordinates, (..., f); the others have their values, or ``fixed``."""
        codes = np.empty((*z.shape[:-1], len(self.lower)))
        codes[:] = self.lower if fixed is None else fixed
        codes[..., ~self.fixed] = z
        return codes

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

    def of_normal(self, z: Array) -> Array:
        """Codes for standard normal draws z (..., k), as :meth:`draw` has them."""
        return self.reflect(np.where(self.uniform, self.quantile(ndtr(z)), z))

    def trial(self) -> tuple[Bounds, Array]:
        """Bounds with a margin, in which a function is tried, and the lengths of steps there, (k,)."""
        with np.errstate(invalid="ignore"):
            width = np.where(self.boxed, self.upper - self.lower, 1.0)
        inner = Bounds(self.lower + _MARGIN * width, self.upper - _MARGIN * width)
        return inner, np.where(self.boxed, width / math.sqrt(12), 1.0)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw codes (*shape, k): uniform between two finite bounds, else N(0, 1), mirrored at finite bounds."""
        z = rng.standard_normal((*shape, len(self.lower)))
        if self.uniform.any():
            z = np.where(self.uniform, self.quantile(rng.random(z.shape)), z)
        return self.reflect(z)

    def active(self, z: Array) -> npt.NDArray[np.int8]:
        """-1 where a code (..., k) is at its lower bound, 1 at its upper bound, else 0, as in scipy.optimize."""
        at = np.where(z == self.lower, -1, np.where(z == self.upper, 1, 0))
        return np.where(self.fixed, 0, at).astype(np.int8)

    @property
    def ends(self) -> tuple[Array, Array]:
        """(lower, upper), as a user passes them."""
        return self.lower, self.upper

    def plain(self) -> list[Any] | None:
        """[lower, upper] for JSON, each a number if all coordinates share it, else a list; infinity is text."""

        written = map(plain_numbers, self.ends)
        return None if self.none else [each[0] if len(set(each)) == 1 else each for each in written]

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
        for i, j in np.argwhere((z0 < self.lower) | (z0 > self.upper))[:1]:
            raise InputError(
                f"{name} of observation {i} has {z0[i, j]:.17g} at {self.called(j)}, outside of bounds "
                f"[{self.lower[j]:.17g}, {self.upper[j]:.17g}]; start inside, or widen them"
            )

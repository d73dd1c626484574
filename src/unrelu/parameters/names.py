"""Names of latent coordinates and of parts of an output, and which coordinates are nuisance parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from unrelu.errors import InputError, ModelError, OptionError
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Flags, Shape
from unrelu.runtime.words import count, is_name, nearest, shown


@dataclass(frozen=True, eq=False)
class Names:
    """The names of a generator's coordinates and outputs. Methods ignore them; results are reported by name.

    Attributes:
        latent_shape, output_shape: shapes of one code and of one output.
        coordinate_names: the names of the latent coordinates, (k,); "" for a coordinate without a name. Empty if none
            has a name.
        parts: the shapes of the named parts of an output, in their order in the flattened output; empty without parts.
        nuisance_table: a column for each coordinate, (3, k). For a nuisance parameter (:func:`unrelu.extend`), it
            holds both bounds and 0, or mean, standard deviation and 1; otherwise NaN. None without nuisance parameters.
    """

    latent_shape: Shape
    output_shape: Shape
    coordinate_names: tuple[str, ...] = ()
    parts: Mapping[str, Shape] = field(default_factory=dict)
    nuisance_table: Array | None = None

    @property
    def latent_dim(self) -> int:
        """k, the number of latent coordinates."""
        return math.prod(self.latent_shape)

    # --- names of coordinates ----------------------------------------------------------------------------------

    def named(self, names: Sequence[str]) -> Names:
        """Return a copy with names of coordinates, see :meth:`unrelu.Generator.named`."""
        several = isinstance(names, Sequence | np.ndarray) and not isinstance(names, str) and np.ndim(names)
        given = list(names) if several else []
        if len(given) != self.latent_dim or not all(isinstance(name, str) for name in given):
            texts = count(self.latent_dim, "text")
            raise OptionError(f"names={shown(names)} must be {texts}, one for each latent coordinate, in their order")
        if odd := [name for name in given if name and not is_name(name)]:
            raise OptionError(
                f"names: {shown(odd[0])} is no name; use 1 to 80 printable characters, no space at the ends"
            )
        made = replace(self, coordinate_names=tuple(map(str, given)) if any(given) else ())
        known = made.parameter_names
        if twice := [name for name in known if known.count(name) > 1]:
            raise OptionError(f"names: {twice[0]!r} is that of two coordinates; give each its own")
        return made

    def name_of(self, coordinate: int) -> str:
        """Return the name of a coordinate of the flattened code, or its index, such as z[3] or z[0, 1, 1]."""
        name = self.coordinate_names[coordinate] if self.coordinate_names else ""
        return name or f"z[{', '.join(str(i) for i in np.unravel_index(coordinate, self.latent_shape))}]"

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the coordinates in tables, (k,); z0, z1, ... for coordinates without a name."""
        names = self.coordinate_names or ("",) * self.latent_dim
        return tuple(name or f"z{j}" for j, name in enumerate(names))

    def place(self, name: object, argument: str) -> int:
        """Find a coordinate of the flattened code by its name or index.

        Raises:
            InputError: there is no such coordinate; the message names the ``argument``.
        """
        known, k = [each for each in self.coordinate_names if each], self.latent_dim
        if isinstance(name, int | np.integer) and not isinstance(name, bool) and -k <= name < k:
            return int(name) % k
        if name in known:
            return self.coordinate_names.index(str(name))
        those = f"those with names are {', '.join(known)}" if known else "they have no names: network.named([...])"
        raise InputError(
            f"{argument}: {shown(name)} is none of the {self.latent_dim} coordinates of the generator; {those}"
            f"{nearest(name, known)}"
        )

    # --- numbers by coordinate ---------------------------------------------------------------------------------

    def flat(self, values: npt.ArrayLike, argument: str) -> Array:
        """Expand ``values`` to a number for each coordinate, (k,): from one number, or an array of a code's shape.

        Raises:
            InputError: values are not real numbers, are NaN, or have another shape; the message names the ``argument``.
        """
        array = numbers(values, argument)
        if array.shape not in ((), (self.latent_dim,), self.latent_shape):
            raise InputError(
                f"{argument} has shape {array.shape}, a code has shape {self.latent_shape}; pass a number or an array "
                "of that shape"
            )
        if np.isnan(array).any():
            raise InputError(f"{argument} has NaN; use -inf or inf where there is no bound")
        return np.broadcast_to(array.reshape(-1) if array.ndim else array, (self.latent_dim,)).copy()

    def by_name(
        self, given: Any, argument: str, pairs: bool = False, ends: tuple[Array, Array] | None = None
    ) -> dict[int, Array]:
        """Read a dictionary by coordinate name or index: one finite number each, or a pair. Return values by index.

        Values of a nuisance parameter are in its own units, and are converted to its coordinate. An InputError names
        the ``argument`` if a value is beyond the ``ends``, (k,) each, or a name is unknown or occurs twice.
        """
        if not isinstance(given, Mapping):
            raise InputError(
                f"{argument}={shown(given)} must be a dictionary of values by name or place, such as {{'h': 0.67}}"
            )
        found: dict[int, Array] = {}
        for name, value in given.items():
            j = self.place(name, argument)
            if j in found:
                raise InputError(f"{argument}={shown(given)} names coordinate {j} twice")
            low, high = (-math.inf, math.inf) if ends is None else (float(end[j]) for end in ends)
            z = found[j] = self.coordinate_of(j, numbers(value, f"{argument}: {shown(name)}"))
            fits = z.shape == (2,) if pairs else np.isfinite(z).all() and not z.shape
            if not fits or not ((low <= z) & (z <= high)).all():
                what = "a pair of numbers, (lower, upper)" if pairs else "one finite number"
                reach = self.range_of(j, low, high)
                reach += ", without the ends" if reach and self.nuisance[j] and not pairs else ""
                raise InputError(f"{argument}: {shown(name)} has {shown(value)}; pass {what}{reach}")
        return found

    # --- nuisance parameters -----------------------------------------------------------------------------------

    @property
    def nuisance(self) -> Flags:
        """Which coordinates represent nuisance parameters, (k,)."""
        table = self.nuisance_table
        return np.zeros(self.latent_dim, dtype=bool) if table is None else np.asarray(np.isfinite(table[0]))

    def coordinate_of(self, coordinate: int, values: Array) -> Array:
        """Convert values of the parameter at this index to its coordinate, (...); NaN beyond its bounds."""
        if not self.nuisance[coordinate]:
            return values
        assert self.nuisance_table is not None
        return parameter_coordinates(values, *self.nuisance_table[:, coordinate])

    def range_of(self, coordinate: int, low: float = -math.inf, high: float = math.inf) -> str:
        """Describe the range of the parameter at this index, for coordinates from low to high; empty if unlimited."""
        if self.nuisance[coordinate]:
            assert self.nuisance_table is not None
            low, high = parameter_values(np.array([low, high]), *self.nuisance_table[:, coordinate]).tolist()
        return f" from {low:g} to {high:g}" if np.isfinite((low, high)).any() else ""

    def prior_of(self, coordinate: int, low: float, high: float) -> str:
        """Describe the prior of the nuisance parameter at this index, for coordinates from low to high."""
        assert self.nuisance_table is not None
        mean, std, normal = self.nuisance_table[:, coordinate]
        prior = f"N({mean:g}, {std:g}^2)" if normal else "uniform"
        return f"{self.name_of(coordinate)} {prior}{self.range_of(coordinate, low, high)}"

    def parameters_of(self, codes: Array) -> Array:
        """Convert flat codes (..., k) to reported values, in which nuisance parameters replace their coordinates."""
        if self.nuisance_table is None:
            return codes
        return np.where(self.nuisance, parameter_values(codes, *self.nuisance_table), codes)

    # --- named parts of the output -----------------------------------------------------------------------------

    def with_parts(self, parts: Mapping[str, int | Shape]) -> Names:
        """Return a copy with parts of the output, see :meth:`unrelu.Generator.with_parts`."""
        if not isinstance(parts, Mapping):
            raise ModelError(f"parts={shown(parts)} must be a dictionary of sizes or shapes by name")
        shapes: dict[str, Shape] = {}
        for name, given in parts.items():
            shape = tuple(given) if isinstance(given, tuple | list) else (given,)
            whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in shape)
            if not isinstance(name, str) or not is_name(name) or not whole:
                raise ModelError(f"part {shown(name)} has shape {shown(given)}; pass a name, and a size or a shape")
            shapes[name] = tuple(map(int, shape))
        if (total := sum(map(math.prod, shapes.values()))) != (n := math.prod(self.output_shape)):
            raise ModelError(f"parts={shapes} have {total} entries, an output has {n}")
        return replace(self, parts=shapes)

    @property
    def places(self) -> dict[str, slice]:
        """The slice of the flattened output that each part occupies."""
        ends = np.cumsum([0, *map(math.prod, self.parts.values())]).tolist()
        return {name: slice(*ends[i : i + 2]) for i, name in enumerate(self.parts)}


def plain_numbers(values: npt.ArrayLike) -> Any:
    """Convert numbers for JSON, to lists nested like the array; infinity becomes text."""
    if np.ndim(values):
        return [plain_numbers(each) for each in np.asarray(values)]
    number = float(np.asarray(values))
    return number if math.isfinite(number) else str(number)


def parameter_values(u: Array, low: Array, high: Array, normal: Array | Flags) -> Array:
    """Compute parameters from coordinates u (..., k). Where ``normal`` is 1, low and high are mean and deviation."""
    return np.where(normal == 1, low + high * u, low + (high - low) * special.ndtr(u))


def parameter_coordinates(values: Array, low: Array, high: Array, normal: Array | Flags) -> Array:
    """Compute the coordinates u of nuisance parameters (..., k); NaN beyond their bounds."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(normal == 1, (values - low) / high, special.ndtri((values - low) / (high - low)))

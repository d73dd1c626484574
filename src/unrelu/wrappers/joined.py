"""Join generators that share parameters by name into one, whose output has a named part for each generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import OptionError
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense, Step
from unrelu.models.generator import Generator, NamedGenerator, as_generator
from unrelu.models.network import LARGEST_COMPILED, Layer, Network
from unrelu.models.rounding_error import Rounding
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names
from unrelu.runtime.array_types import Array, Integers
from unrelu.runtime.host import computing


@dataclass(frozen=True, eq=False, repr=False)
class JoinedGenerator(Generator):
    r"""The joined generator G(z) = (G_1(z_1), G_2(z_2), ...), where each generator takes some of the coordinates.

    :func:`join` builds such a generator and names its coordinates and parts. Each generator is evaluated and
    differentiated separately, and its Jacobian is a block of the Jacobian of G.

    Attributes:
        generators: G_p, without names, with the same precision and device.
        coordinates: for each generator, the coordinates of z that form z_p, (k_p,).
        rounding, domain: see :class:`~unrelu.Generator`.
    """

    generators: tuple[Generator, ...]
    coordinates: tuple[Integers, ...]
    rounding: Rounding | None = None
    domain: Bounds | None = None

    reason = "generators are joined that are no chains of layers, or too large for one chain"

    def __post_init__(self) -> None:
        first, n = self.generators[0], sum(each.output_dim for each in self.generators)
        k, width = 1 + max(map(int, np.concatenate(self.coordinates))), max(each.width for each in self.generators)
        self._set(latent_shape=(k,), output_shape=(n,), width=max(n, width), dtype=first.dtype, device=first.device)

    @cached_property
    def work(self) -> int:
        return sum(each.work for each in self.generators)

    @cached_property
    def cost(self) -> int:
        return sum(each.cost for each in self.generators)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> JoinedGenerator:
        return self._of([each.to(dtype, device) for each in self.generators])

    def smoothed(self, share: float, codes: Tensor | None = None) -> JoinedGenerator:
        """Smooth each generator, see :meth:`Generator.smoothed`; by default at its own typical codes."""
        own = [None] * len(self.generators) if codes is None else self._own(codes)
        return self._of([each.smoothed(share, z) for each, z in zip(self.generators, own, strict=True)])

    def _of(self, generators: list[Generator]) -> JoinedGenerator:
        """Join other generators in the same way; return ``self`` if they are its own."""
        same = all(each is own for each, own in zip(generators, self.generators, strict=True))
        return self if same else replace(self, generators=tuple(generators))

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([each.forward(own) for each, own in zip(self.generators, self._own(z), strict=True)], dim=1)

    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.check_size()
        values, tangents, begin = [], z.new_zeros(len(z), self.latent_dim, self.output_dim), 0
        for each, own, places in zip(self.generators, self._own(z), self.coordinates, strict=True):
            x, t = each.linearize(own)
            values.append(x)
            tangents[:, places, begin : begin + x.shape[1]] = t
            begin += x.shape[1]
        return torch.cat(values, dim=1), tangents

    def _own(self, z: Tensor) -> list[Tensor]:
        """Return z_p for each generator, (B, k_p)."""
        return [z[:, places] for places in self.coordinates]

    def __str__(self) -> str:
        return "\n  ".join([f"{self!r}, joined of", *map(repr, self.generators)])


@computing()
def join(**parts: Generator) -> NamedGenerator:
    r"""Join generators that share parameters by name: one generator, whose output has a named part for each.

    .. math:: G(z) = (G_1(z_1), G_2(z_2), \ldots)

    The code z contains the coordinates of all parts, in the order in which their names first appear. Coordinates with
    the same name are one coordinate. Each :math:`z_p` contains the coordinates of part p. Each part keeps its
    standardisation. If parts have domains, a shared coordinate gets the intersection. Nuisance parameters of
    :func:`extend` are shared by name, too; ``extend(join(...), ...)`` adds parameters to the joined generator.
    Observations, noise and operators are stated by part (:mod:`unrelu.measurements.named_parts`). The noise may also be
    one covariance of all measured entries, in the order of the parts.

    If all parts are chains of layers, and small enough for compiled searches, the joined generator is also a chain, and
    its layers contain the layers of the parts as blocks. Otherwise it is a
    :class:`~unrelu.wrappers.joined.JoinedGenerator`.

    Args:
        **parts: the generators by the names of their parts, in the order of the output. All of their coordinates must
            have names. If a generator has named parts itself, they become ``name.part``.

    Raises:
        OptionError: there are no parts; a part is not a generator, or has coordinates without names; the domains of a
            shared coordinate do not overlap; or nuisance parameters with the same name have different bounds.

    >>> import unrelu
    >>> line = unrelu.from_arrays([[[1.0, 0.0], [1.0, 1.0]]], activation="identity").named(["height", "slope"])
    >>> level = unrelu.from_arrays([[[2.0]]], activation="identity").named(["height"])
    >>> net = unrelu.join(line=line, level=level)
    >>> net.by_part(net([1.0, 0.5]))
    {'line': array([1. , 1.5]), 'level': array([2.])}
    >>> r = unrelu.invert(net, {"line": [1.0, 1.5], "level": [2.0]})
    >>> r.z.round(6), list(r.parameters)
    (array([1. , 0.5]), ['height', 'slope'])
    """
    if not parts:
        raise OptionError("there is nothing to join: pass generators by name, unrelu.join(tt=tt, te=te)")
    for name, part in parts.items():
        known = as_generator(part).names
        if not all(known.coordinate_names) or not known.coordinate_names:
            raise OptionError(
                f"join: the coordinates of part {name!r} have no names, by which parts share them: "
                f"{name}={name}.named([...]), {known.latent_dim} in the order of its code"
            )
    order = list(dict.fromkeys(each for part in parts.values() for each in part.names.coordinate_names))
    places = tuple(np.array([order.index(each) for each in p.names.coordinate_names]) for p in parts.values())
    first = next(iter(parts.values()))
    plain = tuple(part.plain.to(first.dtype, first.device) for part in parts.values())
    table, domain = _shared(parts, order)
    coarse = max((each.rounding for each in plain if each.rounding), key=lambda each: each.level, default=None)
    made = replace(_stacked(plain, places) or JoinedGenerator(plain, places), rounding=coarse, domain=domain)
    shapes = {
        f"{name}.{own}" if own else name: shape
        for name, part in parts.items()
        for own, shape in (part.names.parts or {"": part.output_shape}).items()
    }
    names = Names(made.latent_shape, made.output_shape, nuisance_table=table)
    return NamedGenerator(made, names.named(order).with_parts(shapes))


def _shared(parts: dict[str, Generator], order: list[str]) -> tuple[Array | None, Bounds | None]:
    """Return the table of nuisance parameters (:class:`~unrelu.parameters.names.Names`) and the domain of all parts."""
    tables: dict[str, tuple[str, Array]] = {}
    ranges: dict[str, list[tuple[str, float, float]]] = {each: [] for each in order}
    for name, part in parts.items():
        k, table = part.latent_dim, part.names.nuisance_table
        columns = np.full((3, k), np.nan) if table is None else table
        ends = part.bounds(None).ends
        for each, column, low, high in zip(part.names.coordinate_names, columns.T, *ends, strict=True):
            other, before = tables.setdefault(each, (name, column))
            if not np.array_equal(before, column, equal_nan=True):
                raise OptionError(
                    f"join: {each!r} is {_described(before)} in part {other!r}, and {_described(column)} in {name!r}; "
                    "parts share parameters of the same name, so give it another one in one of them"
                )
            for other, lower, upper in ranges[each]:
                if max(low, lower) >= min(high, upper):
                    raise OptionError(
                        f"join: the domains of {each!r}, {lower:g} to {upper:g} in part {other!r} and {low:g} to "
                        f"{high:g} in {name!r}, have nothing in common; if it is not the same parameter in the same "
                        "unit, give it another name in one of them"
                    )
            ranges[each].append((name, low, high))
    found = np.transpose([tables[each][1] for each in order])
    common = [(max(each[1] for each in of), min(each[2] for each in of)) for of in ranges.values()]
    domain = Bounds(*np.transpose(common))
    return (None if np.isnan(found).all() else found), (None if domain.none else domain)


def _described(column: Array) -> str:
    """Describe a coordinate in messages."""
    low, high, normal = column.tolist()
    if math.isnan(low):
        return "a coordinate of the code"
    return f"Normal({low:g}, {high:g})" if normal else f"between {low:g} and {high:g}"


def _stacked(generators: Sequence[Generator], coordinates: Sequence[Integers]) -> Network | None:
    """Stack the generators into one chain whose layers contain their layers as blocks.

    Return None if a generator is not a chain, or the chain would be too large. The deepest generator begins. A stacked
    layer has one base function, so a generator whose next layer needs another one waits: its values pass unchanged.
    """
    if not all(isinstance(each, Network) for each in generators):
        return None
    left: list[list[Layer]] = [list(each.layers) for each in generators if isinstance(each, Network)]
    chain: list[Step | Activation] = []
    k = width = 1 + max(map(int, np.concatenate(coordinates)))
    places, total = list(coordinates), 0
    while depth := max(map(len, left)):
        ready = [each[0].activation for each in left if len(each) == depth]
        bent = next((each for each in ready if not each.linear), Activation("identity"))
        taken = [
            each.pop(0) if len(each) == depth and (each[0].activation.linear or each[0].activation.kind == bent.kind)
            else None for each in left
        ]  # fmt: skip
        ends = np.cumsum(
            [0, *(len(at) if layer is None else layer.n_out for layer, at in zip(taken, places, strict=True))]
        )
        if (total := total + int(ends[-1]) * width) > LARGEST_COMPILED:
            return None
        weight, bias, slope, steepness = np.zeros((ends[-1], width)), *(np.full(ends[-1], v) for v in (0.0, 1.0, 1.0))
        for i, layer in enumerate(taken):
            rows, columns = slice(ends[i], ends[i + 1]), places[i]
            places[i] = np.arange(ends[i], ends[i + 1])
            if layer is None:
                weight[places[i], columns] = 1.0
                continue
            matrix = layer.matrix()
            weight[rows, columns] = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
            bias[rows], slope[rows] = layer.bias(), layer.activation.slope
            steepness[rows] = layer.activation.steepness
        width = int(ends[-1])
        chain += [Dense(torch.from_numpy(weight), torch.from_numpy(bias)), bent.of_parameters(slope, steepness)]
    return Network.chain(chain, (k,)).to(generators[0].dtype, generators[0].device)

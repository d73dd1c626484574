"""Whether codes are locally unique. It is computed on demand, as a Jacobian may cost more than a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple, Self

import numpy as np

from unrelu.runtime.array_types import Flags, Index, Integers


class LocalUniqueness(NamedTuple):
    """Results about other codes near each code.

    Attributes:
        rank: the rank of A J at each code, (B,); -1 without a code.
        freedom: the dimension of the set of codes with the same A G nearby, (B,); -1 if unknown.
        identifiable: whether no other code nearby has the same A G, (B,).
    """

    rank: Integers
    freedom: Integers
    identifiable: Flags


class Uniqueness:
    """The :class:`LocalUniqueness` of codes, computed on demand by ``compute``."""

    def __init__(self, compute: Callable[[], LocalUniqueness]) -> None:
        self._compute = compute

    @cached_property
    def known(self) -> LocalUniqueness:
        """The result of ``compute``, which is called once."""
        return self._compute()

    def __getitem__(self, rows: Index) -> Self:
        """Select the uniqueness of some codes."""
        return type(self)(partial(_of_parts, [self], rows))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Join the uniqueness of the codes of all parts, in order."""
        return cls(partial(_of_parts, parts, slice(None)))

    @classmethod
    def unknown(cls, size: int) -> Self:
        """Make the uniqueness of ``size`` codes about which nothing is known."""
        minus = np.full(size, -1, dtype=np.int64)
        return cls(partial(LocalUniqueness, minus, minus, np.zeros(size, dtype=bool)))


def _of_parts(parts: Sequence[Uniqueness], rows: Index | slice) -> LocalUniqueness:
    columns = zip(*(part.known for part in parts), strict=True)
    return LocalUniqueness(*(np.concatenate(column)[rows] for column in columns))

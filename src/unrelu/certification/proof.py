"""A proof that is checked without a solver: lemmas, a tree of decisions, and multipliers of its leaves.

Every split of the tree decides one neuron in both ways, so the leaves cover every sign pattern. The multipliers of a
leaf give a bound on F over its codes. No code has F below the smallest of these bounds. In the proof of a box, one leaf
may stay open. Its multipliers bound every latent coordinate instead.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from unrelu.certification.bound_propagation import Lemmas, Regions, region_of
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region, lower_bound
from unrelu.runtime.array_types import Array, Integers

# A proof is complete when its gap is at most this.
GAP = 1e-6

# The entries of multipliers (kappa, s) that are not 0: their places and values.
Row = tuple[Integers, Array]


class ProofStatus(enum.Enum):
    """How a proof ended; the value is the meaning.

    >>> import unrelu
    >>> [status.name for status in unrelu.ProofStatus][:2]
    ['OPTIMAL', 'EXACT_FIT']
    """

    OPTIMAL = "the gap is closed: no code has an error smaller by more than a millionth of it"
    EXACT_FIT = "the code fits the observation exactly, and no error is below zero"
    OUT_OF_RANGE = "no code explains the observation within the stated noise"
    TIME_LIMIT = "stopped at the time limit; the bounds are valid: raise time_limit to close the gap"
    NODE_LIMIT = "stopped at the limit of nodes; the bounds are valid: raise max_nodes to close the gap"
    STOPPED = "stopped by the callback; the bounds are valid"
    ROUNDING = "rounding errors keep the gap open; the bounds are valid"

    def __str__(self) -> str:
        return self.name


class BoundsAt(NamedTuple):
    """The bounds on the smallest F at some time, in seconds from the start, and number of nodes."""

    seconds: float
    nodes: int
    lower: float
    upper: float


def packed(multipliers: Multipliers) -> Row:
    """Keep the entries of multipliers that are not 0."""
    row = np.concatenate([multipliers.kappa, multipliers.slopes])
    index = np.flatnonzero(row)
    return index, row[index]


@dataclass(frozen=True, eq=False)
class Proof:
    """A proof of a lower bound or of a box.

    The root of the tree has number 0. Split i gives its node the children 2 i + 1, in which a neuron is active, and
    2 i + 2, in which it is inactive.

    Attributes:
        level: the bounds hold for codes with F below it.
        balance: a lemma, see :class:`~unrelu.certification.bound_propagation.Lemmas`.
        parent, neuron: the node and the neuron of every split, (S,).
        open_leaf: number of the open leaf, in the proof of a box; -1 if there is none.
        pointer, index, value: multipliers (kappa, s) as rows of a sparse matrix. First come those of the lemmas about
            sums, then those of closed leaves in their order. Those of bounds on z_1 ... z_k and on -z_1 ... -z_k in the
            open leaf are last.
    """

    level: float
    balance: Array
    parent: Integers
    neuron: Integers
    open_leaf: int
    pointer: Integers
    index: Integers
    value: Array

    @property
    def closed(self) -> Integers:
        """The numbers of the closed leaves."""
        return np.setdiff1d(np.arange(2 * len(self.parent) + 1), [*self.parent, self.open_leaf])

    def _sums(self, chain: CertifiedChain) -> int:
        """Count the lemmas about sums."""
        ends = 2 * chain.latent_dim if self.open_leaf >= 0 else 0
        return len(self.pointer) - 1 - len(self.closed) - ends

    def _rows(self, chain: CertifiedChain, begin: int, count: int) -> Iterator[Multipliers]:
        """Yield the multipliers of some rows."""
        for start, end in pairwise(self.pointer[begin : begin + count + 1]):
            row = np.zeros(len(chain.y) + int(chain.ends[-1]))
            row[self.index[start:end]] = self.value[start:end]
            yield Multipliers(row[: len(chain.y)], row[len(chain.y) :])

    def regions(self, chain: CertifiedChain) -> Regions:
        """Compute the regions that the lemmas prove at the proof's level."""
        return region_of(chain, self.level, Lemmas(tuple(self._rows(chain, 0, self._sums(chain))), self.balance))

    def radius(self, chain: CertifiedChain) -> float:
        """Return the largest |z_i| of the codes for which the proof holds; infinite if it holds for all codes."""
        regions = self.regions(chain)
        return math.inf if regions.proven else regions.full.radius

    def _leaves(self, chain: CertifiedChain, leaves: Iterable[int]) -> Iterator[Region]:
        """Yield the regions of some leaves, from the lemmas and the decisions of each leaf and its ancestors."""
        full = self.regions(chain).full
        signs = np.zeros((2 * len(self.parent) + 1, int(chain.ends[-1])), dtype=np.int8)
        for split, (parent, neuron) in enumerate(zip(self.parent, self.neuron, strict=True)):
            children = slice(2 * split + 1, 2 * split + 3)
            signs[children] = signs[parent]
            signs[children, neuron] = 1, -1
        return (full.signed(signs[leaf]) for leaf in leaves)

    def _bounds(self, chain: CertifiedChain) -> Iterator[float]:
        """Yield the bound on F in each closed leaf."""
        closed = self.closed
        rows = self._rows(chain, self._sums(chain), len(closed))
        for region, multipliers in zip(self._leaves(chain, closed), rows, strict=True):
            yield lower_bound(chain, region, multipliers).within(region.radius)

    def lower(self, chain: CertifiedChain) -> float:
        """Recompute the lower bound on F(z), for every z within the bounds and with |z_i| <= radius."""
        return 0.0 if self.open_leaf >= 0 else max(0.0, min([self.level, *self._bounds(chain)]))

    def box(self, chain: CertifiedChain) -> Array:
        """Recompute the intervals of z_1 ... z_k that contain every z with F(z) < level, (k, 2).

        They are (inf, -inf) if there is no such z.
        """
        k = chain.latent_dim
        nothing = np.tile([math.inf, -math.inf], (k, 1))
        if not all(bound >= self.level for bound in self._bounds(chain)):
            return -nothing
        if self.open_leaf < 0:
            return nothing
        region = next(self._leaves(chain, [self.open_leaf]))
        rows, towards = self._rows(chain, len(self.pointer) - 1 - 2 * k, 2 * k), np.vstack([np.eye(k), -np.eye(k)])
        bounds = (lower_bound(chain, region, row, self.level, towards=e) for row, e in zip(rows, towards, strict=True))
        least = np.maximum([bound.within(region.radius) for bound in bounds], -region.radius)
        if chain.bounds is not None:
            least = np.maximum(least, np.concatenate([chain.bounds.lower, -chain.bounds.upper]))
        return np.stack([least[:k], -least[k:]], axis=1)

    def flaw(self, chain: CertifiedChain) -> str | None:
        """Say why these numbers are no proof about this observation, in a sentence; None if they are one."""
        neurons, splits = int(chain.ends[-1]), np.arange(len(self.parent))
        if not 0 <= self.level < math.inf:
            return f"its level is {self.level:g}"
        if (
            len(self.neuron) != len(splits)
            or not ((self.parent >= 0) & (self.parent <= 2 * splits)).all()
            or not ((self.neuron >= 0) & (self.neuron < neurons)).all()
            or len(np.unique(self.parent)) != len(splits)
            or self.open_leaf not in (-1, *np.setdiff1d(np.arange(2 * len(splits) + 1), self.parent))
        ):
            return "the decisions are not a tree in which every node is split by one neuron"
        if not (
            0 <= self._sums(chain) < chain.depth
            and self.pointer[0] == 0
            and (np.diff(self.pointer) >= 0).all()
            and self.pointer[-1] == len(self.index) == len(self.value)
            and ((self.index >= 0) & (self.index < len(chain.y) + neurons)).all()
        ):
            return "there is not one row of multipliers for each lemma, closed leaf and end of the box"
        if len(self.balance) not in (0, len(chain.biases[0])):
            return "a lemma is about a layer that does not exist"
        return None

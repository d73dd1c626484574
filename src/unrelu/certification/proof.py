r"""A proof on paper, as it were: lemmas, a tree of decisions, multipliers of its leaves; and reading it without a
solver.

The leaves of the tree cover every sign pattern. Each has multipliers, from which a bound of F over its codes follows,
so that no code has F below the smallest of the bounds. Of an enclosure some leaves stay open, and those have
multipliers of bounds on every latent coordinate instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.certification.bound_propagation import BALANCE, LATENT, SUM, Lemma, Regions, region_of
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Packed, Region, lower_bound

# The gap that a proof closes.
GAP = 1e-6

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Signs = npt.NDArray[np.int8]


@dataclass(frozen=True)
class BoundsAt:
    """What was known when: seconds from the start, nodes, bounds on the smallest F."""

    seconds: float
    nodes: int
    lower: float
    upper: float


@dataclass(frozen=True, eq=False)
class MultiplierRows:
    """Many multipliers without their zeros: a sparse matrix of rows (kappa, s).

    Attributes:
        pointer: where each row begins in the other two, (R + 1,).
        index, value: columns and numbers.
        outputs, total: lengths of kappa and s.
    """

    pointer: Index
    index: Index
    value: Array
    outputs: int
    total: int

    @classmethod
    def of(cls, packed: Iterable[Packed], outputs: int, total: int) -> MultiplierRows:
        """Rows in order."""
        rows = list(packed)
        pointer = np.concatenate([[0], np.cumsum([len(row.index) for row in rows])]).astype(np.int64)
        index = np.concatenate([row.index for row in rows]) if rows else np.zeros(0)
        value = np.concatenate([row.value for row in rows]) if rows else np.zeros(0)
        return cls(pointer, index.astype(np.int64), value, outputs, total)

    def __len__(self) -> int:
        return len(self.pointer) - 1

    def __iter__(self) -> Iterator[Multipliers]:
        for part in map(slice, self.pointer[:-1], self.pointer[1:]):
            yield Packed(self.index[part], self.value[part]).unpacked(self.outputs, self.total)


@dataclass(frozen=True, eq=False)
class Proof:
    """See the module.

    Attributes:
        level: the leaves' bounds are for codes with F below it.
        reach: the lemmas are for codes with F below it, at least ``level``.
        lemma_kind, lemma_index, lemma_rows: the lemmas.
        parent, neuron, sign: of every node of the tree, the root first with -1, -1, 0.
        leaf, leaf_rows: numbers of the leaves, and multipliers of their bounds.
        open_leaf: of an enclosure, numbers of the leaves that are kept.
        open_rows: 2 k rows for each of those: of bounds on z_1 ... z_k and on -z_1 ... -z_k.
    """

    level: float
    reach: float
    lemma_kind: Index
    lemma_index: Index
    lemma_rows: MultiplierRows
    parent: Index
    neuron: Index
    sign: Index
    leaf: Index
    leaf_rows: MultiplierRows
    open_leaf: Index
    open_rows: MultiplierRows

    def lower(self, chain: CertifiedChain) -> float:
        """What the proof shows to be at most F(z) for every z within the bounds and with |z_i| <= radius.

        It is recomputed from the multipliers.
        """
        return 0.0 if len(self.open_leaf) else max(0.0, min([self.level, *self._leaf_bounds(chain)]))

    def _leaf_bounds(self, chain: CertifiedChain) -> Iterator[float]:
        """The bound of F in each closed leaf."""
        for region, multipliers in zip(self._parts(chain, self.leaf), self.leaf_rows, strict=True):
            yield lower_bound(chain, region, multipliers).within(region.radius)

    def _parts(self, chain: CertifiedChain, leaves: Index) -> Iterator[Region]:
        """What holds in some leaves."""
        full = self.regions(chain).full
        signs = signs_of_nodes(chain, self.parent, self.neuron, self.sign)
        return (full.signed(signs[leaf]) for leaf in leaves)

    def box(self, chain: CertifiedChain) -> Array:
        """The smallest intervals of z_1 ... z_k that the proof shows to hold every z with F(z) < level, (k, 2).

        (inf, -inf) where there is no such z.
        """
        k = chain.latent_dim
        box = np.tile([math.inf, -math.inf], (k, 1))
        if not all(bound >= self.level for bound in self._leaf_bounds(chain)):
            return -box
        rows, towards = iter(self.open_rows), np.concatenate([np.eye(k), -np.eye(k)])
        least = np.full(2 * k, -math.inf)
        if chain.bounds is not None:
            least = np.concatenate([chain.bounds.lower, -chain.bounds.upper])
        for region in self._parts(chain, self.open_leaf):
            bounds = (lower_bound(chain, region, next(rows), self.level, towards=side) for side in towards)
            ends = np.maximum([bound.within(region.radius) for bound in bounds], np.maximum(least, -region.radius))
            box[:, 0] = np.minimum(box[:, 0], ends[:k])
            box[:, 1] = np.maximum(box[:, 1], -ends[k:])
        return box

    def regions(self, chain: CertifiedChain) -> Regions:
        """What the lemmas prove of pre-activations, at the proof's level."""
        return region_of(chain, self.reach, self.lemmas()).at(chain, self.level)

    def radius(self, chain: CertifiedChain) -> float:
        """The largest |z_i| of the codes that the proof is about; infinite where it is shown that no others matter."""
        proven = [lemma for lemma in self.lemmas() if lemma.kind in (SUM, BALANCE, LATENT)]
        regions = region_of(chain, self.reach, proven)
        return math.inf if regions.proven else regions.full.radius

    def lemmas(self) -> list[Lemma]:
        """The lemmas, one by one."""
        return list(map(Lemma, self.lemma_kind.tolist(), self.lemma_index.tolist(), self.lemma_rows))

    def flaw(self, chain: CertifiedChain) -> str | None:
        """What makes these numbers no proof about this observation, in a sentence; None if nothing does."""
        neurons, outputs, nodes = int(chain.ends[-1]), len(chain.y), len(self.parent)
        for rows in (self.lemma_rows, self.leaf_rows, self.open_rows):
            if (rows.outputs, rows.total) != (outputs, neurons):
                return f"it is about {rows.outputs} outputs and {rows.total} neurons, not {outputs} and {neurons}"
            if not _is_sparse(rows):
                return "rows of multipliers are not well formed"
        if not (0 <= self.level <= self.reach < math.inf):
            return f"level {self.level:g} must be between 0 and reach {self.reach:g}"
        counts = {len(self.parent), len(self.neuron), len(self.sign)}
        if counts != {nodes} or not nodes or not _is_tree(self.parent, self.neuron, self.sign, neurons):
            return "the decisions are not a tree in which every node is split by one neuron"
        expected = np.setdiff1d(np.arange(nodes), self.parent)
        if not np.array_equal(np.sort(np.concatenate([self.leaf, self.open_leaf])), expected):
            return "there is not exactly one bound for each leaf"
        ends = len(self.open_leaf) * 2 * chain.latent_dim
        if len(self.leaf_rows) != len(self.leaf) or len(self.open_rows) != ends:
            return "there are not as many multipliers as leaves"
        if not len(self.lemma_kind) == len(self.lemma_index) == len(self.lemma_rows):
            return "there are not as many multipliers as lemmas"
        return None if self._lemmas_fit(chain) else "a lemma is about a layer, neuron or coordinate that does not exist"

    def _lemmas_fit(self, chain: CertifiedChain) -> bool:
        limits = {SUM: chain.depth - 1, LATENT: 2 * chain.latent_dim}
        pairs = zip(self.lemma_kind.tolist(), self.lemma_index.tolist(), strict=True)
        return all(0 <= kind <= BALANCE and 0 <= index < limits.get(kind, int(chain.ends[-1])) for kind, index in pairs)


def signs_of_nodes(chain: CertifiedChain, parent: Index, neuron: Index, sign: Index) -> Signs:
    """The decisions of every node, (nodes, N): those of its parent and its own."""
    signs = np.zeros((len(parent), int(chain.ends[-1])), dtype=np.int8)
    for number in range(1, len(parent)):
        signs[number] = signs[parent[number]]
        signs[number, neuron[number]] = sign[number]
    return signs


def _is_sparse(rows: MultiplierRows) -> bool:
    steps, width = np.diff(rows.pointer), rows.outputs + rows.total
    return bool(
        len(rows.pointer)
        and rows.pointer[0] == 0
        and (steps >= 0).all()
        and rows.pointer[-1] == len(rows.index) == len(rows.value)
        and ((rows.index >= 0) & (rows.index < width)).all()
    )


def _is_tree(parent: Index, neuron: Index, sign: Index, neurons: int) -> bool:
    """The root first; every other node has an earlier parent, and a parent two children of one neuron, on and off."""
    if (parent[0], neuron[0], sign[0]) != (-1, -1, 0):
        return False
    number = np.arange(len(parent))
    rest = slice(1, None)
    if not ((parent[rest] >= 0) & (parent[rest] < number[rest])).all():
        return False
    if not ((neuron[rest] >= 0) & (neuron[rest] < neurons) & (np.abs(sign[rest]) == 1)).all():
        return False
    order = np.argsort(parent[rest], kind="stable") + 1
    if len(order) % 2:
        return False
    first, second = order[::2], order[1::2]
    paired = (parent[first] == parent[second]) & (neuron[first] == neuron[second]) & (sign[first] + sign[second] == 0)
    return bool(paired.all() and len(np.unique(parent[first])) == len(first))

"""A proof that is checked without a solver: lemmas, a tree of decisions, and multipliers of its leaves.

The leaves of the tree cover every sign pattern. The multipliers of a leaf give a bound on F over its codes. No code has
F below the smallest of these bounds. In the proof of a box, some leaves stay open. They have multipliers for bounds on
every latent coordinate instead.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.certification.bound_propagation import Lemmas, Regions, region_of
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region, lower_bound, safe_multipliers
from unrelu.runtime.array_types import Array, Integers

# A proof is complete when its gap is at most this.
GAP = 1e-6

Signs = npt.NDArray[np.int8]


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


@dataclass(frozen=True)
class BoundsAt:
    """The bounds on the smallest F at some time, in seconds from the start, and number of nodes."""

    seconds: float
    nodes: int
    lower: float
    upper: float


@dataclass(frozen=True, eq=False)
class MultiplierRows:
    """Several multipliers as a sparse matrix with rows (kappa, s).

    Attributes:
        pointer: the beginning of each row in ``index`` and ``value``, (R + 1,).
        index, value: columns and values of the entries.
        outputs, total: lengths of kappa and s.
    """

    pointer: Integers
    index: Integers
    value: Array
    outputs: int
    total: int

    @classmethod
    def of(cls, multipliers: Multipliers) -> MultiplierRows:
        """The matrix with one row."""
        row = np.concatenate([multipliers.kappa, multipliers.slopes])
        index = np.flatnonzero(row)
        return cls(np.array([0, len(index)]), index, row[index], len(multipliers.kappa), len(multipliers.slopes))

    @classmethod
    def joined(cls, parts: Iterable[MultiplierRows], chain: CertifiedChain) -> MultiplierRows:
        """The matrix of several single rows, in order."""
        rows = list(parts)
        index = np.concatenate([np.zeros(0, dtype=np.int64), *(row.index for row in rows)])
        value = np.concatenate([np.zeros(0), *(row.value for row in rows)])
        pointer = np.cumsum([0, *(len(row.index) for row in rows)])
        return cls(pointer, index, value, len(chain.y), int(chain.ends[-1]))

    def __len__(self) -> int:
        return len(self.pointer) - 1

    def __iter__(self) -> Iterator[Multipliers]:
        for part in map(slice, self.pointer[:-1], self.pointer[1:]):
            row = np.zeros(self.outputs + self.total)
            row[self.index[part]] = self.value[part]
            yield Multipliers(row[: self.outputs], row[self.outputs :])

    @property
    def well_formed(self) -> bool:
        """Whether ``pointer`` and ``index`` describe a sparse matrix."""
        steps, width = np.diff(self.pointer), self.outputs + self.total
        return bool(
            len(self.pointer)
            and self.pointer[0] == 0
            and (steps >= 0).all()
            and self.pointer[-1] == len(self.index) == len(self.value)
            and ((self.index >= 0) & (self.index < width)).all()
        )


@dataclass(frozen=True, eq=False)
class Proof:
    """A proof of a lower bound or of a box.

    Attributes:
        level: the bounds of the leaves hold for codes with F below it.
        reach: the lemmas hold for codes with F below it; at least ``level``.
        sum_rows, balance: the lemmas, see :class:`~unrelu.certification.bound_propagation.Lemmas`.
        parent, neuron, sign: parent and decision of every node of the tree; -1, -1, 0 for the root, which is first.
        leaf, leaf_rows: numbers of the closed leaves, and multipliers of their bounds.
        open_leaf: numbers of the open leaves, in the proof of a box.
        open_rows: 2 k rows for each open leaf: multipliers of bounds on z_1 ... z_k and on -z_1 ... -z_k.
    """

    level: float
    reach: float
    sum_rows: MultiplierRows
    balance: Array
    parent: Integers
    neuron: Integers
    sign: Integers
    leaf: Integers
    leaf_rows: MultiplierRows
    open_leaf: Integers
    open_rows: MultiplierRows

    def lower(self, chain: CertifiedChain) -> float:
        """The proved lower bound on F(z) for every z within the bounds and with |z_i| <= radius.

        It is recomputed from the multipliers.
        """
        return 0.0 if len(self.open_leaf) else max(0.0, min([self.level, *self._leaf_bounds(chain)]))

    def _leaf_bounds(self, chain: CertifiedChain) -> Iterator[float]:
        """Yield the bound on F in each closed leaf."""
        for region, multipliers in zip(self._parts(chain, self.leaf), self.leaf_rows, strict=True):
            yield lower_bound(chain, region, multipliers).within(region.radius)

    def _parts(self, chain: CertifiedChain, leaves: Integers) -> Iterator[Region]:
        """Yield the regions of some leaves, from the lemmas and the decisions of each leaf and its ancestors."""
        full = self.regions(chain).full
        signs = np.zeros((len(self.parent), int(chain.ends[-1])), dtype=np.int8)
        for number in range(1, len(self.parent)):
            signs[number] = signs[self.parent[number]]
            signs[number, self.neuron[number]] = self.sign[number]
        return (full.signed(signs[leaf]) for leaf in leaves)

    def box(self, chain: CertifiedChain) -> Array:
        """Intervals of z_1 ... z_k that are proved to contain every z with F(z) < level, (k, 2).

        (inf, -inf) if there is no such z.
        """
        k = chain.latent_dim
        box = np.tile([math.inf, -math.inf], (k, 1))
        if not all(bound >= self.level for bound in self._leaf_bounds(chain)):
            return -box
        rows, least, towards = iter(self.open_rows), np.full(2 * k, -math.inf), np.vstack([np.eye(k), -np.eye(k)])
        if chain.bounds is not None:
            least = np.concatenate([chain.bounds.lower, -chain.bounds.upper])
        for region in self._parts(chain, self.open_leaf):
            bounds = (lower_bound(chain, region, next(rows), self.level, towards=side) for side in towards)
            ends = np.maximum([bound.within(region.radius) for bound in bounds], np.maximum(least, -region.radius))
            box[:, 0] = np.minimum(box[:, 0], ends[:k])
            box[:, 1] = np.maximum(box[:, 1], -ends[k:])
        return box

    def regions(self, chain: CertifiedChain) -> Regions:
        """The regions that the lemmas prove at the proof's level."""
        return region_of(chain, self.reach, self.lemmas()).at(chain, self.level)

    def radius(self, chain: CertifiedChain) -> float:
        """The largest |z_i| of the codes for which the proof holds; infinite if it holds for all codes."""
        regions = region_of(chain, self.reach, self.lemmas())
        return math.inf if regions.proven else regions.full.radius

    def lemmas(self) -> Lemmas:
        """The lemmas."""
        return Lemmas(tuple(self.sum_rows), self.balance)

    def flaw(self, chain: CertifiedChain) -> str | None:
        """Why these numbers are not a proof about this observation, in a sentence; None if they are."""
        neurons, outputs, nodes = int(chain.ends[-1]), len(chain.y), len(self.parent)
        for rows in (self.sum_rows, self.leaf_rows, self.open_rows):
            if (rows.outputs, rows.total) != (outputs, neurons):
                return f"it is about {rows.outputs} outputs and {rows.total} neurons, not {outputs} and {neurons}"
            if not rows.well_formed:
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
        if len(self.sum_rows) >= chain.depth or len(self.balance) not in (0, len(chain.biases[0])):
            return "a lemma is about a layer that does not exist"
        return None


def _is_tree(parent: Integers, neuron: Integers, sign: Integers, neurons: int) -> bool:
    """Whether the root is first, parents precede children, and a parent has two children: both signs of one neuron."""
    nodes = np.stack([parent, neuron, sign], axis=1)
    rest = nodes[1:]
    if nodes[0].tolist() != [-1, -1, 0] or len(rest) % 2:
        return False
    earlier = (parent[1:] >= 0) & (parent[1:] < np.arange(1, len(nodes)))
    if not (earlier & (neuron[1:] >= 0) & (neuron[1:] < neurons)).all():
        return False
    inactive, active = np.swapaxes(rest[np.lexsort(rest.T[::-1])].reshape(-1, 2, 3), 0, 1)
    paired = (active[:, 2] == 1).all() and (active * [1, 1, -1] == inactive).all()
    return bool(paired and len(np.unique(active[:, 0])) == len(active))


NO_ROWS = MultiplierRows(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0), 0, 0)


@dataclass(eq=False)
class Node:
    """A node of the tree: the codes that satisfy its decision and those of its ancestors.

    Attributes:
        parent: number of its parent, -1 for the root.
        neuron, sign: its decision; -1, 0 for the root.
        bound: the lower bound on F in it; while it is open, that of the solver.
        row: the multipliers from which the bound follows, in one row; no row once it has been split.
    """

    parent: int
    neuron: int
    sign: int
    bound: float = 0.0
    row: MultiplierRows = NO_ROWS


class Tree:
    """A growing proof: the nodes in the order of their creation; the root has number 0."""

    def __init__(self, chain: CertifiedChain) -> None:
        self.chain = chain
        self.nodes = [Node(-1, -1, 0)]

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, parent: int, neuron: int, sign: int) -> int:
        """Add a node and return its number."""
        self.nodes.append(Node(parent, neuron, sign))
        return len(self.nodes) - 1

    def signs(self, number: int) -> Signs:
        """The sign of every neuron that a node and its ancestors decide; 0 for the others."""
        signs = np.zeros(self.chain.ends[-1], dtype=np.int8)
        while number > 0:
            node = self.nodes[number]
            signs[node.neuron], number = node.sign, node.parent
        return signs

    def safe(self, number: int, regions: Regions, multipliers: Multipliers, of_error: bool = True) -> Multipliers:
        """The multipliers moved by rounding errors, so that they prove a finite bound in a node."""
        return safe_multipliers(self.chain, regions.sharp.signed(self.signs(number)), multipliers, of_error)

    def prove_bound(self, number: int, regions: Regions, multipliers: Multipliers) -> float:
        """Make multipliers safe for a node, keep them and the bound that they prove, and return the bound."""
        node, full = self.nodes[number], regions.full.signed(self.signs(number))
        fit = self.safe(number, regions, multipliers)
        node.row, node.bound = MultiplierRows.of(fit), lower_bound(self.chain, full, fit).within(full.radius)
        return node.bound

    def proof(
        self, level: float, reach: float, lemmas: Lemmas, kept: Iterable[int] = (), ends: Iterable[Multipliers] = ()
    ) -> Proof:
        """The proof so far. For a box, ``kept`` is the open leaf, if any and ``ends`` the multipliers of its bounds."""
        chain, kept = self.chain, list(kept)
        parent, neuron, sign = np.array([(node.parent, node.neuron, node.sign) for node in self.nodes]).T
        leaf = np.setdiff1d(np.arange(len(self.nodes)), [*parent, *kept])
        return Proof(
            level, reach, MultiplierRows.joined(map(MultiplierRows.of, lemmas.sums), chain), lemmas.balance,
            parent, neuron, sign, leaf, MultiplierRows.joined((self.nodes[number].row for number in leaf), chain),
            np.array(kept, dtype=np.int64), MultiplierRows.joined(map(MultiplierRows.of, ends), chain),
        )  # fmt: skip

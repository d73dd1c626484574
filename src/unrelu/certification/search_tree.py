"""The tree of a branch and bound: which decisions make a part of the code space, what was proved of it, and which
neuron to decide next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from unrelu.certification.bound_propagation import Lemma, Regions
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.node_program import NodeBasis
from unrelu.certification.proof import MultiplierRows, Proof
from unrelu.certification.safe_bounds import Multipliers, Packed, lower_bound, settled
from unrelu.certification.triangle_relaxation import Relaxation

Array = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

# A violation below this share of the largest unknown is rounding.
_AGREES = 1e-9
# The multipliers of a node that has been split.
_NOTHING = Packed(np.zeros(0, dtype=np.int32), np.zeros(0))


def violations(relaxation: Relaxation, x: Array, signs: Signs) -> tuple[Array, Array]:
    """h - u and h - c u of every neuron at a point, (N,) each, 0 where it is decided or agrees with its activation.

    Of outputs whose error is not convex (sums of errors only): what the error exceeds its envelope by, for both.
    """
    chain = relaxation.chain
    above, below = np.zeros(len(signs)), np.zeros(len(signs))
    for layer, (u, shift) in enumerate(relaxation.pre[:-1]):
        number = np.arange(chain.ends[layer], chain.ends[layer + 1])
        open_ = relaxation.column[number] >= 0
        number, c = number[open_], chain.slopes[layer][open_]
        h, pre = x[relaxation.column[number]], (u @ x + shift)[open_]
        above[number], below[number] = h - pre, h - c * pre
    small = _AGREES * (1 + float(np.abs(x).max(initial=0.0)))
    if not relaxation.delta:
        u, shift = relaxation.pre[-1]
        start, y, c = chain.ends[-2], chain.y, chain.slopes[-1]
        miss = np.where(chain.bent[start:], (1 - c) * np.minimum(y, y - (u @ x + shift)), 0.0)
        above[start:] = below[start:] = miss
    agrees = (signs != 0) | (np.minimum(above, below) <= small)
    return np.where(agrees, 0.0, above), np.where(agrees, 0.0, below)


def missed(relaxation: Relaxation, x: Array, signs: Signs) -> tuple[Flags, Flags]:
    """Which neurons are not on at a point, and which are not off: sides that may turn out to be empty."""
    above, below = violations(relaxation, x, signs)
    on, off = above > 0, below > 0
    if not relaxation.delta:
        u, shift = relaxation.pre[-1]
        start, v = relaxation.chain.ends[-2], u @ x + shift
        open_ = relaxation.chain.bent[start:] & (signs[start:] == 0)
        on[start:], off[start:] = open_ & (v < 0), open_ & (v > 0)
    return on, off


def most_violated(relaxation: Relaxation, x: Array, signs: Signs, widths: Array) -> int:
    """The neuron with the largest sqrt((h - u)(h - c u)) times its width at a point; -1 if none is violated."""
    above, below = violations(relaxation, x, signs)
    score = np.sqrt(above * below) * widths
    best = int(np.argmax(score))
    return best if score[best] > 0 else -1


@dataclass(eq=False)
class Node:
    """A part of the code space: the decisions of its ancestors and its own.

    About 4 KB for 20-60-784 while it is open, 2 KB when it is closed, 200 bytes when it has children.

    Attributes:
        parent: its number, -1 for the root.
        neuron, sign: the decision that made it, counted through; -1, 0 for the root.
        bound: the lower bound of F in it, by the solver while it is open.
        level: of the relaxation that it was solved with.
        packed: the multipliers that the bound follows from.
        children: numbers of the two nodes that it was split into, or empty.
        basis, point: of its solution, while it is open.
    """

    parent: int
    neuron: int
    sign: int
    bound: float = 0.0
    level: float = 0.0
    packed: Packed = _NOTHING
    children: tuple[int, ...] = ()
    basis: NodeBasis | None = field(default=None, repr=False)
    point: Array | None = field(default=None, repr=False)


class Tree:
    """The nodes in the order in which they were made; the root has number 0."""

    def __init__(self, neurons: int) -> None:
        self.nodes: list[Node] = []
        self._neurons = neurons

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, parent: int, neuron: int, sign: int) -> int:
        """A new node; returns its number."""
        self.nodes.append(Node(parent, neuron, sign))
        return len(self.nodes) - 1

    def signs(self, number: int) -> Signs:
        """The decisions that make a node, for every neuron."""
        signs = np.zeros(self._neurons, dtype=np.int8)
        while number >= 0:
            node = self.nodes[number]
            if node.neuron >= 0:
                signs[node.neuron] = node.sign
            number = node.parent
        return signs

    def split(self, number: int, children: tuple[int, int]) -> None:
        """Give a node its children; what it was solved with is forgotten."""
        node = self.nodes[number]
        node.children, node.basis, node.point, node.packed = children, None, None, _NOTHING

    def settle(self, number: int, chain: CertifiedChain, regions: Regions, multipliers: Multipliers) -> float:
        """Make multipliers fit for a bound of a node, keep them and the bound, and return it."""
        node, signs = self.nodes[number], self.signs(number)
        fit, full = settled(chain, regions.sharp.signed(signs), multipliers), regions.full.signed(signs)
        node.packed, node.bound = fit.packed(), lower_bound(chain, full, fit).within(full.radius)
        return node.bound

    def proof(
        self,
        chain: CertifiedChain,
        level: float,
        reach: float,
        lemmas: list[Lemma],
        kept: Iterable[int] = (),
        ends: Iterable[Multipliers] = (),
    ) -> Proof:
        """What has been found; of an enclosure with the open leaf, if there is one, and multipliers of 2 k bounds."""
        size, kept = (len(chain.y), int(chain.ends[-1])), list(kept)
        closed = [number for number, node in enumerate(self.nodes) if not node.children and number not in kept]
        return Proof(
            level, reach, _whole(lemma.kind for lemma in lemmas), _whole(lemma.index for lemma in lemmas),
            MultiplierRows.of((lemma.multipliers.packed() for lemma in lemmas), *size),
            _whole(node.parent for node in self.nodes), _whole(node.neuron for node in self.nodes),
            _whole(node.sign for node in self.nodes), _whole(closed),
            MultiplierRows.of((self.nodes[number].packed for number in closed), *size), _whole(kept),
            MultiplierRows.of((row.packed() for row in ends), *size),
        )  # fmt: skip


def _whole(numbers: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.array(list(numbers), dtype=np.int64)

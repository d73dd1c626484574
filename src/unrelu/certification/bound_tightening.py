"""Optimality-based bound tightening of single neurons, and probing: splits after which one side is closed at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.layer_bounds import HIGH, LOW, Lemma, Regions, region_of
from unrelu.certification.node_program import Limits, NodeBasis, NodeProgram, Solved
from unrelu.certification.relaxation import Relaxation
from unrelu.certification.safe_bounds import Region, lower_bound, settled
from unrelu.certification.search_tree import Packed, Tree, missed

Signs = npt.NDArray[np.int8]
# Passes over the undecided neurons.
_PASSES = 4


def decided(chain: CertifiedChain, region: Region) -> Signs:
    """The signs that the intervals of a region decide."""
    signs = np.where(region.low >= 0, 1, np.where(region.high <= 0, -1, 0))
    return np.where(chain.bent, signs, 0).astype(np.int8)


def neuron_lemmas(chain: CertifiedChain, level: float, lemmas: list[Lemma], limits: Limits) -> list[Lemma]:
    """Two more lemmas for every undecided hidden neuron, for the largest error.

    From the last hidden layer to the first: bounds of a layer also bound those before it.

    Args:
        chain: the observation.
        level: of F.
        lemmas: known so far; the new ones follow from them.
        limits: when to stop.
    """
    region = region_of(chain, level, lemmas).sharp
    relaxation = Relaxation(chain, region, decided(chain, region))
    program, none = NodeProgram(relaxation, limits), np.zeros(chain.ends[-1], dtype=np.int8)
    first = program.solve(none, cutoff=level)
    if first.closed or not first.finished:
        return []
    found: list[Lemma] = []
    basis: NodeBasis = first.basis
    for neuron in relaxation.undecided[::-1]:
        extra = np.zeros(chain.ends[-1])
        for kind, sign in ((LOW, 1.0), (HIGH, -1.0)):
            if limits.over():
                return found
            extra[neuron] = sign
            solved = program.extreme(none, basis, level, extra=extra)
            if solved is None:
                basis = first.basis
                continue
            basis = solved.basis
            found.append(Lemma(kind, int(neuron), settled(chain, region, solved.multipliers, extra)))
    return found


class Probing:
    """A tree with one open leaf, growing downwards: every split closes a side.

    Args:
        chain: the observation.
        level: codes with F below it are looked for.
        regions: what is known of them.
        limits: when to stop.

    Attributes:
        tree, leaf, signs: the tree, its open leaf and the decisions that make it.
        now: the solution of the leaf's relaxation; None once that is closed too.
    """

    def __init__(self, chain: CertifiedChain, level: float, regions: Regions, limits: Limits) -> None:
        self.chain, self.level, self.limits, self.regions = chain, level, limits, regions
        self.tree = Tree(int(chain.ends[-1]))
        self.leaf = self.tree.add(-1, -1, 0)
        self.signs = np.zeros(chain.ends[-1], dtype=np.int8)
        self._build()
        self.now: Solved | None = self._judged(self.leaf, self.program.solve(self.signs, cutoff=level))

    def _build(self) -> None:
        signs = np.where(self.signs != 0, self.signs, decided(self.chain, self.regions.sharp)).astype(np.int8)
        relaxation = Relaxation(self.chain, self.regions.sharp.signed(self.signs), signs)
        self.program = NodeProgram(relaxation, self.limits)

    def _judged(self, number: int, solved: Solved) -> Solved | None:
        """Keep what was proved of a node; None if it holds no code below the level."""
        signs = self.tree.signs(number)
        sharp, full = self.regions.sharp.signed(signs), self.regions.full.signed(signs)
        node = self.tree.nodes[number]
        multipliers = settled(self.chain, sharp, solved.multipliers)
        node.packed = Packed.of(multipliers)
        node.bound = lower_bound(self.chain, full, multipliers).within(full.radius)
        return None if node.bound >= self.level else solved

    def run(self) -> None:
        """Decide neurons until none can be decided any more, or the time is up."""
        for _ in range(_PASSES):
            before = len(self.tree)
            for neuron in np.flatnonzero(self.chain.bent & (self.signs == 0)):
                if self.now is None or self.limits.reached(len(self.tree)):
                    return
                self._decide(int(neuron))
            if len(self.tree) == before:
                return
            self._rebuild()

    def _rebuild(self) -> None:
        if self.now is not None:
            self._build()
            self.now = self._judged(self.leaf, self.program.solve(self.signs, cutoff=self.level))

    def _decide(self, neuron: int) -> None:
        """Split at a neuron if one side can be closed: at most one that the present point is not on."""
        if self.now is None:
            return
        on, off = missed(self.program, self.now.x, self.signs)
        # A point on one side of the neuron is below the level, so that this side stays open.
        for sign in [s for s, miss in ((1, on[neuron]), (-1, off[neuron])) if miss]:
            signs = self.signs.copy()
            signs[neuron] = sign
            solved = self.program.solve(signs, self.now.basis, self.level)
            if not solved.closed:
                continue
            shut, left = self.tree.add(self.leaf, neuron, sign), self.tree.add(self.leaf, neuron, -sign)
            if self._judged(shut, solved) is not None:
                # Closed by the solver's numbers but not by safe ones.
                del self.tree.nodes[-2:]
                continue
            self.tree.split(self.leaf, (shut, left))
            self.signs[neuron], self.leaf = -sign, left
            self.now = self._judged(left, self.program.solve(self.signs, self.now.basis, self.level))
            return

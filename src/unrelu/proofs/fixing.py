"""Deciding what can be decided: a split of the tree after which one side is closed at once."""

from __future__ import annotations

import numpy as np

from unrelu.proofs.branching import missed
from unrelu.proofs.chain import Chain
from unrelu.proofs.lemmas import Regions
from unrelu.proofs.limits import Limits
from unrelu.proofs.program import Program, Solved
from unrelu.proofs.relaxation import Relaxation
from unrelu.proofs.safe_bounds import lower_bound, settled
from unrelu.proofs.tighten import decided
from unrelu.proofs.tree import Packed, Tree

__all__ = ["Fixing"]

# Passes over the undecided neurons.
_PASSES = 4


class Fixing:
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

    def __init__(self, chain: Chain, level: float, regions: Regions, limits: Limits) -> None:
        self.chain, self.level, self.limits, self.regions = chain, level, limits, regions
        self.tree = Tree(int(chain.ends[-1]))
        self.leaf = self.tree.add(-1, -1, 0)
        self.signs = np.zeros(chain.ends[-1], dtype=np.int8)
        self._build()
        self.now: Solved | None = self._judged(self.leaf, self.program.solve(self.signs, cutoff=level))

    def _build(self) -> None:
        signs = np.where(self.signs != 0, self.signs, decided(self.chain, self.regions.sharp)).astype(np.int8)
        relaxation = Relaxation(self.chain, self.regions.sharp.signed(self.signs), signs)
        self.program = Program(relaxation, self.limits)

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

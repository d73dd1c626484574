r"""Where every code that explains the observation must lie: an interval for each latent coordinate.

For \|e\|_inf <= eps the codes with F(z) <= eps are looked for. Neurons that cannot have one of their signs are decided
first, each by a branch whose other side is closed; then 2 k programs give the ends of the intervals on what is left
open.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from unrelu.proofs.branch_and_bound import Limits
from unrelu.proofs.branching import violations
from unrelu.proofs.chain import Chain
from unrelu.proofs.lemmas import Lemma, region_of
from unrelu.proofs.program import Program, Solved
from unrelu.proofs.proof import Proof
from unrelu.proofs.reach import first_lemmas
from unrelu.proofs.relaxation import Relaxation
from unrelu.proofs.safe_bounds import Multipliers, lower_bound, settled
from unrelu.proofs.tighten import decided
from unrelu.proofs.tree import Packed, Tree

__all__ = ["enclosure"]

Array = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]

# The level is above eps by these shares of eps and of the data, so that errors of exactly eps are below it.
_MORE, _OF_DATA = 1e-9, 1e-12
# The level where both are zero.
_LEAST = 1e-280
# Passes over the undecided neurons.
_PASSES = 4


def enclosure(chain: Chain, eps: float, limits: Limits) -> Proof:
    """A proof of the box of all codes with F(z) <= eps.

    Computing the intervals of all neurons first would make it smaller by a few percent, and take three times as long.

    Args:
        chain: the observation, with the norm "linf".
        eps: the largest error.
        limits: when to stop; coordinates not reached are bounded by the radius alone.
    """
    level = max(_LEAST, eps * (1 + _MORE) + _OF_DATA * float(np.abs(chain.y).max(initial=0.0)))
    lemmas = first_lemmas(chain, level, limits.end)
    search = _Fixing(chain, level, lemmas, limits)
    search.run()
    kept, bounds = search.ends()
    return Proof.of(chain, level, level, lemmas, search.tree, kept, bounds)


class _Fixing:
    """A tree with one open leaf: every split closes a side."""

    def __init__(self, chain: Chain, level: float, lemmas: list[Lemma], limits: Limits) -> None:
        self.chain, self.level, self.limits = chain, level, limits
        self.regions = region_of(chain, level, lemmas)
        self.tree = Tree(int(chain.ends[-1]))
        self.leaf = self.tree.add(-1, -1, 0)
        self.signs = np.zeros(chain.ends[-1], dtype=np.int8)
        self._build()
        self.now: Solved | None = self._judged(self.leaf, self.program.solve(self.signs, cutoff=level))

    def _build(self) -> None:
        signs = np.where(self.signs != 0, self.signs, decided(self.chain, self.regions.sharp)).astype(np.int8)
        relaxation = Relaxation(self.chain, self.regions.sharp.signed(self.signs), signs)
        self.program = Program(relaxation, self.limits.end)

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
        if self.now is None or self.program.relaxation.column[neuron] < 0:
            return
        above, below = violations(self.program, self.now.x, self.signs)
        # A point on one side of the neuron is below the level, so that this side stays open.
        for sign in [s for s, violation in ((1, above[neuron]), (-1, below[neuron])) if violation > 0]:
            signs = self.signs.copy()
            signs[neuron] = sign
            if not self.program.solve(signs, self.now.basis, self.level).closed:
                continue
            shut, left = self.tree.add(self.leaf, neuron, sign), self.tree.add(self.leaf, neuron, -sign)
            if self._judged(shut, self.program.solve(signs, self.now.basis, self.level)) is not None:
                # Closed by the solver's numbers but not by safe ones.
                del self.tree.nodes[-2:]
                continue
            self.tree.split(self.leaf, (shut, left))
            self.signs[neuron], self.leaf = -sign, left
            self.now = self._judged(left, self.program.solve(self.signs, self.now.basis, self.level))
            return

    def ends(self) -> tuple[list[int], list[Multipliers]]:
        """The open leaf and the multipliers of its 2 k bounds; nothing if there is none."""
        if self.now is None:
            return [], []
        k, chain = self.chain.latent_dim, self.chain
        nothing = Multipliers(np.zeros(len(chain.y)), np.zeros(chain.ends[-1]))
        found, basis = [nothing] * (2 * k), self.now.basis
        for i in range(k):
            for row, sign in ((i, 1.0), (k + i, -1.0)):
                if time.perf_counter() > self.limits.end:
                    return [self.leaf], found
                towards = np.zeros(k)
                towards[i] = sign
                solved = self.program.extreme(self.signs, basis, self.level, towards=towards)
                if solved is None:
                    basis = self.now.basis
                    continue
                basis = solved.basis
                sharp = self.regions.sharp.signed(self.signs)
                found[row] = settled(chain, sharp, solved.multipliers, np.zeros(chain.ends[-1]))
        return [self.leaf], found

r"""The smallest error over all codes: branch and bound on the signs of pre-activations.

The search uses a level t, a little below the error of the incumbent. For a code with F below t, every output error is
below t. This makes the errors of outputs with y >= t convex. A node of the tree has decided the signs of some neurons.
Its relaxation bounds F over its codes, and the node is closed when the bound reaches t. The node with the lowest bound
is processed first. Only bounds recomputed by :mod:`~unrelu.certification.safe_bounds` count.

Source: branch and bound that splits ReLUs as in R. Bunel, I. Turkaslan, P. Torr, P. Kohli and P. Mudigonda, "A unified
view of piecewise linear neural network verification", NeurIPS 2018, algorithm 1. Probing as in M. W. P. Savelsbergh,
"Preprocessing and probing techniques for mixed integer programming problems", ORSA Journal on Computing 6 (1994).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.certification._triangle_relaxation import Relaxation
from unrelu.certification.bound_propagation import Lemmas, region_of
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.node_program import Limits, NodeProgram, Solved
from unrelu.certification.proof import GAP, NO_ROWS, BoundsAt, MultiplierRows, Tree
from unrelu.certification.safe_bounds import Multipliers
from unrelu.lp.highs import Basis
from unrelu.runtime.array_types import Array
from unrelu.runtime.work_clock import now
from unrelu.thresholds import EXACT_FIT_TOLERANCE

Signs = npt.NDArray[np.int8]

# Seconds per open node at the end of the search: its bound is computed, and recomputed from the proof.
_CHECK = 7e-4
# The primal heuristic runs at every 16th node, and whenever a better code is found.
_HEURISTIC_EVERY = 16
# Its most programs, and the share of F that is not worth another one.
_ROUNDS, _ENOUGH = 40, 1e-7
# A pre-activation below this share of its layer's largest is at the kink.
_AT_KINK = 1e-7
# Passes of probing over the undecided neurons.
_PASSES = 4
# Multipliers of an empty node are enlarged by powers of this, up to its 6th, until they prove the level.
_ENLARGED = 100.0


@dataclass(frozen=True, eq=False)
class OpenNode:
    """The solution of an open node's relaxation: its basis, its point and its level."""

    basis: Basis
    point: Array
    level: float


class BranchAndBound:
    """One branch and bound. For 20-60-784 an open node takes about 8 KB, a closed one 2 KB and a split one 200 bytes.

    Args:
        chain, limits: the observation, and the limits of the search.
        lemmas, reach: bounds of hidden layers, and the level up to which they hold.
        z: the best known code, (k,); None to search for codes with F below ``reach``, which stays the level.

    Attributes:
        z, upper, exact: the best known code, its F, and whether it fits exactly.
        tree: the nodes.
        visited: number of solved relaxations.
        history: the bounds over time.
        stopped: the limit that ended the search, or None.
    """

    def __init__(
        self, chain: CertifiedChain, lemmas: Lemmas, reach: float, limits: Limits, z: Array | None = None
    ) -> None:
        self.chain, self.reach, self.limits, self._improves = chain, reach, limits, z is not None
        self.z = np.zeros(chain.latent_dim) if z is None else z
        self.upper = math.inf if z is None else chain.objective(z)
        self.exact = z is not None and chain.exact(z)
        self.tree, self.visited = Tree(chain), 0
        self.history: list[BoundsAt] = []
        self.stopped: str | None = None
        self._start = now()
        # The effect of a neuron on the next layer: the norm of its column of the weights.
        ones = np.ones(len(chain.y))
        self._widths = np.concatenate([*(np.linalg.norm(w, axis=0) for w in chain.weights[1:]), ones])
        self._heap: list[tuple[float, int]] = []
        self._open: dict[int, OpenNode] = {}
        self._regions = region_of(chain, reach, lemmas)
        self._build()

    @property
    def level(self) -> float:
        """A level just below the best known error; a node without codes below it is closed."""
        return max(0.0, min(self.reach, self.upper - GAP / 2 * max(self.upper, EXACT_FIT_TOLERANCE * self.chain.scale)))

    def _build(self) -> None:
        self._level = self.level
        self._below = self._regions.at(self.chain, self.level)
        self._program = NodeProgram(Relaxation(self.chain, self._below.sharp), self.limits)

    def run(self) -> None:
        """Search until every node is closed or a limit is reached."""
        self.stopped = self.limits.reached(self.visited)
        if self.level <= 0 or self.stopped:
            return
        if not self.visited:
            self.begin()
        if self.chain.norm == "l1":
            # Most outputs can only have one of the two signs, and without it the bound may stay at 0.
            self.probe()
        while self._heap:
            bound, number = self._heap[0]
            self._note(bound)
            if bound >= self.level or self.exact:
                break
            self.stopped = self.limits.reached(self.visited, _CHECK * len(self._heap))
            if self.stopped:
                break
            heapq.heappop(self._heap)
            self._split(number)
        for _, number in self._heap:
            self._prove_bound(number)
        self._note(self._heap[0][0] if self._heap else self.level)

    def begin(self) -> bool:
        """Solve the root, and improve the known code if the root stays open; whether that gained."""
        before = self.upper
        self._record(0)
        if self._heap and self._improves:
            self._improve(self.z)
        return self.upper < before * (1 - _ENOUGH)

    def probe(self) -> int | None:
        """Go on with splits of which one side is closed at once; the leaf that stays open, None if none does."""
        for _ in range(_PASSES):
            before = len(self.tree)
            for neuron in np.flatnonzero(self.chain.bent):
                if not self._heap or self.limits.reached(self.visited):
                    break
                self._decide(int(neuron))
            if len(self.tree) == before or not self._heap or self.limits.over():
                break
        return self._heap[0][1] if self._heap else None

    def _decide(self, neuron: int) -> None:
        """Split the only open node at a neuron if its side without the node's point can be closed."""
        number = self._heap[0][1]
        opened, signs = self._open.get(number), self.tree.signs(number)
        relaxation = self._program.relaxation
        if opened is None or signs[neuron] or relaxation.decided[neuron]:
            return
        sign = -1 if relaxation.pre_activations(opened.point)[neuron] > 0 else 1
        signs[neuron] = sign
        solved = self._program.solve(signs, opened.basis if opened.level == self._level else None, self.level)
        self.visited += 1
        if solved.value < self.level:
            return
        shut = self.tree.add(number, neuron, sign)
        if self._prove_bound(shut, solved) < self.level:
            # Closed by the solver's bound but not by the safe one.
            del self.tree.nodes[shut:]
            return
        self._heap.clear()
        self._record(self.tree.add(number, neuron, -sign))
        self._forget(number)

    def ends(self, number: int) -> list[Multipliers]:
        """The multipliers of bounds on z_1 ... z_k and -z_1 ... -z_k in an open leaf."""
        k, unit = self.chain.latent_dim, self.chain.frame[1]
        costs = np.vstack([np.eye(k, self._program.relaxation.size), -np.eye(k, self._program.relaxation.size)])
        found = self._program.extremes(self.tree.signs(number), self.level, costs)
        found += [None] * (2 * k - len(found))
        return [
            Multipliers(np.zeros(len(self.chain.y)), np.zeros(self.chain.ends[-1]))
            if multipliers is None
            else self.tree.safe(number, self._below, multipliers, of_error=False).times(float(unit[i % k]))
            for i, multipliers in enumerate(found)
        ]

    def _note(self, bound: float) -> None:
        """Add the bounds to the history if they have changed."""
        last = self.history[-1] if self.history else BoundsAt(0.0, 0, 0.0, math.inf)
        lower = max(min(bound, self.level), last.lower)
        if lower > last.lower * (1 + 1e-6) or self.upper < last.upper or bound >= self.level:
            self.history.append(BoundsAt(now() - self._start, self.visited, lower, self.upper))

    def _split(self, number: int) -> None:
        """Split a node, or solve it again if its relaxation is exact."""
        opened, signs = self._open.get(number), self.tree.signs(number)
        if opened is None:
            return
        # Choose the neuron with the largest violation times its effect on the next layer.
        above, below = self._program.relaxation.violations(opened.point, signs)
        score = np.sqrt(above * below) * self._widths
        neuron = int(np.argmax(score))
        if not score[neuron] > 0:
            self._revisit(number, signs, opened)
            return
        for sign in (1, -1):
            self._record(self.tree.add(number, neuron, sign))
        self._forget(number)

    def _forget(self, number: int) -> None:
        """Drop the solution of a node that was split."""
        del self._open[number]
        self.tree.nodes[number].row = NO_ROWS

    def _revisit(self, number: int, signs: Signs, opened: OpenNode) -> None:
        """Handle a node without violated neurons: up to rounding, its point is a code with F below the level."""
        self._offer(self._program.relaxation.code(opened.point), self.tree.nodes[number].bound, inside=True)
        if self._level != self.level:
            self._build()
        solved = self._program.solve(signs, None, self.level)
        # If errors are not convex, the bound may stay the same although the level sets have become smaller.
        gained = solved.value > self.tree.nodes[number].bound + 1e-12 * self.level
        if gained or self.level < opened.level * (1 - GAP / 4):
            self._record(number)

    def _record(self, number: int) -> None:
        """Solve a node and keep its bound and solution."""
        node, opened = self.tree.nodes[number], self._open.get(self.tree.nodes[number].parent)
        # The basis of an earlier level is not used, because rows may have changed.
        start = opened.basis if opened is not None and opened.level == self._level else None
        solved = self._program.solve(self.tree.signs(number), start, self.level)
        self.visited += 1
        node.row, node.bound = MultiplierRows.of(solved.multipliers), max(0.0, solved.value)
        if opened is not None and solved.value < self.tree.nodes[node.parent].bound:
            # A bound for the parent holds for its children.
            node.row, node.bound = self.tree.nodes[node.parent].row, self.tree.nodes[node.parent].bound
        if solved.value >= self.level:
            if self._prove_bound(number, solved) >= self.level:
                self._open.pop(number, None)
                return
        elif solved.value > -math.inf:
            self._open[number] = OpenNode(solved.basis, solved.x, self._level)
            inside = number % _HEURISTIC_EVERY == 0
            self._offer(self._program.relaxation.code(solved.x), node.bound, inside)
        heapq.heappush(self._heap, (node.bound, number))

    def _prove_bound(self, number: int, solved: Solved | None = None) -> float:
        """Prove the bound of a node from its row, or from the multipliers of a solution."""
        node = self.tree.nodes[number]
        multipliers = next(iter(node.row)) if solved is None else solved.multipliers
        bound = self.tree.prove_bound(number, self._below, multipliers)
        for _ in range(6 if solved is not None and solved.empty else 0):
            if bound >= self.level:
                break
            multipliers = Multipliers(multipliers.kappa, _ENLARGED * multipliers.slopes)
            bound = self.tree.prove_bound(number, self._below, multipliers)
        return bound

    def _offer(self, z: Array, bound: float, inside: bool) -> None:
        """Keep a code if it is better than the best one; improve it first, if it is better or ``inside`` is True.

        No code of its node is better if ``bound`` reaches the level.
        """
        if self._improves and (self._keep(z) or inside) and bound < self.level:
            self._improve(z)

    def _keep(self, z: Array) -> bool:
        """Keep a code if it is better than the best one, and return whether it is by more than rounding."""
        value, before = self.chain.objective(z), self.upper
        if value < before:
            self.z, self.upper, self.exact = z.copy(), value, self.chain.exact(z)
            if self.level < self._level * (1 - 1e-4):
                self._build()
        return value < before * (1 - _ENOUGH)

    def _improve(self, z: Array) -> None:
        """The primal heuristic: keep the best code of the linear region of z, then of adjacent ones while that gains.

        With all signs decided, the node's program is that of a linear region. Neurons that are at their kink at its
        best code are then given the other sign.
        """
        signs, flipped = self._signs(z), False
        for _ in range(_ROUNDS):
            solved = self._program.solve(signs, None, self.level)
            gained = -math.inf < solved.value < self.level and self._keep(self._program.relaxation.code(solved.x))
            if self.limits.over() or (flipped and not gained):
                return
            z = self.z if gained else z
            if gained and self.upper > solved.value * (1 + _ENOUGH):
                continue
            at = [np.abs(u) <= _AT_KINK * np.abs(u).max(initial=0.0) for u in self.chain.pre_activations(z)]
            signs, flipped = np.where(np.concatenate(at), -1, 1).astype(np.int8) * self._signs(z), True

    def _signs(self, z: Array) -> Signs:
        """The signs of all neurons with a kink that matters at a code, (N,)."""
        active = np.concatenate(self.chain.pre_activations(z)) > 0
        return np.where(self.chain.bent, np.where(active, 1, -1), 0).astype(np.int8)

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
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unrelu.certification._triangle_relaxation import Relaxation
from unrelu.certification.bound_propagation import region_of
from unrelu.certification.bound_tightening import backward_bounds
from unrelu.certification.certified_chain import CertifiedChain, Signs
from unrelu.certification.node_program import Limits, NodeProgram, Solved
from unrelu.certification.proof import GAP, BoundsAt, Proof, ProofStatus, Row, packed
from unrelu.certification.safe_bounds import Multipliers, lower_bound, safe_multipliers
from unrelu.runtime.array_types import Array
from unrelu.runtime.run_control import now
from unrelu.thresholds import EXACT_FIT_TOLERANCE

# Lemmas are sought for codes with F below this multiple of the level. It includes the best known code, so that the
# programs of the lemmas are feasible.
_REACH = 1.001
# The relaxation is built again when the level has fallen by this share.
_FALLEN = 1e-4
# The primal heuristic runs at every 16th node, and whenever a better code is found.
_HEURISTIC_EVERY = 16
# The most programs of one run of the heuristic, and the share of F that a program must gain for another one to follow.
_ROUNDS, _ENOUGH = 40, 1e-7
# A pre-activation below this share of its layer's largest is at the kink.
_AT_KINK = 1e-7
# Passes of probing over the undecided neurons.
_PASSES = 4
# The multipliers of an empty node are multiplied by this up to six times, until they prove the level.
_ENLARGED = 100.0


class Node(NamedTuple):
    """An open leaf of the tree: the codes with the signs that were decided on the way to it.

    Attributes:
        bound: the proved lower bound on F.
        number: see :class:`~unrelu.certification.proof.Proof`.
        signs: the decided signs, (N,); 0 for the other neurons.
        solved: the solution of its relaxation.
        level: the level of the relaxation.
    """

    bound: float
    number: int
    signs: Signs
    solved: Solved
    level: float


class BranchAndBound:
    """A search for the smallest error over all codes, by branch and bound.

    For a 20-60-784 network, an open node takes about 4 KB, a closed one 2 KB and a split one 200 bytes.

    Args:
        chain, limits: the observation, and the limits of the search.
        z: the best known code, (k,); None to search for codes with F below a fixed level.
        level: the fixed level.

    Attributes:
        z, upper, exact: the best known code, its F, and whether it fits exactly.
        visited: number of solved relaxations.
        history: the bounds over time.
        stopped: the limit that ended the search, or None.
    """

    def __init__(self, chain: CertifiedChain, limits: Limits, z: Array | None = None, level: float = 0.0) -> None:
        self.chain, self.limits, self._improves = chain, limits, z is not None
        self.z, self.upper, self.exact, self.level = np.zeros(chain.latent_dim), math.inf, False, level
        # The level of the current relaxation.
        self._level = math.inf
        self.visited = 0
        self.history: list[BoundsAt] = []
        self.stopped: ProofStatus | None = None
        self._start = now()
        # The effect of a neuron on the next layer: the norm of its column of the weights.
        ones = np.ones(len(chain.y))
        self._widths = np.concatenate([*(np.linalg.norm(w, axis=0) for w in chain.weights[1:]), ones])
        self._splits: list[tuple[int, int]] = []
        # The rows of all leaves by number, and the open leaves.
        self._rows: dict[int, Row] = {}
        self._heap: list[Node] = []
        if z is not None:
            self._keep(z)

    def run(self) -> None:
        """Search until every node is closed or a limit is reached."""
        self.stopped = self.limits.reached(0)
        if self.exact or self.stopped:
            return
        self.begin()
        if self.chain.norm == "l1":
            # Most outputs can only have one of the two signs, and without it the bound may stay at 0.
            self.probe()
        while self._heap and self._heap[0].bound < self.level and not self.exact:
            self._note()
            self.stopped = self.limits.reached(self.visited)
            if self.stopped:
                break
            self._split(heapq.heappop(self._heap))
        self._note()

    def begin(self) -> None:
        """Solve the root, and improve the known code if the root stays open."""
        self._lemmas = backward_bounds(self.chain, _REACH * self.level, self.limits.end)
        self._build()
        self._record(0, np.zeros(self.chain.ends[-1], dtype=np.int8))
        if self._heap and self._improves:
            self._improve(self.z)

    def _build(self) -> None:
        """Build the regions and the relaxation at the present level."""
        self._level, self._regions = self.level, region_of(self.chain, self.level, self._lemmas)
        self._program = NodeProgram(Relaxation(self.chain, self._regions.sharp), self.limits)

    def probe(self) -> None:
        """Split the open leaf at every neuron with a sign that can be closed at once."""
        for _ in range(_PASSES):
            before = len(self._splits)
            for neuron in np.flatnonzero(self.chain.bent):
                if not self._heap or self.limits.reached(self.visited):
                    return
                self._decide(self._heap[0], int(neuron))
            if len(self._splits) == before:
                break

    def _decide(self, node: Node, neuron: int) -> None:
        """Split the only open leaf at a neuron if the child that excludes the leaf's solution can be closed."""
        relaxation = self._program.relaxation
        if node.signs[neuron] or relaxation.decided[neuron] or not node.solved.known:
            return
        active = relaxation.pre_activations(node.solved.x)[neuron] > 0
        signs = _with_sign(node.signs, neuron, -1 if active else 1)
        bound, row, _ = self._bounded(signs, node)
        if bound < self.level:
            return
        self._heap.clear()
        children = self._divide(node, neuron)
        self._rows[children[int(active)]] = row
        self._record(children[int(not active)], _with_sign(node.signs, neuron, 1 if active else -1), node)
        del self._rows[node.number]

    def _divide(self, node: Node, neuron: int) -> tuple[int, int]:
        """Add a split, and return the numbers of its active and its inactive child."""
        self._splits.append((node.number, neuron))
        return 2 * len(self._splits) - 1, 2 * len(self._splits)

    def _split(self, node: Node) -> None:
        """Split a node, or solve it again if its relaxation is exact."""
        if not node.solved.known:
            return
        # Choose the neuron with the largest violation times its effect on the next layer.
        score = self._program.relaxation.violations(node.solved.x, node.signs) * self._widths
        neuron = int(np.argmax(score))
        if score[neuron] > 0:
            for sign, number in zip((1, -1), self._divide(node, neuron), strict=True):
                self._record(number, _with_sign(node.signs, neuron, sign), node)
            del self._rows[node.number]
            return
        # The relaxation is exact: up to rounding, its solution is a code with F below the level.
        self._offer(self._program.relaxation.code(node.solved.x), inside=True)
        if self.level < node.level * (1 - GAP / 4):
            if self.level < self._level:
                self._build()
            self._record(node.number, node.signs, node)

    def _record(self, number: int, signs: Signs, above: Node | None = None) -> None:
        """Solve a node and prove its bound. It stays open if the bound is below the level."""
        bound, row, solved = self._bounded(signs, above)
        if above is not None and bound < above.bound:
            # A bound for a node holds for its children.
            bound, row = above.bound, self._rows[above.number]
        self._rows[number] = row
        if bound < self.level:
            heapq.heappush(self._heap, Node(bound, number, signs, solved, self._level))
            if solved.known:
                self._offer(self._program.relaxation.code(solved.x), inside=number % _HEURISTIC_EVERY == 0)

    def _bounded(self, signs: Signs, above: Node | None) -> tuple[float, Row, Solved]:
        """Solve the relaxation for some signs; return the proved bound, its row and the solution."""
        # The basis of an earlier relaxation is not used, because rows may have changed.
        start = above.solved.basis if above is not None and above.level == self._level else None
        solved, multipliers = self._program.solve(signs, start, self.level)
        self.visited += 1
        sharp, full = self._regions.sharp.signed(signs), self._regions.full.signed(signs)
        for _ in range(7 if solved.empty else 1):
            safe = safe_multipliers(self.chain, sharp, multipliers)
            bound = max(0.0, lower_bound(self.chain, full, safe).within(full.radius))
            if bound >= self.level:
                break
            multipliers = Multipliers(multipliers.kappa, _ENLARGED * multipliers.slopes)
        return bound, packed(safe), solved

    def box_rows(self) -> list[Row]:
        """Prove bounds on z_1 ... z_k and -z_1 ... -z_k in the open leaf, if there is one; return their rows."""
        if not self._heap:
            return []
        k, unit, signs = self.chain.latent_dim, self.chain.frame[1], self._heap[0].signs
        costs = np.eye(k, self._program.relaxation.size)
        found = self._program.extremes(signs, self.level, np.vstack([costs, -costs]))
        sharp = self._regions.sharp.signed(signs)
        safe = (safe_multipliers(self.chain, sharp, multipliers, of_error=False) for multipliers in found)
        return [packed(row.times(float(unit[i % k]))) for i, row in enumerate(safe)]

    def proof(self, box_rows: Sequence[Row] = ()) -> Proof:
        """Collect the proof so far; for a box, with the rows of the open leaf."""
        open_leaf = self._heap[0].number if box_rows else -1
        closed = (self._rows[number] for number in sorted(self._rows) if number != open_leaf)
        index, value = zip(*map(packed, self._lemmas.sums), *closed, *box_rows, strict=True)
        parent, neuron = np.array(self._splits, dtype=np.int64).reshape(-1, 2).T
        pointer, rows = np.cumsum([0, *map(len, index)]), (np.concatenate(index), np.concatenate(value))
        return Proof(self.level, self._lemmas.balance, parent, neuron, open_leaf, pointer, *rows)

    def _note(self) -> None:
        """Add the bounds to the history if they have changed."""
        bound = min(self._heap[0].bound if self._heap else math.inf, self.level)
        last = self.history[-1] if self.history else BoundsAt(0.0, 0, 0.0, math.inf)
        if bound > last.lower * (1 + 1e-6) or self.upper < last.upper or bound >= self.level:
            self.history.append(BoundsAt(now() - self._start, self.visited, max(bound, last.lower), self.upper))

    def _offer(self, z: Array, inside: bool) -> None:
        """Keep a code if it is better than the best one; improve it if it is better or ``inside`` is True."""
        if self._improves and (self._keep(z) or inside):
            self._improve(z)

    def _keep(self, z: Array) -> bool:
        """Keep a code if it is better than the best one; return whether it gains more than rounding.

        The level is set just below the best known error. A node without codes below the level is closed.
        """
        value, before = self.chain.objective(z), self.upper
        if value < before:
            self.z, self.upper, self.exact = z.copy(), value, self.chain.exact(z)
            self.level = max(0.0, value - GAP / 2 * max(value, EXACT_FIT_TOLERANCE * self.chain.scale))
            if self.level < self._level * (1 - _FALLEN) and self.visited:
                self._build()
        return value < before * (1 - _ENOUGH)

    def _improve(self, z: Array) -> None:
        """Improve a code by the primal heuristic: go to the best code of its linear region, then of adjacent ones.

        With all signs decided, the node's program is that of a linear region. Neurons that are at their kink at the
        best code then get the other sign. The heuristic ends when F no longer falls.
        """
        for _ in range(_ROUNDS):
            u = self.chain.pre_activations(z)
            flipped = np.concatenate([np.abs(v) <= _AT_KINK * np.abs(v).max(initial=0.0) for v in u])
            signs = np.where(self.chain.bent, np.where((np.concatenate(u) > 0) != flipped, 1, -1), 0).astype(np.int8)
            solved, _ = self._program.solve(signs, None, self.level)
            if not (solved.known and self._keep(self._program.relaxation.code(solved.x))) or self.limits.over():
                return
            z = self.z


def _with_sign(signs: Signs, neuron: int, sign: int) -> Signs:
    """Copy the signs and decide that of one more neuron."""
    signs = signs.copy()
    signs[neuron] = sign
    return signs

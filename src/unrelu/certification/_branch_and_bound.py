r"""The smallest error over all codes: branch and bound on the signs of pre-activations.

The search uses a level t, a little below the error of the incumbent. For a code with F below t, every output error is
below t. This makes the errors of outputs with y >= t convex. A node of the tree has decided the signs of some neurons.
Its relaxation bounds F over its codes, and the node is closed when the bound reaches t. The node with the lowest bound
is processed first. If the tree becomes large, the intervals of all neurons are computed and the tree is restarted: the
chords of the intervals tighten the relaxation. Only bounds recomputed by :mod:`~unrelu.certification.safe_bounds`
count. The primal heuristic finds the best code with the signs of a given code, by a sequence of small linear programs.

Source: branch and bound that splits ReLUs as in R. Bunel, I. Turkaslan, P. Torr, P. Kohli and P. Mudigonda, "A unified
view of piecewise linear neural network verification", NeurIPS 2018, algorithm 1.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.certification._triangle_relaxation import Relaxation
from unrelu.certification.bound_propagation import Lemma, level_region, region_of
from unrelu.certification.bound_tightening import Probing, backward_bounds, decided, latent_bounds, obbt_lemmas
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.node_program import Limits, NodeProgram, Vertex
from unrelu.certification.proof import GAP, NO_ROWS, BoundsAt, MultiplierRows, Tree
from unrelu.runtime.array_types import Array
from unrelu.runtime.work_clock import now
from unrelu.thresholds import EXACT_FIT_TOLERANCE

Signs = npt.NDArray[np.int8]

# The most programs of the primal heuristic, and the share of F that is not worth another one.
_ROUNDS, _ENOUGH = 40, 1e-9
# Lemmas hold for codes with F up to this multiple of the best known error, so that such codes exist.
_REACH = 1.001
# Seconds per open node at the end of the search: its bound is computed, and recomputed from the proof.
_CHECK = 7e-4
# The primal heuristic runs at every 16th node, and whenever a better code is found.
_HEURISTIC_EVERY = 16
# Number of nodes after which intervals are computed, and the most repetitions while it helps.
_PATIENCE, _TIGHTENINGS = 1000, 3


def primal_heuristic(chain: CertifiedChain, z: Array) -> Array:
    """The best code among those with the signs of the hidden neurons at z; its F is at most that of z.

    For the largest error, F is quasi-convex there: the program at level t finds a code with F below t, or shows that
    there is none. The level is the best F so far, and then halfway to the program's bound while a gain is possible. For
    the sum of errors, the signs of the outputs are fixed as well.
    """
    signs = np.concatenate([np.where(u > 0, 1, -1) for u in chain.pre_activations(z)]).astype(np.int8)
    if chain.norm == "linf":
        signs[chain.ends[-2] :] = 0
    best, value, least = z, chain.objective(z), 0.0
    level = value
    for _ in range(_ROUNDS):
        if level <= 0 or value - least <= _ENOUGH * value:
            break
        relaxation = Relaxation(chain, level_region(chain, level), signs)
        solved = NodeProgram(relaxation).solve(signs, cutoff=level)
        least = max(least, min(solved.value, level))
        if not solved.closed and solved.finished:
            trial = relaxation.code(solved.x)
            reached = chain.objective(trial)
            if reached < value:
                best, value = trial.copy(), reached
        level = value if value < level else (value + least) / 2
    return best


@dataclass(frozen=True, eq=False)
class OpenNode:
    """The solution of an open node's relaxation: its vertex, its point and its level."""

    basis: Vertex
    point: Array
    level: float


class BranchAndBound:
    """One branch and bound. For 20-60-784 an open node takes about 4 KB, a closed one 2 KB and a split one 200 bytes.

    Args:
        chain, limits: the observation, and the limits of the search.
        z: the best known code, (k,).

    Attributes:
        z, upper, exact: the best known code, its F, and whether it fits exactly.
        level: the closed nodes contain no code with F below it.
        lemmas, reach: the lemmas of the relaxations, and the level up to which they hold.
        tree: the nodes.
        visited: number of solved relaxations.
        history: the bounds over time.
        stopped: the limit that ended the search, or None.
    """

    def __init__(self, chain: CertifiedChain, z: Array, limits: Limits) -> None:
        self.chain, self.limits = chain, limits
        self._start, self.visited = now(), 0
        self.history: list[BoundsAt] = []
        self.stopped: str | None = None
        self._sharpened = False
        self.z = primal_heuristic(chain, z)
        self.upper, self.exact = chain.objective(self.z), chain.exact(self.z)
        self.reach = _REACH * self.upper
        self.lemmas: list[Lemma] = backward_bounds(chain, self.reach, limits.end)
        # The effect of a neuron on the next layer: the norm of its column of the weights.
        ones = np.ones(len(chain.y))
        self._widths = np.concatenate([*(np.linalg.norm(w, axis=0) for w in chain.weights[1:]), ones])
        self._begin()

    @property
    def level(self) -> float:
        """A level just below the best known error; a node without codes below it is closed."""
        return max(0.0, self.upper - GAP / 2 * max(self.upper, EXACT_FIT_TOLERANCE * self.chain.scale))

    def _begin(self) -> None:
        """Begin a new tree with relaxations from the present lemmas."""
        self.tree = Tree(self.chain)
        self._heap: list[tuple[float, int]] = []
        self._open: dict[int, OpenNode] = {}
        self._regions = region_of(self.chain, self.reach, self.lemmas)
        self._signs = decided(self.chain, self._regions.sharp)
        self._build()

    def _build(self) -> None:
        self._level = self.level
        self._below = self._regions.at(self.chain, self.level)
        relaxation = Relaxation(self.chain, self._below.sharp.signed(self._signs), self._signs)
        self._program = NodeProgram(relaxation, self.limits)

    def run(self) -> None:
        """Search until every node is closed or a limit is reached."""
        if self.level <= 0:
            return
        rounds = 0
        if self.chain.norm == "l1":
            self._probe()
        else:
            self._record(0)
        while self._heap:
            bound, number = self._heap[0]
            self._note(bound)
            if bound >= self.level or self.exact:
                break
            self.stopped = self.limits.reached(self.visited, _CHECK * len(self._heap))
            if self.stopped:
                break
            if rounds < _TIGHTENINGS and len(self.tree) > _PATIENCE and self.chain.norm == "linf":
                rounds = rounds + 1 if self._tighten_bounds() else _TIGHTENINGS
                continue
            heapq.heappop(self._heap)
            self._split(number)
        for _, number in self._heap:
            self._prove_bound(number)
        self._note(self._heap[0][0] if self._heap else self.level)

    def _probe(self) -> None:
        """Begin by probing: for the sum of errors, most outputs can only have one of the two signs."""
        probing = Probing(self.chain, self.level, self._regions.at(self.chain, self.level), self.limits)
        probing.run()
        self.tree, self.visited = probing.tree, self.visited + len(probing.tree)
        if probing.now is not None:
            self._signs = np.where(probing.signs != 0, probing.signs, self._signs).astype(np.int8)
            self._build()
            self._record(probing.leaf)

    def _note(self, bound: float) -> None:
        """Add the bounds to the history if they have changed."""
        last = self.history[-1] if self.history else BoundsAt(0.0, 0, 0.0, math.inf)
        lower = max(min(bound, self.level), last.lower)
        if lower > last.lower * (1 + 1e-6) or self.upper < last.upper or bound >= self.level:
            self.history.append(BoundsAt(now() - self._start, self.visited, lower, self.upper))

    def _tighten_bounds(self) -> bool:
        """Compute intervals; restart the tree with them if the root's bound improves enough."""
        self.reach = _REACH * self.upper
        found = obbt_lemmas(self.chain, self.reach, self.lemmas, self.limits)
        if not found:
            return False
        before = self.tree.nodes[0].bound
        lowest = min((bound for bound, _ in self._heap), default=self.level)
        kept = self.lemmas, self.tree, self._heap, self._open, self._regions, self._signs
        self.lemmas = self.lemmas + found
        self._begin()
        self._record(0)
        bound = self.tree.nodes[0].bound
        if bound >= self.level or bound - before > 0.2 * (lowest - before):
            return True
        self.lemmas, self.tree, self._heap, self._open, self._regions, self._signs = kept
        self._build()
        return False

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
        del self._open[number]
        self.tree.nodes[number].row = NO_ROWS

    def _revisit(self, number: int, signs: Signs, opened: OpenNode) -> None:
        """Handle a node without violated neurons: up to rounding, its point is a code with F below the level."""
        self._offer(self._program.relaxation.code(opened.point), inside=True)
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
        # The basis of an earlier level is not used, because rows and multipliers may have changed.
        start = opened.basis if opened is not None and opened.level == self._level else None
        solved = self._program.solve(self.tree.signs(number), start, self.level)
        self.visited += 1
        node.row, node.bound = MultiplierRows.of(solved.multipliers), solved.value
        if opened is not None and not solved.finished and solved.value < self.tree.nodes[node.parent].bound:
            # A bound for the parent holds for its children.
            node.row, node.bound = self.tree.nodes[node.parent].row, self.tree.nodes[node.parent].bound
        if solved.closed:
            if self._prove_bound(number) < self.level and self._sharpen():
                self._prove_bound(number)
            self._open.pop(number, None)
            if node.bound >= self.level:
                return
        else:
            self._open[number] = OpenNode(solved.basis, solved.x, self._level)
            self._offer(self._program.relaxation.code(solved.x), inside=number % _HEURISTIC_EVERY == 0)
        heapq.heappush(self._heap, (node.bound, number))

    def _prove_bound(self, number: int) -> float:
        return self.tree.prove_bound(number, self._below, *self.tree.nodes[number].row)

    def _sharpen(self) -> bool:
        """Prove a smaller radius, at most once, because rounding errors grow with it."""
        if self._sharpened:
            return False
        self._sharpened = True
        found = latent_bounds(self.chain, self.reach, self.lemmas, self.limits.end)
        if not found:
            return False
        self.lemmas = self.lemmas + found
        self._regions = region_of(self.chain, self.reach, self.lemmas)
        self._below = self._regions.at(self.chain, self._level)
        return True

    def _offer(self, z: Array, inside: bool) -> None:
        """Keep a code if it is better than the best one; improve it first, if it is better or ``inside`` is True."""
        value = self.chain.objective(z)
        if inside or value < self.upper:
            z = primal_heuristic(self.chain, z)
            value = self.chain.objective(z)
        if value < self.upper:
            self.z, self.upper, self.exact = z.copy(), value, self.chain.exact(z)
            if self.level < self._level * (1 - 1e-4):
                self._build()

r"""The smallest error over all codes: branch and bound on the signs of pre-activations.

Everything is relative to a level t, a little below the error of the incumbent. A code with a smaller error has
every output error below t, which makes the outputs' errors convex where y >= t. A node of the tree has decided some
neurons; its relaxation bounds F over the codes of that part, and the node is closed when the bound reaches t. Nodes
are taken by their bounds, lowest first. Where the tree grows, the interval of every neuron is computed once and the
tree begun again, as chords make the relaxation sharper. A bound counts only as recomputed by
:mod:`~unrelu.certification.safe_bounds`. The primal heuristic is the best code with the signs of a given one, exact, by
one small linear program after another.

Source: branch and bound that splits ReLUs as in R. Bunel, I. Turkaslan, P. Torr, P. Kohli and P. Mudigonda, "A unified
view of piecewise linear neural network verification", NeurIPS 2018, algorithm 1.
"""

from __future__ import annotations

import heapq
import math
import time

import numpy as np
import numpy.typing as npt

from unrelu.certification.bound_propagation import Lemma, level_region, region_of
from unrelu.certification.bound_tightening import Probing, backward_bounds, decided, latent_bounds, neuron_lemmas
from unrelu.certification.certified_chain import EXACT, CertifiedChain
from unrelu.certification.node_program import Limits, NodeProgram
from unrelu.certification.proof import GAP, BoundsAt
from unrelu.certification.search_tree import Tree, most_violated
from unrelu.certification.triangle_relaxation import Relaxation

Array = npt.NDArray[np.float64]

# Of the primal heuristic: programs at most, and the share of F that is not worth another one.
_ROUNDS, _ENOUGH = 40, 1e-9
Signs = npt.NDArray[np.int8]
# Lemmas hold up to so much more than the best error known, where there are codes to compute with.
_REACH = 1.001
# Seconds for an open node when the search has ended: its bound is computed, and once more from the proof.
_CHECK = 7e-4
# The primal heuristic runs at every so many nodes, and whenever a better code is found.
_HEURISTIC_EVERY = 16
# Nodes after which intervals are computed, and how often that is repeated while it helps.
_PATIENCE, _TIGHTENINGS = 1000, 3


def best_in_region(chain: CertifiedChain, z: Array) -> Array:
    """A code with no larger F than z, the best one at which the hidden neurons have the signs that they have at z.

    F is quasi-convex there for the largest error: the program at level t finds a code below t or that there is none.
    The level is the best F so far, and halfway to the program's bound while that leaves something to be gained. The
    signs of the outputs are part of the cell for the sum of errors.
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


class BranchAndBound:
    """One branch and bound.

    Args:
        chain, limits: the observation, and when to stop.
        z: the best code known, (k,).
        scale: of y; bounds closer to each other than GAP times 1e-8 of it are equal.

    Attributes:
        z, upper, exact: the best code known, F there, and whether it fits exactly.
        level: codes with F below it have been excluded from the closed nodes.
        lemmas, reach: what relaxations were built with, and the level that they hold for.
        tree: the nodes.
        history: bounds over time.
        stopped: the limit that ended the search, or None.
    """

    def __init__(self, chain: CertifiedChain, z: Array, limits: Limits, scale: float = 0.0) -> None:
        self.chain, self.limits, self._scale = chain, limits, scale
        self._start, self.visited = time.perf_counter(), 0
        self.history: list[BoundsAt] = []
        self.stopped: str | None = None
        self._sharpened = False
        self.z = best_in_region(chain, z)
        self.upper, self.exact = chain.objective(self.z), chain.exact(self.z)
        self.reach = _REACH * self.upper
        self.lemmas: list[Lemma] = backward_bounds(chain, self.reach, limits.end)
        # What a neuron does to the next layer: the norm of its column in the weights.
        ones = np.ones(len(chain.y))
        self._widths = np.concatenate([*(np.linalg.norm(w, axis=0) for w in chain.weights[1:]), ones])
        self._begin()

    @property
    def level(self) -> float:
        """Just below the best error known: no code below it is what closes a node."""
        return max(0.0, self.upper - GAP / 2 * max(self.upper, EXACT * self._scale))

    def _begin(self) -> None:
        """An empty tree on relaxations with the present lemmas."""
        self.tree = Tree(int(self.chain.ends[-1]))
        self._heap: list[tuple[float, int]] = []
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
            self._decide()
        else:
            self._add(-1, -1, 0)
        while self._heap:
            bound, number = self._heap[0]
            self._note(bound)
            if bound >= self.level or self.exact:
                break
            self.stopped = self.limits.reached(self.visited, _CHECK * len(self._heap))
            if self.stopped:
                break
            if rounds < _TIGHTENINGS and len(self.tree) > _PATIENCE and self.chain.norm == "linf":
                rounds = rounds + 1 if self._tighten() else _TIGHTENINGS
                continue
            heapq.heappop(self._heap)
            self._visit(number)
        for _, number in self._heap:
            self._settle(number)
        self._note(self._heap[0][0] if self._heap else self.level)

    def _decide(self) -> None:
        """Begin with decisions that close a side at once: in a sum of errors, most outputs can only be off, or on."""
        fixing = Probing(self.chain, self.level, self._regions.at(self.chain, self.level), self.limits)
        fixing.run()
        self.tree, self.visited = fixing.tree, self.visited + len(fixing.tree)
        for node in self.tree.nodes:
            node.level = self._level
        if fixing.now is not None:
            self._signs = np.where(fixing.signs != 0, fixing.signs, self._signs).astype(np.int8)
            self._build()
            self._record(fixing.leaf, fixing.signs)

    def _note(self, bound: float) -> None:
        """Remember the bounds where they have changed."""
        last = self.history[-1] if self.history else BoundsAt(0.0, 0, 0.0, math.inf)
        lower = max(min(bound, self.level), last.lower)
        if lower > last.lower * (1 + 1e-6) or self.upper < last.upper or bound >= self.level:
            self.history.append(BoundsAt(time.perf_counter() - self._start, self.visited, lower, self.upper))

    def _tighten(self) -> bool:
        """Compute intervals; if the root's bound gains, begin again with them."""
        self.reach = _REACH * self.upper
        found = neuron_lemmas(self.chain, self.reach, self.lemmas, self.limits)
        if not found:
            return False
        before, lemmas, kept = self.tree.nodes[0].bound, self.lemmas, (self.tree, self._heap)
        regions, signs = self._regions, self._signs
        self.lemmas = lemmas + found
        self._begin()
        self._add(-1, -1, 0)
        gained = self.tree.nodes[0].bound - before
        lowest = min((bound for bound, _ in kept[1]), default=self.level)
        if self.tree.nodes[0].bound >= self.level or gained > 0.2 * (lowest - before):
            return True
        self.lemmas, (self.tree, self._heap) = lemmas, kept
        self._regions, self._signs = regions, signs
        self._build()
        return False

    def _visit(self, number: int) -> None:
        """Split a node, or look at it again where its relaxation is exact."""
        point, signs = self.tree.nodes[number].point, self.tree.signs(number)
        if point is None:
            return
        neuron = most_violated(self._program.relaxation, point, signs, self._widths)
        if neuron < 0:
            self._again(number, signs, point)
            return
        self.tree.split(number, (self._add(number, neuron, 1), self._add(number, neuron, -1)))

    def _again(self, number: int, signs: Signs, point: Array) -> None:
        """A node in which no neuron is violated: its point is a code with F below the level, unless by rounding."""
        node = self.tree.nodes[number]
        self._try(self._program.relaxation.code(point), inside=True)
        if self._level != self.level:
            self._build()
        solved = self._program.solve(signs, None, self.level)
        # The bound need not grow where errors are not convex, but level sets have become smaller.
        if solved.value > node.bound + 1e-12 * self.level or self.level < node.level * (1 - GAP / 4):
            self._record(number, signs)

    def _add(self, parent: int, neuron: int, sign: int) -> int:
        """A new node, solved."""
        number = self.tree.add(parent, neuron, sign)
        self._record(number, self.tree.signs(number))
        return number

    def _record(self, number: int, signs: Signs) -> None:
        """Solve a node, and keep what came out."""
        node, tree = self.tree.nodes[number], self.tree
        parent = tree.nodes[node.parent] if node.parent >= 0 else None
        # Of a basis of an earlier level, rows and multipliers may have changed.
        start = parent.basis if parent is not None and parent.level == self._level else None
        solved = self._program.solve(signs, start, self.level)
        self.visited += 1
        node.packed, node.bound, node.level = solved.multipliers.packed(), solved.value, self._level
        if parent is not None and not solved.finished and solved.value < parent.bound:
            # What holds of all codes of the parent holds of these.
            node.packed, node.bound = parent.packed, parent.bound
        if solved.closed:
            if self._settle(number) < self.level and self._sharpen():
                self._settle(number)
            node.basis = node.point = None
            if node.bound >= self.level:
                return
        else:
            node.basis, node.point = solved.basis, solved.x
            self._try(self._program.relaxation.code(solved.x), inside=number % _HEURISTIC_EVERY == 0)
        heapq.heappush(self._heap, (node.bound, number))

    def _settle(self, number: int) -> float:
        packed = self.tree.nodes[number].packed
        multipliers = packed.unpacked(len(self.chain.y), int(self.chain.ends[-1]))
        return self.tree.settle(number, self.chain, self._below, multipliers)

    def _sharpen(self) -> bool:
        """Prove a smaller radius, once, where rounding errors matter."""
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

    def _try(self, z: Array, inside: bool) -> None:
        """Keep a code if it is better than the best one."""
        value = self.chain.objective(z)
        if inside or value < self.upper:
            z = best_in_region(self.chain, z)
            value = self.chain.objective(z)
        if value < self.upper:
            self.z, self.upper, self.exact = z.copy(), value, self.chain.exact(z)
            if self.level < self._level * (1 - 1e-4):
                self._build()

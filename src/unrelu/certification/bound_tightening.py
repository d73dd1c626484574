r"""Tighter bounds before and during the search: of layers, of single neurons (OBBT), and by probing.

- :func:`backward_bounds` bounds the hidden layers and the code, from the output down, by one small program per layer.
- Optimality-based bound tightening minimises and maximises a pre-activation over the relaxation.
- Probing searches for splits of which one side is closed at once.

Source: OBBT as in A. M. Gleixner, T. Berthold, B. Müller and S. Weltge, "Three enhancements for optimization-based
bound tightening", Journal of Global Optimization 67 (2017), section 2; of ReLU networks in V. Tjeng, K. Xiao and
R. Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019. Probing as in
M. W. P. Savelsbergh, "Preprocessing and probing techniques for mixed integer programming problems", ORSA Journal on
Computing 6 (1994).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from unrelu.certification._triangle_relaxation import Relaxation
from unrelu.certification.bound_propagation import (
    BALANCE,
    HIGH,
    LATENT,
    LOW,
    SUM,
    Lemma,
    Regions,
    backward_propagation,
    functional,
    region_of,
)
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.node_program import Limits, NodeProgram, Solved, Vertex
from unrelu.certification.proof import Tree
from unrelu.certification.safe_bounds import Multipliers, Region, safe_multipliers
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.row_simplex import OPTIMAL, compile_simplex, dual_simplex
from unrelu.runtime.array_types import Array
from unrelu.runtime.work_clock import now

Signs = npt.NDArray[np.int8]
# Passes over the undecided neurons.
_PASSES = 4
# The multipliers of sums are enlarged by this share, so that rounding errors cannot make a coefficient negative.
_MORE = 1e-9
# The box in which the programs of single layers search.
_FAR = 1e9


def decided(chain: CertifiedChain, region: Region) -> Signs:
    """The signs of all neurons that the intervals of a region decide; 0 for the others."""
    signs = np.where(region.low >= 0, 1, np.where(region.high <= 0, -1, 0))
    return np.where(chain.bent, signs, 0).astype(np.int8)


def backward_bounds(chain: CertifiedChain, level: float, end: float = math.inf) -> list[Lemma]:
    """Lemmas that bound the hidden layers and the code at F(z) < level, from the output down as far as possible.

    No program begins after ``end``, by ``now()``. A code with bounds needs no lemmas. A ReLU layer l is bounded by
    max sum h_l subject to h_l >= 0, low <= W_{l+1} h_l + b_{l+1} <= high.
    """
    compile_simplex()
    lemmas: list[Lemma] = []
    if chain.bounds is None and math.isfinite(backward_propagation(chain, level, lemmas).radius):
        return lemmas
    for layer in range(chain.depth - 2, -1, -1):
        if chain.slopes[layer].any() or now() > end:
            return lemmas
        region, cost = backward_propagation(chain, level, lemmas), -np.ones(len(chain.biases[layer]))
        found = _program(chain, region, layer + 1, cost, positive=True)
        if found is None:
            return lemmas
        lemmas.append(Lemma(SUM, layer, found.times(1 + _MORE)))
    if chain.bounds is not None:
        return lemmas
    return lemmas + (_balance(chain) or latent_bounds(chain, level, lemmas, end))


def latent_bounds(chain: CertifiedChain, level: float, lemmas: list[Lemma], end: float = math.inf) -> list[Lemma]:
    """Lemmas on every latent coordinate, from 2 k programs. They prove a smaller radius than BALANCE.

    They are needed if rounding errors, which grow with the radius, keep the gap open. The arguments are those of
    :func:`backward_bounds`.
    """
    region, k = backward_propagation(chain, level, lemmas), chain.latent_dim
    latent: list[Lemma] = []
    for index in range(2 * k):
        found = _program(chain, region, 0, functional(chain, LATENT, index)["towards"], positive=False)
        if found is None or now() > end:
            return []
        latent.append(Lemma(LATENT, index, found))
    return latent


def _balance(chain: CertifiedChain) -> list[Lemma]:
    """A lemma from mu >= 1 with W_1^T mu = 0, by non-negative least squares; none if there is no such mu."""
    weight = chain.weights[0]
    try:
        more, off = nnls(weight.T, -weight.sum(axis=0))
    except RuntimeError:
        return []
    if not off < 1e-9 * np.abs(weight).sum():
        return []
    slopes = np.zeros(chain.ends[-1])
    slopes[: len(weight)] = 1 + more
    return [Lemma(BALANCE, 0, Multipliers(np.zeros(len(chain.y)), slopes))]


def _program(chain: CertifiedChain, region: Region, layer: int, cost: Array, positive: bool) -> Multipliers | None:
    """The multipliers of min cost . h subject to low <= W h + b <= high for one layer, and h >= 0 if ``positive``."""
    here, weight, shift, n = chain.neurons(layer), chain.weights[layer], chain.biases[layer], len(cost)
    low, high, m = region.low[here] - shift, region.high[here] - shift, len(weight)
    rows = np.vstack([weight, np.eye(n)])
    lo = np.concatenate([low, np.full(n, 0.0 if positive else -_FAR)])
    hi = np.concatenate([high, np.full(n, _FAR)])
    basis, upper, state, hard = m + np.arange(n), cost < 0, np.zeros(m + n, dtype=np.int8), np.full(m + n, np.inf)
    basic, y = np.zeros(n), np.zeros(m + 2 * n)
    status, _, _ = dual_simplex(
        ROUTINES, rows, np.linalg.norm(rows, axis=1), lo, hi, hard, hard, cost, basis, upper, state, np.zeros((n, n)),
        True, basic, np.zeros(n), np.zeros(m + n), np.zeros(2), math.inf, 50 * n + 1000,
    )  # fmt: skip
    y[basis] = basic
    ends = y[m : m + n]
    # A multiplier of an end of the box means that there is no bound; h >= 0 is not an end of the box.
    if status != OPTIMAL or (ends < -1e-9).any() or (not positive and (ends > 1e-9).any()):
        return None
    slopes = np.zeros(chain.ends[-1])
    # By rounding, a row without an upper or lower side may have a multiplier for it, and the bound would be infinite.
    slopes[here] = -np.clip(y[:m], np.where(np.isinf(high), 0.0, -np.inf), np.where(np.isinf(low), 0.0, np.inf))
    return Multipliers(np.zeros(len(chain.y)), slopes)


def extremes(
    program: NodeProgram, signs: Signs, start: Vertex, level: float, region: Region, wanted: Iterable[tuple[int, int]]
) -> list[Lemma]:
    """Lemmas of the ``wanted`` kinds and indices, each by minimising over a relaxation, until the time is up.

    ``start`` is a vertex of the relaxation. The multipliers are made valid for ``region``.
    """
    chain, basis, found = program.relaxation.chain, start, []
    nothing = {"extra": np.zeros(chain.ends[-1]), "towards": np.zeros(chain.latent_dim)}
    for kind, index in wanted:
        if program.limits.over():
            break
        target = nothing | functional(chain, kind, index)
        solved = program.extreme(signs, basis, level, **target)
        basis = start if solved is None else solved.basis
        if solved is not None:
            fit = safe_multipliers(chain, region, solved.multipliers, target["extra"])
            # In the program, coordinates are in their frame.
            unit = chain.frame[1][index % chain.latent_dim] if kind == LATENT else 1.0
            found.append(Lemma(kind, index, fit.times(unit)))
    return found


def obbt_lemmas(chain: CertifiedChain, level: float, lemmas: list[Lemma], limits: Limits) -> list[Lemma]:
    """OBBT for the largest error: two lemmas for every undecided hidden neuron.

    They are computed from the last hidden layer to the first, because the bounds of a layer also bound earlier layers.
    """
    region = region_of(chain, level, lemmas).sharp
    relaxation = Relaxation(chain, region, decided(chain, region))
    program, none = NodeProgram(relaxation, limits), np.zeros(chain.ends[-1], dtype=np.int8)
    first = program.solve(none, cutoff=level)
    if first.closed or not first.finished:
        return []
    wanted = [(kind, int(neuron)) for neuron in relaxation.undecided[::-1] for kind in (LOW, HIGH)]
    return extremes(program, none, first.basis, level, region, wanted)


class Probing:
    """A tree with one open leaf that grows by splits of which one side is closed at once.

    It searches for codes with F below the level, which lie in ``regions``.

    Attributes:
        tree, leaf, signs: the tree, its open leaf and the decisions of that leaf.
        now: the solution of the leaf's relaxation; None once the leaf is closed.
    """

    def __init__(self, chain: CertifiedChain, level: float, regions: Regions, limits: Limits) -> None:
        self.chain, self.level, self.limits, self.regions = chain, level, limits, regions
        self.tree, self.leaf, self.signs = Tree(chain), 0, np.zeros(chain.ends[-1], dtype=np.int8)
        self._build()

    def _build(self) -> None:
        """Rebuild the leaf's relaxation with all decisions and solve it."""
        signs = np.where(self.signs != 0, self.signs, decided(self.chain, self.regions.sharp)).astype(np.int8)
        relaxation = Relaxation(self.chain, self.regions.sharp.signed(self.signs), signs)
        self.program = NodeProgram(relaxation, self.limits)
        self.now = self._open(self.leaf, self.program.solve(self.signs, cutoff=self.level))

    def _open(self, number: int, solved: Solved) -> Solved | None:
        """Prove the bound of a node and keep it; None if the node contains no code below the level."""
        return None if self.tree.prove_bound(number, self.regions, solved.multipliers) >= self.level else solved

    def run(self) -> None:
        """Decide neurons until no further one can be decided, or the time is up."""
        for _ in range(_PASSES):
            before = len(self.tree)
            for neuron in np.flatnonzero(self.chain.bent & (self.signs == 0)):
                if self.now is None or self.limits.reached(len(self.tree)):
                    return
                self._decide(int(neuron), self.now)
            if self.now is None or len(self.tree) == before:
                return
            self._build()

    def _decide(self, neuron: int, now: Solved) -> None:
        """Split at a neuron if one side can be closed; only sides without the present point are tried."""
        on, off = self.program.relaxation.missed(now.x, self.signs)
        # The present point is below the level, so the side of the neuron that contains it stays open.
        for sign in [s for s, miss in ((1, on[neuron]), (-1, off[neuron])) if miss]:
            signs = self.signs.copy()
            signs[neuron] = sign
            solved = self.program.solve(signs, now.basis, self.level)
            if not solved.closed:
                continue
            shut, left = self.tree.add(self.leaf, neuron, sign), self.tree.add(self.leaf, neuron, -sign)
            if self._open(shut, solved) is not None:
                # Closed by the solver's bound but not by the safe one.
                del self.tree.nodes[-2:]
                continue
            self.signs[neuron], self.leaf = -sign, left
            self.now = self._open(left, self.program.solve(self.signs, now.basis, self.level))
            return

    def ends(self) -> list[Multipliers]:
        """The multipliers of bounds on z_1 ... z_k and -z_1 ... -z_k in the open leaf; empty without an open leaf."""
        if self.now is None:
            return []
        chain, k = self.chain, self.chain.latent_dim
        sharp, wanted = self.regions.sharp.signed(self.signs), [(LATENT, end) for i in range(k) for end in (i, k + i)]
        found = extremes(self.program, self.signs, self.now.basis, self.level, sharp, wanted)
        known = {lemma.index: lemma.multipliers for lemma in found}
        return [known.get(i, Multipliers(np.zeros(len(chain.y)), np.zeros(chain.ends[-1]))) for i in range(2 * k)]

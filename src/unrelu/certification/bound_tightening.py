r"""Tighter bounds before and during the search: of layers, of single neurons (OBBT), and by probing.

- :func:`backward_bounds` bounds the hidden layers and the code, from the output down, by one small program a layer.
- Optimality-based bound tightening minimises and maximises a pre-activation over the relaxation.
- Probing looks for splits after which one side is closed at once.

Source: OBBT as in A. M. Gleixner, T. Berthold, B. Müller and S. Weltge, "Three enhancements for optimization-based
bound tightening", Journal of Global Optimization 67 (2017), section 2; of ReLU networks in V. Tjeng, K. Xiao and
R. Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019. Probing as in
M. W. P. Savelsbergh, "Preprocessing and probing techniques for mixed integer programming problems", ORSA Journal on
Computing 6 (1994).
"""

from __future__ import annotations

import math
import time
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
from unrelu.lp.compilation import compile_simplex
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.row_simplex import OPTIMAL, dual_simplex
from unrelu.runtime.array_types import Array

Signs = npt.NDArray[np.int8]
# Passes over the undecided neurons.
_PASSES = 4
# The multipliers of sums are made larger by this share, so that rounding errors cannot turn a coefficient negative.
_MORE = 1e-9
# Where the programs of single layers stop looking.
_FAR = 1e9


def decided(chain: CertifiedChain, region: Region) -> Signs:
    """The signs that the intervals of a region decide."""
    signs = np.where(region.low >= 0, 1, np.where(region.high <= 0, -1, 0))
    return np.where(chain.bent, signs, 0).astype(np.int8)


def backward_bounds(chain: CertifiedChain, level: float, end: float = math.inf) -> list[Lemma]:
    """Lemmas that bound the hidden layers and the code at F(z) < level, from the output down as far as they go.

    None begins after ``end``, by ``time.perf_counter()``. The code needs none where it has bounds. Layer l is bounded
    by max sum h_l subject to h_l >= 0, low <= W_{l+1} h_l + b_{l+1} <= high, where layer l is ReLU.
    """
    compile_simplex()
    lemmas: list[Lemma] = []
    if chain.bounds is None and math.isfinite(backward_propagation(chain, level, lemmas).radius):
        return lemmas
    for layer in range(chain.depth - 2, -1, -1):
        if chain.slopes[layer].any() or time.perf_counter() > end:
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
    """Lemmas on every latent coordinate, which prove a smaller radius than BALANCE does; 2 k programs.

    Needed where rounding errors, which grow with the radius, keep bounds from meeting. Args as of
    :func:`backward_bounds`.
    """
    region, k = backward_propagation(chain, level, lemmas), chain.latent_dim
    latent: list[Lemma] = []
    for index in range(2 * k):
        found = _program(chain, region, 0, functional(chain, LATENT, index)["towards"], positive=False)
        if found is None or time.perf_counter() > end:
            return []
        latent.append(Lemma(LATENT, index, found))
    return latent


def _balance(chain: CertifiedChain) -> list[Lemma]:
    """A lemma from mu >= 1 with W_1^T mu = 0, by non-negative least squares; none if there are no such mu."""
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
    """The multipliers of min cost.h subject to low <= W h + b <= high of one layer, and h >= 0 if ``positive``."""
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
    # At the ends of the box there is no bound; an end at 0 is none of these.
    if status != OPTIMAL or (ends < -1e-9).any() or (not positive and (ends > 1e-9).any()):
        return None
    slopes = np.zeros(chain.ends[-1])
    # By rounding a multiplier may be on a side that is missing, where the bound would be infinite.
    slopes[here] = -np.clip(y[:m], np.where(np.isinf(high), 0.0, -np.inf), np.where(np.isinf(low), 0.0, np.inf))
    return Multipliers(np.zeros(len(chain.y)), slopes)


def extremes(
    program: NodeProgram, signs: Signs, start: Vertex, level: float, region: Region, wanted: Iterable[tuple[int, int]]
) -> list[Lemma]:
    """The lemmas of some kinds and indices by minimising over a relaxation, one after another until the time is up.

    ``start`` is a vertex of the relaxation, and ``region`` what the multipliers are made valid for.
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
            # Coordinates are in their frame in the program.
            unit = chain.frame[1][index % chain.latent_dim] if kind == LATENT else 1.0
            found.append(Lemma(kind, index, fit.times(unit)))
    return found


def obbt_lemmas(chain: CertifiedChain, level: float, lemmas: list[Lemma], limits: Limits) -> list[Lemma]:
    """Two more lemmas for every undecided hidden neuron, for the largest error: OBBT.

    From the last hidden layer to the first: bounds of a layer also bound those before it.
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
    """A tree with one open leaf, growing downwards: every split closes a side.

    The search is for codes with F below the level; ``regions`` hold them.

    Attributes:
        tree, leaf, signs: the tree, its open leaf and the decisions that make it.
        now: the solution of the leaf's relaxation; None once that is closed too.
    """

    def __init__(self, chain: CertifiedChain, level: float, regions: Regions, limits: Limits) -> None:
        self.chain, self.level, self.limits, self.regions = chain, level, limits, regions
        self.tree, self.leaf, self.signs = Tree(chain), 0, np.zeros(chain.ends[-1], dtype=np.int8)
        self._build()

    def _build(self) -> None:
        """Solve the leaf's relaxation, written down anew with all that is decided."""
        signs = np.where(self.signs != 0, self.signs, decided(self.chain, self.regions.sharp)).astype(np.int8)
        relaxation = Relaxation(self.chain, self.regions.sharp.signed(self.signs), signs)
        self.program = NodeProgram(relaxation, self.limits)
        self.now = self._open(self.leaf, self.program.solve(self.signs, cutoff=self.level))

    def _open(self, number: int, solved: Solved) -> Solved | None:
        """Keep what was proved of a node; None if it holds no code below the level."""
        return None if self.tree.prove_bound(number, self.regions, solved.multipliers) >= self.level else solved

    def run(self) -> None:
        """Decide neurons until none can be decided any more, or the time is up."""
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
        """Split at a neuron if one side can be closed: at most one that the present point is not on."""
        on, off = self.program.relaxation.missed(now.x, self.signs)
        # A point on one side of the neuron is below the level, so that this side stays open.
        for sign in [s for s, miss in ((1, on[neuron]), (-1, off[neuron])) if miss]:
            signs = self.signs.copy()
            signs[neuron] = sign
            solved = self.program.solve(signs, now.basis, self.level)
            if not solved.closed:
                continue
            shut, left = self.tree.add(self.leaf, neuron, sign), self.tree.add(self.leaf, neuron, -sign)
            if self._open(shut, solved) is not None:
                # Closed by the solver's numbers but not by safe ones.
                del self.tree.nodes[-2:]
                continue
            self.signs[neuron], self.leaf = -sign, left
            self.now = self._open(left, self.program.solve(self.signs, now.basis, self.level))
            return

    def ends(self) -> list[Multipliers]:
        """The multipliers of the bounds of z_1 ... z_k and -z_1 ... -z_k in the open leaf; nothing if there is none."""
        if self.now is None:
            return []
        chain, k = self.chain, self.chain.latent_dim
        sharp, wanted = self.regions.sharp.signed(self.signs), [(LATENT, end) for i in range(k) for end in (i, k + i)]
        found = extremes(self.program, self.signs, self.now.basis, self.level, sharp, wanted)
        known = {lemma.index: lemma.multipliers for lemma in found}
        return [known.get(i, Multipliers(np.zeros(len(chain.y)), np.zeros(chain.ends[-1]))) for i in range(2 * k)]

r"""A few interior-point steps towards the optimum of a layer program, to learn which rows decide it.

What :mod:`unrelu.lp.interior_point_sum` and :mod:`unrelu.lp.interior_point_largest` share. Both programs are in
shifted, scaled variables: w = 0 is the start, r = W w + r0 the residuals, and l <= w <= u. The steps are Mehrotra's
(SIAM J. Optim. 2, 1992), each one factorisation of a k x k matrix W^T D W + bounds. They stop early: the weights D then
tell the rows that are active at the optimum from the others, and the exchange simplex, which is exact, starts from the
vertex of the heaviest ones.
"""

from __future__ import annotations

import numpy as np

from unrelu.lp.dense_linear_algebra import advance, clear, factorise, gram, jit

# Share of the way to the boundary that a step goes.
DAMPING = 0.995
# Bins of a factor of two for the scores of the rows.
_BINS = 256
# Rows with less than this share of the largest weight are left out of the normal matrix, and after a short step.
_NEGLIGIBLE, _TINY, _SHORT = 1e-4, 1e-8, 0.5
_RIDGE = 1e-13


@jit
def go(x, step, direction):
    """x += step * direction, and direction = 0."""
    advance(x, step, direction)
    clear(direction)


@jit
def residuals(matrix, w, r0):
    """W w + r0."""
    r = np.dot(matrix, w)
    advance(r, 1.0, r0)
    return r


@jit
def normal_factor(routines, matrix, weight, barrier, length, scaled, normal):
    """The Cholesky factor of W^T diag(weight) W + diag(barrier), and whether it exists.

    After a step of full ``length`` rows of small weight are left out; a short one says that they may have been missing.
    """
    gram(routines, matrix, weight, _NEGLIGIBLE if length > _SHORT else _TINY, scaled, normal)
    for i in range(len(barrier)):
        normal[i, i] += barrier[i]
    return factorise(routines, normal, _RIDGE)


@jit
def decided(scores, barrier, k):
    """How far the k rows and bounds that will be basic stand out: the score at rank k / 2 over that at rank 3 k / 2.

    Where there are fewer than 2 k of them, the second rank is halfway between k and their number. Scores are counted in
    bins a factor of two wide, which is exact enough and takes no sorting. Returns the binary logarithm.
    """
    bins, count = np.zeros(_BINS, np.int64), 0
    for values in (scores, barrier):
        for j in range(len(values)):
            if values[j] > 0.0:
                place = int(np.log2(values[j])) + _BINS // 2
                bins[min(max(place, 0), _BINS - 1)] += 1
                count += 1
    if count <= k:
        return np.inf
    ranks = k // 2, min((3 * k) // 2, (k + count) // 2)
    high, above, at = -1, 0, _BINS
    while above <= ranks[1]:
        at -= 1
        above += bins[at]
        if high < 0 and above > ranks[0]:
            high = at
    return float(high - at)

r"""The steps of :mod:`~unrelu.local_search.refinement`, compiled: BFGS with a weak Wolfe line search, code by code.

The steps of small dense networks, :func:`refine_packed`, evaluate the objective themselves, in double precision; of
others :func:`propose` and :func:`accept` are called around an evaluation of all codes at once. A code's steps do not
depend on the others of its batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.local_search.descent_kernel import INPUTS, MATRIX, OUTPUTS, doubles, forward, residual
from unrelu.local_search.packed_observations import PackedLayer, PackedNetwork
from unrelu.lp.compilation import compile_by
from unrelu.lp.dense_linear_algebra import dot, jit
from unrelu.models.activations import Activation

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# Of the line search: the part of the promised decrease that a step has to bring, and the part of the slope that may be
# left; the longest and shortest step, in units of the one proposed.
_DECREASE, _SLOPE = 1e-4, 0.5
_LONGEST, _SHORTEST = 16.0, 1e-10
# A step is tiny that promises to lower f by less than this fraction. After two in a row optimality is tested. Tuned
# with what such a test may leave, see :mod:`~unrelu.local_search.refinement`.
TINY, _TINY_STEPS = 1e-6, 2
# Where f is smooth, convergence is fast: a code goes on until a step promises no more than this fraction.
VANISHED = 1e-13
# Why steps end: they do not, optimality is to be tested, f is as good as 0, or the direction is no number.
GOES_ON, ASKS, DONE, LOST = range(4)


class Codes(NamedTuple):
    """Codes on their way, arrays over all of them.

    Attributes:
        z, f, g: codes (n, k), their objectives (n,) and gradients (n, k).
        h: approximations of the inverse Hessian, (n, k, k).
        p, slope: directions (n, k) and the slope of f along them, (n,).
        t, low, high: the next length along p, and lengths that are too short and too long, (n,).
        enough: objectives that are as good as 0, (n,).
        tiny, steps: tiny steps in a row, and evaluations so far, (n,).
        stuck: whether no length along p was accepted, (n,).
        past_z, past_f, past_g: the last trial points (n, r, k), their objectives (n, r) and gradients (n, r, k).
        box: lower and upper bounds of codes, (2, k).
    """

    z: Array
    f: Array
    g: Array
    h: Array
    p: Array
    slope: Array
    t: Array
    low: Array
    high: Array
    enough: Array
    tiny: Counts
    steps: Counts
    stuck: npt.NDArray[np.bool_]
    past_z: Array
    past_f: Array
    past_g: Array
    box: Array

    @classmethod
    def at(cls, z: Array, f: Array, g: Array, enough: Array, remembered: int, box: Array) -> Codes:
        """Codes before their first step, without H and a direction."""
        n, k = z.shape
        zero = np.zeros(n)
        return cls(
            z.copy(), f.copy(), g.copy(), np.zeros((n, k, k)), np.zeros((n, k)), zero, np.ones(n), zero.copy(),
            np.full(n, np.inf), np.asarray(enough, dtype=float), np.zeros(n, np.int64), np.zeros(n, np.int64),
            np.zeros(n, np.bool_), np.zeros((n, remembered, k)), np.full((n, remembered), np.inf),
            np.zeros((n, remembered, k)), box,
        )  # fmt: skip


@jit
def _free(z, g, low, high):
    """Whether a coordinate is not held at a bound that a step against g would leave."""
    return not ((z <= low and g > 0) or (z >= high and g < 0))


@jit
def aim(codes, i):
    """The direction -H grad f of a code, in the coordinates that no bound holds, and a first length of 1."""
    z, g, p, h, low, high = codes.z[i], codes.g[i], codes.p[i], codes.h[i], codes.box[0], codes.box[1]
    k = len(z)
    free = np.empty(k)
    for j in range(k):
        free[j] = 1.0 if _free(z[j], g[j], low[j], high[j]) else 0.0
    leaving = True
    while leaving:
        leaving = False
        for j in range(k):
            total = 0.0
            for m in range(k):
                total += h[j, m] * g[m] * free[m]
            p[j] = -total * free[j]
        for j in range(k):
            if free[j] > 0 and not _free(z[j], -p[j], low[j], high[j]):
                free[j], leaving = 0.0, True
    codes.slope[i] = dot(p, g)
    codes.t[i], codes.low[i], codes.high[i] = 1.0, 0.0, np.inf


@jit
def propose(codes, i, trial):
    """Write the next trial point of a code; whether a bound has cut the step."""
    z, p, low, high = codes.z[i], codes.p[i], codes.box[0], codes.box[1]
    cut, t = False, codes.t[i]
    for j in range(len(trial)):
        aimed = z[j] + t * p[j]
        trial[j] = min(max(aimed, low[j]), high[j])
        cut |= trial[j] != aimed
    return cut


@jit
def _learn(h, s, y, hy):
    """BFGS: H + (1 + y'Hy / s'y) s s' / s'y - (Hy s' + s (Hy)') / s'y."""
    k = len(s)
    product = dot(s, y)
    if not product > np.finfo(np.float64).eps * math.sqrt(dot(s, s) * dot(y, y)):
        return
    for a in range(k):
        hy[a] = dot(h[a], y)
    one = (1 + dot(y, hy) / product) / product
    for a in range(k):
        for b in range(k):
            h[a, b] += one * s[a] * s[b] - (hy[a] * s[b] + s[a] * hy[b]) / product


@jit
def accept(codes, i, trial, cut, f, g, work):
    """Take a trial point with its f and gradient, or another length. Returns one of the four reasons to end."""
    z, mine, k = codes.z[i], codes.g[i], len(trial)
    s, y, hy = work[0], work[1], work[2]
    turn = codes.steps[i] % codes.past_f.shape[1]
    codes.past_z[i, turn], codes.past_f[i, turn], codes.past_g[i, turn] = trial, f, g
    codes.steps[i] += 1
    for j in range(k):
        s[j], y[j] = trial[j] - z[j], g[j] - mine[j]
    slope, t = dot(mine, s), codes.t[i]
    if f <= codes.f[i] + _DECREASE * min(slope, 0.0):
        codes.low[i] = t
        if dot(g, s) >= _SLOPE * slope or t >= _LONGEST or cut:
            _learn(codes.h[i], s, y, hy)
            z[:], mine[:], codes.f[i], codes.stuck[i] = trial, g, f, False
            aim(codes, i)
            if f <= codes.enough[i]:
                return DONE
            promised = -0.5 * codes.slope[i]
            if not abs(promised) < np.inf:
                return LOST
            codes.tiny[i] = codes.tiny[i] + 1 if promised <= TINY * f else 0
            return ASKS if codes.tiny[i] >= _TINY_STEPS or promised <= VANISHED * f else GOES_ON
    else:
        codes.high[i] = t
    if codes.high[i] < np.inf:
        codes.t[i] = 0.5 * (codes.low[i] + codes.high[i])
    else:
        codes.t[i] = 2 * t
    codes.stuck[i] = codes.t[i] < _SHORTEST or codes.high[i] - codes.low[i] < _SHORTEST
    return ASKS if codes.stuck[i] else GOES_ON


@jit
def _backward(numbers, layout, ends, slopes, back):
    """The reverse pass: from the derivatives by the outputs, at the end of ``back``, to those by the code."""
    for above in range(len(layout)):
        layer = len(layout) - 1 - above
        inputs, outputs, begin = layout[layer, INPUTS], layout[layer, OUTPUTS], layout[layer, MATRIX]
        below, here = ends[layer], ends[layer + 1]
        there = back[here : here + outputs]
        for i in range(outputs):
            there[i] *= slopes[here + i]
        for j in range(inputs):
            if layer > 0 and slopes[below + j] == 0:
                back[below + j] = 0.0
            else:
                back[below + j] = dot(numbers[begin + j * outputs : begin + (j + 1) * outputs], there)


@jit
def refine_packed(numbers, layout, sizes, y, prior, most, codes, i):
    """Steps of one code on a packed network in double precision, until they end or are so many in all."""
    k, d = len(codes.z[i]), len(layout)
    ends = np.zeros(d + 2, np.int64)
    ends[1] = k
    for layer in range(d):
        ends[layer + 2] = ends[layer + 1] + layout[layer, OUTPUTS]
    total, last = ends[d + 1], ends[d]
    u, x, slopes, back, widths = doubles(total), doubles(total), doubles(total), doubles(total), np.zeros(d)
    trial, work, r = doubles(k), doubles(3 * k).reshape(3, k), doubles(len(y))
    reason = GOES_ON
    while reason == GOES_ON and codes.steps[i] < most:
        cut = propose(codes, i, trial)
        forward(numbers, layout, widths, trial, ends, u, x, slopes)
        f = residual(x, last, y, r, trial, prior)
        for j in range(len(y)):
            back[last + j] = 2 * r[j]
        _backward(numbers, layout, ends, slopes, back)
        g = back[:k]
        for j in range(k):
            g[j] += 2 * prior * trial[j]
        reason = accept(codes, i, trial, cut, f, g, work)
    return reason


@jit
def propose_all(codes, some, trials, cut):
    """:func:`propose` for some codes."""
    for a in range(len(some)):
        cut[a] = propose(codes, some[a], trials[a])


@jit
def accept_all(codes, some, trials, cut, f, g, reasons):
    """:func:`accept` for some codes."""
    work = doubles(3 * trials.shape[1]).reshape(3, trials.shape[1])
    for a in range(len(some)):
        reasons[a] = accept(codes, some[a], trials[a], cut[a], f[a], g[a], work)


def compile_refinement() -> None:
    """Compile these steps, or load them, before their first use, see :func:`~unrelu.lp.compilation.compile_by`."""
    compile_by(_smallest_refinement, refine_packed.stats.cache_path, "refinement")


def _smallest_refinement() -> None:
    """Of G(z) = relu(z)."""
    one = np.ones((1, 1))
    network = PackedNetwork.of([PackedLayer(one, np.zeros(1), Activation("relu"), 1.0)], np.float64)
    box = np.array([[-np.inf], [np.inf]])
    codes = Codes.at(one, one[0], one, np.zeros(1), 1, box)
    aim(codes, 0)
    refine_packed(*network, np.zeros(1), 0.0, 1, codes, 0)
    some, cut, reasons = np.zeros(1, np.intp), np.zeros(1, np.bool_), np.zeros(1, np.int64)
    propose_all(codes, some, one, cut)
    accept_all(codes, some, one, cut, one[0], one, reasons)

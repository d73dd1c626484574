r"""The steps of :mod:`~unrelu.local_search.refinement`, compiled: BFGS with a weak Wolfe line search, code by code.

The steps of small dense networks, :func:`refine_packed`, evaluate the objective themselves, in double precision; of
others :func:`accept` is called after an evaluation of all codes at once. A code's steps do not depend on the others of
its batch.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from unrelu.local_search.descent_kernel import ROOM, forward, residual
from unrelu.local_search.packed_observations import INPUTS, MATRIX, OUTPUTS, PackedLayer, PackedNetwork
from unrelu.lp.compilation import compile_by
from unrelu.lp.dense_linear_algebra import copy, dot, jit
from unrelu.models.activations import Activation

Array = npt.NDArray[np.float64]

# Of the line search: the part of the promised decrease that a step has to bring, and the part of the slope that may be
# left; the longest and shortest step, in units of the one proposed.
_DECREASE, _RISEN = 1e-4, 0.5
_LONGEST, _SHORTEST = 16.0, 1e-10
# A step is tiny that promises to lower f by less than this fraction. After two in a row optimality is tested. Tuned
# with what such a test may leave, see :mod:`~unrelu.local_search.refinement`.
TINY, _TINY_STEPS = 1e-6, 2
# Where f is smooth, convergence is fast: a code goes on until a step promises no more than this fraction.
VANISHED = 1e-13
_EPS = float(np.finfo(np.float64).eps)
# Why steps end: they do not, optimality is to be tested, f is as good as 0, or the direction is no number.
GOES_ON, ASKS, DONE, LOST = range(4)


# Of the numbers of a code: f, the slope along its direction, the next length along it, lengths that are too short and
# too long, the f that is as good as 0, tiny steps in a row, evaluations so far, whether no length was accepted (1 or
# 0), and then f at the last trial points. In three arrays, as a kernel of many compiles slowly.
F, SLOPE, LENGTH, _LOW, _HIGH, ENOUGH, _IN_A_ROW, STEPS, STUCK, PAST_F = range(10)
# Of its vectors: the code, the gradient, the direction, the trial point and the gradient there, three to work in, and
# then the rows of H, the last trial points, and the gradients there.
Z, G, P, TRIAL, TRIAL_G, _S, _Y, _WORK, H = range(9)


def codes_at(z: Array, f: Array, g: Array, enough: Array, remembered: int) -> tuple[Array, Array]:
    """Vectors (n, 8 + k + 2 r, k) and numbers (n, 9 + r) of codes (n, k), without H and a direction.

    Args:
        f, g: objectives (n,) and gradients (n, k).
        enough: objectives that are as good as 0, (n,).
        remembered: how many trial points are remembered, r.
    """
    n, k = z.shape
    vectors, numbers = np.zeros((n, H + k + 2 * remembered, k)), np.zeros((n, PAST_F + remembered))
    vectors[:, Z], vectors[:, G], numbers[:, F], numbers[:, ENOUGH], numbers[:, PAST_F:] = z, g, f, enough, np.inf
    turn(numbers)
    return vectors, numbers


def turn(numbers: Array) -> None:
    """Begin a line search along a new direction."""
    numbers[..., LENGTH], numbers[..., _LOW], numbers[..., _HIGH], numbers[..., _IN_A_ROW] = 1.0, 0.0, np.inf, 0.0


@jit
def _free(z, g, low, high):
    """Whether a coordinate is not held at a bound that a step against g would leave."""
    return not ((z <= low and g > 0) or (z >= high and g < 0))


@jit
def aim(vectors, numbers, box):
    """The direction -H grad f of a code, in the coordinates that no bound holds, and a first length of 1."""
    z, g, p, free, low, high = vectors[Z], vectors[G], vectors[P], vectors[_WORK], box[0], box[1]
    k = len(z)
    for j in range(k):
        free[j] = 1.0 if _free(z[j], g[j], low[j], high[j]) else 0.0
    leaving = True
    while leaving:
        leaving = False
        for j in range(k):
            total, row = 0.0, vectors[H + j]
            for m in range(k):
                total += row[m] * g[m] * free[m]
            p[j] = -total * free[j]
        for j in range(k):
            if free[j] > 0 and not _free(z[j], -p[j], low[j], high[j]):
                free[j], leaving = 0.0, True
    numbers[SLOPE], numbers[LENGTH], numbers[_LOW], numbers[_HIGH] = dot(p, g), 1.0, 0.0, np.inf


@jit
def _learn(vectors):
    """BFGS: H + (1 + y'Hy / s'y) s s' / s'y - (Hy s' + s (Hy)') / s'y."""
    s, y, hy = vectors[_S], vectors[_Y], vectors[_WORK]
    k, product = len(s), dot(s, y)
    if not product > _EPS * math.sqrt(dot(s, s) * dot(y, y)):
        return
    for a in range(k):
        hy[a] = dot(vectors[H + a], y) / product
    one = (1 + dot(y, hy)) / product
    for a in range(k):
        row = vectors[H + a]
        for b in range(k):
            row[b] += one * s[a] * s[b] - hy[a] * s[b] - s[a] * hy[b]


@jit
def accept(vectors, numbers, box, f, cut):
    """Take the trial point of a code, where f is this, or another length along the direction.

    ``cut`` says whether a bound has cut the step. Returns one of the four reasons to end.
    """
    z, g, trial, there, s, y = vectors[Z], vectors[G], vectors[TRIAL], vectors[TRIAL_G], vectors[_S], vectors[_Y]
    k, remembered = len(z), len(numbers) - PAST_F
    past = int(numbers[STEPS]) % remembered
    numbers[PAST_F + past] = f
    copy(trial, vectors[H + k + past])
    copy(there, vectors[H + k + remembered + past])
    numbers[STEPS] += 1
    for j in range(k):
        s[j] = trial[j] - z[j]
        y[j] = there[j] - g[j] if s[j] != 0 else 0.0  # where a bound holds, nothing is learned of the curvature
    slope, t = dot(g, s), numbers[LENGTH]
    if f <= numbers[F] + _DECREASE * min(slope, 0.0):
        numbers[_LOW] = t
        if dot(there, s) >= _RISEN * slope or t >= _LONGEST or cut:
            _learn(vectors)
            copy(trial, z)
            copy(there, g)
            numbers[F], numbers[STUCK] = f, 0.0
            aim(vectors, numbers, box)
            promised = -0.5 * numbers[SLOPE]
            if f <= numbers[ENOUGH]:
                return DONE
            if not abs(promised) < np.inf:
                return LOST
            numbers[_IN_A_ROW] = numbers[_IN_A_ROW] + 1 if promised <= TINY * f else 0.0
            return ASKS if numbers[_IN_A_ROW] >= _TINY_STEPS or promised <= VANISHED * f else GOES_ON
    else:
        numbers[_HIGH] = t
    if numbers[_HIGH] < np.inf:
        numbers[LENGTH] = 0.5 * (numbers[_LOW] + numbers[_HIGH])
    else:
        numbers[LENGTH] = 2 * t
    if numbers[LENGTH] < _SHORTEST or numbers[_HIGH] - numbers[_LOW] < _SHORTEST:
        numbers[STUCK] = 1.0
        return ASKS
    return GOES_ON


@jit
def _backward(weights, layout, ends, slopes, back):
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
                back[below + j] = dot(weights[begin + j * outputs : begin + (j + 1) * outputs], there)


@jit
def refine_packed(weights, layout, widths, ends, work, y, prior, most, vectors, numbers, box):
    """Steps of one code on a packed network in double precision, until they end or are so many in all.

    ``widths`` are zeros (d,), ``ends`` says where layers end in the rows of ``work``, and ``work`` has five of them.
    """
    z, p, trial, there, low, high = vectors[Z], vectors[P], vectors[TRIAL], vectors[TRIAL_G], box[0], box[1]
    k, last = len(z), ends[len(layout)]
    u, x, slopes, back, r = work[0], work[1], work[2], work[3], work[4]
    reason = GOES_ON
    while reason == GOES_ON and numbers[STEPS] < most:
        cuts = 0
        for j in range(k):
            aimed = z[j] + numbers[LENGTH] * p[j]
            trial[j] = min(max(aimed, low[j]), high[j])
            if trial[j] != aimed:
                cuts += 1
        forward(weights, layout, widths, trial, ends, u, x, slopes)
        f = residual(x, last, y, r, trial, prior)
        for j in range(len(y)):
            back[last + j] = 2 * r[j]
        _backward(weights, layout, ends, slopes, back)
        for j in range(k):
            there[j] = back[j] + 2 * prior * trial[j]
        reason = accept(vectors, numbers, box, f, cuts > 0)
    return reason


def room(layout: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64], Array]:
    """What :func:`refine_packed` takes as widths, ends and work for networks of this layout."""
    ends = np.concatenate([[0, layout[0, INPUTS]], layout[:, OUTPUTS]]).cumsum()
    return np.zeros(len(layout)), ends, np.zeros((5, ends[-1] + 2 * ROOM))


def compile_refinement() -> None:
    """Compile these steps, or load them, before their first use, see :func:`~unrelu.lp.compilation.compile_by`."""
    compile_by(_smallest_refinement, refine_packed.stats.cache_path, "refinement")


def _smallest_refinement() -> None:
    """Of G(z) = relu(z)."""
    one = np.ones((1, 1))
    network = PackedNetwork.of([PackedLayer(one, np.zeros(1), Activation("relu"), 1.0)], np.float64)
    vectors, numbers = codes_at(one, one[0], one, np.zeros(1), 1)
    box = np.array([[-np.inf], [np.inf]])
    aim(vectors[0], numbers[0], box)
    weights, layout, _ = network
    refine_packed(weights, layout, *room(layout), np.zeros(1), 0.0, 1, vectors[0], numbers[0], box)
    accept(vectors[0], numbers[0], box, 1.0, False)

r"""Compiled Levenberg-Marquardt descents on small dense networks, code by code, in single precision.

A chain of dense layers with a fully observed output is packed into one vector of numbers. Many neurons of a ReLU
network are inactive at a code, so their rows of the Jacobian are zero. The normal equations leave these rows out, which
saves most of the work. Kinks are smoothed by a parabola, so smoothed networks have zero rows too. The descent of a code
does not depend on the other codes of its batch, not even in its rounding.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from unrelu.local_search.packed_observations import (
    BIAS,
    INPUTS,
    KIND,
    MATRIX,
    OUTPUTS,
    PIECEWISE_LINEAR,
    SIGMOID,
    SLOPE,
    WEIGHT,
    PackedLayer,
    PackedNetwork,
)  # fmt: skip
from unrelu.lp.compilation import compile_by
from unrelu.lp.dense_linear_algebra import clear, copy, jit
from unrelu.models.activations import Activation

Single = npt.NDArray[np.float32]

# The first damping, as a fraction of the mean diagonal of J^T J, and the smallest damping.
_DAMPING, _TINY = 1e-2, 1e-300
# The steps on the exact network before a descent may be given up. It is given up if this multiple of the predicted
# decrease of its next step is not enough.
_PATIENCE, _TRUST = 2, 2.0
# The least root mean square of a code, which is the unit of its perturbations.
SHORTEST_CODE = 1e-3
# A step is tiny if it is shorter than this fraction of the code.
_TINY_STEP = 1e-9
# Numbers left free on either side of an array that is written: more than one pass of a vectorised loop handles.
ROOM = 256


# Loops below run over slices from 0 on, since Numba does not vectorise loops whose index may be negative. A vectorised
# loop first checks whether the array it writes is close in memory to those it reads. If so, it runs number by number,
# which sums in another order. Room around written arrays makes the rounding independent of their place in memory.


@jit
def doubles(size):
    """An array of ``size`` numbers in double precision, far from other arrays."""
    return np.empty(size + 2 * ROOM)[ROOM : ROOM + size]


@jit
def _singles(size):
    """An array of ``size`` numbers in single precision, far from other arrays."""
    return np.empty(size + 2 * ROOM, np.float32)[ROOM : ROOM + size]


@jit
def _activate(kind, below, width, u, x, slopes):
    """Outputs and derivatives of one layer; ``below`` are the slopes below zero."""
    for i in range(len(u)):
        v = u[i]
        if kind == PIECEWISE_LINEAR:
            c = below[i]
            if v > width:
                x[i], slopes[i] = v, 1
            elif v <= -width:
                x[i], slopes[i] = c * v, c
            else:
                over = (v + width) / (2 * width)
                x[i] = c * v + (1 - c) * over * over * width
                slopes[i] = c + (1 - c) * over
        elif kind == SIGMOID:
            s = np.float32(1) / (np.float32(1) + np.exp(-v))
            x[i], slopes[i] = s, s * (1 - s)
        else:
            t = np.tanh(v)
            x[i], slopes[i] = t, 1 - t * t


@jit
def forward(numbers, layout, widths, z, ends, u, x, slopes):
    """Write the pre-activations u, outputs x and derivatives phi'(u) of all layers, first to last."""
    for j in range(len(z)):
        x[j] = z[j]
    for layer in range(len(layout)):
        inputs, outputs = layout[layer, INPUTS], layout[layer, OUTPUTS]
        below, here, end = ends[layer], ends[layer + 1], ends[layer + 2]
        begin = layout[layer, BIAS]
        sums = u[here:end]
        copy(numbers[begin : begin + outputs], sums)
        begin = layout[layer, MATRIX]
        for j in range(inputs):
            value = x[below + j]
            if value != 0:
                row = numbers[begin + j * outputs : begin + (j + 1) * outputs]
                for i in range(outputs):
                    sums[i] += value * row[i]
        begin = layout[layer, SLOPE]
        slopes_below = numbers[begin : begin + outputs]
        _activate(layout[layer, KIND], slopes_below, widths[layer], sums, x[here:end], slopes[here:end])
        begin = layout[layer, WEIGHT]
        if begin >= 0:
            weights = numbers[begin : begin + outputs]
            for i in range(outputs):
                x[here + i] *= weights[i]
                slopes[here + i] *= weights[i]


@jit
def residual(x, end, y, r, z, prior):
    """Write r = A G(z) - y and return f = |r|^2 + prior |z|^2."""
    f = 0.0
    outputs = x[end : end + len(y)]
    for i in range(len(y)):
        r[i] = outputs[i] - y[i]
        f += np.float64(r[i]) * np.float64(r[i])
    if prior > 0:
        for j in range(len(z)):
            f += prior * z[j] * z[j]
    return f


@jit
def _jacobian(numbers, layout, ends, slopes, moved, scratch):
    """Return the number c of non-zero rows of J and these rows, (c, k); write their numbers into ``moved``."""
    k = layout[0, INPUTS]
    count = k
    for j in range(k):
        moved[j] = j
    rows = np.empty((0, 0), np.float32)
    for layer in range(len(layout)):
        outputs, begin = layout[layer, OUTPUTS], layout[layer, MATRIX]
        derivatives = slopes[ends[layer + 1] : ends[layer + 2]]
        on = np.empty(outputs, np.uint64)  # unsigned, so that the loops over it are vectorised
        c = 0
        for i in range(outputs):
            if derivatives[i] != 0:
                on[c] = i
                c += 1
        part = scratch[: count * c].reshape(count, c)
        for b in range(count):
            row = numbers[begin + moved[b] * outputs : begin + (moved[b] + 1) * outputs]
            if c == outputs:
                for a in range(outputs):
                    part[b, a] = row[a] * derivatives[a]
            else:
                for a in range(c):
                    part[b, a] = row[on[a]] * derivatives[on[a]]
        rows = part.T.copy() if layer == 0 else np.dot(part.T, rows)
        count = c
        for a in range(c):
            moved[a] = on[a]
    return count, rows


@jit
def _normal_equations(count, rows, moved, r, z, prior, gram, gradient):
    """Write J^T J + prior I and J^T r + prior z."""
    k = len(z)
    product = np.dot(rows.T, rows)
    for i in range(k):
        gradient[i] = prior * z[i]
        for j in range(k):
            gram[i, j] = product[i, j]
        gram[i, i] += prior
    for a in range(count):
        value = np.float64(r[moved[a]])
        for i in range(k):
            gradient[i] += value * rows[a, i]


@jit
def _hold(gram, gradient, z, box):
    """Remove coordinates from the normal equations that are at a bound and that a step would move across it."""
    k = len(z)
    for j in range(k):
        if (z[j] <= box[0, j] and gradient[j] > 0) or (z[j] >= box[1, j] and gradient[j] < 0):
            for i in range(k):
                gram[i, j] = gram[j, i] = 0.0
            gradient[j] = 0.0


@jit
def _reflected(value, low, high):
    """A coordinate reflected at its bounds: repeatedly between two, once at a single one; always inside."""
    if high - low < np.inf and high > low:
        period = 2 * (high - low)
        value = (value - low) % period
        value = low + min(value, period - value)
    elif value < low:
        value = 2 * low - value
    elif value > high:
        value = 2 * high - value
    return min(max(value, low), high)


@jit
def _length(z):
    """The root mean square of a code's coordinates, the unit of its perturbations."""
    total = 0.0
    for value in z:
        total += value * value
    return max(math.sqrt(total / len(z)), SHORTEST_CODE)


@jit
def _damped_step(gram, gradient, damping, factor, step):
    """Solve (H + damping I) s = -g by Cholesky; return whether that was possible."""
    k = len(gradient)
    for i in range(k):
        for j in range(i + 1):
            value = gram[i, j]
            for p in range(j):
                value -= factor[i, p] * factor[j, p]
            if i == j:
                value += damping
                if not value > 0:
                    return False
                factor[i, i] = math.sqrt(value)
            else:
                factor[i, j] = value / factor[j, j]
    for i in range(k):
        value = -gradient[i]
        for p in range(i):
            value -= factor[i, p] * step[p]
        step[i] = value / factor[i, i]
    for i in range(k - 1, -1, -1):
        value = step[i] / factor[i, i]
        step[i] = value
        for p in range(i):
            step[p] -= factor[i, p] * value
    return True


@jit
def _steps(numbers, layout, widths, y, prior, limits, box, most, exact, z, damping, work):
    """Make at most ``most`` damped Gauss-Newton steps from z, in place, on the network with these widths.

    Coordinates held at a bound stay there, and a step ends at the nearest code inside the box (2, k). A negative
    damping stands for the default of a first step.

    Returns f, the last damping and the number of steps.
    """
    ends, u, x, slopes, scratch, moved, r, other, gram, gradient, factor, step, trial = work
    k, last = len(z), ends[len(layout)]
    tiny_decrease, enough, ceiling = limits[1], limits[2], limits[3]
    forward(numbers, layout, widths, z, ends, u, x, slopes)
    f = residual(x, last, y, r, z, prior)
    growth, small, steps, stale, mean = 2.0, 0, 0, True, 0.0
    while steps < most and small < 2 and f > enough:
        if stale:
            count, rows = _jacobian(numbers, layout, ends, slopes, moved, scratch)
            _normal_equations(count, rows, moved, r, z, prior, gram, gradient)
            stale, mean = False, np.trace(gram) / k
            _hold(gram, gradient, z, box)
            if damping < 0:
                damping = max(_DAMPING * mean, _TINY)
        steps += 1
        if not _damped_step(gram, gradient, damping, factor, step):
            damping, growth = damping * growth, growth * 2
            continue
        promised, length, size = 0.0, 0.0, 0.0
        for j in range(k):
            promised += step[j] * (damping * step[j] - gradient[j])
            length += step[j] * step[j]
            size += z[j] * z[j]
            trial[j] = min(max(z[j] + step[j], box[0, j]), box[1, j])
        arrived = damping <= 0.1 * mean and promised <= tiny_decrease * f
        if exact and (arrived or (steps > _PATIENCE and f - _TRUST * promised > ceiling)):
            break
        forward(numbers, layout, widths, trial, ends, u, x, slopes)
        reached = residual(x, last, y, other, trial, prior)
        tiny = length < _TINY_STEP * _TINY_STEP * size or damping > 1e12 * mean
        if reached < f:
            gain = 2 * (f - reached) / max(promised, _TINY) - 1
            damping, growth = damping * min(1.0, max(0.1, 1 - gain * gain * gain)), 2.0
            tiny |= f - reached < tiny_decrease * f
            f, stale = reached, True
            copy(trial, z)
            copy(other, r)
        else:
            damping, growth = damping * growth, growth * 2
        small = small + 1 if tiny else 0
    return f, damping, steps


@jit
def _descend(numbers, layout, sizes, schedule, y, prior, limits, box, z, work):
    """Descend from z, in place: one step at each width of the schedule, then steps on the exact network.

    ``limits``: the most steps on the exact network, the fraction of f that is a tiny decrease, an f that is small
    enough, and an f that the descent must reach: it is given up if its next step is predicted to gain too little.

    Returns f and the number of steps.
    """
    widths = np.zeros(len(layout), np.float32)
    damping, total = -1.0, 0
    for width in schedule:
        for layer in range(len(layout)):
            widths[layer] = width * sizes[layer]
        _, damping, steps = _steps(numbers, layout, widths, y, prior, limits, box, 1, False, z, damping, work)
        total += steps
    clear(widths)
    f, _, steps = _steps(numbers, layout, widths, y, prior, limits, box, int(limits[0]), True, z, damping, work)
    return f, total + steps


@jit
def _room(layout, outputs):
    """The work arrays of :func:`_steps`; the first says where the layers end in the others."""
    d, k = len(layout), layout[0, INPUTS]
    ends = np.zeros(d + 2, np.int64)
    largest, widest = 1, k
    ends[1] = k
    for layer in range(d):
        inputs, here = layout[layer, INPUTS], layout[layer, OUTPUTS]
        ends[layer + 2] = ends[layer + 1] + here
        largest, widest = max(largest, inputs * here), max(widest, here)
    return (
        ends, _singles(ends[d + 1]), _singles(ends[d + 1]), _singles(ends[d + 1]), _singles(largest),
        np.empty(widest, np.int64), _singles(outputs), _singles(outputs),
        doubles(k * k).reshape(k, k), doubles(k), doubles(k * k).reshape(k, k), doubles(k), doubles(k),
    )  # fmt: skip


@jit
def descend_and_perturb(numbers, layout, sizes, schedule, y, prior, limits, box, z, f, perturbations, steps):
    """Descend from codes z (c, k), then from the best code so far plus each perturbation (c, h, k), kept if lower.

    A perturbation is in units of the root mean square of its code. All codes are inside a box (2, k). A finite f (c,)
    says that z is the end of a descent already. Written in place: z, f, and the number of steps, (c,).
    """
    k, own = layout[0, INPUTS], limits.copy()
    work, code = _room(layout, len(y)), doubles(layout[0, INPUTS])
    for i in range(len(z)):
        begin = 0
        if not np.isfinite(f[i]):
            begin, f[i] = -1, np.inf
        for turn in range(begin, perturbations.shape[1]):
            widths = schedule if turn < 0 else schedule[:0]
            if turn < 0:
                copy(z[i], code)
            elif f[i] <= limits[2]:
                break
            else:
                length = _length(z[i])
                for j in range(k):
                    aimed = z[i, j] + length * perturbations[i, turn, j]
                    code[j] = _reflected(aimed, box[0, j], box[1, j])
            own[3] = f[i]
            reached, count = _descend(numbers, layout, sizes, widths, y, prior, own, box, code, work)
            steps[i] += count
            if reached < f[i]:
                f[i] = reached
                copy(code, z[i])


def compile_descents() -> None:
    """Compile or load the descents before their first use, see :func:`~unrelu.lp.compilation.compile_by`."""
    compile_by(_smallest_descent, descend_and_perturb.stats.cache_path, "descents")


def _smallest_descent() -> None:
    """Descend on G(z) = relu(z)."""
    one = np.ones((1, 1))
    network = PackedNetwork.of([PackedLayer(one, np.zeros(1), Activation("relu"), 1.0)])
    limits = np.array([1.0, 1e-2, 0.0, np.inf])
    steps = np.zeros(1, dtype=np.int64)
    y, far = np.ones(1, dtype=np.float32), np.full(1, np.inf)
    box = np.array([[-np.inf], [np.inf]])
    descend_and_perturb(*network, one[0], y, 0.0, limits, box, one.copy(), far, np.ones((1, 1, 1)), steps)

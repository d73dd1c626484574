r"""Compiled Levenberg-Marquardt descents on small dense networks, code by code, in single or double precision.

A chain of dense layers with a fully observed output is packed into one vector of numbers. Many neurons of a ReLU
network are inactive at a code, so their rows of the Jacobian are zero. The normal equations leave these rows out, which
saves most of the work. Kinks are smoothed by a parabola, so smoothed networks have zero rows too. The descent of a code
does not depend on the other codes of its batch, not even in its rounding.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.local_search import damping as rule
from unrelu.local_search._compiled_activations import activate
from unrelu.local_search._compiled_heads import apply_head, head_backward, head_jacobian
from unrelu.local_search.packed_observations import (
    ACTIVATION,
    BIAS,
    HEAD,
    INPUTS,
    KIND,
    MATRIX,
    OUTPUTS,
    Numbers,
    PackedNetwork,
    Precision,
    latent_dim,
)
from unrelu.measurements.folding import FoldedLayer
from unrelu.models.activations import Activation
from unrelu.runtime.array_types import Array, Integers
from unrelu.runtime.compilation import compile_by, inlined, jit, kernel

# The smallest damping, and the smallest promised decrease.
_TINY = 1e-300
# The least root mean square of a code, which is the unit of its perturbations.
SHORTEST_CODE = 1e-3
# The free numbers on either side of an array that is written: more than one pass of a vectorised loop handles.
ROOM = 256


_factor, _arrived, _hopeless, _tiny = (jit(each) for each in (rule.factor, rule.arrived, rule.hopeless, rule.tiny))


# Loops below run over slices from 0 on, since Numba does not vectorise loops whose index may be negative. A vectorised
# loop first checks whether the array it writes is close in memory to those it reads. If so, it runs number by number,
# which sums in another order. Room around written arrays makes the rounding independent of their place in memory.


@jit
def copy(source, target):
    """Copy ``source`` to ``target`` of the same size by a loop: a slice assignment also compiles its error message."""
    for i in range(len(target)):
        target[i] = source[i]


@jit
def forward(numbers, layout, heads, widths, z, ends, x, slopes):
    """Write the outputs x and the derivatives of all layers, first to last."""
    copy(z, x[: len(z)])
    for layer in range(len(layout)):
        inputs, outputs = layout[layer, INPUTS], layout[layer, OUTPUTS]
        below, here, end = ends[layer], ends[layer + 1], ends[layer + 2]
        bias, matrix, parameters = layout[layer, BIAS], layout[layer, MATRIX], layout[layer, ACTIVATION]
        sums = x[here:end]
        if heads is not None and layout[layer, KIND] == HEAD:
            u = x[ends[1] - inputs : ends[1]]
            apply_head(numbers, layout[layer], u, x[below:here], sums, slopes[here:end])
            continue
        copy(numbers[bias : bias + outputs], sums)
        for j in range(inputs):
            value = x[below + j]
            if value != 0:
                row = numbers[matrix + j * outputs : matrix + (j + 1) * outputs]
                for i in range(outputs):
                    sums[i] += value * row[i]
        weights = numbers[parameters : parameters + 3 * outputs]
        activate(layout[layer, KIND], weights, widths[layer], sums, slopes[here:end])


@jit
def residual(x, end, y, r, z, prior):
    """Write r = A G(z) - y and return f = |r|^2 + sum_j prior_j z_j^2."""
    f = 0.0
    outputs = x[end : end + len(y)]
    for i in range(len(y)):
        r[i] = outputs[i] - y[i]
        f += np.float64(r[i]) * np.float64(r[i])
    for j in range(len(z)):
        if prior[j] > 0:
            f += prior[j] * z[j] * z[j]
    return f


@kernel
def value_and_gradient(numbers, layout, heads, widths, ends, x, slopes, back, y, prior, z, gradient):
    """Return f and write its gradient by a reverse pass; x, slopes and ``back`` are work arrays of all layers."""
    last = ends[len(layout)]
    forward(numbers, layout, heads, widths, z, ends, x, slopes)
    f = residual(x, last, y, back[last : last + len(y)], z, prior)
    for j in range(layout[0, INPUTS], ends[1]):
        back[j] = 0.0
    for layer in range(len(layout) - 1, -1, -1):
        outputs, begin = layout[layer, OUTPUTS], layout[layer, MATRIX]
        below, here = ends[layer], ends[layer + 1]
        there = back[here : here + outputs]
        if heads is not None and layout[layer, KIND] == HEAD:
            u = x[ends[1] - layout[layer, INPUTS] : ends[1]]
            by_u = back[ends[1] - len(u) : ends[1]]
            head_backward(numbers, layout[layer], u, x[below:here], slopes[here:], there, back[below:here], by_u)
            continue
        for i in range(outputs):
            there[i] *= slopes[here + i]
        for j in range(layout[layer, INPUTS]):
            value = 0.0
            if layer == 0 or slopes[below + j] != 0:
                row = numbers[begin + j * outputs : begin + (j + 1) * outputs]
                for i in range(outputs):
                    value += row[i] * there[i]
            back[below + j] = value
    for j in range(len(z)):
        gradient[j] = 2 * (back[j] + prior[j] * z[j])
    return f


@jit
def _nonzero(derivatives, on):
    """Write the indices of the non-zero derivatives into ``on``; return how many there are."""
    count = 0
    for i in range(len(derivatives)):
        if derivatives[i] != 0:
            on[count] = i
            count += 1
    return count


@jit
def _jacobian(numbers, layout, heads, ends, x, slopes, moved, on, part, rows, above):
    """Return the number c of non-zero rows of J and an array that begins with them; write their indices to ``moved``.

    ``part``, a vector, and ``rows`` and ``above``, with a column for each latent coordinate, are work arrays.
    """
    depth = len(layout) if heads is None else len(layout) - heads
    count, rows, above = _jacobian_of_layers(numbers, layout[:depth], ends, slopes, moved, on, part, rows, above)
    if heads is not None:
        known = layout[0, INPUTS]
        for i in range(depth, len(layout)):
            u, below, derivatives = x[known : ends[1]], x[ends[i] : ends[i + 1]], slopes[ends[i + 1] : ends[i + 2]]
            head_jacobian(numbers, layout[i], u, below, derivatives, moved[:count], rows, above, i == depth)
            for j in range(len(derivatives)):
                moved[j] = j
            count, rows, above = len(derivatives), above, rows
    return count, rows


@inlined
def _jacobian_of_layers(numbers, layout, ends, slopes, moved, on, part, rows, above):
    """Return the number of non-zero rows of J below the heads, an array that begins with these rows, and a free array.

    The columns for the latent coordinates of heads have no meaning yet.
    """
    k = layout[0, INPUTS]
    count = k
    for j in range(k):
        moved[j] = j
    for layer in range(len(layout)):
        outputs, begin = layout[layer, OUTPUTS], layout[layer, MATRIX]
        derivatives = slopes[ends[layer + 1] : ends[layer + 2]]
        c = _nonzero(derivatives, on)
        for b in range(count):
            row = numbers[begin + moved[b] * outputs : begin + (moved[b] + 1) * outputs]
            scaled = part[b * c : b * c + c]
            if c == outputs:
                for a in range(c):
                    scaled[a] = row[a] * derivatives[a]
            else:
                for a in range(c):
                    scaled[a] = row[on[a]] * derivatives[on[a]]
        if layer == 0:
            for a in range(c):
                for b in range(k):
                    rows[a, b] = part[b * c + a]
        else:
            np.dot(part[: count * c].reshape(count, c).T, rows[:count], above[:c])
            rows, above = above, rows
        count = c
        for a in range(c):
            moved[a] = on[a]
    return count, rows, above


@jit
def _normal_equations(count, rows, moved, r, z, prior, box, square, gram, gradient):
    """Write J^T J + diag(prior) and J^T r + prior * z; return the mean of the diagonal. ``square`` is a work array.

    Then remove the coordinates at a bound that a step would cross.
    """
    k, trace = len(z), 0.0
    np.dot(rows[:count].T, rows[:count], square)
    for i in range(k):
        gradient[i] = prior[i] * z[i]
        for j in range(k):
            gram[i, j] = square[i, j]
        gram[i, i] += prior[i]
        trace += gram[i, i]
    for a in range(count):
        value = np.float64(r[moved[a]])
        for i in range(k):
            gradient[i] += value * rows[a, i]
    for j in range(k):
        if (z[j] <= box[0, j] and gradient[j] > 0) or (z[j] >= box[1, j] and gradient[j] < 0):
            for i in range(k):
                gram[i, j] = gram[j, i] = 0.0
            gradient[j] = 0.0
    return trace / k


@jit
def _reflected(value, low, high):
    """Reflect a coordinate at its bounds, repeatedly between two, once at a single one; the result is inside."""
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


@inlined
def _steps(network, widths, y, prior, limits, ceiling, box, exact, z, damping, work):
    """Make damped Gauss-Newton steps from z, in place, on the network smoothed with ``widths``.

    Coordinates held at a bound stay there, and a step ends at the nearest code inside the box (2, k). A negative
    damping stands for the default of a first step. If the network is smoothed, not ``exact``, make one step. A descent
    is given up if its next step is predicted to gain too little for the ``ceiling``.

    Return f, the last damping and the number of steps.
    """
    numbers, layout, heads, _ = network
    k, m, ends, moved = len(z), len(y), work.ends, work.moved
    last, x, slopes, r, other = ends[len(layout)], work.x, work.slopes, work.residual[:m], work.other[:m]
    gradient, step, trial, gram = work.gradient[:k], work.step[:k], work.trial[:k], work.gram
    most = limits.steps if exact else 1
    forward(numbers, layout, heads, widths, z, ends, x, slopes)
    f = residual(x, last, y, r, z, prior)
    growth, small, steps, stale, mean = 2.0, 0, 0, True, 0.0
    while steps < most and small < rule.TINY_STEPS and f > limits.enough:
        if stale:
            count, rows = _jacobian(
                numbers, layout, heads, ends, x, slopes, moved, work.on, work.part, work.rows, work.above
            )
            mean = _normal_equations(count, rows, moved, r, z, prior, box, work.square, gram, gradient)
            stale = False
            if damping < 0:
                damping = max(rule.FIRST_DAMPING * mean, _TINY)
        steps += 1
        if not _damped_step(gram, gradient, damping, work.factor, step):
            damping, growth = damping * growth, growth * 2
            continue
        promised, length, size = 0.0, 0.0, 0.0
        for j in range(k):
            promised += step[j] * (damping * step[j] - gradient[j])
            length += step[j] * step[j]
            size += z[j] * z[j]
            trial[j] = min(max(z[j] + step[j], box[0, j]), box[1, j])
        enough_decrease = limits.tiny_decrease * f
        if exact and (_arrived(damping, mean, promised, enough_decrease) or _hopeless(steps, f, promised, ceiling)):
            break
        forward(numbers, layout, heads, widths, trial, ends, x, slopes)
        reached = residual(x, last, y, other, trial, prior)
        is_tiny = _tiny(f - reached, enough_decrease, length, size, damping, mean)
        if reached < f:
            change = min(1.0, max(rule.LEAST_FACTOR, _factor(f - reached, max(promised, _TINY))))
            damping, growth = damping * change, 2.0
            f, stale = reached, True
            copy(trial, z)
            copy(other, r)
        else:
            damping, growth = damping * growth, growth * 2
        small = small + 1 if is_tiny else 0
    return f, damping, steps


class DescentLimits(NamedTuple):
    """Where descents end.

    Attributes:
        steps: the most steps on the exact network.
        tiny_decrease: a decrease of f by less than this fraction is tiny.
        enough: an f that is small enough.
    """

    steps: int
    tiny_decrease: float
    enough: float


class DescentArrays(NamedTuple):
    """The work arrays of descents. ``ends`` says where the layers end in ``x`` and ``slopes``, (d + 2,).

    Arrays that are written are :data:`ROOM` apart, so the first row of an array of rows stays empty.
    """

    ends: Integers
    moved: Integers
    on: npt.NDArray[np.uint64]
    x: Numbers
    slopes: Numbers
    residual: Numbers
    other: Numbers
    widths: Numbers
    part: Numbers
    code: Array
    gradient: Array
    step: Array
    trial: Array
    gram: Array
    factor: Array
    square: Numbers
    rows: Numbers
    above: Numbers

    @classmethod
    def of(cls, layout: Integers, dtype: Precision = np.float32) -> DescentArrays:
        """Allocate the work arrays for a layout of packed networks."""

        def apart(kind: type[np.floating[Any]], *shape: int) -> npt.NDArray[Any]:
            return np.zeros(math.prod(shape) + 2 * ROOM, kind)[ROOM:-ROOM].reshape(shape)

        k, double = latent_dim(layout), np.float64
        ends = np.concatenate([[0, k], layout[:, OUTPUTS]]).cumsum()
        widest = max(k, int(layout[:, OUTPUTS].max()))
        _, x, slopes, residual, other, widths = np.empty((6, ends[-1] + ROOM), dtype)
        _, code, gradient, step, trial = np.empty((5, k + ROOM))
        return cls(
            ends, np.empty(widest, np.int64), np.empty(widest, np.uint64), x, slopes, residual, other, widths,
            apart(dtype, int(layout[:, INPUTS].max()) * widest), code, gradient, step, trial, apart(double, k, k),
            apart(double, k, k), apart(dtype, k, k), apart(dtype, widest, k), apart(dtype, widest, k),
        )  # fmt: skip


@kernel
def descend_and_perturb(network, schedule, y, prior, limits, box, z, f, perturbations, steps, work):
    """Descend from codes z (c, k), then from the best code so far plus each perturbation (c, h, k); keep lower codes.

    A descent makes one step at each width of the schedule, then steps on the exact network. Perturbed codes begin on
    the exact network. A perturbation is in units of the root mean square of its code. All codes are inside a box
    (2, k). A finite f (c,) says that z is already the end of a descent. Written in place: z, f, and the number of
    steps, (c,). ``work`` is for the layout of the :class:`PackedNetwork`.
    """
    k, widths, stages = z.shape[1], work.widths[: len(network.layout)], len(schedule)
    code = work.code[:k]
    for i in range(len(z)):
        begin = 0
        if not f[i] < np.inf:
            begin, f[i] = -1, np.inf
        for turn in range(begin, perturbations.shape[1]):
            if turn < 0:
                copy(z[i], code)
            elif f[i] <= limits.enough:
                break
            else:
                length = 0.0
                for j in range(k):
                    length += z[i, j] * z[i, j]
                length = max(math.sqrt(length / k), SHORTEST_CODE)
                for j in range(k):
                    aimed = z[i, j] + length * perturbations[i, turn, j]
                    code[j] = _reflected(aimed, box[0, j], box[1, j])
            damping, reached = -1.0, np.inf
            for stage in range(0 if turn < 0 else stages, stages + 1):
                for layer in range(len(widths)):
                    widths[layer] = schedule[stage] * network.sizes[layer] if stage < stages else 0.0
                reached, damping, count = _steps(
                    network, widths, y, prior, limits, f[i], box, stage == stages, code, damping, work
                )
                steps[i] += count
            if reached < f[i]:
                f[i] = reached
                copy(code, z[i])


def compile_descents(dtype: Precision = np.float32, heads: int | None = None) -> None:
    """Compile or load the descents before their first use, by running them on G(z) = relu(z) without any codes."""
    network = PackedNetwork.of([FoldedLayer(np.ones((1, 1)), np.zeros(1), Activation("relu"))], [1.0], dtype)
    none, codes = np.zeros(0), np.zeros((0, 1))
    limits, work = DescentLimits(0, 0.0, 0.0), DescentArrays.of(network.layout, dtype)
    run = partial(
        descend_and_perturb, network._replace(heads=heads), none, none.astype(dtype), none, limits, codes, codes, none,
        codes[None], np.zeros(0, np.int64), work,
    )  # fmt: skip
    what = f"descents in {np.dtype(dtype).name}, heads: {heads is not None}"
    compile_by(run, descend_and_perturb.stats.cache_path, what)

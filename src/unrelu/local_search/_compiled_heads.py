"""Compiled affine heads (:mod:`~unrelu.models.affine_head`): outputs, derivatives, and products with derivatives.

``head`` is the row of a head in the layout of a packed network, u are its latent coordinates, (p,), and ``below`` are
the outputs below it, (n,).
"""

from __future__ import annotations

import math

from unrelu.local_search.packed_observations import ACTIVATION, BIAS, INPUTS, MATRIX, OUTPUTS
from unrelu.runtime.compilation import jit


@jit
def _parameter(numbers, head, j, u):
    """Return tau of parameter number j, and its derivative by u."""
    straight, shift, factor = numbers[head[ACTIVATION] + 3 * j : head[ACTIVATION] + 3 * j + 3]
    v = shift + factor * u[j]
    if straight > 0:
        return v, factor
    return 0.5 * math.erfc(-math.sqrt(0.5) * v), factor * math.exp(-0.5 * v * v) / math.sqrt(2 * math.pi)


@jit
def _rate(numbers, head, j, i, below):
    """Return the derivative of output i by tau of parameter number j."""
    place = (1 + j) * head[OUTPUTS] + i
    return numbers[head[MATRIX] + place] * below[i] + numbers[head[BIAS] + place]


@jit
def apply_head(numbers, head, u, below, x, slopes):
    """Write the outputs x and their derivatives by the outputs below, (n,) each."""
    n, scale, offset = head[OUTPUTS], head[MATRIX], head[BIAS]
    for i in range(n):
        x[i], slopes[i] = numbers[offset + i], numbers[scale + i]
    for j in range(head[INPUTS]):
        tau, _ = _parameter(numbers, head, j, u)
        for i in range(n):
            x[i] += tau * numbers[offset + (1 + j) * n + i]
            slopes[i] += tau * numbers[scale + (1 + j) * n + i]
    for i in range(n):
        x[i] += slopes[i] * below[i]


@jit
def head_jacobian(numbers, head, u, below, slopes, moved, rows, above, first):
    """Write the Jacobian into the first n rows of ``above``, given the ``moved`` rows of the Jacobian below the head.

    The outputs below the ``first`` head do not depend on u.
    """
    n, p, k = head[OUTPUTS], head[INPUTS], above.shape[1]
    for i in range(n):
        for b in range(k):
            above[i, b] = 0.0
    for a in range(len(moved)):
        for b in range(k - p if first else k):
            above[moved[a], b] = slopes[moved[a]] * rows[a, b]
    for j in range(p):
        _, rise = _parameter(numbers, head, j, u)
        for i in range(n):
            above[i, k - p + j] += rise * _rate(numbers, head, j, i, below)


@jit
def head_backward(numbers, head, u, below, slopes, r, back, back_u):
    """Propagate the derivatives r by the outputs: write the derivatives by the outputs below, add the ones by u."""
    for j in range(head[INPUTS]):
        _, rise = _parameter(numbers, head, j, u)
        for i in range(head[OUTPUTS]):
            back_u[j] += rise * r[i] * _rate(numbers, head, j, i, below)
    for i in range(head[OUTPUTS]):
        back[i] = slopes[i] * r[i]

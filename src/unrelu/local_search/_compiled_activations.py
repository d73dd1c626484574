"""Compiled activations of one layer, in single or double precision: their outputs and derivatives."""

from __future__ import annotations

import math

import numpy as np

from unrelu.lp.compilation import jit
from unrelu.models.activations import (
    ELU,
    EXP,
    GELU,
    GELU_CUBIC,
    GELU_LINEAR,
    GELU_TANH,
    HARDSIGMOID,
    HARDSWISH,
    HARDTANH,
    MISH,
    PIECEWISE_LINEAR,
    SELU,
    SELU_ALPHA,
    SELU_SCALE,
    SIGMOID,
    SIN,
    SOFTPLUS,
    TANH,
)


@jit
def _gate(kind, t):
    """g and g' of base functions g(t), which are sigmoids, and t g(t)."""
    number = type(t)
    one, half = number(1), number(0.5)
    if kind == GELU:
        density = np.exp(-half * t * t)
        if one + number(1e-9) != one:
            below = half * math.erfc(abs(t) * number(math.sqrt(0.5)))
        else:  # single precision: formula 7.1.26 of Abramowitz and Stegun, off by 1.5e-7 at most
            k = one / (one + number(0.3275911 * math.sqrt(0.5)) * abs(t))
            tail = number(-0.284496736) + k * (
                number(1.421413741) + k * (number(-1.453152027) + k * number(1.061405429))
            )
            below = half * density * k * (number(0.254829592) + k * tail)
        return (one - below if t > 0 else below), density * number(1 / math.sqrt(2 * math.pi))
    if kind in (HARDSIGMOID, HARDSWISH):
        return min(max(t / number(6) + half, number(0)), one), number(abs(t) < 3) / number(6)
    q, rise = t, one
    if kind == GELU_TANH:
        q, rise = number(GELU_LINEAR) * t, number(GELU_LINEAR)
        square = number(GELU_CUBIC) * t * t
        q, rise = q * (one + square), rise * (one + number(3) * square)
    elif kind == MISH:  # tanh(log(1 + e)) is the sigmoid of t + log(1 + e / 2), where e = exp(t)
        e = half * np.exp(min(t, number(40)))
        q, rise = t + np.log(one + e), one + e / (one + e)
    s = one / (one + np.exp(-q))
    return s, s * (one - s) * rise


@jit
def _base_function(kind, t):
    """b(t) and b'(t) of an activation that is not piecewise linear, in the precision of t."""
    number = type(t)
    zero, one = number(0), number(1)
    if kind == TANH:
        b = np.tanh(t)
        return b, one - b * b
    if kind == EXP:
        b = np.exp(t)
        return b, b
    if kind == SIN:
        return np.sin(t), np.cos(t)
    if kind == HARDTANH:
        return min(max(t, -one), one), number(abs(t) < 1)
    if kind == SOFTPLUS:
        e = np.exp(-abs(t))
        return max(t, zero) + np.log(one + e), (one if t > 0 else e) / (one + e)
    if kind in (ELU, SELU):
        scale, alpha = (number(SELU_SCALE), number(SELU_ALPHA)) if kind == SELU else (one, one)
        if t > 0:
            return scale * t, scale
        e = scale * alpha * np.exp(t)
        return scale * alpha * np.expm1(t), e
    g, slope = _gate(kind, t)
    if kind in (SIGMOID, HARDSIGMOID):
        return g, slope
    return t * g, g + t * slope


@jit
def activate(kind, below, width, u, x, slopes):
    """Outputs and derivatives of one layer; ``below`` are the slopes c and then the steepnesses a of its activation."""
    for i in range(len(u)):
        v, c = u[i], below[i]
        if kind == PIECEWISE_LINEAR:
            if v > width:
                x[i], slopes[i] = v, 1
            elif v <= -width:
                x[i], slopes[i] = c * v, c
            else:
                over = (v + width) / (2 * width)
                x[i] = c * v + (1 - c) * over * over * width
                slopes[i] = c + (1 - c) * over
        elif c == 1:
            x[i], slopes[i] = v, 1
        else:
            a = below[len(u) + i]
            b, slope = _base_function(kind, a * v)
            x[i], slopes[i] = c * v + (1 - c) * b / a, c + (1 - c) * slope

"""Compiled activations of one layer, in single or double precision: their outputs and derivatives."""

from __future__ import annotations

import math

import numpy as np

from unrelu.models import activations as of
from unrelu.runtime.compilation import jit


@jit
def _gate(kind, t):
    """Return g(t) and g'(t) of an activation whose base function is the sigmoid g(t) or the product t g(t)."""
    if kind == of.GELU:
        return 0.5 * math.erfc(-math.sqrt(0.5) * t), math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    if kind in (of.HARDSIGMOID, of.HARDSWISH):
        return min(max(t / 6 + 0.5, 0.0), 1.0), 1 / 6 if abs(t) < 3 else 0.0
    q, rise = t, 1.0
    if kind == of.GELU_TANH:
        square = of.GELU_CUBIC * t * t
        q, rise = of.GELU_LINEAR * t * (1 + square), of.GELU_LINEAR * (1 + 3 * square)
    elif kind == of.MISH:  # tanh(log(1 + e)) is the sigmoid of t + log(1 + e / 2), where e = exp(t)
        e = 0.5 * math.exp(min(t, 40.0))
        q, rise = t + math.log1p(e), 1 + e / (1 + e)
    s = 1 / (1 + math.exp(-q))
    return s, s * (1 - s) * rise


@jit
def _base_function(kind, t):
    """Return b(t) and b'(t) of an activation that is not piecewise linear, in double precision."""
    if kind == of.TANH:
        b = math.tanh(t)
        return b, 1 - b * b
    if kind == of.EXP:
        b = math.exp(t)
        return b, b
    if kind == of.SIN:
        return math.sin(t), math.cos(t)
    if kind == of.HARDTANH:
        return min(max(t, -1.0), 1.0), 1.0 if abs(t) < 1 else 0.0
    if kind == of.SOFTPLUS:
        e = math.exp(-abs(t))
        return max(t, 0.0) + math.log1p(e), (1.0 if t > 0 else e) / (1 + e)
    if kind in (of.ELU, of.SELU):
        scale, alpha = (of.SELU_SCALE, of.SELU_ALPHA) if kind == of.SELU else (1.0, 1.0)
        if t > 0:
            return scale * t, scale
        return scale * alpha * math.expm1(t), scale * alpha * math.exp(t)
    g, slope = _gate(kind, t)
    if kind in (of.SIGMOID, of.HARDSIGMOID):
        return g, slope
    return t * g, g + t * slope


@jit
def activate(kind, parameters, width, x, slopes):
    """Replace a layer's sums x by its outputs, and write their derivatives; ``parameters`` are all c, all a, all w."""
    n = len(x)
    for i in range(n):
        v, c, w = x[i], parameters[i], parameters[2 * n + i]
        if kind == of.PIECEWISE_LINEAR:
            if v > width:
                x[i], slopes[i] = w * v, w
            elif v <= -width:
                x[i], slopes[i] = w * c * v, w * c
            else:
                over = (v + width) / (2 * width)
                x[i] = w * (c * v + (1 - c) * over * over * width)
                slopes[i] = w * (c + (1 - c) * over)
        elif c == 1:
            x[i], slopes[i] = w * v, w
        else:
            a = parameters[n + i]
            b, slope = _base_function(kind, np.float64(a * v))
            x[i], slopes[i] = w * (c * v + (1 - c) * b / a), w * (c + (1 - c) * slope)

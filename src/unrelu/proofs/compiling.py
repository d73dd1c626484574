"""Compiling the kernels of proofs before their first use."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from unrelu.layer.compiling import with_notice
from unrelu.layer.dense import ROUTINES
from unrelu.proofs.primal import primal_simplex
from unrelu.proofs.simplex import dual_simplex

__all__ = ["compile_simplex"]


@cache
def compile_simplex() -> None:
    """Compile both, or load them from the cache beside the installed files; says so if it takes more than a second."""
    with_notice(dual_simplex, _run)


def _run() -> None:
    """min x subject to x >= 1, x <= 2."""
    rows, norms, hard = np.array([[1.0]]), np.ones(1), np.full(1, math.inf)
    lo, hi, cost = np.ones(1), np.full(1, 2.0), np.ones(1)
    basis, upper, state = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool), np.zeros(1, dtype=np.int8)
    edges, y, x, r = np.zeros((1, 1)), np.zeros(1), np.zeros(1), np.zeros(1)
    ray = np.zeros(2)
    dual_simplex(
        ROUTINES, rows, norms, lo, hi, hard, hard, cost, basis, upper, state, edges, True, y, x, r, ray, math.inf, 9
    )
    primal_simplex(ROUTINES, rows, norms, lo, hi, cost, basis, upper, edges, True, y, x, r, 9)

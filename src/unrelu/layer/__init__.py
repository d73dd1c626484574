"""Inverting one layer: given x = phi(W h + b) + e, find h."""

from __future__ import annotations

from unrelu.layer.exact import Exact
from unrelu.layer.l1 import L1
from unrelu.layer.least_squares import LeastSquares
from unrelu.layer.linf import LInf
from unrelu.layer.relaxed import Relaxed
from unrelu.layer.rows import LayerSystem, Rows, rows
from unrelu.layer.solution import LayerMethod, LayerSolution

__all__ = [
    "L1",
    "Exact",
    "LInf",
    "LayerMethod",
    "LayerSolution",
    "LayerSystem",
    "LeastSquares",
    "Relaxed",
    "Rows",
    "rows",
]

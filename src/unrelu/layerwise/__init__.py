"""Inverting one layer: given x = phi(W h + b) + e, find h.

Experiments and reasons for the design: studies/notes/layer_programs.md.
"""

from __future__ import annotations

from unrelu.layerwise._layer_method import LayerMethod, LayerSolution
from unrelu.layerwise.algorithm_1 import LInf
from unrelu.layerwise.algorithm_2 import L1, LeastSquares, Relaxed
from unrelu.layerwise.exact import Exact
from unrelu.layerwise.layer_constraints import LayerSystem, Rows, rows

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

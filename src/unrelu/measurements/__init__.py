"""Measurements y = A G(z) + e: masks, matrices, SciPy and PyLops operators, functions.

>>> import unrelu
>>> unrelu.measurements.read_operator([[0.5, 0.5, 0.0]], (3,), (1,)).kind
'matrix'

Design notes: studies/notes/measurements.md.
"""

from __future__ import annotations

from unrelu.measurements._emulator_error import emulator_error
from unrelu.measurements.additive_noise import Gaussian, Outliers, Uniform
from unrelu.measurements.count_noise import NegativeBinomial, Poisson
from unrelu.measurements.noise import Fit, Likelihood, Noise
from unrelu.measurements.operator_arguments import Mask, Matrix, NonlinearOperator, read_operator
from unrelu.measurements.operators import (
    IdentityOperator,
    MatrixFreeOperator,
    MatrixOperator,
    Operator,
    WeightedOperator,
)

__all__ = [
    "Fit",
    "Gaussian",
    "IdentityOperator",
    "Likelihood",
    "Mask",
    "Matrix",
    "MatrixFreeOperator",
    "MatrixOperator",
    "NegativeBinomial",
    "Noise",
    "NonlinearOperator",
    "Operator",
    "Outliers",
    "Poisson",
    "Uniform",
    "WeightedOperator",
    "emulator_error",
    "read_operator",
]

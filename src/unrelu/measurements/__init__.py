"""Measurements y = A G(z) + e: masks, matrices, SciPy and PyLops operators, functions.

>>> from unrelu import measurements
>>> measurements.downsample((4, 4), 2).shape
(4, 16)

Design notes: studies/notes/measurements.md.
"""

from __future__ import annotations

from unrelu.measurements._nonlinear_operator import ClippedOperator, NonlinearOperator
from unrelu.measurements.additive_noise import Gaussian, Outliers, Uniform
from unrelu.measurements.count_noise import NegativeBinomial, Poisson
from unrelu.measurements.linear_operators import (
    IdentityOperator,
    MatrixFreeOperator,
    MatrixOperator,
    Operator,
    WeightedOperator,
)
from unrelu.measurements.noise import Fit, Likelihood, Noise
from unrelu.measurements.operator_arguments import Mask, Matrix, blur, downsample, partial_fourier, read_operator

__all__ = [
    "ClippedOperator",
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
    "blur",
    "downsample",
    "partial_fourier",
    "read_operator",
]

"""Linear measurements y = A G(z) + e: masks, matrices, SciPy and PyLops operators, pairs of functions."""

from __future__ import annotations

from unrelu.operators.base import Identity, Mapped, MaskOperator, MatrixOperator, Operator, Sparse
from unrelu.operators.reading import read_operator
from unrelu.operators.ready_made import blur, downsample, partial_fourier
from unrelu.operators.typed import Mask, Matrix

__all__ = [
    "Identity",
    "Mapped",
    "Mask",
    "MaskOperator",
    "Matrix",
    "MatrixOperator",
    "Operator",
    "Sparse",
    "blur",
    "downsample",
    "partial_fourier",
    "read_operator",
]

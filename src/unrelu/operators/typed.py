"""Typed wrappers: which kind of operator an array is, where its shape alone would not tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Mask", "Matrix"]


@dataclass(frozen=True, eq=False)
class Mask:
    r"""An array that is one mask for all observations, or one for each: :math:`(A x)_j = m_j x_j`, m_j in {0, 1}.

    Attributes:
        array: 0/1 or booleans, of the output's shape or flat (n,); or a batch of them, (B, ...). It is checked where it
            is used as ``operator=``, which raises :class:`~unrelu.errors.InputError` for other shapes and values.
    """

    array: Any


@dataclass(frozen=True, eq=False)
class Matrix:
    r"""An array that is a matrix on the flattened output, the same for all observations: :math:`A x`, A (m, n).

    Attributes:
        array: (m, n), dense or SciPy sparse, also of zeros and ones. It is checked where it is used as ``operator=``,
            which raises :class:`~unrelu.errors.InputError` for another shape or entries that are not finite.
    """

    array: Any

"""Dense linear algebra for the compiled kernels: the normal matrix, its Cholesky factor, the inverse of a basis.

Everything runs without the GIL. Products and factorisations are BLAS and LAPACK calls; NaN is never assumed away.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numba.experimental.function_type  # registers WrapperAddressProtocol
import numpy as np
from numba.core import types
from numba.extending import get_cython_function_address

__all__ = ["DSYRK", "advance", "clear", "dot", "factorise", "gram", "inverse", "jit", "solve_factorised"]

# Reordered sums and fused multiply-adds, but NaN, infinities and division as IEEE has them.
jit: Any = partial(
    numba.njit, cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)

# Rows with less than this share of the largest weight are left out of the normal matrix.
_NEGLIGIBLE = 1e-4
# A basis whose inverse is larger than this, relative to the basis, is as good as singular.
_LARGEST_INVERSE = 1e8
_CHARACTERS = np.frombuffer(b"UN", dtype=np.uint8).copy()
_ONE_ZERO = np.array([1.0, 0.0])


class _Blas(types.WrapperAddressProtocol):
    """A BLAS routine of SciPy as an argument of compiled code: as an argument, its address is in no cached file.

    Numba's own products are general ones; a symmetric one (dsyrk) takes 60% of the time.
    """

    def __init__(self, name: str, arguments: int) -> None:
        self._address = get_cython_function_address("scipy.linalg.cython_blas", name)
        self._signature = types.void(*[types.voidptr] * arguments)

    def __wrapper_address__(self) -> int:
        return int(self._address)

    def signature(self) -> Any:
        return self._signature


DSYRK = _Blas("dsyrk", 10)


@jit
def gram(dsyrk, matrix, weight, scaled, out):
    """Write the lower triangle of W^T diag(weight) W, weight >= 0, into ``out``, without rows of negligible weight.

    ``scaled`` is work space of the size of W.
    """
    n, k = matrix.shape
    largest, count = 0.0, 0
    for j in range(n):
        largest = max(largest, weight[j])
    floor = _NEGLIGIBLE * largest
    for j in range(n):
        if weight[j] <= floor:
            continue
        root = np.sqrt(weight[j])
        for i in range(k):
            scaled[count, i] = root * matrix[j, i]
        count += 1
    # In Fortran's order ``scaled`` is k x count, and the upper triangle is ours below the diagonal.
    sizes, numbers, letters = np.empty(2, np.int32), _ONE_ZERO.copy(), _CHARACTERS.copy()
    sizes[0], sizes[1] = k, count
    dsyrk(
        letters[0:].ctypes, letters[1:].ctypes, sizes[0:].ctypes, sizes[1:].ctypes, numbers[0:].ctypes,
        scaled.ctypes, sizes[0:].ctypes, numbers[1:].ctypes, out.ctypes, sizes[0:].ctypes,
    )


@jit
def advance(x, step, direction):
    """x += step * direction; loops like this one compile in a tenth of the time that array expressions take."""
    for i in range(len(x)):
        x[i] += step * direction[i]


@jit
def clear(x):
    """x = 0."""
    for i in range(len(x)):
        x[i] = 0.0


@jit
def dot(x, y):
    """The inner product."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@jit
def factorise(matrix, ridge):
    """The Cholesky factor L of a symmetric positive semidefinite matrix of which the lower triangle is given.

    ``ridge`` times the mean of the diagonal is added to the diagonal; ever more where the factorisation breaks down.

    Returns:
        L, and whether it exists.
    """
    k = len(matrix)
    mean = 0.0
    for i in range(k):
        mean += matrix[i, i] / k
    added = 0.0
    for _ in range(7):
        if not np.isfinite(mean):
            break
        extra = ridge * mean + 1e-300
        for i in range(k):
            matrix[i, i] += extra - added
        added = extra
        try:
            factor = np.linalg.cholesky(matrix)
            return factor, True
        except Exception:
            ridge *= 100.0
    return matrix, False


@jit
def solve_factorised(factor, rhs):
    """Solve L L^T x = rhs."""
    k = len(rhs)
    x = rhs.copy()
    for i in range(k):
        total = x[i]
        for j in range(i):
            total -= factor[i, j] * x[j]
        x[i] = total / factor[i, i]
    for i in range(k - 1, -1, -1):
        value = x[i] / factor[i, i]
        x[i] = value
        for j in range(i):
            x[j] -= value * factor[i, j]
    return x


@jit
def inverse(matrix):
    """The transposed inverse of a matrix, rows contiguous, and whether it exists and is not mere rounding."""
    try:
        result = np.linalg.inv(matrix).T
    except Exception:
        return matrix, False
    largest = 0.0
    size = 0.0
    k = len(matrix)
    for i in range(k):
        for j in range(k):
            largest = max(largest, abs(result[i, j]))
            size = max(size, abs(matrix[i, j]))
    return result, largest * size < _LARGEST_INVERSE

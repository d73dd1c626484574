"""Dense linear algebra for the compiled kernels: the normal matrix, its Cholesky factor, the inverse of a basis.

All functions run without the GIL. Products and factorisations are BLAS and LAPACK calls. NaN is handled everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import alloca_once_value
from numba.extending import get_cython_function_address, intrinsic

from unrelu.lp.compilation import jit, kernel

# Numbers below this are finite. np.isfinite computes x - x, which reordering replaces by 0, so comparisons are used.
_HUGE = 1e300
# A basis counts as singular if the square of the norm of a row times that of its edge is larger.
_LARGEST_INVERSE = 1e16
# Arguments of the Fortran routines.
UPPER, PLAIN, TRANSPOSED = (np.uint8(ord(letter)) for letter in "UNT")


def _addresses() -> tuple[int, ...]:
    """Addresses of SciPy's BLAS and LAPACK routines, which compiled functions take as ``routines``.

    Numba's own wrappers of them compile slowly. The addresses are arguments so that they are not in the cached files.
    """
    names = (
        ("blas", "dsyrk"),
        ("blas", "dgemv"),
        ("blas", "sgemm"),
        ("blas", "dgemm"),
        ("lapack", "dpotrf"),
        ("lapack", "dgetrf"),
        ("lapack", "dgetri"),
    )
    return tuple(get_cython_function_address(f"scipy.linalg.cython_{library}", name) for library, name in names)


ROUTINES = _addresses()
_DSYRK, _DGEMV, SGEMM, DGEMM, _DPOTRF, _DGETRF, _DGETRI = range(len(ROUTINES))


def _call(typing_context, address, arguments):
    """Call the Fortran routine at an address with pointers to the data of arrays, and to numbers."""

    def generate(context, builder, signature, values):
        target, packed = values
        pointers = []
        for i, kind in enumerate(signature.args[1]):
            value = builder.extract_value(packed, i)
            if isinstance(kind, types.Array):
                pointer = context.make_array(kind)(context, builder, value).data
            else:
                long = value.type == ir.IntType(64)
                pointer = alloca_once_value(builder, builder.trunc(value, ir.IntType(32)) if long else value)
            pointers.append(builder.bitcast(pointer, ir.IntType(8).as_pointer()))
        routine = ir.FunctionType(ir.VoidType(), [p.type for p in pointers])
        builder.call(builder.inttoptr(target, routine.as_pointer()), pointers)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


call: Any = intrinsic(_call)


@jit
def gram(routines, matrix, weight, negligible, scaled, out):
    """Write the lower triangle of W^T diag(weight) W, weight >= 0, into ``out``.

    Rows with less than ``negligible`` times the largest weight are left out. ``scaled`` is a work array of the shape
    of W.
    """
    n, k = matrix.shape
    largest, count = 0.0, 0
    for j in range(n):
        largest = max(largest, weight[j])
    floor = negligible * largest
    for j in range(n):
        if weight[j] <= floor:
            continue
        root = np.sqrt(weight[j])
        for i in range(k):
            scaled[count, i] = root * matrix[j, i]
        count += 1
    # In Fortran's order, ``scaled`` is k x count, and the upper triangle is our lower one.
    call(routines[_DSYRK], (UPPER, PLAIN, k, count, 1.0, scaled, k, 0.0, out, k))


@jit
def advance(x, step, direction):
    """x += step * direction, as a loop, which compiles ten times as fast as an array expression."""
    for i in range(len(x)):
        x[i] += step * direction[i]


@jit
def clear(x):
    """x = 0."""
    for i in range(len(x)):
        x[i] = 0.0


@jit
def copy(source, target):
    """target = source, of the same size, as a loop: assigning to a slice compiles its error message too."""
    for i in range(len(target)):
        target[i] = source[i]


@jit
def dot(x, y):
    """The inner product."""
    total = 0.0
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@jit
def matvec(routines, matrix, x, out):
    """out = W x."""
    n, k = matrix.shape
    if k == 0:
        clear(out)
    else:
        call(routines[_DGEMV], (TRANSPOSED, k, n, 1.0, matrix, k, x, 1, 0.0, out, 1))


@jit
def rmatvec(routines, matrix, x, out):
    """out = W^T x."""
    n, k = matrix.shape
    if n == 0:
        clear(out)
    else:
        call(routines[_DGEMV], (PLAIN, k, n, 1.0, matrix, k, x, 1, 0.0, out, 1))


@jit
def factorise(routines, matrix, ridge):
    """The Cholesky factor L of a symmetric positive semidefinite matrix, given by its lower triangle.

    ``ridge`` times the mean of the diagonal is added to the diagonal, and more if the factorisation breaks down.

    Returns:
        L in the lower triangle, and whether it exists.
    """
    k = len(matrix)
    mean = 0.0
    for i in range(k):
        mean += matrix[i, i] / k
    factor, failed = np.empty((k, k)), np.empty(1, np.int32)
    for _ in range(7):
        if k == 0 or not abs(mean) < _HUGE:
            break
        for i in range(k):
            for j in range(i + 1):
                factor[i, j] = matrix[i, j]
            factor[i, i] += ridge * mean + 1e-300
        call(routines[_DPOTRF], (UPPER, k, factor, k, failed))
        if failed[0] == 0:
            total = 0.0
            for i in range(k):
                for j in range(i + 1):
                    total += factor[i, j]
            return factor, abs(total) < _HUGE
        ridge *= 100.0
    return factor, False


@jit
def solve_factorised(factor, rhs):
    """Solve L L^T x = rhs."""
    k = len(rhs)
    x = np.empty(k)
    for i in range(k):
        total = rhs[i]
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
def inverse(routines, matrix):
    """The transposed inverse of a matrix, and whether it exists and is accurate.

    Row i of the result times row i of the matrix is 1. Accuracy is measured by the product of their norms, which does
    not depend on the scale of a row.
    """
    k = len(matrix)
    # In Fortran's order, this is the matrix itself, and the result its inverse.
    result = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            result[j, i] = matrix[i, j]
    # The pivots, and whether the routine has failed.
    pivots, work = np.empty(k + 1, np.int32), np.empty(64 * k)
    failed = pivots[k:]
    call(routines[_DGETRF], (k, k, result, k, pivots, failed))
    if failed[0] != 0:
        return result, False
    call(routines[_DGETRI], (k, result, k, pivots, work, 64 * k, failed))
    ok = failed[0] == 0
    for i in range(k):
        # Written so that NaN is not ok.
        ok = ok and dot(result[i], result[i]) * dot(matrix[i], matrix[i]) < _LARGEST_INVERSE
    return result, ok


@kernel
def invert_basis(routines, rows, column, basis, edges):
    """Set ``edges`` to the transposed inverse of the basic rows; return whether it exists."""
    m, k = rows.shape
    matrix = np.zeros((k, k))
    for i in range(k):
        if basis[i] < m:
            copy(rows[basis[i]], matrix[i])
        else:
            matrix[i, column[basis[i] - m]] = 1.0
    inverted, ok = inverse(routines, matrix)
    if ok:
        for i in range(k):
            copy(inverted[i], edges[i])
    return ok

"""Dense linear algebra for the compiled kernels: the normal matrix, its Cholesky factor, the inverse of a basis.

Everything runs without the GIL. Products and factorisations are BLAS and LAPACK calls; NaN is never assumed away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import get_cython_function_address, intrinsic

# Reordered sums and fused multiply-adds, but NaN, infinities and division as IEEE has them.
_compiled: Any = partial(numba.njit, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})


def jit(function: Callable[..., Any]) -> Any:
    """Compile without the GIL, cached on disk where a folder for that can be written."""
    try:
        return _compiled(cache=True)(function)
    except RuntimeError:
        # Numba finds no folder that it may write to; :func:`~unrelu.lp.compilation.compile_kernels` says so.
        return _compiled()(function)


# A finite number. Reordering folds x - x, which is how np.isfinite tests for NaN; comparisons it leaves alone.
_HUGE = 1e300
# A basis with a row whose norm times that of its edge is larger than this is as good as singular.
_LARGEST_INVERSE = 1e8
_U, _N = ord("U"), ord("N")


def _addresses() -> tuple[int, ...]:
    """Addresses of SciPy's BLAS and LAPACK routines that compiled functions take as ``routines``.

    Numba itself has no symmetric product (dsyrk takes less time than a general one), and its factorisations are slow
    to compile. As an argument, an address is in no cached file.
    """
    names = (("blas", "dsyrk"), ("lapack", "dpotrf"), ("lapack", "dgetrf"), ("lapack", "dgetri"))
    return tuple(get_cython_function_address(f"scipy.linalg.cython_{library}", name) for library, name in names)


ROUTINES = _addresses()


def _call(typing_context, address, arrays):
    """Call the Fortran routine at an address with pointers to the data of a tuple of arrays."""

    def generate(context, builder, signature, values):
        target, packed = values
        pointers = []
        for i, kind in enumerate(signature.args[1]):
            array = context.make_array(kind)(context, builder, builder.extract_value(packed, i))
            pointers.append(builder.bitcast(array.data, ir.IntType(8).as_pointer()))
        routine = ir.FunctionType(ir.VoidType(), [p.type for p in pointers])
        builder.call(builder.inttoptr(target, routine.as_pointer()), pointers)
        return context.get_dummy_value()

    return types.void(address, arrays), generate


call: Any = intrinsic(_call)


@jit
def integer(value):
    """A number as Fortran takes it."""
    array = np.empty(1, np.int32)
    array[0] = value
    return array


@jit
def letter(value):
    """A character as Fortran takes it."""
    array = np.empty(1, np.uint8)
    array[0] = value
    return array


@jit
def gram(routines, matrix, weight, negligible, scaled, out):
    """Write the lower triangle of W^T diag(weight) W, weight >= 0, into ``out``.

    Rows with less than ``negligible`` times the largest weight are left out. ``scaled`` is work space of the
    size of W.
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
    # In Fortran's order ``scaled`` is k x count, and the upper triangle is ours below the diagonal.
    columns, height, one, zero = integer(k), integer(count), np.ones(1), np.zeros(1)
    call(routines[0], (letter(_U), letter(_N), columns, height, one, scaled, columns, zero, out, columns))


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
def copy(source, target):
    """target = source, which are of one size; an assignment to a slice compiles its error message too, in seconds."""
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
def factorise(routines, matrix, ridge):
    """The Cholesky factor L of a symmetric positive semidefinite matrix of which the lower triangle is given.

    ``ridge`` times the mean of the diagonal is added to the diagonal; ever more where the factorisation breaks down.

    Returns:
        L in the lower triangle, and whether it exists.
    """
    k = len(matrix)
    mean = 0.0
    for i in range(k):
        mean += matrix[i, i] / k
    factor, size, failed = np.empty((k, k)), integer(k), integer(0)
    for _ in range(7):
        if k == 0 or not abs(mean) < _HUGE:
            break
        for i in range(k):
            for j in range(i + 1):
                factor[i, j] = matrix[i, j]
            factor[i, i] += ridge * mean + 1e-300
        call(routines[1], (letter(_U), size, factor, size, failed))
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
def inverse(routines, matrix):
    """The transposed inverse of a matrix, and whether it exists and is not mere rounding.

    Row i of the result times row i of the matrix is 1; the product of their norms is the measure, so the scale of a row
    does not matter.
    """
    k = len(matrix)
    # The transpose in Fortran's order is the matrix in ours, and so is its inverse.
    result = np.empty((k, k))
    for i in range(k):
        for j in range(k):
            result[j, i] = matrix[i, j]
    size, failed, pivots, work = integer(k), integer(0), np.empty(k, np.int32), np.empty(64 * k)
    call(routines[2], (size, size, result, size, pivots, failed))
    if failed[0] != 0:
        return result, False
    call(routines[3], (size, result, size, pivots, work, integer(64 * k), failed))
    ok = failed[0] == 0
    for i in range(k):
        # Written so that NaN is not ok.
        ok = ok and dot(result[i], result[i]) * dot(matrix[i], matrix[i]) < _LARGEST_INVERSE**2
    return result, ok

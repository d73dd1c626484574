"""Read and check ``operator=``, restore operators from files, and define measurements by nonlinear functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from unrelu.errors import InputError, ModelError
from unrelu.measurements._clipped_operator import ClippedOperator
from unrelu.measurements.operators import (
    IdentityOperator,
    MatrixFreeOperator,
    MatrixOperator,
    Operator,
    WeightedOperator,
    hiding,
)
from unrelu.models.generator import Generator
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_opaque import longest, tried
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Shape
from unrelu.runtime.memory_limits import DENSE_NUMBERS
from unrelu.runtime.streams import stream
from unrelu.runtime.words import count, shown

_Code = Callable[[Array], Any]

# Tolerances of |<A x, y> - <x, A^T y>| relative to |A x| |y|, and of the deviation from linearity relative to |A x|.
# The larger of two applies: 1e-6, and 100 times the rounding error of the operator's precision (1.2e-5 in single).
_ADJOINT, _ROUNDINGS = 1e-6, 100


@dataclass(frozen=True, eq=False)
class Mask:
    r"""A mask for all observations, or one mask for each: :math:`(A x)_j = m_j x_j`, m_j in {0, 1}.

    Attributes:
        array: 0/1 or booleans, of the output's shape or flat (n,); or a batch of masks, (B, ...). It is checked when it
            is used as ``operator=``: other shapes and values raise :class:`~unrelu.errors.InputError`.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.invert(net, [1.0, 5.0, 0.5], operator=unrelu.Mask([1, 0, 1])).z  # the second entry is ignored
    array([0.5])
    """

    array: Any


@dataclass(frozen=True, eq=False)
class Matrix:
    r"""A matrix on the flattened output, for all observations: :math:`A x`, A (m, n).

    Attributes:
        array: (m, n), dense or SciPy sparse. Unlike a bare array, a matrix of zeros and ones is never read as masks. It
            is checked when it is used as ``operator=``: another shape or entries that are not finite raise
            :class:`~unrelu.errors.InputError`.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.invert(net, [1.5], "lm", operator=unrelu.Matrix([[1.0, 1.0, 1.0]]), z0=[1.0]).z.round(6)
    array([0.5])
    """

    array: Any


@dataclass(frozen=True, eq=False)
class NonlinearOperator(Operator):
    r"""A measurement y = h(x) with a differentiable h: R^n -> R^m, whose Jacobian is H(x).

    By the chain rule, the Jacobian of h(G(z)) is H(G(z)) J. Its k columns are computed together, by forward-mode
    differentiation (``torch.func.jvp`` under ``vmap``). G is not changed, so its layers can be smoothed and evaluated
    as for any other measurement.

    Attributes:
        function: h.
        shape: shape of one observation.
    """

    function: OpaqueNetwork = field(repr=False)
    shape: Shape
    linear = False

    @classmethod
    def read(
        cls, given: Callable[[Tensor], Tensor], output: Shape, network: Generator | None = None
    ) -> NonlinearOperator:
        """Read a PyTorch function or a module, (B, *output) -> (B, *m), if it passes a trial.

        The trial applies the function to two outputs in float64: the typical outputs of largest norm or, without a
        generator, random numbers in [0, 1]. The function must return finite numbers, and one measurement for each
        output, independent of the other output and the same each time. Derivatives must agree with finite differences.

        Raises:
            InputError: the function fails the trial.
        """
        if network is None:
            x = torch.from_numpy(stream("trial outputs").uniform(size=(2, math.prod(output))))
        else:
            x = longest(network.typical_outputs)
        try:
            # Outputs that are exactly 0, such as those of ReLUs, are not varied in the trial: h may have a kink there.
            reason = "the measurement is a function, which is not taken to be linear"
            function = tried(given, x.reshape(2, *output), reason, x.abs(), "measurement")
        except ModelError as error:
            raise InputError(
                f"operator= is a function that cannot be used as a measurement: {error}. Pass a differentiable "
                f"function of PyTorch, (B, {', '.join(map(str, output))}) -> (B, ...); of a linear map, a matrix, or a "
                "pair of functions (x -> A x, r -> A^T r)"
            ) from error
        return cls(function, function.output_shape or (1,))

    @cached_property
    def n(self) -> int:
        return self.function.latent_dim

    @property
    def width(self) -> int:
        return self.function.width

    def forward(self, x: Tensor) -> Tensor:
        return self.function.forward(x.to(self.function.dtype)).to(x.dtype)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute h(x), (B, m), and H(x) t for k directions t of each output, (B, k, n) -> (B, k, m)."""
        values, pushed = self.function.along(x.to(self.function.dtype), t.to(self.function.dtype))
        return values.to(x.dtype), pushed.to(x.dtype)

    def to(self, dtype: torch.dtype, device: torch.device) -> NonlinearOperator:
        return replace(self, function=self.function.to(dtype, device))

    def followed_by(self, matrix: Array) -> NonlinearOperator:
        """Return the measurement W h(x) for a matrix W, (m', m)."""
        rows = nn.Linear(self.m, len(matrix), bias=False, dtype=torch.float64).requires_grad_(False)
        rows.weight.copy_(torch.from_numpy(matrix))
        module, shape = nn.Sequential(self.function.module, nn.Flatten(), rows).eval(), (len(matrix),)
        return replace(self, function=replace(self.function, module=module, output_shape=shape), shape=shape)


def read_operator(given: Any, output: Shape, y_shape: Shape, network: Generator | None = None) -> Operator:
    """Read the measurement A in y = A G(z) + e.

    Args:
        given: None (the whole output), a 0/1 mask of the output's shape or a batch of masks, a matrix (m, n) (dense or
            SciPy sparse), a :class:`Mask` or :class:`Matrix` if the shape of the array fits both, a SciPy or PyLops
            ``LinearOperator``, a pair of functions (x -> A x, r -> A^T r) on flat NumPy vectors, a deepinv
            ``LinearPhysics``, or an :class:`Operator`. For a nonlinear measurement, a differentiable PyTorch function
            or a module, (B, *output) -> (B, *m).
        output: shape of the network's output.
        y_shape: shape of the observations, which distinguishes a batch of masks from a matrix.
        network: the generator whose outputs a function is tried on.

    Raises:
        InputError: shapes do not fit; entries are not finite; a mask is not 0/1 or hides everything; a map is not
            linear or fails the dot test with its adjoint; an array may be masks or a matrix; or a function is not
            differentiable or does not keep the batch axis.
    """
    n = math.prod(output)
    if given is None:
        return IdentityOperator(output)
    if isinstance(given, Operator):
        if given.n != n:
            raise InputError(f"operator= takes {given.n} entries; the network's output has {n}")
        return given
    if isinstance(given, Mask):
        return _masks(given.array, output)
    if isinstance(given, Matrix) or sparse.issparse(given):
        return _matrix(given.array if isinstance(given, Matrix) else given, n)
    if isinstance(given, tuple | list) and given and all(map(callable, given)):
        if len(given) != 2:
            raise InputError(
                f"operator= has {count(len(given), 'function')}; a linear map is a pair, (x -> A x, r -> A^T r), and a "
                "differentiable function of PyTorch is passed alone"
            )
        return _mapped(given[0], given[1], n)
    if _offers(given, "A", "A_adjoint"):
        return _physics(given, output)
    if _offers(given, "matvec", "rmatvec"):
        m = _rows(given, n)
        kind = np.dtype(getattr(given, "dtype", None))  # None means double precision
        return _mapped(given.matvec, given.rmatvec, n, m, (), float(np.finfo(kind).eps) if kind.kind in "fc" else 0.0)
    return NonlinearOperator.read(given, output, network) if callable(given) else _array(given, output, y_shape)


def restored(kind: str, shape: Shape, read: Callable[[str, type[np.generic]], npt.NDArray[Any]]) -> Operator:
    """Restore an operator from the arrays of :meth:`Operator.saved`; ValueError if no file keeps this kind.

    Args:
        kind: :attr:`Operator.kind`.
        shape: shape of one observation.
        read: returns the array with a given name and type.
    """
    if kind == "matrix":
        return MatrixOperator(torch.from_numpy(read("matrix", np.float64)), shape)
    if kind == "sparse":
        parts = (read("data", np.float64), read("indices", np.int64), read("pointers", np.int64))
        csr = sparse.csr_array(parts, shape=(math.prod(shape), int(read("columns", np.int64).item())))
        csr.check_format(full_check=True)
        return MatrixOperator.of(csr, shape)
    if kind not in ("identity", "mask", "clipped"):
        raise ValueError(f"the operator is {kind[:20]!r}")
    whole: Operator = IdentityOperator(shape)
    if kind == "identity":
        return whole
    if kind == "clipped":
        whole = ClippedOperator(shape, *map(float, read("ends", np.float64)))
    kept = read("kept", np.bool_)
    if kept.shape[-1:] != (whole.m,):
        raise ValueError(f"the mask has shape {kept.shape}")
    return whole if kind == "clipped" and kept.all() else hiding(whole, kept)


def _offers(given: Any, *methods: str) -> bool:
    return all(callable(getattr(given, name, None)) for name in methods)


# --- arrays -----------------------------------------------------------------------------------------------------------


def _array(given: Any, output: Shape, y_shape: Shape) -> Operator:
    """Read an array as masks or as a matrix.

    Arrays are masks if they are boolean or observations have the output's shape, and a matrix if these have m entries.
    """
    array = numbers(given, "operator")
    n, shape = math.prod(output), array.shape
    flat = ((n,), output)
    masks, matrix = shape in flat or (len(shape) > 1 and shape[1:] in flat), len(shape) == 2 and shape[1] == n
    of_output = y_shape in flat or y_shape[1:] in flat
    of_rows = matrix and len(y_shape) <= 2 and y_shape[-1:] == shape[:1]
    binary = bool(np.isin(array, (0.0, 1.0)).all())
    boolean = str(getattr(given, "dtype", "")).endswith("bool")  # a NumPy or PyTorch type
    if masks and binary and of_rows and y_shape == shape and not boolean:
        raise InputError(
            f"operator= and y are both of shape {shape}, so operator= may be one mask for each of the {shape[0]} "
            f"observations, or one matrix that measures {shape[0]} numbers of an output: pass "
            "operator=unrelu.Mask(array) or operator=unrelu.Matrix(array)"
        )
    if masks and (boolean or (not of_rows and ((of_output and binary) or not matrix))):
        return _masks(array, output)
    if matrix:
        return _matrix(array, n)
    advice = "; it has the other orientation: pass operator=A.T" if array.ndim == 2 and len(array) == n else ""
    if array.ndim == 1 and len(np.unique(array)) == len(array) and np.isin(array, np.arange(n)).all():
        advice = f"; of indices make a mask: mask = numpy.zeros({n}, bool); mask[indices] = True"
    raise InputError(
        f"operator= has shape {shape}; pass a 0/1 mask of shape {output} (or a batch of them), or a matrix (m, {n})"
        + advice
    )


def _rows(matrix: Any, n: int) -> int:
    """Return the number of rows of a matrix or ``LinearOperator``, which must have n columns."""
    shape = tuple(int(size) for size in matrix.shape)
    if len(shape) != 2 or shape[1] != n:
        raise InputError(
            f"operator= is a matrix of shape {shape}; the network's output has {n} entries, pass one of (m, {n})"
        )
    return shape[0]


def _matrix(given: Any, n: int) -> Operator:
    """Return the operator for a dense or sparse matrix."""
    if sparse.issparse(given):
        if np.issubdtype(given.dtype, np.complexfloating):
            raise InputError(f"operator= has complex entries ({given.dtype}); stack the real and imaginary rows")
        array: Any = sparse.csr_array(given, dtype=np.float64)
        entries = array.data
    else:
        array = entries = numbers(given, "operator")
    m = _rows(array, n)
    if not np.isfinite(entries).all():
        raise InputError(f"operator= has {int((~np.isfinite(entries)).sum())} entries that are not finite")
    if sparse.issparse(array):
        if m * n > DENSE_NUMBERS:
            return MatrixOperator.of(array, (m,))
        array = array.toarray()
    return MatrixOperator(torch.from_numpy(array), (m,))


def _masks(given: Any, output: Shape) -> WeightedOperator:
    """Return the operator for one mask (of an output's shape, or flat) or for a batch of masks."""
    array = numbers(given, "operator")
    n = math.prod(output)
    flat = ((n,), output)
    shared = array.shape in flat
    if not shared and (array.ndim < 2 or array.shape[1:] not in flat):
        shapes = " or ".join(map(str, dict.fromkeys((output, (n,)))))
        raise InputError(
            f"operator= is a mask of shape {array.shape}; pass one of shape {shapes}, or a batch, one an observation"
        )
    odd = array[~np.isin(array, (0.0, 1.0))]
    if odd.size:
        raise InputError(
            f"operator= is read as a mask, but has entries like {odd[0]:g}; a mask is made of 0 and 1: pass "
            f"operator=mask > {0.5 * float(array.max()):g}"
        )
    masks = array.reshape(-1, n)
    empty = np.flatnonzero(~masks.any(axis=1))
    if empty.size:
        which = "" if shared else f"of observation {empty[0]} "
        raise InputError(f"the mask {which}is 0 everywhere: nothing is observed")
    return hiding(IdentityOperator(output), (masks[0] if shared else masks) > 0)


# --- code -------------------------------------------------------------------------------------------------------------


def _physics(physics: Any, output: Shape) -> Operator:
    """Read a deepinv LinearPhysics. Its A and A_adjoint take tensors (1, *output) of its type and device."""
    own = [*physics.parameters(), *physics.buffers()] if isinstance(physics, torch.nn.Module) else []
    like = next((tensor for tensor in own if tensor.is_floating_point()), torch.zeros(()))

    @torch.no_grad()
    def run(function: Callable[[Tensor], Tensor], x: Array, shape: Shape) -> Tensor:
        return function(torch.from_numpy(x).to(like.device, like.dtype).reshape(1, *shape)).detach().cpu()

    n = math.prod(output)
    try:
        shape = tuple(run(physics.A, np.zeros(n), output).shape[1:])
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"operator.A fails on an output of shape (1, {output}): {error}") from error
    return _mapped(
        lambda x: run(physics.A, x, output), lambda r: run(physics.A_adjoint, r, shape), n, math.prod(shape), shape,
        torch.finfo(like.dtype).eps,
    )  # fmt: skip


def _mapped(
    apply: _Code, transpose: _Code, n: int, m: int | None = None, shape: Shape = (), precision: float = 0.0
) -> Operator:
    """Read a linear map given as code, after tests of its linearity and its adjoint.

    The code computes with a rounding error of ``precision``. A small map becomes a matrix. Observations have ``shape``,
    or (m,).
    """
    allowed, rng = max(_ADJOINT, _ROUNDINGS * precision), stream("adjoint test")
    x, other = rng.standard_normal((2, n))
    ax = _run(apply, x, "A x", m)
    m = len(ax)
    a_other, mixed = _run(apply, other, "A x", m), _run(apply, 2 * x - 3 * other, "A x", m)
    scale = np.linalg.norm(ax) + np.linalg.norm(a_other) + np.finfo(float).tiny
    off = float(np.linalg.norm(mixed - 2 * ax + 3 * a_other) / scale)
    if not off <= allowed:
        raise InputError(
            f"operator= is not linear: A(2 x - 3 x') differs from 2 A x - 3 A x' by {off:.1e} of |A x|; "
            "for a measurement that is not linear pass a differentiable function of PyTorch"
        )
    r = rng.standard_normal(m)
    one, two = float(ax @ r), float(x @ _run(transpose, r, "A^T r", n))
    if not abs(one - two) <= allowed * np.linalg.norm(ax) * np.linalg.norm(r):
        raise InputError(
            f"operator= fails the dot test: <A x, r> = {one:.6g} but <x, A^T r> = {two:.6g}; the second function must "
            "be the adjoint of the first"
        )
    shape = shape or (m,)
    if m * n > DENSE_NUMBERS:
        return MatrixFreeOperator(apply, transpose, n, m, shape)
    if n <= m:
        matrix = np.stack([_run(apply, unit, "A x", m) for unit in np.eye(n)], axis=1)
    else:
        matrix = np.stack([_run(transpose, unit, "A^T r", n) for unit in np.eye(m)])
    return MatrixOperator(torch.from_numpy(matrix), shape)


def _run(function: _Code, x: Array, what: str, size: int | None) -> Array:
    """Call the user's code, and return a copy of the result as a flat vector: the next call may reuse its buffer."""
    try:
        result = np.asarray(function(x.copy()))
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"operator= fails on a vector of {len(x)} entries ({what}): {error}") from error
    wanted = result.size if size is None else size
    if np.iscomplexobj(result) or result.size != wanted or not np.isfinite(result).all():
        raise InputError(
            f"operator= gives {shown(result)} for {what}; it must be {wanted} finite real numbers (stack the real and "
            "imaginary parts of complex ones)"
        )
    return np.array(result, dtype=np.float64).ravel()

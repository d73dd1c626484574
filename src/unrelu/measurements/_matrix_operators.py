"""Matrices: dense, sparse, and linear maps given as code, which are never written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from unrelu.errors import InputError
from unrelu.measurements.linear_operators import Arrays, Operator, times_power
from unrelu.models.affine import Shape
from unrelu.runtime.array_types import Array, Index

_Code = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class MatrixOperator(Operator):
    """A dense matrix, (m, n)."""

    weight: Tensor
    shape: Shape
    kind: ClassVar[str] = "matrix"
    stored: ClassVar[Mapping[str, type[np.generic]] | None] = {"matrix": np.float64}

    @cached_property
    def n(self) -> int:
        return self.weight.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def adjoint(self, r: Tensor) -> Tensor:
        return r @ self.weight

    def matrix(self) -> Array:
        return np.ascontiguousarray(self.weight.cpu().double().numpy())

    def to(self, dtype: torch.dtype, device: torch.device) -> MatrixOperator:
        return replace(self, weight=self.weight.to(device=device, dtype=dtype))

    def in_units(self, before: int, after: int) -> MatrixOperator:
        return replace(self, weight=times_power(self.weight, before + after))

    def selection(self) -> Index | None:
        one_each = bool((torch.count_nonzero(self.weight, dim=1) == 1).all())
        return _picked(sparse.csr_array(self.matrix())) if one_each else None

    def saved(self) -> Arrays:
        return {"matrix": self.matrix()}

    @classmethod
    def restored(cls, shape: Shape, arrays: Arrays) -> Self:
        return cls(torch.from_numpy(arrays["matrix"]), shape)


@dataclass(frozen=True, eq=False)
class SparseOperator(Operator):
    """A sparse matrix, (m, n), that would be too large as a dense one."""

    csr: sparse.csr_array
    shape: Shape
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    kind: ClassVar[str] = "sparse"
    stored: ClassVar[Mapping[str, type[np.generic]] | None] = {
        "data": np.float64, "indices": np.int64, "pointers": np.int64, "columns": np.int64,
    }  # fmt: skip

    @cached_property
    def n(self) -> int:
        return int(self.csr.shape[1])

    @cached_property
    def _coo(self) -> Tensor:
        coo = self.csr.tocoo()
        places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        values = torch.from_numpy(np.asarray(coo.data, dtype=np.float64))
        tensor = torch.sparse_coo_tensor(places, values, self.csr.shape, check_invariants=False).coalesce()
        return tensor.to(dtype=self.dtype, device=self.device)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.sparse.mm(self._coo, x.T).T
        return result

    def adjoint(self, r: Tensor) -> Tensor:
        result: Tensor = torch.sparse.mm(self._coo.t(), r.T).T
        return result

    def to(self, dtype: torch.dtype, device: torch.device) -> SparseOperator:
        return replace(self, dtype=dtype, device=device)

    def in_units(self, before: int, after: int) -> SparseOperator:
        data = np.ldexp(self.csr.data, before + after)
        return replace(self, csr=sparse.csr_array((data, self.csr.indices, self.csr.indptr), self.csr.shape))

    def selection(self) -> Index | None:
        return _picked(self.csr)

    def saved(self) -> Arrays:
        indices, pointers = (array.astype(np.int64) for array in (self.csr.indices, self.csr.indptr))
        return {"data": self.csr.data, "indices": indices, "pointers": pointers, "columns": np.array(self.n, np.int64)}

    @classmethod
    def restored(cls, shape: Shape, arrays: Arrays) -> Self:
        size = (math.prod(shape), int(arrays["columns"].item()))
        csr = sparse.csr_array((arrays["data"], arrays["indices"], arrays["pointers"]), shape=size)
        csr.check_format(full_check=True)
        return cls(csr, shape)


class MatrixFreeOperator(Operator):
    """A linear map given as code on NumPy vectors, applied to one vector at a time.

    Args:
        apply: (n,) -> (m,).
        transpose: (m,) -> (n,).
        n, m: number of entries of an output and of an observation.
        shape: shape of one observation, of m entries.
    """

    portable: ClassVar[bool] = False

    def __init__(self, apply: _Code, transpose: _Code, n: int, m: int, shape: Shape) -> None:
        self.apply, self.transpose, self.n, self.m, self.shape = apply, transpose, n, m, shape

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _OfCode.apply(x, self.apply, self.transpose, (self.m, self.n))
        return result

    def adjoint(self, r: Tensor) -> Tensor:
        result: Tensor = _OfCode.apply(r, self.transpose, self.apply, (self.n, self.m))
        return result

    def in_units(self, before: int, after: int) -> MatrixFreeOperator:
        def apply(x: Array) -> Array:
            return np.asarray(np.ldexp(self.apply(np.ldexp(x, before)), after))

        def transpose(r: Array) -> Array:
            return np.asarray(np.ldexp(self.transpose(np.ldexp(r, after)), before))

        return MatrixFreeOperator(apply, transpose, self.n, self.m, self.shape)


class _OfCode(torch.autograd.Function):
    """Applies NumPy code, a linear map, row by row. The backward pass applies the adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: _Code, transpose: _Code, sizes: tuple[int, int]) -> Tensor:
        ctx.maps = (apply, transpose, sizes)
        # Copies: the code may overwrite its argument, or reuse the array that it returned.
        rows = [np.array(apply(row.copy()), dtype=np.float64).ravel() for row in x.detach().cpu().double().numpy()]
        for row in rows:
            if row.size != sizes[0]:
                raise InputError(f"operator= gave {row.size} numbers for a vector, and {sizes[0]} when it was tried")
        return torch.from_numpy(np.array(rows).reshape(-1, sizes[0])).to(dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        apply, transpose, (given, taken) = ctx.maps
        return _OfCode.apply(gradients[0], transpose, apply, (taken, given)), None, None, None


def _picked(csr: sparse.csr_array) -> Index | None:
    csr = csr.copy()
    csr.eliminate_zeros()
    if (np.diff(csr.indptr) == 1).all() and (csr.data == 1).all():
        return np.asarray(csr.indices, dtype=np.intp)
    return None

"""Linear measurements A: R^n -> R^m of a generator's flattened output, on batches in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from unrelu.errors import InputError
from unrelu.models.affine import Shape
from unrelu.runtime.host import computing

Array = npt.NDArray[np.float64]
_Code = Callable[[Array], Array]


class Operator(ABC):
    """A map of flat outputs, (B, n) -> (B, m), the same for every observation or one for each (masks).

    Attributes:
        linear: whether it is a linear map; of those here all are but a :class:`Weighted` of one that is not, see
            :mod:`~unrelu.measurements.nonlinear_operator`.
        n: entries of an output.
        m: entries of an observation. A mask keeps m = n; entries that it hides are 0.
        shape: shape of one observation as the user passes it.
    """

    linear: bool = True
    n: int
    m: int
    shape: Shape

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x, (B, n) -> (B, m), differentiable by PyTorch."""

    @abstractmethod
    def adjoint(self, r: Tensor) -> Tensor:
        """A^T r, (B, m) -> (B, n)."""

    def tangents(self, t: Tensor) -> Tensor:
        """A on every direction of every observation, (B, k, n) -> (B, k, m)."""
        return torch.unflatten(self.forward(t.flatten(0, 1)), 0, t.shape[:2])

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """A x, (B, m), and its derivative along every direction, (B, k, n) -> (B, k, m)."""
        return self.forward(x), self.tangents(t)

    @property
    def width(self) -> int:
        """The most numbers that it holds for an output, beside what it takes and gives."""
        return 0

    @property
    def count(self) -> int:
        """How many observations it is made for; 0 where all share one map."""
        return 0

    def take(self, rows: npt.NDArray[np.intp] | Tensor) -> Operator:
        """The operator of some of the observations; itself where all share one."""
        return self

    def to(self, dtype: torch.dtype, device: torch.device) -> Operator:
        """The same operator on tensors of another type or device."""
        return self

    def selection(self) -> npt.NDArray[np.intp] | None:
        """If the operator only picks entries of the output: which, (m,), else None. A mask has its own, ``kept``."""
        return None

    def matrix(self) -> Array | None:
        """A as (m, n) where it is at hand and shared by all observations, else None."""
        return None

    def seen(self, size: int) -> npt.NDArray[np.bool_]:
        """Which entries of ``size`` observations were observed at all, (size, m)."""
        return np.ones((size, self.m), dtype=bool)

    @computing()
    def values(self, x: Array) -> Array:
        """A x in NumPy, float64, (B, n) -> (B, m)."""
        return np.asarray(self.forward(torch.tensor(x)))


@dataclass(frozen=True, eq=False)
class Identity(Operator):
    """The whole output is observed."""

    shape: Shape
    n: int
    m: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "m", self.n)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, r: Tensor) -> Tensor:
        return r

    def tangents(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True, eq=False)
class MaskOperator(Operator):
    """Some entries of the output are observed; observations keep its shape and are 0 where nothing was observed.

    Attributes:
        kept: 0 or 1, (n,) for all observations or (B, n) for each.
        shape: the network's output shape.
    """

    kept: Tensor
    shape: Shape
    n: int = field(init=False)
    m: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.kept.shape[-1])
        object.__setattr__(self, "m", self.kept.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept

    def adjoint(self, r: Tensor) -> Tensor:
        return r * self.kept

    def tangents(self, t: Tensor) -> Tensor:
        return t * (self.kept[:, None, :] if self.kept.dim() == 2 else self.kept)

    @property
    def count(self) -> int:
        return len(self.kept) if self.kept.dim() == 2 else 0

    def take(self, rows: npt.NDArray[np.intp] | Tensor) -> MaskOperator:
        if self.kept.dim() == 1:
            return self
        index = torch.as_tensor(rows, dtype=torch.long, device=self.kept.device)
        return MaskOperator(self.kept[index], self.shape)

    def to(self, dtype: torch.dtype, device: torch.device) -> MaskOperator:
        return MaskOperator(self.kept.to(device=device, dtype=dtype), self.shape)

    def seen(self, size: int) -> npt.NDArray[np.bool_]:
        return np.broadcast_to(self.kept.cpu().numpy() > 0, (size, self.n))


@dataclass(frozen=True, eq=False)
class MatrixOperator(Operator):
    """A dense matrix.

    Attributes:
        weight: (m, n).
        shape: shape of one observation, of m entries.
    """

    weight: Tensor
    shape: Shape
    n: int = field(init=False)
    m: int = field(init=False)

    def __post_init__(self) -> None:
        m, n = self.weight.shape
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "m", m)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def adjoint(self, r: Tensor) -> Tensor:
        return r @ self.weight

    def to(self, dtype: torch.dtype, device: torch.device) -> MatrixOperator:
        return MatrixOperator(self.weight.to(device=device, dtype=dtype), self.shape)

    def matrix(self) -> Array:
        return np.asarray(self.weight.cpu().double().numpy())

    def selection(self) -> npt.NDArray[np.intp] | None:
        return _picked(sparse.csr_array(self.matrix()))


@dataclass(frozen=True, eq=False)
class Sparse(Operator):
    """A sparse matrix that would be large as a dense one.

    Attributes:
        csr: (m, n).
        shape: shape of one observation, of m entries.
    """

    csr: sparse.csr_array
    shape: Shape
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    n: int = field(init=False)
    m: int = field(init=False)

    def __post_init__(self) -> None:
        m, n = self.csr.shape
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "m", m)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.sparse.mm(self._coo, x.T).T
        return result

    def adjoint(self, r: Tensor) -> Tensor:
        result: Tensor = torch.sparse.mm(self._coo.t(), r.T).T
        return result

    def to(self, dtype: torch.dtype, device: torch.device) -> Sparse:
        return Sparse(self.csr, self.shape, dtype, device)

    def selection(self) -> npt.NDArray[np.intp] | None:
        return _picked(self.csr)

    @cached_property
    def _coo(self) -> Tensor:
        coo = self.csr.tocoo()
        places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        values = torch.from_numpy(np.asarray(coo.data, dtype=np.float64))
        tensor = torch.sparse_coo_tensor(places, values, self.csr.shape, check_invariants=False).coalesce()
        return tensor.to(dtype=self.dtype, device=self.device)


@dataclass(frozen=True, eq=False)
class Weighted(Operator):
    """W A, W diagonal: another operator with a weight for each entry.

    Attributes:
        inner: A.
        weight: (m,), or (B, m), one for each observation; not below 0.
    """

    inner: Operator
    weight: Tensor

    def __post_init__(self) -> None:
        for name in ("n", "m", "shape", "linear"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(x) * self.weight

    def adjoint(self, r: Tensor) -> Tensor:
        return self.inner.adjoint(r * self.weight)

    def tangents(self, t: Tensor) -> Tensor:
        return self.inner.tangents(t) * self._beside_directions

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        values, tangents = self.inner.linearize(x, t)
        return values * self.weight, tangents * self._beside_directions

    @property
    def _beside_directions(self) -> Tensor:
        return self.weight[:, None, :] if self.weight.dim() == 2 else self.weight

    @property
    def width(self) -> int:
        return self.inner.width

    @property
    def count(self) -> int:
        return len(self.weight) if self.weight.dim() == 2 else self.inner.count

    def take(self, rows: npt.NDArray[np.intp] | Tensor) -> Weighted:
        index = torch.as_tensor(rows, dtype=torch.long, device=self.weight.device)
        return Weighted(self.inner.take(rows), self.weight[index] if self.weight.dim() == 2 else self.weight)

    def to(self, dtype: torch.dtype, device: torch.device) -> Weighted:
        return Weighted(self.inner.to(dtype, device), self.weight.to(device=device, dtype=dtype))

    def matrix(self) -> Array | None:
        inner = self.inner.matrix()
        return None if inner is None or self.weight.dim() == 2 else inner * self.weight.cpu().double().numpy()[:, None]

    def seen(self, size: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self.inner.seen(size) & (self.weight.cpu().numpy() > 0))

    def normalised(self) -> tuple[Weighted, Tensor]:
        """The operator with weights of mean square 1, and what they were divided by, (1,) or (B, 1)."""
        gain = self.weight.square().mean(dim=-1, keepdim=True).sqrt()
        return Weighted(self.inner, self.weight / gain), gain

    def weights(self, size: int) -> Array:
        """W of ``size`` observations, (size, m)."""
        return np.broadcast_to(self.weight.cpu().double().numpy(), (size, self.m))


@dataclass(frozen=True, eq=False)
class Mapped(Operator):
    """A linear map given as code on NumPy vectors, applied to one vector at a time.

    Attributes:
        apply: (n,) -> (m,).
        transpose: (m,) -> (n,).
        n, m: entries of an output and of an observation.
        shape: shape of one observation, of m entries.
    """

    apply: _Code
    transpose: _Code
    n: int
    m: int
    shape: Shape

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _OfCode.apply(x, self.apply, self.transpose, (self.m, self.n))
        return result

    def adjoint(self, r: Tensor) -> Tensor:
        result: Tensor = _OfCode.apply(r, self.transpose, self.apply, (self.n, self.m))
        return result


class _OfCode(torch.autograd.Function):
    """Rows through NumPy code; its derivative is the same map, and that of the backward pass the adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: _Code, transpose: _Code, sizes: tuple[int, int]) -> Tensor:
        ctx.maps = (apply, transpose, sizes)
        # Copies: code may write into what it is given, or into what it gave before.
        rows = [np.array(apply(row.copy()), dtype=np.float64).ravel() for row in x.detach().cpu().double().numpy()]
        for row in rows:
            if row.size != sizes[0]:
                raise InputError(f"operator= gave {row.size} numbers for a vector, and {sizes[0]} when it was tried")
        return torch.from_numpy(np.array(rows).reshape(-1, sizes[0])).to(dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        apply, transpose, (given, taken) = ctx.maps
        return _OfCode.apply(gradients[0], transpose, apply, (taken, given)), None, None, None


def _picked(csr: sparse.csr_array) -> npt.NDArray[np.intp] | None:
    csr = csr.copy()
    csr.eliminate_zeros()
    if (np.diff(csr.indptr) == 1).all() and (csr.data == 1).all():
        return np.asarray(csr.indices, dtype=np.intp)
    return None

"""Measurements A: R^n -> R^m of a generator's flattened output, for batches in PyTorch.

Each kind of measurement is a class derived from :class:`Operator`. The class :class:`WeightedOperator` wraps any of
them, and adds weights of entries, masks and units. The other classes need no code for these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from unrelu.errors import UnsupportedModelError
from unrelu.runtime.array_types import Array, Flags, Index, Shape
from unrelu.runtime.host import computing

# Which outputs an observation shows, as an index into the rows of the last layer.
OutputIndex = Index | slice
Arrays = dict[str, npt.NDArray[Any]]
_Code = Callable[[Array], Array]


class Operator(ABC):
    """A map from flat outputs to observations, (B, n) -> (B, m). All observations share it, or each has its own mask.

    A subclass sets ``shape``, and n unless it is m, and defines :meth:`forward` and :meth:`adjoint`. A nonlinear
    subclass defines :meth:`linearize` in place of the adjoint.

    Attributes:
        shape: shape of one observation as the user passes it.
        linear: whether the map is linear.
        output_shaped: whether an observation has the shape of an output; hidden entries are then 0.
        refused: why methods that need a linear map refuse it, for messages.
        kind: the name of the operator in files; "code" if it is code, which files do not contain.
    """

    shape: Shape
    linear: bool = True
    output_shaped: bool = False
    refused: ClassVar[str] = "operator= is a function, which is not taken to be linear"
    kind: str = "code"

    @cached_property
    def m(self) -> int:
        """The number of entries of an observation."""
        return math.prod(self.shape)

    @cached_property
    def n(self) -> int:
        """The number of entries of an output."""
        return self.m

    # --- the map ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute A x, (B, n) -> (B, m), differentiable by PyTorch."""

    def adjoint(self, r: Tensor) -> Tensor:
        """Compute A^T r, (B, m) -> (B, n)."""
        raise UnsupportedModelError(
            f"{self.refused}, and this method needs its adjoint A^T; use method='auto', 'lm', 'adam' or "
            "'gradient_descent'"
        )

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Compute A x, (B, m), and its derivatives along k directions, (B, k, n) -> (B, k, m)."""
        return self.forward(x), torch.unflatten(self.forward(t.flatten(0, 1)), 0, t.shape[:2])

    def tangents(self, t: Tensor) -> Tensor:
        """Apply A to k directions for each observation, (B, k, n) -> (B, k, m)."""
        if not self.linear:
            raise UnsupportedModelError(f"{self.refused}: what it makes of a direction depends on the output")
        return self.linearize(t.new_zeros(len(t), self.n), t)[1]

    @computing()
    def values(self, x: Array) -> Array:
        """Compute A x in NumPy, float64, (B, n) -> (B, m)."""
        return np.asarray(self.forward(torch.tensor(x)))

    def matrix(self) -> Array:
        """Compute A as a dense matrix, (m, n)."""
        return np.ascontiguousarray(self.values(np.eye(self.n)).T)

    def to(self, dtype: torch.dtype, device: torch.device) -> Operator:
        """Return the same operator for tensors of another type or device."""
        return self

    @property
    def width(self) -> int:
        """The most numbers that the operator holds in memory for one output, beside its input and result."""
        return 0

    def in_units(self, before: int, after: int) -> Operator:
        """Return 2^after A 2^before, the same measurement in other units of outputs and observations."""
        if not (before or after):
            return self
        before, after = (0, before + after) if self.linear else (before, after)
        return WeightedOperator(self, times_power(torch.ones(self.m, dtype=torch.float64), after), before)

    # --- the entries of each observation ------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of observations that have their own map; 0 if all share one map."""
        return 0

    def take(self, observations: Index | Tensor) -> Operator:
        """Return the operator for some of the observations; ``self`` if all share one."""
        return self

    def seen(self, size: int) -> Flags:
        """Return which entries of ``size`` observations are not hidden, (size, m)."""
        return np.ones((size, self.m), dtype=bool)

    @property
    def unweighted(self) -> Operator:
        """The operator without its weights."""
        return self

    def weights(self, size: int) -> Array | None:
        """Return the weights of the entries of ``size`` observations, (size, m); None without weights."""
        return None

    def selection(self) -> OutputIndex | None:
        """Return the index of the output behind each entry, hidden or not; None if A mixes outputs."""
        return slice(None) if self.linear and self.output_shaped else None

    @property
    def selects(self) -> bool:
        """Whether A selects entries of the output without mixing them."""
        return self.selection() is not None

    def saved(self) -> Arrays | None:
        """Return the arrays from which :func:`restored` makes the operator; None if the operator is code."""
        return None


@dataclass(frozen=True, eq=False)
class IdentityOperator(Operator):
    """The identity: the whole output, of this shape, is observed."""

    shape: Shape
    output_shaped = True
    kind = "identity"

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, r: Tensor) -> Tensor:
        return r

    def saved(self) -> Arrays:
        return {}


@dataclass(frozen=True, eq=False)
class WeightedOperator(Operator):
    """The operator W A 2^before with a diagonal W: it wraps an operator A and weights each entry.

    Weights of 0 and 1 are a mask if observations have the shape of an output. If A is linear, a mask does not count as
    weights.

    Attributes:
        inner: A.
        weight: the diagonal of W, (m,), or (B, m) with one W for each observation; not below 0.
        before: the exponent of the user's unit of outputs, if A is evaluated in the user's units (0 for linear A), else
            None. With an exponent, double precision is used, as numbers may be out of the range of single precision.
        hides: whether the weights are a mask; determined from the weights if it is None.
    """

    inner: Operator
    weight: Tensor
    before: int | None = None
    hides: bool | None = None

    def __post_init__(self) -> None:
        shaped, hides = self.inner.output_shaped, self.hides
        if hides is None:
            hides = shaped and self.before is None and bool(((self.weight == 0) | (self.weight == 1)).all())
        masks = hides and isinstance(self.inner, IdentityOperator)
        found = {name: getattr(self.inner, name) for name in ("n", "m", "shape", "linear", "refused")} | {
            "hides": hides, "output_shaped": hides or (shaped and self.before is not None),
            "kind": "mask" if masks else self.inner.kind,
        }  # fmt: skip
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def _given(self, x: Tensor) -> Tensor:
        return x if self.before is None else x.double() * 2.0**self.before

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner.forward(self._given(x)) * self.weight).to(x.dtype)

    def adjoint(self, r: Tensor) -> Tensor:
        return self.inner.adjoint(r * self.weight).to(r.dtype)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        values, tangents = self.inner.linearize(self._given(x), self._given(t))
        beside = self.weight[:, None, :] if self.weight.dim() == 2 else self.weight
        return (values * self.weight).to(x.dtype), (tangents * beside).to(t.dtype)

    def to(self, dtype: torch.dtype, device: torch.device) -> WeightedOperator:
        own = dtype if self.before is None else torch.float64
        return replace(self, inner=self.inner.to(own, device), weight=self.weight.to(device=device, dtype=own))

    @property
    def width(self) -> int:
        return self.inner.width

    def in_units(self, before: int, after: int) -> WeightedOperator:
        if self.hides:
            return replace(self, inner=self.inner.in_units(before, after))
        if self.linear:
            return replace(self, weight=times_power(self.weight, before + after))
        return replace(self, inner=self.inner.in_units(before, 0), weight=times_power(self.weight, after))

    @property
    def count(self) -> int:
        return len(self.weight) if self.weight.dim() == 2 else self.inner.count

    def take(self, observations: Index | Tensor) -> WeightedOperator:
        weight = self.weight
        if weight.dim() == 2:
            weight = weight[torch.as_tensor(observations, dtype=torch.long, device=weight.device)]
        return replace(self, inner=self.inner.take(observations), weight=weight)

    def seen(self, size: int) -> Flags:
        return np.asarray(self.inner.seen(size) & (self.weight.cpu().numpy() > 0))

    @property
    def unweighted(self) -> Operator:
        return self if self.hides and self.linear else self.inner

    def weights(self, size: int) -> Array | None:
        masks = self.unweighted is self
        return None if masks else np.broadcast_to(self.weight.cpu().double().numpy(), (size, self.m))

    def selection(self) -> OutputIndex | None:
        return super().selection() if self.hides else None

    def saved(self) -> Arrays | None:
        arrays = self.inner.saved() if self.hides else None
        shared, kept = self.weight.dim() == 1 and not self.inner.count, self.seen(max(1, self.count))
        return None if arrays is None else {**arrays, "kept": kept[0] if shared else kept}


@dataclass(frozen=True, eq=False)
class MatrixOperator(Operator):
    """A measurement by a matrix, (m, n). It is dense, or sparse if a dense one would be too large."""

    weight: Tensor
    shape: Shape
    kind = "matrix"

    def __post_init__(self) -> None:
        if self.weight.is_sparse:
            object.__setattr__(self, "kind", "sparse")

    @classmethod
    def of(cls, matrix: sparse.csr_array, shape: Shape) -> MatrixOperator:
        """Make the operator for a sparse matrix, which stays sparse."""
        coo = matrix.tocoo()
        places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        values = torch.from_numpy(np.asarray(coo.data, dtype=np.float64))
        return cls(torch.sparse_coo_tensor(places, values, coo.shape, check_invariants=False).coalesce(), shape)

    @cached_property
    def n(self) -> int:
        return self.weight.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        if not self.weight.is_sparse:
            return x @ self.weight.T
        result: Tensor = torch.sparse.mm(self.weight, x.T).T
        return result

    def adjoint(self, r: Tensor) -> Tensor:
        if not self.weight.is_sparse:
            return r @ self.weight
        result: Tensor = torch.sparse.mm(self.weight.t(), r.T).T
        return result

    @cached_property
    def csr(self) -> sparse.csr_array:
        """The matrix as a SciPy array."""
        weight = self.weight.cpu().double()
        if not weight.is_sparse:
            return sparse.csr_array(weight.numpy())
        return sparse.csr_array((weight.values().numpy(), weight.indices().numpy()), shape=tuple(weight.shape))

    def matrix(self) -> Array:
        return np.ascontiguousarray(self.weight.cpu().double().to_dense().numpy())

    def to(self, dtype: torch.dtype, device: torch.device) -> MatrixOperator:
        return replace(self, weight=self.weight.to(device=device, dtype=dtype))

    def in_units(self, before: int, after: int) -> MatrixOperator:
        return replace(self, weight=times_power(self.weight, before + after))

    @cached_property
    def _picked(self) -> Index | None:
        csr = self.csr.copy()
        csr.eliminate_zeros()
        one_each = (np.diff(csr.indptr) == 1).all() and (csr.data == 1).all()
        return np.asarray(csr.indices, dtype=np.intp) if one_each else None

    def selection(self) -> Index | None:
        return self._picked

    def saved(self) -> Arrays:
        if not self.weight.is_sparse:
            return {"matrix": self.matrix()}
        indices, pointers = (array.astype(np.int64) for array in (self.csr.indices, self.csr.indptr))
        return {"data": self.csr.data, "indices": indices, "pointers": pointers, "columns": np.array(self.n, np.int64)}


@dataclass(frozen=True, eq=False)
class ProductOperator(Operator):
    """The operator L A for a matrix L, (m, m'), and a linear A, if the product matrix would take more work than both.

    Attributes:
        left, inner: L and A.
    """

    left: Tensor
    inner: Operator

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return (len(self.left),)

    @cached_property
    def n(self) -> int:
        return self.inner.n

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(x) @ self.left.T

    def adjoint(self, r: Tensor) -> Tensor:
        return self.inner.adjoint(r @ self.left)

    def matrix(self) -> Array:
        return np.asarray(self.left.cpu().double().numpy() @ self.inner.matrix())

    def to(self, dtype: torch.dtype, device: torch.device) -> ProductOperator:
        return replace(self, left=self.left.to(device=device, dtype=dtype), inner=self.inner.to(dtype, device))

    def in_units(self, before: int, after: int) -> ProductOperator:
        return replace(self, left=times_power(self.left, before + after))


class MatrixFreeOperator(Operator):
    """A linear map given as code on NumPy vectors. It is applied to one vector at a time, and no matrix is formed.

    Args:
        apply: (n,) -> (m,).
        transpose: (m,) -> (n,).
        n, m: number of entries of an output and of an observation.
        shape: shape of one observation, of m entries.
    """

    def __init__(self, apply: _Code, transpose: _Code, n: int, m: int, shape: Shape) -> None:
        self.apply, self.transpose, self.n, self.m, self.shape = apply, transpose, n, m, shape

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _OfCode.apply(x, self.apply, self.transpose, (self.m, self.n))
        return result

    def adjoint(self, r: Tensor) -> Tensor:
        result: Tensor = _OfCode.apply(r, self.transpose, self.apply, (self.n, self.m))
        return result


class _OfCode(torch.autograd.Function):
    """An autograd function that applies a linear map in NumPy code to each row. Its backward pass is the adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: _Code, transpose: _Code, sizes: tuple[int, int]) -> Tensor:
        ctx.maps = (transpose, apply, sizes[::-1])
        # Copies: the code may overwrite its argument, or reuse the array that it returned.
        rows = [np.array(apply(row.copy()), dtype=np.float64).ravel() for row in x.detach().cpu().double().numpy()]
        return torch.from_numpy(np.array(rows).reshape(-1, sizes[0])).to(dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _OfCode.apply(gradients[0], *ctx.maps), None, None, None


def hiding(operator: Operator, seen: Flags) -> WeightedOperator:
    """Hide the entries of an operator that are not ``seen``, (m,) or (B, m)."""
    return WeightedOperator(operator, torch.from_numpy(np.array(seen, dtype=np.float64)))


def normalised(operator: Operator) -> tuple[Operator, Tensor]:
    """Normalise the weights to a mean square of 1. Return the operator and the divisors, (1,) or (B, 1)."""
    if not isinstance(operator, WeightedOperator) or operator.hides:
        return operator, torch.ones(1, dtype=torch.float64)
    gain = operator.weight.square().mean(dim=-1, keepdim=True).sqrt()
    return replace(operator, weight=operator.weight / gain), gain


def times_power(x: Tensor, exponent: int) -> Tensor:
    """Compute 2^exponent x in the type of x. The factor is applied in two steps, as 2^exponent itself may overflow."""
    if not exponent:
        return x
    half = exponent // 2
    return (x.double() * 2.0**half * 2.0 ** (exponent - half)).to(x.dtype)

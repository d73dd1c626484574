"""Measurements A: R^n -> R^m of a generator's flattened output, for batches in PyTorch.

A kind of measurement is a class derived from :class:`Operator`. Weights of entries are one more class around any of
them, :class:`WeightedOperator`, so that no other class knows of weights. Matrices are in ``_matrix_operators``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import UnsupportedModelError
from unrelu.models.affine import Shape
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.host import computing

# The observed outputs of an observation, as an index into the rows of the last layer.
OutputIndex = Index | slice
Arrays = Mapping[str, npt.NDArray[Any]]


class Operator(ABC):
    """A map of flat outputs, (B, n) -> (B, m). All observations share it, or each has its own (masks).

    A subclass sets ``shape``, and n unless it is m, and defines :meth:`forward` and :meth:`adjoint`. If it is not
    linear, it defines :meth:`linearize` in place of the adjoint.

    Attributes:
        shape: shape of one observation as the user passes it.
        linear: whether it is a linear map.
        output_shaped: whether an observation has the shape of an output, with hidden entries if any, which are 0.
        refused: why methods that need a linear map refuse it, for messages.
        portable: whether it can be sent to another process.
        kind: its name in files.
        stored: names and types of the arrays that a file keeps (:meth:`saved`); None if the operator is code.
    """

    shape: Shape
    linear: bool = True
    output_shaped: bool = False
    refused: ClassVar[str] = "operator= is a function, which is not taken to be linear"
    portable: ClassVar[bool] = True
    kind: ClassVar[str] = "code"
    stored: ClassVar[Mapping[str, type[np.generic]] | None] = None

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
        """A x, (B, n) -> (B, m), differentiable by PyTorch."""

    def adjoint(self, r: Tensor) -> Tensor:
        """A^T r, (B, m) -> (B, n)."""
        raise UnsupportedModelError(
            f"{self.refused}, and this method needs its adjoint A^T; use method='auto', 'lm', 'adam' or "
            "'gradient_descent'"
        )

    def tangents(self, t: Tensor) -> Tensor:
        """A applied to k directions for each observation, (B, k, n) -> (B, k, m)."""
        if not self.linear:
            raise UnsupportedModelError(f"{self.refused}: what it makes of a direction depends on the output")
        return torch.unflatten(self.forward(t.flatten(0, 1)), 0, t.shape[:2])

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """A x, (B, m), and its derivatives along k directions, (B, k, n) -> (B, k, m)."""
        return self.forward(x), self.tangents(t)

    @computing()
    def values(self, x: Array) -> Array:
        """A x in NumPy, float64, (B, n) -> (B, m)."""
        return np.asarray(self.forward(torch.tensor(x)))

    def matrix(self) -> Array:
        """A as a dense matrix, (m, n)."""
        return np.ascontiguousarray(self.values(np.eye(self.n)).T)

    def to(self, dtype: torch.dtype, device: torch.device) -> Operator:
        """The same operator on tensors of another type or device."""
        return self

    @property
    def width(self) -> int:
        """The most numbers that it holds in memory for one output, its input and result excluded."""
        return 0

    def in_units(self, before: int, after: int) -> Operator:
        """2^after A 2^before, the same measurement in other units of outputs and observations."""
        if not self.linear and before:
            raise UnsupportedModelError(
                f"outputs of the generator are of the size 2^{before}, and operator= is a {type(self).__name__}, which "
                "is not linear: define its in_units(before, after), or scale the generator to outputs of about 1"
            )
        if not (before or after):
            return self
        return WeightedOperator(self, times_power(torch.ones(self.m, dtype=torch.float64), before + after))

    # --- the entries of each observation ------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of observations that it is made for; 0 if all share one map."""
        return 0

    def take(self, observations: Index | Tensor) -> Operator:
        """The operator of some of the observations; itself if all share one."""
        return self

    def seen(self, size: int) -> Flags:
        """Which entries of ``size`` observations are not hidden, (size, m)."""
        return np.ones((size, self.m), dtype=bool)

    @property
    def unweighted(self) -> Operator:
        """The operator without its weights."""
        return self

    def weights(self, size: int) -> Array | None:
        """The weights of the entries of ``size`` observations, (size, m); None without weights."""
        return None

    def selection(self) -> OutputIndex | None:
        """The output that each entry of an observation is, hidden or not, as an index; None if A mixes outputs."""
        return slice(None) if self.linear and self.output_shaped else None

    @property
    def selects(self) -> bool:
        """Whether A selects entries of the output without mixing them."""
        return self.selection() is not None

    # --- files --------------------------------------------------------------------------------------------------------

    def saved(self) -> Arrays:
        """The arrays that a file keeps, with the names in :attr:`stored`."""
        return {}

    @classmethod
    def restored(cls, shape: Shape, arrays: Arrays) -> Operator:
        """Make the operator from the arrays of :meth:`saved`."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class IdentityOperator(Operator):
    """The whole output is observed, of this shape."""

    shape: Shape
    output_shaped = True
    kind: ClassVar[str] = "identity"
    stored: ClassVar[Mapping[str, type[np.generic]] | None] = {}

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, r: Tensor) -> Tensor:
        return r

    def tangents(self, t: Tensor) -> Tensor:
        return t

    @classmethod
    def restored(cls, shape: Shape, arrays: Arrays) -> Self:
        return cls(shape)


@dataclass(frozen=True, eq=False)
class MaskOperator(Operator):
    """Some entries of the output are observed. Observations have the output's shape, and are 0 at hidden entries.

    Attributes:
        kept: 0 or 1, (n,) for all observations or (B, n) for each.
        shape: the network's output shape.
    """

    kept: Tensor
    shape: Shape
    output_shaped = True
    kind: ClassVar[str] = "mask"
    stored: ClassVar[Mapping[str, type[np.generic]] | None] = {"kept": np.bool_}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept

    def adjoint(self, r: Tensor) -> Tensor:
        return r * self.kept

    def tangents(self, t: Tensor) -> Tensor:
        return t * _beside_directions(self.kept)

    def to(self, dtype: torch.dtype, device: torch.device) -> MaskOperator:
        return replace(self, kept=self.kept.to(device=device, dtype=dtype))

    def in_units(self, before: int, after: int) -> MaskOperator:
        return self

    @property
    def count(self) -> int:
        return len(self.kept) if self.kept.dim() == 2 else 0

    def take(self, observations: Index | Tensor) -> MaskOperator:
        return replace(self, kept=_part_of(self.kept, observations))

    def seen(self, size: int) -> Flags:
        return np.broadcast_to(self.kept.cpu().numpy() > 0, (size, self.n))

    def saved(self) -> Arrays:
        return {"kept": self.kept.cpu().numpy() > 0}

    @classmethod
    def restored(cls, shape: Shape, arrays: Arrays) -> Self:
        return cls(torch.from_numpy(arrays["kept"]).double(), shape)


@dataclass(frozen=True, eq=False)
class WeightedOperator(Operator):
    """W A with a diagonal W: another operator with a weight for each entry.

    Attributes:
        inner: A.
        weight: the diagonal of W, (m,), or (B, m) with one W for each observation; not below 0.
    """

    inner: Operator
    weight: Tensor

    def __post_init__(self) -> None:
        for name in ("n", "m", "shape", "linear", "refused", "kind"):
            object.__setattr__(self, name, getattr(self.inner, name))
        # A mask before a nonlinear measurement of the whole output; of linear ones it is a MaskOperator.
        hides = self.inner.output_shaped and not self.linear and bool(((self.weight == 0) | (self.weight == 1)).all())
        object.__setattr__(self, "output_shaped", hides)
        object.__setattr__(self, "stored", self.inner.stored if hides else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(x) * self.weight

    def adjoint(self, r: Tensor) -> Tensor:
        return self.inner.adjoint(r * self.weight)

    def tangents(self, t: Tensor) -> Tensor:
        return self.inner.tangents(t) * _beside_directions(self.weight)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        values, tangents = self.inner.linearize(x, t)
        return values * self.weight, tangents * _beside_directions(self.weight)

    def to(self, dtype: torch.dtype, device: torch.device) -> WeightedOperator:
        return WeightedOperator(self.inner.to(dtype, device), self.weight.to(device=device, dtype=dtype))

    @property
    def width(self) -> int:
        return self.inner.width

    def in_units(self, before: int, after: int) -> WeightedOperator:
        if self.linear:
            return WeightedOperator(self.inner, times_power(self.weight, before + after))
        if self.output_shaped:
            return WeightedOperator(self.inner.in_units(before, after), self.weight)
        return WeightedOperator(self.inner.in_units(before, 0), times_power(self.weight, after))

    @property
    def count(self) -> int:
        return len(self.weight) if self.weight.dim() == 2 else self.inner.count

    def take(self, observations: Index | Tensor) -> WeightedOperator:
        return WeightedOperator(self.inner.take(observations), _part_of(self.weight, observations))

    def seen(self, size: int) -> Flags:
        return np.asarray(self.inner.seen(size) & (self.weight.cpu().numpy() > 0))

    @property
    def unweighted(self) -> Operator:
        return self.inner

    def weights(self, size: int) -> Array:
        return np.broadcast_to(self.weight.cpu().double().numpy(), (size, self.m))

    def selection(self) -> None:
        return None

    def saved(self) -> Arrays:
        return {**self.inner.saved(), "kept": self.weight.cpu().numpy() > 0}


def hiding(operator: Operator, finite: Flags) -> Operator:
    """The operator that hides the entries that are not finite, (m,) or (B, m)."""
    if not (operator.linear and operator.output_shaped):
        return WeightedOperator(operator, torch.from_numpy(finite.astype(np.float64)))
    seen = operator.seen(max(1, operator.count))
    kept = finite & (seen if operator.count else seen[0])
    return MaskOperator(torch.from_numpy(kept.astype(np.float64)), operator.shape)


def normalised(operator: Operator) -> tuple[Operator, Tensor]:
    """The operator with weights of mean square 1, and the divisors of its weights, (1,) or (B, 1)."""
    if not isinstance(operator, WeightedOperator):
        return operator, torch.ones(1, dtype=torch.float64)
    gain = operator.weight.square().mean(dim=-1, keepdim=True).sqrt()
    return replace(operator, weight=operator.weight / gain), gain


def times_power(x: Tensor, exponent: int) -> Tensor:
    """2^exponent x in the type of x. The factor is applied in two steps, since 2^exponent itself may overflow."""
    if not exponent:
        return x
    half = exponent // 2
    return (x.double() * 2.0**half * 2.0 ** (exponent - half)).to(x.dtype)


def _beside_directions(weight: Tensor) -> Tensor:
    """Weights (m,) or (B, m) in a shape that broadcasts with tangents (B, k, m)."""
    return weight[:, None, :] if weight.dim() == 2 else weight


def _part_of(weight: Tensor, observations: Index | Tensor) -> Tensor:
    """Weights (m,) as they are; from weights (B, m) those of some observations."""
    if weight.dim() == 1:
        return weight
    return weight[torch.as_tensor(observations, dtype=torch.long, device=weight.device)]

"""Affine maps between layers: dense, convolution, other linear operators, reshaping, and their composition.

A layer of a trained generator is an affine map followed by an activation. The affine map is often a sequence of modules
(transposed convolution, batch normalisation, upsampling). :class:`Affine` is such a sequence. It is applied in PyTorch,
with or without its constant term, and written out as a matrix only when a linear program needs it.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from unrelu.errors import ModelError
from unrelu.runtime.array_types import Array, Shape

# How many columns of the identity are mapped at once to compute the matrix of a map.
_PROBE = 256


@dataclass(frozen=True, eq=False)
class Step(ABC):
    """One affine operation on a batch of tensors (B, *shape). Subclasses are frozen dataclasses."""

    @abstractmethod
    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        """Apply the operation to x, (B, *shape). If ``constant`` is False, leave out the constant term."""

    def then(self, step: Step, shape: Shape) -> Step | None:
        """Merge this step with the next one, whose input has ``shape``. Return None if they cannot be merged."""
        return None

    def work(self, n_in: int, n_out: int) -> int:
        """Count the multiplications of one application, in a map with n_in inputs and n_out outputs."""
        return 0

    @property
    def kind(self) -> str:
        """The name of the operation in tables and messages."""
        return type(self).__name__

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights and constants by name."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in held.items() if isinstance(value, Tensor)}

    def mapped(self, change: Callable[[str, Tensor], Tensor]) -> Step:
        """Return the step with ``change(name, tensor)`` in place of each tensor."""
        changed: dict[str, Any] = {name: change(name, tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class Dense(Step):
    """A dense map W h + b on the last axis; W is (n_out, n_in), b is (n_out,) or None."""

    weight: Tensor
    bias: Tensor | None = None

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        return F.linear(x, self.weight, self.bias if constant else None)

    def work(self, n_in: int, n_out: int) -> int:
        return self.weight.numel() * max(1, n_in // self.weight.shape[1])

    def then(self, step: Step, shape: Shape) -> Step | None:
        if isinstance(step, Scale) and math.prod(shape) == len(self.weight):
            step = step.full(shape)
        elif not isinstance(step, Dense):
            return None
        elif self.weight.shape[1] * len(step.weight) > self.weight.numel() + step.weight.numel():
            return None  # a product through a few components is cheaper as two matrices
        # W2 (W1 h + b1) + b2 = (W2 W1) h + (W2 b1 + b2)
        weight = step.apply(self.weight.T, constant=False).T.contiguous()
        if self.bias is None and isinstance(step, Dense):
            return Dense(weight, step.bias)
        return Dense(weight, step.apply(weight.new_zeros(len(self.weight)) if self.bias is None else self.bias))


@dataclass(frozen=True, eq=False)
class Conv(Step):
    """A convolution over the trailing axes, or a transposed one, with the arguments of ``torch.convolution``."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Shape = (1,)
    padding: Shape = (0,)
    dilation: Shape = (1,)
    groups: int = 1
    transposed: bool = False
    output_padding: Shape = (0,)

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        bias = self.bias if constant else None
        plain = self.groups == 1 and not any((*self.padding, *self.output_padding)) and max(self.dilation) == 1
        if self.transposed and plain and x.shape[2:].numel() == 1:
            # With a single input position, the output is a sum of kernels: a matrix product is faster.
            outer = torch.unflatten(x.flatten(1) @ self.weight.flatten(1), 1, self.weight.shape[1:])
            return outer if bias is None else outer + bias.reshape(-1, *[1] * (self.weight.dim() - 2))
        axes = self.weight.dim() - 2
        if self.groups > 1 and not self.transposed and self.weight.shape[2:].numel() == x.shape[2:].numel() == 1:
            # Groups of a single position are products with small matrices, for which PyTorch has a faster kernel.
            blocks = torch.unflatten(self.weight.flatten(1), 0, (self.groups, -1))
            product = blocks @ torch.unflatten(x.flatten(1), 1, (self.groups, -1)).permute(1, 2, 0)
            outer = product.flatten(0, 1).T if bias is None else product.flatten(0, 1).T + bias
            return outer.reshape(*outer.shape, *[1] * axes)
        if x.dim() != 2 + axes:
            sizes = ", ".join(("depth", "height", "width")[-axes:]) if axes > 1 else "length"
            raise RuntimeError(f"it takes elements of shape (channels, {sizes})")
        return torch.convolution(
            x, self.weight, bias, self.stride, self.padding, self.dilation, self.transposed, self.output_padding,
            self.groups,
        )  # fmt: skip

    def then(self, step: Step, shape: Shape) -> Step | None:
        """Merge a scale that follows, if it has one factor and one shift for each channel."""
        if not isinstance(step, Scale) or not step.by_channel(shape):
            return None
        scale, shift = (t.reshape(-1).broadcast_to(shape[:1]) for t in (step.scale, step.shift))
        bias = shift if self.bias is None else scale * self.bias + shift
        after = [1] * (self.weight.dim() - 2)
        if not self.transposed:
            return replace(self, weight=self.weight * scale.reshape(-1, 1, *after), bias=bias)
        # The weight is (C_in, C_out / groups, ...), its input channels in group order.
        by_group = scale.reshape(self.groups, 1, -1, *after)
        weight = (torch.unflatten(self.weight, 0, (self.groups, -1)) * by_group).flatten(0, 1)
        return replace(self, weight=weight, bias=bias)

    @property
    def kind(self) -> str:
        return "ConvTranspose" if self.transposed else "Conv"

    def work(self, n_in: int, n_out: int) -> int:
        return self.weight.numel() * max(1, (n_in if self.transposed else n_out) // self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class Scale(Step):
    """The map scale * x + shift, such as batch normalisation in evaluation mode. Both broadcast to the shape of x."""

    scale: Tensor
    shift: Tensor

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        y = x * self.scale
        return y + self.shift if constant else y

    def then(self, step: Step, shape: Shape) -> Step | None:
        if isinstance(step, Scale):
            return Scale(step.scale * self.scale, step.apply(self.shift))
        if isinstance(step, Dense) and len(shape) == 1:
            full = self.full(shape)
            return Dense(step.weight * full.scale, step.apply(full.shift))
        return None

    def full(self, shape: Shape) -> Scale:
        """Return the same map with one factor and one shift for every entry of x, flattened."""
        return Scale(*(t.broadcast_to(shape).reshape(-1) for t in (self.scale, self.shift)))

    def by_channel(self, shape: Shape) -> bool:
        """Check whether scale and shift vary along the first axis of ``shape`` only."""
        held = (self.scale, self.shift)
        return all(t.numel() == 1 or (t.dim() == len(shape) and t.numel() == t.shape[0]) for t in held)


@dataclass(frozen=True, eq=False)
class LinearOperation(Step):
    """An operator of PyTorch that is linear in its first argument: resampling, pooling, padding, a permutation, a sum.

    The operator is called by its name, such as ``"aten.avg_pool2d.default"``. Its first argument is the batch. Its
    further arguments must not depend on the size of the batch.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        return self.name.split(".")[1].strip("_")

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        function = functools.reduce(getattr, self.name.split("."), cast(Any, torch.ops))
        arguments = (a.to(x.device) if isinstance(a, Tensor) else a for a in self.arguments)  # indices
        called: Tensor = function(x, *arguments, **dict(self.options))
        return called


@dataclass(frozen=True, eq=False)
class Reshape(Step):
    """A new shape for each element of the batch, with the same number of entries."""

    shape: Shape

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)

    def then(self, step: Step, shape: Shape) -> Step | None:
        return step if isinstance(step, Reshape) else None


@dataclass(frozen=True, eq=False)
class Affine:
    """A composition of steps, h -> A h + b, from ``in_shape`` to ``out_shape``. Without steps, it is the identity.

    Build it with :meth:`compose`, which merges steps where possible and checks that their shapes fit. Inputs and
    outputs are flat, (B, n_in) -> (B, n_out).
    """

    steps: tuple[Step, ...]
    in_shape: Shape
    out_shape: Shape

    # The matrix is dense if all steps are of these types and at least one is a Dense; else it is sparse.
    _DENSE: ClassVar[tuple[type[Step], ...]] = (Dense, Reshape, Scale)

    @classmethod
    def compose(cls, steps: Sequence[Step], in_shape: Shape) -> Affine:
        """Compose the steps, folding batch normalisations and products of matrices.

        Raises:
            ModelError: a step does not fit the shape of its input, or has a weight that is not finite.
        """
        merged: list[Step] = []
        shape = in_shape
        for step in cls(tuple(steps), in_shape, in_shape).to(torch.float64, torch.device("cpu")).steps:
            for name, tensor in step.tensors().items():
                check_finite(tensor, f"a {step.kind} {name}")
            out = _out_shape(step, shape)
            if not (isinstance(step, Reshape) and out == shape):
                _append(merged, step, shape)
            shape = out
        return cls(tuple(merged), in_shape, shape)

    @property
    def n_in(self) -> int:
        """Number of inputs."""
        return math.prod(self.in_shape)

    @property
    def n_out(self) -> int:
        """Number of outputs."""
        return math.prod(self.out_shape)

    def mapped(self, change: Callable[[str, Tensor], Tensor]) -> Affine:
        """Return the map with ``change(name, tensor)`` in place of every tensor of its steps, first to last."""
        return replace(self, steps=tuple(step.mapped(change) for step in self.steps))

    def to(self, dtype: torch.dtype, device: torch.device) -> Affine:
        """Return a copy with converted tensors.

        PyTorch computes convolutions in single precision on the CPU up to twice as fast in its channels-last format.
        """
        fast = dtype == torch.float32 and device.type == "cpu"
        return self.mapped(
            lambda _, tensor: tensor.to(
                dtype=dtype,
                device=device,
                memory_format=torch.channels_last if fast and tensor.dim() == 4 else torch.preserve_format,
            )
        )

    def apply(self, h: Tensor, constant: bool = True) -> Tensor:
        """Compute A h + b for h of shape (B, n_in), or A h alone if ``constant`` is False."""
        x = h.reshape(h.shape[0], *self.in_shape)
        for step in self.steps:
            x = step.apply(x, constant)
        return x.reshape(h.shape[0], self.n_out)

    def matrix(self) -> Array | sparse.csr_array:
        """Compute A, (n_out, n_in): dense for dense maps, SciPy sparse with convolutions, pooling or resampling."""
        if len(self.steps) == 1 and isinstance(self.steps[0], Dense) and len(self.in_shape) == 1:
            return self.steps[0].weight.detach().cpu().double().numpy()
        blocks = []
        dense = any(isinstance(s, Dense) for s in self.steps) and all(isinstance(s, self._DENSE) for s in self.steps)
        exact = self.to(torch.float64, torch.device("cpu"))
        for first in range(0, self.n_in, _PROBE):
            unit = torch.zeros(min(_PROBE, self.n_in - first), self.n_in, dtype=torch.float64)
            unit[torch.arange(len(unit)), first + torch.arange(len(unit))] = 1
            rows = exact.apply(unit, constant=False).numpy()
            blocks.append(rows if dense else sparse.csr_array(rows))
        return np.ascontiguousarray(np.concatenate(blocks).T) if dense else sparse.vstack(blocks).T.tocsr()

    def bias(self) -> Array:
        """Compute b, (n_out,)."""
        zero = torch.zeros(1, self.n_in, dtype=torch.float64)
        return np.asarray(self.to(torch.float64, torch.device("cpu")).apply(zero)[0])


def _out_shape(step: Step, shape: Shape) -> Shape:
    try:
        out = step.apply(torch.zeros(1, *shape, dtype=torch.float64)).shape
        if isinstance(step, Scale) and out != (1, *shape):
            raise RuntimeError("it would be repeated")
    except (RuntimeError, IndexError) as error:
        held = [f"a {name} of shape {tuple(tensor.shape)}" for name, tensor in step.tensors().items()]
        of = f" to {step.shape}" if isinstance(step, Reshape) else f" with {' and '.join(held)}" if held else ""
        raise ModelError(f"{step.kind}{of} does not fit an input of shape {shape}: {error}") from error
    return tuple(out[1:])


def check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinite values; ``what`` names them in the message."""
    # Without no_grad, tensors that were made in inference mode cannot be evaluated.
    with torch.no_grad():
        bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ModelError(f"{bad} of {values.numel()} entries of {what} are NaN or infinite")


def _append(steps: list[Step], step: Step, shape: Shape) -> None:
    """Append ``step``, whose input has ``shape``. Merge it into an earlier step where the merged step is exact."""
    i = len(steps) - 1
    if i > 0 and isinstance(step, Scale) and isinstance(steps[i], Reshape) and isinstance(steps[i - 1], Dense):
        i -= 1
    merged = steps[i].then(step, shape) if steps else None
    if merged is None:
        steps.append(step)
    else:
        steps[i] = merged

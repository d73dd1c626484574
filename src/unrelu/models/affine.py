"""Affine maps between layers: dense, convolution, pooling, resampling, reshaping, and their composition.

A layer of a trained generator is an activation after an affine map, and the affine map is often several modules in a
row (transposed convolution, batch normalisation, upsampling). :class:`Affine` is such a row. It is applied in PyTorch,
with or without its constant term, and written out as a matrix only when a linear program asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from unrelu.errors import ModelError

Shape = tuple[int, ...]
Array = npt.NDArray[np.float64]

# Identity columns pushed through a convolution at once when its matrix is written out.
_PROBE = 256


@dataclass(frozen=True, eq=False)
class Step:
    """One affine operation on a batch of tensors (B, *shape). ``constant=False`` leaves the constant term out."""

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        """The operation on x, (B, *shape), without its constant term if ``constant`` is False."""
        raise TypeError(f"{type(self).__name__} does not say how it is applied")

    def work(self, n_in: int, n_out: int) -> int:
        """Multiplications of one application, in a map of n_in inputs and n_out outputs."""
        return 0

    def to(self, dtype: torch.dtype, device: torch.device) -> Step:
        """A copy with its tensors converted."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: t.to(dtype=dtype, device=device) for name, t in tensors.items() if isinstance(t, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class Dense(Step):
    """W h + b on the last axis; W is (n_out, n_in), b is (n_out,) or None."""

    weight: Tensor
    bias: Tensor | None = None

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        return F.linear(x, self.weight, self.bias if constant else None)

    def work(self, n_in: int, n_out: int) -> int:
        return self.weight.numel() * max(1, n_in // self.weight.shape[1])


@dataclass(frozen=True, eq=False)
class Conv(Step):
    """Convolution over the trailing one or two axes, as ``torch.nn.Conv1d`` and ``Conv2d``."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Shape = (1,)
    padding: Shape = (0,)
    dilation: Shape = (1,)
    groups: int = 1

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        function = F.conv1d if self.weight.dim() == 3 else F.conv2d
        bias = self.bias if constant else None
        return function(x, self.weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def work(self, n_in: int, n_out: int) -> int:
        return self.weight.numel() * max(1, n_out // self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class ConvTranspose(Step):
    """Transposed convolution, as ``torch.nn.ConvTranspose1d`` and ``ConvTranspose2d``."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Shape = (1,)
    padding: Shape = (0,)
    output_padding: Shape = (0,)
    dilation: Shape = (1,)
    groups: int = 1

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        function = F.conv_transpose1d if self.weight.dim() == 3 else F.conv_transpose2d
        bias = self.bias if constant else None
        if self._outer and x.shape[2:].numel() == 1:
            outer = torch.unflatten(x.flatten(1) @ self.weight.flatten(1), 1, self.weight.shape[1:])
            return outer if bias is None else outer + bias.reshape(-1, *[1] * (self.weight.dim() - 2))
        return function(
            x, self.weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    @property
    def _outer(self) -> bool:
        """Whether one position puts out the kernels times its numbers: then a product of matrices is quicker."""
        return self.groups == 1 and not any((*self.padding, *self.output_padding)) and max(self.dilation) == 1

    def work(self, n_in: int, n_out: int) -> int:
        return self.weight.numel() * max(1, n_in // self.weight.shape[0])


@dataclass(frozen=True, eq=False)
class Scale(Step):
    """scale * x + shift, both broadcastable to the shape of x: batch normalisation in evaluation mode."""

    scale: Tensor
    shift: Tensor

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        y = x * self.scale
        return y + self.shift if constant else y


@dataclass(frozen=True, eq=False)
class Resample(Step):
    """Nearest, linear or bilinear resampling to ``size``, as ``torch.nn.Upsample``."""

    size: Shape
    mode: str = "nearest"
    align_corners: bool = False

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        corners = None if self.mode == "nearest" else self.align_corners
        return F.interpolate(x, size=self.size, mode=self.mode, align_corners=corners)


@dataclass(frozen=True, eq=False)
class Pool(Step):
    """Average pooling, as ``torch.nn.AvgPool1d`` and ``AvgPool2d``."""

    kernel: Shape
    stride: Shape
    padding: Shape
    ceil_mode: bool = False
    count_include_pad: bool = True

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        function: Any = F.avg_pool1d if len(self.kernel) == 1 else F.avg_pool2d
        pooled: Tensor = function(x, self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return pooled


@dataclass(frozen=True, eq=False)
class Pad(Step):
    """Zeros around the trailing axes, widths in the order of ``torch.nn.functional.pad``."""

    widths: Shape

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        return F.pad(x, self.widths)


@dataclass(frozen=True, eq=False)
class Reshape(Step):
    """A new shape for each element of the batch; the number of entries stays."""

    shape: Shape

    def apply(self, x: Tensor, constant: bool = True) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)


@dataclass(frozen=True, eq=False)
class Affine:
    """A composition of steps, h -> A h + b, from ``in_shape`` to ``out_shape``; no step at all is the identity.

    Build it with :meth:`compose`, which merges what can be merged and checks that the shapes chain. Tensors go in and
    come out flat, (B, n_in) -> (B, n_out).
    """

    steps: tuple[Step, ...]
    in_shape: Shape
    out_shape: Shape

    # Steps whose composition is written out as a dense matrix; any other step makes it sparse.
    _DENSE: ClassVar[tuple[type[Step], ...]] = (Dense, Reshape, Scale)

    @classmethod
    def compose(cls, steps: Sequence[Step], in_shape: Shape) -> Affine:
        """Chain the steps, folding batch normalisations and products of matrices.

        Raises:
            ModelError: a step does not fit the shape that reaches it, or holds a weight that is not finite.
        """
        merged: list[Step] = []
        shape = in_shape
        for step in (s.to(torch.float64, torch.device("cpu")) for s in steps):
            for field in fields(step):
                if isinstance(value := getattr(step, field.name), Tensor):
                    check_finite(value, f"a {type(step).__name__} {field.name}")
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

    def to(self, dtype: torch.dtype, device: torch.device) -> Affine:
        """A copy with its tensors converted."""
        return replace(self, steps=tuple(s.to(dtype, device) for s in self.steps))

    def apply(self, h: Tensor, constant: bool = True) -> Tensor:
        """A h + b, or A h alone, for h of shape (B, n_in)."""
        x = h.reshape(h.shape[0], *self.in_shape)
        for step in self.steps:
            x = step.apply(x, constant)
        return x.reshape(h.shape[0], self.n_out)

    def matrix(self) -> Array | sparse.csr_array:
        """A, (n_out, n_in): dense if the map is, SciPy sparse for convolutions, pooling and resampling."""
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
        """b, (n_out,)."""
        zero = torch.zeros(1, self.n_in, dtype=torch.float64)
        return np.asarray(self.to(torch.float64, torch.device("cpu")).apply(zero)[0])


def _out_shape(step: Step, shape: Shape) -> Shape:
    name = type(step).__name__
    if isinstance(step, Reshape) and math.prod(step.shape) != math.prod(shape):
        raise ModelError(f"{name} to {step.shape} does not fit an input of shape {shape}")
    if isinstance(step, Scale) and not all(_broadcasts(t.shape, shape) for t in (step.scale, step.shift)):
        sizes = f"{tuple(step.scale.shape)} and {tuple(step.shift.shape)}"
        raise ModelError(f"{name} by factors and shifts of shapes {sizes} does not fit an input of shape {shape}")
    try:
        return tuple(step.apply(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    except RuntimeError as error:
        weight = getattr(step, "weight", None)
        of = f" with a weight of shape {tuple(weight.shape)}" if weight is not None else ""
        raise ModelError(f"{name}{of} does not fit an input of shape {shape}: {error}") from error


def _broadcasts(small: Shape, shape: Shape) -> bool:
    """Whether an array of shape ``small`` can be repeated to ``shape``."""
    return len(small) <= len(shape) and all(n in (1, m) for n, m in zip(reversed(small), reversed(shape), strict=False))


def check_finite(values: Tensor, what: str) -> None:
    """Refuse numbers that are NaN or infinite; ``what`` says whose they are."""
    if bad := int((~torch.isfinite(values)).sum()):
        raise ModelError(f"{bad} of {values.numel()} entries of {what} are NaN or infinite")


def _append(steps: list[Step], step: Step, shape: Shape) -> None:
    """Append ``step``, whose input has ``shape``, merging it into the steps before it where that is exact."""
    last = steps[-1] if steps else None
    if isinstance(step, Scale):
        _append_scale(steps, step, shape)
    elif isinstance(step, Reshape) and isinstance(last, Reshape):
        steps[-1] = step
    elif isinstance(step, Dense) and isinstance(last, Dense) and len(shape) == 1:
        # W2 (W1 h + b1) + b2 = (W2 W1) h + (W2 b1 + b2)
        steps[-1] = Dense(step.weight @ last.weight, _add(_mul(step.weight, last.bias), step.bias))
    elif isinstance(step, Dense) and isinstance(last, Scale) and len(shape) == 1:
        scale, shift = last.scale.broadcast_to(shape), last.shift.broadcast_to(shape)
        steps[-1] = Dense(step.weight * scale, _add(step.weight @ shift, step.bias))
    else:
        steps.append(step)


def _append_scale(steps: list[Step], step: Scale, shape: Shape) -> None:
    """Fold a scale into the dense map or convolution before it, looking back through one reshape."""
    reshape = steps[-1] if steps and isinstance(steps[-1], Reshape) else None
    before = len(steps) - (2 if reshape else 1)
    last = steps[before] if before >= 0 else None
    if isinstance(last, Dense) and (reshape or len(shape) == 1) and last.weight.shape[0] == math.prod(shape):
        scale, shift = (t.broadcast_to(shape).reshape(-1) for t in (step.scale, step.shift))
        steps[before] = Dense(last.weight * scale[:, None], _add(_mul(scale, last.bias), shift))
    elif isinstance(last, Conv | ConvTranspose) and not reshape and _by_channel(step, shape):
        scale, shift = (t.reshape(-1).broadcast_to((shape[0],)) for t in (step.scale, step.shift))
        weight = last.weight * _per_output_channel(scale, last)
        steps[before] = replace(last, weight=weight, bias=_add(_mul(scale, last.bias), shift))
    elif isinstance(last, Scale) and not reshape:
        steps[before] = Scale(step.scale * last.scale, step.scale * last.shift + step.shift)
    else:
        steps.append(step)


def _by_channel(step: Scale, shape: Shape) -> bool:
    """Whether the scale and the shift vary along the first axis of ``shape`` alone."""
    return all(t.numel() == 1 or (t.dim() == len(shape) and t.numel() == t.shape[0]) for t in (step.scale, step.shift))


def _per_output_channel(scale: Tensor, conv: Conv | ConvTranspose) -> Tensor:
    """``scale`` (C_out,) shaped to multiply a convolution's weight."""
    trailing = (1,) * (conv.weight.dim() - 2)
    if isinstance(conv, Conv):
        return scale.reshape(-1, 1, *trailing)
    # A transposed convolution's weight is (C_in, C_out / groups, ...), its input channels in group order.
    per_group = scale.reshape(conv.groups, -1)
    return per_group.repeat_interleave(conv.weight.shape[0] // conv.groups, dim=0).reshape(
        conv.weight.shape[0], -1, *trailing
    )


def _mul(factor: Tensor, bias: Tensor | None) -> Tensor | None:
    if bias is None:
        return None
    return factor @ bias if factor.dim() == 2 else factor * bias


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b

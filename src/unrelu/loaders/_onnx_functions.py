"""Implement ONNX operators as PyTorch functions.

The inputs of a node are the positional arguments of its function, with None for a missing input. Its attributes are
keyword arguments. An attribute or input that a function does not accept is not supported.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unrelu.errors import UnsupportedModelError

Sizes = Sequence[int]
# TensorProto.DataType.
TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
         9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.int64, 13: torch.int64,
         16: torch.bfloat16}  # fmt: skip

# PyTorch's names of padding modes.
_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def integers(value: Any) -> list[int]:
    """Return sizes or axes as integers. Newer opsets pass them as an input, older ones as an attribute."""
    return [int(n) for n in (value.ravel().tolist() if isinstance(value, Tensor) else value)]


# --- layers -----------------------------------------------------------------------------------------------------------


def _geometry(
    x: Tensor, kernel: Sizes, strides: Sizes | None, dilations: Sizes | None, pads: Sizes | None, auto_pad: str
) -> tuple[Sizes, Sizes, list[int], list[int]]:
    """Return strides, dilations, and the numbers of zeros before and after each spatial axis."""
    n = len(kernel)
    if not 1 <= n <= 3 or x.dim() != n + 2:
        raise UnsupportedModelError(f"has a kernel of {n} axes for elements of shape {tuple(x.shape[1:])}")
    stride, dilation = strides or (1,) * n, dilations or (1,) * n
    if auto_pad.startswith("SAME"):  # enough zeros for ceil(size / stride) outputs
        axes = zip(x.shape[2:], kernel, stride, dilation, strict=True)
        totals = [max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0) for size, k, s, d in axes]
        return stride, dilation, *_halves(totals, auto_pad)
    pads = (0,) * 2 * n if pads is None or auto_pad == "VALID" else pads
    return stride, dilation, list(pads[:n]), list(pads[n:])


def _halves(totals: Sequence[int], auto_pad: str) -> tuple[list[int], list[int]]:
    """Split each total between begin and end. The larger half goes to the end for SAME_UPPER, else to the begin."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def _padded(x: Tensor, begin: Sizes, end: Sizes, value: float = 0.0, mode: str = "constant") -> Tensor:
    """Pad ``x`` before and after its last axes; negative numbers crop."""
    widths = [n for pair in reversed(list(zip(begin, end, strict=True))) for n in pair]
    while widths and not any(widths[-2:]):
        del widths[-2:]
    return F.pad(x, widths, _MODES[mode], value if mode == "constant" else None) if widths else x


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Sizes = (), strides: Sizes | None = None,
    dilations: Sizes | None = None, pads: Sizes | None = None, auto_pad: str = "NOTSET", group: int = 1,
    output_padding: Sizes | None = None, output_shape: Sizes | None = None, transposed: bool = False,
) -> Tensor:  # fmt: skip
    """Convolve. Pads that differ at both ends are added to the input, or cut off the output if it is transposed."""
    kernel = weight.shape[2:]
    stride, dilation, begin, end = _geometry(x, kernel, strides, dilations, pads, auto_pad)
    zeros = [0] * len(kernel)
    extra = output_padding or zeros
    if transposed and (output_shape or auto_pad.startswith("SAME")):
        axes = zip(x.shape[2:], kernel, stride, dilation, extra, strict=True)
        full = [s * (n - 1) + d * (k - 1) + 1 + e for n, k, s, d, e in axes]
        wanted = output_shape or [s * n for n, s in zip(x.shape[2:], stride, strict=True)]
        cut = [a - b for a, b in zip(full, wanted[-len(full) :], strict=True)]
        if min(cut) < 0:
            raise UnsupportedModelError(f"stretches {full} entries to {wanted}; give pads and output_padding instead")
        begin, end = _halves(cut, auto_pad)
    if begin == end:
        return torch.convolution(x, weight, bias, stride, begin, dilation, transposed, extra, group)
    if not transposed:
        return torch.convolution(_padded(x, begin, end), weight, bias, stride, zeros, dilation, False, zeros, group)
    whole = torch.convolution(x, weight, bias, stride, zeros, dilation, True, extra, group)
    return _padded(whole, [-n for n in begin], [-n for n in end])


def _average_pool(
    x: Tensor, *, kernel_shape: Sizes, strides: Sizes | None = None, pads: Sizes | None = None,
    auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
) -> Tensor:  # fmt: skip
    stride, _, begin, end = _geometry(x, kernel_shape, strides, None, pads, auto_pad)
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel_shape) - 1]
    if begin == end:
        return function(x, kernel_shape, stride, begin, bool(ceil_mode), bool(count_include_pad))  # type: ignore[no-any-return]
    if ceil_mode:
        raise UnsupportedModelError("averages with ceil_mode and different pads at both ends, which is not supported")
    means: Tensor = function(_padded(x, begin, end), kernel_shape, stride)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    return means if count_include_pad else means / function(_padded(ones, begin, end), kernel_shape, stride)


def _max_pool(
    x: Tensor, *, kernel_shape: Sizes, strides: Sizes | None = None, dilations: Sizes | None = None,
    pads: Sizes | None = None, auto_pad: str = "NOTSET",
) -> Tensor:  # fmt: skip
    stride, dilation, begin, end = _geometry(x, kernel_shape, strides, dilations, pads, auto_pad)
    function: Any = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[len(kernel_shape) - 1]
    return function(_padded(x, begin, end, -math.inf), kernel_shape, stride, 0, dilation)  # type: ignore[no-any-return]


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
    transB: int = 0,
) -> Tensor:  # fmt: skip
    product = F.linear(a.mT if transA else a, alpha * (b if transB else b.mT))
    return product if c is None else product + beta * c


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9,
) -> Tensor:  # fmt: skip
    return F.batch_norm(x, mean, variance, weight, bias, eps=epsilon)


def _group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int | None = None, epsilon: float = 1e-5
) -> Tensor:
    # Opset 18 passes one scale for each group.
    scale, bias = (v.repeat_interleave(x.shape[1] // v.shape[0]) for v in (scale, bias))
    return F.group_norm(x, num_groups or x.shape[1], scale, bias, epsilon)


def _layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Tensor:
    normal = F.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    return normal if bias is None else normal + bias


def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    if mode == "DCR":  # PyTorch expects the channels first
        x = x.reshape(n, blocksize**2, -1, h, w).transpose(1, 2).reshape(n, c, h, w)
    return F.pixel_shuffle(x, blocksize)


_ROUNDED: dict[str, Callable[[Any], Any]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _resize(
    x: Tensor, roi: Any = None, scales: Tensor | None = None, sizes: Tensor | None = None, *, mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor",
    axes: Sizes | None = None, cubic_coeff_a: float = 0.0, extrapolation_value: float = 0.0,
) -> Tensor:  # fmt: skip
    """Resample by scales or to sizes, axis by axis. Output i is the input at a position x(i)."""
    by_size = scales is None or not scales.numel()
    given = sizes if by_size else scales
    if given is None or mode not in ("nearest", "linear"):
        raise UnsupportedModelError(f"resizes with mode={mode!r}; supported are nearest and linear")
    for axis, value in zip(axes or range(x.dim()), given.tolist(), strict=True):
        n = x.shape[axis]
        m, factor = (value, value / n) if by_size else (math.floor(n * value), value)
        if factor == 1:
            continue
        i = torch.arange(m).numpy()  # PyTorch raises an error if m is too large
        half = (i + 0.5) / factor - 0.5
        known = {"half_pixel": half, "pytorch_half_pixel": half * (m > 1), "asymmetric": i / factor,
                 "align_corners": i * (n - 1) / max(m - 1, 1)}  # fmt: skip
        if coordinate_transformation_mode not in known:
            raise UnsupportedModelError(
                f"resizes with coordinate_transformation_mode={coordinate_transformation_mode!r}; supported are "
                f"{', '.join(known)}"
            )
        # Factors are stored in single precision: a position between two entries may be off by a rounding error.
        at = np.round(known[coordinate_transformation_mode], 6 if mode == "nearest" else 15)
        if mode == "nearest":
            x = x.index_select(axis, torch.from_numpy(_ROUNDED[nearest_mode](at).clip(0, n - 1)).long())
            continue
        low = np.floor(at.clip(0, n - 1)).astype(int)
        above = torch.from_numpy(at.clip(0, n - 1) - low).to(x.dtype)
        weights = torch.zeros(n, m, dtype=x.dtype)
        weights[low, i] = 1 - above
        weights[np.minimum(low + 1, n - 1), i] += above
        x = (x.movedim(axis, -1) @ weights).movedim(-1, axis)
    return x


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(x: Tensor, shape: Any, *, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(integers(shape))])


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis += x.dim() * (axis < 0)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _unsqueeze(x: Tensor, axes: Any) -> Tensor:
    given = integers(axes)
    for axis in sorted(a % (x.dim() + len(given)) for a in given):
        x = x.unsqueeze(axis)
    return x


def _split(x: Tensor, split: Any = None, *, axis: int = 0, num_outputs: int = 0) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split(
        x, -(-x.shape[axis] // num_outputs) if split is None else integers(split), axis
    )
    return parts


def _selected(x: Tensor, axis: int, index: Any) -> Tensor:
    return x.index_select(axis, torch.as_tensor(index) % max(1, x.shape[axis]))


def _slice(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    begin, end = integers(starts), integers(ends)
    along = range(len(begin)) if axes is None else integers(axes)
    for axis, b, e, step in zip(along, begin, end, [1] * len(begin) if steps is None else integers(steps), strict=True):
        if step > 0:
            index = [slice(None)] * x.dim()
            index[axis] = slice(b, e, step)
            x = x[tuple(index)]
        else:
            x = _selected(x, axis, np.arange(x.shape[axis])[b:e:step].copy())
    return x


def _gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.dim()
    return _selected(x, axis, index.reshape(-1)).reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _wrapped(index: Tensor, x: Tensor, axis: int) -> Tensor:
    """Convert indices along an axis to non-negative ones; negative indices count from the end."""
    return torch.remainder(index, max(1, x.shape[axis]))


def _pad(x: Tensor, pads: Any, value: Tensor | None = None, axes: Any = None, *, mode: str = "constant") -> Tensor:
    given = integers(pads)
    along = range(x.dim()) if axes is None else [a % x.dim() for a in integers(axes)]
    ends = dict(zip(along, zip(given[: len(along)], given[len(along) :], strict=True), strict=True))
    begin, end = zip(*(ends.get(a, (0, 0)) for a in range(x.dim())), strict=True)
    return _padded(x, begin, end, 0.0 if value is None else float(value.item()), mode)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _div(x: Tensor, divisor: Tensor) -> Tensor:
    whole = not x.is_floating_point() and not divisor.is_floating_point()
    return torch.div(x, divisor, rounding_mode="trunc" if whole else None)


def _dropout(x: Tensor, ratio: Any = None, training_mode: Tensor | None = None, *, seed: int = 0) -> Tensor:
    if training_mode is not None and bool(training_mode):
        raise UnsupportedModelError("drops entries at random (training_mode); export the model in evaluation mode")
    return x


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    if to not in TYPES:
        raise UnsupportedModelError(f"converts to a type (number {to}) that is no real number")
    return x.to(TYPES[to])


def cast_later(x: Tensor, *others: Any, **attributes: Any) -> Tensor:
    """Cast a tensor that depends on the code. Casts between real types keep the precision of the code."""
    to = attributes.get("to", 11)
    real = x.is_floating_point() and TYPES.get(to, torch.int64).is_floating_point
    return x if real else _cast(x, to=to)


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """Compute (x - zero point) * scale, with one scale for all entries or one for each index along an axis."""
    shape = [-1 if i == axis % x.dim() else 1 for i in range(x.dim())] if scale.dim() else []
    return (x.to(scale.dtype) - (0 if zero is None else zero.to(scale.dtype).reshape(shape))) * scale.reshape(shape)


def _scaler(x: Tensor, *, offset: Sequence[float], scale: Sequence[float]) -> Tensor:
    return (x - torch.tensor(offset, dtype=torch.float64)) * torch.tensor(scale, dtype=torch.float64)


def _product(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        along = [] if axes is None else integers(axes)
        if not along and noop_with_empty_axes:
            return x
        return function(x, tuple(along or range(x.dim())), keepdim=bool(keepdims))

    return reduce


def _one_by_one(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs: functools.reduce(function, inputs)


def _constant(**value: Any) -> Tensor:
    ((name, given),) = value.items()
    return torch.as_tensor(given, dtype=torch.float32 if name in {"value_float", "value_floats"} else None)


def _filled(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    fill, kind = (0.0, torch.float32) if value is None else (value.item(), value.dtype)
    return torch.full(integers(shape), fill, dtype=kind)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Ceil": torch.ceil, "Cos": torch.cos,
    "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "HardSwish": F.hardswish, "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log,
    "MatMul": torch.matmul, "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not,
    "Or": torch.logical_or, "Pow": torch.pow, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Sub": torch.sub, "Tanh": torch.tanh, "Xor": torch.logical_xor,
    "PRelu": torch._prelu_kernel,  # noqa: SLF001 -- the one whose slopes may have any shape
    "AveragePool": _average_pool, "BatchNormalization": _batch_norm, "Cast": _cast, "Constant": _constant,
    "ConstantOfShape": _filled, "Conv": _conv,
    "ConvTranspose": functools.partial(_conv, transposed=True), "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize, "Div": _div, "Dropout": _dropout, "Flatten": _flatten, "Gather": _gather,
    "Gemm": _gemm, "GroupNormalization": _group_norm, "InstanceNormalization": _group_norm,
    "LayerNormalization": _layer_norm, "MaxPool": _max_pool, "Pad": _pad, "Reshape": _reshape, "Resize": _resize,
    "Scaler": _scaler, "Slice": _slice, "Split": _split, "Unsqueeze": _unsqueeze,
    "CastLike": lambda x, like: x.to(like.dtype),
    "Celu": lambda x, alpha=1.0: F.celu(x, alpha),
    "Clip": lambda x, low=None, high=None: x if low is None and high is None else torch.clamp(x, low, high),
    "Concat": lambda *inputs, axis: torch.cat(inputs, axis),
    "CumSum": lambda x, axis: torch.cumsum(x, int(axis)),
    "Einsum": lambda *inputs, equation: torch.einsum(equation, *inputs),
    "Elu": lambda x, alpha=1.0: F.elu(x, alpha),
    "Expand": lambda x, shape: x.expand(np.broadcast_shapes(tuple(x.shape), tuple(integers(shape)))),
    "GatherElements": lambda x, index, axis=0: torch.gather(x, axis, _wrapped(index, x, axis)),
    "GatherND": lambda x, index: x[tuple(index.unbind(-1))],
    "Gelu": lambda x, approximate="none": F.gelu(x, approximate=approximate),
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0.0, 1.0),
    "Identity": lambda x: x,
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "LogSoftmax": lambda x, axis=-1: torch.log_softmax(x, axis),
    "Max": _one_by_one(torch.maximum),
    "Mean": lambda *inputs: sum(inputs[1:], inputs[0]) / len(inputs),
    "Min": _one_by_one(torch.minimum),
    "Mod": lambda x, n, fmod=0: (torch.fmod if fmod else torch.remainder)(x, n),
    "Range": lambda start, end, step: torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype),
    "ReduceL1": _reduced(lambda x, axes, keepdim: torch.linalg.vector_norm(x, 1, axes, keepdim)),
    "ReduceL2": _reduced(lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim)),
    "ScatterElements": lambda x, i, new, axis=0: torch.scatter(x, axis, _wrapped(i, x, axis), new.to(x)),
    "ScatterND": lambda x, index, new: x.index_put(index.unbind(-1), new.to(x)),
    "Selu": F.selu,
    "Shape": lambda x, start=0, end=None: torch.tensor(x.shape[start:end]),
    "Size": lambda x: torch.tensor(x.numel()),
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "Squeeze": lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(integers(axes))),
    "Sum": _one_by_one(torch.add),
    "Swish": lambda x, alpha=1.0: x * torch.sigmoid(alpha * x),
    "Tile": lambda x, repeats: x.repeat(tuple(integers(repeats))),
    "Transpose": lambda x, perm=None: x.permute(tuple(perm or range(x.dim())[::-1])),
    "Trilu": lambda x, k=None, upper=1: (torch.triu if upper else torch.tril)(x, 0 if k is None else int(k)),
    "Where": lambda which, x, other: torch.where(which.bool(), x, other),
}  # fmt: skip

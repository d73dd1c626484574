"""ONNX operators, written as functions of PyTorch for :mod:`unrelu.loaders._graph_recorder` to record.

An operator that is a layer calls the function of PyTorch that is read as this layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from unrelu.errors import UnsupportedModelError
from unrelu.loaders._graph_recorder import Recorder, StandIn
from unrelu.loaders._torch_operations import check_axes, sloped
from unrelu.models.affine import Resample, Shape
from unrelu.runtime.array_types import Array

# FLOAT, FLOAT16, DOUBLE and BFLOAT16 in TensorProto.DataType.
_FLOATS = (1, 10, 11, 16)


@dataclass(frozen=True)
class Call:
    """A node with its inputs, by number, and its attributes, by name.

    An input is a stand-in if it depends on the code, else a constant; None if it is left out.
    """

    attributes: dict[str, Any]
    opset: int
    inputs: Sequence[StandIn | npt.NDArray[Any] | None]
    outputs: int
    recorder: Recorder

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.tensor(0)

    def tensor(self, i: int) -> Tensor:
        """Input i, which must exist; real constants become float64."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise UnsupportedModelError(f"lacks its input {i + 1}")
        if isinstance(value, StandIn):
            return value  # type: ignore[return-value] # functions of tensors take it for one
        whole = np.asarray(value).dtype.kind in "iub"
        return torch.as_tensor(np.array(value, dtype=None if whole else np.float64))

    def optional(self, i: int) -> Tensor | None:
        """Input i, or None if it is left out."""
        return self.tensor(i) if i < len(self.inputs) and self.inputs[i] is not None else None

    def array(self, i: int) -> npt.NDArray[Any] | None:
        """Input i, which must be constant (a shape or an option); None if it is left out."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if isinstance(value, StandIn):
            raise UnsupportedModelError("takes sizes or options from the data; they must be constant")
        return value

    @property
    def all(self) -> list[Tensor]:
        """All inputs."""
        return [self.tensor(i) for i in range(len(self.inputs))]

    def integers(self, i: int, name: str) -> list[int] | None:
        """Integers that are input i in newer opsets and an attribute in older ones."""
        value = self.array(i)
        value = self.attributes.get(name) if value is None else value
        return None if value is None else [int(n) for n in np.ravel(value)]

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


# --- layers -----------------------------------------------------------------------------------------------------------


def _geometry(call: Call, kernel: Sequence[int]) -> tuple[Shape, Shape]:
    """Strides and dilations."""
    ones = (1,) * len(kernel)
    return tuple(call.get("strides", ones)), tuple(call.get("dilations", ones))


def _pads(call: Call, kernel: Sequence[int]) -> tuple[Shape, Shape]:
    """Zeros before and after each spatial axis, from ``pads`` or ``auto_pad``."""
    n, how = len(kernel), call.get("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        # Enough zeros for ceil(size / stride) outputs.
        axes = zip(call.x.shape[2:], kernel, *_geometry(call, kernel), strict=True)
        return _halves([max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in axes], how)
    pads = tuple(call.get("pads", (0,) * 2 * n)) if how == "NOTSET" else (0,) * 2 * n
    return pads[:n], pads[n:]


def _cut(call: Call, full: Shape, same: Shape) -> tuple[Shape, Shape]:
    """Entries that a transposed convolution drops at both ends, so that ``full`` becomes the requested size."""
    how, n = call.get("auto_pad", "NOTSET"), len(full)
    wanted = call.get("output_shape", None) or (same if how.startswith("SAME") else None)
    if wanted is None:
        return _pads(call, full)
    totals = [a - b for a, b in zip(full, tuple(wanted)[-n:], strict=True)]
    if min(totals) < 0:
        raise UnsupportedModelError(
            f"stretches {full} entries to {tuple(wanted)}; give pads and output_padding instead"
        )
    return _halves(totals, how)


def _halves(totals: Sequence[int], how: str) -> tuple[Shape, Shape]:
    """Split each total between the begin and the end; with SAME_UPPER the end gets the larger half, else the begin."""
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if how == "SAME_UPPER" else (large, small)


def _padded(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """``x`` with entries added before and after its last axes; negative numbers crop."""
    widths = [n for pair in reversed(list(zip(begin, end, strict=True))) for n in pair]
    while widths and not any(widths[-2:]):
        del widths[-2:]
    return F.pad(x, widths, value=value) if widths else x


def _of_rank(call: Call, functions: Sequence[Callable[..., Tensor]], axes: int) -> Callable[..., Tensor]:
    if not 1 <= axes <= len(functions):
        raise UnsupportedModelError(f"has {axes} spatial axes; one to {len(functions)} are supported")
    if axes > 2:
        call.recorder.not_a_layer(f"has {axes} spatial axes; one or two are supported")
    check_axes("a convolution or pooling", tuple(call.x.shape[1:]), axes)
    return functions[axes - 1]


def _conv(call: Call) -> Tensor:
    weight = call.tensor(1)
    kernel = tuple(weight.shape[2:])
    function = _of_rank(call, (F.conv1d, F.conv2d, F.conv3d), len(kernel))
    stride, dilation = _geometry(call, kernel)
    begin, end = _pads(call, kernel)
    x, inside = (call.x, begin) if begin == end else (_padded(call.x, begin, end), (0,) * len(kernel))
    return function(x, weight, call.optional(2), stride, inside, dilation, call.get("group", 1))


def _conv_transpose(call: Call) -> Tensor:
    x, weight = call.x, call.tensor(1)
    kernel = tuple(weight.shape[2:])
    function = _of_rank(call, (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), len(kernel))
    zeros = (0,) * len(kernel)
    stride, dilation = _geometry(call, kernel)
    extra = tuple(call.get("output_padding", zeros))
    axes = zip(x.shape[2:], kernel, stride, dilation, extra, strict=True)
    full = tuple(s * (n - 1) + d * (k - 1) + 1 + e for n, k, s, d, e in axes)
    begin, end = _cut(call, full, tuple(s * n for n, s in zip(x.shape[2:], stride, strict=True)))
    inside = begin if begin == end else zeros
    whole = function(x, weight, call.optional(2), stride, inside, extra, call.get("group", 1), dilation)
    return whole if begin == end else _padded(whole, [-n for n in begin], [-n for n in end])


def _gemm(call: Call) -> Tensor:
    a, b, c = call.x, call.tensor(1), call.optional(2)
    if a.dim() != 2:
        raise UnsupportedModelError(f"multiplies elements of shape {tuple(a.shape[1:])}; Gemm takes vectors")
    a = a.transpose(0, 1) if call.get("transA", 0) else a
    weight = b if call.get("transB", 0) else b.transpose(0, 1)
    weight = weight if call.get("alpha", 1.0) == 1 else call.get("alpha", 1.0) * weight
    if c is None:
        return F.linear(a, weight)
    c = c if call.get("beta", 1.0) == 1 else call.get("beta", 1.0) * c
    n = weight.shape[0]
    if isinstance(c, StandIn) or c.shape[-1:].numel() not in (1, n) or c.shape[:-1].numel() != 1:
        return F.linear(a, weight) + c
    return F.linear(a, weight, c.reshape(-1).expand(n).clone())


def _batch_norm(call: Call) -> Tensor:
    if call.get("training_mode", 0) or not call.get("spatial", 1):
        raise UnsupportedModelError("normalises by the statistics of the batch; export the model in evaluation mode")
    weight, bias, mean, variance = (call.tensor(i) for i in range(1, 5))
    return F.batch_norm(call.x, mean, variance, weight, bias, eps=call.get("epsilon", 1e-5))


def _group_norm(call: Call, groups: int | None = None) -> Tensor:
    x, groups = call.x, call.get("num_groups", 1) if groups is None else groups
    # Opset 18 has a scale for each group.
    scale, bias = (v.repeat_interleave(x.shape[1] // v.shape[0]) for v in (call.tensor(1), call.tensor(2)))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def _layer_norm(call: Call) -> Tensor:
    shape = call.x.shape[call.get("axis", -1) :]
    normal = F.layer_norm(call.x, shape, eps=call.get("epsilon", 1e-5)) * call.tensor(1)
    bias = call.optional(2)
    return normal if bias is None else normal + bias


def _average_pool(call: Call) -> Tensor:
    x, kernel = call.x, tuple(call.get("kernel_shape", ()))
    function = _of_rank(call, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), len(kernel))
    stride, dilation = _geometry(call, kernel)
    begin, end = _pads(call, kernel)
    counted, ceil = bool(call.get("count_include_pad", 0)), bool(call.get("ceil_mode", 0))
    spans = [n + b + e - k for n, b, e, k in zip(x.shape[2:], begin, end, kernel, strict=True)]
    ceil = ceil and any(span % s for span, s in zip(spans, stride, strict=True))
    shifted = call.get("auto_pad", "NOTSET").startswith("SAME") and any(
        s > k for s, k in zip(stride, kernel, strict=True)
    )
    if shifted or set(dilation) != {1} or (ceil and any(begin + end)):
        raise UnsupportedModelError(
            "averages over dilated windows, padding with ceil_mode, or windows shorter than their stride with "
            "auto_pad; these are not supported"
        )
    if begin == end and all(2 * b <= k for b, k in zip(begin, kernel, strict=True)):
        return function(x, kernel, stride, begin, ceil, counted)
    total = function(_padded(x, begin, end), kernel, stride)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=torch.float64)
    return total if counted else total / function(_padded(ones, begin, end), kernel, stride)


def _max_pool(call: Call) -> Tensor:
    kernel = tuple(call.get("kernel_shape", ()))
    function = _of_rank(call, (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d), len(kernel))
    stride, dilation = _geometry(call, kernel)
    if call.get("ceil_mode", 0) or call.get("storage_order", 0):
        raise UnsupportedModelError("takes maxima with ceil_mode or storage_order; these are not supported")
    return function(_padded(call.x, *_pads(call, kernel), -math.inf), kernel, stride, 0, dilation)


def _global_pool(call: Call, keepdims: bool = True) -> Tensor:
    x = call.x
    if x.dim() not in (3, 4):
        return x.mean(tuple(range(2, x.dim())), keepdim=keepdims)
    pooled = (F.avg_pool1d if x.dim() == 3 else F.avg_pool2d)(x, tuple(x.shape[2:]))
    return pooled if keepdims else pooled.reshape(x.shape[:2])


def _reduce_mean(call: Call) -> Tensor:
    rank, axes = call.x.dim(), sorted(a % call.x.dim() for a in call.integers(1, "axes") or ())
    if axes and axes == list(range(2, rank)):
        return _global_pool(call, bool(call.get("keepdims", 1)))
    reason = f"averages over the axes {axes} of {rank}; only all axes after the channels are supported"
    call.recorder.not_a_layer(reason)
    return _reduced(torch.mean)(call)


def _depth_to_space(call: Call) -> Tensor:
    x, b = call.x, call.get("blocksize", 1)
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    call.recorder.not_a_layer("orders the channels by mode='DCR'; only mode='CRD', a PixelShuffle, is supported")
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(call: Call) -> Tensor:
    x, b = call.x, call.get("blocksize", 1)
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


# --- resizing ---------------------------------------------------------------------------------------------------------


def _resize(call: Call) -> Tensor:
    first = 1 if call.opset < 11 else 2
    return _resized(call, call.array(first), call.array(first + 1), call.opset)


def _upsample(call: Call) -> Tensor:
    scales = call.get("scales", None) if call.array(1) is None else call.array(1)
    return _resized(call, np.array(scales), None, opset=10)


def _resized(call: Call, scales: npt.NDArray[Any] | None, sizes: npt.NDArray[Any] | None, opset: int) -> Tensor:
    """Resample the spatial axes by ``scales`` or to ``sizes``.

    Output i reads the input at a position x(i). The node is accepted if PyTorch reads the same positions.

    Raises:
        UnsupportedModelError: the mode, or the combination of rounding and coordinates, is not one of PyTorch's.

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    before, attributes = call.x.shape, call.attributes
    given = sizes if scales is None or not np.size(scales) else scales
    if given is None or not np.size(given):
        raise UnsupportedModelError("has neither scales nor sizes")
    axes = [a % len(before) for a in attributes.get("axes", range(len(before)))]
    after, factors = list(before), [1.0] * len(before)
    for axis, value in zip(axes, given.tolist(), strict=True):
        after[axis] = math.floor(before[axis] * value) if given is scales else int(value)
        factors[axis] = value if given is scales else value / before[axis]
    if after[:2] != list(before[:2]) or len(before) not in (3, 4):
        raise UnsupportedModelError(
            f"resizes {before[1:]} to {tuple(after[1:])}; only the last one or two axes can change"
        )
    call.recorder.allow(after)
    mode, coordinates, rounding = _modes(attributes, opset, given is sizes)
    names = {"nearest": "nearest", "linear": "linear" if len(before) == 3 else "bilinear"}
    step = Resample(tuple(after[2:]), names[mode], coordinates == "align_corners")
    for n, m, factor in zip(before[2:], after[2:], factors[2:], strict=True):
        one = Resample((m,), mode, coordinates == "align_corners")
        ours = one.apply(torch.arange(n, dtype=torch.float64)[None, None]).numpy()[0, 0]
        if not np.allclose(ours, _positions(n, m, factor, coordinates, rounding if mode == "nearest" else None)):
            raise UnsupportedModelError(
                f"resizes {n} entries to {m} with mode={mode!r}, coordinate_transformation_mode={coordinates!r}, "
                f"nearest_mode={rounding!r}, which PyTorch does not do; export with whole factors, 'asymmetric' and "
                "'floor' for nearest, 'half_pixel' or 'align_corners' for linear"
            )
    return step.apply(call.x)


def _modes(attributes: dict[str, Any], opset: int, by_size: bool) -> tuple[str, str, str]:
    """Return mode, coordinates and rounding, with the defaults of the opset."""
    mode = attributes.get("mode", "nearest")
    coordinates = attributes.get("coordinate_transformation_mode", "half_pixel" if opset >= 11 else "asymmetric")
    rounding = attributes.get("nearest_mode", "round_prefer_floor" if opset >= 11 else "floor")
    if mode not in ("nearest", "linear"):
        raise UnsupportedModelError(f"resizes with mode={mode!r}; supported modes are nearest and linear")
    if coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        raise UnsupportedModelError(
            f"resizes with coordinate_transformation_mode={coordinates!r}; supported are half_pixel, "
            "pytorch_half_pixel, align_corners and asymmetric"
        )
    policy = attributes.get("keep_aspect_ratio_policy", "stretch")
    if attributes.get("antialias", 0) or (by_size and policy != "stretch"):
        raise UnsupportedModelError(
            f"resizes with antialias or keep_aspect_ratio_policy={policy!r}, which are not supported"
        )
    return mode, coordinates, rounding


def _positions(n: int, m: int, factor: float, coordinates: str, rounding: str | None) -> Array:
    """Return the position at which each of m outputs reads n inputs, rounded to an entry if ``rounding`` is given."""
    i = np.arange(m, dtype=np.float64)
    if coordinates == "align_corners":
        x = i * (n - 1) / max(m - 1, 1)
    elif coordinates == "asymmetric":
        x = i / factor
    elif coordinates == "pytorch_half_pixel" and m == 1:
        x = np.zeros(1)
    else:
        x = (i + 0.5) / factor - 0.5
    if rounding is not None:
        # Factors are stored in single precision, so a position between two entries may be off by a rounding error.
        x = np.round(x, 6)
        rounded = {"floor": np.floor(x), "ceil": np.ceil(x), "round_prefer_floor": np.ceil(x - 0.5)}
        x = rounded.get(rounding, np.floor(x + 0.5))
    return np.clip(x, 0, n - 1)


# --- activations and arithmetic ---------------------------------------------------------------------------------------


def _of_inputs(function: Callable[..., Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(*call.all)


def _one_by_one(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: functools.reduce(function, call.all)


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[[Call], Tensor]:
    def read(call: Call) -> Tensor:
        x = call.x
        if call.opset >= 13:
            return function(x, call.get("axis", -1))
        axis = call.get("axis", 1) % x.dim()  # older opsets flatten all axes from this one on
        return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)

    return read


def _clip(call: Call) -> Tensor:
    low, high = call.optional(1), call.optional(2)
    low = call.get("min", None) if low is None else low
    high = call.get("max", None) if high is None else high
    return call.x if low is None and high is None else torch.clamp(call.x, low, high)


def _dropout(call: Call) -> Tensor:
    mode = call.array(2)
    if mode is not None and bool(np.any(mode)):
        raise UnsupportedModelError("drops entries at random (training_mode); export the model in evaluation mode")
    return call.x


def _cast(call: Call) -> Tensor:
    if call.get("to", 1) not in _FLOATS:
        raise UnsupportedModelError(
            f"converts the data to a type (number {call.get('to', 1)}) that is not a real number"
        )
    return call.x if call.x.is_floating_point() else call.x.to(torch.float64)


def _reduced(function: Callable[..., Tensor]) -> Callable[[Call], Tensor]:
    def read(call: Call) -> Tensor:
        axes = call.integers(1, "axes")
        if axes is None and call.get("noop_with_empty_axes", 0):
            return call.x
        return function(call.x, tuple(axes or range(call.x.dim())), keepdim=bool(call.get("keepdims", 1)))

    return read


def _norm(p: int) -> Callable[..., Tensor]:
    return lambda x, axes, keepdim: torch.linalg.vector_norm(x, p, axes, keepdim)


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(call: Call) -> Tensor:
    given, x = call.integers(1, "shape") or [], call.x
    copied = not call.get("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and copied else n for i, n in enumerate(given)])


def _flatten(call: Call) -> Tensor:
    x, axis = call.x, call.get("axis", 1)
    axis += x.dim() * (axis < 0)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(call: Call) -> Tensor:
    axes = call.integers(1, "axes")
    return call.x.squeeze() if axes is None else call.x.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.x, call.integers(1, "axes") or []
    for axis in sorted(a % (x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(call: Call) -> Tensor:
    shape = tuple(call.integers(1, "shape") or ())
    return call.x.expand(np.broadcast_shapes(tuple(call.x.shape), shape))


def _split(call: Call) -> tuple[Tensor, ...]:
    axis, sizes = call.get("axis", 0), call.integers(1, "split")
    if sizes is None:
        sizes = -(-call.x.shape[axis] // call.get("num_outputs", call.outputs))
    parts: tuple[Tensor, ...] = torch.split(call.x, sizes, axis)
    return parts


def _selected(x: Tensor, axis: int, index: npt.NDArray[Any]) -> Tensor:
    return x.index_select(axis, torch.as_tensor(index % max(1, x.shape[axis])))


def _slice(call: Call) -> Tensor:
    x, starts, ends = call.x, call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes, steps = call.integers(3, "axes") or range(len(starts)), call.integers(4, "steps") or [1] * len(starts)
    index = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step > 0:
            index[axis] = slice(start, end, step)
        else:
            x = _selected(x, axis, np.arange(x.shape[axis])[slice(start, end, step)])
    return x[tuple(index)]


def _gather(call: Call) -> Tensor:
    x, index = call.x, call.array(1)
    if index is None:
        raise UnsupportedModelError("lacks its indices")
    axis = call.get("axis", 0) % x.dim()
    return _selected(x, axis, index.ravel()).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_nd(call: Call) -> Tensor:
    x, index = call.x, call.array(1)
    if index is None or call.get("batch_dims", 0):
        raise UnsupportedModelError("gathers within each of a batch (batch_dims), which is not supported")
    places = np.moveaxis(index, -1, 0) % np.array(x.shape[: index.shape[-1]]).reshape(-1, *[1] * (index.ndim - 1))
    return x[tuple(torch.tensor(axis) for axis in places)]


def _pad(call: Call) -> Tensor:
    x, given = call.x, call.integers(1, "pads") or []
    axes = [a % x.dim() for a in call.integers(3, "axes") or range(x.dim())]
    mode = call.get("mode", "constant")
    before, after = given[: len(axes)], given[len(axes) :]
    ends = dict(zip(axes, zip(before, after, strict=True), strict=True))
    if mode != "constant":
        call.recorder.not_a_layer(f"pads with mode={mode!r}, not with zeros; only zeros are supported")
        call.recorder.allow([n + sum(ends.get(i, (0, 0))) for i, n in enumerate(x.shape)])
        for axis, (b, e) in ends.items():
            if b or e:
                x = _selected(x, axis, np.pad(np.arange(x.shape[axis]), (b, e), mode))
        return x
    value = call.array(2) if call.opset >= 11 else call.get("value", 0.0)
    begin, end = zip(*(ends.get(a, (0, 0)) for a in range(x.dim())), strict=True)
    return _padded(x, begin, end, 0.0 if value is None else float(np.asarray(value).item()))


# Operators that call one function with all their inputs.
_PLAIN: dict[str, Any] = {
    "Abs": torch.abs, "Add": torch.add, "Cos": torch.cos, "Div": torch.div, "Equal": torch.eq, "Erf": torch.erf,
    "Exp": torch.exp, "Greater": torch.gt, "HardSwish": F.hardswish, "Less": torch.lt, "Log": torch.log,
    "MatMul": torch.matmul, "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "PRelu": sloped, "Pow": torch.pow,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Selu": F.selu, "Sigmoid": torch.sigmoid, "Sin": torch.sin,
    "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Sub": torch.sub, "Tanh": torch.tanh,
}  # fmt: skip

FUNCTIONS: dict[str, Callable[[Call], Tensor | tuple[Tensor, ...]]] = {
    **{name: _of_inputs(function) for name, function in _PLAIN.items()},
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Celu": lambda call: F.celu(call.x, call.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda call: torch.cat(call.all, call.get("axis", 1)),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Einsum": lambda call: torch.einsum(call.get("equation", ""), *call.all),
    "Elu": lambda call: F.elu(call.x, call.get("alpha", 1.0)),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": lambda call: F.gelu(call.x, approximate=call.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": lambda call: call.x.amax(tuple(range(2, call.x.dim())), keepdim=True),
    "GroupNormalization": _group_norm,
    "HardSigmoid": lambda call: torch.clamp(call.get("alpha", 0.2) * call.x + call.get("beta", 0.5), 0.0, 1.0),
    "Identity": lambda call: call.x,
    "InstanceNormalization": lambda call: _group_norm(call, call.x.shape[1]),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call: F.leaky_relu(call.x, call.get("alpha", 0.01)),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": lambda call: F.normalize(call.x, call.get("p", 2), call.get("axis", -1)),
    "Max": _one_by_one(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda call: sum(call.all[1:], call.x) / len(call.inputs),
    "Min": _one_by_one(torch.minimum),
    "Pad": _pad,
    "ReduceL1": _reduced(_norm(1)),
    "ReduceL2": _reduced(_norm(2)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduce_mean,
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim)),
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": _one_by_one(torch.add),
    "Swish": lambda call: call.x * torch.sigmoid(call.get("alpha", 1.0) * call.x),
    "ThresholdedRelu": lambda call: torch.where(call.x > call.get("alpha", 1.0), call.x, 0.0),
    "Tile": lambda call: call.x.repeat(tuple(call.integers(1, "repeats") or ())),
    "Transpose": lambda call: call.x.permute(tuple(call.get("perm", range(call.x.dim())[::-1]))),
    "Unsqueeze": _unsqueeze,
    "Upsample": _upsample,
    "Where": lambda call: torch.where(call.x.bool(), call.tensor(1), call.tensor(2)),
}

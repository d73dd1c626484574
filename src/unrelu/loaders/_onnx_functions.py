"""ONNX operators, written as functions of PyTorch.

The same functions compute the constants of a graph, which do not depend on the code.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from unrelu.errors import UnsupportedModelError
from unrelu.loaders import _onnx_layers as layers
from unrelu.loaders._onnx_layers import Call, padded

# TensorProto.DataType; types of real numbers that PyTorch computes with in double precision all count as one.
_FLOATS = (1, 10, 11, 16)
TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
         9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.int64, 13: torch.int64,
         16: torch.bfloat16}  # fmt: skip


# --- activations and arithmetic ---------------------------------------------------------------------------------------


def _of_inputs(function: Callable[..., Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(*call.all)


def _without(function: Callable[[Call], Tensor], **defaults: Any) -> Callable[[Call], Tensor]:
    """A function for nodes whose attributes of these names are the defaults; others compute something else."""

    def read(call: Call) -> Tensor:
        for name, default in defaults.items():
            if (value := call.get(name, default)) != default:
                raise UnsupportedModelError(f"has {name}={value!r}, which is not supported; export it without")
        return function(call)

    return read


def _one_by_one(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: functools.reduce(function, call.all)


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[[Call], Tensor]:
    def read(call: Call) -> Tensor:
        x = call.x
        if call.node.opset >= 13:
            return function(x, call.get("axis", -1))
        axis = call.get("axis", 1) % x.dim()  # older opsets flatten all axes from this one on
        return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)

    return read


def _div(call: Call) -> Tensor:
    x, divisor = call.all
    whole = isinstance(x, Tensor) and not x.is_floating_point() and not divisor.is_floating_point()
    return torch.div(x, divisor, rounding_mode="trunc") if whole else torch.div(x, divisor)


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
    kind, x = call.get("to", 1), call.x
    live = 0 in call.live
    if kind not in (_FLOATS if live else TYPES):
        raise UnsupportedModelError(f"converts the data to a type (number {kind}) that is not a real number")
    if not live:
        return x.to(TYPES[kind])
    return x if x.is_floating_point() else x.to(torch.float64)


def _dequantize(call: Call) -> Tensor:
    """(x - zero point) * scale, for all entries or for each along an axis."""
    x, scale, zero = call.x, call.tensor(1), call.optional(2)
    shape = [-1 if axis == call.get("axis", 1) % x.dim() else 1 for axis in range(x.dim())] if scale.dim() else []
    return (x.to(scale.dtype) - (0 if zero is None else zero.to(scale.dtype).reshape(shape))) * scale.reshape(shape)


def _scaler(call: Call) -> Tensor:
    """(x - offset) * scale, of scikit-learn's scalers."""
    offset, scale = (torch.tensor(call.get(name, [0.0]), dtype=torch.float64) for name in ("offset", "scale"))
    return (call.x - offset) * scale


def _reduced(function: Callable[..., Tensor]) -> Callable[[Call], Tensor]:
    def read(call: Call) -> Tensor:
        axes = call.integers(1, "axes")
        if axes is None and call.get("noop_with_empty_axes", 0):
            return call.x
        return function(call.x, tuple(axes or range(call.x.dim())), keepdim=bool(call.get("keepdims", 1)))

    return read


def _norm(p: int) -> Callable[..., Tensor]:
    return lambda x, axes, keepdim: torch.linalg.vector_norm(x, p, axes, keepdim)


def _product(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim)
    return x


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(call: Call) -> Tensor:
    given, x = call.integers(1, "shape") or [], call.x
    copied = not call.get("allowzero", 0)
    if call.node.last and given == [-1, 1]:
        return x.reshape(x.shape[0], -1)  # skl2onnx puts the outputs of all codes one below the other
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
        sizes = -(-call.x.shape[axis] // call.get("num_outputs", len(call.node.outputs)))
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
    return _selected(x, axis, index.ravel()).reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _gather_nd(call: Call) -> Tensor:
    x, index = call.x, call.array(1)
    if index is None or call.get("batch_dims", 0):
        raise UnsupportedModelError("gathers within each of a batch (batch_dims), which is not supported")
    places = np.moveaxis(index, -1, 0) % np.array(x.shape[: index.shape[-1]]).reshape(-1, *[1] * (index.ndim - 1))
    return x[tuple(torch.tensor(axis) for axis in places)]


def _wrapped(call: Call) -> Tensor:
    """Indices along an axis, of which negative ones count from its end."""
    return torch.remainder(call.tensor(1), max(1, call.x.shape[call.get("axis", 0)]))


def _pad(call: Call) -> Tensor:
    x, given = call.x, call.integers(1, "pads") or []
    axes = [a % x.dim() for a in call.integers(3, "axes") or range(x.dim())]
    mode = call.get("mode", "constant")
    ends = dict(zip(axes, zip(given[: len(axes)], given[len(axes) :], strict=True), strict=True))
    if mode != "constant":
        for axis, (b, e) in ends.items():
            if b or e:
                x = _selected(x, axis, np.pad(np.arange(x.shape[axis]), (b, e), mode))
        return x
    value = call.array(2, "value")
    begin, end = zip(*(ends.get(a, (0, 0)) for a in range(x.dim())), strict=True)
    return padded(x, begin, end, 0.0 if value is None else float(value.item()))


def _shape(call: Call) -> Tensor:
    return torch.tensor(call.x.shape[call.get("start", 0) : call.get("end", None)], dtype=torch.int64)


def _filled(call: Call) -> Tensor:
    value = call.get("value", None)
    fill, kind = (0.0, torch.float32) if value is None else (value.item(), value.dtype)
    return torch.full(call.integers(0, "") or [], fill, dtype=kind)


def _constant(call: Call) -> Tensor:
    (value,) = call.node.attributes.values()
    return torch.as_tensor(value)


def _triangle(call: Call) -> Tensor:
    diagonal = call.array(1)
    return (torch.triu if call.get("upper", 1) else torch.tril)(call.x, 0 if diagonal is None else int(diagonal))


# Operators that call one function with all their inputs.
_PLAIN: dict[str, Any] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Ceil": torch.ceil, "Cos": torch.cos,
    "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Less": torch.lt,
    "LessOrEqual": torch.le, "Log": torch.log, "MatMul": torch.matmul, "Mish": F.mish, "Mul": torch.mul,
    "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or, "Pow": torch.pow,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Selu": F.selu, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt,
    "Sub": torch.sub, "Tanh": torch.tanh, "Xor": torch.logical_xor,
}  # fmt: skip

FUNCTIONS: dict[str, Callable[[Call], Tensor | tuple[Tensor, ...]]] = {
    **{name: _of_inputs(function) for name, function in _PLAIN.items()},
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": _cast,
    "CastLike": lambda call: call.x.to(call.tensor(1).dtype),
    "Celu": lambda call: F.celu(call.x, call.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda call: torch.cat(call.all, call.get("axis", 1)),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "CumSum": _without(lambda call: torch.cumsum(call.x, (call.integers(1, "") or [0])[0]), exclusive=0, reverse=0),
    "DepthToSpace": layers.depth_to_space,
    "DequantizeLinear": _without(_dequantize, block_size=0),
    "Div": _div,
    "Dropout": _dropout,
    "Einsum": lambda call: torch.einsum(call.get("equation", ""), *call.all),
    "Elu": lambda call: F.elu(call.x, call.get("alpha", 1.0)),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": lambda call: torch.gather(call.x, call.get("axis", 0), _wrapped(call)),
    "GatherND": _gather_nd,
    "Gelu": lambda call: F.gelu(call.x, approximate=call.get("approximate", "none")),
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_pool,
    "GlobalMaxPool": lambda call: call.x.amax(tuple(range(2, call.x.dim())), keepdim=True),
    "GroupNormalization": layers.group_norm,
    "HardSigmoid": lambda call: torch.clamp(call.get("alpha", 0.2) * call.x + call.get("beta", 0.5), 0.0, 1.0),
    "Identity": lambda call: call.x,
    "InstanceNormalization": lambda call: layers.group_norm(call, call.x.shape[1]),
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": lambda call: F.leaky_relu(call.x, call.get("alpha", 0.01)),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": lambda call: F.normalize(call.x, call.get("p", 2), call.get("axis", -1)),
    "Max": _one_by_one(torch.maximum),
    "MaxPool": layers.max_pool,
    "Mean": lambda call: sum(call.all[1:], call.x) / len(call.inputs),
    "Min": _one_by_one(torch.minimum),
    "Mod": lambda call: (torch.fmod if call.get("fmod", 0) else torch.remainder)(call.x, call.tensor(1)),
    "NonZero": lambda call: torch.nonzero(call.x).T,
    "PRelu": lambda call: torch._prelu_kernel(*call.all),  # noqa: SLF001 -- the one whose slopes may have any shape
    "Pad": _pad,
    "Range": lambda call: torch.arange(*(call.tensor(i).item() for i in range(3))),
    "ReduceL1": _reduced(_norm(1)),
    "ReduceL2": _reduced(_norm(2)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim)),
    "Reshape": _reshape,
    "Resize": layers.resize,
    "Scaler": _scaler,
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "ScatterElements": _without(
        lambda call: torch.scatter(call.x, call.get("axis", 0), _wrapped(call), call.tensor(2)), reduction="none"
    ),
    "ScatterND": _without(lambda call: call.x.index_put(call.tensor(1).unbind(-1), call.tensor(2)), reduction="none"),
    "Shape": _shape,
    "Size": lambda call: torch.tensor(math.prod(call.x.shape)),
    "SpaceToDepth": layers.space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": _one_by_one(torch.add),
    "Swish": lambda call: call.x * torch.sigmoid(call.get("alpha", 1.0) * call.x),
    "ThresholdedRelu": lambda call: torch.where(call.x > call.get("alpha", 1.0), call.x, 0.0),
    "Tile": lambda call: call.x.repeat(tuple(call.integers(1, "repeats") or ())),
    "Transpose": lambda call: call.x.permute(tuple(call.get("perm", range(call.x.dim())[::-1]))),
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Upsample": layers.resize,
    "Where": lambda call: torch.where(call.x.bool(), call.tensor(1), call.tensor(2)),
}

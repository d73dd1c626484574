"""ONNX operators as functions of tensors: what a graph that is no chain of layers is evaluated by.

A graph is evaluated for one code at a time, side by side by ``torch.func.vmap``: all shapes in it are then known when
it is read, and no code can affect the output of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrelu.errors import UnsupportedModelError
from unrelu.loaders.chain_builder import Flow
from unrelu.loaders.onnx_operators import FLOATS, Attributes, cut, geometry, pads, resized
from unrelu.models.affine import Shape

Value = Tensor | npt.NDArray[Any] | None


@dataclass(frozen=True)
class OnnxNode:
    """A node of a graph: its operator, its attributes, and the names of its inputs and outputs."""

    op: str
    place: str
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class TensorCall(Attributes):
    """A node whose inputs are tensors, those that depend on the code and floating constants, or other constants."""

    inputs: Sequence[Value]
    outputs: int = 1

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.tensor(0)

    @property
    def flow(self) -> Flow:
        """The first input, by its shape."""
        return Flow(tuple(self.x.shape[1:]), self.x.shape[0], "")

    def tensor(self, i: int) -> Tensor:
        """Input i, which must be there."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise UnsupportedModelError(f"lacks its input {i + 1}")
        if isinstance(value, Tensor):
            return value
        like = next(x for x in self.inputs if isinstance(x, Tensor))
        return torch.tensor(np.array(value), dtype=like.dtype if _floating(value) else None, device=like.device)

    def optional(self, i: int) -> Tensor | None:
        """Input i, or None if it is left out."""
        return self.tensor(i) if i < len(self.inputs) and self.inputs[i] is not None else None

    def array(self, i: int) -> npt.NDArray[Any] | None:
        """Input i, a constant that is not computed with, such as a shape; None if it is left out.

        Raises:
            UnsupportedModelError: it depends on the code.
        """
        value = self.inputs[i] if i < len(self.inputs) else None
        if isinstance(value, Tensor):
            if value.is_meta or torch._C._functorch.is_batchedtensor(value):
                raise UnsupportedModelError("takes sizes or options from the data; they must be constant")
            return value.numpy()
        return value

    @property
    def all(self) -> list[Tensor]:
        """All inputs."""
        return [self.tensor(i) for i in range(len(self.inputs))]


class OnnxModule(nn.Module):
    """A graph as a module, from codes (B, ...) to outputs (B, ...), each row on its own.

    Args:
        nodes: those that depend on the code, in order.
        constants: all others' values, by name.
        ends: the names of the input and the output.
        opset: of ONNX's own operators.
        batch: the size of the batch axis that the graph was exported for.
    """

    def __init__(
        self, nodes: list[OnnxNode], constants: Mapping[str, Any], ends: tuple[str, str], opset: int, batch: int
    ) -> None:
        super().__init__()
        self.nodes, self.ends, self.opset, self.batch = nodes, ends, opset, batch
        self.fixed = {name: value for name, value in constants.items() if not _floating(value)}
        self.names = {name: f"constant_{i}" for i, name in enumerate(constants) if name not in self.fixed}
        for name, own in self.names.items():
            self.register_buffer(own, torch.as_tensor(np.array(constants[name], dtype=np.float64)))
        self.training, self.title = False, "ONNX graph"

    def forward(self, z: Tensor) -> Tensor:
        """The outputs of the codes, each computed alone."""
        alone = torch.func.vmap(lambda row: self.run(row.expand(self.batch, *row.shape))[:1])
        result: Tensor = alone(z)
        return result.flatten(0, 1)

    def run(self, x: Tensor, check: Callable[[OnnxNode, Tensor], None] | None = None) -> Tensor:
        """The output of a batch as the graph takes it; ``check`` sees everything that is computed."""
        values: dict[str, Any] = {"": None, **self.fixed, self.ends[0]: x}
        values |= {name: getattr(self, own) for name, own in self.names.items()}
        for node in self.nodes:
            call = TensorCall(node.attributes, self.opset, [values[name] for name in node.inputs], len(node.outputs))
            result = FUNCTIONS[node.op](call)
            parts = result if isinstance(result, tuple) else (result,)
            for name, part in zip(node.outputs, parts, strict=False):
                values[name] = part
                if check is not None:
                    check(node, part)
        output: Tensor = values[self.ends[1]]
        return output


def _floating(value: Any) -> bool:
    return value is not None and np.asarray(value).dtype.kind not in "iub"


# --- layers -----------------------------------------------------------------------------------------------------------


def _padded(x: Tensor, begin: Shape, end: Shape, value: float = 0.0) -> Tensor:
    """``x`` with entries before and after its last axes; negative numbers cut."""
    widths = [n for pair in reversed(list(zip(begin, end, strict=True))) for n in pair]
    return F.pad(x, widths, value=value) if any(widths) else x


def _of_rank(functions: Sequence[Callable[..., Tensor]], axes: int) -> Callable[..., Tensor]:
    if not 1 <= axes <= len(functions):
        raise UnsupportedModelError(f"has {axes} spatial axes; one to {len(functions)} are supported")
    return functions[axes - 1]


def _conv(call: TensorCall) -> Tensor:
    weight = call.tensor(1)
    kernel = tuple(weight.shape[2:])
    function = _of_rank((F.conv1d, F.conv2d, F.conv3d), len(kernel))
    stride, dilation = geometry(call, kernel)
    x = _padded(call.x, *pads(call, kernel))
    return function(x, weight, call.optional(2), stride, 0, dilation, call.get("group", 1))


def _conv_transpose(call: TensorCall) -> Tensor:
    x, weight = call.x, call.tensor(1)
    kernel = tuple(weight.shape[2:])
    function = _of_rank((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), len(kernel))
    stride, dilation = geometry(call, kernel)
    extra = tuple(call.get("output_padding", (0,) * len(kernel)))
    axes = zip(x.shape[2:], kernel, stride, dilation, extra, strict=True)
    full = tuple(s * (n - 1) + d * (k - 1) + 1 + e for n, k, s, d, e in axes)
    begin, end = cut(call, full, tuple(s * n for n, s in zip(x.shape[2:], stride, strict=True)))
    whole = function(x, weight, call.optional(2), stride, 0, 0, call.get("group", 1), dilation)
    short = tuple(e - n for e, n in zip(extra, end, strict=True))
    return (
        _padded(whole, tuple(-n for n in begin), short)
        if call.optional(2) is None
        else _biased(call, whole, begin, short)
    )


def _biased(call: TensorCall, whole: Tensor, begin: Shape, short: Shape) -> Tensor:
    """Entries that ``output_padding`` adds at the end hold the bias alone."""
    bias = call.tensor(2).reshape(1, -1, *[1] * len(begin))
    return _padded(whole - bias, tuple(-n for n in begin), short) + bias


def _gemm(call: TensorCall) -> Tensor:
    a, b = call.x, call.tensor(1)
    if a.dim() != 2:
        raise UnsupportedModelError(f"multiplies elements of shape {tuple(a.shape[1:])}; Gemm takes vectors")
    product = (a.mT if call.get("transA", 0) else a) @ (b.mT if call.get("transB", 0) else b)
    bias, scaled = call.optional(2), torch.mul(product, call.get("alpha", 1.0))
    return scaled if bias is None else scaled + torch.mul(bias, call.get("beta", 1.0))


def _channels(x: Tensor, vector: Tensor) -> Tensor:
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))


def _batch_norm(call: TensorCall) -> Tensor:
    if call.get("training_mode", 0) or not call.get("spatial", 1):
        raise UnsupportedModelError("normalises by the statistics of the batch; export the model in evaluation mode")
    x = call.x
    scale, bias, mean, variance = (_channels(x, call.tensor(i)) for i in range(1, 5))
    return (x - mean) * torch.rsqrt(variance + call.get("epsilon", 1e-5)) * scale + bias


def _instance_norm(call: TensorCall) -> Tensor:
    x = call.x
    normal = _normal(x, tuple(range(2, x.dim())), call.get("epsilon", 1e-5))
    return normal * _channels(x, call.tensor(1)) + _channels(x, call.tensor(2))


def _group_norm(call: TensorCall) -> Tensor:
    x, groups = call.x, call.get("num_groups", 1)
    split = x.reshape(x.shape[0], groups, -1)
    normal = _normal(split, (2,), call.get("epsilon", 1e-5)).reshape(x.shape)
    channels = x.shape[1]
    scale, bias = (v.repeat_interleave(channels // len(v)) for v in (call.tensor(1), call.tensor(2)))
    return normal * _channels(x, scale) + _channels(x, bias)


def _layer_norm(call: TensorCall) -> Tensor:
    x, bias = call.x, call.optional(2)
    axes = tuple(range(call.get("axis", -1) % x.dim(), x.dim()))
    scaled = _normal(x, axes, call.get("epsilon", 1e-5)) * call.tensor(1)
    return scaled if bias is None else scaled + bias


def _normal(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)


def _average_pool(call: TensorCall) -> Tensor:
    kernel = tuple(call.get("kernel_shape", ()))
    function = _of_rank((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), len(kernel))
    stride, dilation = geometry(call, kernel)
    begin, end = pads(call, kernel)
    if set(dilation) != {1} or call.get("ceil_mode", 0):
        raise UnsupportedModelError("averages over dilated windows or with ceil_mode; these are not supported")
    total = function(_padded(call.x, begin, end), kernel, stride)
    if call.get("count_include_pad", 0) or not any(begin + end):
        return total
    return total / function(_padded(torch.ones_like(call.x), begin, end), kernel, stride)


def _max_pool(call: TensorCall) -> Tensor:
    kernel = tuple(call.get("kernel_shape", ()))
    function = _of_rank((F.max_pool1d, F.max_pool2d, F.max_pool3d), len(kernel))
    stride, dilation = geometry(call, kernel)
    if call.get("ceil_mode", 0) or call.get("storage_order", 0):
        raise UnsupportedModelError("takes maxima with ceil_mode or storage_order; these are not supported")
    return function(_padded(call.x, *pads(call, kernel), -math.inf), kernel, stride, 0, dilation)


def _resize(call: TensorCall) -> Tensor:
    first = 1 if call.opset < 11 else 2
    return resized(call.flow, call.array(first), call.array(first + 1), call.attributes, call.opset).apply(call.x)


def _upsample(call: TensorCall) -> Tensor:
    scales = call.get("scales", None) if call.array(1) is None else call.array(1)
    return resized(call.flow, np.array(scales), None, call.attributes, opset=10).apply(call.x)


def _depth_to_space(call: TensorCall) -> Tensor:
    x, b = call.x, call.get("blocksize", 1)
    n, c, h, w = x.shape
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(call: TensorCall) -> Tensor:
    x, b = call.x, call.get("blocksize", 1)
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


# --- activations and arithmetic ---------------------------------------------------------------------------------------


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[TensorCall], Tensor]:
    return lambda call: function(call.x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[TensorCall], Tensor]:
    return lambda call: function(call.x, call.tensor(1))


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[TensorCall], Tensor]:
    def read(call: TensorCall) -> Tensor:
        total, *others = call.all
        for x in others:
            total = function(total, x)
        return total

    return read


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[[TensorCall], Tensor]:
    def read(call: TensorCall) -> Tensor:
        x = call.x
        if call.opset >= 13:
            return function(x, call.get("axis", -1))
        axis = call.get("axis", 1) % x.dim()  # which began the last of two axes then
        return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)

    return read


def _prelu(call: TensorCall) -> Tensor:
    x = call.x
    return torch.where(x >= 0, x, call.tensor(1) * x)


def _clip(call: TensorCall) -> Tensor:
    low, high = call.optional(1), call.optional(2)
    low = torch.as_tensor(call.get("min", -math.inf)) if low is None else low
    high = torch.as_tensor(call.get("max", math.inf)) if high is None else high
    x = call.x
    return torch.clamp(x, low.to(x), high.to(x))


def _hard_sigmoid(call: TensorCall) -> Tensor:
    return torch.clamp(call.get("alpha", 0.2) * call.x + call.get("beta", 0.5), 0.0, 1.0)


def _dropout(call: TensorCall) -> Tensor:
    mode = call.array(2)
    if mode is not None and bool(np.any(mode)):
        raise UnsupportedModelError("drops entries at random (training_mode); export the model in evaluation mode")
    return call.x


def _cast(call: TensorCall) -> Tensor:
    if call.get("to", 1) not in FLOATS:
        raise UnsupportedModelError(
            f"converts the data to a type (number {call.get('to', 1)}) that is not a real number"
        )
    return call.x if call.x.is_floating_point() else call.x.to(torch.float64)


def _reduced(function: Callable[..., Tensor]) -> Callable[[TensorCall], Tensor]:
    def read(call: TensorCall) -> Tensor:
        axes = call.integers(1, "axes")
        if axes is None and call.get("noop_with_empty_axes", 0):
            return call.x
        return function(call.x, tuple(axes or range(call.x.dim())), keepdim=bool(call.get("keepdims", 1)))

    return read


def _norm(p: int) -> Callable[..., Tensor]:
    return lambda x, axes, keepdim: torch.linalg.vector_norm(x, p, axes, keepdim)


def _lp_normalization(call: TensorCall) -> Tensor:
    x, axis = call.x, call.get("axis", -1)
    size: Tensor = torch.linalg.vector_norm(x, call.get("p", 2), axis, keepdim=True)
    return x / size


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(call: TensorCall) -> Tensor:
    given, x = call.integers(1, "shape") or [], call.x
    copied = not call.get("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and copied else n for i, n in enumerate(given)])


def _flatten(call: TensorCall) -> Tensor:
    x, axis = call.x, call.get("axis", 1)
    axis += x.dim() * (axis < 0)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(call: TensorCall) -> Tensor:
    axes = call.integers(1, "axes")
    return call.x.squeeze() if axes is None else call.x.squeeze(tuple(axes))


def _unsqueeze(call: TensorCall) -> Tensor:
    x, axes = call.x, call.integers(1, "axes") or []
    for axis in sorted(a % (x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: TensorCall) -> Tensor:
    return call.x.permute(tuple(call.get("perm", range(call.x.dim())[::-1])))


def _expand(call: TensorCall) -> Tensor:
    shape = tuple(call.integers(1, "shape") or ())
    return call.x.expand(np.broadcast_shapes(tuple(call.x.shape), shape))


def _split(call: TensorCall) -> tuple[Tensor, ...]:
    axis, sizes = call.get("axis", 0), call.integers(1, "split")
    if sizes is None:
        sizes = -(-call.x.shape[axis] // call.get("num_outputs", call.outputs))
    parts: tuple[Tensor, ...] = torch.split(call.x, sizes, axis)
    return parts


def _selected(x: Tensor, axis: int, index: npt.NDArray[Any]) -> Tensor:
    return x.index_select(axis, torch.as_tensor(index % max(1, x.shape[axis]), device=x.device))


def _slice(call: TensorCall) -> Tensor:
    x, starts, ends = call.x, call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes, steps = call.integers(3, "axes") or range(len(starts)), call.integers(4, "steps") or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _selected(x, axis, np.arange(x.shape[axis])[slice(start, end, step)])
    return x


def _gather(call: TensorCall) -> Tensor:
    x, index = call.x, call.array(1)
    if index is None:
        raise UnsupportedModelError("lacks its indices")
    axis = call.get("axis", 0) % x.dim()
    return _selected(x, axis, index.ravel()).reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_nd(call: TensorCall) -> Tensor:
    x, index = call.x, call.array(1)
    if index is None or call.get("batch_dims", 0):
        raise UnsupportedModelError("gathers within each of a batch (batch_dims), which is not supported")
    places = np.moveaxis(index, -1, 0) % np.array(x.shape[: index.shape[-1]]).reshape(-1, *[1] * (index.ndim - 1))
    return x[tuple(torch.tensor(axis, device=x.device) for axis in places)]


def _pad(call: TensorCall) -> Tensor:
    x, given = call.x, call.integers(1, "pads") or []
    axes = [a % x.dim() for a in call.integers(3, "axes") or range(x.dim())]
    mode = call.get("mode", "constant")
    before, after = given[: len(axes)], given[len(axes) :]
    if mode != "constant":
        for axis, b, e in zip(axes, before, after, strict=True):
            if b or e:
                x = _selected(x, axis, np.pad(np.arange(x.shape[axis]), (b, e), mode))
        return x
    value = call.array(2) if call.opset >= 11 else call.get("value", 0.0)
    ends = dict(zip(axes, zip(before, after, strict=True), strict=True))
    begin, end = zip(*(ends.get(a, (0, 0)) for a in range(x.dim())), strict=True)
    return _padded(x, begin, end, 0.0 if value is None else float(np.asarray(value).item()))


FUNCTIONS: dict[str, Callable[[TensorCall], Tensor | tuple[Tensor, ...]]] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Celu": lambda call: F.celu(call.x, call.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda call: torch.cat(call.all, call.get("axis", 1)),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _unary(torch.cos),
    "DepthToSpace": _depth_to_space,
    "Div": _binary(torch.div),
    "Dropout": _dropout,
    "Einsum": lambda call: torch.einsum(call.get("equation", ""), *call.all),
    "Elu": lambda call: F.elu(call.x, call.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": lambda call: F.gelu(call.x, approximate=call.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call: call.x.mean(tuple(range(2, call.x.dim())), keepdim=True),
    "GlobalMaxPool": lambda call: call.x.amax(tuple(range(2, call.x.dim())), keepdim=True),
    "Greater": _binary(torch.gt),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda call: F.hardswish(call.x),
    "Identity": lambda call: call.x,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call: F.leaky_relu(call.x, call.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "Log": _unary(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": _lp_normalization,
    "MatMul": _binary(torch.matmul),
    "Max": _many(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda call: sum(call.all[1:], call.x) / len(call.inputs),
    "Min": _many(torch.minimum),
    "Mish": lambda call: F.mish(call.x),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL1": _reduced(_norm(1)),
    "ReduceL2": _reduced(_norm(2)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Selu": lambda call: F.selu(call.x),
    "Sigmoid": _unary(torch.sigmoid),
    "Sin": _unary(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Softplus": lambda call: F.softplus(call.x),
    "Softsign": lambda call: F.softsign(call.x),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _many(torch.add),
    "Swish": lambda call: call.x * torch.sigmoid(call.get("alpha", 1.0) * call.x),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": lambda call: torch.where(call.x > call.get("alpha", 1.0), call.x, 0.0),
    "Tile": lambda call: call.x.repeat(tuple(call.integers(1, "repeats") or ())),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _upsample,
    "Where": lambda call: torch.where(call.x.bool(), call.tensor(1), call.tensor(2)),
}

"""What ONNX operators mean for a chain of layers: their attributes, read into the terms of PyTorch's functions.

Resize is read as PyTorch resampling, where the two read the same entries.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import UnsupportedModelError
from unrelu.loaders import torch_operations as ops
from unrelu.loaders.chain_builder import Flow, Part, constant, float64, reshaped
from unrelu.models.activations import Activation
from unrelu.models.affine import ConvTranspose, Dense, Pool, Resample, Shape

Array = npt.NDArray[np.float64]
# TensorProto.DataType of FLOAT, FLOAT16, DOUBLE and BFLOAT16.
FLOATS = (1, 10, 11, 16)


def resized(
    flow: Flow, scales: npt.NDArray[Any] | None, sizes: npt.NDArray[Any] | None, attributes: dict[str, Any], opset: int
) -> Resample:
    """The resampling of the spatial axes by ``scales`` or to ``sizes``.

    Each output reads its input at a position x(i); the step is accepted if PyTorch reads the same positions.

    Raises:
        UnsupportedModelError: the mode, or the combination of rounding and coordinates, is not one of PyTorch's.

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    before = (flow.batch, *flow.shape)
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
            f"resizes {flow.shape} to {tuple(after[1:])}; only the last one or two axes can change"
        )
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
    return step


def _modes(attributes: dict[str, Any], opset: int, by_size: bool) -> tuple[str, str, str]:
    """Mode, coordinates and rounding, with the defaults of the opset."""
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
    """Where each of m outputs reads among n inputs; rounded to an entry for nearest."""
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
        # Factors are stored in single precision, so a position on the border of two entries may be off by that much.
        x = np.round(x, 6)
        rounded = {"floor": np.floor(x), "ceil": np.ceil(x), "round_prefer_floor": np.ceil(x - 0.5)}
        x = rounded.get(rounding, np.floor(x + 0.5))
    return np.clip(x, 0, n - 1)


@dataclass(frozen=True)
class Attributes(ABC):
    """A node by its attributes, whatever its inputs are."""

    attributes: dict[str, Any]
    opset: int

    @property
    @abstractmethod
    def flow(self) -> Flow:
        """The data, by its shape."""

    @abstractmethod
    def array(self, i: int) -> npt.NDArray[Any] | None:
        """Input i, a constant, or None if it is left out."""

    def integers(self, i: int, name: str) -> list[int] | None:
        """Integers that newer opsets pass as input i and older ones as an attribute."""
        value = self.array(i)
        value = self.attributes.get(name) if value is None else value
        return None if value is None else [int(n) for n in np.ravel(value)]

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class Call(Attributes):
    """A node whose inputs are known: one is the :class:`Flow`, the others are arrays, or None where left out."""

    inputs: Sequence[Flow | npt.NDArray[Any] | None]

    @property
    def flow(self) -> Flow:
        """The data, which must be the first input: a node whose weights are data is no layer."""
        x = self.inputs[0]
        if not isinstance(x, Flow):
            raise UnsupportedModelError("takes its weights from the data; they must be constant")
        return x

    def array(self, i: int) -> npt.NDArray[Any] | None:
        """Input i, or None if it is left out."""
        value = self.inputs[i] if i < len(self.inputs) else None
        return None if isinstance(value, Flow) else value

    def tensor(self, i: int) -> Tensor:
        """Input i, which must be there, as float64."""
        return float64(self.array(i), f"input {i + 1}")

    def optional(self, i: int) -> Tensor | None:
        """Input i as float64, or None if it is left out."""
        return None if self.array(i) is None else self.tensor(i)


# --- layers -----------------------------------------------------------------------------------------------------------


def _gemm(call: Call) -> list[Part]:
    if call.get("transA", 0):
        raise UnsupportedModelError("transposes the data (transA=1), which mixes the batch axis with the others")
    x, matrix, vector = call.flow, call.tensor(1), call.optional(2)
    if len(x.shape) != 1:
        raise UnsupportedModelError(f"multiplies elements of shape {x.shape}; Gemm takes vectors")
    weight = call.get("alpha", 1.0) * (matrix if call.get("transB", 0) else matrix.T)
    if vector is None:
        return [Dense(weight)]
    if (vector.dim() == 2 and vector.shape[0] != 1) or vector.dim() > 2:
        raise UnsupportedModelError(f"adds a constant of shape {tuple(vector.shape)}, which differs along the batch")
    bias = call.get("beta", 1.0) * vector.reshape(-1)
    return [Dense(weight, bias.expand(len(weight)).clone())]


def geometry(call: Attributes, kernel: Sequence[int]) -> tuple[Shape, Shape]:
    """Strides and dilations."""
    ones = (1,) * len(kernel)
    return tuple(call.get("strides", ones)), tuple(call.get("dilations", ones))


def pads(call: Attributes, kernel: Sequence[int]) -> tuple[Shape, Shape]:
    """Zeros before and after each spatial axis, from ``pads`` or ``auto_pad``."""
    n, how = len(kernel), call.get("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        return ops.same_padding(call.flow.shape[1:], kernel, *geometry(call, kernel), how == "SAME_UPPER")
    pads = tuple(call.get("pads", (0,) * 2 * n)) if how == "NOTSET" else (0,) * 2 * n
    return pads[:n], pads[n:]


def _spatial(call: Call, weight: Tensor) -> Shape:
    if weight.dim() not in (3, 4):
        raise UnsupportedModelError(f"has {weight.dim() - 2} spatial axes; one or two are supported")
    ops.check_axes("a convolution", call.flow.shape, weight.dim() - 2)
    return tuple(weight.shape[2:])


def _conv(call: Call) -> list[Part]:
    weight = call.tensor(1)
    kernel = _spatial(call, weight)
    stride, dilation = geometry(call, kernel)
    return ops.padded_conv(weight, call.optional(2), stride, pads(call, kernel), dilation, call.get("group", 1))


def _conv_transpose(call: Call) -> list[Part]:
    x, weight = call.flow, call.tensor(1)
    kernel = _spatial(call, weight)
    zeros = (0,) * len(kernel)
    stride, dilation = geometry(call, kernel)
    extra, groups = tuple(call.get("output_padding", zeros)), call.get("group", 1)
    axes = zip(x.shape[1:], kernel, stride, dilation, extra, strict=True)
    full = tuple(s * (n - 1) + d * (k - 1) + 1 + e for n, k, s, d, e in axes)
    begin, end = cut(call, full, tuple(s * n for n, s in zip(x.shape[1:], stride, strict=True)))
    inside = begin if begin == end else zeros
    step = ConvTranspose(weight, call.optional(2), stride, inside, extra, dilation, groups)
    return [step] if begin == end else [step, ops.zeros([-n for n in begin], [-n for n in end])]


def cut(call: Attributes, full: Shape, same: Shape) -> tuple[Shape, Shape]:
    """Entries a transposed convolution drops at both ends, so that ``full`` becomes the wanted size."""
    how, n = call.get("auto_pad", "NOTSET"), len(full)
    wanted = call.get("output_shape", None) or (same if how.startswith("SAME") else None)
    if wanted is None:
        pads = (0,) * 2 * n if how == "VALID" else tuple(call.get("pads", (0,) * 2 * n))
        return pads[:n], pads[n:]
    totals = [a - b for a, b in zip(full, tuple(wanted)[-n:], strict=True)]
    if min(totals) < 0:
        raise UnsupportedModelError(
            f"stretches {full} entries to {tuple(wanted)}; give pads and output_padding instead"
        )
    return ops.halves(totals, how == "SAME_UPPER")


def _batch_norm(call: Call) -> list[Part]:
    if call.get("training_mode", 0) or not call.get("spatial", 1):
        raise UnsupportedModelError("normalises by the statistics of the batch; export the model in evaluation mode")
    weight, bias, mean, variance = (call.tensor(i) for i in range(1, 5))
    return ops.batch_norm(call.flow, mean, variance, weight, bias, eps=call.get("epsilon", 1e-5))


def _average_pool(call: Call) -> list[Part]:
    x, kernel = call.flow, tuple(call.get("kernel_shape", ()))
    stride, dilation = geometry(call, kernel)
    begin, end = pads(call, kernel)
    counted, ceil = bool(call.get("count_include_pad", 0)), bool(call.get("ceil_mode", 0))
    spans = [n + b + e - k for n, b, e, k in zip(x.shape[1:], begin, end, kernel, strict=True)]
    ceil = ceil and any(span % s for span, s in zip(spans, stride, strict=True))
    shifted = call.get("auto_pad", "NOTSET").startswith("SAME") and any(
        s > k for s, k in zip(stride, kernel, strict=True)
    )
    if shifted or set(dilation) != {1} or (ceil and any(begin + end)) or (begin != end and not counted):
        raise UnsupportedModelError(
            "averages over dilated windows, uneven padding without count_include_pad, padding with ceil_mode, or "
            "windows shorter than their stride with auto_pad; these are not supported"
        )
    if begin != end:
        return [ops.zeros(begin, end), Pool(kernel, stride, (0,) * len(kernel))]
    return ops.avg_pool(len(kernel))(x, kernel, stride, begin, ceil, counted)


def _global_pool(call: Call) -> list[Part]:
    return ops.adaptive_avg_pool(len(call.flow.shape) - 1)(call.flow, 1)


def _reduce_mean(call: Call) -> list[Part]:
    x = call.flow
    rank = 1 + len(x.shape)
    axes = sorted(a % rank for a in call.integers(1, "axes") or ())
    if rank not in (3, 4) or axes != list(range(2, rank)):
        raise UnsupportedModelError(
            f"averages over the axes {axes} of {rank}; only all axes after the channels are supported"
        )
    pooled = _global_pool(call)
    return pooled if call.get("keepdims", 1) else [*pooled, reshaped(x, (x.batch, x.shape[0]))]


def _depth_to_space(call: Call) -> list[Part]:
    if call.get("mode", "DCR") != "CRD":
        raise UnsupportedModelError("orders the channels by mode='DCR'; only mode='CRD', a PixelShuffle, is supported")
    return ops.pixel_shuffle(call.flow, call.get("blocksize", 1))


def _resize(call: Call) -> list[Part]:
    first = 1 if call.opset < 11 else 2
    return [resized(call.flow, call.array(first), call.array(first + 1), call.attributes, call.opset)]


def _upsample(call: Call) -> list[Part]:
    scales = call.get("scales", None) if call.array(1) is None else call.array(1)
    return [resized(call.flow, np.array(scales), None, call.attributes, opset=10)]


# --- activations and arithmetic ---------------------------------------------------------------------------------------


def _prelu(call: Call) -> list[Part]:
    return [Activation.of_slope(constant(call.array(1), call.flow.shape).numpy())]


def _as_in_torch(handler: ops.Handler, inputs: int) -> Callable[[Call], list[Part]]:
    """An operator that does to its inputs, of which any is the data, what a function of PyTorch does."""

    def read(call: Call) -> list[Part]:
        return handler(*(x if isinstance(x, Flow) else call.tensor(i) for i, x in enumerate(call.inputs[:inputs])))

    return read


def _dropout(call: Call) -> list[Part]:
    if call.array(2) is not None and bool(call.array(2)):
        raise UnsupportedModelError("drops entries at random (training_mode); export the model in evaluation mode")
    return []


def _cast(call: Call) -> list[Part]:
    if call.get("to", 1) not in FLOATS:
        raise UnsupportedModelError(
            f"converts the data to a type (number {call.get('to', 1)}) that is not a real number"
        )
    return []


# --- shapes -----------------------------------------------------------------------------------------------------------


def _full(call: Call) -> list[int]:
    return [call.flow.batch, *call.flow.shape]


def _reshape(call: Call) -> list[Part]:
    given, old = call.integers(1, "shape") or [], _full(call)
    copied = not call.get("allowzero", 0)
    return ops.reshape("reshape")(call.flow, [old[i] if n == 0 and copied else n for i, n in enumerate(given)])


def _flatten(call: Call) -> list[Part]:
    old, axis = _full(call), call.get("axis", 1)
    axis += len(old) * (axis < 0)
    return [reshaped(call.flow, (math.prod(old[:axis]), math.prod(old[axis:])))]


def _squeeze(call: Call) -> list[Part]:
    axes = call.integers(1, "axes")
    return ops.reshape("squeeze")(call.flow, *([] if axes is None else [axes]))


def _unsqueeze(call: Call) -> list[Part]:
    axes = call.integers(1, "axes") or []
    new = _full(call)
    for axis in sorted(a % (len(new) + len(axes)) for a in axes):
        new.insert(axis, 1)
    return [reshaped(call.flow, new)]


def _pad(call: Call) -> list[Part]:
    value: Any = call.array(2) if call.opset >= 11 else call.get("value", 0.0)
    rank = 1 + len(call.flow.shape)
    given = call.integers(1, "pads") or []
    axes = [a % rank for a in call.integers(3, "axes") or range(rank)]
    ends = dict(zip(axes, zip(given[: len(axes)], given[len(axes) :], strict=True), strict=True))
    widths = [n for a in reversed(range(rank)) for n in ends.get(a, (0, 0))]
    kept = widths if any(widths[-2:]) else widths[:-2]
    return ops.pad(call.flow, kept, call.get("mode", "constant"), value if np.any(value) else None)


def _slice(call: Call) -> list[Part]:
    starts, ends = call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes, index = call.integers(3, "axes") or range(len(starts)), [slice(None)] * (1 + len(call.flow.shape))
    for axis, *ends_and_step in zip(axes, starts, ends, call.integers(4, "steps") or [1] * len(starts), strict=True):
        index[axis] = slice(*ends_and_step)
    return ops.getitem(call.flow, tuple(index))


OPERATORS: dict[str, Callable[[Call], list[Part]]] = {
    "Add": _as_in_torch(ops.add, 2),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": _as_in_torch(ops.div, 2),
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "Identity": lambda call: [],
    "LeakyRelu": lambda call: ops.leaky_relu(call.flow, call.get("alpha", 0.01)),
    "MatMul": _as_in_torch(ops.matmul, 2),
    "Mul": _as_in_torch(ops.mul, 2),
    "Neg": _as_in_torch(ops.neg, 1),
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": lambda call: [Activation("relu")],
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda call: [Activation("sigmoid")],
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _as_in_torch(ops.sub, 2),
    "Tanh": lambda call: [Activation("tanh")],
    "Unsqueeze": _unsqueeze,
    "Upsample": _upsample,
}

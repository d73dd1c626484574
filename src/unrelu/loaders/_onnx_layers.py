"""ONNX operators that are layers of a network, by functions of PyTorch.

A :class:`Call` is a node of a graph with its inputs.

Source: https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

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
from unrelu.models.affine import Shape


@dataclass(frozen=True)
class GraphNode:
    """A node of a graph.

    Attributes:
        kind: the name of its operator.
        place: its name in messages.
        attributes: its attributes by name.
        inputs, outputs: the names of its inputs and outputs; "" for one that is left out.
        opset: the version of the operators.
        last: whether it computes an output of the graph.
    """

    kind: str
    place: str
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    last: bool


@dataclass(frozen=True)
class Call:
    """A node with its inputs, by number; None for one that is left out. Those in ``live`` depend on the code."""

    node: GraphNode
    inputs: Sequence[Tensor | None]
    live: frozenset[int] = frozenset()

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.tensor(0)

    def tensor(self, i: int) -> Tensor:
        """Input i, which must exist; real constants beside the code get its precision."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise UnsupportedModelError(f"lacks its input {i + 1}")
        real = (self.inputs[j] for j in self.live)
        code = next((x for x in real if x is not None and x.is_floating_point()), None)
        return value.to(code.dtype) if code is not None and value.is_floating_point() else value

    def optional(self, i: int) -> Tensor | None:
        """Input i, or None if it is left out."""
        return self.tensor(i) if i < len(self.inputs) and self.inputs[i] is not None else None

    def array(self, i: int, name: str = "") -> npt.NDArray[Any] | None:
        """Input i, which must be constant (a shape or an option), or an attribute; None if there is neither."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if i in self.live:
            raise UnsupportedModelError("takes sizes or options from the data; they must be constant")
        given = self.node.attributes.get(name) if value is None else value.numpy()
        return None if given is None else np.asarray(given)

    @property
    def all(self) -> list[Tensor]:
        """All inputs."""
        return [self.tensor(i) for i in range(len(self.inputs))]

    def integers(self, i: int, name: str) -> list[int] | None:
        """Integers that are input i in newer opsets and an attribute in older ones."""
        value = self.array(i, name)
        return None if value is None else [int(n) for n in value.ravel()]

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.node.attributes.get(name, default)


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


def _halves(totals: Sequence[int], how: str) -> tuple[Shape, Shape]:
    """Split each total between the begin and the end; with SAME_UPPER the end gets the larger half, else the begin."""
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if how == "SAME_UPPER" else (large, small)


def padded(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """``x`` with entries added before and after its last axes; negative numbers crop."""
    widths = [n for pair in reversed(list(zip(begin, end, strict=True))) for n in pair]
    while widths and not any(widths[-2:]):
        del widths[-2:]
    return F.pad(x, widths, value=value) if widths else x


def _spatial(call: Call, kernel: Sequence[int]) -> int:
    """The number of spatial axes, which must be those of the input."""
    axes = len(kernel)
    if not 1 <= axes <= 3 or call.x.dim() != 2 + axes:
        raise UnsupportedModelError(
            f"has a kernel of {axes} axes for elements of shape {tuple(call.x.shape[1:])}; they are (channels, sizes) "
            "with one to three sizes"
        )
    return axes


def conv(call: Call) -> Tensor:
    weight = call.tensor(1)
    kernel = tuple(weight.shape[2:])
    axes = _spatial(call, kernel)
    stride, dilation = _geometry(call, kernel)
    begin, end = _pads(call, kernel)
    x, inside = (call.x, begin) if begin == end else (padded(call.x, begin, end), (0,) * axes)
    bias, groups = call.optional(2), call.get("group", 1)
    return torch.convolution(x, weight, bias, stride, inside, dilation, False, (0,) * axes, groups)


def conv_transpose(call: Call) -> Tensor:
    x, weight = call.x, call.tensor(1)
    kernel, how = tuple(weight.shape[2:]), call.get("auto_pad", "NOTSET")
    zeros = (0,) * _spatial(call, kernel)
    stride, dilation = _geometry(call, kernel)
    extra = tuple(call.get("output_padding", zeros))
    begin, end = _pads(call, kernel)
    same = tuple(s * n for n, s in zip(x.shape[2:], stride, strict=True))
    if wanted := tuple(call.get("output_shape", same if how.startswith("SAME") else ())):
        full = _stretched(call)[2:]
        cut = [a - b for a, b in zip(full, wanted[-len(full) :], strict=True)]
        if min(cut) < 0:
            raise UnsupportedModelError(f"stretches {full} entries to {wanted}; give pads and output_padding instead")
        begin, end = _halves(cut, how)
    inside = begin if begin == end else zeros
    bias, groups = call.optional(2), call.get("group", 1)
    whole = torch.convolution(x, weight, bias, stride, inside, dilation, True, extra, groups)
    return whole if begin == end else padded(whole, [-n for n in begin], [-n for n in end])


def _stretched(call: Call) -> Shape:
    """The shape of a transposed convolution's output before its padding is cut off."""
    x, weight = call.x, call.tensor(1)
    kernel = tuple(weight.shape[2:])
    extra = call.get("output_padding", (0,) * len(kernel))
    axes = zip(x.shape[2:], kernel, *_geometry(call, kernel), extra, strict=True)
    spatial = (s * (n - 1) + d * (k - 1) + 1 + e for n, k, s, d, e in axes)
    return (x.shape[0], weight.shape[1] * call.get("group", 1), *spatial)


def _windows(call: Call) -> Shape:
    """A bound of the shapes of a convolution's or pooling's padded input and output."""
    x, weight = call.x, call.optional(1)
    kernel = tuple(call.get("kernel_shape", ()) if weight is None else weight.shape[2:])
    _spatial(call, kernel)
    pads = zip(*_pads(call, kernel), strict=True)
    channels = max(x.shape[1], 0 if weight is None else weight.shape[0])
    return (x.shape[0], channels, *(n + b + e for n, (b, e) in zip(x.shape[2:], pads, strict=True)))


def gemm(call: Call) -> Tensor:
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
    if 2 in call.live or c.shape[-1:].numel() not in (1, n) or c.shape[:-1].numel() != 1:
        return F.linear(a, weight) + c
    return F.linear(a, weight, c.reshape(-1).expand(n).clone())


def batch_norm(call: Call) -> Tensor:
    if call.get("training_mode", 0) or not call.get("spatial", 1):
        raise UnsupportedModelError("normalises by the statistics of the batch; export the model in evaluation mode")
    weight, bias, mean, variance = (call.tensor(i) for i in range(1, 5))
    return F.batch_norm(call.x, mean, variance, weight, bias, eps=call.get("epsilon", 1e-5))


def group_norm(call: Call, groups: int | None = None) -> Tensor:
    x, groups = call.x, call.get("num_groups", 1) if groups is None else groups
    # Opset 18 has a scale for each group.
    scale, bias = (v.repeat_interleave(x.shape[1] // v.shape[0]) for v in (call.tensor(1), call.tensor(2)))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def layer_norm(call: Call) -> Tensor:
    shape = call.x.shape[call.get("axis", -1) :]
    normal = F.layer_norm(call.x, shape, eps=call.get("epsilon", 1e-5)) * call.tensor(1)
    bias = call.optional(2)
    return normal if bias is None else normal + bias


def average_pool(call: Call) -> Tensor:
    """Means of windows; entries that count_include_pad leaves out, or that ceil_mode adds, do not count."""
    x, kernel = call.x, tuple(call.get("kernel_shape", ()))
    function: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[_spatial(call, kernel) - 1]
    stride, dilation = _geometry(call, kernel)
    begin, end = _pads(call, kernel)
    if set(dilation) != {1}:
        raise UnsupportedModelError("averages over dilated windows, which is not supported")
    spans = [n + b + e - k for n, b, e, k in zip(x.shape[2:], begin, end, kernel, strict=True)]
    more = [-span % s if call.get("ceil_mode", 0) else 0 for span, s in zip(spans, stride, strict=True)]
    # A window that would begin in the padding at the end is left out.
    more = [0 if m and k - m > 0 and k - m <= e else m for m, k, e in zip(more, kernel, end, strict=True)]
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    ones = padded(ones, begin, end, 1.0 if call.get("count_include_pad", 0) else 0.0)
    share = function(padded(ones, [0] * len(kernel), more), kernel, stride)
    means = function(padded(x, begin, [e + m for e, m in zip(end, more, strict=True)]), kernel, stride)
    return means if (share == 1).all() else means / share


def max_pool(call: Call) -> Tensor:
    kernel = tuple(call.get("kernel_shape", ()))
    function = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[_spatial(call, kernel) - 1]
    stride, dilation = _geometry(call, kernel)
    if call.get("ceil_mode", 0) or call.get("storage_order", 0):
        raise UnsupportedModelError("takes maxima with ceil_mode or storage_order; these are not supported")
    return function(padded(call.x, *_pads(call, kernel), -math.inf), kernel, stride, 0, dilation)


def global_pool(call: Call) -> Tensor:
    return call.x.mean(tuple(range(2, call.x.dim())), keepdim=True)


def depth_to_space(call: Call) -> Tensor:
    x, b = call.x, call.get("blocksize", 1)
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def space_to_depth(call: Call) -> Tensor:
    x, b = call.x, call.get("blocksize", 1)
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def _resized(call: Call) -> tuple[Shape, list[float]]:
    """The shape of a resized tensor and the factor of each axis, by scales or to sizes."""
    scales, sizes = call.array(2 if call.node.opset >= 11 else 1, "scales"), call.array(3)
    by_size = scales is None or not scales.size
    given = sizes if by_size else scales
    if given is None or not given.size:
        raise UnsupportedModelError("has neither scales nor sizes")
    before, factors = tuple(call.x.shape), [1.0] * call.x.dim()
    for axis, value in zip(call.get("axes", range(len(before))), given.tolist(), strict=True):
        factors[axis] = value / before[axis] if by_size else value
    rounding = 1e-6 if by_size else 0
    return tuple(math.floor(n * factor + rounding) for n, factor in zip(before, factors, strict=True)), factors


def resize(call: Call) -> Tensor:
    """Resample by scales or to sizes, axis by axis. Output i reads its input at a position x(i).

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    x, new = call.x, call.node.opset >= 11
    after, factors = _resized(call)
    mode = call.get("mode", "nearest")
    coordinates = call.get("coordinate_transformation_mode", "half_pixel" if new else "asymmetric")
    rounding = call.get("nearest_mode", "round_prefer_floor" if new else "floor")
    plain = not call.get("antialias", 0) and call.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    for axis, (n, m, factor) in enumerate(zip(x.shape, after, factors, strict=True)):
        if factor == 1:
            continue
        positions = _positions(n, m, factor, coordinates)
        if not plain or mode not in ("nearest", "linear") or positions is None:
            raise UnsupportedModelError(
                f"resizes {tuple(call.x.shape[1:])} to {after[1:]} with mode={mode!r}, coordinate_transformation_mode="
                f"{coordinates!r}, antialias or keep_aspect_ratio_policy, which is not supported; export with nearest "
                "or linear, and 'asymmetric', 'half_pixel' or 'align_corners'"
            )
        if mode == "nearest":
            # Factors are stored in single precision: a position between two entries may be off by a rounding error.
            x = x.index_select(axis, torch.from_numpy(_ROUNDED[rounding](np.round(positions, 6)).clip(0, n - 1)).long())
        else:
            low = np.floor(positions.clip(0, n - 1)).astype(int)
            above, rows = positions.clip(0, n - 1) - low, np.arange(m)
            weights = torch.zeros(n, m, dtype=x.dtype)
            weights[low, rows] = torch.from_numpy(1 - above).to(x.dtype)
            weights[np.minimum(low + 1, n - 1), rows] += torch.from_numpy(above).to(x.dtype)
            x = (x.movedim(axis, -1) @ weights).movedim(-1, axis)
    return x


_ROUNDED: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _positions(n: int, m: int, factor: float, coordinates: str) -> npt.NDArray[np.float64] | None:
    """Return the position at which each of m outputs reads n inputs; None if that is not known."""
    i = np.arange(m, dtype=np.float64)
    half = (i + 0.5) / factor - 0.5
    known = {
        "half_pixel": half, "pytorch_half_pixel": half * (m > 1), "asymmetric": i / factor,
        "align_corners": i * (n - 1) / max(m - 1, 1),
    }  # fmt: skip
    return known.get(coordinates)


# The shapes, or bounds of them, of what is computed by operators that may make a tensor of any size.
SPATIAL: dict[str, Callable[[Call], Shape]] = {
    "Conv": _windows,
    "AveragePool": _windows,
    "MaxPool": _windows,
    "ConvTranspose": _stretched,
    "Resize": lambda call: _resized(call)[0],
    "Upsample": lambda call: _resized(call)[0],
}

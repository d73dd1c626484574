"""Translate PyTorch's layers, activations and arithmetic into the parts of a chain of layers.

Each handler has the signature of its function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from unrelu.errors import InputError, ModelError, UnsupportedModelError
from unrelu.models.activations import Activation
from unrelu.models.affine import Conv, ConvTranspose, Dense, Pad, Pool, Resample, Scale, Shape, Step
from unrelu.models.generator import numbers

Part = Step | Activation
Handler = Callable[..., list[Part]]
# Two batch sizes that stand for the unknown one. If a reshape mixes the batch axis with another axis, its result shows
# it. If something is computed from the batch size, or happens to equal it, the two sizes give different results.
BATCHES = (7919, 7927)


@dataclass(frozen=True, eq=False)
class Flow:
    """The shape of a tensor that depends on the code.

    Attributes:
        shape: the shape of one element, without the batch axis.
        batch: the size of the batch axis.
        origin: the node whose output it is, for messages.
    """

    shape: Shape
    batch: int
    origin: str

    def meta(self) -> Tensor:
        """A meta tensor of the full shape."""
        return torch.empty(self.batch, *self.shape, dtype=torch.float64, device="meta")


def float64(value: object, what: str) -> Tensor:
    """A float64 copy on the CPU of a tensor, an array or nested lists of real numbers."""
    try:
        dense = value.to_dense() if isinstance(value, Tensor) else value
        return torch.from_numpy(numbers(dense, what)).contiguous()  # type: ignore[arg-type] # checked there
    except (InputError, NotImplementedError) as error:  # the latter for tensors without data
        raise ModelError(str(error)) from None


def constant(value: object, shape: Shape) -> Tensor:
    """Convert a constant to float64, and check that it broadcasts to one element, of shape ``shape``."""
    tensor = float64(value, "a constant")
    if tensor.dim() == len(shape) + 1 and tensor.shape[0] == 1:
        tensor = tensor[0]
    try:
        fits = np.broadcast_shapes(tuple(tensor.shape), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise UnsupportedModelError(
            f"combines a constant of shape {shown(tensor.shape)} with elements of shape {shape}; "
            "a constant must broadcast to one element"
        )
    return tensor


def shown(shape: Iterable[int]) -> str:
    """The shape as text, with B in place of the batch size."""

    def entry(n: int) -> str:
        times = next((n // batch for batch in BATCHES if n and n % batch == 0), None)
        return str(n) if times is None else "B" if times == 1 else f"{times}*B"

    return str(tuple(map(entry, shape))).replace("'", "")


def normalisation(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float, shape: Shape
) -> Scale:
    """weight * (x - mean) / sqrt(variance + eps) + bias, channel by channel (the first axis of ``shape``)."""
    mean, variance = float64(mean, "running_mean"), float64(variance, "running_var")
    if (variance < 0).any():
        raise ModelError(f"running_var has negative entries, the smallest is {variance.min():g}")
    if not shape or len(mean) != shape[0]:
        raise ModelError(f"normalises {len(mean)} channels but is given an input of shape {shape}")
    factor = torch.rsqrt(variance + eps)
    if weight is not None:
        factor = factor * float64(weight, "weight")
    shift = -mean * factor
    if bias is not None:
        shift = shift + float64(bias, "bias")
    per_channel = (-1, *[1] * (len(shape) - 1))
    return Scale(factor.reshape(per_channel), shift.reshape(per_channel))


# --- layers -----------------------------------------------------------------------------------------------------------


def linear(x: Flow, weight: Tensor, bias: Tensor | None = None) -> list[Part]:
    """W x + b on the last axis."""
    if weight.dim() != 2:
        raise UnsupportedModelError(
            f"multiplies by a constant of shape {tuple(weight.shape)}; only matrices are supported"
        )
    return [Dense(float64(weight, "weight"), _optional(bias))]


def matmul(input: Any, other: Any) -> list[Part]:
    """x @ W on the last axis; or W @ x for x with two axes, as a convolution with kernels of length 1."""
    x, matrix = (input, other) if isinstance(input, Flow) else (other, input)
    if 2 < matrix.dim() <= 1 + len(x.shape) and matrix.shape[:-2].numel() == 1:
        matrix = matrix.reshape(matrix.shape[-2:])
    if x is input:
        return linear(x, matrix.mT if matrix.dim() >= 2 else matrix)
    if matrix.dim() != 2 or len(x.shape) != 2:
        raise UnsupportedModelError(
            f"multiplies elements of shape {x.shape} from the left by a constant of shape {tuple(matrix.shape)}; "
            "only a matrix times elements with two axes is supported"
        )
    return [Conv(float64(matrix, "a matrix")[:, :, None])]


def conv(
    x: Flow,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> list[Part]:
    """Convolution; for an even kernel, ``padding="same"`` puts the extra zero at the end."""
    n = weight.dim() - 2
    check_axes("a convolution", x.shape, n)
    stride, dilation = _tuple(stride, n), _tuple(dilation, n)
    begin = end = _tuple(0 if isinstance(padding, str) else padding, n)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        begin, end = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    inside = begin if begin == end else (0,) * n
    step = Conv(float64(weight, "weight"), _optional(bias), stride, inside, dilation, int(groups))
    return [step] if begin == end else [zeros(begin, end), step]


def conv_transpose(
    x: Flow,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Shape = 1,
    padding: int | Shape = 0,
    output_padding: int | Shape = 0,
    groups: int = 1,
    dilation: int | Shape = 1,
) -> list[Part]:
    """Transposed convolution."""
    n = weight.dim() - 2
    check_axes("a transposed convolution", x.shape, n)
    strides, pads, extra, dilations = (_tuple(v, n) for v in (stride, padding, output_padding, dilation))
    weights = float64(weight, "weight"), _optional(bias)
    return [ConvTranspose(*weights, strides, pads, extra, dilations, groups=int(groups))]


def batch_norm(
    x: Flow,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Part]:
    """Batch normalisation with its running statistics."""
    if training or running_mean is None or running_var is None:
        raise UnsupportedModelError(
            "normalises by the statistics of the batch, so the output of one code depends on the others; "
            "use module.eval() and track_running_stats=True"
        )
    return [normalisation(running_mean, running_var, weight, bias, eps=eps, shape=x.shape)]


def interpolate(
    x: Flow,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> list[Part]:
    """Nearest, linear or bilinear resampling."""
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear") or antialias:
        raise UnsupportedModelError(
            f"resamples with mode={mode!r}{', antialias=True' if antialias else ''}; "
            "supported modes are nearest, linear and bilinear"
        )
    # Resampling a ramp shows which positions are read: PyTorch may use the given factor, not the ratio of the sizes.
    probe = torch.arange(float(np.prod(x.shape[1:])), dtype=torch.float64).reshape(1, 1, *x.shape[1:])
    wanted = F.interpolate(probe, size, scale_factor, mode, align_corners, recompute_scale_factor)
    step = Resample(tuple(wanted.shape[2:]), mode.removesuffix("-exact"), bool(align_corners))
    if not torch.allclose(step.apply(probe), wanted, rtol=1e-9, atol=1e-9):
        raise UnsupportedModelError(
            f"resamples {x.shape[1:]} to {step.size} by scale_factor={scale_factor}, mode={mode!r}, not by the "
            "ratio of the sizes; give size= or recompute_scale_factor=True instead"
        )
    return [step]


def avg_pool(
    n: int,
    x: Flow,
    kernel_size: int | Shape,
    stride: int | Shape | None = None,
    padding: int | Shape = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> list[Part]:
    """Average pooling over n axes."""
    check_axes("average pooling", x.shape, n)
    kernel = _tuple(kernel_size, n)
    step = kernel if stride is None or stride == () else _tuple(stride, n)
    if divisor_override is None:
        return [Pool(kernel, step, _tuple(padding, n), ceil_mode, count_include_pad)]
    if ceil_mode:
        raise UnsupportedModelError("divisor_override together with ceil_mode is not supported")
    return [Pool(kernel, step, _tuple(padding, n)), _scale(x.shape, math.prod(kernel) / divisor_override)]


def adaptive_avg_pool(n: int, x: Flow, output_size: int | Sequence[int | None] | None) -> list[Part]:
    """Average pooling over n axes to a given size, which must divide the size of the input."""
    check_axes("adaptive pooling", x.shape, n)
    output = output_size if isinstance(output_size, Sequence) else (output_size,) * n
    sizes = x.shape[-len(output) :]
    wanted = tuple(size if m is None else m for size, m in zip(sizes, output, strict=True))
    if any(size % m for size, m in zip(sizes, wanted, strict=True)):
        raise UnsupportedModelError(
            f"adaptive pooling from {sizes} to {wanted} has windows of different lengths; "
            "only whole factors are supported"
        )
    window = tuple(size // m for size, m in zip(sizes, wanted, strict=True))
    return [Pool(window, window, (0,) * n)]


def check_axes(what: str, shape: Shape, spatial: int) -> None:
    """Refuse elements that are not (channels, sizes...): PyTorch would read them as one sample without a batch axis."""
    if len(shape) != 1 + spatial:
        sizes = ("length", "height, width", "depth, height, width")[spatial - 1]
        raise ModelError(f"{what} takes elements of shape (channels, {sizes}) but is given {shape}")


# --- activations and arithmetic ---------------------------------------------------------------------------------------


def activation(name: str, x: Flow, inplace: bool = False) -> list[Part]:
    """An activation without parameters."""
    return [Activation(name)]


def gelu(x: Flow, *, approximate: str = "none") -> list[Part]:
    """GELU, by the error function or by tanh."""
    return [Activation("gelu" if approximate == "none" else "gelu_tanh")]


def elu(x: Flow, alpha: float = 1.0, inplace: bool = False) -> list[Part]:
    """ELU without a kink."""
    if alpha != 1:
        raise UnsupportedModelError(f"is an ELU with alpha={alpha}, which has a kink at 0; only alpha=1 is supported")
    return [Activation("elu")]


def celu(x: Flow, alpha: float = 1.0, inplace: bool = False) -> list[Part]:
    """alpha ELU(x / alpha)."""
    return [Activation("elu", steepness=1 / alpha)]


def softplus(x: Flow, beta: float = 1.0, threshold: float = 20.0) -> list[Part]:
    """log(1 + exp(beta x)) / beta; PyTorch has x where beta x is above the threshold, which is off by exp(-20)."""
    if threshold < 20:
        raise UnsupportedModelError(f"is a softplus that jumps at its threshold={threshold}; at least 20 is supported")
    return [Activation("softplus", steepness=beta)]


def clamp(x: Flow, min: Any = None, max: Any = None) -> list[Part]:
    """Outputs cut off below, above or on both sides: affine maps around a ReLU, hardtanh or hardsigmoid."""
    ends = [None if end is None else float64(end, "a limit") for end in (min, max)]
    if any(end is not None and end.numel() > 1 for end in ends):
        raise UnsupportedModelError("cuts outputs off at limits of their own; only one for all is supported")
    low, high = (None if end is None else float(end.reshape(())) for end in ends)
    if low is None and high is None:
        return []
    if high is None or low is None:
        end, sign = (low, 1.0) if high is None else (high, -1.0)  # low + relu(x - low), high - relu(high - x)
        around = _scale(x.shape, sign, -sign * end), _scale(x.shape, sign, end)  # type: ignore[operator]
        return [Activation("relu")] if end == 0 and sign > 0 else [around[0], Activation("relu"), around[1]]
    if not low < high:
        raise UnsupportedModelError(f"cuts outputs off at {low} and {high}, which leaves one value or none")
    if low == -high:
        return [Activation("hardtanh", steepness=1 / high)]
    # low + r min(max(v / 6 r + 1/2, 0), 1), where r = high - low
    before = _scale(x.shape, 6.0, -6 * low - 3 * (high - low))
    after = [_scale(x.shape, 1.0, low)] if low else []
    return [before, Activation("hardsigmoid", steepness=1 / (high - low)), *after]


def hardtanh(x: Flow, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> list[Part]:
    """Outputs cut off on both sides."""
    return clamp(x, min_val, max_val)


def relu6(x: Flow, inplace: bool = False) -> list[Part]:
    """ReLU cut off at 6."""
    return clamp(x, 0.0, 6.0)


def leaky_relu(x: Flow, negative_slope: float = 0.01, inplace: bool = False) -> list[Part]:
    """LeakyReLU."""
    return [Activation.of_slope(negative_slope)]


def prelu(x: Flow, weight: Tensor) -> list[Part]:
    """PReLU with one slope, or one for each channel."""
    slopes = float64(weight, "a PReLU slope")
    return [Activation.of_slope(slopes.reshape(-1, *[1] * (len(x.shape) - 1)).numpy())]


def sloped(x: Tensor, slope: Tensor) -> Tensor:
    """max(x, 0) + slope min(x, 0), the PReLU of other formats, whose slopes may have any shape that broadcasts."""
    if has_torch_function((x, slope)):  # it is being recorded
        return handle_torch_function(sloped, (x, slope), x, slope)
    return torch.where(x >= 0, x, slope * x)


def gated_parts(x: Flow, parts: Sequence[Part]) -> list[Part]:
    """An activation that the graph wrote out as a product."""
    return list(parts)


def sloped_parts(x: Flow, slope: Tensor) -> list[Part]:
    """The parts that :func:`sloped` applies."""
    return [Activation.of_slope(constant(slope, x.shape).numpy())]


def dropout(x: Flow, p: float = 0.5, training: bool = True, inplace: bool = False) -> list[Part]:
    """Dropout in evaluation mode, which does nothing."""
    if training:
        raise UnsupportedModelError(
            "drops entries at random; call module.eval() first, and pass training=self.training"
        )
    return []


def add(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """input + alpha * other, one of them constant."""
    if isinstance(input, Flow):
        return [_scale(input.shape, 1.0, alpha * other)]
    return [_scale(other.shape, alpha, input)]


def sub(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """input - alpha * other, one of them constant."""
    return add(input, other, alpha=-alpha)


def rsub(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """other - alpha * input, one of them constant."""
    return add(other, input, alpha=-alpha)


def mul(input: Any, other: Any) -> list[Part]:
    """input * other, one of them constant."""
    flow, factor = (input, other) if isinstance(input, Flow) else (other, input)
    return [_scale(flow.shape, factor)]


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> list[Part]:
    """input / constant."""
    if not isinstance(input, Flow) or rounding_mode:
        raise UnsupportedModelError("divides by the data or rounds, which is not affine")
    return [_scale(input.shape, 1 / float64(other, "a divisor"))]


def neg(x: Flow) -> list[Part]:
    """-x."""
    return [_scale(x.shape, -1.0)]


def _scale(shape: Shape, factor: object, shift: object = 0.0) -> Scale:
    return Scale(constant(factor, shape), constant(shift, shape))


def zeros(begin: Sequence[int], end: Sequence[int]) -> Pad:
    """Zeros before and after each of the trailing axes; negative numbers crop."""
    return Pad(tuple(n for pair in zip(reversed(begin), reversed(end), strict=True) for n in pair))


def _tuple(value: Any, n: int) -> Shape:
    values = tuple(map(int, value)) if isinstance(value, Sequence) else (int(value),)
    return values * n if len(values) == 1 else values


def _optional(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else float64(bias, "bias")

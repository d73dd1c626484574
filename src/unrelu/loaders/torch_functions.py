"""What PyTorch's functions and tensor methods mean for a chain of layers.

Every handler has the signature of the function it stands for, with the :class:`Flow` in the place of the data, and
returns the affine steps and activations that the function amounts to.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unrelu.activations import Activation
from unrelu.affine import Conv, ConvTranspose, Dense, Pad, Resample, Shape
from unrelu.errors import UnsupportedModelError
from unrelu.loaders import parts
from unrelu.loaders.chain import Flow, Part, float64, reshaped

__all__ = ["EITHER_SIDE", "FUNCTIONS", "METHODS", "NAMES", "QUERIES", "mutates"]

Handler = Callable[..., list[Part]]


# --- layers -----------------------------------------------------------------------------------------------------------


def linear(x: Flow, weight: Tensor, bias: Tensor | None = None) -> list[Part]:
    """W x + b on the last axis."""
    if weight.dim() != 2:
        raise UnsupportedModelError(f"needs a matrix as its weight, got one of shape {tuple(weight.shape)}")
    return [Dense(float64(weight, "weight"), _optional(bias))]


def matmul(input: Any, other: Any) -> list[Part]:
    """x @ W on the last axis, or W @ x for x with two axes."""
    if isinstance(input, Flow):
        return linear(input, other.mT if other.dim() >= 2 else other)
    return [parts.pointwise(float64(input, "a matrix"), other.shape)]


def conv(
    x: Flow,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Shape = 1,
    padding: int | Shape | str = 0,
    dilation: int | Shape = 1,
    groups: int = 1,
) -> list[Part]:
    """Convolution; ``padding="same"`` puts the odd zero of an even kernel at the end."""
    n = weight.dim() - 2
    parts.check_axes("a convolution", x.shape, n)
    begin = end = (0,) * n
    if padding == "same":
        # Only stride 1 is allowed, so the size of the input does not matter.
        begin, end = parts.same_padding((1,) * n, weight.shape[2:], (1,) * n, _tuple(dilation, n))
    elif padding != "valid":
        begin = end = _tuple(padding, n)
    inside = begin if begin == end else (0,) * n
    step = Conv(float64(weight, "weight"), _optional(bias), _tuple(stride, n), inside, _tuple(dilation, n), int(groups))
    return [step] if begin == end else parts.padded(step, begin, end)


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
    parts.check_axes("a transposed convolution", x.shape, n)
    strides, pads, extra, dilations = (_tuple(v, n) for v in (stride, padding, output_padding, dilation))
    return [
        ConvTranspose(float64(weight, "weight"), _optional(bias), strides, pads, extra, dilations, groups=int(groups))
    ]


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
    return [parts.batch_norm(running_mean, running_var, weight, bias, eps=eps, shape=x.shape)]


def interpolate(
    x: Flow,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
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
    options: dict[str, Any] = {"mode": mode, "align_corners": align_corners}
    options |= {"size": size, "scale_factor": scale_factor, "recompute_scale_factor": recompute_scale_factor}
    # A ramp shows which entries each output mixes. PyTorch may use the given factor instead of the ratio of sizes.
    probe = torch.arange(float(np.prod(x.shape[1:])), dtype=torch.float64).reshape(1, 1, *x.shape[1:])
    wanted = F.interpolate(probe, **options)
    step = Resample(tuple(wanted.shape[2:]), mode.removesuffix("-exact"), bool(align_corners))
    if not torch.allclose(step.apply(probe), wanted, rtol=1e-9, atol=1e-9):
        raise UnsupportedModelError(
            f"resamples {x.shape[1:]} to {step.size} by scale_factor={scale_factor}, mode={mode!r}, not by the "
            "ratio of the sizes; give size= or recompute_scale_factor=True instead"
        )
    return [step]


def avg_pool(n: int) -> Handler:
    """Average pooling over n axes."""

    def handler(
        x: Flow,
        kernel_size: int | Shape,
        stride: int | Shape | None = None,
        padding: int | Shape = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> list[Part]:
        parts.check_axes("average pooling", x.shape, n)
        kernel = _tuple(kernel_size, n)
        step = kernel if stride is None or stride == () else _tuple(stride, n)
        options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
        return parts.average_pool(kernel, step, _tuple(padding, n), **options, divisor=divisor_override)

    return handler


def adaptive_avg_pool(n: int) -> Handler:
    """Average pooling over n axes, to a given size that divides the input's."""

    def handler(x: Flow, output_size: int | Sequence[int | None] | None) -> list[Part]:
        parts.check_axes("adaptive pooling", x.shape, n)
        output = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * n
        return parts.global_pool(x.shape, output)

    return handler


def pad(x: Flow, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> list[Part]:
    """Zeros around the trailing axes; negative widths cut."""
    if mode != "constant" or value:
        raise UnsupportedModelError(f"pads with mode={mode!r}, value={value}; only zeros are supported")
    if len(pad) > 2 * len(x.shape):
        raise UnsupportedModelError("pads the batch axis")
    return [Pad(tuple(int(n) for n in pad))]


# --- activations and arithmetic ---------------------------------------------------------------------------------------


def _activation(name: str) -> Handler:
    def handler(x: Flow, inplace: bool = False) -> list[Part]:
        return [Activation(name)]

    return handler


def leaky_relu(x: Flow, negative_slope: float = 0.01, inplace: bool = False) -> list[Part]:
    """LeakyReLU."""
    return [parts.leaky_relu(float(negative_slope))]


def prelu(x: Flow, weight: Tensor) -> list[Part]:
    """PReLU."""
    return [parts.prelu(weight, x.shape)]


def dropout(x: Flow, p: float = 0.5, training: bool = True, inplace: bool = False) -> list[Part]:
    """Dropout that does nothing."""
    if training:
        raise UnsupportedModelError(
            "drops entries at random; call module.eval() first, and pass training=self.training"
        )
    return []


def add(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """input + alpha * other, one of them constant."""
    if isinstance(input, Flow):
        return [parts.scale(input.shape, 1.0, alpha * other)]
    return [parts.scale(other.shape, alpha, input)]


def sub(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """input - alpha * other, one of them constant."""
    return add(input, other, alpha=-alpha)


def rsub(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """other - alpha * input, one of them constant."""
    return add(other, input, alpha=-alpha)


def mul(input: Any, other: Any) -> list[Part]:
    """input * other, one of them constant."""
    flow, factor = (input, other) if isinstance(input, Flow) else (other, input)
    return [parts.scale(flow.shape, factor)]


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> list[Part]:
    """input / constant."""
    if not isinstance(input, Flow) or rounding_mode:
        raise UnsupportedModelError("divides by the data or rounds, which is not affine")
    return [parts.scale(input.shape, 1 / float64(other, "a divisor"))]


def neg(x: Flow) -> list[Part]:
    """-x."""
    return [parts.scale(x.shape, -1.0)]


# --- shapes -----------------------------------------------------------------------------------------------------------


def _reshape(method: str) -> Handler:
    def handler(x: Flow, *args: Any, **kwargs: Any) -> list[Part]:
        meta = getattr(x.meta(), method)(*args, **kwargs)
        if meta.dtype != torch.float64:
            raise UnsupportedModelError(f"reinterprets the data as {meta.dtype}")
        return [reshaped(x, meta.shape)]

    return handler


def getitem(x: Flow, index: Any) -> list[Part]:
    """x[:, a:b, None, i]: cut, then reshape. The batch axis must be kept whole, steps must be 1."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(type(item) not in (int, slice, type(None), EllipsisType) for item in items):
        raise UnsupportedModelError(f"indexes the data by {index}; only integers, slices, None and ... are supported")
    axes = 1 + len(x.shape)
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if taken > axes:
        raise UnsupportedModelError(f"indexes an input of {axes} axes by {index}")
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    items[at : at + 1] = [slice(None)] * (axes - taken)
    sizes = iter((x.batch, *x.shape))
    kept = [_kept(item, next(sizes)) for item in items if item is not None]
    if kept[0] != (0, x.batch):
        raise UnsupportedModelError(f"indexes the batch axis by {items[0]}; the first axis must be kept whole")
    return [*parts.crop(x.shape, kept[1:]), reshaped(x, x.meta()[index].shape)]


def _kept(item: int | slice, size: int) -> tuple[int, int]:
    if isinstance(item, slice):
        first, end, step = item.indices(size)
        if step != 1:
            raise UnsupportedModelError(f"takes every entry number {step} of an axis; only steps of 1 are supported")
        return first, end
    if not -size <= item < size:
        raise UnsupportedModelError(f"takes entry {item} of an axis with {size} entries")
    return item % size, item % size + 1


def _unchanged(x: Flow, *args: Any, **kwargs: Any) -> list[Part]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.dtype) and not value.is_floating_point:
            raise UnsupportedModelError(f"converts the data to {value}; only real numbers can be inverted")
    return []


def pixel_shuffle(x: Flow, upscale_factor: int) -> list[Part]:
    """PixelShuffle as a transposed convolution."""
    return [parts.pixel_shuffle(x.shape, upscale_factor)]


def _tuple(value: Any, n: int) -> Shape:
    return (
        (int(value),) * n if not isinstance(value, Sequence) else tuple(map(int, value)) * (n if len(value) == 1 else 1)
    )


def _optional(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else float64(bias, "bias")


# --- tables -----------------------------------------------------------------------------------------------------------

_HANDLERS: dict[str, Handler] = {
    **{name: _activation(name) for name in ("relu", "sigmoid", "tanh")},
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    "linear": linear,
    **dict.fromkeys(("matmul", "mm"), matmul),
    **dict.fromkeys(("conv1d", "conv2d"), conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), conv_transpose),
    "batch_norm": batch_norm,
    **dict.fromkeys(("interpolate", "upsample"), interpolate),
    **{f"avg_pool{n}d": avg_pool(n) for n in (1, 2)},
    **{f"adaptive_avg_pool{n}d": adaptive_avg_pool(n) for n in (1, 2)},
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"), dropout),
    **dict.fromkeys(("add", "iadd"), add),
    **dict.fromkeys(("sub", "subtract", "isub"), sub),
    "rsub": rsub,
    **dict.fromkeys(("mul", "multiply", "imul"), mul),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv", "itruediv"), div),
    **dict.fromkeys(("neg", "negative"), neg),
    **{n: _reshape(n) for n in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")},
    "getitem": getitem,
    **dict.fromkeys(("contiguous", "clone", "detach", "float", "double", "to", "cpu", "cuda"), _unchanged),
}

# Handlers by function object, so that a user's function that happens to be called ``relu`` is not taken for one.
FUNCTIONS: dict[Any, Handler] = {
    getattr(space, spelled): handler
    for name, handler in _HANDLERS.items()
    for space in (torch, F, operator)
    for spelled in (name, name + "_")
    if hasattr(space, spelled) and not isinstance(getattr(space, spelled), type)
}
METHODS: dict[str, Handler] = {
    spelled: handler
    for name, handler in _HANDLERS.items()
    for spelled in (name, name + "_")
    if hasattr(Tensor, spelled)
}

# Handlers that take the data on either side; the others take it first, and constants after it.
EITHER_SIDE = (add, sub, rsub, mul, div, matmul)

# For messages: what is supported, one spelling each.
NAMES = tuple(sorted(name for name in _HANDLERS if not (name[0] == "i" and name[1:] in _HANDLERS)))

# Questions about the shape, answered without consuming the data.
QUERIES = ("size", "dim", "ndimension", "numel", "nelement", "shape", "ndim", "dtype", "device")

_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def mutates(target: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function or method changes its argument in place."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    private = name.endswith("__")
    return target in _IN_PLACE or (name.endswith("_") and not private) or bool(kwargs.get("inplace"))

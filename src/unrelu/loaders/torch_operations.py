"""What PyTorch's functions, tensor methods and modules mean for a chain of layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders import chain_builder
from unrelu.loaders.chain_builder import Flow, Part, float64, reshaped
from unrelu.models.activations import Activation
from unrelu.models.affine import Conv, ConvTranspose, Dense, Pad, Resample, Shape

Handler = Callable[..., list[Part]]
# Questions about the shape, answered without consuming the data.
QUERIES = ("size", "dim", "ndimension", "numel", "nelement", "shape", "ndim", "dtype", "device")
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
ModuleHandler = Callable[[Any, Flow], list[Part]]


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
    return [chain_builder.pointwise(float64(input, "a matrix"), other.shape)]


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
    chain_builder.check_axes("a convolution", x.shape, n)
    begin = end = (0,) * n
    if padding == "same":
        # Only stride 1 is allowed, so the size of the input does not matter.
        begin, end = chain_builder.same_padding((1,) * n, weight.shape[2:], (1,) * n, _tuple(dilation, n))
    elif padding != "valid":
        begin = end = _tuple(padding, n)
    inside = begin if begin == end else (0,) * n
    step = Conv(float64(weight, "weight"), _optional(bias), _tuple(stride, n), inside, _tuple(dilation, n), int(groups))
    return [step] if begin == end else chain_builder.padded(step, begin, end)


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
    chain_builder.check_axes("a transposed convolution", x.shape, n)
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
    return [chain_builder.batch_norm(running_mean, running_var, weight, bias, eps=eps, shape=x.shape)]


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
        chain_builder.check_axes("average pooling", x.shape, n)
        kernel = _tuple(kernel_size, n)
        step = kernel if stride is None or stride == () else _tuple(stride, n)
        options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
        return chain_builder.average_pool(kernel, step, _tuple(padding, n), **options, divisor=divisor_override)

    return handler


def adaptive_avg_pool(n: int) -> Handler:
    """Average pooling over n axes, to a given size that divides the input's."""

    def handler(x: Flow, output_size: int | Sequence[int | None] | None) -> list[Part]:
        chain_builder.check_axes("adaptive pooling", x.shape, n)
        output = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * n
        return chain_builder.global_pool(x.shape, output)

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
    return [chain_builder.leaky_relu(float(negative_slope))]


def prelu(x: Flow, weight: Tensor) -> list[Part]:
    """PReLU."""
    return [chain_builder.prelu(weight, x.shape)]


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
        return [chain_builder.scale(input.shape, 1.0, alpha * other)]
    return [chain_builder.scale(other.shape, alpha, input)]


def sub(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """input - alpha * other, one of them constant."""
    return add(input, other, alpha=-alpha)


def rsub(input: Any, other: Any, *, alpha: float = 1) -> list[Part]:
    """other - alpha * input, one of them constant."""
    return add(other, input, alpha=-alpha)


def mul(input: Any, other: Any) -> list[Part]:
    """input * other, one of them constant."""
    flow, factor = (input, other) if isinstance(input, Flow) else (other, input)
    return [chain_builder.scale(flow.shape, factor)]


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> list[Part]:
    """input / constant."""
    if not isinstance(input, Flow) or rounding_mode:
        raise UnsupportedModelError("divides by the data or rounds, which is not affine")
    return [chain_builder.scale(input.shape, 1 / float64(other, "a divisor"))]


def neg(x: Flow) -> list[Part]:
    """-x."""
    return [chain_builder.scale(x.shape, -1.0)]


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
    return [*chain_builder.crop(x.shape, kept[1:]), reshaped(x, x.meta()[index].shape)]


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
    return [chain_builder.pixel_shuffle(x.shape, upscale_factor)]


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


def mutates(target: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function or method changes its argument in place."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    private = name.endswith("__")
    return target in _IN_PLACE or (name.endswith("_") and not private) or bool(kwargs.get("inplace"))


def _linear(m: nn.Linear, x: Flow) -> list[Part]:
    return linear(x, _weight(m), m.bias)


def _conv(m: nn.Conv1d | nn.Conv2d, x: Flow) -> list[Part]:
    _zero_padded(m)
    return conv(x, _weight(m), m.bias, m.stride, m.padding, m.dilation, m.groups)


def _conv_transpose(m: nn.ConvTranspose1d | nn.ConvTranspose2d, x: Flow) -> list[Part]:
    _zero_padded(m)
    geometry: tuple[Any, ...] = (m.stride, m.padding, m.output_padding, m.groups, m.dilation)
    return conv_transpose(x, _weight(m), m.bias, *geometry)


def _zero_padded(m: Any) -> None:
    if m.padding_mode != "zeros":
        raise UnsupportedModelError(f"pads with padding_mode={m.padding_mode!r}; only 'zeros' is supported")


def _batch_norm(m: nn.BatchNorm1d | nn.BatchNorm2d, x: Flow) -> list[Part]:
    return batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, m.training, 0.0, m.eps)


def _upsample(m: nn.Upsample, x: Flow) -> list[Part]:
    return interpolate(x, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor)


def _avg_pool(n: int) -> ModuleHandler:
    def read(m: Any, x: Flow) -> list[Part]:
        divisor = getattr(m, "divisor_override", None)
        pool = avg_pool(n)
        return pool(x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor)

    return read


def _adaptive_avg_pool(n: int) -> ModuleHandler:
    return lambda m, x: adaptive_avg_pool(n)(x, m.output_size)


def _module_reshape(m: nn.Module, x: Flow) -> list[Part]:
    return [reshaped(x, m(x.meta()).shape)]


def _module_activation(name: str) -> ModuleHandler:
    return lambda m, x: [Activation(name)]


MODULES: dict[type[nn.Module], ModuleHandler] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.ConvTranspose1d: _conv_transpose,
    nn.ConvTranspose2d: _conv_transpose,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _module_activation("relu"),
    nn.Sigmoid: _module_activation("sigmoid"),
    nn.Tanh: _module_activation("tanh"),
    nn.LeakyReLU: lambda m, x: leaky_relu(x, m.negative_slope),
    nn.PReLU: lambda m, x: prelu(x, m.weight),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.UpsamplingBilinear2d: _upsample,
    nn.PixelShuffle: lambda m, x: pixel_shuffle(x, m.upscale_factor),
    nn.AvgPool1d: _avg_pool(1),
    nn.AvgPool2d: _avg_pool(2),
    nn.AdaptiveAvgPool1d: _adaptive_avg_pool(1),
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool(2),
    nn.ZeroPad1d: lambda m, x: pad(x, m.padding),
    nn.ZeroPad2d: lambda m, x: pad(x, m.padding),
    nn.Flatten: _module_reshape,
    nn.Unflatten: _module_reshape,
    nn.Identity: lambda m, x: [],
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout), lambda m, x: []),
}


def handler(module: nn.Module) -> ModuleHandler | None:
    """The handler of a module, or None. A subclass counts as its base only if it inherits ``forward``."""
    for base in type(module).__mro__:
        if base in MODULES:
            return MODULES[base] if type(module).forward is base.forward else None
    return None


def _weight(m: Any) -> Tensor:
    """The weight that the next forward pass would use."""
    weight: Tensor = m.weight
    # The hooks of the older torch.nn.utils.weight_norm and spectral_norm write m.weight when the module is called.
    for hook in m._forward_pre_hooks.values():
        weight = hook.compute_weight(m) if isinstance(hook, WeightNorm) else hook.compute_weight(m, False)
    return weight


def check(module: nn.Module) -> None:
    """Refuse a module whose forward pass is not what its attributes say.

    Raises:
        ModelError: it is in training mode, or its parameters have no values yet.
        UnsupportedModelError: it is compiled by TorchScript, or hooks or a patched ``forward`` change what it computes.
    """
    for path, m in module.named_modules():
        place = f"module {path!r} ({type(m).__name__})" if path else f"the module ({type(m).__name__})"
        if isinstance(m, torch.jit.ScriptModule):
            raise UnsupportedModelError(f"{place} is compiled by TorchScript; pass the original nn.Module")
        if m.training and any(_random_in_training(m)):
            raise ModelError(f"{place} is in training mode; call module.eval() first")
        if isinstance(m, LazyModuleMixin) and m.has_uninitialized_params():  # type: ignore[misc]
            raise ModelError(f"{place} has no weights yet; run the module on an input once")
        normal = handler(m) is not None and all(
            isinstance(h, WeightNorm | SpectralNorm) for h in m._forward_pre_hooks.values()
        )
        if (m._forward_pre_hooks and not normal) or m._forward_hooks or "forward" in m.__dict__:
            raise UnsupportedModelError(f"{place} has forward hooks or a patched forward; remove them first")


def _random_in_training(m: nn.Module) -> Iterator[bool]:
    yield isinstance(m, _BatchNorm | _DropoutNd | nn.modules.instancenorm._InstanceNorm)
    yield isinstance(m, parametrizations._SpectralNorm)
    yield any(isinstance(h, SpectralNorm) for h in m._forward_pre_hooks.values())

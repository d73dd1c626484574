"""What PyTorch's modules mean for a chain of layers, and which modules cannot be read at all.

Every handler takes a module and the :class:`Flow` that enters it. A module is read through its attributes, so a weight
under ``torch.nn.utils.parametrizations`` (spectral_norm, weight_norm) is the effective one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from unrelu.activations import Activation
from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders import torch_functions as functions
from unrelu.loaders.chain import Flow, Part, reshaped

__all__ = ["MODULES", "check", "handler"]

Handler = Callable[[Any, Flow], list[Part]]


def _linear(m: nn.Linear, x: Flow) -> list[Part]:
    return functions.linear(x, _weight(m), m.bias)


def _conv(m: nn.Conv1d | nn.Conv2d, x: Flow) -> list[Part]:
    _zero_padded(m)
    return functions.conv(x, _weight(m), m.bias, m.stride, m.padding, m.dilation, m.groups)


def _conv_transpose(m: nn.ConvTranspose1d | nn.ConvTranspose2d, x: Flow) -> list[Part]:
    _zero_padded(m)
    geometry: tuple[Any, ...] = (m.stride, m.padding, m.output_padding, m.groups, m.dilation)
    return functions.conv_transpose(x, _weight(m), m.bias, *geometry)


def _zero_padded(m: Any) -> None:
    if m.padding_mode != "zeros":
        raise UnsupportedModelError(f"pads with padding_mode={m.padding_mode!r}; only 'zeros' is supported")


def _batch_norm(m: nn.BatchNorm1d | nn.BatchNorm2d, x: Flow) -> list[Part]:
    return functions.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, m.training, 0.0, m.eps)


def _upsample(m: nn.Upsample, x: Flow) -> list[Part]:
    return functions.interpolate(x, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor)


def _avg_pool(n: int) -> Handler:
    def read(m: Any, x: Flow) -> list[Part]:
        divisor = getattr(m, "divisor_override", None)
        pool = functions.avg_pool(n)
        return pool(x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor)

    return read


def _adaptive_avg_pool(n: int) -> Handler:
    return lambda m, x: functions.adaptive_avg_pool(n)(x, m.output_size)


def _reshape(m: nn.Module, x: Flow) -> list[Part]:
    return [reshaped(x, m(x.meta()).shape)]


def _activation(name: str) -> Handler:
    return lambda m, x: [Activation(name)]


MODULES: dict[type[nn.Module], Handler] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.ConvTranspose1d: _conv_transpose,
    nn.ConvTranspose2d: _conv_transpose,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _activation("relu"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.Tanh: _activation("tanh"),
    nn.LeakyReLU: lambda m, x: functions.leaky_relu(x, m.negative_slope),
    nn.PReLU: lambda m, x: functions.prelu(x, m.weight),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
    nn.UpsamplingBilinear2d: _upsample,
    nn.PixelShuffle: lambda m, x: functions.pixel_shuffle(x, m.upscale_factor),
    nn.AvgPool1d: _avg_pool(1),
    nn.AvgPool2d: _avg_pool(2),
    nn.AdaptiveAvgPool1d: _adaptive_avg_pool(1),
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool(2),
    nn.ZeroPad1d: lambda m, x: functions.pad(x, m.padding),
    nn.ZeroPad2d: lambda m, x: functions.pad(x, m.padding),
    nn.Flatten: _reshape,
    nn.Unflatten: _reshape,
    nn.Identity: lambda m, x: [],
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout), lambda m, x: []),
}


def handler(module: nn.Module) -> Handler | None:
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

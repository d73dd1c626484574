"""Activations inside a module whose layers are not known: each call is found while the module runs.

PyTorch passes every call of its functions to a mode (:class:`torch.overrides.TorchFunctionMode`), wherever the module
makes it. So the calls of ReLU, LeakyReLU, sigmoid and tanh can be counted, and computed in another way. Calls within a
module of ``torch.jit`` are out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unrelu.models.activations import Activation

# What computes phi(u) instead: a function of the number of the call in one evaluation, u, and phi.
Substitute = Callable[[int, Tensor, Activation], Tensor]

_ATEN = torch.ops.aten
_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((torch.relu, Tensor.relu, functional.relu, _ATEN.relu.default), "relu"),
    **dict.fromkeys((torch.relu_, Tensor.relu_, _ATEN.relu_.default), "relu"),
    **dict.fromkeys((functional.leaky_relu, _ATEN.leaky_relu.default), "leaky_relu"),
    **dict.fromkeys((functional.leaky_relu_, _ATEN.leaky_relu_.default), "leaky_relu"),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, _ATEN.sigmoid.default), "sigmoid"),
    **dict.fromkeys((torch.tanh, Tensor.tanh, _ATEN.tanh.default), "tanh"),
}
_IN_PLACE: set[Any] = {
    torch.relu_, Tensor.relu_, _ATEN.relu_.default, functional.leaky_relu_, _ATEN.leaky_relu_.default,
}  # fmt: skip
# PyTorch's default slope of a LeakyReLU.
_SLOPE = 0.01


class ActivationCalls(TorchFunctionMode):
    """Computes the activations that are called inside by a substitute; for one evaluation."""

    def __init__(self, substitute: Substitute) -> None:
        super().__init__()
        self._substitute, self._count = substitute, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute a call of a function of PyTorch."""
        kwargs = kwargs or {}
        name = _FUNCTIONS.get(func)
        if name is None:
            return func(*args, **kwargs)
        u, *others = args or [kwargs.get("input", kwargs.get("self"))]
        leaky = name == "leaky_relu"
        slope = others.pop(0) if leaky and others else kwargs.get("negative_slope", _SLOPE)
        changed = func in _IN_PLACE or (others[0] if others else kwargs.get("inplace", False))
        activation = Activation.of_slope(slope) if leaky else Activation(name)
        x = self._substitute(self._count, u.clone() if changed else u, activation)
        self._count += 1
        return u.copy_(x) if changed else x


def recorded(function: Callable[[], Any], look: Callable[[Tensor, Activation], None]) -> bool:
    """Call ``function``, and ``look(u, phi)`` at each of its activations; return whether all u could be looked at.

    Within ``torch.func.vmap``, by which some modules take one code at a time, they have no numbers.
    """

    def record(call: int, u: Tensor, activation: Activation) -> Tensor:
        u.data_ptr()  # raises within vmap
        look(u, activation)
        return activation.forward(u)

    with torch.no_grad(), suppress(RuntimeError), ActivationCalls(record):
        function()
        return True
    return False


def tangents_of(function: Callable[[], Any]) -> Substitute | None:
    """The tangents of all activations that ``function`` calls, at their arguments there; None if they are not known."""
    slopes: list[Tensor] = []
    offsets: list[Tensor] = []

    def look(u: Tensor, activation: Activation) -> None:
        x = activation.forward(u)
        slopes.append(activation.derivative(u, x))
        offsets.append(x - slopes[-1] * u)

    def tangent(call: int, u: Tensor, activation: Activation) -> Tensor:
        return torch.addcmul(offsets[call].to(u.dtype), slopes[call].to(u.dtype), u)

    return tangent if recorded(function, look) else None

"""A measurement that is not linear: a differentiable function of the generator's output."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from unrelu.errors import InputError, UnsupportedModelError
from unrelu.loaders.torch_opaque import Trial, differentiated, width_of
from unrelu.measurements.linear_operators import Operator
from unrelu.models.affine import Shape
from unrelu.models.generator import Generator
from unrelu.models.opaque_network import OpaqueNetwork, frozen, replica
from unrelu.runtime.streams import stream

_TRIAL = Trial("measurement", "output", "measurement", "outputs of the generator")
_REASON = "the measurement is a function, which is not taken to be linear"


@dataclass(frozen=True, eq=False)
class NonlinearOperator(Operator):
    r"""y = h(x) for a differentiable h: R^n -> R^m; near an output x it is the linear map of its Jacobian H(x).

    The chain rule gives the Jacobian of h(G(z)) as H(G(z)) J, whose k columns are pushed through h together, by
    forward-mode differentiation (``torch.func.jvp`` under ``vmap``). G stays what it is, so its layers are still
    smoothed, evaluated and judged as those of any generator.

    Attributes:
        function: h with what is known of it.
        shape: shape of one observation.
        before, after: the user's units: h is computed of 2^before x, and its result multiplied by 2^after.
    """

    function: OpaqueNetwork = field(repr=False)
    shape: Shape
    before: int = 0
    after: int = 0
    n: int = field(init=False)
    m: int = field(init=False)

    linear = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.function.latent_dim)
        object.__setattr__(self, "m", math.prod(self.shape))

    @property
    def width(self) -> int:
        """The most numbers that h holds for an output."""
        return self.function.width

    def forward(self, x: Tensor) -> Tensor:
        """h(x), (B, n) -> (B, m), differentiable by PyTorch."""
        return self._after(self.function.forward(self._before(x)), x)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """h(x), (B, m), and H(x) t for directions t of each output, (B, k, n) -> (B, k, m)."""
        own, directions = self._before(x), self._before(t)
        if self.function.forward_mode:
            values, pushed = self.function.push(own, directions.transpose(0, 1))
        else:
            values, jacobian = self.function.linearize(own)
            pushed = directions @ jacobian
        return self._after(values, x), self._after(pushed, x)

    def _before(self, x: Tensor) -> Tensor:
        x = x.to(self.function.dtype)
        return x * 2.0**self.before if self.before else x

    def _after(self, y: Tensor, like: Tensor) -> Tensor:
        return (y * 2.0**self.after if self.after else y).to(like.dtype)

    def tangents(self, t: Tensor) -> Tensor:
        """There are none without an output, see :meth:`linearize`."""
        raise UnsupportedModelError(f"{_REASON}: what it makes of a direction depends on the output")

    def adjoint(self, r: Tensor) -> Tensor:
        """There is none; methods that need it cannot be used."""
        raise UnsupportedModelError(
            f"{_REASON}, and this method needs its adjoint A^T; use method='auto', 'lm', 'adam' or 'gradient_descent'"
        )

    def to(self, dtype: torch.dtype, device: torch.device) -> NonlinearOperator:
        """The same measurement of tensors of another type or device."""
        # In the user's units numbers may be out of the range of single precision.
        own = torch.float64 if self.before or self.after else dtype
        return replace(self, function=self.function.to(own, device))

    def in_units(self, before: int, after: int) -> NonlinearOperator:
        """2^after h(2^before x)."""
        return replace(self, before=self.before + before, after=self.after + after)


def read_function(given: Callable[[Tensor], Tensor], output: Shape, network: Generator | None) -> NonlinearOperator:
    """A measurement given as a function of PyTorch or a module, (B, *output) -> (B, *m), if it passes a trial.

    It is tried on two outputs of the generator in float64: it has to give finite numbers, one row for each output,
    each row on its own and the same ones each time, with derivatives that agree with finite differences.

    Raises:
        InputError: it fails the trial.
    """
    x = _outputs(output, network)
    try:
        module = given if isinstance(given, nn.Module) else _Function(given, _precision(given, x.reshape(2, *output)))
        copy = frozen(module, torch.float64, torch.device("cpu")).eval()
        width, m = _tried(copy, x.reshape(2, *output))
        function = OpaqueNetwork(copy, output, _REASON, m, width)
        # Entries that are exactly zero, as ReLUs put out, stay so along the directions of the trial: functions may have
        # a kink there.
        return NonlinearOperator(differentiated(function, x, x.abs()), m)
    except UnsupportedModelError as error:
        raise InputError(
            f"operator= is a function that cannot be used as a measurement: {error}. Pass a differentiable function of "
            f"PyTorch, (B, {', '.join(map(str, output))}) -> (B, ...); of a linear map, a matrix, or a pair of "
            "functions (x -> A x, r -> A^T r)"
        ) from error


def _tried(module: nn.Module, x: Tensor) -> tuple[int, Shape]:
    """The most numbers that it holds for an output, and the shape of what it gives."""
    seen = _TRIAL.rows(replica(module), x)
    width = max(width_of(replica(module), x), x[0].numel(), seen[0].numel())
    return width, tuple(seen.shape[1:]) or (1,)


def _outputs(output: Shape, network: Generator | None) -> Tensor:
    """Two outputs, flat, (2, n): the longest of the typical ones; where no generator is known, numbers from 0 to 1."""
    if network is None:
        return torch.from_numpy(stream("trial outputs").uniform(size=(2, math.prod(output))))
    x = torch.tensor(network.typical_outputs)
    return x[x.norm(dim=1).argsort(descending=True)[:2]]


class _Function(nn.Module):
    """A function as a module; computed in ``dtype`` where it has constants of that type, else in that of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.function, self.own = function, dtype

    def forward(self, x: Tensor) -> Any:
        y = self.function(x if self.own is None else x.to(self.own))
        return y.to(x.dtype) if isinstance(y, Tensor) and y.dtype == self.own else y


def _precision(function: Callable[[Tensor], Any], x: Tensor) -> torch.dtype | None:
    """The precision in which a function computes; None for one that takes that of its input, or that fails in both."""
    works = []
    for dtype in (torch.float64, torch.float32):
        with suppress(Exception), torch.no_grad():
            y = function(x.to(dtype))
            works += [dtype] if isinstance(y, Tensor) and y.dtype == dtype else []
    return works[0] if len(works) == 1 else None

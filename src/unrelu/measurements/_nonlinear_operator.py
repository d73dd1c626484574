"""A measurement that is not linear: a differentiable function of the generator's output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from unrelu.errors import InputError, ModelError, UnsupportedModelError
from unrelu.measurements.linear_operators import Operator
from unrelu.models.affine import Shape
from unrelu.models.generator import Generator
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_opaque import Trial, longest
from unrelu.runtime.array_types import Array
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
        values, pushed = self.function.along(self._before(x), self._before(t))
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

    def followed_by(self, matrix: Array) -> NonlinearOperator:
        """W h(x) for a matrix W, (m', m)."""
        rows = nn.Linear(self.m, len(matrix), bias=False, dtype=torch.float64).requires_grad_(False)
        rows.weight.copy_(torch.from_numpy(matrix))
        module = nn.Sequential(self.function.module, nn.Flatten(), rows).eval()
        shape = (len(matrix),)
        return replace(self, function=replace(self.function, module=module, output_shape=shape), shape=shape)

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
        # Entries that are exactly zero, as ReLUs put out, stay so along the directions of the trial: functions may have
        # a kink there.
        function = _TRIAL.network(given, x.reshape(2, *output), _REASON, x.abs())
        return NonlinearOperator(function, function.output_shape or (1,))
    except ModelError as error:
        raise InputError(
            f"operator= is a function that cannot be used as a measurement: {error}. Pass a differentiable function of "
            f"PyTorch, (B, {', '.join(map(str, output))}) -> (B, ...); of a linear map, a matrix, or a pair of "
            "functions (x -> A x, r -> A^T r)"
        ) from error


def _outputs(output: Shape, network: Generator | None) -> Tensor:
    """Two outputs, flat, (2, n): the longest of the typical ones; where no generator is known, numbers from 0 to 1."""
    if network is None:
        return torch.from_numpy(stream("trial outputs").uniform(size=(2, math.prod(output))))
    return longest(network.typical_outputs)

r"""Objectives other than a norm of y - A G(z): the Huber loss, and functions of one's own.

.. math:: H_\delta(r) = \sum_j h(r_j), \qquad h(r) = r^2 \text{ for } |r| \le \delta, \quad
          h(r) = 2 \delta |r| - \delta^2 \text{ for } |r| > \delta

This is |r|_2^2 for small residuals and grows like their absolute values beyond :math:`\delta`. It is twice the cost of
``scipy.optimize.least_squares(loss="huber", f_scale=delta)``, and twice the sum of ``torch.nn.HuberLoss(delta=delta)``.
With :math:`\delta = 1.345 \sigma` the estimate has 95% of the efficiency of least squares where errors are Gaussian.

Source: Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964); Holland and
Welsch, "Robust regression using iteratively reweighted least squares", Communications in Statistics A6 (1977), for
1.345.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError, OptionError
from unrelu.models.affine import Shape
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_opaque import Trial
from unrelu.runtime.words import shown

# delta in standard deviations of the noise.
_EFFICIENT = 1.345
_TRIAL = Trial("loss", "pair", "loss", "outputs of the generator and observations")


class Loss(ABC):
    """What is minimised in place of the sum of squares."""

    @abstractmethod
    def total(self, y: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
        """The losses of reconstructions A G(z) = ``mean`` of y, (b, m) each, (b,); at least 0, differentiable.

        ``seen`` is 1 at observed entries, and 0 at others.
        """

    @abstractmethod
    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Half the derivative by ``mean``, and the weights of a Gauss-Newton step, above 0, (b, m) each."""

    def times_power_of_two(self, exponent: int) -> Self:
        """The loss where y and its reconstruction are multiplied by 2^exponent."""
        raise NotImplementedError

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """The same loss for tensors of another type or device."""
        return self

    @property
    def width(self) -> int:
        """The most numbers that it holds in memory for one reconstruction, beside y."""
        return 0


@dataclass(frozen=True)
class Huber(Loss):
    """The Huber loss, in the units of y^2.

    Attributes:
        delta: the residual beyond which it grows linearly, in the units of y.
    """

    delta: float

    name: ClassVar[str] = "huber"  # the norm that results report
    degree: ClassVar[int] = 2  # the power of the unit of y

    @classmethod
    def parse(cls, norm: str, level: float) -> Huber:
        """Make the loss from its text, "huber:D", or "huber" where the noise has the standard deviation ``level``.

        Raises:
            InputError: D is not above 0, or neither it nor the noise is known.
        """
        text, delta = norm.partition(":")[2], math.nan
        with suppress(ValueError):
            delta = float(text) if text else _EFFICIENT * level
        if not 0 < delta < math.inf:
            raise InputError(
                f"norm={norm!r}: it is linear beyond D of norm='huber:D', a number above 0 in the units of y; without "
                "D, beyond 1.345 standard deviations of noise='gaussian:S', which must be stated then"
            )
        return cls(delta)

    def __str__(self) -> str:
        return f"{self.name}:{self.delta!r}"

    def total(self, y: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
        r = (mean - y).abs()
        return (seen * torch.where(r <= self.delta, r * r, self.delta * (2 * r - self.delta))).sum(dim=1)

    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Loss.scoring`; the weights are those of iteratively reweighted least squares."""
        r = mean - y
        weight = (self.delta / r.abs().clamp_min(torch.finfo(r.dtype).tiny)).clamp_max(1.0)
        return weight * r, weight

    def times_power_of_two(self, exponent: int) -> Huber:
        return Huber(math.ldexp(self.delta, exponent))


@dataclass(frozen=True, eq=False)
class OwnLoss(Loss):
    """A function of the user's, of reconstructions and observations in their shapes.

    Attributes:
        function: the function of both, side by side, (b, 2 m) -> (b, 1).
        exponent: y and its reconstruction are 2^exponent times those of the user, who is given their own.
    """

    function: OpaqueNetwork = field(repr=False)
    exponent: int = 0

    name: ClassVar[str] = "loss"
    degree: ClassVar[int] = 0

    @classmethod
    def read(cls, given: Callable[..., Any], y: Tensor, mean: Tensor, shape: Shape) -> OwnLoss:
        """Read a function of reconstructions and observations of a shape, if it passes a trial on two, (2, m).

        Raises:
            OptionError: it cannot be called.
            InputError: it is not deterministic, differentiable and at least 0, with one number for each observation.
        """
        if not callable(given):
            raise OptionError(f"loss={shown(given)} is not callable; pass a function of (reconstruction, y)")
        pairs = torch.stack([mean, y], dim=1).reshape(2, 2, *shape)
        try:
            function = _TRIAL.network(
                lambda pair: given(pair[:, 0], pair[:, 1]), pairs, "a loss", pairs.flatten(1).abs()
            )
        except ModelError as error:
            text = ", ".join(map(str, shape))
            raise InputError(
                f"loss= cannot be minimised: {error}. Pass a differentiable function of PyTorch, which maps "
                f"reconstructions and observations, (b, {text}) each, to losses, (b,)"
            ) from error
        if function.output_dim != 1:
            raise InputError(
                f"loss= gives numbers of shape {function.output_shape} for each observation; reduce them to one, e.g. "
                "by .flatten(1).mean(1), not over the batch"
            )
        loss = cls(function)
        loss.total(y, mean, torch.ones_like(y))
        return loss

    def __str__(self) -> str:
        return self.name

    def total(self, y: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
        own = self.function.dtype
        pair = torch.cat([mean, y], dim=1).to(own)
        values: Tensor = self.function.forward(pair * 2.0**-self.exponent if self.exponent else pair)[:, 0].to(mean)
        if (values < 0).any():
            raise InputError(f"loss= gives {float(values.min()):g}; it must be at least 0: add a constant to it")
        return values

    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Loss.scoring`. The weight is the one with which a free step of the mean would end at 0.

        The model f + 2 r'd + c |d|^2 has the minimum f - |r|^2 / c over d, so c = |r|^2 / f; of squares it is 1.
        """
        with torch.enable_grad():
            leaf = mean.detach().requires_grad_(True)
            f = self.total(y, leaf, y)
            (gradient,) = torch.autograd.grad(f.sum(), leaf)
        r, f, tiny = gradient / 2, f.detach(), torch.finfo(mean.dtype).tiny
        c = torch.where((f > tiny) & (r.abs().amax(dim=1) > 0), r.square().sum(dim=1) / f.clamp_min(tiny), 1.0)
        return r, c.clamp_min(tiny)[:, None].expand_as(r)

    def times_power_of_two(self, exponent: int) -> OwnLoss:
        return replace(self, exponent=self.exponent + exponent)

    def to(self, dtype: torch.dtype, device: torch.device) -> OwnLoss:
        # In the user's units, numbers may be out of the range of single precision.
        own = torch.float64 if self.exponent else dtype
        return replace(self, function=self.function.to(own, device))

    @property
    def width(self) -> int:
        return self.function.width

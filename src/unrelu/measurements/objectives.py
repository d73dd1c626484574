r"""What is minimised, and ``norm=``, ``loss=`` and ``prior=``: norms, the Huber loss and functions of one's own.

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError, OptionError
from unrelu.measurements.noise import Loss, Noise
from unrelu.models.affine import Shape
from unrelu.models.code_prior import Normal
from unrelu.models.names import Names
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_opaque import tried
from unrelu.runtime.argument_numbers import real_number
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import nearest, shown

# delta in standard deviations of the noise.
_EFFICIENT = 1.345


@dataclass(frozen=True)
class Huber(Loss):
    """The Huber loss, in the units of y^2.

    Attributes:
        delta: the residual beyond which it grows linearly, in the units of y.
    """

    delta: float

    name: ClassVar[str] = "huber"  # the norm that results report

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
                f"norm={norm!r}: D of 'huber:D', beyond which it is linear, must be a number above 0 in the units of "
                "y; without D it is 1.345 standard deviations of noise='gaussian:S', which must be stated then"
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
            lengths = pairs.flatten(1).abs()
            function = tried(lambda pair: given(pair[:, 0], pair[:, 1]), pairs, "a loss", lengths, "loss")
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


# The power of the unit of y in each objective.
DEGREES = {"l2": 2, "l1": 1, "linf": 1, Huber.name: 2, OwnLoss.name: 0}

_NORMS = ("l2", "l1", "linf", Huber.name)


def norms(r: Array, norm: str) -> Array:
    """The norm of each residual r (B, m), (B,), in "l2", "l1" or "linf"; squares do not overflow or underflow."""
    largest = np.asarray(np.abs(r).max(axis=1))
    if norm == "linf":
        return largest
    with np.errstate(over="ignore", under="ignore"):  # a diverged code may be astronomically large
        if norm == "l1":
            return np.asarray(np.abs(r).sum(axis=1))
        scale = np.where((largest > 0) & (largest < np.inf), largest, 1.0)
        return np.asarray(scale * np.linalg.norm(r / scale[:, None], axis=1))


def argument_of(norm: str) -> str:
    """The argument that states an objective, as messages show it."""
    return "loss=" if norm == OwnLoss.name else f"norm={norm!r}"


def read_norm(norm: str | None, loss: object, noise: Noise) -> tuple[str, Huber | None]:
    """The norm, by default that of the noise, and the Huber loss if it is that.

    Raises:
        InputError: the norm is unknown, a loss is stated beside it or beside noise that differs by entry, or
            the noise has a deviance.
    """
    if loss is not None and norm is not None:
        raise InputError(f"norm={norm!r}: loss= is minimised in its place; leave one of them out")
    if loss is not None and noise.entrywise:
        raise InputError(
            f"loss= compares y and the reconstruction as they are, and noise={noise} weighs their entries: state one "
            "number, or use norm='huber'"
        )
    kind, huber = noise.norm if norm is None else str(norm).partition(":")[0], None
    if loss is not None:
        kind = OwnLoss.name
    elif kind not in _NORMS:
        raise InputError(f"norm={norm!r} is unknown; use 'l2', 'l1', 'linf' or 'huber:D'{nearest(norm, _NORMS)}")
    elif kind == Huber.name:  # of whitened noise, the standard deviation is 1
        huber = Huber.parse(str(norm), 1.0 if noise.entrywise else math.sqrt(noise.mean_square))
    if noise.likelihood is not None and kind != "l2":
        argument = "norm=" if loss is None else "loss="
        raise InputError(f"norm={kind!r}: noise={noise} compares observations by their deviance; leave {argument} out")
    return kind, huber


def read_prior(prior: float | Normal, names: Names, noise: Noise, norm: str) -> tuple[float, Normal | None]:
    """The weight of |z|^2, and the distribution of codes if it is stated in its place.

    Raises:
        InputError: the weight is below 0 or infinite, or the objective has no term of the prior.
        OptionError: the prior is neither a number nor a distribution.
    """
    if isinstance(prior, Normal):
        normal = prior.of_names(names)
        refuse_prior(normal, noise, norm)
        return 0.0, normal
    weight = real_number("prior", prior, "a number, the weight of |z|^2, or unrelu.Normal(mean, std)")
    if not 0 <= weight < math.inf:
        raise InputError(f"prior={weight:g} must be finite and at least 0")
    if weight and norm in ("l1", "linf"):
        raise InputError(f"prior={weight:g} is a term of the l2 objective; the norm here is {norm!r}, pass norm='l2'")
    return weight, None


def refuse_prior(normal: Normal, noise: Noise, norm: str) -> None:
    """Refuse noise and objectives for which the most probable code is not defined.

    Raises:
        InputError: the noise has no density, or the objective is not its likelihood.
    """
    flaw = ""
    if noise.without_density:
        flaw = f"noise={noise} {noise.without_density}; state 'gaussian:S' or counts"
    elif norm != "l2":
        flaw = f"{argument_of(norm)} is not the likelihood of noise={noise}; leave it out"
    if flaw:
        asks = f"prior={shown(str(normal))} asks for the most probable code"
        raise InputError(f"{asks}, and {flaw}, or pass a number, the weight of |z|^2")

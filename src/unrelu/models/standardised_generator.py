"""Affine maps of codes before a generator, and of outputs behind it: units, standardisation, components."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unrelu.models.affine import Affine, Dense, Reshape, Scale
from unrelu.models.affine_head import HeadedChain
from unrelu.models.generator import Generator, Rounding, WrappedGenerator, by, to_numpy
from unrelu.models.network import Network
from unrelu.models.opaque_network import unchained


@dataclass(frozen=True, eq=False, repr=False)
class StandardisedGenerator(WrappedGenerator):
    """x = B G(A z + a) + b, or its exponential, for a generator G without known layers.

    Attributes:
        before: z to A z + a, made of scales and matrices.
        behind: B and b.
        power: the outputs are exp(power x); None for x.
    """

    before: Affine
    behind: Affine
    power: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        held: dict[str, Any] = {"latent_shape": self.before.in_shape, "output_shape": self.behind.out_shape}
        held["width"] = max(self.base.width, self.before.n_in, self.behind.n_out)
        for name in ("before", "behind"):  # a factor beyond the precision becomes the largest number in it
            affine: Affine = getattr(self, name).to(self.dtype, self.device)
            held[name] = affine.mapped(lambda _, tensor: torch.nan_to_num(tensor))
        for name, value in held.items():
            object.__setattr__(self, name, value)

    @property
    def rounding(self) -> Rounding | None:  # type: ignore[override]
        """That of G, unless outputs are in other units, where they are no numbers of a module's precision."""
        return self.base.rounding if not self.behind.steps and self.power is None else None

    @property
    def reason(self) -> str:
        """Why it is no chain of layers."""
        return str(unchained(self.base))

    @cached_property
    def headed(self) -> HeadedChain | None:
        """See :attr:`Generator.headed`."""
        below = self.base.headed
        scales = all(isinstance(step, Scale | Reshape) for step in (*self.before.steps, *self.behind.steps))
        if below is None or not below.heads or not scales or self.power is not None:
            return None
        ones = (torch.ones(1, n, dtype=self.dtype, device=self.device) for n in (self.latent_dim, self.output_dim))
        factor, unit = (
            affine.apply(one, False)[0] for affine, one in zip((self.before, self.behind), ones, strict=True)
        )
        shift = self.before.apply(0 * factor[None])[0]
        k = below.network.latent_dim
        network = on_scaled_codes(below.network, shift[:k], factor[:k])
        return below.in_units(network, to_numpy(shift[k:]), to_numpy(factor[k:]), to_numpy(unit))

    def smoothed(self, share: float, codes: Tensor | None = None) -> Generator:
        """See :meth:`Generator.smoothed`."""
        return super().smoothed(share, self.as_codes(self.typical_codes) if codes is None else codes)

    def inner(self, z: Tensor) -> Tensor:
        """See :meth:`WrappedGenerator.inner`."""
        return self.before.apply(z)

    def outer(self, x: Tensor, z: Tensor) -> Tensor:
        """See :meth:`WrappedGenerator.outer`."""
        x = self.behind.apply(x)
        return x if self.power is None else torch.exp(self.power * x)

    def along(self, x: Tensor, tangents: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`WrappedGenerator.along`."""
        x, flat = self.outer(x, z), self.behind.apply(tangents.flatten(0, 1), constant=False)
        tangents = torch.unflatten(flat, 0, tangents.shape[:2])
        if self.power is not None:
            tangents = tangents * (self.power * x)[:, None]
        for step in reversed(self.before.steps):
            if isinstance(step, Scale):
                tangents = tangents * step.scale.reshape(-1, 1)
            elif isinstance(step, Dense):
                tangents = step.weight.T @ tangents
        return x, tangents

    def __str__(self) -> str:
        return (
            f"{type(self).__name__} {by(self.latent_shape)} -> {by(self.output_shape)}: affine maps around\n{self.base}"
        )


def around(
    network: Generator, before: Affine | None = None, behind: Affine | None = None, power: float | None = None
) -> StandardisedGenerator:
    """A generator around a copy: it may be cached for the generator, which it must not keep alive then."""
    latent, shape = network.latent_shape, network.output_shape
    return StandardisedGenerator(
        copy(network), before or Affine((), latent, latent), behind or Affine((), shape, shape), power
    )


def on_scaled_codes(network: Generator, shift: Tensor, factor: Tensor) -> Generator:
    """G(shift + factor t), for vectors (k,): a chain whose first layer takes them up, or a generator around a copy."""
    if isinstance(network, Network):
        first, *others = network.layers
        change = Scale(factor.reshape(first.in_shape), shift.reshape(first.in_shape))
        affine = Affine.compose([change, *first.affine.steps], first.in_shape).to(network.dtype, network.device)
        return replace(network, layers=(replace(first, affine=affine), *others))
    before = [Reshape((network.latent_dim,)), Scale(factor, shift), Reshape(network.latent_shape)]
    return around(network, Affine.compose(before, network.latent_shape))


def on_scaled_outputs(network: Generator, factor: float) -> Generator:
    """The generator whose outputs are multiplied by a factor, around a copy."""
    scale = Scale(*(torch.tensor(value, dtype=torch.float64) for value in (factor, 0.0)))
    return around(network, behind=Affine.compose([scale], network.output_shape))

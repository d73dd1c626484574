"""Nuisance parameters: additional latent coordinates that change a generator's output, such as scale and offset."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor, nn

from unrelu.errors import InputError, ModelError, OptionError
from unrelu.models.affine_head import HeadedChain, affine_heads
from unrelu.models.generator import Generator, NamedGenerator, WrappedGenerator, as_generator, by, read_only
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_opaque import longest, tried
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names, parameter_coordinates, parameter_values
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Shape
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream


@dataclass(frozen=True, eq=False, repr=False)
class ExtendedGenerator(WrappedGenerator):
    r"""A generator G'(z, u) = f(G(z), t(u)), whose last latent coordinates u determine nuisance parameters t.

    .. math:: t_i = a_i + (b_i - a_i) \, \Phi(u_i) \quad \text{or} \quad t_i = \mu_i + \sigma_i u_i

    A parameter has either bounds :math:`a_i, b_i` or a mean and a standard deviation. :math:`\Phi` is the distribution
    function of N(0, 1). All latent coordinates are assumed to be N(0, 1), so each parameter is either uniform within
    its bounds or normal. No code gives a parameter beyond its bounds. :func:`extend` builds such a generator.
    :meth:`split` and :meth:`join` convert codes to parameters and back.

    Attributes:
        function: f(G(z), t(u)), a function of G(z) and u in one vector.
        parameters: names of the parameters.
        table: a column for each parameter, (3, p): both bounds and 0, or mean, standard deviation and 1.
    """

    function: OpaqueNetwork
    parameters: tuple[str, ...]
    table: Array

    reason = "a generator extended by nuisance parameters is no chain of layers"

    def __post_init__(self) -> None:
        super().__post_init__()
        inner, free = self.base.domain, np.full(len(self.parameters), np.inf)  # parameters' coordinates are unbounded
        self._set(
            latent_shape=(self.base.latent_dim + len(self.parameters),),
            output_shape=self.function.output_shape or (1,),
            width=max(self.base.width, self.function.width),
            domain=inner and Bounds(np.append(inner.lower, -free), np.append(inner.upper, free)),
            rounding=None,  # the function's outputs do not have the precision of the module
        )

    @cached_property
    def headed(self) -> HeadedChain | None:
        below = self.base.headed
        if below is None or below.heads:
            return None
        low, high, normal = self.table
        ends = np.stack([low, np.where(normal > 0, low + high, high)])
        latent = np.column_stack([normal, np.zeros(len(low)), np.ones(len(low))])
        size = np.abs(self.base.typical_outputs).max(axis=0)
        size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
        heads = affine_heads(self.function.to(torch.float64).outputs, size, latent, ends, self.parameters)
        return HeadedChain(below.network, heads) if heads else None

    def inner(self, z: Tensor) -> Tensor:
        return z[:, : self.base.latent_dim]

    def outer(self, x: Tensor, z: Tensor) -> Tensor:
        return self.function.forward(torch.cat([x, z[:, self.base.latent_dim :]], dim=1))

    def along(self, x: Tensor, tangents: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Propagate the Jacobian of G, together with the derivatives by u, through f."""
        k, p = self.base.latent_dim, len(self.parameters)
        directions = z.new_zeros(len(z), k + p, x.shape[1] + p)
        directions[:, :k, :-p] = tangents
        directions[:, k:, -p:] = torch.eye(p, dtype=z.dtype, device=z.device)
        return self.function.along(torch.cat([x, z[:, k:]], dim=1), directions)

    def split(self, z: npt.ArrayLike) -> tuple[Array, dict[str, Any]]:
        """Split z into codes of :attr:`base`, in its ``latent_shape``, and parameters by name, each a number or (B,).

        Raises:
            InputError: z is not a code of this generator.
        """
        codes, k = self.flat_codes(z), self.base.latent_dim
        values = parameter_values(codes[..., k:], *self.table)
        return self.base.shaped(codes[..., :k]), {name: values[..., i][()] for i, name in enumerate(self.parameters)}

    def join(self, z: npt.ArrayLike, **parameters: npt.ArrayLike) -> Array:
        """Join codes of :attr:`base` and parameters, each a number or (B,), to codes (k + p,) or (B, k + p).

        Raises:
            InputError: z is not a code of :attr:`base`, or a parameter is out of its bounds or has another shape.
            OptionError: a parameter is missing or unknown.
        """
        codes = self.base.flat_codes(z)
        if set(parameters) != set(self.parameters):
            given = ", ".join(parameters) or "none"
            raise OptionError(f"join takes {', '.join(self.parameters)}; it was given {given}")
        columns = [codes]
        for name, (low, high, normal) in zip(self.parameters, self.table.T, strict=True):
            value = numbers(parameters[name], name)
            u = parameter_coordinates(value, low, high, normal)
            if not np.isfinite(u).all():
                within = "finite" if normal else f"within its bounds, above {low:g} and below {high:g}"
                raise InputError(f"{name}={parameters[name]!r} must be {within}")
            if value.shape not in ((), codes.shape[:-1]):
                raise InputError(
                    f"{name} has shape {value.shape}, the codes {codes.shape}; pass a number, or one for each code"
                )
            columns.append(np.broadcast_to(u, codes.shape[:-1])[..., None])
        return np.concatenate(columns, axis=-1)

    def __str__(self) -> str:
        ranges = ", ".join(
            f"{name} N({low:g}, {high:g}^2)" if normal else f"{name} {low:g} to {high:g}"
            for name, (low, high, normal) in zip(self.parameters, self.table.T, strict=True)
        )
        return f"ExtendedGenerator {self.latent_dim} -> {by(self.output_shape)}: {ranges}\n{self.base}"


@computing()
def extend(
    network: Generator,
    function: Callable[..., Tensor] | None = None,
    *,
    scale: tuple[float, float] | Normal | bool = False,
    offset: tuple[float, float] | Normal | bool = False,
    shift: tuple[float, float] | Normal | bool = False,
    **bounds: tuple[float, float] | Normal,
) -> NamedGenerator:
    r"""Add latent coordinates to a generator for nuisance parameters of the measurement, within bounds or normal.

    .. math:: G'(z, u) = s \cdot S_d \, f(G(z), t) + o

    Scale s, shift d, offset o and your own function f are each optional. A parameter is uniform within its bounds if
    its latent coordinate u is N(0, 1), like the other coordinates. If you pass :class:`unrelu.Normal` in place of
    bounds, the parameter is normal. An example is the amplitude a of a template t:
    ``extend(net, lambda x, a: x + a * t, a=unrelu.Normal(0, 1))``.
    The method ``split(r.z)`` of the :class:`~unrelu.wrappers.nuisance_parameters.ExtendedGenerator` returns the
    parameters of a result. Only methods that search the latent space accept it.

    Args:
        network: G.
        function: f(x, name=t, ...), of outputs x of G, (B, \*output_shape), and each parameter of ``bounds`` by name,
            shaped to multiply x. It must be differentiable PyTorch code and treat each entry of the batch separately.
            The result may have another shape.
        scale: bounds (low, high) of s, or its normal distribution; True for (0.5, 2).
        offset: bounds of o; True for plus and minus half the largest output at a few random codes.
        shift: bounds of d, in samples along the last axis; True for (-1, 1). Outputs are interpolated linearly, and
            end values continue beyond the ends.
        **bounds: bounds of the parameters of f, or their normal distributions, by name.

    Raises:
        InputError: bounds are not two increasing numbers, or f cannot be used.
        OptionError: there is no parameter, there are parameters but no f, or a coordinate of G has a parameter's name.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> lifted = unrelu.extend(net, offset=(-1, 1))
    >>> r = unrelu.invert(lifted, net([0.5]) + 0.3)
    >>> z, found = lifted.split(r.z)
    >>> z.round(6), round(float(found["offset"]), 6)
    (array([0.5]), 0.3)
    """
    outer, network = as_generator(network).names, network.plain
    half = 0.5 * network.typical_output if offset is True else 0.5
    usual = {"shift": (-1.0, 1.0), "scale": (0.5, 2.0), "offset": (-half, half)}
    if bounds and function is None:
        raise OptionError(
            f"{', '.join(bounds)}: bounds of parameters that no function takes; pass f(x, {', '.join(bounds)}) as well"
        )
    given: dict[str, Any] = dict(bounds)
    for name, value in (("shift", shift), ("scale", scale), ("offset", offset)):
        if value is not False:
            given[name] = usual[name] if value is True else value
    if not given:
        raise OptionError("there is nothing to extend by: pass scale=, offset=, shift=, or a function with its bounds")
    table = read_only(np.transpose([_column(name, value) for name, value in given.items()]))
    change = _checked(_Change(network.output_shape, function, tuple(bounds), tuple(given), table), network)
    made = ExtendedGenerator(network, change, tuple(given), table)
    k = network.latent_dim
    known = np.full((3, k), np.nan) if outer.nuisance_table is None else outer.nuisance_table
    parts = outer.parts if change.output_shape == network.output_shape else {}
    names = Names(made.latent_shape, made.output_shape, (), parts, np.concatenate([known, table], axis=1))
    return NamedGenerator(made, names.named([*(outer.coordinate_names or ("",) * k), *given]))


def _column(name: str, given: Any) -> tuple[float, float, float]:
    """Return the bounds of a parameter and 0, or its mean, standard deviation and 1."""
    if isinstance(given, Normal):
        if given.by_name or np.ndim(given.mean) or np.ndim(given.std) or not given.proper:
            raise InputError(f"{name}={given} must be Normal(mean, std) of two finite numbers")
        return given.mean, given.std, 1.0
    ends = numbers(given, name)
    with np.errstate(over="ignore", invalid="ignore"):
        usable = ends.shape == (2,) and ends[0] < ends[1] and math.isfinite(ends[1] - ends[0])
    if not usable:
        raise InputError(
            f"{name}={given!r} must be two numbers, a lower and a higher bound, both finite, or Normal(mean, std)"
        )
    return float(ends[0]), float(ends[1]), 0.0


def _checked(module: _Change, network: Generator) -> OpaqueNetwork:
    """Try the module on typical outputs, and return it as a function of one vector."""
    # An emulator with codes in physical units may overflow at codes from N(0, 1).
    x = longest(np.where(np.isfinite(network.typical_outputs), network.typical_outputs, 1.0))
    u = torch.from_numpy(special.ndtri(stream("trial parameters").uniform(0.2, 0.8, (2, len(module.names)))))
    at, lengths = torch.cat([x, u], dim=1), torch.cat([x.abs(), torch.full_like(u, 0.3)], dim=1)
    given = module if isinstance(module.function, nn.Module) else module.forward
    try:
        function = tried(given, at, ExtendedGenerator.reason, lengths, "function of outputs")
        return function.to(network.dtype, network.device)
    except ModelError as error:
        raise InputError(f"the function of outputs and parameters cannot be used: {error}") from error


class _Change(nn.Module):
    """A module that applies f, then shift, scale and offset, to outputs and latent coordinates in one vector."""

    def __init__(
        self, shape: Shape, function: Callable[..., Tensor] | None, own: tuple[str, ...], names: tuple[str, ...],
        table: Array,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape, self.function, self.own, self.names = shape, function, own, names
        # Parameters are the product of (1, u, Phi(u)) with this matrix. If constants were added and multiplied in
        # forward mode, PyTorch would load its compiler, which takes seconds.
        low, high, normal = table
        self.matrix = torch.from_numpy(np.vstack([low, np.diag(normal * high), np.diag((1 - normal) * (high - low))]))

    def forward(self, joint: Tensor) -> Any:
        n = math.prod(self.shape)
        x: Any = joint[:, :n].reshape(-1, *self.shape)
        u = joint[:, n:]
        known = torch.cat([torch.ones_like(u[:, :1]), u, torch.special.ndtr(u)], dim=1)
        parameters = known @ self.matrix.to(joint)
        values = dict(zip(self.names, parameters.T, strict=True))

        def beside(name: str) -> Tensor:  # one for each output, shaped to multiply outputs (B, ...)
            return torch.unflatten(values[name], 0, (-1, *[1] * (x.dim() - 1)))

        if self.function is not None:
            x = self.function(x, **{name: beside(name) for name in self.own})
        if "shift" in values:
            x = _shifted(x, beside("shift"))
        if "scale" in values:
            x = x * beside("scale")
        return x + beside("offset") if "offset" in values else x


def _shifted(x: Tensor, d: Tensor) -> Tensor:
    """Compute x(i - d) along the last axis by linear interpolation. The end values continue beyond the ends."""
    n = x.shape[-1]
    at = (torch.arange(n, dtype=x.dtype, device=x.device) - d).clamp(0, n - 1)
    left = at.detach().floor().clamp(max=max(n - 2, 0))
    index = left.long().expand(x.shape)
    share = at - left
    return (1 - share) * x.gather(-1, index) + share * x.gather(-1, (index + 1).clamp(max=n - 1))

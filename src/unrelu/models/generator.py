"""The interface of every generator, whether its layers are known or not, and wrappers around a generator."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from html import escape
from typing import Any, Self, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import HostError, InputError, OptionError
from unrelu.models.affine_head import HeadedChain
from unrelu.models.rounding_error import Rounding
from unrelu.models.watched_operations import multiplications
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Shape
from unrelu.runtime.file_reading import shown_size
from unrelu.runtime.host import computing
from unrelu.runtime.machine import total_memory, usable
from unrelu.runtime.memory_limits import LAYER_NUMBERS, at_once
from unrelu.runtime.streams import stream
from unrelu.runtime.words import listed, reshaping

Kept = TypeVar("Kept")
# A generator is large if a Jacobian costs at least as much as this many multiplications.
_LARGE = 3 * 10**7
# An elementwise operation takes as long for one number as this many multiplications of a matrix product. It takes 1 to
# 1.5 nanoseconds from the cache and up to 10 from memory; a multiplication takes 0.05.
_COST_OF_NUMBER = 30


class Generator(ABC):
    """A map G: R^k -> R^n with a Jacobian. Called with NumPy codes, it returns NumPy outputs.

    The layers of a :class:`~unrelu.Network` are known. An :class:`~unrelu.opaque.opaque_network.OpaqueNetwork` can only
    be evaluated and differentiated.

    Attributes:
        latent_shape: shape of one latent code. Flat codes of ``latent_dim = prod(latent_shape)`` numbers are also
            accepted.
        output_shape: shape of one output.
        width: the size of the largest tensor when one code, or one direction of its Jacobian, is evaluated.
        dtype, device: precision and device of the evaluation; float64 on the CPU unless :meth:`to` was called.
        rounding: the rounding error of the original module, if it computes in half precision or bfloat16; else None.
        domain: the :class:`~unrelu.parameters.latent_bounds.Bounds` of the codes that the generator is meant for, or
            None. A search without stated bounds uses them.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> isinstance(net, unrelu.Generator), net.latent_dim, net.output_shape
    (True, 1, (3,))
    """

    latent_shape: Shape
    output_shape: Shape
    width: int
    dtype: torch.dtype
    device: torch.device
    rounding: Rounding | None = None
    domain: Bounds | None = None

    @property
    def latent_dim(self) -> int:
        """k, the number of latent coordinates."""
        return math.prod(self.latent_shape)

    @property
    def output_dim(self) -> int:
        """n, the number of outputs."""
        return math.prod(self.output_shape)

    @abstractmethod
    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """Return the same generator, evaluated in another dtype or on another device.

        Raises:
            OptionError: the dtype is not a floating-point type, or the device is not available.
        """

    def _set(self, **values: Any) -> None:
        """Set attributes that a frozen dataclass derives from its fields."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _place(self, dtype: torch.dtype | None, device: torch.device | str | None) -> tuple[torch.dtype, torch.device]:
        """Check the arguments of :meth:`to`, where None means the present dtype or device."""
        dtype = self.dtype if dtype is None else dtype
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise OptionError(f"dtype={dtype!r} must be torch.float64 or another floating-point type of PyTorch")
        return dtype, usable(self.device if device is None else device, dtype)

    def bounds(self, stated: Any, fixed: Any = None) -> Bounds:
        """Read the bounds for a search over codes, as users state them. The default is the domain.

        Raises the errors of :meth:`unrelu.parameters.latent_bounds.Bounds.parse`.
        """
        return Bounds.parse(stated, self.latent_shape, self.names, fixed, self.domain)

    # --- cached objects -----------------------------------------------------------------------------------------

    @cached_property
    def learned(self) -> dict[str, Any]:
        """What searches have learned, by name (:mod:`unrelu.search.learned_prior`). Pickles include it."""
        return {}

    @cached_property
    def _kept(self) -> dict[str, tuple[Hashable, Any]]:
        return {}

    def once(self, what: str, make: Callable[[], Kept], key: Hashable = None) -> Kept:
        """Return ``make()``, and cache it with the generator until ``what`` is requested with another key.

        This is the only cache for objects derived from a generator, such as samples, or the generator on a device or in
        other units. A cached object must depend only on the generator and the key. It is neither copied nor pickled.
        """
        held = self._kept.get(what)
        if held is None or held[0] != key:
            held = self._kept[what] = key, make()  # another thread may keep another key meanwhile
        return cast(Kept, held[1])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    # --- names: a NamedGenerator around this one holds them ------------------------------------------------------

    @property
    def plain(self) -> Generator:
        """The generator without names. Methods work on it."""
        return self

    @cached_property
    def names(self) -> Names:
        """The names of coordinates and of parts of the output; a plain generator has none."""
        return Names(self.latent_shape, self.output_shape)

    def named(self, names: Sequence[str]) -> NamedGenerator:
        """Name the latent coordinates. Results, tables, plots, bounds and priors use these names.

        Args:
            names: k different names, in the order of the flattened code; "" for no name. Else OptionError.

        >>> import unrelu
        >>> net = unrelu.from_arrays([[[2.0, 0.0], [1.0, 1.0]]], activation="identity").named(["slope", "height"])
        >>> unrelu.invert(net, [1.0, 0.75]).parameters
        {'slope': 0.5, 'height': 0.25}
        """
        return NamedGenerator(self.plain, self.names.named(names))

    def with_parts(self, parts: Mapping[str, int | Shape]) -> NamedGenerator:
        """Name the parts of the output.

        Args:
            parts: sizes or shapes of the parts by name, in their order in the flattened output. Together they must
                have as many entries as an output, else ModelError.

        >>> import unrelu
        >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]]).with_parts({"pair": 2, "last": 1})
        >>> net.by_part(net([0.5]))
        {'pair': array([1., 0.]), 'last': array([0.5])}
        """
        return NamedGenerator(self.plain, self.names.with_parts(parts))

    def by_part(self, x: npt.ArrayLike) -> dict[str, Array]:
        """Split outputs, (..., \\*output_shape) or flat (..., n), into their parts, (..., \\*shape) each.

        Raises:
            InputError: the output has no named parts, or x has another shape.
        """
        array, whole, parts = numbers(x, "x"), self.output_shape, self.names.parts
        if not parts:
            raise InputError(f"outputs of {self!r} have no named parts; name them by with_parts({{'name': size, ...}})")
        lead = array.shape[: array.ndim - len(whole)] if array.shape[-len(whole) :] == whole else array.shape[:-1]
        if array.size != math.prod(lead) * self.output_dim:
            raise InputError(f"x has shape {array.shape}, an output has shape {whole}")
        flat = array.reshape(*lead, self.output_dim)
        return {name: flat[..., place].reshape((*lead, *parts[name])) for name, place in self.names.places.items()}

    # --- NumPy in, NumPy out -----------------------------------------------------------------------------------

    @overload
    def __call__(self, z: Tensor) -> Tensor: ...
    @overload
    def __call__(self, z: npt.ArrayLike) -> Array: ...
    @computing()
    def __call__(self, z: Any) -> Any:
        """Compute G(z): the output of one code, ``output_shape``, or of a batch of codes, ``(B, *output_shape)``.

        Args:
            z: ``latent_shape`` or ``(B, *latent_shape)``; or flat, (k,) or (B, k). An array of the shape of one code is
                one code, even if that shape is (1, k). Other shapes raise an InputError. If z is a tensor, the output
                is a tensor of the same type on the same device, differentiable by PyTorch. Generators can therefore be
                used in functions for :func:`unrelu.from_torch`.
        """
        if not isinstance(z, Tensor):
            codes = self.flat_codes(z)
            return self.outputs(codes.reshape(-1, self.latent_dim)).reshape(*codes.shape[:-1], *self.output_shape)
        shape = self._flat_shape(tuple(z.shape), "z")
        x = self.forward(z.reshape(-1, self.latent_dim).to(dtype=self.dtype, device=self.device))
        return x.reshape(*shape[:-1], *self.output_shape).to(z if z.is_floating_point() else x)

    @computing()
    def outputs(self, z: npt.ArrayLike) -> Array:
        """Compute G(z), ``(B, *output_shape)``, where z is always a batch, (B, k) or ``(B, *latent_shape)``."""
        codes = torch.tensor(self.flat_codes(z, batch=True), dtype=self.dtype, device=self.device)
        parts = torch.split(codes, at_once(LAYER_NUMBERS, self.width, self.device))
        return to_numpy(torch.cat(list(map(self.forward, parts)))).reshape(len(codes), *self.output_shape)

    @computing()
    def jacobian(self, z: npt.ArrayLike) -> Array:
        """Compute dG/dz, (n, k) or (B, n, k): the derivative of the flattened output by the flattened code.

        At a kink, the slope for negative arguments is used. ``z`` is as in :meth:`__call__`.
        """
        codes = self.as_codes(z)
        _, tangents = self.linearize(codes.reshape(-1, self.latent_dim))
        return to_numpy(tangents.transpose(1, 2)).reshape(*codes.shape[:-1], self.output_dim, self.latent_dim)

    def as_codes(self, z: npt.ArrayLike) -> Tensor:
        """Convert codes, as in :meth:`__call__`, to a tensor of this generator's dtype and device: (k,) or (B, k)."""
        return torch.tensor(self.flat_codes(z), dtype=self.dtype, device=self.device)

    def flat_codes(self, z: npt.ArrayLike, name: str = "z", batch: bool = False) -> Array:
        """Flatten codes of ``latent_shape`` or ``(B, *latent_shape)`` to (k,) or (B, k). They may be flat already.

        With ``batch``, z is always a batch. ``name`` is the name of the argument in messages.

        Raises:
            InputError: z is not made of real numbers, or has another shape.
        """
        codes = numbers(z, name)
        return codes.reshape(self._flat_shape(codes.shape, name, batch))

    def _flat_shape(self, shape: Shape, name: str, batch: bool = False) -> Shape:
        """Return the flat shape for codes of a given shape, see :meth:`flat_codes`."""
        shapes = (self.latent_shape, (self.latent_dim,))
        if shape in shapes and not batch:
            return (self.latent_dim,)
        if shape and shape[1:] in shapes:
            return shape[0], self.latent_dim
        call = reshaping(name, shape, self.latent_shape)
        several = ", ".join(map(str, ("B", *self.latent_shape)))
        raise InputError(
            f"{name} has shape {shape}; this network takes codes of shape {self.latent_shape} or ({several})"
            + (f": {call}" if call else "")
        )

    def shaped(self, codes: Array) -> Array:
        """Reshape flat codes (..., k) to ``(..., *latent_shape)``."""
        return codes.reshape(*codes.shape[:-1], *self.latent_shape)

    @property
    def outside_work(self) -> int:
        """What one forward pass is taken to cost outside of PyTorch, as a number of multiplications."""
        return 0

    @cached_property
    def work(self) -> int:
        """The number of multiplications of one forward pass in matrix products and convolutions; counted, not timed."""
        codes = self.as_codes(self.typical_codes[:1])
        return self.outside_work + multiplications(lambda: self.forward(codes))

    @cached_property
    def cost(self) -> int:
        """:attr:`work` plus the cost of other operations, as a number of multiplications; counted, not timed."""
        codes = self.as_codes(self.typical_codes[:1])
        return self.outside_work + multiplications(lambda: self.forward(codes), _COST_OF_NUMBER)

    @property
    def large(self) -> bool:
        """Whether a Jacobian, which costs k forward passes, is expensive; counted, not timed."""
        return self.latent_dim * self.cost >= _LARGE

    @property
    def too_large(self) -> str | None:
        """Why the Jacobian of one code does not fit into the memory of the device; None if it fits."""
        needed, memory = self.dtype.itemsize * self.output_dim * self.latent_dim, total_memory(self.device)
        size = f"{self.output_dim:,} x {self.latent_dim:,} numbers, takes {shown_size(needed)}"
        fits = needed <= memory
        return None if fits else f"the Jacobian of one code, {size}, and there are {shown_size(memory)} of memory"

    def check_size(self) -> None:
        """Raise a HostError if a Jacobian does not fit into memory, see :attr:`too_large`."""
        if reason := self.too_large:
            raise HostError(
                f"{reason}; 'auto' does without one for observations with noise, 'adam' and 'gradient_descent' for all"
            )

    @property
    def typical_codes(self) -> Array:
        """16 fixed draws of flat codes, (16, k): z ~ N(0, I), or within the :attr:`domain` if there is one."""
        return self.within(stream("typical output").standard_normal((16, self.latent_dim)))

    def within(self, z: Array) -> Array:
        """Map standard normal draws, (..., k), into the :attr:`domain`. Without a domain, return the draws."""
        return z if self.domain is None else self.domain.of_normal(z)

    @cached_property
    def typical_outputs(self) -> Array:
        """The flattened outputs of :attr:`typical_codes`, (16, n); read-only."""
        return read_only(self.outputs(self.typical_codes).reshape(16, -1))

    @property
    def typical_output(self) -> float:
        """The maximum of |G(z)| over :attr:`typical_codes`. Rounding errors are relative to this size."""
        return float(np.abs(self.typical_outputs).max())

    def smoothed(self, share: float, codes: Tensor | None = None) -> Generator:
        """Smooth kinks with a width of ``share`` times the size of each layer. Without known kinks, return ``self``.

        Layer sizes are measured at ``codes``, (b, k), by default at typical codes.
        """
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {by(self.latent_shape)} -> {by(self.output_shape)}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    @property
    def headed(self) -> HeadedChain | None:
        """The generator as a chain of layers followed by affine heads, for compiled code; None if it is not one."""
        return None

    # --- PyTorch, flat, batched --------------------------------------------------------------------------------

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Compute G(z) as (B, n) for z of shape (B, k), differentiable by PyTorch."""

    @abstractmethod
    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Compute G(z) as (B, n) and its transposed Jacobian as (B, k, n)."""


@dataclass(frozen=True, eq=False, repr=False)
class WrappedGenerator(Generator):
    """A wrapper around a generator G. Subclasses change codes before G and outputs after G; this class changes neither.

    Attributes:
        base: G.
    """

    base: Generator

    def __post_init__(self) -> None:
        names = ("latent_shape", "output_shape", "width", "dtype", "device", "rounding", "domain")
        self._set(**{name: getattr(self.base, name) for name in names})

    @property
    def outside_work(self) -> int:
        return self.base.outside_work

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        base = self.base.to(dtype, device)
        others = (field.name for field in fields(self) if field.name != "base")
        held = {name: getattr(self, name) for name in others}
        moved: dict[str, Any] = {
            name: value.to(base.dtype, base.device) for name, value in held.items() if isinstance(value, Generator)
        }
        return replace(self, **moved | {"base": base})

    def smoothed(self, share: float, codes: Tensor | None = None) -> Generator:
        base = self.base.smoothed(share, codes if codes is None else self.inner(codes))
        return self if base is self.base else replace(self, base=base)

    def inner(self, z: Tensor) -> Tensor:
        """Map codes (B, k) to codes of G, (B, k')."""
        return z

    def outer(self, x: Tensor, z: Tensor) -> Tensor:
        """Map outputs x of G, (B, n'), to outputs, (B, n), at codes z."""
        return x

    def along(self, x: Tensor, tangents: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map outputs of G and its transposed Jacobian, (B, k', n'), to outputs and transposed Jacobian, (B, k, n)."""
        return x, tangents

    def forward(self, z: Tensor) -> Tensor:
        return self.outer(self.base.forward(self.inner(z)), z)

    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.check_size()
        return self.along(*self.base.linearize(self.inner(z)), z)


@dataclass(frozen=True, eq=False, repr=False)
class NamedGenerator(WrappedGenerator):
    """A wrapper that gives names to the coordinates of a generator and to the parts of its output.

    Attributes:
        names: the names, and which coordinates are nuisance parameters.
    """

    names: Names

    @property
    def plain(self) -> Generator:
        return self.base

    def __getattr__(self, name: str) -> Any:
        """Look up an attribute of :attr:`names`, such as ``parts``, or else of :attr:`base`, such as ``layers``."""
        if name.startswith("__") or name in ("base", "names"):
            raise AttributeError(name)
        return getattr(self.names if hasattr(self.names, name) else self.base, name)

    @property
    def headed(self) -> HeadedChain | None:
        return self.base.headed

    def __repr__(self) -> str:
        return repr(self.base)

    def __str__(self) -> str:
        called, domain = list(self.names.parameter_names), self.domain
        if domain is not None:
            called = [
                f"{name} {low:g} to {high:g}" if np.isfinite((low, high)).any() else name
                for name, low, high in zip(called, *domain.ends, strict=True)
            ]
        names = f"\n  coordinates: {listed(called)}" if self.names.coordinate_names else ""
        parts = ", ".join(f"{name} {by(shape) or 1}" for name, shape in self.names.parts.items())
        return str(self.base) + names + (f"\n  parts of an output: {parts}" if parts else "")


def as_generator(network: object) -> Generator:
    """Return the network if it is a generator.

    Raises:
        OptionError: it is something else, such as a module or a file name.
    """
    if isinstance(network, Generator):
        return network
    raise OptionError(
        f"network is a {type(network).__name__}; make one with unrelu.load, from_torch, from_arrays or zoo.load"
        + _made_of(network)
    )


def placed(network: object, device: torch.device | str | None) -> Generator:
    """Move a generator to a device; every call returns the same object. For None, return the generator as it is.

    Raises:
        OptionError: ``network`` is not a generator, or the device is not available.
    """
    found = as_generator(network)
    if device is None or (place := usable(device, found.dtype)) == found.device:
        return found

    def moved() -> Generator:
        there = found.to(device=place)
        vars(there.plain)["learned"] = found.plain.learned  # its entries name the device; it is pickled with ``found``
        return there

    return found.once(f"on {place}", moved)


def _made_of(network: object) -> str:
    """Suggest the call that turns ``network`` into a generator, as the end of an error message."""
    if isinstance(network, str | os.PathLike):
        loader = "load" if os.path.splitext(network)[1] else "zoo.load"
        return f": unrelu.{loader}({os.fspath(network)!r})"
    if isinstance(network, torch.nn.Module):
        return ": unrelu.from_torch(module, latent_shape=(k,)), k the number of latent coordinates"
    if isinstance(network, list | tuple | dict):
        return ": unrelu.from_arrays(weights)"
    if isinstance(network, np.ndarray | Tensor):
        return "; it comes first, before the observations: unrelu.invert(network, y)"
    return ""


def read_only(array: npt.ArrayLike) -> Array:
    """Return a read-only float64 copy."""
    copy = np.array(array, dtype=np.float64)
    copy.setflags(write=False)
    return copy


def to_numpy(x: Tensor) -> Array:
    """Convert a tensor to a float64 array."""
    return x.detach().cpu().double().numpy()


def by(shape: Shape) -> str:
    """Format a shape as text, such as 3x28x28."""
    return "x".join(map(str, shape))


def evaluation_lines(network: Generator) -> str:
    """Format the lines on rounding and device for printing a generator; empty on the CPU without rounding."""
    found, lines = network.rounding, ""
    if found:
        lines = f"\n  its module computes in {found.name}: outputs are off by up to {found.level:.2g}"
    return lines if network.device.type == "cpu" else f"{lines}\n  computed on {network.device}"

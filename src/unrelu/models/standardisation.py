"""Standardised inputs and outputs of a network, and outputs in a basis: affine maps before and after its layers.

Emulators are often trained on standardised parameters, and on standardised spectra or coefficients of principal
components. These transforms of training are undone here exactly, so that codes and outputs are in physical units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.errors import InputError, ModelError
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense, Reshape, Scale, Step, check_finite
from unrelu.models.generator import NamedGenerator, numbers
from unrelu.models.names import Names
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.runtime.array_types import Array

_Known = TypeVar("_Known", bound=Network | OpaqueNetwork)
_Given = TypeVar("_Given", bound=Network | OpaqueNetwork | NamedGenerator)


@dataclass(frozen=True, eq=False)
class Transform:
    """u = (x - mean) / std, entry by entry, or u = C (x - mean), undone by x = mean + C^T u.

    Attributes:
        name: used in messages.
        mean: (n,) or (1,).
        std: (n,) or (1,), in the first form.
        components: C, (m, n) with orthonormal rows, in the second form.
    """

    name: str
    mean: Array
    std: Array | None = None
    components: Array | None = None

    def maps(self, width: int) -> tuple[Step, Step, int]:
        """The map from x to u, the map back, and the number of entries of x; u has ``width`` entries.

        Raises:
            ModelError: the sizes do not fit.
        """
        if self.std is not None:
            mean, std = self._full("mean", self.mean, width), self._full("std", self.std, width)
            return Scale(1 / std, -mean / std), Scale(std, mean), width
        assert self.components is not None
        shape = self.components.shape
        if len(shape) != 2 or shape[0] != width or not shape[1]:
            raise ModelError(
                f"{self.name}: components have shape {shape}, the network has {width} entries there; pass "
                f"({width}, n), a row for each"
            )
        components, mean = torch.from_numpy(self.components), self._full("mean", self.mean, shape[1])
        return Dense(components, -components @ mean), Dense(components.T.contiguous(), mean), shape[1]

    def _full(self, what: str, values: Array, n: int) -> Tensor:
        if values.size not in (1, n):
            there = f"the network has {n} there" if self.components is None else f"components have {n} columns"
            raise ModelError(
                f"{self.name}: {what} has {values.size} entries, {there}; pass as many, or one number for all"
            )
        return torch.from_numpy(np.broadcast_to(values, (n,)).copy())


def standardised(
    network: _Given, input_scale: object, output_scale: object, output_basis: object, output_log: object = None
) -> _Given:
    """Let the network take codes in physical units and return outputs in physical units.

    The arguments are those of :func:`unrelu.from_arrays`. If the output has named parts, ``output_scale`` and
    ``output_log`` may be dictionaries by part.

    Raises:
        ModelError: a transform is of an unknown kind, does not fit the network, or has a std that is not positive, the
            base is no number above 0 other than 1, or a part is unknown.
    """
    given = network.names
    if isinstance(output_scale, Mapping):
        scales = [_scales_by_part(given, output_scale)]
    else:
        scales = transforms(output_scale, "output_scale")
    outputs = [*_basis(output_basis), *scales]
    plain = surrounded(cast(Network | OpaqueNetwork, network.plain), transforms(input_scale, "input_scale"), outputs)
    called = given.coordinate_names if plain.latent_dim == given.latent_dim else ()
    parts = given.parts if all(transform.components is None for transform in outputs) else {}
    names = Names(plain.latent_shape, plain.output_shape, called, parts)
    if output_log is not None:
        plain = _exponential(plain, names, output_log)
    return cast(_Given, NamedGenerator(plain, names) if called or parts else plain)


def _exponential(network: _Known, names: Names, output_log: object) -> _Known:
    """The network whose outputs are the base to the power of its outputs, or some parts of them."""
    factor = torch.zeros(network.output_dim, dtype=torch.float64)
    whole = [(slice(None), output_log)]
    bases = _places(names, output_log, "output_log") if isinstance(output_log, Mapping) else whole
    for place, base in bases:
        factor[place] = math.log(_base(base))
    if isinstance(network, OpaqueNetwork):
        module = nn.Sequential(network.module, _Powers(factor.reshape(network.output_shape))).eval()
        module.title = _title(network)
        return cast(_Known, replace(network, module=module))
    if not factor.all():
        raise ModelError(
            f"output_log={output_log!r} is for some parts of a chain of layers, whose last activation is one for all; "
            "leave it out, and pass the logarithms that were measured"
        )
    scale = Scale(factor.reshape(network.output_shape), torch.zeros((), dtype=torch.float64))
    return cast(_Known, Network.chain([*_parts(network), scale, Activation("exp")], network.latent_shape))


def _base(value: object) -> float:
    """The base of a logarithm."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    with suppress(OverflowError):
        if number and 0 < (base := float(value)) < math.inf and base != 1:  # type: ignore[arg-type]
            return base
    raise ModelError(
        f"output_log={value!r:.60} must be the base of the logarithms that the outputs are, such as 10: a positive "
        "number other than 1"
    )


def _parts(network: Network) -> list[Step | Activation]:
    """The parts of a chain, without the identity at its end."""
    chain: list[Step | Activation] = []
    for layer in network.layers:
        chain += [*layer.affine.steps, layer.activation]
    return chain[:-1] if network.layers[-1].activation.linear else chain


def surrounded(network: _Known, inputs: Sequence[Transform], outputs: Sequence[Transform]) -> _Known:
    """The network with its inputs transformed, first to last, and the transforms of its outputs undone, last to first.

    The maps become part of the first and the last layer. If the last activation is not the identity, the maps after it
    form one more layer. Of a network without known layers, they surround its module.
    """
    if not (inputs or outputs):
        return network
    before: list[Step] = [Reshape(network.latent_shape)] if inputs else []
    latent, width = network.latent_shape, network.latent_dim
    for transform in reversed(inputs):
        step, _, width = transform.maps(width)
        before.insert(0, step)
        latent = (width,)
    behind: list[Step] = [Reshape((network.output_dim,))] if outputs else []
    width = network.output_dim
    for transform in reversed(outputs):
        _, step, width = transform.maps(width)
        behind.append(step)
    alike = all(transform.components is None for transform in outputs)
    if outputs and alike:
        behind.append(Reshape(network.output_shape))
    rounding = None if outputs else network.rounding  # in other units, outputs are no numbers of the module's precision
    if isinstance(network, OpaqueNetwork):
        module = nn.Sequential(*map(_StepModule, before), network.module, *map(_StepModule, behind)).eval()
        module.title = _title(network)
        shape = network.output_shape if alike else (width,)
        size = max(network.width, *latent, *shape)
        opaque = replace(network, module=module, latent_shape=latent, output_shape=shape, width=size)
        return cast(_Known, replace(opaque, rounding=rounding))
    chain = Network.chain([*before, *_parts(network), *behind], latent)
    return cast(_Known, replace(chain, rounding=rounding))


def _title(network: OpaqueNetwork) -> Any:
    return getattr(network.module, "title", type(network.module).__name__)


class _StepModule(nn.Module):
    """An affine step as a module, whose tensors are converted with those of other modules."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        for name, tensor in step.tensors().items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.step.mapped(lambda name, _: self.get_buffer(name)).apply(x)


class _Powers(nn.Module):
    """exp(factor x), and x itself where the factor is 0."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.factor == 0, x, torch.exp(self.factor * x))


# --- transforms from pairs and from fitted objects --------------------------------------------------------------------


def transforms(given: object, name: str) -> list[Transform]:
    """The transforms of a pair (mean, std), a fitted scaler or PCA of scikit-learn, or a pipeline of these.

    Fitted objects are recognised by their attributes. None of their methods is called.
    """
    if given is None or (isinstance(given, str) and given == "passthrough"):
        return []
    if isinstance(given, tuple | list):
        return [_standardised(*_pair(given, name, "mean, std"), name)]
    kind, held = type(given).__name__, getattr(given, "__dict__", {})
    if "steps" in held:
        return [t for step, part in held["steps"] for t in transforms(part, f"{name}, step {step!r}")]
    if "func" in held and held["func"] is None and held.get("inverse_func") is None:
        return []  # a FunctionTransformer that changes nothing
    if {"components_", "mean_", "explained_variance_"} <= held.keys():
        found = [_projected(held["components_"], held["mean_"], name)]
        if held.get("whiten"):  # coefficients are divided by their standard deviations
            variance = _vector(held["explained_variance_"], f"{name}: explained_variance_")
            found.append(_standardised(0.0, np.sqrt(variance), name))
        return found
    if {"min_", "scale_", "data_min_"} <= held.keys():  # u = scale_ x + min_
        if held.get("clip"):
            raise ModelError(f"{name}: {kind}(clip=True) is no affine map; fit it with clip=False")
        scale = _vector(held["scale_"], f"{name}: scale_")
        return [_standardised(-_vector(held["min_"], f"{name}: min_") / scale, 1 / scale, name)]
    for shift, flag in (("mean_", "with_mean"), ("center_", "with_centering"), ("max_abs_", "")):
        if {shift, "scale_"} <= held.keys():
            centre = held[shift] if flag and held.get(flag, True) else 0.0
            return [_standardised(centre, 1.0 if held["scale_"] is None else held["scale_"], name)]
    if hasattr(given, "fit"):
        raise ModelError(
            f"{name}: {kind} is not fitted, or no StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, PCA or "
            "Pipeline of these; pass a pair (mean, std)"
        )
    raise ModelError(f"{name} is a {kind}; pass a pair (mean, std), or a fitted scaler of scikit-learn")


def _scales_by_part(names: Names, given: Mapping[Any, Any]) -> Transform:
    n = math.prod(names.output_shape)
    mean, std = np.zeros(n), np.ones(n)
    for (place, pair), name in zip(_places(names, given, "output_scale"), given, strict=True):
        found = transforms(pair, f"output_scale[{name!r}]")
        if len(found) != 1 or (part := found[0]).std is None:
            raise ModelError(f"output_scale[{name!r}] must be a pair (mean, std), or one fitted scaler")
        for whole, own in ((mean, part.mean), (std, part.std)):
            if own.size not in (1, whole[place].size):
                raise ModelError(
                    f"{part.name} has {own.size} entries, the part has {whole[place].size}; pass as many, or one number"
                )
            whole[place] = own
    return Transform("output_scale", mean, std)


def _places(names: Names, given: Mapping[Any, Any], argument: str) -> list[tuple[slice, Any]]:
    """The places of parts in the flattened output, each with what is given of it."""
    if unknown := [name for name in given if str(name) not in names.parts]:
        named = f"those of the output are {', '.join(names.parts)}" if names.parts else "the output has none"
        raise ModelError(f"{argument} has the part {unknown[0]!r}; {named}")
    return [(names.places[str(name)], value) for name, value in given.items()]


def _basis(given: object) -> list[Transform]:
    if isinstance(given, tuple | list):
        return [_projected(*_pair(given, "output_basis", "components, mean"), "output_basis")]
    found = transforms(given, "output_basis")
    if given is not None and all(transform.components is None for transform in found):
        raise ModelError(
            f"output_basis is a {type(given).__name__}; pass a pair (components, mean) or a fitted PCA, and scalers as "
            "output_scale"
        )
    return found


def _pair(given: Sequence[Any], name: str, of: str) -> tuple[Any, Any]:
    if len(given) != 2:
        raise ModelError(f"{name} has {len(given)} entries; pass a pair ({of})")
    return given[0], given[1]


def _standardised(mean: object, std: object, name: str) -> Transform:
    shift, scale = _vector(mean, f"{name}: mean"), _vector(std, f"{name}: std")
    if (bad := np.flatnonzero(~(scale > 0))).size:
        raise ModelError(
            f"{name}: std has {bad.size} entries that are not positive, the first is std[{bad[0]}] = "
            f"{scale[bad[0]]:g}; use 1 for what does not vary"
        )
    return Transform(name, shift, scale)


def _projected(components: object, mean: object, name: str) -> Transform:
    matrix = _finite(components, f"{name}: components")
    return Transform(name, _vector(0.0 if mean is None else mean, f"{name}: mean"), components=matrix)


def _vector(value: object, name: str) -> Array:
    return _finite(value, name).reshape(-1)


def _finite(value: object, name: str) -> Array:
    try:
        array = numbers(value, name)  # type: ignore[arg-type] # checked there
    except InputError as error:
        raise ModelError(str(error)) from None
    check_finite(torch.from_numpy(array), name)
    return array

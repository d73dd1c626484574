"""Undo the standardisation of a network's inputs and outputs, by affine maps before and after its layers.

Emulators are often trained on standardised parameters, and on standardised spectra or coefficients of principal
components. This module undoes these transforms exactly. Codes and outputs are then in physical units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError, OptionError
from unrelu.models.activations import Activation
from unrelu.models.affine import Affine, Dense, Reshape, Scale, Step, check_finite
from unrelu.models.affine_head import HeadedChain
from unrelu.models.generator import Generator, NamedGenerator, WrappedGenerator, by, to_numpy
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import unchained
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array

_Given = TypeVar("_Given", bound=Generator)
_IDENTITY = Activation("identity")


class Transform(NamedTuple):
    """A transform u = (x - mean) / std, entry by entry, or u = C (x - mean), undone by x = mean + C^T u.

    Attributes:
        name: used in messages.
        map: the map from x to u: a :class:`Scale`, or a :class:`Dense` for components C with orthonormal rows.
        undone: the map from u to x.
    """

    name: str
    map: Step
    undone: Step

    @classmethod
    def scaled(cls, mean: object, std: object, name: str) -> Transform:
        """Make the first form, (x - mean) / std; mean and std have (n,) entries or one."""
        shift, scale = _numbers(mean, f"{name}: mean").reshape(-1), _numbers(std, f"{name}: std").reshape(-1)
        if bad := (~(scale > 0)).nonzero().reshape(-1).tolist():
            raise ModelError(
                f"{name}: std has {len(bad)} entries that are not positive, the first is std[{bad[0]}] = "
                f"{scale[bad[0]]:g}; use 1 for what does not vary"
            )
        if len({len(shift), len(scale)} - {1}) > 1:
            raise ModelError(f"{name}: mean has {len(shift)} entries and std {len(scale)}; pass as many, or one number")
        return cls(name, Scale(1 / scale, -shift / scale), Scale(scale, shift))

    @classmethod
    def projected(cls, components: object, mean: object, name: str) -> Transform:
        """Make the second form, C (x - mean)."""
        matrix = _numbers(components, f"{name}: components")
        shift = _numbers(0.0 if mean is None else mean, f"{name}: mean").reshape(-1)
        if matrix.dim() != 2 or len(shift) not in (1, matrix.shape[1]):
            raise ModelError(
                f"{name}: components have shape {tuple(matrix.shape)}, and mean {tuple(shift.shape)}; pass (m, n), (n,)"
            )
        shift = shift.broadcast_to(matrix.shape[1:]).contiguous()
        return cls(name, Dense(matrix, -matrix @ shift), Dense(matrix.T.contiguous(), shift))


def standardised(
    network: _Given, input_scale: object, output_scale: object, output_basis: object, output_log: object = None
) -> _Given:
    """Let the network take codes in physical units and return outputs in physical units.

    The arguments are those of :func:`unrelu.from_arrays`.

    Raises:
        ModelError: a transform is of an unknown kind, does not fit the network, or has a std that is not positive; or
            the base of ``output_log`` is not a positive number other than 1.
    """
    names = network.names
    if isinstance(output_basis, tuple | list):
        basis = [Transform.projected(*_pair(output_basis, "output_basis", "components, mean"), "output_basis")]
    else:
        basis = transforms(output_basis, "output_basis")
    outputs = [*basis, *transforms(output_scale, "output_scale")]
    power = () if output_log is None else _power(output_log)
    plain = surrounded(network.plain, transforms(input_scale, "input_scale"), outputs, power)
    called = names.coordinate_names if plain.latent_dim == names.latent_dim else ()
    parts = {} if any(isinstance(each.map, Dense) for each in outputs) else names.parts
    made = Names(plain.latent_shape, plain.output_shape, called, parts)
    return cast(_Given, NamedGenerator(plain, made) if called or parts else plain)


def meant_for(network: _Given, bounds: Mapping[str, Any] | None) -> _Given:
    """Set the domain of a generator, in the units of its codes, and name its coordinates if they have no names.

    Raises:
        InputError: ``bounds`` are not pairs of increasing numbers by name, or a name is unknown.
        OptionError: there are more or fewer of them than coordinates.
    """
    if bounds is None:
        return network
    names, given = network.names, list(bounds) if isinstance(bounds, Mapping) else []
    if not names.coordinate_names:
        if len(given) not in (0, names.latent_dim):
            raise OptionError(
                f"bounds= are of {len(given)} coordinates, and codes have {names.latent_dim}: state them for each, in "
                "the order in which the network takes them"
            )
        names = names.named(given) if given else names
    domain = Bounds.parse(bounds, names.latent_shape, names)
    plain: Any = network.plain
    return cast(_Given, NamedGenerator(replace(plain, domain=domain), names))


def before_scaling(domain: Bounds | None, input_scale: object) -> Bounds | None:
    """Convert the domain of codes to that of the network's own inputs; None if they are mixed, as by PCA."""
    maps = [each.map for each in transforms(input_scale, "input_scale")]
    if domain is None or not all(isinstance(step, Scale) for step in maps):
        return None
    ends = torch.tensor(np.stack(domain.ends))
    for step in maps:
        ends = step.apply(ends)
    return Bounds(*ends.numpy())


def surrounded(
    network: _Given, inputs: Sequence[Transform], outputs: Sequence[Transform],
    power: tuple[Scale, Activation] | tuple[()] = (),
) -> _Given:  # fmt: skip
    """Transform the inputs of a network, first to last, and undo the transforms of its outputs, last to first.

    The maps become part of the first and the last layer. If the last activation is not the identity, the maps after it
    form one more layer. A network without known layers is wrapped in a :class:`StandardisedGenerator`. If outputs are
    logarithms, ``power`` turns them into powers: it is the final scale and an exponential.
    """
    if not (inputs or outputs or power):
        return network
    latent = network.latent_shape
    before, behind = [each.map for each in inputs], [each.undone for each in reversed(outputs)]
    if inputs:
        dense = [step.weight.shape[1] for step in before if isinstance(step, Dense)]
        latent = (dense[0] if dense else network.latent_dim,)
        before.append(Reshape(network.latent_shape))
    if outputs:
        behind.insert(0, Reshape((network.output_dim,)))
        if not any(isinstance(step, Dense) for step in behind):
            behind.append(Reshape(network.output_shape))
    try:
        maps = Affine.compose(before, latent), Affine.compose([*behind, *power[:1]], network.output_shape)
    except ModelError as error:
        names = dict.fromkeys(each.name for each in (*inputs, *outputs))
        raise ModelError(
            f"{' or '.join(names)} does not fit {network!r}: pass one number, or one for each coordinate or output; "
            f"components are (m, n) for {network.output_dim} outputs of the network, m or, of inputs, n ({error})"
        ) from error
    if isinstance(network, Network):
        parts: list[Step | Activation] = []
        for layer in network.layers:
            parts += [*layer.affine.steps, layer.activation]
        own = parts[:-1] if network.layers[-1].activation.linear else parts
        chain = Network.chain([*before, *own, *behind, *power], latent)
        # In other units, outputs are no longer rounded to the module's precision.
        return cast(_Given, replace(chain, rounding=None if outputs or power else network.rounding))
    return cast(_Given, around(network, *maps, *power[1:]))


def _power(base: object) -> tuple[Scale, Activation]:
    """Return the scale and the activation that compute base^x = exp(x log(base))."""
    number = isinstance(base, int | float | np.integer | np.floating) and not isinstance(base, bool)
    try:
        factor = math.log(base) if number else math.nan  # type: ignore[arg-type]
    except ValueError:
        factor = math.nan
    if not (factor and math.isfinite(factor)):
        raise ModelError(
            f"output_log={base!r:.60} must be the base of the logarithms that the outputs are, such as 10: a positive "
            "number other than 1"
        )
    return _factor(factor), Activation("exp")


def _factor(value: float) -> Scale:
    return Scale(*(torch.tensor(each, dtype=torch.float64) for each in (value, 0.0)))


# --- transforms from pairs and from fitted objects --------------------------------------------------------------------


def transforms(given: object, name: str) -> list[Transform]:
    """Read the transforms from a pair (mean, std), a fitted scaler or PCA of scikit-learn, or a pipeline of these.

    Fitted objects are recognised by their attributes. None of their methods is called.
    """
    if given is None or (isinstance(given, str) and given == "passthrough"):
        return []
    if isinstance(given, tuple | list):
        return [Transform.scaled(*_pair(given, name, "mean, std"), name)]
    kind, held = type(given).__name__, getattr(given, "__dict__", {})
    if "steps" in held:
        return [t for step, part in held["steps"] for t in transforms(part, f"{name}, step {step!r}")]
    if "func" in held and held["func"] is None and held.get("inverse_func") is None:
        return []  # a FunctionTransformer that changes nothing
    if {"components_", "mean_", "explained_variance_"} <= held.keys():
        found = [Transform.projected(held["components_"], held["mean_"], name)]
        if held.get("whiten"):  # coefficients are divided by their standard deviations
            found.append(Transform.scaled(0.0, np.sqrt(held["explained_variance_"]), name))
        return found
    if {"min_", "scale_", "data_min_"} <= held.keys() and not held.get("clip"):  # u = scale_ x + min_
        return [Transform.scaled(-held["min_"] / held["scale_"], 1 / held["scale_"], name)]
    for shift, flag in (("mean_", "with_mean"), ("center_", "with_centering"), ("max_abs_", "")):
        if {shift, "scale_"} <= held.keys():
            centre = held[shift] if flag and held.get(flag, True) else 0.0
            return [Transform.scaled(centre, 1.0 if held["scale_"] is None else held["scale_"], name)]
    fitted = "is not fitted, clips, or is no" if hasattr(given, "fit") else "is no pair and no"
    raise ModelError(
        f"{name}: {kind} {fitted} StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, PCA or Pipeline of these; "
        "pass a pair (mean, std)"
    )


def _pair(given: Sequence[Any], name: str, of: str) -> tuple[Any, Any]:
    if len(given) != 2:
        raise ModelError(f"{name} has {len(given)} entries; pass a pair ({of})")
    return given[0], given[1]


def _numbers(value: object, name: str) -> Tensor:
    try:
        tensor = torch.from_numpy(numbers(value, name))  # type: ignore[arg-type] # checked there
    except InputError as error:
        raise ModelError(str(error)) from None
    check_finite(tensor, name)
    return tensor


# --- a generator without known layers -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class StandardisedGenerator(WrappedGenerator):
    r"""The generator x = :math:`\phi`\ (B G(A z + a) + b), for a generator G without known layers.

    Attributes:
        before: the map from z to A z + a, made of scales and matrices.
        behind: B and b.
        activation: phi, the identity or an exponential.
        domain: see :class:`Generator`.
    """

    before: Affine
    behind: Affine
    activation: Activation = _IDENTITY
    domain: Bounds | None = None

    def __post_init__(self) -> None:
        domain = self.domain
        super().__post_init__()
        held: dict[str, Any] = {  # a factor beyond the range of the dtype becomes its largest number
            name: affine.to(self.dtype, self.device).mapped(lambda _, tensor: torch.nan_to_num(tensor))
            for name, affine in (("before", self.before), ("behind", self.behind))
        }
        held |= {"latent_shape": self.before.in_shape, "output_shape": self.behind.out_shape, "domain": domain}
        if self.behind.steps or not self.activation.linear:
            held["rounding"] = None  # in other units, outputs are no longer rounded to the precision
        self._set(width=max(self.base.width, self.before.n_in, self.behind.n_out), **held)

    @property
    def reason(self) -> str:
        """Why the generator is not a chain of layers."""
        return str(unchained(self.base))

    @cached_property
    def headed(self) -> HeadedChain | None:
        below = self.base.headed
        scales = all(isinstance(step, Scale | Reshape) for step in self.behind.steps)
        if below is None or not below.heads or not scales or not self.activation.linear:
            return None
        one, axes = (torch.ones(1, self.output_dim), torch.eye(self.latent_dim))
        unit = to_numpy(self.behind.apply(one.to(self.dtype), constant=False)[0])
        shift, factor = self.before.bias(), to_numpy(self.before.apply(axes.to(self.dtype), constant=False).T)
        k = below.network.latent_dim
        own = factor[:k, factor[:k].any(axis=0)]
        if not own.size or (np.count_nonzero(factor, axis=1) > 1).any():  # codes are all fixed, or mixed
            return None
        network = on_scaled_codes(below.network, shift[:k], own if len(own.T) < k else np.diag(own))
        return below.in_units(network, shift[k:], factor[k:].sum(axis=1), unit)

    def smoothed(self, share: float, codes: Tensor | None = None) -> Generator:
        return super().smoothed(share, self.as_codes(self.typical_codes) if codes is None else codes)

    def inner(self, z: Tensor) -> Tensor:
        return self.before.apply(z)

    def outer(self, x: Tensor, z: Tensor) -> Tensor:
        return self.activation.forward(self.behind.apply(x))

    def along(self, x: Tensor, tangents: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        u, flat = self.behind.apply(x), self.behind.apply(tangents.flatten(0, 1), constant=False)
        x, tangents = self.activation.forward(u), torch.unflatten(flat, 0, tangents.shape[:2])
        if not self.activation.linear:
            tangents = tangents * self.activation.derivative(u, x)[:, None]
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
    network: Generator, before: Affine | None = None, behind: Affine | None = None,
    activation: Activation = _IDENTITY,
) -> StandardisedGenerator:  # fmt: skip
    """Wrap a copy of the network. The wrapper may be cached with the network, and must not keep it alive."""
    latent, shape = network.latent_shape, network.output_shape
    domain = None if before and before.steps else network.domain
    before, behind = before or Affine((), latent, latent), behind or Affine((), shape, shape)
    return StandardisedGenerator(copy(network), before, behind, activation, domain)


def on_scaled_codes(network: Generator, shift: Array, factor: Array, domain: Bounds | None = None) -> Generator:
    """Return G(shift + factor t) as a generator of t: a chain with a changed first layer, or a wrapper around a copy.

    Args:
        network: G.
        shift: (k,).
        factor: (k,), or a matrix (k, f) for fewer coordinates.
        domain: the domain of t, see :class:`~unrelu.Generator`.
    """
    shape, given = network.latent_shape, (torch.tensor(factor), torch.tensor(shift))
    latent = shape if factor.ndim == 1 else factor.shape[1:]
    before: list[Step] = [Scale(*(each.reshape(shape) for each in given)) if factor.ndim == 1 else Dense(*given)]
    if factor.ndim == 2 and len(shape) > 1:
        before.append(Reshape(shape))
    if not isinstance(network, Network):
        return replace(around(network, Affine.compose(before, latent)), domain=domain)
    first, *others = network.layers
    affine = Affine.compose([*before, *first.affine.steps], latent).to(network.dtype, network.device)
    layers = (replace(first, affine=affine), *others)
    return replace(network, layers=layers, latent_shape=latent, domain=domain)


def on_scaled_outputs(network: Generator, factor: float) -> Generator:
    """Multiply the outputs of a generator by a factor, in a wrapper around a copy."""
    return around(network, behind=Affine.compose([_factor(factor)], network.output_shape))

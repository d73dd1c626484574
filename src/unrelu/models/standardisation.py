"""Standardised inputs and outputs of a network, and outputs in a basis: affine maps before and after its layers.

Emulators are often trained on standardised parameters, and on standardised spectra or coefficients of principal
components. These transforms of training are undone here exactly, so that codes and outputs are in physical units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense, Reshape, Scale, Step, check_finite
from unrelu.models.generator import numbers
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array


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
    network: Network, input_scale: object, output_scale: object, output_basis: object, output_log: object = None
) -> Network:
    """Let the network take codes in physical units and return outputs in physical units.

    The arguments are those of :func:`unrelu.from_arrays`.

    Raises:
        ModelError: a transform is of an unknown kind, does not fit the network, or has a std that is not positive, or
            the base is no number above 0 other than 1.
    """
    base = None if output_log is None else _base(output_log)
    outputs = [*_basis(output_basis), *transforms(output_scale, "output_scale")]
    made = surrounded(network, transforms(input_scale, "input_scale"), outputs)
    if base is not None:
        factor = Scale(*(torch.tensor(value, dtype=torch.float64) for value in (math.log(base), 0.0)))
        made = Network.chain([*_parts(made), factor, Activation("exp")], made.latent_shape)
    named = network.coordinate_names and made.latent_dim == network.latent_dim
    return made.named(network.coordinate_names) if named else made


def _base(value: object) -> float:
    """The base of a logarithm."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < (base := float(value)) < math.inf or base == 1:  # type: ignore[arg-type]
        raise ModelError(
            f"output_log={value!r:.60} is the base of the logarithms that the outputs are; pass 10, or numpy.e"
        )
    return base


def _parts(network: Network) -> list[Step | Activation]:
    """The parts of a chain, without the identity at its end."""
    chain: list[Step | Activation] = []
    for layer in network.layers:
        chain += [*layer.affine.steps, layer.activation]
    return chain[:-1] if network.layers[-1].activation.linear else chain


def surrounded(network: Network, inputs: Sequence[Transform], outputs: Sequence[Transform]) -> Network:
    """The network with its inputs transformed, first to last, and the transforms of its outputs undone, last to first.

    The maps become part of the first and the last layer. If the last activation is not the identity, the maps after it
    form one more layer.
    """
    chain = _parts(network)
    latent, width = network.latent_shape, network.latent_dim
    if inputs:
        chain.insert(0, Reshape(latent))
    for transform in reversed(inputs):
        step, _, width = transform.maps(width)
        chain.insert(0, step)
        latent = (width,)
    if outputs:
        chain.append(Reshape((network.output_dim,)))
    width = network.output_dim
    for transform in reversed(outputs):
        _, step, width = transform.maps(width)
        chain.append(step)
    if outputs and all(transform.components is None for transform in outputs):
        chain.append(Reshape(network.output_shape))
    return Network.chain(chain, latent) if inputs or outputs else network


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

"""Standardised inputs and outputs of a network, and outputs in a basis: affine maps before and after its layers.

Emulators are trained on standardised parameters and on standardised spectra, or on coefficients of their principal
components. What the training did to a vector x is undone here exactly, so that codes and outputs are in physical units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense, Reshape, Scale, Step
from unrelu.models.generator import numbers
from unrelu.models.network import Network

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Standardised:
    """u = (x - mean) / std, entry by entry; both are (n,) or (1,). ``name`` is for messages."""

    name: str
    mean: Array
    std: Array

    def forward(self, width: int) -> tuple[Step, int]:
        """The map from x to u, of ``width`` entries, and the entries of x."""
        mean, std = self._full(width)
        return Scale(1 / std, -mean / std), width

    def inverse(self, width: int) -> tuple[Step, int]:
        """The map from u, of ``width`` entries, to x, and the entries of x."""
        mean, std = self._full(width)
        return Scale(std, mean), width

    def _full(self, width: int) -> tuple[Tensor, Tensor]:
        for what, values in (("mean", self.mean), ("std", self.std)):
            if values.size not in (1, width):
                raise ModelError(
                    f"{self.name}: {what} has {values.size} entries, the network has {width} there; pass as many, or "
                    "one number for all"
                )
        mean, std = (torch.from_numpy(np.broadcast_to(v, (width,)).copy()) for v in (self.mean, self.std))
        return mean, std


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """u = C (x - mean), undone by x = mean + C^T u; C is (m, n) with orthonormal rows, mean is (n,) or (1,)."""

    name: str
    components: Array
    mean: Array

    def forward(self, width: int) -> tuple[Step, int]:
        """The map from x to u, of ``width`` entries, and the entries of x."""
        components, mean = self._checked(width)
        return Dense(components, -components @ mean), len(mean)

    def inverse(self, width: int) -> tuple[Step, int]:
        """The map from u, of ``width`` entries, to x, and the entries of x."""
        components, mean = self._checked(width)
        return Dense(components.T.contiguous(), mean), len(mean)

    def _checked(self, width: int) -> tuple[Tensor, Tensor]:
        shape = self.components.shape
        if len(shape) != 2 or shape[0] != width or not shape[1]:
            raise ModelError(
                f"{self.name}: components have shape {shape}, the network has {width} entries there; pass "
                f"({width}, n), a row for each"
            )
        if self.mean.size not in (1, shape[1]):
            raise ModelError(
                f"{self.name}: the mean has {self.mean.size} entries, but components have shape {shape}; pass as many "
                "as these have columns"
            )
        return torch.from_numpy(self.components), torch.from_numpy(np.broadcast_to(self.mean, shape[1:]).copy())


Transform = Standardised | PrincipalComponents


def standardised(network: Network, input_scale: object, output_scale: object, output_basis: object) -> Network:
    """The network fed with the transforms of its codes, and the transforms of its outputs undone.

    See :func:`unrelu.from_arrays` for what each may be.

    Raises:
        ModelError: a transform is none that is known, has other sizes than the network, or a std that is not positive.
    """
    outputs = [*_basis(output_basis), *transforms(output_scale, "output_scale")]
    return surrounded(network, transforms(input_scale, "input_scale"), outputs)


def surrounded(network: Network, inputs: Sequence[Transform], outputs: Sequence[Transform]) -> Network:
    """The network after the transforms of a code, first to last, and before those of an output, undone last to first.

    The maps become part of the first and the last layer. Where the last activation is not the identity, what comes
    after it is one more layer.
    """
    chain: list[Step | Activation] = []
    for layer in network.layers:
        chain += [*layer.affine.steps, layer.activation]
    latent, width = network.latent_shape, network.latent_dim
    if inputs:
        chain.insert(0, Reshape(latent))
    for transform in reversed(inputs):
        step, width = transform.forward(width)
        chain.insert(0, step)
        latent = (width,)
    if outputs:
        if network.layers[-1].activation.linear:
            chain.pop()
        chain.append(Reshape((network.output_dim,)))
    width = network.output_dim
    for transform in reversed(outputs):
        step, width = transform.inverse(width)
        chain.append(step)
    if outputs and all(isinstance(transform, Standardised) for transform in outputs):
        chain.append(Reshape(network.output_shape))
    return Network.chain(chain, latent) if inputs or outputs else network


# --- what a user has --------------------------------------------------------------------------------------------------


def transforms(given: object, name: str) -> list[Transform]:
    """The transforms of a pair (mean, std), a fitted scaler or PCA of scikit-learn, or a pipeline of these.

    They are known by the attributes that fitting gives them. Nothing of the object is called.
    """
    if given is None or (isinstance(given, str) and given == "passthrough"):
        return []
    if isinstance(given, tuple | list):
        if len(given) != 2:
            raise ModelError(f"{name} has {len(given)} entries; pass a pair (mean, std)")
        return [_standardised(given[0], given[1], name)]
    kind, held = type(given).__name__, getattr(given, "__dict__", {})
    if "steps" in held:
        return [t for step, part in held["steps"] for t in transforms(part, f"{name}, step {step!r}")]
    if "func" in held and held["func"] is None and held.get("inverse_func") is None:
        return []  # a FunctionTransformer that changes nothing
    if {"components_", "mean_", "explained_variance_"} <= held.keys():
        return _components(held, name)
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


def _components(held: dict[str, Any], name: str) -> list[Transform]:
    """A PCA; whitening divides its coefficients by their standard deviations."""
    found: list[Transform] = [_projected(held["components_"], held["mean_"], name)]
    if held.get("whiten"):
        variance = _vector(held["explained_variance_"], f"{name}: explained_variance_")
        found.append(_standardised(0.0, np.sqrt(variance), name))
    return found


def _basis(given: object) -> list[Transform]:
    if given is None:
        return []
    if isinstance(given, tuple | list):
        if len(given) != 2:
            raise ModelError(f"output_basis has {len(given)} entries; pass a pair (components, mean)")
        return [_projected(given[0], given[1], "output_basis")]
    found = transforms(given, "output_basis")
    if not any(isinstance(transform, PrincipalComponents) for transform in found):
        raise ModelError(
            f"output_basis is a {type(given).__name__}; pass a pair (components, mean) or a fitted PCA, and scalers as "
            "output_scale"
        )
    return found


def _standardised(mean: object, std: object, name: str) -> Standardised:
    shift, scale = _vector(mean, f"{name}: mean"), _vector(std, f"{name}: std")
    if (bad := np.flatnonzero(~(scale > 0))).size:
        raise ModelError(
            f"{name}: std has {bad.size} entries that are not positive, the first is std[{bad[0]}] = "
            f"{scale[bad[0]]:g}; use 1 for what does not vary"
        )
    return Standardised(name, shift, scale)


def _projected(components: object, mean: object, name: str) -> PrincipalComponents:
    matrix = _finite(components, f"{name}: components")
    return PrincipalComponents(name, matrix, _vector(0.0 if mean is None else mean, f"{name}: mean"))


def _vector(value: object, name: str) -> Array:
    return _finite(value, name).reshape(-1)


def _finite(value: object, name: str) -> Array:
    try:
        array = numbers(value, name)  # type: ignore[arg-type] # checked there
    except InputError as error:
        raise ModelError(str(error)) from None
    if bad := int((~np.isfinite(array)).sum()):
        raise ModelError(f"{name} has {bad} entries that are NaN or infinite")
    return array

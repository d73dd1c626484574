r"""Equilibration: rescale a network to normalised units, in which the outputs of its layers are about 1.

Squares of weights above 1e154 overflow, squares of weights below 1e-154 underflow, and tolerances suit a certain range.
A result must not depend on the units. For a ReLU, LeakyReLU, PReLU or identity, phi(s u) = s phi(u) for s > 0. With one
factor s_i for the output of each layer and s_0 = 1 for the code,

.. math:: W_i' = \frac{s_i}{s_{i-1}} W_i, \quad b_i' = s_i b_i, \qquad
          A' = \frac{s_y}{s_d} A, \quad y' = s_y y, \quad e' = s_y e

is therefore the same problem with the same codes. The factors are powers of two, so that nothing is rounded. The factor
is 1 if the outputs of a layer are about 1 already, so most networks do not change. It is also 1 after a sigmoid or
tanh, whose outputs have a fixed range. The steepness of a swish is divided by s. After an exp, s is applied by adding
log s to the bias, which is rounded. In a generator without known layers, only the output has a factor.

Source: the rescaling symmetry of positively homogeneous networks (Neyshabur, Salakhutdinov and Srebro, "Path-SGD",
2015); powers of two as in LAPACK's equilibration routines ``geequb``.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import ModelError
from unrelu.measurements.latent_bounds import Coordinates, GeneratorInUnits
from unrelu.measurements.linear_operators import IdentityOperator, Operator, times_power
from unrelu.models.affine import Affine, Scale
from unrelu.models.generator import Generator
from unrelu.models.network import Layer, Network
from unrelu.runtime.array_types import Array

# Sizes from 2^-10 to 2^10 (about 1/1000 to 1000) are not rescaled.
_LEFT = 10
# The largest exponent of a factor: 2^1000, its inverse and their products with rounding errors are finite numbers.
_LARGEST = 1000

# The most multiplications that finding the sizes of layers may cost, and the fewest codes that it takes.
_MULTIPLICATIONS, _FEWEST_CODES = 2**28, 2


@dataclass(frozen=True)
class Units:
    """The units of a rescaled problem, as exponents of two: user's number = number / 2^exponent.

    Attributes:
        layers: exponents e of the factors s_i = 2^e of the layers, (d,); empty if the layers are not known.
        output: the exponent of s_d, of outputs x.
        data: the exponent of s_y, of observations y.
        latent: the coordinates that are searched in place of codes with bounds; else None.
    """

    layers: tuple[int, ...] = ()
    output: int = 0
    data: int = 0
    latent: Coordinates | None = None

    def codes(self, z: np.ndarray) -> np.ndarray:
        """Convert codes of a problem in these units to the user's codes, (..., k)."""
        return z if self.latent is None else self.latent.codes(z)

    def layer(self, depth: int) -> int:
        """The exponent of the output of a layer, counted from 1."""
        return self.layers[depth - 1] if self.layers else 0


class Equilibrated(NamedTuple):
    """G' and A', and the units that they are in."""

    network: Generator
    operator: Operator
    units: Units


def equilibrate(network: Generator, operator: Operator | None = None) -> Equilibrated:
    """Rescale the network and the operator to normalised units; they are returned as they are if they need none.

    Args:
        network: G. Its rescaled form is cached as long as G lives.
        operator: A; None measures the whole output.

    Raises:
        ModelError: the network was converted to single precision, and has weights beyond its range.
    """
    if network not in _known:
        layers, output = _factors(network)
        _known[network] = layers, output, _in_units(network, layers, output) if any(layers) or output else None
    layers, output, rescaled = _known[network]
    network = rescaled or network
    operator = operator or IdentityOperator(network.output_shape)
    data = output
    if not operator.selects:
        typical = network.typical_outputs  # those of the middle sizes: others may be any power of these
        middle = np.argsort(np.abs(typical).max(axis=1))[len(typical) // 2 - 1 :][:2]
        data = _measured_exponent(operator, np.ldexp(typical[middle], -output), output)
        operator = operator.in_units(-output, data)
    return Equilibrated(network, operator, Units(layers, output, data))


def _measured_exponent(operator: Operator, x: Array, output: int) -> int:
    """The exponent of the factor that makes measurements of typical outputs x about 1; weights are included.

    Step lengths and the Gaussian surrogate are made for measurements of the size of outputs.
    """
    weights, inner = operator.weights(max(1, operator.count)), operator.unweighted
    if weights is None:
        return _exponent(_log_size(operator.values(x)), output)
    size = _log_size(weights)
    measured = output if inner.selects else _measured_exponent(inner, x, output)
    return measured if size is None else max(-_LARGEST, min(_LARGEST, measured - round(size)))


# By network: the exponents of its layers and its output, and the rescaled network, or None if it needs no rescaling.
_known: weakref.WeakKeyDictionary[Generator, tuple[tuple[int, ...], int, Generator | None]]
_known = weakref.WeakKeyDictionary()


# --- the factors ------------------------------------------------------------------------------------------------------


def _factors(network: Generator) -> tuple[tuple[int, ...], int]:
    """Return the exponents of the factors of the layers and of the output."""
    if not isinstance(network, Network):
        return (), _exponent(_log_size(network.typical_outputs), 0)
    exact = network.to(torch.float64, "cpu")
    x = torch.from_numpy(network.typical_codes[: max(_FEWEST_CODES, _MULTIPLICATIONS // max(1, network.work))])
    exponents: list[int] = []
    for i, layer in enumerate(exact.layers, 1):
        before = exponents[-1] if exponents else 0
        scaled = before if layer.activation.scalable else 0
        rescaled = _layer_in_units(layer, before, scaled)
        u = rescaled.affine.apply(x)  # numbers of the size of the weights
        if not u.isfinite().all():
            raise ModelError(
                f"layer {i} of {len(exact.layers)} gives numbers that are not finite. Its weights may be beyond the "
                "range of the precision that the network was converted to: keep it in torch.float64. Or an exp before "
                "it overflows at typical codes: state bounds= of codes"
            )
        x = rescaled.activation.forward(u)
        size = _log_size(u.numpy()) if layer.activation.scalable else _log_size_of_powers(u)
        chosen = 0 if size is None or layer.activation.bounded else _exponent(size - scaled, 0)
        exponents.append(chosen)
        x = times_power(x, chosen - scaled)
    return tuple(exponents), exponents[-1]


def _exponent(log_size: float | None, otherwise: int) -> int:
    """The exponent of the factor that makes numbers of this size about 1."""
    if log_size is None:
        return otherwise
    return 0 if abs(log_size) <= _LEFT else max(-_LARGEST, min(_LARGEST, -round(log_size)))


def _log_size(x: np.ndarray) -> float | None:
    """log2 of the root mean square; None if it is 0 or not finite."""
    largest = float(np.abs(x).max(initial=0.0))
    if not 0 < largest < math.inf:
        return None
    scale = math.frexp(largest)[1]
    return scale + 0.5 * math.log2(float(np.square(np.ldexp(x, -scale)).mean()))


def _log_size_of_powers(u: Tensor) -> float:
    """log2 of the root mean square of exp(u), (B, n), at the median code: at others it may be any power larger."""
    return float((torch.logsumexp(2 * u, dim=1) - math.log(u.shape[1])).median()) / (2 * math.log(2))


# --- rescaling --------------------------------------------------------------------------------------------------------


def _in_units(network: Generator, layers: tuple[int, ...], output: int) -> Generator:
    if not isinstance(network, Network):
        return GeneratorInUnits.of(network, exponent=output)
    pairs = zip(network.layers, (0, *layers), layers, strict=False)
    return replace(network, layers=tuple(_layer_in_units(*pair) for pair in pairs))


def _layer_in_units(layer: Layer, before: int, after: int) -> Layer:
    """The layer for inputs that are multiplied by 2^before and outputs that are multiplied by 2^after."""
    if not (before or after):
        return layer
    if after and not layer.activation.scalable:
        affine = _layer_in_units(layer, before, 0).affine  # 2^n exp(u) = exp(u + n log 2)
        shift = Scale(*(_like(affine).new_tensor(value) for value in (1.0, after * math.log(2))))
        return replace(layer, affine=Affine.compose([*affine.steps, shift], affine.in_shape))
    linear = after - before

    def change(name: str, value: Tensor) -> Tensor:
        nonlocal linear
        if name in ("bias", "shift"):
            return times_power(value, after)
        factor, linear = linear, 0  # the first step of a product has the factor
        return times_power(value, factor)

    affine = layer.affine.mapped(change)
    if linear:
        first = Scale(*(_like(affine).new_tensor(value) for value in (2.0**linear, 0.0)))
        affine = replace(affine, steps=(first, *affine.steps))
    return Layer(affine, layer.activation.scaled(after) if after else layer.activation)


def _like(affine: Affine) -> Tensor:
    """A tensor of the type and on the device of a map's tensors."""
    held = (tensor for step in affine.steps for tensor in step.tensors().values())
    return next(held, torch.empty(0, dtype=torch.float64))

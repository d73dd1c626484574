r"""Working units: codes are about N(0, I); layer outputs and observations are about 1. Only this module changes units.

**Codes.** Searches expect codes that are about N(0, I), but the parameters of an emulator have physical units: a
temperature of 4,000 to 8,000, say, and an abundance of -2.5 to 0.5. If both bounds of a coordinate are finite, then t
with

.. math:: z_j = \frac{l_j + u_j}{2} + \frac{u_j - l_j}{\sqrt{12}} \, t_j, \qquad |t_j| \le \sqrt 3,

has mean 0 and variance 1 for z uniform between the bounds. With a prior z_j ~ N(mean, std^2), whether there are bounds
or not, t_j = (z_j - mean) / std.

**Outputs.** Squares of weights above 1e154 overflow, squares of weights below 1e-154 underflow, and tolerances are
chosen for numbers of about 1. A ReLU, LeakyReLU, PReLU or identity has phi(s u) = s phi(u) for s > 0. With one factor
s_i for the output of each layer and s_0 = 1 for the code,

.. math:: W_i' = \frac{s_i}{s_{i-1}} W_i, \quad b_i' = s_i b_i, \qquad
          A' = \frac{s_y}{s_d} A, \quad y' = s_y y, \quad e' = s_y e

is therefore the same problem with the same codes. The factors are powers of two, so nothing is rounded. A factor is 1
where outputs are about 1 already, and after a sigmoid or tanh, whose outputs have a fixed range. The steepness of a
swish is divided by s. For an exp, log s is added to the bias, and this sum is rounded. In a generator without known
layers, only the output has a factor.

Source: the rescaling symmetry of positively homogeneous networks (Neyshabur, Salakhutdinov and Srebro, "Path-SGD",
2015); powers of two as in LAPACK's equilibration routines ``geequb``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError
from unrelu.measurements.operators import IdentityOperator, Operator, times_power
from unrelu.models.affine import Affine, Scale
from unrelu.models.generator import Generator
from unrelu.models.network import Layer, Network
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Array
from unrelu.wrappers.standardisation import on_scaled_codes, on_scaled_outputs

# Half the length of an interval on which a uniform variable has variance 1.
_HALF_LENGTH = math.sqrt(3.0)
# Sizes from 2^-10 to 2^10 (about 1/1000 to 1000) are not rescaled.
_UNCHANGED_EXPONENT = 10
# The largest exponent of a factor: 2^1000, its inverse and their products with rounding errors are finite numbers.
_LARGEST_EXPONENT = 1000
# Layer sizes are found with at most this many multiplications, but with at least this many codes.
_MULTIPLICATIONS, _FEWEST_CODES = 2**28, 2


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The substitution z = shift + factor t for the free coordinates, with the bounds of z and t.

    Attributes:
        shift, factor: (f,), for the f free coordinates of z.
        of_codes, standard: the bounds of z, (k,), and of t, (f,).
    """

    shift: Array
    factor: Array
    of_codes: Bounds
    standard: Bounds

    @classmethod
    def of(cls, bounds: Bounds, prior: Normal | None = None, weight: float = 0.0) -> Coordinates | None:
        """Choose coordinates t that standardise the prior, or uniform codes between two bounds; None for t = z.

        Args:
            bounds: the bounds of z.
            prior: the prior distribution of z, with arrays (k,). Where it is flat, bounds decide.
            weight: a prior that is a weight of |z|^2; bounded codes then stay as they are.

        Raises:
            InputError: all coordinates are fixed, or bounds in standard deviations exceed the range of numbers.
        """
        if bounds.none and (prior is None or prior.standard):
            return None
        if bounds.fixed.all():
            raise InputError("fixed: all coordinates have a value, so that nothing is left to find; leave one free")
        whole, bounds = bounds, bounds.free
        boxed = bounds.uniform & (prior is not None or not weight)
        prior = (prior or Normal(0.0, math.inf)).subset(~whole.fixed)
        proper = np.broadcast_to(prior.proper, boxed.shape)
        cases, low, high = [proper, boxed], bounds.lower, bounds.upper
        with np.errstate(invalid="ignore", over="ignore"):
            shift = np.select(cases, [prior.mean, low + 0.5 * (high - low)], 0.0)
            factor = np.select(cases, [prior.std, (high - low) / (2 * _HALF_LENGTH)], 1.0)
            lower = np.select(cases, [(low - shift) / factor, np.asarray(-_HALF_LENGTH)], low)
            upper = np.select(cases, [(high - shift) / factor, np.asarray(_HALF_LENGTH)], high)
        lost = proper & (
            ~(lower < upper) | (np.isinf(lower) & np.isfinite(low)) | (np.isinf(upper) & np.isfinite(high))
        )
        if lost.any():
            j = int(np.argmax(lost))
            raise InputError(
                f"bounds: {bounds.called(j)} is between {low[j]:g} and {high[j]:g}, which are {lower[j]:g} and "
                f"{upper[j]:g} standard deviations from the mean of prior={prior}: too far to compute with; state a "
                "prior of the size of the bounds"
            )
        return cls(shift, factor, whole, Bounds(lower, upper, normal=proper | bounds.normal))

    def codes(self, t: Array) -> Array:
        """Convert t (..., f) to codes z, exactly within the bounds, and exactly at a bound if t is at one."""
        bounds = self.of_codes.free
        z = bounds.clip(self.shift + self.factor * t)
        z = np.where(t == self.standard.lower, bounds.lower, z)
        return self.of_codes.with_free(np.where(t == self.standard.upper, bounds.upper, z))

    def coordinates(self, z: Array) -> Array:
        """Convert codes z (..., k) to t."""
        bounds, z = self.of_codes.free, z[..., ~self.of_codes.fixed]
        t = self.standard.clip((z - self.shift) / self.factor)
        t = np.where(z == bounds.lower, self.standard.lower, t)
        return np.where(z == bounds.upper, self.standard.upper, t)


@dataclass(frozen=True, eq=False)
class WorkingUnits:
    """Working units, which convert numbers from and to the user's units.

    Codes are z = shift + factor t. A number in the user's units is the number in working units divided by 2^exponent.

    Attributes:
        latent: the coordinates t that are searched in place of codes; None if codes are searched.
        layers: exponents e of the factors s_i = 2^e of the layers, (d,); empty if the layers are not known.
        output: the exponent of the factor s_d for outputs x.
        data: the exponent of the factor s_y for observations y.
    """

    latent: Coordinates | None = None
    layers: tuple[int, ...] = ()
    output: int = 0
    data: int = 0

    def codes(self, t: Array) -> Array:
        """Convert t in working units to the user's codes z (..., k)."""
        return t if self.latent is None else self.latent.codes(t)

    def coordinates(self, z: Array) -> Array:
        """Convert the user's codes z (..., k) to t in working units."""
        return z if self.latent is None else self.latent.coordinates(z)

    def outputs(self, x: Array) -> Array:
        """Convert outputs of any shape from working units to the user's units."""
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(x, -self.output)

    def measured(self, value: Array, power: int = 1) -> Array:
        """Convert numbers of y^power from working units to the user's units."""
        return self.scaled(value, -power)

    def scaled(self, value: Array | float, power: int = 1) -> Array:
        """Convert numbers of y^power from the user's units to working units."""
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(np.ldexp(value, power * self.data))

    @property
    def rescaled(self) -> bool:
        """Whether outputs of layers or of the generator have other units than the user's."""
        return bool(self.output or any(self.layers))

    def of_outputs(self, network: Generator) -> Generator:
        """Convert a generator: codes keep the user's units, and outputs, also of layers, get working units."""
        if not self.rescaled:
            return network
        if isinstance(network, Network):
            pairs = zip(network.layers, (0, *self.layers), self.layers, strict=False)
            return replace(network, layers=tuple(_layer_in_units(*pair) for pair in pairs))
        return on_scaled_outputs(network, 2.0**self.output)


class InUnits(NamedTuple):
    """A generator G' and an operator A' in working units, with these units."""

    network: Generator
    operator: Operator
    units: WorkingUnits


def in_working_units(
    network: Generator, operator: Operator | None = None, latent: Coordinates | None = None, scaled: bool = True
) -> InUnits:
    """Convert a network and an operator to working units. If these are the user's units, return both unchanged.

    Args:
        network: G.
        operator: A; None measures the whole output.
        latent: the coordinates that are searched in place of codes.
        scaled: whether outputs may have another unit; counts have a fixed unit.

    Raises:
        ModelError: the network was converted to single precision, and has weights beyond its range.
    """
    network = network if latent is None else on_coordinates(network, latent)
    operator = operator or IdentityOperator(network.output_shape)
    if not scaled:
        return InUnits(network, operator, WorkingUnits(latent))
    units = network.once("working units", lambda: _units_of(network))
    if units.rescaled:
        network = network.once("in working units", lambda: units.of_outputs(network))
    data = output = units.output
    if not operator.selects:
        typical = network.typical_outputs  # two of median size: others may be any power of it
        middle = np.argsort(np.abs(typical).max(axis=1))[len(typical) // 2 - 1 :][:2]
        data = _measured_exponent(operator, units.outputs(typical[middle]), output)
        operator = operator.in_units(-output, data)
    return InUnits(network, operator, replace(units, latent=latent, data=data))


def on_coordinates(network: Generator, latent: Coordinates) -> Generator:
    """Return G(shift + factor t) as a generator of t. The same coordinates give the same object."""
    bounds, standard = latent.of_codes, latent.standard
    key = b"".join(
        a.tobytes() for a in (latent.shift, latent.factor, bounds.lower, bounds.upper, np.asarray(standard.normal))
    )

    def made() -> Generator:
        factor = bounds.with_free(np.diag(latent.factor), 0.0).T if bounds.fixed.any() else latent.factor
        return on_scaled_codes(network, bounds.with_free(latent.shift), factor, standard)

    return network.once("on coordinates", made, key)


def searched(network: Generator, bounds: Bounds, prior: float | Normal = 0.0) -> Generator:
    """Return the generator on the searched coordinates. Its typical outputs come from codes within the bounds."""
    normal = prior.of_names(network.names) if isinstance(prior, Normal) else None
    latent = Coordinates.of(bounds, normal, 0.0 if isinstance(prior, Normal) else prior)
    return network.plain if latent is None else on_coordinates(network.plain, latent)


# --- the factors ------------------------------------------------------------------------------------------------------


def _measured_exponent(operator: Operator, x: Array, output: int) -> int:
    """Return the exponent of the factor that makes weighted measurements of typical outputs x about 1.

    Step lengths and the Gaussian surrogate are designed for measurements of about the size of outputs.
    """
    weights, inner = operator.weights(max(1, operator.count)), operator.unweighted
    if weights is None:
        return _exponent(_log_size(operator.values(x)), output)
    size = _log_size(weights)
    measured = output if inner.selects else _measured_exponent(inner, x, output)
    return measured if size is None else max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, measured - round(size)))


def _units_of(network: Generator) -> WorkingUnits:
    """Find the units in which typical outputs of the layers are about 1."""
    if not isinstance(network, Network):
        output = _exponent(_log_size(network.typical_outputs), 0)
        return WorkingUnits(output=output, data=output)
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
    return WorkingUnits(layers=tuple(exponents), output=exponents[-1], data=exponents[-1])


def _exponent(log_size: float | None, otherwise: int) -> int:
    """Return the exponent of the factor that makes numbers of this size about 1; ``otherwise`` if the size is None."""
    if log_size is None:
        return otherwise
    near = abs(log_size) <= _UNCHANGED_EXPONENT
    return 0 if near else max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, -round(log_size)))


def _log_size(x: Array) -> float | None:
    """Compute log2 of the root mean square; None if it is 0 or not finite."""
    largest = float(np.abs(x).max(initial=0.0))
    if not 0 < largest < math.inf:
        return None
    scale = math.frexp(largest)[1]
    return scale + 0.5 * math.log2(float(np.square(np.ldexp(x, -scale)).mean()))


def _log_size_of_powers(u: Tensor) -> float:
    """Compute log2 of the root mean square of exp(u), (B, n), at the median code.

    At other codes, it may be larger by any power.
    """
    return float((torch.logsumexp(2 * u, dim=1) - math.log(u.shape[1])).median()) / (2 * math.log(2))


# --- generators in other units ----------------------------------------------------------------------------------------


def _layer_in_units(layer: Layer, before: int, after: int) -> Layer:
    """Convert a layer to inputs that are multiplied by 2^before and outputs that are multiplied by 2^after."""
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
    """Return a tensor with the type and the device of the map's tensors."""
    held = (tensor for step in affine.steps for tensor in step.tensors().values())
    return next(held, torch.empty(0, dtype=torch.float64))

r"""What is certified: a chain of dense piecewise linear layers, and the errors of its outputs.

.. math:: u_l = W_l h_{l-1} + b_l, \quad h_l = \phi_l(u_l), \quad h_0 = z, \qquad err_j(v) = |y_j - \phi_d(v)|

where v = u_d is the last pre-activation and phi(u) = max(u, 0) + c min(u, 0), 0 <= c <= 1. A measurement that mixes
outputs is one more layer, with c = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from unrelu.errors import UnsupportedModelError
from unrelu.measurements import Operator
from unrelu.measurements.folding import FoldedChain
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Array, Flags, Integers
from unrelu.runtime.memory_limits import PROOF_NUMBERS
from unrelu.thresholds import EXACT_FIT_TOLERANCE

# The signs of neurons, (N,); 0 where the sign is not decided.
Signs = npt.NDArray[np.int8]

# A coordinate this near to a bound, relative to the distance of the bounds, is at the bound.
_AT_BOUND = 1e-10


@dataclass(frozen=True, eq=False)
class CertifiedChain:
    """One observation of a network.

    Attributes:
        weights, biases: W_l (n_l, n_{l-1}) and b_l (n_l,), for l = 1 ... d.
        slopes: c of every neuron, (n_l,) for each layer.
        y: the observation, (n_d,).
        norm: "linf" (the largest error) or "l1" (the sum of errors).
        bounds: bounds of the codes considered, with two finite ends for every coordinate; None for all codes.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    slopes: tuple[Array, ...]
    y: Array = field(repr=False)
    norm: str
    bounds: Bounds | None = None

    @property
    def depth(self) -> int:
        """d, the number of layers."""
        return len(self.weights)

    @property
    def latent_dim(self) -> int:
        """k, the number of latent coordinates."""
        return int(self.weights[0].shape[1])

    @cached_property
    def scale(self) -> float:
        """The largest size of the observed numbers, max|y|."""
        return float(np.abs(self.y).max(initial=0.0))

    @cached_property
    def frame(self) -> tuple[Array, Array]:
        """The center of the bounds, and units of about half their lengths, (k,) each; 0 and 1 without bounds.

        Linear programs have the unknowns t with z = center + unit t, so that their tolerances mean the same in every
        coordinate. The units are powers of two, so multiplying by them is exact.
        """
        if self.bounds is None:
            return np.zeros(self.latent_dim), np.ones(self.latent_dim)
        half = 0.5 * self.bounds.upper - 0.5 * self.bounds.lower
        return self.bounds.lower + half, np.ldexp(1.0, np.frexp(half)[1])

    def at_bounds(self, z: Array) -> Array:
        """Move a code into the bounds, and exactly to a bound if it is there up to rounding."""
        if self.bounds is None:
            return z
        lower, upper, near = self.bounds.lower, self.bounds.upper, _AT_BOUND * self.frame[1]
        return self.bounds.clip(np.where(z <= lower + near, lower, np.where(z >= upper - near, upper, z)))

    @cached_property
    def ends(self) -> Integers:
        """The ends of the layers when neurons of all layers are numbered consecutively, beginning with 0, (d + 1,)."""
        return np.concatenate([[0], np.cumsum([len(b) for b in self.biases])]).astype(np.int64)

    def neurons(self, layer: int) -> slice:
        """Return the numbers of the neurons in a layer; layers are counted from 0, and -1 is the last one."""
        layer %= self.depth
        return slice(int(self.ends[layer]), int(self.ends[layer + 1]))

    @cached_property
    def bent(self) -> Flags:
        """Which neurons have a kink that matters, (N,): all hidden neurons with c < 1.

        For "l1" also outputs whose error is not convex: those with y > 0 and c < 1.
        """
        parts = [slope < 1 for slope in self.slopes]
        last = self.slopes[-1] < 1
        parts[-1] = last & (self.y > 0) if self.norm == "l1" else np.zeros_like(last)
        return np.concatenate(parts)

    def in_units(self, exponents: Sequence[int]) -> CertifiedChain | None:
        """Multiply the outputs of layer l, and y with those of the last layer, by 2^exponents[l].

        None if a number would be rounded, because a proof for a rounded chain does not hold for this one. None also if
        there is not one exponent for each layer.
        """
        if len(exponents) != self.depth:
            return None
        steps = np.diff([0, *exponents])
        numbers, powers = [*self.weights, *self.biases, self.y], [*steps, *exponents, exponents[-1]]
        with np.errstate(over="ignore", under="ignore"):
            scaled = [np.ldexp(a, power) for a, power in zip(numbers, powers, strict=True)]
            back = [np.ldexp(a, -power) for a, power in zip(scaled, powers, strict=True)]
        if not all(map(np.array_equal, back, numbers)):
            return None
        return replace(self, weights=tuple(scaled[: self.depth]), biases=tuple(scaled[self.depth : -1]), y=scaled[-1])

    def outputs(self, layer: int, u: Array) -> Array:
        """Compute phi(u) for a layer, counted from 0."""
        return np.where(u > 0, u, self.slopes[layer] * u)

    def pre_activations(self, z: Array) -> list[Array]:
        """Compute u_1 ... u_d at a code (k,)."""
        h, values = z, []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values.append(weight @ h + bias)
            h = self.outputs(layer, values[-1])
        return values

    def errors(self, v: Array) -> Array:
        """Compute |y - phi(v)| for the last pre-activations v, (n_d,)."""
        return np.abs(self.y - self.outputs(-1, v))

    def objective(self, z: Array) -> float:
        """Compute F(z), the largest error or the sum of errors."""
        errors = self.errors(self.pre_activations(z)[-1])
        return float(errors.max(initial=0.0) if self.norm == "linf" else errors.sum())

    def exact(self, z: Array) -> bool:
        """Check whether z fits exactly: F(z) is at most 1e-8 max|y|, or at most the rounding error of the outputs."""
        h = self.outputs(-2, self.pre_activations(z)[-2]) if self.depth > 1 else z
        size = np.abs(self.weights[-1]) @ np.abs(h) + np.abs(self.biases[-1])
        rounding = 2.0**-50 * float(size.max(initial=0.0) if self.norm == "linf" else size.sum())
        return self.objective(z) <= max(EXACT_FIT_TOLERANCE * self.scale, rounding)


def obstacle(network: Generator) -> str | None:
    """Say why a generator cannot be certified, in a clause; None if it can."""
    if not isinstance(network, Network):
        return "its layers are not known"
    for i, layer in enumerate(network.layers, 1):
        if layer.activation.smooth:
            return f"layer {i} ends in {layer.activation}; only ReLU, LeakyReLU and identity are piecewise linear"
        if layer.activation.width > 0:
            return f"layer {i} has its kinks rounded off; certify the network before it was smoothed"
        if not layer.activation.convex:
            return f"layer {i} has slopes outside [0, 1], so that its activation is not convex"
        if layer.n_in * layer.n_out > PROOF_NUMBERS:
            return f"layer {i} has a matrix of {layer.n_out} x {layer.n_in}, too large for dense linear programs"
    return None


def certifiable(network: Generator, operator: Operator) -> Network:
    """Return the network if it can be certified.

    Raises:
        UnsupportedModelError: an activation is not piecewise linear and convex, a layer is too large, or the
            measurement is not linear.
    """
    reason = obstacle(network)
    if not operator.linear:
        raise UnsupportedModelError(
            f"{operator.unweighted.refused}: what is certified is a minimum over piecewise linear layers, so pass a "
            "linear measurement as a matrix, a mask or a pair of functions"
        )
    if reason or not isinstance(network, Network):
        raise UnsupportedModelError(
            f"this network cannot be certified: {reason}; unrelu.invert judges its codes by p-value and confidence"
        )
    return network


def chain_of(
    network: Generator, operator: Operator, y: Array, norm: str, bounds: Bounds | None = None
) -> CertifiedChain:
    """Build the chain of one observation (m,), without entries hidden by a mask.

    Raises:
        UnsupportedModelError: see :func:`certifiable`.
    """
    layers, y = FoldedChain(certifiable(network, operator), operator, y[None], exact=True).of(0)
    weights = tuple(np.ascontiguousarray(layer.dense) for layer in layers)
    slopes = tuple(layer.activation.slopes(len(layer.bias)) for layer in layers)
    return CertifiedChain(weights, tuple(layer.bias for layer in layers), slopes, y, norm, bounds)

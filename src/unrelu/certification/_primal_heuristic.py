"""The primal heuristic: from a code to the best one on its linear region, and on to adjacent regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unrelu.certification._triangle_relaxation import Relaxation
from unrelu.certification.bound_propagation import level_region
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.node_program import NodeProgram
from unrelu.runtime.array_types import Array

Signs = npt.NDArray[np.int8]

# The most programs, and the share of F that is not worth another one.
_ROUNDS, _ENOUGH = 40, 1e-7
# A pre-activation below this share of its layer's largest is at the kink.
_AT_KINK = 1e-7


def best_nearby(chain: CertifiedChain, z: Array) -> Array:
    """A code whose F is at most that of z: the best of its linear region, then of an adjacent one while that gains.

    On a linear region the program at the level of the best F finds a code with F below it, or shows that there is
    none. Neurons that are at their kink at this code are then given the other sign.
    """
    best, flipped = min((z, chain.at_bounds(z)), key=chain.objective), False
    value, signs = chain.objective(best), _signs(chain, best)
    for _ in range(_ROUNDS):
        if value <= 0:
            break
        trial, bound = _best_of_region(chain, signs, value, best)
        reached, before = chain.objective(trial), value
        if reached < value:
            best, value = trial, reached
        if value < before * (1 - _ENOUGH):
            flipped = False
            if value > bound * (1 + _ENOUGH):
                continue
        if flipped:
            break
        signs, flipped = _adjacent(chain, best, signs), True
    return best


def _signs(chain: CertifiedChain, z: Array) -> Signs:
    """The signs of all pre-activations at a code, (N,)."""
    return np.concatenate([np.where(u > 0, 1, -1) for u in chain.pre_activations(z)]).astype(np.int8)


def _adjacent(chain: CertifiedChain, z: Array, signs: Signs) -> Signs:
    """The signs with those of neurons at their kink reversed."""
    at = [np.abs(u) <= _AT_KINK * np.abs(u).max(initial=0.0) for u in chain.pre_activations(z)]
    return np.where(np.concatenate(at), -signs, signs).astype(np.int8)


def _best_of_region(chain: CertifiedChain, signs: Signs, level: float, z: Array) -> tuple[Array, float]:
    """The best code with these signs of the hidden neurons, or z if its F is not below the level; and a bound on F.

    The chain is affine there, so that it is one layer, with the signs as rows. For the sum of errors, the signs of the
    outputs are fixed as well.
    """
    weight, bias, rows, sides = np.eye(chain.latent_dim), np.zeros(chain.latent_dim), [], []
    for layer in range(chain.depth - 1):
        sign = signs[chain.neurons(layer)].astype(np.float64)
        weight, bias = chain.weights[layer] @ weight, chain.weights[layer] @ bias + chain.biases[layer]
        rows.append(sign[:, None] * weight)
        sides.append(-sign * bias)
        factor = np.where(sign > 0, 1.0, chain.slopes[layer])
        weight, bias = factor[:, None] * weight, factor * bias
    weight, bias = chain.weights[-1] @ weight, chain.weights[-1] @ bias + chain.biases[-1]
    region = replace(chain, weights=(weight,), biases=(bias,), slopes=chain.slopes[-1:])
    more = (np.vstack(rows), np.concatenate(sides)) if rows else None
    relaxation = Relaxation(region, level_region(region, level), more)
    outputs = signs[chain.neurons(-1)] if chain.norm == "l1" else np.zeros(len(chain.y), dtype=np.int8)
    solved = NodeProgram(relaxation).solve(outputs, cutoff=level)
    return (relaxation.code(solved.x) if -np.inf < solved.value < level else z), solved.value

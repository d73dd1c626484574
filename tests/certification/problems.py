"""Small random networks of every awkward kind, with observations that are reached, noisy, or far away."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from unrelu.models.activations import Activation
from unrelu.models.affine import Dense
from unrelu.models.network import Network

__all__ = ["OBSERVATIONS", "WEIGHTS", "observation", "problem", "small_network"]

WEIGHTS = ("gaussian", "integers", "repeated", "zero_rows", "deficient")
OBSERVATIONS = ("reached", "noisy", "negative", "far", "zero")


def _sizes(rng):
    """K, n_1, ..., n_d: two or three layers, at most 12 hidden units and 8 outputs."""
    k, n = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    if rng.random() < 0.5:
        return k, int(rng.integers(1, 13)), n
    first = int(rng.integers(1, 9))
    return k, first, int(rng.integers(1, 13 - first)), n


def _weights(rng, kind, shape):
    if kind == "integers":
        return rng.integers(-2, 3, shape).astype(np.float64)
    weight = rng.standard_normal(shape) * (2 / shape[1]) ** 0.5
    if kind == "repeated":
        weight[rng.integers(len(weight), size=len(weight) // 2)] = weight[0]
    if kind == "zero_rows":
        weight[rng.random(len(weight)) < 0.3] = 0.0
    return weight


def _activation(rng, kind, n):
    if kind == "mixed":
        return Activation("prelu", rng.choice([0.0, 0.25, 1.0], n))
    return Activation("leaky_relu", 0.1) if kind == "leaky_relu" else Activation(kind)


def small_network(rng, kind):
    """One of dense layers; ``kind`` says how its weights are drawn."""
    sizes, bias = _sizes(rng), rng.random() < 0.5
    parts = []
    activation = str(rng.choice(["relu", "leaky_relu", "mixed"], p=[0.6, 0.25, 0.15]))
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        weight = _weights(rng, kind, (n_out, n_in))
        if kind == "deficient" and layer == 0:
            weight = weight[:, :1] @ rng.standard_normal((1, n_in))
        shift = np.round(0.5 * rng.standard_normal(n_out), 1 if kind == "integers" else 16)
        last = layer == len(sizes) - 2
        final = str(rng.choice([activation, "identity"])) if last else activation
        parts += [Dense(torch.from_numpy(weight), torch.from_numpy(shift) if bias else None)]
        parts += [_activation(rng, final, n_out)]
    return Network.chain(parts, sizes[:1])


def observation(rng, net, kind):
    """Of a network, (n,)."""
    x = np.asarray(net(rng.standard_normal(net.latent_dim))).ravel()
    if kind == "reached":
        return x
    if kind == "noisy":
        return x + rng.uniform(-0.3, 0.3, len(x))
    if kind == "negative":
        return -np.abs(x) - rng.random(len(x))
    return 10 * rng.standard_normal(len(x)) if kind == "far" else np.zeros(len(x))


def problem(number):
    """(rng, net, y, kind) of a number, the same every time."""
    rng = np.random.default_rng(number)
    weights = WEIGHTS[number % len(WEIGHTS)]
    kind = str(rng.choice(OBSERVATIONS, p=[0.2, 0.4, 0.15, 0.2, 0.05]))
    net = small_network(rng, weights)
    return rng, net, observation(rng, net, kind), f"{number} {weights} {kind}"

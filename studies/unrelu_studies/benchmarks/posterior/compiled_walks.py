"""Random walks on the posterior of relu(W_2 relu(W_1 z)) under Gaussian noise, compiled, and its density's gradient."""

from __future__ import annotations

import math

import numpy as np

from unrelu.lp.compilation import jit, kernel

# The acceptance that the size of pCN's steps is to have, and how fast it follows.
_ACCEPTANCE, _RATE = 0.25, 0.02


@jit
def _log_likelihood(w1, w2, sigma, y, z):
    """-|relu(W_2 relu(W_1 z)) - y|^2 / 2 sigma^2 of one code, (k,)."""
    x = np.dot(w2, np.maximum(np.dot(w1, z), 0.0))
    total = 0.0
    for i in range(len(y)):
        total += (max(x[i], 0.0) - y[i]) ** 2
    return -0.5 * total / sigma**2


@kernel
def crank_nicolson(w1, w2, sigma, y, z, rng, iterations, every):
    """Draws of one chain from the code z, (iterations / 2 / every, k)."""
    log_beta, current = math.log(0.2), _log_likelihood(w1, w2, sigma, y, z)
    half, count = iterations // 2, 0
    kept = np.empty((half // every, len(z)))
    for i in range(iterations):
        beta = math.exp(log_beta)
        proposal = math.sqrt(1 - beta * beta) * z + beta * rng.standard_normal(len(z))
        there = _log_likelihood(w1, w2, sigma, y, proposal)
        accepted = math.log(rng.random()) < there - current
        if accepted:
            z, current = proposal, there
        if i < half:
            log_beta = min(log_beta + _RATE * ((1.0 if accepted else 0.0) - _ACCEPTANCE), -1e-3)
        elif (i - half) % every == every - 1:
            kept[count] = z
            count += 1
    return kept


@kernel
def elliptical_slices(w1, w2, sigma, y, z, rng, iterations, every):
    """Draws of one chain from the code z, (iterations / 2 / every, k)."""
    current = _log_likelihood(w1, w2, sigma, y, z)
    half, count = iterations // 2, 0
    kept = np.empty((half // every, len(z)))
    for i in range(iterations):
        nu = rng.standard_normal(len(z))
        level = current + math.log(rng.random())
        angle = 2 * math.pi * rng.random()
        low, high = angle - 2 * math.pi, angle
        while True:
            proposal = math.cos(angle) * z + math.sin(angle) * nu
            there = _log_likelihood(w1, w2, sigma, y, proposal)
            if there > level or high - low < 1e-12:
                z, current = proposal, there
                break
            if angle < 0:
                low = angle
            else:
                high = angle
            angle = low + (high - low) * rng.random()
        if i >= half and (i - half) % every == every - 1:
            kept[count] = z
            count += 1
    return kept


@kernel
def density_and_gradient(z, w1, w2, sigma, y):
    """log p(z | y) up to a constant, and its gradient, of one code."""
    a = np.dot(w1, z)
    u = np.dot(w2, np.maximum(a, 0.0))
    r = np.where(u > 0, np.maximum(u, 0.0) - y, 0.0)
    value = -0.5 * (np.maximum(u, 0.0) - y) @ (np.maximum(u, 0.0) - y) / sigma**2 - 0.5 * z @ z
    g = np.dot(w2.T, r) * (a > 0)
    return value, -np.dot(w1.T, g) / sigma**2 - z

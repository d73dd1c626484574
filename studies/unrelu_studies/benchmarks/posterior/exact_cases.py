"""Posteriors that are known: small generators by quadrature, folded ones by symmetry, linear ones in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu import Gaussian, from_arrays
from unrelu.models.network import Network
from unrelu_studies.benchmarks.posterior.posterior_cells import PosteriorCell
from unrelu_studies.benchmarks.posterior.quadrature import GridPosterior
from unrelu_studies.kit.random_instances import random

Array = npt.NDArray[np.float64]

# Draws in all, and bins of equal probability of a marginal.
DRAWS, BINS = 20_000, 20
# Of so many independent draws the total variation over these bins is about .5 BINS sqrt(2 p (1 - p) / (pi DRAWS)).
INDEPENDENT = 0.5 * BINS * math.sqrt(2 / math.pi * (1 - 1 / BINS) / BINS / DRAWS)
# Aims of issue and table: total variation, and mode weights.
DISTANCE, WEIGHT = 0.02, 0.03
_WIDTHS = {1: (8,), 2: (10, 8), 3: (12, 10)}
_SHARES = (0.1, 0.2, 0.4)


class StatedMode(NamedTuple):
    """A mode as a sampler states it: its probability and its best code (k,)."""

    weight: float
    z: Array


def small_cell(k: int, index: int, seed: int) -> PosteriorCell:
    """A random ReLU generator with k codes, k to 2 k + 1 outputs and noise of a tenth to .4 of their size."""
    rng = random("posterior weights", seed, k, index)
    sizes = (k, *_WIDTHS[k], k + index % (k + 2))
    weights = [rng.standard_normal((b, a)) * math.sqrt(2 / a) for a, b in pairwise(sizes)]
    biases = [0.7 * rng.standard_normal(b) for b in sizes[1:]]
    network = from_arrays(weights, biases, activation=["relu"] * (len(weights) - 1) + ["identity"])
    spread = float(network(rng.standard_normal((1000, k))).std(axis=0).mean())
    return PosteriorCell(network, Gaussian(_SHARES[index % len(_SHARES)] * max(spread, 0.1)))


def folded_cell(folds: int, index: int, seed: int, k: int = 5) -> PosteriorCell:
    """H(|z_1|, ..., |z_j|, z_(j+1), ..., z_k) with j = ``folds`` and a random H, whose posterior has 2^j equal parts.

    |z| = relu(z) + relu(-z) and z = relu(z) - relu(-z).
    """
    rng = random("posterior folded", seed, folds, index)
    hidden, n = 40, 60
    first = np.vstack([np.eye(k), -np.eye(k)])
    sign = np.where(np.arange(k) < folds, 1.0, -1.0)
    w1 = rng.standard_normal((hidden, k)) * math.sqrt(2 / k)
    w2 = rng.standard_normal((n, hidden)) * math.sqrt(2 / hidden)
    b1 = 0.5 * rng.standard_normal(hidden)
    network = from_arrays(
        [first, np.hstack([w1, w1 * sign]), w2],
        [np.zeros(2 * k), b1, np.zeros(n)],
        activation=["relu"] * 2 + ["identity"],
    )
    return PosteriorCell(network, Gaussian(0.2 * float(network(rng.standard_normal((500, k))).std())))


def linear_cell(k: int, index: int, seed: int) -> PosteriorCell:
    """G(z) = W z + b with half as many outputs as codes, so that the prior matters."""
    rng = random("posterior linear", seed, k, index)
    network = from_arrays([rng.standard_normal((k // 2 + 1, k))], [rng.standard_normal(k // 2 + 1)], "identity")
    return PosteriorCell(network, Gaussian(0.5))


def linear_posterior(cell: PosteriorCell, seen: Array) -> tuple[Array, Array, float]:
    """Mean (k,), covariance (k, k) and log evidence of a linear generator: standard Gaussian algebra.

    The evidence leaves out what p(y | z) leaves out, (2 pi sigma^2)^(-m / 2).
    """
    assert isinstance(cell.network, Network)
    (layer,) = cell.network.layers
    w, sigma = np.asarray(layer.matrix()), float(cell.noise.level)
    r = seen - layer.bias()
    covariance = np.linalg.inv(w.T @ w / sigma**2 + np.eye(w.shape[1]))
    whole = w @ w.T + sigma**2 * np.eye(len(w))
    evidence = -0.5 * (r @ np.linalg.solve(whole, r) + np.linalg.slogdet(whole / sigma**2)[1])
    return covariance @ w.T @ r / sigma**2, covariance, float(evidence)


# --- what is compared -------------------------------------------------------------------------------------------------


def compared_with_grid(cell: PosteriorCell, seen: Array, z: Array, modes: Sequence[StatedMode]) -> dict[str, Any]:
    """Draws (N, k) and stated modes beside the grid; weights are those of the grid's modes."""
    k = z.shape[1]
    grid = GridPosterior.of(lambda codes: cell.log_likelihood(codes, seen), k)
    exact, count = grid.weights, len(grid.weights)
    drawn = np.bincount(grid.mode_of(z), minlength=count) / len(z)
    stated = np.bincount(grid.mode_of(np.array([m.z for m in modes])), [m.weight for m in modes], count)
    return {
        "distance": grid.marginal_distance(z, BINS).tolist(), "modes": int((exact >= WEIGHT).sum()),
        "drawn": float(np.abs(drawn - exact).max()), "stated": float(np.abs(stated - exact).max()),
        "evidence": grid.log_evidence,
    }  # fmt: skip


def compared_with_symmetry(folds: int, z: Array, modes: Sequence[StatedMode]) -> dict[str, Any]:
    """Signs of the folded coordinates of draws (N, k) and of stated modes: all 2^j combinations have equal weight."""

    def weights(codes: Array, each: Array) -> Array:
        signs = (codes[:, :folds] > 0) @ (1 << np.arange(folds))
        return np.bincount(signs, each, minlength=1 << folds).astype(np.float64)

    share = 0.5**folds
    drawn = weights(z, np.full(len(z), 1 / len(z)))
    stated = weights(np.array([m.z for m in modes]), np.array([m.weight for m in modes]))
    return {
        "modes": 1 << folds, "found": int((stated > 0).sum()), "drawn": float(np.abs(drawn - share).max()),
        "stated": float(np.abs(stated - share).max()),
    }  # fmt: skip


def compared_with_algebra(cell: PosteriorCell, seen: Array, z: Array, ess: Array) -> dict[str, Any]:
    """Errors of mean and variances in their standard errors, and of the covariance's entries relative to deviations.

    Of a Gaussian the variance of n independent draws has the relative standard error sqrt(2 / n).
    """
    mean, covariance, evidence = linear_posterior(cell, seen)
    deviation = np.sqrt(np.diag(covariance))
    variance = z.var(axis=0, ddof=1)
    off = np.cov(z.T) - covariance
    return {
        "mean": float(np.abs((z.mean(axis=0) - mean) / deviation * np.sqrt(ess)).max()),
        "variance": float(np.abs((variance / deviation**2 - 1) * np.sqrt(ess / 2)).max()),
        "covariance": float(np.abs(off / np.outer(deviation, deviation)).max()), "evidence": evidence,
    }  # fmt: skip

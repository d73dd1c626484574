"""Posteriors under Gaussian noise with an unknown level: the level is integrated out, and drawn for each draw.

The draws of codes are those of the marginal posterior p(z | y). Given a code, the levels have a density in one
dimension each, from which they are drawn. A ``relative`` level multiplies the predictions at the best code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from unrelu.diagnostics.fitted_levels import variances_at
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.operators import WeightedOperator
from unrelu.measurements.unknown_level import FittedGaussian, MarginalGaussian
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream


def with_marginal_likelihood(problem: Problem, fitted: FittedGaussian, z: Array) -> tuple[Problem, float]:
    """Replace the noise by the likelihood without the levels, in units of the fitted noise.

    Args:
        problem: the problem of one observation, as stated, with an unknown level.
        fitted: the noise with fitted levels.
        z: the best code, (1, k).

    Returns:
        The problem, and a constant. With it, log-likelihoods are relative to the one of an exact fit under the known
        part of the noise alone, as they are without an unknown level.
    """
    (variances,) = variances_at(problem, problem.mean_of(problem.network.outputs(z)))
    square = np.square(np.broadcast_to(fitted.spread(problem.operator.shape, 1), problem.y.shape))
    square = np.where(np.isfinite(square), square, 1.0)
    own = replace(variances, known=variances.known / square[0], factor=variances.factor / square[0])
    weight = 1 / np.sqrt(square)
    measured = WeightedOperator(problem.operator, torch.from_numpy(weight))
    marginal, seen = MarginalGaussian(variances=own), np.isfinite(own.known)
    constant = -0.5 * (marginal.floor - float(np.log(own.known[seen]).sum()))
    return replace(problem, y=problem.y * weight, operator=measured).with_noise(marginal), constant


def key_of(problem: Problem) -> str:
    """Return a key of one observation, so that its draws do not depend on its place in a batch."""
    return hashlib.sha256(problem.y.tobytes()).hexdigest()


def drawn_levels(problem: Problem, z: Sequence[Array], best: Sequence[Array]) -> list[dict[str, Array]]:
    """Draw the levels of each observation given its codes, by name, (N,).

    Args:
        problem: the problem as stated, with an unknown level.
        z: the codes of each observation, (N, k).
        best: the best code of each observation, (k,).
    """
    drawn = []
    for i, (codes, code) in enumerate(zip(z, best, strict=True)):
        own = problem.part(np.array([i]))
        (variances,) = variances_at(own, own.mean_of(own.network.outputs(code[None])))
        mean = own.mean_of(own.network.outputs(codes)) if len(codes) else np.empty((0, own.y.shape[1]))
        r = np.where(np.isfinite(variances.known), own.y - mean, 0.0)
        levels = MarginalGaussian(variances=variances).drawn_levels(r, stream("levels", problem.seed, key_of(own)))
        drawn.append(dict(zip(cast(Gaussian, own.noise).level_names, levels.T, strict=True)))
    return drawn

"""Posteriors made of draws from known distributions, without a sampler."""

from __future__ import annotations

from typing import Any

import numpy as np

import unrelu
from tests.support import random_network
from unrelu.runtime.streams import stream
from unrelu.sampling.sampled_chains import SampledChains

NET = random_network((3, 8, 20), bias=True)


def normal_draws(*shape: int) -> np.ndarray:
    return stream("known posteriors", *shape).standard_normal(shape)


def tents() -> Any:
    """Five tent maps, one after the other, of a code within [-2, 2]: 32 modes of one width."""
    maps = [np.array([[0.25, -0.25], [0.25, -0.25]])] + 4 * [np.array([[2.0, -4.0], [2.0, -4.0]])]
    weights = [np.ones((2, 1)), *maps, np.array([[2.0, -4.0]])]
    return unrelu.from_arrays(weights, [np.array([2.0, -2.0]), *(np.array([0.0, -0.5]) for _ in maps), np.zeros(1)])


def known(z: np.ndarray, *, single: bool = False, network: Any = NET, **fields: Any) -> unrelu.Posterior:
    """The posterior with draws (B, C, D, k); modes are the signs of the first coordinate."""
    size, _, _, k = z.shape
    y = network(normal_draws(size, k).reshape(size, *network.latent_shape))
    stated = {name: fields.pop(name) for name in ("noise", "operator", "bounds") if name in fields}
    problem = unrelu.Problem.build(network, y[0] if single else y, **({"noise": "gaussian:0.1"} | stated))
    negative, positive = -np.ones(k), np.ones(k)
    given = {
        "log_likelihood": -0.5 * (z**2).sum(axis=3),
        "mode": (z[..., 0] > 0).astype(int),
        "best": [np.stack([negative, positive])] * size,
        "log_evidence": [-3.25] * size,
        "log_evidence_error": [0.05] * size,
        "seconds": [3.0 / size] * size,
        "acceptance": [0.8] * size,
        "p_value": [0.4] * size,
    }
    return unrelu.Posterior(problem, chains_of(z=z, **(given | fields)))


def chains_of(**fields: Any) -> list[SampledChains]:
    """Of each observation, one of each of these fields; draws end where the first chain has none."""
    made = []
    for z, *others in zip(*fields.values(), strict=True):
        length = int(np.isfinite(z).all(axis=(0, 2)).sum())
        own = {name: value[:, :length] if np.ndim(value) > 1 and name != "best" else value
               for name, value in zip(list(fields)[1:], others, strict=True)}  # fmt: skip
        made.append(SampledChains(z[:, :length], **own))
    return made

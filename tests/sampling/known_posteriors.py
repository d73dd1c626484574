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


def known(z: np.ndarray, *, single: bool = False, network: Any = NET, **fields: Any) -> unrelu.Posterior:
    """The posterior with draws (B, C, D, k); modes are the signs of the first coordinate."""
    size, chains, _, k = z.shape
    y = network(normal_draws(size, k).reshape(size, *network.latent_shape))
    stated = {name: fields.pop(name) for name in ("noise", "operator", "bounds") if name in fields}
    problem = unrelu.Problem.build(network, y[0] if single else y, **({"noise": "gaussian:0.1"} | stated))
    negative, positive = -np.ones(k), np.ones(k)
    given = {
        "log_likelihood": -0.5 * (z**2).sum(axis=3),
        "mode": (z[..., 0] > 0).astype(int),
        "best": [np.stack([negative, positive])] * size,
        "from_prior": np.arange(chains) >= chains // 2,
        "log_evidence": np.full(size, -3.25),
        "log_evidence_error": np.full(size, 0.05),
        "seconds": 3.0 / size,
        "acceptance": np.full(size, 0.8),
        "p_value": np.full(size, 0.4),
    }
    return unrelu.Posterior(SampledChains(problem=problem, z=z, **(given | fields)))

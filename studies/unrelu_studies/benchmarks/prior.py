"""What ``prior`` changes under heavy noise: the latent error of ``auto`` with and without it.

z ~ N(0, I) and noise of deviation S make S^2 the weight of the most probable code: |y - A G(z)|^2 / S^2 + |z|^2.
"""

from __future__ import annotations

import numpy as np

import unrelu
from unrelu.runtime.streams import stream

COUNT, QUICK_COUNT = 50, 5
NOISES = (0.03, 0.1, 0.3, 0.6)
FACTORS = (0.0, 0.1, 1.0, 10.0)
GENERATORS = ("mnist-relu", "mnist-sigmoid")
MEASUREMENTS = {"full": None, "100 Gaussian": 100}


def median_error(network, truth, y, operator, prior):
    """The median of |z - z*| / |z*|."""
    z = unrelu.invert(network, y, "auto", operator=operator, prior=prior).z
    return float(np.median(np.linalg.norm(z - truth, axis=1) / np.linalg.norm(truth, axis=1)))


def measure(quick, seed):
    """A row for each generator, measurement and noise level; ``errors`` by the factor of S^2."""
    count, rows = QUICK_COUNT if quick else COUNT, []
    for name in GENERATORS:
        network = unrelu.zoo.load(name)
        for measured, m in MEASUREMENTS.items():
            truth = stream("prior, truth", seed, name).standard_normal((count, network.latent_dim))
            matrix = stream("prior, measurement matrix", seed, name)
            operator = None if m is None else matrix.standard_normal((m, network.output_dim)) / np.sqrt(m)
            x = network(truth) if operator is None else network(truth) @ operator.T
            e = stream("prior, noise", seed, name, measured).standard_normal(x.shape)
            for noise in NOISES:
                y = x + noise * e
                errors = {f"{f:g}": median_error(network, truth, y, operator, f * noise**2) for f in FACTORS}
                rows.append({"generator": name, "measured": measured, "noise": noise, "errors": errors})
    return {"observations": count, "rows": rows}

"""What ``prior`` changes under heavy noise: the latent error of ``auto`` with and without it.

z ~ N(0, I) and noise of deviation S make S^2 the weight of the most probable code: |y - A G(z)|^2 / S^2 + |z|^2.
"""

from __future__ import annotations

import numpy as np

import unrelu
from unrelu.streams import stream

COUNT = 100
NOISES = (0.03, 0.1, 0.3, 0.6)
FACTORS = (0.0, 0.1, 1.0, 10.0)
GENERATORS = ("mnist-relu", "mnist-sigmoid")
MEASUREMENTS = {"full": None, "100 Gaussian": 100}


def median_error(network, truth, y, operator, prior):
    """The median of |z - z*| / |z*|."""
    z = unrelu.invert(network, y, "auto", operator=operator, prior=prior).z
    return np.median(np.linalg.norm(z - truth, axis=1) / np.linalg.norm(truth, axis=1))


def main():
    """Print a Markdown table."""
    print(f"median latent error of {COUNT} observations\n")
    print(
        "| generator | measured | noise S | " + " | ".join(f"prior {f:g} S^2" if f else "none" for f in FACTORS) + " |"
    )
    print("|---|---|---|" + "---|" * len(FACTORS))
    for name in GENERATORS:
        network = unrelu.zoo.load(name)
        for measured, m in MEASUREMENTS.items():
            truth = stream("prior, truth", name).standard_normal((COUNT, network.latent_dim))
            matrix = stream("prior, measurement matrix", name)
            operator = None if m is None else matrix.standard_normal((m, network.output_dim)) / np.sqrt(m)
            x = network(truth) if operator is None else network(truth) @ operator.T
            e = stream("prior, noise", name, measured).standard_normal(x.shape)
            for noise in NOISES:
                y = x + noise * e
                cells = (f"{median_error(network, truth, y, operator, f * noise**2):.2g}" for f in FACTORS)
                print(f"| {name} | {measured} | {noise:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

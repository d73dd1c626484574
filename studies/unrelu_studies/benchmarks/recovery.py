"""What the methods recover: exactness on identifiable codes, and the refined error against the oracle.

The oracle is least squares with the true ReLU pattern known.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import unrelu
from unrelu.runtime.streams import stream

EXACT_SIZES = [(20, 100, 500), *((k, 250, 600) for k in (20, 40, 60, 80, 90, 100, 105, 110, 115, 120))]
NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
# Noiseless instances of each size, and instances of each cell against the oracle.
EXACT, ORACLE = 10, 20
QUICK = 1, 2


def random_network(sizes, rng):
    """The paper's random nets: weights N(0, 1 / n_i), no biases."""
    return unrelu.from_arrays([rng.normal(0, n_out**-0.5, (n_out, n_in)) for n_in, n_out in pairwise(sizes)])


def relative_error(z, truth):
    """|z - z*| / |z*|."""
    return np.linalg.norm(z - truth, axis=-1) / np.linalg.norm(truth, axis=-1)


def oracle(network, truth, y):
    """z* + J(z*)^+ (y - G(z*))."""
    return truth + np.linalg.lstsq(network.jacobian(truth), (y - network(truth)).ravel(), rcond=None)[0]


def exactness(count, seed):
    """Noiseless recovery, split by whether the Jacobian at the true code has rank k."""
    rows = []
    for sizes in EXACT_SIZES:
        drawn = []
        for index in range(count):
            network = random_network(sizes, stream("recovery, weights", seed, *sizes, index))
            truth = stream("recovery, truth", seed, *sizes, index).standard_normal(sizes[0])
            drawn.append((network, truth, sizes[0] - np.linalg.matrix_rank(network.jacobian(truth))))
        for method in ("exact", "linf"):
            errors, told = [], []
            for network, truth, free in drawn:
                result = unrelu.invert(network, network(truth), method)
                if free:
                    told.append(result.status is unrelu.Status.NOT_UNIQUE and result.freedom == free)
                else:
                    errors.append(float(relative_error(result.z, truth)))
            rows.append({
                "net": "-".join(map(str, sizes)),
                "method": method,
                "errors": errors,
                "rank_below_k": len(told),
                "told": sum(map(bool, told)),
            })  # fmt: skip
    return rows


def against_oracle(count, seed):
    """Median over instances of the error of linf, then lm, and of linf alone, divided by the oracle's."""
    rows = []
    for name in ("20-100-500", "zoo mnist-relu"):
        for kind in ("uniform", "gaussian"):
            for noise in NOISES:
                ratios = [ratio(name, kind, noise, seed, index) for index in range(count)]
                refined, first = np.median(ratios, axis=0)
                rows.append({
                    "net": name, "kind": kind, "noise": noise, "instances": count,
                    "refined": float(refined), "linf": float(first),
                })  # fmt: skip
    return rows


def ratio(name, kind, noise, seed, index):
    """Errors of one instance over the oracle's: of linf, then lm, and of linf alone."""
    weights, codes = (stream(f"refined, {what}", seed, index) for what in ("weights", "truth"))
    network = unrelu.zoo.load("mnist-relu") if "zoo" in name else random_network((20, 100, 500), weights)
    truth = codes.standard_normal(network.latent_dim)
    clean, rng = network(truth), stream("refined, noise", seed, kind, index)
    y = clean + noise * (rng.uniform(-1, 1, clean.shape) if kind == "uniform" else rng.normal(size=clean.shape))
    first = unrelu.invert(network, y, "linf")
    refined = unrelu.invert(network, y, "lm", z0=first.z)
    floor = relative_error(oracle(network, truth, y), truth)
    return relative_error(refined.z, truth) / floor, relative_error(first.z, truth) / floor


def measure(quick, seed):
    """Both tables."""
    exact, cell = QUICK if quick else (EXACT, ORACLE)
    return {"exact": exactness(exact, seed), "oracle": against_oracle(cell, seed)}

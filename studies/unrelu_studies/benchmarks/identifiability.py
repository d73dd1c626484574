"""Is a code recovered where, and only where, an exact fit calls it identifiable?

Of the paper's random nets k-250-600, whose rank falls below k as k grows; and of nets of full rank in
which one latent direction hardly shows, down to what double precision can tell.
"""

from __future__ import annotations

import numpy as np

import unrelu
from unrelu.runtime.streams import stream

LATENT = (100, 110, 120, 125, 130, 135, 140, 150)
SOFTNESS = (1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
CODES = 10
# Nets a row, of which each gives CODES codes; the soft nets, and both in a quick run.
NETS, SOFT_NETS, QUICK_NETS = 10, 2, 1
RECOVERED = 1e-6


def random_network(sizes, rng, softness=1.0):
    """The paper's random nets: weights N(0, 1 / n_i), no biases; one latent direction counts ``softness`` times."""
    k, hidden, n = sizes
    first, last = rng.normal(0, hidden**-0.5, (hidden, k)), rng.normal(0, n**-0.5, (n, hidden))
    direction = rng.standard_normal(k)
    direction /= np.linalg.norm(direction)
    first -= (1 - softness) * np.outer(first @ direction, direction)
    return unrelu.from_arrays([first, last])


def tried(sizes, nets, key, softness=1.0, method="auto"):
    """Of codes of several nets: called identifiable by an exact fit or not, relative error, sigma_min / sigma_max."""
    columns = []
    for index in range(nets):
        network = random_network(sizes, stream("identifiability, weights", *key, index), softness)
        truth = stream("identifiability, truth", *key, index).standard_normal((CODES, sizes[0]))
        result = unrelu.invert(network, network(truth), method)
        error = np.linalg.norm(result.z - truth, axis=1) / np.linalg.norm(truth, axis=1)
        values = np.linalg.svd(network.jacobian(truth), compute_uv=False)
        columns.append((result.identifiable & result.success, error, values[:, -1] / values[:, 0]))
    return (np.concatenate(column) for column in zip(*columns, strict=True))


def row(identifiable, error, share):
    """A row of either table."""
    recovered = error <= RECOVERED
    told, not_told = error[identifiable], error[~identifiable]
    return {
        "instances": len(error),
        "identifiable": int(identifiable.sum()),
        "recovered": int(recovered.sum()),
        "disagreements": int((identifiable != recovered).sum()),
        "largest_error_if_identifiable": float(told.max()) if len(told) else None,
        "smallest_error_if_not": float(not_told.min()) if len(not_told) else None,
        "smallest_ratio_if_identifiable": float(share[identifiable].min()) if len(told) else None,
    }


def measure(quick, seed):
    """Both tables."""
    nets, soft = (QUICK_NETS, QUICK_NETS) if quick else (NETS, SOFT_NETS)
    return {
        "random": [{"k": k, **row(*tried((k, 250, 600), nets, (seed, k)))} for k in LATENT],
        "soft": [
            {"method": method, "scale": scale, **row(*tried((20, 100, 600), soft, (seed,), scale, method))}
            for method in ("auto", "lm")
            for scale in SOFTNESS
        ],
    }

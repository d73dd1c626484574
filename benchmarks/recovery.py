"""What the methods recover: exactness on identifiable codes, and the refined error against the oracle.

Prints two Markdown tables. The oracle is least squares with the true ReLU pattern known.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np

import unrelu
from unrelu.streams import stream

EXACT_SIZES = [(20, 100, 500), *((k, 250, 600) for k in (20, 40, 60, 80, 90, 100, 105, 110, 115, 120))]
NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def random_network(sizes, rng):
    """The paper's random nets: weights N(0, 1 / n_i), no biases."""
    return unrelu.from_arrays([rng.normal(0, n_out**-0.5, (n_out, n_in)) for n_in, n_out in pairwise(sizes)])


def relative_error(z, truth):
    """|z - z*| / |z*|."""
    return np.linalg.norm(z - truth, axis=-1) / np.linalg.norm(truth, axis=-1)


def oracle(network, truth, y):
    """z* + J(z*)^+ (y - G(z*))."""
    return truth + np.linalg.lstsq(network.jacobian(truth), (y - network(truth)).ravel(), rcond=None)[0]


def exactness(count):
    """Noiseless recovery, split by whether the Jacobian at the true code has rank k."""
    print(f"noiseless, {count} instances\n")
    print("| net | method | rank k | recovered to 1e-6 | largest error | rank below k | NOT_UNIQUE, right dimension |")
    print("|---|---|---|---|---|---|---|")
    per_size = -(-count // len(EXACT_SIZES))
    tallies = {}
    for index in range(count):
        sizes = EXACT_SIZES[index // per_size]
        network = random_network(sizes, stream("recovery, weights", index))
        truth = stream("recovery, truth", index).standard_normal(sizes[0])
        y = network(truth)
        free = sizes[0] - np.linalg.matrix_rank(network.jacobian(truth))
        for method in ("exact", "linf"):
            result = unrelu.invert(network, y, method)
            tally = tallies.setdefault((sizes, method), {"unique": [], "free": []})
            if free:
                tally["free"].append(result.status is unrelu.Status.NOT_UNIQUE and result.freedom == free)
            else:
                tally["unique"].append(relative_error(result.z, truth))
    for (sizes, method), tally in tallies.items():
        unique, free = np.array(tally["unique"]), tally["free"]
        worst = f"{unique.max():.0e}" if len(unique) else "-"
        net = "-".join(map(str, sizes))
        recovered = int((unique <= 1e-6).sum())
        print(f"| {net} | {method} | {len(unique)} | {recovered} | {worst} | {len(free)} | {sum(free)} |")


def against_oracle(count):
    """Median over instances of the error of linf, then lm, divided by the oracle's."""
    print(f"\nlinf, then lm: error / oracle's error, median of {count} (and error of linf alone / oracle's)\n")
    print("| net | noise | " + " | ".join(f"{a:g}" for a in NOISES) + " |")
    print("|---|---|" + "---|" * len(NOISES))
    for name in ("20-100-500", "zoo mnist-relu"):
        for kind in ("uniform", "gaussian"):
            cells = []
            for noise in NOISES:
                ratios = []
                for index in range(count):
                    weights, codes = (stream(f"refined, {what}", index) for what in ("weights", "truth"))
                    network = (
                        unrelu.zoo.load("mnist-relu") if "zoo" in name else random_network((20, 100, 500), weights)
                    )
                    truth = codes.standard_normal(network.latent_dim)
                    clean, rng = network(truth), stream("refined, noise", kind, index)
                    e = rng.uniform(-1, 1, clean.shape) if kind == "uniform" else rng.normal(size=clean.shape)
                    y = clean + noise * e
                    first = unrelu.invert(network, y, "linf")
                    refined = unrelu.invert(network, y, "lm", z0=first.z)
                    floor = relative_error(oracle(network, truth, y), truth)
                    ratios.append((relative_error(refined.z, truth) / floor, relative_error(first.z, truth) / floor))
                after, before = np.median(ratios, axis=0)
                cells.append(f"{after:.3f} ({before:.2g})")
            print(f"| {name} | {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exact", type=int, default=200, help="noiseless instances")
    parser.add_argument("--oracle", type=int, default=20, help="instances a cell against the oracle")
    arguments = parser.parse_args()
    if arguments.exact:
        exactness(arguments.exact)
    if arguments.oracle:
        against_oracle(arguments.oracle)

"""Is a code recovered where, and only where, a noiseless result calls it identifiable?

Prints Markdown tables: the paper's random nets k-250-600, whose rank falls below k as k grows; and nets of full rank in
which one latent direction hardly shows, down to what double precision can tell.
"""

from __future__ import annotations

import argparse

import numpy as np

import unrelu
from unrelu.streams import stream

LATENT = (100, 110, 120, 125, 130, 135, 140, 150)
SOFTNESS = (1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
CODES = 10
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
    """Of codes of several nets: whether each is called identifiable, its relative error, sigma_min / sigma_max."""
    columns = []
    for index in range(nets):
        network = random_network(sizes, stream("identifiability, weights", *key, index), softness)
        truth = stream("identifiability, truth", *key, index).standard_normal((CODES, sizes[0]))
        result = unrelu.invert(network, network(truth), method)
        error = np.linalg.norm(result.z - truth, axis=1) / np.linalg.norm(truth, axis=1)
        values = np.linalg.svd(network.jacobian(truth), compute_uv=False)
        columns.append((result.identifiable, error, values[:, -1] / values[:, 0]))
    return (np.concatenate(column) for column in zip(*columns, strict=True))


def row(name, identifiable, error, share):
    """A row of either table."""
    recovered = error <= RECOVERED
    told, not_told = error[identifiable], error[~identifiable]
    cells = (
        name,
        len(error),
        int(identifiable.sum()),
        int(recovered.sum()),
        int((identifiable != recovered).sum()),
        f"{told.max():.0e}" if len(told) else "-",
        f"{not_told.min():.0e}" if len(not_told) else "-",
        f"{share[identifiable].min():.0e}" if len(told) else "-",
    )
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def table(first):
    """The head of either table."""
    print(
        f"| {first} | instances | identifiable | recovered to 1e-6 | disagreements | largest error if identifiable "
        "| smallest error if not | smallest sigma_min / sigma_max if identifiable |\n|" + "---|" * 8
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", type=int, default=10, help=f"nets a row, {CODES} codes each")
    parser.add_argument("--seed", type=int, default=20260, help="of nets and codes")
    arguments = parser.parse_args()
    print("k-250-600, weights N(0, 1 / n_i), no biases, noiseless, auto\n")
    table("k")
    for k in LATENT:
        row(str(k), *tried((k, 250, 600), arguments.nets, (arguments.seed, k)))
    for method in ("auto", "lm", "linf"):
        print(f"\n20-100-600, one latent direction scaled down, noiseless, {method}\n")
        table("scale")
        for softness in SOFTNESS:
            row(
                f"{softness:g}",
                *tried((20, 100, 600), max(1, arguments.nets // 5), (arguments.seed,), softness, method),
            )

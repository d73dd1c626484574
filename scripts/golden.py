"""Golden results: what a few hundred problems give, kept in a file, and compared after a change that should not matter.

    python scripts/golden.py keep FILE.npz       before the change
    python scripts/golden.py compare FILE.npz    after it: every difference beyond rounding, and exit status 1

Every method inverts outputs of random networks and of the zoo, whole, masked and measured by a matrix, without noise
and with stated noise; some codes are certified. Only public functions are called, and nothing of their results that is
not documented is kept. Statuses, freedom and proofs have to be the same, codes and objectives equal to rounding; counts
of steps and times are not compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu.methods import METHODS

Array = npt.NDArray[Any]

# Relative to the largest entry: what another order of sums may change in a code, times a condition number of 1e3.
ROUNDING = 1e-9
# Descents of a fixed number of steps: rounding grows from step to step.
LOOSE = {"gradient_descent": 1e-6, "adam": 1e-6, "auto": 1e-6}
NETS = {
    "random 5-20-60": ((5, 20, 60), "relu", False),
    "random 10-30-60": ((10, 30, 60), "relu", True),
    "leaky 4-20-50": ((4, 20, 50), "leaky_relu:0.1", True),
    "sigmoid 4-20-50": ((4, 20, 50), "sigmoid", True),
}
SHORT: dict[str, dict[str, Any]] = {
    "gradient_descent": {"max_iterations": 200},
    "adam": {"max_iterations": 100, "restarts": 2},
}


def networks() -> Iterator[tuple[str, Any]]:
    """Random ones from seeds of their own, and one of the zoo."""
    for index, (name, (sizes, activation, bias)) in enumerate(NETS.items()):
        rng = np.random.default_rng([20261126, index])
        weights = [rng.normal(0, n_out**-0.5, (n_out, n_in)) for n_in, n_out in pairwise(sizes)]
        biases = [rng.normal(0, 0.1, n) for n in sizes[1:]] if bias else None
        yield name, unrelu.from_arrays(weights, biases, activation=activation)
    yield "zoo mnist-relu", unrelu.zoo.load("mnist-relu")


def results() -> dict[str, Array]:
    """Named arrays: of each problem its code, objective, status and freedom; of each certificate its bounds."""
    kept: dict[str, Array] = {}
    for name, network in networks():
        rng = np.random.default_rng([7, network.output_dim])
        clean = network(rng.normal(size=(3, network.latent_dim)))
        shape = network.output_shape
        matrix = rng.normal(size=(network.output_dim // 2, network.output_dim)) / network.output_dim**0.5
        operators = {"whole": None, "mask": rng.random(shape) < 0.8, "matrix": unrelu.Matrix(matrix)}
        for kind, level, method in product(operators, (0.0, 0.02), METHODS):
            if kind == "matrix" and not level:
                continue
            x = clean + level * rng.uniform(-1, 1, clean.shape)
            y = x.reshape(3, -1) @ matrix.T if kind == "matrix" else x
            noise = f"uniform:{level}" if level else None
            key = f"{name}, {kind}, {level}, {method}"
            try:
                r = unrelu.invert(
                    network, y, method, operator=operators[kind], noise=noise, seed=1, **SHORT.get(method, {})
                )
            except unrelu.errors.UnreluError as error:
                kept[f"{key}, error"] = np.array(type(error).__name__)
                continue
            kept[f"{key}, z"], kept[f"{key}, fun"] = r.z, r.fun
            kept[f"{key}, status"] = np.array([status.name for status in r.status])
            kept[f"{key}, freedom"], kept[f"{key}, success"] = r.freedom, r.success
        if name.startswith(("random", "leaky")):
            y = clean[:2] + 0.02 * rng.uniform(-1, 1, clean[:2].shape)
            proofs = unrelu.certify(network, y, noise="uniform:0.02", seed=1, time_limit=60.0, max_nodes=200)
            for i, c in enumerate(proofs if isinstance(proofs, unrelu.Certificates) else [proofs]):
                kept[f"{name}, certificate {i}, status"] = np.array(c.status.name)
                kept[f"{name}, certificate {i}, bounds"] = np.array([c.lower, c.upper])
    return kept


def differences(before: dict[str, Array], after: dict[str, Array]) -> list[str]:
    """What is not equal to rounding, a line each."""
    lines = [f"only before: {key}" for key in sorted(before.keys() - after.keys())]
    lines += [f"only after: {key}" for key in sorted(after.keys() - before.keys())]
    for key in sorted(before.keys() & after.keys()):
        a, b = before[key], after[key]
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                lines.append(f"{key}: {a} is now {b}")
            continue
        method = key.split(", ")[-2]
        allowed = LOOSE.get(method, ROUNDING) * max(1.0, float(np.abs(np.nan_to_num(a)).max(initial=0.0)))
        if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=allowed, equal_nan=True):
            off = np.abs(a - b).max() if a.shape == b.shape else f"shapes {a.shape}, {b.shape}"
            lines.append(f"{key}: off by {off}")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keep golden results, or compare with those that were kept.")
    parser.add_argument("what", choices=["keep", "compare"])
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    found = results()
    if asked.what == "keep":
        np.savez_compressed(asked.file, **found)  # type: ignore[arg-type]
        print(f"{len(found)} arrays in {asked.file}")
    else:
        with np.load(asked.file, allow_pickle=False) as held:
            off = differences(dict(held), found)
        print("\n".join([*off, f"{len(off)} of {len(found)} arrays differ"]))
        sys.exit(bool(off))

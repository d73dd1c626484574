"""The same problem in other units: are statuses, freedom, identifiable and codes the same?

    python fuzz/scales.py [--quick] [--seed N] --output FILE

Weights and biases of the last layer and the data times 10^p ("output"); weights of a hidden layer times 10^p and those
of the next divided by it ("hidden"); a matrix that measures the output, and the data ("operator"); the same with stated
noise, whose level goes along ("uniform", "gaussian"); for twelve p from -150 to 150, every method, a trained and random
networks. Step lengths and tolerances that are stated in units of y go along too.

Codes are compared, relative to the longest of each batch, where they fit exactly, and those of methods that make a
given number of steps everywhere. Elsewhere a method stops before the last digit, or its threshold is one of a row of
numbers, and rounding says which.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unrelu
from unrelu import zoo
from unrelu.methods import METHODS
from unrelu.models.affine import Dense
from unrelu.models.network import Layer, Network
from unrelu.runtime.streams import stream

sys.path[:0] = [str(Path(__file__).parent)]
from fuzzing import run_fuzzer  # noqa: E402 - scripts are no package

POWERS = (-150, -100, -50, -20, -10, -4, 4, 10, 20, 50, 100, 150)
QUICK_POWERS = (-150, -10, 4, 150)
WHERE = ("output", "hidden", "operator", "uniform", "gaussian")
# Fewer steps of the first-order methods than they take by default: where they go is to be the same, not good.
STEPS: dict[str, dict[str, Any]] = {
    "gradient_descent": {"max_iterations": 100},
    "adam": {"max_iterations": 50, "restarts": 2},
}
# These make the same steps whatever they reach.
FIXED = ("gradient_descent", "adam")
BATCH, CODE = 3, 1e-9
BROKEN = ("other status", "other freedom", "other identifiable", "other code", "errors")


def random_network(sizes: tuple[int, ...], activation: str, seed: int) -> Network:
    """Gaussian weights N(0, 2 / n_in) and small biases."""
    rng = stream("scales, network", seed, activation)
    shapes = list(zip(sizes[1:], sizes, strict=False))
    weights = [rng.standard_normal(shape) * np.sqrt(2 / shape[1]) for shape in shapes]
    return unrelu.from_arrays(weights, [0.3 * rng.standard_normal(n) for n, _ in shapes], activation=activation)


def networks(quick: bool, seed: int) -> dict[str, Network]:
    """The networks by name."""
    found = {
        "random 5-20-60": random_network((5, 20, 60), "relu", seed),
        "random 4-12-24-40, leaky": random_network((4, 12, 24, 40), "leaky_relu:0.2", seed),
    }
    return found if quick else {"mnist-relu": zoo.load("mnist-relu"), **found}


def scaled(network: Network, depth: int, factor: float, back: bool = False) -> Network:
    """Weights and biases of a layer times the factor; with ``back``, weights of the next one divided by it."""
    layers = list(network.layers)
    layers[depth] = _times(layers[depth], factor, factor)
    if back:
        layers[depth + 1] = _times(layers[depth + 1], 1 / factor, 1.0)
    return replace(network, layers=tuple(layers))


def _times(layer: Layer, weights: float, biases: float) -> Layer:
    dense = Dense(torch.from_numpy(layer.matrix() * weights), torch.from_numpy(layer.bias() * biases))
    return Layer(replace(layer.affine, steps=(dense,)), layer.activation)


def in_units(name: str, unit: float) -> dict[str, Any]:
    """The options of a method, with those in units of y."""
    options = dict(STEPS.get(name, {}))
    if name == "gradient_descent":
        options |= {"learning_rate": 1e-3 / unit / unit, "gradient_tolerance": 1e-9 * unit * unit}
    if name == "adam":
        options |= {"epsilon": 1e-8 * unit * unit, "gradient_tolerance": 1e-9 * unit * unit}
    return options


def inversion(network: Network, y: Any, matrix: Any, name: str, where: str, factor: float) -> unrelu.Inversion:
    """The inversion in the units of a factor; 1 is the original."""
    last, unit, operator, noise = len(network.layers) - 1, factor, None, None
    if where == "hidden":
        network, unit = scaled(network, 0, factor, back=True), 1.0
    elif where != "operator":
        network = scaled(network, last, factor)
    if where == "operator":
        operator = unrelu.Matrix(matrix * factor)
    if where in ("uniform", "gaussian"):
        noise = f"{where}:{0.05 * unit!r}"
    options = in_units(name, unit)
    return unrelu.invert(network, y * unit, name, operator=operator, noise=noise, seed=1, scale="none", **options)


def cases(network: Network, seed: int) -> Iterator[tuple[str, Any, Any]]:
    """Where units change, with the data and the matrix that measures them."""
    rng = stream("scales, data", seed)
    x = network(rng.standard_normal((BATCH, network.latent_dim))).reshape(BATCH, -1)
    size = float(np.abs(x).max())
    matrix = rng.standard_normal((3 * network.latent_dim, x.shape[1])) / np.sqrt(x.shape[1])
    noisy = x + 0.05 * rng.uniform(-1, 1, x.shape)
    data = {"output": x, "hidden": x, "operator": x @ matrix.T, "uniform": noisy, "gaussian": noisy}
    assert size > 0
    for where in WHERE:
        yield where, data[where], matrix


def row(network: Network, what: str, name: str, case: tuple[str, Any, Any], powers: tuple[int, ...]) -> dict[str, Any]:
    """What became of one network, one method and one place, over all powers."""
    where, y, matrix = case
    try:
        reference = inversion(network, y, matrix, name, where, 1.0)
    except unrelu.errors.UnsupportedModelError:
        return {}
    told = reference.status == unrelu.Status.EXACT_FIT
    if name in FIXED:
        told[:] = True
    found: dict[str, Any] = {"what": what, "tried": 0, **dict.fromkeys(BROKEN, 0), "largest difference of codes": 0.0}
    for power in powers:
        found["tried"] += 1
        try:
            result = inversion(network, y, matrix, name, where, 10.0**power)
        except Exception as error:  # what is looked for
            found["errors"] += 1
            found["first error"] = f"10^{power}: {type(error).__name__}: {error}"
            continue
        found["other status"] += int((result.status != reference.status).any())
        found["other freedom"] += int((result.freedom != reference.freedom).any())
        found["other identifiable"] += int((result.identifiable != reference.identifiable).any())
        known = np.isfinite(reference.z).all(axis=1)
        apart = np.abs(result.z - reference.z).max(axis=1) / (float(np.abs(reference.z[known]).max(initial=0.0)) or 1.0)
        found["other code"] += int((np.isfinite(result.z).all(axis=1) != known).any() or (apart[told] > CODE).any())
        largest = max(float(found["largest difference of codes"]), float(apart[told].max(initial=0.0)))
        found["largest difference of codes"] = float(f"{largest:.1e}")
    return found


def certificates(network: Network, y: Any, powers: tuple[int, ...]) -> dict[str, Any]:
    """The same of certificates, which must also verify."""
    found = {"what": "certify, random 3-8-12", "tried": 0, **dict.fromkeys(BROKEN, 0)}
    reference = unrelu.certify(network, y, noise="uniform:0.3")
    for power in powers:
        found["tried"] += 1
        unit = 10.0**power
        other = scaled(network, len(network.layers) - 1, unit)
        bounds = unrelu.certify(other, y * unit, noise=f"uniform:{0.3 * unit!r}")
        found["other status"] += int(bounds.status is not reference.status)
        found["other identifiable"] += int(bounds.identifiable != reference.identifiable)
        close = np.allclose([bounds.lower / unit, bounds.upper / unit], [reference.lower, reference.upper], rtol=2e-6)
        found["other code"] += int(not close or not np.allclose(bounds.box, reference.box, rtol=1e-5))
        found["errors"] += int(not bounds.verify(other, y * unit))
    return found


def measure(quick: bool, seed: int) -> list[dict[str, Any]]:
    """A row for each network, method and place."""
    powers, table = QUICK_POWERS if quick else POWERS, []
    for label, network in networks(quick, seed).items():
        for case in cases(network, seed):
            for name in METHODS:
                table.append(row(network, f"{name}, {case[0]}, {label}", name, case, powers))
    small, rng = random_network((3, 8, 12), "relu", seed), stream("scales, certified", seed)
    noisy = small(rng.standard_normal(3)) + rng.uniform(-0.3, 0.3, 12)
    table.append(certificates(small, np.maximum(noisy, 0), powers))
    return [found for found in table if found]


if __name__ == "__main__":
    run_fuzzer("scales", __doc__, measure, BROKEN)

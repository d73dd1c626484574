"""Small emulators with random weights in the layouts of CosmoPower, CosmoPower-JAX, speculator and The Payne."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

NAMES = ["omega_b", "h", "n_s"]
SIZES = (3, 8, 6, 5)
MODES = 11
Arrays = dict[str, Any]


def drawn(pca: bool, seed: int = 0) -> Arrays:
    """The arrays of an emulator 3 -> 8 -> 6 -> 5 coefficients (-> 11 modes), by CosmoPower's names."""
    rng = np.random.default_rng(seed)
    held: Arrays = {"weights": [], "biases": [], "alphas": [], "betas": []}
    for a, b in pairwise(SIZES):
        held["weights"].append(rng.normal(size=(a, b)).astype(np.float32))
        held["biases"].append(rng.normal(size=b).astype(np.float32))
    for n in SIZES[1:-1]:
        held["alphas"].append(rng.normal(size=n).astype(np.float32))
        held["betas"].append(rng.normal(size=n).astype(np.float32))
    for name, n in (("parameters", 3), ("pca", 5), ("features", MODES if pca else 5)):
        held[f"{name}_mean"] = rng.normal(size=n).astype(np.float32)
        held[f"{name}_std"] = rng.uniform(0.5, 2.0, size=n).astype(np.float32)
    held["pca_matrix"] = rng.normal(size=(5, MODES)).astype(np.float32)
    return held


def outputs(held: Arrays, z: np.ndarray, pca: bool) -> np.ndarray:
    """What these packages compute at parameters (B, 3), in double precision."""
    double = {key: [np.float64(v) for v in value] if isinstance(value, list) else np.float64(value)
              for key, value in held.items()}  # fmt: skip
    x = (z - double["parameters_mean"]) / double["parameters_std"]
    for i, (weight, bias) in enumerate(zip(double["weights"], double["biases"], strict=True)):
        x = x @ weight + bias
        if i < len(double["alphas"]):
            alpha, beta = double["alphas"][i], double["betas"][i]
            x = (beta + (1 - beta) / (1 + np.exp(-alpha * x))) * x
    if pca:
        x = (x * double["pca_std"] + double["pca_mean"]) @ double["pca_matrix"]
    return x * double["features_std"] + double["features_mean"]


def standard(held: Arrays, *names: str) -> list[np.ndarray]:
    return [held[f"{name}_{moment}"] for name in names for moment in ("mean", "std")]


def layers_of(held: Arrays) -> list[Any]:
    return [held[name] for name in ("weights", "biases", "alphas", "betas")]


def sizes(n: int) -> list[Any]:
    return [list(SIZES[1:-1]), len(SIZES) - 1, [*SIZES[:-1], n]]


def cosmopower(held: Arrays) -> list[Any]:
    return [*layers_of(held), *standard(held, "parameters", "features"), 3, NAMES, 5, np.arange(5), *sizes(5)]


def cosmopower_pca(held: Arrays) -> list[Any]:
    return [
        *layers_of(held), *standard(held, "parameters", "pca", "features"), NAMES, 3, np.arange(MODES), MODES, 5,
        held["pca_matrix"], *sizes(5),
    ]  # fmt: skip


def cosmopower_jax(held: Arrays) -> list[Any]:
    return [
        [[w.T.copy(), b] for w, b in zip(held["weights"], held["biases"], strict=True)],
        [[a, b] for a, b in zip(held["alphas"], held["betas"], strict=True)],
        *standard(held, "parameters", "features"), 3, NAMES, 5, np.arange(5), *sizes(5),
    ]  # fmt: skip


def speculator(held: Arrays) -> list[Any]:
    return [
        *layers_of(held), *standard(held, "parameters", "pca", "features"), held["pca_matrix"], 3, MODES,
        np.linspace(1e3, 1e4, MODES), 5, *sizes(5),
    ]  # fmt: skip


def photulator(held: Arrays) -> list[Any]:
    return [*layers_of(held), *standard(held, "parameters", "features"), 3, 5, list("ugriz"), *sizes(5)]


def converted(held: Arrays, pca: bool = False) -> Arrays:
    """As CosmoPower-JAX's script converts CosmoPower's lists."""
    names = [
        "weights_", "biases_", "alphas_", "betas_", "param_train_mean", "param_train_std", "feature_train_mean",
        "feature_train_std", *(("training_mean", "training_std", "parameters", "n_parameters", "modes", "n_modes",
        "n_pcas", "pca_matrix") if pca else ("n_parameters", "parameters", "n_modes", "modes")), "n_hidden",
        "n_layers", "architecture",
    ]  # fmt: skip
    return dict(zip(names, cosmopower_pca(held) if pca else cosmopower(held), strict=True))


def by_layer(held: Arrays, pca: bool = False) -> Arrays:
    """As CosmoPower saves them today: arrays alone, W_0, b_0, ..."""
    found: Arrays = {"n_parameters": 3, "parameters": NAMES, "n_layers": 3, "n_hidden": [8, 6], "modes": np.arange(5)}
    for every, each in (("weights", "W"), ("biases", "b"), ("alphas", "alphas"), ("betas", "betas")):
        found |= {f"{each}_{i}": array for i, array in enumerate(held[every])}
    for name in ("parameters", "features", *(("pca",) if pca else ())):
        found |= {f"{name}_mean": held[f"{name}_mean"], f"{name}_std": held[f"{name}_std"]}
    return found | ({"pca_transform_matrix": held["pca_matrix"], "n_pcas": 5} if pca else {})


def payne(seed: int = 0) -> Arrays:
    """The arrays of a file of The Payne."""
    rng = np.random.default_rng(seed)
    held: Arrays = {}
    for i, (a, b) in enumerate(pairwise(SIZES)):
        held |= {f"w_array_{i}": rng.normal(size=(b, a)), f"b_array_{i}": rng.normal(size=b)}
    return held | {"x_min": np.array([4000.0, 0.0, -2.5]), "x_max": np.array([7000.0, 5.0, 0.5])}

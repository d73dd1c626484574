"""Random and degenerate layer programs, and what an independent solver finds of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from unrelu.layerwise import LayerSystem, Rows, rows
from unrelu.models.activations import Activation

Array = npt.NDArray[np.float64]

KINDS = (
    "gaussian", "repeated rows", "zero rows", "few active", "none active", "as many active", "x = 0", "small scale",
    "large scale", "badly conditioned", "duplicated columns", "outliers", "noiseless", "integers", "leaky",
    "sparse code", "nearly equal columns", "rows of all sizes",
)  # fmt: skip
BOXES = ((-np.inf, np.inf), (0.0, np.inf), (-1.0, 1.0))


def layer_matrix(kind: str, n: int, k: int, rng: np.random.Generator) -> Array:
    """W, (n, k)."""
    matrix: Array = rng.normal(size=(n, k)) / np.sqrt(n)
    if kind == "repeated rows":
        return matrix[rng.integers(0, max(1, n // 3), n)]
    if kind == "zero rows":
        matrix[rng.random(n) < 0.3] = 0.0
    if kind == "badly conditioned":
        return matrix @ (np.linalg.qr(rng.normal(size=(k, k)))[0] * np.logspace(0, -8, k))
    if kind == "duplicated columns":
        return matrix[:, rng.integers(0, max(1, k // 2), k)]
    if kind == "nearly equal columns":
        matrix[:, 0] = matrix[:, -1] + 10.0 ** rng.uniform(-13, -5) * matrix[:, 0]
    if kind == "rows of all sizes":
        return 10.0 ** rng.uniform(-6, 6, (n, 1)) * matrix
    if kind == "integers":
        return np.asarray(rng.integers(-1, 2, (n, k)), dtype=float)
    if kind in ("small scale", "large scale"):
        return np.asarray(matrix * 10.0 ** rng.uniform(-3, 3))
    return matrix


def layer_bias(kind: str, u: Array, k: int) -> Array:
    """A constant bias that leaves about as many rows active as the kind says."""
    wanted = {"few active": k // 2, "none active": 0, "as many active": k}.get(kind)
    if wanted is None:
        return np.zeros(len(u))
    level = np.sort(u)[::-1][min(wanted, len(u) - 1)] + (1e-3 if kind == "none active" else 0.0)
    return np.full(len(u), -level - (1.0 if wanted >= len(u) else 0.0))


def observed(kind: str, x: Array, noise: float, size: float, rng: np.random.Generator) -> Array:
    """The output x with noise, or something else in its place."""
    if kind == "x = 0":
        return np.zeros(len(x))
    if kind == "integers":
        return x + rng.integers(-1, 2, len(x))
    if kind != "noiseless":
        x = x + noise * size * rng.uniform(-1, 1, len(x))
    if kind == "outliers":
        bad = rng.random(len(x)) < 0.1
        x[bad] = rng.uniform(0, 2 * size, int(bad.sum()))
    return x


def instance(kind: str, rng: np.random.Generator) -> tuple[LayerSystem, Rows]:
    """A layer and one output of it, with a threshold."""
    k = int(rng.integers(1, 25))
    n = k + int(rng.integers(0, 4 * k + 5))
    matrix = layer_matrix(kind, n, k, rng)
    noise, box = float(rng.choice([1e-6, 1e-3, 1e-1])), BOXES[int(rng.integers(3))]
    scale = 1.0
    if kind in ("small scale", "large scale"):
        scale = 10.0 ** (rng.uniform(-9, -3) if kind == "small scale" else rng.uniform(3, 9))
        # A code of that scale does not fit into a box around 0.
        box = BOXES[0] if box[1] == 1.0 else box
    h = np.clip(rng.normal(size=k), *box)
    if kind == "sparse code":
        h[rng.random(k) < 0.7] = 0.0
    if kind == "integers":
        h = np.round(h)
    u = matrix @ h
    bias, activation = layer_bias(kind, u, k), Activation.parse("leaky_relu:0.1" if kind == "leaky" else "relu")
    x = activation.value(u + bias)
    size = max(float(np.abs(x).max()), 1e-3)
    x = observed(kind, x, noise, size, rng)
    system = LayerSystem(matrix, bias * scale, activation, np.full(k, box[0]), np.full(k, box[1]))
    return system, rows(system, x * scale, noise * size * scale * float(rng.choice([0.3, 1.0])))


def reference(system: LayerSystem, layer_rows: Rows, norm: str, h: Array, sigma: float) -> float | None:
    """The objective at the point of scipy's linprog, solved for w in h + sigma w; None where it does not finish.

    What linprog says of itself is too low where its constraints hold to 1e-7 only, or small coefficients were dropped.
    """
    n, k = system.matrix.shape
    size = system.norms
    matrix = system.matrix / size
    up, down = np.isfinite(layer_rows.high), np.isfinite(layer_rows.low)
    errors = np.ones((n, 1)) if norm == "linf" else np.eye(n)
    m = errors.shape[1]
    wh = system.matrix @ h
    above = np.hstack([matrix / layer_rows.high_slope[:, None], -errors])[up]
    below = np.hstack([-matrix / layer_rows.low_slope[:, None], -errors])[down]
    side = np.concatenate([
        ((layer_rows.high - wh) / layer_rows.high_slope)[up], ((wh - layer_rows.low) / layer_rows.low_slope)[down]
    ]) / sigma  # fmt: skip
    bounds = list(zip((system.lower - h) * size / sigma, (system.upper - h) * size / sigma, strict=True))
    cost = np.concatenate([np.zeros(k), np.ones(m)])
    result = linprog(cost, np.vstack([above, below]), side, bounds=bounds + [(0, None)] * m, method="highs")
    if result.status != 0:
        return None
    found = layer_rows.violation(system.matrix @ system.inside(h + sigma * result.x[:k] / size))
    return float(found.max() if norm == "linf" else found.sum())

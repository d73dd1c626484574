"""The baselines in the settings they were published in, beside what was published, and beside our methods."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

import unrelu
from unrelu.runtime.streams import stream

# Networks a cell of PLUGIn's setting; images a cell of CSGM's and of Figure 4; both in a quick run.
TRIALS, IMAGES, QUICK = 10, 5, 1
CSGM_GENERATOR, FIGURE4_GENERATOR = "mnist-sigmoid", "mnist-relu"

# PLUGIn, Figure 2a: noise norm -> mean relative error of gradient descent and of PLUGIn over 20 trials, read off there.
PLUGIN_PUBLISHED = {0.105: (0.071, 0.29), 0.21: (0.157, 0.50), 1.0: (1.03, 2.9)}
PLUGIN_SIZES = (20, 600, 500, 500)
# Their gradient descent moves by 1,000 along PyTorch's gradient; if that is of a mean over 500 outputs, by 4 J^T r.
# They let it run for 10,000 steps; after 2,000 its mean errors hardly change.
PLUGIN_METHODS = {
    "gradient_descent": ("gradient_descent", {"learning_rate": 4.0, "max_iterations": 2_000}),
    "plugin": ("plugin", {"setting": "synthetic"}),
    "plugin, step 2^d": ("plugin", {"setting": "theory"}),
    "ilo": ("ilo", {}),
    "lm": ("lm", {}),
    "auto": ("auto", {}),
}

CSGM_MEASUREMENTS = (10, 25, 50, 100, 200, 300, 400, 500, 750)
CSGM_NOISE = 0.1
CSGM_PRIOR = 0.1
CSGM_METHODS = {
    "adam": ("adam", {}),
    "adam, prior 0.1": ("adam", {"prior": CSGM_PRIOR}),
    "lm, prior 0.1": ("lm", {"prior": CSGM_PRIOR}),
    "auto": ("auto", {}),
    "auto, prior 0.1": ("auto", {"prior": CSGM_PRIOR}),
}

# Step 1 fills hidden pixels with those of the iterate; step 0.5 and 10 projections are Shah and Hegde's.
_FILL = {"step": 1.0, "max_iterations": 50}
FIGURE4_METHODS = {
    "projected (linf, step 0.5, 10 times)": ("projected", {}),
    "projected, linf": ("projected", {"projection": "linf", **_FILL}),
    "projected, l1": ("projected", {"projection": "l1", **_FILL}),
    "projected, lm": ("projected", {"projection": "lm", **_FILL}),
    "gradient_descent": ("gradient_descent", {}),
    "adam": ("adam", {}),
    "plugin": ("plugin", {}),
    "ilo": ("ilo", {}),
    "linf on the observed rows": ("linf", {}),
    "lm": ("lm", {}),
    "auto": ("auto", {}),
}


def random_network(sizes, rng):
    """Weights N(0, 1 / n_i), no biases: those of PLUGIn and of the paper."""
    return unrelu.from_arrays([rng.normal(0, n_out**-0.5, (n_out, n_in)) for n_in, n_out in pairwise(sizes)])


def on_sphere(rng, n):
    """A uniform draw from the unit sphere."""
    v = rng.standard_normal(n)
    return v / np.linalg.norm(v)


def timed(network, y, method, options, **given):
    """The result of a method, and its seconds."""
    begin = time.perf_counter()
    result = unrelu.invert(network, y, method, **options, **given)
    return result, time.perf_counter() - begin


def plugin_setting(trials, seed):
    """20-600-500-500 with contracting layers, unit code, noise on a sphere: mean |z - z*| of every method."""
    rows = []
    for level in PLUGIN_PUBLISHED:
        for name, (method, options) in PLUGIN_METHODS.items():
            errors, seconds = [], 0.0
            for trial in range(trials):
                network = random_network(PLUGIN_SIZES, stream("PLUGIn, weights", seed, trial))
                truth = on_sphere(stream("PLUGIn, truth", seed, trial), PLUGIN_SIZES[0])
                y = network(truth) + level * on_sphere(stream("PLUGIn, noise", seed, trial), PLUGIN_SIZES[-1])
                result, used = timed(network, y, method, options, seed=trial)
                errors.append(float(np.linalg.norm(result.z - truth)))
                seconds += used
            rows.append({"noise": level, "method": name, "errors": errors, "seconds": seconds})
    return rows


def lasso(a, y, weight=0.1, iterations=1_000):
    """CSGM's Lasso in the pixels: (1/2m) |y - A x|^2 + weight |x|_1 by FISTA, clipped to [0, 1]; a is N(0, 1)."""
    m = len(a)
    step = m / np.linalg.norm(a, 2) ** 2
    x = momentum = np.zeros((len(y), a.shape[1]))
    t = 1.0
    for _ in range(iterations):
        ahead = momentum + step * (y - momentum @ a.T) @ a / m
        new = np.sign(ahead) * np.maximum(np.abs(ahead) - step * weight, 0)
        t, last = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        momentum, x = new + (last - 1) / t * (new - x), new
    return np.clip(x, 0, 1)


def csgm_setting(name, count, seed):
    """Gaussian measurements of held-out digits and generated images, noise of norm 0.1: mean square error a pixel."""
    network = unrelu.zoo.load(name)
    truth = stream("CSGM, truth", seed, name).standard_normal((count, network.latent_dim))
    images = {
        "digits": unrelu.zoo.observations(name)[:count].reshape(count, -1),
        "generated": network(truth).reshape(count, -1),
    }
    n = network.output_dim
    rows = []
    for kind, x in images.items():
        for m in CSGM_MEASUREMENTS:
            a = stream("CSGM, measurement matrix", seed, name, kind, m).standard_normal((m, n)) / np.sqrt(m)
            e = stream("CSGM, noise", seed, name, kind, m).standard_normal((count, m))
            y = x @ a.T + CSGM_NOISE / np.sqrt(m) * e
            estimate = lasso(a * np.sqrt(m), y * np.sqrt(m))
            rows.append({"images": kind, "m": m, "method": "lasso", "error": float(((estimate - x) ** 2).mean())})
            for method, (which, options) in CSGM_METHODS.items():
                result, seconds = timed(network, y, which, options, operator=a)
                error = float(((result.reconstruction.reshape(count, -1) - x) ** 2).mean())
                rows.append({"images": kind, "m": m, "method": method, "error": error, "seconds": seconds})
    return rows


def figure4_setting(name, count, seed):
    """Part of each generated image seen: how many are found, and the median error of the pixels that were not."""
    network = unrelu.zoo.load(name)
    truth = stream("Figure 4, truth", seed, name).standard_normal((count, network.latent_dim))
    rng = stream("Figure 4, masks", seed, name)
    x = network(truth)
    masks = {"random half": np.stack([rng.random(x.shape[1:]) < 0.5 for _ in range(count)])}
    block = np.ones(x.shape, dtype=bool)
    block.reshape(count, 28, 28)[:, 10:18, 10:18] = False
    masks["all but 8 x 8"] = block
    rows = []
    for kind, mask in masks.items():
        for method, (which, options) in FIGURE4_METHODS.items():
            result, seconds = timed(network, x, which, options, operator=mask)
            found = int((np.linalg.norm(result.z - truth, axis=1) <= 1e-3 * np.linalg.norm(truth, axis=1)).sum())
            off = ((result.reconstruction - x) ** 2 * ~mask).reshape(count, -1).sum(axis=1) / (~mask).reshape(
                count, -1
            ).sum(axis=1)
            error = float(np.median(np.nan_to_num(off, nan=np.inf)))
            rows.append({"mask": kind, "method": method, "found": found, "error": error, "seconds": seconds})
    return rows


def measure(quick, seed):
    """All three settings."""
    trials, images = (QUICK, QUICK) if quick else (TRIALS, IMAGES)
    return {
        "trials": trials,
        "images": images,
        "published": {f"{level:g}": dict(zip(("gradient_descent", "plugin"), errors, strict=True))
                      for level, errors in PLUGIN_PUBLISHED.items()},
        "plugin": plugin_setting(trials, seed),
        "csgm": csgm_setting(CSGM_GENERATOR, images, seed),
        "figure4": figure4_setting(FIGURE4_GENERATOR, images, seed),
    }  # fmt: skip

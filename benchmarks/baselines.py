"""The baselines in the settings they were published in, beside what was published, and beside our methods.

Prints Markdown tables and writes the numbers with the machine they were measured on as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

import unrelu
from unrelu.machine import describe
from unrelu.streams import stream

RESULTS = Path(__file__).parent / "results" / "baselines.json"

# PLUGIn, Figure 2a: noise norm -> mean relative error of gradient descent and of PLUGIn over 20 trials, read off there.
PLUGIN_PUBLISHED = {0.105: (0.071, 0.29), 0.21: (0.157, 0.50), 1.0: (1.03, 2.9)}
PLUGIN_SIZES = (20, 600, 500, 500)
# Their gradient descent moves by 1,000 along PyTorch's gradient; if that is of a mean over 500 outputs, by 4 J^T r.
# They let it run for 10,000 steps; after 2,000 its mean errors change by less than 1%.
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


def plugin_setting(trials):
    """20-600-500-500 with contracting layers, unit code, noise on a sphere: mean |z - z*| of every method."""
    rows = []
    for level in PLUGIN_PUBLISHED:
        for name, (method, options) in PLUGIN_METHODS.items():
            errors, seconds = [], 0.0
            for seed in range(trials):
                network = random_network(PLUGIN_SIZES, stream("PLUGIn, weights", seed))
                truth = on_sphere(stream("PLUGIn, truth", seed), PLUGIN_SIZES[0])
                y = network(truth) + level * on_sphere(stream("PLUGIn, noise", seed), PLUGIN_SIZES[-1])
                result, used = timed(network, y, method, options, seed=seed)
                errors.append(float(np.linalg.norm(result.z - truth)))
                seconds += used
            rows.append({"noise": level, "method": name, "errors": errors, "seconds": seconds})
    print(f"\nPLUGIn: {'-'.join(map(str, PLUGIN_SIZES))}, unit code, mean relative error over {trials} networks "
          "(largest in brackets)\n")  # fmt: skip
    head = " | ".join(f"noise {level:g}" for level in PLUGIN_PUBLISHED)
    print(f"| method | {head} | seconds a code |\n|---|" + "---|" * (len(PLUGIN_PUBLISHED) + 1))
    for place, name in enumerate(("gradient_descent", "plugin")):
        cells = " | ".join(f"{published[place]:g}" for published in PLUGIN_PUBLISHED.values())
        print(f"| {name}, published | {cells} | |")
    for name in PLUGIN_METHODS:
        mine = [row for row in rows if row["method"] == name]
        cells = " | ".join(f"{np.mean(row['errors']):.3g} ({np.max(row['errors']):.2g})" for row in mine)
        print(f"| {name} | {cells} | {sum(row['seconds'] for row in mine) / (trials * len(mine)):.2f} |", flush=True)
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


def csgm_setting(name, count):
    """Gaussian measurements of held-out digits and generated images, noise of norm 0.1: mean square error a pixel."""
    network = unrelu.zoo.load(name)
    truth = stream("CSGM, truth", name).standard_normal((count, network.latent_dim))
    images = {
        "digits": unrelu.zoo.observations(name)[:count].reshape(count, -1),
        "generated": network(truth).reshape(count, -1),
    }
    n = network.output_dim
    rows = []
    for kind, x in images.items():
        for m in CSGM_MEASUREMENTS:
            a = stream("CSGM, measurement matrix", name, kind, m).standard_normal((m, n)) / np.sqrt(m)
            e = stream("CSGM, noise", name, kind, m).standard_normal((count, m))
            y = x @ a.T + CSGM_NOISE / np.sqrt(m) * e
            estimate = lasso(a * np.sqrt(m), y * np.sqrt(m))
            rows.append({"images": kind, "m": m, "method": "lasso", "error": float(((estimate - x) ** 2).mean())})
            for method, (which, options) in CSGM_METHODS.items():
                result, seconds = timed(network, y, which, options, operator=a)
                error = float(((result.x.reshape(count, -1) - x) ** 2).mean())
                rows.append({"images": kind, "m": m, "method": method, "error": error, "seconds": seconds})
    for kind in images:
        print(f"\nCSGM: {name}, {count} {kind}, mean square error a pixel\n")
        print("| method | " + " | ".join(map(str, CSGM_MEASUREMENTS)) + " | seconds an image |")
        print("|---|" + "---|" * (len(CSGM_MEASUREMENTS) + 1))
        for method in ("lasso", *CSGM_METHODS):
            mine = [row for row in rows if row["images"] == kind and row["method"] == method]
            cells = " | ".join(f"{row['error']:.2g}" for row in mine)
            used = sum(row.get("seconds", 0.0) for row in mine) / (count * len(mine))
            print(f"| {method} | {cells} | {f'{used:.2f}' if used else ''} |", flush=True)
    return rows


def figure4_setting(name, count):
    """Part of each generated image seen: how many are found, and the median error of the pixels that were not."""
    network = unrelu.zoo.load(name)
    truth = stream("Figure 4, truth", name).standard_normal((count, network.latent_dim))
    rng = stream("Figure 4, masks", name)
    x = network(truth)
    masks = {"random half": np.stack([rng.random(x.shape[1:]) < 0.5 for _ in range(count)])}
    block = np.ones(x.shape, dtype=bool)
    block.reshape(count, 28, 28)[:, 10:18, 10:18] = False
    masks["all but 8 x 8"] = block
    rows = []
    print(f"\nFigure 4: {name}, {count} generated images, no noise\n")
    print("| mask | method | found to 1e-3 | median error of hidden pixels | seconds an image |\n|---|---|---|---|---|")
    for kind, mask in masks.items():
        for method, (which, options) in FIGURE4_METHODS.items():
            result, seconds = timed(network, x, which, options, operator=mask)
            found = int((np.linalg.norm(result.z - truth, axis=1) <= 1e-3 * np.linalg.norm(truth, axis=1)).sum())
            off = ((result.x - x) ** 2 * ~mask).reshape(count, -1).sum(axis=1) / (~mask).reshape(count, -1).sum(axis=1)
            error = float(np.median(np.nan_to_num(off, nan=np.inf)))
            rows.append({"mask": kind, "method": method, "found": found, "error": error, "seconds": seconds})
            print(f"| {kind} | {method} | {found} | {error:.2g} | {seconds / count:.2f} |", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="networks a cell of PLUGIn's setting; 0 leaves it out")
    parser.add_argument("--images", type=int, default=10, help="images a cell of CSGM's setting and of Figure 4; or 0")
    parser.add_argument("--generator", default="mnist-sigmoid", help="generator of CSGM's setting")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the numbers go")
    arguments = parser.parse_args()
    report = {"machine": describe()}
    if arguments.trials:
        report["plugin"] = plugin_setting(arguments.trials)
    if arguments.images:
        report["csgm"] = csgm_setting(arguments.generator, arguments.images)
        report["figure4"] = figure4_setting("mnist-relu", arguments.images)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

"""The baselines in the settings they were published in, beside what was published, and beside our methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.kit.markdown_tables import form, table
from unrelu_studies.kit.measures import lasso, relative_error
from unrelu_studies.kit.method_labels import METHODS
from unrelu_studies.kit.random_instances import gaussian_measurements, gaussian_network, on_sphere
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.peers.ilo import Ilo
from unrelu_studies.peers.plugin import Plugin
from unrelu_studies.peers.projected_gradient import ProjectedGradient

# A method, by its name or as an object, and the options of :func:`unrelu.invert`.
Method = tuple[str | Callable[[Problem], Inversion], dict[str, Any]]

# Networks a cell of PLUGIn's setting; images a cell of CSGM's and of Figure 4; both in a quick run.
TRIALS, IMAGES, QUICK = 10, 5, 1
CSGM_GENERATOR, FIGURE4_GENERATOR = "mnist-sigmoid", "mnist-relu"

# PLUGIn, Figure 2a: noise norm -> mean relative error of gradient descent and of PLUGIn over 20 trials, read off there.
PLUGIN_PUBLISHED = {0.105: (0.071, 0.29), 0.21: (0.157, 0.50), 1.0: (1.03, 2.9)}
PLUGIN_SIZES = (20, 600, 500, 500)
PLUGIN_METHODS: dict[str, Method] = {
    "gradient_descent": METHODS["GD, PLUGIn's step"],
    "plugin": (Plugin(theta=3 / 8), {}),
    "plugin, step 2^d": (Plugin(theta=1.0), {}),
    "ilo": (Ilo(), {}),
    **{name: (name, {}) for name in ("lm", "auto")},
}

CSGM_MEASUREMENTS = (10, 25, 50, 100, 200, 300, 400, 500, 750)
CSGM_NOISE = 0.1
CSGM_PRIOR = 0.1
CSGM_METHODS: dict[str, Method] = {
    "adam": ("adam", {}),
    "adam, prior 0.1": ("adam", {"prior": CSGM_PRIOR}),
    "lm, prior 0.1": ("lm", {"prior": CSGM_PRIOR}),
    "auto": ("auto", {}),
    "auto, prior 0.1": ("auto", {"prior": CSGM_PRIOR}),
}

# Step 1 fills hidden pixels with those of the iterate; step 0.5 and 10 projections are Shah and Hegde's.
_FILL: dict[str, Any] = {"step": 1.0, "max_iterations": 50}
FIGURE4_METHODS: dict[str, Method] = {
    "projected (linf, step 0.5, 10 times)": (ProjectedGradient(), {}),
    **{f"projected, {name}": (ProjectedGradient(name, **_FILL), {}) for name in ("linf", "l1", "lm")},
    **{name: (name, {}) for name in ("gradient_descent", "adam")},
    "plugin": (Plugin(), {}),
    "ilo": (Ilo(), {}),
    "linf on the observed rows": ("linf", {}),
    "lm": ("lm", {}),
    "auto": ("auto", {}),
}


def _units(command: Command) -> list[Unit]:
    """A noise level and a method of PLUGIn's setting each; a kind of images and m of CSGM's; a mask of Figure 4."""
    plugin: list[Unit] = [("plugin", level, name) for level in PLUGIN_PUBLISHED for name in PLUGIN_METHODS]
    csgm: list[Unit] = [("csgm", kind, m) for kind in ("digits", "generated") for m in CSGM_MEASUREMENTS]
    return [*plugin, *csgm, ("figure4", "random half"), ("figure4", "all but 8 x 8")]


def _count(command: Command, full: int) -> int:
    return QUICK if command.quick else full


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    what, images = str(unit[0]), _count(command, IMAGES)
    if what == "plugin":
        return {what: [_plugin_setting(float(unit[1]), str(unit[2]), _count(command, TRIALS), command.seed)]}
    if what == "csgm":
        return {what: _csgm_setting(CSGM_GENERATOR, str(unit[1]), int(unit[2]), images, command.seed)}
    return {what: _figure4_setting(FIGURE4_GENERATOR, str(unit[1]), images, command.seed)}


def _timed(network: Network, y: npt.ArrayLike, method: Method, **given: Any) -> tuple[Inversion, float]:
    how, options = method
    return timed(partial(unrelu.invert, network, y, how, **options, **given))


def _plugin_setting(level: float, name: str, trials: int, seed: int) -> dict[str, Any]:
    """20-600-500-500 with contracting layers, unit code, noise on a sphere: |z - z*| of every trial."""
    errors, seconds = [], 0.0
    for trial in range(trials):
        network = gaussian_network(PLUGIN_SIZES, stream("PLUGIn, weights", seed, trial))
        truth = on_sphere(PLUGIN_SIZES[0], stream("PLUGIn, truth", seed, trial))
        y = network(truth) + level * on_sphere(PLUGIN_SIZES[-1], stream("PLUGIn, noise", seed, trial))
        result, used = _timed(network, y, PLUGIN_METHODS[name], seed=trial)
        errors.append(float(np.linalg.norm(result.z - truth)))
        seconds += used
    return {"noise": level, "method": name, "errors": errors, "seconds": seconds}


def _csgm_setting(name: str, kind: str, m: int, count: int, seed: int) -> list[dict[str, Any]]:
    """Gaussian measurements of held-out digits or generated images, noise of norm 0.1: mean square error a pixel."""
    network = unrelu.zoo.load(name)
    truth = stream("CSGM, truth", seed, name).standard_normal((count, network.latent_dim))
    x = (unrelu.zoo.observations(name)[:count] if kind == "digits" else network(truth)).reshape(count, -1)
    a = gaussian_measurements(m, network.output_dim, stream("CSGM, measurement matrix", seed, name, kind, m))
    e = stream("CSGM, noise", seed, name, kind, m).standard_normal((count, m))
    y = x @ a.T + CSGM_NOISE / np.sqrt(m) * e
    # CSGM's Lasso in the pixels: (1/2m) |y - A x|^2 + 0.1 |x|_1 with A_ij ~ N(0, 1), clipped to [0, 1].
    estimate = lasso(a * np.sqrt(m), y * np.sqrt(m), np.full(count, 0.1 * m), restarts=False).clip(0, 1)
    rows = [{"images": kind, "m": m, "method": "lasso", "error": float(((estimate - x) ** 2).mean())}]
    for label, method in CSGM_METHODS.items():
        result, seconds = _timed(network, y, method, operator=a)
        error = float(((result.reconstruction.reshape(count, -1) - x) ** 2).mean())
        rows.append({"images": kind, "m": m, "method": label, "error": error, "seconds": seconds})
    return rows


def _figure4_setting(name: str, kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Part of each generated image seen: how many are found, and the median error of the pixels that were not."""
    network = unrelu.zoo.load(name)
    truth = stream("Figure 4, truth", seed, name).standard_normal((count, network.latent_dim))
    x = network(truth)
    if kind == "random half":
        rng = stream("Figure 4, masks", seed, name)
        mask = np.stack([rng.random(x.shape[1:]) < 0.5 for _ in range(count)])
    else:
        mask = np.ones(x.shape, dtype=bool)
        mask.reshape(count, 28, 28)[:, 10:18, 10:18] = False
    hidden, rows = (~mask).reshape(count, -1), []
    for label, method in FIGURE4_METHODS.items():
        result, seconds = _timed(network, x, method, operator=mask)
        found = int((relative_error(result.z, truth) <= 1e-3).sum())
        off = (((result.reconstruction - x) ** 2).reshape(count, -1) * hidden).sum(axis=1) / hidden.sum(axis=1)
        error = float(np.median(np.nan_to_num(off, nan=np.inf)))
        rows.append({"mask": kind, "method": label, "found": found, "error": error, "seconds": seconds})
    return rows


def _collect(command: Command, parts: list[Any]) -> Results:
    names = ("gradient_descent", "plugin")
    return {
        "trials": _count(command, TRIALS),
        "images": _count(command, IMAGES),
        "published": {f"{a:g}": dict(zip(names, errors, strict=True)) for a, errors in PLUGIN_PUBLISHED.items()},
        **gathered(parts, "plugin", "csgm", "figure4"),
    }


def _plugin_table(results: Results) -> str:
    published, rows = results["published"], []
    for name in ("gradient_descent", "plugin"):
        rows.append((f"{name}, published", *(f"{errors[name]:g}" for errors in published.values()), ""))
    for name in dict.fromkeys(row["method"] for row in results["plugin"]):
        mine = [row for row in results["plugin"] if row["method"] == name]
        cells = (f"{np.mean(row['errors']):.3g} ({max(row['errors']):.2g})" for row in mine)
        used = sum(row["seconds"] for row in mine) / sum(len(row["errors"]) for row in mine)
        rows.append((name, *cells, f"{used:.2f}"))
    text = f"{len(results['plugin'][0]['errors'])} networks; mean relative error of the code, largest in brackets:\n\n"
    return text + table(("method", *(f"noise {level}" for level in published), "seconds a code"), rows)


def _csgm_table(results: Results, images: str) -> str:
    mine = [row for row in results["csgm"] if row["images"] == images]
    sizes = sorted({row["m"] for row in mine})
    rows, count = [], results["images"]
    for method in dict.fromkeys(row["method"] for row in mine):
        group = sorted((row for row in mine if row["method"] == method), key=lambda row: int(row["m"]))
        used = [row["seconds"] / count for row in group if "seconds" in row]
        cells = (f"{row['error']:.2g}" for row in group)
        rows.append((method, *cells, f"{np.mean(used):.2f}" if used else ""))
    return table(("method", *map(str, sizes), "seconds an image"), rows)


def _csgm_digits(results: Results) -> str:
    errors: dict[str, dict[int, float]] = {}
    for row in results["csgm"]:
        if row["images"] == "digits":
            errors.setdefault(row["method"], {})[row["m"]] = row["error"]
    said = []
    for m in (200, 400, 500, 750):
        enough = [n for n, error in sorted(errors["adam"].items()) if error <= errors["lasso"][m]]
        said.append(f"{m} are {enough[0] if enough else 'more than any number'}")
    worse = [str(m) for m, error in sorted(errors["auto"].items()) if error > 1.1 * errors["adam"][m]]
    return (
        f"{results['images']} held-out digits, by the number of measurements:\n\n{_csgm_table(results, 'digits')}\n\n"
        f"Measurements that `adam` needs for what Lasso reaches: {', '.join(said)}. Numbers of measurements with which "
        f"`auto` without a prior is more than a tenth worse than `adam`: {', '.join(worse) or 'none'}."
    )


def _csgm_generated(results: Results) -> str:
    return f"{results['images']} images that the generator drew:\n\n{_csgm_table(results, 'generated')}"


def _figure4_table(results: Results) -> str:
    rows, count = results["figure4"], results["images"]
    found = sum(row["found"] for row in rows if row["method"] == "projected, linf")
    cells = ((r["mask"], r["method"], r["found"], form(r["error"], ".2g"), f"{r['seconds'] / count:.2f}") for r in rows)
    return (
        f"{count} images a mask:\n\n"
        + table(("mask", "method", "found to 1e-3", "median error of hidden pixels", "seconds an image"), cells)
        + f"\n\nProjected gradient with `linf` and 50 projections finds {found} of {2 * count}."
    )


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={
        "baselines plugin": _plugin_table,
        "baselines csgm digits": _csgm_digits,
        "baselines csgm generated": _csgm_generated,
        "baselines figure4": _figure4_table,
    },
    collect=_collect,
)

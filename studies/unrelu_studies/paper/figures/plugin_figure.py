"""PLUGIn's own experiment: a network with contracting layers, its published numbers and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unrelu._invert import invert
from unrelu_studies.kit.measures import errors, median, relative_error, said
from unrelu_studies.kit.method_labels import METHODS
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import STYLES, legend, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, on_sphere, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict
from unrelu_studies.peers.plugin import Plugin

_SIZES = (20, 600, 500, 500)
# Noise norm -> mean relative error of gradient descent and of PLUGIn over 20 trials, read off Figure 2a there.
_PUBLISHED = {0.105: (0.071, 0.29), 0.21: (0.157, 0.50), 1.0: (1.03, 2.9)}
_GD = "GD, PLUGIn's step"
_RUN: dict[str, tuple[str | Plugin, dict[str, Any]]] = {
    "plugin": (Plugin(theta=3 / 8), {}),
    **{label: METHODS[label] for label in (_GD, "lm", "auto")},
}
_METHODS = tuple(_RUN)
# Means of 20 errors that were read off a plot.
_CLOSE, _NEAR = 0.25, 0.5


def _units(quick: bool) -> list[Unit]:
    """A trial each; all noise levels share the network, the code and the direction of the noise."""
    return [(trial,) for trial in range(2 if quick else 20)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    key = (seed, "plugin", *unit)
    network = gaussian_network(_SIZES, random("weights", *key))
    truth, e = on_sphere(_SIZES[0], random("truth", *key)), on_sphere(_SIZES[-1], random("noise", *key))
    start = draw_seed(random("starts", *key))
    rows: list[Row] = []
    for level in (0.105, 1.0) if quick else _PUBLISHED:
        y = network(truth) + level * e
        for method in _METHODS:
            how, options = _RUN[method]
            result = invert(network, y, how, seed=start, **options)
            rows.append((unit[0], level, method, float(relative_error(result.z, truth)), float(result.seconds)))
    return rows


def _mean(numbers: Numbers, level: float, method: str) -> float:
    return float(np.mean(errors(numbers, noise=level, method=method)))


def _draw(numbers: Numbers) -> Figure:
    figure, (axis,) = panels(height=2.8)
    levels = numbers.distinct("noise")
    for i, method in enumerate(_METHODS):
        style = STYLES[method]
        at = np.arange(len(levels)) + 0.17 * (i - 1.5)
        for x, level in zip(at, levels, strict=True):
            group = errors(numbers, noise=level, method=method)
            axis.plot(np.full(group.size, x), group, ".", color=style.color, markersize=2.5, alpha=0.5, zorder=2)
        means = [_mean(numbers, level, method) for level in levels]
        thin = style.marker == "x"
        axis.plot(
            at, means, style.marker, color=style.color, markersize=6, markeredgewidth=1.4 if thin else 0.5,
            markeredgecolor=style.color if thin else "white", label=f"{method}, mean", zorder=4,
        )  # fmt: skip
    for place, i in enumerate((_METHODS.index(_GD), _METHODS.index("plugin"))):
        style = STYLES[_METHODS[i]]
        axis.plot(
            np.arange(len(levels)) + 0.17 * (i - 1.5), [_PUBLISHED[level][place] for level in levels], "_",
            color="black", markersize=11, markeredgewidth=1.3, label="published" if place == 0 else None, zorder=5,
        )  # fmt: skip
    tidy(axis, "norm of the noise", "relative error of the code", "random 20-600-500-500, unit codes", log="y")
    axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    legend(figure, axis, 2)
    return figure


def _reproduced(numbers: Numbers, method: str, place: int, name: str) -> Claim:
    levels = numbers.distinct("noise")
    means = {f"at {level:g}": _mean(numbers, level, method) for level in levels}
    published = {f"at {level:g}": _PUBLISHED[level][place] for level in levels}
    off = float(np.max([abs(means[key] / published[key] - 1) for key in means]))
    return Claim(
        "PLUGIn, Figure 2a", f"mean error of {name}: {said(published)}", f"{said(means)}",
        Verdict.of(off <= _CLOSE, off <= _NEAR), "theirs were read off a plot; the networks are other draws",
    )  # fmt: skip


def _claims(numbers: Numbers) -> Sequence[Claim]:
    levels = numbers.distinct("noise")
    against = {f"at {a:g}": _mean(numbers, a, "auto") / _mean(numbers, a, _GD) for a in levels}
    worse = {f"at {a:g}": _mean(numbers, a, "plugin") / _mean(numbers, a, _GD) for a in levels}
    seconds = {m: median(numbers, "seconds", method=m) for m in _METHODS}
    return [
        _reproduced(numbers, _GD, 0, "gradient descent"),
        _reproduced(numbers, "plugin", 1, "PLUGIn"),
        Claim(
            "PLUGIn, Figure 2a", "gradient descent is more accurate than PLUGIn",
            f"mean error of PLUGIn / that of GD: {said(worse)}", Verdict.of(min(worse.values()) > 1),
        ),
        Claim(
            "unrelu", "auto is as accurate as gradient descent where layers contract",
            f"mean error of auto / that of GD: {said(against)}; median seconds a code: {said(seconds)}",
            Verdict.of(max(against.values()) <= 1.05, max(against.values()) <= 1.25),
            "with noise of this norm, the code that fits best need not be the closest to the true one",
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "plugin": Experiment(
        name="plugin",
        title="PLUGIn's Figure 2a: a network with contracting layers",
        about=(
            f"Random ReLU networks {'-'.join(map(str, _SIZES))} with weights N(0, 1/n_i), a code of norm 1 and noise "
            "of a given norm in a uniform direction; 20 trials, mean error, as published (Joshi, Li, Plan and Yilmaz, "
            "NeurIPS 2021). PLUGIn has their step 3; GD moves by 4 J^T r, 2,000 times."
        ),
        columns=("trial", "noise", "method", "error", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

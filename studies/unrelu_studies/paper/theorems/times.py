"""Time of every method for one observation, alone and in a batch, beside the error that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from unrelu import zoo
from unrelu._invert import invert
from unrelu.models.network import Network
from unrelu_studies.kit.measures import errors, median, relative_error, said, share, spread
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import decades, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict

_SIZES = {"20-100-500": (20, 100, 500), "100-250-600": (100, 250, 600)}
_TRAINED = ("mnist-relu", "mnist-leaky")
_LEVEL = 1e-3
_BATCH, _ALONE = 15, 5
# Gradient descent on trained networks and Adam take seconds a code: fewer of them.
_SLOW, _ALONE_SLOW, _BATCH_SLOW = ("GD, trained", "adam"), 3, 10
# Gradient descent that goes on, to the paper's gradient norm or as far as 500,000 steps of 1e-3 in ten times their
# length: of this many codes, one at a time.
_ON, _ON_CODES, _ON_FACTOR = "GD, going on", 2, 10
_ON_OPTIONS: dict[str, Any] = {"learning_rate": 1e-2, "max_iterations": 50_000}
_METHODS = ("exact", "linf", "l1", "relaxed", "least_squares", "lm", "GD", "adam", "auto")
# An error below this leaves a code of use; the paper's minutes, in seconds.
_USEFUL, _MINUTES = 0.1, 60.0
_TINY = 1e-6  # smaller errors are drawn here


def _label(network: str, method: str) -> str:
    return "GD, trained" if method == "GD" and network in _TRAINED else method


def _units(quick: bool) -> list[Unit]:
    """A network and a method each."""
    networks = ("20-100-500",) if quick else (*_SIZES, *_TRAINED)
    units: list[Unit] = [(network, method) for network in networks for method in _METHODS]
    return units if quick else [*units, (_TRAINED[0], _ON)]


def _network(name: str, rng: np.random.Generator) -> Network:
    return gaussian_network(_SIZES[name], rng) if name in _SIZES else zoo.load(name)


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    name, label = str(unit[0]), _label(str(unit[0]), str(unit[1]))
    key = (seed, "times", name)
    network = _network(name, random("weights", *key))
    batch, alone = (_BATCH_SLOW, _ALONE_SLOW) if label in _SLOW else (_BATCH, _ALONE)
    batch, alone = (2, 1) if quick else (batch, alone)
    truth = random("truth", *key).standard_normal((_BATCH, network.latent_dim))
    clean = network(truth)
    start = draw_seed(random("starts", *key))
    # `exact` says of noisy outputs only that no code has them.
    y = clean + (0.0 if label == "exact" else _LEVEL) * noise("uniform", clean.shape, random("noise", *key))
    if label == _ON:
        return _going_on(network, truth, y, start)
    if label not in _SLOW:
        run(label, network, y[:1], seed=start)
    rows: list[Row] = []
    for i in range(alone):
        result = run(label, network, y[i : i + 1], seed=start)
        error = relative_error(result.z, truth[i : i + 1])
        rows.append((name, unit[1], 1, i, error[0], float(result.seconds[0])))
    result = run(label, network, y[:batch], seed=start)
    error = relative_error(result.z, truth[:batch])
    # What is shared within a batch is shared out evenly.
    each = float(np.mean(result.seconds))
    return rows + [(name, unit[1], batch, i, error[i], each) for i in range(batch)]


def _going_on(network: Network, truth: np.ndarray, y: np.ndarray, start: int) -> list[Row]:
    """Seconds of as many steps of 1e-3 as lead as far as those made, which are ten times as long."""
    rows: list[Row] = []
    for i in range(_ON_CODES):
        result = invert(network, y[i : i + 1], "gradient_descent", seed=start, **_ON_OPTIONS)
        error = relative_error(result.z, truth[i : i + 1])[0]
        rows.append((_TRAINED[0], _ON, 1, i, error, _ON_FACTOR * float(result.seconds[0])))
    return rows


def _seconds(numbers: Numbers, network: str, method: str, together: bool) -> float:
    part = numbers.where(network=network, method=method)
    batch = max(part.distinct("batch")) if together else 1
    return median(part, "seconds", batch=batch)


def _error(numbers: Numbers, network: str, method: str) -> float:
    return float(np.median(errors(numbers, network=network, method=method)))


def _draw(numbers: Numbers) -> Figure:
    """Above the times, below the errors; a column a network, a line a method."""
    networks, methods = numbers.distinct("network"), [m for m in reversed(_METHODS) if m in numbers.distinct("method")]
    figure, axes = panels(2, len(networks), width=7.2, height=2.3)
    places = np.arange(len(methods))
    for i, network in enumerate(networks):
        time, accuracy = axes[i], axes[len(networks) + i]
        alone = [_seconds(numbers, network, m, together=False) for m in methods]
        batch = [_seconds(numbers, network, m, together=True) for m in methods]
        time.hlines(places, np.minimum(alone, batch), np.maximum(alone, batch), color="0.8", linewidth=2, zorder=2)
        time.plot(alone, places, "o", color="#0072b2", markersize=4.5, zorder=4)
        time.plot(batch, places, "o", color="#e69f00", markersize=4.5, markerfacecolor="white", zorder=3)
        for place, method in zip(places, methods, strict=True):
            group = np.minimum(errors(numbers, network=network, method=method, batch=1), 1e3)
            accuracy.plot(
                np.maximum(group, _TINY), np.full(group.size, place), ".", color="0.6", markersize=3, zorder=3
            )
            middle = float(np.clip(_error(numbers, network, method), _TINY, 1e3))
            bad = middle > _USEFUL
            accuracy.plot(
                middle, place, "X" if bad else "o", color="#d55e00" if bad else "#009e73", markersize=5, zorder=4
            )
        decades(time.xaxis, [*alone, *batch])
        for axis, label in ((time, "seconds a code"), (accuracy, "relative error")):
            tidy(axis, label, "", network if axis is time else "", log="x")
            axis.set_yticks(places, methods if i == 0 else [""] * len(methods), fontsize=7)
            axis.set_ylim(-0.6, len(methods) - 0.4)
        accuracy.xaxis.set_major_locator(LogLocator(base=100, numticks=12))  # room for the labels
    entries = [
        Line2D([], [], marker="o", linestyle="", color="#0072b2", markersize=4.5, label="one at a time"),
        Line2D([], [], marker="o", linestyle="", color="#e69f00", markerfacecolor="white", label="in a batch"),
        Line2D([], [], marker="o", linestyle="", color="#009e73", markersize=5, label=f"median error up to {_USEFUL}"),
        Line2D([], [], marker="X", linestyle="", color="#d55e00", markersize=5, label="above: of no use"),
    ]
    figure.legend(handles=entries, loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure


def _minutes(numbers: Numbers) -> list[Claim]:
    if "mnist-relu" not in numbers.distinct("network"):
        return []
    says = "gradient descent takes several minutes an MNIST image and may need restarts"
    seconds = _seconds(numbers, "mnist-relu", "GD", together=False)
    missed = share(errors(numbers, network="mnist-relu", method="GD") > _USEFUL)
    claims = [
        Claim(
            "Section 1", says,
            f"mnist-relu, 10,000 steps, one core: {seconds:.3g} s a start; {missed:.0%} of the starts end with an "
            f"error above {_USEFUL:g}",
            Verdict.of(seconds >= _MINUTES and missed > 0, seconds >= _MINUTES or missed > 0),
            "one start takes seconds on this network, but most of them miss the code" if missed > 0.5 else
            "one start takes seconds on this network",
        )
    ]  # fmt: skip
    if _ON in numbers.distinct("method"):
        seconds = _seconds(numbers, "mnist-relu", _ON, together=False)
        missed = share(errors(numbers, network="mnist-relu", method=_ON) > _USEFUL)
        claims.append(
            Claim(
                "Section 1", says,
                f"mnist-relu, up to 500,000 steps of 1e-3, one core: {seconds:.3g} s a start; {missed:.0%} of "
                f"{_ON_CODES} starts end with an error above {_USEFUL:g}",
                Verdict.of(seconds >= 2 * _MINUTES, seconds >= _MINUTES or missed > 0),
                "one start takes seconds on this network",
                "gradient descent goes on to the gradient norm 1e-9 that the paper states, not for 10,000 steps",
            )
        )  # fmt: skip
    return claims


def _claims(numbers: Numbers) -> Sequence[Claim]:
    networks = numbers.distinct("network")
    descent = {n: _seconds(numbers, n, "GD", together=False) for n in networks}
    faster = {
        m: [descent[n] / _seconds(numbers, n, m, together=False) for n in networks] for m in ("linf", "l1", "relaxed")
    }
    least = [min(r) for r in faster.values()]
    best, ours = {}, {}
    for n in networks:
        useful = [m for m in _METHODS if m != "exact" and _error(numbers, n, m) <= _USEFUL]
        best[n] = min(useful, key=lambda m: _seconds(numbers, n, m, together=False), default="none")
        ours[n] = _seconds(numbers, n, "auto", together=False) / descent[n]
    return [
        *_minutes(numbers),
        Claim(
            "Section 1", "gradient descent may require a long time to converge; the linear programs are direct",
            "time of GD / that of "
            + "; ".join(f"{m} {spread(ratios)}" for m, ratios in faster.items()) + ", over the networks",
            Verdict.of(min(least) > 1, any(ratio > 1 for ratios in faster.values() for ratio in ratios)),
            "steps on small random networks are cheap, and layers of several hundred neurons make large programs",
        ),
        Claim(
            "unrelu", "auto is quicker than gradient descent with one start",
            f"time of auto / that of GD: {said(ours)}; quickest with a median error up to {_USEFUL:g}: "
            + ", ".join(f"{m} on {n}" for n, m in best.items()),
            Verdict.of(max(ours.values()) < 1, min(ours.values()) < 1),
            "it tries several starts until the best is found again, which costs more than one easy descent",
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "times": Experiment(
        name="times",
        title="Time a code, beside the error",
        about=(
            f"One observation at a time ({_ALONE} of them, after one that is not counted; {_ALONE_SLOW} of the slowest "
            f"methods, which need no warm-up) and in a batch of {_BATCH} ({_BATCH_SLOW}), on one core. Random ReLU "
            f"networks and two of the zoo, uniform noise {_LEVEL:g}; exact gets outputs without noise. Errors below "
            f"{_TINY:g} are drawn there. GD is the paper's: 1,000 steps on random networks, 10,000 on trained ones. "
            f"adam makes 1,000 steps from 10 starts. For the time of 500,000 steps of 1e-3, {_ON_CODES} codes "
            "get 50,000 of 1e-2, of which one takes as long."
        ),
        columns=("network", "method", "batch", "code", "error", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
        alone=True,
    )
}

"""Gradient descent with other steps and starts than the paper states, and linear programs that are told the noise.

The paper gives a step, a number of steps and a gradient norm to stop at, and neither the loss nor the start. So what it
says of gradient descent is read here with half the sum of the squares (as everywhere else), their sum and their mean;
with steps on a grid, the best of which is chosen on other instances than those it is judged by; and with starts from
N(0, I), from small codes and from 0. The released code gives the linear programs the level of the noise, as their first
threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrelu._invert import invert
from unrelu.models.network import Network
from unrelu_studies.kit.measures import code_rows, errors, far_off, medians, oracle, relative_error, said, share
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import Style, decades, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.trained_generators import BOTH, named
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict, also
from unrelu_studies.paper.figures.figure1 import BETTER, OUTLIERS, SIMILAR, SIZES
from unrelu_studies.paper.figures.figure2 import COLLAPSE, HIDDEN, OUTPUT, PANELS, SUCCESS
from unrelu_studies.paper.figures.stuck import STUCK

Array = npt.NDArray[np.float64]

_TUNING, _REPORTED = "tuning", "reported"
_KINDS = {"fig1a": "uniform", "fig1b": "gaussian"}
_PANELS = {"fig1a": "Figure 1(a)", "fig1b": "Figure 1(b)"}
_LEVELS = (1e-6, 1e-3)
_CODES = 5  # of each random network
_COUNTS = {_TUNING: 3, _REPORTED: 10}  # networks of Figure 1
_COUNTS_2 = {_TUNING: 1, _REPORTED: 3}  # networks of Figure 2, a size
_CODES_2 = 10
# The first shows that gradient descent works as in the paper.
_LATENT = (20, 60, 100)
_CODES_TRAINED = 20
_WELL, _GONE, _OUTLIER, _RECOVERED = 0.95, 0.05, 10.0, 1e-3

# Half the sum of squares with the paper's step is the reading of every other experiment.
_USUAL, _MEAN, _ZERO, _SMALL = "step 1", "mean of squares", "start 0", "small start"
_STEPS = {"step 1": 1.0, "step 0.1": 0.1, "step 0.3": 0.3, "step 2, sum of squares": 2.0, "step 3": 3.0, _MEAN: None}
_STEPS_TRAINED = {
    "step 0.001": 1e-3, "step 0.002, sum of squares": 2e-3, "step 0.01": 1e-2, "step 0.03": 3e-2, "step 0.1": 0.1,
    "step 0.3": 0.3, _MEAN: None,
}  # fmt: skip
_SCALE = 0.01  # of small starts
_PROGRAMS = ("linf", "l1")
_OTHER = "other steps and starts of gradient descent"


def _units(quick: bool) -> list[Unit]:
    """A random network each, and all codes of a trained one; tuning and reporting have instances of their own."""
    few = dict.fromkeys((_TUNING, _REPORTED), 1)
    first, second = (few, few) if quick else (_COUNTS, _COUNTS_2)
    units: list[Unit] = [("fig1", part, i) for part, count in first.items() for i in range(count)]
    for name in PANELS:
        units += [
            (name, part, i, k) for k in (_LATENT[:2] if quick else _LATENT) for part, count in second.items()
            for i in range(count)
        ]  # fmt: skip
    generators = BOTH[1:] if quick else BOTH
    return units + [(generator.name, part) for generator in generators for part in (_TUNING, _REPORTED)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    which = str(unit[0])
    if which == "fig1":
        return _measure_noisy(unit, seed)
    return _measure_clean(unit, seed) if which in PANELS else _measure_trained(unit, seed, quick)


def _measure_noisy(unit: Unit, seed: int) -> list[Row]:
    """Figures 1(a) and 1(b) on one network: all kinds and levels of noise in one batch."""
    part, index = str(unit[1]), int(unit[2])
    key = (seed, "descent", *unit)
    network = gaussian_network(SIZES, random("weights", *key))
    truth = random("truth", *key).standard_normal((_CODES, SIZES[0]))
    cases = [(name, level) for name in _KINDS for level in _LEVELS]
    e = np.concatenate([level * noise(_KINDS[name], (_CODES, SIZES[-1]), random("noise", *key, name))
                        for name, level in cases])  # fmt: skip
    many = np.tile(truth, (len(cases), 1))
    y, start = network(many) + e, draw_seed(random("starts", *key))
    found = _descents(network, y, start, key, _STEPS, 1.0, 1_000)
    found["oracle"] = oracle(network, many, e)
    for method in _PROGRAMS:
        found[method] = run(method, network, y, seed=start).z
        parts = [
            run(method, network, y[_CODES * i : _CODES * (i + 1)], noise=f"{_KINDS[name]}:{level:g}", seed=start).z
            for i, (name, level) in enumerate(cases)
        ]
        found[f"{method}, told"] = np.concatenate(parts)
    return [
        (name, part, index, SIZES[0], level, j, method, error)
        for method, z in found.items()
        for i, (name, level) in enumerate(cases)
        for j, error in enumerate(relative_error(z, many)[_CODES * i : _CODES * (i + 1)])
    ]


def _measure_clean(unit: Unit, seed: int) -> list[Row]:
    """Figure 2 on one network, gradient descent alone."""
    name, part, index, k = str(unit[0]), str(unit[1]), int(unit[2]), int(unit[3])
    key = (seed, "descent", *unit)
    network = gaussian_network((k, HIDDEN, OUTPUT), random("weights", *key), PANELS[name][0])
    truth = random("truth", *key).standard_normal((_CODES_2, k))
    start = draw_seed(random("starts", *key))
    found = _descents(network, network(truth), start, key, _STEPS, 1.0, 1_000)
    return _clean_rows((name, part, index, k, 0.0), found, truth)


def _measure_trained(unit: Unit, seed: int, quick: bool) -> list[Row]:
    """A trained network without noise, gradient descent alone."""
    name, part = str(unit[0]), str(unit[1])
    network = {generator.name: generator for generator in BOTH}[name].load()
    key, count = (seed, "descent", *unit), 3 if quick else _CODES_TRAINED
    truth = random("truth", *key).standard_normal((count, network.latent_dim))
    start = draw_seed(random("starts", *key))
    found = _descents(network, network(truth), start, key, _STEPS_TRAINED, 1e-3, 500 if quick else 10_000)
    return _clean_rows((name, part, 0, network.latent_dim, 0.0), found, truth)


def _clean_rows(place: tuple[Any, ...], found: dict[str, Array], truth: Array) -> list[Row]:
    return [row[:-1] for method, z in found.items() for row in code_rows(place, method, z, truth)]


def _descents(
    network: Network, y: Array, start: int, key: Sequence[str | float], steps: dict[str, float | None], usual: float,
    iterations: int,
) -> dict[str, Array]:  # fmt: skip
    """The codes that gradient descent ends at, (B, k), with every step from N(0, I), and the usual one from elsewhere.

    The gradient of the mean over n outputs is 2/n times that of half the sum.
    """
    shape = (len(y), network.latent_dim)
    seed, *rest = key
    small = _SCALE * random("small starts", int(seed), *rest).standard_normal(shape)
    runs: dict[str, tuple[float, Array | None]] = {
        label: (step or 2 * usual / network.output_dim, None) for label, step in steps.items()
    }
    runs |= {_ZERO: (usual, np.zeros(shape)), _SMALL: (usual, small)}
    found = {}
    for label, (step, z0) in runs.items():
        options: dict[str, Any] = {"learning_rate": step, "max_iterations": iterations}
        found[label] = invert(network, y, "gradient_descent", seed=start, z0=z0, **options).z
    return found


def _labels(steps: dict[str, float | None]) -> list[str]:
    return [*steps, _ZERO, _SMALL]


def _works(numbers: Numbers, name: str = "fig2a") -> list[str]:
    """The settings with which gradient descent recovers short codes, as it does in the paper: its other readings."""
    part = numbers.where(experiment=name, part=_REPORTED, k=_LATENT[0])
    recovered = {label: share(errors(part, method=label) <= SUCCESS) for label in _labels(_STEPS)}
    return [label for label, value in recovered.items() if value >= _WELL and label != _USUAL]


def _other(holding: Sequence[str]) -> str:
    """The reading, and the settings with which the claim holds."""
    return f"{_OTHER}: {', '.join(holding)}" if holding else _OTHER


def _tuned(numbers: Numbers, name: str, steps: dict[str, float | None]) -> str:
    """The step with the least mean of log errors over the tuning instances."""
    part = numbers.where(experiment=name, part=_TUNING)

    def score(label: str) -> float:
        return float(np.mean(np.log(np.clip(errors(part, method=label), 1e-16, 1e16))))

    return min(steps, key=score)


def _draw(numbers: Numbers) -> Figure:
    """Above, Figure 1 and the trained networks: median errors; below, Figure 2: what is recovered."""
    figure, axes = panels(2, 2, height=2.5)
    reported = numbers.where(part=_REPORTED)
    noisy = {f"{name[-1]}, noise {level:g}": reported.where(experiment=name, noise=level)
             for name in _KINDS for level in _LEVELS}  # fmt: skip
    _medians_by_setting(axes[0], noisy, [*_labels(_STEPS), "linf", "linf, told", "l1", "l1, told"], "Figure 1")
    trained = {g.name: reported.where(experiment=g.name) for g in BOTH if g.name in reported.distinct("experiment")}
    _medians_by_setting(axes[1], trained, _labels(_STEPS_TRAINED), "trained, no noise")
    for axis, name in zip(axes[2:], PANELS, strict=True):
        part = reported.where(experiment=name)
        ks = part.distinct("k")
        for i, label in enumerate(_labels(_STEPS)):
            style = _STYLES[i]
            values = [100 * share(errors(part, k=k, method=label) <= SUCCESS) for k in ks]
            axis.plot(ks, values, style.line, marker=style.marker, color=style.color, markersize=4, label=label)
        axis.set_ylim(-4, 104)
        tidy(axis, "latent dimension k", f"recovered to {SUCCESS:g}, %", f"{PANELS[name][1]}, {PANELS[name][0]}")
    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


_STYLES = [
    Style("#d55e00", "x"), Style("#0072b2", "o"), Style("#e69f00", "s"), Style("#009e73", "^"), Style("#cc79a7", "v"),
    Style("#000000", "*", "--"), Style("#7f7f7f", "P", ":"), Style("#56b4e9", "<", "--"),
]  # fmt: skip


def _medians_by_setting(axis: Axes, parts: dict[str, Numbers], labels: list[str], title: str) -> None:
    """The median error with each setting, a mark a case."""
    every = []
    for style, (name, part) in zip(_STYLES[1:], parts.items(), strict=False):
        values = [float(np.median(np.clip(errors(part, method=label), 1e-17, 1e3))) for label in labels]
        axis.plot(values, np.arange(len(labels)), style.marker, color=style.color, markersize=4.5, label=name)
        every += values
    tidy(axis, f"median relative error, {title}", "", log="x")
    decades(axis.xaxis, every)
    axis.set_yticks(range(len(labels)), labels, fontsize=6.5)
    axis.invert_yaxis()
    axis.legend(fontsize=6, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2, handletextpad=0.2)


def _noisy_claims(numbers: Numbers, name: str) -> list[Claim]:
    """What Figure 1(a) or 1(b) is said to show, with other settings, and with programs that are told the noise."""
    reported = numbers.where(experiment=name, part=_REPORTED)
    works = _works(numbers)
    tuned = _tuned(numbers, name, _STEPS)
    settings = _labels(_STEPS)
    middle = {m: medians(reported, "noise", method=m) for m in reported.distinct("method")}
    far = {m: far_off(reported, m, _OUTLIER) for m in reported.distinct("method")}
    left_out = ", ".join(label for label in settings if label not in works and label != _USUAL)
    counted = f" Not counted, as with it short codes are not recovered: {left_out}." if left_out else ""
    tuning = f" Tuned on other instances: {tuned}."

    ratio = {m: {s: float((middle[m] / middle[s]).max()) for s in settings} for m in _PROGRAMS}
    similar = {s: max(max(ratio[m][s], 1 / float((middle[m] / middle[s]).min())) for m in _PROGRAMS) for s in works}
    told = {m: middle[f"{m}, told"] / middle[_USUAL] for m in _PROGRAMS}
    alike = [s for s, value in similar.items() if value <= 2]
    wilder = [s for s in works if far[s] > max(far["linf"], far["l1"])]
    claims = [
        Claim(
            _PANELS[name], SIMILAR, "largest factor between the medians of linf or l1 and of GD: "
            f"{said(similar, '.3g')}.{counted}{tuning}",
            Verdict.of(bool(alike), min(similar.values(), default=99) <= 10),
            "with every setting that arrives, gradient descent ends at the same least-squares code", _other(alike),
        ),
        Claim(
            _PANELS[name], SIMILAR,
            "median error / that of GD, over the levels: "
            + "; ".join(f"{m} {r.min():.2f} to {r.max():.2f}" for m, r in told.items()),
            Verdict.of(*(max(float(r.max()) for r in told.values()) <= most for most in (2, 10))),
            "each layer of a layer-wise method amplifies the noise once more", "the linear programs are told the noise",
        ),
        Claim(
            _PANELS[name], OUTLIERS,
            f"runs with {_OUTLIER:g} times the oracle's median error or more: linf {far['linf']:.1%}, l1 "
            f"{far['l1']:.1%}; GD with {said({s: far[s] for s in settings}, '.0%')}.{counted}{tuning}",
            Verdict.of(bool(wilder), any(far[s] > min(far["linf"], far["l1"]) for s in works)),
            "with no setting that recovers short codes has it more", _other(wilder),
        ),
    ]  # fmt: skip
    return claims + _better(middle, works, counted + tuning) if name == "fig1a" else claims


def _better(middle: dict[str, Array], works: Sequence[str], notes: str) -> list[Claim]:
    """Whether linf is better than gradient descent under uniform noise."""
    ratio = {s: float((middle["linf"] / middle[s]).max()) for s in works}
    told = middle["linf, told"] / middle[_USUAL]
    worse = [s for s, value in ratio.items() if value < 1]
    return [
        Claim(
            _PANELS["fig1a"], BETTER, f"largest median error of linf / that of GD: {said(ratio, '.3g')}.{notes}",
            Verdict.of(bool(worse)),
            "gradient descent that arrives is at the least-squares code with every setting", _other(worse),
        ),
        Claim(
            _PANELS["fig1a"], BETTER, f"median error of linf / that of GD: {told.min():.2f} to {told.max():.2f}",
            Verdict.of(bool(told.max() < 1), bool(told.min() < 1)),
            "the threshold is found without being told as well", "linf is told the noise",
        ),
    ]  # fmt: skip


def _collapse(numbers: Numbers, name: str) -> Claim:
    """Whether gradient descent fails from k = 60 with some setting that recovers short codes."""
    panel = PANELS[name][1]
    reported = numbers.where(experiment=name, part=_REPORTED)
    long = [k for k in reported.distinct("k") if k >= COLLAPSE]
    found = {label: [share(errors(reported, k=k, method=label) <= SUCCESS) for k in long] for label in _labels(_STEPS)}
    works = _works(numbers, name)
    gone = [label for label in works if max(found[label]) <= _GONE]
    listed = "; ".join(
        f"{label} {', '.join(f'{value:.0%}' for value in values)}"
        + ("" if label in works or label == _USUAL else " (not counted)")
        for label, values in found.items()
    )
    tuned = _tuned(numbers, name, _STEPS)
    return Claim(
        panel, f"gradient descent fails completely from k = {COLLAPSE}",
        f"recovered with 1,000 steps at k = {', '.join(map(str, long))}: {listed}. Not counted is what does not "
        f"recover k = {_LATENT[0]}. Tuned on other instances: {tuned}",
        Verdict.of(bool(gone), any(min(found[s]) <= _GONE for s in works)),
        "every setting that recovers short codes recovers some of these", _other(gone),
    )  # fmt: skip


def _trained_claims(numbers: Numbers) -> list[Claim]:
    claims = []
    for i, generator in enumerate(g for g in BOTH if g.name in numbers.distinct("experiment")):
        reported = numbers.where(experiment=generator.name, part=_REPORTED)
        found = {s: share(errors(reported, method=s) <= _RECOVERED) for s in _labels(_STEPS_TRAINED)}
        close = {s: float(np.median(errors(reported, method=s))) for s in _labels(_STEPS_TRAINED)}
        tuned = _tuned(numbers, generator.name, _STEPS_TRAINED)
        claims.append(
            Claim(
                "Section 5.2", STUCK,
                f"within {_RECOVERED:g} of the code: {said(found, '.0%')}; median errors {said(close, '.2g')}. Tuned "
                f"on other instances: {tuned}, {found[tuned]:.0%}",
                Verdict.of(found[tuned] < 0.5, found[tuned] < _WELL),
                "a longer step gets there",
                also(f"on the {generator.name}" if i else "", f"{_OTHER}, the best of them"),
            )
        )  # fmt: skip
    return claims


def _claims(numbers: Numbers) -> Sequence[Claim]:
    return [
        *(claim for name in _KINDS for claim in _noisy_claims(numbers, name)),
        *(_collapse(numbers, name) for name in PANELS),
        *_trained_claims(numbers),
    ]


EXPERIMENTS = {
    "descent": Experiment(
        name="descent",
        title="Other steps and starts of gradient descent, and programs that are told the noise",
        about=(
            f"Random ReLU networks {'-'.join(map(str, SIZES))} ({_COUNTS[_REPORTED]} with {_CODES} codes each, noise "
            f"{_LEVELS[0]:g} and {_LEVELS[1]:g}, uniform and Gaussian), k-{HIDDEN}-{OUTPUT} "
            f"({_COUNTS_2[_REPORTED]} with {_CODES_2} codes each at every k, no noise), and {_CODES_TRAINED} codes of "
            f"either trained network, no noise. {named(BOTH)} GD makes 1,000 steps on random networks and 10,000 on "
            "trained ones, as in the paper, along the gradient of half the sum of squares with the step as named; that "
            "of the sum and that of the mean are the same with other steps. It starts from N(0, I), from 0, or from "
            f"{_SCALE:g} N(0, I). The best step is chosen on instances of their own. A setting is a reading of the "
            f"paper only if it recovers codes of length {_LATENT[0]} on random networks, as in its Figure 2."
        ),
        columns=("experiment", "part", "network", "k", "noise", "code", "method", "error"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

"""Figure 1: the error of the recovered code against the noise, on random networks and on a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from unrelu._invert import invert
from unrelu_studies.kit.measures import code_rows, errors, far_off, medians, oracle, said, share, slope
from unrelu_studies.kit.method_labels import NOISES, options_of, run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import cloud, legend, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.trained_generators import BOTH, TrainedGenerator, named
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict, on_each_generator

SIZES = (20, 100, 500)
_NETWORKS, _CODES = 20, 5  # random networks, and codes of each
_BATCHES, _BATCH = 2, 25  # batches of codes of a trained network that are inverted together
# What the paper says of random networks, and is tried in other readings as well.
SIMILAR = "the linear programs perform similarly to gradient descent on average"
OUTLIERS = "gradient descent produces more outliers"
BETTER = "linf is slightly better than gradient descent under uniform noise"
_LEVELS_QUICK = (1e-5, 1e-3, 1e-2)
_RANDOM = ("linf", "l1", "relaxed", "GD", "auto")
_ON_TRAINED = ("linf", "l1", "relaxed", "GD, trained", "auto")
_COLUMNS = ("network", "noise", "code", "method", "error", "seconds")
# A run is far off if its error is this many times the median error of the oracle at its level.
_OUTLIER = 10.0
# On the trained network a code is recovered if it is this close, in what the levels up to _SMALL allow.
_RECOVERED, _SMALL = 0.1, 1e-2


def _levels(quick: bool) -> Sequence[float]:
    return _LEVELS_QUICK if quick else NOISES


def _random_units(quick: bool) -> list[Unit]:
    """A network each; all noise levels share networks, codes and the noise but for its size."""
    return [(network,) for network in range(2 if quick else _NETWORKS)]


def _measure_random(kind: str, unit: Unit, seed: int, quick: bool) -> list[Row]:
    key = (seed, "fig1, random", *unit)
    network = gaussian_network(SIZES, random("weights", *key))
    truth = random("truth", *key).standard_normal((_CODES, SIZES[0]))
    e = noise(kind, (_CODES, SIZES[-1]), random("noise", *key, kind))
    start = draw_seed(random("starts", *key))
    rows: list[Row] = []
    for level in _levels(quick):
        y = network(truth) + level * e
        for method in _RANDOM:
            result = run(method, network, y, seed=start)
            rows += code_rows((unit[0], level), method, result.z, truth, result.seconds)
        rows += code_rows((unit[0], level), "oracle", oracle(network, truth, level * e), truth)
    return rows


def _trained_units(generators: Sequence[TrainedGenerator], quick: bool) -> list[Unit]:
    """A batch of codes of a generator at one noise level each."""
    batches = range(1 if quick else _BATCHES)
    return [(generator.name, batch, level) for generator in generators for batch in batches for level in _levels(quick)]


def _measure_trained(
    kind: str, generators: Sequence[TrainedGenerator], unit: Unit, seed: int, quick: bool
) -> list[Row]:
    name, batch, level = str(unit[0]), int(unit[1]), float(unit[2])
    key = (seed, "fig1, trained", name, batch)
    network = {generator.name: generator for generator in generators}[name].load()
    count = 3 if quick else _BATCH
    truth = random("truth", *key).standard_normal((count, network.latent_dim))
    clean = network(truth).reshape(count, -1)
    e = level * noise(kind, clean.shape, random("noise", *key, kind))
    start = draw_seed(random("starts", *key))
    y = (clean + e).reshape(count, *network.output_shape)
    rows: list[Row] = []
    for method in _ON_TRAINED:
        label, options = options_of(method, quick)
        result = invert(network, y, label, seed=start, **options)
        rows += code_rows((name, batch, level), method, result.z, truth, result.seconds)
    return rows + code_rows((name, batch, level), "oracle", oracle(network, truth, e), truth)


def _draw(titles: dict[str, str], numbers: Numbers) -> Figure:
    """A panel for the random networks, or for each trained generator."""
    parts = [numbers.where(generator=name) for name in titles] if "generator" in numbers.columns else [numbers]
    figure, axes = panels(1, len(parts), height=3.0)
    for axis, part, title in zip(axes, parts, titles.values(), strict=True):
        levels, methods = part.distinct("noise"), part.distinct("method")
        for i, method in enumerate(methods):
            groups = [errors(part, noise=level, method=method) for level in levels]
            cloud(axis, levels, groups, method, place=0.09 * (i - 2))
        tidy(axis, "noise level a", r"relative error $|z - z^*|_2\,/\,|z^*|_2$", title, log="xy")
    legend(figure, axes[0], 3 * len(parts))
    return figure


def _medians(numbers: Numbers, method: str) -> np.ndarray:
    """The median error of a method at each level; infinite where it mostly gave no code."""
    return medians(numbers, "noise", method=method)


def _slopes(numbers: Numbers, methods: Sequence[str]) -> dict[str, float]:
    levels = numbers.distinct("noise")
    return {method: slope(levels, _medians(numbers, method)) for method in methods}


def _small(numbers: Numbers) -> Numbers:
    """The rows at noise up to 1e-2."""
    place = numbers.columns.index("noise")
    return replace(numbers, rows=tuple(row for row in numbers.rows if row[place] <= _SMALL))


def _ours_claims(numbers: Numbers, panel: str) -> list[Claim]:
    """Of `auto`, on either kind of network."""
    steep = _slopes(numbers, ("auto",))["auto"]
    levels = np.array(numbers.distinct("noise"))
    ratio = (_medians(numbers, "auto") / _medians(numbers, "oracle"))[levels <= _SMALL]
    return [
        Claim(
            f"unrelu, {panel}", "the error of auto grows linearly with the noise from 1e-6 to 1e-2",
            f"log-log slope {steep:.3f}", Verdict.of(abs(steep - 1) <= 0.05),
        ),
        Claim(
            f"unrelu, {panel}", "auto reaches the oracle, which is told the sign of every neuron",
            f"median error / the oracle's: {ratio.min():.3f} to {ratio.max():.3f} at noise up to 1e-2",
            Verdict.of(bool(ratio.max() <= 1.05), bool(ratio.max() <= 2)),
        ),
    ]  # fmt: skip


def _random_claims(kind: str, panel: str, numbers: Numbers) -> list[Claim]:
    slopes = _slopes(numbers, ("linf", "l1", "GD"))
    middle = {method: _medians(numbers, method) for method in ("linf", "l1", "GD")}
    against = {m: middle[m] / middle["GD"] for m in ("linf", "l1")}
    far = {m: far_off(_small(numbers), m, _OUTLIER) for m in ("linf", "l1", "GD", "auto")}
    spread = "; ".join(f"{m} {r.min():.2f} to {r.max():.2f}" for m, r in against.items())
    claims = [
        Claim(
            panel, "the recovery error grows almost linearly with the noise",
            f"log-log slopes from 1e-6 to 1e-2: {said(slopes, '.3f')}",
            Verdict.of(all(abs(s - 1) <= 0.1 for s in slopes.values())),
        ),
        Claim(
            panel, SIMILAR,
            f"median error / that of GD, over the levels: {spread}",
            Verdict.of(max(r.max() for r in against.values()) <= 2, max(r.max() for r in against.values()) <= 10),
            "each layer of a layer-wise method amplifies the noise once more; a joint search does not",
        ),
        Claim(
            panel, OUTLIERS,
            f"runs with {_OUTLIER:g} times the oracle's median error or more, noise up to 1e-2: {said(far, '.1%')}",
            Verdict.of(far["GD"] > max(far["linf"], far["l1"]), far["GD"] > min(far["linf"], far["l1"])),
            "its runs are not further off than those of the linear programs",
        ),
    ]  # fmt: skip
    if kind == "uniform":
        ratio = against["linf"][np.array(numbers.distinct("noise")) <= _SMALL]
        claims.append(
            Claim(
                panel,
                BETTER,
                f"median error of linf / that of GD up to 1e-2: {ratio.min():.2f} to {ratio.max():.2f}",
                Verdict.of(bool(ratio.max() < 1), bool(ratio.min() < 1)),
                "linf fits the largest error of the last layer best, and hands on what that costs in the others",
            )
        )
    else:
        last = {m: middle[m][-1] for m in ("linf", "l1", "GD")}
        claims.append(
            Claim(
                panel,
                "with a large variance, linf is less robust than l1 and gradient descent",
                f"median error at noise {numbers.distinct('noise')[-1]:g}: {said(last)}",
                Verdict.of(last["linf"] > max(last["l1"], last["GD"])),
            )
        )
    return claims + _ours_claims(numbers, panel)


def _recovered(numbers: Numbers, method: str) -> float:
    """The share of runs at noise up to 1e-2 with a relative error up to 0.1."""
    return share(errors(_small(numbers), method=method) <= _RECOVERED)


def _one_trained(panel: str, numbers: Numbers) -> list[Claim]:
    found = {m: _recovered(numbers, m) for m in numbers.distinct("method")}
    descent = found["GD, trained"]
    layerwise = {m: found[m] for m in ("linf", "l1")}
    what = f"runs with a relative error up to {_RECOVERED:g}, noise up to {_SMALL:g}"
    claims = [
        Claim(
            panel, "gradient descent fails to find the global minimum in almost all cases",
            f"{what}: GD {descent:.1%}", Verdict.of(descent <= 0.1, descent <= 0.5),
            "some runs get there",
        ),
        Claim(
            panel, "the linear programs recover the code with good accuracy most of the time",
            f"{what}: {said(layerwise, '.1%')}",
            Verdict.of(min(layerwise.values()) > 0.5, max(layerwise.values()) > 0.5),
            "outputs with fewer bright pixels than hidden neurons do not tell the hidden layer",
        ),
        Claim(
            f"unrelu, {panel}", "auto recovers the code where the layer-wise methods do, and where they do not",
            f"{what}: auto {found['auto']:.1%}, oracle {found['oracle']:.1%}",
            Verdict.of(found["auto"] >= found["oracle"] - 0.02, found["auto"] > max(layerwise.values())),
            "of some codes it finds another one that fits the observation as well, or stops at one that fits worse",
        ),
    ]  # fmt: skip
    return claims + _ours_claims(numbers, panel)


def _random_experiment(name: str, kind: str, panel: str) -> Experiment:
    distribution = "U(-a, a)" if kind == "uniform" else "N(0, a²)"
    return Experiment(
        name=name,
        title=f"{panel}: random 20-100-500 networks, {kind} noise",
        about=(
            f"{_NETWORKS} ReLU networks 20-100-500 with weights N(0, 1/n_i), {_CODES} codes N(0, I) of each, noise "
            f"{distribution} on every output. No method is told the noise. GD makes up to 1,000 steps of length 1 from "
            "a normal start. The oracle is least squares with all ReLU signs known. Noise levels share networks and "
            "codes."
        ),
        columns=_COLUMNS,
        units=_random_units,
        measure=partial(_measure_random, kind),
        draw=partial(_draw, {"random": f"random 20-100-500, {kind} noise"}),
        claims=partial(_random_claims, kind, panel),
    )


def _trained_experiment(name: str, kind: str, panel: str, generators: Sequence[TrainedGenerator] = BOTH) -> Experiment:
    distribution = "U(-a, a)" if kind == "uniform" else "N(0, a²)"
    (first, *others) = generators
    what = f"{first.name}, {first.shape}" if first.origin == "file" else f"trained {first.shape} networks"
    return Experiment(
        name=name,
        title=f"{panel}: {what}, {kind} noise",
        about=(
            f"{named(generators)} {_BATCHES * _BATCH} codes N(0, I) of each, noise {distribution} on every pixel. "
            "No method is told the noise. GD makes up to 10,000 steps of length 1e-3 from a normal start."
        ),
        columns=("generator", *_COLUMNS),
        units=partial(_trained_units, generators),
        measure=partial(_measure_trained, kind, generators),
        draw=partial(_draw, {g.name: f"{g.name} {g.shape}, {kind} noise" for g in (first, *others)}),
        claims=partial(on_each_generator, claims=partial(_one_trained, panel)),
        network=first.record,
    )


_TRAINED = {"fig1c": ("uniform", "Figure 1(c)"), "fig1d": ("gaussian", "Figure 1(d)")}


def on_a_network(name: str, generator: TrainedGenerator) -> Experiment:
    """Figure 1(c) or 1(d) on one generator."""
    return _trained_experiment(name, *_TRAINED[name], generators=(generator,))


EXPERIMENTS = {
    "fig1a": _random_experiment("fig1a", "uniform", "Figure 1(a)"),
    "fig1b": _random_experiment("fig1b", "gaussian", "Figure 1(b)"),
    **{name: _trained_experiment(name, *what) for name, what in _TRAINED.items()},
}

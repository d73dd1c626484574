"""Is gradient descent on a trained network stuck, or on its way? Section 5.2 of the paper says stuck."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unrelu._invert import invert
from unrelu_studies.kit.measures import errors, median, relative_error, share
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import STYLES, Style, legend, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.trained_generators import BOTH, named
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict, on_each_generator

STUCK = "gradient descent usually gets stuck in local minimum"
_CODES, _BATCHES = 25, 2
_GD, _FURTHER, _LM, _AUTO = "GD", "GD, 500,000 steps further", "lm from GD's end", "auto"
# Ten times the paper's step, and 50,000 of them: as far as 500,000 of its steps.
_STEP, _STEPS = 1e-2, 50_000
# A run has arrived if the code is this close, or if this share of the picture's energy is missed at most.
_FOUND, _EXACT = 1e-3, 1e-12
_SMALLEST = 1e-16  # smaller errors are drawn here
_STYLES = {
    _GD: STYLES["GD"], _FURTHER: Style("#e69f00", "", "--"), _LM: Style("#8c6bb1", "", "-."), _AUTO: STYLES["auto"],
}  # fmt: skip


def _units(quick: bool) -> list[Unit]:
    """A batch of codes of a generator each."""
    return [(generator.name, batch) for generator in BOTH for batch in range(1 if quick else _BATCHES)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    network, count = {generator.name: generator for generator in BOTH}[str(unit[0])].load(), 4 if quick else _CODES
    truth = random("truth", seed, "stuck", *unit).standard_normal((_CODES, network.latent_dim))[:count]
    y, start = network(truth), draw_seed(random("starts", seed, "stuck", *unit))
    first = run("GD, trained", network, y, seed=start)
    further: dict[str, Any] = {"learning_rate": _STEP, "max_iterations": 5_000 if quick else _STEPS}
    found = {
        _GD: first,
        _FURTHER: invert(network, y, "gradient_descent", z0=first.z, **further),
        _LM: run("lm", network, y, z0=first.z, seed=start),
        _AUTO: run("auto", network, y, seed=start),
    }
    rows: list[Row] = []
    for method, result in found.items():
        error = relative_error(result.z, truth)
        off = (y - result.reconstruction).reshape(count, -1)
        missed = (off**2).sum(axis=1) / (y.reshape(count, -1) ** 2).sum(axis=1)
        rows += [(*unit, i, method, error[i], missed[i], str(result.verdict[i]), result.seconds[i])
                 for i in range(count)]  # fmt: skip
    return rows


def _draw(numbers: Numbers) -> Figure:
    """The share of runs up to each error, a panel a generator."""
    figure, axes = panels(1, len(BOTH), height=2.6)
    for axis, generator in zip(axes, BOTH, strict=True):
        for method in numbers.distinct("method"):
            found = np.sort(np.maximum(errors(numbers, generator=generator.name, method=method), _SMALLEST))
            style = _STYLES[method]
            axis.step(
                [_SMALLEST / 3, *found, 30], [0, *(100 * np.arange(1, len(found) + 1) / len(found)), 100], style.line,
                where="post", color=style.color, linewidth=style.width, label=method,
            )  # fmt: skip
        axis.axvline(_FOUND, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
        title = f"{generator.name} {generator.shape}, no noise"
        tidy(axis, "relative error of the code", "runs up to this error, %", title, log="x")
        axis.set_ylim(-3, 103)
    legend(figure, axes[0], 4)
    return figure


def _one_generator(numbers: Numbers) -> list[Claim]:
    every = {method: errors(numbers, method=method) for method in numbers.distinct("method")}
    # A picture may have several codes: one of them is not stuck.
    fits = {m: numbers.column("missed", method=m).astype(float) <= _EXACT for m in every}
    arrived = {m: (found <= _FOUND) | fits[m] for m, found in every.items()}
    within = {method: share(found) for method, found in arrived.items()}
    # What neither more steps nor a second-order method reaches from where gradient descent ended.
    stuck = share(~arrived[_FURTHER] & ~arrived[_LM])
    missed = median(numbers, "missed", method=_GD)
    steps = f"{_STEPS:,} steps of {_STEP:g} from there" if not numbers.quick else "more steps from there"
    others = share(fits[_AUTO] & (every[_AUTO] > _FOUND))
    return [
        Claim(
            "Section 5.2", STUCK,
            f"arrived after 10,000 steps of 1e-3: {within[_GD]:.0%}, median error of the code "
            f"{np.median(every[_GD]):.2g}, median share of the picture's energy that is missed {missed:.1%}; after "
            f"{steps} {within[_FURTHER]:.0%}; lm from there {within[_LM]:.0%}. By neither: {stuck:.0%}",
            Verdict.of(stuck > 0.5, stuck >= 0.05),
            "many runs had not arrived: the picture hardly changes along some directions of the code, in which steps "
            "of 1e-3 are too short",
        ),
        Claim(
            "Section 5.2", STUCK, f"not arrived after 10,000 steps of 1e-3: {1 - within[_GD]:.0%}",
            Verdict.of(within[_GD] < 0.5, within[_GD] < 0.95), "most runs get there",
            "stuck is what has not arrived after the paper's steps",
        ),
        Claim(
            "unrelu, Section 5.2", "auto finds a code of every one of these pictures",
            f"arrived: {within[_AUTO]:.0%}, {others:.0%} at another code that fits exactly",
            Verdict.of(within[_AUTO] == 1, within[_AUTO] >= 0.95), "the search stopped at one that fits worse",
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "stuck": Experiment(
        name="stuck",
        title="Section 5.2: is gradient descent stuck, or on its way?",
        about=(
            f"{named(BOTH)} {_CODES * _BATCHES} codes N(0, I) of each, no noise. GD is the paper's: 10,000 steps of "
            f"1e-3 from a normal start. From where it ends, {_STEPS:,} steps of {_STEP:g} follow, and "
            f"Levenberg-Marquardt (lm). A run has arrived within {_FOUND:g} of the code, or at another code of the "
            f"same picture (up to {_EXACT:g} of its energy). It was stuck if neither of the two arrives."
        ),
        columns=("generator", "batch", "code", "method", "error", "missed", "status", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=partial(on_each_generator, claims=_one_generator),
    )
}

"""Is gradient descent on a trained network stuck, or on its way? Section 5.2 of the paper says stuck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unrelu import zoo
from unrelu.experiments.drawing import STYLES, Style, legend, panels, tidy
from unrelu.experiments.experiment import Claim, Experiment, Numbers, Row, Unit, Verdict, draw_seed, random
from unrelu.experiments.instances import relative_error, run
from unrelu.experiments.summary import errors, share
from unrelu.solve import invert

__all__ = ["EXPERIMENTS"]

_NETWORK = "mnist-relu"
_CODES, _BATCHES = 10, 5
_GD, _FURTHER, _LM, _AUTO = "GD", "GD, 500,000 steps further", "lm from GD's end", "auto"
# Ten times the paper's step, and 50,000 of them: as far as 500,000 of its steps.
_STEP, _STEPS = 1e-2, 50_000
_FOUND = 1e-3
_SMALLEST = 1e-16  # smaller errors are drawn here
_STYLES = {
    _GD: STYLES["GD"], _FURTHER: Style("#e69f00", "", "--"), _LM: Style("#8c6bb1", "", "-."), _AUTO: STYLES["auto"],
}  # fmt: skip


def _units(quick: bool) -> list[Unit]:
    """A batch of codes each."""
    return [(batch,) for batch in range(1 if quick else _BATCHES)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    network, count = zoo.load(_NETWORK), 4 if quick else _CODES
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
        missed = ((y - result.x) ** 2).reshape(count, -1).sum(axis=1) / (y**2).reshape(count, -1).sum(axis=1)
        rows += [(unit[0], i, method, error[i], missed[i], str(result.status[i]), result.seconds[i])
                 for i in range(count)]  # fmt: skip
    return rows


def _draw(numbers: Numbers) -> Figure:
    """The share of runs up to each error."""
    figure, (axis,) = panels(height=2.9)
    for method in numbers.distinct("method"):
        found = np.sort(np.maximum(errors(numbers, method=method), _SMALLEST))
        style = _STYLES[method]
        axis.step(
            [_SMALLEST / 3, *found, 30], [0, *(100 * np.arange(1, len(found) + 1) / len(found)), 100], style.line,
            where="post", color=style.color, linewidth=style.width, label=method,
        )  # fmt: skip
    axis.axvline(_FOUND, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    tidy(axis, "relative error of the code", "runs up to this error, %", "trained 20-60-784, no noise", log="x")
    axis.set_ylim(-3, 103)
    legend(figure, axis, 2)
    return figure


def _claims(numbers: Numbers) -> Sequence[Claim]:
    every = {method: errors(numbers, method=method) for method in numbers.distinct("method")}
    within = {method: share(found <= _FOUND) for method, found in every.items()}
    # What neither more steps nor a second-order method reaches from where gradient descent ended.
    stuck = share((every[_FURTHER] > _FOUND) & (every[_LM] > _FOUND))
    missed = np.median(numbers.column("missed", method=_GD).astype(float))
    steps = f"{_STEPS:,} steps of {_STEP:g} from there" if not numbers.quick else "more steps from there"
    return [
        Claim(
            "Section 5.2", "gradient descent usually gets stuck in local minimum",
            f"after 10,000 steps of 1e-3 within {_FOUND:g} of the code: {within[_GD]:.0%}, median error "
            f"{np.median(every[_GD]):.2g}, though only {missed:.1%} of the picture's energy are missed; after {steps} "
            f"{within[_FURTHER]:.0%}; lm from there {within[_LM]:.0%}. Found by neither: {stuck:.0%}",
            Verdict.of(stuck > 0.5, stuck >= 0.05),
            "most runs had not arrived: the picture hardly changes along some directions of the code, in which steps "
            "of 1e-3 are too short",
        ),
        Claim(
            "unrelu, Section 5.2", "auto finds the code of every one of these pictures",
            f"within {_FOUND:g}: {within[_AUTO]:.0%}", Verdict.of(within[_AUTO] == 1, within[_AUTO] >= 0.95),
            "another code fits as well, or the search stopped at one that fits worse",
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "stuck": Experiment(
        name="stuck",
        title="Section 5.2: is gradient descent stuck, or on its way?",
        about=(
            f"The zoo's `{_NETWORK}`, {_CODES * _BATCHES} codes N(0, I), no noise. GD is the paper's: 10,000 steps of "
            f"1e-3 from a normal start. From where it ends, {_STEPS:,} steps of {_STEP:g} follow, and "
            "Levenberg-Marquardt (lm). A run was stuck if neither of the two gets to the code."
        ),
        columns=("batch", "code", "method", "error", "missed", "status", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

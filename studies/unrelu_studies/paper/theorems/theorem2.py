"""Theorem 2: recovery without noise against the expansion of the layers, with its exact probability."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom, binomtest

from unrelu_studies.kit.measures import relative_error
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import Style, legend, panels, tidy
from unrelu_studies.kit.random_instances import gaussian_network, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict
from unrelu_studies.paper.theory import layerwise_recovery_probability

_FACTORS = (1.5, 1.7, 1.9, 2.0, 2.1, 2.2, 2.4, 2.7, 3.0)
_LATENT, _DEPTHS = (10, 20, 40), (2, 3)
_PAPER = 2.1
_NETWORKS = 150  # of each size
_SUCCESS = 1e-3
# Two counts agree if a difference as large as theirs is not rarer than this, over all cells together.
_LEVEL = 0.01
_STYLES = {10: Style("#0072b2", "o"), 20: Style("#e69f00", "s"), 40: Style("#009e73", "^")}
_LINES = {2: "-", 3: "--"}
# Latent dimensions for the exact probability at 2.1, where nothing has to be run.
_LONG = np.unique(np.round(np.geomspace(10, 4000, 60)).astype(int))


def _units(quick: bool) -> list[Unit]:
    """A size each."""
    if quick:
        return [(2, k, factor) for k in (10, 20) for factor in (1.5, 2.1, 3.0)]
    return [(depth, k, factor) for depth in _DEPTHS for k in _LATENT for factor in _FACTORS]


def _sizes(k: int, factor: float, depth: int) -> list[int]:
    """k, n_1, ..., n_d with n_i at least ``factor`` n_(i-1), so that Assumption 1 holds where it says so."""
    sizes = [k]
    for _ in range(depth):
        # 2.1 * 10 is above 21 in floating point.
        sizes.append(int(np.ceil(factor * sizes[-1] - 1e-9)))
    return sizes


def _failure(sizes: Sequence[int]) -> float:
    """1 - ``layerwise_recovery_probability``, also where that is close to 1."""
    return float(-np.expm1(sum(np.log1p(-binom.cdf(n_in - 1, n_out, 0.5)) for n_in, n_out in pairwise(sizes))))


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    depth, k, factor = int(unit[0]), int(unit[1]), float(unit[2])
    sizes = _sizes(k, factor, depth)
    rows: list[Row] = []
    for i in range(20 if quick else _NETWORKS):
        network = gaussian_network(sizes, random("weights", seed, "theorem2", *unit, i))
        truth = random("truth", seed, "theorem2", *unit, i).standard_normal((1, k))
        h, enough = truth[0], True
        for layer in network.layers:
            h = np.maximum(layer.matrix() @ h, 0)
            enough &= bool((h > 0).sum() >= layer.n_in)
        error = float(relative_error(run("exact", network, network(truth)).z, truth)[0])
        rows.append((depth, k, factor, i, enough, error <= _SUCCESS, error))
    return rows


def _cell(numbers: Numbers, column: str, depth: int, k: int, factor: float) -> tuple[int, int]:
    flags = numbers.column(column, depth=depth, k=k, factor=factor)
    return int(flags.sum()), len(flags)


def _draw(numbers: Numbers) -> Figure:
    figure, (left, right) = panels(1, 2, height=2.7)
    fine = np.linspace(min(_FACTORS), max(_FACTORS), 61)
    for depth in numbers.distinct("depth"):
        for k in numbers.distinct("k"):
            style, factors = _STYLES[k], numbers.distinct("factor")
            open_ = "white" if depth == max(_DEPTHS) else style.color
            exact = [100 * layerwise_recovery_probability(_sizes(k, c, depth)) for c in fine]
            left.plot(fine, exact, _LINES[depth], color=style.color, linewidth=1, zorder=2)
            shares = [100 * np.divide(*_cell(numbers, "success", depth, k, c)) for c in factors]
            left.plot(
                factors, shares, style.marker, color=style.color, markerfacecolor=open_, markersize=4,
                label=f"k = {k}, d = {depth}", zorder=4,
            )  # fmt: skip
            fails = 1 - np.divide(*_cell(numbers, "success", depth, k, _PAPER))
            right.plot(k, fails, style.marker, color=style.color, markerfacecolor=open_, markersize=4, zorder=4)
        failures = [_failure(_sizes(int(k), _PAPER, depth)) for k in _LONG]
        right.plot(_LONG, failures, _LINES[depth], color="0.4", linewidth=1, zorder=2)
    left.axvline(_PAPER, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
    left.set_ylim(-3, 104)
    tidy(left, r"expansion $n_i / n_{i-1}$", f"recovered to {_SUCCESS:g}, %", "exact, no noise; lines: probability")
    tidy(right, "latent dimension k", "share of failures", f"expansion {_PAPER:g}", log="xy")
    legend(figure, left, 6 if len(numbers.distinct("depth")) == 1 else 3)
    return figure


def _cells(numbers: Numbers) -> list[tuple[int, int, float]]:
    return list(dict.fromkeys((int(row[0]), int(row[1]), float(row[2])) for row in numbers.rows))


def _claims(numbers: Numbers) -> Sequence[Claim]:
    cells = _cells(numbers)
    p = min(
        binomtest(
            *_cell(numbers, "enough", *cell), layerwise_recovery_probability(_sizes(cell[1], cell[2], cell[0]))
        ).pvalue
        for cell in cells
    )
    chance = min(1.0, float(p) * len(cells))
    enough, success = numbers.column("enough").astype(bool), numbers.column("success").astype(bool)
    at = [cell for cell in cells if cell[2] == _PAPER]
    fails = ", ".join(f"k = {k}, d = {d}: {1 - np.divide(*_cell(numbers, 'success', d, k, c)):.0%}" for d, k, c in at)
    # The first layer is the narrowest and decides: with rate r, failures are about exp(-r k).
    far = np.array([1000, 2000, 4000])
    logs = np.log([_failure(_sizes(int(k), _PAPER, 2)) for k in far])
    rate = -float(np.polyfit(far, logs, 1)[0])
    small = next(int(k) for k in range(10, 10_000, 10) if _failure(_sizes(k, _PAPER, 2)) <= 0.01)
    below = {c: np.divide(*np.sum([_cell(numbers, "success", *cell) for cell in cells if cell[2] == c], axis=0))
             for c in dict.fromkeys(cell[2] for cell in cells)}  # fmt: skip
    return [
        Claim(
            "Theorem 2", f"expansion {_PAPER:g} is enough: recovery fails with probability exp(-Omega(k))",
            f"failures: {fails}. Probability in closed form: about exp(-{rate:.4f} k) for large k, below 1% only from "
            f"k = {small}",
            Verdict.of(rate > 0 and not (enough & ~success).any(), rate > 0),
            "codes were missed though each layer had enough neurons on",
        ),
        Claim(
            "Proof of Theorem 2", "a code is found whenever each layer has as many neurons on as inputs",
            f"not found with enough neurons on: {(enough & ~success).sum()} of {enough.sum()}; found with fewer, by "
            f"what neurons that are off say: {(success & ~enough).sum()} of {(~enough).sum()}",
            Verdict.of(not (enough & ~success).any(), (enough & ~success).sum() <= 0.01 * enough.sum()),
            "with barely enough neurons on, the linear system can be too badly conditioned for double precision",
        ),
        Claim(
            "unrelu", "each layer has enough neurons on with the product of P(Bin(n_i, 1/2) >= n_(i-1))",
            f"least p-value over {len(cells)} sizes, times their number, at most 1: {chance:.2g}",
            Verdict.of(chance >= _LEVEL), "counts this far from the closed form are rare",
        ),
        Claim(
            "unrelu", "below expansion 2 recovery is lost, at 3 it is safe",
            "recovered: " + ", ".join(f"{c:g}: {value:.0%}" for c, value in below.items()),
            Verdict.of(all(v < 0.5 for c, v in below.items() if c < 2) and below[max(below)] >= 0.95),
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "theorem2": Experiment(
        name="theorem2",
        title="Theorem 2: recovery against the expansion factor",
        about=(
            f"Random ReLU networks with weights N(0, 1/n_i) and n_i = c n_(i-1), rounded up; for each size {_NETWORKS} "
            "networks with one code N(0, I) each, no noise, inverted by `exact`. A code is recovered if its relative "
            f"error is at most {_SUCCESS:g}. A neuron of a random layer is on with probability 1/2 whatever its input, "
            "so that each layer has at least as many on as inputs has an exact probability."
        ),
        columns=("depth", "k", "factor", "network", "enough", "success", "error"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

"""Figure 2: how often the code is recovered without noise as it gets longer, and how often it can be."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from unrelu_studies.kit.measures import code_rows, identifiable
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import legend, line, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict
from unrelu_studies.paper.theory import identifiable_probability

HIDDEN, OUTPUT = 250, 600
PANELS = {"fig2a": ("relu", "Figure 2(a)"), "fig2b": ("leaky_relu:0.1", "Figure 2(b)")}
SUCCESS = 1e-3
_CODES = 5  # of each network
_NETWORKS = 20
_LATENT = (10, 30, *range(50, 100, 10), 100, 105, 107, 109, *range(110, 155, 5), 160, 180, 200, 250)
_QUICK = (20, 110, 125)  # before, at and behind the end of recovery
_METHODS = ("linf", "exact", "auto", "GD")
# Ten times the steps for as many networks, where they make a difference.
_LONG, _LONG_NETWORKS, _LONG_LATENT = "GD, 10,000 steps", 5, range(60, 145, 20)
_PUBLISHED_LIMIT, COLLAPSE, _SMALL = 109, 60, 50
# Two counts agree if a difference as large as theirs is not rarer than this, over all k together.
_LEVEL = 0.01


def _units(quick: bool) -> list[Unit]:
    """A network each."""
    return [(k, network) for k in (_QUICK if quick else _LATENT) for network in range(2 if quick else _NETWORKS)]


def _measure(activation: str, unit: Unit, seed: int, quick: bool) -> list[Row]:
    k, index = int(unit[0]), int(unit[1])
    key = (seed, "fig2", activation, *unit)
    network = gaussian_network((k, HIDDEN, OUTPUT), random("weights", *key), activation)
    truth = random("truth", *key).standard_normal((_CODES, k))
    y, start = network(truth), draw_seed(random("starts", *key))
    told = identifiable(network, truth)
    rows: list[Row] = [(k, index, i, "identifiable", None, bool(told[i]), None) for i in range(_CODES)]
    extra = [_LONG] if k in _LONG_LATENT and index < _LONG_NETWORKS and not quick else []
    for method in (*_METHODS, *extra):
        result = run(method, network, y, seed=start)
        rows += code_rows((k, index), method, result.z, truth, result.seconds, SUCCESS)
    return rows


def _closed_form(activation: str, k: float) -> float:
    """The probability that the Jacobian has rank k."""
    return identifiable_probability((int(k), HIDDEN, OUTPUT), activation)


def _share(numbers: Numbers, method: str, k: float | None = None) -> tuple[int, int]:
    """Successes and runs, at one k or at all."""
    which = {} if k is None else {"k": k}
    counted = numbers.column("success", method=method, **which)
    return int(counted.sum()), len(counted)


def _draw(activation: str, numbers: Numbers) -> Figure:
    figure, (axis,) = panels(height=2.8)
    ks = numbers.distinct("k")
    fine = np.arange(min(ks), max(ks) + 1)
    axis.plot(
        fine, [100 * _closed_form(activation, k) for k in fine], color="0.75", linewidth=4, solid_capstyle="butt",
        label="identifiable, closed form", zorder=1,
    )  # fmt: skip
    for method in numbers.distinct("method"):
        these = [k for k in ks if _share(numbers, method, k)[1]]
        values = [100 * np.divide(*_share(numbers, method, k)) for k in these]
        if method == "identifiable":
            axis.plot(these, values, color="0.25", linewidth=0.9, label="identifiable, counted", zorder=3)
        else:
            # Lines that coincide are seen side by side.
            line(axis, these, values, method, width={"linf": 4.5, "exact": 2.7}.get(method, 1.1))
    axis.set_ylim(-3, 103)
    axis.set_xlim(0, None)
    tidy(axis, "latent dimension k", f"recovered to {SUCCESS:g}, %", f"k-{HIDDEN}-{OUTPUT}, {activation}, no noise")
    legend(figure, axis, 2)
    return figure


def _disagreements(numbers: Numbers, method: str) -> tuple[int, int]:
    """Runs that are identifiable and were not recovered, and those that were recovered and are not identifiable."""
    recovered = numbers.column("success", method=method).astype(bool)
    told = numbers.column("success", method="identifiable").astype(bool)
    return int((told & ~recovered).sum()), int((recovered & ~told).sum())


def _beyond_chance(numbers: Numbers, activation: str) -> float:
    """The least p-value over k of the counted identifiable runs under the closed form, times the number of k."""
    ks = [k for k in numbers.distinct("k") if 0 < _closed_form(activation, k) < 1]
    p = [binomtest(*_share(numbers, "identifiable", k), _closed_form(activation, k)).pvalue for k in ks]
    return min(1.0, len(p) * min(p, default=1.0))


def _collapse(numbers: Numbers, method: str) -> str:
    """The largest k with at least 95% recovered, and the smallest with at most 5% and none above it."""
    shares = {k: np.divide(*_share(numbers, method, k)) for k in numbers.distinct("k") if _share(numbers, method, k)[1]}
    well = [k for k, share in shares.items() if share >= 0.95]
    gone = [k for k in shares if all(share <= 0.05 for other, share in shares.items() if other >= k)]
    up_to = f"at least 95% up to k = {max(well)}" if well else "never 95%"
    return (
        f"{up_to}, at most 5% from {min(gone)}"
        if gone
        else f"{up_to}, {list(shares.values())[-1]:.0%} at k = {max(shares)}"
    )


def _claims(activation: str, panel: str, numbers: Numbers) -> list[Claim]:
    relu = activation == "relu"
    ks = numbers.distinct("k")
    share = {m: {k: float(np.divide(*_share(numbers, m, k))) for k in ks} for m in ("linf", "GD")}
    few, many = [k for k in ks if k <= _SMALL], [k for k in ks if k >= COLLAPSE]
    long = f". With 10,000 steps: {_collapse(numbers, _LONG)}" if _LONG in numbers.distinct("method") else ""
    better = [k for k in many if share["linf"][k] > share["GD"][k]]
    lost = [k for k in many if share["linf"][k] < share["GD"][k]]
    wrong = {m: _disagreements(numbers, m) for m in ("linf", "exact", "auto")}
    told, untold = _share(numbers, "identifiable")
    untold -= told
    return [
        Claim(
            panel, "with a small latent dimension both recover 100%",
            f"k up to {_SMALL}: linf {min(share['linf'][k] for k in few):.1%} or more, GD "
            f"{min(share['GD'][k] for k in few):.1%} or more",
            Verdict.of(all(share[m][k] == 1 for m in share for k in few),
                       all(share[m][k] >= 0.95 for m in share for k in few)),
            "a few runs of gradient descent do not arrive",
        ),
        *(_published_limit(share["linf"], numbers) if relu else []),
        Claim(
            panel, f"gradient descent fails completely from k = {COLLAPSE}",
            f"GD (1,000 steps of 1): {share['GD'][min(many)]:.0%} at k = {min(many)}; {_collapse(numbers, 'GD')}{long}",
            Verdict.of(all(share["GD"][k] <= 0.05 for k in many), any(share["GD"][k] <= 0.05 for k in many)),
            "it collapses later than published" + (", and later still with more steps" if long else ""),
        ),
        Claim(
            panel, "the linear programs significantly outperform gradient descent for higher latent dimensions",
            f"linf recovers more at {len(better)} of {len(many)} values of k from {COLLAPSE}, fewer at "
            f"{len(lost)}; largest difference {max(share['linf'][k] - share['GD'][k] for k in many):.0%}",
            Verdict.of(bool(better) and not lost, bool(better)),
            "at some k gradient descent recovers more",
        ),
        Claim(
            f"unrelu, {panel}", "linf, exact and auto recover exactly the identifiable instances",
            f"of {told} identifiable ones missed: " + ", ".join(f"{m} {missed}" for m, (missed, _) in wrong.items())
            + f"; of the other {untold}, where many codes fit, within {SUCCESS:g} of the true one anyway: "
            + ", ".join(f"{m} {lucky}" for m, (_, lucky) in wrong.items()),
            Verdict.of(all(not missed and lucky <= 0.01 * untold for missed, lucky in wrong.values()),
                       all(missed <= 0.01 * told for missed, _ in wrong.values())),
            "two or more codes fit, or the search stopped at one that fits worse",
        ),
        _closed_form_claim(activation, panel, numbers),
    ]  # fmt: skip


def _published_limit(share: dict[float, float], numbers: Numbers) -> list[Claim]:
    """Whether all is recovered up to k = 109, and whether all is that can be."""
    most = max(k for k in share if k <= _PUBLISHED_LIMIT)
    least = min(value for k, value in share.items() if k <= most)
    chance = _closed_form("relu", most)
    says = f"the linear programs recover 100% up to k = {_PUBLISHED_LIMIT}"
    rows = numbers.where(method="linf"), numbers.where(method="identifiable")
    recovered, told = (part.column("success").astype(bool)[part.column("k") <= most] for part in rows)
    return [
        Claim(
            "Figure 2(a)", says,
            f"linf: {least:.1%} or more at every k up to {most}, where {chance:.1%} of all instances are identifiable "
            f"by the closed form; {_collapse(numbers, 'linf')}",
            Verdict.of(least == 1, least >= 0.95),
            "near the limit some instances are not identifiable: fewer than k neurons of a layer are on",
        ),
        Claim(
            "Figure 2(a)", says,
            f"linf: {int((recovered & told).sum())} of {int(told.sum())} at k up to {most}",
            Verdict.of(bool(recovered[told].all()), float(recovered[told].mean()) >= 0.95),
            "some identifiable instances are missed", "of the identifiable instances",
        ),
    ]  # fmt: skip


def _closed_form_claim(activation: str, panel: str, numbers: Numbers) -> Claim:
    if activation != "relu":
        told = numbers.column("success", method="identifiable")
        return Claim(
            f"unrelu, {panel}", "every instance is identifiable", f"{told.mean():.1%}", Verdict.of(bool(told.all()))
        )
    chance = _beyond_chance(numbers, activation)
    return Claim(
        f"unrelu, {panel}", "the share of identifiable instances is P(Bin(250, 1/2) >= k) P(Bin(600, 1/2) >= k)",
        f"least p-value over all k, times their number, at most 1: {chance:.2g}", Verdict.of(chance >= _LEVEL),
        "counts this far from the closed form are rare",
    )  # fmt: skip


def _experiment(name: str, activation: str, panel: str) -> Experiment:
    return Experiment(
        name=name,
        title=f"{panel}: recovery without noise against the latent dimension, {activation}",
        about=(
            f"{_NETWORKS} networks k-{HIDDEN}-{OUTPUT} a size with weights N(0, 1/n_i), {_CODES} codes N(0, I) of "
            f"each, no noise. A code is recovered if its relative error is at most {SUCCESS:g}. GD makes up to 1,000 "
            f"steps of length 1, and on {_LONG_NETWORKS} networks a size up to 10,000. An instance is identifiable if "
            "the Jacobian at its code has rank k."
        ),
        columns=("k", "network", "code", "method", "error", "success", "seconds"),
        units=_units,
        measure=partial(_measure, activation),
        draw=partial(_draw, activation),
        claims=partial(_claims, activation, panel),
    )


EXPERIMENTS = {name: _experiment(name, *what) for name, what in PANELS.items()}

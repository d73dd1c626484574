"""Assumptions 2 and 3: how much rows of Gaussian matrices extend every vector, and whether that depends on the size."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from unrelu_studies.kit.measures import slope
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import Style, cloud, legend, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict
from unrelu_studies.paper.theory import c_1, c_1_upper, c_inf, c_inf_upper

Array = npt.NDArray[np.float64]

_EXPANSION = 5
_LATENT = (4, 6, 8, 12, 16, 24, 32)
_LATENT_QUICK = (4, 8)
_MATRICES = 10
_HALF = _EXPANSION / 2  # m = n/2 rows: about as many as are on
_RATIOS = (1.25, 1.5, 2.0, _HALF, 3.5, 5.0)
_DETAILED = 16  # the k of which all ratios are drawn
# Beyond, a lower bound on c_1 takes seconds, and is not close.
_LARGEST_C_1 = 16
_RANDOM, _WORST = "random rows", "worst rows found"
_STYLES = {_RANDOM: Style("#0072b2", "o"), _WORST: Style("#d55e00", "x")}
_LABELS = {_RANDOM: "m random rows, certified", _WORST: "worst m rows found: at most"}
_SYMBOLS = {"c_inf": r"$c_\infty$", "c_1": "$c_1$"}
# A power of k up to which a constant counts as independent of it.
_FLAT = 0.1


def _units(quick: bool) -> list[Unit]:
    """A matrix each."""
    return [(k, matrix) for k in (_LATENT_QUICK if quick else _LATENT) for matrix in range(1 if quick else _MATRICES)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    k = int(unit[0])
    key = (seed, "constants", *unit)
    w = random("weights", *key).standard_normal((_EXPANSION * k, k))
    order, start = random("order", *key).permutation(len(w)), draw_seed(random("worst rows", *key))
    rows: list[Row] = []
    for ratio in _RATIOS if k == (_LATENT_QUICK[-1] if quick else _DETAILED) else (_HALF,):
        m = round(ratio * k)
        some = w[order[:m]]
        found = c_inf(some)
        rows.append((*unit, ratio, "c_inf", _RANDOM, found.lower, found.upper))
        if k <= _LARGEST_C_1:
            found = c_1(some)
            rows.append((*unit, ratio, "c_1", _RANDOM, found.lower, found.upper))
        rows.append((*unit, ratio, "c_inf", _WORST, None, c_inf_upper(w, m, seed=start).value))
        rows.append((*unit, ratio, "c_1", _WORST, None, c_1_upper(w, m, seed=start).value))
    return rows


def _values(numbers: Numbers, constant: str, what: str, **where: float) -> Array:
    """Certified lower bounds of random rows, upper bounds of the worst."""
    name = "lower" if what == _RANDOM else "upper"
    return numbers.column(name, constant=constant, rows=what, **where).astype(float)


def _draw(numbers: Numbers) -> Figure:
    figure, axes = panels(2, 2, height=2.3)
    ks = numbers.distinct("k")
    detailed = _DETAILED if _DETAILED in ks else max(ks)
    ratios = numbers.where(k=detailed).distinct("ratio")
    for axis, constant in zip(axes[:2], _SYMBOLS, strict=True):
        for what, place in ((_RANDOM, -0.01), (_WORST, 0.01)):
            there = [k for k in ks if len(_values(numbers, constant, what, k=k))]
            groups = [_values(numbers, constant, what, k=k, ratio=_HALF) for k in there]
            cloud(axis, there, groups, _LABELS[what], place=place, style=_STYLES[what])
        title = f"{_SYMBOLS[constant]}, m = n/2 of n = {_EXPANSION}k rows"
        tidy(axis, "columns k", _SYMBOLS[constant], title, log="xy")
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # they span a decade or little more
    for axis, constant in zip(axes[2:], _SYMBOLS, strict=True):
        for what, place in ((_RANDOM, -0.01), (_WORST, 0.01)):
            groups = [_values(numbers, constant, what, k=detailed, ratio=r) for r in ratios]
            cloud(axis, ratios, groups, _LABELS[what], place=place, style=_STYLES[what])
        tidy(axis, "rows per column, m/k", _SYMBOLS[constant], f"{_SYMBOLS[constant]}, k = {detailed}", log="xy")
        axis.set_xticks(ratios, [f"{r:g}" for r in ratios])
    legend(figure, axes[0], 2)
    return figure


def _power(numbers: Numbers, constant: str, what: str) -> float:
    """b in: median constant = a k^b, for m = n/2."""
    there = [k for k in numbers.distinct("k") if len(_values(numbers, constant, what, k=k))]
    medians = [float(np.median(_values(numbers, constant, what, k=k, ratio=_HALF))) for k in there]
    return slope(there, medians, 1.0, math.inf)


def _smallest(numbers: Numbers, constant: str, what: str) -> str:
    """The smallest constant at each k, for m = n/2."""
    there = [k for k in numbers.distinct("k") if len(_values(numbers, constant, what, k=k))]
    return ", ".join(f"{_values(numbers, constant, what, k=k, ratio=_HALF).min():.2g} (k = {k})" for k in there)


def _universal(numbers: Numbers, constant: str, source: str, assumption: str) -> Claim:
    """Whether a constant stays where it is as k grows.

    It does not where that of random or of the worst rows falls. Where neither does, the claim is not shown either: the
    worst rows are not known. So it never holds whole.
    """
    powers = {what: _power(numbers, constant, what) for what in (_RANDOM, _WORST)}
    said = "; ".join(
        f"{what}: median ~ k^{b:.2f}, smallest {_smallest(numbers, constant, what)}" for what, b in powers.items()
    )
    stays = min(powers.values()) >= -_FLAT
    return Claim(
        source,
        f"Gaussian matrices with n = {_EXPANSION}k satisfy {assumption} with a universal constant, here for m = n/2",
        said,
        Verdict.of(False, stays),
        "nothing falls with k, but of the worst rows only upper bounds are known, which cannot show it" if stays else
        f"that of {min(powers, key=lambda what: powers[what])} falls as k grows",
        only="the statement is about the worst rows of a matrix, whose constant nobody can compute for these sizes",
    )  # fmt: skip


def _more_rows(numbers: Numbers, constant: str, source: str) -> Claim:
    """How the constant depends on m."""
    k = max(numbers.distinct("k"), key=lambda k: len(numbers.where(k=k).distinct("ratio")))
    ratios = numbers.where(k=k).distinct("ratio")
    medians = {
        what: [float(np.median(_values(numbers, constant, what, k=k, ratio=r))) for r in ratios]
        for what in (_RANDOM, _WORST)
    }
    said = "; ".join(f"{what} {', '.join(f'{v:.2g}' for v in values)}" for what, values in medians.items())
    lost = medians[_WORST][ratios.index(_HALF)] / medians[_WORST][0]
    return Claim(
        f"unrelu, {source}",
        f"for the worst rows, an m of {_RATIOS[0]:g} k costs a factor of 10 or more against {_HALF:g} k",
        f"k = {k}, medians for m/k = {', '.join(f'{r:g}' for r in ratios)}: {said}",
        Verdict.of(lost >= 10, lost >= 3),
        "it costs less",
    )


def _in_range(numbers: Numbers) -> Claim:
    """Whether c_2 can be where Corollary 1 has it."""
    least = float(_values(numbers, "c_inf", _WORST, ratio=_HALF).min())
    return Claim(
        "Corollary 1",
        "the constant is in (0, 2]",
        f"for m = n/2, one that holds for all these matrices is at most {least:.3g}",
        Verdict.of(False, 0 < least <= 2),
        "only an upper bound is known; it does not exclude a constant in this range",
        only="the statement is about the worst rows of a matrix, whose constant nobody can compute for these sizes",
    )


def _claims(numbers: Numbers) -> list[Claim]:
    return [
        _universal(numbers, "c_inf", "Corollary 1", "Assumption 2"),
        _in_range(numbers),
        _more_rows(numbers, "c_inf", "Assumption 2"),
        _universal(numbers, "c_1", "Assumption 3", "Assumption 3"),
        _more_rows(numbers, "c_1", "Assumption 3"),
    ]


EXPERIMENTS = {
    "constants": Experiment(
        name="constants",
        title="Assumptions 2 and 3: the constants of Gaussian matrices",
        about=(
            f"{_MATRICES} matrices with weights N(0, 1) and n = {_EXPANSION}k rows for each k. The constants of m "
            "random rows are certified lower bounds, exact for c_inf, and for c_1 up to k = 10; beyond, "
            "those of c_1 are up to 30% below the upper bounds for the same rows. Of the worst m rows only upper "
            "bounds are known, from a search that may miss the worst, and more so the larger k: they show that a "
            "constant is small, not that one exists. A median counts as falling with k if it falls faster than "
            f"k^-{_FLAT:g}."
        ),
        columns=("k", "matrix", "ratio", "constant", "rows", "lower", "upper"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

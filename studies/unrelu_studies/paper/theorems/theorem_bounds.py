"""Theorems 3 and 4: the error that they allow, beside the error under random noise and under the worst that we find."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrelu.models.network import Network
from unrelu_studies.kit.measures import slope
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import Style, cloud, legend, line, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict
from unrelu_studies.paper.theorems.attacks import attacks
from unrelu_studies.paper.theory import c_1, c_1_upper, c_inf_upper, corollary_1, recovery_bound, theorem_3, theorem_4

Array = npt.NDArray[np.float64]

_EXPANSION = 5
_LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_LEVELS_QUICK = (1e-6, 1e-4, 1e-2)
_DRAWS = 10  # of random noise, at each level
_KEPT = 10  # candidates for the worst noise at the smallest level that are tried at the others
# (k, depth) and how many networks. Constants of the l1-norm are out of reach for the wide layers of the others.
_LINF = {(4, 1): 20, (8, 1): 20, (4, 2): 20, (8, 2): 12, (20, 2): 3, (3, 3): 4}
_L1 = {(4, 1): 15, (8, 1): 15, (4, 2): 12, (3, 3): 3}
_QUICK = ((4, 1), (4, 2))
_THEOREM = {"linf": "Theorem 3", "l1": "Theorem 4"}
# Noise J v attains half of a bound for one layer, but for the tolerances that the bound has room for.
_HALF = 2.001
# What a row is about.
_RANDOM, _WORST, _CERTIFIED, _SEARCHED, _LIMIT = "random noise", "worst found", "certified", "searched", "limit"
_STYLES = {
    _RANDOM: Style("#0072b2", "o"), _WORST: Style("#d55e00", "x"), _CERTIFIED: Style("#009e73", "^"),
    _SEARCHED: Style("#000000", "D", "--"),
}  # fmt: skip
_LABELS = {
    _RANDOM: "error, random noise", _WORST: "error, worst noise found",
    _CERTIFIED: "bound, constants of the bright rows", _SEARCHED: "bound, all sets of rows: at least",
}  # fmt: skip


def _sizes(k: int, depth: int) -> tuple[int, ...]:
    return tuple(k * _EXPANSION**i for i in range(depth + 1))


def _units(quick: bool) -> list[Unit]:
    """A norm and a network each."""
    return [
        (norm, *shape, network)
        for norm, shapes in (("linf", _LINF), ("l1", _L1))
        for shape, count in shapes.items()
        if shape in _QUICK or not quick
        for network in range(1 if quick else count)
    ]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    norm, k, depth = str(unit[0]), int(unit[1]), int(unit[2])
    key = (seed, "bounds", *unit)
    network = gaussian_network(_sizes(k, depth), random("weights", *key))
    z = random("truth", *key).standard_normal(k)
    e = noise("uniform", (_DRAWS, network.layers[-1].n_out), random("noise", *key))
    bad = attacks(network, z, norm, random("attacks", *key))
    e /= _size(e, norm)[:, None]
    start = draw_seed(random("starts", *key))
    searched = _Searched(network, z, norm, draw_seed(random("worst rows", *key)))
    certified = _certified(network, z, norm)
    limit = corollary_1(2.0, depth, 0.0, z).limit / math.prod(math.sqrt(layer.n_out) for layer in network.layers)
    rows: list[Row] = []
    for level in _LEVELS_QUICK if quick else _LEVELS:
        errors = _errors(network, z, level * np.concatenate([e, bad]), norm, start)
        bad = bad[np.argsort(-errors[_DRAWS:], kind="stable")[:_KEPT]]
        found = [(_RANDOM, i, error) for i, error in enumerate(errors[:_DRAWS])]
        found += [(_WORST, 0, errors.max()), (_CERTIFIED, 0, certified(level)), (_SEARCHED, 0, searched(level))]
        found += [(_LIMIT, 0, limit)] if norm == "linf" else []
        rows += [(*unit, level, *entry) for entry in found]
    return rows


def _size(v: Array, norm: str) -> Array:
    return np.asarray(np.abs(v).max(axis=-1) if norm == "linf" else np.abs(v).sum(axis=-1))


def _errors(network: Network, z: Array, e: Array, norm: str, seed: int) -> Array:
    """|z - z*| for each noise, infinite where the method gave no code."""
    return np.nan_to_num(_size(run(norm, network, network(z) + e, seed=seed).z - z, norm), nan=np.inf)


def _certified(network: Network, z: Array, norm: str) -> Callable[[float], float]:
    """The bound of the theorem with the constants of the rows that are bright at z, at a noise level."""
    if norm == "linf":
        return lambda eps: recovery_bound(network, z, eps).error
    known: dict[tuple[int, bytes], float] = {}

    def bound(eps: float) -> float:
        error = eps
        layers = zip(network.layers, network.trace(z), strict=True)
        for place, (layer, x) in reversed(list(enumerate(layers))):
            bright = np.flatnonzero(x.ravel() > 2 * error)
            key = place, bright.tobytes()
            if key not in known:
                known[key] = c_1(layer.matrix()[bright]).lower
            if not known[key]:
                return math.inf
            error *= 2 / known[key]
        return error

    return bound


class _Searched:
    """What Theorem 3 or 4 says at least, whatever sets of rows it is applied to, as far as its condition can hold.

    Its constants hold for all sets of m_i rows, and at least m_i outputs exceed a threshold; so m_i is at most the
    number of outputs that are on, and a constant at most what a search finds for as many rows. Smaller constants only
    make the bound and the thresholds larger.
    """

    def __init__(self, network: Network, z: Array, norm: str, seed: int) -> None:
        self.outputs = [x.ravel() for x in network.trace(z)]
        self.inputs = [layer.n_in for layer in network.layers]
        search = c_inf_upper if norm == "linf" else c_1_upper
        self.theorem = theorem_3 if norm == "linf" else theorem_4
        on = [int((x > 0).sum()) for x in self.outputs]
        self.constants = [
            search(layer.matrix(), m, samples=200, seed=seed).value if m else 0.0
            for layer, m in zip(network.layers, on, strict=True)
        ]

    def __call__(self, eps: float) -> float:
        """The bound; infinite where a layer has not more bright outputs than inputs, so that no m_i is possible."""
        if not min(self.constants):
            return math.inf
        said = self.theorem(self.constants, len(self.inputs), eps)
        counts = [int((x > t).sum()) for x, t in zip(self.outputs, said.thresholds, strict=True)]
        return said.error if all(m > k for m, k in zip(counts, self.inputs, strict=True)) else math.inf


# --- picture ----------------------------------------------------------------------------------------------------------


def _name(k: int, depth: int) -> str:
    return "-".join(map(str, _sizes(k, depth)))


def _shapes(numbers: Numbers) -> list[tuple[int, int]]:
    places = [numbers.columns.index(name) for name in ("k", "depth")]
    return list(dict.fromkeys((row[places[0]], row[places[1]]) for row in numbers.rows))


def _values(numbers: Numbers, what: str, **where: float | str) -> Array:
    return np.asarray(np.nan_to_num(numbers.column("value", what=what, **where).astype(float), nan=np.inf))


def _draw(numbers: Numbers) -> Figure:
    figure, axes = panels(2, 3, height=2.3)
    for row, norm in zip((axes[:3], axes[3:]), ("linf", "l1"), strict=True):
        chosen = numbers.where(norm=norm)
        sign = r"\infty" if norm == "linf" else "1"
        for axis, depth in zip(row[:2], (1, 2), strict=True):
            k = max(k for k, d in _shapes(chosen) if d == depth)
            _draw_errors(axis, chosen.where(k=k, depth=depth))
            xlabel, ylabel = rf"noise $|e|_{{{sign}}}$", rf"$|z - z^*|_{{{sign}}}$"
            tidy(axis, xlabel, ylabel, f"{norm}, {_name(k, depth)}", log="xy")
        _draw_looseness(row[2], chosen)
        tidy(row[2], "", "bound / worst error", f"{norm}, how loose", log="y")
    legend(figure, axes[0], 2)
    return figure


def _draw_errors(axis: Axes, numbers: Numbers) -> None:
    levels = numbers.distinct("noise")
    for what in (_SEARCHED, _CERTIFIED, _WORST, _RANDOM):
        groups = [_values(numbers, what, noise=level) for level in levels]
        if what in (_RANDOM, _WORST):
            place = -0.1 if what == _RANDOM else 0.1
            cloud(axis, levels, groups, _LABELS[what], place=place, style=_STYLES[what])
        else:
            line(axis, levels, [float(np.median(g)) for g in groups], _LABELS[what], _STYLES[what])


def _draw_looseness(axis: Axes, numbers: Numbers) -> None:
    """At the smallest noise, where all conditions are met."""
    shapes = _shapes(numbers)
    for what in (_SEARCHED, _CERTIFIED):
        ratios = [_ratios(numbers, what, k, d, smallest=True) for k, d in shapes]
        style = _STYLES[what]
        points = [float(np.median(r)) if len(r) else math.inf for r in ratios]
        axis.plot(range(len(shapes)), points, style.marker, color=style.color, markersize=4.5, zorder=4)
        for at, group in enumerate(ratios):
            axis.plot(
                np.full(len(group), at), group, ".", color=style.color, markersize=2, markeredgewidth=0, alpha=0.5
            )
    axis.axhline(1, color="0.4", linewidth=0.8)
    axis.set_xlim(-0.5, len(shapes) - 0.5)
    axis.set_xticks(range(len(shapes)), [_name(k, d) for k, d in shapes], rotation=35, ha="right")


# --- claims -----------------------------------------------------------------------------------------------------------


def _ratios(numbers: Numbers, what: str, k: int, depth: int, smallest: bool = False) -> Array:
    """Bound / worst error found where the bound is finite, at all levels or the smallest."""
    chosen = numbers.where(k=k, depth=depth)
    if smallest:
        chosen = chosen.where(noise=min(numbers.distinct("noise")))
    bound, error = _values(chosen, what), _values(chosen, _WORST)
    finite = np.isfinite(bound)
    return np.asarray(bound[finite] / error[finite])


def _violations(numbers: Numbers) -> tuple[int, int]:
    """Errors above the certified bound, and errors with a finite one."""
    above = count = 0
    for k, depth in _shapes(numbers):
        for level in numbers.distinct("noise"):
            chosen = numbers.where(k=k, depth=depth, noise=level)
            bound = _values(chosen, _CERTIFIED)
            for errors in (_values(chosen, _WORST)[:, None], _values(chosen, _RANDOM).reshape(len(bound), -1)):
                judged = errors[np.isfinite(bound)]
                above += int((judged > bound[np.isfinite(bound), None]).sum())
                count += judged.size
    return above, count


def _listed(numbers: Numbers, of: Callable[[int, int], float], digits: str = ".3g") -> str:
    return ", ".join(f"{_name(k, depth)}: {of(k, depth):{digits}}" for k, depth in _shapes(numbers))


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _bound_claims(numbers: Numbers, norm: str) -> list[Claim]:
    """Whether a theorem's bound stands, and how loose it is."""
    numbers = numbers.where(norm=norm)
    above, count = _violations(numbers)
    sign = "|z - z*|_inf <= (2/c_inf)^d eps" if norm == "linf" else "|z - z*|_1 <= (2/c_1)^d eps"
    one = [r for k, d in _shapes(numbers) if d == 1 for r in _ratios(numbers, _CERTIFIED, k, d, smallest=True)]
    loose = _listed(numbers, lambda k, d: _median(_ratios(numbers, _CERTIFIED, k, d)))
    all_sets = _listed(numbers, lambda k, d: _median(_ratios(numbers, _SEARCHED, k, d)))
    return [
        Claim(
            _THEOREM[norm], f"{sign} where enough outputs are bright",
            f"{above} of {count:,} errors above the bound with certified constants of the bright rows. Bound / worst "
            f"error found, median: {loose}. With constants for all sets of m rows, at least: {all_sets}",
            Verdict.of(above == 0, above <= 0.01 * count),
            "the threshold that the algorithm ends at is not that of the theorem",
        ),
        Claim(
            f"unrelu, {_THEOREM[norm]}", "for one layer and given rows the bound is attained up to a factor of 2",
            f"bound / worst error found at the smallest noise: {min(one):.3g} to {max(one):.3g}, median "
            f"{np.median(one):.3g}",
            Verdict.of(max(one) <= _HALF, bool(np.median(one) <= _HALF)),
            "on the others the search for the worst noise did not come as close",
        ),
        _condition(numbers, norm),
        _growth(numbers, norm),
    ]  # fmt: skip


def _condition(numbers: Numbers, norm: str) -> Claim:
    """How often the theorem can apply."""
    met = [float(np.isfinite(_values(numbers, _SEARCHED, noise=a)).mean()) for a in numbers.distinct("noise")]
    ours = [float(np.isfinite(_values(numbers, _CERTIFIED, noise=a)).mean()) for a in numbers.distinct("noise")]
    said = ", ".join(f"{m:.0%} ({c:.0%})" for m, c in zip(met, ours, strict=True))
    levels = ", ".join(f"{a:g}" for a in numbers.distinct("noise"))
    return Claim(
        _THEOREM[norm], "random networks meet the condition: m_i > n_(i-1) outputs of each layer exceed the threshold",
        f"at most, and with certified constants of the bright rows in brackets, at noise {levels}: {said}",
        Verdict.of(min(met) >= 0.99, max(met) >= 0.5),
        "thresholds grow with the noise and with every layer, and small layers can have too few outputs that are on",
        only="a theorem says what it means, and the share at each noise level is given with the largest constants that "
        "can be",
    )  # fmt: skip


def _growth(numbers: Numbers, norm: str) -> Claim:
    slopes: dict[str, list[float]] = {what: [] for what in (_RANDOM, _WORST)}
    for k, d in _shapes(numbers):
        for what, found in slopes.items():
            shape = numbers.where(k=k, depth=d)
            levels = numbers.distinct("noise")
            found.append(slope(levels, [float(np.median(_values(shape, what, noise=a))) for a in levels]))
    said = "; ".join(f"{what} {min(found):.3f} to {max(found):.3f}" for what, found in slopes.items())
    off = np.array([abs(s - 1) for found in slopes.values() for s in found])
    return Claim(
        _THEOREM[norm], "the error grows linearly with the noise",
        f"log-log slopes of the medians, over the sizes: {said}",
        Verdict.of(bool(np.max(off) <= 0.1), bool(np.nanmin(off) <= 0.1)),
        "large noise turns neurons on and off",
    )  # fmt: skip


def _corollary(numbers: Numbers) -> Claim:
    """What c_2 can be, in the units of weights N(0, 1), where eps is sqrt(n_1 ... n_d) times as large."""
    numbers = numbers.where(norm="linf")
    levels = numbers.distinct("noise")
    lower: dict[tuple[int, int], float] = {}
    upper: dict[tuple[int, int], float] = {}
    met = []
    for k, d in _shapes(numbers):
        shape = numbers.where(k=k, depth=d)
        unit = math.prod(math.sqrt(n) for n in _sizes(k, d)[1:]) * levels[0]
        small, large = (2 * (unit / _values(shape, what, noise=levels[0])) ** (1 / d) for what in (_CERTIFIED, _WORST))
        lower[k, d], upper[k, d] = float(small.min()), float(large.min())
        met.append([float((_values(shape, _LIMIT, noise=a) * (lower[k, d] / 2) ** d > a).mean()) for a in levels])
    ranges = ", ".join(f"{_name(*shape)}: {lower[shape]:.2g} to {upper[shape]:.2g}" for shape in lower)
    shares = ", ".join(f"{share:.0%}" for share in np.mean(met, axis=0))
    return Claim(
        "Corollary 1", "|z - z*|_inf <= (2/c_2)^d eps with a universal c_2 in (0, 2], for weights N(0, 1)",
        f"the largest c_2 that all networks of a size allow, from the bound certified to the worst error found: "
        f"{ranges}. With the certified ones the condition on eps is met at noise {levels[0]:g} to {levels[-1]:g} by "
        f"{shares}",
        Verdict.of(min(lower.values()) >= 0.5 * max(upper.values()), min(lower.values()) > 0),
        "each size allows a c_2 above 0, but what holds for all sizes is not settled by a few",
        only="the corollary is about all sizes, of which a run can only have some",
    )  # fmt: skip


def _claims(numbers: Numbers) -> list[Claim]:
    return [*_bound_claims(numbers, "linf"), _corollary(numbers), *_bound_claims(numbers, "l1")]


def _counts(shapes: dict[tuple[int, int], int]) -> str:
    return ", ".join(f"{_name(*shape)} ({count})" for shape, count in shapes.items())


_ALL: Sequence[Experiment] = (
    Experiment(
        name="bounds",
        title="Theorems 3 and 4: the bounds beside the errors",
        about=(
            f"ReLU networks with weights N(0, 1/n_i) and an expansion of {_EXPANSION}, with a code N(0, I) each: for "
            f"linf {_counts(_LINF)}, for l1 {_counts(_L1)} of them. Noise is scaled to its size: {_DRAWS} draws "
            "U(-1, 1), and the worst of some ten to hundreds of candidates made for the network and the code. No "
            "method is told the noise. One bound has certified constants of the rows that are bright at this code; "
            "the other is what the theorem, whose constants are for all sets of m rows, says at least, by a search for "
            "the worst set. Lines are medians over networks, and end where half of the networks have too few bright "
            "outputs."
        ),
        columns=("norm", "k", "depth", "network", "noise", "what", "draw", "value"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    ),
)

EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}

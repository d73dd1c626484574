"""Theorems 3 and 4: the error that they allow with certified constants, beside the error under random noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrelu.models.network import Network
from unrelu.runtime.array_types import Array
from unrelu_studies.kit.measures import slope
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import Style, cloud, legend, line, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict
from unrelu_studies.paper.theory import c_1, recovery_bound

_EXPANSION = 5
_LEVELS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_LEVELS_QUICK = (1e-6, 1e-4, 1e-2)
_DRAWS = 10  # of random noise, at each level
# (k, depth) and how many networks. Constants of the l1-norm are out of reach for the wide layers of the others.
_LINF = {(4, 1): 20, (8, 1): 20, (4, 2): 20, (8, 2): 12, (20, 2): 3, (3, 3): 4}
_L1 = {(4, 1): 15, (8, 1): 15, (4, 2): 12, (3, 3): 3}
_QUICK = ((4, 1), (4, 2))
_THEOREM = {"linf": "Theorem 3", "l1": "Theorem 4"}
_BOUND = {"linf": "|z - z*|_inf <= (2/c_inf)^d eps", "l1": "|z - z*|_1 <= (2/c_1)^d eps"}
# What a row is about.
_RANDOM, _CERTIFIED = "random noise", "certified"
_STYLES = {_RANDOM: Style("#0072b2", "o"), _CERTIFIED: Style("#009e73", "^")}
_LABELS = {_RANDOM: "error, random noise", _CERTIFIED: "bound, constants of the bright rows"}


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
    e /= _size(e, norm)[:, None]
    start = draw_seed(random("starts", *key))
    certified = _certified(network, z, norm)
    rows: list[Row] = []
    for level in _LEVELS_QUICK if quick else _LEVELS:
        found = run(norm, network, network(z) + level * e, seed=start).z
        # Infinite where the method gave no code.
        errors = np.nan_to_num(_size(found - z, norm), nan=np.inf)
        rows += [(*unit, level, _RANDOM, i, error) for i, error in enumerate(errors)]
        rows.append((*unit, level, _CERTIFIED, 0, certified(level)))
    return rows


def _size(v: Array, norm: str) -> Array:
    return np.asarray(np.abs(v).max(axis=-1) if norm == "linf" else np.abs(v).sum(axis=-1))


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
        tidy(row[2], "", "bound / largest error", f"{norm}, how loose", log="y")
    legend(figure, axes[0], 2)
    return figure


def _draw_errors(axis: Axes, numbers: Numbers) -> None:
    levels = numbers.distinct("noise")
    for what in (_CERTIFIED, _RANDOM):
        groups = [_values(numbers, what, noise=level) for level in levels]
        if what == _RANDOM:
            cloud(axis, levels, groups, _LABELS[what], style=_STYLES[what])
        else:
            line(axis, levels, [float(np.median(g)) for g in groups], _LABELS[what], _STYLES[what])


def _draw_looseness(axis: Axes, numbers: Numbers) -> None:
    """At the smallest noise, where all conditions are met."""
    shapes, style = _shapes(numbers), _STYLES[_CERTIFIED]
    smallest = numbers.where(noise=min(numbers.distinct("noise")))
    for at, shape in enumerate(shapes):
        group = _ratios(smallest, *shape)
        axis.plot([at], [_median(group)], style.marker, color=style.color, markersize=4.5, zorder=4)
        axis.plot(np.full(len(group), at), group, ".", color=style.color, markersize=2, markeredgewidth=0, alpha=0.5)
    axis.axhline(1, color="0.4", linewidth=0.8)
    axis.set_xlim(-0.5, len(shapes) - 0.5)
    axis.set_xticks(range(len(shapes)), [_name(k, d) for k, d in shapes], rotation=35, ha="right")


# --- claims -----------------------------------------------------------------------------------------------------------


def _largest(numbers: Numbers) -> Array:
    """The largest error under random noise, one for each network and level."""
    return np.asarray(_values(numbers, _RANDOM).reshape(-1, _DRAWS).max(axis=1))


def _ratios(numbers: Numbers, k: int, depth: int) -> Array:
    """Bound / largest error where the bound is finite."""
    chosen = numbers.where(k=k, depth=depth)
    bound, error = _values(chosen, _CERTIFIED), _largest(chosen)
    finite = np.isfinite(bound)
    return np.asarray(bound[finite] / error[finite])


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _bound_claims(numbers: Numbers, norm: str) -> list[Claim]:
    """Whether a theorem's bound stands, how loose it is, when it applies, and how the error grows."""
    numbers = numbers.where(norm=norm)
    bound, errors = _values(numbers, _CERTIFIED), _values(numbers, _RANDOM).reshape(-1, _DRAWS)
    finite = np.isfinite(bound)
    above, count = int((errors[finite] > bound[finite, None]).sum()), errors[finite].size
    loose = ", ".join(f"{_name(*shape)}: {_median(_ratios(numbers, *shape)):.3g}" for shape in _shapes(numbers))
    levels = numbers.distinct("noise")
    met = {level: float(np.isfinite(_values(numbers, _CERTIFIED, noise=level)).mean()) for level in levels}
    slopes = [
        slope(levels, [_median(_values(numbers, _RANDOM, k=k, depth=d, noise=a)) for a in levels])
        for k, d in _shapes(numbers)
    ]
    off = np.abs(np.array(slopes) - 1)
    return [
        Claim(
            _THEOREM[norm], f"{_BOUND[norm]} where enough outputs are bright",
            f"{above} of {count:,} errors above the bound. Bound / largest error, median: {loose}",
            Verdict.of(above == 0, above <= 0.01 * count),
            "the threshold that the algorithm ends at is not that of the theorem",
        ),
        Claim(
            _THEOREM[norm], "random networks meet the condition: enough outputs of each layer exceed the threshold",
            "networks, by the noise: " + ", ".join(f"{level:g} {share:.0%}" for level, share in met.items()),
            Verdict.of(min(met.values()) >= 0.99, max(met.values()) >= 0.5),
            "thresholds grow with the noise and with every layer, and small layers can have too few outputs that are "
            "on",
        ),
        Claim(
            _THEOREM[norm], "the error grows linearly with the noise",
            f"log-log slopes of the medians, over the sizes: {min(slopes):.3f} to {max(slopes):.3f}",
            Verdict.of(bool(np.max(off) <= 0.1), bool(np.nanmin(off) <= 0.1)), "large noise turns neurons on and off",
        ),
    ]  # fmt: skip


def _corollary(numbers: Numbers) -> Claim:
    """What c_2 can be, in the units of weights N(0, 1), where eps is sqrt(n_1 ... n_d) times as large."""
    numbers = numbers.where(norm="linf")
    level = min(numbers.distinct("noise"))
    lower: dict[tuple[int, int], float] = {}
    upper: dict[tuple[int, int], float] = {}
    for k, d in _shapes(numbers):
        shape = numbers.where(k=k, depth=d, noise=level)
        unit = math.prod(math.sqrt(n) for n in _sizes(k, d)[1:]) * level
        small, large = (2 * (unit / error) ** (1 / d) for error in (_values(shape, _CERTIFIED), _largest(shape)))
        lower[k, d], upper[k, d] = float(small.min()), float(large.min())
    ranges = ", ".join(f"{_name(*shape)}: {lower[shape]:.2g} to {upper[shape]:.2g}" for shape in lower)
    return Claim(
        "Corollary 1", "|z - z*|_inf <= (2/c_2)^d eps with a universal c_2 in (0, 2], for weights N(0, 1)",
        f"the largest c_2 that all networks of a size allow, from the bound certified to the largest error: {ranges}",
        Verdict.of(min(lower.values()) >= 0.5 * max(upper.values()), min(lower.values()) > 0),
        "each size allows a c_2 above 0, but what holds for all sizes is not settled by a few",
    )  # fmt: skip


def _claims(numbers: Numbers) -> list[Claim]:
    return [*_bound_claims(numbers, "linf"), _corollary(numbers), *_bound_claims(numbers, "l1")]


EXPERIMENTS = {
    "bounds": Experiment(
        name="bounds",
        title="Theorems 3 and 4: the bounds beside the errors",
        about=(
            f"{sum(_LINF.values()) + sum(_L1.values())} ReLU networks with weights N(0, 1/n_i) and an expansion of "
            f"{_EXPANSION}, with a code N(0, I) each, and {_DRAWS} draws of U(-1, 1) scaled to the size of the noise. "
            "No method is told the noise. The bound has certified constants of the rows that are bright at this code. "
            "Lines are medians over networks, and end where half of the networks have too few bright outputs."
        ),
        columns=("norm", "k", "depth", "network", "noise", "what", "draw", "value"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

"""Theorem 3 in depth: the error of layer-wise inversion as layers are added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from unrelu.models.network import Network
from unrelu_studies.kit.measures import code_rows, errors, medians, oracle, said, share, spread
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import STYLES, legend, line, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict

_SIZES = (10, 30, 75, 190, 470, 1200)
_LEVEL, _SUCCESS = 1e-4, 1e-3
_NETWORKS, _CODES = 5, 4  # random networks of each depth, and codes of each
_SCALED = "GD, scaled step"
_LAST = "GD, last layer"
_NOISY = ("linf", "l1", "GD", _SCALED, "auto")
_CLEAN = ("exact", "GD", _SCALED, "auto")


def _units(quick: bool) -> list[Unit]:
    """A network each."""
    return [(depth, i) for depth in ((1, 2, 3) if quick else range(1, 6)) for i in range(2 if quick else _NETWORKS)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    depth, index = int(unit[0]), int(unit[1])
    key = (seed, "depth", *unit)
    network = gaussian_network(_SIZES[: depth + 1], random("weights", *key))
    codes = 2 if quick else _CODES
    truth = random("truth", *key).standard_normal((codes, _SIZES[0]))
    clean = network(truth)
    e = _LEVEL * noise("uniform", clean.shape, random("noise", *key))
    start = draw_seed(random("starts", *key))
    # Of half the squared error along the gradient, at most, near a code that is not the one to be found. It falls
    # with the depth, as each layer has half of its neurons off, and a step of 1 gets too short.
    other = random("another code", *key).standard_normal(_SIZES[0])
    curvature = np.linalg.norm(network.jacobian(other).reshape(-1, _SIZES[0]), 2) ** 2
    rows: list[Row] = []
    for level, methods in ((0.0, _CLEAN), (_LEVEL, _NOISY)):
        for method in methods:
            step = {"learning_rate": 1 / curvature} if method == _SCALED else {}
            result = run(method, network, clean + e * (level > 0), seed=start, **step)
            rows += code_rows((depth, index, level), method, result.z, truth, result.seconds)
    if depth > 1:
        rows += _last_layer(network, truth, (depth, index), start)
    return rows + code_rows((depth, index, _LEVEL), "oracle", oracle(network, truth, e), truth)


def _last_layer(network: Network, truth: np.ndarray, place: tuple[int, int], start: int) -> Sequence[Row]:
    """Gradient descent onto the input of the last layer only, without noise."""
    last = Network(network.layers[-1:], network.layers[-1].in_shape)
    hidden = network.trace(truth)[-2]
    rng = random("hidden starts", start, *place)
    # A start of the size of hidden outputs, as its own would be of the size of codes.
    z0 = np.maximum(rng.standard_normal(hidden.shape), 0) * np.sqrt(2 * np.mean(hidden**2))
    result = run("GD", last, last(hidden), seed=start, z0=z0)
    return code_rows((*place, 0.0), _LAST, result.z, hidden, result.seconds)


def _draw(numbers: Numbers) -> Figure:
    figure, (left, right) = panels(1, 2, height=2.6)
    depths = numbers.distinct("depth")
    for i, method in enumerate((*_NOISY, "oracle")):
        groups = [errors(numbers, noise=_LEVEL, depth=d, method=method) for d in depths]
        # Depths are not logarithmic: the dots are placed here, the line by its medians.
        for depth, group in zip(depths, groups, strict=True):
            if STYLES[method].marker:
                at = np.full(group.size, depth + 0.1 * (i - 2))
                left.plot(at, group, ".", color=STYLES[method].color, markersize=2, markeredgewidth=0, alpha=0.4)
        line(left, depths, [float(np.median(g)) for g in groups], method)
    tidy(left, "layers d", "relative error of the code", f"uniform noise {_LEVEL:g}", log="y")
    for i, method in enumerate(_CLEAN):
        found = [100 * share(errors(numbers, noise=0.0, depth=d, method=method) <= _SUCCESS) for d in depths]
        line(right, depths, found, method, width=3.5 - 0.8 * i)
    tidy(right, "layers d", f"recovered to {_SUCCESS:g}, %", "no noise")
    right.set_ylim(-3, 104)
    for axis in (left, right):
        axis.set_xticks(depths)
    # `exact` has no errors under noise; an empty line gives it its place in the legend.
    line(left, [], [], "exact")
    legend(figure, left, 4)
    return figure


def _medians(numbers: Numbers, method: str) -> np.ndarray:
    return medians(numbers, "depth", noise=_LEVEL, method=method)


def _growth(values: np.ndarray) -> float:
    """The factor a layer: the geometric mean of those from each depth to the next."""
    return float((values[-1] / values[0]) ** (1 / (len(values) - 1)))


def _claims(numbers: Numbers) -> Sequence[Claim]:
    found = {m: _medians(numbers, m) for m in ("linf", "l1", "GD", _SCALED, "auto", "oracle")}
    growth = {m: _growth(v) for m, v in found.items()}
    ratios = found["linf"][1:] / found["linf"][:-1]
    ours = found["auto"] / found["oracle"]
    deep = [depth for depth in numbers.distinct("depth") if depth > 1]
    clean = {m: [float(np.median(errors(numbers, noise=0.0, method=m, depth=d))) for d in deep] for m in (_LAST, "GD")}
    nearer = np.array(clean[_LAST]) < np.array(clean["GD"])
    pairs = ", ".join(f"d = {d}: {a:.2g}, {b:.2g}" for d, a, b in zip(deep, clean[_LAST], clean["GD"], strict=True))
    return [
        Claim(
            "Theorem 3", "the error of Algorithm 1 grows at most like a constant to the power of the depth",
            f"linf: factors from each depth to the next {', '.join(f'{r:.3g}' for r in ratios)}; mean factors a "
            f"layer: {said(growth)}",
            Verdict.of(bool(ratios[1:].max() <= 1.5 * ratios[0]), bool(ratios[-1] <= 1.5 * ratios[0])),
            "from one depth to the next the factor is once more than half again as large as the first",
            only="the theorem bounds the error at every depth at once; a run can only look whether the factors of "
            "medians of a few networks grow",
        ),
        Claim(
            "Section 6", "it is easier to invert to the intermediate layer than directly to the input",
            f"GD without noise, relative error of the last layer's input, of the code: {pairs}",
            Verdict.of(bool(nearer.all()), bool(nearer.any())),
            "the last layer alone has hundreds of unknowns, for which the steps do not suffice",
        ),
        Claim(
            "unrelu", "auto reaches the oracle at every depth",
            f"median error / the oracle's: {spread(ours)}", Verdict.of(bool(ours.max() <= 1.05), bool(ours.max() <= 2)),
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "depth": Experiment(
        name="depth",
        title="Theorem 3: the error against the depth",
        about=(
            f"{_NETWORKS} random ReLU networks of the first d layers of {'-'.join(map(str, _SIZES))} for every d, "
            f"weights N(0, 1/n_i), each layer at least 2.4 times as wide as the one before; {_CODES} codes N(0, I) of "
            f"each. Uniform noise {_LEVEL:g}, and none. No method is told the noise. GD makes up to 1,000 steps of "
            "length 1, or (scaled step) of 1 / |J|² at another random code."
        ),
        columns=("depth", "network", "noise", "code", "method", "error", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

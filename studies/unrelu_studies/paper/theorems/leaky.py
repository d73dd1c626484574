"""LeakyReLU under noise: Remark 1 of the paper on random networks and on a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from unrelu import zoo
from unrelu_studies.kit.measures import code_rows, errors, oracle, said, share, spread
from unrelu_studies.kit.method_labels import NOISES, run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import STYLES, Style, cloud, legend, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict

_SIZES = (20, 100, 200, 500)
_TRAINED = "mnist-leaky"
_CODES, _CODES_TRAINED = 5, 10  # of each random network, and of each unit of the trained one
_NETWORKS, _PLACES = 6, 1  # random networks, and units of the trained one at each level
_SAME, _SAME_AUTO, _SAME_EXACT = "linf, ReLU", "auto, ReLU", "exact, ReLU"
_METHODS = {
    "random": ("exact", "least_squares", "l1", "linf", "GD", "auto"),
    "trained": ("exact", "least_squares", "l1", "linf", "GD, trained", "auto"),
}
_TITLES = {"random": "random 20-100-200-500", "trained": "trained 20-200-500-784"}
_STYLES = STYLES | {
    "exact": Style("#56b4e9", ">", "--"), _SAME: Style("#0072b2", "", "--"),
}  # fmt: skip
_SMALL, _SUCCESS = 1e-2, 1e-3


def _units(quick: bool) -> list[Unit]:
    """A random network each, or a few codes of the trained one at one level."""
    levels = (1e-5, 1e-3) if quick else NOISES
    trained: list[Unit] = [("trained", i, level) for i in range(_PLACES) for level in levels]
    return [("random", i, 0.0) for i in range(1 if quick else _NETWORKS)] + trained


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    which, index = str(unit[0]), int(unit[1])
    levels = (float(unit[2]),) if which == "trained" else (1e-5, 1e-3, 1e-2) if quick else NOISES
    codes = 2 if quick else _CODES if which == "random" else _CODES_TRAINED
    key = (seed, "leaky", which, index)
    leaky = partial(gaussian_network, _SIZES, activation="leaky_relu:0.1")
    network = leaky(random("weights", *key)) if which == "random" else zoo.load(_TRAINED)
    truth = random("truth", *key).standard_normal((codes, network.latent_dim))
    clean = network(truth)
    e = noise("uniform", clean.shape, random("noise", *key))
    start = draw_seed(random("starts", *key))
    # The same weights with ReLU instead.
    relu = gaussian_network(_SIZES, random("weights", *key)) if which == "random" else None
    rows: list[Row] = []
    for level in levels:
        for method in _METHODS[which] if not quick or which == "random" else ("exact", "linf", "auto"):
            result = run(method, network, clean + level * e, seed=start)
            rows += code_rows((which, level, index), method, result.z, truth, result.seconds)
        if relu is not None:
            for method, label in (("linf", _SAME), ("auto", _SAME_AUTO)):
                result = run(method, relu, relu(truth) + level * e, seed=start)
                rows += code_rows((which, level, index), label, result.z, truth, result.seconds)
        rows += code_rows((which, level, index), "oracle", oracle(network, truth, level * e), truth)
    if which == "random" or levels[0] == min(NOISES) or quick:
        rows += code_rows((which, 0.0, index), "exact", run("exact", network, clean, seed=start).z, truth)
    if relu is not None:
        rows += code_rows((which, 0.0, index), _SAME_EXACT, run("exact", relu, relu(truth), seed=start).z, truth)
    return rows


def _noisy(numbers: Numbers, network: str) -> list[float]:
    return sorted(level for level in numbers.where(network=network).distinct("noise") if level > 0)


def _draw(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 2, height=3.0)
    for axis, network in zip(axes, numbers.distinct("network"), strict=True):
        part, levels = numbers.where(network=network), _noisy(numbers, network)
        methods = [m for m in (*_METHODS[network], _SAME, "oracle") if m in part.distinct("method")]
        for i, method in enumerate(methods):
            groups = [errors(part, noise=level, method=method) for level in levels]
            cloud(axis, levels, groups, method.replace(", trained", ""), 0.09 * (i - 2.5), _STYLES[method])
        tidy(axis, "noise level a, uniform", "relative error of the code", _TITLES[network], log="xy")
    axes[1].axhline(1, color="0.5", linewidth=0.8, zorder=1)
    axes[1].text(0.02, 1.15, "the code 0", fontsize=6.5, color="0.35", transform=axes[1].get_yaxis_transform())
    legend(figure, axes[0], 4)
    return figure


def _at(numbers: Numbers, network: str, method: str) -> np.ndarray:
    levels = _noisy(numbers, network)
    return np.array([np.median(errors(numbers, network=network, noise=a, method=method)) for a in levels])


def _trained_claims(numbers: Numbers) -> list[Claim]:
    levels = _noisy(numbers, "trained")
    layerwise = [m for m in ("linf", "l1", "least_squares") if m in numbers.where(network="trained").distinct("method")]
    found = {m: _at(numbers, "trained", m) for m in layerwise}
    floor = _at(numbers, "trained", "oracle")
    from_where = {
        m: next((a for a, value in zip(levels, v, strict=True) if value >= 1), None) for m, v in found.items()
    }
    beyond = ", ".join(f"{m} {f'from {a:g}' if a else 'never'}" for m, a in from_where.items())
    worst = found["linf"] / floor
    return [
        Claim(
            "unrelu, Remark 1", "Algorithm 1 with its constraints inverts noisy outputs of the trained network",
            f"median error of linf / the oracle's: {spread(worst)}; no better than the code 0: {beyond}",
            Verdict.of(bool(worst.max() <= 10), bool(found["linf"][0] <= 0.1)),
            "each layer multiplies the error of the one above by what its least singular value allows, and by up to "
            "1/c = 10 where the output is negative",
        )
    ]  # fmt: skip


def _as_good(numbers: Numbers) -> list[Claim]:
    """Remark 1 in three readings."""
    says = "LeakyReLU does at least as good as ReLU"

    def read(reading: str, method: str, same: str, reason: str) -> Claim:
        ratio = _at(numbers, "random", method) / _at(numbers, "random", same)
        return Claim(
            "Remark 1", says,
            f"median error of {method} / that of {same.partition(',')[0]} on the same weights with ReLU, over noise "
            f"levels: {spread(ratio)}", Verdict.of(bool(ratio.max() <= 1), bool(np.median(ratio) <= 1)), reason,
            reading,
        )  # fmt: skip

    found = {
        m: share(errors(numbers, network="random", noise=0.0, method=m) <= _SUCCESS) for m in ("exact", _SAME_EXACT)
    }
    return [
        read("", "linf", _SAME, "negative outputs hold w_j z only to within noise / c, and hidden values have no bound "
             "h >= 0, which ReLU gives"),
        read("whole networks are inverted at once, by auto", "auto", _SAME_AUTO, "it is not so at every level"),
        Claim(
            "Remark 1", says, f"recovered by exact to {_SUCCESS:g}: LeakyReLU {found['exact']:.1%}, ReLU "
            f"{found[_SAME_EXACT]:.1%}", Verdict.of(found["exact"] >= found[_SAME_EXACT]),
            "ReLU is recovered more often", "without noise",
        ),
    ]  # fmt: skip


def _claims(numbers: Numbers) -> Sequence[Claim]:
    exact = {n: share(errors(numbers, network=n, noise=0.0, method="exact") <= _SUCCESS) for n in _TITLES}
    ours = {}
    for network in _TITLES:
        small = np.array(_noisy(numbers, network)) <= _SMALL
        ours[network] = (_at(numbers, network, "auto") / _at(numbers, network, "oracle"))[small]
    worst = max(float(r.max()) for r in ours.values())
    return [
        Claim(
            "Section 3, (5)", "without noise, a LeakyReLU network is inverted by linear regressions",
            f"exact recovers to {_SUCCESS:g}: {said(exact, '.1%')}", Verdict.of(min(exact.values()) == 1),
        ),
        *_as_good(numbers),
        *_trained_claims(numbers),
        Claim(
            "unrelu", "auto reaches the oracle, which is told the sign of every neuron",
            f"median error / the oracle's at noise up to {_SMALL:g}: "
            + "; ".join(f"{n} {spread(r)}" for n, r in ours.items()),
            Verdict.of(worst <= 1.05, worst <= 2),
            "noise takes some neurons across their kink, where the true signs are not those of the best fit",
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "leaky": Experiment(
        name="leaky",
        title="Remark 1: LeakyReLU(0.1) under noise",
        about=(
            f"{_NETWORKS} random networks 20-100-200-500 with weights N(0, 1/n_i), {_CODES} codes N(0, I) of each, and "
            f"{_PLACES * _CODES_TRAINED} codes of the zoo's `{_TRAINED}` (20-200-500-784); uniform noise U(-a, a). No "
            "method is told the noise. The oracle is least squares with all signs known. The dashed line is linf on "
            "the same weights with ReLU. GD makes 1,000 steps of length 1 on random networks, 10,000 of 1e-3 on the "
            "trained one."
        ),
        columns=("network", "noise", "place", "code", "method", "error", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

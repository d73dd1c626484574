"""The relaxation (8) beside Algorithm 2, which it is said to mimic, to outrun and to be more robust than."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from unrelu_studies.kit.measures import code_rows, errors, medians, said, share, spread
from unrelu_studies.kit.method_labels import NOISES, run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import cloud, decades, legend, line, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, noise, random
from unrelu_studies.kit.trained_generators import PLAIN_VAE, ZOO
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict

_SIZES = (20, 100, 500)
_CODES = 5  # of each random network, and of each unit of a trained one
_METHODS = ("l1", "relaxed", "least_squares", "linf")
_SHOWN = ("l1", "relaxed")
_KINDS = ("uniform", "gaussian")
_TRAINED = {"trained": ZOO, "plain VAE": PLAIN_VAE}
_COUNTS = {"random": 10, "trained": 5, "plain VAE": 5}
_TITLES = {"random": "random 20-100-500", "trained": "trained 20-60-784", "plain VAE": "plain VAE 20-60-784"}
# The plain VAE is another reading of the trained network.
_CLAIMED = {**_TITLES, "plain VAE": _TITLES["trained"]}
# A run is far off if its error is this many times the median of l1 at its level, and lost if its error is larger than
# _LOST: the code 0 has an error of 1.
_OUTLIER, _LOST, _SMALL = 10.0, 0.5, 1e-2
_SOURCE = "Section 5.1 and appendix"


def _units(quick: bool) -> list[Unit]:
    """A random network each, or a few codes of a trained one; with one kind of noise."""
    counts = dict.fromkeys(_COUNTS, 1) if quick else _COUNTS
    return [(network, kind, i) for network, count in counts.items() for kind in _KINDS for i in range(count)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    which, kind, index = str(unit[0]), str(unit[1]), int(unit[2])
    # Both kinds of noise meet the same networks and codes.
    key = (seed, "relaxed", which, index)
    network = gaussian_network(_SIZES, random("weights", *key)) if which == "random" else _TRAINED[which].load()
    codes = 3 if quick else _CODES
    truth = random("truth", *key).standard_normal((codes, network.latent_dim))
    clean = network(truth)
    start = draw_seed(random("starts", *key))
    e = noise(kind, clean.shape, random("noise", *key, kind))
    rows: list[Row] = []
    for level in (1e-5, 1e-3, 1e-2) if quick else NOISES:
        for method in _METHODS:
            result = run(method, network, clean + level * e, seed=start)
            rows += code_rows((which, kind, level, index), method, result.z, truth, result.seconds)
    return rows


def _draw(numbers: Numbers) -> Figure:
    """A row a network: the errors under both kinds of noise, and the time."""
    networks, levels = numbers.distinct("network"), numbers.distinct("noise")
    figure, axes = panels(len(networks), 3, height=2.2)
    for row, network in enumerate(networks):
        part = numbers.where(network=network)
        for axis, kind in zip(axes[3 * row :], _KINDS, strict=False):
            for i, method in enumerate(_METHODS):
                groups = [errors(part, kind=kind, noise=level, method=method) for level in levels]
                cloud(axis, levels, groups, method, 0.1 * (i - 1.5))
            tidy(axis, "noise level a", "relative error of the code", f"{_TITLES[network]}, {kind}", log="xy")
        axis = axes[3 * row + 2]
        seconds = {m: medians(part, "noise", "seconds", method=m).tolist() for m in _METHODS}
        for method, values in seconds.items():
            line(axis, levels, values, method)
        decades(axis.yaxis, [value for values in seconds.values() for value in values])
        tidy(axis, "noise level a", "seconds a code, median", f"{_TITLES[network]}, time", log="xy")
    legend(figure, axes[0], 5)
    return figure


def _ratios(numbers: Numbers, column: str, method: str, other: str) -> np.ndarray:
    """Median of a method over that of another at each level."""
    return medians(numbers, "noise", column, method=method) / medians(numbers, "noise", column, method=other)


def _far(numbers: Numbers, method: str) -> float:
    """The share of runs, at noise up to 1e-2, with ten times the median error of l1 at their kind and level or more."""
    groups = [numbers.where(kind=k, noise=a) for k in numbers.distinct("kind") for a in numbers.distinct("noise")
              if a <= _SMALL]  # fmt: skip
    flags = [errors(g, method=method) > _OUTLIER * np.median(errors(g, method="l1")) for g in groups]
    return share(np.concatenate(flags))


def _lost(numbers: Numbers, method: str) -> float:
    """The share of runs, at noise up to 1e-2, with an error above 0.5 or without a code."""
    levels = [a for a in numbers.distinct("noise") if a <= _SMALL]
    return share(np.concatenate([errors(numbers, noise=a, method=method) > _LOST for a in levels]))


def _network_claims(network: str, numbers: Numbers) -> list[Claim]:
    """The claims on one kind of network."""
    part = numbers.where(network=network)
    name = _CLAIMED[network]
    where = "on the plain VAE" if network == "plain VAE" else ""
    kinds = [part.where(kind=kind) for kind in _KINDS]
    ours = np.concatenate([_ratios(p, "error", "least_squares", "l1") for p in kinds])
    return [
        _mimics(part, name, where),
        _efficient(part, name, where),
        _robust(part, name, where),
        Claim(
            "unrelu", f"least squares with the same signs is closer than the l1 program ({name})",
            f"median error of least_squares / that of l1: {spread(ours)}",
            Verdict.of(bool(ours.max() <= 1), bool(np.median(ours) <= 1)),
            "it is not so at every level and kind of noise", where,
        ),
    ]  # fmt: skip


def _mimics(part: Numbers, name: str, reading: str) -> Claim:
    close = np.concatenate([_ratios(part.where(kind=kind), "error", "relaxed", "l1") for kind in _KINDS])
    return Claim(
        _SOURCE, f"the relaxation mimics Algorithm 2 ({name})",
        f"median error of relaxed / that of l1, over noise levels and kinds: {spread(close)}",
        Verdict.of(bool(max(close.max(), 1 / close.min()) <= 2), bool(np.median(close) <= 2)),
        "its optimum presses w_j z up to x_j + eps instead of through the middle of the noise", reading,
    )  # fmt: skip


def _efficient(part: Numbers, name: str, reading: str) -> Claim:
    time = np.concatenate([_ratios(part.where(kind=kind), "seconds", "relaxed", "l1") for kind in _KINDS])
    return Claim(
        _SOURCE, f"the relaxation is more efficient ({name})", f"median time of relaxed / that of l1: {spread(time)}",
        Verdict.of(bool(time.max() < 1), bool(np.median(time) < 1)),
        "as written, Algorithm 2 has n unknowns more; here its sum of errors is minimised over k unknowns as well",
        reading,
    )  # fmt: skip


def _robust(part: Numbers, name: str, reading: str) -> Claim:
    far, lost = {m: _far(part, m) for m in _SHOWN}, {m: _lost(part, m) for m in _SHOWN}
    fewer = far["relaxed"] <= far["l1"], lost["relaxed"] <= lost["l1"]
    strictly = far["relaxed"] < far["l1"] or lost["relaxed"] < lost["l1"]
    return Claim(
        _SOURCE, f"the relaxation is more robust ({name})",
        f"at noise up to {_SMALL:g}, runs with {_OUTLIER:g} times the median error of l1: "
        f"{said(far, '.1%')}; with an error above {_LOST:g} or no code: {said(lost, '.1%')}",
        Verdict.of(all(fewer) and strictly, any(fewer) and strictly),
        "no sign is decided in its constraints, but its threshold still has to be found, and errors of a layer "
        "become those of the next" if not all(fewer) else "l1 has no more of either", reading,
    )  # fmt: skip


def _claims(numbers: Numbers) -> Sequence[Claim]:
    return [claim for network in numbers.distinct("network") for claim in _network_claims(network, numbers)]


EXPERIMENTS = {
    "relaxed": Experiment(
        name="relaxed",
        title="Appendix: the relaxation (8) beside Algorithm 2",
        about=(
            f"{_COUNTS['random']} random ReLU networks 20-100-500 with weights N(0, 1/n_i), {_CODES} codes N(0, I) of "
            f"each, and {_COUNTS['trained'] * _CODES} codes of {ZOO.about}, and of {PLAIN_VAE.about}; noise U(-a, a) "
            "and N(0, a²). All methods go layer by layer and stop on the residual of the layer they see; they are not "
            "told the noise. least_squares is our convex analogue of Algorithm 2 in the 2-norm."
        ),
        columns=("network", "kind", "noise", "place", "code", "method", "error", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

"""A last layer that contracts: what the paper leaves to future work, on random networks and a DCGAN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from unrelu import zoo
from unrelu.errors import UnsupportedModelError
from unrelu_studies.kit.measures import code_rows, errors, identifiable, said, share
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import STYLES, legend, line, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_network, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict

_HIDDEN = (20, 100, 500)
_OUTPUTS = (500, 400, 300, 200, 150, 100, 60, 40)
_DCGAN = "mnist-dcgan"
_NETWORKS, _CODES, _DCGAN_CODES = 3, 5, 6
_SUCCESS = 1e-3
_SCALED = "GD, scaled step"
_RANDOM = ("linf", _SCALED, "adam", "lm", "auto")
_TRAINED = ("GD, trained", "adam", "lm", "auto")


def _units(quick: bool) -> list[Unit]:
    """A random network each; of the DCGAN, a method each."""
    if quick:
        return [(n, 0) for n in (500, 200, 60)] + [("lm", 0), ("auto", 0)]
    random_units: list[Unit] = [(n, i) for n in _OUTPUTS for i in range(_NETWORKS)]
    return random_units + [(method, 0) for method in _TRAINED]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    return _measure_dcgan(str(unit[0]), seed, quick) if isinstance(unit[0], str) else _measure_random(unit, seed, quick)


def _measure_random(unit: Unit, seed: int, quick: bool) -> list[Row]:
    n, index = int(unit[0]), int(unit[1])
    key = (seed, "contracting", *unit)
    network = gaussian_network((*_HIDDEN, n), random("weights", *key))
    truth = random("truth", *key).standard_normal((_CODES, _HIDDEN[0]))
    y = network(truth)
    start = draw_seed(random("starts", *key))
    told = identifiable(network, truth)
    rows: list[Row] = [("random", n, index, i, "identifiable", None, bool(told[i]), None) for i in range(_CODES)]
    for method in _RANDOM if not quick else ("linf", "lm", "auto"):
        # |W|^2 of the last layer is about (1 + sqrt(500 / n))^2.
        step = {"learning_rate": n / _HIDDEN[-1]} if method == _SCALED else {}
        try:
            result = run(method, network, y, seed=start, **step)
        except UnsupportedModelError:  # by a layer-wise method, as the last layer does not tell its input
            rows += [("random", n, index, i, method, None, False, None) for i in range(_CODES)]
            continue
        rows += code_rows(("random", n, index), method, result.z, truth, result.seconds, _SUCCESS)
    return rows


def _measure_dcgan(method: str, seed: int, quick: bool) -> list[Row]:
    network = zoo.load(_DCGAN)
    count = 1 if quick else _DCGAN_CODES
    truth = random("truth", seed, _DCGAN).standard_normal((_DCGAN_CODES, network.latent_dim))[:count]
    result = run(method, network, network(truth), seed=draw_seed(random("starts", seed, _DCGAN)))
    return [*code_rows(("dcgan", 784, 0), method, result.z, truth, result.seconds, _SUCCESS)]


def _share(numbers: Numbers, method: str, n: float) -> float:
    return share(numbers.column("success", network="random", outputs=n, method=method))


def _draw(numbers: Numbers) -> Figure:
    figure, (left, right) = panels(1, 2, height=2.7)
    part = numbers.where(network="random")
    outputs = sorted(part.distinct("outputs"))
    told = [100 * _share(numbers, "identifiable", n) for n in outputs]
    left.plot(outputs, told, color="0.75", linewidth=5, label="identifiable", solid_capstyle="butt", zorder=1)
    for method in part.distinct("method"):
        if method != "identifiable":
            line(left, outputs, [100 * _share(numbers, method, n) for n in outputs], method)
    tidy(left, "outputs n of the last layer", f"recovered to {_SUCCESS:g}, %", "random 20-100-500-n, no noise", log="x")
    left.set_xticks(outputs, [f"{n:g}" for n in outputs], fontsize=6.5)
    left.set_ylim(-3, 104)
    dcgan = numbers.where(network="dcgan")
    for i, method in enumerate(dcgan.distinct("method")):
        group = np.sort(errors(dcgan, method=method))
        right.plot(i + np.linspace(-0.15, 0.15, group.size), group, STYLES[method].marker, color=STYLES[method].color,
                   markersize=5)  # fmt: skip
    right.axhline(_SUCCESS, color="0.5", linewidth=0.8, linestyle=":")
    tidy(right, "", "relative error of the code", "mnist-dcgan, no noise", log="y")
    right.set_xticks(range(len(dcgan.distinct("method"))), dcgan.distinct("method"), fontsize=7)
    right.set_xlim(-0.5, len(dcgan.distinct("method")) - 0.5)
    legend(figure, left, 6)
    return figure


def _claims(numbers: Numbers) -> Sequence[Claim]:
    part = numbers.where(network="random")
    outputs = part.distinct("outputs")
    linf = _share(numbers, "linf", _HIDDEN[-1])
    ours = {f"n = {n:g}": _share(numbers, "auto", n) for n in outputs}
    told = numbers.column("success", network="random", method="identifiable").astype(bool)
    found = numbers.column("success", network="random", method="auto").astype(bool)
    dcgan = numbers.where(network="dcgan")
    real = {m: share(dcgan.column("success", method=m)) for m in dcgan.distinct("method")}
    return [
        Claim(
            "Section 6", "guarantees need every layer to expand: without it, layer-wise inversion fails",
            f"linf recovers {linf:.0%} at n = {_HIDDEN[-1]}, and refuses fewer outputs, which do not determine the "
            f"layer's {_HIDDEN[-1]} inputs",
            Verdict.of(linf <= 0.05, linf <= 0.5),
            "signs of hidden neurons (h >= 0) make up for inputs that the outputs do not determine",
        ),
        Claim(
            "unrelu", "a joint search needs no expansion of the last layer",
            f"auto recovers {said(ours, '.0%')}; identifiable by rank {told.mean():.1%}, of these found "
            f"{share(found[told]):.1%}",
            Verdict.of(share(found[told]) >= 0.99, share(found[told]) >= 0.9),
            "with few outputs another code fits as well to the search's tolerance, or it stops in a local minimum",
        ),
        Claim(
            "unrelu", f"auto inverts the zoo's DCGAN ({_DCGAN})",
            f"recovered to {_SUCCESS:g}: {said(real, '.0%')}", Verdict.of(real["auto"] == 1, real["auto"] >= 0.5),
            "the search stopped at a code that fits worse",
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "contracting": Experiment(
        name="contracting",
        title="Future work of the paper: a last layer that contracts",
        about=(
            f"{_NETWORKS} random ReLU networks 20-100-500-n for every n, with weights N(0, 1/n_i), {_CODES} codes "
            f"N(0, I) of each, and {_DCGAN_CODES} codes of the zoo's `{_DCGAN}` (20-3136-6272-784, tanh output), no "
            f"noise. A code is recovered if its relative error is at most {_SUCCESS:g}, and identifiable if the "
            "Jacobian has rank 20. GD makes up to 1,000 steps of length n / 500, on the DCGAN 10,000 of 1e-3; adam "
            "1,000 from 10 starts. The layer-wise methods refuse a last layer of fewer outputs than inputs, and the "
            "DCGAN: its second layer is too large for their factorisations."
        ),
        columns=("network", "outputs", "place", "code", "method", "error", "success", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}

"""What the methods recover: exactness on identifiable codes, and the refined error against the oracle.

The oracle is least squares with the true ReLU pattern known.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import unrelu
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.kit.markdown_tables import form, table
from unrelu_studies.kit.measures import oracle, relative_error
from unrelu_studies.kit.random_instances import gaussian_network, noise, sizes_of
from unrelu_studies.kit.unit_runner import Unit

EXACT_NETS = ("20-100-500", *(f"{k}-250-600" for k in (20, 40, 60, 80, 90, 100, 105, 110, 115, 120)))
ORACLE_NETS = ("20-100-500", "zoo mnist-relu")
NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
# Noiseless instances of each size, and instances of each cell against the oracle.
EXACT, ORACLE = 10, 20
QUICK_EXACT, QUICK_ORACLE = 1, 2


def _units(command: Command) -> list[Unit]:
    """A net without noise each; a net, a kind and a level of noise each."""
    cells: list[Unit] = [
        ("oracle", name, kind, level) for name in ORACLE_NETS for kind in ("uniform", "gaussian") for level in NOISES
    ]
    return [*[("exact", net) for net in EXACT_NETS], *cells]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    if unit[0] == "exact":
        return {"exact": _exactness(str(unit[1]), command.count(EXACT, QUICK_EXACT), command.seed)}
    name, kind, level = str(unit[1]), str(unit[2]), float(unit[3])
    count = command.count(ORACLE, QUICK_ORACLE)
    ratios = [_over_oracle(name, kind, level, command.seed, index) for index in range(count)]
    refined, first = np.median(ratios, axis=0)
    row = {
        "net": name,
        "kind": kind,
        "noise": level,
        "instances": count,
        "refined": float(refined),
        "linf": float(first),
    }
    return {"oracle": [row]}


def _exactness(net: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Noiseless recovery, split by whether the Jacobian at the true code has rank k."""
    sizes, drawn = sizes_of(net), []
    for index in range(count):
        network = gaussian_network(sizes, stream("recovery, weights", seed, *sizes, index))
        truth = stream("recovery, truth", seed, *sizes, index).standard_normal(sizes[0])
        drawn.append((network, truth, sizes[0] - np.linalg.matrix_rank(network.jacobian(truth))))
    rows = []
    for method in ("exact", "linf"):
        errors, told = [], []
        for network, truth, free in drawn:
            result = unrelu.invert(network, network(truth), method)
            if free:
                told.append(bool(result.status is unrelu.Status.NOT_UNIQUE and result.freedom == free))
            else:
                errors.append(float(relative_error(result.z, truth)))
        rows.append({"net": net, "method": method, "errors": errors, "rank_below_k": len(told), "told": sum(told)})
    return rows


def _over_oracle(name: str, kind: str, level: float, seed: int, index: int) -> tuple[float, float]:
    """Errors of one instance over the oracle's: of linf, then lm, and of linf alone."""
    weights, codes = (stream(f"refined, {what}", seed, index) for what in ("weights", "truth"))
    network = unrelu.zoo.load("mnist-relu") if "zoo" in name else gaussian_network(sizes_of(name), weights)
    truth = codes.standard_normal(network.latent_dim)
    clean = network(truth)
    y = clean + level * noise(kind, clean.shape, stream("refined, noise", seed, kind, index))
    first = unrelu.invert(network, y, "linf")
    refined = unrelu.invert(network, y, "lm", z0=first.z)
    floor = relative_error(oracle(network, truth[None], (y - network(truth))[None])[0], truth)
    return float(relative_error(refined.z, truth) / floor), float(relative_error(first.z, truth) / floor)


def _exact_table(results: Results) -> str:
    nets: dict[str, dict[str, Results]] = {}
    for row in results["exact"]:
        nets.setdefault(row["net"], {})[row["method"]] = row
    head = ("net", "rank k", "recovered to 1e-6 by `exact`", "by `linf`", "largest error of `exact`", "of `linf`",
            "rank below k", "NOT_UNIQUE with the right dimension by `exact`", "by `linf`")  # fmt: skip
    rows = (
        (
            net, len(both["exact"]["errors"]),
            *(sum(e <= 1e-6 for e in row["errors"]) for row in both.values()),
            *(form(max(row["errors"], default=None), ".0e") for row in both.values()),
            both["exact"]["rank_below_k"], *(row["told"] for row in both.values()),
        )
        for net, both in nets.items()
    )  # fmt: skip
    return table(head, rows)


def _oracle_table(results: Results) -> str:
    rows = results["oracle"]
    noises = sorted({row["noise"] for row in rows})
    pairs = dict.fromkeys((row["net"], row["kind"]) for row in rows)
    cells = {(r["net"], r["kind"], r["noise"]): f"{r['refined']:.3f} ({r['linf']:.2g})" for r in rows}
    text = f"Medians of {rows[0]['instances']} instances a cell:\n\n"
    return text + table(
        ("net", "noise", *(f"{noise:g}" for noise in noises)),
        ((*pair, *(cells[(*pair, noise)] for noise in noises)) for pair in pairs),
    )


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"recovery exact": _exact_table, "recovery oracle": _oracle_table},
    collect=lambda command, parts: gathered(parts, "exact", "oracle"),
)

"""Is a code recovered where, and only where, an exact fit calls it identifiable?

Of the paper's random nets k-250-600, whose rank falls below k as k grows; and of nets of full rank in
which one latent direction hardly shows, down to what double precision can tell.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import unrelu
from unrelu.models.network import Network
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import form, table
from unrelu_studies.kit.measures import relative_error
from unrelu_studies.kit.random_instances import gaussian_network
from unrelu_studies.kit.unit_runner import Unit

LATENT = (100, 110, 120, 125, 130, 135, 140, 150)
SOFTNESS = (1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
CODES = 10
# Nets a row, of which each gives CODES codes; the soft nets, and both in a quick run.
NETS, SOFT_NETS, QUICK_NETS = 10, 2, 1
RECOVERED = 1e-6


def _units(command: Command) -> list[Unit]:
    """A latent dimension each; a method and how much a latent direction counts each."""
    soft: list[Unit] = [("soft", method, scale) for method in ("auto", "lm") for scale in SOFTNESS]
    return [*[("random", k) for k in LATENT], *soft]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    if unit[0] == "random":
        k = int(unit[1])
        nets = QUICK_NETS if command.quick else NETS
        return {"k": k, **_tried((k, 250, 600), nets, (command.seed, k))}
    method, scale = str(unit[1]), float(unit[2])
    nets = QUICK_NETS if command.quick else SOFT_NETS
    return {"method": method, "scale": scale, **_tried((20, 100, 600), nets, (command.seed,), scale, method)}


def _softened(network: Network, softness: float, rng: np.random.Generator) -> Network:
    """The network with one latent direction counting ``softness`` times."""
    first, last = (np.array(layer.matrix()) for layer in network.layers)
    direction = rng.standard_normal(network.latent_dim)
    direction /= np.linalg.norm(direction)
    return unrelu.from_arrays([first - (1 - softness) * np.outer(first @ direction, direction), last])


def _tried(
    sizes: tuple[int, ...], nets: int, key: tuple[int, ...], softness: float = 1.0, method: str = "auto"
) -> dict[str, Any]:
    """Of codes of several nets: how many are called identifiable by an exact fit, and recovered, and the errors."""
    columns = []
    for index in range(nets):
        rng = stream("identifiability, weights", *key, index)
        network = _softened(gaussian_network(sizes, rng), softness, rng)
        truth = stream("identifiability, truth", *key, index).standard_normal((CODES, sizes[0]))
        result = unrelu.invert(network, network(truth), method)
        values = np.linalg.svd(network.jacobian(truth), compute_uv=False)
        called = result.identifiable & result.success
        columns.append((called, relative_error(result.z, truth), values[:, -1] / values[:, 0]))
    identifiable, error, ratio = (np.concatenate(column) for column in zip(*columns, strict=True))
    recovered = error <= RECOVERED
    told, not_told = error[identifiable], error[~identifiable]
    return {
        "instances": len(error),
        "identifiable": int(identifiable.sum()),
        "recovered": int(recovered.sum()),
        "disagreements": int((identifiable != recovered).sum()),
        "largest_error_if_identifiable": float(told.max()) if len(told) else None,
        "smallest_error_if_not": float(not_told.min()) if len(not_told) else None,
        "smallest_ratio_if_identifiable": float(ratio[identifiable].min()) if len(told) else None,
    }


def _collect(command: Command, parts: list[Any]) -> Results:
    return {"random": parts[: len(LATENT)], "soft": parts[len(LATENT) :]}


_HEADINGS = ("instances", "identifiable", "recovered to 1e-6", "disagreements", "largest error if identifiable",
             "smallest error if not", "smallest sigma_min / sigma_max if identifiable")  # fmt: skip


def _table(name: str, columns: tuple[str, ...], results: Results) -> str:
    counts = ("instances", "identifiable", "recovered", "disagreements")
    errors = ("largest_error_if_identifiable", "smallest_error_if_not", "smallest_ratio_if_identifiable")
    rows = (
        (
            *(f"{row[c]:g}" if isinstance(row[c], float) else row[c] for c in columns), *(row[c] for c in counts),
            *(form(row[c], ".0e") for c in errors),
        )
        for row in results[name]
    )  # fmt: skip
    return table((*columns, *_HEADINGS), rows)


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={
        "identifiability random": partial(_table, "random", ("k",)),
        "identifiability soft": partial(_table, "soft", ("method", "scale")),
    },
    collect=_collect,
)

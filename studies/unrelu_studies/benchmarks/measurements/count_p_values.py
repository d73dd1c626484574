"""Whether p-values of counts are uniform: their Kolmogorov distance on simulated observations, by generator and mean.

"missed" is the share of the search's codes that are worse than the one near the truth; the distances are those of
``auto``, of Levenberg-Marquardt from the truth (which leaves out what the search misses), and of chi-square with m - k
degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from unrelu import from_arrays, invert, zoo
from unrelu.measurements.noise import parse_noise
from unrelu.models.network import Network
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import aims, table
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.timing import one_thread
from unrelu_studies.kit.unit_runner import Unit

# Observations, of so many drawn.
COUNT, QUICK_COUNT, DRAWN = 300, 20, 500
NOISES = ("poisson", "negative-binomial:5")
AIM = 0.05


def random_generator(sizes: tuple[int, int, int], scale: float) -> Network:
    """A ReLU network of positive weights in its last layer, with a mean output of about 6 scale."""
    k, hidden, n = sizes
    first = stream("count study, first", *sizes).standard_normal((hidden, k)) / k**0.5
    last = np.abs(stream("count study, last", *sizes).standard_normal((n, hidden)))
    return from_arrays([first, 12 * scale * last / hidden], [np.full(hidden, 0.5), np.full(n, 0.5 * scale)])


def digits(scale: float) -> Network:
    """The zoo's decoder of digits, whose brightest pixels expect ``scale`` counts and whose background none."""
    network = zoo.load("mnist-relu")
    *hidden, last = [(layer.matrix(), layer.bias()) for layer in network.layers]
    weights, biases = zip(*hidden, (scale * last[0], scale * last[1]), strict=True)
    return from_arrays(weights, biases)


GENERATORS: dict[str, Callable[[], Network]] = {
    "3-20-80, few": partial(random_generator, (3, 20, 80), 0.1),
    "3-20-80": partial(random_generator, (3, 20, 80), 1.0),
    "3-20-80, many": partial(random_generator, (3, 20, 80), 8.0),
    "5-40-200, few": partial(random_generator, (5, 40, 200), 0.1),
    "5-40-200": partial(random_generator, (5, 40, 200), 1.0),
    "digits, 5 counts": partial(digits, 5.0),
    "digits, 50 counts": partial(digits, 50.0),
}
# What they have in common, and what is said of them in docs/verdict.md.
GROUPS = {
    "random networks, means of 6 and more": ("3-20-80", "3-20-80, many", "5-40-200"),
    "random networks, a mean of 0.6": ("3-20-80, few", "5-40-200, few"),
    "digits whose brightest pixels expect 50": ("digits, 50 counts",),
    "digits whose brightest pixels expect 5": ("digits, 5 counts",),
}


def _units(command: Command) -> list[Unit]:
    return [(name, noise) for name in GENERATORS for noise in NOISES]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name, noise = str(unit[0]), str(unit[1])
    network, count = GENERATORS[name](), command.count(COUNT, QUICK_COUNT)
    truth = random("count truth", command.seed, name, noise).standard_normal((max(count, DRAWN), network.latent_dim))
    x = network(truth)
    y = parse_noise(noise).draw(x, random("count noise", command.seed, name, noise))[:count]
    truth, x = truth[:count], x[:count]
    with one_thread():
        found = invert(network, y, noise=noise)
        near = invert(network, y, "lm", noise=noise, z0=truth)
    chi_square = stats.chi2.sf(near.fun, network.output_dim - near.rank)
    p_values = {"auto": found.p_value, "near the truth": near.p_value, "chi-square": chi_square}
    return {
        "generator": name, "noise": noise, "observations": count, "mean": float(x.mean()),
        "missed": float((found.fun > 1.01 * near.fun).mean()),
        "distance": {way: float(stats.kstest(p, "uniform").statistic) for way, p in p_values.items()},
        "mean p": {way: float(np.mean(p)) for way, p in p_values.items()},
    }  # fmt: skip


def _aims(results: Results) -> str:
    return aims(
        (f"{group}: at most {AIM}", _range(results, group, "auto"), _worst(results, group) <= AIM) for group in GROUPS
    )


def _groups(results: Results) -> str:
    """Ranges of distances, and what perfect ones have: Kolmogorov's limit has mean 0.869, and 5% above 1.36."""
    rows = results["rows"]
    count, ways = rows[0]["observations"], list(rows[0]["distance"])
    perfect = (
        f"Of {count} observations each; so many perfect p-values have a distance of {0.8687 / count**0.5:.3f} on "
        f"average, and more than {1.358 / count**0.5:.3f} in one case of twenty."
    )
    return f"{perfect}\n\n" + table(
        ("means of the counts", *ways), ((group, *(_range(results, group, way) for way in ways)) for group in GROUPS)
    )


def _worst(results: Results, group: str, way: str = "auto") -> float:
    return max(_distances(results, group, way))


def _distances(results: Results, group: str, way: str) -> list[float]:
    return [r["distance"][way] for r in results["rows"] if r["generator"] in GROUPS[group]]


def _range(results: Results, group: str, way: str) -> str:
    values = _distances(results, group, way)
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


BENCHMARK = Benchmark(
    units=_units, measure=_measure, blocks={"count_p_values aims": _aims, "count_p_values groups": _groups}
)

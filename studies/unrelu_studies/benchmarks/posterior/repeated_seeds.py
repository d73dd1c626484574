"""Whether ``MIXED`` is the same answer from any seed: means and evidences of pairs of calls that differ by it alone.

Decoders without biases are homogeneous, so few measurements with little noise leave far, narrow modes. A pair disagrees
if both are MIXED, and a mean differs by more than half a posterior deviation, or the evidence by more than three stated
errors. The sampler was tuned on none of these observations, but on another decoder of the same recipe.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

import unrelu
from unrelu import Gaussian, from_arrays, zoo
from unrelu.models.network import Network
from unrelu_studies.benchmarks.benchmark import Command, Results
from unrelu_studies.benchmarks.posterior.posterior_cells import PosteriorCell
from unrelu_studies.kit.markdown_tables import per_cent, table
from unrelu_studies.kit.random_instances import gaussian_measurements, random
from unrelu_studies.kit.timing import one_thread, processor_seconds
from unrelu_studies.kit.trained_generators import PLAIN_VAE_SIZES, plain_vae
from unrelu_studies.kit.unit_runner import Unit

RANDOM = "random weights N(0, 2 / fan-in)"
DECODERS = ("plain-vae-2", "mnist-relu", RANDOM)
# Half as many, as many and twice as many measurements as coordinates of a code; observations of each.
MEASUREMENTS, OBSERVATIONS, _QUICK = (10, 20, 40), 2, 1
SIGMA, _DRAWS, _SECONDS = 0.02, 500, 15.0
# What two calls may differ by: a mean, in deviations, and the evidence, in standard errors.
DEVIATIONS, ERRORS = 0.5, 3.0


def units(command: Command) -> list[Unit]:
    """A pair of calls each."""
    count = command.count(OBSERVATIONS, _QUICK)
    return [("seeds", name, m, i) for name in DECODERS for m in MEASUREMENTS for i in range(count)]


def _decoder(name: str) -> Network:
    if name != RANDOM:
        return plain_vae(name) if name.startswith("plain") else zoo.load(name)
    k, hidden, pixels = PLAIN_VAE_SIZES
    rng = random("posterior seeds weights")
    weights = [rng.normal(0, np.sqrt(2 / n_in), (n_out, n_in)) for n_in, n_out in ((k, hidden), (hidden, pixels))]
    return from_arrays(weights, activation="relu")


def measure(command: Command, name: str, measurements: int, index: int) -> Results:
    """The statuses of two calls, and how far apart they are if both have mixed."""
    network = _decoder(name)
    matrix = gaussian_measurements(measurements, network.output_dim, random("posterior seeds", measurements, index))
    about = PosteriorCell(network, Gaussian(SIGMA), matrix)
    (y,) = about.simulated(1, command.seed, f"{name} {measurements}", index).y
    begin = processor_seconds()
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # means of chains that have not mixed warn
        pair = [about.sampled(y, draws=_DRAWS, time_limit=_SECONDS, seed=seed) for seed in (1, 2)]
        row = {"decoder": name, "measurements": measurements, "index": index, **apart(*pair)}
    return {"seeds": [{**row, "seconds": processor_seconds() - begin}]}


def apart(first: unrelu.Posterior, second: unrelu.Posterior) -> Results:
    """The statuses of two posteriors, and the differences of means and evidences, None if not both are known."""
    means = np.abs(first.mean - second.mean) / np.minimum(first.std, second.std)
    evidence = abs(first.log_evidence - second.log_evidence)
    evidence /= np.hypot(first.log_evidence_error, second.log_evidence_error)
    found = {"means": float(np.max(means)), "evidence": float(evidence)}
    known = {name: value if np.isfinite(value) else None for name, value in found.items()}
    return {"status": [first.status.name, second.status.name], **known}


def disagrees(row: Results) -> bool:
    """Whether both are MIXED, and the answers differ."""
    far = row["means"] is None or row["means"] > DEVIATIONS or (row["evidence"] or 0.0) > ERRORS
    return row["status"] == ["MIXED", "MIXED"] and far


def seeds_table(results: Results) -> str:
    """Of each decoder and number of measurements, and of all: 95% intervals of the share that disagrees."""
    pairs = results.get("seeds")
    if not pairs:
        return "Not measured."
    groups = [[r for r in pairs if (r["decoder"], r["measurements"]) == key]
              for key in dict.fromkeys((r["decoder"], r["measurements"]) for r in pairs)]  # fmt: skip
    rows = [_row(group, group[0]["decoder"], group[0]["measurements"]) for group in groups]
    head = ("decoder", "measurements", "calls `MIXED`", "pairs", "of these disagree", "means off by, at most",
            "evidences, in errors", "s a call")  # fmt: skip
    return table(head, [*rows, _row(pairs, "all", None)])


def _row(pairs: Sequence[Results], *place: str | int | None) -> tuple[str | int | None, ...]:
    both = [r for r in pairs if r["status"] == ["MIXED", "MIXED"]]
    mixed, wrong = sum(r["status"].count("MIXED") for r in pairs), sum(map(disagrees, both))
    share = None
    if both:
        interval = binomtest(wrong, len(both)).proportion_ci()
        share = f"{wrong} ({per_cent(interval.low)} to {per_cent(interval.high)})"
    worst = [f"{max(r[name] or 0.0 for r in both):.2f}" if both else None for name in ("means", "evidence")]
    each = f"{np.mean([r['seconds'] for r in pairs]) / 2:.1f}"
    return (*place, f"{mixed} of {2 * len(pairs)}", f"{len(both)} of {len(pairs)}", share, *worst, each)

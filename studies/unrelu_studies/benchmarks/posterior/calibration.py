"""Simulation-based calibration: ranks of codes, of the log-likelihood and of ten outputs among posterior draws.

Chains never start at the truth: truths, noise and the sampler have streams of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from unrelu.runtime.array_types import Array, Integers
from unrelu_studies.benchmarks.benchmark import Command, Results
from unrelu_studies.benchmarks.posterior.posterior_cells import CELLS, OURS, PosteriorCell, cell
from unrelu_studies.benchmarks.posterior.rank_statistics import RankSummary, ranks, thinned
from unrelu_studies.kit.markdown_tables import per_cent, table
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.timing import one_thread, processor_seconds
from unrelu_studies.kit.unit_runner import Unit

# Problems of a cell, and of a quick run; so many to a unit.
PROBLEMS, _QUICK, TOGETHER = 50, 4, 25
_FEWER = {"emulator in bounds": 5, "DCGAN": 3, "plain VAE, 25 Gaussian measurements": 5}
# Draws of each of 8 chains: enough for R-hat to be told from 1.01.
_DRAWS = 250
_OUTPUTS = 10
# An output is one of ten if its deviation over the prior is at least this share of the largest.
_ALIVE = 0.1
# What is aimed at: coverage of 90% intervals, and the share of quantities with p > .01; fewer problems decide nothing.
COVERAGE, UNIFORM, _JUDGED = (0.88, 0.92), 0.95, 25


def units(command: Command) -> list[Unit]:
    """Batches of problems of the cells."""
    return [("calibration", name, first) for name in CELLS for first in range(0, _problems(command, name), TOGETHER)]


def _problems(command: Command, name: str) -> int:
    return command.count(_FEWER.get(name, PROBLEMS), _QUICK)


def measure(command: Command, name: str, first: int) -> Results:
    """Ranks (B, q) of some problems, and how the sampling of each ended."""
    about = cell(name)
    count = min(TOGETHER, _problems(command, name) - first)
    truth, y = about.simulated(count, command.seed, name, first)
    begin = processor_seconds()
    with one_thread():
        z, held = _sampled(about, truth, y, draw_seed(random("posterior sampler", command.seed, name, first)))
    seconds = processor_seconds() - begin
    outputs = chosen_outputs(about, name)
    rng = random("posterior ties", command.seed, OURS, name, first)
    found = [ranks(*_quantities(about, draws, t, seen, outputs), rng).tolist()
             for draws, t, seen in zip(map(thinned, z), truth, about.seen(y), strict=True)]  # fmt: skip
    return {"calibration": [{"cell": name, "first": first, "ranks": found, "seconds": seconds, **held}]}


def _sampled(about: PosteriorCell, truth: Array, y: Array, seed: int) -> tuple[Array, Results]:
    """Draws (B, C, D, k), with the status of each and whether its 90% intervals hold the truth, (B, k)."""
    found = about.sampled(y, seed=seed, draws=_DRAWS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # intervals of chains that have not mixed warn
        low, high = (np.asarray(end).reshape(truth.shape) for end in found.interval(0.9))
    z = np.asarray(found.z)
    return z.reshape(*z.shape[:3], -1), {
        "status": [one.status.name for one in found], "inside": ((low <= truth) & (truth <= high)).tolist(),
    }  # fmt: skip


def chosen_outputs(about: PosteriorCell, name: str) -> Integers:
    """Ten outputs that differ from code to code, seen or not."""
    rng = random("posterior outputs", name)
    x = about.network.outputs(about.drawn(rng, 200))
    deviation = x.reshape(len(x), -1).std(axis=0)
    alive = np.flatnonzero(deviation >= _ALIVE * deviation.max())
    return np.asarray(rng.permutation(alive)[:_OUTPUTS])


def _quantities(
    about: PosteriorCell, draws: Array, truth: Array, seen: Array, outputs: Integers
) -> tuple[Array, Array]:
    """Codes, log-likelihood and outputs of draws (L, k), (L, k + 11), and of the truth, (k + 11,)."""
    codes = np.vstack([draws, truth])
    x = about.network.outputs(codes).reshape(len(codes), -1)[:, outputs]
    whole = np.hstack([codes, about.log_likelihood(codes, seen)[:, None], x])
    return whole[:-1], whole[-1]


# --- tables -----------------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Results]) -> list[Results]:
    """A row for each cell."""
    found = []
    for name in dict.fromkeys(r["cell"] for r in rows):
        group = [r for r in rows if r["cell"] == name]
        every = np.array([row for r in group for row in r["ranks"]])
        status = [s for r in group for s in r["status"]]
        mixed = np.array([s == "MIXED" for s in status])
        inside = np.array([row for r in group for row in r["inside"]], dtype=bool)
        found.append({
            "cell": name, "seconds": sum(r["seconds"] for r in group) / len(every),
            "status": {s: status.count(s) for s in dict.fromkeys(status)},
            "mixed": RankSummary.of(every[mixed])._asdict(), "others": RankSummary.of(every[~mixed])._asdict(),
            "interval": float(inside[mixed].mean()) if mixed.any() else None,
        })  # fmt: skip
    return found


def calibration_table(results: Results) -> str:
    """Of every cell, and whether it passes: coverage of 88 to 92%, and p > .01 of 95% of the quantities."""
    rows = []
    for r in results["calibration"]:
        mixed = r["mixed"]
        passes = mixed["coverage"] is not None and (
            COVERAGE[0] <= mixed["coverage"] <= COVERAGE[1] and mixed["uniform"] >= UNIFORM
        )
        rows.append((
            r["cell"], f"{mixed['problems']} of {mixed['problems'] + r['others']['problems']}",
            per_cent(mixed["coverage"]), per_cent(r["interval"]), per_cent(mixed["uniform"]),
            None if mixed["problems"] < _JUDGED else "yes" if passes else "no", f"{r['seconds']:.2g}",
        ))  # fmt: skip
    head = ("cell", "mixed", "ranks in the middle 90%", "`interval(0.9)` covers", "quantities with p > .01", "passes",
            "s a problem")  # fmt: skip
    return table(head, rows)

"""As many Gaussian measurements as codes and little noise, where posteriors have modes far apart.

Of each observation: whether its chains mix within ten seconds. Of those that are called mixed: whether a run ten times
as long says the same. And whether draws from the search differ from chains that begin at the true code, which is an
exact draw of the posterior over simulated data, so that every state of such a chain is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.sampling.convergence import convergence_of, error_of_mean
from unrelu_studies.benchmarks.benchmark import Command, Results
from unrelu_studies.benchmarks.posterior.control_samplers import hmc_from
from unrelu_studies.benchmarks.posterior.posterior_cells import DECODER, PosteriorCell, measured_decoder
from unrelu_studies.benchmarks.posterior.rank_statistics import same_distribution, same_mean, thinned
from unrelu_studies.kit.markdown_tables import aims, form, per_cent, table
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.timing import one_thread, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

MEASUREMENTS, SIGMA, LIMIT = 20, 0.02, 10.0
# Observations of each generator, those that are sampled again, and so many to a unit.
OBSERVED, AGAIN, _QUICK, TOGETHER = {"mnist-relu": 15, DECODER: 5}, 1, 2, 5
TIMES = 10
# Runs differ where a mean differs by more standard errors than this, in 21 quantities of some dozen observations.
_ERRORS = 5.0
_NAME = "posterior corner"
# Draws of a chain that begins at the truth.
_EXACT = 50


def units(command: Command) -> list[Unit]:
    """Some observations of a generator each."""
    return [
        ("corner", name, first)
        for name, count in OBSERVED.items()
        for first in range(0, command.count(count, _QUICK), TOGETHER)
    ]


def measure(command: Command, name: str, first: int) -> Results:
    """Observations of a generator from number ``first`` on."""
    about = measured_decoder(MEASUREMENTS, SIGMA, name)
    count = min(TOGETHER, command.count(OBSERVED[name], _QUICK) - first)
    truth, y = about.simulated(count, command.seed, _NAME, first)
    with one_thread():
        exact = hmc_from(about, y, truth, 1, _EXACT, draw_seed(random(_NAME, command.seed, "exact", first)))[:, 0]
        rows = []
        for i in range(count):
            place = first + i
            row, z = _sampled(about, y[i], command.seed, place)
            if place < command.count(AGAIN, _QUICK) and row["status"] == "MIXED":
                row |= _again(about, y[i], z, command.seed, place)
            ours, theirs = (_quantities(about, draws, y[i]) for draws in (thinned(z, 2 * _EXACT), exact[i]))
            drawn = int(random(_NAME, command.seed, "pair", place).integers(len(ours)))
            rows.append({
                **row, "generator": name, "mean": [ours.mean(axis=0).tolist(), theirs.mean(axis=0).tolist()],
                "draw": [ours[drawn].tolist(), theirs[-1].tolist()],
            })  # fmt: skip
    return {"corner": rows}


def _sampled(about: PosteriorCell, y: Array, seed: int, place: int) -> tuple[Results, Array]:
    """How the sampling of one observation ended, and its draws (C, D, k)."""
    options: dict[str, Any] = {"seed": draw_seed(random(_NAME, seed, "sampler", place)), "time_limit": LIMIT}
    p, seconds = timed(lambda: about.sampled(y, **options))
    z = np.reshape(p.z, (*np.shape(p.z)[:2], -1))
    row = {"status": p.status.name, "seconds": seconds, "ess": float(np.min(p.ess)), "rhat": float(np.max(p.rhat))}
    return {**row, "modes": len(p.modes)}, z


def _again(about: PosteriorCell, y: Array, z: Array, seed: int, place: int) -> Results:
    """R-hat across a run and one ten times as long with another seed, and how far apart their means are."""
    draws = TIMES * z.shape[1]
    p = about.sampled(
        y, seed=draw_seed(random(_NAME, seed, "long", place)), chains=len(z), draws=draws, time_limit=TIMES * LIMIT
    )
    long = np.reshape(p.z, (*np.shape(p.z)[:2], -1))
    short, whole = (_by_chain(about, chains, y) for chains in (z, long))
    both = np.concatenate([short, whole[:, ::TIMES]])
    error = np.hypot(error_of_mean(short), error_of_mean(whole))
    off = np.abs(short.mean(axis=(0, 1)) - whole.mean(axis=(0, 1))) / error
    return {"long": p.status.name, "across": float(np.nanmax(convergence_of(both).rhat)), "off": float(np.nanmax(off))}


def _by_chain(about: PosteriorCell, z: Array, y: Array) -> Array:
    return _quantities(about, z.reshape(-1, z.shape[2]), y).reshape(*z.shape[:2], -1)


def _quantities(about: PosteriorCell, z: Array, y: Array) -> Array:
    """Energies and codes of draws (N, k), (N, k + 1)."""
    energy = 0.5 * np.square(z).sum(axis=1) - about.log_likelihood(z, about.seen(y[None])[0])
    return np.column_stack([energy, z])


# --- tables -----------------------------------------------------------------------------------------------------------


def _compared(rows: list[Results]) -> tuple[Array, Array]:
    """p-values of energy and codes, by single draws and by means."""
    single, mean = (np.array([r[name] for r in rows]) for name in ("draw", "mean"))
    return same_distribution(single[:, 0], single[:, 1]), same_mean(mean[:, 0], mean[:, 1])


def corner_table(results: Results) -> str:
    """How runs ended, and what longer ones say."""
    rows = []
    for name, status in sorted({(r["generator"], r["status"]) for r in results["corner"]}):
        group = [r for r in results["corner"] if (r["generator"], r["status"]) == (name, status)]
        again = [r for r in group if "off" in r]
        rows.append((
            f"`{name}`", f"`{status}`", len(group), f"{np.median([r['seconds'] for r in group]):.2g}",
            f"{max(r['seconds'] for r in group):.2g}", f"{np.median([r['ess'] for r in group]):.0f}",
            f"{np.median([r['rhat'] for r in group]):.3f}", f"{np.median([r['modes'] for r in group]):.0f}", len(again),
            form(max((r["across"] for r in again), default=None), ".3f"),
            form(max((r["off"] for r in again), default=None), ".1f"),
        ))  # fmt: skip
    head = (
        "generator", "status", "observations", "seconds, median", "at most", "least effective draws, median",
        "R-hat, median", "modes, median", "sampled again", "R-hat across both at most",
        "means apart, standard errors at most",
    )  # fmt: skip
    return table(head, rows)


def corner_aims(results: Results) -> str:
    """What the issue asks of the hard corner."""
    rows: list[tuple[str, str, bool | None]] = []
    for name in sorted({r["generator"] for r in results["corner"]}):
        rows += _aims_of(name, [r for r in results["corner"] if r["generator"] == name])
    return aims(rows)


def _aims_of(name: str, judged: list[Results]) -> list[tuple[str, str, bool | None]]:
    share = sum(r["status"] == "MIXED" for r in judged) / len(judged)
    again = [r for r in judged if "off" in r]
    wrong = sum(r["off"] > _ERRORS or r["across"] > 1.05 for r in again)
    mixed = [r for r in judged if r["status"] == "MIXED"]
    rows: list[tuple[str, str, bool | None]] = [
        (f"`{name}`: mixed within {LIMIT:g} s: 90%", per_cent(share), share >= 0.9),
        (
            f"`{name}`: of mixed ones none differs from a run {TIMES} times as long",
            f"{wrong} of {len(again)}",
            not wrong if again else None,
        ),
    ]
    for what, group in ((f"all {len(judged)}", judged), (f"the {len(mixed)} mixed ones", mixed)):
        if len(group) > 1:
            single, mean = _compared(group)
            least = len(single) * float(min(single.min(), mean.min())) * 2
            rows.append((
                f"`{name}`: chains from the truth and from the search alike, over {what}: p of the energy; least of "
                "all, times their number", f"{min(single[0], mean[0]):.2g}; {min(least, 1):.2g}", least >= 0.01,
            ))  # fmt: skip
    return rows

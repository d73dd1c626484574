"""Whether posterior draws are right, and how fast they come: ``unrelu.posterior``.

Part ``calibration`` is of ranks, and part ``seeds`` of calls that differ by their seeds alone. Part ``speed`` is of
least effective draws a second of the processor, all costs counted, beside samplers of others: all sample the same
density on the same observations in the same run. Effective sizes are the rank-normalised ones over all chains, the
least over coordinates, computed by one function for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from unrelu.models.network import Network
from unrelu.runtime.array_types import Array
from unrelu.sampling.convergence import convergence_of
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.benchmarks.posterior import calibration, repeated_seeds
from unrelu_studies.benchmarks.posterior.posterior_cells import OURS, PosteriorCell, masked_decoder
from unrelu_studies.benchmarks.posterior.sampler_peers import SAMPLER_PEERS, DenseDecoder, PeerRun, peers_installed
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

PARTS = ("calibration", "seeds", "speed")
# Observations, of peers, and of a quick run.
OBSERVATIONS, OF_PEERS, _QUICK = 12, 2, 1
SHARE, SIGMA = 0.5, 0.1
_NAME = "posterior speed"


def _units(command: Command) -> list[Unit]:
    """Batches of the calibration; a sampler with all of its observations each."""
    asked = command.parts or PARTS
    speed: list[Unit] = [("speed", name) for name in (OURS, *peers_installed())]
    every = {"calibration": calibration.units(command), "seeds": repeated_seeds.units(command), "speed": speed}
    return [unit for part in PARTS if part in asked for unit in every[part]]


def _measure(command: Command, unit: Unit) -> Results:
    if unit[0] == "calibration":
        return calibration.measure(command, str(unit[1]), int(unit[2]))
    if unit[0] == "seeds":
        return repeated_seeds.measure(command, str(unit[1]), int(unit[2]), int(unit[3]))
    return speed(command, str(unit[1]))


def _collect(command: Command, parts: Sequence[Any]) -> Results:
    numbers = gathered(parts, *PARTS)
    return {**numbers, "calibration": calibration.summary(numbers["calibration"])}


@cache
def _about() -> PosteriorCell:
    return masked_decoder(SHARE, SIGMA)


def speed(command: Command, name: str) -> Results:
    """One sampler, an observation after the other, the first of them once before."""
    about = _about()
    count = command.count(OBSERVATIONS if name == OURS else OF_PEERS, _QUICK)
    y = about.simulated(count, command.seed, _NAME).y
    seeds = [draw_seed(random(_NAME, command.seed, name, i)) for i in range(count + 1)]
    rows = []
    with one_thread():
        _run(name, y[0], seeds[count], command.quick)
        for i in range(count):
            z, seconds = _run(name, y[i], seeds[i], command.quick)
            found = convergence_of(z)
            rows.append({
                "sampler": name, "index": i, "seconds": seconds, "draws": int(z.shape[0] * z.shape[1]),
                "ess": float(found.ess.min()), "rhat": float(found.rhat.max()),
            })  # fmt: skip
    return {"speed": rows}


def _run(name: str, y: Array, seed: int, quick: bool) -> PeerRun:
    about = _about()
    if name != OURS:
        return SAMPLER_PEERS[name][0](_dense(), about.seen(y[None])[0], seed, quick)
    p, seconds = timed(partial(about.sampled, y, seed=seed), processor_seconds)
    return PeerRun(np.reshape(p.z, (*np.shape(p.z)[:2], -1)), seconds)


@cache
def _dense() -> DenseDecoder:
    """The cell's generator as two matrices."""
    about = _about()
    assert isinstance(about.network, Network)
    assert about.operator is not None
    w1, w2 = (np.ascontiguousarray(layer.matrix()) for layer in about.network.layers)
    return DenseDecoder(w1, np.ascontiguousarray(w2[about.operator.ravel()]), SIGMA)


def speed_table(results: Results) -> str:
    """Medians over observations; ours by a peer's on the observations that both had."""
    if not results["speed"]:
        return "Not measured."
    rates: dict[str, dict[int, float]] = {}
    for r in results["speed"]:
        rates.setdefault(r["sampler"], {})[r["index"]] = r["ess"] / r["seconds"]
    rows = []
    for name, found in rates.items():
        group = [r for r in results["speed"] if r["sampler"] == name]
        ratio = np.array([rates[OURS][i] / rate for i, rate in found.items() if i in rates[OURS]])
        rows.append((
            f"`{name}`" if name == OURS else name, len(group), group[0]["draws"],
            f"{np.median([r['ess'] for r in group]):.0f}", f"{np.median([r['seconds'] for r in group]):.2f}",
            f"{np.median(list(found.values())):.3g}",
            f"{np.median(ratio):.3g} ({ratio.min():.3g} to {ratio.max():.3g})" if name != OURS else None,
        ))  # fmt: skip
    head = ("sampler", "observations", "draws", "least effective", "s of the processor", "a second", "ours by this")
    missing = [name for name in SAMPLER_PEERS if name not in rates]
    return table(head, rows) + (f"\n\nNot installed: {', '.join(missing)}." if missing else "")


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    collect=_collect,
    parts=PARTS,
    workers=2,
    blocks={
        "posterior calibration": calibration.calibration_table,
        "posterior seeds": repeated_seeds.seeds_table,
        "posterior speed": speed_table,
    },
)

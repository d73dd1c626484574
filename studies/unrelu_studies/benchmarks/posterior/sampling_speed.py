"""Least effective draws a second of the processor, all costs counted: the package beside samplers of others.

All sample the same density on the same observations in the same run. Effective sizes are the rank-normalised ones over
all chains, the least over coordinates, computed by one function for all. A sampler whose chains have not mixed has an
effective size that means little; how often that happened is shown.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu import zoo
from unrelu.models.network import Network
from unrelu.sampling.convergence import convergence_of
from unrelu_studies.benchmarks.benchmark import Command, Results
from unrelu_studies.benchmarks.posterior.posterior_cells import OURS, masked_decoder
from unrelu_studies.benchmarks.posterior.sampler_peers import SAMPLER_PEERS, DenseDecoder, PeerRun
from unrelu_studies.kit.markdown_tables import aims, form, table
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

# Observations, of slow peers, and of a quick run.
OBSERVATIONS, OF_SLOW, _QUICK = 50, 4, 1
SHARE, SIGMA = 0.5, 0.1
_NAME = "posterior speed"
# Aims: our rate by the peer's.
TIMES = {"NumPyro NUTS": 5.0, "nutpie": 5.0, "pCN": 20.0}
# One digit: total draws, seconds, effective size.
DIGIT = (1000, 3.0, 400.0)
_DIGITS = 10


def units(command: Command) -> list[Unit]:
    """A sampler with all of its observations each; peers that are not installed are left out."""
    peers = [name for name, peer in SAMPLER_PEERS.items() if peer.installed]
    return [("speed", name) for name in (OURS, *peers, "digits")]


@cache
def _about() -> Any:
    return masked_decoder(SHARE, SIGMA)


def measure(command: Command, name: str) -> Results:
    """One sampler, an observation after the other, the first of them once before."""
    if name == "digits":
        return {"digits": _digits(command)}
    about = _about()
    slow = name in SAMPLER_PEERS and SAMPLER_PEERS[name].slow
    count = command.count(OF_SLOW if slow else OBSERVATIONS, _QUICK)
    y = about.simulated(count, command.seed, _NAME).y
    seeds = [draw_seed(random(_NAME, command.seed, name, i)) for i in range(count + 1)]
    rows = []
    with one_thread():
        _run(name, about, y[0], seeds[count], command.quick)
        for i in range(count):
            z, seconds = _run(name, about, y[i], seeds[i], command.quick)
            found = convergence_of(z)
            rows.append({
                "sampler": name, "index": i, "seconds": seconds, "draws": int(z.shape[0] * z.shape[1]),
                "ess": float(found.ess.min()), "rhat": float(found.rhat.max()),
            })  # fmt: skip
    return {"speed": rows}


def _run(name: str, about: Any, y: Array, seed: int, quick: bool) -> PeerRun:
    if name != OURS:
        return SAMPLER_PEERS[name].run(_dense(), about.seen(y[None])[0], seed, quick)
    p, seconds = timed(partial(about.sampled, y, seed=seed), processor_seconds)
    return PeerRun(np.reshape(p.z, (*np.shape(p.z)[:2], -1)), seconds)


@cache
def _dense() -> DenseDecoder:
    """The cell's generator as two matrices."""
    about = _about()
    assert isinstance(about.network, Network)
    w1, w2 = (np.ascontiguousarray(layer.matrix()) for layer in about.network.layers)
    return DenseDecoder(w1, np.ascontiguousarray(w2[about.operator.ravel()]), SIGMA)


def _digits(command: Command) -> list[Results]:
    """Draws of real digits by the zoo's decoder."""
    network, rows = zoo.load("mnist-relu"), []
    pictures = np.asarray(zoo.observations("mnist-relu"))[: command.count(_DIGITS, _QUICK)]
    draws = DIGIT[0] // 8
    call = partial(unrelu.posterior, network, noise="gaussian:0.1", draws=draws, chains=8)
    with one_thread():
        call(pictures[0])
        for i, y in enumerate(pictures):
            p, seconds = timed(partial(call, y, seed=draw_seed(random(_NAME, command.seed, "digits", i))))
            rows.append({"seconds": seconds, "ess": float(np.min(p.ess)), "status": p.status.name})
    return rows


# --- tables -----------------------------------------------------------------------------------------------------------


def _rates(results: Results) -> dict[str, dict[int, float]]:
    rates: dict[str, dict[int, float]] = {}
    for r in results["speed"]:
        rates.setdefault(r["sampler"], {})[r["index"]] = r["ess"] / r["seconds"]
    return rates


def _times(results: Results, peer: str) -> Array:
    """Our rate by the peer's, on the observations that both had."""
    rates = _rates(results)
    theirs = rates.get(peer, {})
    return np.array([rates[OURS][i] / rate for i, rate in theirs.items() if i in rates[OURS]])


def speed_table(results: Results) -> str:
    """Medians over observations."""
    rows = []
    for name in dict.fromkeys(r["sampler"] for r in results["speed"]):
        group = [r for r in results["speed"] if r["sampler"] == name]
        ratio = _times(results, name) if name != OURS else np.array([])
        rows.append((
            f"`{name}`" if name == OURS else name, len(group), group[0]["draws"],
            f"{np.median([r['ess'] for r in group]):.0f}", f"{np.median([r['seconds'] for r in group]):.2f}",
            f"{np.median(list(_rates(results)[name].values())):.3g}",
            f"{np.median(ratio):.3g} ({ratio.min():.3g} to {ratio.max():.3g})" if len(ratio) else None,
            f"{sum(r['rhat'] <= 1.01 for r in group)} of {len(group)}",
        ))  # fmt: skip
    head = (
        "sampler", "observations", "draws", "least effective draws", "seconds of the processor", "a second",
        "ours by this", "R-hat at most 1.01",
    )  # fmt: skip
    missing = [name for name in SAMPLER_PEERS if name not in _rates(results)]
    text = table(head, rows)
    return f"{text}\n\nNot installed: {', '.join(missing)}." if missing else text


def speed_aims(results: Results) -> str:
    """What the issue asks of speed."""
    rows: list[tuple[str, str, bool | None]] = []
    for name, aim in TIMES.items():
        ratio = _times(results, name)
        measured = float(np.median(ratio)) if len(ratio) else None
        rows.append((f"{aim:g} times {name}", form(measured, ".3g"), None if measured is None else measured >= aim))
    digits, (draws, limit, least) = results["digits"], DIGIT
    seconds, ess = max(r["seconds"] for r in digits), min(r["ess"] for r in digits)
    rows.append((
        f"{draws:,} draws of a digit in {limit:g} s, {least:g} of them effective",
        f"{seconds:.2g} s at most, {ess:.0f} at least", seconds <= limit and ess >= least,
    ))  # fmt: skip
    return aims(rows)

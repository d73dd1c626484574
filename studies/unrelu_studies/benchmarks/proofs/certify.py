"""``unrelu.certify`` against HiGHS's own mixed-integer solver: how often the best code is proved best, in what time.

Observed are outputs of ``mnist-relu`` under uniform noise, bright and dim ones. Times are seconds of the processor, so
that what else the machine does counts little; limits and the histories of bounds go by the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any, cast

import numpy as np

from unrelu import zoo
from unrelu._certify import certify
from unrelu._invert import invert
from unrelu.certification.certificate import Certificate
from unrelu.certification.certified_chain import chain_of
from unrelu.certification.proof import GAP
from unrelu.measurements import read_operator
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.proofs.certify_mip import prove_by_mip
from unrelu_studies.kit.binomial import share
from unrelu_studies.kit.markdown_tables import seconds, short, table
from unrelu_studies.kit.timing import one_core, timed
from unrelu_studies.kit.unit_runner import Unit

# One observation, see :func:`prove`.
Proved = dict[str, Any]

# The codes that HiGHS looks among: |z_i| up to this, which it is a little faster with; ours looks among all.
MIP_BOX = 8.0
# Active outputs from which a proof ought to be quick.
MANY = 60


# --- observations -----------------------------------------------------------------------------------------------------

GENERATOR = "mnist-relu"
# Pixels of G(z*) above the noise in a dim image.
_DIM = (10, 40)


@dataclass(frozen=True)
class CertifyCell:
    """A kind of observation.

    Attributes:
        noise: |e_j| is at most that, uniform.
        dim: whether z is scaled so that only 10 to 40 pixels of G(z) exceed the noise; otherwise z ~ N(0, I).
        clipped: whether y = max(G(z) + e, 0), as an output of a ReLU is not negative; otherwise y = G(z) + e.
    """

    noise: float
    dim: bool = False
    clipped: bool = True

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.noise:g}{', dim' if self.dim else ''}{'' if self.clipped else ', not clipped'}"


CELLS = (
    *(CertifyCell(noise) for noise in (1e-3, 1e-2, 0.1, 0.3)),
    CertifyCell(0.1, dim=True),
    CertifyCell(0.1, clipped=False),
)


def draw(cell: CertifyCell, index: int, seed: int) -> tuple[Array, Array]:
    """An observation (n,) of a cell and its code z* (k,); equal arguments give equal bits."""
    network = zoo.load(GENERATOR)
    rng = stream("certify, truth", seed, cell.name, index)
    z = rng.standard_normal(network.latent_dim)
    x = np.asarray(network(z))
    if cell.dim:
        # G has no biases: scaling z scales G(z).
        z = z * cell.noise / np.sort(x)[-int(rng.integers(_DIM[0], _DIM[1] + 1))]
        x = np.asarray(network(z))
    noise = stream("certify, noise", seed, cell.name, index)
    y = x + noise.uniform(-cell.noise, cell.noise, x.shape)
    return np.maximum(y, 0.0) if cell.clipped else y, z


# --- proofs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CertifyPlan:
    """How much is measured.

    Attributes:
        instances: observations of each cell.
        compared: the first ones, which HiGHS gets too.
        time_limit, mip_limit: seconds for each observation, ours and HiGHS.
    """

    instances: int = 16
    compared: int = 3
    time_limit: float = 10.0
    mip_limit: float = 60.0


QUICK = CertifyPlan(instances=3, compared=2, mip_limit=5.0)


def plan_of(command: Command) -> CertifyPlan:
    """How much is measured of a command."""
    plan = QUICK if command.quick else CertifyPlan()
    if not command.instances:
        return plan
    return replace(plan, instances=command.instances, compared=min(plan.compared, command.instances))


def _units(command: Command) -> list[Unit]:
    """An observation each."""
    return [(cell.name, index) for cell in CELLS for index in range(plan_of(command).instances)]


def _measure(command: Command, unit: Unit) -> Proved:
    cell = next(cell for cell in CELLS if cell.name == unit[0])
    _compile(command.seed)
    with one_core():
        return prove(cell, int(unit[1]), command.seed, plan_of(command))


@cache
def _compile(seed: int) -> None:
    """What a process does only once, before anything is timed: the kernels, and the samples that ``auto`` draws."""
    network, (y, _) = zoo.load(GENERATOR), draw(CELLS[0], 0, seed)
    certify(network, y, invert(network, y, noise=f"uniform:{CELLS[0].noise}"), time_limit=60.0)


def prove(cell: CertifyCell, index: int, seed: int, plan: CertifyPlan) -> Proved:
    """One observation.

    Returns:
        ``cell, index``; ``active``: outputs with y_j > noise; ``invert_seconds, found``: of ``auto``, and the largest
        error of its code; ``seconds``: of ``certify`` without a box, the inversion excluded; ``lower, upper, gap,
        status, nodes``: of the certificate; ``everywhere``: whether the bounds are about all codes, however large;
        ``verified, verify_seconds``: what ``verify`` says of the certificate, without a solver; ``mip``: what HiGHS
        did, of the first observations; ``agrees``: whether both name the same smallest error, to GAP, None unless both
        have closed their gap; ``contradicts``: whether a code of one has an error below the lower bound of the other.
    """
    network, (y, _), clock = zoo.load(GENERATOR), draw(cell, index, seed), time.process_time
    result, invert_seconds = timed(partial(invert, network, y, noise=f"uniform:{cell.noise}"), clock)
    proof, used = timed(partial(certify, network, y, result, time_limit=plan.time_limit, box=False), clock)
    certificate = cast(Certificate, proof)
    verified, verify_seconds = timed(partial(certificate.verify, network, y), clock)
    chain = chain_of(network, read_operator(None, network.output_shape, y.shape), y, "linf")
    z = np.asarray(result.z)
    mip = asdict(prove_by_mip(chain, z, plan.mip_limit, MIP_BOX)) if index < plan.compared else None
    proved: Proved = {
        "cell": cell.name, "index": index, "active": int((y > cell.noise).sum()), "invert_seconds": invert_seconds,
        "found": chain.objective(z), "seconds": used, "lower": certificate.lower, "upper": certificate.upper,
        "gap": certificate.gap, "status": str(certificate.status), "nodes": certificate.nodes,
        "everywhere": math.isinf(certificate.radius), "verified": verified, "verify_seconds": verify_seconds,
        "mip": mip,
    }  # fmt: skip
    return {**proved, "agrees": agrees(proved), "contradicts": contradicts(proved)}


def closed(p: Proved) -> bool:
    """Whether the gap is, by bounds that were checked."""
    return bool(p["verified"] and p["gap"] <= GAP)


def agrees(p: Proved) -> bool | None:
    """Whether both name the same smallest error, to GAP; None unless both have closed their gap."""
    mip = p["mip"]
    if mip is None or mip["status"] != "OPTIMAL" or not closed(p):
        return None
    return bool(abs(mip["upper"] - p["upper"]) <= GAP * max(p["upper"], mip["upper"]))


def contradicts(p: Proved) -> bool:
    """Whether a code of HiGHS has an error below our lower bound, or ours one below that of HiGHS."""
    mip = p["mip"]
    return mip is not None and bool(mip["upper"] < p["lower"] * (1 - GAP) or p["upper"] < mip["lower"] * (1 - GAP))


# --- summaries --------------------------------------------------------------------------------------------------------


def _collect(command: Command, parts: list[Any]) -> Results:
    return {"plan": asdict(plan_of(command)), "summary": summarise(parts), "observations": parts}


def summarise(observations: Sequence[Proved]) -> list[dict[str, Any]]:
    """A summary for each cell; medians of seconds, shares between 0 and 1."""
    names = dict.fromkeys(p["cell"] for p in observations)
    return [_summary([p for p in observations if p["cell"] == name]) for name in names]


def _summary(observations: Sequence[Proved]) -> dict[str, Any]:
    """``many``: share with at least MANY active outputs; ``compared``: those that HiGHS got; ``times``: its median over
    ours, on those; ``same``: observations that agree, of ``both`` that both proved.
    """

    def median(name: str, group: Sequence[dict[str, Any]] = observations) -> float:
        return float(np.median([p[name] for p in group]))

    many = [p for p in observations if p["active"] >= MANY]
    compared = [p for p in observations if p["mip"] is not None]
    runs = [p["mip"] for p in compared]
    agreed = [p["agrees"] for p in compared if p["agrees"] is not None]
    return {
        "cell": observations[0]["cell"], "observations": len(observations),
        "proved": float(np.mean([closed(p) for p in observations])), "seconds": median("seconds"),
        "slowest": max(p["seconds"] for p in observations), "nodes": median("nodes"),
        "many": len(many) / len(observations), "many_seconds": median("seconds", many) if many else None,
        "compared": len(compared), "mip_solved": float(np.mean([run["status"] == "OPTIMAL" for run in runs])),
        "mip_seconds": median("seconds", runs), "times": median("seconds", runs) / median("seconds", compared),
        "same": sum(agreed), "both": len(agreed), "contradictions": sum(p["contradicts"] for p in observations),
        "invert_seconds": median("invert_seconds"), "verify_seconds": median("verify_seconds"),
    }  # fmt: skip


# --- the tables -------------------------------------------------------------------------------------------------------


def _table(results: Results) -> str:
    head = ("noise", "proved", "s, median", "s, largest", "nodes, median", "HiGHS: solved", "HiGHS: s, median",
            "times", "same optimum")  # fmt: skip
    rows = (
        (
            s["cell"], share(round(s["proved"] * s["observations"]), s["observations"]), seconds(s["seconds"]),
            seconds(s["slowest"]), f"{s['nodes']:g}", f"{round(s['mip_solved'] * s['compared'])} of {s['compared']}",
            seconds(s["mip_seconds"]), short(s["times"]), f"{s['same']} of {s['both']}",
        )
        for s in results["summary"]
    )  # fmt: skip
    plan, observations = results["plan"], results["observations"]
    verified, everywhere = (sum(p[name] for p in observations) for name in ("verified", "everywhere"))
    against = sum(p["contradicts"] for p in observations)
    return (
        f"{plan['instances']} observations a row, HiGHS on the first {plan['compared']}:\n\n{table(head, rows)}\n\n"
        f"Of {len(observations)} certificates {verified} verify, and {everywhere} are about all codes, however large. "
        f"Bounds of ours or of HiGHS that exclude a code of the other: {against}."
    )


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"certify": _table}, collect=_collect)

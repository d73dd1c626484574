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
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrelu import zoo
from unrelu._certify import certify
from unrelu._invert import invert
from unrelu.certification.certificate import Certificate
from unrelu.certification.certified_chain import CertifiedChain, chain_of
from unrelu.certification.certifying import enclosure
from unrelu.certification.node_program import Limits
from unrelu.certification.proof import GAP
from unrelu.measurements import read_operator
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.proofs.certify_mip import prove_by_mip
from unrelu_studies.kit.markdown_tables import aims, form, per_cent, seconds, short, table
from unrelu_studies.kit.picture_style import Style, footer, legend, panels, tidy
from unrelu_studies.kit.timing import one_core, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]
# One observation, see :func:`prove`.
Proved = dict[str, Any]

# The codes that HiGHS looks among: |z_i| up to this, which it is a little faster with; ours looks among all.
MIP_BOX = 8.0
# Moments of a proof that are kept for the picture.
_MOMENTS = 40
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
        boxes: the first ones, which get a box.
        time_limit, mip_limit: seconds for each observation, ours and HiGHS.
    """

    instances: int = 30
    compared: int = 10
    boxes: int = 5
    time_limit: float = 10.0
    mip_limit: float = 60.0


QUICK = CertifyPlan(instances=3, compared=2, boxes=1, mip_limit=5.0)


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
        ``verified, verify_seconds``: what ``verify`` says of the certificate, without a solver; ``history``: (seconds,
        lower, upper) on the way; ``box``: of the first observations, see :func:`_boxed`; ``mip``: what HiGHS did, of
        the first ones; ``agrees``: whether both name the same smallest error, to GAP, None unless both have closed
        their gap; ``contradicts``: whether a code of one has an error below the lower bound of the other.
    """
    network, (y, truth), clock = zoo.load(GENERATOR), draw(cell, index, seed), time.process_time
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
        "history": _thinned(certificate), "box": _boxed(chain, cell, truth, plan) if index < plan.boxes else None,
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


def _thinned(certificate: Certificate) -> tuple[tuple[float, float, float], ...]:
    """Moments about evenly apart in the logarithm of the time, the first and the last among them."""
    moments = certificate.history
    if not moments:
        return ()
    seconds = np.array([moment.seconds for moment in moments])
    at = np.searchsorted(seconds, np.geomspace(max(seconds[0], 1e-6), max(seconds[-1], 1e-6), _MOMENTS))
    kept = np.unique([0, *np.minimum(at, len(moments) - 1), len(moments) - 1])
    return tuple((moments[i].seconds, moments[i].lower, moments[i].upper) for i in kept)


def _boxed(chain: CertifiedChain, cell: CertifyCell, truth: Array, plan: CertifyPlan) -> dict[str, Any]:
    """The box of all codes with errors up to the noise.

    Returns:
        ``seconds``: for the box alone; ``width``: median of its sides; ``contains``: whether z* is in it; ``proved``:
        whether every side is bounded by its own multipliers and not by the radius of all codes.
    """
    begin = time.process_time()
    proof = enclosure(chain, cell.noise, Limits(time.perf_counter() + plan.time_limit))
    box = proof.box(chain)
    used = time.process_time() - begin
    radius = proof.regions(chain).full.radius
    inside = (box[:, 0] <= truth) & (truth <= box[:, 1])
    proved = bool((box[:, 0] > -radius).all() and (box[:, 1] < radius).all())
    width = float(np.median(box[:, 1] - box[:, 0]))
    return {"seconds": used, "width": width, "contains": bool(inside.all()), "proved": proved}


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


# --- the picture ------------------------------------------------------------------------------------------------------

# A cell each.
_STYLES = (
    Style("#56b4e9", "v"), Style("#009e73", "^"), Style("#0072b2", "o"), Style("#e69f00", "s"), Style("#d55e00", "D"),
    Style("#000000", "x"),
)  # fmt: skip
_GREY = "0.45"


def draw_proofs(results: Results) -> Figure:
    """Two panels: bounds of a few observations over time; a dot for every observation that HiGHS got too."""
    observations, machine = results["observations"], results["machine"]
    cells = dict.fromkeys(p["cell"] for p in observations)
    styles = dict(zip(cells, _STYLES, strict=False))
    figure, (left, right) = panels(1, 2, height=3.4)
    _bounds(left, shown(observations), styles)
    _scatter(right, observations, styles)
    for cell, style in styles.items():
        right.plot([], [], style.marker, color=style.color, markersize=5, label=f"noise {cell}")
    legend(figure, right, 3)
    footer(
        figure,
        "(a) dot: proved, cross: stopped at the limit; (b) hollow: HiGHS was stopped at its limit\n"
        f"one core, {machine['processor']}, highspy {machine['highspy']}",
    )
    return figure


def shown(observations: Sequence[Proved], count: int = 3) -> list[Proved]:
    """Those whose bounds are drawn: of the slowest ones of each cell, the slowest cells; an open one is among them."""
    slowest: dict[str, Proved] = {}
    for p in observations:
        if len(p["history"]) > 1 and (p["cell"] not in slowest or p["seconds"] > slowest[p["cell"]]["seconds"]):
            slowest[p["cell"]] = p
    chosen = sorted(slowest.values(), key=lambda p: -float(p["seconds"]))[:count]
    left_open = [p for p in observations if not closed(p)]
    worst = max(left_open, key=lambda p: float(p["gap"]), default=None)
    return chosen if worst is None or worst in chosen else [*chosen, worst]


def _bounds(axis: Axes, chosen: Sequence[Proved], styles: dict[str, Style]) -> None:
    for p in chosen:
        color = styles[p["cell"]].color
        seconds, lower, upper = (list(column) for column in zip(*p["history"], strict=True))
        # The last bounds hold until it ended.
        seconds.append(max(seconds[-1], p["seconds"]))
        below = [value / p["upper"] for value in (*lower, lower[-1])]
        above = [value / p["upper"] for value in (*upper, upper[-1])]
        axis.step(seconds, below, where="post", color=color, linewidth=1.6)
        axis.step(seconds, above, where="post", color=color, linewidth=1.6, linestyle=(0, (4, 1.5)))
        axis.fill_between(seconds, below, above, step="post", color=color, alpha=0.08, linewidth=0)
        axis.plot(seconds[-1], below[-1], "o" if closed(p) else "x", color=color, markersize=5, zorder=3)
    title = "(a) lower (solid) and upper bound (dashed)"
    tidy(axis, "seconds", "bound / smallest error known", title, log="x")
    axis.set_xlim(left=min((p["history"][0][0] for p in chosen), default=1e-2) / 1.3)


def _scatter(axis: Axes, observations: Sequence[Proved], styles: dict[str, Style]) -> None:
    pairs = [(p, p["mip"]) for p in observations if p["mip"] is not None]
    for p, run in pairs:
        style = styles[p["cell"]]
        filled = run["status"] == "OPTIMAL" or style.marker == "x"
        axis.plot(p["seconds"], run["seconds"], style.marker, color=style.color, markersize=5, markeredgewidth=1.1,
                  alpha=0.85, markerfacecolor=style.color if filled else "none", zorder=3)  # fmt: skip
    every = [seconds for p, run in pairs for seconds in (p["seconds"], run["seconds"])]
    low, high = min(every, default=0.01) / 1.6, max(every, default=10.0) * 1.6
    for factor, dashes, label in ((1, "-", "equal"), (5, "--", "5 times")):
        axis.plot([low, high], [factor * low, factor * high], dashes, color=_GREY, linewidth=1, zorder=1)
        x = low * 25
        axis.annotate(label, (x, factor * x), (6, -3), textcoords="offset points", fontsize=7, color=_GREY)
    tidy(axis, "processor seconds, ours", "processor seconds, HiGHS", "(b) the same observations", log="xy")
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)


# --- the tables -------------------------------------------------------------------------------------------------------


def _rows_table(results: Results) -> str:
    head = ("noise", "proved", "s, median", "s, largest", "nodes, median", "60 or more y_j > noise",
            "s, median of those", "HiGHS: solved", "HiGHS: s, median", "times", "same optimum")  # fmt: skip
    rows = (
        (
            s["cell"], per_cent(s["proved"]), seconds(s["seconds"]), seconds(s["slowest"]), f"{s['nodes']:g}",
            per_cent(s["many"]), "-" if s["many_seconds"] is None else seconds(s["many_seconds"]),
            per_cent(s["mip_solved"]), seconds(s["mip_seconds"]), short(s["times"]), f"{s['same']} of {s['both']}",
        )
        for s in results["summary"]
    )  # fmt: skip
    plan, observations = results["plan"], results["observations"]
    verified = sum(p["verified"] for p in observations)
    everywhere = sum(p["everywhere"] for p in observations)
    against = sum(p["contradicts"] for p in observations)
    first = sum(p["nodes"] == 1 for p in observations)
    best = sum(p["found"] <= p["upper"] * (1 + 1e-6) for p in observations)
    return (
        f"{plan['instances']} observations a row, HiGHS on the first {plan['compared']}:\n\n{table(head, rows)}\n\n"
        f"Of {len(observations)} certificates {verified} verify, and {everywhere} are about all codes, however large. "
        f"{first} observations needed no tree: the first relaxation decided. `auto` had found the smallest error "
        f"that is known for {best}; the search found the others on its way. Bounds of ours or of HiGHS that "
        f"exclude a code of the other: {against}."
    )


def _reached(results: Results) -> str:
    summary = results["summary"]
    proved, times = min(s["proved"] for s in summary), min(s["times"] for s in summary)
    slow = max(s["many_seconds"] or 0.0 for s in summary)
    return aims((
        ("90% proved within 10 s in every row", f"{per_cent(proved)} at least", proved >= 0.9),
        ("a median of 0.5 s where 60 or more exceed the noise", f"{seconds(slow)} at most", slow <= 0.5),
        ("a fifth of HiGHS's seconds in the median", f"{short(times)} times at least", times >= 5),
    ))  # fmt: skip


def _open_table(results: Results) -> str:
    rows = []
    for p in results["observations"]:
        mip = p["mip"]
        runs = [] if p["verified"] and p["gap"] <= 1e-6 else [("ours", p["status"], p["lower"], p["upper"])]
        if mip and mip["status"] != "OPTIMAL":
            runs.append(("HiGHS", mip["status"], mip["lower"], mip["upper"]))
        rows += [
            (p["cell"], p["index"], by, said, form(1 - low / up if low is not None and up else None, ".1e"))
            for by, said, low, up in runs
        ]
    if not rows:
        return "Neither left an observation open."
    return "Left open:\n\n" + table(("noise", "observation", "by", "status", "gap"), rows)


def _boxes_table(results: Results) -> str:
    rows = []
    for cell in dict.fromkeys(p["cell"] for p in results["observations"]):
        boxes = [p["box"] for p in results["observations"] if p["cell"] == cell and p["box"]]
        medians = (float(np.median([b[name] for b in boxes])) for name in ("seconds", "width"))
        rows.append((cell, len(boxes), *(f"{m:.2g}" for m in medians), sum(b["contains"] for b in boxes)))
    return table(("noise", "observations", "s, median", "width, median", "z* inside"), rows)


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={
        "certify rows": _rows_table,
        "certify aims": _reached,
        "certify open": _open_table,
        "certify boxes": _boxes_table,
    },
    collect=_collect,
    draw=draw_proofs,
)

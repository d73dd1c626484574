"""``auto`` against Adam and Levenberg-Marquardt from ten starts: how often the best code is found, in what time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from unrelu._invert import invert
from unrelu.search.sample_cache import SampleCache
from unrelu.thresholds import SIGNIFICANCE
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.searches import search_norms
from unrelu_studies.benchmarks.searches.search_cells import (
    GENERATORS,
    QUICK_CELLS,
    QUICK_INSTANCES,
    RANDOM,
    ZOO,
    CellBatch,
    SearchCell,
    cells,
    draw,
)
from unrelu_studies.kit.markdown_tables import form, per_cent, short, table
from unrelu_studies.kit.picture_style import Style, footer, legend, panels, tidy
from unrelu_studies.kit.timing import one_core, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]
# One method on one cell, see :func:`measure_cell`.
Outcome = dict[str, Any]

# Observations of a cell, and of a batch that is inverted at once.
INSTANCES, _BATCH = 100, 50
# Observations that the others get, or fewer where they take half a second and more for one.
_FEW = 20
_OTHERS = {"mnist-dcgan": 3, "mnist-leaky": 10, "mnist-sigmoid": 10}
_STARTS = 10
BLIND, KNOWN = "auto", "auto, noise known"
OURS, METHODS = (BLIND, KNOWN), (BLIND, KNOWN, "lm x10", "adam x10")


@dataclass(frozen=True, eq=False)
class Ended:
    """A batch inverted: of each observation the code, (B, k), and the verdict, (B,)."""

    z: Array
    success: npt.NDArray[np.bool_]
    confidence: Array
    p_value: Array
    statuses: list[str]


def _units(command: Command) -> list[Unit]:
    """A cell each; then the parts of the other norms."""
    chosen = [c for c in (QUICK_CELLS if command.quick else cells())
              if not command.parts or c.generator in command.parts]  # fmt: skip
    norms: list[Unit] = [("norms", part) for part in search_norms.PARTS]
    return [*[("cell", c.generator, c.measurement, c.noise) for c in chosen], *norms]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    count = command.count(INSTANCES, QUICK_INSTANCES)
    if unit[0] == "norms":
        return search_norms.measure(str(unit[1]), count, command.seed)
    cell = SearchCell(str(unit[1]), str(unit[2]), float(unit[3]))
    return {"outcomes": list(measure_cell(cell, count, command.seed))}


def measure_cell(cell: SearchCell, instances: int, seed: int, methods: Sequence[str] = METHODS) -> Iterator[Outcome]:
    """Every method on the observations of a cell, on one core.

    Yields:
        ``generator, measurement, noise, method`` and ``instances``, observations inverted; ``success``: share of them
        with |y - A G(z)|^2 <= (1 + 1e-6) |y - A G(z*)|^2, or 1e-10 |y|^2 without noise; ``error``: median of |z - z*| /
        |z*|; ``residual``: median of |y - A G(z)|^2 over the most that is a success; ``oracle``: median of |z - z*|
        over the median of the oracle's, None without noise and for the zoo's generators; ``milliseconds``: mean time an
        observation; ``claimed``: share of ``result.success``; ``confidence``: mean of ``result.confidence``, NaN for
        methods that do not search; ``fits``: share with ``result.p_value`` >= 0.01, NaN where no noise is stated;
        ``statuses``: how the inversions ended; ``per_success``: milliseconds spent for each success.
    """
    sizes = [min(_BATCH, instances - done) for done in range(0, instances, _BATCH)]
    batches = [draw(cell, size, index, seed) for index, size in enumerate(sizes)]
    for batch in batches:
        _ = SampleCache.of(batch.network).model.parts  # built once for each generator; timed apart
    others = [batches[0].first(_OTHERS.get(cell.generator, _FEW))]
    for method in methods:
        if cell.noise or method != KNOWN:
            with one_core():
                yield _outcome(cell, method, batches if method in OURS else others)


def _outcome(cell: SearchCell, method: str, batches: Sequence[CellBatch]) -> Outcome:
    ended, seconds = timed(lambda: [inverted(batch, method) for batch in batches])
    truth, target = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("truth", "target"))
    z, claimed, confidence, p_value = (
        np.concatenate([getattr(e, name) for e in ended]) for name in ("z", "success", "confidence", "p_value")
    )
    misfit = np.concatenate([batch.misfit(e.z) for batch, e in zip(batches, ended, strict=True)])
    errors, success = np.linalg.norm(z - truth, axis=1), float(np.mean(misfit <= target))
    known = [batch.oracle for batch in batches if batch.oracle is not None]
    milliseconds = 1e3 * seconds / len(truth)
    return {
        "generator": cell.generator, "measurement": cell.measurement, "noise": cell.noise, "method": method,
        "instances": len(truth), "success": success,
        "error": float(np.median(errors / np.linalg.norm(truth, axis=1))),
        "residual": float(np.median(misfit / target)),
        "oracle": float(np.median(errors) / np.median(np.concatenate(known))) if cell.noise and known else None,
        "milliseconds": milliseconds, "claimed": float(np.mean(claimed)), "confidence": float(np.mean(confidence)),
        "fits": math.nan if np.isnan(p_value).any() else float(np.mean(p_value >= SIGNIFICANCE)),
        "statuses": dict(Counter(status for e in ended for status in e.statuses)),
        "per_success": milliseconds / success if success else math.inf,
    }  # fmt: skip


def inverted(batch: CellBatch, method: str) -> Ended:
    """A batch by one method; of ten Levenberg-Marquardt runs the best for each observation."""
    solve = partial(invert, batch.network, batch.y, operator=batch.operator, norm="l2")
    if method == "lm x10":
        runs = [solve("lm", seed=seed) for seed in range(_STARTS)]
    elif method == "adam x10":
        runs = [solve("adam", restarts=_STARTS)]
    else:
        runs = [solve(noise=f"gaussian:{batch.noise}" if method == KNOWN else None)]
    best = np.argmin([np.nan_to_num(run.fun, nan=np.inf) for run in runs], axis=0)
    chosen = {
        name: np.array([getattr(runs[run], name)[i] for i, run in enumerate(best)])
        for name in ("z", "success", "confidence", "p_value")
    }
    return Ended(**chosen, statuses=[str(runs[run].verdict[i]) for i, run in enumerate(best)])


def _collect(command: Command, parts: list[Any]) -> Results:
    norms = {name: value for part in parts for name, value in part.items() if name != "outcomes"}
    ordered = {name: norms[name] for name in search_norms.PARTS}
    return {"outcomes": [o for part in parts for o in part.get("outcomes", ())], "norms": ordered}


# --- the picture ------------------------------------------------------------------------------------------------------

# Hollow marks show what they lie on.
_STYLES = {BLIND: Style("#0072b2", "o"), KNOWN: Style("#0072b2", "D"), "lm x10": Style("#d55e00", "s"),
           "adam x10": Style("#009e73", "^")}  # fmt: skip
_HOLLOW = (KNOWN, "adam x10")


def draw_outcomes(results: Results) -> Figure:
    """A panel for each generator of the zoo and one for the random nets: success against milliseconds, a dot a cell."""
    outcomes = results["outcomes"]
    groups = {name: [o for o in outcomes if o["generator"] == name] for name in ZOO}
    groups["random nets"] = [o for o in outcomes if o["generator"] in RANDOM]
    groups = {name: group for name, group in groups.items() if group}
    figure, axes = panels(1, len(groups), width=max(5.0, 1 + 1.4 * len(groups)), height=2.9)
    for axis, (name, group) in zip(axes, groups.items(), strict=True):
        for method, style in _STYLES.items():
            chosen = [o for o in group if o["method"] == method]
            hollow = method in _HOLLOW
            axis.plot(
                [o["milliseconds"] for o in chosen], [100 * o["success"] for o in chosen], style.marker, label=method,
                markersize=4.5, color=style.color, markerfacecolor="none" if hollow else style.color,
                markeredgecolor=style.color if hollow else "white", markeredgewidth=1 if hollow else 0.5, alpha=0.85,
                clip_on=False, zorder=3,  # dots on the rim are drawn whole
            )  # fmt: skip
        tidy(axis, "ms an observation", "success, %" if axis is axes[0] else "", name, log="x")
        axis.margins(x=0.08)
        axis.set_ylim(-3, 103)
        axis.set_yticks((0, 25, 50, 75, 100), ("0", "25", "50", "75", "100") if axis is axes[0] else [""] * 5)
    legend(figure, axes[0], len(_STYLES))
    text = f"a dot: one measurement and noise level, up to {max(o['instances'] for o in outcomes)} observations"
    footer(figure, f"{text}\none core, {results['machine']['processor']}")
    return figure


# --- the tables -------------------------------------------------------------------------------------------------------


def _by_cell(results: Results, generators: Iterable[str]) -> dict[tuple[str, str, float], dict[str, Outcome]]:
    """By generator, measurement and noise, then by method."""
    chosen = set(generators)
    found: dict[tuple[str, str, float], dict[str, Outcome]] = {}
    for o in results["outcomes"]:
        if o["generator"] in chosen:
            found.setdefault((o["generator"], o["measurement"], o["noise"]), {})[o["method"]] = o
    return found


def times_fewer(by_method: Mapping[str, Outcome], ours: str) -> float:
    """Milliseconds a success of the better of the others, over those of ``ours``.

    Infinity where only ours has successes, 0 where only another one has them, NaN where nobody has, or ours was not
    run.
    """
    spent = {m: o["milliseconds"] / o["success"] if o["success"] else math.inf for m, o in by_method.items()}
    others = min((spent[method] for method in spent if method not in OURS), default=math.nan)
    return others / spent.get(ours, math.nan)


def outcomes_table(generator: str, results: Results) -> str:
    """A row for each measurement and noise of one generator."""
    found = _by_cell(results, (generator,))
    if not found:
        return f"`{generator}`: not in these results."
    first = next(iter(found.values()))
    text = (
        f"`{generator}`, {first[BLIND]['instances']} observations a row, {first['adam x10']['instances']} of them for "
        "`lm` and `adam`:\n\n"
    )
    last = "error / oracle" if generator in RANDOM else "error"
    head = ("measured", "noise", *("auto, blind", "noise known", "lm x10", "adam x10"), "claimed, blind",
            "claimed, known", "fewer ms, blind", "known", last)  # fmt: skip
    return text + table(head, (_row(key, by_method) for key, by_method in found.items()))


def _row(key: tuple[str, str, float], by_method: dict[str, Outcome]) -> Iterable[str]:
    yield from (key[1], f"{key[2]:g}")
    for method in METHODS:
        o = by_method.get(method)
        yield f"{per_cent(o['success'])} {short(o['milliseconds'])} ms" if o else "-"
    blind, known = by_method[BLIND], by_method.get(KNOWN)
    yield f"{per_cent(blind['claimed'])} ({form(blind['confidence'], '.2f')})"
    yield f"{per_cent(known['claimed'])} ({per_cent(known['fits'])})" if known else "-"
    for method in OURS:
        times = times_fewer(by_method, method)
        yield "-" if math.isnan(times) else short(times) if times else "0"
    yield form(blind["oracle"], ".3f") if key[0] in RANDOM else form(blind["error"], ".2g")


# Generators, the share of successes, and milliseconds without noise, blind and with the noise known.
_AIMS: tuple[tuple[tuple[str, ...], float, float, float, float], ...] = (
    (("mnist-relu",), 0.99, 15, 40, 8),
    (("mnist-leaky",), 0.995, 12, 12, 12),
    (("mnist-sigmoid",), 0.995, 12, 12, 12),
    (("mnist-dcgan",), 0.99, 90, 400, 90),
    (RANDOM, 1.0, 10, 10, 10),
)


def _reached(results: Results) -> str:
    rows = []
    for generators, least, without, blind, known in _AIMS:
        found = list(_by_cell(results, generators).values())
        ours = [by_method[name] for by_method in found for name in OURS if name in by_method]
        fewer = [times_fewer(by_method, name) for by_method in found for name in OURS if name in by_method]
        ratios = [o["oracle"] for o in ours if o["oracle"] is not None]

        def spent(noisy: bool, method: str | None, ours: list[Outcome] = ours) -> list[float]:
            chosen = (o for o in ours if bool(o["noise"]) is noisy and method in (None, o["method"]))
            return [o["milliseconds"] for o in chosen]

        rows.append((
            "random nets" if generators is RANDOM else generators[0],
            _aim([o["success"] for o in ours], least, True, per_cent),
            _aim(spent(False, None), without, False, short),
            _aim(spent(True, BLIND), blind, False, short),
            _aim(spent(True, KNOWN), known, False, short),
            _aim(fewer, 5.0, True, short),
            _aim(ratios, 1.01, False, lambda ratio: f"{ratio:.3f}"),
        ))  # fmt: skip
    head = ("generator", "found", "ms without noise", "ms blind", "ms, noise known", "times fewer ms", "error / oracle")
    return f"The aim; how many rows reach it, and the worst of them:\n\n{table(head, rows)}"


def _aim(values: list[float], aim: float, least: bool, write: Callable[[float], str]) -> str | None:
    """An aim, how many values reach it, and the worst of them; None without values."""
    if not values:
        return None
    reached = sum(value >= aim if least else value <= aim for value in values)
    goal = f"{100 * aim:g}%" if write is per_cent else f"{aim:g}"
    return f"{goal}: {reached} of {len(values)}, {write(min(values) if least else max(values))}"


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={
        **{f"search {name}": partial(outcomes_table, name) for name in GENERATORS},
        "search aims": _reached,
        "search norms": search_norms.norms_table,
    },
    collect=_collect,
    draw=draw_outcomes,
    parts=GENERATORS,
)

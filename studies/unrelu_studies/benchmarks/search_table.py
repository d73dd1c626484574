"""The tables of the search benchmark, 100 columns wide at most: one for each generator, one for the other norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from unrelu_studies.benchmarks.search import BLIND, KNOWN, METHODS, SearchOutcome
from unrelu_studies.benchmarks.search_cells import RANDOM
from unrelu_studies.benchmarks.search_norms import BOUND, SHARE, Norms
from unrelu_studies.benchmarks.summary import short

SEARCH_CAPTION = (
    "%: observations with |y - A G(z)|^2 <= (1 + 1e-6) |y - A G(z*)|^2, or <= 1e-10 |y|^2 without noise: a code at "
    "least as good as the true one. ms: mean time an observation. blind: auto is given y and A; known: the level of "
    "the noise, too. lm x10: the best of ten random starts; adam x10: ten starts at once, 1,000 steps. times fewer: ms "
    "for a success (ms / share of successes) of lm x10 or adam x10, whichever is less, over those of auto; inf: only "
    "auto had successes, 0: only the others, -: nobody. error: median of |z - z*| / |z*|. error / oracle: median of "
    "|z - z*| over that of least squares on the linear piece of z*."
)
NORMS_CAPTION = (
    "ms: mean time an observation, in batches of 50; the median of those one at a time, and of the repetitions for the "
    "samples, which a generator that is new to the process needs once. r = y - G(z). above linf: observations on which "
    "auto's |r|_inf is larger than that of linf, the layer-wise method, by more than a factor 1 + 1e-9. latent error: "
    "median of |z - z*| / |z*|."
)
_HEADINGS = {BLIND: "auto\nblind", KNOWN: "auto\nknown", "lm x10": "lm\nx10", "adam x10": "adam\nx10"}


def search_table(outcomes: Sequence[SearchOutcome]) -> Table:
    """A row for each measurement and noise of one generator."""
    table = Table(title=_title(outcomes), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\n\nmeasured", no_wrap=True)
    headings = ["\n\nnoise", *(text for name in METHODS for text in (f"{_HEADINGS[name]}\n%", "\n\nms"))]
    headings += ["times\nfewer\nblind", "times\nfewer\nknown"]
    headings += ["blind\nerror\n/ oracle" if outcomes[0].generator in RANDOM else "\nblind\nerror"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    cells: dict[tuple[str, float], dict[str, SearchOutcome]] = {}
    for o in outcomes:
        cells.setdefault((o.measurement, o.noise), {})[o.method] = o
    for (measurement, noise), by_method in cells.items():
        table.add_row(measurement, f"{noise:g}", *_row(by_method))
    return table


def _title(outcomes: Sequence[SearchOutcome]) -> str:
    """The generator, and how many observations each method had: the same in all cells."""
    sizes = {o.method: o.instances for o in outcomes}
    ours = max((size for method, size in sizes.items() if method in (BLIND, KNOWN)), default=0)
    others = max((size for method, size in sizes.items() if method not in (BLIND, KNOWN)), default=0)
    return f"{outcomes[0].generator}: auto on {ours} observations, ten starts of lm and of adam on {others} of them"


def times_fewer(by_method: Mapping[str, SearchOutcome], ours: str) -> float:
    """Milliseconds a success of the better of the others, over those of ``ours``.

    Infinity where only ours has successes, 0 where only another one has them, NaN where nobody has, or ours was not
    run.
    """
    spent = {method: outcome.per_success for method, outcome in by_method.items()}
    others = min((spent[method] for method in spent if method not in (BLIND, KNOWN)), default=math.nan)
    return others / spent.get(ours, math.nan)


def _row(by_method: Mapping[str, SearchOutcome]) -> Iterator[str]:
    for method in METHODS:
        outcome = by_method.get(method)
        yield f"{100 * outcome.success:.3g}" if outcome else "-"
        yield short(outcome.milliseconds) if outcome else "-"
    for method in (BLIND, KNOWN):
        times = times_fewer(by_method, method)
        yield "-" if math.isnan(times) else short(times) if times else "0"
    blind = by_method.get(BLIND)
    if blind is None:
        yield "-"
    elif blind.generator in RANDOM:
        yield "-" if blind.oracle is None else f"{blind.oracle:.3f}"
    else:
        yield f"{blind.error:.2g}"


def norms_table(norms: Norms) -> Table:
    """A row for each problem and method."""
    title = "mnist-relu: other norms, and one observation at a time"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("problem", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("obs.", "ms", "largest"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("result")
    for u in norms.uniform:
        said = f"|r|_inf <= {BOUND:g}: {100 * u.within:.3g}%"
        more = f", above linf: {100 * u.above:.3g}%" if u.method == "auto" else ""
        table.add_row(f"uniform {BOUND:g}", u.method, str(u.observations), short(u.milliseconds), "-", said + more)
    for o in norms.outliers:
        problem, said = f"{100 * SHARE:g}% wrong, half seen", f"latent error {o.error:.2g}"
        table.add_row(problem, o.method, str(o.observations), short(o.milliseconds), "-", said)
    for s in norms.single:
        said = ", ".join(f"{status} {count}" for status, count in s.statuses.items())
        problem = f"one at a time, noise {s.noise:g}"
        table.add_row(problem, "auto", str(s.observations), short(s.median), short(s.largest), said)
    bank = [1e3 * seconds for seconds in norms.bank_seconds]
    table.add_row("samples and their model", "auto", "-", short(float(np.median(bank))), short(max(bank)), "")
    return table

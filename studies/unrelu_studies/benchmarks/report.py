"""Running a measurement of the command line: its tables on the terminal, its numbers in ``NAME.json``.

``layers``, ``search`` and ``certify`` also get a picture, ``NAME.png``. Every JSON file holds the command, the commit,
the machine and the raw numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from unrelu.runtime.machine import describe
from unrelu_studies.benchmarks import certify_plot, plot, search_plot
from unrelu_studies.benchmarks.certify import QUICK, CertifyPlan, Proved, measure_certify
from unrelu_studies.benchmarks.certify_table import (
    CERTIFY_CAPTION,
    boxes_table,
    certify_table,
    open_table,
    summarise_cells,
)
from unrelu_studies.benchmarks.cold_start import measure_cold_start
from unrelu_studies.benchmarks.instances import QUICK_CASES
from unrelu_studies.benchmarks.layers import measure_layers
from unrelu_studies.benchmarks.network_table import NETWORK_CAPTION, network_table
from unrelu_studies.benchmarks.peers import PEERS
from unrelu_studies.benchmarks.results import processor_seconds, write_results
from unrelu_studies.benchmarks.search import SearchOutcome, measure_search
from unrelu_studies.benchmarks.search_cells import QUICK_CELLS, QUICK_INSTANCES, cells
from unrelu_studies.benchmarks.search_norms import measure_norms
from unrelu_studies.benchmarks.search_table import NORMS_CAPTION, SEARCH_CAPTION, norms_table, search_table
from unrelu_studies.benchmarks.summary import summarise, tables
from unrelu_studies.benchmarks.throughput import measure_throughput
from unrelu_studies.benchmarks.whole_network import BASELINES, QUICK_OBSERVATIONS, Inverted, measure_network

_LAYERS_CAPTION = (
    "ours: best of 3. ours / Cholesky: how many least squares on all rows ours costs, best of 5. The others once, on "
    "the program already shifted and scaled, without the time for writing it down. linprog is scipy.optimize.linprog "
    "with method=highs. linprog split: equations on the neurons that are on, their residuals split into two parts, "
    "sparse A_eq and A_ub. linprog A_ub: inequalities only, as in the paper; sparse for l1, dense for linf. differ by: "
    "largest difference of the objectives of ours and linprog (split for l1), relative to max(objective, 1e-8 max|x|). "
    "fall back: answers of ours before which an attempt failed its proof."
)


@dataclass(frozen=True)
class Command:
    """What was asked for.

    Attributes:
        measurement: a name of :data:`MEASUREMENTS`.
        instances: how many of each kind; None: as many as the measurement thinks right.
        quick: few instances of small layers.
        seed: of the instances.
        generators: those of the search; all if there are none.
    """

    measurement: str
    instances: int | None
    quick: bool
    seed: int
    generators: tuple[str, ...] = ()


def run(command: Command, folder: Path, console: Console) -> None:
    """Run a measurement, print its tables and write its files into ``folder``."""
    numbers = MEASUREMENTS[command.measurement](command, folder, console)
    machine = _write(command, folder, numbers)
    console.print(f"{machine['processor']}, {machine['cores']} cores; {'; '.join(machine['blas'])}")
    console.print(f"written to {folder}/: {' '.join(sorted(p.name for p in folder.glob(f'{command.measurement}.*')))}")


def _write(command: Command, folder: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    """Write ``NAME.json``; returns the machine that is described in it."""
    return write_results(folder / f"{command.measurement}.json", asdict(command), numbers, processor_seconds())


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, as a function of what is measured, how much is done and how much there is."""
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=console.quiet), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)


def _layers(command: Command, folder: Path, console: Console) -> dict[str, Any]:
    with _bar(console) as progress:
        records = measure_layers(command.instances, command.quick, command.seed, progress)
    summaries = summarise(records)
    for table in tables(summaries):
        console.print(table)
    console.print(_LAYERS_CAPTION, highlight=False)
    plot.draw(records, describe()).savefig(folder / "layers.png", dpi=130)
    return {
        "timed": {
            "ours": "unrelu.layerwise.layer_program.least_violation, best of ours_seconds",
            **{name: peer.note for name, peer in PEERS.items()},
            "cholesky": "dsyrk, dgemv, dpotrf, dpotrs on all rows, best of cholesky_seconds",
        },
        "summary": [asdict(s) for s in summaries],
        "instances": [asdict(r) for r in records],
    }


def _throughput(command: Command, folder: Path, console: Console) -> dict[str, Any]:
    count = command.instances or (20 if command.quick else None)
    cases = {"cases": QUICK_CASES} if command.quick else {}
    measured = measure_throughput(count, command.seed, **cases)
    headings = ("layer", "norm", "1 thread, per s", "2 threads, per s", "gain", "differ by", "not opt.", "fallback")
    rows = (
        (
            m.layer,
            m.norm,
            f"{m.rate(1):.0f}",
            f"{m.rate(2):.0f}",
            f"{m.gain:.2f}",
            f"{m.largest_difference:.0e}",
            str(m.not_optimal),
            str(m.fallback),
        )
        for m in measured
    )
    title = f"observations a second, batches of {measured[0].observations}, best of {len(measured[0].seconds[1])}"
    console.print(_table(title, headings, rows))
    return {"batches": [{**asdict(m), "gain": m.gain} for m in measured]}


def _network(command: Command, folder: Path, console: Console) -> dict[str, Any]:
    count = command.instances or (QUICK_OBSERVATIONS if command.quick else None)
    with _bar(console) as progress:
        measured = measure_network(count, command.seed, progress=progress)
    console.print(network_table(measured))
    console.print(NETWORK_CAPTION, highlight=False)
    return {"observations": [_observation(m) for m in measured]}


def _observation(m: Inverted) -> dict[str, Any]:
    compared = {b: {"ratio": m.ratio(b), "difference": m.difference(b)} for b in BASELINES}
    return {**asdict(m), "compared": compared}


def _cold_start(command: Command, folder: Path, console: Console) -> dict[str, Any]:
    measured = measure_cold_start()
    headings = ("cache", "process", "import", "first l1", "first linf", "second l1", "second linf")
    rows = (
        (m.cache, *(f"{s:.3f}" for s in (m.process, m.importing, m.first_l1, m.first_linf, m.second_l1, m.second_linf)))
        for m in measured
    )
    console.print(_table("seconds in a new process, programs of 30 x 5", headings, rows))
    return {"processes": [asdict(m) for m in measured]}


def _search(command: Command, folder: Path, console: Console) -> dict[str, Any]:
    """Generator by generator; an interrupted run leaves the numbers of those that were finished."""
    count = command.instances or (QUICK_INSTANCES if command.quick else None)
    every = QUICK_CELLS if command.quick else cells()
    chosen = [cell for cell in every if not command.generators or cell.generator in command.generators]
    outcomes: list[SearchOutcome] = []
    for generator in dict.fromkeys(cell.generator for cell in chosen):
        part = [cell for cell in chosen if cell.generator == generator]
        with _bar(console) as progress:
            measured = list(measure_search(count, command.seed, part, progress=progress))
        console.print(search_table(measured))
        outcomes += measured
        _write(command, folder, _outcomes(outcomes))
    console.print(SEARCH_CAPTION, highlight=False)
    search_plot.draw(outcomes, describe()).savefig(folder / "search.png", dpi=200)
    with _bar(console) as progress:
        norms = measure_norms(count, command.seed, progress)
    console.print(norms_table(norms))
    console.print(NORMS_CAPTION, highlight=False)
    return {**_outcomes(outcomes), "norms": asdict(norms)}


def _outcomes(outcomes: Iterable[SearchOutcome]) -> dict[str, Any]:
    return {"outcomes": [{**asdict(o), "per_success": o.per_success} for o in outcomes]}


def _certify(command: Command, folder: Path, console: Console) -> dict[str, Any]:
    """Cell by cell; an interrupted run leaves the numbers of those that were finished."""
    plan = QUICK if command.quick else CertifyPlan()
    if command.instances:
        plan = replace(plan, instances=command.instances, compared=min(plan.compared, command.instances))
    found: list[Proved] = []
    with _bar(console) as progress:
        for observations in measure_certify(plan, command.seed, progress=progress):
            found += observations
            _write(command, folder, _proofs(plan, found))
    for table in (certify_table(summarise_cells(found)), boxes_table(found), open_table(found)):
        console.print(table)
    console.print(CERTIFY_CAPTION, highlight=False)
    certify_plot.draw(found, describe()).savefig(folder / "certify.png", dpi=200)
    return _proofs(plan, found)


def _proofs(plan: CertifyPlan, found: list[Proved]) -> dict[str, Any]:
    observations = [{**asdict(p), "agrees": p.agrees, "contradicts": p.contradicts} for p in found]
    return {"plan": asdict(plan), "summary": [asdict(s) for s in summarise_cells(found)], "observations": observations}


def _table(title: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("layer", "norm", "cache") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _module(name: str) -> Callable[[Command, Path, Console], dict[str, Any]]:
    """A measurement that is a module of this package, with ``measure(quick, seed)``; it has no table of its own."""

    def run_module(command: Command, folder: Path, console: Console) -> dict[str, Any]:
        module = import_module(f"unrelu_studies.benchmarks.{name}")
        numbers: dict[str, Any] = module.measure(command.quick, command.seed)
        return numbers

    return run_module


# The names that the command line takes.
MEASUREMENTS: dict[str, Callable[[Command, Path, Console], dict[str, Any]]] = {
    "layers": _layers,
    "throughput": _throughput,
    "network": _network,
    "cold-start": _cold_start,
    "search": _search,
    "certify": _certify,
    **{
        name: _module(name)
        for name in (
            "startup", "verdict", "recovery", "identifiability", "baselines", "prior", "time_limit", "datasets",
            "lp_forms", "degenerate",
        )
    },
}  # fmt: skip

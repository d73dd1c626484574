"""The demonstration: noisy digits, every method, a table, a picture and a record of every run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from unrelu import zoo
from unrelu.problem import Progress as State
from unrelu.result import Inversion, Status
from unrelu.solve import invert
from unrelu.stores import records, write_records
from unrelu.streams import stream

__all__ = ["SEED", "Section", "draw", "run_demo"]

Array = npt.NDArray[np.float64]

_NOISE = 0.1
SEED = 2026
_LAYERWISE = ("linf", "l1", "relaxed", "least_squares")
_REFINED = "linf, then lm"
_JOINT = ("lm", "gradient_descent", "auto")
# Ten thousand gradient steps on a convolutional generator take minutes; the table shows how many were made.
_DESCENT_SECONDS = 5.0


@dataclass
class Section:
    """One generator on one kind of observation, and what every method made of it.

    Attributes:
        model: name in the zoo.
        real: noisy held-out digits instead of noisy outputs of the generator.
        count: number of observations.
        methods: labels of the methods to run.
        seed: of the true codes or the choice of digits, of the noise, and of the methods' starts, each its own stream.
    """

    model: str
    real: bool
    count: int
    methods: tuple[str, ...]
    seed: int = SEED
    clean: Array = field(init=False)
    observed: Array = field(init=False)
    codes: Array | None = field(init=False, default=None)
    results: dict[str, Inversion] = field(init=False, default_factory=dict)
    seconds: dict[str, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        network = zoo.load(self.model)
        truth, noise = (stream(f"demo, {what}", self.seed, self.model, self.real) for what in ("truth", "noise"))
        if self.real:
            digits = zoo.observations(self.model)
            self.clean = digits[truth.permutation(len(digits))[: self.count]]
        else:
            self.codes = truth.standard_normal((self.count, network.latent_dim))
            self.clean = network(self.codes)
        self.observed = self.clean + noise.normal(0, _NOISE, self.clean.shape)

    @property
    def title(self) -> str:
        """What is inverted."""
        what = "real digits" if self.real else "its own digits"
        return f"{self.model}: {self.count} of {what}, Gaussian noise {_NOISE}"

    def run(self, method: str, report: Any) -> None:
        """Invert the observations by one method and keep the result."""
        noise = f"gaussian:{_NOISE}"
        network = zoo.load(self.model)
        if method == _REFINED:
            start = self.results["linf"]
            result = invert(network, self.observed, "lm", noise=noise, z0=start.z, callback=report)
            self.seconds[method] = result.seconds + start.seconds
        else:
            limit = _DESCENT_SECONDS if method == "gradient_descent" else None
            result = invert(
                network, self.observed, method, noise=noise, seed=self.seed, callback=report, time_limit=limit
            )
            self.seconds[method] = result.seconds
        self.results[method] = result

    def latent_error(self, result: Inversion) -> float | None:
        """Median of |z - z*| / |z*|, where the true codes are known."""
        if self.codes is None:
            return None
        error = np.linalg.norm(result.z - self.codes, axis=1) / np.linalg.norm(self.codes, axis=1)
        return float(np.median(error))


def sections(seed: int = SEED) -> list[Section]:
    """What the demonstration runs, drawn from a seed.

    The wide generators get fewer observations. The last layer of mnist-dcgan does not expand, so it is not inverted
    layer by layer.
    """
    every = (*_LAYERWISE, _REFINED, "gradient_descent", "auto")
    return [
        Section("mnist-relu", False, 12, every, seed),
        Section("mnist-relu", True, 12, every, seed),
        Section("mnist-sigmoid", False, 2, every, seed),
        Section("mnist-leaky", False, 2, (*every, "lm"), seed),
        Section("mnist-dcgan", False, 4, _JOINT, seed),
    ]


def run_demo(folder: Path, console: Console, seed: int = SEED) -> list[Section]:
    """Run every section; print the tables; write ``grid.png`` and ``results.jsonl`` into ``folder``."""
    done = sections(seed)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=sum(len(s.methods) for s in done))
        finished = 0
        for section in done:
            for method in section.methods:
                bar.update(task, description=f"{section.model:13} {method:16}", completed=finished)
                section.run(method, partial(_report, bar, task, finished))
                finished += 1
        bar.update(task, completed=finished, description=f"{'done':30}")
    for section in done:
        console.print(_table(section))
    console.print(
        "Medians over the observations. Steps: layer problems solved, or iterations of the joint methods; gradient",
        f"descent gets {_DESCENT_SECONDS:g} s a generator for its 10,000. Fits: residuals that Gaussian noise of this",
        "size explains (chi-square, 99%). Real digits are no outputs of a small generator: nothing fits them well.",
    )
    draw(done).savefig(folder / "grid.png", dpi=110)
    write_records(folder / "results.jsonl", _records(done))
    console.print(f"written: {folder / 'grid.png'} {folder / 'results.jsonl'}")
    return done


def _report(bar: Progress, task: TaskID, finished: int, state: State) -> None:
    """Show one method's progress as a part of a step of the bar."""
    bar.update(task, completed=finished + state.done / state.total)


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in ("latent error", "l2", "l1", "linf", "steps", "s/image", "fits"):
        table.add_column(heading, justify="right")
    for method, result in section.results.items():
        error = section.latent_error(result)
        residuals = (f"{np.median(result.residual(norm)):.3g}" for norm in ("l2", "l1", "linf"))
        # A code that was found again is a success, however badly it fits.
        fits = f"{int((result.success & (result.status != Status.REFOUND)).sum())}/{section.count}"
        seconds = f"{np.median(section.seconds[method]):.3f}"
        steps = f"{np.median(result.nit):.0f}"
        table.add_row(method, "-" if error is None else f"{error:.3f}", *residuals, steps, seconds, fits)
    truth = np.abs(section.observed - section.clean).reshape(section.count, -1)
    norms = (np.linalg.norm(truth, axis=1), truth.sum(axis=1), truth.max(axis=1))
    table.add_row("(clean image)", "", *(f"{np.median(n):.3g}" for n in norms), "", "", "", style="dim")
    return table


def _records(done: list[Section]) -> Iterator[dict[str, Any]]:
    for section in done:
        for method, result in section.results.items():
            for i, row in enumerate(records(result)):
                known = {"model": section.model, "real": section.real, "noise": f"gaussian:{_NOISE}"}
                yield {**known, **row, "method": method, "seconds": float(section.seconds[method][i])}


def draw(done: list[Section], rows: int = 2) -> Figure:
    """A grid of images: clean, observed and what each method found, up to ``rows`` observations of each section."""
    used = {method for section in done for method in section.methods}
    headings = ["clean", "observed", *(m for m in (*_LAYERWISE, _REFINED, *_JOINT) if m in used)]
    lines = [(section, i) for section in done for i in range(min(rows, section.count))]
    figure = Figure(figsize=(1.15 * len(headings) + 0.9, 1.12 * len(lines) + 0.5), layout="constrained")
    axes = figure.subplots(len(lines), len(headings), squeeze=False)
    for row, (section, i) in zip(axes, lines, strict=True):
        low, high = (-1.0, 1.0) if section.clean.min() < -0.5 else (0.0, 1.0)
        images = {"clean": section.clean[i], "observed": section.observed[i]}
        images |= {method: result.x[i] for method, result in section.results.items()}
        for axis, heading in zip(row, headings, strict=True):
            axis.set_axis_off()
            if heading in images:
                axis.imshow(images[heading].reshape(28, 28), cmap="gray_r", vmin=low, vmax=high)
        if i == 0:
            label = f"{section.model}\n{'real digits' if section.real else 'own digits'}"
            row[0].text(-0.12, 0.5, label, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(heading.replace(", ", ",\n").replace("_", "\n"), fontsize=9)
    return figure

"""The demonstration: several methods on noisy digits, with tables, a picture and a record of every inversion."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from unrelu import zoo
from unrelu._invert import invert
from unrelu.cli.result_folders import records
from unrelu.display.progress_bar import bar_of
from unrelu.display.text_tables import text_table
from unrelu.result import Inversion
from unrelu.runtime.array_types import Array
from unrelu.runtime.file_writing import write_records
from unrelu.runtime.streams import stream

SEED = 2026
_NOISE = "gaussian:0.1"
_REFINED = "linf, then lm"
_WITHOUT_LAYERS = ("gradient_descent", "adam", "lm", "auto")
METHODS = ("linf", "l1", "least_squares", "gradient_descent", "adam", _REFINED, "lm", "auto")
_HEADINGS = ("method", "explained", "latent error", "residual / noise", "ms/image")
# A number of steps instead of a time limit, so that results do not depend on the speed of the machine.
_DESCENT_STEPS = 2_000
_LEGEND = f"""\
Methods are in the order of their residuals; near ties depend on the seed. Explained: p-value at least 0.01 under the
stated noise. Residual: |y - G(z)| over the norm of the noise. Latent error: |z - z*| / |z*|. Medians.
gradient_descent makes {_DESCENT_STEPS:,} steps from one start, adam those of its paper: 1,000 from each of ten, for
mnist-dcgan 500 from each of two. Real digits are out of the generator's range, so noise alone does not explain them.
The picture shows the first observation of each table."""


@dataclass
class Section:
    """One generator, one kind of observation, and the results of every method.

    Attributes:
        model: the name of the generator in the zoo.
        real: whether observations are noisy held-out digits instead of noisy outputs of the generator.
        count: the number of observations.
        methods: the labels of the methods in the order of their runs: a refinement runs after its start.
        seed: the seed of the true codes or the choice of digits, the noise and the starts; each has its own stream.
    """

    model: str
    real: bool
    count: int
    methods: tuple[str, ...] = METHODS
    seed: int = SEED
    results: dict[str, Inversion] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.network = zoo.load(self.model)
        truth, noise = (stream(f"demo, {what}", self.seed, self.model, self.real) for what in ("truth", "noise"))
        self.codes: Array | None = None
        if self.real:
            digits = zoo.observations(self.model)
            self.clean = digits[truth.permutation(len(digits))[: self.count]]
        else:
            self.codes = truth.standard_normal((self.count, self.network.latent_dim))
            self.clean = self.network(self.codes)
        self.observed = self.clean + noise.normal(0, 0.1, self.clean.shape)

    def run(self, method: str) -> None:
        """Invert the observations by one method and keep the result. A refinement's time includes its start's time."""
        start = self.results["linf"] if method == _REFINED else None
        options: dict[str, Any] = {"max_iterations": _DESCENT_STEPS} if method == "gradient_descent" else {}
        if method == "adam" and self.model == "mnist-dcgan":
            options = {"setting": "celeba"}  # the setting of Adam's paper for such generators
        name, z0 = ("lm", start.z) if start else (method, None)
        result = invert(self.network, self.observed, name, noise=_NOISE, z0=z0, seed=self.seed, **options)
        if start:
            result = replace(result, batch=replace(result.batch, seconds=result.seconds + start.seconds))
        self.results[method] = result

    def table(self) -> list[str]:
        """Return a table of the methods, from the smallest residual to the largest."""
        noise = np.linalg.norm((self.observed - self.clean).reshape(self.count, -1), axis=1)
        misfits = {method: np.median(result.residual("l2") / noise) for method, result in self.results.items()}
        rows = []
        for method, misfit in sorted(misfits.items(), key=lambda item: item[1]):
            result, latent = self.results[method], "unknown"
            if self.codes is not None:
                errors = np.linalg.norm(result.z - self.codes, axis=1) / np.linalg.norm(self.codes, axis=1)
                latent = f"{np.median(errors):.2f}"
            explained, time = f"{result.success.sum()}/{self.count}", f"{1e3 * np.median(result.seconds):.0f}"
            rows.append([method, explained, latent, f"{misfit:.2f}", time])
        what = "real digits" if self.real else "its own digits"
        title = f"{self.model}: {self.count} of {what}, noise {_NOISE}"
        return [title, *text_table(_HEADINGS, rows, ("method",)), ""]


def sections(seed: int = SEED) -> list[Section]:
    """Return the sections of the demonstration for a seed. Wide generators get fewer observations."""
    return [
        Section("mnist-relu", False, 24, seed=seed),
        Section("mnist-relu", True, 24, seed=seed),
        Section("mnist-sigmoid", False, 4, seed=seed),
        Section("mnist-leaky", False, 4, seed=seed),
        Section("mnist-dcgan", False, 6, _WITHOUT_LAYERS, seed),  # its last layer does not expand
    ]


def run_demo(folder: Path, console: Console, seed: int = SEED) -> str:
    """Run every section; write ``grid.png`` and ``results.jsonl`` into ``folder``; return the tables."""
    done, rows = sections(seed), []
    with bar_of(console, "", sum(len(section.methods) for section in done)) as bar:
        for section in done:
            for method in section.methods:
                bar.update(bar.task_ids[0], description=f"{section.model:13} {method:16}")
                section.run(method)
                bar.advance(bar.task_ids[0])
                known = {"model": section.model, "real": section.real, "noise": _NOISE}
                rows += [{**known, **row, "method": method} for row in records(section.results[method])]
    draw(done).savefig(folder / "grid.png", dpi=110)
    write_records(folder / "results.jsonl", rows)
    written = f"written: {folder / 'grid.png'} {folder / 'results.jsonl'}"
    return "\n".join([*(line for section in done for line in section.table()), _LEGEND, written])


def draw(done: list[Section]) -> Figure:
    """Draw a grid of images. A row shows truth, first observation and its reconstructions for one section."""
    figure = Figure(figsize=(1.22 * (len(METHODS) + 3), 1.62 * len(done) + 1.2), layout="constrained")
    figure.suptitle("The first observation of each table, G(z) of each method, and whether noise explains the rest")
    axes = figure.subplots(len(done), len(METHODS) + 3, squeeze=False)
    for axis, heading in zip(axes[0][1:], ("truth", "observed", *METHODS), strict=True):
        axis.set_title(heading.replace(", ", ",\n").replace("_", "\n"), fontsize=12)
    for row, section in zip(axes, done, strict=True):
        paper = -1.0 if section.clean.min() < -0.5 else 0.0
        what = "real digits,\nnot in its range" if section.real else "its own digits"
        _write(row[0], f"{section.model}\n{what}")
        for axis, image in zip(row[1:], (section.clean[0], section.observed[0]), strict=False):
            _show(axis, image, paper)
        for axis, method in zip(row[3:], METHODS, strict=True):
            if (result := section.results.get(method)) is None:
                _write(axis, "needs\nexpanding\nlayers")
                continue
            _show(axis, result.reconstruction[0], paper)
            p, color = float(result.p_value[0]), "darkgreen" if result.success[0] else "firebrick"
            text = f"{result.status[0].name}\n" + ("p < 0.001" if p < 1e-3 else f"p = {p:.2g}")
            axis.text(0.5, -0.04, text, transform=axis.transAxes, ha="center", va="top", fontsize=9, color=color)
    return figure


def _write(axis: Axes, text: str) -> None:
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=10)


def _show(axis: Axes, image: Array, paper: float) -> None:
    axis.set_axis_off()
    axis.imshow(image.reshape(28, 28), cmap="gray_r", vmin=paper, vmax=1.0)

"""Theorem 1 and Example 1: formulas as networks, and a preimage that is not convex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unrelu._certify import certify
from unrelu.certification.certificate import Certificate
from unrelu_studies.kit.measures import share
from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict
from unrelu_studies.paper.hardness import SEPARATION, example_1, random_formula, reduction

_VARIABLES = (8, 9, 10)
_RATIO = 4.26  # clauses a variable where half of large random formulas are satisfiable
_NODES = 5_000
# What counts as 0 where it is not exact: an answer of the search, a bound.
_ZERO = 1e-6

# Multiples of 1/4: every kink and level of the residual runs along edges and diagonals of the grid's cells, where
# linear interpolation draws it exactly.
_REACH, _STEP = 2.75, 0.25
_RING = "#e69f00"


def _units(quick: bool) -> list[Unit]:
    """A formula each."""
    variables = (8,) if quick else _VARIABLES
    return [(n, i) for n in variables for i in range(5 if quick else 16)]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    n, index = int(unit[0]), int(unit[1])
    formula = random_formula(n, round(_RATIO * n), draw_seed(random("formulas", seed, "theorem1", *unit)))
    task = reduction(formula)
    models = formula.models()
    assignments = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
    residual = np.abs(task.observation - task.network(task.encode(assignments))).max(axis=1)
    # The codes that reach y exactly are those of the models, and no others.
    same = bool(np.array_equal(assignments[residual == 0], models))
    result = run(
        "auto", task.network, task.observation, norm="linf", seed=draw_seed(random("starts", seed, "theorem1", *unit))
    )
    proof = certify(task.network, task.observation, result, norm="linf", box=False, max_nodes=_NODES)
    assert isinstance(proof, Certificate)
    return [
        (n, index, len(models), same, float(residual.min()), float(result.fun), proof.lower, proof.upper, proof.nodes)
    ]


def _draw(numbers: Numbers) -> Figure:
    figure, (axis,) = panels(height=2.9)
    order = sorted(numbers.rows, key=lambda row: (row[2] > 0, row[0], row[5]))
    sorted_rows = replace(numbers, rows=tuple(order))
    place = np.arange(len(order))
    unsatisfiable = int((sorted_rows.column("models") == 0).sum())
    axis.axhspan(0, SEPARATION, 0, unsatisfiable / len(order), color="0.9", zorder=0)
    axis.text(
        (unsatisfiable - 1) / 2, SEPARATION / 2, "none can\nbe here", ha="center", va="center", fontsize=7, color="0.35"
    )
    axis.axvline(unsatisfiable - 0.5, color="0.5", linewidth=0.8)
    for column, marker, color, label in (
        ("assignment", "s", "#56b4e9", "best assignment"),
        ("found", "x", "#d55e00", "found by auto"),
        ("lower", "^", "#009e73", "proved lower bound"),
    ):
        values = sorted_rows.column(column).astype(float)
        edge = color if marker == "x" else "white"
        axis.plot(place, values, marker, color=color, markersize=4.5, markeredgecolor=edge, label=label)
    tidy(axis, "random formulas", r"$|y - G(z)|_\infty$")
    axis.set_xlim(-0.5, len(order) - 0.5)
    axis.set_xticks(
        [(unsatisfiable - 1) / 2, (unsatisfiable + len(order) - 1) / 2], ["unsatisfiable", "satisfiable"], fontsize=7
    )
    figure.legend(loc="outside upper center", ncols=3, fontsize=7, frameon=False, handletextpad=0.3, columnspacing=1)
    return figure


def _claims(numbers: Numbers) -> Sequence[Claim]:
    models = numbers.column("models").astype(int)
    best, found = numbers.column("assignment").astype(float), numbers.column("found").astype(float)
    lower, upper = numbers.column("lower").astype(float), numbers.column("upper").astype(float)
    yes = models > 0
    as_said = numbers.column("same").astype(bool) & ((best == 0) == yes)
    decided = np.where(yes, upper <= _ZERO, lower > _ZERO)
    wrong = np.where(yes, lower > _ZERO, (upper < SEPARATION - _ZERO) | (found < SEPARATION - _ZERO))
    nodes = numbers.column("nodes").astype(float)
    median = np.median(nodes[~yes]) if (~yes).any() else np.nan
    missed = share(found[yes] > _ZERO)
    return [
        Claim(
            "Theorem 1", "a formula is satisfiable exactly when its network reaches the observation",
            f"{yes.sum()} satisfiable and {(~yes).sum()} unsatisfiable formulas: over all assignments, "
            f"{as_said.sum()} of {len(yes)} networks give y exactly at the models and nowhere else; over all real "
            f"codes, branch and bound agrees on {share(decided):.1%}",
            Verdict.of(bool(as_said.all() and decided.all()), bool(as_said.all() and not wrong.any())),
            "branch and bound has not decided all of them, and contradicts none",
        ),
        Claim(
            "unrelu", "an unsatisfiable formula leaves a gap of 1/2 over all real codes",
            f"proofs or codes that contradict it: {wrong.sum()} of {len(yes)}; smallest value found for an "
            f"unsatisfiable one {found[~yes].min() if (~yes).any() else np.nan:.4g}",
            Verdict.of(not wrong.any()),
        ),
        Claim(
            "unrelu", "a search that is not exhaustive can miss what can be reached, while branch and bound decides",
            f"auto misses {missed:.0%} of the satisfiable ones; branch and bound decides {share(decided):.0%} of all "
            f"within {_NODES} nodes, median {median:.0f} where unsatisfiable",
            Verdict.of(missed > 0 and bool(decided.all()), bool(decided.mean() >= 0.5)),
            "some formulas need more nodes" if missed else "the search found all of these; larger ones are harder",
        ),
    ]  # fmt: skip


def _example_units(quick: bool) -> list[Unit]:
    return [("grid",)]


def _example_measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    """The largest error on a grid, at the two codes, and at the midpoint; nothing is random."""
    example = example_1()
    axis = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    rows: list[Row] = []
    for what, z in (("grid", grid), ("code", example.codes), ("midpoint", example.codes.mean(axis=0)[None])):
        residual = np.abs(example.observation - example.network(z)).max(axis=-1)
        rows += [(what, *code, value) for code, value in zip(z.tolist(), residual.tolist(), strict=True)]
    return rows


def _points(numbers: Numbers, what: str) -> np.ndarray:
    return np.stack([numbers.column(c, what=what).astype(float) for c in ("z1", "z2", "residual")])


def _example_draw(numbers: Numbers) -> Figure:
    figure, (axis,) = panels(height=3.45)
    x, _, residual = _points(numbers, "grid")
    ticks = np.unique(x)
    values = residual.reshape(len(ticks), len(ticks))
    filled = axis.contourf(ticks, ticks, values, levels=np.arange(0, 3.75, 0.25), cmap="Blues")
    axis.contourf(ticks, ticks, values, levels=[-1, 1e-12], colors=[_RING])
    axis.contour(ticks, ticks, values, levels=[1e-12], colors="black", linewidths=0.9)
    codes, middle = _points(numbers, "code")[:2], _points(numbers, "midpoint")[:2]
    axis.plot(*codes, color="black", linewidth=1.2, linestyle=(0, (4, 2)))
    (dots,) = axis.plot(*codes, "o", color="black", markersize=5, linestyle="", label="two codes in it")
    (cross,) = axis.plot(
        *middle, "X", color="black", markerfacecolor="white", markersize=8, linestyle="",
        label="their midpoint, not in it",
    )  # fmt: skip
    axis.set_aspect("equal")
    axis.set_xticks(range(-2, 3))
    axis.set_yticks(range(-2, 3))
    axis.set_xlabel("$z_1$", fontsize=8)
    axis.set_ylabel("$z_2$", fontsize=8)
    axis.tick_params(length=2, labelsize=7)
    bar = figure.colorbar(filled, ax=axis, ticks=range(4))
    bar.set_label(r"$|y - G(z)|_\infty$", fontsize=8)
    bar.ax.tick_params(length=2, labelsize=7)
    ring = Patch(facecolor=_RING, edgecolor="black", label="the preimage, $G(z) = y$")
    figure.legend(handles=[ring, dots, cross], loc="outside upper center", frameon=False, fontsize=7)
    return figure


def _example_claims(numbers: Numbers) -> Sequence[Claim]:
    ends, middle = _points(numbers, "code")[2], _points(numbers, "midpoint")[2]
    return [
        Claim(
            "Example 1", "the preimage of a network with two layers need not be convex",
            f"errors at two codes {ends[0]:g} and {ends[1]:g}, at their midpoint {middle[0]:g}",
            Verdict.of(bool((ends == 0).all() and (middle > 0).all())),
        )
    ]  # fmt: skip


EXPERIMENTS = {
    "theorem1": Experiment(
        name="theorem1",
        title="Theorem 1: random 3SAT formulas as networks",
        about=(
            f"Random 3SAT formulas of 8 to 10 variables with {_RATIO:g} clauses a variable, through "
            "`unrelu_studies.paper.hardness.reduction`. All assignments are tried in the network; auto searches all "
            f"real codes, and branch and bound (`unrelu.certify`, up to {_NODES} nodes) bounds the smallest error over "
            "them."
        ),
        columns=("variables", "formula", "models", "same", "assignment", "found", "lower", "upper", "nodes"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    ),
    "example1": Experiment(
        name="example1",
        title="Example 1: a preimage that is not convex",
        about=(
            "The network of two layers and two inputs of `unrelu_studies.paper.hardness.example_1`, with the largest "
            "error of the output on a grid. The paper claims such an example; the network is ours. Nothing is random."
        ),
        columns=("what", "z1", "z2", "residual"),
        units=_example_units,
        measure=_example_measure,
        draw=_example_draw,
        claims=_example_claims,
    ),
}

"""The page that puts our numbers beside the paper's claims, written from the numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unrelu.experiments import MODULES, load
from unrelu.experiments.experiment import Claim, Experiment, Numbers, Verdict

__all__ = ["claims_table", "page"]

_INTRODUCTION = """\
# The paper, reproduced

Every claim of the paper that a computer can judge, beside what came out here. `unrelu reproduce NAME` runs one of these
experiments, `make reproduce` all of them. This page is written from the numbers that they saved; the rules that decide
the verdicts are in the files of `unrelu.experiments`. Claims marked *unrelu* are our own. All networks, codes and noise
are drawn from the seed {seed}, which no setting was tuned on.
"""

_DIFFERENCES = """\
## Where the paper's code differs from its text

What we run follows the text, but for three things:

- Hidden layers also get h >= 0, as in the released code: they are outputs of a ReLU.
- The threshold that one layer ends with is where the next layer starts, divided by the median length of that layer's
  rows if that is above 1. The released code hands it down as it is; the theory has eps (1/c)^(d - i), with a c that
  nobody knows.
- The released code stops its relaxed variant by the errors of the *true* hidden layers, which a user does not have.
  Ours stops by the residual of the layer that it observes.

Gradient descent is the paper's: the gradient of half the squared error, with its two settings of step and iterations.
Where it starts is not said; here it starts from one draw of N(0, I). The paper's trained generator is not published;
ours has the same layers, see the zoo.
"""


def page(folder: Path, pictures: str, names: Sequence[str] = tuple(MODULES)) -> str:
    """The page as Markdown.

    Args:
        folder: where the numbers are.
        pictures: the way from the page to the pictures, "" or ending in "/".
        names: of the experiments, in order; those without numbers are left out.

    Raises:
        InputError: a file does not hold numbers.
    """
    found = [(load(n), Numbers.load(folder / f"{n}.json")) for n in names if (folder / f"{n}.json").exists()]
    judged = [(experiment, numbers, list(experiment.claims(numbers))) for experiment, numbers in found]
    seeds = ", ".join(str(seed) for seed in sorted({numbers.seed for _, numbers in found}))
    parts = [_INTRODUCTION.format(seed=seeds), _overview([claim for *_, claims in judged for claim in claims])]
    parts += [_section(experiment, numbers, claims, pictures) for experiment, numbers, claims in judged]
    return "\n".join([*parts, _DIFFERENCES])


def claims_table(experiment: Experiment, claims: Iterable[Claim]) -> Table:
    """The claims for the terminal."""
    table = Table(title=experiment.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_lines=False)
    for heading in ("where", "claim", "measured", "verdict"):
        table.add_column(heading, overflow="fold")
    for claim in claims:
        color = {Verdict.HOLDS: "green", Verdict.PARTLY: "yellow", Verdict.FAILS: "red"}[claim.verdict]
        because = "" if claim.verdict is Verdict.HOLDS or not claim.reason else f": {claim.reason}"
        table.add_row(claim.source, claim.says, claim.measured, f"[{color}]{claim.verdict.value}[/{color}]{because}")
    return table


def _overview(claims: Sequence[Claim]) -> str:
    """How many claims stand, and those of the paper that do not as they are."""
    lines = ["## Overview", "", "| | holds | holds partly | does not hold |", "|---|---|---|---|"]
    for whose, chosen in (
        ("claims of the paper and others", [c for c in claims if not _own(c)]),
        ("claims of ours", [c for c in claims if _own(c)]),
    ):
        counts = Counter(claim.verdict for claim in chosen)
        lines.append(f"| {whose} | " + " | ".join(str(counts[verdict]) for verdict in Verdict) + " |")
    lines += ["", "Not as claimed:", ""]
    lines += [
        f"- {claim.source}: {claim.says}. *{claim.verdict.value.capitalize()}*: {claim.measured}"
        + (f" ({claim.reason})" if claim.reason else "")
        for claim in claims
        if claim.verdict is not Verdict.HOLDS
    ]
    return "\n".join([*map(_escaped_star, lines), ""])


def _own(claim: Claim) -> bool:
    return claim.source.startswith("unrelu")


def _section(experiment: Experiment, numbers: Numbers, claims: Sequence[Claim], pictures: str) -> str:
    """One experiment: its picture, what was run, the claims, where the numbers are."""
    name, machine = experiment.name, numbers.machine
    lines = [
        f"## {experiment.title}", "", f"![{experiment.title}]({pictures}{name}.png)", "",
        _escaped_star(experiment.about), "", "| claim of | claim | measured here | verdict |", "|---|---|---|---|",
    ]  # fmt: skip
    for claim in claims:
        because = f": {claim.reason}" if claim.reason and claim.verdict is not Verdict.HOLDS else ""
        cells = (claim.source, claim.says, claim.measured, f"**{claim.verdict.value}**{because}")
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    how = f"unrelu reproduce {name}{' --quick' if numbers.quick else ''}"
    where = ", ".join(str(machine[key]) for key in ("processor", "date") if machine.get(key))
    lines += ["", f"`{how}`; {len(numbers.rows):,} rows in {name}.json; {where}.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table."""
    return _escaped_star(text.replace("|", "\\|"))


def _escaped_star(text: str) -> str:
    """z* is a code, not the begin of emphasis."""
    return text.replace("z*", "z\\*").replace("_i", "\\_i")

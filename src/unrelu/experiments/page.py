"""The page that puts our numbers beside the paper's claims, written from the numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from unrelu.errors import InputError
from unrelu.experiments import MODULES, load
from unrelu.experiments.experiment import Claim, Experiment, Numbers, Verdict

__all__ = ["claims_table", "page"]

_INTRODUCTION = """\
# The paper, reproduced

What the paper claims, beside what came out here. `unrelu reproduce NAME` runs one of these experiments,
`make reproduce` all of them. This page is written from the numbers that they saved; the rules that decide the verdicts
are in the files of `unrelu.experiments`, a function `claims` in each. Claims marked *unrelu* are our own, and some are
those of other papers. All networks, codes and noise are drawn from the seed {seed}, which was fixed before the first
run; the methods run with their defaults, or as stated.
"""

_DIFFERENCES = """\
## Where we differ from the paper, and where its code differs from its text

- Hidden layers also get h >= 0, as in the released code: they are outputs of a ReLU.
- The threshold that one layer ends with is where the next layer starts, divided by the median length of that layer's
  rows if that is above 1. The released code hands it down as it is; the theory has eps (1/c)^(d - i), with a c that
  nobody knows.
- The released code stops its relaxed variant by the errors of the *true* hidden layers, which a user does not have.
  Ours stops by the residual of the layer that it observes.
- The noise N(0, a) of the paper is N(0, a²) here: a is the standard deviation. Where the paper says that the variance
  is 0.3, both readings were run.
- Gradient descent is the paper's: the gradient of half the squared error, with its two settings of step and iterations.
  Where it starts is not said; here it starts from one draw of N(0, I).
- The paper's trained generator, a GAN, is not published. Ours has the same layers and was trained otherwise, as its
  card in the zoo says; how bright its pictures are differs as well.

## Not judged here

- That a layer's preimage is a polytope, that (6) is the set of all codes within eps, and that with eps = 0 the
  solutions of (8) are the preimage: these are tested, on small layers (`tests/layer`).
- The running time of Theorem 2 in big O, and the expansion logarithmic in k that others need for gradient descent.
- What the paper cites from others.
"""


# How the sources of claims of other papers begin.
_OTHERS = ("PLUGIn", "Bora")


def page(folder: Path, pictures: str, names: Sequence[str] = tuple(MODULES)) -> str:
    """The page as Markdown.

    Args:
        folder: where the numbers are.
        pictures: the way from the page to the pictures, "" or ending in "/".
        names: of the experiments, in order; those without numbers are left out.

    Raises:
        InputError: a file does not hold numbers of this version.
    """
    found = [(load(n), Numbers.load(folder / f"{n}.json")) for n in names if (folder / f"{n}.json").exists()]
    for experiment, numbers in found:
        if numbers.columns != experiment.columns:
            raise InputError(
                f"{folder / experiment.name}.json has the columns of another version; run {experiment.name} again "
                "with --overwrite"
            )
    judged = [(experiment, numbers, list(experiment.claims(numbers))) for experiment, numbers in found]
    seeds = ", ".join(str(seed) for seed in sorted({numbers.seed for _, numbers in found}))
    parts = [_INTRODUCTION.format(seed=seeds), _overview([claim for *_, claims in judged for claim in claims])]
    if any(numbers.quick for _, numbers in found):
        parts.insert(1, _quick(found))
    parts += [_section(experiment, numbers, claims, pictures) for experiment, numbers, claims in judged]
    return "\n".join([*parts, _DIFFERENCES])


def _quick(found: Sequence[tuple[Experiment, Numbers]]) -> str:
    """A warning about small numbers of runs."""
    small = [experiment.name for experiment, numbers in found if numbers.quick]
    which = "All of it is" if len(small) == len(found) else f"Of these, {', '.join(small)} are"
    return f"**{which} from small runs (`--quick`), which decide little.**\n"


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
    for whose in ("the paper", "other papers", "unrelu"):
        chosen = [claim for claim in claims if _owner(claim) == whose]
        counts = Counter(claim.verdict for claim in chosen)
        lines.append(f"| claims of {whose} | " + " | ".join(str(counts[verdict]) for verdict in Verdict) + " |")
    lines += ["", "What the paper says and did not come out as it says it; numbers and reasons are below:", ""]
    lines += [
        f"- {claim.source}: {claim.says}. *{claim.verdict.value.capitalize()}.*"
        for claim in claims
        if _owner(claim) == "the paper" and claim.verdict is not Verdict.HOLDS
    ]
    return "\n".join([*map(_escaped_star, lines), ""])


def _owner(claim: Claim) -> str:
    """Whose claim it is."""
    if claim.source.startswith("unrelu"):
        return "unrelu"
    return "other papers" if claim.source.startswith(_OTHERS) else "the paper"


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

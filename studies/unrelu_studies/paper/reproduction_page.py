"""The page that puts our numbers beside the paper's claims, written from the numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from unrelu.errors import InputError
from unrelu_studies.kit.markdown_tables import escaped, table
from unrelu_studies.kit.numbers_file import Numbers
from unrelu_studies.kit.trained_generators import from_record
from unrelu_studies.paper import MODULES, load
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict

_INTRODUCTION = """\
# The paper, reproduced

What the paper claims, beside what came out here. `unrelu reproduce NAME` runs one of these experiments, and
`make reproduce` runs all of them. This page is written from the numbers that they saved. A function `claims` in each
file of `studies/unrelu_studies/paper` decides the verdicts. Claims marked *unrelu* are our own. Networks, codes, noise
and starts are drawn from separate streams under the seed {seed}, which was fixed before the first run.

A claim that has several *readings* is one row. Its verdict is followed by those of the readings: another network, or
another meaning of the paper's words. A claim of the paper holds if it does as run in its figure, and partly if it does
in another reading only. A claim of ours has to hold in all.
"""

_DIFFERENCES = """\
## Where we differ from the paper, and where its code differs from its text

- Hidden layers also get h >= 0, as in the released code: they are outputs of a ReLU.
- The threshold that one layer ends with is where the next layer starts, divided by the median length of that layer's
  rows if it is above 1. The theory has eps (1/c)^(d - i), with a c that nobody knows.
- The released code gives the linear programs the level of the noise. Here no method is told the noise, unless it is
  said.
- The released code stops its relaxed variant by the errors of the *true* hidden layers, which a user does not have.
  Ours stops by the residual of the layer that it observes.
- The released code inverts the observed pixels alone where some are hidden. The text has projected gradient descent.
- The noise N(0, a) of the paper is N(0, a²) here, as in the released code: a is the standard deviation.
- The paper says that its trained generator is a GAN. The weights in the authors' repository,
  https://github.com/cecilialeiqi/InvertGAN_LP, are those of VAEs, and have no licence, so no number here is of them.
  With the file: `unrelu reproduce fig1c fig1d fig3 fig4 --network FILE --layers fc3,fc4 --activation relu`.

Not judged here: the running time of Theorem 2 in big O, and what the paper cites from others. That (6) is the set of
all codes within eps, and that with eps = 0 the solutions of (8) are the preimage, is tested in `tests/layerwise`.
"""


def page(folder: Path, pictures: str, names: Sequence[str] = tuple(MODULES)) -> str:
    """The page as Markdown.

    Args:
        folder: where the numbers are.
        pictures: the way from the page to the pictures, "" or ending in "/".
        names: of the experiments, in order; those without numbers are left out.

    Raises:
        InputError: a file does not hold numbers of this version.
    """
    found = []
    for name in names:
        if (path := folder / f"{name}.json").exists():
            numbers = Numbers.load(path)
            found.append((load(name, from_record(numbers.network) if numbers.network else None), numbers))
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


def claims_table(claims: Iterable[Claim]) -> str:
    """The claims as a Markdown table, readings of one in one row."""
    rows = []
    for readings in _grouped(claims):
        first = readings[0]
        cells = (first.source, first.says, first.measured, _judged(readings))
        rows.append([escaped(cell.replace("|", "\\|")) for cell in cells])
    return table(("claim of", "claim", "measured here", "verdict"), rows, rule="---")


def _judged(readings: Sequence[Claim]) -> str:
    """The verdict, those of the readings where they differ, and why the claim does not hold as it is."""
    verdict, each = together(readings), [claim.verdict for claim in readings]
    said = f"**{verdict.value}**"
    if len(set(each)) > 1:
        tried = "; ".join(f"{claim.reading or 'as run'}: {claim.verdict.value}" for claim in readings)
        said += f" ({tried})"
    elif len(each) > 1:
        said += f" in {len(each)} readings"
    reason = readings[0].reason
    return f"{said}: {reason}" if reason and verdict is not Verdict.HOLDS else said


def together(readings: Sequence[Claim]) -> Verdict:
    """The verdict on a claim from those on its readings, the first of which is how its figure runs it.

    One of a paper stands as that one does, and partly if any other stands; one of ours has to stand in all.
    """
    verdicts = [claim.verdict for claim in readings]
    whole = set(verdicts) == {Verdict.HOLDS} if _ours(readings[0]) else verdicts[0] is Verdict.HOLDS
    return Verdict.of(whole, set(verdicts) != {Verdict.FAILS})


def _ours(claim: Claim) -> bool:
    return claim.source.startswith("unrelu")


def _grouped(claims: Iterable[Claim]) -> list[list[Claim]]:
    """Claims with the readings of each together, that of its figure first."""
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.source, claim.says), []).append(claim)
    return [sorted(group, key=lambda claim: bool(claim.reading)) for group in groups.values()]


def _overview(claims: Sequence[Claim]) -> str:
    """How many claims stand."""
    rows = []
    for whose, ours in (("the paper", False), ("unrelu", True)):
        verdicts = Counter(together(group) for group in _grouped(claims) if _ours(group[0]) is ours)
        rows.append((f"claims of {whose}", *(verdicts[verdict] for verdict in Verdict)))
    return table(("", *(verdict.value for verdict in Verdict)), rows, rule="---") + "\n"


def _section(experiment: Experiment, numbers: Numbers, claims: Sequence[Claim], pictures: str) -> str:
    """One experiment: its picture, what was run, the claims, where the numbers are."""
    name, date = experiment.name, str(numbers.machine.get("date", ""))[:10]
    how = f"unrelu reproduce {name}{' --quick' if numbers.quick else ''}"
    lines = (
        f"## {experiment.title}", f"![{experiment.title}]({pictures}{name}.png)", escaped(experiment.about),
        claims_table(claims), f"`{how}`; {len(numbers.rows):,} rows in {name}.json; {date}.",
    )  # fmt: skip
    return "\n\n".join(lines) + "\n"

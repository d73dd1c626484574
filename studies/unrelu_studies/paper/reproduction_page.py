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

What the paper claims, beside what came out here. `unrelu reproduce NAME` runs one of these experiments,
`make reproduce` all of them. This page is written from the numbers that they saved; the rules that decide the verdicts
are in `studies/unrelu_studies/paper`, a function `claims` in each file. Claims marked *unrelu* are our own, some are
those of other papers. All networks, codes, noise and starts are drawn from streams of their own under the seed {seed},
which was fixed before the first run; the methods run with their defaults, or as stated.

A claim of the paper that does not come out as it says it is tried in other *readings* as well: another loss, step or
start of gradient descent where the paper does not say which, the stopping rule of the released code, a generator
trained as the authors train theirs. A claim of a paper holds if it does as it is run in its figure, and partly if it
does so in another reading only. A claim of ours has to hold in all.
"""

_CHANGES = """## What changed since the first version

- *The authors' weights.* The first version said that the authors did not publish their trained network. They did:
  their repository, https://github.com/cecilialeiqi/InvertGAN_LP, has the weights of a 20-60-784 VAE without biases and
  of a LeakyReLU 20-200-500-784 one. They come without a licence and cannot be part of this package, so no number here
  is of them. Who has the files can run Figures 1(c), 1(d), 3 and 4 on them:
  `unrelu reproduce fig1c fig1d fig3 fig4 --network FILE --layers fc3,fc4 --activation relu`, and for the other one
  `--layers fc3,fc4,fc5 --activation leaky_relu:0.1`.
- *Readings.* What did not come out as the paper says it is tried in other readings. The overview lists which, and what
  came out. Figures 1(c), 1(d), 3 and 4 run on a plain VAE besides the zoo's generator, which is like the authors'.
- *Streams of their own.* Truths, noise, weights and starts come from different streams. Before, a method's start could
  equal a truth that was drawn from the same seed. All instances are other draws than in the first version.
- *Fewer runs.* Each section says how many runs it has; where the verdict allowed it, they are fewer than in the first
  version.
"""

_DIFFERENCES = """\
## Where we differ from the paper, and where its code differs from its text

- Hidden layers also get h >= 0, as in the released code: they are outputs of a ReLU.
- The threshold that one layer ends with is where the next layer starts, divided by the median length of that layer's
  rows if that is above 1. The released code hands it down as it is; the theory has eps (1/c)^(d - i), with a c that
  nobody knows.
- The released code gives the linear programs the level of the noise, as their first threshold. Here nothing is told,
  unless it is said.
- The released code stops its relaxed variant by the errors of the *true* hidden layers, which a user does not have.
  Ours stops by the residual of the layer that it observes; the released rule is run beside it, as a variant of the
  studies.
- The released code inverts the observed pixels alone where some are hidden. The text has projected gradient descent.
- The noise N(0, a) of the paper is N(0, a²) here, as in the released code: a is the standard deviation. Where the paper
  says that the variance is 0.3, both readings were run.
- Gradient descent is the paper's: the gradient of half the squared error, with its two settings of step and iterations.
  It is not in the released code, and neither the factor of the loss nor the start is said; here it starts from one draw
  of N(0, I). Other losses, steps and starts are a section of their own.
- The paper says that its trained generator is a GAN; the weights in the authors' repository are those of VAEs, by their
  names. Our generators have the same layers. The zoo's was trained otherwise, as its card says, and has more visible
  pixels; the plain VAE was trained as theirs.

## Not judged here

- That a layer's preimage is a polytope, that (6) is the set of all codes within eps, and that with eps = 0 the
  solutions of (8) are the preimage: these are tested, on small layers (`tests/layerwise`).
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
    return "\n".join([*parts, _DIFFERENCES, *([] if any(n.network for _, n in found) else [_CHANGES])])


def _quick(found: Sequence[tuple[Experiment, Numbers]]) -> str:
    """A warning about small numbers of runs."""
    small = [experiment.name for experiment, numbers in found if numbers.quick]
    which = "All of it is" if len(small) == len(found) else f"Of these, {', '.join(small)} are"
    return f"**{which} from small runs (`--quick`), which decide little.**\n"


def claims_table(claims: Iterable[Claim]) -> str:
    """The claims as a Markdown table, readings of one together."""
    rows = []
    for claim in (claim for readings in _grouped(claims) for claim in readings):
        because = f": {claim.reason}" if claim.reason and claim.verdict is not Verdict.HOLDS else ""
        said = f"{claim.says} (reading: {claim.reading})" if claim.reading else claim.says
        cells = (claim.source, said, claim.measured, f"**{claim.verdict.value}**{because}")
        rows.append([escaped(cell.replace("|", "\\|")) for cell in cells])
    return table(("claim of", "claim", "measured here", "verdict"), rows, rule="---")


def together(readings: Sequence[Claim]) -> Verdict:
    """The verdict on a claim from those on its readings, the first of which is how its figure runs it.

    One of a paper stands as that one does, and partly if any other stands; one of ours has to stand in all.
    """
    verdicts = [claim.verdict for claim in readings]
    if _owner(readings[0]) == "unrelu":
        return Verdict.of(set(verdicts) == {Verdict.HOLDS}, set(verdicts) != {Verdict.FAILS})
    return Verdict.of(verdicts[0] is Verdict.HOLDS, set(verdicts) != {Verdict.FAILS})


def _grouped(claims: Iterable[Claim]) -> list[list[Claim]]:
    """Claims with the readings of each together, that of its figure first."""
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.source, claim.says), []).append(claim)
    return [sorted(group, key=lambda claim: bool(claim.reading)) for group in groups.values()]


def _overview(claims: Sequence[Claim]) -> str:
    """How many claims stand, and those of the paper that do not as they are, with the readings that were tried."""
    groups = _grouped(claims)
    counts = []
    for whose in ("the paper", "other papers", "unrelu"):
        verdicts = Counter(together(group) for group in groups if _owner(group[0]) == whose)
        counts.append((f"claims of {whose}", *(verdicts[verdict] for verdict in Verdict)))
    failed = [g for g in groups if _owner(g[0]) == "the paper" and together(g) is not Verdict.HOLDS]
    lines = (
        "## Overview", table(("", *(verdict.value for verdict in Verdict)), counts, rule="---"),
        "What the paper says and did not come out as it says it; numbers and reasons are below:",
        "\n".join(map(_not_as_said, failed)),
    )  # fmt: skip
    return escaped("\n\n".join(lines)) + "\n"


def _not_as_said(readings: Sequence[Claim]) -> str:
    """A claim, whether it holds in any reading, and which other readings were tried."""
    first, *others = readings
    line = f"- {first.source}: {first.says}. *{together(readings).value.capitalize()}.*"
    if others:
        tried = "; ".join(f"{claim.reading}: {claim.verdict.value}" for claim in others)
        return f"{line} As run: {first.verdict.value}. Other readings: {tried}."
    return f"{line} No other reading: {first.only}." if first.only else line


def _owner(claim: Claim) -> str:
    """Whose claim it is."""
    if claim.source.startswith("unrelu"):
        return "unrelu"
    return "other papers" if claim.source.startswith(_OTHERS) else "the paper"


def _section(experiment: Experiment, numbers: Numbers, claims: Sequence[Claim], pictures: str) -> str:
    """One experiment: its picture, what was run, the claims, where the numbers are."""
    name, machine = experiment.name, numbers.machine
    how = f"unrelu reproduce {name}{' --quick' if numbers.quick else ''}"
    where = ", ".join(str(machine[key]) for key in ("processor", "date") if machine.get(key))
    lines = (
        f"## {experiment.title}", f"![{experiment.title}]({pictures}{name}.png)", escaped(experiment.about),
        claims_table(claims), f"`{how}`; {len(numbers.rows):,} rows in {name}.json; {where}.",
    )  # fmt: skip
    return "\n\n".join(lines) + "\n"

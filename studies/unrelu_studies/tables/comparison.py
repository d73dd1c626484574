"""Two commits on the same observations: what changed in the answers of `families`, `hard` and `emulators`, and in time.

Each folder holds the numbers of one of them, ``NAME.json``; what both have of the three is compared.

    python -m unrelu_studies.tables.comparison BEFORE AFTER

Shares have intervals of Clopper and Pearson. "Lost, won" are observations whose code is the best only before, or only
after; p is that of McNemar's exact test. The best known objective is the lower one of both runs. The ratio of times is
the geometric mean over the cells with Student's interval of the logarithms, and that of the sums; times are of the
processor.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, t

from unrelu.errors import InputError
from unrelu_studies.benchmarks.searches.families import SURE
from unrelu_studies.kit.binomial import counted, share
from unrelu_studies.kit.families.family_observations import WITHIN
from unrelu_studies.kit.markdown_tables import table


class ComparedCell(NamedTuple):
    """One row of a benchmark.

    Attributes:
        best, confidence: of each observation.
        objective, known: of its code, and the best known; none where only exact fits count.
        p: p-values of own outputs; none where no noise is stated.
        milliseconds: of one observation.
    """

    best: list[bool]
    objective: list[float]
    known: list[float]
    confidence: list[float | None]
    p: list[float]
    milliseconds: float


# Cells of a benchmark by what identifies them.
Cells = dict[tuple[Any, ...], ComparedCell]


def _families(numbers: dict[str, Any]) -> Cells:
    return {
        (r["family"], r["measured"], r["source"]): ComparedCell(
            r["best"],
            r["objective"],
            r["known"],
            r["confidence"],
            r["p"] if r["source"] == "own" else [],
            r["milliseconds"],
        )
        for r in numbers["search"]
    }


def _hard(numbers: dict[str, Any]) -> Cells:
    return {
        (r["generator"], r["measured"], r["noise"]): ComparedCell(
            r["best"], r["objective"], r["known"], r["confidence"], [], r["milliseconds"]["auto"]
        )
        for r in numbers["rows"]
    }


def _emulators(numbers: dict[str, Any]) -> Cells:
    found: Cells = {}
    for r in numbers["rows"]:
        objective, known, p = (r["objective"], r["known"], r["p"]) if r["noisy"] else ([], [], [])
        found[r["emulator"], r["noisy"]] = ComparedCell(
            r["was best"], objective, known, r["confidence"], p, r["milliseconds"]["auto"]
        )
    return found


CELLS = {"families": _families, "hard": _hard, "emulators": _emulators}


def comparison(before: Path, after: Path) -> str:
    """The tables, as Markdown.

    Raises:
        InputError: no benchmark is in both folders, or their observations are of different seeds.
    """
    names = [name for name in CELLS if all((folder / f"{name}.json").exists() for folder in (before, after))]
    if not names:
        raise InputError(f"{before} and {after} have none of {', '.join(CELLS)}; run these benchmarks for both commits")
    return "\n\n".join(_compared(name, before, after) for name in names)


def _compared(name: str, *folders: Path) -> str:
    runs = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for folder in folders]
    seeds = [run["command"]["seed"] for run in runs]
    if seeds[0] != seeds[1]:
        raise InputError(f"{name} was run with seeds {seeds[0]} and {seeds[1]}; other seeds are other observations")
    both = [CELLS[name](run) for run in runs]
    keys = [key for key in both[0] if key in both[1]]
    pairs = [_same(both[0][key], both[1][key]) for key in keys]
    left_out = sum(map(len, both)) - 2 * len(keys)
    head = f"## {name}: {runs[0].get('commit')} and {runs[1].get('commit')}, {len(keys)} cells"
    said = f"\n\nNot in both, and left out: {left_out} cells." if left_out else ""
    return f"{head}{said}\n\n{table(('', 'before', 'after', 'change'), _rows(pairs))}"


def _same(first: ComparedCell, second: ComparedCell) -> list[ComparedCell]:
    """Both of the observations that they share, the first ones, by the lower of the best known objectives."""
    count, tested = (min(len(a), len(b)) for a, b in ((first.best, second.best), (first.p, second.p)))
    known = [min(pair) for pair in zip(first.known, second.known, strict=False)]
    return [
        cell._replace(
            best=[
                good and (not known or known[i] >= (1 - WITHIN) * cell.objective[i])
                for i, good in enumerate(cell.best[:count])
            ],
            confidence=cell.confidence[:count], p=cell.p[:tested],
        )
        for cell in (first, second)
    ]  # fmt: skip


def _rows(pairs: list[list[ComparedCell]]) -> Iterator[tuple[str, ...]]:
    sides = list(zip(*pairs, strict=True))
    best = [np.array([b for cell in side for b in cell.best], dtype=bool) for side in sides]
    lost, won = int((best[0] & ~best[1]).sum()), int((best[1] & ~best[0]).sum())
    p = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    yield ("best codes", *(share(int(b.sum()), len(b)) for b in best), f"lost {lost}, won {won}, p = {p:.2g}")
    sure = [np.array([(c or 0.0) >= SURE for cell in side for c in cell.confidence]) for side in sides]
    yield ("sure", *(share(int(s.sum()), len(s)) for s in sure), f"{int(sure[1].sum()) - int(sure[0].sum()):+d}")
    wrong = [int((s & ~b).sum()) for s, b in zip(sure, best, strict=True)]
    yield (
        "sure and wrong",
        *(counted(w, int(s.sum())) for w, s in zip(wrong, sure, strict=True)),
        f"{wrong[1] - wrong[0]:+d}",
    )
    tested = [[value for cell in side for value in cell.p] for side in sides]
    if tested[0]:
        rejected = [sum(value < 0.01 for value in values) for values in tested]
        yield (
            "p < .01",
            *(counted(r, len(v)) for r, v in zip(rejected, tested, strict=True)),
            f"{rejected[1] - rejected[0]:+d}",
        )
    times = np.array([[cell.milliseconds for cell in side] for side in sides])
    yield ("ms an observation, sum over cells", *(f"{side.sum():.1f}" for side in times), time_ratio(*times))


def time_ratio(before: Any, after: Any) -> str:
    """The geometric mean of after / before with its interval, and the ratio of the sums."""
    logs, whole = np.log(np.divide(after, before)), f"of the sums {np.sum(after) / np.sum(before):.3f}"
    if len(logs) < 2:
        return whole
    half = float(t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)))
    low, middle, high = np.exp(logs.mean() + np.array([-half, 0.0, half]))
    return f"ratio {middle:.3f} ({low:.3f} to {high:.3f}), {whole}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare the numbers of two commits on the same observations.")
    parser.add_argument("before", type=Path, help="folder with NAME.json of one commit")
    parser.add_argument("after", type=Path, help="the same of the other")
    arguments = parser.parse_args()
    print(comparison(arguments.before, arguments.after))

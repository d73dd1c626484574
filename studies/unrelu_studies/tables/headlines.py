"""The first table of the page of benchmarks: what users ask first, with ours beside the best known peer.

Every cell is computed from the numbers of a benchmark. Sections further down have all rows, the losses among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from unrelu_studies.benchmarks.measurements.emulator_fits import share_of
from unrelu_studies.benchmarks.searches.families import sure_and_wrong
from unrelu_studies.benchmarks.searches.hard import share_and_time
from unrelu_studies.kit.binomial import counted, share
from unrelu_studies.kit.markdown_tables import short, table

# Numbers of a benchmark, by its name.
Numbers = Callable[[str], dict[str, Any]]
Row = tuple[str, str, str, str]


def headlines(results: Path) -> str:
    """The table, from a folder of numbers."""

    def numbers(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        return found

    rows = [
        *_hard(numbers("hard")["rows"]),
        *_families(numbers("families")["search"]),
        *_emulators(numbers("emulators")["rows"]),
        _large(numbers("large")["adam"]),
        *_layers(numbers("layers")["summary"]),
        _certify(numbers("certify")["summary"]),
    ]
    return table(("question", "unrelu", "peer", "section"), rows)


def _cell(found: int, count: int, milliseconds: Sequence[float]) -> str:
    """A share with its interval, and the median of milliseconds."""
    return f"{share(found, count)}, {short(median(milliseconds))} ms"


def _hard(rows: list[dict[str, Any]]) -> list[Row]:
    found = []
    for ambiguous, what in ((False, "data that determine the code"), (True, "ambiguous data")):
        chosen = [row for row in rows if row["ambiguous"] == ambiguous]
        ours, scipy, adam = (share_and_time(chosen, method) for method in ("auto", "scipy x10", "adam x10"))
        question = f"best codes, time of one: generators where descents get stuck, {what}"
        found.append((question, ours, f"SciPy x10 {scipy}; Adam x10 {adam}", "`hard`"))
    return found


def _families(rows: list[dict[str, Any]]) -> list[Row]:
    found = []
    for source, what in (("own", "their own outputs"), ("real", "real data")):
        half = [row for row in rows if row["measured"] == "half" and row["source"] == source]
        best = [b for row in half for b in row["best"]]
        ours = _cell(sum(best), len(best), [row["milliseconds"] for row in half])
        lm = [row["lm"] for row in half]
        peer = _cell(sum(r["best"] for r in lm), sum(r["count"] for r in lm), [r["milliseconds"] for r in lm])
        question = f"best codes, time of one: decoders as people train them, half of the outputs seen, {what}"
        found.append((question, ours, f"Levenberg-Marquardt x10 {peer}", "`families`"))
    sure, wrong = sure_and_wrong([row for row in rows if row["source"] == "own"])
    question = "sure answers that are wrong, their own outputs"
    return [*found, (question, counted(wrong, sure), "no peer says how sure it is", "`families`")]


def _emulators(rows: list[dict[str, Any]]) -> list[Row]:
    found = []
    for noisy, what in ((False, "without noise"), (True, "with noise")):
        chosen = [row for row in rows if row["noisy"] == noisy]
        ours, peer = (
            _cell(sum(share_of(row, method)[0] for row in chosen), sum(share_of(row, method)[1] for row in chosen),
                  [row["milliseconds"][method] for row in chosen])
            for method in ("auto", "trf x10")
        )  # fmt: skip
        found.append((f"best codes, time of one: emulators, {what}", ours, f"SciPy's trf x10 {peer}", "`emulators`"))
    return found


def _large(rows: list[dict[str, Any]]) -> Row:
    ratio = median(row["adam"] / row["second"] for row in rows)
    ours, peer = (median(row[name] for row in rows) for name in ("second", "adam"))
    question = "a code of a DCGAN of 3.5 million weights"
    return question, f"{short(ours)} s", f"Adam {short(peer)} s, {short(ratio)} times", "`large`"


def _layers(summary: list[dict[str, Any]]) -> list[Row]:
    found = []
    for norm in ("l1", "linf"):
        chosen = [row for row in summary if row["norm"] == norm]
        ours = median(row["milliseconds"]["ours"] for row in chosen)
        ratios = [
            f"{name} {short(min(values))} to {short(max(values))} times"
            for name, peer in (("linprog", "linprog"), ("HiGHS", "highs"))
            for values in [[row["ratios"][peer]["median"] for row in chosen]]
        ]
        question = f"time of a layer's linear program, {norm}, proved optimal"
        found.append((question, f"{short(ours)} ms", "; ".join(ratios), "`layers`"))
    return found


def _certify(summary: list[dict[str, Any]]) -> Row:
    proved, solved = (
        share(round(sum(row[name] * row[of] for row in summary)), sum(row[of] for row in summary))
        for name, of in (("proved", "observations"), ("mip_solved", "compared"))
    )
    times = [row["times"] for row in summary]
    peer = f"HiGHS MIP {solved}; time {short(min(times))} to {short(max(times))} times"
    return "proved to have the smallest largest error, 20-60-784", proved, peer, "`certify`"

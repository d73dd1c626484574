"""The first table of the page of benchmarks: what users ask first, with ours beside the best known peer.

Every cell is computed from the numbers of a benchmark. Sections further down have all rows, the losses among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from unrelu_studies.kit.markdown_tables import per_cent, short, table

# Numbers of a benchmark, by its name.
Numbers = Callable[[str], dict[str, Any]]
Row = tuple[str, str, str, str]

# Confidence from which an answer is called sure.
_SURE = 0.99


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


def _share_and_time(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean of shares, and the median of milliseconds."""
    return f"{per_cent(mean(share for share, _ in pairs))}, {short(median(time for _, time in pairs))} ms"


def _hard(rows: list[dict[str, Any]]) -> list[Row]:
    found = []
    for ambiguous, what in ((False, "data that determine the code"), (True, "ambiguous data")):
        chosen = [row for row in rows if row["ambiguous"] == ambiguous]
        ours, scipy, adam = (
            _share_and_time([(row["shares"][method], row["milliseconds"][method]) for row in chosen])
            for method in ("auto", "scipy x10", "adam x10")
        )
        question = f"best codes, time of one: generators where descents get stuck, {what}"
        found.append((question, ours, f"SciPy x10 {scipy}; Adam x10 {adam}", "`hard`"))
    return found


def _families(rows: list[dict[str, Any]]) -> list[Row]:
    found = []
    for source, what in (("own", "their own outputs"), ("real", "real data")):
        half = [row for row in rows if row["measured"] == "half" and row["source"] == source and row.get("lm")]
        ours = _share_and_time([(mean(row["best"]), row["milliseconds"]) for row in half])
        peer = _share_and_time([(row["lm"]["best"], row["lm"]["milliseconds"]) for row in half])
        question = f"best codes, time of one: decoders as people train them, half of the outputs seen, {what}"
        found.append((question, ours, f"Levenberg-Marquardt x10 {peer}", "`families`"))
    own = [row for row in rows if row["source"] == "own"]
    sure = [best for row in own for best, c in zip(row["best"], row["confidence"], strict=True) if c >= _SURE]
    wrong = f"{sure.count(False)} of {len(sure):,}"
    return [
        *found,
        ("sure answers that are wrong, their own outputs", wrong, "no peer says how sure it is", "`families`"),
    ]


def _emulators(rows: list[dict[str, Any]]) -> list[Row]:
    found = []
    for noisy, what in ((False, "without noise"), (True, "with noise")):
        chosen = [row for row in rows if row["noisy"] == noisy]
        ours, peer = (
            _share_and_time([(row["best"][method], row["milliseconds"][method]) for row in chosen])
            for method in ("auto", "trf x10")
        )
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
    proved = per_cent(mean(row["proved"] for row in summary))
    times = [row["times"] for row in summary]
    solved = per_cent(mean(row["mip_solved"] for row in summary))
    peer = f"HiGHS MIP {solved}; time {short(min(times))} to {short(max(times))} times"
    return "proved to have the smallest largest error, 20-60-784", proved, peer, "`certify`"

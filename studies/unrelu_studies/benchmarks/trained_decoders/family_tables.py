"""The tables of the benchmark ``families``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from unrelu_studies.kit.families.trained_families import output_of
from unrelu_studies.kit.markdown_tables import aims, form, per_cent, seconds, short, table

Array = npt.NDArray[np.float64]
Rows = list[dict[str, Any]]
Render = Callable[[dict[str, Any]], str]

SURE, SUREST = 0.99, 0.999
# A family is worse than :data:`SURE` promises where as many wrong answers are less likely than this.
UNLIKELY = 1e-3
BINS = (0.0, 0.5, 0.8, 0.9, 0.95, SURE, 0.995, SUREST, 1.0)


def _where(rows: Rows, **values: Any) -> Rows:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _joined(rows: Rows, name: str) -> npt.NDArray[Any]:
    """A list of every row, one after another; what is missing is NaN."""
    return np.array([np.nan if value is None else value for row in rows for value in row[name]])


def _binned(rows: Rows) -> Iterator[tuple[str, Array, npt.NDArray[np.bool_]]]:
    """The name of each of :data:`BINS`, the confidence of the answers in it, and whether each is the best known."""
    confidence, best = _joined(rows, "confidence"), _joined(rows, "best").astype(bool)
    for low, high in pairwise(BINS):
        inside = (confidence >= low) & ((confidence < high) | (high == BINS[-1]))
        yield f"{low:g} to {high:g}", confidence[inside], best[inside]


def sure_and_wrong(rows: Rows, confidence: float = SURE) -> tuple[int, int]:
    """Answers of this confidence at least, and how many of them are not the best known."""
    sure = _joined(rows, "confidence") >= confidence
    return int(sure.sum()), int((sure & ~_joined(rows, "best").astype(bool)).sum())


def chance(sure: int, wrong: int) -> float:
    """The probability of at least so many wrong ones among sure answers, if 1% are wrong."""
    return float(binom.sf(wrong - 1, sure, 1 - SURE))


def _share(rows: Rows) -> float | None:
    return float(_joined(rows, "best").mean()) if rows else None


def _families(rows: Rows) -> dict[str, Rows]:
    by_name: dict[str, Rows] = {}
    for row in rows:
        by_name.setdefault(row["family"], []).append(row)
    return by_name


def _of_wrong(rows: Rows, confidence: float = SURE) -> tuple[str, float]:
    sure, wrong = sure_and_wrong(rows, confidence)
    return f"{wrong} of {sure}", wrong / max(1, sure)


# --- search and confidence --------------------------------------------------------------------------------------------


def _codes(results: dict[str, Any]) -> str:
    text = (
        "Share of codes that no known one beats by more than 1%, and milliseconds of CPU time for one observation in "
        "brackets; Levenberg-Marquardt from 10 starts on half of the outputs, for the first 10 observations:\n\n"
    )
    cells = [
        ("all", "own"),
        ("half", "own"),
        ("quarter", "own"),
        ("gauss", "own"),
        ("half", "real"),
        ("half", "others"),
    ]
    lines = []
    for name, rows in _families(results["search"]).items():
        line: list[str | None] = [name]
        for measured, source in cells:
            found = _where(rows, measured=measured, source=source)
            line.append(f"{per_cent(_share(found))} ({short(found[0]['milliseconds'])})" if found else None)
        lm = _where(rows, measured="half", source="own")[0]["lm"]
        lines.append([*line, f"{per_cent(lm['best'])} ({short(lm['milliseconds'])})"])
    head = ("family", "all", "half", "quarter", "2k + 2", "real, half", "of others, half", "LM x10, half")
    return text + table(head, lines)


def _confidence(results: dict[str, Any]) -> str:
    own, real, others = (_where(results["search"], source=source) for source in ("own", "real", "others"))
    bins = []
    for columns in zip(*map(_binned, (own, real, others)), strict=True):
        line = [columns[0][0]]
        for _, confidence, best in columns:
            means = (f"{of.mean():.4f}" if len(best) else "-" for of in (confidence, best))
            line += [str(len(best)), *means]
        bins.append(line)
    head = ("confidence", "own outputs", "mean", "best", "real data", "mean", "best", "of others", "mean", "best")
    lines = []
    for name, rows in _families(results["search"]).items():
        mine = _where(rows, source="own")
        sure, wrong = sure_and_wrong(mine)
        expected = 1 - _joined(mine, "confidence")[_joined(mine, "confidence") >= SURE]
        foreign = (_where(rows, source=source) for source in ("real", "others"))
        lines.append(
            (name, sum(len(row["best"]) for row in mine), sure, wrong, f"{expected.sum():.1f}",
             f"{chance(sure, wrong):.2g}", *(_of_wrong(found)[0] if found else None for found in foreign))
        )  # fmt: skip
    families = table(
        ("family", "own outputs", "sure", "of these wrong", "expected", "p of so many at 1%",
         "real data, wrong of sure", "of others, wrong of sure"),
        lines,
    )  # fmt: skip
    return (
        "Answers by their confidence: how many, its mean, and the share of codes that no known one beats:\n\n"
        f"{table(head, bins)}\n\nSure answers (confidence at least {SURE:g}) of each family:\n\n{families}"
    )


def _foreign(results: dict[str, Any]) -> str:
    """Answers on data that the family did not make, by the activation of its outputs and by their confidence."""
    rows = [row for row in results["search"] if row["source"] != "own"]
    lines = []
    for output in sorted({output_of(row["family"]) for row in rows}):
        mine = [row for row in rows if output_of(row["family"]) == output]
        lines += [
            (output, name, len(best), (~best).sum(), f"{(1 - confidence).sum():.1f}")
            for name, confidence, best in _binned(mine)
            if len(best)
        ]
    return (
        "Real data and outputs of other decoders, by the activation of the outputs and by the confidence: how many "
        "answers, how many of them a known code beats, and how many one may expect:\n\n"
        + table(("outputs", "confidence", "answers", "wrong", "expected"), lines)
    )


def _anew(results: dict[str, Any]) -> str:
    if not results.get("anew"):
        return "Not measured yet: `scripts/bench families`."
    lines = []
    for row in results["anew"]:
        sure, wrong = sure_and_wrong([row])
        expected, missed = 1 - float(np.mean(row["confidence"])), 1 - float(np.mean(row["best"]))
        lines.append(
            (row["family"], row["measured"], len(row["best"]), sure, wrong, per_cent(expected), per_cent(missed),
             *(seconds(value) for value in (row["seconds"][0], np.mean(row["seconds"][1:]), np.mean(row["again"]))),
             f"{_times_of_search(row):.2f}", _learned_again(row))
        )  # fmt: skip
    return table(
        ("family", "measured", "observations", "sure", "of these wrong", "errors expected", "errors",
         "first call, s", "others, s", "the same calls again, s", "others / again", "calls that learned again"),
        lines,
    )  # fmt: skip


def _times_of_search(row: dict[str, Any]) -> float:
    """Seconds of the calls after the first, divided by those of the same calls again."""
    return float(np.sum(row["seconds"][1:]) / np.sum(row["again"][1:]))


def _learned_again(row: dict[str, Any]) -> int:
    """How many calls after the first took half as long again as their repetition."""
    return int((np.array(row["seconds"][1:]) > 1.5 * np.array(row["again"][1:])).sum())


# --- p-values and success ---------------------------------------------------------------------------------------------


def _p_values(results: dict[str, Any]) -> str:
    count = results["p_values"][0]["count"]
    lines = []
    for name, rows in _families(results["p_values"]).items():
        cells = [_where(rows, measured=measured)[0] for measured in ("all", "half", "quarter")]
        lines.append(
            (name, f"{cells[0]['entries']} / {cells[0]['latent']}",
             *(f"{per_cent(cell['rejected'])}, {cell['distance']:.3f}" for cell in cells))
        )  # fmt: skip
    return (
        f"Own outputs, noise stated, {count} a cell: share of p-values below .01, and Kolmogorov distance from "
        f"uniform:\n\n{table(('family', 'outputs / k', 'all', 'half', 'quarter'), lines)}"
    )


def _success(results: dict[str, Any]) -> str:
    lines = []
    strange, outlier, uniform = (_families(results[name]) for name in ("strangers", "outlier", "uniform"))
    for name, rows in outlier.items():
        off, bounded = ([per_cent(row["success"]) for row in of] for of in (rows, uniform[name]))
        said = [
            _successes(_where(strange[name], noise=n)) if name in strange else None for n in ("stated", "not stated")
        ]
        lines.append((name, *said, *off, *bounded))
    head = ("family", "out of distribution, noise stated", "not stated", "one entry off, all", "half",
            *(f"uniform noise, {row['amplitude']:g}" for row in next(iter(uniform.values()))))  # fmt: skip
    kinds = [
        (kind, *(
            f"{sum(row['successes'][kind] for row in rows)} of {sum(row['each'] for row in rows)}"
            for rows in (_where(results["strangers"], noise=noise) for noise in ("stated", "not stated"))
        ))
        for kind in results["strangers"][0]["successes"]
    ]  # fmt: skip
    return (
        "Called a success: observations that no generator made; own outputs of which one entry is off by six standard "
        f"deviations; own outputs with uniform noise:\n\n{table(head, lines)}\n\n"
        "Out-of-distribution observations by their kind:\n\n"
        f"{table(('observations', 'noise stated', 'not stated'), kinds)}"
    )


def _successes(rows: Rows) -> str:
    return f"{sum(sum(row['successes'].values()) for row in rows)} of {_asked(rows)}"


def _asked(rows: Rows) -> int:
    return sum(row["each"] * len(row["successes"]) for row in rows)


# --- what was aimed at ------------------------------------------------------------------------------------------------


def _aims(results: dict[str, Any]) -> str:
    return aims(
        [
            *_sure_aims(results),
            *_search_aims(results),
            *_anew_aims(results),
            *_fit_aims(results),
            *_success_aims(results),
        ]
    )


def _sure_aims(results: dict[str, Any]) -> Iterable[tuple[str, str, bool | None]]:
    own = _where(results["search"], source="own")
    said, share = _of_wrong(own)
    yield "of sure answers on own outputs at most 1% wrong", said, share <= 0.01
    said, share = _of_wrong(own, SUREST)
    yield f"at confidence {SUREST:g} at most .2%", said, share <= 0.002
    worse = [name for name, rows in _families(own).items() if chance(*sure_and_wrong(rows)) < UNLIKELY]
    yield "no family above 1% at a binomial p-value of .001", ", ".join(worse) or "none", not worse
    for source, what in (("real", "on held-out real data"), ("others", "on outputs of other decoders")):
        said, share = _of_wrong(_where(results["search"], source=source))
        yield f"{what} at most 2%", said, share <= 0.02
    sure, _ = sure_and_wrong(own)
    foreign = [row for row in results["search"] if row["source"] != "own"]
    for output in sorted({output_of(row["family"]) for row in foreign}):
        said, share = _of_wrong([row for row in foreign if output_of(row["family"]) == output])
        reached = None if said == "0 of 0" else share <= 0.015
        yield f"on data that the family did not make, {output} outputs: at most 1.5%", said, reached
    yield "sure answers on own outputs (no aim)", per_cent(sure / len(_joined(own, "best"))), None


def _search_aims(results: dict[str, Any]) -> Iterable[tuple[str, str, bool | None]]:
    half = _where(results["search"], measured="half", kind="trained")
    for source, least, each in (("own", 0.98, 0.95), ("real", 0.9, 0.8)):
        rows = _where(half, source=source)
        if not rows:
            continue
        share, lowest = float(_joined(rows, "best").mean()), min(float(np.mean(row["best"])) for row in rows)
        slow = max(row["milliseconds"] for row in rows)
        yield (
            f"half of the outputs, trained families, {source}: {per_cent(least)} best codes",
            per_cent(share),
            share >= least,
        )
        yield f"{per_cent(each)} in each", per_cent(lowest), lowest >= each
        yield "at most 40 ms in each", f"{short(slow)}", slow <= 40
    gains = np.concatenate([_joined(results[name], "gains") for name in ("search", "optimum")])
    small, largest = float((gains <= 1e-5).mean()), float(np.nanmax(gains))
    yield "L-BFGS gains at most 1e-5 of the objective in 99%", per_cent(small), small >= 0.99
    yield "at most 1e-4 in all", f"{(gains > 1e-4).sum()} of {len(gains)} above, {largest:.1e} at most", largest <= 1e-4


def _anew_aims(results: dict[str, Any]) -> Iterable[tuple[str, str, bool | None]]:
    rows = results.get("anew")
    if not rows:
        return
    first, times = max(row["seconds"][0] for row in rows), max(map(_times_of_search, rows))
    yield "first call with a kind of measurement: 1 s", f"{seconds(first)} s at most", first <= 1
    yield "later ones: at most 1.2 times the search", f"{times:.2f} times at most", times <= 1.2


def _fit_aims(results: dict[str, Any]) -> Iterable[tuple[str, str, bool | None]]:
    rows = results["p_values"]
    rejected = [row["rejected"] for row in rows]
    inside = min(rejected) >= 0.003 and max(rejected) <= 0.02
    yield "p < .01 in .3 to 2% of own outputs", f"{per_cent(min(rejected))} to {per_cent(max(rejected))}", inside
    determined = [row["distance"] for row in rows if row["entries"] >= 2 * row["latent"]]
    distance = max(determined, default=None)
    yield ("distance at most .08 where m >= 2k", form(distance, ".3f"), None if distance is None else distance <= 0.08)


def _success_aims(results: dict[str, Any]) -> Iterable[tuple[str, str, bool | None]]:
    outputs = sorted({row["output"] for row in results["strangers"]})
    for noise, most in (("stated", 0.01), ("not stated", 0.02)):
        groups = {o: _where(results["strangers"], noise=noise, output=o) for o in outputs}
        shares = {
            o: sum(sum(row["successes"].values()) for row in rows) / _asked(rows) for o, rows in groups.items() if rows
        }
        said = ", ".join(f"{o} {per_cent(share)}" for o, share in shares.items())
        yield (
            f"out of distribution, noise {noise}: success in at most {per_cent(most)}",
            said,
            max(shares.values()) <= most,
        )
    for measured in ("all", "half"):
        rows = _where(results["outlier"], measured=measured)
        off, least = (float(np.mean([row[name] for row in rows])) for name in ("success", "least"))
        yield (
            f"one entry of {measured} off by six deviations: success in at most 2% (a test of the largest "
            f"entry that knows the region misses {per_cent(least)})", per_cent(off), off <= 0.02,
        )  # fmt: skip
    uniform = float(np.mean([row["success"] for row in results["uniform"]]))
    yield "uniform noise: success in at least 99%", per_cent(uniform), uniform >= 0.99


def _of_all(render: Render) -> Render:
    """The table of a whole run; a sentence for a part that was run alone."""
    return lambda results: render(results) if results["strangers"] else "Not measured: a part was run alone."


BLOCKS = {
    "families aims": _of_all(_aims),
    "families codes": _codes,
    "families confidence": _confidence,
    "families foreign": _foreign,
    "families anew": _anew,
    "families p-values": _of_all(_p_values),
    "families success": _of_all(_success),
}

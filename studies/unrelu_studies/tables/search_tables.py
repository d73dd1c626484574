"""Tables of the joint search: against its peers and the published baselines, its proofs, its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from unrelu_studies.benchmarks.search import BLIND, KNOWN, METHODS, SearchOutcome
from unrelu_studies.benchmarks.search_cells import RANDOM, ZOO
from unrelu_studies.benchmarks.search_table import times_fewer
from unrelu_studies.benchmarks.summary import short
from unrelu_studies.tables.blocks import Numbers, Render, aims, block, form, share, table

# By name; the first word is the benchmark.
BLOCKS: dict[str, Render] = {}


def seconds(value: float) -> str:
    """Three digits after the point, or two or three in all."""
    return f"{value:.3f}" if value < 1 else short(value)


# --- the search -------------------------------------------------------------------------------------------------------


def _outcomes(numbers: Numbers, generators: Iterable[str]) -> dict[tuple[str, str, float], dict[str, SearchOutcome]]:
    """By generator, measurement and noise, then by method."""
    chosen = set(generators)
    cells: dict[tuple[str, str, float], dict[str, SearchOutcome]] = {}
    for row in numbers["outcomes"]:
        o = SearchOutcome(**{name: value for name, value in row.items() if name != "per_success"})
        if o.generator in chosen:
            cells.setdefault((o.generator, o.measurement, o.noise), {})[o.method] = o
    return cells


def _search(generator: str) -> Callable[[Numbers], str]:
    def render(numbers: Numbers) -> str:
        cells = _outcomes(numbers, (generator,))
        if not cells:
            return f"`{generator}`: not in these results."
        first = next(iter(cells.values()))
        text = (
            f"`{generator}`, {first[BLIND].instances} observations a row, {first['adam x10'].instances} of them for "
            "`lm` and `adam`:\n\n"
        )
        last = "error / oracle" if generator in RANDOM else "error"
        head = ("measured", "noise", *("auto, blind", "noise known", "lm x10", "adam x10"), "claimed, blind",
                "claimed, known", "fewer ms, blind", "known", last)  # fmt: skip
        return text + table(head, (_search_row(key, by_method) for key, by_method in cells.items()))

    return render


def _search_row(key: tuple[str, str, float], by_method: dict[str, SearchOutcome]) -> Iterable[str]:
    yield from (key[1], f"{key[2]:g}")
    for method in METHODS:
        o = by_method.get(method)
        yield f"{share(o.success)} {short(o.milliseconds)} ms" if o else "-"
    blind, known = by_method[BLIND], by_method.get(KNOWN)
    yield f"{share(blind.claimed)} ({form(blind.confidence, '.2f')})"
    yield f"{share(known.claimed)} ({share(known.fits)})" if known else "-"
    for method in (BLIND, KNOWN):
        times = times_fewer(by_method, method)
        yield "-" if math.isnan(times) else short(times) if times else "0"
    if blind.generator in RANDOM:
        yield form(blind.oracle, ".3f")
    else:
        yield form(blind.error, ".2g")


for _name in (*ZOO, *RANDOM):
    BLOCKS[f"search {_name}"] = _search(_name)

# Generators, the share of successes, and milliseconds without noise, blind and with the noise known.
_SEARCH_AIMS: tuple[tuple[tuple[str, ...], float, float, float, float], ...] = (
    (("mnist-relu",), 0.99, 15, 40, 8),
    (("mnist-leaky",), 0.995, 12, 12, 12),
    (("mnist-sigmoid",), 0.995, 12, 12, 12),
    (("mnist-dcgan",), 0.99, 90, 400, 90),
    (RANDOM, 1.0, 10, 10, 10),
)


@block(BLOCKS, "search aims")
def search_aims(numbers: Numbers) -> str:
    rows = []
    for generators, least, without, blind, known in _SEARCH_AIMS:
        cells = list(_outcomes(numbers, generators).values())
        ours = [by_method[name] for by_method in cells for name in (BLIND, KNOWN) if name in by_method]
        fewer = [times_fewer(by_method, n) for by_method in cells for n in (BLIND, KNOWN) if n in by_method]
        ratios = [o.oracle for o in ours if o.oracle is not None]
        rows.append((
            "random nets" if generators is RANDOM else generators[0],
            _aim([o.success for o in ours], least, True, share),
            _aim([o.milliseconds for o in ours if not o.noise], without, False, short),
            _aim([o.milliseconds for o in ours if o.noise and o.method == BLIND], blind, False, short),
            _aim([o.milliseconds for o in ours if o.method == KNOWN], known, False, short),
            _aim(fewer, 5.0, True, short),
            _aim(ratios, 1.01, False, lambda ratio: f"{ratio:.3f}"),
        ))  # fmt: skip
    head = ("generator", "found", "ms without noise", "ms blind", "ms, noise known", "times fewer ms", "error / oracle")
    return f"The aim; how many rows reach it, and the worst of them:\n\n{table(head, rows)}"


def _aim(values: list[float], aim: float, least: bool, write: Callable[[float], str]) -> str | None:
    """An aim, how many values reach it, and the worst of them; None without values."""
    if not values:
        return None
    reached = sum(value >= aim if least else value <= aim for value in values)
    goal = f"{100 * aim:g}%" if write is share else f"{aim:g}"
    return f"{goal}: {reached} of {len(values)}, {write(min(values) if least else max(values))}"


@block(BLOCKS, "search norms")
def search_norms(numbers: Numbers) -> str:
    norms = numbers["norms"]
    head = ("problem", "method", "observations", "ms", "result")
    rows: list[tuple[Any, ...]] = []
    for u in norms["uniform"]:
        said = f"within the bound: {share(u['within'])}; above `linf`: {share(u['above'])}"
        rows.append(("uniform noise 0.1", u["method"], u["observations"], short(u["milliseconds"]), said))
    for o in norms["outliers"]:
        found = f"latent error {o['error']:.2g}"
        rows.append(("half seen, 5% gross errors", o["method"], o["observations"], short(o["milliseconds"]), found))
    for s in norms["single"]:
        times = f"{short(s['median'])} (at most {short(s['largest'])})"
        said = ", ".join(f"{status} {count}" for status, count in s["statuses"].items())
        rows.append((f"one at a time, noise {s['noise']:g}", "auto", s["observations"], times, said))
    bank = short(1e3 * float(np.median(norms["bank_seconds"])))
    rows.append(("samples of a generator and their model", "auto", None, bank, "once for each generator and seed"))
    return table(head, rows)


# --- proofs -----------------------------------------------------------------------------------------------------------


@block(BLOCKS, "certify rows")
def certify_rows(numbers: Numbers) -> str:
    head = ("noise", "proved", "s, median", "s, largest", "nodes, median", "60 or more y_j > noise",
            "s, median of those", "HiGHS: solved", "HiGHS: s, median", "times", "same optimum")  # fmt: skip
    rows = (
        (
            s["cell"], share(s["proved"]), seconds(s["seconds"]), seconds(s["slowest"]), f"{s['nodes']:g}",
            share(s["many"]), "-" if s["many_seconds"] is None else seconds(s["many_seconds"]), share(s["mip_solved"]),
            seconds(s["mip_seconds"]), short(s["times"]), f"{s['same']} of {s['both']}",
        )
        for s in numbers["summary"]
    )  # fmt: skip
    plan, observations = numbers["plan"], numbers["observations"]
    verified = sum(p["verified"] for p in observations)
    everywhere = sum(p["everywhere"] for p in observations)
    against = sum(p["contradicts"] for p in observations)
    first = sum(p["nodes"] == 1 for p in observations)
    best = sum(p["found"] <= p["upper"] * (1 + 1e-6) for p in observations)
    return (
        f"{plan['instances']} observations a row, HiGHS on the first {plan['compared']}:\n\n{table(head, rows)}\n\n"
        f"Of {len(observations)} certificates {verified} verify, and {everywhere} are about all codes, however large. "
        f"{first} observations needed no tree: the first relaxation decided. `auto` had found the smallest error "
        f"that is known for {best}; the search found the others on its way. Bounds of ours or of HiGHS that "
        f"exclude a code of the other: {against}."
    )


@block(BLOCKS, "certify aims")
def certify_aims(numbers: Numbers) -> str:
    summary = numbers["summary"]
    proved, times = min(s["proved"] for s in summary), min(s["times"] for s in summary)
    slow = max(s["many_seconds"] or 0.0 for s in summary)
    return aims((
        ("90% proved within 10 s in every row", f"{share(proved)} at least", proved >= 0.9),
        ("a median of 0.5 s where 60 or more exceed the noise", f"{seconds(slow)} at most", slow <= 0.5),
        ("a fifth of HiGHS's seconds in the median", f"{short(times)} times at least", times >= 5),
    ))  # fmt: skip


@block(BLOCKS, "certify open")
def certify_open(numbers: Numbers) -> str:
    rows = []
    for p in numbers["observations"]:
        mip = p["mip"]
        runs = [] if p["verified"] and p["gap"] <= 1e-6 else [("ours", p["status"], p["lower"], p["upper"])]
        if mip and mip["status"] != "OPTIMAL":
            runs.append(("HiGHS", mip["status"], mip["lower"], mip["upper"]))
        rows += [
            (p["cell"], p["index"], by, said, form(1 - low / up if low is not None and up else None, ".1e"))
            for by, said, low, up in runs
        ]
    if not rows:
        return "Neither left an observation open."
    return "Left open:\n\n" + table(("noise", "observation", "by", "status", "gap"), rows)


@block(BLOCKS, "certify boxes")
def certify_boxes(numbers: Numbers) -> str:
    rows = []
    for cell in dict.fromkeys(p["cell"] for p in numbers["observations"]):
        boxes = [p["box"] for p in numbers["observations"] if p["cell"] == cell and p["box"]]
        medians = (float(np.median([b[name] for b in boxes])) for name in ("seconds", "width"))
        rows.append((cell, len(boxes), *(f"{m:.2g}" for m in medians), sum(b["contains"] for b in boxes)))
    return table(("noise", "observations", "s, median", "width, median", "z* inside"), rows)


# --- baselines, prior, time limit -------------------------------------------------------------------------------------


@block(BLOCKS, "baselines plugin")
def baselines_plugin(numbers: Numbers) -> str:
    published, rows = numbers["published"], []
    for name in ("gradient_descent", "plugin"):
        rows.append((f"{name}, published", *(f"{errors[name]:g}" for errors in published.values()), ""))
    for name in dict.fromkeys(row["method"] for row in numbers["plugin"]):
        mine = [row for row in numbers["plugin"] if row["method"] == name]
        cells = (f"{np.mean(row['errors']):.3g} ({max(row['errors']):.2g})" for row in mine)
        used = sum(row["seconds"] for row in mine) / sum(len(row["errors"]) for row in mine)
        rows.append((name, *cells, f"{used:.2f}"))
    text = f"{len(numbers['plugin'][0]['errors'])} networks; mean relative error of the code, largest in brackets:\n\n"
    return text + table(("method", *(f"noise {level}" for level in published), "seconds a code"), rows)


def _csgm(numbers: Numbers, images: str) -> str:
    mine = [row for row in numbers["csgm"] if row["images"] == images]
    sizes = sorted({row["m"] for row in mine})
    rows, count = [], numbers["images"]
    for method in dict.fromkeys(row["method"] for row in mine):
        group = sorted((row for row in mine if row["method"] == method), key=lambda row: int(row["m"]))
        used = [row["seconds"] / count for row in group if "seconds" in row]
        cells = (f"{row['error']:.2g}" for row in group)
        rows.append((method, *cells, f"{np.mean(used):.2f}" if used else ""))
    return table(("method", *map(str, sizes), "seconds an image"), rows)


@block(BLOCKS, "baselines csgm digits")
def csgm_digits(numbers: Numbers) -> str:
    errors: dict[str, dict[int, float]] = {}
    for row in numbers["csgm"]:
        if row["images"] == "digits":
            errors.setdefault(row["method"], {})[row["m"]] = row["error"]
    said = []
    for m in (200, 400, 500, 750):
        enough = [n for n, error in sorted(errors["adam"].items()) if error <= errors["lasso"][m]]
        said.append(f"{m} are {enough[0] if enough else 'more than any number'}")
    worse = [str(m) for m, error in sorted(errors["auto"].items()) if error > 1.1 * errors["adam"][m]]
    return (
        f"{numbers['images']} held-out digits, by the number of measurements:\n\n{_csgm(numbers, 'digits')}\n\n"
        f"Measurements that `adam` needs for what Lasso reaches: {', '.join(said)}. Numbers of measurements with which "
        f"`auto` without a prior is more than a tenth worse than `adam`: {', '.join(worse) or 'none'}."
    )


@block(BLOCKS, "baselines csgm generated")
def csgm_generated(numbers: Numbers) -> str:
    return f"{numbers['images']} images that the generator drew:\n\n{_csgm(numbers, 'generated')}"


@block(BLOCKS, "baselines figure4")
def figure4(numbers: Numbers) -> str:
    rows, count = numbers["figure4"], numbers["images"]
    found = sum(row["found"] for row in rows if row["method"] == "projected, linf")
    cells = ((r["mask"], r["method"], r["found"], form(r["error"], ".2g"), f"{r['seconds'] / count:.2f}") for r in rows)
    return (
        f"{count} images a mask:\n\n"
        + table(("mask", "method", "found to 1e-3", "median error of hidden pixels", "seconds an image"), cells)
        + f"\n\nProjected gradient with `linf` and 50 projections finds {found} of {2 * count}."
    )


@block(BLOCKS, "prior")
def prior(numbers: Numbers) -> str:
    rows = numbers["rows"]
    factors = (f"prior {f} S^2" if float(f) else "none" for f in rows[0]["errors"])
    text = f"Median latent error |z - z*| / |z*| of `auto`, {numbers['observations']} observations:\n\n"
    return text + table(
        ("generator", "measured", "noise S", *factors),
        ((r["generator"], r["measured"], f"{r['noise']:g}", *(f"{e:.2g}" for e in r["errors"].values())) for r in rows),
    )


@block(BLOCKS, "time_limit")
def time_limit(numbers: Numbers) -> str:
    count = numbers["observations"]
    text = f"{count} noisy real digits, `time_limit={numbers['limit']:g}`:\n\n"
    return text + table(
        ("generator", "method", "seconds", "stopped at the limit"),
        ((r["generator"], r["method"], f"{r['seconds']:.2f}", f"{r['stopped']} of {count}") for r in numbers["rows"]),
    )


# --- the verdict ------------------------------------------------------------------------------------------------------


@block(BLOCKS, "verdict strangers")
def verdict_strangers(numbers: Numbers) -> str:
    rows = numbers["strangers"]
    cells = {(r["generator"], r["kind"]): _stranger(r) for r in rows}
    count = sum(len(r["p_values"]) for r in rows)
    success, rejected = sum(r["successes"] for r in rows) / count, _rejected(rows)
    text = (
        f"{len(rows[0]['p_values'])} observations a cell; called a success, p < 1e-3, and in brackets what any test "
        "can reach at their distances from the generator's range:\n\n"
    )
    return f"{text}{_pivot(cells)}\n\n" + aims((
        ("called a success in at most 1%", share(success), success <= 0.01),
        ("p < 1e-3 in at least 99%", share(rejected), rejected >= 0.99),
    ))  # fmt: skip


def _stranger(row: Numbers) -> str:
    measured = share(row["successes"] / len(row["p_values"])), share(_rejected([row]))
    expected = share(row["expected"]["success"]), share(row["expected"]["rejected"])
    return f"{measured[0]}, {measured[1]} ({expected[0]}, {expected[1]})"


def _rejected(rows: list[Numbers]) -> float:
    """Share of the p-values below 1e-3."""
    return float(np.mean([p < 1e-3 for r in rows for p in r["p_values"]]))


def _pivot(cells: dict[tuple[str, str], str]) -> str:
    """A row for each generator, a column for each second key."""
    columns = list(dict.fromkeys(column for _, column in cells))
    generators = dict.fromkeys(generator for generator, _ in cells)
    return table(("generator", *columns), ((g, *(cells.get((g, c)) for c in columns)) for g in generators))


@block(BLOCKS, "verdict own")
def verdict_own(numbers: Numbers) -> str:
    own = numbers["own"]
    cells = {
        (r["generator"], r["operator"]): f"{r['distance']:.3f}, {share(r['successes'] / len(r['p_values']))}"
        f" of {len(r['p_values'])}"
        for r in own
    }
    distance = max(r["distance"] for r in own if r["operator"] != "prior")
    successes = [r["successes"] / len(r["p_values"]) for r in own]
    return f"Distance, success:\n\n{_pivot(cells)}\n\n" + aims((
        ("distance of at most 0.05 without a prior", f"{distance:.3f} at most", distance <= 0.05),
        ("success in at least 98%", f"{share(min(successes))} at least", min(successes) >= 0.98),
    ))  # fmt: skip


@block(BLOCKS, "verdict noiseless")
def verdict_noiseless(numbers: Numbers) -> str:
    rows = numbers["noiseless"]
    names = ("count", "exact", "exact_by_heavy", "successes", "false")
    head = ("generator", "observations", "exact fit", "by a heavy search", "success", "false success",
            "largest confidence of a wrong code")  # fmt: skip
    cells = []
    for generator in dict.fromkeys(r["generator"] for r in rows):
        group = [r for r in rows if r["generator"] == generator]
        largest = max((c for r in group for c in r["confidences"]), default=None)
        cells.append((generator, *(sum(r[name] for r in group) for name in names), form(largest, ".3f")))
    total, false = sum(r["count"] for r in rows), sum(r["false"] for r in rows)
    return f"{table(head, cells)}\n\n{aims([(f'no false success in {total} observations', f'{false}', not false)])}"


@block(BLOCKS, "verdict noisy")
def verdict_noisy(numbers: Numbers) -> str:
    by_search: dict[str, list[Numbers]] = {}
    for r in numbers["noisy"]:
        by_search.setdefault(r["search"], []).append(r)
    rows = []
    for search, group in by_search.items():
        codes = [pair for r in group for pair in zip(r["confidences"], r["best"], strict=True)]
        sure = [best for confidence, best in codes if confidence is not None and confidence >= 0.99]
        best = share(sum(b for _, b in codes) / len(codes))
        rows.append((search, len(codes), best, len(sure), len(sure) - sum(sure), sum(r["successes"] for r in group)))
    searches = numbers["reliability"]
    bins = (
        (f"{cells[0][0]:g} to {cells[0][1]:g}",
         *(f"{count}: {share(best / count)}" if count else None for _, _, count, best in cells))
        for cells in zip(*searches.values(), strict=True)
    )  # fmt: skip
    head = (
        "search",
        "observations",
        "within 1% of the best known",
        "confidence >= 0.99",
        "of these not the best",
        "success",
    )
    return (
        f"{table(head, rows)}\n\nCodes of each confidence, and the share of them that is within 1% of the best:\n\n"
        + table(("confidence", *searches), bins)
    )

"""Tables of the layer programs and of what is made of them: speed, exactness, data sets, start-up."""

from __future__ import annotations

from typing import Any

import numpy as np

from unrelu_studies.benchmarks.summary import short
from unrelu_studies.tables.blocks import Numbers, Render, aims, block, form, table

# By name; the first word is the benchmark.
BLOCKS: dict[str, Render] = {}

# --- layer programs ---------------------------------------------------------------------------------------------------

_FORMS = {
    "linprog_ub": "linprog, inequalities",
    "linprog": "linprog, split",
    "highs": "HiGHS, dual",
    "cvxopt": "cvxopt",
}
# Layer, norm, peer, and how many times longer than ours it was meant to take at least.
_LAYER_AIMS = (
    ("784x60", "l1", "linprog_ub", 110), ("zoo 784x60", "l1", "linprog_ub", 70), ("zoo 784x60", "linf", "linprog", 45),
    ("500x100", "linf", "linprog", 45),
)  # fmt: skip


def _layer_name(name: str) -> str:
    return name.replace("x", " x ")


def _layers(numbers: Numbers, norm: str, outliers: float) -> str:
    chosen = [s for s in numbers["summary"] if (s["norm"], s["outliers"]) == (norm, outliers)]
    # For linf linprog has one form, inequalities only.
    names = {**_FORMS, "linprog": _FORMS["linprog_ub"]} if norm == "linf" else _FORMS
    peers = [peer for peer in _FORMS if any(s["ratios"][peer] for s in chosen)]
    rows = []
    for s in chosen:
        name = f"- {s['source']} ({s['instances']})" if s["source"] else f"{_layer_name(s['layer'])} ({s['instances']})"
        ratios = [s["ratios"][peer] for peer in (*peers, "cholesky")]
        rows.append((name, short(s["milliseconds"]["ours"]), *(short(r["median"]) if r else "-" for r in ratios)))
    return table(("layer (instances)", "ours, ms", *(names[peer] for peer in peers), "/ Cholesky"), rows)


@block(BLOCKS, "layers l1")
def layers_l1(numbers: Numbers) -> str:
    return _layers(numbers, "l1", 0.0)


@block(BLOCKS, "layers linf")
def layers_linf(numbers: Numbers) -> str:
    return _layers(numbers, "linf", 0.0)


@block(BLOCKS, "layers outliers")
def layers_outliers(numbers: Numbers) -> str:
    return _layers(numbers, "l1", 0.05)


@block(BLOCKS, "layers aims")
def layers_aims(numbers: Numbers) -> str:
    whole = [s for s in numbers["summary"] if not s["source"]]
    total, open_, fallback = (sum(s[name] for s in whole) for name in ("instances", "not_optimal", "fallback"))
    differ = max(s["largest_difference"] or 0.0 for s in whole)
    failed = {_FORMS[peer]: sum(s["peer_failures"][peer] for s in whole) for peer in _FORMS}
    gave_up = ", ".join(f"{peer} on {count}" for peer, count in failed.items() if count) or "none"
    text = (
        f"{total - open_} of {total} answers of ours are proved optimal, {fallback} of them after a failed proof; "
        f"objectives differ from linprog's by {differ:.0e} at most. Peers that gave up: {gave_up}.\n\n"
    )
    rows = []
    for layer, norm, peer, aim in _LAYER_AIMS:
        found = [s["ratios"][peer] for s in whole if (s["layer"], s["norm"], s["outliers"]) == (layer, norm, 0.0)]
        if found and found[0]:
            median = found[0]["median"]
            what = f"{norm} on {_layer_name(layer)}: linprog's inequalities take {aim} times longer"
            rows.append((what, short(median), median >= aim))
    return text + aims(rows)


@block(BLOCKS, "throughput")
def throughput(numbers: Numbers) -> str:
    batches = numbers["batches"]
    rows = []
    for b in batches:
        one, two = (b["observations"] / min(b["seconds"][threads]) for threads in ("1", "2"))
        reached = "yes" if two / one >= 1.8 else "no"
        rows.append((_layer_name(b["layer"]), b["norm"], f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}", reached))
    text = f"Batches of {batches[0]['observations']} observations of one layer with h >= 0, observations a second:\n\n"
    return text + table(("layer", "norm", "1 thread", "2 threads", "gain", "1.8, the aim, reached"), rows)


@block(BLOCKS, "network")
def network(numbers: Numbers) -> str:
    rows = []
    observations = numbers["observations"]
    for noise in dict.fromkeys(m["noise"] for m in observations):
        group = [m for m in observations if m["noise"] == noise]
        cells: list[Any] = [f"{noise:g}", short(1e3 * float(np.median([min(m["ours"]["seconds"]) for m in group])))]
        cells.append(f"{np.median([m['ours']['programs'] for m in group]):g}")
        for name in ("highs", "published"):
            runs = [m for m in group if m[name]]
            cells.append(short(1e3 * float(np.median([min(m[name]["seconds"]) for m in runs]))))
            ratios = [m["compared"][name]["ratio"] for m in runs if m["compared"][name]["ratio"] is not None]
            cells.append(short(float(np.median(ratios))) if ratios else None)
            cells += [f"{np.median([m[name]['programs'] for m in runs]):g}"] if name == "published" else []
        known = [m["compared"][n]["difference"] for m in group for n in ("highs", "published") if m[n]]
        rows.append((*cells, f"{max(abs(d) for d in known if d is not None):.0e}"))
    head = ("noise", "ours, ms", "programs", "HiGHS, our search, ms", "times longer", "published loop, HiGHS cold, ms",
            "times longer", "programs", "objectives differ by")  # fmt: skip
    return table(head, rows)


@block(BLOCKS, "cold-start")
def cold_start(numbers: Numbers) -> str:
    names = ("importing", "first_l1", "first_linf", "second_l1", "second_linf")
    head = ("cache of kernels", "import", "first l1", "first linf", "second l1", "second linf")
    return table(head, ((p["cache"], *(f"{p[name]:.3f}" for name in names)) for p in numbers["processes"]))


_FAILURES = ("beaten", "NaN", "worse than its start")
_SEPARATE = ("nearly equal columns", "rows of all sizes")


@block(BLOCKS, "degenerate")
def degenerate(numbers: Numbers) -> str:
    groups: dict[str, list[Numbers]] = {}
    for row in numbers["rows"]:
        groups.setdefault(row["kind"] if row["kind"] in _SEPARATE else "the others", []).append(row)
    head = ("kinds", "programs", "agrees", "zero", "says so", "linprog worse", "linprog fails", *_FAILURES, "fallbacks",
            "largest excess", "slowest, ms")  # fmt: skip
    names = ("agrees", "zero", "says so", "reference worse", "no reference", *_FAILURES)
    rows = (
        (
            kind, sum(r["instances"] for r in group), *(sum(r["outcomes"][name] for r in group) for name in names),
            sum(r["fallbacks"] for r in group), f"{max(r['largest_excess'] for r in group):.0e}",
            f"{1e3 * max(r['slowest'] for r in group):.0f}",
        )
        for kind, group in groups.items()
    )  # fmt: skip
    return table(head, rows)


@block(BLOCKS, "lp_forms")
def lp_forms(numbers: Numbers) -> str:
    rows: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in numbers["rows"]:
        rows.setdefault((row["layer"], row["norm"]), {})[row["form"]] = row["milliseconds"]
    head = ("layer", "norm", "primal form, best of HiGHS's solvers", "dual form, dual simplex")
    return f"Median milliseconds of {numbers['instances']} instances, one thread:\n\n" + table(
        head, ((*k, f"{min(f['primal'].values()):.0f}", f"{f['dual']['dual simplex']:.0f}") for k, f in rows.items())
    )


# --- start-up, recovery, identifiability ------------------------------------------------------------------------------


@block(BLOCKS, "startup")
def startup(numbers: Numbers) -> str:
    rows = numbers["rows"]
    head = ("command", f"seconds, warm, median of {rows[0]['runs']}")
    return table(head, ((f"`{row['command']}`", f"{row['seconds']:.2f}") for row in rows))


@block(BLOCKS, "recovery exact")
def recovery_exact(numbers: Numbers) -> str:
    nets: dict[str, dict[str, Numbers]] = {}
    for row in numbers["exact"]:
        nets.setdefault(row["net"], {})[row["method"]] = row
    head = ("net", "rank k", "recovered to 1e-6 by `exact`", "by `linf`", "largest error of `exact`", "of `linf`",
            "rank below k", "NOT_UNIQUE with the right dimension by `exact`", "by `linf`")  # fmt: skip
    rows = (
        (
            net, len(both["exact"]["errors"]),
            *(sum(e <= 1e-6 for e in row["errors"]) for row in both.values()),
            *(form(max(row["errors"], default=None), ".0e") for row in both.values()),
            both["exact"]["rank_below_k"], *(row["told"] for row in both.values()),
        )
        for net, both in nets.items()
    )  # fmt: skip
    return table(head, rows)


@block(BLOCKS, "recovery oracle")
def recovery_oracle(numbers: Numbers) -> str:
    rows = numbers["oracle"]
    noises = sorted({row["noise"] for row in rows})
    pairs = dict.fromkeys((row["net"], row["kind"]) for row in rows)
    cells = {(r["net"], r["kind"], r["noise"]): f"{r['refined']:.3f} ({r['linf']:.2g})" for r in rows}
    text = f"Medians of {rows[0]['instances']} instances a cell:\n\n"
    return text + table(
        ("net", "noise", *(f"{noise:g}" for noise in noises)),
        ((*pair, *(cells[(*pair, noise)] for noise in noises)) for pair in pairs),
    )


_IDENTIFIABLE = ("instances", "identifiable", "recovered to 1e-6", "disagreements", "largest error if identifiable",
                 "smallest error if not", "smallest sigma_min / sigma_max if identifiable")  # fmt: skip


def _identifiable(row: Numbers) -> tuple[Any, ...]:
    counts = (row[name] for name in ("instances", "identifiable", "recovered", "disagreements"))
    errors = ("largest_error_if_identifiable", "smallest_error_if_not", "smallest_ratio_if_identifiable")
    return (*counts, *(form(row[name], ".0e") for name in errors))


@block(BLOCKS, "identifiability random")
def identifiability_random(numbers: Numbers) -> str:
    return table(("k", *_IDENTIFIABLE), ((row["k"], *_identifiable(row)) for row in numbers["random"]))


@block(BLOCKS, "identifiability soft")
def identifiability_soft(numbers: Numbers) -> str:
    head = ("method", "scale", *_IDENTIFIABLE)
    return table(head, ((r["method"], f"{r['scale']:g}", *_identifiable(r)) for r in numbers["soft"]))


# --- data sets --------------------------------------------------------------------------------------------------------


@block(BLOCKS, "datasets overhead")
def datasets_overhead(numbers: Numbers) -> str:
    text = (
        f"{numbers['observations']:,} observations, chunks of {numbers['chunk']}, seconds, means of {numbers['runs']} "
        "runs:\n\n"
    )
    return text + table(
        ("noise", "results", "bare", "run", "overhead"),
        (
            (f"{r['noise']:g}", r["results"], f"{r['bare']:.1f}", f"{r['run']:.1f}", f"{r['run'] / r['bare'] - 1:+.1%}")
            for r in numbers["overhead"]
        ),
    )


@block(BLOCKS, "datasets workers")
def datasets_workers(numbers: Numbers) -> str:
    rows = (
        (
            f"{r['noise']:g}", r["results"], f"{r['chunks_1']:.1f}", f"{r['chunks_2']:.1f}",
            f"{r['chunks_1'] / r['chunks_2']:.2f}",
            f"{r['whole_1']:.1f} to {r['whole_2']:.1f}: {r['whole_1'] / r['whole_2']:.2f}", f"{r['bare_loops']:.2f}",
        )
        for r in numbers["workers"]
    )  # fmt: skip
    head = ("noise", "results", "1 worker, s", "2 workers, s", "times as fast", "whole command, s", "two bare loops")
    return table(head, rows)


@block(BLOCKS, "datasets memory")
def datasets_memory(numbers: Numbers) -> str:
    kinds = ("npy", "zarr")
    rows = ((f"{r['observations']:,}", *(f"{r[kind]:.0f}" for kind in kinds)) for r in numbers["memory"])
    return table(("observations", *kinds), rows)


@block(BLOCKS, "datasets aims")
def datasets_aims(numbers: Numbers) -> str:
    cost = max(r["run"] / r["bare"] - 1 for r in numbers["overhead"])
    gain = min(r["chunks_1"] / r["chunks_2"] for r in numbers["workers"])
    most = max(r[kind] for r in numbers["memory"] for kind in ("npy", "zarr"))
    return aims((
        ("overhead of 5%", f"{cost:.1%} at most", cost <= 0.05),
        ("two workers 1.8 times as fast", f"{gain:.2f} at least", gain >= 1.8),
        ("1,536 MiB, whatever the number of observations", f"{most:.0f} at most", most <= 1536),
    ))  # fmt: skip

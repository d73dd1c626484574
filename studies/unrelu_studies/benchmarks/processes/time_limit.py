"""Seconds used under ``time_limit``: noisy real digits, every method, three generators of the zoo."""

from __future__ import annotations

from functools import partial
from typing import Any

import unrelu
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, rows_of
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

LIMIT, QUICK_LIMIT = 2.0, 0.3
COUNT, QUICK_COUNT = 30, 5
LAYERWISE = ("linf", "l1", "relaxed", "least_squares")
JOINT = ("lm", "gradient_descent", "auto")
# The last layer of mnist-dcgan does not expand, so it is searched jointly only.
METHODS = {"mnist-relu": (*LAYERWISE, *JOINT), "mnist-leaky": (*LAYERWISE, *JOINT), "mnist-dcgan": JOINT}


def _limit(command: Command) -> float:
    return QUICK_LIMIT if command.quick else LIMIT


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name, method = str(unit[0]), str(unit[1])
    network = unrelu.zoo.load(name)
    digits = unrelu.zoo.observations(name)[: command.count(COUNT, QUICK_COUNT)]
    y = digits + 0.1 * stream("time limit, noise", command.seed, name).normal(size=digits.shape)
    solve = partial(unrelu.invert, network, method=method, time_limit=_limit(command))
    solve(y[:1])  # compiles: `first_call` measures that
    result, seconds = timed(partial(solve, y))
    stopped = int((result.status == unrelu.Status.TIME_LIMIT).sum())
    return {"generator": name, "method": method, "seconds": seconds, "stopped": stopped}


def _collect(command: Command, parts: list[Any]) -> Results:
    count = command.count(COUNT, QUICK_COUNT)
    return {"limit": _limit(command), "observations": count, **rows_of(command, parts)}


def _table(results: Results) -> str:
    count = results["observations"]
    text = f"{count} noisy real digits, `time_limit={results['limit']:g}`:\n\n"
    return text + table(
        ("generator", "method", "seconds", "stopped at the limit"),
        ((r["generator"], r["method"], f"{r['seconds']:.2f}", f"{r['stopped']} of {count}") for r in results["rows"]),
    )


BENCHMARK = Benchmark(
    units=lambda command: [(name, method) for name, methods in METHODS.items() for method in methods],
    measure=_measure,
    blocks={"time_limit": _table},
    collect=_collect,
)

"""The first calls of a process: with nothing compiled, and with the kernels in Numba's cache on disk.

Each call is the first of two processes, which share a cache folder of their own: one compiles, the other loads. What is
learned of a generator is not kept either. The import is not counted. ``messages`` are those about compiling.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import unrelu
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, rows_of
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

_LIMIT = 5.0
# What is called, with a digit of mnist-relu or, for certify, an output of a small network.
CALLS = ("auto", "auto, noise", f"auto, time_limit={_LIMIT:g}", "linf", "l1", "certify")
_CODE = """
import json, sys
import unrelu
unrelu.invert, unrelu.certify
from unrelu_studies.benchmarks.processes.first_call import first_call
print(json.dumps(first_call(sys.argv[1])))
"""


def _measure(command: Command, unit: Unit) -> list[dict[str, Any]]:
    """A process with an empty cache of kernels, then one with the cache that it left."""
    call, found = str(unit[0]), []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": f"{folder}/kernels"}
        for cache in ("empty", "filled"):
            environment["UNRELU_CACHE"] = f"{folder}/{cache}"
            done = subprocess.run(
                [sys.executable, "-c", _CODE, call], env=environment, capture_output=True, text=True, check=True
            )
            found.append({"call": call, "cache": cache, **json.loads(done.stdout)})
    return found


def first_call(call: str) -> dict[str, float]:
    """Seconds of the first call in this process, whether it gave a code, and the number of messages."""
    messages: list[str] = []

    def kept(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return True

    logger = logging.getLogger("unrelu")
    logger.addFilter(kept)
    run: Callable[[], Any]
    found: Any
    if call == "certify":
        shapes = ((12, 3), (20, 12))
        network = unrelu.from_arrays([stream("first call, weights", i).normal(size=s) for i, s in enumerate(shapes)])
        y = network(stream("first call, code").normal(size=3))
        run = partial(unrelu.certify, network, y)
    else:
        network, y = unrelu.zoo.load("mnist-relu"), unrelu.zoo.observations("mnist-relu")[0]
        if "noise" in call:
            y = y + stream("first call, noise").normal(0, 0.1, y.shape)
        limit = _LIMIT if "limit" in call else None
        run = partial(unrelu.invert, network, y, call.split(",", maxsplit=1)[0], time_limit=limit)
    try:
        found, seconds = timed(run)
    finally:
        logger.removeFilter(kept)
    code = bool(np.isfinite(found.z).all()) and math.isfinite(seconds)
    return {"seconds": seconds, "code": code, "messages": len(messages)}


def _table(results: Results) -> str:
    calls: dict[str, dict[str, float]] = {}
    for row in results["rows"]:
        calls.setdefault(row["call"], {})[row["cache"]] = row["seconds"]
    rows = ((call, *(f"{seconds[cache]:.2f}" for cache in ("empty", "filled"))) for call, seconds in calls.items())
    return table(("first call", "s, compiling", "s, from the cache"), rows)


BENCHMARK = Benchmark(
    units=lambda command: [(call,) for call in (CALLS[:1] if command.quick else CALLS)],
    measure=_measure,
    blocks={"first_call": _table},
    collect=rows_of,
    workers=1,
)

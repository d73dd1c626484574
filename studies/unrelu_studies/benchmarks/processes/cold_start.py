"""The first layer program of a process: with nothing compiled, and with the kernels in Numba's cache on disk.

Two processes run one after the other with a cache folder of their own; the first compiles, the second loads. The
programs are so small (30 x 5) that solving them takes no time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from typing import Any

import numpy as np

from unrelu.layerwise import LayerSystem, rows
from unrelu.layerwise.layer_program import least_violation
from unrelu.models.activations import Activation
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

_SHAPE = (30, 5)
# What a process runs; the import is that of ``unrelu.layerwise``, with NumPy, SciPy, PyTorch and Numba.
_CODE = """
import json, time
begin = time.perf_counter()
import unrelu.layerwise
importing = time.perf_counter() - begin
from unrelu_studies.benchmarks.processes.cold_start import first_calls
print(json.dumps({"importing": importing, **first_calls()}))
"""


def _measure(command: Command, unit: Unit) -> list[dict[str, Any]]:
    """A process with an empty cache of kernels, then one with the cache that it left."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        start = partial(
            subprocess.run, [sys.executable, "-c", _CODE], env={**os.environ, **threads, "NUMBA_CACHE_DIR": folder},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for cache in ("empty", "filled"):
            done, seconds = timed(start)
            found.append({"cache": cache, "process": seconds, **json.loads(done.stdout)})
    return found


def first_calls() -> dict[str, float]:
    """Seconds of the first and second program of either norm in this process."""
    seconds = {}
    n, k = _SHAPE
    matrix = stream("cold start, weights").normal(0, n**-0.5, _SHAPE)
    system = LayerSystem(matrix, np.zeros(n), Activation("relu"), np.full(k, -np.inf), np.full(k, np.inf))
    x = system.value(stream("cold start, truth").standard_normal(k))
    x += stream("cold start, noise").uniform(-1e-3, 1e-3, n)
    for turn in ("first", "second"):
        for norm in ("l1", "linf"):
            layer_rows = rows(system, x, 1e-3)
            _, seconds[f"{turn}_{norm}"] = timed(partial(least_violation, system, layer_rows, norm))
    return seconds


def _table(results: Results) -> str:
    names = ("importing", "first_l1", "first_linf", "second_l1", "second_linf")
    head = ("cache of kernels", "import", "first l1", "first linf", "second l1", "second linf")
    return table(head, ((p["cache"], *(f"{p[name]:.3f}" for name in names)) for p in results["processes"]))


BENCHMARK = Benchmark(
    units=lambda command: [("both",)],
    measure=_measure,
    blocks={"cold-start": _table},
    collect=lambda command, parts: {"processes": parts[0]},
)

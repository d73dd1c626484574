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
import time
from dataclasses import dataclass

import numpy as np

from unrelu.layerwise import LayerSystem, rows
from unrelu.layerwise.layer_program import least_violation
from unrelu.models.activations import Activation
from unrelu.runtime.streams import stream

_SHAPE = (30, 5)
# What a process runs; the import of this module is that of NumPy and unrelu.layerwise.
_CODE = """
import json, time
begin = time.perf_counter()
from unrelu_studies.benchmarks.cold_start import first_calls
importing = time.perf_counter() - begin
print(json.dumps({"importing": importing, **first_calls()}))
"""


@dataclass(frozen=True)
class ColdStart:
    """Seconds in one process.

    Attributes:
        cache: "empty" or "filled", the folder that compiled kernels are kept in.
        process: from start to end, with Python's own start.
        importing: of ``unrelu.layerwise``, with NumPy, SciPy, PyTorch and Numba.
        first_l1, first_linf: the first program of either norm.
        second_l1, second_linf: the same once more.
    """

    cache: str
    process: float
    importing: float
    first_l1: float
    first_linf: float
    second_l1: float
    second_linf: float


def measure_cold_start() -> list[ColdStart]:
    """Start a process with an empty cache of kernels, then one with the cache that it left."""
    with tempfile.TemporaryDirectory() as folder:
        return [_process(cache, folder) for cache in ("empty", "filled")]


def _process(cache: str, folder: str) -> ColdStart:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        env={**os.environ, **threads, "NUMBA_CACHE_DIR": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    return ColdStart(cache, time.perf_counter() - begin, **json.loads(done.stdout))


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
            begin = time.perf_counter()
            least_violation(system, rows(system, x, 1e-3), norm)
            seconds[f"{turn}_{norm}"] = time.perf_counter() - begin
    return seconds

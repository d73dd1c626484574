"""Seconds used under ``time_limit``: noisy real digits, every method, three generators of the zoo."""

from __future__ import annotations

import time

import unrelu
from unrelu.runtime.streams import stream

LIMIT, QUICK_LIMIT = 2.0, 0.3
COUNT, QUICK_COUNT = 30, 5
LAYERWISE = ("linf", "l1", "relaxed", "least_squares")
JOINT = ("lm", "gradient_descent", "auto")
# The last layer of mnist-dcgan does not expand, so it is searched jointly only.
METHODS = {"mnist-relu": (*LAYERWISE, *JOINT), "mnist-leaky": (*LAYERWISE, *JOINT), "mnist-dcgan": JOINT}


def measure(quick, seed):
    """A row for each generator and method."""
    limit, count, rows = (QUICK_LIMIT, QUICK_COUNT, []) if quick else (LIMIT, COUNT, [])
    for name, methods in METHODS.items():
        network = unrelu.zoo.load(name)
        digits = unrelu.zoo.observations(name)[:count]
        y = digits + 0.1 * stream("time limit, noise", seed, name).normal(size=digits.shape)
        for method in methods:
            unrelu.invert(network, y[:1], method, time_limit=limit)  # compiles: `cold-start` measures that
            begin = time.perf_counter()
            result = unrelu.invert(network, y, method, time_limit=limit)
            seconds = time.perf_counter() - begin
            stopped = int((result.status == unrelu.Status.TIME_LIMIT).sum())
            rows.append({"generator": name, "method": method, "seconds": seconds, "stopped": stopped})
    return {"limit": limit, "observations": count, "rows": rows}

"""Seconds used under ``time_limit=2``: noisy real digits, every method, three generators of the zoo."""

from __future__ import annotations

import time

import unrelu
from unrelu.streams import stream

LIMIT = 2.0
COUNT = 30
LAYERWISE = ("linf", "l1", "relaxed", "least_squares")
JOINT = ("lm", "gradient_descent", "auto")
# The last layer of mnist-dcgan does not expand, so it is searched jointly only.
METHODS = {"mnist-relu": (*LAYERWISE, *JOINT), "mnist-leaky": (*LAYERWISE, *JOINT), "mnist-dcgan": JOINT}


def main():
    """Print a Markdown table."""
    print("| generator | method | seconds | stopped at the limit |")
    print("|---|---|---|---|")
    for name, methods in METHODS.items():
        network = unrelu.zoo.load(name)
        digits = unrelu.zoo.observations(name)[:COUNT]
        y = digits + 0.1 * stream("time limit, noise", name).normal(size=digits.shape)
        for method in methods:
            begin = time.perf_counter()
            result = unrelu.invert(network, y, method, time_limit=LIMIT)
            seconds = time.perf_counter() - begin
            late = int((result.status == unrelu.Status.TIME_LIMIT).sum())
            print(f"| {name} | {method} | {seconds:.2f} | {late} of {COUNT} |", flush=True)


if __name__ == "__main__":
    main()

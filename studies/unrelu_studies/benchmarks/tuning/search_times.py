"""Times of ``auto`` on the hard generators: ``python -m unrelu_studies.benchmarks.tuning.search_times``.

``unrelu benchmark hard`` spends most of its two hours on the best known codes. This is its observations and ``auto``
alone, for half an hour that a machine can be kept idle: milliseconds of the processor for an observation, in
batches of 50 on one thread, of every cell, and the slowest of each kind.
"""

from __future__ import annotations

import time

from unrelu import invert
from unrelu.runtime.host import computing
from unrelu_studies.benchmarks.searches.hard import BATCH, COUNT, DECODERS
from unrelu_studies.benchmarks.searches.hard_cells import AMBIGUOUS, DETERMINED, REPORT, draw

# The seed of `unrelu benchmark hard`.
_SEED = 20260


def milliseconds(name: str, measurement: str, noise: float) -> float:
    """What an observation takes."""
    batch = draw(name, measurement, noise, COUNT, _SEED)
    with computing(one_thread=True):
        # Compiles, draws the samples of the generator, and learns its confidence for all levels of noise.
        invert(batch.network, batch.y, operator=batch.operator)
        begin = time.process_time()
        for start in range(0, COUNT, BATCH):
            invert(batch.network, batch.y[start : start + BATCH], operator=batch.operator)
        return 1e3 * (time.process_time() - begin) / COUNT


def main() -> None:
    """Time and print."""
    slowest: dict[str, float] = {}
    for name in REPORT:
        for measurement, noise in (*DETERMINED, *AMBIGUOUS):
            took = milliseconds(name, measurement, noise)
            print(f"{name}, {measurement}, noise {noise:g}: {took:.2g} ms", flush=True)
            if (measurement, noise) in AMBIGUOUS:
                kind = "ambiguous"
            elif not noise:
                kind = "without noise"
            else:
                kind = "with noise, decoders" if name in DECODERS else "with noise, others"
            slowest[kind] = max(took, slowest.get(kind, 0.0))
    print("slowest:", ", ".join(f"{kind} {took:.3g} ms" for kind, took in slowest.items()))


if __name__ == "__main__":
    main()

"""Learn the default prior of the confidence: ``python -m unrelu_studies.benchmarks.tuning.default_prior``.

Observations of the hard generators to tune on are searched with all that the search has and more, and the prior of each
class is the mixture that makes the counts of its generators' chains most probable. Prints the rows of ``_DEFAULT`` in
:mod:`unrelu.search.basin_prior` (a quarter of an hour).
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from unrelu._calibrate import chain_ends
from unrelu.problem import Problem
from unrelu.runtime.host import computing
from unrelu.search.basin_prior import LEVELS, BasinPrior, learned_prior, width_class
from unrelu.search.confidence import ALPHA, Hits
from unrelu_studies.benchmarks.searches.hard_cells import AMBIGUOUS, DETERMINED, TUNE, draw

# Chains of each observation that the prior is learned from, by the class of its generator: behind very narrow layers
# as many as a search makes.
_CHAINS = (12, 12, 36)
# Of a uniform mixture, as so many observations: no point of the grid is left out for good.
_PSEUDO = 1.0


def counted(name: str, measurement: str, noise: float, size: int, seed: int) -> tuple[int, list[Hits]]:
    """The class of a generator, and the chains in the best optimum that is known, after each level of hops."""
    batch = draw(name, measurement, noise, size, seed)
    with computing(one_thread=True):
        problem = Problem.build(batch.network, batch.y, operator=batch.operator, seed=seed).equilibrated()
        kind = width_class(problem)
        ends, _, best = chain_ends(problem, batch.truth, _CHAINS[kind])
    return kind, [Hits.of(end, best, np.zeros(size)) for end in ends]


def main() -> None:
    """Learn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=120, help="observations of each generator and measurement")
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    counts: dict[int, list[list[Hits]]] = defaultdict(list)
    for name in TUNE:
        for measurement, noise in (*DETERMINED, *AMBIGUOUS):
            if noise:
                kind, hits = counted(name, measurement, noise, options.instances, options.seed)
                counts[kind].append(hits)
                print(name, measurement, noise, flush=True)
    uniform = BasinPrior(np.full((len(LEVELS), len(ALPHA)), 1 / len(ALPHA)))
    for kind in sorted(counts):
        hits = [Hits(*map(np.concatenate, zip(*level, strict=True))) for level in zip(*counts[kind], strict=True)]
        print(f"class {kind}")
        for row in learned_prior(hits, uniform, _PSEUDO).weights:
            print("    (", ", ".join(f"{weight:.4g}" for weight in row.round(5)), "),", sep="")


if __name__ == "__main__":
    main()

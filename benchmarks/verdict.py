"""Whether the words of a verdict are true: false successes, and p-values and confidences against the truth."""

from __future__ import annotations

from dataclasses import asdict

from unrelu.benchmarks.results import run_script
from unrelu.benchmarks.verdict import (
    QUICK,
    Plan,
    measure_noiseless,
    measure_noisy,
    measure_own_outputs,
    measure_strangers,
    reliability,
)

# Of a picture of 28 x 28 pixels, less those that a fit of 20 coordinates takes.
DEGREES = 784 - 20


def measure(quick, seed):
    """All four questions; ``reliability`` has, of each search, (from, to, codes, best ones) of each confidence."""
    plan = QUICK if quick else Plan()
    noisy = list(measure_noisy(plan, seed))
    return {
        "plan": asdict(plan),
        "strangers": [
            {
                **asdict(row),
                "expected": {"success": 1 - row.expected(0.01, DEGREES), "rejected": row.expected(1e-3, DEGREES)},
            }
            for row in measure_strangers(plan, seed)
        ],
        "own": [{**asdict(row), "distance": row.distance} for row in measure_own_outputs(plan, seed)],
        "noiseless": [asdict(row) for row in measure_noiseless(plan, seed)],
        "noisy": [asdict(row) for row in noisy],
        "reliability": {search: reliability(noisy, search) for search in plan.searches},
    }


if __name__ == "__main__":
    run_script("verdict", __doc__, measure)

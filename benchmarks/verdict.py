"""Whether the words of a verdict are true: false successes, and p-values and confidences against the truth.

Prints Markdown tables and writes the numbers with the machine they were measured on as JSON. Its times are
seconds of the processor; all parts together take minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from unrelu.benchmarks.instances import REPORT_SEED
from unrelu.benchmarks.verdict import (
    QUICK,
    SEARCHES,
    Plan,
    measure_noiseless,
    measure_noisy,
    measure_own_outputs,
    measure_strangers,
    reliability,
)
from unrelu.machine import describe

# Of a picture of 28 x 28 pixels, less those that a fit of 20 coordinates takes.
DEGREES = 784 - 20
RESULTS = Path(__file__).parent / "results" / "verdict.json"


def strangers(plan, seed):
    """Observations that the generator cannot have made; goal: success in at most 1%, p < 1e-3 in at least 99%.

    Some outputs of another generator lie so near an output of the one asked that the noise hides the difference. What
    a test can reach at their distances stands beside what was measured.
    """
    print(f"\nObservations out of the generator's range, {plan.strangers} a row, noise 0.1 stated\n")
    print("| generator | observed | called a success | at their distance | p < 1e-3 | at their distance |")
    print("|---|---|---|---|---|---|")
    rows = []
    for row in measure_strangers(plan, seed):
        rows.append(row)
        success, rejected = 1 - row.expected(0.01, DEGREES), row.expected(1e-3, DEGREES)
        print(
            f"| {row.generator} | {row.kind} | {row.success:.1%} | {success:.1%} | {row.rejected:.1%} "
            f"| {rejected:.1%} |",
            flush=True,
        )
    return [asdict(row) for row in rows]


def own_outputs(plan, seed):
    """Own noisy outputs; goal: Kolmogorov-Smirnov distance of at most 0.05, success in 98 to 100%."""
    print("\nOwn outputs, noise 0.1 stated\n")
    print(
        "| generator | operator | observations | distance of p from uniform | success | p < 0.01 | mean p | statuses |"
    )
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for row in measure_own_outputs(plan, seed):
        rows.append(row)
        p = row.p_values
        small, mean = sum(value < 0.01 for value in p) / len(p), sum(p) / len(p)
        statuses = ", ".join(f"{status} {count}" for status, count in row.statuses.items())
        print(
            f"| {row.generator} | {row.operator} | {len(p)} | {row.distance:.3f} | {row.success:.1%} | {small:.1%} "
            f"| {mean:.3f} | {statuses} |",
            flush=True,
        )
    return [asdict(row) for row in rows]


def noiseless(plan, seed):
    """Noise neither there nor stated; goal: no success that is not the best."""
    print(f"\nNo noise, none stated, {plan.noiseless} a row\n")
    print(
        "| generator | operator | exact fit | by a heavy search | success | false success | largest confidence, wrong |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = []
    for row in measure_noiseless(plan, seed):
        rows.append(row)
        largest = f"{max(row.confidences):.3f}" if row.confidences else ""
        print(
            f"| {row.generator} | {row.operator} | {row.exact} | {row.exact_by_heavy} | {row.successes} | {row.false} "
            f"| {largest} |",
            flush=True,
        )
    total, false = sum(row.count for row in rows), sum(row.false for row in rows)
    print(f"\n{false} false successes of {sum(row.successes for row in rows)} in {total} observations")
    return [asdict(row) for row in rows]


def noisy(plan, seed):
    """How often codes of a confidence are within 1% of the best known."""
    print(f"\nNoise of 0.4 of the outputs' root mean square, {plan.noisy} a row\n")
    print(
        "| generator | operator | search | within 1% of the best known | confidence >= .99 | and not best | success |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = []
    for row in measure_noisy(plan, seed):
        rows.append(row)
        sure = [best for c, best in zip(row.confidences, row.best, strict=True) if c >= 0.99]
        print(
            f"| {row.generator} | {row.operator} | {row.search} | {sum(row.best)} | {len(sure)} "
            f"| {len(sure) - sum(sure)} | {row.successes} |",
            flush=True,
        )
    print("\ncodes of each confidence, and the share of them that is within 1% of the best known\n")
    print(f"| confidence | {' | '.join(SEARCHES)} |\n|---|{'---|' * len(SEARCHES)}")
    for bins in zip(*(reliability(rows, search) for search in SEARCHES), strict=True):
        cells = [f"{count}: {best / count:.1%}" if count else "" for _, _, count, best in bins]
        print(f"| {bins[0][0]:g} to {bins[0][1]:g} | {' | '.join(cells)} |")
    return [asdict(row) for row in rows]


def rounded(value):
    """Four digits of every number."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


PARTS = {"strangers": strangers, "own": own_outputs, "noiseless": noiseless, "noisy": noisy}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the observations")
    parser.add_argument("--seed", type=int, default=REPORT_SEED, help="of codes, noise, operators and weights")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be given several times")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the numbers go; those of other parts stay")
    arguments = parser.parse_args()
    path = arguments.output
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in arguments.part or PARTS:
        begin = time.process_time()
        rows = PARTS[part](QUICK if arguments.quick else Plan(), arguments.seed)
        seconds = time.process_time() - begin
        print(f"\n{part}: {seconds:.0f} s of the processor", flush=True)
        given = {"seed": arguments.seed, "quick": arguments.quick, "seconds": seconds}
        report[part] = {"machine": describe(), **given, "rows": rounded(rows)}
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

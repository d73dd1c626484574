"""The file that every benchmark writes: ``NAME.json``, its numbers with the command, the commit and the machine.

``scripts/benchmark_page.py`` makes the tables of the documentation from these files alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unrelu.benchmarks.instances import REPORT_SEED
from unrelu.machine import describe

__all__ = ["processor_seconds", "run_script", "write_results"]


def write_results(path: Path, command: Mapping[str, Any], numbers: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Write the numbers of a benchmark; those that are not finite become null.

    Args:
        path: of the file, ``NAME.json``.
        command: what was asked for: at least ``measurement``, ``quick`` and ``seed``.
        numbers: what was measured.
        seconds: of the processor, that the benchmark took.

    Returns:
        The machine that is described in the file.
    """
    machine = describe()
    stated = {"command": command, "commit": _commit(), "seconds": round(seconds, 1), "machine": machine}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite({**stated, **numbers}), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return machine


def processor_seconds() -> float:
    """Of this process and of its children that have ended: other work on the machine does not count."""
    return sum(os.times()[:4])


def run_script(
    name: str, description: str | None, measure: Callable[[bool, int], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The command line of a script in ``benchmarks/``: measure, and write ``NAME.json``.

    Args:
        name: of the benchmark.
        description: for ``--help``.
        measure: takes whether the run is a quick one, and the seed; returns the numbers.

    Returns:
        The numbers.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few instances")
    parser.add_argument("--seed", type=int, default=REPORT_SEED, help="of all that is drawn")
    parser.add_argument("--output", type=Path, default=Path(f"benchmark-{name}"), help=f"folder for {name}.json")
    asked = parser.parse_args()
    wall = time.perf_counter()
    numbers = measure(asked.quick, asked.seed)
    command = {"measurement": name, "quick": asked.quick, "seed": asked.seed}
    path = asked.output / f"{name}.json"
    write_results(path, command, numbers, processor_seconds())
    print(f"written to {path} after {time.perf_counter() - wall:.0f} s")
    return numbers


def _finite(value: Any) -> Any:
    """Numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _commit() -> str | None:
    """The commit of the sources, "+" behind it where they were changed; None outside a repository."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/src", ":/benchmarks/*.py")
        return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None

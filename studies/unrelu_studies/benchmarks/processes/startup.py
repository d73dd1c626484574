"""Seconds to start, warm, median of runs: the command line, the package, and the package with what inverting needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np

from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

RUNS, QUICK_RUNS = 7, 2
COMMANDS = {
    "unrelu --help": [shutil.which("unrelu") or "unrelu", "--help"],
    "import unrelu": [sys.executable, "-c", "import unrelu"],
    "import unrelu; unrelu.invert, unrelu.load": [sys.executable, "-c", "import unrelu; unrelu.invert, unrelu.load"],
}


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    """A row for each command; nothing is drawn, so that the seed has no effect."""
    name, runs = str(unit[0]), QUICK_RUNS if command.quick else RUNS
    start = partial(subprocess.run, COMMANDS[name], check=True, stdout=subprocess.DEVNULL)
    seconds = [timed(start)[1] for _ in range(runs + 1)]
    return {"command": name, "runs": runs, "seconds": float(np.median(seconds[1:]))}


def _table(results: Results) -> str:
    rows = results["rows"]
    head = ("command", f"seconds, warm, median of {rows[0]['runs']}")
    return table(head, ((f"`{row['command']}`", f"{row['seconds']:.2f}") for row in rows))


BENCHMARK = Benchmark(
    units=lambda command: [(name,) for name in COMMANDS], measure=_measure, blocks={"startup": _table},
    workers=1,
)  # fmt: skip

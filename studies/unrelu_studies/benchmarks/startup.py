"""Seconds to start, warm, median of runs: the command line, the package, and the package with what inverting needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import numpy as np

RUNS, QUICK_RUNS = 7, 2
COMMANDS = {
    "unrelu --help": [shutil.which("unrelu") or "unrelu", "--help"],
    "import unrelu": [sys.executable, "-c", "import unrelu"],
    "import unrelu; unrelu.invert, unrelu.load": [sys.executable, "-c", "import unrelu; unrelu.invert, unrelu.load"],
}


def measure(quick, seed):
    """A row for each command; nothing is drawn, so that the seed has no effect."""
    rows = []
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range((QUICK_RUNS if quick else RUNS) + 1):
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
        rows.append({"command": name, "runs": len(seconds) - 1, "seconds": float(np.median(seconds[1:]))})
    return {"rows": rows}

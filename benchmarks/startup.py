"""Seconds to start, warm, median of runs: the command line, the package, and the package with what inverting needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import numpy as np

RUNS = 7
COMMANDS = {
    "unrelu --help": [shutil.which("unrelu") or "unrelu", "--help"],
    "import unrelu": [sys.executable, "-c", "import unrelu"],
    "import unrelu; unrelu.invert, unrelu.load": [sys.executable, "-c", "import unrelu; unrelu.invert, unrelu.load"],
}


def main():
    """Print a line a command."""
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range(RUNS + 1):
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
        print(f"{name:45} {np.median(seconds[1:]):.2f} s")


if __name__ == "__main__":
    main()

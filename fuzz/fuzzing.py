"""What the fuzz scripts share: their command line, and the file that they write."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_fuzzer"]

Row = Mapping[str, Any]


def run_fuzzer(
    name: str, description: str | None, measure: Callable[[bool, int], Sequence[Row]], failures: Sequence[str]
) -> None:
    """Measure, print the rows as a table, write them, and end with status 1 if a column that must be 0 is not.

    Args:
        name: of the script.
        description: for ``--help``.
        measure: takes whether the run is a quick one, and the seed; returns rows with ``what`` and ``tried``.
        failures: the columns that must be 0.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--output", type=Path, required=True, help="file for the numbers, JSON")
    asked = parser.parse_args()
    begin = time.perf_counter()
    rows = measure(asked.quick, asked.seed)
    seconds = round(time.perf_counter() - begin, 1)
    stated = {"script": name, "seed": asked.seed, "quick": asked.quick, "commit": _commit(), "seconds": seconds}
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps({**stated, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    _print(rows)
    failed = sum(int(row.get(column, 0)) for row in rows for column in failures)
    print(f"{sum(row['tried'] for row in rows)} tried in {seconds:.0f} s, {failed} failures; written to {asked.output}")
    sys.exit(bool(failed))


def _print(rows: Sequence[Row]) -> None:
    names = list(rows[0])
    cells = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _commit() -> str | None:
    """The commit of the sources; None outside a repository."""
    try:
        asked = ["git", "rev-parse", "--short=7", "HEAD"]
        return subprocess.run(
            asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

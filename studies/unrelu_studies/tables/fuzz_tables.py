"""Blocks of docs/reliability.md: what the fuzzers of ``fuzz/`` tried, and what held."""

from __future__ import annotations

from typing import Any

from unrelu_studies.benchmarks.benchmark import Render, Results
from unrelu_studies.kit.markdown_tables import table

# The scripts of the folder; the numbers of each are in fuzz-NAME.json.
FUZZERS = ("programs", "scales", "files", "hosts", "runs")
NOT_RUN = "Not run yet: `make fuzz` does."


def _counts(numbers: Results) -> str:
    """One row for all that was tried: sums, maxima of what is a size or a time, texts if there are any."""
    rows: list[dict[str, Any]] = numbers["rows"]
    if rows[-1]["what"] == "all":
        rows = rows[:-1]
    size, minutes = "Quick" if numbers["quick"] else "Full", numbers["seconds"] / 60
    how = f"{size} run, seed {numbers['seed']}, commit {numbers['commit']}, {minutes:.1f} minutes"
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "what"]
    together = {name: _together(name, [row[name] for row in rows if name in row]) for name in columns}
    shown = {name: cell for name, cell in together.items() if cell is not None}
    return f"{how}, {len(rows)} kinds of cases.\n\n{table(list(shown), [shown.values()])}"


def _together(column: str, values: list[Any]) -> str | None:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if numbers:
        return f"{max(numbers) if column.startswith(('largest', 'longest', 'slowest', 'worst')) else sum(numbers):,}"
    texts = [str(v) for value in values for v in (value if isinstance(value, list) else [value]) if v]
    return "; ".join(dict.fromkeys(texts)).replace("|", "\\|") or None


BLOCKS: dict[str, Render] = {f"fuzz-{name}": _counts for name in FUZZERS}

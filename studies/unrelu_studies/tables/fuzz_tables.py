"""Blocks of docs/reliability.md: what the fuzzers of ``fuzz/`` tried, and what held."""

from __future__ import annotations

from typing import Any

from unrelu_studies.benchmarks.benchmark import Render, Results
from unrelu_studies.kit.markdown_tables import table

# The scripts of the folder; the numbers of each are in fuzz-NAME.json.
FUZZERS = ("programs", "scales", "files", "hosts", "runs")
NOT_RUN = "Not run yet: `make fuzz` does."


def _counts(numbers: Results) -> str:
    """Every column that any row has; what must be 0 is named by the script."""
    rows: list[dict[str, Any]] = numbers["rows"] if numbers["script"] != "scales" else _by_method(numbers["rows"])
    columns = list(dict.fromkeys(name for row in rows for name in row))
    size, minutes = "Quick" if numbers["quick"] else "Full", numbers["seconds"] / 60
    how = f"{size} run, seed {numbers['seed']}, commit {numbers['commit']}, {minutes:.1f} minutes."
    return f"{how}\n\n{table(columns, ([_cell(row.get(name)) for name in columns] for row in rows))}"


def _by_method(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for the places, networks and measurements of a method: sums, and the largest difference."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["what"].split(", ")[0]
        total = found.setdefault(name, {"what": name})
        for column, value in row.items():
            if column.startswith("largest"):
                total[column] = max(total.get(column, 0.0), value)
            elif column not in ("what", "first error"):
                total[column] = total.get(column, 0) + value
    return list(found.values())


def _cell(value: Any) -> str | None:
    if isinstance(value, list):
        return "; ".join(map(str, value)).replace("|", "\\|") or None
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else value


BLOCKS: dict[str, Render] = {f"fuzz-{name}": _counts for name in FUZZERS}

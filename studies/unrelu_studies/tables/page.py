"""Write the generated blocks of the documentation from the numbers of the benchmarks: ``studies/results/*.json``.

A block lies between ``<!-- table: NAME -->`` and ``<!-- end -->``. NAME is that of a block of a benchmark, which
``scripts/bench FIRST-WORD-OF-NAME`` measures; "fuzz-...", which ``scripts/fuzz`` does; or one of :data:`OVER_ALL`.

    python -m unrelu_studies.tables.page            write the blocks of the pages
    python -m unrelu_studies.tables.page --print search --results FOLDER
                                                print the blocks of some benchmarks, for instance of a quick run
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from unrelu_studies.benchmarks import BENCHMARKS
from unrelu_studies.benchmarks.benchmark import load
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.tables import fuzz_tables
from unrelu_studies.tables.headlines import headlines

BLOCKS = {**{name: block for b in BENCHMARKS for name, block in load(b).blocks.items()}, **fuzz_tables.BLOCKS}
_ROOT = Path(__file__).resolve().parents[3]
RESULTS = _ROOT / "studies" / "results"
_NAMES = ("benchmarks.md", "reliability.md", "emulators.md", "verdict.md")
PAGES = tuple(_ROOT / "docs" / name for name in _NAMES)
_MARKED = re.compile(r"(<!-- table: ([^>]+?) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def names(text: str) -> list[str]:
    """Of the blocks of a page, in order."""
    return [name for _, name, _ in _MARKED.findall(text)]


def filled(text: str, results: Path) -> str:
    """A page with its blocks made from the numbers in a folder."""
    return _MARKED.sub(lambda found: f"{found[1]}{render(found[2], results)}\n{found[3]}", text)


def render(name: str, results: Path) -> str:
    """A block as Markdown.

    Raises:
        KeyError: no block has that name.
        FileNotFoundError: the benchmark has no numbers in the folder.
    """
    if name in OVER_ALL:
        return OVER_ALL[name](results)
    path = results / f"{name.split(maxsplit=1)[0]}.json"
    if name in fuzz_tables.BLOCKS and not path.exists():
        return fuzz_tables.NOT_RUN
    return BLOCKS[name](_numbers(path))


def _numbers(path: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def _provenance(results: Path) -> str:
    """The machines, and of every benchmark how its numbers were made."""
    files = (path for path in sorted(results.glob("*.json")) if path.stem not in fuzz_tables.BLOCKS)
    runs = {path.stem: _numbers(path) for path in files}
    machines = dict.fromkeys(_machine(run["machine"]) for run in runs.values())
    rows = []
    for name, run in runs.items():
        command, seconds = run.get("command", {}), run.get("seconds")
        minutes = None if seconds is None else f"{seconds / 60:.1f}"
        size = "quick" if command.get("quick") else "full"
        load_at_end = (run["machine"].get("load") or [None])[0]
        when = run["machine"]["date"][:10]
        rows.append((f"`{name}`", size, command.get("seed"), run.get("commit"), when, minutes, load_at_end))
    head = ("benchmark", "run", "seed", "commit", "date", "minutes of the processor", "load at its end")
    return f"Measured on {'; '.join(machines)}.\n\n{table(head, rows)}"


# Blocks of several benchmarks.
OVER_ALL: dict[str, Callable[[Path], str]] = {"headlines": headlines, "provenance": _provenance}


def _machine(machine: dict[str, Any]) -> str:
    libraries = {"Python": "python", "PyTorch": "torch", "HiGHS": "highspy", "NumPy": "numpy", "SciPy": "scipy"}
    versions = ", ".join(f"{name} {machine[key]}" for name, key in libraries.items())
    return f"{machine['processor']}, {machine['cores']} cores, {versions}"


def _show(asked: Iterable[str], results: Path) -> None:
    for name in BLOCKS:
        if name.split(maxsplit=1)[0] in asked:
            print(f"\n## {name}\n\n{render(name, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the generated blocks of the documentation.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the numbers")
    parser.add_argument("--print", nargs="+", metavar="NAME", help="print the blocks of these benchmarks instead")
    arguments = parser.parse_args()
    if arguments.print:
        _show(arguments.print, arguments.results)
    else:
        for page in PAGES:
            page.write_text(filled(page.read_text(encoding="utf-8"), arguments.results), encoding="utf-8")

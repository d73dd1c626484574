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
import sys
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
_NAMES = (
    "benchmarks.md",
    "real_data.md",
    "reliability.md",
    "verdict_numbers.md",
    "verdict.md",
    "methods.md",
    "measurements.md",
)
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


def _runs(results: Path) -> dict[str, dict[str, Any]]:
    """The numbers of every benchmark by its name."""
    files = (path for path in sorted(results.glob("*.json")) if path.stem not in fuzz_tables.BLOCKS)
    return {path.stem: _numbers(path) for path in files}


def commits(results: Path) -> dict[str | None, list[str]]:
    """The commits of which there are numbers, with their benchmarks, the most frequent first."""
    found: dict[str | None, list[str]] = {}
    for name, run in _runs(results).items():
        found.setdefault(run.get("commit"), []).append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def one_commit(results: Path) -> str:
    """What the page says of the commits: one, or that the numbers are of several and must not be compared."""
    (first, _), *others = commits(results).items()
    if not others:
        return f"All numbers are of commit {_named(first)}."
    said = "; ".join(f"{', '.join(f'`{name}`' for name in names)} of {_named(commit)}" for commit, names in others)
    return f"**Not of one commit**: most are of {_named(first)}, but {said}. `make bench` measures all of them again."


def _named(commit: str | None) -> str:
    """A commit; "+" is of sources that differ from it."""
    if commit is None:
        return "no known commit"
    return f"{commit.removesuffix('+')}{' with uncommitted changes' if commit.endswith('+') else ''}"


def _provenance(results: Path) -> str:
    """The commit, the machines, and of every benchmark how its numbers were made."""
    runs = _runs(results)
    machines = dict.fromkeys(_machine(run["machine"]) for run in runs.values())
    rows = []
    for name, run in runs.items():
        command, seconds = run.get("command", {}), run.get("seconds")
        minutes = None if seconds is None else f"{seconds / 60:.1f}"
        size = "quick" if command.get("quick") else "full"
        load_at_end = (run["machine"].get("load") or [None])[0]
        rows.append((f"`{name}`", size, command.get("seed"), run["machine"]["date"][:10], minutes, load_at_end))
    head = ("benchmark", "run", "seed", "date", "minutes of the processor", "load at its end")
    whole = f"{sum(run.get('seconds') or 0.0 for run in runs.values()) / 60:.0f} minutes of the processor in all"
    return f"{one_commit(results)} Measured on {'; '.join(machines)}; {whole}.\n\n{table(head, rows)}"


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
        if len(commits(arguments.results)) > 1:
            print(one_commit(arguments.results), file=sys.stderr)

"""Blocks of the documentation's benchmarks: how they are named, and how numbers and tables are written.

A block is a function of the numbers in ``studies/results/NAME.json``, NAME being the first word of its own name; it
returns Markdown: sentences and a table. Nothing is judged by hand: what was aimed at is compared in the function, so
that a rerun cannot contradict its page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Numbers = dict[str, Any]
Render = Callable[[Numbers], str]


def block(blocks: dict[str, Render], name: str) -> Callable[[Render], Render]:
    """Add a function to some blocks."""

    def add(render: Render) -> Render:
        blocks[name] = render
        return render

    return add


def table(headings: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; None is a dash."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join('-' if cell is None else str(cell) for cell in line)} |" for line in lines)


def aims(rows: Iterable[tuple[str, str, bool]]) -> str:
    """What was aimed at, what was measured, and whether it is reached."""
    return table(("aim", "measured", "reached"), ((aim, found, "yes" if ok else "no") for aim, found, ok in rows))


def form(value: float | None, spec: str) -> str:
    """A number, or a dash."""
    return "-" if value is None else format(value, spec)


def share(value: float | None) -> str:
    """Per cent, three digits."""
    return "-" if value is None else f"{100 * value:.3g}%"

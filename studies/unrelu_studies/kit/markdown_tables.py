"""Tables and numbers in Markdown, as all pages have them.

Nothing is judged by hand: what was aimed at is compared where its table is made, so that a rerun cannot contradict its
page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(headings: Sequence[str], rows: Iterable[Iterable[Any]], rule: str = " --- ") -> str:
    """A Markdown table; None is a dash."""
    head = "|".join(("", *(f" {name} " if name else " " for name in headings), ""))
    lines = ("|".join(("", *(f" {'-' if cell is None else cell} " for cell in line), "")) for line in rows)
    return "\n".join((head, "|".join(("", *[rule] * len(headings), "")), *lines))


def aims(rows: Iterable[tuple[str, str, bool | str | None]]) -> str:
    """What was aimed at, what was measured, and whether it is reached or a word; a dash where nothing was aimed at."""
    said = {True: "yes", False: "no"}
    return table(
        ("aim", "measured", "reached"),
        ((aim, found, said[ok] if isinstance(ok, bool) else ok) for aim, found, ok in rows),
    )


def form(value: float | None, spec: str) -> str:
    """A number, or a dash."""
    return "-" if value is None else format(value, spec)


def per_cent(value: float | None) -> str:
    """A share as per cent, three digits."""
    return "-" if value is None else f"{100 * value:.3g}%"


def short(value: float) -> str:
    """Two or three digits."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:#.2g}"


def seconds(value: float) -> str:
    """Three digits after the point, or two or three in all."""
    return f"{value:.3f}" if value < 1 else short(value)


def escaped(text: str) -> str:
    """Text of a page: z* is a code, not the begin of emphasis."""
    return text.replace("z*", "z\\*").replace("_i", "\\_i")

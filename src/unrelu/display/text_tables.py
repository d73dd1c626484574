"""Tables and results as lines of text and as HTML, from the same rows."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from unrelu.runtime.words import count, share

# The most characters of a printed line.
WIDTH = 100
# The most rows in the tables of statuses and of worst observations, and the most characters of a meaning. With these
# limits, a result prints in at most 15 lines.
_STATUSES, WORST, _MEANING = 4, 5, 66
# The columns of text in both tables.
_TEXTS = ("status", "meaning")


class Html(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table: headings, then rows. Columns named in ``left`` are aligned left, others right."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    pads = [str.ljust if heading in left else str.rjust for heading in headings]
    lines = ("  ".join(pad(c, w) for pad, c, w in zip(pads, row, widths, strict=True)) for row in [headings, *rows])
    return [f"  {line}".rstrip() for line in lines]


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """Return the table of :func:`text_table` as HTML. Headings and cells are escaped, except :class:`Html`."""

    def line(tag: str, cells: Sequence[str]) -> str:
        sides = ["left" if heading in left else "right" for heading in headings]
        texts = [cell if isinstance(cell, Html) else escape(cell) for cell in cells]
        made = (f'<{tag} style="text-align:{a};padding:2px 8px">{b}</{tag}>' for a, b in zip(sides, texts, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', headings)}</thead><tbody>{body}</tbody></table>"


def named_lines(entries: Sequence[tuple[str, str]], most: int = 3) -> list[str]:
    """Return lines "  name  text", wrapped at :data:`WIDTH` to at most ``most`` lines each. Leave out empty texts."""
    entries = [(name, text) for name, text in entries if text]
    width = max((len(name) for name, _ in entries), default=0)
    lines = []
    for name, text in entries:
        begin = f"  {name.ljust(width)}  "
        broken = textwrap.wrap(
            " ".join(text.split()), WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin), max_lines=most,
            placeholder=" ...",
        )  # fmt: skip
        lines += broken or [begin.rstrip()]
    return lines


def first_clauses(text: str, width: int) -> str:
    """Return the first clauses of a text: as many whole ones as fit into ``width`` characters, but at least one."""
    ends = [match.start() for match in re.finditer(r"[,;:] |$", text)]
    return text[: max((end for end in ends if end <= width), default=ends[0])]


@dataclass(frozen=True)
class Printed:
    """A result as text and as HTML: a title, named texts of one observation, tables of a batch, and a last line.

    Attributes:
        title: the first line.
        entries: names and texts; an entry without a text is left out.
        tables: captions, headings and rows.
        ending: the last line, if it is not empty.
    """

    title: str
    entries: Sequence[tuple[str, str]] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    ending: str = ""

    def __str__(self) -> str:
        """Return the result as lines of at most 100 characters."""
        lines = [self.title, *named_lines(self.entries)]
        for caption, headings, rows in self.tables:
            lines += [f"  {caption}:"] if caption else []
            lines += text_table(headings, rows, _TEXTS)
        return "\n".join([*lines, f"  {self.ending}"] if self.ending else lines)

    def html(self) -> str:
        """Return the result as HTML for notebooks."""
        parts = [f"<p>{escape(self.title)}</p>"]
        if self.entries:
            first, *others = [entry for entry in self.entries if entry[1]]
            parts.append(html_table(first, others, first))
        for caption, headings, rows in self.tables:
            parts += [f"<p>{escape(caption)}:</p>"] if caption else []
            parts.append(html_table(headings, rows, _TEXTS))
        if self.ending:
            parts.append(f"<p>{escape(self.ending)}</p>")
        return f"<div>{''.join(parts)}</div>"


def printed_batch(
    title: str, statuses: Sequence[str], meanings: Mapping[str, str], headings: Sequence[str],
    worst: Sequence[Sequence[str]], ending: str,
) -> Printed:  # fmt: skip
    """Return the tables of a batch: its statuses, the most frequent first, and its worst observations."""
    counts = Counter(statuses).most_common()
    shown = counts if len(counts) <= _STATUSES else counts[: _STATUSES - 1]
    said = [(name, n, first_clauses(meanings.get(name, ""), _MEANING)) for name, n in shown]
    if others := counts[len(shown) :]:
        said.append((f"{len(others)} others", sum(n for _, n in others), ""))
    rows = [(name, count(n), share(n, len(statuses)), meaning) for name, n, meaning in said]
    which = "all, worst first" if len(worst) == len(statuses) else f"the worst {len(worst)}"
    return Printed(title, (), [("", ("status", "count", "share", "meaning"), rows), (which, headings, worst)], ending)

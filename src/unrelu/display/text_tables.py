"""Tables as lines of text and as HTML, from the same rows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

# Characters of a line of printed text.
WIDTH = 100
_STYLE = "text-align:{};padding:2px 8px"


class Html(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> list[str]:
    """Lines of a table: the headings, then all rows. Columns named in ``left`` are aligned left, the others right."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    pads = [str.ljust if heading in left else str.rjust for heading in headings]
    lines = ("  ".join(pad(c, w) for pad, c, w in zip(pads, row, widths, strict=True)) for row in [headings, *rows])
    return [f"  {line}".rstrip() for line in lines]


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """The same table as HTML. Headings and cells are escaped, except :class:`Html`."""
    sides = ["left" if heading in left else "right" for heading in headings]

    def line(tag: str, cells: Sequence[str]) -> str:
        made = (
            f'<{tag} style="{_STYLE.format(side)}">{c if isinstance(c, Html) else escape(c)}</{tag}>'
            for side, c in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', headings)}</thead><tbody>{body}</tbody></table>"


def named_lines(entries: Sequence[tuple[str, str]], most: int = 3) -> list[str]:
    """Lines "  name  text", wrapped at :data:`WIDTH` to at most ``most`` lines each; empty texts are left out."""
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


def shortened(text: str, width: int) -> str:
    """The text in one line of at most ``width`` characters."""
    return textwrap.shorten(text, width, placeholder=" ...")

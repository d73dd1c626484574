"""Whether every internal link, anchor and picture of built HTML pages exists, and pages load nothing from elsewhere.

python scripts/check_links.py docs/_build
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes that name another file or a place in one.
_TARGETS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := values.get(name)))
        if target := values.get(_TARGETS.get(tag, "")):
            self.targets.append(target)
            if tag != "a":
                self.loaded.append(target)


def broken(folder: Path) -> list[str]:
    """A line for each link to a file that is not there, or a place that its page does not have."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    found.append(f"{path.relative_to(folder.resolve())}: {target} is loaded from elsewhere")
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[file].anchors if file in pages else None
            if not file.is_file():
                found.append(f"{path.relative_to(folder.resolve())}: {target} does not exist")
            elif anchors is not None and unquote(parts.fragment) not in anchors:
                found.append(f"{path.relative_to(folder.resolve())}: {target} names no place of its page")
    if not pages:
        found.append(f"{folder}: there are no pages")
    return found


if __name__ == "__main__":
    lines = broken(Path(sys.argv[1]))
    print("\n".join(lines) or "every link has its target")
    sys.exit(bool(lines))

"""One JSON document on standard output for ``--json``; an error is a document, too.

A command leaves its document here, and the process writes it at the end. So there is exactly one document, however a
command ends. Numbers that are not finite are null. docs/command_line.md lists the keys.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from unrelu._version import __version__

_documents: list[dict[str, Any]] = []


def asked_for(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, even if its other arguments are invalid."""
    words = list(arguments)
    return "--json" in words[: words.index("--") if "--" in words else len(words)]


def leave(command: str, document: Mapping[str, Any]) -> None:
    """Leave the document of a command, in place of an earlier one."""
    _documents[:] = [{"command": command, "version": __version__, **document}]


def leave_error(kind: str, message: str, status: int) -> None:
    """Leave the document of an error, in place of a command's document."""
    _documents[:] = [{"error": {"type": kind, "message": message, "status": status}}]


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many observations have each status."""
    return dict(sorted(Counter(row["status"] for row in rows).items()))


def taken() -> str:
    """Take the document away as one line; empty if there is none."""
    text = "".join(json.dumps(_plain(document), allow_nan=False) + "\n" for document in _documents)
    _documents.clear()
    return text


def _plain(value: Any) -> Any:
    """The value as JSON types: NumPy arrays and numbers become Python's, paths and other objects their text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)

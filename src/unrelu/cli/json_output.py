"""One JSON document on standard output for ``--json``, also for an error. docs/command_line.md lists the keys."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from unrelu._version import __version__
from unrelu.cli.terminal import write


def leave(command: str, document: Mapping[str, Any]) -> None:
    """Write the document of a command, which does nothing after it that can fail."""
    write(_text({"command": command, "version": __version__, **document}))


def leave_answers(
    command: str, output: Path, rows: Sequence[Mapping[str, Any]], interrupted: Event, **more: Any
) -> None:
    """Write the document of a command with a row for each observation, and how many have each status."""
    counts = dict(sorted(Counter(row["status"] for row in rows if "status" in row).items()))
    found = {"output": output, "size": len(rows), "counts": counts, **more, "interrupted": interrupted.is_set()}
    leave(command, {**found, "observations": rows})


def error_document(kind: str, message: str, status: int) -> str:
    """The document of an error, as one line."""
    return _text({"error": {"type": kind, "message": message, "status": status}})


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(as_json(document), allow_nan=False)


def as_json(value: Any) -> Any:
    """The value as JSON types: NumPy's become Python's, numbers that are not finite None, other objects their text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(name): as_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)

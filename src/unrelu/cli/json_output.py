"""One JSON document on standard output for ``--json``, also for an error. docs/command_line.md lists the keys."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from unrelu._version import __version__
from unrelu.cli.terminal import write
from unrelu.runtime.file_writing import as_json


def leave(command: str, document: Mapping[str, Any]) -> None:
    """Write the document of a command, which does nothing after it that can fail."""
    write(json.dumps(as_json({"command": command, "version": __version__, **document}), allow_nan=False))


def leave_answers(
    command: str, output: Path, rows: Sequence[Mapping[str, Any]], interrupted: Event, **more: Any
) -> None:
    """Write the document of a command with a row for each observation, and how many have each status."""
    counts = dict(sorted(Counter(row["status"] for row in rows if "status" in row).items()))
    found = {"output": output, "size": len(rows), "counts": counts, **more, "interrupted": interrupted.is_set()}
    leave(command, {**found, "observations": rows})


def error_document(kind: str, message: str, status: int) -> str:
    """The document of an error, as one line."""
    return json.dumps({"error": {"type": kind, "message": message, "status": status}})

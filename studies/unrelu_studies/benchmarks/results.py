"""The file that every benchmark writes: ``NAME.json``, its numbers with the command, the commit and the machine.

``unrelu_studies.tables.page`` makes the tables of the documentation from these files alone.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unrelu.runtime.machine import describe


def write_results(path: Path, command: Mapping[str, Any], numbers: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Write the numbers of a benchmark; those that are not finite become null.

    Args:
        path: of the file, ``NAME.json``.
        command: what was asked for: at least ``measurement``, ``quick`` and ``seed``.
        numbers: what was measured.
        seconds: of the processor, that the benchmark took.

    Returns:
        The machine that is described in the file.
    """
    machine = describe()
    stated = {"command": command, "commit": _commit(), "seconds": round(seconds, 1), "machine": machine}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite({**stated, **numbers}), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return machine


def processor_seconds() -> float:
    """Of this process and of its children that have ended: other work on the machine does not count."""
    return sum(os.times()[:4])


def _finite(value: Any) -> Any:
    """Numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _commit() -> str | None:
    """The commit of the sources, "+" behind it where they were changed; None outside a repository."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/src", ":/studies/unrelu_studies")
        return git("rev-parse", "--short=7", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None

"""How observations ended, and what needs attention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np

from unrelu.batch import Run
from unrelu.report.columns import Finished
from unrelu.result import Status
from unrelu.stores.images import ENDINGS

__all__ = ["Message", "Outcome", "messages", "outcomes"]

# Indices that are shown of a status or a message, and messages that are shown.
_FIRST = 8
_MESSAGES = 20


@dataclass(frozen=True)
class Outcome:
    """One status of a run.

    Attributes:
        name: of the status.
        count: how many observations have it.
        meaning: what it says, and what to do.
        kind: "success", "other", or "error".
        first: some observations that have it, by index, those of the run's beginning.
    """

    name: str
    count: int
    meaning: str
    kind: str
    first: tuple[int, ...]


@dataclass(frozen=True)
class Message:
    """Errors that say the same.

    Attributes:
        text: of the first one, without the name of its observation.
        count: how many there are.
        first: names of the first ones.
    """

    text: str
    count: int
    first: tuple[str, ...]


def outcomes(finished: Finished) -> list[Outcome]:
    """Every status that occurs: those with success first, then by their number."""
    run, codes = finished.run, finished.column("status")
    successes = _successes(finished)
    found = []
    for name, count in run.counts.items():
        status = Status.__members__.get(name)
        code = run.manifest["statuses"].index(name) + 1
        kind = "error" if status is Status.ERROR else "success" if name in successes else "other"
        first = finished.index(np.flatnonzero(codes == code)[:_FIRST])
        meaning = "of another version of unrelu" if status is None else status.value
        found.append(Outcome(name, count, meaning, kind, tuple(first)))
    return sorted(found, key=lambda outcome: (outcome.kind != "success", -outcome.count, outcome.name))


def _successes(finished: Finished) -> set[str]:
    """The statuses that count as success, as the run itself recorded it."""
    codes = np.unique(finished.column("status")[finished.column("success")])
    names = finished.run.manifest["statuses"]
    return {names[code - 1] for code in codes.tolist() if 0 < code <= len(names)}


@dataclass
class _Group:
    text: str
    count: int = 0
    first: list[str] = field(default_factory=list)


def messages(run: Run) -> tuple[list[Message], int]:
    """The errors, those that differ in numbers only counted together, most frequent first.

    Returns:
        The most frequent ones, and how many errors are not among them.
    """
    groups: dict[str, _Group] = {}
    for index, message in run.errors.items():
        name, text = _parted(index, message)
        group = groups.setdefault(re.sub(r"\d+", "0", text), _Group(text))
        group.count += 1
        if len(group.first) < _FIRST:
            group.first.append(name)
    ordered = sorted(groups.values(), key=lambda group: -group.count)
    shown = [Message(group.text, group.count, tuple(group.first)) for group in ordered[:_MESSAGES]]
    return shown, sum(group.count for group in ordered[_MESSAGES:])


def _parted(index: int, message: str) -> tuple[str, str]:
    """The name of the observation, which is its index or its file, and what is said of it."""
    parts = message.split(": ")
    for i in range(1, len(parts)):
        name = ": ".join(parts[:i])  # names of files may have colons themselves
        if name == str(index) or PurePath(name).suffix.lower() in ENDINGS:
            return name, ": ".join(parts[i:])
    return str(index), message

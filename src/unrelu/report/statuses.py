"""How observations ended, and what needs attention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np

from unrelu.datasets.images import ENDINGS
from unrelu.measurements.noise import SIGNIFICANCE
from unrelu.report.facts import Finished
from unrelu.result import Status
from unrelu.runs import Run

# Indices that are shown of a status or a message, and messages that are shown.
_FIRST = 8
_MESSAGES = 20


@dataclass(frozen=True)
class StatusCount:
    """One status of a run.

    Attributes:
        name: of the status.
        count: how many observations have it.
        meaning: what it says, and what to do.
        kind: "success" where all that have it are a success; "error" or "other".
        first: some observations that have it, by index, those of the run's beginning.
    """

    name: str
    count: int
    meaning: str
    kind: str
    first: tuple[int, ...]


@dataclass(frozen=True)
class Above:
    """Observations whose code leaves more than the stated noise explains: how many, and some of them."""

    count: int
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


def outcomes(finished: Finished) -> list[StatusCount]:
    """Every status that occurs: the good ones first, then by their number."""
    run, codes, success = finished.run, finished.column("status"), finished.column("success")
    found = []
    for name, count in run.counts.items():
        status = Status.__members__.get(name)
        code = run.manifest["statuses"].index(name) + 1
        having = codes == code
        kind = "error" if status is Status.ERROR else "success" if success[having].all() else "other"
        first = finished.index(np.flatnonzero(having)[:_FIRST])
        meaning = "of another version of unrelu" if status is None else status.value
        found.append(StatusCount(name, count, meaning, kind, tuple(first)))
    return sorted(found, key=lambda outcome: (outcome.kind != "success", -outcome.count, outcome.name))


def above_noise(finished: Finished) -> Above | None:
    """The observations whose code the stated noise does not explain; None where none is stated, or all are explained.

    They are those with a p-value below 1%, whatever their status says of how the search ended.
    """
    if not finished.run.manifest["noise"]:
        return None
    places = np.flatnonzero(finished.column("p_value") < SIGNIFICANCE)  # NaN without a code
    return Above(len(places), tuple(finished.index(places[:_FIRST]))) if len(places) else None


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

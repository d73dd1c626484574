"""How observations ended, and what needs attention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from unrelu.batch import Run
from unrelu.report.columns import Finished
from unrelu.result import Status
from unrelu.stores.images import ENDINGS

__all__ = ["Above", "Message", "Outcome", "above_noise", "good", "good_names", "messages", "outcomes"]

# Indices that are shown of a status or a message, and messages that are shown.
_FIRST = 8
_MESSAGES = 20
# These fit an observation to the stated noise.
_FITS = frozenset({Status.EXACT_FIT.name, Status.NOT_UNIQUE.name, Status.NOISE_LEVEL.name})


@dataclass(frozen=True)
class Outcome:
    """One status of a run.

    Attributes:
        name: of the status.
        count: how many observations have it.
        meaning: what it says, and what to do.
        kind: "success" where it is good, see :func:`good`; "error" or "other".
        first: some observations that have it, by index, those of the run's beginning.
    """

    name: str
    count: int
    meaning: str
    kind: str
    first: tuple[int, ...]


@dataclass(frozen=True)
class Above:
    """Observations with a code whose fit is above the stated noise: how many, and some of them."""

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


def outcomes(finished: Finished) -> list[Outcome]:
    """Every status that occurs: the good ones first, then by their number."""
    run, codes = finished.run, finished.column("status")
    names = good_names(finished)
    found = []
    for name, count in run.counts.items():
        status = Status.__members__.get(name)
        code = run.manifest["statuses"].index(name) + 1
        kind = "error" if status is Status.ERROR else "success" if name in names else "other"
        first = finished.index(np.flatnonzero(codes == code)[:_FIRST])
        meaning = "of another version of unrelu" if status is None else status.value
        found.append(Outcome(name, count, meaning, kind, tuple(first)))
    return sorted(found, key=lambda outcome: (outcome.kind != "success", -outcome.count, outcome.name))


def good_names(finished: Finished) -> frozenset[str]:
    """The statuses that are good: that fit the noise where it is stated, else success, as the run itself recorded it.

    A code that was found again counts as success, however badly it fits; where the noise is stated, that is told apart.
    """
    if finished.run.manifest["noise"]:
        return _FITS
    codes = np.unique(finished.column("status")[finished.column("success")])
    names = finished.run.manifest["statuses"]
    return frozenset(names[code - 1] for code in codes.tolist() if 0 < code <= len(names))


def good(finished: Finished) -> npt.NDArray[np.bool_]:
    """Which observations ended well, (n,)."""
    return _among(finished, good_names(finished))


def above_noise(finished: Finished) -> Above | None:
    """The observations with a code that end above the stated noise; None where none is stated, or none does."""
    if not finished.run.manifest["noise"]:
        return None
    fits = _among(finished, _FITS | {Status.ERROR.name})
    places = np.flatnonzero(~fits & ~np.isnan(finished.column("residual_l2")))  # a diverged code has an infinite one
    return Above(len(places), tuple(finished.index(places[:_FIRST]))) if len(places) else None


def _among(finished: Finished, names: frozenset[str]) -> npt.NDArray[np.bool_]:
    codes = [code for code, name in enumerate(finished.run.manifest["statuses"], 1) if name in names]
    return np.isin(finished.column("status"), codes)


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

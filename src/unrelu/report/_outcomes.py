"""What came out of a run: entries of tables (a name, its meaning, how many, the first ones), and spreads of columns."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.datasets.pictures import ENDINGS
from unrelu.report._figures import histogram
from unrelu.report.certificates import meaning
from unrelu.result import TESTS, Status, deciding
from unrelu.result.status import meaning_of_posterior
from unrelu.runs import Run
from unrelu.runs.columns import INTERVAL
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.words import count
from unrelu.thresholds import SIGNIFICANCE

# Indices that are shown of an entry, and messages and ranks that are shown.
_FIRST, _MESSAGES, _RANKS = 8, 20, 12
# Least, middle and most of a column.
_LEVELS = (0.0, 0.05, 0.5, 0.95, 1.0)


class OutcomeRow(NamedTuple):
    """A row of a table: its name, the class of its colour, its meaning, its size, and some observations."""

    name: str
    kind: str
    meaning: str
    size: int
    first: tuple[Any, ...] = ()


class Spread(NamedTuple):
    """What a column holds, quantiles of its finite values, NaN without any, and how many they are."""

    what: str
    levels: list[float]
    known: int

    @classmethod
    def of(cls, what: str, values: npt.NDArray[Any]) -> Spread:
        """Of values (n,), or any other shape."""
        finite = values[np.isfinite(values)]
        # An infinite or huge value has no finite mean with its neighbour, so none is taken.
        found = np.quantile(finite, _LEVELS, method="closest_observation") if finite.size else np.full(5, np.nan)
        return cls(what, found.tolist(), len(finite))


def known(run: Run, name: str) -> npt.NDArray[Any]:
    """The values of a column that are known: neither NaN, nor what whole numbers have in its place."""
    values = run.column(name)
    return values[np.isfinite(values) if values.dtype.kind == "f" else values >= 0]


def outcomes(run: Run) -> list[OutcomeRow]:
    """Every status that occurs: good ones first, then by their count."""
    states, success = run.column("status"), run.column("success")
    found = []
    for name in run.counts:
        having = states == name
        kind = "error" if name == Status.ERROR.name else "success" if success[having].all() else "other"
        found.append(_entry(run, name, kind, meaning(Status, name), having))
    return sorted(found, key=lambda entry: (entry.kind != "success", -entry.size, entry.name))


def _entry(run: Run, name: str, kind: str, means: str, having: Flags) -> OutcomeRow:
    return OutcomeRow(name, kind, means, int(having.sum()), tuple(run.indices[having][:_FIRST].tolist()))


def unexplained(run: Run) -> dict[str, Any]:
    """The observations with a code that the stated noise does not explain, and the tests that say so.

    They are those with a p-value below 1%, whatever their status says of how the search ended. ``chance`` is how many
    of the judged ones such noise alone leaves there: NaN if p-values are not uniform under it.
    """
    p = run.column("p_value")  # NaN without a code, or without stated noise
    failed, judged = p < SIGNIFICANCE, int(np.isfinite(p).sum())
    by = deciding(np.column_stack([run.column(name) for name in TESTS])[failed])
    counted = {name: int((by == i).sum()) for i, name in enumerate(TESTS.values())}
    return _entry(run, "", "", "", failed)._asdict() | {
        "judged": judged,
        "chance": math.nan if run.noise.without_density else SIGNIFICANCE * judged,
        "by": [f"{count(n, 'observation')} by the {name}" for name, n in counted.items() if n],
    }


def messages(run: Run) -> tuple[list[OutcomeRow], int]:
    """The most frequent errors, those that differ in numbers only counted together, and how many others there are."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for index, message in run.errors.items():
        name, text = _parted(index, message)
        groups.setdefault(re.sub(r"\d+", "0", text), []).append((name, text))
    found = [
        OutcomeRow(group[0][1], "", "", len(group), tuple(name for name, _ in group[:_FIRST]))
        for group in sorted(groups.values(), key=len, reverse=True)
    ]
    return found[:_MESSAGES], sum(entry.size for entry in found[_MESSAGES:])


def _parted(index: int, message: str) -> tuple[str, str]:
    """The name of the observation, which is its index or its file, and what is said of it."""
    parts = message.split(": ")
    for i in range(1, len(parts)):
        name = ": ".join(parts[:i])  # names of files may have colons themselves
        if name == str(index) or PurePath(name).suffix.lower() in ENDINGS:
            return name, ": ".join(parts[i:])
    return str(index), message


def identifiability(run: Run) -> dict[str, Any]:
    """How many codes are identifiable, and the most frequent ranks of those that were found."""
    rank = run.column("rank")
    full = math.prod(run.manifest["model"]["latent_shape"])
    listed = Counter(rank[rank >= 0].tolist()).most_common(_RANKS)
    return {
        "identifiable": int(run.column("identifiable").sum()),
        "ranks": [OutcomeRow(str(r), "", "full rank" if r == full else "", n) for r, n in sorted(listed, reverse=True)],
        "without_code": int((rank < 0).sum()),
        "free": int((run.column("freedom") > 0).sum()),
    }


def speed(run: Run) -> dict[str, float] | None:
    """Seconds in which at least one worker computed a chunk, and what follows from them; None if none is finished."""
    total, until = 0.0, -math.inf
    for begin, end in sorted((record.at - record.seconds, record.at) for record in run.records.values()):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    rate = run.done / total if total else 0.0
    left = (run.size - run.done) / rate if rate else 0.0
    seconds = sum(record.seconds for record in run.records.values())
    workers = len({record.worker for record in run.records.values()})
    every = {"busy": total, "rate": rate, "left": left, "parallel": seconds / total if total else 0.0}
    return every | {"workers": workers} if run.records else None


def posteriors(run: Run) -> dict[str, Any] | None:
    """The statuses of the posteriors and the spread of what they say; None for a run without them.

    Standard deviations and intervals are those of posteriors whose chains have mixed: others have none.
    """
    if run.mixed is None:
        return None
    states = run.column("posterior_status")
    mixed = states == Status.MIXED.name
    std, lower, upper = (run.column(name)[mixed] for name in ("std", "lower", "upper"))
    statuses, unmixed = [], []
    for name, _ in Counter(states.tolist()).most_common():
        having = states == name
        kind = {Status.MIXED.name: "success", Status.ERROR.name: "error"}.get(name, "other")
        entry = _entry(run, name, kind, _meaning(name) + _misfits(run.column("p_value")[having]), having)
        statuses.append(entry)
        if kind != "success":
            worst = _worst(run.column("rhat")[having], run.column("ess")[having])
            unmixed.append(entry._replace(kind="", meaning=f"{entry.meaning} {worst}".strip()))
    each = np.median(std.reshape(len(std), -1), axis=1) if len(std) else np.zeros(0)
    return {
        "statuses": statuses,
        "unmixed": unmixed,
        "spreads": {
            "std": Spread.of("standard deviation of a coordinate, over all that are mixed", std),
            "upper − lower": Spread.of(f"width of its {INTERVAL:.0%} interval", upper - lower),  # noqa: RUF001
            "ess": Spread.of("its least number of effective draws, at least 400 if mixed", run.column("ess")),
            "tail_ess": Spread.of("the same of the tails", run.column("tail_ess")),
        },
        "histogram": histogram("Median standard deviation of a code's coordinates", "units of the code", each),
    }


def _meaning(name: str) -> str:
    """What the status of a posterior of a run says; an error may be that of reading the observation."""
    if name == Status.ERROR.name:
        return "could not be read or sampled"
    return meaning_of_posterior(Status[name]) if name in Status.__members__ else meaning(Status, name)


def _misfits(p: Array) -> str:
    """How many of the codes have a p-value below the limit; empty if none has."""
    size = int((p < SIGNIFICANCE).sum())
    return f"; {size} of them with a code that is a misfit (p < {SIGNIFICANCE})" if size else ""


def _worst(rhat: Array, ess: Array) -> str:
    """The largest R-hat and the least effective draws of some observations; empty if they have no draws."""
    known = np.isfinite(rhat) & np.isfinite(ess)
    if not known.any():
        return ""
    return f"R-hat up to {rhat[known].max():.3f}, at least {count(int(ess[known].min()), 'effective draw')}"

"""What came out of a run, as the page's templates take it: columns, statuses, messages, ranks, speed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.datasets.pictures import ENDINGS
from unrelu.report._figures import histogram, progress
from unrelu.report.certificates import meaning
from unrelu.result import TESTS, Status, deciding
from unrelu.runs import Record, Run
from unrelu.runtime.words import count, duration
from unrelu.thresholds import SIGNIFICANCE

# Indices that are shown of a status or a message, and messages that are shown.
FIRST = 8
_MESSAGES = 20
# Up to so many different ranks are listed; of more there is a histogram.
_RANKS = 12
# Workers that are listed.
_WORKERS = 12
# The line of progress and the histogram of times are not drawn of fewer chunks.
_PROGRESS, _TIMES = 3, 8
# Least, middle and most of a column.
_QUANTILES = {"least": 0.0, "low": 0.05, "median": 0.5, "high": 0.95, "most": 1.0}


def known(run: Run, name: str) -> npt.NDArray[Any]:
    """The values of a column that are known: neither NaN, nor what whole numbers have in its place."""
    values = run.column(name)
    return values[np.isfinite(values) if values.dtype.kind == "f" else values >= 0]


def spread_of(what: str, values: npt.NDArray[Any]) -> dict[str, Any]:
    """What a column (n,) holds, the quantiles of its finite values, NaN without any, and how many they are."""
    finite = values[np.isfinite(values)]
    # An infinite or huge value has no finite mean with its neighbour, so none is taken.
    levels = list(_QUANTILES.values())
    found = np.quantile(finite, levels, method="closest_observation") if finite.size else np.full(len(levels), np.nan)
    return {"what": what, "known": len(finite), **dict(zip(_QUANTILES, found.tolist(), strict=True))}


def outcomes(run: Run) -> list[dict[str, Any]]:
    """Every status that occurs, its count and some observations that have it: good ones first, then by their count."""
    states, success = run.column("status"), run.column("success")
    found = []
    for name, size in run.counts.items():
        having = states == name
        kind = "error" if name == Status.ERROR.name else "success" if success[having].all() else "other"
        first = run.indices[having][:FIRST].tolist()
        found.append({"name": name, "size": size, "meaning": meaning(Status, name), "kind": kind, "first": first})
    return sorted(found, key=lambda outcome: (outcome["kind"] != "success", -outcome["size"], outcome["name"]))


def unexplained(run: Run) -> dict[str, Any]:
    """How many observations have a code that the stated noise does not explain, by which test, and some of them.

    They are those with a p-value below 1%, whatever their status says of how the search ended. ``chance`` is how many
    of the judged ones such noise alone leaves there: NaN if p-values are not uniform under it.
    """
    p = run.column("p_value")  # NaN without a code, or without stated noise
    failed = p < SIGNIFICANCE
    by = deciding(np.column_stack([run.column(name) for name in TESTS])[failed])
    counted = {name: int((by == i).sum()) for i, name in enumerate(TESTS.values())}
    return {
        "size": int(failed.sum()),
        "first": run.indices[failed][:FIRST].tolist(),
        "judged": int(np.isfinite(p).sum()),
        "chance": math.nan if run.noise.without_density else SIGNIFICANCE * float(np.isfinite(p).sum()),
        "by": [f"{count(n, 'observation')} by the {name}" for name, n in counted.items() if n],
    }


def messages(run: Run) -> tuple[list[dict[str, Any]], int]:
    """The most frequent errors, those that differ in numbers only counted together, and how many others there are.

    The text is that of the first one, without the name of its observation.
    """
    groups: dict[str, dict[str, Any]] = {}
    for index, message in run.errors.items():
        name, text = _parted(index, message)
        group = groups.setdefault(re.sub(r"\d+", "0", text), {"text": text, "size": 0, "first": []})
        group["size"] += 1
        if len(group["first"]) < FIRST:
            group["first"].append(name)
    ordered = sorted(groups.values(), key=lambda group: -group["size"])
    return ordered[:_MESSAGES], sum(group["size"] for group in ordered[_MESSAGES:])


def _parted(index: int, message: str) -> tuple[str, str]:
    """The name of the observation, which is its index or its file, and what is said of it."""
    parts = message.split(": ")
    for i in range(1, len(parts)):
        name = ": ".join(parts[:i])  # names of files may have colons themselves
        if name == str(index) or PurePath(name).suffix.lower() in ENDINGS:
            return name, ": ".join(parts[i:])
    return str(index), message


def identifiability(run: Run, jacobian: str) -> dict[str, Any]:
    """How many codes are identifiable, and the ranks of those that were found."""
    rank, identifiable = run.column("rank"), run.column("identifiable")
    found = rank >= 0
    ranks, counts = np.unique(rank[found], return_counts=True)
    listed = list(zip(ranks.tolist(), counts.tolist(), strict=True))[::-1]
    title = f"Rank of {jacobian} at the code"
    many = len(listed) > _RANKS
    return {
        "jacobian": jacobian,
        "identifiable": int(identifiable.sum()),
        "ranks": [] if many else listed,
        "full_rank": math.prod(run.manifest["model"]["latent_shape"]),
        "rank_histogram": (
            histogram(title, "rank", rank[found], identifiable[found], "code", ("identifiable", "others"))
            if many
            else None
        ),
        "without_code": int((~found).sum()),
        "free": int((run.column("freedom") > 0).sum()),
    }


def throughput(run: Run) -> dict[str, Any] | None:
    """How fast the run went, from the times that its chunks were finished at; None if none is."""
    records = sorted(run.records.values(), key=lambda record: record.at)
    if not records:
        return None
    seconds = np.array([record.seconds for record in records])
    begin = min(record.at - record.seconds for record in records)
    busy = _busy(records)
    rate = run.done / busy if busy else 0.0
    workers = _workers(records)
    title = f"Time for a chunk, of {count(len(records), 'chunk')}"
    return {
        # Seconds in which at least one worker computed a chunk, and, between the first chunk and the last, in which
        # none did: interruptions.
        "busy": busy,
        "idle": max(0.0, records[-1].at - begin - busy),
        "parallel": float(seconds.sum()) / busy if busy else 0.0,  # workers that were at work on average
        "rate": rate,  # observations a second while it was busy
        "left": (run.size - run.done) / rate if rate else 0.0,  # seconds that the rest takes at that rate
        "least": float(seconds.min()),  # of a chunk
        "median": float(np.median(seconds)),
        "most": float(seconds.max()),
        "slowest": records[int(seconds.argmax())].chunk,
        "workers": workers[:_WORKERS],  # those that computed most
        "others": max(0, len(workers) - _WORKERS),
        "progress": _progress(records, begin) if len(records) >= _PROGRESS else None,
        "times": histogram(title, "seconds", seconds, what="chunk") if len(records) >= _TIMES else None,
    }


def _busy(records: Iterable[Record]) -> float:
    """The length of the union of the chunks' intervals of time."""
    total, until = 0.0, -math.inf
    for begin, end in sorted((record.at - record.seconds, record.at) for record in records):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _workers(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The processes that computed chunks, and the seconds that they spent on them."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        own = found.setdefault(record.worker, {"name": record.worker, "chunks": 0, "observations": 0, "seconds": 0.0})
        own["chunks"] += 1
        own["observations"] += record.stop - record.start
        own["seconds"] += record.seconds
    return sorted(found.values(), key=lambda worker: (-worker["observations"], worker["name"]))


def _progress(records: list[Record], begin: float) -> dict[str, str]:
    """A line through the number of finished observations at the end of every chunk."""
    title = "Finished observations over time"
    times = np.array([0.0, *(record.at - begin for record in records)])
    done = np.cumsum([0.0, *(record.stop - record.start for record in records)])
    label = f"{title}: {count(int(done[-1]))} after {duration(times[-1])}"
    svg = progress(label, times, done, "seconds since the first chunk was begun")
    return {"title": title, "svg": svg, "caption": ""}

"""What a run says of posteriors: how many have mixed, and how far codes can be from the truth."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from unrelu.datasets.result_folders import INTERVAL
from unrelu.report._figures import histogram
from unrelu.report._outcomes import FIRST, spread_of
from unrelu.report.certificates import meaning
from unrelu.result import Status
from unrelu.result.status import meaning_of_posterior
from unrelu.runs import Run
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import count
from unrelu.thresholds import SIGNIFICANCE


def posteriors(run: Run) -> dict[str, Any] | None:
    """The statuses of the posteriors and the spread of what they say; None for a run without them.

    Standard deviations and intervals are those of posteriors whose chains have mixed: others have none.
    """
    if run.mixed is None:
        return None
    states = run.column("posterior_status")
    mixed = states == Status.MIXED.name
    std, lower, upper = (run.column(name)[mixed] for name in ("std", "lower", "upper"))
    statuses = [
        {
            "name": name,
            "size": size,
            "kind": "success" if name == Status.MIXED.name else "error" if name == Status.ERROR.name else "other",
            "meaning": _meaning(name) + _misfits(run.column("p_value")[states == name]),
            "first": run.indices[states == name][:FIRST].tolist(),
            "worst": _worst(run.column("rhat")[states == name], run.column("ess")[states == name]),
        }
        for name, size in Counter(states.tolist()).most_common()
    ]
    each = np.median(std.reshape(len(std), -1), axis=1) if len(std) else np.zeros(0)
    return {
        "statuses": statuses,
        "unmixed": [status for status in statuses if status["name"] != Status.MIXED.name],
        "spreads": {
            "std": spread_of("standard deviation of a coordinate, over all that are mixed", std.ravel()),
            "upper − lower": spread_of(f"width of its {INTERVAL:.0%} interval", (upper - lower).ravel()),  # noqa: RUF001
            "ess": spread_of("its least number of effective draws, at least 400 if mixed", run.column("ess")),
            "tail_ess": spread_of("the same of the tails", run.column("tail_ess")),
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

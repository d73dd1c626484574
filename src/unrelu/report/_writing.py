"""``report.html``: collect the facts about a run for the template, and write the page as a whole or not at all."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

from unrelu._version import __version__
from unrelu.errors import InputError
from unrelu.report._pictures import curve, gallery, histogram
from unrelu.report.certificates import meaning, proofs
from unrelu.result import TESTS, Status, deciding
from unrelu.result.status import meaning_of_posterior
from unrelu.runs import Run, open_run
from unrelu.runs.journal import busy_seconds
from unrelu.runtime import words
from unrelu.runtime.array_types import Flags
from unrelu.runtime.file_writing import drafted
from unrelu.runtime.words import count, listed, number, share
from unrelu.thresholds import SIGNIFICANCE

# The most observations that an entry lists, and the most messages that are shown.
_FIRST, _MESSAGES = 8, 20
_LEVELS = (0.0, 0.05, 0.5, 0.95, 1.0)
# The columns whose quantiles are shown, and the columns of posteriors whose quantiles are shown.
_NUMBERS = {
    "residual_l2": "|y − {fit}|₂, units of the data",  # noqa: RUF001 -- minus
    "residual_l1": "|y − {fit}|₁, units of the data",  # noqa: RUF001
    "residual_linf": "largest |y − {fit}|, units of the data",  # noqa: RUF001
    "objective": "{objective}",
    "p_value": "probability that the stated noise leaves as unlikely a residual",
    "confidence": "that no code has an objective more than 1% lower",
    "nit": "iterations of an observation",
    "seconds": "wall time of an observation, seconds",
}
_DRAWS = {
    "std": "standard deviation of a coordinate",
    "ess": "least number of effective draws, at least 400 if mixed",
    "tail_ess": "the same of the tails",
}

# A row of a table: a name, the class of its colour, its meaning, and further cells.
Row = tuple[Any, ...]


def write_report(folder: str | Path, path: str | Path | None = None) -> Path:
    """Write what a folder of :func:`unrelu.run` holds as one HTML page, and return the path of the page.

    The page needs no other file and no network, and covers the chunks that are finished when it is written. It shows
    counts of every status, histograms, the worst, median and best observations, errors, proofs if the folder has a
    ``certificates.jsonl``, speed and versions. An observation is shown as the sum of its fit and its residual.

    Args:
        folder: the folder of the run, finished or not.
        path: the path of the page; by default ``report.html`` in the folder. An existing page is replaced.

    Raises:
        InputError: the folder is damaged or not of ``unrelu run``, or ``path`` is something other than a page.
        StorageError: the page cannot be written.
    """
    run = open_run(folder)
    target = run.folder / "report.html" if path is None else Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file such as {target / 'report.html'}")
    if target.exists() and (not target.is_file() or target.suffix not in (".html", ".htm")):
        raise InputError(f"{target} exists and is no page, and would be replaced; name a file that ends in .html")
    page = page_of(run)
    with drafted(target, "name another file") as stream:
        stream.write(page.encode(errors="backslashreplace"))  # file names may not be valid UTF-8
    return target


def page_of(run: Run) -> str:
    """Return the page as HTML. All texts of the run are escaped."""
    environment = Environment(
        loader=PackageLoader("unrelu.report", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {name: getattr(words, name) for name in ("count", "duration", "number")}
    about, found = run.manifest["about"], _outcomes(run) if run.done else {"gallery": [], "posteriors": None}
    return environment.get_template("page.html").render(
        run=run, about={"command": "", "directory": "", "model": "a network", **about}, **found, **_speed(run),
        curve=curve, proofs=proofs(run.folder), version=__version__, share=share, limit=SIGNIFICANCE,
    )  # fmt: skip


def _outcomes(run: Run) -> dict[str, Any]:
    """Collect everything that the page says about the finished chunks."""
    about, asked = run.manifest["about"], run.manifest["norm"]
    norm = asked if asked in ("l1", "linf") else "l2"
    names = {i: name for record in run.records.values() for i, name in record.names.items()}
    scores, good, rank, p = (run.column(name) for name in (f"residual_{norm}", "success", "rank", "p_value"))
    fit = "A G(z)" if run.manifest["operator"] or run.manifest["masks"] else "G(z)"
    fine = "fits the stated noise" if run.noise_stated else "ended with success"
    noise = about["expected"].get(f"residual_{norm}")
    mark = (noise, f"stated noise: {number(noise)}") if noise and math.isfinite(noise) else None
    failed = p < SIGNIFICANCE  # p is NaN without a code or stated noise
    by = Counter(deciding(np.column_stack([run.column(name) for name in TESTS])[failed]).tolist())
    columns = {name: run.column(name) for name in _NUMBERS if name != "seconds" or about["layerwise"]}
    what = {name: text.format(fit=fit, objective=about["objective"]) for name, text in _NUMBERS.items()}
    ranks = sorted(Counter(rank[rank >= 0].tolist()).items(), reverse=True)
    return {
        "fit": fit, "fine": fine, "norm": norm, "mark": mark, "levels": _levels(scores),
        "numbers": _spreads(columns, what), "names": names, "failed": int(failed.sum()), "first": _first(run, failed),
        "statuses": _statuses(run, "status", good, lambda name, _: meaning(Status, name)),
        "residuals": histogram(f"Residual of {fit} ({norm}), units of the data", scores, good, (fine, "others"), mark),
        "gallery": gallery(run, scores),
        "tests": [f"{count(by[i], 'observation')} by the {name}" for i, name in enumerate(TESTS.values()) if by[i]],
        "judged": int(np.isfinite(p).sum()) if about["uniform_p"] else 0,
        "errors": _errors(run.errors, names),
        "others": int((~good & ~failed).sum()) - len(run.errors),
        "ranks": listed([f"{r} ({count(n, 'code')})" for r, n in ranks]),
        "latent": math.prod(run.manifest["model"]["latent_shape"]),
        "posteriors": None if run.mixed is None else _posteriors(run, p),
    }  # fmt: skip


def _speed(run: Run) -> dict[str, float]:
    """Return the seconds of work, the seconds in which at least one worker computed, the rate and the time left."""
    records = run.records.values()
    busy = busy_seconds(records)
    rate, workers = run.done / busy if busy else 0.0, len({record.worker for record in records})
    left = (run.size - run.done) / rate if rate else 0.0
    return {"work": sum(r.seconds for r in records), "busy": busy, "rate": rate, "left": left, "workers": workers}


def _posteriors(run: Run, p: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the statuses of the posteriors, and quantiles of the statistics of mixed posteriors."""
    rhat, ess, states = (run.column(name) for name in ("rhat", "ess", "posterior_status"))
    mixed = states == Status.MIXED.name

    def said(name: str, having: Flags) -> str:
        known, misfits = having & np.isfinite(rhat) & np.isfinite(ess), (p[having] < SIGNIFICANCE).sum()
        text = meaning_of_posterior(Status[name]) if name in Status.__members__ else meaning(Status, name)
        text = "could not be read or sampled" if name == Status.ERROR.name else text
        if known.any():
            text += f"; R-hat up to {rhat[known].max():.3f}, at least {ess[known].min():,.0f} effective draws"
        return text + (f"; {misfits} with a code that is a misfit (p < {SIGNIFICANCE})" if misfits else "")

    columns = {name: run.column(name)[mixed] for name in _DRAWS}
    title, each = "Median standard deviation of a code's coordinates", np.array([np.median(s) for s in columns["std"]])
    return {
        "statuses": _statuses(run, "posterior_status", mixed, said),
        "numbers": _spreads(columns, _DRAWS),
        "deviations": histogram(title, each, np.ones(len(each), bool), ("mixed posteriors", "")),
    }


def _statuses(run: Run, column: str, good: Flags, said: Callable[[str, Flags], str]) -> list[Row]:
    """Return a row for each status that occurs, the most frequent first, with meaning, count and first observations."""
    states, rows = run.column(column), []
    for name, n in Counter(states.tolist()).most_common():
        having = states == name
        kind = "error" if name == Status.ERROR.name else "success" if good[having].all() else "other"
        rows.append((name, kind, said(name, having), count(n), share(n, run.done), _first(run, having)))
    return rows


def _errors(errors: dict[int, str], names: dict[int, str]) -> list[Row]:
    """Return the most frequent errors. Messages that differ only in numbers are counted together."""
    groups = defaultdict(list)
    for i, message in errors.items():
        text = message.removeprefix(f"{names.get(i, i)}: ")
        groups[re.sub(r"\d+", "0", text)].append((text, names.get(i, str(i))))
    most = sorted(groups.values(), key=len, reverse=True)
    rows = [(one[0][0], "", "", count(len(one)), listed([name for _, name in one], _FIRST)) for one in most[:_MESSAGES]]
    rest = sum(map(len, most[_MESSAGES:]))
    return [*rows, ("other messages", "", "see chunks.jsonl", count(rest), "")] if rest else rows


def _first(run: Run, having: Flags) -> str:
    return listed([str(i) for i in run.indices[having].tolist()], _FIRST)


def _spreads(columns: dict[str, npt.NDArray[Any]], what: dict[str, str]) -> list[Row]:
    """Return the quantiles of columns with their meanings. Leave out columns without a known value."""
    rows = [(name, "", what[name], *_levels(values)) for name, values in columns.items()]
    return [row for row in rows if row[3] != number(None)]


def _levels(values: npt.NDArray[Any]) -> list[str]:
    """Return five quantiles of the known values: finite numbers, or whole numbers of at least 0."""
    known = values[np.isfinite(values) if values.dtype.kind == "f" else values >= 0]
    # An infinite or huge value has no finite mean with its neighbour, so none is taken.
    found = np.quantile(known, _LEVELS, method="closest_observation") if known.size else [np.nan] * len(_LEVELS)
    return [number(float(value)) for value in found]

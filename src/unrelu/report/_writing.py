"""``report.html``: everything that the page needs, collected; then written as a whole or not at all."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unrelu._version import __version__
from unrelu.display.pixels import HIDDEN
from unrelu.errors import InputError
from unrelu.methods import METHODS
from unrelu.report._facts import machine, masked, objective, opened, question
from unrelu.report._figures import histogram
from unrelu.report._gallery import FoundData, criterion, find_data, gallery
from unrelu.report._outcomes import Spread, identifiability, known, messages, outcomes, posteriors, speed, unexplained
from unrelu.report.certificates import certificates
from unrelu.runs import Run, open_run
from unrelu.runtime import words
from unrelu.runtime.file_writing import drafted

_NORMS = {"residual_l2": "l2", "residual_l1": "l1", "residual_linf": "largest entry"}
# What the colours of the residuals say, where noise is stated and where not.
_FIT_KINDS = ("fits the noise", "does not fit the noise")
_KINDS = ("ended with success", "others")


def write_report(
    folder: str | Path, path: str | Path | None = None, *, data: Any = None, masks: Any = None, operator: Any = None
) -> Path:
    """Write what a folder of :func:`unrelu.run` holds as one HTML page, which needs no other file and no network.

    The run may be unfinished, and going on: the page is of the chunks that were finished when it was written. It shows
    counts of every status, histograms, the worst, median and best observations, errors, proofs where the folder has a
    ``certificates.jsonl``, speed and versions. Columns of numbers are read one at a time; of codes and reconstructions,
    only the rows that are shown.

    Args:
        folder: of the run.
        path: of the page; by default ``report.html`` in the folder. An existing file is replaced.
        data, masks: the data sets, as :func:`unrelu.run` takes them, where they are not at their place any more, or
            were arrays. They are compared by hash with those of the run.
        operator: A, where the run was given one: its folder keeps only a hash of it.

    Returns:
        The path.

    Raises:
        InputError: the folder is none of ``unrelu run`` or damaged, or the operator is another one.
        StorageError: the page cannot be written.
    """
    run = open_run(folder)
    found = find_data(run, data, masks, operator)
    page = _environment().get_template("page.html").render(_content(run, found))
    target = run.folder / "report.html" if path is None else Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file such as {target / 'report.html'}")
    if target.exists() and not target.is_file():  # replaced, /dev/null would be a file from then on
        raise InputError(f"{target} is a device, a pipe or a socket, and would be replaced; name a file")
    if target.exists() and target.suffix not in (".html", ".htm"):
        raise InputError(f"{target} exists and is no page, and would be replaced; name a file that ends in .html")
    with drafted(target, "name another file") as stream:
        stream.write(page.encode(errors="backslashreplace"))  # names of files may be no UTF-8
    return target


@cache
def _environment() -> Environment:
    """Templates in which everything is escaped, and nothing may be missing."""
    environment = Environment(
        loader=PackageLoader("unrelu.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "duration", "count"):
        environment.filters[name] = getattr(words, name)
    environment.filters["finite"] = math.isfinite
    environment.globals["share"] = words.share
    return environment


def _content(run: Run, observations: FoundData) -> dict[str, Any]:
    manifest, about, ordered = run.manifest, run.manifest["about"], criterion(run)
    shown, rest = messages(run)
    fit = "G(z)" if manifest["operator"] is None and not manifest["masks"] else "A G(z)"
    spreads = {name: Spread.of(what, known(run, name)) for name, what in _columns(run, fit).items()}
    return {
        "run": run,
        "model": str(about.get("model") or "a generator"),
        "data": str(about["data"]),
        "question": question(run),
        "machine": machine(run),
        "command": about.get("command"),
        "directory": opened(run)["directory"],
        "outcomes": outcomes(run),
        "unexplained": unexplained(run),
        "messages": shown,
        "more_messages": rest,
        "spreads": spreads,
        "any_code": spreads[ordered].known > 0 or bool(known(run, "rank").size),
        "fit": fit,
        "jacobian": "J" if fit == "G(z)" else "A J",
        "masked": masked(run),
        "expected": _expected(run, ordered),
        "criterion": ordered,
        "norm": _NORMS[ordered],
        "residuals": _residuals(run, ordered, fit),
        **identifiability(run),
        "posteriors": posteriors(run),
        "certificates": certificates(run.folder),
        "speed": speed(run),
        "gallery": gallery(run, observations),
        "problems": observations.problems,
        "hidden_colour": HIDDEN,
        "version": __version__,
    }


def _columns(run: Run, fit: str) -> dict[str, str]:
    """The columns whose spread is shown, and what they are."""
    columns = {
        "residual_l2": f"|y − {fit}|₂, units of the data",  # noqa: RUF001 -- minus
        "residual_l1": f"|y − {fit}|₁, units of the data",  # noqa: RUF001
        "residual_linf": f"largest |y − {fit}|, units of the data",  # noqa: RUF001
        "objective": objective(run),
        "nit": "iterations of an observation",
    }
    if run.noise.stated:
        columns["p_value"] = "probability that the stated noise leaves as unlikely a residual"
    else:
        columns["confidence"] = "that no code has an objective more than 1% lower"
    method = METHODS.get(run.manifest["method"])
    if method is not None and method.layerwise:  # others share the time of a chunk equally
        columns["seconds"] = "wall time of an observation, seconds"
    return columns


def _residuals(run: Run, column: str, fit: str) -> dict[str, Any]:
    """The residuals, with what the stated noise would leave of them."""
    expected = _expected(run, column)
    mark = None if expected is None else (expected, f"stated noise: {words.number(expected)}")
    title = f"Residual |y − {fit}| ({_NORMS[column]})"  # noqa: RUF001
    kinds = _FIT_KINDS if run.noise.stated else _KINDS
    return histogram(title, "units of the data", run.column(column), run.column("success"), kinds=kinds, mark=mark)


def _expected(run: Run, column: str) -> float | None:
    """The size of the stated noise, in l2 and of its largest entry; None where it is not known.

    With S of Gaussian noise and A of uniform noise in m observed entries: S sqrt(m), A sqrt(m / 3), and at most A.
    """
    noise, entries = run.noise, math.prod(run.manifest["data"]["shape"])
    sizes = {"residual_l2": math.sqrt(noise.mean_square * entries), "residual_linf": noise.bound}
    size = sizes.get(column, math.nan)
    return None if masked(run) or math.isnan(size) else size

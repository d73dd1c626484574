"""The worst, median and best observations of a run as pictures: observed, reconstructed, and their difference.

The observations are looked for where the run's manifest says that they were, and compared by hash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.cli.argument_files import read_measurement
from unrelu.datasets.opening import open_masks, open_source
from unrelu.datasets.sources import Source
from unrelu.display.pixels import Shape, differences, drawn_shape, png_uri, value_range, values
from unrelu.errors import InputError, UnreluError
from unrelu.measurements import read_operator
from unrelu.measurements.linear_operators import Operator
from unrelu.report._facts import here, opened
from unrelu.report._figures import curves
from unrelu.result import Status
from unrelu.result.fingerprint import fingerprint
from unrelu.runs import Run
from unrelu.runs.chunk_work import Observations
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.words import listed, number

# Observations shown of each kind.
_WORST, _MEDIAN, _BEST = 6, 3, 3


@dataclass(frozen=True, eq=False)
class _Shown:
    """An observation: what is said of it, x (n,), and, where they are known, y, A x and their difference (m,).

    The deviation, (n,), is that of the posterior of x, if it has mixed.
    """

    card: dict[str, Any]
    x: Array
    y: Array | None
    predicted: Array | None
    deviation: Array | None

    @property
    def difference(self) -> Array | None:
        return None if self.y is None or self.predicted is None else self.y - self.predicted


@dataclass(frozen=True)
class _Look:
    """How arrays are drawn: shapes of pictures, or None for curves, and the ranges of their values."""

    output: Shape | None
    observation: Shape | None
    outputs: tuple[float, float]
    observations: tuple[float, float]
    deviations: tuple[float, float]


def criterion(run: Run) -> str:
    """The column that orders observations: the residual in the norm that was asked for, by default l2."""
    return f"residual_{run.manifest['norm'] or 'l2'}"


def gallery(run: Run, observations: FoundData) -> dict[str, Any] | None:
    """The observations that are shown, drawn; None if no finished one has a finite residual.

    A group has a title, cards, and as its scale the difference at the ends of their shared scale, NaN if none is shown.
    """
    column = criterion(run)
    groups = [
        (title, [_shown(run, i, column, observations) for i in run.indices[places].tolist()])
        for title, places in _chosen(run.column(column))
    ]
    members = [one for _, group in groups for one in group]
    if not members:
        return None
    look = _look(run, members)
    drawn = [_group(title, group, look) for title, group in groups]
    low, high = look.outputs
    deviated = any(one.deviation is not None for one in members)
    return {
        "column": column,
        "groups": drawn,
        "low": low,  # the values that are black and white
        "high": high,
        "deviation": look.deviations[1] if deviated else math.nan,  # the standard deviation that is white
        "pictures": any("src" in panel for group in drawn for card in group["cards"] for panel in card["panels"]),
        "hidden": any(one.y is not None and np.isnan(one.y).any() for one in members),
        # Whether observations are measurements of the output, not its entries.
        "measured": look.observation is None and look.output is not None,
        "compared": any(math.isfinite(group["scale"]) for group in drawn),
    }


def _chosen(scores: npt.NDArray[Any]) -> list[tuple[str, Index]]:
    """Places of the worst, median and best finite scores, (n,); of few, all of them from the worst on."""
    known = np.flatnonzero(np.isfinite(scores))
    order = known[np.argsort(scores[known], kind="stable")]
    if not len(order):
        return []
    if len(order) <= _WORST + _MEDIAN + _BEST:
        return [("All, worst first", order[::-1])]
    middle = len(order) // 2 - _MEDIAN // 2
    return [("Worst", order[: -_WORST - 1 : -1]), ("Median", order[middle : middle + _MEDIAN]), ("Best", order[:_BEST])]


def _shown(run: Run, i: int, column: str, observations: FoundData) -> _Shown:
    observed = observations.observation(i)
    x = run.read("reconstructions", i, i + 1)[0].ravel()
    score, status, success = (run.read(name, i, i + 1)[0] for name in (column, "status", "success"))
    card = {"index": i, "name": observed.name, "problem": observed.problem}
    card |= {"score": float(score), "status": str(status), "success": bool(success)}
    values = run.read("parameters", i, i + 1)[0] if run.names else ()
    card["parameters"] = listed([f"{name} = {value:.5g}" for name, value in zip(run.names, values, strict=True)])
    card["posterior"] = str(run.read("posterior_status", i, i + 1)[0]) if run.mixed is not None else ""
    deviation = None
    if card["posterior"] == Status.MIXED.name:
        deviation = run.read("reconstruction_std", i, i + 1)[0].ravel()
    return _Shown(card, x, observed.values, observations.measured(x), deviation)


def _look(run: Run, members: Sequence[_Shown]) -> _Look:
    """Shapes from those of outputs and data; ranges from what was observed, which no diverged code stretches."""
    output_shape, data_shape = run.manifest["model"]["output_shape"], run.manifest["data"]["shape"]
    alike = np.prod(output_shape) == np.prod(data_shape)
    explicit = drawn_shape(data_shape) if sum(n > 1 for n in data_shape) > 1 else None
    output = drawn_shape(output_shape) or (explicit if alike else None)
    observation = explicit or (output if alike else None)
    seen = [one.y for one in members if one.y is not None]
    observed = value_range(seen, 0, 100)
    outputs = observed if alike and seen else value_range([one.x for one in members], 1, 99)
    deviations = value_range([np.zeros(1), *(one.deviation for one in members if one.deviation is not None)])
    return _Look(output, observation, outputs, observed, deviations)


def _group(title: str, members: Sequence[_Shown], look: _Look) -> dict[str, Any]:
    """Cards with one scale of differences: the largest one, up to the whole range of the observations."""
    found = [np.nanmax(np.abs(d)) for one in members if (d := one.difference) is not None and not np.isnan(d).all()]
    low, high = look.observations
    scale = min(float(max(found)), high - low) if found else float("nan")
    cards = [one.card | {"panels": _panels(one, look, scale)} for one in members]
    return {"title": title, "scale": scale, "cards": cards}


def _panels(one: _Shown, look: _Look, scale: float) -> list[dict[str, Any]]:
    """The pictures and the plots of curves of one observation."""
    y, predicted, d, who = one.y, one.predicted, one.difference, f"observation {one.card['index']}"
    panels = []
    if y is not None and predicted is not None and look.observation is None:
        both = {"observed": y, "fit": predicted}
        panels.append(_panel("observed and fitted", who, None, both, look.observations))
    elif y is not None:
        panels.append(_panel("observed", who, look.observation, {"observed": y}, look.observations))
    if look.output is not None or look.observation is not None or d is None or len(d) != len(one.x):
        panels.append(_panel("reconstruction", who, look.output, {"fit": one.x}, look.outputs))
    if one.deviation is not None:
        label = "standard deviation"
        panels.append(_panel(label, who, look.output, {label: one.deviation}, look.deviations))
    if d is not None and np.isfinite(scale):
        ends = (-(scale or 1.0), scale or 1.0)
        panels.append(_panel("difference", who, look.observation, {"difference": d}, ends))
    return panels


def _panel(
    label: str, who: str, shape: Shape | None, arrays: dict[str, Array], ends: tuple[float, float]
) -> dict[str, Any]:
    """A picture of the only array as a PNG file in a URI; without a shape, curves by name; between two values."""
    if shape is None:
        size = len(next(iter(arrays.values())))
        text = f"{who}, {label}: a curve of {size} entries between {number(ends[0])} and {number(ends[1])}"
        return {"label": label, "svg": curves(text, arrays, ends)}
    (array,) = arrays.values()
    pixels = differences(array, shape, ends[1]) if label == "difference" else values(array, shape, *ends)
    height, width = pixels.shape[:2]
    return {"label": label, "alt": f"{who}, {label}", "src": png_uri(pixels), "width": width, "height": height}


# --- the observations, as far as they are still there and still the same ----------------------------------------------


class Observed(NamedTuple):
    """One observation, (m,), in the generator's units; NaN where it was not observed; None, with a reason, if lost."""

    name: str
    values: Array | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class FoundData:
    """What of a run's data was found: the observations, A, and in sentences what could not be found."""

    run: Run
    data: Observations | None
    operator: Operator | None
    problems: tuple[str, ...]
    # Chunks whose data were compared with the run's, and whether they are the same.
    _compared: dict[int, bool] = field(default_factory=dict)

    def observation(self, i: int) -> Observed:
        """Observation i, if the hash of its chunk is that of the run."""
        if self.data is None:
            return Observed(str(i))
        try:
            if not self._same(self.data, i // self.run.table.chunk):  # and then not even names of files are shown
                return Observed(str(i), problem="the data set was changed after this chunk was computed")
            name = self.data.source.name(i)
            batch, seen = self.data.read(i, i + 1)
            if batch.problems:
                return Observed(name, problem=batch.problems[0])
            return Observed(name, np.where(seen[0], batch.values[0], np.nan))
        except UnreluError as error:
            return Observed(str(i), problem=str(error))

    def measured(self, x: Array) -> Array | None:
        """A x, (m,), of a flat output x, (n,), cut off where rounded data are; None if A is not known."""
        told = self.run.noise.stated and not self.run.manifest["noise"]
        shown = x if self.run.scaling.ends is None or not told else np.clip(x, *self.run.scaling.ends)
        return None if self.operator is None else self.operator.values(shown[None])[0]

    def _same(self, data: Observations, chunk: int) -> bool:
        if chunk not in self._compared:
            record = self.run.records[chunk]
            self._compared[chunk] = data.digest(record.start, record.stop) == record.data
        return self._compared[chunk]


def find_data(run: Run, data: Any = None, masks: Any = None, operator: Any = None) -> FoundData:
    """Open what the manifest names, or what is given in its place; what is gone becomes a problem, not an error.

    An ``operator`` that is not that of the run is an error.
    """
    problems: list[str] = []

    def attempt(what: str, opening: Any, *given: Any) -> Any:
        try:
            return opening(run, *given)
        except UnreluError as error:
            problems.append(f"{what}: {error}.")
            return None

    source = attempt("The observations cannot be shown", _source, data)
    mask_source = None
    if run.manifest["masks"]:
        mask_source = attempt("The masks, and so the observations, cannot be shown", _masks, masks)
        source = source if mask_source is not None else None
    if operator is not None:
        measured = _operator(run, operator)
    else:
        measured = attempt("What A G(z) is cannot be shown", _noted_operator)
    found = None if source is None else Observations(source, mask_source, measured, run.scaling)
    return FoundData(run, found, measured, tuple(problems))


def _source(run: Run, data: Any) -> Source:
    wanted, how = run.manifest["data"], opened(run)
    in_file = data is None or isinstance(data, str | Path)
    named = {"array": how["array"], "size": how["size"]} if in_file else {}
    source = open_source(_named(run, "data") if data is None else data, **named)
    if (source.size, source.shape) != (wanted["size"], tuple(wanted["shape"])):
        raise InputError(
            f"{source.location} now has {source.size} observations of shape {source.shape}; the run had "
            f"{wanted['size']} of {tuple(wanted['shape'])}"
        )
    return source


def _masks(run: Run, masks: Any) -> Source:
    masks = _named(run, "masks") if masks is None else masks
    resized = opened(run)["size"] if isinstance(masks, str | Path) and Path(masks).is_dir() else None
    source = open_masks(masks, size=resized)
    if source.size != run.size:
        raise InputError(f"{source.location} now has {source.size} masks; the run had {run.size}")
    return source


def _named(run: Run, what: str) -> str:
    """Where the manifest says that the data or the masks are; addresses are not opened because a file names them."""
    location = str(opened(run)[what])
    if "://" in location:
        raise InputError(f"the run's {what} are at {location}; pass {what}={location!r} to write_report to open that")
    found = here(run, location)
    if location == what and not Path(found).exists():
        raise InputError(
            f"the run was given an array, which its folder does not keep; pass it as {what}= to write_report"
        )
    return found


def _noted_operator(run: Run) -> Operator:
    """A from the files that the command line noted in the manifest."""
    about = run.manifest["about"]
    mask, matrix = (Path(here(run, about[name])) if about.get(name) else None for name in ("mask", "operator"))
    if run.manifest["operator"] is None:
        return _operator(run, None)
    if mask is None and matrix is None:
        raise InputError(
            "the run had an operator, which its folder does not keep; pass it as operator= to write_report"
        )
    return _operator(run, read_measurement(mask, matrix))


def _operator(run: Run, given: Any) -> Operator:
    """A, checked to be that of the run."""
    manifest = run.manifest
    measured = read_operator(given, tuple(manifest["model"]["output_shape"]), (1, *manifest["data"]["shape"]))
    own = None if given is None else fingerprint(measured)
    if own != manifest["operator"]:
        raise InputError("operator= is not the one that the run was made with (its hash is another)")
    return measured

"""The observations behind a run, as far as they are still there and still the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.datasets.opening import open_masks, open_source
from unrelu.datasets.small_files import read_measurement
from unrelu.datasets.sources import Source
from unrelu.errors import InputError, UnreluError
from unrelu.measurements import read_operator
from unrelu.measurements.linear_operators import Operator
from unrelu.measurements.picture_scale import Scaling
from unrelu.report.facts import here, opened
from unrelu.result.fingerprint import fingerprint
from unrelu.runs import Run
from unrelu.runs.chunk_work import Observations

Array = npt.NDArray[np.float64]


class Observed(NamedTuple):
    """One observation, (m,), in the generator's units; NaN where it was not observed; None, with a reason, if lost."""

    name: str
    values: Array | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class FoundData:
    """What of a run's data was found.

    Attributes:
        run: that they belong to.
        data: the observations, or None.
        operator: A; None if the folder does not say which it was.
        problems: what could not be found, in sentences.
    """

    run: Run
    data: Observations | None
    operator: Operator | None
    problems: tuple[str, ...]
    # Chunks whose data were compared with the run's, and whether they are the same.
    _compared: dict[int, bool] = field(default_factory=dict)

    def row(self, i: int) -> Observed:
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
        """A x, (m,), of a flat output x, (n,); None if A is not known."""
        return None if self.operator is None else self.operator.values(x[None])[0]

    def _same(self, data: Observations, chunk: int) -> bool:
        if chunk not in self._compared:
            record = self.run.records[chunk]
            self._compared[chunk] = data.digest(record.start, record.stop) == record.data
        return self._compared[chunk]


def find_data(run: Run, data: Any = None, masks: Any = None, operator: Any = None) -> FoundData:
    """Open what the manifest names, or what is given in its place; what is gone becomes a problem, not an error.

    Raises:
        InputError: ``operator`` is not that of the run.
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
    scaling = Scaling.parse(run.manifest["data"]["scale"])
    found = None if source is None else Observations(source, mask_source, measured, scaling)
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

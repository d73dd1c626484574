"""The observations behind a run, as far as they are still there and still the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.datasets.opening import in_memory, open_source
from unrelu.datasets.small_files import read_measurement
from unrelu.datasets.sources import Source
from unrelu.errors import InputError, UnreluError
from unrelu.measurements import read_operator
from unrelu.measurements.linear_operators import Operator
from unrelu.measurements.picture_scale import Scaling
from unrelu.report.facts import here, opened
from unrelu.result.fingerprint import fingerprint
from unrelu.runs import Run
from unrelu.runs.chunk_work import data_digest
from unrelu.runs.running import masks_of

Array = npt.NDArray[np.float64]


class Observed(NamedTuple):
    """One observation, (m,), in the generator's units; NaN where it was not observed; None, with a reason, if lost."""

    name: str
    values: Array | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Observations:
    """Where observations and what they were measured with are found.

    Attributes:
        run: that they belong to.
        source, masks: the data sets, or None.
        operator: A; None if the folder does not say which it was.
        problems: what could not be found, in sentences.
    """

    run: Run
    source: Source | None
    masks: Source | None
    operator: Operator | None
    problems: tuple[str, ...]
    # Chunks whose data were compared with the run's, and whether they are the same.
    _compared: dict[int, bool] = field(default_factory=dict)

    def row(self, i: int) -> Observed:
        """Observation i, if the hash of its chunk is that of the run."""
        if self.source is None:
            return Observed(str(i))
        try:
            if not self._same(self.source, i // self.run.table.chunk):  # and then not even names of files are shown
                return Observed(str(i), problem="the data set was changed after this chunk was computed")
            name, seen = self.source.name(i), self._seen(i)
            batch = self.source.read(i, i + 1, seen)
            if batch.problems:
                return Observed(name, problem=batch.problems[0])
            scaling = Scaling.parse(self.run.manifest["data"]["scale"])
            values = scaling.apply(batch.values, self.source.dtype).ravel()
            return Observed(name, np.where(seen[0], values, np.nan))
        except UnreluError as error:
            return Observed(str(i), problem=str(error))

    def measured(self, x: Array) -> Array | None:
        """A x, (m,), of a flat output x, (n,); None if A is not known."""
        return None if self.operator is None else self.operator.values(x[None])[0]

    def _same(self, source: Source, chunk: int) -> bool:
        if chunk not in self._compared:
            record = self.run.records[chunk]
            self._compared[chunk] = data_digest(source, self.masks, record.start, record.stop) == record.data
        return self._compared[chunk]

    def _seen(self, i: int) -> npt.NDArray[np.bool_]:
        """(1, m)."""
        if self.masks is not None:
            return np.asarray(self.masks.read(i, i + 1).values.reshape(1, -1) == 1)
        if self.operator is not None:
            return self.operator.seen(1)
        return np.ones((1, math.prod(self.run.manifest["data"]["shape"])), dtype=bool)


def find_observations(run: Run, data: Any = None, masks: Any = None, operator: Any = None) -> Observations:
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
    return Observations(run, source, mask_source, measured, tuple(problems))


def _source(run: Run, data: Any) -> Source:
    wanted, how = run.manifest["data"], opened(run)
    if data is None or isinstance(data, str | Path):
        source = open_source(_named(run, "data") if data is None else data, how["array"], how["size"])
    else:
        source = data if isinstance(data, Source) else in_memory(data, "data")
    if (source.size, source.shape) != (wanted["size"], tuple(wanted["shape"])):
        raise InputError(
            f"{source.location} now has {source.size} observations of shape {source.shape}; the run had "
            f"{wanted['size']} of {tuple(wanted['shape'])}"
        )
    return source


def _masks(run: Run, masks: Any) -> Source:
    source = masks_of(_named(run, "masks") if masks is None else masks, opened(run)["size"])
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
    if run.manifest["operator"] is None:
        return _operator(run, None)
    about = run.manifest["about"]
    mask, matrix = (Path(here(run, about[name])) if about.get(name) else None for name in ("mask", "operator"))
    if mask is None and matrix is None:
        raise InputError(
            "the run had an operator, which its folder does not keep; pass it as operator= to write_report"
        )
    return _operator(run, read_measurement(mask, matrix))


def _operator(run: Run, given: Any) -> Operator:
    """A, checked to be that of the run.

    Raises:
        InputError: it is another one.
    """
    manifest = run.manifest
    output: Sequence[int] = manifest["model"]["output_shape"]
    measured = read_operator(given, tuple(output), (1, *manifest["data"]["shape"]))
    own = None if given is None else fingerprint(measured)
    if own != manifest["operator"]:
        raise InputError("operator= is not the one that the run was made with (its hash is another)")
    return measured

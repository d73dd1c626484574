"""The observations behind a run, as far as they are still there and still the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.datasets.opening import in_memory, open_source
from unrelu.datasets.small_files import read_measurement
from unrelu.datasets.sources import Source
from unrelu.errors import InputError, UnreluError
from unrelu.measurements import read_operator
from unrelu.measurements.linear_operators import MaskOperator, Operator
from unrelu.measurements.picture_scale import Scaling
from unrelu.runs import Run
from unrelu.runs.chunk_work import data_digest
from unrelu.runs.manifest import fingerprint
from unrelu.runs.running import masks_of

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Observed:
    """One observation.

    Attributes:
        name: its file's, or its index.
        values: (m,), in the generator's units; None where it cannot be shown.
        seen: (m,), which entries were observed.
        problem: why it cannot be shown, or "".
    """

    name: str
    values: Array | None = None
    seen: npt.NDArray[np.bool_] | None = None
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

    def row(self, i: int) -> Observed:
        """Observation i, if the hash of its chunk is that of the run."""
        if self.source is None:
            return Observed(str(i))
        try:
            if not self._same(i // self.run.table.chunk):  # and then not even names of files are shown
                return Observed(str(i), problem="the data set was changed after this chunk was computed")
            name = self.source.name(i)
            seen = self._seen(i)
            batch = self.source.read(i, i + 1, seen)
            if batch.problems:
                return Observed(name, problem=batch.problems[0])
            return Observed(name, self._scaling.apply(batch.values, self.source.dtype).ravel(), seen[0])
        except UnreluError as error:
            return Observed(str(i), problem=str(error))

    def measured(self, x: Array) -> Array | None:
        """A x, (m,), of a flat output x, (n,); None if A is not known."""
        return None if self.operator is None else self.operator.values(x[None])[0]

    @cached_property
    def _scaling(self) -> Scaling:
        return Scaling.parse(self.run.manifest["data"]["scale"])

    @cached_property
    def _chunks(self) -> dict[int, bool]:
        """Chunks whose data were compared with the run's, and whether they are the same."""
        return {}

    def _same(self, chunk: int) -> bool:
        record = self.run.records[chunk]
        if chunk not in self._chunks and self.source is not None:
            self._chunks[chunk] = data_digest(self.source, self.masks, record.start, record.stop) == record.data
        return self._chunks[chunk]

    def _seen(self, i: int) -> npt.NDArray[np.bool_]:
        """(1, m)."""
        if self.masks is not None:
            return np.asarray(self.masks.read(i, i + 1).values.reshape(1, -1) == 1)
        if isinstance(self.operator, MaskOperator):
            return self.operator.seen(1)
        return np.ones((1, math.prod(self.run.manifest["data"]["shape"])), dtype=bool)


def find_observations(run: Run, data: Any = None, masks: Any = None, operator: Any = None) -> Observations:
    """Open what the manifest names, or what is given in its place; what is gone becomes a problem, not an error.

    Raises:
        InputError: ``operator`` is not that of the run.
    """
    problems: list[str] = []
    source = _attempt(lambda: _source(run, data), "The observations cannot be shown", problems)
    mask_source = None
    if run.manifest["masks"]:
        mask_source = _attempt(
            lambda: _masks(run, masks), "The masks, and so the observations, cannot be shown", problems
        )
        source = source if mask_source is not None else None
    if operator is not None:
        measured: Operator | None = _operator(run, operator)
    else:
        measured = _attempt(lambda: _operator(run, _noted_operator(run)), "What A G(z) is cannot be shown", problems)
    return Observations(run, source, mask_source, measured, tuple(problems))


def _attempt(opening: Any, what: str, problems: list[str]) -> Any:
    try:
        return opening()
    except UnreluError as error:
        problems.append(f"{what}: {error}.")
        return None


def _source(run: Run, data: Any) -> Source:
    opened, wanted = _opened(run), run.manifest["data"]
    if data is None:
        source = open_source(_named(run, "data"), opened["array"], _size(run))
    elif isinstance(data, str | Path):
        source = open_source(data, opened["array"], _size(run))
    else:
        source = data if isinstance(data, Source) else in_memory(data, "data")
    found = (source.size, source.shape)
    if found != (wanted["size"], tuple(wanted["shape"])):
        raise InputError(
            f"{source.location} now has {found[0]} observations of shape {found[1]}; the run had {wanted['size']} of "
            f"{tuple(wanted['shape'])}"
        )
    return source


def _opened(run: Run) -> dict[str, Any]:
    """Where the data were and how they were opened."""
    about = run.manifest["about"]
    usual: dict[str, Any] = {
        "data": about["data"],
        "masks": about.get("masks"),
        "array": None,
        "size": None,
        "directory": ".",
    }
    return {**usual, **about.get("opened", {})}


def _size(run: Run) -> tuple[int, int] | None:
    size = _opened(run)["size"]
    return None if size is None else (size[0], size[1])


def _masks(run: Run, masks: Any) -> Source:
    source = masks_of(_named(run, "masks") if masks is None else masks, _size(run))
    if source.size != run.size:
        raise InputError(f"{source.location} now has {source.size} masks; the run had {run.size}")
    return source


def _named(run: Run, what: str) -> str:
    """Where the manifest says that the data or the masks are; addresses are not opened because a file names them."""
    location = str(_opened(run)[what])
    if "://" in location:
        raise InputError(f"the run's {what} are at {location}; pass {what}={location!r} to write_report to open that")
    found = _found(run, location)
    if location == what and not Path(found).exists():
        raise InputError(
            f"the run was given an array, which its folder does not keep; pass it as {what}= to write_report"
        )
    return found


def _found(run: Run, location: str) -> str:
    """A path as it is from here: relative ones are first looked for where the run was started."""
    began = Path(_opened(run)["directory"], location)
    return str(began) if began.exists() else location


def _noted_operator(run: Run) -> Any:
    """The operator from the files that the command line noted in the manifest."""
    if run.manifest["operator"] is None:
        return None
    about = run.manifest["about"]
    mask, matrix = (Path(_found(run, about[name])) if about.get(name) else None for name in ("mask", "operator"))
    if mask is None and matrix is None:
        raise InputError(
            "the run had an operator, which its folder does not keep; pass it as operator= to write_report"
        )
    return read_measurement(mask, matrix)


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

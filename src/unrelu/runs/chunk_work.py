"""The work of a run, as its workers do it: a chunk of observations in, their columns of the table out."""

from __future__ import annotations

import hashlib
import math
import os
import socket
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from unrelu._invert import invert
from unrelu._posterior import posterior
from unrelu.datasets.sources import Batch, Entries, Source
from unrelu.datasets.tables import Table
from unrelu.errors import HostError, InputError, OptionError, SolverError, UnreluError, UnsupportedModelError
from unrelu.measurements import Mask, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.linear_operators import Operator
from unrelu.measurements.noise import Noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.measurements.working_units import searched
from unrelu.models.code_prior import Normal
from unrelu.models.generator import Generator
from unrelu.result import TELLING, Inversion, Status, message_of
from unrelu.runs.columns import numbers_of, numbers_of_posterior
from unrelu.runs.journal import Record
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.host import computing, on_one_core
from unrelu.runtime.streams import stream
from unrelu.runtime.work_clock import now
from unrelu.sampling.draws import Posterior

# Numbers that stand for a status in the column: their places here, from 1 on. 0 is an observation not inverted yet.
STATUSES = tuple(status.name for status in Status)


@dataclass(frozen=True, eq=False)
class Observations:
    """The observations of a run as the generator puts them out, and which of their entries were observed.

    Attributes:
        source: the data set.
        masks: a mask for every observation, or None.
        operator: A, for all observations alike; None if it is not known.
        scaling: from stored values to those of the generator.
    """

    source: Source
    masks: Source | None
    operator: Operator | None
    scaling: Scaling

    def read(self, start: int, stop: int) -> tuple[Batch, Entries]:
        """Observations start to stop - 1, flat (B, m), and which entries count, (B, m).

        Problems with observations and with their masks are named in the batch.
        """
        seen, problems = np.ones((stop - start, math.prod(self.source.shape)), dtype=bool), dict[int, str]()
        if self.masks is not None:
            masks = self.masks.read(start, stop)
            seen = masks.values.reshape(stop - start, -1) == 1
            blind = dict.fromkeys(np.flatnonzero(~seen.any(axis=1)).tolist(), "is 0 everywhere: nothing is observed")
            problems = {i: f"its mask {text}" for i, text in (blind | masks.problems).items()}
        elif self.operator is not None:
            seen = self.operator.seen(stop - start)
        batch = self.source.read(start, stop, seen)
        flat = self.scaling.apply(batch.values, self.source.dtype).reshape(stop - start, -1)
        return Batch(flat, dict(sorted((batch.problems | problems).items()))), seen

    def digest(self, start: int, stop: int) -> str:
        """SHA-256 of what is stored of observations start to stop - 1; with their masks, of both digests."""
        own = self.source.digest(start, stop)
        if self.masks is None:
            return own
        return hashlib.sha256((own + self.masks.digest(start, stop)).encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """A chunk to see to, with its record if it was finished before; ``look``: only hash its observations."""

    chunk: int
    record: Record | None = None
    look: bool = False


@dataclass(frozen=True)
class Seen:
    """A chunk whose observations have the hash ``data``."""

    chunk: int
    data: str


@dataclass(frozen=True)
class Settled:
    """A chunk whose results are in the table.

    Attributes:
        record: the journal's record of the chunk.
        how: "computed"; "kept" from an earlier run; or "repaired": computed again, because its results were damaged or
            because observations that could not be read have changed.
    """

    record: Record
    how: str


Outcome = Seen | Settled


@dataclass(frozen=True, eq=False)
class Work:
    """What is asked for. It is sent once to every worker, which opens the data and the table by itself.

    Attributes:
        network: G.
        source, masks, scaling: of :class:`Observations`. The scaling is not checked: the run was, as a whole, and a
            chunk of dark pictures is no reason to end it.
        operator: as :func:`unrelu.invert` takes it, for all observations alike.
        table: of the results.
        chunk: observations that are inverted together; with ``seed``, it settles every random choice.
        method, options: of :func:`unrelu.invert`.
        stated: ``noise``, ``bounds``, ``norm``, ``prior`` and ``time_limit`` of :func:`unrelu.invert`, as JSON has
            them; the limit is for a chunk.
        seed: of the run.
        draws: draws of each chain of the posterior of every observation; 0 for no posteriors.
        arrays: the noise, if it is of arrays, which its text does not have; None otherwise.
    """

    network: Generator
    source: Source
    masks: Source | None
    scaling: Scaling
    operator: Any
    table: Table
    chunk: int
    method: str
    options: dict[str, Any]
    stated: dict[str, Any]
    seed: int
    draws: int = 0
    arrays: Noise | None = None

    @property
    def noise(self) -> Noise | str | None:
        """The noise, as :func:`unrelu.invert` takes it."""
        text: str | None = self.stated["noise"]
        return self.arrays or text

    @property
    def chunks(self) -> int:
        """How many chunks there are; the last may be smaller."""
        return math.ceil(self.source.size / self.chunk)

    def span(self, chunk: int) -> tuple[int, int]:
        """The first observation of a chunk, and the one behind its last."""
        return chunk * self.chunk, min((chunk + 1) * self.chunk, self.source.size)

    @cached_property
    def measured(self) -> Operator:
        """The operator, checked; kept for the next chunk, as checking code and writing it out takes a while."""
        bounds, prior = Bounds.of_plain(self.stated.get("bounds")), Normal.of_plain(self.stated["prior"])
        tried = searched(self.network, Bounds.parse(bounds, self.network.latent_shape), prior)
        return read_operator(self.operator, self.network.output_shape, (1, *self.source.shape), tried)

    @property
    def observations(self) -> Observations:
        """The data, and how they were measured."""
        return Observations(self.source, self.masks, self.measured, self.scaling)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "measured"}

    @computing(one_thread=True)
    def settle(self, task: Task) -> Outcome:
        """Compute a chunk, unless a record says that it was computed and its results are still those that were written.

        A task to look only hashes its observations. An InputError says that the observations of the record were others,
        or that the data set is gone. Linear algebra has one thread on all workers, since their number may change bits.
        """
        record, data = task.record, self.observations.digest(*self.span(task.chunk))
        if task.look:
            return Seen(task.chunk, data)
        if record is None:
            return Settled(self._compute(task.chunk, data), "computed")
        if record.data == data:
            with suppress(InputError):  # what cannot be read is damaged
                found = self.table.digests(self.table.read_all(record.start, record.stop))
                if found == {"result": record.result, "seconds": record.timing}:
                    return Settled(record, "kept")
        elif not record.errors:  # what could not be read may have been mended
            raise self.changed(task.chunk)
        return Settled(self._compute(task.chunk, data), "repaired")

    def changed(self, chunk: int) -> InputError:
        """What to say of a chunk whose observations are others."""
        start, stop = self.span(chunk)
        return InputError(
            f"observations {start} to {stop - 1} of {self.source.location} are not those that the run began with; "
            "bring the data set back, choose another folder, or pass overwrite=True (--overwrite) to begin again"
        )

    def _compute(self, chunk: int, data: str) -> Record:
        """Invert the observations of a chunk, whose hash is ``data``, and write the results."""
        began = time.perf_counter()
        start, stop = self.span(chunk)
        try:
            with on_one_core():
                columns, errors, messages = self._columns(start, stop, chunk_seed(self.seed, chunk))
        except MemoryError as error:
            raise SolverError(
                f"memory ran out in chunk {chunk}, observations {start} to {stop - 1} ({error}); what is finished is "
                "kept: run it again with fewer workers, or begin again with smaller chunks"
            ) from error
        self.table.write(start, columns)
        digests = self.table.digests(columns)
        counts = Counter(STATUSES[code - 1] for code in columns["status"].tolist())
        found = np.isfinite(columns["codes"]).reshape(stop - start, -1).all(axis=1)
        return Record(
            chunk, start, stop, data, digests["result"], digests["seconds"], dict(sorted(counts.items())),
            int(columns["success"].sum()), int((~found).sum()),
            time.perf_counter() - began, f"{socket.gethostname()}:{os.getpid()}", time.time(), errors, messages,
        )  # fmt: skip

    def _columns(self, start: int, stop: int, seed: int) -> tuple[dict[str, Any], dict[int, str], dict[int, str]]:
        """A chunk's columns; by index in the data set, every error, and the messages that columns do not tell."""
        batch, seen = replace(self.observations, scaling=Scaling()).read(start, stop)
        errors, messages = dict(batch.problems), dict[int, str]()
        good = np.array([i for i in range(stop - start) if i not in errors], dtype=np.intp)
        columns = {c.name: np.full((stop - start, *c.shape), c.empty, dtype=c.dtype) for c in self.table.columns}
        columns["status"][:] = STATUSES.index(Status.ERROR.name) + 1
        for part, result in self._inverted(batch.values, seen, good, seed, errors):
            for name, values in _results(result).items():
                columns[name][part] = np.reshape(values, (len(part), *columns[name].shape[1:]))
            for i, text, failed in _messages(result):
                (errors if failed else messages)[int(part[i])] = text
        if self.draws:
            columns["posterior_status"][:] = STATUSES.index(Status.ERROR.name) + 1
            for i, found in self._sampled(batch.values, seen, good):
                if isinstance(found, str):
                    messages[i] = f"{messages.get(i) or _told(columns, i)}; its posterior could not be sampled: {found}"
                    continue
                for name, values in _posterior_results(found).items():
                    columns[name][i] = np.reshape(values, columns[name].shape[1:])
        names = {i: self.source.file_name(start + i) for i in errors}
        said = {i: errors[i] if names[i] is None else f"{names[i]}: {errors[i]}" for i in sorted(errors)}
        return columns, {start + i: text for i, text in said.items()}, {start + i: messages[i] for i in messages}

    def _inverted(
        self, y: Array, seen: Entries, good: Index, seed: int, errors: dict[int, str]
    ) -> list[tuple[Index, Inversion]]:
        """The inversion of all good observations; where it fails, of each alone, and why of those that fail."""
        if not len(good):
            return []
        operator = self.measured if self.masks is None else Mask(seen[good])
        prior = Normal.of_plain(self.stated["prior"])
        bounds = Bounds.of_plain(self.stated.get("bounds"))
        stated = self.stated | {"noise": self.noise, "bounds": bounds, "prior": prior}
        try:
            result = invert(
                self.network, self.scaling.stored(y[good], self.source.dtype), self.method, operator=operator,
                seed=seed, scale=self.scaling, **stated, **self.options,
            )  # fmt: skip
        except (HostError, MemoryError, OptionError, UnsupportedModelError):  # these are of the run
            raise
        except Exception as error:  # a solver may break down in many ways on one observation, and that is its result
            if len(good) == 1:
                errors[int(good[0])] = _said(error)
                return []
            return [found for i in good for found in self._inverted(y, seen, np.array([i]), seed, errors)]
        return [(good, result)]

    def _sampled(self, y: Array, seen: Entries, good: Index) -> Iterator[tuple[int, Posterior | str]]:
        """The posterior of each good observation, or why there is none."""
        begin, limit = now(), self.stated["time_limit"]
        for i in good.tolist():
            left = None if limit is None else max(limit - (now() - begin), np.finfo(float).tiny)
            try:
                found = posterior(
                    self.network, self.scaling.stored(y[i : i + 1], self.source.dtype), noise=self.noise,
                    operator=self.measured if self.masks is None else Mask(seen[i : i + 1]),
                    bounds=Bounds.of_plain(self.stated.get("bounds")),
                    prior=Normal.of_plain(self.stated["prior"]) or None, draws=self.draws, seed=self.seed,
                    time_limit=left, scale=self.scaling,
                )  # fmt: skip
            except (HostError, MemoryError, OptionError, UnsupportedModelError):  # these are of the run
                raise
            except Exception as error:  # the arithmetic may break down in many ways on one observation
                yield i, _said(error)
            else:
                yield i, found


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of a chunk, below 2**63, from a stream of the pair, so that chunks share no random numbers."""
    return int(stream("chunk", seed, chunk).integers(2**63))


def _results(result: Inversion) -> dict[str, Any]:
    """The columns of an inversion."""
    residual = result.problem.differences_of(np.reshape(result.reconstruction, (result.problem.size, -1)))
    status = np.array([STATUSES.index(status.name) + 1 for status in result.status])
    numbers = numbers_of(result, residual)
    found = {"codes": result.z, "reconstructions": result.reconstruction, "status": status, **numbers}
    if result.problem.names.coordinate_names:
        found["parameters"] = np.stack(list(result.parameters.values()), axis=1)
    return found


def _posterior_results(found: Posterior) -> dict[str, Any]:
    """The columns of the posterior of one observation."""
    status = STATUSES.index(found.status[0].name) + 1
    outputs = found.outputs(found.chains[0])
    deviations = outputs.std(axis=0) if len(outputs) else np.full(outputs.shape[1:], np.nan)
    return {**numbers_of_posterior(found), "reconstruction_std": deviations, "posterior_status": status}


def _told(columns: dict[str, Any], i: int) -> str:
    """The message that the columns of observation i tell."""
    status = Status[STATUSES[columns["status"][i] - 1]]
    return message_of(status, *(columns[name][i] for name in TELLING))


def _messages(result: Inversion) -> Iterator[tuple[int, str, bool]]:
    """Index, message and whether it failed, of observations that failed or whose columns do not tell their message."""
    told = zip(*(getattr(result, name) for name in TELLING), strict=True)
    for i, (status, text, numbers) in enumerate(zip(result.status, result.message, told, strict=True)):
        failed = status is Status.ERROR
        if failed or text != message_of(status, *numbers):
            yield i, str(text), failed


def _said(error: Exception) -> str:
    """The message of an error of ours; of another, also what it is and where it was raised."""
    if isinstance(error, UnreluError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}, line {last.lineno})"

"""The work of a run, as its workers do it: a chunk of observations in, rows of the table out."""

from __future__ import annotations

import hashlib
import math
import os
import socket
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu._invert import invert
from unrelu.datasets.result_folders import numbers_of
from unrelu.datasets.sources import Array, Batch, Entries, Source
from unrelu.datasets.tables import Table
from unrelu.errors import HostError, InputError, OptionError, SolverError, UnreluError, UnsupportedModelError
from unrelu.measurements import Mask, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.linear_operators import Operator
from unrelu.measurements.picture_scale import Scaling
from unrelu.models.generator import Generator
from unrelu.result import Inversion, Status, message_of
from unrelu.runs.journal import Record
from unrelu.runtime.host import computing, on_one_core
from unrelu.runtime.streams import stream

# Numbers that stand for a status in the column: their places here, from 1 on. 0 is a row that was not written yet.
STATUSES = tuple(status.name for status in Status)


@dataclass(frozen=True)
class Task:
    """One chunk to see to.

    Attributes:
        chunk: its index.
        record: of it, if it was finished before.
        look: only hash its observations.
    """

    chunk: int
    record: Record | None = None
    look: bool = False

    @property
    def key(self) -> tuple[int, bool]:
        """Of no other task of a run."""
        return self.chunk, self.look


@dataclass(frozen=True)
class Seen:
    """A chunk whose observations have the hash ``data``."""

    chunk: int
    data: str


@dataclass(frozen=True)
class Settled:
    """A chunk whose rows are in the table.

    Attributes:
        record: of it.
        how: "computed"; "kept", of an earlier run; or "repaired", computed again since its rows were damaged, or since
            it had observations that could not be read and have changed.
    """

    record: Record
    how: str


Outcome = Seen | Settled


@dataclass(frozen=True, eq=False)
class Work:
    """What is asked for. It is sent once to every worker, which opens the data and the table by itself.

    Attributes:
        network: G.
        source: the observations.
        table: of the results.
        chunk: observations that are inverted together; with ``seed``, it settles every random choice.
        method, options: of :func:`unrelu.invert`.
        stated: ``noise``, ``bounds``, ``norm``, ``prior`` and ``time_limit`` of :func:`unrelu.invert`, as JSON has
            them; the limit is for a chunk.
        seed: of the run.
        scaling: from stored values to those of the generator.
        operator: as :func:`unrelu.invert` takes it, for all observations alike.
        masks: a mask for every observation, in place of ``operator``.
    """

    network: Generator
    source: Source
    table: Table
    chunk: int
    method: str
    options: dict[str, Any]
    stated: dict[str, Any]
    seed: int
    scaling: Scaling = field(default_factory=Scaling)
    operator: Any = None
    masks: Source | None = None

    @property
    def chunks(self) -> int:
        """How many chunks there are; the last may be smaller."""
        return math.ceil(self.source.size / self.chunk)

    def span(self, chunk: int) -> tuple[int, int]:
        """The first observation of a chunk, and the one behind its last."""
        return chunk * self.chunk, min((chunk + 1) * self.chunk, self.source.size)

    def compute(self, chunk: int) -> Record:
        """Invert the observations of a chunk and write their rows."""
        began = time.perf_counter()
        start, stop = self.span(chunk)
        data = data_digest(self.source, self.masks, start, stop)
        try:
            with on_one_core():
                rows, errors, messages = self._rows(start, stop, chunk_seed(self.seed, chunk))
        except MemoryError as error:
            raise SolverError(
                f"memory ran out in chunk {chunk}, observations {start} to {stop - 1} ({error}); what is finished is "
                "kept: run it again with fewer workers, or begin again with smaller chunks"
            ) from error
        self.table.write(start, rows)
        digests = self.table.digests(rows)
        counts = Counter(STATUSES[code - 1] for code in rows["status"].tolist())
        return Record(
            chunk, start, stop, data, digests["result"], digests["seconds"], dict(sorted(counts.items())),
            int(rows["success"].sum()), int((~np.isfinite(rows["codes"]).all(axis=1)).sum()),
            time.perf_counter() - began, f"{socket.gethostname()}:{os.getpid()}", time.time(), errors, messages,
        )  # fmt: skip

    @computing(one_thread=True)
    def settle(self, task: Task) -> Outcome:
        """Compute a chunk, unless a record says that it was computed and its rows are still those that were written.

        Of a task to look, hash its observations and do no more. Linear algebra has one thread on all workers, since
        their number may change bits.

        Raises:
            InputError: the observations of the record were others, or the data set is gone.
            StorageError: rows cannot be written.
        """
        record = task.record
        if task.look:
            return Seen(task.chunk, data_digest(self.source, self.masks, *self.span(task.chunk)))
        if record is None:
            return Settled(self.compute(task.chunk), "computed")
        if record.data != data_digest(self.source, self.masks, record.start, record.stop):
            if record.errors:  # what could not be read may have been mended
                return Settled(self.compute(task.chunk), "repaired")
            raise self.changed(record.chunk)
        try:
            found = self.table.digests(self.table.read_all(record.start, record.stop))
        except InputError:
            found = {}
        if found == {"result": record.result, "seconds": record.timing}:
            return Settled(record, "kept")
        return Settled(self.compute(task.chunk), "repaired")

    def changed(self, chunk: int) -> InputError:
        """What to say of a chunk whose observations are others."""
        start, stop = self.span(chunk)
        return InputError(
            f"observations {start} to {stop - 1} of {self.source.location} are not those that the run began with; "
            "bring the data set back, choose another folder, or pass --overwrite to begin again"
        )

    def observations(self, start: int, stop: int) -> tuple[Batch, Entries | None]:
        """Observations as the generator puts them out, flat (B, m), and which of their entries count, if not all.

        Problems with observations and with their masks are named in the batch.
        """
        masks = self.masks.read(start, stop) if self.masks is not None else None
        seen = self._seen(masks, stop - start)
        batch = self.source.read(start, stop, seen)
        flat = self.scaling.apply(batch.values, self.source.dtype).reshape(stop - start, -1)
        problems = dict(batch.problems)
        if masks is not None and seen is not None:
            blind = dict.fromkeys(np.flatnonzero(~seen.any(axis=1)).tolist(), "is 0 everywhere: nothing is observed")
            problems |= {i: f"its mask {text}" for i, text in {**blind, **masks.problems}.items()}
        return Batch(flat, dict(sorted(problems.items()))), seen

    def _seen(self, masks: Batch | None, size: int) -> Entries | None:
        if masks is not None:
            return np.asarray(masks.values.reshape(size, -1) == 1)
        operator = self.measured
        return operator.seen(size) if operator.shape == self.network.output_shape else None

    @cached_property
    def measured(self) -> Operator:
        """The operator, checked; kept for the next chunk, as checking code and writing it out takes a while."""
        return read_operator(self.operator, self.network.output_shape, (1, *self.source.shape), self.network)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "measured"}

    def _rows(
        self, start: int, stop: int, seed: int
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[int, str], dict[int, str]]:
        """A chunk's rows; by index in the data set, the message of every error, and others that columns do not tell."""
        batch, seen = self.observations(start, stop)
        errors, messages = dict(batch.problems), dict[int, str]()
        good = np.array([i for i in range(stop - start) if i not in errors], dtype=np.intp)
        rows = {c.name: np.full((stop - start, *c.shape), c.empty, dtype=c.dtype) for c in self.table.columns}
        rows["status"][:] = STATUSES.index(Status.ERROR.name) + 1
        for part, result in self._inverted(batch.values, seen, good, seed, errors):
            for name, values in _columns(result).items():
                rows[name][part] = np.reshape(values, (len(part), *rows[name].shape[1:]))
            own = _messages(result)
            errors |= {int(part[j]): text for j, text in own.items() if result.status[j] is Status.ERROR}
            messages |= {start + int(part[j]): text for j, text in own.items() if result.status[j] is not Status.ERROR}
        return rows, {start + i: self._named(start + i, text) for i, text in sorted(errors.items())}, messages

    def _named(self, i: int, text: str) -> str:
        """A message with the name of the observation where it has one, other than its index."""
        name = self.source.name(i)
        return text if name == str(i) else f"{name}: {text}"

    def _inverted(
        self, y: Array, seen: Entries | None, good: npt.NDArray[np.intp], seed: int, errors: dict[int, str]
    ) -> list[tuple[npt.NDArray[np.intp], Inversion]]:
        """The inversion of all good observations; where it fails, of each alone, and why of those that fail."""
        if not len(good):
            return []
        try:
            return [(good, self._invert(y[good], None if seen is None else seen[good], seed))]
        except (HostError, MemoryError, OptionError, UnsupportedModelError):  # these are of the run
            raise
        except Exception as error:  # a solver may break down in many ways on one observation, and that is its result
            if len(good) == 1:
                errors[int(good[0])] = _said(error)
                return []
        return [found for i in good for found in self._inverted(y, seen, np.array([i]), seed, errors)]

    def _invert(self, y: Array, seen: Entries | None, seed: int) -> Inversion:
        operator = self.measured if self.masks is None else Mask(seen)
        # The run was checked as a whole: a chunk of dark pictures is no reason to end it.
        stated = self.stated | {"bounds": Bounds.of_plain(self.stated.get("bounds"))}
        return invert(
            self.network, y, self.method, operator=operator, seed=seed, scale="none", **stated, **self.options
        )


def data_digest(source: Source, masks: Source | None, start: int, stop: int) -> str:
    """SHA-256 of what is stored of some observations; with their masks, of both digests."""
    own = source.digest(start, stop)
    if masks is None:
        return own
    return hashlib.sha256((own + masks.digest(start, stop)).encode()).hexdigest()


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of a chunk, below 2**63, from a stream of the pair, so that chunks share no random numbers."""
    return int(stream("chunk", seed, chunk).integers(2**63))


def _columns(result: Inversion) -> dict[str, Any]:
    residual = result.problem.differences_of(np.reshape(result.reconstruction, (result.problem.size, -1)))
    status = np.array([STATUSES.index(status.name) + 1 for status in result.status])
    numbers = numbers_of(result, residual)
    return {"codes": result.z, "reconstructions": result.reconstruction, "status": status, **numbers}


def _messages(result: Inversion) -> dict[int, str]:
    """Of the observations that failed, and of those about whom their status and numbers do not say all; by index."""
    told = zip(result.status, result.p_value, result.confidence, result.freedom, strict=True)
    plain = [message_of(*of) for of in told]
    return {
        i: str(text)
        for i, text in enumerate(result.message)
        if text != plain[i] or result.status[i] is Status.ERROR
    }  # fmt: skip


def _said(error: Exception) -> str:
    """The message of an error of ours; of another, also what it is and where it was raised."""
    if isinstance(error, UnreluError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}, line {last.lineno})"

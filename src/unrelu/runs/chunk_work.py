"""The work of a run as its workers do it: they take the observations of a chunk and return its columns."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu._invert import invert
from unrelu._posterior import posterior
from unrelu.errors import HostError, OptionError, SolverError, UnreluError, UnsupportedModelError
from unrelu.measurements import Mask, read_operator
from unrelu.measurements.operators import Operator
from unrelu.measurements.picture_scale import Scaling
from unrelu.measurements.whitening import known_entries
from unrelu.measurements.working_units import searched
from unrelu.models.generator import Generator
from unrelu.parameters.latent_bounds import Bounds
from unrelu.result import TELLING, Inversion, Status, message_of
from unrelu.runs.columns import Column, numbers_of, numbers_of_posterior
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.host import computing, on_one_core
from unrelu.runtime.run_control import now
from unrelu.runtime.streams import stream
from unrelu.sampling.draws import Posterior

# The column holds a status as its place in this tuple, counted from 1. 0 is an observation that is not inverted yet.
STATUSES = tuple(status.name for status in Status)
# Errors that end the run, and are not blamed on an observation.
_OF_THE_RUN = (HostError, MemoryError, OptionError, UnsupportedModelError)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Observations that are inverted together.

    Attributes:
        index: the index of the chunk.
        start: the index of its first observation in the data set.
        values: the observations as they are stored, float64, (B, m); NaN for an observation with a problem.
        seen: which entries were observed, (B, m).
        problems: why observations cannot be used, by their index in the chunk.
        names: the file names of the observations; empty if observations are not files.
    """

    index: int
    start: int
    values: Array
    seen: Flags
    problems: dict[int, str]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a chunk: its columns, messages by index in the data set, and its cost in seconds."""

    columns: dict[str, npt.NDArray[Any]]
    errors: dict[int, str]
    messages: dict[int, str]
    seconds: float
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, eq=False)
class Work:
    """The work of a run, the same for all chunks. It can be pickled.

    Attributes:
        network: G.
        operator: the operator as :func:`unrelu.invert` takes it, the same for all observations.
        masked: whether each observation has its own mask.
        shape, dtype: shape and type of one observation as it is stored.
        scaling: maps stored values to the units of the generator. Chunks do not check it, since the whole run did: a
            chunk of dark pictures is no reason to end a run.
        columns: the columns of the store.
        method, options: method and options of :func:`unrelu.invert`.
        stated: ``noise``, ``bounds``, ``norm``, ``prior`` and ``time_limit`` of :func:`unrelu.invert`; the time limit
            is for a chunk.
        seed: the seed of the run.
        draws: the number of draws of each chain of a posterior; 0 for no posteriors.
    """

    network: Generator
    operator: Any
    masked: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scaling: Scaling
    columns: tuple[Column, ...]
    method: str
    options: dict[str, Any]
    stated: dict[str, Any]
    seed: int
    draws: int = 0

    @cached_property
    def measured(self) -> Operator:
        """The checked operator. It is kept for all chunks, as checking a function or making its matrix takes time."""
        box = Bounds.parse(self.stated["bounds"], self.network.latent_shape, self.network.names)
        tried = searched(self.network, box, self.stated["prior"])
        return read_operator(self.operator, self.network.output_shape, (1, *self.shape), tried)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "measured"}

    @computing(one_thread=True)
    def compute(self, chunk: Chunk) -> Outcome:
        """Invert the observations of a chunk on one thread, since the number of threads may change the last bits.

        Observations that cannot be inverted get status ERROR.
        """
        began = time.perf_counter()
        try:
            with on_one_core():
                columns, errors, messages = self._columns(chunk)
        except MemoryError as error:
            raise SolverError(
                f"memory ran out in chunk {chunk.index}, observations from {chunk.start} on ({error}); what is done "
                "is kept: run it again with fewer workers, or begin again with smaller chunks"
            ) from error
        return Outcome(columns, errors, messages, time.perf_counter() - began)

    def _columns(self, chunk: Chunk) -> tuple[dict[str, Any], dict[int, str], dict[int, str]]:
        """Return the columns of a chunk, its errors, and messages not implied by columns, by index in the data set."""
        size, errors, messages = len(chunk.values), dict(chunk.problems), dict[int, str]()
        good = np.array([i for i in range(size) if i not in errors], dtype=np.intp)
        columns = {column.name: column.filled(size) for column in self.columns}
        columns["status"][:] = STATUSES.index(Status.ERROR.name) + 1
        for rows, result in self._inverted(chunk, good, errors):
            for name, values in _results(result).items():
                if name in columns:
                    with np.errstate(over="ignore"):  # residuals in single precision
                        columns[name][rows] = np.reshape(values, (len(rows), *columns[name].shape[1:]))
            for i, text, failed in _messages(result):
                (errors if failed else messages)[int(rows[i])] = text
        if self.draws:
            columns["posterior_status"][:] = STATUSES.index(Status.ERROR.name) + 1
            for i, found in self._sampled(chunk, good):
                if isinstance(found, str):
                    status = Status[STATUSES[columns["status"][i] - 1]]
                    said = messages.get(i) or message_of(status, *(columns[name][i] for name in TELLING))
                    messages[i] = f"{said}; its posterior could not be sampled: {found}"
                    continue
                for name, values in _posterior_results(found).items():
                    columns[name][i] = np.reshape(values, columns[name].shape[1:])
        named = {i: f"{chunk.names[i]}: {errors[i]}" if chunk.names else errors[i] for i in sorted(errors)}
        by_index = [{chunk.start + i: text for i, text in texts.items()} for texts in (named, messages)]
        return columns, by_index[0], by_index[1]

    def _arguments(self, chunk: Chunk, rows: Index) -> dict[str, Any]:
        """Return the arguments of both ``invert`` and ``posterior`` for some observations of a chunk."""
        values = self.scaling.stored(chunk.values[rows], self.dtype)
        operator = Mask(chunk.seen[rows]) if self.masked else self.measured
        return {"y": values, "operator": operator, "scale": self.scaling, **self.stated}

    def _inverted(self, chunk: Chunk, good: Index, errors: dict[int, str]) -> list[tuple[Index, Inversion]]:
        """Invert all good observations together. If that fails, invert each alone, and add failures to ``errors``."""
        if not len(good):
            return []
        seed = chunk_seed(self.seed, chunk.index)
        try:
            arguments = self._arguments(chunk, good)
            result = invert(self.network, method=self.method, seed=seed, **arguments, **self.options)
        except _OF_THE_RUN:
            raise
        except Exception as error:  # a solver may break down in many ways, and that is the result
            if len(good) == 1:
                errors[int(good[0])] = _said(error)
                return []
            return [found for i in good for found in self._inverted(chunk, np.array([i]), errors)]
        return [(good, result)]

    def _sampled(self, chunk: Chunk, good: Index) -> Iterator[tuple[int, Posterior | str]]:
        """Yield the posterior of each good observation, or the reason why there is none."""
        begin, limit = now(), self.stated["time_limit"]
        for i in good.tolist():
            arguments = self._arguments(chunk, np.array([i]))
            del arguments["norm"]
            arguments["prior"] = arguments["prior"] or None
            if limit is not None:
                arguments["time_limit"] = max(limit - (now() - begin), np.finfo(float).tiny)
            try:
                found = posterior(self.network, draws=self.draws, seed=self.seed, **arguments)
            except _OF_THE_RUN:
                raise
            except Exception as error:  # the arithmetic may break down in many ways on one observation
                yield i, _said(error)
            else:
                yield i, found


def chunk_seed(seed: int, chunk: int) -> int:
    """Draw the seed of a chunk, below 2**63, from a stream of seed and index. So chunks share no random numbers."""
    return int(stream("chunk", seed, chunk).integers(2**63))


def _results(result: Inversion) -> dict[str, Any]:
    """Return the columns of an inversion."""
    problem, stated = result.problem, result.problem.stated
    outputs = np.reshape(result.reconstruction, (problem.size, -1))
    residual = problem.differences_of(outputs)
    known = known_entries(stated.noise, stated.operator, problem.size)
    found = {
        "codes": result.z,
        "reconstructions": result.reconstruction,
        "residuals": np.where(known, residual, np.nan),
        "predictions": stated.mean_of(outputs),
        "status": np.array([STATUSES.index(status.name) + 1 for status in result.status]),
        **numbers_of(result, residual),
    }
    if problem.names.coordinate_names:
        found["parameters"] = np.stack(list(result.parameters.values()), axis=1)
    return found


def _posterior_results(found: Posterior) -> dict[str, Any]:
    """Return the columns of one observation's posterior."""
    status = STATUSES.index(found.status[0].name) + 1
    outputs = found.outputs(found.chains[0])
    deviations = outputs.std(axis=0) if len(outputs) else np.full(outputs.shape[1:], np.nan)
    return {**numbers_of_posterior(found), "reconstruction_std": deviations, "posterior_status": status}


def _messages(result: Inversion) -> Iterator[tuple[int, str, bool]]:
    """Yield (index, message, failed) of failed observations, and of messages that do not follow from the columns."""
    columns = zip(*(getattr(result, name) for name in TELLING), strict=True)
    for i, (status, text, numbers) in enumerate(zip(result.status, result.message, columns, strict=True)):
        failed = status is Status.ERROR
        if failed or text != message_of(status, *numbers):
            yield i, str(text), failed


def _said(error: Exception) -> str:
    """Return the message of an error, with its type if it is not an UnreluError."""
    return str(error) if isinstance(error, UnreluError) else f"{type(error).__name__}: {error}"

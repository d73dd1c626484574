"""The folder of a run, to inspect while it runs and afterwards."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.display.text_tables import WORST, Printed
from unrelu.errors import InputError
from unrelu.result import TELLING, Status, message_of
from unrelu.result.verdict_text import data_frame, printed_verdicts
from unrelu.runs._manifest import columns_in, read_manifest
from unrelu.runs._store import Store
from unrelu.runs.journal import JOURNAL, Record, read_records
from unrelu.runtime.array_types import Index
from unrelu.runtime.file_writing import as_json, locked

if TYPE_CHECKING:
    from pandas import DataFrame

# The number of worst observations that a notebook shows.
_WORST = 8


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A folder of ``unrelu run``, as it was when it was opened.

    Attributes:
        folder: the path of the folder.
        manifest: what the run computes, from ``manifest.json``.
        records: the finished chunks, by index.
        store: the columns.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     finished = unrelu.run(net, net([[0.5], [0.25]]), os.path.join(folder, "results"))
    ...     finished.done, finished.size, finished.chunks
    (2, 2, 1)
    """

    folder: Path
    manifest: dict[str, Any]
    records: dict[int, Record]
    store: Store

    def __repr__(self) -> str:
        ends = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"<Run {str(self.folder)!r}: {self.done} of {self.size} observations; {ends or 'no chunk is finished'}>"

    def __str__(self) -> str:
        """Show the statuses of the finished chunks and their worst observations, in at most 15 lines."""
        return "\n".join([self._title, *str(self._verdicts()).splitlines()][:15])

    @property
    def _title(self) -> str:
        mixed = "" if self.mixed is None else f"; {self.mixed} of {self.done} posteriors have mixed"
        return f"Run in {self.folder}{mixed}"

    def _repr_html_(self) -> str:
        return f"<div><p>{escape(self._title)}</p>{self._verdicts(_WORST).html()}</div>"

    def to_frame(self) -> DataFrame:
        """Return the verdict as a pandas data frame, with a row for each observation of the finished chunks.

        If coordinates have names, the parameters are further columns.

        Raises:
            InputError: a column cannot be read, or a coordinate has the name of a column.
            MissingPackageError: pandas is not installed.
        """
        columns = {column.name: self.column(column.name) for column in self.store.columns if not column.shape}
        return data_frame(columns, self.indices, self.names, self.column("parameters").T if self.names else ())

    @property
    def names(self) -> list[str]:
        """The names of the parameters, (k,); empty if no coordinate has one."""
        return list(self.manifest["model"]["names"])

    @property
    def noise_stated(self) -> bool:
        """Whether noise is stated, or known as the rounding of the data type."""
        return bool(self.manifest["about"]["noise"])

    def _verdicts(self, most: int = WORST) -> Printed:
        """Return the verdicts in words."""
        norm = self.manifest["norm"] if self.manifest["norm"] in ("l1", "linf") else "l2"
        names = ("status", "success", "p_value", "confidence", "identifiable", "seconds")
        columns = {name: self.column(name) for name in names} | {"residual": self.column(f"residual_{norm}")}
        noise = self.manifest["about"]["noise"]
        title = f"method {self.manifest['method']}" + (f", noise {noise}" if noise else "")
        return printed_verdicts(columns, title, norm, self.indices, most)

    @cached_property
    def indices(self) -> Index:
        """Indices of the observations of the finished chunks, in order.

        Other rows do not count: they may be empty, or belong to a chunk that was not recorded.
        """
        spans = [np.arange(record.start, record.stop) for _, record in sorted(self.records.items())]
        return np.concatenate(spans) if spans else np.arange(0)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read a column of the finished chunks, in order, as :meth:`read` does."""
        if self.finished or not self.records:
            return self.read(name)[: self.done]
        return np.concatenate([self.read(name, r.start, r.stop) for _, r in sorted(self.records.items())])

    @property
    def size(self) -> int:
        """The number of observations."""
        return self.store.size

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return math.ceil(self.size / int(self.manifest["chunk"]))

    @property
    def done(self) -> int:
        """The number of observations in finished chunks."""
        return sum(record.stop - record.start for record in self.records.values())

    @property
    def finished(self) -> bool:
        """Whether all chunks are finished."""
        return len(self.records) == self.chunks

    @property
    def running(self) -> bool:
        """Whether a process is writing into the folder now; False if the system has no locks."""
        return locked(self.folder / JOURNAL)

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of observations with each status."""
        total: Counter[str] = Counter()
        for record in self.records.values():
            total.update(record.counts)
        return dict(sorted(total.items()))

    @property
    def success(self) -> int:
        """The number of observations that ended with success."""
        return sum(record.success for record in self.records.values())

    @property
    def failed(self) -> int:
        """The number of observations without a code."""
        return sum(record.failed for record in self.records.values())

    @cached_property
    def mixed(self) -> int | None:
        """The number of posteriors with mixed chains; None without posteriors."""
        if not self.manifest["posterior"]:
            return None
        return int((self.column("posterior_status") == Status.MIXED.name).sum())

    @cached_property
    def errors(self) -> dict[int, str]:
        """The message of every observation with status ERROR, by its index."""
        return {i: text for _, record in sorted(self.records.items()) for i, text in record.errors.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Read entries start to stop - 1 of a column: "codes" (B, \\*latent_shape), "reconstructions"
        (B, \\*output_shape), "residuals" (y - A G(z), of the shape of the data, single precision, NaN where nothing was
        observed), "predictions" (A G(z), if it is not a part of the output), "status" (names of
        :class:`~unrelu.Status`, "" in unfinished chunks), "success", "p_value", "p_size", "p_largest",
        "p_structure", "confidence", "objective", "residual_l2", "residual_l1", "residual_linf", "freedom", "rank",
        "identifiable", "nit", "seconds"; with names of coordinates also "parameters" (B, k), in the order of
        :attr:`names`; with posteriors also "mean", "std", "lower", "upper" (B, \\*latent_shape), "reconstruction_std"
        (B, \\*output_shape), "posterior_status", "rhat", "ess", "tail_ess".

        Raises:
            InputError: there is no such column, it cannot be read, or more than 4 GiB are requested at once.
        """
        values = self.store.read(name, start, stop)
        if name not in ("status", "posterior_status"):
            return values
        names = np.array(["", *self.manifest["statuses"]])
        if values.size and values.max() >= len(names):
            raise InputError(f"{self.folder}: a status is {values.max()}; the manifest names {len(names) - 1} of them")
        return np.asarray(names[values])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a dictionary for every observation of the finished chunks, in order: all columns of single numbers.

        Numbers that are not finite become None. ``name`` is the file name, None if observations are not files.
        """
        columns = [column.name for column in self.store.columns if not column.shape]
        for record in (self.records[chunk] for chunk in sorted(self.records)):
            values = {name: self.read(name, record.start, record.stop).tolist() for name in columns}
            codes = self.read("parameters", record.start, record.stop).tolist() if self.names else []
            own = record.messages | record.errors
            for i in range(record.stop - record.start):
                row, index = {name: values[name][i] for name in columns}, record.start + i
                status, numbers = row.pop("status"), (row[name] for name in TELLING)
                known = Status.__members__.get(status)
                message = own.get(index) or (status if known is None else message_of(known, *numbers))
                named = {"index": index, "name": record.names.get(index), "status": status, "message": message}
                parameters = {"parameters": dict(zip(self.names, codes[i], strict=True))} if self.names else {}
                yield dict(as_json(named | row | parameters))


def open_run(folder: str | Path) -> Run:
    """Open a folder of ``unrelu run``, finished or not. No column is read yet.

    Raises:
        InputError: it is not a folder of a run, or its manifest is damaged.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     folder = os.path.join(folder, "results")
    ...     _ = unrelu.run(net, net([[0.5], [0.25]]), folder)
    ...     print(unrelu.open_run(folder).finished)
    True
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"a run is opened by the path of its folder, got {type(folder).__name__}")
    folder = Path(folder)
    manifest = read_manifest(folder)
    store = Store(folder, manifest["data"]["size"], columns_in(manifest))

    def belongs(record: Record) -> bool:
        if odd := record.counts.keys() - manifest["statuses"]:
            raise InputError(f"{folder}: chunk {record.chunk} counts {min(odd)!r:.60}, which is no status of the run")
        first = record.chunk * manifest["chunk"]
        return (record.start, record.stop) == (first, min(first + manifest["chunk"], store.size))

    records = {chunk: record for chunk, record in read_records(folder).items() if belongs(record)}
    return Run(folder, manifest, records, store)

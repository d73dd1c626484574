"""The front door of data sets: everything is checked, then chunks are computed that are not there yet."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unrelu.datasets.result_folders import check_own_files
from unrelu.datasets.sources import Source, optional
from unrelu.datasets.tables import FORMATS, columns_of
from unrelu.errors import HostError, InputError, OptionError, OutputExistsError, StorageError
from unrelu.measurements.picture_scale import Scaling
from unrelu.methods import METHODS
from unrelu.models.generator import Generator
from unrelu.runs.checks import check_data, check_options, check_outside, check_range, masks_of, source_of
from unrelu.runs.chunk_work import STATUSES, Seen, Settled, Task, Work
from unrelu.runs.journal import DIGESTS, JOURNAL, append, read_digests, read_records, recording, write_digests
from unrelu.runs.local_workers import Engine, locally
from unrelu.runs.manifest import MANIFEST, differences, manifest_of, read_manifest, write_manifest
from unrelu.runs.run_folder import Run, open_run, write_lines
from unrelu.runtime.file_reading import MAX_BYTES
from unrelu.runtime.file_writing import storing
from unrelu.runtime.host import computing, cores

# Up to so many observations, results are .npy files unless asked otherwise.
_SMALL = 100_000


@dataclass(frozen=True)
class Moment:
    """What a run tells while it goes on.

    Attributes:
        text: a warning, or "".
        settled: the chunk that has just been finished, or None.
        done: observations in finished chunks.
        size: observations in all.
    """

    text: str = ""
    settled: Settled | None = None
    done: int = 0
    size: int = 0


Watch = Callable[[Moment], Any]


@computing()
def run(
    network: Generator,
    data: str | Path | npt.NDArray[Any] | Source,
    output: str | Path,
    method: str = "auto",
    *,
    operator: Any = None,
    masks: str | Path | npt.NDArray[Any] | Source | None = None,
    noise: str | None = None,
    norm: str | None = None,
    prior: float = 0.0,
    seed: int = 0,
    time_limit: float | None = None,
    chunk: int = 256,
    workers: int | None = None,
    scheduler: Any = None,
    array: str | None = None,
    size: tuple[int, int] | None = None,
    scale: str | tuple[float, float] | None = None,
    max_bytes: int = MAX_BYTES,
    results: str | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
    names: dict[str, str] | None = None,
    **options: Any,
) -> Run:
    r"""Invert a whole data set into a folder, so that it can be stopped, killed and started again.

    Observations are inverted in chunks, each as ``unrelu.invert(network, y[start:stop], ...)`` with a seed of its own,
    from ``seed`` and its index. The rows of a chunk are written, then recorded. The same call again goes on where the
    last one ended; results, but for ``seconds``, have the same bits however often it was interrupted, in whatever order
    and by however many workers the chunks were computed (on machines that compute alike: the same libraries and kind of
    processor). An observation that cannot be read or inverted has status ERROR and NaN codes, and does not stop the
    others.

    Args:
        network: G. It is sent once to every worker.
        data: the observations: a path or URL for :func:`unrelu.datasets.open_source` (``.npy``, ``.npz``, HDF5, Zarr, a
            folder of images), or an array (B, ...), or a :class:`~unrelu.datasets.Source`. Workers read them. Of the
            generator's output shape, but for axes of length 1, or flat; with an operator, of its shape.
        output: a folder for the results, on a disk that all workers see. If it holds the same run, that goes on.
        method: a name of the registry, see :func:`unrelu.invert`.
        operator: A, as for :func:`unrelu.invert`, for all observations alike.
        masks: a mask for every observation, in place of ``operator``: from what ``data`` can be.
        noise, norm, prior: as for :func:`unrelu.invert`.
        seed: of every random choice.
        time_limit: seconds for each chunk; what is reached then depends on the machine.
        chunk: observations that are inverted together. Results depend on it.
        workers: processes on this machine, of one thread each; by default one a core. 1: this process, which is the
            default in a daemon, such as a worker of a pool, as it cannot start others.
        scheduler: run on a Dask cluster instead: the address of its scheduler ("tcp://..."), ``"local:N"`` for N
            processes on this machine, or a ``distributed.Client``. Its workers may die, and join.
        array: name of the array in a store of several.
        size: (height, width) to resize images to.
        scale: as for :func:`unrelu.invert`: (low, high), or "LOW,HIGH", map the data's own range to this one. Data on
            another scale than the generator are an error, by the first 64 observations; "none" takes them as they are.
        max_bytes: the most that a ``.npz`` file, an observation or a chunk of a store may take once decompressed; see
            :func:`unrelu.datasets.open_source`.
        results: "npy" (``codes.npy``, ``reconstructions.npy``, ``results.jsonl``) or "zarr" (``results.zarr``). By
            default npy up to 100,000 observations on this machine, else zarr.
        overwrite: remove what the folder holds of an earlier run.
        watch: called with a :class:`Moment` after every chunk and for warnings, and when observations were hashed;
            when it returns True, the run stops after the chunks at work.
        names: for the report: of "model", "data" and "masks", by default where the latter are; the file that
            ``operator`` was read from, as "mask" or "operator", so that it is found again; the "command" that began the
            run.
        **options: of the method.

    Returns:
        The :class:`Run`; not :attr:`Run.finished` if it was stopped.

    Raises:
        InputError: data, shapes or values that cannot be used; a folder that holds another run (with the differences),
            or that another process is writing; data that changed since the run began.
        OptionError: an unknown method or option, or one of the wrong type.
        UnsupportedModelError: the method cannot invert this network.
        OutputExistsError: the folder holds something else.
        StorageError: the disk is full or cannot be written; what is finished is kept.
        SolverError: worker processes are killed again and again.
        HostError: this process cannot start the workers, or computes on a GPU of the process that it was forked from.
        MissingPackageError: an optional package is not installed.
    """
    if not isinstance(output, str | os.PathLike):
        raise OptionError(f"output is a {type(output).__name__}; pass the path of a folder")
    check_options(method, options, chunk, workers, scheduler, results)
    source = source_of(data, array, size, max_bytes)
    masked = None if masks is None else masks_of(masks, size, max_bytes)
    stated = {"noise": noise, "norm": norm, "prior": prior, "time_limit": time_limit}
    measured = check_data(network, source, masked, operator, {**stated, "seed": seed})
    folder = Path(output)
    check_outside(folder, source, masked)
    kind = results or _format(folder, overwrite) or ("npy" if source.size <= _SMALL and scheduler is None else "zarr")
    rows = min(int(chunk), source.size)
    table = FORMATS[kind](
        os.path.abspath(output), source.size, rows, columns_of(network.latent_dim, network.output_shape)
    )
    work = Work(
        network, source, table, rows, method,
        {name: _plain(value) for name, value in {**METHODS[method].defaults(), **options}.items()},
        {name: _plain(value) for name, value in stated.items()}, int(seed), Scaling.parse(scale), measured, masked,
    )  # fmt: skip
    check_range(work)
    masks_at = {"masks": masked.location} if masked else {}
    known = {
        "data": source.location, **masks_at, "opened": _opened(work, array, size),
        **(names or {}),
    }  # fmt: skip
    tell = watch or (lambda moment: None)
    wanted = manifest_of(work, known)
    _goes_on(folder, wanted, overwrite)
    check_own_files(folder)
    with _engine(work, workers, scheduler) as engine:
        with storing(folder, "name another folder"):
            folder.mkdir(parents=True, exist_ok=True)
        with recording(folder) as journal:
            # Again, now that no other run can write it.
            if not _goes_on(folder, wanted, overwrite):
                forget(folder, journal)
                write_manifest(folder, wanted)
            _settle_all(work, engine, folder, journal, tell)
    ended = open_run(folder)
    if ended.finished and kind == "npy":
        write_lines(ended)
    return ended


def _opened(work: Work, array: str | None, size: tuple[int, int] | None) -> dict[str, Any]:
    """Where the data are and how they were opened, so that a report finds them again; and the kind of operator."""
    return {
        "data": work.source.location,
        "masks": None if work.masks is None else work.masks.location,
        "array": array,
        "size": None if size is None else list(size),
        "directory": os.getcwd(),
        "operator": None if work.operator is None else type(work.measured).__name__.removesuffix("Operator").lower(),
    }


def _engine(work: Work, workers: int | None, scheduler: Any) -> AbstractContextManager[Engine]:
    daemon = multiprocessing.current_process().daemon
    count = min(workers or (1 if daemon else cores()), work.chunks)
    local = isinstance(scheduler, str) and scheduler.startswith("local:")
    if daemon and (count > 1 or local):
        asked = f"scheduler={scheduler!r}" if local else f"workers={workers}"
        raise HostError(
            f"{asked}: this process is a daemon, such as a worker of a pool or of a DataLoader, and cannot start "
            "others; pass workers=1"
        )
    if scheduler is not None:
        optional("distributed", "runs on a cluster", "dask")
        from unrelu.runs.cluster import on_cluster  # noqa: PLC0415 -- an optional dependency

        return on_cluster(work, scheduler)
    return nullcontext(locally(work, count))


def _format(folder: Path, overwrite: bool) -> str | None:
    """The format of the results that are there; None where there are none, or where they will be removed."""
    try:
        there = not overwrite and (folder / MANIFEST).is_file()
    except OSError:  # what is wrong with the folder is said later
        return None
    return str(read_manifest(folder)["results"]) if there else None


def _goes_on(folder: Path, wanted: dict[str, Any], overwrite: bool) -> bool:
    """Whether the folder holds the same run, which goes on.

    Raises:
        OutputExistsError, InputError: it holds something else, see :func:`run`.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder for the results")
        if overwrite or not folder.exists() or _untouched(folder):
            return False
    except OSError as error:
        raise InputError(f"{folder} is no folder for results: {error.strerror}; name another one") from error
    if not (folder / MANIFEST).is_file():
        raise OutputExistsError(f"{folder} exists and holds no run; choose another folder, or pass --overwrite")
    if different := differences(read_manifest(folder), wanted):
        raise InputError(
            f"{folder} holds another run: {'; '.join(different)}; ask for the same to go on with it, choose another "
            "folder, or pass --overwrite to begin again"
        )
    return True


def _untouched(folder: Path) -> bool:
    """Whether there is nothing but what a run leaves that ended before it had begun."""
    names = {entry.name for entry in folder.iterdir()}
    journal = folder / JOURNAL
    return names <= {JOURNAL, MANIFEST + ".draft"} and not (journal.exists() and journal.stat().st_size)


def forget(folder: Path, journal: BinaryIO) -> None:
    """Remove what a run before has written into the folder; other files stay."""
    columns = [f"columns/{column.name}.npy" for column in columns_of(1, ())]
    try:
        for name in (MANIFEST, DIGESTS, "codes.npy", "reconstructions.npy", "results.jsonl", "report.html", *columns):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # it may hold other files
            (folder / "columns").rmdir()
        if (folder / "results.zarr").exists():
            shutil.rmtree(folder / "results.zarr")
        journal.truncate(0)
    except OSError as error:
        raise StorageError(f"{error.filename or folder} cannot be removed: {error.strerror}") from error


def _settle_all(work: Work, engine: Engine, folder: Path, journal: BinaryIO, tell: Watch) -> None:
    """Look at every finished chunk again, and whether the data of the others have changed; compute those; tell of each.

    Raises:
        InputError: data have changed since the run began.
    """
    records, digests = read_records(folder), read_digests(folder)
    work.table.create({"statuses": list(STATUSES), "run": MANIFEST})
    stopping = threading.Event()
    if tell(Moment(size=work.source.size)):
        return
    left = [i for i in range(work.chunks) if i not in records]
    order = (
        [Task(i, records[i]) for i in sorted(records)] + [Task(i, look=True) for i in left] + [Task(i) for i in left]
    )
    done, seen = 0, dict[int, str]()
    for outcome in engine(order, stopping):
        moment = Moment(outcome if isinstance(outcome, str) else "", done=done, size=work.source.size)
        if isinstance(outcome, Seen):
            seen[outcome.chunk] = outcome.data
            if digests.get(outcome.chunk, outcome.data) != outcome.data:
                raise work.changed(outcome.chunk)
            if len(seen) == len(left):
                write_digests(folder, digests | seen)
        elif isinstance(outcome, Settled):
            record = outcome.record
            if outcome.how == "computed" and record.data != seen.get(record.chunk, record.data):
                raise work.changed(record.chunk)
            if outcome.how != "kept":
                append(journal, record)
            done += record.stop - record.start
            moment = Moment("", outcome, done, work.source.size)
        if tell(moment):
            stopping.set()


def _plain(value: Any) -> Any:
    """NumPy's numbers and fractions as Python's, which JSON has."""
    if isinstance(value, np.generic):
        return value.item()
    return float(value) if isinstance(value, Fraction) else value

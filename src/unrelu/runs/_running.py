"""The front door for data sets: check all arguments, then compute the chunks that are not finished yet."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unrelu.datasets.data_set import Observations
from unrelu.errors import HostError, InputError, OptionError, OutputExistsError
from unrelu.measurements.noise import Noise
from unrelu.models.generator import Generator, as_generator
from unrelu.parameters.code_prior import Normal
from unrelu.runs._arguments import asked, check_outside
from unrelu.runs._executors import computed
from unrelu.runs._manifest import MANIFEST, differences, read_manifest
from unrelu.runs._store import STORE, Store
from unrelu.runs.chunk_work import STATUSES, Chunk, Outcome
from unrelu.runs.journal import JOURNAL, Record, append, recording
from unrelu.runs.run_folder import Run, open_run
from unrelu.runtime.argument_checks import whole_number
from unrelu.runtime.file_writing import check_own_files, storing, write_whole
from unrelu.runtime.host import computing, cores
from unrelu.runtime.interrupts import stoppable


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run.

    Attributes:
        warning: a text, or "".
        record: the chunk that has just been finished, or None.
        done: the number of observations in finished chunks, including earlier calls.
        size: the number of all observations.
    """

    warning: str = ""
    record: Record | None = None
    done: int = 0
    size: int = 0


@computing()
def run(
    network: Generator,
    data: Any,
    output: str | Path,
    method: str = "auto",
    *,
    operator: Any = None,
    masks: Any = None,
    noise: Noise | str | None = None,
    bounds: Any = None,
    fixed: Any = None,
    norm: str | None = None,
    prior: float | Normal = 0.0,
    posterior: int = 0,
    seed: int = 0,
    time_limit: float | None = None,
    chunk: int | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    array: str | None = None,
    size: tuple[int, int] | None = None,
    scale: str | tuple[float, float] | None = None,
    overwrite: bool = False,
    callback: Callable[[RunProgress], Any] | None = None,
    names: dict[str, str] | None = None,
    **options: Any,
) -> Run:
    r"""Invert a whole data set into a folder, so that it can be stopped, killed and started again.

    Observations are inverted in chunks, each as ``unrelu.invert(network, y[start:stop], ...)``. The seed of a chunk is
    drawn from ``seed`` and its index. The rows of a chunk are written to ``results.zarr``, then a line of
    ``chunks.jsonl`` records that it is finished. The same call again resumes the run. Results, except ``seconds``, do
    not depend on interruptions, on the number of workers or on the order of the chunks: they are identical to the last
    bit on machines with the same libraries and kind of processor. An observation that cannot be read or inverted gets
    status ERROR and NaN codes, and does not stop the others. Ctrl-C finishes the running chunks.

    Args:
        network: G.
        data: the observations, as :func:`unrelu.datasets.opening.open_data` takes them: a path (``.npy``, ``.npz``,
            HDF5, Zarr, a folder of images), a list of images, or anything with a shape (B, ...), a dtype and slices,
            such as an array of NumPy, h5py or Zarr; or a dictionary of arrays by named part. This process reads them, a
            chunk at a time. Observations have the generator's output shape, up to axes of length 1, or are flat; with
            an operator, they have its shape. They must not change until the run is finished: a resumed run compares
            the first chunk.
        output: a folder for the results. If it holds the same run, that run is resumed.
        method: a name of the registry, see :func:`unrelu.invert`.
        operator: A, as for :func:`unrelu.invert`, for all observations alike.
        masks: a mask for every observation, in place of ``operator``, in any form that ``data`` can have.
        noise, bounds, fixed, norm, prior: as for :func:`unrelu.invert`; an array of the noise applies to every
            observation.
        posterior: draws of each chain of the posterior of every observation, for the columns mean, std, lower and upper
            (90% intervals), reconstruction_std, posterior_status, rhat, ess and tail_ess; 0 for no posteriors. The
            draws equal those of :func:`unrelu.posterior` for the observation with this seed. They need stated noise;
            a prior, if any, must be a distribution.
        seed: the seed of every random choice.
        time_limit: seconds for each chunk, and as many again for its posteriors. The results then depend on the
            machine.
        chunk: observations that are inverted together; by default a 16th of all, from 8 to 256, or to 16 with
            posteriors. Chunks are shorter if a forward pass is expensive, but have at least 20 observations if the
            noise level is estimated from them. Codes depend on it, draws do not.
        workers: processes on this machine, of one thread each; by default one per core. 1 computes in this process,
            the default for a network on a GPU, which workers would share, and in a daemon, such as a worker of a
            pool, which cannot start processes. With an executor, the number of chunks that it computes at once.
        executor: any :class:`concurrent.futures.Executor` of processes that computes the chunks instead, such as
            ``distributed.Client(...).get_executor()`` for a cluster. Its workers may die and join.
        array: name of the array in a store of several.
        size: (height, width) to resize images to.
        scale: as for :func:`unrelu.invert`: (low, high) or "LOW,HIGH" maps the data's own range to this one. If the
            first 64 observations show another scale than the generator's, that is an error; "none" takes data as they
            are. By default, images are mapped to the scale of the generator, and other data are left alone.
        overwrite: remove the results of an earlier run from the folder.
        callback: called with a :class:`RunProgress` at the beginning, after every chunk and for warnings. When it
            returns True, the run stops after the running chunks.
        names: texts for the report: the names of "model", "data" and "masks", the last two by default their paths, and
            the "command" that began the run.
        **options: options of the method.

    Returns:
        The :class:`Run`. Its :attr:`Run.finished` is False if it was stopped.

    Raises:
        InputError: data, shapes or values that cannot be used; a folder that holds another run (with the differences),
            or that another process is writing.
        OptionError: an unknown method or option, or one of the wrong type.
        UnsupportedModelError: the method cannot invert this network.
        OutputExistsError: the folder holds something else.
        StorageError: the disk is full or cannot be written; what is finished is kept.
        SolverError: workers are killed again and again, or the executor lost a chunk.
        HostError: this process cannot start the workers, or computes on a GPU that its parent has used before the fork.
        MissingPackageError: an optional package is not installed.

    >>> import os, tempfile
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     finished = unrelu.run(net, net([[0.5], [0.25]]), os.path.join(folder, "results"))
    ...     print(finished.counts)
    {'EXACT_FIT': 2}
    """
    if not isinstance(output, str | os.PathLike):
        raise OptionError(f"output is a {type(output).__name__}; pass the path of a folder")
    if callback is not None and not callable(callback):
        raise OptionError(f"callback={callback!r} is not callable")
    folder, workers = Path(output), _workers(network, workers, executor)
    work, observations, manifest = asked(
        network, data, method, operator=operator, masks=masks, noise=noise, bounds=bounds, fixed=fixed,
        norm=norm, prior=prior, posterior=posterior, seed=seed, time_limit=time_limit, chunk=chunk, array=array,
        size=size, scale=scale, names=names or {}, options=options,
    )  # fmt: skip
    check_outside(folder, observations.data, observations.masks)
    _goes_on(folder, manifest, overwrite)
    check_own_files(folder)
    store = Store(folder, observations.data.size, work.columns)
    with storing(folder, "name another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with recording(folder) as journal:
        # Check again, now that no other run can write into the folder.
        if not _goes_on(folder, manifest, overwrite):
            _forget(folder, journal)
            store.create({"statuses": list(STATUSES), "run": MANIFEST})
            write_whole(folder / MANIFEST, [json.dumps(manifest, indent=2), "\n"], "free space, or name another folder")
        begun = _written(open_run(folder))
        with stoppable("stopping when the running chunks are finished (Ctrl-C again to end at once)") as interrupted:
            done, stop = begun.done, False

            def report(warning: str = "", record: Record | None = None) -> None:
                nonlocal done, stop
                done += 0 if record is None else record.stop - record.start
                if callback is not None and callback(RunProgress(warning, record, done, begun.size)):
                    stop = True

            report()
            left = (i for i in range(begun.chunks) if i not in begun.records)
            chunks = (_read(observations, i, manifest["chunk"]) for i in left)
            count = min(workers, max(1, begun.chunks - len(begun.records)))
            for found in computed(work, chunks, count, executor, lambda: stop or interrupted.is_set()):
                if isinstance(found, str):
                    report(found)
                    continue
                store.write(found[0].start, found[1].columns)
                append(journal, record := _record(*found))
                report("", record)
    return open_run(folder)


def _written(run: Run) -> Run:
    """Leave out records whose rows are not in the store: a power cut may leave the line of a chunk without its rows."""

    def there(record: Record) -> bool:
        status, codes = (run.read(name, record.start, record.stop) for name in ("status", "codes"))
        failed = ~np.isfinite(codes).reshape(len(codes), -1).all(axis=1)
        return Counter(status.tolist()) == record.counts and int(failed.sum()) == record.failed

    return replace(run, records={chunk: record for chunk, record in run.records.items() if there(record)})


def _read(observations: Observations, index: int, length: int) -> Chunk:
    start, stop = index * length, min((index + 1) * length, observations.data.size)
    values, seen, problems = observations.read(start, stop)
    return Chunk(index, start, values, seen, problems, tuple(observations.data.names[start:stop]))


def _record(chunk: Chunk, outcome: Outcome) -> Record:
    columns, size = outcome.columns, len(chunk.values)
    counts = Counter(STATUSES[code - 1] for code in columns["status"].tolist())
    found = np.isfinite(columns["codes"]).reshape(size, -1).all(axis=1)
    return Record(
        chunk.index, chunk.start, chunk.start + size, dict(sorted(counts.items())), int(columns["success"].sum()),
        int((~found).sum()), outcome.seconds, outcome.worker, outcome.at, outcome.errors, outcome.messages,
        {chunk.start + i: name for i, name in enumerate(chunk.names)},
    )  # fmt: skip


# --- the folder and the workers ---------------------------------------------------------------------------------------


def _workers(network: Generator, workers: int | None, executor: Executor | None) -> int:
    """Return how many chunks are computed at once."""
    if workers is not None:
        whole_number("workers", workers, 1)
    if executor is not None:
        if not callable(getattr(executor, "submit", None)):
            raise OptionError(
                f"executor is a {type(executor).__name__}; pass a concurrent.futures.Executor, such as "
                "distributed.Client(...).get_executor()"
            )
        return int(workers or getattr(executor, "_max_workers", None) or cores())
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        raise OptionError(
            "this script was started again by a worker process that it had started; put what it does under "
            "if __name__ == '__main__':, or pass workers=1"
        )
    if process.daemon and (workers or 1) > 1:
        raise HostError(
            f"workers={workers}: this process is a daemon, such as a worker of a pool or of a DataLoader, and cannot "
            "start others; pass workers=1"
        )
    here = process.daemon or as_generator(network).device.type != "cpu"
    return int(workers or (1 if here else cores()))


def _goes_on(folder: Path, wanted: dict[str, Any], overwrite: bool) -> bool:
    """Check whether the folder holds the same run, to resume it. Refuse a folder that holds anything else."""
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder for the results")
        if overwrite or not folder.exists() or _untouched(folder):
            return False
    except OSError as error:
        raise InputError(f"{folder} is no folder for results: {error.strerror}; name another one") from error
    if not (folder / MANIFEST).is_file():
        raise OutputExistsError(
            f"{folder} exists and holds no run; choose another folder, or pass overwrite=True (--overwrite)"
        )
    if different := differences(read_manifest(folder), wanted):
        raise InputError(
            f"{folder} holds another run: {'; '.join(different)}; repeat its call to resume it, choose another "
            "folder, or pass overwrite=True (--overwrite) to begin again"
        )
    return True


def _untouched(folder: Path) -> bool:
    """Check whether the folder is empty, or only has files of a run that ended before its first chunk."""
    names, journal = {entry.name for entry in folder.iterdir()}, folder / JOURNAL
    return names <= {JOURNAL, STORE, MANIFEST + ".draft"} and not (journal.exists() and journal.stat().st_size)


def _forget(folder: Path, journal: BinaryIO) -> None:
    """Remove the files of an earlier run from the folder, the manifest first. Other files stay."""
    with storing(folder, "name another folder"):
        for name in (MANIFEST, "report.html"):
            (folder / name).unlink(missing_ok=True)
        if (folder / STORE).exists():
            shutil.rmtree(folder / STORE)
        journal.truncate(0)

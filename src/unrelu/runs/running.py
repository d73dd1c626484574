"""The front door of data sets: everything is checked, then chunks are computed that are not there yet."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unrelu._posterior import checked
from unrelu.datasets.opening import open_masks, open_source
from unrelu.datasets.pictures import Folder
from unrelu.datasets.sources import Source, optional
from unrelu.datasets.tables import FORMATS, columns_of
from unrelu.errors import HostError, InputError, OptionError, OutputExistsError, StorageError
from unrelu.measurements import MatrixFreeOperator, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.named_parts import joined
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.picture_scale import Scaling, check_scale, scale_of
from unrelu.measurements.working_units import searched
from unrelu.methods import METHODS, Method, make, refuse
from unrelu.models.code_prior import Normal
from unrelu.models.generator import Generator, as_generator
from unrelu.problem import Problem
from unrelu.runs._local_workers import Engine, locally
from unrelu.runs._manifest import MANIFEST, differences, manifest_of, read_manifest
from unrelu.runs.chunk_work import STATUSES, Seen, Settled, Task, Work
from unrelu.runs.journal import DIGESTS, JOURNAL, append, read_digests, read_records, recording, write_digests
from unrelu.runs.run_folder import NOISE, Run, open_run, write_noise_file
from unrelu.runtime.argument_numbers import whole_number
from unrelu.runtime.file_reading import MAX_BYTES
from unrelu.runtime.file_writing import check_own_files, storing, write_records, write_whole
from unrelu.runtime.host import computing, cores
from unrelu.sampling.prior_transform import PriorTransform

# Up to so many observations, results are .npy files unless asked otherwise.
_SMALL = 100_000
# Observations of a chunk by default, and of one with posteriors, each of which takes seconds.
_CHUNK, _WITH_POSTERIORS = 256, 16
# Observations whose range is compared with that of the generator.
_SEEN = 64


@dataclass(frozen=True)
class Moment:
    """The progress of a run.

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


MomentCallback = Callable[[Moment], Any]


@computing()
def run(
    network: Generator,
    data: str | Path | npt.NDArray[Any] | Mapping[str, Any] | Source,
    output: str | Path,
    method: str = "auto",
    *,
    operator: Any = None,
    masks: str | Path | npt.NDArray[Any] | Source | None = None,
    noise: Noise | str | None = None,
    bounds: Any = None,
    norm: str | None = None,
    prior: float | Normal = 0.0,
    posterior: int = 0,
    seed: int = 0,
    time_limit: float | None = None,
    chunk: int | None = None,
    workers: int | None = None,
    scheduler: Any = None,
    array: str | None = None,
    size: tuple[int, int] | None = None,
    scale: str | tuple[float, float] | None = None,
    max_bytes: int = MAX_BYTES,
    results: str | None = None,
    overwrite: bool = False,
    callback: MomentCallback | None = None,
    names: dict[str, str] | None = None,
    **options: Any,
) -> Run:
    r"""Invert a whole data set into a folder, so that it can be stopped, killed and started again.

    Observations are inverted in chunks, each as ``unrelu.invert(network, y[start:stop], ...)`` with a seed of its own,
    from ``seed`` and its index. The rows of a chunk are written, then recorded. The same call again resumes the run;
    results, but for ``seconds``, have the same bits however often it was interrupted, in whatever order
    and by however many workers the chunks were computed (on machines that compute alike: the same libraries and kind of
    processor). An observation that cannot be read or inverted has status ERROR and NaN codes, and does not stop the
    others.

    Args:
        network: G. It is sent once to every worker.
        data: the observations: a path or URL for :func:`unrelu.datasets.open_source` (``.npy``, ``.npz``, HDF5, Zarr, a
            folder of images), or an array (B, ...), or a dictionary of arrays by named part, or a
            :class:`~unrelu.datasets.Source`. Workers read them.
            They have the generator's output shape, up to axes of length 1, or are flat; with an operator, its shape.
        output: a folder for the results, on a disk that all workers see. If it holds the same run, that run is resumed.
        method: a name of the registry, see :func:`unrelu.invert`.
        operator: A, as for :func:`unrelu.invert`, for all observations alike.
        masks: a mask for every observation, in place of ``operator``, in any form that ``data`` can have.
        noise, bounds, norm, prior: as for :func:`unrelu.invert`; an array of the noise is that of all observations
            alike.
        posterior: draws of each chain of the posterior of every observation, for the columns mean, std, lower and upper
            (90% intervals), reconstruction_std, posterior_status, rhat, ess and tail_ess; 0 is for none. The draws
            are those of :func:`unrelu.posterior` of the observation with this seed. They need stated noise, and a
            prior that is a distribution, if any.
        seed: seed of every random choice.
        time_limit: seconds for each chunk, and as many again for its posteriors. The results then depend on the
            machine.
        chunk: observations that are inverted together; by default 256, and 16 with posteriors. Codes depend on it,
            draws do not.
        workers: processes on this machine, of one thread each; by default one a core. 1 computes in this process. That
            is the default for a network on a GPU, which workers would share, and in a daemon, such as a worker of a
            pool, which cannot start processes.
        scheduler: run on a Dask cluster instead: the address of its scheduler ("tcp://..."), ``"local:N"`` for N
            processes on this machine, or a ``distributed.Client``. Its workers may die, and join.
        array: name of the array in a store of several.
        size: (height, width) to resize images to.
        scale: as for :func:`unrelu.invert`: (low, high), or "LOW,HIGH", map the data's own range to this one. Data on
            another scale than the generator are an error, by the first 64 observations; "none" takes them as they are.
            By default, the pictures of a folder are mapped to the scale of the generator, all others are left alone.
        max_bytes: the most that a ``.npz`` file, an observation or a chunk of a store may take once decompressed; see
            :func:`unrelu.datasets.open_source`.
        results: "npy" (``codes.npy``, ``reconstructions.npy``, ``results.jsonl``) or "zarr" (``results.zarr``). By
            default npy up to 100,000 observations on this machine, else zarr.
        overwrite: remove what the folder holds of an earlier run.
        callback: called with a :class:`Moment` after every chunk and for warnings, and when observations were hashed;
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
    chunk = (_WITH_POSTERIORS if posterior else _CHUNK) if chunk is None else chunk
    chosen = _check_options(method, options, chunk, workers, scheduler, results)
    data, noise, operator = _whole(as_generator(network), data, noise, operator)
    _check_posterior(posterior, noise, prior)
    source = open_source(_anywhere(data), array, size, max_bytes=max_bytes)
    masked = None
    if masks is not None:
        resized = size if isinstance(masks, str | Path) and Path(masks).is_dir() else None
        masked = open_masks(_anywhere(masks), size=resized, max_bytes=max_bytes)
    arrays = _noise_arrays(noise, masks)
    box = Bounds.parse(bounds, network.latent_shape, network.names.latent_names)
    if isinstance(prior, Normal) and prior.by_name:
        prior = prior.of_names(network.names)
    if posterior:
        PriorTransform.of(box, prior.of_names(network.names) if isinstance(prior, Normal) else None)
    stated = {
        "noise": None if noise is None else str(noise), "bounds": box.plain(), "norm": norm,
        "prior": prior.plain() if isinstance(prior, Normal) else prior, "time_limit": time_limit,
    }  # fmt: skip
    stated_once = stated | {"noise": noise, "bounds": box.ends, "prior": prior, "seed": seed, "scale": scale}
    measured, scaling = _check_data(network, source, masked, operator, stated_once, chosen)
    folder = Path(output)
    _check_outside(folder, source, masked)
    begun = _begun(folder, overwrite)
    usual = "npy" if source.size <= _SMALL and scheduler is None else "zarr"
    kind = results or (begun["results"] if begun else usual)
    chunk = min(int(chunk), source.size)
    columns = columns_of(
        network.latent_shape, network.output_shape, posterior > 0, len(network.names.coordinate_names)
    )  # fmt: skip
    work = Work(
        network, source, masked, replace(scaling, checked=False), measured,
        FORMATS[kind](os.path.abspath(output), source.size, chunk, columns), chunk, method,
        {name: _plain(value) for name, value in {**METHODS[method].defaults(), **options}.items()},
        {name: _plain(value) for name, value in stated.items()}, int(seed), int(posterior),
        arrays,
    )  # fmt: skip
    _check_range(work, scaling)
    wanted = manifest_of(work, _known(work, array, size) | (names or {}))
    _goes_on(folder, wanted, overwrite)
    check_own_files(folder)
    with _engine(work, workers, scheduler) as engine:
        with storing(folder, "name another folder"):
            folder.mkdir(parents=True, exist_ok=True)
        with recording(folder) as journal:
            # Again, now that no other run can write it.
            if not _goes_on(folder, wanted, overwrite):
                forget(folder, journal)
                if arrays:
                    write_noise_file(folder, arrays)
                manifest = [json.dumps(wanted, indent=2), "\n"]
                write_whole(folder / MANIFEST, manifest, "free space, or name another folder")
            _settle_all(work, engine, folder, journal, callback or (lambda moment: None))
    ended = open_run(folder)
    if ended.finished and kind == "npy":
        advice = "all chunks are kept: mend that, and run it again"
        write_records(folder / "results.jsonl", ended.rows(source.file_name), advice)
    return ended


# --- what can be told before any work --------------------------------------------------------------------------------


def _whole(network: Generator, data: Any, noise: Any, operator: Any) -> tuple[Any, Any, Any]:
    """Data, noise and operator of the whole output, if they are given by part."""
    if not isinstance(data, Mapping):
        return data, *joined(network.names, np.zeros(network.output_dim), noise, operator)[1:]
    whole = joined(network.names, data, noise, operator)
    if whole[0].ndim == 1:
        shapes = ", ".join(f"{name}: {np.shape(values)}" for name, values in data.items())
        raise InputError(f"data has one observation of each part ({shapes}); a data set is a batch, (B, ...) of each")
    return whole


def _check_options(
    method: Any, options: dict[str, Any], chunk: Any, workers: Any, scheduler: Any, results: str | None
) -> Method:
    """The method; options that cannot be used are refused."""
    if not isinstance(method, str):
        raise OptionError(
            f"method is a {type(method).__name__}; a run takes one by name, {', '.join(METHODS)}, as "
            "its folder has to tell what was run"
        )
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise OptionError(
            "this script was started again by a worker process that it had started; put what it does under "
            "if __name__ == '__main__':, or pass workers=1"
        )
    if "sequence" in options:
        raise OptionError(
            f"sequence={options['sequence']!r}: a run computes its chunks in any order, so that no observation can "
            "start from the one before; call unrelu.invert on each sequence"
        )
    made = make(method, options)
    for name, value in (("chunk", chunk), ("workers", 1 if workers is None else workers)):
        whole_number(name, value, 1)
    if scheduler is not None and workers is not None:
        raise OptionError(f"workers={workers} is for this machine; the cluster {scheduler!r} has workers of its own")
    if results is not None and results not in list(FORMATS):
        raise OptionError(f"results={results!r} is unknown; use {' or '.join(map(repr, FORMATS))}")
    return made


def _check_posterior(draws: Any, noise: Any, prior: float | Normal) -> None:
    """Refuse posteriors that cannot be sampled."""
    if draws := whole_number("posterior", draws, 0):
        checked(noise, prior or None, draws)


def _noise_arrays(noise: Any, masks: Any) -> Noise | None:
    """The noise if it is of arrays, or None; noise that the folder cannot keep is refused."""
    modelled = parse_noise(noise)
    if not modelled.built_in():
        raise InputError(f"noise={noise}: a run keeps its noise in its folder, so it is a model of unrelu")
    if masks is not None and modelled.cholesky() is not None:
        raise InputError(f"noise={noise} is for observations that show the same entries; pass one mask as operator=")
    return modelled if modelled.entrywise else None


def _anywhere(data: Any) -> Any:
    """A path that means the same in the folders that workers were started in; what is no path stays as it is."""
    return os.path.abspath(data) if isinstance(data, str | Path) and "://" not in str(data) else data


def _check_data(
    network: Generator, source: Source, masks: Source | None, operator: Any, stated: dict[str, Any], method: Method
) -> tuple[Any, Scaling]:
    """Refuse observations, masks and an operator that do not belong together, or what the method cannot invert.

    Returns:
        The operator as the workers get it: checked, and code written out as a matrix where that is small. And the
        scaling, which for a folder of pictures is that of the generator by default.
    """
    as_generator(network)
    if masks is not None and operator is not None:
        raise InputError("masks= and operator= were both given; pass one of them")
    if masks is not None and masks.size != source.size:
        raise InputError(
            f"{masks.location} holds {masks.size} masks for the {source.size} observations of {source.location}; pass "
            "one for each, or a single one as operator= (--mask with an array of one mask)"
        )
    box = Bounds.parse(stated["bounds"], network.latent_shape, network.names.latent_names)
    tried = searched(network, box, stated["prior"])
    measured = read_operator(operator, network.output_shape, (1, *source.shape), tried)
    if measured.count:
        raise InputError(f"operator= holds {measured.count} masks; pass masks= for one an observation")
    _check_shape(
        "observations", source, measured.shape, "the generator puts out" if operator is None else "operator= gives"
    )
    if masks is not None:
        _check_shape("masks", masks, network.output_shape, "the generator puts out")
    scaling = Scaling.parse(stated["scale"])
    if stated["scale"] is None and isinstance(source, Folder) and measured.output_shaped:
        scaling = scale_of(network)
    blank, unchecked = np.zeros((1, measured.m), dtype=source.dtype), replace(scaling, checked=False)
    noise = stated["noise"]
    if isinstance(noise, Noise) and noise.entrywise and noise.spread(measured.shape, 2).ndim > 1:
        raise InputError(f"noise={noise} differs between observations; pass the array of one, for all of them")
    refuse(method, Problem.build(network, blank, operator=measured, **stated | {"scale": unchecked}))
    if operator is None:
        return None, scaling
    # Code that is too large for a matrix stays as it was given, since that can be sent to other processes.
    return operator if isinstance(measured, MatrixFreeOperator) else measured, scaling


def _check_outside(folder: Path, *sources: Source | None) -> None:
    """Refuse data in the folder of the results: they would be written over, or removed by ``overwrite``."""
    for source in sources:
        if source is None or "://" in source.location:
            continue
        if Path(folder).resolve() in (Path(source.location).resolve(), *Path(source.location).resolve().parents):
            raise InputError(f"{source.location} lies in {folder}, the folder of the results; name another folder")


def _check_shape(what: str, source: Source, wanted: tuple[int, ...], who: str) -> None:
    """Shapes are equal but for axes of length 1, or one of the two is flat."""
    given, asked = (tuple(n for n in shape if n != 1) for shape in (source.shape, wanted))
    flat = math.prod(given) == math.prod(asked) and min(len(given), len(asked)) <= 1
    if given != asked and not flat:
        raise InputError(
            f"{source.location} has {what} of shape {source.shape}, and {who} {wanted}: reshape or transpose "
            "them, resize images with size=(height, width) (--size), or choose the data set or generator that fits"
        )


def _check_range(work: Work, scaling: Scaling) -> None:
    """Refuse data that are on another scale than the generator, by their first observations."""
    if work.measured.output_shaped:  # measured values have units of their own
        batch, seen = work.observations.read(0, min(_SEEN, work.source.size))
        trim = parse_noise(work.noise).outliers
        check_scale(work.network, batch.values, seen, dtype=work.source.dtype, scaling=scaling, trim=trim)


# --- the folder and the work ------------------------------------------------------------------------------------------


def _known(work: Work, array: str | None, size: tuple[int, int] | None) -> dict[str, Any]:
    """Where the data and masks are, and how they were opened, so that a report finds them again; kind of operator."""
    data, masks = work.source.location, None if work.masks is None else work.masks.location
    opened = {
        "data": data,
        "masks": masks,
        "array": array,
        "size": size,
        "directory": os.getcwd(),
        "operator": None if work.operator is None else work.measured.kind,
    }
    return {"data": data, **({"masks": masks} if masks else {}), "opened": opened}


def _engine(work: Work, workers: int | None, scheduler: Any) -> AbstractContextManager[Engine]:
    daemon = multiprocessing.current_process().daemon
    here = daemon or work.network.device.type != "cpu"
    count = min(workers or (1 if here else cores()), work.chunks)
    local = isinstance(scheduler, str) and scheduler.startswith("local:")
    if daemon and (count > 1 or local):
        asked = f"scheduler={scheduler!r}" if local else f"workers={workers}"
        raise HostError(
            f"{asked}: this process is a daemon, such as a worker of a pool or of a DataLoader, and cannot start "
            "others; pass workers=1"
        )
    if scheduler is not None:
        optional("distributed", "runs on a cluster", "dask[distributed]")
        from unrelu.runs._cluster import on_cluster  # noqa: PLC0415 -- an optional dependency

        return on_cluster(work, scheduler)
    return nullcontext(locally(work, count))


def _begun(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """The manifest of the run that the folder holds; None where there is none, or where it is to be removed."""
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder for the results")
        if overwrite or not folder.exists() or _untouched(folder):
            return None
    except OSError as error:
        raise InputError(f"{folder} is no folder for results: {error.strerror}; name another one") from error
    if not (folder / MANIFEST).is_file():
        raise OutputExistsError(
            f"{folder} exists and holds no run; choose another folder, or pass overwrite=True (--overwrite)"
        )
    return read_manifest(folder)


def _goes_on(folder: Path, wanted: dict[str, Any], overwrite: bool) -> bool:
    """Whether the folder holds the same run, which is resumed."""
    begun = _begun(folder, overwrite)
    if begun and (different := differences(begun, wanted)):
        raise InputError(
            f"{folder} holds another run: {'; '.join(different)}; repeat its call to resume it, choose another "
            "folder, or pass overwrite=True (--overwrite) to begin again"
        )
    return begun is not None


def _untouched(folder: Path) -> bool:
    """Whether there is nothing but what a run leaves that ended before it had begun."""
    names = {entry.name for entry in folder.iterdir()}
    journal = folder / JOURNAL
    return names <= {JOURNAL, MANIFEST + ".draft"} and not (journal.exists() and journal.stat().st_size)


def forget(folder: Path, journal: BinaryIO) -> None:
    """Remove what a run before has written into the folder; other files stay."""
    columns = [f"columns/{column.name}.npy" for column in columns_of((), (), posterior=True, named=1)]
    try:
        for name in (
            MANIFEST,
            DIGESTS,
            NOISE,
            "codes.npy",
            "reconstructions.npy",
            "results.jsonl",
            "report.html",
            *columns,
        ):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # it may hold other files
            (folder / "columns").rmdir()
        if (folder / "results.zarr").exists():
            shutil.rmtree(folder / "results.zarr")
        journal.truncate(0)
    except OSError as error:
        raise StorageError(f"{error.filename or folder} cannot be removed: {error.strerror}") from error


def _settle_all(work: Work, engine: Engine, folder: Path, journal: BinaryIO, tell: MomentCallback) -> None:
    """Look at every finished chunk again, and whether the data of the others have changed; compute those."""
    records, digests = read_records(folder), read_digests(folder)
    work.table.create({"statuses": list(STATUSES), "run": MANIFEST})
    stopping = threading.Event()
    if tell(Moment(size=work.source.size)):
        return
    left = [i for i in range(work.chunks) if i not in records]
    order = [Task(i, records[i]) for i in sorted(records)]
    order += [Task(i, look=True) for i in left] + [Task(i) for i in left]
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

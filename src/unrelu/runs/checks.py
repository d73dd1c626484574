"""What can be told before any work: options, shapes, measurements, and the range of the values."""

from __future__ import annotations

import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.datasets.opening import Masks, in_memory, open_masks, open_source
from unrelu.datasets.sources import Source
from unrelu.datasets.tables import FORMATS
from unrelu.errors import InputError, OptionError
from unrelu.measurements import Identity, Mapped, MaskOperator, read_operator
from unrelu.measurements.noise import Noise
from unrelu.measurements.picture_scale import check_scale
from unrelu.methods import METHODS, make
from unrelu.models.generator import Generator, as_generator
from unrelu.problem import Problem
from unrelu.runs.chunk_work import Work
from unrelu.runtime.file_reading import MAX_BYTES

# Observations whose range is compared with that of the generator.
_SEEN = 64


def check_options(
    method: Any, options: dict[str, Any], chunk: Any, workers: Any, scheduler: Any, results: str | None
) -> None:
    """Refuse options that cannot be used.

    Raises:
        OptionError: there are some.
    """
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
    make(method, options)
    for name, value in (("chunk", chunk), ("workers", workers)):
        if value is None and name == "workers":
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise OptionError(f"{name}={value!r} must be a whole number of at least 1")
    if scheduler is not None and workers is not None:
        raise OptionError(f"workers={workers} is for this machine; the cluster {scheduler!r} has workers of its own")
    if results is not None and results not in list(FORMATS):
        raise OptionError(f"results={results!r} is unknown; use {' or '.join(map(repr, FORMATS))}")


def source_of(data: Any, array: str | None, size: tuple[int, int] | None, max_bytes: int = MAX_BYTES) -> Source:
    """The data set, opened.

    Raises:
        InputError: it is none.
    """
    if isinstance(data, str | Path):
        return open_source(_anywhere(data), array, size, max_bytes=max_bytes)
    if array is not None or size is not None:
        raise InputError(f"array={array!r} and size={size} are for data in files; pass a path, or leave them out")
    return data if isinstance(data, Source) else in_memory(data, "data")


def masks_of(masks: Any, size: tuple[int, int] | None, max_bytes: int = MAX_BYTES) -> Source:
    """The masks, opened.

    Raises:
        InputError: they are none.
    """
    if isinstance(masks, str | Path):
        return open_masks(_anywhere(masks), size=size if Path(masks).is_dir() else None, max_bytes=max_bytes)
    return masks if isinstance(masks, Source) else Masks(in_memory(masks, "masks"))


def _anywhere(location: str | Path) -> str:
    """A path that means the same in the folders that workers were started in; URLs do."""
    return str(location) if "://" in str(location) else os.path.abspath(location)


def check_data(network: Generator, source: Source, masks: Source | None, operator: Any, stated: dict[str, Any]) -> Any:
    """Whether observations, masks and operator belong to each other.

    Returns:
        The operator as the workers get it: checked, and code written out as a matrix where that is small.

    Raises:
        InputError: they do not, or noise, norm, prior, seed or time limit cannot be used.
    """
    as_generator(network)
    if masks is not None and operator is not None:
        raise InputError("masks= and operator= were both given; pass one of them")
    if masks is not None and masks.size != source.size:
        raise InputError(
            f"{masks.location} holds {masks.size} masks for the {source.size} observations of {source.location}; pass "
            "one for each, or a single one as operator= (--mask with an array of one mask)"
        )
    measured = read_operator(operator, network.output_shape, (1, *source.shape))
    if isinstance(measured, MaskOperator) and measured.count:
        raise InputError(f"operator= holds {measured.count} masks; pass masks= for one an observation")
    _check_shape(
        "observations", source, measured.shape, "the generator puts out" if operator is None else "operator= gives"
    )
    if masks is not None:
        _check_shape("masks", masks, network.output_shape, "the generator puts out")
    Problem.build(network, np.zeros((1, measured.m)), operator=measured, scale="none", **stated)
    if isinstance(measured, Identity):
        return None
    # Code that is too large for a matrix stays as it was given, since that can be sent to other processes.
    return operator if isinstance(measured, Mapped) else measured


def check_outside(folder: Path, *sources: Source | None) -> None:
    """Refuse data in the folder of the results: they would be written over, or removed by ``overwrite``.

    Raises:
        InputError: there are some.
    """
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


def check_range(work: Work) -> None:
    """Refuse data that are on another scale than the generator, by their first observations.

    Raises:
        InputError: they are, or they have no range and a scaling is asked for.
    """
    work.scaling.apply(np.zeros(0), work.source.dtype)
    if not isinstance(work.measured, Identity | MaskOperator):
        return  # measured values have units of their own
    noise = Noise.parse(work.stated["noise"])
    batch, seen = work.observations(0, min(_SEEN, work.source.size))
    check_scale(
        work.network, batch.values, seen, dtype=work.source.dtype, scaling=work.scaling,
        trim=noise.level if noise.kind == "outliers" else 0.0,
    )  # fmt: skip

"""The arguments of a run, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unrelu._posterior import checked
from unrelu.datasets.data_set import DataSet, Observations
from unrelu.datasets.opening import open_data
from unrelu.datasets.pictures import Pictures
from unrelu.errors import InputError, OptionError
from unrelu.measurements import MatrixFreeOperator, read_operator
from unrelu.measurements.named_parts import joined
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.operators import Operator
from unrelu.measurements.picture_scale import Scaling, check_scale, scale_of
from unrelu.measurements.unknown_level import refuse_unknown_level
from unrelu.measurements.working_units import searched
from unrelu.methods import METHODS, make, refuse
from unrelu.models.generator import Generator, as_generator
from unrelu.parameters.code_prior import Normal
from unrelu.problem import Problem
from unrelu.result.residual_tests import FEWEST
from unrelu.runs._manifest import manifest_of
from unrelu.runs.chunk_work import Work
from unrelu.runs.columns import columns_of
from unrelu.runtime.argument_checks import whole_number
from unrelu.sampling.prior_transform import PriorTransform

# Default limits of a chunk, without and with posteriors: its observations, and the multiplications of one forward pass
# of all of them. For each multiplication, a search took 0.04 to 1 microseconds, or 20 to 60 with a posterior.
_CHUNK, _WITH_POSTERIORS = (256, 6 * 10**7), (16, 5 * 10**5)
# The fewest chunks of a data set, four for each of four workers, and the fewest observations of a chunk. A chunk of
# fewer than 8 observations costs as much as one of 8.
_CHUNKS, _SHORTEST = 16, 8
# The number of observations whose range is compared with the range of the generator.
_SEEN = 64


def asked(
    network: Generator, data: Any, method: Any, *, operator: Any, masks: Any, noise: Any, bounds: Any, fixed: Any,
    norm: str | None, prior: Any, posterior: int, seed: int, time_limit: float | None, chunk: int | None,
    array: str | None, size: tuple[int, int] | None, scale: Any, names: dict[str, str],
    options: dict[str, Any],
) -> tuple[Work, Observations, dict[str, Any]]:  # fmt: skip
    """Check the arguments of :func:`unrelu.run`, raise its errors, and return work, observations and manifest."""
    if not isinstance(method, str):
        raise OptionError(
            f"method is a {type(method).__name__}; a run takes one by name, {', '.join(METHODS)}, as its folder keeps "
            "what was run"
        )
    chosen, network = make(method, options), as_generator(network)
    data, noise, operator = _whole(network, data, noise, operator)
    if whole_number("posterior", posterior, 0):
        checked(noise, prior or None, posterior)
    source, masked = open_data(data, array, size), None
    if masks is not None:
        resized = size if isinstance(source.values, Pictures) else None
        masked = open_data(masks, None, resized, "masks")
    box = network.bounds(bounds, fixed)
    prior = prior.of_names(network.names) if isinstance(prior, Normal) else prior
    if posterior:
        PriorTransform.of(box, prior if isinstance(prior, Normal) else None)
    measured = _measured(network, source, masked, operator, searched(network, box, prior))
    errors, scaling = parse_noise(noise), Scaling.parse(scale)
    refuse_unknown_level(errors, "a run")
    _check_noise(errors, measured, masked is not None)
    if scale is None and isinstance(source.values, Pictures) and measured.output_shaped:
        scaling = scale_of(network)
    stated = {"noise": noise, "bounds": box.ends, "norm": norm, "prior": prior, "time_limit": time_limit}
    blank, unchecked = np.zeros((1, measured.m), dtype=source.dtype), replace(scaling, checked=False)
    problem = Problem.build(network, blank, operator=measured, scale=unchecked, seed=seed, **stated)
    refuse(chosen, problem)
    # A function that is too large for a matrix stays as given, because the user's function can be sent to processes.
    given = operator if operator is None or isinstance(measured, MatrixFreeOperator) else measured
    columns = columns_of(
        network.latent_shape, network.output_shape, source.shape, posterior=posterior > 0,
        predictions=not (measured.output_shaped and measured.linear), named=len(network.names.coordinate_names),
    )  # fmt: skip
    work = Work(
        network, given, masked is not None, source.shape, source.dtype, unchecked, columns, method,
        {**METHODS[method].defaults(), **options}, stated, int(seed), int(posterior),
    )  # fmt: skip
    observations = Observations(source, masked, work.measured, unchecked)
    if work.measured.output_shaped:  # other measurements have units of their own
        values, seen, _ = observations.read(0, min(_SEEN, source.size))
        scaled = scaling.apply(values, source.dtype)
        check_scale(network, scaled, seen, dtype=source.dtype, scaling=scaling, trim=errors.outliers)
    pooled = problem.tells_level and getattr(chosen, "pool", False)
    length = _length(work, source.size, pooled) if chunk is None else whole_number("chunk", chunk, 1)
    return work, observations, manifest_of(work, observations, problem, min(length, source.size), names)


def _length(work: Work, size: int, pooled: bool) -> int:
    """Return the default number of observations of a chunk. No timing is involved: all machines get the same.

    If the noise level is estimated from a whole chunk, the chunk has enough observations for the estimate.
    """
    most, budget = _WITH_POSTERIORS if work.draws else _CHUNK
    return max(FEWEST if pooled else 1, min(most, max(size // _CHUNKS, _SHORTEST), budget // max(1, work.network.cost)))


def _whole(network: Generator, data: Any, noise: Any, operator: Any) -> tuple[Any, Any, Any]:
    """Join data, noise and operator that are given for named parts, for the whole output."""
    if not isinstance(data, Mapping):
        return data, *joined(network.names, np.zeros(network.output_dim), noise, operator)[1:]
    whole = joined(network.names, data, noise, operator)
    if whole[0].ndim == 1:
        shapes = ", ".join(f"{name}: {np.shape(values)}" for name, values in data.items())
        raise InputError(f"data has one observation of each part ({shapes}); a data set is a batch, (B, ...) of each")
    return whole


def _measured(network: Generator, source: DataSet, masks: DataSet | None, operator: Any, tried: Generator) -> Operator:
    """Check and return the operator. Refuse observations, masks and an operator that do not belong together."""
    if masks is not None and operator is not None:
        raise InputError("masks= and operator= were both given; pass one of them")
    if masks is not None and masks.size != source.size:
        raise InputError(
            f"{masks.location} holds {masks.size} masks for the {source.size} observations of {source.location}; pass "
            "one for each, or a single one as operator= (--mask with an array of one mask)"
        )
    measured = read_operator(operator, network.output_shape, (1, *source.shape), tried)
    if measured.count:
        raise InputError(f"operator= holds {measured.count} masks; pass masks= for one an observation")
    _check_shape("observations", source, measured.shape)
    if masks is not None:
        _check_shape("masks", masks, network.output_shape)
    return measured


def _check_noise(noise: Noise, measured: Operator, masked: bool) -> None:
    """Refuse noise that differs between observations."""
    if masked and noise.cholesky() is not None:
        raise InputError(f"noise={noise} is for observations that show the same entries; pass one as operator=")
    if noise.entrywise and noise.spread(measured.shape, 2).ndim > 1:
        raise InputError(f"noise={noise} differs between observations; pass the array of one, for all of them")


def check_outside(folder: Path, *sources: DataSet | None) -> None:
    """Refuse data in the folder of the results: the run would write over them, or ``overwrite`` remove them."""
    for source in sources:
        place = None if source is None else Path(source.location).resolve()
        if source is not None and place is not None and folder.resolve() in (place, *place.parents):
            raise InputError(f"{source.location} lies in {folder}, the folder of the results; name another folder")


def _check_shape(what: str, source: DataSet, wanted: tuple[int, ...]) -> None:
    """Check that two shapes are equal up to axes of length 1, or that one of them is flat."""
    given, asked = (tuple(n for n in shape if n != 1) for shape in (source.shape, wanted))
    flat = math.prod(given) == math.prod(asked) and min(len(given), len(asked)) <= 1
    if given != asked and not flat:
        raise InputError(
            f"{source.location} has {what} of shape {source.shape}, and the generator puts out {wanted}, or what "
            "operator= makes of it: reshape or transpose them, resize images with size=(height, width) (--size), or "
            "choose the data set or generator that fits"
        )

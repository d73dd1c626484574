"""Read and check ``y=``, with ``operator=``, ``noise=`` and ``scale=``, and ``z0=``; infer the rounding of y."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.measurements._clipped_operator import ClippedOperator
from unrelu.measurements.additive_noise import RoundingNoise
from unrelu.measurements.noise import Noise, UnknownNoise
from unrelu.measurements.operator_arguments import read_operator
from unrelu.measurements.operators import Operator
from unrelu.measurements.picture_scale import Scaling, check_scale, dtype_of
from unrelu.measurements.whitening import known_entries
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.words import reshaping, shown


def read_y(
    y: npt.ArrayLike, network: Generator, tried: Generator, operator: Any, noise: Noise, scale: Any, told: bool
) -> tuple[Array, bool, Operator, Noise]:
    """Read observations with the arguments of :func:`unrelu.invert`.

    Args:
        tried: G on the searched coordinates; its typical outputs come from codes within the bounds.
        told: whether the noise may be inferred from the observations, as none is stated.

    Returns:
        Observations (B, m), whether y is a single observation without a batch axis, the measurement and the noise.

    Raises:
        InputError: a shape, value, operator or scale cannot be used.
    """
    array, dtype, scaling = numbers(y, "y"), dtype_of(y), Scaling.parse(scale)
    measured = read_operator(operator, network.output_shape, array.shape, tried)
    values, single, seen = _observations(measured, scaling.apply(array, dtype), noise)
    if scaling.ends is not None and not (measured.selects or measured.output_shaped):
        raise InputError(
            f"scale={scale!r} maps values of the output, and operator= mixes them: measure outputs of the "
            "generator's own scale, or scale y and the operator together"
        )
    if measured.output_shaped:
        check_scale(tried, values, seen, dtype=dtype, scaling=scaling, trim=noise.outliers)
    # If a matrix selects outputs, it is not known which of them black and white cut off.
    if told and (measured.output_shaped or (measured.selects and scaling.ends is None)):
        noise = _told(network, values, scaling, dtype)
        if scaling.ends is not None and noise.stated:
            measured = ClippedOperator.of(measured, tried, scaling.ends, noise.size)
    if noise.likelihood is not None:
        last = network.layers[-1] if isinstance(network, Network) and measured.selects else None
        noise.likelihood.check(values, None if last is None else last.activation.range)
        typical = measured.values(tried.typical_outputs[np.arange(len(values)) % len(tried.typical_outputs)])
        noise.residuals(values, np.where(seen, typical, values))
    return values, single, measured, noise


def _observations(operator: Operator, array: Array, noise: Noise) -> tuple[Array, bool, Flags]:
    """Return observations (B, m), whether y is a single one without a batch axis, and the known entries, (B, m)."""
    shape, m = operator.shape, operator.m
    single = array.shape in (shape, (m,))
    if not single and array.shape[1:] not in (shape, (m,)):
        raise InputError(f"y has shape {array.shape}, {_expected(operator, array.shape)}")
    if array.size == 0:
        raise InputError(f"y has shape {array.shape}: there is no observation in it")
    values = array.reshape(-1, m)
    if operator.count not in (0, len(values)):
        raise InputError(
            f"operator= has {operator.count} masks for {len(values)} observations; pass one for all, or one for each"
        )
    seen = known_entries(noise, operator, len(values))
    values = np.where(seen, values, 0.0)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, entry = bad[0]
        raise InputError(
            f"y has NaN or infinite entries in {len(np.unique(bad[:, 0]))} of {len(values)} observations, first in "
            f"observation {row}, entry {entry} ({values[row, entry]}); remove or replace them, or hide them by "
            "operator=unrelu.Mask(numpy.isfinite(y))"
        )
    values.setflags(write=False)
    return values, single, seen


def _expected(operator: Operator, given: tuple[int, ...]) -> str:
    """State the expected shape of observations, and the call that converts y to it, for the end of a message."""
    shape, call = operator.shape, reshaping("y", given, operator.shape)
    if not operator.output_shaped:
        measured = f"what it measures, {'A @ y' if operator.linear else 'operator(y)'}"
        whole = measured if math.prod(given) == operator.n else "that shape or a batch of it"
        return f"operator= gives {shape}; pass {call or whole}"
    if not operator.count and given == (operator.seen(1).sum(),):
        call = "y with all entries, x = numpy.zeros(mask.shape); x[mask] = y, as those under a 0 are ignored"
    whole = f"one observation of that shape or a batch (B, {', '.join(map(str, shape))})"
    return f"the network ends in {shape}; pass {call or whole}; for other measurements of the output pass operator="


def _told(network: Generator, values: Array, scaling: Scaling, dtype: npt.DTypeLike) -> Noise:
    """Infer the noise from the type of the observations: rounding errors, or else unknown noise."""
    step, own = scaling.step(dtype), network.rounding
    if step is not None:
        return RoundingNoise.told(step, f"integers of {8 * np.dtype(dtype).itemsize} bits")
    if own is not None and scaling.ends is None and own.stored(values):
        return RoundingNoise.told(own.level, f"numbers of {own.name}, in which the module computes")
    return UnknownNoise()


def read_z0(network: Generator, z0: Any, size: int, bounds: Bounds, names: Names) -> Array | None:
    """Read the starting codes ``z0=``, (B, k), which must be within the bounds; None if there are none.

    One code may be a dictionary with a value for each coordinate, in the units of ``names``.

    Raises:
        InputError: a shape or value cannot be used, or a code is outside of the bounds.
    """
    if z0 is None:
        return None
    if isinstance(z0, Mapping):
        found = names.by_name(z0, "z0")
        if len(found) < names.latent_dim:
            absent = ", ".join(names.name_of(j) for j in range(names.latent_dim) if j not in found)
            raise InputError(f"z0={shown(z0)} has no value of {absent}; state every coordinate")
        z0 = [found[j] for j in range(names.latent_dim)]
    array = network.flat_codes(z0, "z0")
    if array.ndim == 2 and len(array) != size:
        one, each = network.latent_shape, (size, *network.latent_shape)
        raise InputError(f"z0 has {len(array)} codes; pass {one} for all observations or {each}, one for each")
    if not np.isfinite(array).all():
        raise InputError("z0 has NaN or infinite entries; start from finite codes")
    starts = np.where(bounds.fixed, bounds.lower, np.broadcast_to(array, (size, network.latent_dim)))
    bounds.check(starts)
    return starts

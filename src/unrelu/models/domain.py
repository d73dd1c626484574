"""The domain of a function in the units of its user: codes within bounds by name, from which trial codes are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import ndtr

from unrelu.errors import InputError
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import shown

# Trials stay so far from each end of the domain, as a share of its width: they take steps for finite differences.
_MARGIN = 0.1


def read_domain(bounds: Mapping[str, Any]) -> tuple[list[str], Array]:
    """The names of the coordinates, and the domain, (2, k): the lower and the upper ends.

    Raises:
        InputError: ``bounds`` is no dictionary of pairs of increasing numbers by name.
    """
    if not isinstance(bounds, Mapping) or not bounds or not all(isinstance(name, str) for name in bounds):
        raise InputError(
            f"bounds={shown(bounds)} must be a dictionary of pairs by name, such as {{'h': (0.5, 0.9)}}, in the order "
            "in which the function takes the coordinates; of codes without names, pass latent_shape="
        )
    ends = []
    for name, pair in bounds.items():
        try:
            low, high = (math.nan if isinstance(end, str) else float(end) for end in pair)
        except (TypeError, ValueError):
            low = high = math.nan
        if not low < high or math.isinf(high - low) > math.isinf(low) + math.isinf(high):
            raise InputError(f"bounds: {name!r} has {shown(pair)}; pass (lower, upper), two increasing numbers")
        ends.append((low, high))
    return list(bounds), np.transpose(ends)


def codes_within(domain: Array | None, z: Array) -> Array:
    """Codes for standard normal draws z (..., k): uniform between two finite ends of a domain, else mirrored at one."""
    if domain is None:
        return z
    (low, high), (start, width) = domain, _boxed(domain)
    mirrored = np.where(z < low, 2 * low - z, np.where(z > high, 2 * high - z, z))
    return np.where(width > 0, start + width * ndtr(z), mirrored)


def trial_domain(domain: Array | None) -> Array | None:
    """The part of a domain in which trials are made, (2, k)."""
    if domain is None:
        return None
    width = _boxed(domain)[1]
    return np.asarray(domain + np.array([[_MARGIN], [-_MARGIN]]) * np.where(width > 0, width, 1.0))


def trial_lengths(domain: Array | None) -> Array | float:
    """The lengths of trial steps: the standard deviations of uniform codes, and 1 without two ends, (k,)."""
    if domain is None:
        return 1.0
    width = _boxed(domain)[1]
    return np.where(width > 0, width / np.sqrt(12), 1.0)


def _boxed(domain: Array) -> tuple[Array, Array]:
    """The lower ends and the widths of coordinates with two finite ends, else 0."""
    both = np.isfinite(domain).all(axis=0)
    low, high = np.where(both, domain, 0.0)
    return low, high - low

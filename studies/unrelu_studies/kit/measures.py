"""What studies measure: errors of codes, the oracle, errors by group, their medians, and their words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags
from unrelu_studies.kit.numbers_file import Numbers

# --- of codes ---------------------------------------------------------------------------------------------------------


def relative_error(z: Array, truth: Array) -> Array:
    """|z - z*|_2 / |z*|_2 of codes (..., k); infinite where a method gave no code."""
    error = np.linalg.norm(z - truth, axis=-1) / np.linalg.norm(truth, axis=-1)
    return np.asarray(np.nan_to_num(error, nan=np.inf))


def oracle(network: Network, truth: Array, e: Array) -> Array:
    """z* + J(z*)^+ e for codes (B, k): what least squares finds from G(z*) + e if it is told every ReLU's sign.

    The last layer's ReLU counts as well: only outputs that are on at z* are used.
    """
    jacobian = network.jacobian(truth)
    return moved_by(jacobian.reshape(len(truth), -1, truth.shape[-1]), truth, e)


def moved_by(jacobian: Array, truth: Array, e: Array) -> Array:
    """z* + J^+ e for Jacobians (B, m, k)."""
    off = np.stack([np.linalg.lstsq(j, r.ravel(), rcond=None)[0] for j, r in zip(jacobian, e, strict=True)])
    return np.asarray(truth + off)


def identifiable(network: Network, truth: Array) -> Flags:
    """Whether the Jacobian has rank k at codes (B, k)."""
    jacobian = network.jacobian(truth).reshape(len(truth), -1, truth.shape[-1])
    return np.asarray(np.linalg.matrix_rank(jacobian) == truth.shape[-1])


def code_rows(
    place: tuple[Any, ...], method: str, z: Array, truth: Array, seconds: Array | None = None,
    within: float | None = None,
) -> list[tuple[Any, ...]]:  # fmt: skip
    """A row for each code: its place and number, the method, the relative error and the seconds.

    Where ``within`` is given, whether the error is at most that stands before the seconds.
    """
    rows = []
    for i, error in enumerate(relative_error(z, truth)):
        found = () if within is None else (bool(error <= within),)
        rows.append((*place, i, method, error, *found, None if seconds is None else seconds[i]))
    return rows


# --- of the rows of an experiment -------------------------------------------------------------------------------------


def errors(numbers: Numbers, column: str = "error", **values: Any) -> Array:
    """The errors of the rows in which the columns have these values; infinite where there is no code."""
    return np.asarray(np.nan_to_num(numbers.column(column, **values).astype(float), nan=np.inf))


def median(numbers: Numbers, column: str, **values: Any) -> float:
    """The median of a column over the rows in which the others have these values."""
    return float(np.median(numbers.column(column, **values).astype(float)))


def medians(numbers: Numbers, by: str, column: str = "error", **values: Any) -> Array:
    """The median error for each value of the column ``by``, in order of appearance; NaN where there are no runs."""
    groups = (errors(numbers, column, **{by: value}, **values) for value in numbers.distinct(by))
    return np.array([np.median(group) if group.size else np.nan for group in groups])


def far_off(numbers: Numbers, method: str, times: float, reference: str = "oracle", by: str = "noise") -> float:
    """The share of runs whose error is more than ``times`` the median error of the reference in their group.

    Groups are the values of the column ``by``.
    """
    flags = [
        errors(numbers, method=method, **{by: value})
        > times * np.median(errors(numbers, method=reference, **{by: value}))
        for value in numbers.distinct(by)
    ]
    return share(np.concatenate(flags))


def slope(levels: npt.ArrayLike, medians: npt.ArrayLike, low: float = 1e-6, high: float = 1e-2) -> float:
    """The slope of log(median error) against log(noise), by least squares, over levels from ``low`` to ``high``."""
    x, y = np.asarray(levels, dtype=float), np.asarray(medians, dtype=float)
    inside = (x >= low * 0.99) & (x <= high * 1.01)
    return float(np.polyfit(np.log(x[inside]), np.log(y[inside]), 1)[0])


def share(flags: npt.ArrayLike) -> float:
    """The share of what is true; NaN of nothing."""
    array = np.asarray(flags, dtype=float)
    return float(array.mean()) if array.size else np.nan


def said(values: Mapping[str, float], digits: str = ".3g") -> str:
    """Names with their numbers."""
    return ", ".join(f"{name} {value:{digits}}" for name, value in values.items())


def spread(values: Iterable[float], digits: str = ".3g") -> str:
    """The smallest and the largest."""
    numbers = list(values)
    return f"{min(numbers):{digits}} to {max(numbers):{digits}}"

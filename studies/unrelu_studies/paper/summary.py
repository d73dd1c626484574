"""What claims are made of: errors by group, their medians, and how numbers are said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu_studies.paper.experiment import Numbers

Array = npt.NDArray[np.float64]


def errors(numbers: Numbers, column: str = "error", **values: Any) -> Array:
    """The errors of the rows in which the columns have these values; infinite where there is no code."""
    return np.asarray(np.nan_to_num(numbers.column(column, **values).astype(float), nan=np.inf))


def medians(numbers: Numbers, by: str, column: str = "error", **values: Any) -> Array:
    """The median error for each value of the column ``by``, in order of appearance; NaN where there are no runs."""
    groups = (errors(numbers, column, **{by: value}, **values) for value in numbers.distinct(by))
    return np.array([np.median(group) if group.size else np.nan for group in groups])


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

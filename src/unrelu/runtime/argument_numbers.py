"""Numbers among the arguments of public functions: the right type, and no truth values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from unrelu.errors import OptionError
from unrelu.runtime.words import shown


def real_number(name: str, value: Any, what: str) -> float:
    """A number as a float, infinite beyond the range of floats; an :class:`OptionError` says ``what`` it must be."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise OptionError(f"{name}={value!r} must be {what}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def whole_number(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """A whole number from ``least`` to ``most``; an :class:`OptionError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise OptionError(f"{name}={shown(value)} must be a whole number {limits}")
    return int(value)

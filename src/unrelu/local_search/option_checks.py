"""Checks of the options of methods; None, which stands for the default, passes."""

from __future__ import annotations

import math
from collections.abc import Collection

from unrelu.errors import OptionError


def above_zero(**options: float | None) -> None:
    """Raise :class:`OptionError` unless all numbers are above 0 and finite."""
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise OptionError(f"{name}={value} must be above 0 and finite")


def at_least(least: int, **options: float | None) -> None:
    """Raise :class:`OptionError` unless all numbers are at least ``least``."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise OptionError(f"{name}={value} must be at least {least}")


def one_of(known: Collection[str], **options: str) -> None:
    """Raise :class:`OptionError` unless all names are among the known ones."""
    for name, value in options.items():
        if value not in known:
            raise OptionError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")

"""What options of methods may be, in the words of their messages; None is left to the default."""

from __future__ import annotations

import math
from collections.abc import Collection

from unrelu.errors import OptionError


def above_zero(**options: float | None) -> None:
    """Numbers above 0 and finite, or :class:`OptionError`."""
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise OptionError(f"{name}={value} must be above 0 and finite")


def at_least(least: int, **options: float | None) -> None:
    """Numbers of at least so much, or :class:`OptionError`."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise OptionError(f"{name}={value} must be at least {least}")


def one_of(known: Collection[str], **options: str) -> None:
    """Known names, or :class:`OptionError`."""
    for name, value in options.items():
        if value not in known:
            raise OptionError(f"{name}={value!r} is unknown; use one of {', '.join(known)}")

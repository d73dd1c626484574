"""Shares of observations with their binomial intervals, as all pages have them."""

from __future__ import annotations

from scipy.stats import beta

LEVEL = 0.95
# What the page says of an aim that the observations do not decide.
OPEN = "open"


def interval(found: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of Clopper and Pearson (Biometrika 26, 1934) for the probability of ``found`` in ``count`` trials.

    It holds the probability with at least ``level``, however many trials there are; (0, 1) of no trials.
    """
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, found, count - found + 1)) if found else 0.0
    high = float(beta.ppf(1 - tail, found + 1, count - found)) if found < count else 1.0
    return low, high


def share(found: int, count: int) -> str:
    """A share as per cent with its interval, such as "98.6% (97.9 to 99.1)"; a dash of no trials."""
    if not count:
        return "-"
    low, high = (f"{100 * end:.3g}" for end in interval(found, count))
    return f"{100 * found / count:.3g}% ({low} to {high})"


def counted(found: int, count: int) -> str:
    """A count and its share, such as "4 of 1,772: 0.226% (0.0615 to 0.577)"."""
    return f"{found:,} of {count:,}: {share(found, count)}"


def at_most(found: int, count: int, most: float) -> bool | str:
    """Whether a probability is at most ``most``, :data:`OPEN` where its interval holds both answers."""
    low, high = interval(found, count)
    return True if high <= most else False if low > most else OPEN


def at_least(found: int, count: int, least: float) -> bool | str:
    """Whether a probability is at least ``least``."""
    return at_most(count - found, count, 1 - least)

"""Numbers, shares and times as text, and suggestions for misspelt words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np

from unrelu.thresholds import CONFIDENT, SIGNIFICANCE

_NONE = "\u2013"  # a dash


def is_name(text: str) -> bool:
    """Check whether a text can be a name: 1 to 80 printable characters, without spaces at the ends."""
    return 0 < len(text) <= 80 and text.isprintable() and text == text.strip()


def number(value: float | None) -> str:
    """Format a number with three digits, without exponent from 0.0001 to a million. None, NaN, infinity: a dash."""
    if value is None or not math.isfinite(value):
        return _NONE
    rounded = f"{value:.3g}"
    return f"{float(rounded):,.0f}" if 1e3 <= abs(float(rounded)) < 1e6 else rounded


def rounded(value: float, deviation: float) -> str:
    """Round a value to two digits of its standard deviation: "0.6736" for 0.67358 and 0.0054."""
    if not (math.isfinite(value) and 1e-12 * abs(value) < deviation < math.inf):
        return f"{value:.5g}"
    digits = 1 - math.floor(math.log10(float(f"{deviation:.1e}")))
    near = round(value, digits) + 0.0  # no -0
    if 1e-4 <= max(abs(near), deviation) < 1e6:
        return f"{near:.{max(digits, 0)}f}"
    return f"{near:.{max(digits + math.floor(math.log10(abs(near))), 0)}e}" if near else "0"


def count(value: int, what: str = "") -> str:
    """Format a whole number with commas and the noun that it counts: "1 chunk", "1,024 chunks"."""
    return f"{value:,}" if not what else f"{value:,} {what}{'' if value == 1 else 's'}"


def listed(texts: Sequence[str], most: int = 20) -> str:
    """Join the texts with commas; if there are too many, only the first ones."""
    more = len(texts) - most
    return ", ".join([*texts[:most], *([f"and {more} more"] if more > 0 else [])])


def share(part: float, whole: float = 1, digits: int = 1) -> str:
    """Format a share as a percentage. Only none is 0% and only all is 100%; near them, write "<0.1%" or ">99.9%"."""
    if not whole or math.isnan(part):
        return _NONE
    percent, step = 100 * part / whole, 10.0**-digits
    if 0 < percent < step / 2:
        return f"<{step:g}%"
    if 100 - step / 2 <= percent < 100:
        return f">{100 - step:g}%"
    return f"{percent:.0f}%" if percent in (0, 100) else f"{percent:.{digits}f}%"


def p_value_text(value: float) -> str:
    """Format a p-value with its name: "p = 0.31", "p > 0.999"."""
    text = probability(value)
    return f"p {text[0]} {text[1:]}" if text[0] in "<>" else f"p = {text}"


def duration(seconds: float | None) -> str:
    """Format a time in a suitable unit: "3.2 ms", "41 s", "2 h 5 min"."""
    if seconds is None or not math.isfinite(seconds):
        return _NONE
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 or seconds == 0 else f"{seconds * 1e6:.3g} µs"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"


def shown(value: object, most: int = 60) -> str:
    """Format a value for a message, cut off if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def reshaping(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Write the call that reshapes an array to ``wanted``, or to a batch of this shape; "" if no call does."""
    entries, axes = math.prod(wanted), ", ".join(map(str, wanted))
    if math.prod(shape) == entries:
        return f"{name}.reshape({axes})"
    if len(shape) > 1 and math.prod(shape[1:]) == entries:
        return f"{name}.reshape({shape[0]}, {axes})"
    return f"{name}.T" if len(shape) == 2 and (shape[0],) == wanted else ""


# Names that other libraries use for arguments, options and kinds of noise.
_ALIASES = {
    "mask": "operator", "physics": "operator", "measurement": "operator", "sigma": "noise", "std": "noise",
    "noise_level": "noise", "eps": "noise", "normal": "gaussian", "x0": "z0", "init": "z0", "timeout": "time_limit",
    "random_state": "seed", "max_iter": "max_iterations", "maxiter": "max_iterations", "n_iter": "max_iterations",
    "steps": "max_iterations", "n_restarts": "restarts", "lr": "learning_rate", "n_samples": "draws",
    "samples": "draws", "num_samples": "draws", "n": "observations",
}  # fmt: skip


def nearest(word: object, known: Iterable[str]) -> str:
    """Suggest the known word nearest to ``word`` as the end of a message: "; did you mean 'linf'?", or ""."""
    by_small, written = {name.lower(): name for name in known}, str(word).lower()
    written = _ALIASES[written] if _ALIASES.get(written) in by_small else written
    within = [name for name in by_small if len(written) > 2 and (written.startswith(name) or name.startswith(written))]
    found = get_close_matches(written, by_small, 1) or within
    return f"; did you mean {by_small[found[0]]!r}?" if found else ""


def probability(value: float) -> str:
    """Format a probability with a few digits; a dash if it is not finite.

    Only 1 itself is shown as 1. A value below a threshold of success (0.01, 0.99) is not rounded up to the threshold.
    """
    if not math.isfinite(value):
        return number(None)
    if 0 < value < 1e-99 or 0.9995 <= value < 1:
        return "<1e-99" if value < 0.5 else ">0.999"
    limits = np.array([SIGNIFICANCE, CONFIDENT])
    texts = (f"{value:.{digits}g}" for digits in range(3, 18))
    return next(text for text in texts if ((float(text) >= limits) == (value >= limits)).all())

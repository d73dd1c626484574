"""Read and check ``noise=``: return a :class:`~unrelu.measurements.noise.Noise`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields

import numpy as np

from unrelu.errors import InputError
from unrelu.measurements.noise import MODELS, Noise, UnknownNoise
from unrelu.runtime.words import nearest, shown


def parse_noise(given: object) -> Noise:
    """Make a model from its text, "uniform:0.1" or "poisson"; None is unknown noise, and a model is returned.

    Raises:
        InputError: the model is unknown, or its level is out of range.
    """
    if isinstance(given, Noise):
        return given
    if given is None:
        return UnknownNoise()
    if isinstance(given, Mapping):
        raise InputError(
            f"noise={shown(given)}: noise by part goes with invert, posterior, run and certify; state a model of all "
            "entries here, such as unrelu.Gaussian(array)"
        )
    kind, colon, level = str(given).partition(":")
    model = MODELS.get(kind)
    if model is None:
        forms = ", ".join(f"'{name}:LEVEL'" if _levelled(known) else f"'{name}'" for name, known in MODELS.items())
        objects = "" if isinstance(given, str) else ", or an object such as unrelu.Uniform(0.1)"
        raise InputError(f"noise={shown(given)}: use one of {forms}, e.g. 'uniform:0.1'{objects}{_meant(given)}")
    if _levelled(model):
        return model(level)
    if colon:
        raise InputError(f"noise={given!r}: {kind} has no level; write {kind!r}")
    return model()


def _levelled(model: type[Noise]) -> bool:
    return any(field.name == "level" and field.init for field in fields(model))


def _meant(noise: object) -> str:
    """A suggestion of what an unknown ``noise`` may mean, for the end of a message."""
    if isinstance(noise, type) and issubclass(noise, Noise):
        return f"; {noise.__name__} is the class, make an object of it: unrelu.{noise.__name__}(0.1)"
    level = _number(noise)
    if level is not None:
        return f"; is it a standard deviation, 'gaussian:{level}', or the largest error, 'uniform:{level}'?"
    if isinstance(noise, np.ndarray | list):
        return "; of standard deviations one an entry, pass unrelu.Gaussian(array)"
    words = [str(word) for word in noise] if isinstance(noise, tuple) else re.split(r"[=:\s,(]+", str(noise))
    found = nearest(words[0], MODELS)
    return found[:-2] + f":{words[1].rstrip(')')}'?" if found and len(words) > 1 and words[1] else found


def _number(noise: object) -> str | None:
    """A number, or the text of one, as text; else None."""
    if isinstance(noise, bool) or not isinstance(noise, int | float | np.number | str):
        return None
    with suppress(ValueError):
        return f"{float(noise):g}"
    return None

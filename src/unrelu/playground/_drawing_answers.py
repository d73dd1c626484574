"""The answer to a visitor's picture: an inversion and its verdict in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from unrelu._invert import invert
from unrelu.errors import InputError
from unrelu.measurements.operator_arguments import Mask
from unrelu.playground._picture_generators import PictureGenerator
from unrelu.result import TESTS, Ending, Inversion, Status
from unrelu.result.status import p_values
from unrelu.result.verdict_text import TOO_LARGE, uniqueness
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import count, number, probability

# Seconds of a search. The default answers within one second; a visitor may ask for more.
SECONDS, MOST_SECONDS = 0.8, 10.0
# The most bytes of a number in JSON, and of the rest of a request.
_NUMBER, _REST = 32, 4096
_INDICES = 2**31


def request_limit(generators: Iterable[PictureGenerator]) -> int:
    """The largest size of a request in bytes: two pictures of the largest generator, written as numbers."""
    return 2 * _NUMBER * max(generator.size for generator in generators) + _REST


def parsed(body: bytes, generators: Mapping[str, PictureGenerator]) -> tuple[PictureGenerator, dict[str, Any]]:
    """Parse a request. Return the generator that it names, one of those opened at the start, and the request.

    Raises:
        InputError: the request is not a JSON object, or there is no generator of this name.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise InputError(f"a request must be a JSON object; the {count(len(body), 'byte')} of this one are not")
    name = request.get("generator")
    if not isinstance(name, str) or name not in generators:
        raise InputError(f"generator {name!r:.60} is not open; there are {', '.join(generators)}")
    return generators[name], request


def picture(generator: PictureGenerator, request: dict[str, Any]) -> dict[str, Any]:
    """A sample of the generator or a real picture, by its index.

    Raises:
        InputError: the kind or the index is not valid.
    """
    kind, index = request.get("kind"), request.get("index")
    if type(index) is not int or not 0 <= index < _INDICES:
        raise InputError(f"index {index!r:.40} is no whole number from 0 to {_INDICES - 1:,}")
    return {"y": generator.picture(str(kind), index).tolist()}


def answer(generator: PictureGenerator, request: dict[str, Any], stopped: Callable[[], bool]) -> dict[str, Any]:
    """Invert a visitor's picture. Return the reconstruction, the residual and the verdict in words, ready for JSON.

    Args:
        generator: the generator to invert.
        request: the picture ``y``, the ``visible`` pixels, the ``noise`` and the ``seconds`` of the search.
        stopped: returns True to end the search, because nobody waits for it any more.

    Raises:
        InputError: an entry of the request is missing or invalid; the message says which.
    """
    y, visible = (
        _numbers(request, "y", generator.size),
        _numbers(request, "visible", math.prod(generator.shape[1:])) > 0,
    )
    if not visible.any():
        raise InputError("everything is hidden: reveal a part of the picture")
    seconds = request.get("seconds", SECONDS)
    if type(seconds) not in (int, float) or not 0 < seconds <= MOST_SECONDS:
        raise InputError(f"seconds {seconds!r:.40} is no number above 0, up to {MOST_SECONDS:g}")
    noise, network = _noise(request.get("noise")), generator.network
    mask = np.broadcast_to(visible.reshape(generator.shape[1:]), generator.shape).reshape(network.output_shape)
    y = y.reshape(mask.shape)
    result = invert(
        network, y, operator=None if mask.all() else Mask(mask), noise=noise, time_limit=float(seconds), scale="none",
        callback=lambda _: stopped(),
    )  # fmt: skip
    found = bool(np.isfinite(result.reconstruction).all())
    residual = np.where(mask, y - result.reconstruction, 0.0)
    return {
        "status": str(result.status),
        "success": bool(result.success),
        "verdict": verdict(result, noise),
        "facts": facts(result, int(mask.sum())),
        "seconds": round(float(result.seconds), 4),
        "cut_off": result.status is Status.TIME_LIMIT,
        "reconstruction": result.reconstruction.reshape(-1).tolist() if found else None,
        "residual": residual.reshape(-1).tolist() if found else None,
    }


def _numbers(request: dict[str, Any], name: str, size: int) -> Array:
    """The flat list of ``size`` finite numbers under ``name`` in the request."""
    value = request.get(name)
    if not isinstance(value, list) or len(value) != size or not all(type(v) in (int, float, bool) for v in value):
        raise InputError(f"{name} is to be a list of {size:,} numbers, the picture's rows one after another")
    try:
        array = np.array(value, dtype=np.float64)
    except OverflowError:
        array = np.full(size, np.nan)
    if not np.isfinite(array).all():
        raise InputError(f"{name} has entries that are no finite numbers")
    return array


def _noise(stated: object) -> str | None:
    """The stated noise as text, from {"kind": "gaussian" or "uniform", "level": its size}; None if it is unknown."""
    if stated is None:
        return None
    kind = stated.get("kind") if isinstance(stated, dict) else None
    level = stated.get("level") if isinstance(stated, dict) else None
    sized = isinstance(level, int | float) and not isinstance(level, bool) and 0 < level < math.inf
    if kind not in ("gaussian", "uniform") or not sized:
        raise InputError('noise is null for unknown, or {"kind": "gaussian" or "uniform", "level": a number above 0}')
    return f"{kind}:{level}"


# The verdict on a picture for each ending; for others, the message of the result is shown.
_VERDICTS: dict[Status | Ending, str] = {
    Status.EXACT_FIT: "The generator draws the visible picture exactly.",
    Status.NOT_UNIQUE: "The generator draws the visible picture exactly, with many codes: too little is visible to "
    "tell which.",
    Status.NOISE_LEVEL: "The generator explains the picture: the stated noise could leave what is left over.",
    Status.MISFIT: "The nearest picture that was found does not explain yours: the stated noise would not leave what "
    "is left over.",
    Status.NO_EXACT_FIT: "The generator does not draw this picture exactly; the nearest that was found is shown. State "
    "the noise to judge it.",
    Ending.NO_BETTER_THAN_CHANCE: "The nearest picture that was found explains no more of yours than it would of "
    "random pixels. State the noise to judge it.",
    Status.REFOUND: "The nearest picture that was found, by several independent searches. State the noise to "
    "judge whether it explains yours.",
    Ending.FOUND_ONCE: "The nearest picture that was found, by one search only. State the noise to judge whether it "
    "explains yours.",
    Ending.LEAST_SQUARES: "The nearest picture that was found, by least squares.",
    Status.STOPPED: "The nearest picture that was found before the search was stopped.",
    Ending.FLAT: "The generator's picture does not change with its code here: draw something it knows better.",
}


# The verdict where the residual is far smaller than the stated noise would leave it, by success.
_BELOW_THE_NOISE = {
    True: "The generator explains the picture: what is left over is less than the stated noise would leave. State less "
    "noise to judge it more sharply.",
    False: "The nearest picture that was found does not explain yours: what is left over is smaller than the stated "
    "noise, but not spread as noise is.",
}


def verdict(result: Inversion, noise: str | None) -> str:
    """The verdict on one picture in a sentence."""
    if result.status is Status.TIME_LIMIT and not np.isfinite(result.z).all():
        return "No picture was found before the time was over. Search longer."
    if result.success and result.verdict in (Status.TIME_LIMIT, Status.REFOUND, Ending.FOUND_ONCE):
        return "No picture of the generator is nearer, as sure as the confidence says. State the noise to judge it."
    if result.status is Status.TIME_LIMIT:
        judged = " It does not explain yours yet." if noise else ""
        return f"The nearest picture that was found before the time was over.{judged} Search longer to be surer."
    if result.message.startswith(TOO_LARGE):
        return _BELOW_THE_NOISE[bool(result.success)]
    return _VERDICTS.get(result.verdict, f"{result.message[:1].upper()}{result.message[1:]}.")


def facts(result: Inversion, visible: int) -> list[tuple[str, str]]:
    """The facts behind the verdict, as names and texts.

    Args:
        result: the inversion of one picture.
        visible: the number of observed entries.
    """
    if not np.isfinite(result.z).all():
        return []
    size = result.residual("l2") / math.sqrt(visible)
    return [
        ("Fit", _fit(result)),
        ("Residual", f"{number(size)} a pixel (root mean square), largest {number(result.residual('linf'))}"),
        ("Confidence", _confidence(result.confidence, result.norm)),
        ("Uniqueness", uniqueness(result.identifiable, result.rank, result.freedom, result.problem.network.latent_dim)),
    ]


def _fit(result: Inversion) -> str:
    exact = ["exact"] if result.status in (Status.EXACT_FIT, Status.NOT_UNIQUE) else []
    tested = (
        [p_values(*(getattr(result, name) for name in ("p_value", *TESTS)))] if math.isfinite(result.p_value) else []
    )
    return ", ".join(exact + tested) or "not judged: the noise is unknown"


def _confidence(value: float, norm: str) -> str:
    if not math.isfinite(value):
        return "unknown: it is computed for least squares" + (", not for the largest error" if norm == "linf" else "")
    if value == 0:
        return "0: another code may fit better"
    return f"{probability(value)} that no other code fits better by more than 1%"

"""Choose the observations, arrays and shapes that the pictures of a result are drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unrelu.display.observation_figure import ObservationPanels
from unrelu.display.pixels import Shape, drawn_shape
from unrelu.display.text_tables import Html
from unrelu.errors import OptionError
from unrelu.measurements.picture_scale import black_and_white
from unrelu.measurements.whitening import known_entries, stated_sizes
from unrelu.problem import Problem
from unrelu.result.saved_problem import AbsentGenerator
from unrelu.runtime.array_types import Array, Index

# Height of a thumbnail, in pixels.
_THUMBNAIL = 84
# In a picture, vertical neighbours differ by at most this many times as much as horizontal ones.
_ROUGHER = 1.5


def drawn_rows(problem: Problem, observations: Any, most: object) -> Index:
    """Return the indices of the observations that are drawn: those that a user asks for, or the first ones for None.

    Raises:
        OptionError: ``most``, the argument ``max_observations``, is not a whole number of at least 1.
        IndexError: there is no such observation.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise OptionError(f"max_observations={most!r} must be a whole number of at least 1")
    if problem.single and observations is not None:
        raise IndexError(f"observations={observations!r}: there is one observation; leave it out")
    rows = np.atleast_1d(np.arange(problem.size)[slice(None) if observations is None else observations])
    if not rows.size:
        raise IndexError(f"observations={observations!r}: there is nothing to draw")
    return np.asarray(rows.ravel()[:most])


def panels(
    problem: Problem,
    reconstruction: Array,
    rows: Index,
    labels: Sequence[str],
    shape: Sequence[int] | None = None,
    part: str | None = None,
) -> ObservationPanels:
    """Return the panels of some observations of a batch, without whitening.

    Args:
        problem: the problem of the batch.
        reconstruction: G(z), (B, *output_shape).
        rows: indices of the observations.
        labels: the text beside each.
        shape: the shape in which outputs are drawn, (n,) for curves; None uses their own shape.
        part: the named part of the output that is drawn, whose entries are observed, if any; None draws all of it.

    Raises:
        OptionError: outputs cannot have that shape.
    """
    stated = (problem.given or problem).part(rows)
    size, operator, network = len(rows), stated.operator, stated.network
    shown = reconstruction[rows]
    place = slice(None) if part is None else stated.names.places[part]
    outputs = shown.reshape(size, network.output_dim)[:, place]
    alike = operator.output_shaped
    own = network.output_shape if part is None else stated.names.parts[part]
    output = _picture(own, outputs) if shape is None else _asked(shape, outputs.shape[1])
    measured = drawn_shape(operator.shape) if sum(n > 1 for n in operator.shape) > 1 else None
    sizes = stated_sizes(stated.noise, operator, size)
    plain = isinstance(network, AbsentGenerator) or output is None or part is not None
    return ObservationPanels(
        labels,
        np.where(known_entries(stated.noise, operator, size), stated.y, np.nan)[:, place],
        stated.mean_of(shown)[:, place],
        outputs,
        output if alike else measured,
        output,
        alike,
        None if sizes is None else sizes[:, place],
        None if plain else black_and_white(network),
    )


def thumbnails(problem: Problem, reconstruction: Array, rows: Index) -> list[list[Html]]:
    """Return images of observation, reconstruction and residual for some observations, as HTML."""
    if not len(rows):
        return []
    drawn = panels(problem, reconstruction, rows, [""] * len(rows))
    made = []
    for i, place in enumerate(rows):
        style = f"height:{_THUMBNAIL}px;image-rendering:pixelated"
        names = ("observed", "reconstruction", "residual")
        made.append([
            Html(f'<img src="{source}" alt="{name} of observation {place}" style="{style}">')
            for name, source in zip(names, drawn.thumbnails(i), strict=True)
        ])  # fmt: skip
    return made


def _picture(shape: Sequence[int], outputs: Array) -> Shape | None:
    """The picture shape of outputs (B, n), if any. Flat outputs must vary along both axes as a picture does.

    A spectrum of 400 entries is not a 20 x 20 picture: entries 20 apart differ far more than neighbours.
    """
    found = drawn_shape(shape)
    if found is None or sum(n > 1 for n in shape) > 1:
        return found
    image = outputs[np.isfinite(outputs).all(axis=1)].reshape(-1, *found[1:])
    if not len(image):
        return None
    across, down = (float(np.mean(np.abs(np.diff(image, axis=axis)))) for axis in (2, 1))
    return found if down <= _ROUGHER * across else None


def _asked(shape: Sequence[int], n: int) -> Shape | None:
    """The picture shape that a user requests for outputs of n entries; None for curves."""
    dims = tuple(shape) if isinstance(shape, tuple | list) else ()
    if dims == (n,):
        return None
    sides = len(dims) in (2, 3) and all(isinstance(side, int) and side > 0 for side in dims)
    found = drawn_shape(dims) if sides else None
    if found is None or math.prod(found) != n:
        raise OptionError(
            f"shape={shape!r}: outputs have {n:,} entries; pass (height, width) or (3, height, width) of as many, or "
            f"({n},) for curves"
        )
    return found

"""Starting codes of local methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unrelu.errors import UnsupportedModelError
from unrelu.layerwise import L1, Exact, LayerMethod, LeastSquares, LInf, Relaxed
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Integers

LAYER_METHODS: dict[str, type[LayerMethod]] = {
    "exact": Exact,
    "linf": LInf,
    "l1": L1,
    "relaxed": Relaxed,
    "least_squares": LeastSquares,
}

START_NAMES = ("random", "zero", *LAYER_METHODS)


def check_start(problem: Problem, start: str) -> None:
    """Check that :func:`starting_codes` can find codes.

    Raises:
        UnsupportedModelError: the start is a layer-wise method that cannot take the generator.
    """
    if problem.z0 is None and start in LAYER_METHODS:
        try:
            Layerwise(LAYER_METHODS[start](), start).check(replace(problem, prior=0.0, stated_loss=None))
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"start={start!r}: {error}, with start='random'") from None


def starting_codes(problem: Problem, start: str) -> tuple[Array, Integers, Flags]:
    """Return the starting codes, (B, k), the iterations spent on them, and whether the time ran out, (B,).

    If the problem has a ``z0``, it is the start. "random" draws from N(0, I) with the problem's seed. A layer-wise
    method provides its codes; where it finds none, or runs out of time, the start is random. Its time counts against
    the time limit. Its progress reports no observation as done, because each code is still to be refined.
    """
    none = np.zeros(problem.size, dtype=np.int64)
    if problem.z0 is not None or start == "random":
        return problem.start(), none, none > 0
    if start == "zero":
        return np.zeros((problem.size, problem.network.latent_dim)), none, none > 0
    control = problem.control.part(lambda progress: replace(progress, done=0))
    asked = replace(problem, prior=0.0, stated_loss=None, control=control)
    found = Layerwise(LAYER_METHODS[start](), start)(asked).batch
    missing = ~np.isfinite(found.z).all(axis=1)
    z = np.where(np.isfinite(found.z), found.z, problem.start())
    return z, found.nit, (found.status == Status.TIME_LIMIT) & missing

"""Starting codes for the methods that search from a start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unrelu.layer import L1, Exact, LayerMethod, LeastSquares, LInf, Relaxed
from unrelu.methods.layerwise import Layerwise
from unrelu.problem import Control, Problem

__all__ = ["LAYER_METHODS", "START_NAMES", "starting_codes"]

Array = npt.NDArray[np.float64]

LAYER_METHODS: dict[str, type[LayerMethod]] = {
    "exact": Exact,
    "linf": LInf,
    "l1": L1,
    "relaxed": Relaxed,
    "least_squares": LeastSquares,
}

START_NAMES = ("random", "zero", *LAYER_METHODS)


def starting_codes(problem: Problem, start: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Codes to start from, (B, k), and the iterations spent on them, (B,).

    ``z0`` of the problem comes first; "random" draws from N(0, I) with the problem's seed; a layer-wise method's codes
    are used where it found any, random ones elsewhere. The layer-wise run counts against the time limit but does not
    report to the callback.
    """
    none = np.zeros(problem.size, dtype=np.int64)
    if problem.z0 is not None or start == "random":
        return problem.start(), none
    if start == "zero":
        return np.zeros((problem.size, problem.network.latent_dim)), none
    quiet = replace(problem, control=Control(problem.control.remaining()))
    found = Layerwise(LAYER_METHODS[start](), start)(quiet)
    return np.where(np.isfinite(found.z), found.z, problem.start()), found.nit

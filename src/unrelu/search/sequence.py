"""Observations that change little from one to the next, such as the frames of a video, inverted in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.problem import Problem
from unrelu.result import Inversion, Status
from unrelu.runtime.array_types import Flags
from unrelu.runtime.run_control import Progress
from unrelu.search.auto import Search

# Inverts a problem by a method.
Solve = Callable[[Any, Problem], Inversion]


def check_sequence(sequence: object, method: object, problem: Problem, z0: npt.ArrayLike | None) -> None:
    """Check that observations can be inverted as a sequence, if that is asked for.

    Raises:
        OptionError: ``sequence`` is no truth value, or the method takes no start.
        InputError: y is one observation, or there is a start for each observation.
    """
    if not isinstance(sequence, bool):
        raise OptionError(f"sequence={sequence!r} must be True or False")
    if sequence and isinstance(method, Layerwise):
        raise OptionError(
            f"sequence=True starts from the code of the observation before, and method={method.name!r} takes no "
            "start: use 'auto', 'lm', 'adam' or 'gradient_descent'"
        )
    if sequence and problem.single:
        raise InputError("sequence=True: y is one observation; pass a batch (B, ...), its observations in their order")
    if sequence and z0 is not None and np.size(z0) != problem.network.latent_dim:
        raise InputError(
            f"z0 has shape {np.shape(z0)}: with sequence=True, observations start from the code of the one before; "
            f"pass a code {problem.network.latent_shape} for the first, or leave z0= out"
        )


def track(solve: Solve, method: Any, problem: Problem) -> tuple[Inversion, Flags]:
    """Invert the observations of a batch in their order, from the codes of those before.

    ``auto`` makes a single descent from the last code. If its end explains the observation, that is the code. If not,
    the observation is searched from all starts, of which that end is one. As long as descents succeed, twice as many
    observations as before start from the last code together, since a batch takes less time; those behind the first
    failure start again, from a nearer code. Where descents cannot succeed, as without stated noise, more and more
    observations are searched together. Other methods run once on each observation, from the code of the one before. An
    observation without a code is skipped as a start. The first one starts from ``z0``, if there is one.

    Returns:
        The codes, judged one by one and by the size of their residuals only, and the observations whose code is that
        of a single descent, (B,).
    """
    codes, descended = np.full((problem.size, problem.network.latent_dim), np.nan), np.zeros(problem.size, dtype=bool)
    results, done, width, searches = list[Inversion](), 0, 1, isinstance(method, Search)
    start, descends = (None, False) if problem.z0 is None else (problem.z0[:1], searches)

    def whole(progress: Progress) -> Progress:
        z = codes.copy()
        z[done : done + len(progress.z)] = progress.z
        return replace(progress, done=done, total=len(z), z=z)

    while done < problem.size:
        if problem.control.expired() or problem.control.halted:
            descends, width = False, problem.size
        some = np.arange(done, min(done + width, problem.size))
        starts = None if start is None else np.repeat(start, len(some), axis=0)
        part = problem.part(some, problem.control.part(whole), z0=starts)
        result = solve(replace(method, rounds=0) if descends else method, part)
        good = int(np.argmin(np.append(result.success, False))) if descends else len(result)
        known = result.z[: max(good, 1)]
        known = known[np.isfinite(known).all(axis=1)]
        start = known[-1:] if len(known) else start
        if good:
            codes[some[:good]], descended[some[:good]] = result.z[:good], descends
            results.append(result[:good])
            done += good
        if descends:
            descends, width = good > 0, 2 * width if good == len(result) else max(good, 1)
        elif searches:
            # What neither the noise nor an exact fit explains is hardly explained in the next observation.
            exact = result.status[-1] in (Status.EXACT_FIT, Status.NOT_UNIQUE)
            descends = bool(result.success[-1] and (exact or problem.noise.stated))
            width = 1 if descends else 2 * width
    return Inversion.joined(results, problem), descended

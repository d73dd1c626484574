"""Observations that change little from one to the next, such as the frames of a video, inverted in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.problem import Control, Problem, Progress
from unrelu.result import Inversion, Status
from unrelu.runtime.array_types import Flags
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
    sequence = _Sequence(solve, method, problem)
    while sequence.done < problem.size:
        if problem.control.expired() or problem.control.halted:
            sequence.accept(solve(method, sequence.next(problem.size)))
        elif not sequence.descend():
            sequence.search()
    return Inversion.joined(sequence.results, problem), sequence.descended


class _Sequence:
    """The observations of a batch, of which the first ``done`` have a result."""

    def __init__(self, solve: Solve, method: Any, problem: Problem) -> None:
        self.solve, self.method, self.problem, self.searches = solve, method, problem, isinstance(method, Search)
        self.start = None if problem.z0 is None else problem.z0[:1]
        self.codes = np.full((problem.size, problem.network.latent_dim), np.nan)
        self.descended, self.results = np.zeros(problem.size, dtype=bool), list[Inversion]()
        self.done, self.width, self.explained = 0, 1, True

    def next(self, count: int) -> Problem:
        """The problem of the next ``count`` observations, which start from the last code."""
        some = np.arange(self.done, min(self.done + count, self.problem.size))
        starts = None if self.start is None else np.repeat(self.start, len(some), axis=0)
        return self.problem.part(some, self._control(), z0=starts)

    def descend(self) -> bool:
        """Descend from the last code, for as many observations as may succeed; whether the first of them did."""
        if not self.searches or self.start is None or not self.explained:
            return False
        found = self.solve(replace(self.method, rounds=0), self.next(self.width))
        good = int(np.argmin(np.append(found.success, False)))
        self.width = 2 * self.width if good == len(found) else max(1, good)
        if not good:
            self.start = found.z[:1] if np.isfinite(found.z[0]).all() else self.start
            return False
        self.descended[self.done : self.done + good] = True
        self.accept(found[:good])
        return True

    def search(self) -> None:
        """Search the next observation; after one that is not explained, more and more of them together."""
        count = 1 if self.explained else self.width
        self.accept(self.solve(self.method, self.next(count)))
        self.width = 1 if self.explained else 2 * count

    def accept(self, result: Inversion) -> None:
        """Keep the result of the next observations."""
        known = result.z[np.isfinite(result.z).all(axis=1)]
        self.start = known[-1:] if len(known) else self.start
        self.codes[self.done : self.done + len(result)] = result.z
        self.done += len(result)
        self.results.append(result)
        # What neither the noise nor an exact fit explains is hardly explained in the next observation.
        exact = result.status[-1] in (Status.EXACT_FIT, Status.NOT_UNIQUE)
        self.explained = not self.searches or bool(result.success[-1] and (exact or self.problem.noise.stated))

    def _control(self) -> Control:
        """A control that reports the progress of the whole batch."""
        codes, done = self.codes, self.done

        def whole(progress: Progress) -> Progress:
            z = codes.copy()
            z[done : done + len(progress.z)] = progress.z
            return replace(progress, done=done, total=len(z), z=z)

        return self.problem.control.part(whole)

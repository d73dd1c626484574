"""Profile likelihoods: the best objective with one or two coordinates held at each of several values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.stats import chi2

from unrelu._invert import invert, inverted
from unrelu.diagnostics.fitted_levels import minus_two_log_likelihood
from unrelu.display.text_tables import Printed
from unrelu.errors import InputError, OptionError
from unrelu.measurements.unknown_level import FittedGaussian
from unrelu.methods import make
from unrelu.models.generator import Generator, as_generator
from unrelu.problem import Problem, problem_of
from unrelu.result import Inversion
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array
from unrelu.runtime.run_control import Progress, now
from unrelu.runtime.words import count, number, shown
from unrelu.thresholds import CONFIDENT, LOCAL_OPTIMUM

if TYPE_CHECKING:
    from unrelu.display.observation_figure import ObservationFigure

# With fewer values in an interval, the interpolation of its ends is coarse.
_FEW = 4
# Generators are alike if their typical outputs differ by at most this share of the outputs' spread.
_ALIKE = 0.1
# The levels that are printed and drawn: those of one and two standard deviations.
_LEVELS = (0.6827, 0.9545)


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    r"""The best objective at each value of one or two coordinates, made by :func:`unrelu.profile`.

    Arrays have the shape of the grid, (P,) of one coordinate, (P, Q) of two; NaN where the run was stopped before.

    Attributes:
        names: the coordinates that are held.
        values: their values, increasing, (P,) and (Q,).
        best: the inversion with these coordinates free.
        fun: the best objective found, as ``fun`` of :class:`~unrelu.Inversion`, with the prior if there is one. For
            noise with an unknown level, which is fitted again at each value, it is -2 log of the likelihood.
        z: the codes, (..., \*latent_shape).
        confidence, p_value: those of the codes.
        seconds: the time that all of it took.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]]], activation="identity").named(["a", "b"])
    >>> f = unrelu.profile(net, [1.0, 0.7, 0.2], "a", [0.4, 0.5, 0.6], noise="gaussian:0.1")
    >>> f, f.delta.round(2)
    (<Profile of a, 3 values>, array([4.5, 0. , 4.5]))
    """

    names: tuple[str, ...]
    values: tuple[Array, ...]
    best: Inversion
    fun: Array
    z: Array
    confidence: Array
    p_value: Array
    seconds: float

    @property
    def _refused(self) -> str:
        """Why there is no likelihood; empty if there is one."""
        noise, norm = self.best.problem.stated.noise, self.best.norm
        if noise.without_density:
            return f"noise={noise} {noise.without_density}"
        return "" if norm == "l2" else f"the objective is of norm={norm!r}"

    @property
    def delta(self) -> Array:
        r""":math:`-2 \log` of the likelihood ratio (with a prior, of the posterior's) to the best code of all.

        Raises:
            InputError: the noise is not stated, or has no density, or ``fun`` is of another norm than l2.
        """
        if self._refused:
            raise InputError(f"a likelihood ratio needs the density of the noise, and {self._refused}")
        lowest = np.fmin(np.nanmin(self.fun), _objective(self.best))
        fitted = isinstance(self.best.problem.noise, FittedGaussian)
        return np.asarray((self.fun - lowest) / (1.0 if fitted else self.best.problem.noise.dispersion_parameter))

    def interval(self, level: float = _LEVELS[0]) -> tuple[float, float]:
        r"""Compute the confidence interval of one coordinate: the values at which delta is at most its quantile.

        .. math:: \{v : \Delta(v) \le F^{-1}_{\chi^2_1}(\mathrm{level})\}

        The signed root of delta is interpolated between the values (monotone cubic). An end is NaN where the values end
        before it. Where several minima are that low, the interval is the one around the best.

        Raises:
            InputError: two coordinates are held, or the level is no probability; or see :attr:`delta`.

        Source: Wilks, Annals of Mathematical Statistics 9 (1938); Venzon and Moolgavkar, "A method for computing
        profile-likelihood-based confidence intervals", Applied Statistics 37 (1988).
        """
        if len(self.names) > 1:
            raise InputError("interval() is of one coordinate; of two, take the region delta <= scipy.stats.chi2.ppf")
        if not 0 < level < 1:
            raise InputError(f"level={level!r} must be a probability, above 0 and below 1")
        x, delta = self._with_best()
        if len(x) < 2:  # it was stopped
            return np.nan, np.nan
        lowest, limit = int(np.argmin(delta)), float(np.sqrt(chi2.ppf(level, 1)))
        root = PchipInterpolator(x, np.where(np.arange(len(x)) < lowest, -1, 1) * np.sqrt(np.maximum(delta, 0)))
        sides = (pairwise(x[lowest::-1]), pairwise(x[lowest:]))
        ends = [np.nan, np.nan]
        for i, (side, sign) in enumerate(zip(sides, (-1, 1), strict=True)):
            crossed = ((a, b) for a, b in side if sign * float(root(b)) >= limit)
            if (segment := next(crossed, None)) is not None:
                ends[i] = brentq(lambda v, sign=sign: float(root(v)) - sign * limit, *segment)
        return ends[0], ends[1]

    def _with_best(self) -> tuple[Array, Array]:
        """Return the values of one coordinate that were reached, with that of the best code among them, and delta."""
        known = np.isfinite(self.fun)
        x, delta = self.values[0][known], self.delta[known]
        own = self.best.parameters[self.names[0]]
        if _objective(self.best) <= np.nanmin(self.fun) and own not in x:
            place = np.searchsorted(x, own)
            x, delta = np.insert(x, place, own), np.insert(delta, place, 0.0)
        return x, delta

    def _interval_text(self, level: float) -> str:
        """Write an interval in words, and say if few values are in it."""
        low, high = self.interval(level)
        few = (~((self.values[0] < low) | (self.values[0] > high))).sum() < _FEW
        ends = " to ".join("beyond the values" if np.isnan(end) else f"{end:.5g}" for end in (low, high))
        return f"{level:.1%}: {ends}{f' (coarse: fewer than {_FEW} values in it)' if few else ''}"

    def plot(self) -> ObservationFigure:
        """Draw delta over the values of one coordinate, or its contours over those of two, at one and two sigma.

        Raises:
            InputError: see :attr:`delta`.
        """
        from unrelu.display.observation_figure import ObservationFigure  # noqa: PLC0415 -- Matplotlib

        levels = [float(chi2.ppf(level, len(self.names))) for level in _LEVELS]
        figure = ObservationFigure(figsize=(5, 3.6), layout="constrained", dpi=100)
        axis = figure.subplots()
        own = [self.best.parameters[name] for name in self.names]
        if len(self.names) == 1:
            axis.plot(*self._with_best(), "-", color="black", linewidth=1)
            axis.plot(self.values[0], self.delta, "o", color="black", markersize=3)
            for level, share in zip(levels, _LEVELS, strict=True):
                axis.axhline(level, color="tab:red", linewidth=0.8, linestyle="--")
                axis.annotate(f"{share:.1%}", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom")
            axis.set(xlabel=self.names[0], ylabel="-2 log likelihood ratio", ylim=(0, None))
        else:
            drawn = axis.contour(*self.values, self.delta.T, levels=levels, colors=["tab:red", "tab:orange"])
            axis.clabel(drawn, fmt=dict(zip(levels, (f"{share:.1%}" for share in _LEVELS), strict=True)))
            axis.plot(*own, "x", color="black")
            axis.plot(*np.meshgrid(*self.values), ".", color="0.6", markersize=2)
            axis.set(xlabel=self.names[0], ylabel=self.names[1])
        return figure

    def __repr__(self) -> str:
        return f"<Profile of {' and '.join(self.names)}, {' x '.join(map(str, self.fun.shape))} values>"

    def __str__(self) -> str:
        own, known = [self.best.parameters[name] for name in self.names], np.isfinite(self.fun)
        levels = _LEVELS if len(self.names) == 1 and not self._refused and known.any() else ()
        sure, reached = int((self.confidence[known] >= CONFIDENT).sum()), count(int(known.sum()), "value")
        entries = [
            ("best", ", ".join(f"{name} = {value:.5g}" for name, value in zip(self.names, own, strict=True))
             + f", objective {number(float(self.best.fun))}, {self.best.status.name}"),
            ("interval", "; ".join(map(self._interval_text, levels))),
            ("confidence", f"at least {CONFIDENT} that no code is better, at {sure} of {reached}"),
            ("effort", f"{self.seconds:.3g} s"),
        ]  # fmt: skip
        left = f", {count(int((~known).sum()))} of them not reached" if not known.all() else ""
        return str(Printed(f"Profile of {' and '.join(self.names)}, {count(self.fun.size, 'value')}{left}", entries))


def profile(
    network: Generator,
    y: npt.ArrayLike,
    names: str | int | Sequence[str | int],
    values: Any,
    *,
    bounds: Any = None,
    fixed: Any = None,
    callback: Callable[[Progress], Any] | None = None,
    **arguments: Any,
) -> Profile:
    r"""Find the best objective with a coordinate held at each of several values: a profile likelihood.

    .. math:: f(v) = \min_{z : z_j = v} \; |y - A G(z)|^2 + \ldots

    Each value is searched as by :func:`unrelu.invert` with ``fixed={name: value}``, and the best code of the nearest
    value that is finished starts a further descent. Where a search is not sure, descents from all neighbours follow.
    Where the outputs are much alike, the samples of the first value, and what its search learns for its confidence,
    serve the others.

    Args:
        network, y, bounds: as for :func:`unrelu.invert`; one observation.
        names: a coordinate by its name or place, or two of them, whose grid is searched.
        values: its values, (P,), or the values of two, ((P,), (Q,)).
        fixed: further coordinates that are held.
        callback: as for :func:`unrelu.invert`; where it stops, the other values are NaN.
        **arguments: all others of :func:`unrelu.invert` with its method "auto"; a time limit is that of each value.

    Raises:
        InputError: a name is unknown, a value is outside of the bounds, or nothing is left to search; y is a batch.
        OptionError: a method or starts are stated.

    All other errors are those of :func:`unrelu.invert`.

    Source: Murphy and van der Vaart, "On profile likelihood", J. American Statistical Association 95 (2000).

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]]], activation="identity").named(["a", "b"])
    >>> f = unrelu.profile(net, [1.0, 0.7, 0.2], "a", [0.3, 0.4, 0.5, 0.6, 0.7], noise="gaussian:0.1")
    >>> [round(end, 3) for end in f.interval()]  # 0.5 and 1 / sqrt(450)
    [0.453, 0.547]
    """
    own = as_generator(network)
    table, several = own.names, [names] if isinstance(names, str | int | np.integer) else list(names)
    places = [table.place(name, "profile") for name in several]
    axes = _axes(several, [values] if len(several) == 1 and np.ndim(values) < 2 else list(values))
    if unknown := {"method", "z0"} & arguments.keys():
        raise OptionError(f"profile: {min(unknown)}= is no argument; every value is searched, as by method='auto'")
    _check(own, bounds, fixed, places, axes)
    stopped, began = False, now()

    def reported(progress: Progress) -> bool:
        nonlocal stopped
        stopped = stopped or bool(callback is not None and callback(progress))
        return stopped

    stated: dict[str, Any] = {**arguments, "bounds": bounds, "callback": callback and reported}
    best = invert(network, y, fixed=fixed, **stated)
    if not best.problem.single:
        raise InputError(f"y is a batch of {best.problem.size}; a profile is of one observation, without a batch axis")
    grid = _Grid(own, y, stated, dict(fixed or {}), places, axes, best)
    for at in grid.order():
        if stopped:
            break
        grid.search(at)
    for at in reversed(grid.order()):
        if not stopped and not grid.found[at].confidence >= CONFIDENT:
            grid.descend(at)
    lowest = min(grid.found.values(), key=_objective, default=best)
    if _lower(lowest, best) and not stopped:
        best = invert(network, y, fixed=fixed, z0=lowest.z, **stated)
    named = tuple(table.parameter_names[place] for place in places)
    return Profile(named, tuple(axes), best, *grid.columns(), seconds=now() - began)


def _check(network: Generator, bounds: Any, fixed: Any, places: Sequence[int], axes: Sequence[Array]) -> None:
    """Refuse coordinates that cannot be held, and values out of bounds, before any work starts."""
    table, held = network.names, network.bounds(bounds, fixed).fixed
    if twice := [j for i, j in enumerate(places) if held[j] or j in places[:i]]:
        raise InputError(f"profile: {table.name_of(twice[0])} is held twice: by fixed=, by bounds=, or named twice")
    if held.sum() + len(places) == table.latent_dim:
        raise InputError("profile: all coordinates are held, so that nothing is left to search; leave one free")
    for at in product(*(axis.tolist() for axis in axes)):
        keys = [table.coordinate_names[j] if table.coordinate_names else "" for j in places]
        own = {key or j: value for key, j, value in zip(keys, places, at, strict=True)}
        network.bounds(bounds, {**(fixed or {}), **own})


def _axes(names: Sequence[Any], values: Sequence[npt.ArrayLike]) -> list[Array]:
    """Check the values of each coordinate, and sort them."""
    if len(names) not in (1, 2) or len(values) != len(names):
        raise InputError(f"profile: {count(len(names), 'coordinate')} and values of {len(values)}; hold one or two")
    axes = [numbers(each, f"values of {name}") for name, each in zip(names, values, strict=True)]
    for name, axis in zip(names, axes, strict=True):
        if axis.ndim != 1 or len(np.unique(axis)) < 2 or not np.isfinite(axis).all():
            raise InputError(f"values of {name}: {shown(axis)}; pass at least two different numbers, (P,)")
    return [np.unique(axis) for axis in axes]


class _Grid:
    """A search at every point of the grid; ``found`` has the results by the place of a point, (i,) or (i, j)."""

    def __init__(
        self, network: Generator, y: Any, stated: dict[str, Any], held: dict[Any, Any], places: Sequence[int],
        axes: Sequence[Array], best: Inversion,
    ) -> None:  # fmt: skip
        self.network, self.y, self.held, self.places, self.axes, self.best = network, y, held, places, axes, best
        known = signature(problem_of).parameters.keys() | signature(Problem.build).parameters.keys()
        self.stated = {"device": None, "progress": False, **{key: stated[key] for key in stated if key in known}}
        self.options = {key: value for key, value in stated.items() if key not in known}
        self.found: dict[tuple[int, ...], Inversion] = {}
        self._first: Problem | None = None  # as it was searched

    def order(self) -> list[tuple[int, ...]]:
        """List the points, those nearest to the best code first, in units of the grid."""
        own = [list(self.best.parameters.values())[place] for place in self.places]
        near = [np.abs(axis - value) / np.ptp(axis) for axis, value in zip(self.axes, own, strict=True)]
        points = product(*(range(len(axis)) for axis in self.axes))
        return sorted(points, key=lambda at: sum(float(side[i]) for side, i in zip(near, at, strict=True)))

    def _solve(self, at: tuple[int, ...], start: Inversion, **options: Any) -> Inversion:
        """Invert with the coordinates held at a point, from the code of an earlier result."""
        values = (float(axis[i]) for axis, i in zip(self.axes, at, strict=True))
        fixed, options = self.held | dict(zip(self.places, values, strict=True)), self.options | options
        with problem_of(self.network, self.y, "auto", fixed=fixed, z0=start.z, **self.stated) as asked:
            alike = self._first and not asked.noise.level_unknown and _alike(asked, self._first)
            problem = replace(asked, alike=self._first if alike else None)
            return inverted(problem, make("auto", options), "auto", self.stated.get("norm"), options)

    def search(self, at: tuple[int, ...]) -> None:
        """Search a point, also from the code of the nearest point that is finished."""
        nearest = min(self.found, key=lambda other: np.abs(np.subtract(at, other)).sum(), default=None)
        start = self.best if nearest is None else self.found[nearest]
        self.found[at] = self._solve(at, start)
        self._first = self._first or self.found[at].problem.equilibrated()

    def descend(self, at: tuple[int, ...]) -> None:
        """Descend from the codes of the neighbours, and keep a better code, whose confidence is not known."""
        for other in [other for other in self.found if np.abs(np.subtract(at, other)).sum() == 1]:
            tried = self._solve(at, self.found[other], rounds=0)
            if _lower(tried, self.found[at]):
                self.found[at] = tried

    def columns(self) -> tuple[Array, Array, Array, Array]:
        """Collect the objectives, codes, confidences and p-values of the grid."""
        shape = tuple(len(axis) for axis in self.axes)
        fun, sure, p = (np.full(shape, np.nan) for _ in range(3))
        z = np.full((*shape, *self.network.latent_shape), np.nan)
        for at, found in self.found.items():
            fun[at], z[at], sure[at], p[at] = _objective(found), found.z, found.confidence, found.p_value
        return fun, z, sure, p


def _objective(found: Inversion) -> float:
    """Return the objective that values are compared by: ``fun``, or -2 log likelihood if a level was fitted."""
    if isinstance(found.problem.noise, FittedGaussian):
        return float(minus_two_log_likelihood(found.problem, found.batch.z)[0])
    return float(found.fun)


def _lower(one: Inversion, other: Inversion) -> bool:
    """Check whether the first has a lower optimum than the other, not the same up to rounding."""
    return _objective(one) - _objective(other) < -LOCAL_OPTIMUM * abs(float(other.fun))


def _alike(problem: Problem, first: Problem) -> bool:
    """Check whether the generators of both problems, in working units, have much the same outputs at typical codes."""
    own, known = problem.equilibrated().network.typical_outputs, first.network.typical_outputs
    return bool(np.linalg.norm(own - known) <= _ALIKE * np.linalg.norm(known - known.mean(axis=0)))

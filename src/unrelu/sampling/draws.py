"""A posterior as draws of codes: means, intervals, reconstructions, modes, and whether the chains have mixed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unrelu.display.text_tables import Printed
from unrelu.errors import InputError, MissingPackageError, NotMixedWarning, OptionError
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.result.answers import Answers, Panels, squeezed
from unrelu.result.result_file import AbsentGenerator
from unrelu.runtime.argument_checks import real_number, whole_number
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.memory_limits import RECONSTRUCTION_NUMBERS
from unrelu.runtime.streams import stream
from unrelu.runtime.words import count, listed, nearest, shown
from unrelu.sampling._posterior_text import message_of, printed_observation, printed_posteriors, sizes_of
from unrelu.sampling.posterior_file import write_posterior_file
from unrelu.sampling.predictive import Statistic, predictive_p_value
from unrelu.sampling.sampled_chains import SampledChains, interval_of, mean_of, spaced
from unrelu.sampling.unknown_levels import drawn_levels, key_of

if TYPE_CHECKING:
    from xarray import DataTree

    from unrelu.display.observation_figure import ObservationFigure

# The number of coordinates in a corner plot by default.
_CORNER = 5
# The number of draws behind intervals and pictures of reconstructions; it is smaller if the outputs are too large.
_OUTPUTS = 1000


def _number(name: str, text: str) -> Any:
    """Define a property with one number for each observation."""
    return property(lambda self: self._each_of(lambda one: getattr(one, name)), doc=text)


def _statistic(name: str, text: str) -> Any:
    """Define a property with one statistic for each coordinate."""
    return property(lambda self: self._each_of(lambda one: getattr(one.statistics, name)[: self._k], self._k), doc=text)


class Posterior(Answers):
    r"""Draws from p(z | y) for one observation or a batch, by several Markov chains, see :func:`unrelu.posterior`.

    Arrays have the batch's leading shape, (B, ...), for a batch only. ``print(p)`` says first whether the chains have
    mixed, then what was found. ``p[i]`` is the posterior of observation i. With a slice, a boolean mask or an array of
    indices, it is the posterior of several observations. ``len(p)`` and iteration work for a batch.

    If the chains have not mixed, their draws may not represent the posterior. Then :attr:`mean`, :attr:`std`,
    :attr:`covariance` and :meth:`interval` give a :class:`~unrelu.errors.NotMixedWarning`.

    Attributes:
        problem: the problem as it was stated.
        chains: the draws of each observation, see :class:`~unrelu.sampling.sampled_chains.SampledChains`.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")  # G(z) = (2 z, z)
    >>> p = unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=500)  # z is N(10 / 21, 1 / 21)
    >>> p
    <Posterior: one observation, MIXED, 8 chains of 500 draws>
    >>> p.mean.round(1), [end.round(1) for end in p.interval(0.5)], p.modes[0].weight
    (array([0.5]), [array([0.3]), array([0.6])], 1.0)
    """

    _called = ("posterior", "p", "p.z, p.mean")

    def __init__(self, problem: Problem, chains: Sequence[SampledChains]) -> None:
        self.problem, self.chains = problem, tuple(chains)

    def _part(self, rows: Index, problem: Problem) -> Posterior:
        return Posterior(problem, [self.chains[i] for i in rows])

    @property
    def _k(self) -> int:
        return self.problem.network.latent_dim

    def _each_of(self, said: Callable[[SampledChains], Any], *shape: int, kind: type = float) -> Any:
        """Evaluate ``said`` for each observation, (B, *shape), or for the only one."""
        found: Array = np.empty((len(self.chains), *shape), dtype=kind)
        for i, one in enumerate(self.chains):
            found[i] = said(one)
        return squeezed(self.problem, found)

    # --- draws --------------------------------------------------------------------------------------------------------

    def drawn(self, name: str) -> Array:
        """Return the array ``name`` of the draws, (B, chain, draw, ...), without B for one observation; codes are flat.

        Where an observation has fewer draws than another, the array is NaN, or 0 for the numbers of modes.
        """
        shape = np.max([one.z.shape[:2] for one in self.chains] or [(0, 0)], axis=0)
        padding, last = 0 if name == "mode" else np.nan, (self._k,) if name == "z" else ()
        found: Array = np.full((len(self.chains), *shape, *last), padding)
        for row, one in zip(found, self.chains, strict=True):
            row[:, : one.z.shape[1]] = getattr(one, name)
        return np.asarray(squeezed(self.problem, found))

    @property
    def _flat(self) -> Array:
        return self.drawn("z")

    @property
    def z(self) -> Array:
        """The draws, ``(chain, draw, *latent_shape)``; NaN where sampling an observation of a batch was cut short."""
        return self.problem.network.shaped(self.drawn("z"))

    @property
    def log_likelihood(self) -> Array:
        """log p(y | z) of each draw, (chain, draw): minus half the chi-square or deviance, up to a constant of y."""
        return self.drawn("log_likelihood")

    @cached_property
    def levels(self) -> dict[str, Array]:
        """The unknown levels of the noise at each draw, (chain, draw), by part, or by "extra" or "relative".

        Empty if the noise has no unknown level. The network is evaluated at all draws.

        Raises:
            InputError: the posterior was loaded without its network.
        """
        if not self.problem.noise.level_unknown:
            return {}
        z = [one.flat for one in self.chains]
        best = [one.best[0] if len(one.best) else np.zeros(self._k) for one in self.chains]
        drawn, (chains, draws) = drawn_levels(self.problem, z, best), self.log_likelihood.shape[-2:]
        found: dict[str, Array] = {name: np.full((len(z), chains, draws), np.nan) for name in drawn[0]}
        for i, (one, own) in enumerate(zip(self.chains, drawn, strict=True)):
            for name, values in own.items():
                found[name][i, :, : one.z.shape[1]] = values.reshape(one.z.shape[:2])
        return {name: np.asarray(squeezed(self.problem, each)) for name, each in found.items()}

    log_evidence = _number("log_evidence", "log p(y), up to the constant of :attr:`log_likelihood`; NaN if not mixed.")
    log_evidence_error = _number(
        "log_evidence_error", "The standard error of :attr:`log_evidence`, at least 0.02: as much may be overlooked."
    )
    acceptance = _number("acceptance", "The mean probability with which trajectories were accepted.")
    p_value = _number(
        "p_value",
        """Goodness of fit of the most probable code that was found, as :attr:`unrelu.Inversion.p_value`.

        Below 0.01 no draw explains y: the noise is larger than stated, or y is out of the generator's range. The status
        says nothing of that.
        """,
    )
    overlooked = _number(
        "overlooked",
        """The estimated share of the posterior that the draws lack, or that another search would miss.

        The first is the share at optima of further descents near which there is no draw. For the second, a mode in
        which h independent descents ended counts with 2^-h of its weight, the probability that as many others miss it.
        NaN if the chains do not agree, or if the sampling was cut short.
        """,
    )
    seconds = _number("seconds", "Wall time of each observation.")

    # --- the verdict --------------------------------------------------------------------------------------------------

    @property
    def status(self) -> Any:
        """MIXED if the chains agree, and at most 2% of the posterior was overlooked (:attr:`overlooked`).

        Chains agree if R-hat <= 1.01 and both sample sizes are >= 400, for all coordinates and the log-likelihood.

        Otherwise, the status is TIME_LIMIT or STOPPED if sampling was cut short, ERROR if it failed, else NOT_MIXED.
        """
        return self._each_of(lambda one: one.status, kind=object)

    @property
    def message(self) -> Any:
        """The meaning of the status, the numbers behind it, and what to do."""
        return self._each_of(lambda one: message_of(one, self.problem.names), kind=object)

    rhat = _statistic("rhat", "Rank-normalised split R-hat of each coordinate over all chains, (k,).")
    ess = _statistic("ess", "Effective sample size of the bulk of each coordinate, (k,).")
    tail_ess = _statistic("tail_ess", "Effective sample size of the tails of each coordinate, (k,).")

    def _warn(self, what: str) -> None:
        """Warn the caller of a public method if the chains have not mixed."""
        bad = [i for i, one in enumerate(self.chains) if one.status is not Status.MIXED]
        if not bad:
            return
        whose = at = ""
        if not self.problem.single:
            whose = f" of {len(bad)} of {count(len(self.chains), 'observation')}"
            at = f"observation {bad[0]}: "
        said = message_of(self.chains[bad[0]], self.problem.names)
        warnings.warn(f"{what}{whose} may not be those of the posterior; {at}{said}", NotMixedWarning, stacklevel=3)

    # --- what the draws say -------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Array:
        """The mean of the codes, ``latent_shape``."""
        self._warn("means")
        return self.problem.network.shaped(self._each_of(lambda one: one.mean, self._k))

    @property
    def std(self) -> Array:
        """The standard deviations of the coordinates, ``latent_shape``."""
        self._warn("standard deviations")
        return self.problem.network.shaped(self._each_of(lambda one: one.deviation, self._k))

    @property
    def covariance(self) -> Array:
        """The covariance of the flattened codes, (k, k)."""
        self._warn("covariances")
        return np.asarray(self._each_of(lambda one: one.covariance, self._k, self._k))

    def interval(self, level: float, of: str = "z") -> tuple[Array, Array]:
        """Compute an equal-tailed interval for each number, with probability (1 - level) / 2 on either side.

        Intervals of reconstructions use up to 1,000 evenly spaced draws.

        Args:
            level: the probability of each interval, between 0 and 1.
            of: "z" for the coordinates of the code, "reconstruction" for the entries of G(z).

        Returns:
            (lower, upper), each with the shape of a code or an output.

        Raises:
            OptionError: ``level`` is not between 0 and 1, or ``of`` is unknown.
            InputError: reconstructions are asked for, but the posterior was loaded without its network.
        """
        if not 0 < real_number("level", level, what := "a probability between 0 and 1, such as 0.9") < 1:
            raise OptionError(f"level={level} must be {what}")
        if of not in ("z", "reconstruction"):
            raise OptionError(
                f"of={shown(of)} is unknown; use 'z' or 'reconstruction'{nearest(str(of), ['reconstruction'])}"
            )
        self._warn("intervals")
        network = self.problem.network
        draws, shape = (self.outputs, network.output_shape) if of != "z" else (
            lambda one: network.shaped(one.flat), network.latent_shape
        )  # fmt: skip
        ends = self._each_of(lambda one: interval_of(draws(one), level), 2, *shape)
        lower, upper = np.moveaxis(ends, -1 - len(shape), 0)
        return lower, upper

    def outputs(self, one: SampledChains) -> Array:
        """Compute G(z) for up to 1,000 evenly spaced draws of an observation, (count, *output_shape)."""
        most = max(2, RECONSTRUCTION_NUMBERS // self.problem.network.output_dim)
        return self.problem.network.outputs(spaced(one.flat, min(_OUTPUTS, most, len(one.flat))))

    def reconstructions(self, count: int) -> Array:
        """Compute G(z) for evenly spaced draws, ``(count, *output_shape)``, repeated if too few; NaN without draws.

        Raises:
            OptionError: ``count`` is not a whole number of at least 1.
            InputError: the posterior was loaded without its network.
        """
        network, whole = self.problem.network, whole_number("count", count, 1)

        def made(one: SampledChains) -> Any:
            return network.outputs(spaced(one.flat, whole)) if one.mode.size else np.nan

        return np.asarray(self._each_of(made, whole, *network.output_shape))

    def predictive(self, statistic: Statistic | None = None) -> Any:
        r"""Compute posterior predictive p-values: how often replicated observations are as extreme as the observed one.

        They are not uniform for a true model: the draws have seen y, which makes values near 0 and 1 rare. Up to 1,000
        evenly spaced draws are used (:mod:`unrelu.sampling.predictive`).

        Args:
            statistic: T(y, mean) -> (N,), large for extreme observations, of N observations and their predictions
                A G(z), ``(N, *shape)`` each, 0 at hidden entries. By default chi-square, or the deviance.

        Returns:
            The p-value, a float, or (B,); NaN without draws.

        Raises:
            InputError: the statistic returns another shape, or the posterior was loaded without its network.

        >>> import unrelu
        >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")
        >>> p = unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=500)
        >>> p.predictive() > 0.9, p.predictive(lambda y, mean: abs(y - mean).max(axis=1)) > 0.9
        (True, True)
        """
        found = np.full(len(self.chains), np.nan)
        for i, one in enumerate(self.chains):
            if one.mode.size:
                chosen = spaced(np.arange(float(len(one.flat))), min(_OUTPUTS, len(one.flat))).astype(np.intp)
                levels = {name: each if self.problem.single else each[i] for name, each in self.levels.items()}
                own = {name: each[:, : one.z.shape[1]].ravel()[chosen] for name, each in levels.items()}
                stated = self.problem.stated.part(np.array([i]))
                rng = stream("predictive", stated.seed, key_of(stated))
                found[i] = predictive_p_value(stated, one.flat[chosen], own, one.best[0], statistic, rng)
        return squeezed(self.problem, found)

    @property
    def modes(self) -> Any:
        """The modes that draws belong to, the heaviest first: a tuple of :class:`Mode`, or a list of tuples.

        Two parts of the posterior belong to one mode if the density on the segment between their best draws never falls
        below a tenth of the lower of the two end values. A chain of such parts is one mode as well.
        """
        shaped = self.problem.network.shaped
        return squeezed(
            self.problem, [tuple(replace(mode, z=shaped(mode.z)) for mode in one.modes) for one in self.chains]
        )

    # --- printing, pictures, files and other libraries ----------------------------------------------------------------

    def __repr__(self) -> str:
        of = sizes_of(self.chains)
        if self.problem.single:
            return f"<Posterior: one observation, {self.status.name}, {of}>"
        mixed = int((self.status == Status.MIXED).sum())
        return f"<Posterior: {count(len(self.chains), 'observation')}, {mixed} mixed, {of}>"

    def _printed(self, notebook: bool) -> Printed:
        if not self.problem.single:
            return printed_posteriors(self.problem, self.chains)
        absent = isinstance(self.problem.network, AbsentGenerator) or not self.chains[0].mode.size
        return printed_observation(self.problem, self.chains, {} if absent else self.levels)

    def _label(self, i: int) -> str:
        return self.chains[i].status.name

    def _figure(self, rows: Index, of: str, panels: Panels, place: slice) -> ObservationFigure:
        from unrelu.display.answer_figures import posterior_figure  # noqa: PLC0415 -- Matplotlib, where it is used

        outputs = [self.outputs(self.chains[i]) for i in rows]
        flat = [each.reshape(len(each), self.problem.network.output_dim)[:, place] for each in outputs]
        title = f"posterior: {of}{sizes_of(self.chains)}"
        return posterior_figure(panels(np.array([mean_of(each) for each in outputs])), flat, title)

    def plot_corner(self, coordinates: Sequence[int | str] | None = None) -> ObservationFigure:
        """Plot pairs of coordinates of the code as dots, and each coordinate's histogram with its 90% interval.

        Each mode has a colour, and a cross marks its best code.

        Args:
            coordinates: places in the flattened code, or names (:attr:`parameters`); None for the first five.

        Returns:
            A Matplotlib figure, like :meth:`plot`.

        Raises:
            OptionError: a coordinate is unknown, or is named twice.
            TypeError: this is a batch; ``p[i].plot_corner()`` draws one of its observations.
            InputError: there are no draws.
        """
        from unrelu.display.answer_figures import corner_figure  # noqa: PLC0415 -- Matplotlib, where it is used

        if not self.problem.single:
            raise TypeError("a corner plot is of one observation: p[i].plot_corner()")
        chosen, network = self._coordinates(coordinates), self.problem.names
        (one,) = self.chains
        if not one.mode.size:
            raise InputError(f"there are no draws to plot: {self.message}")
        names = [network.name_of(int(j)) for j in chosen]
        present, place, counts = np.unique(one.mode, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        best, draws = (network.parameters_of(codes)[:, chosen] for codes in (one.best[present[order]], one.flat))
        title = f"{self.status.name}: {sizes_of(self.chains)}"
        shares = (counts[order] / one.mode.size).tolist()
        return corner_figure(draws, names, np.argsort(order)[place.ravel()], shares, best, title)

    def _coordinates(self, coordinates: Any) -> Index:
        """Check the coordinates of a corner plot, and return their indices."""
        names = self.problem.names.parameter_names
        given = range(min(self._k, _CORNER)) if coordinates is None else coordinates
        try:
            chosen = [names.index(j) if isinstance(j, str) else range(self._k)[j] for j in given]
        except (TypeError, ValueError, IndexError):
            chosen = []
        if not chosen or len(set(chosen)) < len(chosen):
            raise OptionError(
                f"coordinates={shown(coordinates)} must be different whole numbers from 0 to {self._k - 1}, or names: "
                f"{listed(names, 5)}"
            )
        return np.array(chosen, dtype=np.intp)

    def _write(self, path: Path) -> None:
        write_posterior_file(path, self.problem, self.chains)

    def to_arviz(self) -> DataTree:
        """Convert to the ``xarray.DataTree`` that ArviZ takes.

        The group ``posterior`` holds ``z``, and each named coordinate under its name. The group ``sample_stats`` holds
        ``mode`` and ``log_likelihood`` (the sum over all entries of y). The group ``observed_data`` holds ``y``. Draws
        have the dimensions chain and draw, followed by observation for a batch.

        Raises:
            MissingPackageError: arviz-base is not installed.
        """
        try:
            from arviz_base import from_dict  # noqa: PLC0415 -- an optional package
        except ImportError as error:
            raise MissingPackageError("to_arviz() needs arviz-base: pip install arviz-base") from error
        network = self.problem.names
        batch: list[str] = [] if self.problem.single else ["observation"]
        named = {name: draws for name, draws in self.parameters.items() if name in network.coordinate_names}
        fields = {"log_likelihood": self.log_likelihood, "mode": self.drawn("mode")}
        codes = named | {"z": self.z}
        fields, codes = (  # chain and draw come before the observation
            {name: np.moveaxis(values, 0, 2 * len(batch)) for name, values in group.items()}
            for group in (fields, codes)
        )
        dims = {
            **dict.fromkeys([*fields, *codes], batch), "y": [*batch, "entry"],
            "z": [*batch, *(f"z_{i}" for i in range(len(network.latent_shape)))],
        }  # fmt: skip
        y = squeezed(self.problem, self.problem.stated.y)
        return from_dict({"posterior": codes, "sample_stats": fields, "observed_data": {"y": y}}, dims=dims)

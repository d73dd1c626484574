"""A posterior as draws of codes: means, intervals, reconstructions and modes; whether the chains have mixed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, MissingPackageError, NotMixedWarning, OptionError
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.memory_limits import RECONSTRUCTION_NUMBERS
from unrelu.runtime.words import count, listed, nearest, shown
from unrelu.sampling._posterior_text import (
    PosteriorSummary,
    batch_html,
    batch_lines,
    message_of,
    observation_html,
    observation_lines,
    sizes_of,
)
from unrelu.sampling._sampled_chains import SampledChains
from unrelu.sampling.convergence import error_of_mean
from unrelu.sampling.posterior_file import write_posterior_file

if TYPE_CHECKING:
    from xarray import DataTree

    from unrelu.display.observation_figure import ObservationFigure

# What intervals can be of.
_QUANTITIES = ("z", "reconstruction")
# Intervals and pictures of reconstructions are of so many draws, fewer if their outputs have too many numbers.
_OUTPUTS = 1000
# Coordinates of a corner plot by default.
_CORNER = 5


@dataclass(frozen=True, eq=False)
class Mode:
    """A mode of a posterior, and the draws that belong to it.

    Attributes:
        weight: the share of the draws that belong to it, an estimate of its probability.
        weight_error: the Monte Carlo standard error of the weight, from the effective sample size of the indicator.
        z: the most probable code found in it, ``latent_shape``.
        covariance: the covariance of its draws, (k, k); NaN for a single draw.
    """

    weight: float
    weight_error: float
    z: Array
    covariance: Array


class Posterior:
    r"""Draws from p(z | y) for one observation or a batch, by several Markov chains, see :func:`unrelu.posterior`.

    Arrays have the batch's leading shape, (B, ...), for a batch only. ``print(p)`` says what was found, and first of
    all whether the chains have mixed. ``p[i]`` is the posterior of observation i; a slice, a boolean mask or an array
    of indices gives those of several. ``len(p)`` and iteration work for a batch.

    If the chains have not mixed, their draws may not represent the posterior. Then :attr:`mean`, :attr:`std`,
    :attr:`covariance` and :meth:`interval` give a :class:`~unrelu.errors.NotMixedWarning`.

    Samplers make it of flat draws ``z``, (B, C, D, k), for C chains of D draws, and of ``log_likelihood`` and ``mode``,
    (B, C, D); ``best`` has the best codes of the modes of each observation, (M, k), which ``mode`` counts. Draws of an
    observation that was cut short are NaN at the end. ``ended`` is the status with which it was. One number of
    ``seconds`` is shared equally.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")  # G(z) = (2 z, z)
    >>> p = unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=500)  # z is N(10 / 21, 1 / 21)
    >>> p
    <Posterior: one observation, MIXED, 8 chains of 500 draws>
    >>> p.mean.round(1), [end.round(1) for end in p.interval(0.9)], p.modes[0].weight
    (array([0.5]), [array([0.1]), array([0.8])], 1.0)
    """

    def __init__(
        self,
        *,
        problem: Problem,
        z: Array,
        log_likelihood: Array,
        mode: npt.ArrayLike,
        best: Sequence[Array],
        from_prior: npt.ArrayLike,
        log_evidence: npt.ArrayLike = np.nan,
        log_evidence_error: npt.ArrayLike = np.nan,
        ended: Any = None,
        seconds: npt.ArrayLike = 0.0,
        acceptance: npt.ArrayLike = np.nan,
        overlooked: npt.ArrayLike = 0.0,
        p_value: npt.ArrayLike = np.nan,
    ) -> None:
        size = problem.size
        states = np.full(size, None, dtype=object)
        states[:] = ended
        time = np.asarray(seconds, dtype=np.float64)
        numbers = {
            "log_evidence": log_evidence, "log_evidence_error": log_evidence_error, "acceptance": acceptance,
            "overlooked": overlooked, "p_value": p_value,
        }  # fmt: skip
        self.chains = SampledChains(
            problem=problem,
            z=np.asarray(z, dtype=np.float64),
            log_likelihood=np.asarray(log_likelihood, dtype=np.float64),
            mode=np.asarray(mode, dtype=np.int64),
            best=[np.asarray(codes, dtype=np.float64) for codes in best],
            from_prior=np.asarray(from_prior, dtype=np.bool_),
            ended=states,
            seconds=time if time.ndim else np.full(size, float(time) / max(1, size)),
            **{name: np.array(np.broadcast_to(each, (size,)), dtype=np.float64) for name, each in numbers.items()},
        )

    @classmethod
    def of(cls, chains: SampledChains) -> Posterior:
        """The posterior of these chains."""
        made = cls.__new__(cls)
        made.chains = chains
        return made

    @property
    def problem(self) -> Problem:
        """The problem as it was stated."""
        return self.chains.problem

    # --- draws --------------------------------------------------------------------------------------------------------

    @property
    def z(self) -> Array:
        """The draws, ``(chain, draw, *latent_shape)``; NaN where an observation of a batch was cut short."""
        shaped = self.problem.network.shaped(self.chains.z)
        return shaped[0, :, : self.chains.lengths[0] or None] if self._single else shaped

    @property
    def parameters(self) -> dict[str, Array]:
        """The draws by the names of coordinates, (chain, draw) each; z0, z1, ... where they have none.

        A nuisance parameter (:func:`unrelu.extend`) is reported itself, in place of its coordinate.
        """
        network, draws = self.problem.names, self.chains.z
        values = network.parameters_of(draws[0, :, : self.chains.lengths[0] or None] if self._single else draws)
        return {name: values[..., j] for j, name in enumerate(network.parameter_names)}

    @property
    def log_likelihood(self) -> Array:
        """log p(y | z) of each draw, up to a constant of y, (chain, draw): minus half the chi-square or deviance."""
        values = self.chains.log_likelihood
        return values[0, :, : self.chains.lengths[0] or None] if self._single else values

    @property
    def from_prior(self) -> Flags:
        """The chains that began where descents from draws of the prior ended, (chain,); the others at found optima."""
        return self.chains.from_prior

    @property
    def log_evidence(self) -> Any:
        """log p(y), up to the constant of :attr:`log_likelihood`; NaN if the chains have not mixed."""
        return self._each(self.chains.log_evidence)

    @property
    def log_evidence_error(self) -> Any:
        """The standard error of :attr:`log_evidence`; it says nothing of chains that have not mixed."""
        return self._each(self.chains.log_evidence_error)

    @property
    def acceptance(self) -> Any:
        """The mean probability with which trajectories were accepted."""
        return self._each(self.chains.acceptance)

    @property
    def p_value(self) -> Any:
        """Goodness of fit of the most probable code that was found, as :attr:`unrelu.Inversion.p_value`.

        Below 0.01 no draw explains y: the noise is larger than stated, or y is out of the generator's range. The status
        says nothing of that.
        """
        return self._each(self.chains.p_value)

    @property
    def overlooked(self) -> Any:
        """The estimated share of the posterior at optima that further descents found, and near which there is no draw.

        The descents are made when the chains agree; NaN if they do not, or if the sampling was cut short. If they find
        more than 0.02, the chains are sampled anew with jumps there.
        """
        return self._each(self.chains.overlooked)

    @property
    def seconds(self) -> Any:
        """Wall time of each observation."""
        return self._each(self.chains.seconds)

    @property
    def _single(self) -> bool:
        return self.problem.single

    def _each(self, values: Any) -> Any:
        """Values of the batch, or of the one observation."""
        first = values[0] if self._single else values
        return first.item() if isinstance(first, np.generic) else first

    # --- the verdict --------------------------------------------------------------------------------------------------

    @cached_property
    def status(self) -> Any:
        """MIXED if the chains agree, and at most 2% of the posterior was overlooked (:attr:`overlooked`).

        They agree if over all coordinates and the log-likelihood R-hat <= 1.01 and both sample sizes are at least 400.

        Otherwise NOT_MIXED; TIME_LIMIT or STOPPED if the sampling was cut short; ERROR if it failed.
        """
        return self._each(self._statuses)

    @cached_property
    def message(self) -> Any:
        """The meaning of the status, with the numbers that decided it, and what to do."""
        texts = [message_of(self.chains.mixing(i), self.problem.names) for i in range(self.chains.size)]
        return self._each(np.array(texts, dtype=object))

    @property
    def rhat(self) -> Array:
        """Rank-normalised split R-hat of each coordinate over all chains, (k,)."""
        return self._statistic("rhat")

    @property
    def ess(self) -> Array:
        """Effective sample size of the bulk of each coordinate, (k,)."""
        return self._statistic("ess")

    @property
    def tail_ess(self) -> Array:
        """Effective sample size of the tails of each coordinate, (k,)."""
        return self._statistic("tail_ess")

    def _statistic(self, name: str) -> Array:
        values = [getattr(self.chains.mixing(i).coordinates, name) for i in range(self.chains.size)]
        return np.asarray(self._each(np.array(values).reshape(self.chains.size, self.problem.network.latent_dim)))

    @cached_property
    def _statuses(self) -> npt.NDArray[np.object_]:
        states = np.full(self.chains.size, None, dtype=object)
        states[:] = [self.chains.mixing(i).status for i in range(self.chains.size)]
        return states

    def _warn(self, what: str) -> None:
        """Warn the caller of a public method if the chains have not mixed."""
        bad = np.flatnonzero([status is not Status.MIXED for status in self._statuses])
        if not len(bad):
            return
        first = int(bad[0])
        whose = "" if self._single else f" of {len(bad)} of {count(self.chains.size, 'observation')}"
        at = "" if self._single else f"observation {first}: "
        said = message_of(self.chains.mixing(first), self.problem.names)
        warnings.warn(f"{what}{whose} may not be those of the posterior; {at}{said}", NotMixedWarning, stacklevel=3)

    # --- what the draws say -------------------------------------------------------------------------------------------

    @property
    def mean(self) -> Array:
        """The mean of the codes, ``latent_shape``."""
        self._warn("means")
        return self._of_codes(self.means)

    @property
    def std(self) -> Array:
        """The standard deviations of the coordinates, ``latent_shape``."""
        self._warn("standard deviations")
        return self._of_codes(self.deviations)

    @property
    def covariance(self) -> Array:
        """The covariance of the flattened codes, (k, k)."""
        self._warn("covariances")
        return np.asarray(self._each(self.covariances))

    @cached_property
    def means(self) -> Array:
        """The means of the flat codes, (B, k), without a warning."""
        found = [_mean(self._flat(i)) for i in range(self.chains.size)]
        return np.array(found).reshape(len(found), self.problem.network.latent_dim)

    @property
    def statistics(self) -> tuple[Array, Array]:
        """Means and standard deviations of :attr:`parameters`, (B, k) each, without a warning."""
        network = self.problem.names
        draws = [network.parameters_of(self._flat(i)) for i in range(self.chains.size)]
        means = np.array([_mean(each) for each in draws]).reshape(len(draws), network.latent_dim)
        deviations = [np.sqrt(np.diag(_covariance(each))) for each in draws]
        return means, np.array(deviations).reshape(means.shape)

    @property
    def deviations(self) -> Array:
        """The standard deviations of the flat codes, (B, k), without a warning."""
        return np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))

    @cached_property
    def covariances(self) -> Array:
        """The covariances of the flat codes, (B, k, k), without a warning."""
        found, k = [_covariance(self._flat(i)) for i in range(self.chains.size)], self.problem.network.latent_dim
        return np.array(found).reshape(len(found), k, k)

    def interval(self, level: float, of: str = "z") -> tuple[Array, Array]:
        """Equal-tailed intervals, one a number: the posterior has (1 - level) / 2 on either side.

        Those of reconstructions are of up to 1,000 evenly spaced draws.

        Args:
            level: the probability of each interval, between 0 and 1.
            of: "z" for the coordinates of the code, "reconstruction" for the entries of G(z).

        Returns:
            (lower, upper), of the shape of a code or an output.

        Raises:
            OptionError: ``level`` is not between 0 and 1, or ``of`` is unknown.
            InputError: the posterior was loaded without its network, and the interval is of reconstructions.
        """
        if isinstance(level, bool) or not isinstance(level, int | float | np.number) or not 0 < level < 1:
            raise OptionError(f"level={shown(level)} is a probability between 0 and 1; pass e.g. 0.9")
        if of not in _QUANTITIES:
            raise OptionError(f"of={shown(of)} is unknown; use 'z' or 'reconstruction'{nearest(of, _QUANTITIES)}")
        self._warn("intervals")
        lower, upper = self.intervals(level, of)
        return np.asarray(self._each(lower)), np.asarray(self._each(upper))

    def intervals(self, level: float, of: str = "z") -> tuple[Array, Array]:
        """The ends of :meth:`interval` for a batch, (B, ...), without a warning."""
        network = self.problem.network
        shape = network.latent_shape if of == "z" else network.output_shape
        probabilities = ((1 - level) / 2, (1 + level) / 2)
        ends = np.full((2, self.chains.size, *shape), np.nan)
        for i in range(self.chains.size):
            draws = network.shaped(self._flat(i)) if of == "z" else self._outputs(i)
            if len(draws):
                ends[:, i] = np.quantile(draws, probabilities, axis=0)
        return ends[0], ends[1]

    @property
    def output_deviations(self) -> Array:
        """The standard deviations of G(z), (B, \\*output_shape), of as many draws as intervals, without a warning."""
        shape = self.problem.network.output_shape
        outputs = (self._outputs(i) for i in range(self.chains.size))
        return np.array([draws.std(axis=0) if len(draws) else np.full(shape, np.nan) for draws in outputs])

    def reconstructions(self, count: int) -> Array:
        """G(z) of evenly spaced draws, ``(count, *output_shape)``; NaN for an observation without draws.

        Raises:
            OptionError: ``count`` is not a whole number from 1 to the number of draws.
            InputError: the posterior was loaded without its network.
        """
        most = int(np.prod(self.chains.z.shape[1:3]))
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or not 1 <= count <= most:
            raise OptionError(f"count={shown(count)} must be a whole number from 1 to {most}, the number of draws")
        network = self.problem.network
        found = np.full((self.chains.size, int(count), *network.output_shape), np.nan)
        for i in range(self.chains.size):
            draws = _spaced(self._flat(i), int(count))
            if len(draws):
                found[i] = network.outputs(draws)
        return np.asarray(self._each(found))

    @cached_property
    def modes(self) -> Any:
        """The modes that draws belong to, the heaviest first: a tuple of :class:`Mode`, or a list of tuples.

        Parts of the posterior are one mode if the density on the segment between their best draws falls to no less than
        a tenth of that at the lower end, or if a chain of such parts joins them.
        """
        found = [self._modes(i) for i in range(self.chains.size)]
        return found[0] if self._single else found

    def _modes(self, i: int) -> tuple[Mode, ...]:
        draws, label = self.chains.kept(i), self.chains.kept_modes(i)
        present = np.unique(label)
        if not len(present):
            return ()
        belongs = (label[..., None] == present).astype(np.float64)
        weights, errors = belongs.mean(axis=(0, 1)), error_of_mean(belongs)
        best = self.problem.network.shaped(self.chains.best[i])
        made = [
            Mode(float(w), float(e), best[m], _covariance(draws[label == m]))
            for m, w, e in zip(present, weights, errors, strict=True)
        ]
        return tuple(sorted(made, key=lambda mode: -mode.weight))

    def _flat(self, i: int) -> Array:
        """The draws of all chains of an observation, one after the other, (N, k)."""
        draws = self.chains.kept(i)
        return draws.reshape(-1, draws.shape[2])

    def _outputs(self, i: int) -> Array:
        """G(z) of evenly spaced draws, as many as intervals are of, (count, *output_shape)."""
        draws = self._flat(i)
        most = min(_OUTPUTS, max(2, RECONSTRUCTION_NUMBERS // self.problem.network.output_dim), len(draws))
        return self.problem.network.outputs(_spaced(draws, most))

    def _of_codes(self, values: Array) -> Array:
        """Flat numbers (B, k) in the shape of codes."""
        return np.asarray(self._each(self.problem.network.shaped(values)))

    # --- a batch as a sequence ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self._single:
            raise TypeError("a posterior of one observation has no len(); pass a batch, y[None], for one with arrays")
        return self.chains.size

    def __bool__(self) -> bool:
        """Whether there is any observation; ``status`` says whether its chains have mixed."""
        return self.chains.size > 0

    def __iter__(self) -> Iterator[Posterior]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Posterior:
        """The posterior of one observation, or of several by a slice, a boolean mask (B,) or an array of indices.

        Raises:
            TypeError: this is the posterior of one observation, without a batch axis.
            IndexError: there is no such observation, or the index is not an integer, slice, mask or array of integers.
        """
        if self._single:
            raise TypeError("a posterior of one observation cannot be indexed: p.z, p.mean, ... are that observation's")
        chosen = np.arange(len(self))[index]
        if chosen.ndim > 1:
            raise IndexError(f"a posterior is indexed by observations, p[3], p[[3, 7]]; got {shown(index)}")
        return Posterior.of(self.chains.take(np.atleast_1d(chosen), single=not chosen.ndim))

    # --- printing -----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        of = sizes_of(self.chains)
        if self._single:
            return f"<Posterior: one observation, {self.status.name}, {of}>"
        mixed = sum(status is Status.MIXED for status in self._statuses)
        return f"<Posterior: {count(self.chains.size, 'observation')}, {mixed} mixed, {of}>"

    def __str__(self) -> str:
        """What was found, in at most 15 lines."""
        return "\n".join(observation_lines(self._summary()) if self._single else batch_lines(self._summary()))

    def _repr_html_(self) -> str:
        """For notebooks: the same as a table."""
        return observation_html(self._summary()) if self._single else batch_html(self._summary())

    def _summary(self) -> PosteriorSummary:
        modes = [self.modes] if self._single else self.modes
        weights = [[(mode.weight, mode.weight_error) for mode in each] for each in modes]
        return PosteriorSummary(self.chains, *self.statistics, weights)

    # --- pictures, files and other libraries --------------------------------------------------------------------------

    def plot(
        self, observations: Any = None, max_observations: int = 8, shape: tuple[int, ...] | None = None
    ) -> ObservationFigure:
        """Draw observation, mean, standard deviation and four draws of G(z), a row for each observation.

        Curves are drawn with a band of 90% intervals; what is drawn as a picture, and how, is that of
        :meth:`unrelu.Inversion.plot`. The numbers are those of up to 1,000 evenly spaced draws.

        Args:
            observations: an index or several; None for the first ones.
            max_observations: the most rows; further observations are not drawn.
            shape: the shape in which outputs are drawn, (H, W) or (3, H, W) for pictures, (n,) for curves.

        Returns:
            A Matplotlib figure that is not registered with pyplot: a notebook shows it, ``savefig`` writes it.

        Raises:
            OptionError: ``max_observations`` is not an integer of at least 1, or outputs cannot have that ``shape``.
            IndexError: there is no such observation.
            InputError: the posterior was loaded without its network.
        """
        from unrelu.result.result_pictures import drawn_rows  # noqa: PLC0415
        from unrelu.sampling._posterior_pictures import posterior_figure  # noqa: PLC0415 -- Matplotlib, where it is used

        rows = drawn_rows(self.problem, observations, max_observations)
        names = [status.name for status in self._statuses[rows]]
        labels = names if self._single else [f"{i}\n{name}" for i, name in zip(rows, names, strict=True)]
        of = "" if self._single else f"{len(rows)} of {count(self.chains.size, 'observation')}, "
        batch = replace(self.problem, single=False)
        outputs = [self._outputs(int(i)) for i in rows]
        return posterior_figure(batch, outputs, rows, labels, f"posterior: {of}{sizes_of(self.chains)}", shape)

    def plot_corner(self, coordinates: Sequence[int | str] | None = None) -> ObservationFigure:
        """Draw coordinates of the code in pairs, as dots, and the histogram of each, with its 90% interval.

        Each mode has a colour, and a cross at its best code.

        Args:
            coordinates: places in the flattened code, or names (:attr:`parameters`); None for the first five.

        Returns:
            A Matplotlib figure, as :meth:`plot`.

        Raises:
            OptionError: a coordinate is not one of the code's, or named twice.
            TypeError: this is a batch; ``p[i].plot_corner()`` draws one of its observations.
            InputError: there are no draws.
        """
        from unrelu.sampling._posterior_pictures import corner_figure  # noqa: PLC0415 -- Matplotlib, where it is used

        if not self._single:
            raise TypeError("a corner plot is of one observation: p[i].plot_corner()")
        chosen = self._coordinates(coordinates)
        draws, label = self._flat(0), self.chains.kept_modes(0).ravel()
        if not len(draws):
            raise InputError(f"there are no draws to plot: {self.message}")
        network = self.problem.names
        names = [network.name_of(int(j)) for j in chosen]
        present, place, counts = np.unique(label, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        best = network.parameters_of(self.chains.best[0])
        modes = [(counts[m] / len(label), best[present[m]]) for m in order]
        title = f"{self.status.name}: {sizes_of(self.chains)}"
        return corner_figure(network.parameters_of(draws), chosen, names, np.argsort(order)[place], modes, title)

    def _coordinates(self, coordinates: Any) -> Index:
        """Check the coordinates of a corner plot."""
        k = self.problem.network.latent_dim
        if coordinates is None:
            return np.arange(min(k, _CORNER))
        names = self.problem.names.parameter_names
        given = list(coordinates) if isinstance(coordinates, Sequence | np.ndarray) else [coordinates]
        given = [names.index(j) if j in names else j for j in given]
        whole = all(isinstance(j, int | np.integer) and not isinstance(j, bool) for j in given)
        if not whole or not given or len(set(given)) < len(given) or not all(0 <= j < k for j in given):
            raise OptionError(
                f"coordinates={shown(coordinates)} must be different whole numbers from 0 to {k - 1}, places in the "
                f"flattened code, or names: {listed(names, 5)}"
            )
        return np.array(given, dtype=np.intp)

    def save(self, path: str | Path) -> None:
        """Write the posterior to a ``.npz`` file, which :func:`unrelu.load_posterior` reads and verifies.

        The file contains the draws with their log-likelihoods and modes, y, noise, bounds, prior, operator, the
        version, the network's fingerprint and a digest. Nothing is pickled. The file appears complete or not at all.

        Raises:
            InputError: the suffix is not .npz, the folder does not exist, or the posterior was loaded without its
                network.
            StorageError: the disk is full or cannot be written to.
        """
        write_posterior_file(Path(path), self.chains)

    def to_arviz(self) -> DataTree:
        """Convert to the ``xarray.DataTree`` that ArviZ takes.

        Its groups are ``posterior`` with ``z``, and with the coordinates that have (other) names; ``sample_stats`` with
        ``log_likelihood`` (the sum over all entries of y) and ``mode``; and ``observed_data`` with ``y``. Draws have
        the dimensions chain and draw; those of a batch, then observation.

        Raises:
            MissingPackageError: arviz-base is not installed.
        """
        try:
            from arviz_base import from_dict  # noqa: PLC0415 -- an optional package
        except ImportError as error:
            raise MissingPackageError('to_arviz() needs arviz-base: pip install "unrelu[arviz]"') from error
        network = self.problem.names
        fields = {"z": self.z, "log_likelihood": self.log_likelihood, "mode": self.chains.mode}
        batch: list[str] = [] if self._single else ["observation"]
        if self._single:
            fields["mode"] = self.chains.mode[0, :, : fields["z"].shape[1]]
        else:
            fields = {name: np.moveaxis(values, 0, 2) for name, values in fields.items()}
        named = {name: draws for name, draws in self.parameters.items() if name in network.coordinate_names}
        named.pop("z", None)
        if not self._single:
            named = {name: np.moveaxis(draws, 0, 2) for name, draws in named.items()}
        z = {"z": fields.pop("z"), **named}
        stated = self.problem.given or self.problem
        dims = {
            "z": [*batch, *(f"z_{i}" for i in range(len(self.problem.network.latent_shape)))],
            **dict.fromkeys([*fields, *named], batch), "y": [*batch, "entry"],
        }  # fmt: skip
        y = {"y": stated.y[0] if self._single else stated.y}
        return from_dict({"posterior": z, "sample_stats": fields, "observed_data": y}, dims=dims)


def _spaced(draws: Array, count: int) -> Array:
    """Evenly spaced rows, (count, ...); the same row repeatedly if there are fewer."""
    rows = ((np.arange(count) + 0.5) * len(draws) / count).astype(np.intp)
    return draws[rows] if len(draws) else draws


def _mean(draws: Array) -> Array:
    """The mean of draws (N, k), (k,); NaN without draws."""
    return draws.mean(axis=0) if len(draws) else np.full(draws.shape[1], np.nan)


def _covariance(draws: Array) -> Array:
    """The covariance of draws (N, k), (k, k); NaN for fewer than two."""
    k = draws.shape[1]
    return np.cov(draws, rowvar=False).reshape(k, k) if len(draws) > 1 else np.full((k, k), np.nan)

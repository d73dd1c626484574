"""The result of a method: codes and their verdict, which is computed from the codes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.measurements.noise import Fit
from unrelu.measurements.whitening import known_entries, stated_sizes
from unrelu.problem import DEGREES, Jacobians, Problem, norms
from unrelu.result._code_scale import scale_hint
from unrelu.result._residual_tests import TESTS, together
from unrelu.result.laplace_approximation import Laplace, laplace_approximation
from unrelu.result.pooled_noise import cut_off, too_large
from unrelu.result.result_file import write_result_file
from unrelu.result.status import CUT_OFF, HAS_CODE, JUDGED, SEARCHED, TELLING, Status, among, message_of
from unrelu.result.verdict_text import (
    TOO_LARGE,
    VerdictSummary,
    batch_html,
    batch_lines,
    data_frame,
    observation_html,
    observation_lines,
    with_parameters,
)
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.host import flush_subnormals
from unrelu.runtime.words import count, probability
from unrelu.thresholds import CHANCE, CONFIDENT, RADIUS, SIGNIFICANCE

if TYPE_CHECKING:
    from pandas import DataFrame

    from unrelu.display.observation_figure import ObservationFigure


# Columns of the verdict, in the order of :meth:`Inversion.to_frame`.
_COLUMNS = (
    "status", "success", "p_value", *TESTS, "confidence", "fun", "residual", "freedom", "rank", "identifiable", "nit",
    "seconds", "message",
)  # fmt: skip
# The most observations that are drawn by default.
_DRAWN = 8


@dataclass(frozen=True, eq=False, repr=False)
class Inversion:
    r"""Latent codes for one observation or a batch.

    All arrays have the batch's leading shape: scalars for one observation, (B,) for a batch. ``print(r)`` prints the
    verdict in words. ``r[i]`` is the result of observation i; a slice, a boolean mask or an array of indices gives the
    result of several. ``len(r)`` and iteration work for a batch.

    Attributes:
        z: codes, ``latent_shape`` or ``(B, *latent_shape)``. NaN for an observation not reached before a limit.
        reconstruction: G(z), in the network's output shape.
        fun: the objective at z, in ``norm``, with the prior. If the noise was stated as an array or a covariance, it is
            that of whitened residuals (chi-square in l2); for counts it is the deviance.
        success: whether the answer can be relied on. With stated noise, the code must explain y: p_value >= 0.01.
            Without, it must fit exactly; or confidence >= 0.99, y shows noise, y is explained better than white noise
            would be (:func:`~unrelu.diagnostics.goodness_of_fit.chance`), and the residual is not an outlier of the
            batch.
        p_value: goodness of fit: the probability that the stated noise leaves a residual as unlikely as that of z, by
            its size, its largest entry and its structure. The effective degrees of freedom that the fit used up are
            taken into account (:mod:`unrelu.diagnostics.goodness_of_fit`). NaN without stated noise or without a code;
            1 for an exact fit if the noise is below the rounding errors of y.
        p_size, p_largest, p_structure: the p-values of the three tests by themselves. That of the size is one-sided,
            :math:`P(\chi^2_{m - u} \ge \chi^2)` for Gaussian noise. ``p_value`` is that of the least of them, weighted
            .45, .45 and .1, so it may be less than the first. NaN for a test that was not made: the last two need
            Gaussian noise.
        confidence: the probability that no code within the bounds, or, where there are none, up to a length of
            :math:`10 \sqrt k` or that of z if it is longer (option ``radius`` of "auto"), has an objective more than 1%
            lower. It follows from where descents from independent starts ended (:mod:`unrelu.search.confidence`). How
            far their agreement can be trusted is learned on this generator, by simulation
            (:mod:`unrelu.search.learned_prior`) or by :func:`unrelu.calibrate`; if it is not learned, the confidence
            stays below 0.99. 1 for an exact fit without a prior; NaN in l1 and linf, for methods that do not search,
            and without a code.
        status: one :class:`Status` for each observation.
        message: the meaning of the status, with the numbers that decided it.
        nit: iterations (linear programs, Newton or gradient steps).
        seconds: wall time of each observation; an equal share of the time of those that were inverted together.
        method: the method's name.
        freedom: the dimension of the set of codes near z that fit equally well, if the fit is exact and the dimension
            could be determined; else -1. At kinks it is the largest dimension over the sign patterns that
            meet there, a lower bound if there are more than 256.
        rank: the rank of A J, J the Jacobian of G at z; -1 without a code.
        identifiable: whether no other code near z has the same A G(z): usually, that the rank is k. An exact fit must
            also determine z to 1e-6 of its length (1e-3 in single precision), given its residual and the least singular
            value. A distant code may still fit as well. See :func:`unrelu.identifiability`.
        used: u, the effective degrees of freedom that the fit used up (:mod:`unrelu.diagnostics.goodness_of_fit`).
        options: the options of the method, defaults included.
        norm: the norm of ``fun``: "l2", "l1", "linf"; or "huber" or "loss" (:mod:`unrelu.measurements.losses`).
        pool: whether the noise level was estimated from the residuals of the batch, see :meth:`of`.
        ended: the status that the method reported, (B,), before the residual was judged.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> r = unrelu.invert(net, [[1.0, 0.0, 0.5], [1.0, 0.0, 0.7]], noise=unrelu.Uniform(0.01))
    >>> r.success, r.p_value, r.residual("linf").round(3)
    (array([ True, False]), array([1., 0.]), array([0.   , 0.133]))
    >>> r[r.success]
    <Inversion: 1 observation, 1 successful>
    """

    z: Array
    reconstruction: Array
    fun: Any
    success: Any
    p_value: Any
    p_size: Any
    p_largest: Any
    p_structure: Any
    confidence: Any
    status: Any
    message: Any
    nit: Any
    seconds: Any
    method: str
    freedom: Any
    rank: Any
    identifiable: Any
    used: Any
    problem: Problem
    ended: npt.NDArray[Any]
    norm: str
    pool: bool
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        problem: Problem,
        z: Array,
        *,
        method: str,
        status: Status | npt.ArrayLike = Status.CONVERGED,
        nit: npt.ArrayLike = 0,
        norm: str | None = None,
        seconds: npt.ArrayLike | None = None,
        confidence: npt.ArrayLike = math.nan,
        pool: bool = False,
    ) -> Inversion:
        """Judge codes: compute outputs, objectives and the verdict. Your own method ends with this call.

        A verdict from the residual (exact fit, fit to the stated noise, misfit) overrides the ``status`` that is passed
        in. If a method passes one of these itself, CONVERGED is used in its place. :func:`unrelu.invert` judges once
        more, with the degrees of freedom that the fit used up.

        Args:
            problem: the problem that was solved.
            z: codes, (B, k) or ``(B, *latent_shape)``; those with NaN are failures.
            method: a name to report.
            status: how the method ended, one for all or (B,).
            nit: iterations, one number or (B,).
            norm: the norm that the method minimises, if it is not the problem's.
            confidence: the probability that no code has an objective more than 1% lower, one number or (B,), for a
                method that searches.
            seconds: wall time of each observation, (B,); None shares the time so far equally.
            pool: whether to estimate the noise level from the residuals of the batch if none is stated; residuals that
                are too large for it are outliers (:func:`~unrelu.result.pooled_noise.too_large`).

        Raises:
            InputError: z has another shape.
            OptionError: a status is not a :class:`Status`, or a confidence is not a probability.
        """
        z, size, k = np.array(z, dtype=np.float64), problem.size, problem.network.latent_dim
        if z.shape not in ((size, k), (size, *problem.network.latent_shape)):
            raise InputError(f"z has shape {z.shape}; a method returns one code a row, ({size}, {k})")
        z = z.reshape(size, k)
        reached = np.isfinite(z).all(axis=1)
        states = np.full(size, None, dtype=object)
        states[:] = status
        if not all(isinstance(s, Status) for s in states):
            raise OptionError(f"status={status!r} must be a Status, or one for each observation")
        states[among(states, JUDGED)] = Status.CONVERGED
        states[~reached & among(states, HAS_CODE)] = Status.NO_CODE
        sure = np.broadcast_to(np.asarray(confidence, dtype=np.float64), (size,))
        if not (np.isnan(sure) | ((sure >= 0) & (sure <= 1))).all():
            raise OptionError(
                f"confidence={confidence!r} is a probability, from 0 to 1, or NaN for methods without one"
            )
        x = problem.network.outputs(z)
        reached &= np.isfinite(x).reshape(size, -1).all(axis=1)
        residual = problem.residual_of(x)
        share = problem.control.elapsed() / size
        unknown: dict[str, Any] = dict.fromkeys(("p_value", *TESTS), np.full(size, np.nan))
        unjudged = cls(
            z=z,
            reconstruction=x,
            fun=problem.objective_of(residual, z, norm),
            success=np.zeros(size, dtype=bool),
            **unknown,
            confidence=np.where(reached, sure, np.nan),
            status=states,
            message=np.array([s.value for s in states], dtype=object),
            nit=np.array(np.broadcast_to(nit, (size,)), dtype=np.int64),
            seconds=np.array(np.broadcast_to(share if seconds is None else seconds, (size,)), dtype=np.float64),
            method=method,
            freedom=np.full(size, -1),
            rank=np.full(size, -1),
            identifiable=np.zeros(size, dtype=bool),
            used=np.zeros(size),
            problem=problem,
            ended=states,
            norm=norm or problem.norm,
            pool=pool,
        )
        return unjudged.judged(problem.fit_of(x))

    def with_diagnostics(
        self,
        rank: Integers,
        freedom: Integers,
        identifiable: Flags,
        used: Array,
        shape: Array | None = None,
        chance: Array | None = None,
        jacobians: Jacobians | None = None,
    ) -> Inversion:
        """Judge the same codes with further diagnostics.

        Args:
            rank: the rank of A J at each code, (B,); -1 without a code.
            freedom: the dimension of the solution set of each exact fit, (B,); -1 if unknown.
            identifiable: whether each code is identifiable, (B,).
            used: the degrees of freedom that the fit used up, (B,).
            shape: p-values of the largest entry and the structure of the residual, (B, 2); NaN for no test.
            chance: without stated noise, the probability that white noise is explained as well as y, (B,).
            jacobians: yields Jacobians of A G, for noise whose p-value depends on them
                (:class:`~unrelu.measurements.Fit`).
        """
        known = replace(self, rank=rank, freedom=freedom, identifiable=identifiable)
        return known.judged(self.problem.fit_of(self.reconstruction, used, jacobians), shape, chance)

    def judged(self, fit: Fit, shape: Array | None = None, chance: Array | None = None) -> Inversion:
        """Decide the verdict: p-value, confidence, success, status and message. No other function decides them."""
        problem, residual, used = self.problem, fit.residual, fit.used
        exact = problem.is_exact(residual)
        tests = np.column_stack([problem.p_value(fit), np.full((problem.size, 2), np.nan) if shape is None else shape])
        tests[exact, 1:] = np.nan  # the residual of an exact fit is rounding errors
        p_value = together(tests, problem.observed, used)
        confidence = np.where(exact & (problem.prior == 0), 1.0, self.confidence)
        unseen = problem.looks_noiseless & (problem.prior == 0)  # a prior keeps codes from fitting exactly
        explained = p_value >= SIGNIFICANCE
        factor = self._outlying(residual, used, exact | unseen)
        states = self.ended.copy()
        states[unseen & among(states, SEARCHED)] = Status.NO_EXACT_FIT
        out_of_distribution = np.zeros(problem.size, dtype=bool) if chance is None else (chance > CHANCE) & ~exact
        states[out_of_distribution & among(states, SEARCHED)] = Status.NO_BETTER_THAN_CHANCE
        states[(factor > 0) & ~among(states, CUT_OFF)] = Status.OUTLIER
        states[(p_value < SIGNIFICANCE) & ~among(states, CUT_OFF)] = Status.MISFIT
        states[explained] = Status.NOISE_LEVEL
        stated = problem.noise.stated
        fits = exact & (explained | (not stated))  # an error of 1e-8 max|y| may be more than the noise of small entries
        states[fits] = Status.EXACT_FIT
        states[fits & (self.freedom > 0)] = Status.NOT_UNIQUE
        confident = (confidence >= CONFIDENT) & ~unseen & ~out_of_distribution & (factor == 0)
        success = explained if stated else exact | confident
        success &= np.isfinite(self._codes).all(axis=1)  # whatever the method reports
        judged = replace(
            self, p_value=p_value, **dict(zip(TESTS, tests.T, strict=True)), confidence=confidence, status=states,
            success=success, used=used,
        )  # fmt: skip
        fitted = among(states, frozenset({Status.NOISE_LEVEL, Status.MISFIT}))
        excessive = fitted & problem.noise.too_large_for(fit)
        messages = [
            self.message[i] if state is Status.ERROR else judged.message_for(i, factor[i], bool(excessive[i]))
            for i, state in enumerate(states)
        ]
        return replace(judged, message=np.array(messages, dtype=object))

    def _outlying(self, residual: Array, used: Array, fitting: Flags) -> Array:
        """Outlying residuals as multiples of the batch's noise level, (B,); 0 for all others.

        Codes in ``fitting`` fit exactly, or should, and are left out of the estimate.
        """
        problem = self.problem
        if not (self.pool and problem.tells_level):
            return np.zeros(problem.size)
        energy = problem.objective_of(residual, self._codes, "l2")
        return too_large(np.where(fitting, np.nan, energy), problem.observed - used)

    def message_for(self, i: int, factor: float, excessive: bool) -> str:
        """The meaning of an observation's status, with the number that decided it.

        ``excessive`` says that the stated noise is too large for the residual.
        """
        status, ended = self.status[i], self.ended[i]
        text = message_of(status, *(getattr(self, name)[i] for name in TELLING))
        if status is Status.OUTLIER:
            text = f"{text} ({factor:.1f} times the batch's noise level)"
        hint = ended not in HAS_CODE or ended is Status.FLAT
        text = f"{text}; {ended.value}" if status in (Status.MISFIT, Status.OUTLIER) and hint else text
        if excessive:
            text = f"{TOO_LARGE}: it leaves so little in at most one of a million observations; the code {text}"
        return ("" if excessive else self._hint(i)) + text + self.problem.noise.note

    def _hint(self, i: int) -> str:
        """What y says of a code that is no success: that codes have another scale, or that noise was cut off."""
        problem = self.problem
        if self.success[i] or self.status[i] not in HAS_CODE:
            return ""
        hint = scale_hint(problem, i)
        if hint or self.status[i] is not Status.NO_EXACT_FIT:
            return hint
        seen, mean = problem.operator.seen(problem.size)[i], problem.mean_of(self.reconstruction)[i]
        ends, level = cut_off(problem.y[i][seen], mean[seen])
        if not ends:
            return ""
        noise = f"'gaussian:{math.ldexp(level, -problem.units.data):.2g}'"
        return f"{ends} entries are at its ends, as where black and white cut off noise: try noise={noise}; "

    def measured_in(self, norm: str) -> Inversion:
        """The same codes with ``fun`` in this norm."""
        residual = self.problem.residual_of(self.reconstruction)
        return replace(self, fun=self.problem.objective_of(residual, self._codes, norm), norm=norm)

    @flush_subnormals(False)
    def in_units_of(self, problem: Problem) -> Inversion:
        """The same result for ``problem``; this one is for its :meth:`~unrelu.problem.Problem.equilibrated` form."""
        units = self.problem.units
        if self.problem is problem:
            return self
        return replace(
            self, z=units.codes(self._codes), reconstruction=units.outputs(self.reconstruction),
            fun=units.measured(self.fun, DEGREES[self.norm]), problem=problem,
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Inversion], problem: Problem) -> Inversion:
        """Join the results of the observations of a batch, in order."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_OBSERVATION
        }
        return replace(parts[0], problem=problem, **columns)

    def with_part(self, observations: Index, part: Inversion) -> Inversion:
        """The result of a batch in which ``part`` replaces that of some observations."""
        columns: dict[str, Any] = {name: np.array(getattr(self, name)) for name in _PER_OBSERVATION}
        for name, column in columns.items():
            column[observations] = getattr(part, name)
        return replace(self, **columns)

    @classmethod
    def failed(cls, problem: Problem, method: str, why: str) -> Inversion:
        """A result without codes, for observations on which a method broke down, with the reason."""
        z = np.full((problem.size, problem.network.latent_dim), np.nan)
        lost = cls.of(problem, z, method=method, status=Status.ERROR)
        return replace(lost, message=np.full(problem.size, f"could not be inverted: {why}", dtype=object))

    def shaped(self) -> Inversion:
        """The result for the caller: codes in their shape, and no batch axis if y was one observation without it.

        Methods work with flat codes, (B, k), and so does all that comes before this call.
        """
        z = self.problem.network.shaped(self._codes)
        shaped = self if z.shape == self.z.shape else replace(self, z=z)
        if not self.problem.single:
            return shaped
        first = {name: getattr(shaped, name)[0] for name in _PER_OBSERVATION if name != "ended"}
        return replace(shaped, **{name: x.item() if isinstance(x, np.generic) else x for name, x in first.items()})

    @property
    def _codes(self) -> Array:
        """The codes of the batch, flat, (B, k)."""
        return self.z.reshape(self.problem.size, self.problem.network.latent_dim)

    def _batched(self) -> Inversion:
        """The result with a batch axis."""
        if not self.problem.single:
            return self
        columns: dict[str, Any] = {name: getattr(self, name) for name in _PER_OBSERVATION if name != "ended"}
        kinds = {"status": object, "message": object}
        columns = {name: np.array([value], kinds.get(name)) for name, value in columns.items()}
        return replace(self, problem=replace(self.problem, single=False), **columns)

    # --- a batch as a sequence ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self.problem.single:
            raise TypeError(
                "a result of one observation has no len(); its attributes are that observation's. Pass a batch, "
                "y[None], for a result with arrays"
            )
        return self.problem.size

    def __bool__(self) -> bool:
        """Whether there is any observation; ``success`` says whether it was found."""
        return self.problem.size > 0

    def __iter__(self) -> Iterator[Inversion]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Inversion:
        """The result of one observation, or of several by a slice, a boolean mask (B,) or an array of indices.

        Raises:
            TypeError: this is the result of one observation, without a batch axis.
            IndexError: there is no such observation, or the index is not an integer, slice, mask or array of integers.
        """
        if self.problem.single:
            raise TypeError("a result of one observation cannot be indexed: r.z, r.status, ... are that observation's")
        chosen = np.arange(len(self))[index]
        if chosen.ndim > 1:
            raise IndexError(f"a result is indexed by observations, r[3], r[r.success], r[[3, 7]]; got {index!r:.80}")
        rows = np.atleast_1d(chosen)
        columns = {name: getattr(self, name)[rows] for name in _PER_OBSERVATION}
        starts = None if self.problem.z0 is None else self.problem.z0[rows]
        part = replace(self, problem=self.problem.part(rows, z0=starts), **columns)
        return part if chosen.ndim else replace(part, problem=replace(part.problem, single=True)).shaped()

    # --- printing, pictures, files ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self.problem.single:
            return f"<Inversion: one observation, {self.status.name}, {'success' if self.success else 'no success'}>"
        good = int(self.success.sum())
        return f"<Inversion: {count(self.problem.size, 'observation')}, {good} successful>"

    def __str__(self) -> str:
        """The verdict in at most 15 lines: one observation in words, or the statuses of a batch and its worst."""
        if not self.problem.single:
            return "\n".join(batch_lines(self._summary()))
        return "\n".join(observation_lines(self._summary()))

    def _repr_html_(self) -> str:
        """For notebooks: the verdict with thumbnails of at most 8 observations, the worst of a batch."""
        from unrelu.result.result_pictures import thumbnails  # noqa: PLC0415 -- Matplotlib, where it is used

        summary, batch = self._summary(), self._batched()
        shown = summary.worst_first()[:_DRAWN]
        images = thumbnails(batch.problem, batch.reconstruction, shown)
        if self.problem.single:
            return observation_html(summary, images[0])
        return batch_html(summary, shown, images)

    def plot(
        self,
        observations: Any = None,
        max_observations: int = _DRAWN,
        shape: tuple[int, ...] | None = None,
        part: str | None = None,
    ) -> ObservationFigure:
        """Draw observation, reconstruction and residual, a row for each observation, with common scales.

        Black and white are the ends of the generator's own range: those of a sigmoid or tanh at its end, of the scale
        of pictures that its outputs are on, or the least and the largest of typical outputs.

        Outputs (H, W), (1, H, W) and (3, H, W) are drawn as pictures. So are flat ones with a square number of entries
        that vary as in a picture. All others are curves. Hidden entries stay blank. The colours of residuals are
        symmetric about 0.

        Args:
            observations: an index or several; None for the first ones.
            max_observations: the most rows; further observations are not drawn.
            shape: the shape in which outputs are drawn, (H, W) or (3, H, W) for pictures, (n,) for curves.
            part: the named part of the output to draw (:meth:`unrelu.Generator.with_parts`); None draws all of it.

        Returns:
            A Matplotlib figure that is not registered with pyplot: a notebook shows it, ``savefig`` writes it.

        Raises:
            OptionError: ``max_observations`` is not an integer of at least 1, or outputs cannot have that ``shape``.
            InputError: the part is unknown, or a matrix or function mixed the parts.
            IndexError: there is no such observation.

        >>> import unrelu
        >>> net = unrelu.zoo.load("mnist-relu")
        >>> figure = unrelu.invert(net, unrelu.zoo.digits()[0][:3].reshape(3, 784), "lm").plot([0, 2])
        >>> len(figure.axes)  # two rows of three, and the colour bar
        7
        """
        from unrelu.result.result_pictures import drawn_rows, panels  # noqa: PLC0415 -- Matplotlib, where it is used

        batch, single = self._batched(), self.problem.single
        rows = drawn_rows(self.problem, observations, max_observations)
        labels = [_label(batch, int(i), numbered=not single) for i in rows]
        title = f"method {self.method}" if single else f"{len(rows)} of {len(batch)} observations, method {self.method}"
        if part is not None:
            self._place(part)
            title = f"{part}, {title}"
        return panels(batch.problem, batch.reconstruction, rows, labels, shape, part).figure(title)

    def save(self, path: str | Path) -> None:
        """Write the result to a ``.npz`` file, which :func:`unrelu.load_result` reads and verifies.

        The file contains codes, reconstructions, the verdict, y, noise, bounds, norm, prior, operator, options, the
        version, the network's fingerprint and a digest. Nothing is pickled. The file appears complete or not at all.
        For a measurement given as code, A G(z) at the codes is written.

        Raises:
            InputError: the suffix is not .npz, or the folder does not exist.
            StorageError: the disk is full or cannot be written to.
        """
        write_result_file(Path(path), vars(self._batched()) | {"problem": self.problem})

    def to_frame(self, codes: bool = False) -> DataFrame:
        """Return the verdict as a pandas data frame: a row for each observation, a column for each number.

        Args:
            codes: whether to add :attr:`parameters` as columns.

        Raises:
            InputError: a coordinate has the name of a column of the verdict.
            MissingPackageError: pandas is not installed.

        >>> import unrelu
        >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
        >>> frame = unrelu.invert(net, net([[0.5], [0.25]])).to_frame(codes=True)
        >>> frame[["status", "success", "z0"]].values.tolist()
        [['EXACT_FIT', True, 0.5], ['EXACT_FIT', True, 0.25]]
        """
        columns = self._columns()
        if codes:
            parameters = self.problem.names.parameters_of(self._codes).T
            columns = with_parameters(columns, self.problem.names.parameter_names, parameters)
        return data_frame(columns, np.arange(self.problem.size))

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of the verdict, (B,) each."""
        batch = vars(self._batched())
        special = {
            "status": np.array([status.name for status in batch["status"]], dtype=object),
            "residual": self._differences(_residual_norm(self.norm)),
        }
        return {name: special[name] if name in special else batch[name] for name in _COLUMNS}

    def _summary(self) -> VerdictSummary:
        """Everything that a printed verdict contains."""
        problem, z = self.problem.given or self.problem, self._codes
        active = None if problem.bounds.none else problem.bounds.active(z)
        noise = str(problem.noise) if problem.noise.stated else ""
        meanings = {status.name: status.value for status in np.atleast_1d(self.status)}
        network, own = problem.names, {}
        if self.problem.single:
            named = zip(network.coordinate_names, network.parameters_of(z)[0], strict=False)
            own = {
                "code": z[0], "chi_square": self._chi_square(), "largest": float(self._differences("linf")[0]),
                "misfits": self._misfits(), "parameters": {name: float(value) for name, value in named if name},
            }  # fmt: skip
        return VerdictSummary(
            self._columns(), meanings, self.method, noise, _residual_norm(self.norm), z.shape[1],
            float(self.options.get("radius", RADIUS)) if self.method == "auto" else RADIUS, active,
            names=[network.name_of(j) for j in range(z.shape[1])], **own,
        )  # fmt: skip

    def _misfits(self) -> dict[str, float]:
        """The root mean square of the residual in each observed part of one observation, in units of stated noise.

        Empty if the output has no named parts, a matrix or function mixed them, or the stated noise has no size.
        """
        problem = self.problem.given or self.problem
        sizes = stated_sizes(problem.noise, problem.operator, 1)
        if not problem.operator.output_shaped or (sizes is None and problem.noise.stated):
            return {}
        seen = known_entries(problem.noise, problem.operator, 1)[0]
        relative = problem.differences_of(self.reconstruction[None])[0] / (1.0 if sizes is None else sizes[0])
        shown = {name: relative[place][seen[place]] for name, place in problem.names.places.items()}
        return {name: float(np.sqrt(np.mean(part**2))) for name, part in shown.items() if part.size}

    def _chi_square(self) -> tuple[float, float]:
        """Chi-square of one observation under Gaussian noise, and its degrees of freedom; NaN under other noise."""
        problem = self.problem
        level = problem.noise.dispersion_parameter
        if problem.noise.likelihood is not None or not level > 0:
            return math.nan, math.nan
        square = np.square(problem.residual_of(self.reconstruction[None])).sum() / level
        return float(square), float(problem.observed[0] - self.used)

    def _differences(self, norm: str) -> Array:
        """``|y - A G(z)|`` from the reconstructions, (B,)."""
        outputs = self.reconstruction[None] if self.problem.single else self.reconstruction
        return norms(self.problem.differences_of(outputs), norm)

    def laplace(self) -> Laplace:
        r"""How far the truth can be from z under the stated noise, by the linear region of z: standard deviations.

        .. math:: C = (J^T W J + P)^{-1}, \qquad \operatorname{std} G(z) = \sqrt{\operatorname{diag}(J_G C J_G^T)}

        with the Jacobians J of A G and J_G of G, the Fisher information W of the noise and the inverse covariance P of
        the prior (:mod:`unrelu.result.laplace_approximation`). A coordinate at a bound has a one-sided deviation.
        Without a prior, variances are infinite where the data leave z open.

        It is local, and says whether it holds around z: ``holds``, from the shares of the posterior within its
        ellipsoids. It knows no other optimum. The time is that of a Jacobian, k derivatives of G, and some 400
        evaluations of G for each code.

        Returns:
            A :class:`~unrelu.result.laplace_approximation.Laplace`, with arrays shaped as in this result.

        Raises:
            InputError: the noise is not stated, or has no density (uniform, outliers, rounding); the codes minimise
                another norm than l2; or the result was loaded without its network.

        >>> import unrelu
        >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])  # G(z) = relu((2 z, -z, z))
        >>> local = unrelu.invert(net, [1.1, 0.0, 0.4], noise="gaussian:0.1").laplace()
        >>> local.std.round(4), local.reconstruction_std.round(4)  # 0.1 / sqrt(2^2 + 1^2)
        (array([0.0447]), array([0.0894, 0.    , 0.0447]))
        """
        return laplace_approximation(self.problem, self._codes, self.norm)

    @property
    def parameters(self) -> dict[str, Any]:
        """The coordinates of z by name, each a number or (B,); z0, z1, ... where they have none.

        A nuisance parameter (:func:`unrelu.extend`) is reported itself, in place of its coordinate.
        """
        network = self.problem.names
        values = network.parameters_of(self._codes)
        columns = values[0].tolist() if self.problem.single else values.T
        return dict(zip(network.parameter_names, columns, strict=True))

    @property
    def active_bounds(self) -> npt.NDArray[np.int8]:
        """The bounds that z is at, shaped like z: -1 lower, 1 upper, 0 neither, as in scipy.optimize."""
        return self.problem.bounds.active(self._codes).reshape(self.z.shape)

    def residual(self, norm: str = "l2", part: str | None = None) -> Any:
        """``|y - A G(z)|`` in "l2", "l1" or "linf", in the units of y, recomputed from z: a float, or (B,).

        ``part`` takes the observed entries of one named part of the output (:meth:`unrelu.Generator.with_parts`);
        without any, the residual is NaN.

        Raises:
            InputError: the norm or the part is unknown, or a matrix or function mixed the parts.
        """
        if norm not in ("l2", "l1", "linf"):
            raise InputError(f"norm {norm!r} is unknown; use 'l2', 'l1' or 'linf'")
        differences = self.problem.differences_of(self.problem.network.outputs(self._codes))
        if part is not None:
            place, stated = self._place(part), self.problem.given or self.problem
            seen = known_entries(stated.noise, stated.operator, len(differences))[:, place].any(axis=1, keepdims=True)
            differences = np.where(seen, differences[:, place], np.nan)
        values = norms(differences, norm)
        return float(values[0]) if self.problem.single else values

    def _place(self, part: str) -> slice:
        problem = self.problem.given or self.problem
        places = problem.names.places if problem.operator.output_shaped else {}
        if part not in places:
            named = ", ".join(places) or "none: the output has no named parts, or operator= mixed them"
            raise InputError(f"part={part!r} is unknown; those of the observation are {named}")
        return places[part]


# The attributes with an entry for each observation.
_PER_OBSERVATION = [f.name for f in fields(Inversion) if f.name not in ("method", "problem", "options", "norm", "pool")]


def _residual_norm(norm: str) -> str:
    """The norm in which residuals are printed: l2 for a loss that is no norm."""
    return norm if norm in ("l1", "linf") else "l2"


def _label(batch: Inversion, i: int, numbered: bool) -> str:
    """The text beside the pictures of an observation."""
    lines = [str(i)] if numbered else []
    lines.append(batch.status[i].name)
    if math.isfinite(batch.p_value[i]):
        lines.append(f"p = {probability(batch.p_value[i])}")
    elif math.isfinite(batch.confidence[i]):
        lines.append(f"confidence {probability(batch.confidence[i])}")
    return "\n".join(lines)

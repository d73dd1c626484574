"""The result of a method as its caller sees it: codes with a verdict in words, pictures, files and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from unrelu.display.text_tables import WORST, Printed
from unrelu.errors import InputError, OptionError
from unrelu.measurements.objectives import norms
from unrelu.measurements.unknown_level import FittedGaussian, FittedLevel
from unrelu.measurements.whitening import known_entries, stated_sizes
from unrelu.problem import Jacobians, Problem
from unrelu.result._judged_codes import COLUMNS, JudgedCodes
from unrelu.result.answers import DRAWN, Answers, Panels, squeezed
from unrelu.result.laplace_approximation import Laplace, laplace_approximation
from unrelu.result.optima import Optima
from unrelu.result.residual_tests import TESTS
from unrelu.result.result_file import AbsentGenerator, write_result_file
from unrelu.result.status import HAS_CODE, JUDGED, Ending, Status, among, meaning_of, p_values
from unrelu.result.uniqueness import Uniqueness
from unrelu.result.verdict_text import (
    IMAGES,
    TOO_LARGE,
    code_text,
    confidence_text,
    data_frame,
    level_text,
    printed_verdicts,
    uniqueness,
    worst_first,
)
from unrelu.runtime.array_types import Array, Index, Integers, Objects
from unrelu.runtime.words import count, duration, listed, number, p_value_text, probability, share
from unrelu.thresholds import RADIUS

if TYPE_CHECKING:
    from pandas import DataFrame

    from unrelu.display.observation_figure import ObservationFigure

# The time limit, in seconds, for the search for other optima while printing.
_PATIENCE = 1.0
# The largest number of bounds that are printed by name, and of parts of an output.
_NAMED, _NAMED_PARTS = 5, 8


class _Shown:
    """A column of the batch as users see it: with its batch axis, or the entry of the only observation."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, result: Any, owner: type) -> Any:
        return self if result is None else squeezed(result.problem, getattr(result.batch, self.name))


@dataclass(frozen=True, eq=False, repr=False)
class Inversion(Answers):
    r"""Latent codes for one observation or a batch.

    All arrays have the batch's leading shape: scalars for one observation, (B,) for a batch. ``print(r)`` prints the
    verdict in words. ``r[i]`` is the result for observation i. A slice, a boolean mask or an array of indices selects
    the results for several. ``len(r)`` and iteration work for a batch.

    Attributes:
        z: codes, ``latent_shape`` or ``(B, *latent_shape)``. NaN for an observation not reached before a limit.
        reconstruction: G(z), in the network's output shape.
        fun: the objective at z, in ``norm``, with the prior. In l2 it is :math:`|r|_2^2` if all errors have one size S,
            stated as a number or as an array of equal entries; chi-square is then ``fun / S**2``. If sizes differ or
            errors are correlated, residuals are whitened, and ``fun`` is chi-square. For counts it is the deviance.
        success: whether the answer can be relied on. With stated noise, the code must explain y: p_value >= 0.01.
            Without, the code must fit exactly, or all of these hold: confidence >= 0.99; y may have noise (outputs
            without a least value, or entries out of their range); y is explained better than white noise would be
            (:func:`~unrelu.diagnostics._goodness_of_fit.chance`); and the residual is not an outlier of the batch.
        p_value: goodness of fit: the probability that the stated noise leaves a residual at least as unlikely as z's,
            by its size, its largest entry and its structure. The effective degrees of freedom that the fit used up are
            taken into account (:mod:`unrelu.diagnostics._goodness_of_fit`). NaN without stated noise or without a code;
            1 for an exact fit if the noise is below the rounding errors of y.
        p_size, p_largest, p_structure: the p-values of the three tests. The test of the size is one-sided,
            :math:`P(\chi^2_{m - u} \ge \chi^2)` for Gaussian noise. ``p_value`` is the p-value of the least of them,
            weighted .45, .45 and .1, so it may be less than p_size. NaN for a test that was not made: the last two need
            Gaussian noise.
        confidence: the probability that no code has an objective more than 1% lower. It is about codes within the
            bounds or, without bounds, up to the length :math:`10 \sqrt k` or that of z if it is longer (option
            ``radius`` of "auto"). It follows from where descents from independent starts ended
            (:mod:`unrelu.search.confidence`). How far to trust their agreement is learned on this generator, by
            simulation (:mod:`unrelu.search.learned_prior`) or by :func:`unrelu.calibrate`. Without learning, the
            confidence stays below 0.99. 1 for an exact fit without a prior; NaN in l1 and linf, for methods that do not
            search, and without a code.
        verdict: the status of each observation, or an :class:`~unrelu.result.Ending` that says more.
        message: the meaning of the status, with the numbers that decided it.
        nit: iterations (linear programs, Newton or gradient steps).
        seconds: wall time of each observation; observations inverted together share their time equally.
        method: the method's name.
        freedom: the dimension of the set of codes near z that fit equally well; -1 if the fit is not exact or the
            dimension could not be determined. At kinks it is the largest dimension over the sign patterns that meet
            there, a lower bound if there are more than 256.
        rank: the rank of A J, with J the Jacobian of G at z; -1 without a code. Both ``rank`` and ``identifiable`` are
            computed when the verdict needs them, or on demand.
        identifiable: whether no other code near z has the same A G(z): usually, that the rank is k. An exact fit must
            also determine z to 1e-6 of its length (1e-3 in single precision), given its residual and the least singular
            value. A distant code may still fit as well. See :func:`unrelu.identifiability`.
        used: u, the effective degrees of freedom that the fit used up (:mod:`unrelu.diagnostics._goodness_of_fit`).
        options: the options of the method, defaults included.
        norm: the norm of ``fun``: "l2", "l1", "linf" or "huber" (:mod:`unrelu.measurements.objectives`).
        pool: whether the noise level was estimated from the residuals of the batch, see :meth:`of`.
        ended: how the method ended, (B,), before the residual was judged.
        restarts: the ends of each observation's restarts, (B,), each an array (c, k), not refined.
        find_optima: computes :attr:`optima` within a time limit in seconds.
        batch: all of these with a batch axis, and flat codes, whether y has a batch axis or not.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> r = unrelu.invert(net, [[1.0, 0.0, 0.5], [1.0, 0.0, 0.7]], noise=unrelu.Uniform(0.01))
    >>> r.success, r.p_value, r.residual("linf").round(3)
    (array([ True, False]), array([1., 0.]), array([0.   , 0.133]))
    >>> r[r.success]
    <Inversion: 1 observation, 1 successful>
    """

    _called = ("result", "r", "r.z, r.status")

    batch: JudgedCodes
    options: Mapping[str, Any] = field(default_factory=dict)
    find_optima: Callable[[Inversion, float], list[Optima] | None] | None = None
    problem: Problem = field(init=False)
    method: str = field(init=False)
    norm: str = field(init=False)
    pool: bool = field(init=False)
    ended: Objects = field(init=False)
    restarts: Objects = field(init=False)

    reconstruction, fun, success, confidence, verdict, message = (_Shown() for _ in range(6))
    p_value, p_size, p_largest, p_structure = (_Shown() for _ in range(4))
    nit, seconds, freedom, rank, identifiable, used = (_Shown() for _ in range(6))

    def __post_init__(self) -> None:
        for name in ("problem", "method", "norm", "pool", "ended", "restarts"):
            object.__setattr__(self, name, getattr(self.batch, name))

    @classmethod
    def of(
        cls,
        problem: Problem,
        z: Array,
        *,
        method: str,
        status: Status | Ending | npt.ArrayLike = Status.CONVERGED,
        nit: npt.ArrayLike = 0,
        norm: str | None = None,
        seconds: npt.ArrayLike | None = None,
        confidence: npt.ArrayLike = math.nan,
        pool: bool = False,
        restarts: Sequence[Array] = (),
    ) -> Self:
        """Judge codes: compute outputs, objectives and the verdict. Your own method ends with this call.

        A verdict from the residual (exact fit, fit to the stated noise, misfit) overrides the ``status`` that is passed
        in. If a method passes one of these itself, CONVERGED replaces it. :func:`unrelu.invert` judges the codes once
        more, with the degrees of freedom that the fit used up.

        Args:
            problem: the problem that was solved.
            z: codes, (B, k) or ``(B, *latent_shape)``; codes with NaN are failures.
            method: a name to report.
            status: how the method ended, one for all or (B,); an :class:`~unrelu.result.Ending` says more.
            nit: iterations, one number or (B,).
            norm: the norm that the method minimises, if it is not the problem's norm.
            confidence: the probability that no code has an objective more than 1% lower, one number or (B,), for a
                method that searches.
            seconds: wall time of each observation, (B,); None divides the time so far equally.
            pool: whether to estimate the noise level from the residuals of the batch if none is stated. Residuals that
                are too large for it are outliers (:func:`~unrelu.result.residual_tests.too_large`).
            restarts: the ends of each observation's restarts, (c, k) each, for a method that searches.

        Raises:
            InputError: z has another shape.
            OptionError: a status is not a :class:`Status`, or a confidence is not a probability.
        """
        z, size, k = np.array(z, dtype=np.float64), problem.size, problem.network.latent_dim
        if z.shape not in ((size, k), (size, *problem.network.latent_shape)):
            raise InputError(f"z has shape {z.shape}; a method returns one code a row, ({size}, {k})")
        z = z.reshape(size, k)

        def full(value: Any, kind: Any = np.float64) -> npt.NDArray[Any]:
            return np.array(np.broadcast_to(np.asarray(value, dtype=kind), (size,)))

        ends, sure = full(status, object), full(confidence)
        if not all(isinstance(end, Status | Ending) for end in ends):
            raise OptionError(f"status={status!r} must be a Status, or one for each observation")
        if not (np.isnan(sure) | ((sure >= 0) & (sure <= 1))).all():
            raise OptionError(
                f"confidence={confidence!r} is a probability, from 0 to 1, or NaN for methods without one"
            )
        x = problem.network.outputs(z)
        known = np.isfinite(z).all(axis=1)
        ends[among(ends, JUDGED)] = Status.CONVERGED
        ends[~known & among(ends, HAS_CODE)] = Ending.NO_CODE
        sure[~known | ~np.isfinite(x).reshape(size, -1).all(axis=1)] = np.nan
        unknown: dict[str, Any] = {**dict.fromkeys(("p_value", *TESTS), full(np.nan)), "success": full(False, np.bool_)}
        batch = JudgedCodes(
            problem, method, norm or problem.norm, pool, z, x, verdict=ends, ended=ends, confidence=sure,
            restarts=np.fromiter(map(problem.units.codes, restarts or [z[:0]] * size), object),
            used=full(0), freedom=full(-1, np.int64), uniqueness=Uniqueness.unknown(size), nit=full(nit, np.int64),
            fun=problem.objective_of(problem.residual_of(x), z, norm),
            seconds=full(problem.control.elapsed() / size if seconds is None else seconds),
            message=np.array([meaning_of(end) for end in ends], dtype=object), **unknown,
        )  # fmt: skip
        return cls(batch.judged(problem.fit_of(x)))

    def with_diagnostics(
        self,
        freedom: Integers,
        uniqueness: Uniqueness,
        used: Array,
        shape: Array | None = None,
        chance: Array | None = None,
        jacobians: Jacobians | None = None,
    ) -> Self:
        """Judge the same codes with further diagnostics.

        Args:
            freedom: the dimension of the solution set of each exact fit, (B,); -1 if unknown.
            uniqueness: the rank of A J at each code, and whether it is identifiable.
            used: the degrees of freedom that the fit used up, (B,).
            shape: p-values of the largest entry and the structure of the residual, (B, 2); NaN if not tested.
            chance: without stated noise, the probability that a fit explains white noise as well as y, (B,).
            jacobians: yields Jacobians of A G, for noise whose p-value depends on them
                (:class:`~unrelu.measurements.Fit`).
        """
        known, problem = replace(self.batch, freedom=freedom, uniqueness=uniqueness), self.problem
        fit = problem.fit_of(known.reconstruction, used, jacobians)
        return replace(self, batch=known.judged(fit, shape, chance))

    @property
    def z(self) -> Array:
        """The codes, in the shape that the network takes."""
        return self.problem.network.shaped(self._flat)

    @property
    def status(self) -> Any:
        """The :class:`Status` of each observation: how it ended, and what to do next."""
        return squeezed(self.problem, self.batch.status)

    @property
    def levels(self) -> dict[str, FittedLevel]:
        """The fitted levels of the noise with their standard errors, by part, or by "extra" or "relative".

        Empty if the noise has no unknown level. At the end of a range, the error is that of a level near this end.
        """
        noise = self.problem.stated.noise
        known = noise.by_name() if isinstance(noise, FittedGaussian) else {}
        return {name: FittedLevel(*(squeezed(self.problem, each) for each in pair)) for name, pair in known.items()}

    @property
    def _flat(self) -> Array:
        return np.asarray(squeezed(self.problem, self.batch.z))

    def _part(self, rows: Index, problem: Problem) -> Self:
        return replace(self, batch=self.batch.subset(rows, problem))

    # --- printing, pictures, files ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self.problem.single:
            return f"<Inversion: one observation, {self.status.name}, {'success' if self.success else 'no success'}>"
        return f"<Inversion: {count(self.problem.size, 'observation')}, {int(self.success.sum())} successful>"

    def _printed(self, notebook: bool) -> Printed:
        problem, method = self.problem.stated, f"method {self.method}"
        noise = str(problem.noise) if problem.noise.stated else ""
        if self.problem.single:
            excess = f"; {TOO_LARGE}" if self.message.startswith(TOO_LARGE) else ""
            title = f"One observation, {method}: {'successful' if self.success else 'no success'}{excess}"
            pictures = [("", IMAGES, self._thumbnails(np.arange(1)))] if notebook else []
            return Printed(title, self._entries(noise), pictures)
        columns, places = self._columns(), np.arange(self.problem.size)
        most = DRAWN if notebook else WORST
        images = self._thumbnails(worst_first(columns)[:most]) if notebook else ()
        at_bounds = int(np.any(problem.bounds.active(self.batch.z) != 0, axis=1).sum())
        title = method + (f", noise {noise}" if noise else ", no noise stated")
        explained = None if noise else self._explained_shares()
        return printed_verdicts(columns, title, self._norm, places, most, images, at_bounds, explained)

    def _thumbnails(self, rows: Index) -> Any:
        from unrelu.display.answer_figures import thumbnails  # noqa: PLC0415 -- Matplotlib, where it is used

        outputs = self.batch.reconstruction[rows]
        return thumbnails(self._panels(rows, outputs, [""] * len(rows)), rows) if len(rows) else []

    def _entries(self, noise: str) -> list[tuple[str, str]]:
        """Return the printed lines about one observation, as names and texts."""
        problem, network, z = self.problem, self.problem.names, self._flat
        names, fixed = [network.name_of(j) for j in range(len(z))], problem.bounds.fixed
        held = [f"{names[j]} = {value:.5g}" for j, value in enumerate(network.parameters_of(z)) if fixed[j]]
        fit = p_values(self.p_value, *(getattr(self, name) for name in TESTS), under=f" under {noise}")
        left = f"residual {number(self._differences(self._norm)[0])} ({self._norm}), "
        left += f"largest entry {number(self._differences('linf')[0])}; "
        left += self._chi_square() + (fit if noise else self._explained())
        none = problem.bounds.free.none
        reach = "" if none else " (within the bounds)"
        if none and self.method == "auto" and self.confidence < 1:
            radius = float(self.options.get("radius", RADIUS)) * math.sqrt(len(z))
            reach = f" (of length up to {max(radius, float(np.linalg.norm(z))):.3g})"
        learned = bool(self.confidence == 1 or self.options.get("learn", True))
        levels = [level_text(name, level) for name, level in self.levels.items()]
        advice = problem.stated.noise.on_misfit if self.status is Status.MISFIT else ""
        active, known = problem.bounds.active(z), bool(np.isfinite(z).all())
        at = [f"{names[j]} at its {'lower' if active[j] < 0 else 'upper'} bound" for j in np.flatnonzero(active)]
        return [
            (self.status.name, self.message.removesuffix(f"; {advice}")),
            ("code", code_text(z, network) if known else ""),
            ("fixed", listed(held, _NAMED)),
            ("fit", left if known else "no code, so no fit"),
            ("noise level", listed(levels) if levels else advice),
            ("by part", self._by_part("residual / noise" if noise else "residual")),
            ("confidence", confidence_text(self.confidence, self.method, reach, learned)),
            ("uniqueness", uniqueness(self.identifiable, self.rank, self.freedom, int((~problem.bounds.fixed).sum()))),
            ("active bounds", listed(at, _NAMED)),
            ("other optima", self._other_optima()),
            ("effort", f"{count(self.nit, 'iteration')}, {duration(self.seconds)}"),
        ]

    def _label(self, i: int) -> str:
        batch = self.batch
        lines, p, sure = [batch.status[i].name], batch.p_value[i], batch.confidence[i]
        if math.isfinite(p):
            lines.append(p_value_text(p))
        elif math.isfinite(sure):
            lines.append(f"confidence {probability(sure)}")
        return "\n".join(lines)

    def _figure(self, rows: Index, of: str, panels: Panels, place: slice) -> ObservationFigure:
        return panels(self.batch.reconstruction[rows]).figure(f"{of}method {self.method}")

    def _write(self, path: Path) -> None:
        write_result_file(path, self.batch, self.options)

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
        names, values = self.problem.names.parameter_names, self.problem.names.parameters_of(self.batch.z).T
        return data_frame(self._columns(), np.arange(self.problem.size), *((names, values) if codes else ()))

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of the verdict, (B,) each."""
        columns = {"status": np.array([status.name for status in self.batch.status], dtype=object)}
        for name, column in COLUMNS.items():
            columns |= {name: getattr(self.batch, name)} if column.reported else {}
            columns |= {"residual": self._differences(self._norm)} if name == "fun" else {}
        return columns

    # --- what follows from the codes ----------------------------------------------------------------------------------

    @property
    def active_bounds(self) -> npt.NDArray[np.int8]:
        """The bounds that z is at, shaped like z: -1 lower, 1 upper, 0 neither, as in scipy.optimize."""
        return self.problem.bounds.active(self.batch.z).reshape(self.z.shape)

    def laplace(self) -> Laplace:
        """Estimate how far the truth can be from z under the stated noise, by standard deviations in z's linear region.

        The estimate is local. It says whether it holds around z (:mod:`unrelu.result.laplace_approximation`). For each
        code it takes one Jacobian (k derivatives of G) and some 800 evaluations of G.

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
        return laplace_approximation(self.problem, self.batch.z, self.norm)

    @cached_property
    def optima(self) -> Any:
        """The distinct local optima that "auto" found, best first: an :class:`~unrelu.result.optima.Optima`.

        For a batch, it is a tuple of these. One optimum is z. The others are ends of restarts, refined at the first
        access. An exact fit ends a search early; ``restarts=50`` makes more restarts. Other methods have only z.

        Raises:
            InputError: the result was loaded without its network, or is not from :func:`unrelu.invert`.

        >>> import unrelu
        >>> net = unrelu.from_arrays([[[1.0], [-1.0]], [[1.0, 1.0]]])  # G(z) = |z|
        >>> print(unrelu.invert(net, [2.0], noise="gaussian:0.1", bounds=(-4.0, 4.0)).optima)
        2 distinct local optima, best first
             fun  p-value  explains y  reached  z0
          0    0        1         yes        5   2
          1    0        1         yes        1  -2
        """
        if self.find_optima is None:
            raise InputError("optima are known of results of unrelu.invert; call it with method=your_function")
        found = self.find_optima(self, math.inf)
        assert found is not None
        return squeezed(self.problem, tuple(found))

    def residual(self, norm: str = "l2", part: str | None = None) -> Any:
        """Recompute the residual ``|y - A G(z)|`` from z, in "l2", "l1" or "linf", in the units of y: a float, or (B,).

        ``part`` selects the observed entries of one named part of the output (:meth:`unrelu.Generator.with_parts`). If
        there are none, the residual is NaN.

        Raises:
            InputError: the norm or the part is unknown, or a matrix or function mixed the parts.
        """
        if norm not in ("l2", "l1", "linf"):
            raise InputError(f"norm {norm!r} is unknown; use 'l2', 'l1' or 'linf'")
        differences = self.problem.differences_of(self.problem.network.outputs(self.batch.z))
        if part is not None:
            place, stated = self._place(part), self.problem.stated
            seen = known_entries(stated.noise, stated.operator, len(differences))[:, place].any(axis=1, keepdims=True)
            differences = np.where(seen, differences[:, place], np.nan)
        return squeezed(self.problem, norms(differences, norm))

    @property
    def _norm(self) -> str:
        """The norm in which residuals are printed; l2 for the Huber loss."""
        return self.norm if self.norm in ("l1", "linf") else "l2"

    def _differences(self, norm: str) -> Array:
        """Compute ``|y - A G(z)|`` from the reconstructions, (B,)."""
        return norms(self.problem.differences_of(self.batch.reconstruction), norm)

    def _other_optima(self) -> str:
        """Describe the best other optimum that explains the only observation, and count the rest; empty if none."""
        known = len(self.restarts[0]) and not isinstance(self.problem.network, AbsentGenerator)
        if known and self.find_optima and "optima" not in vars(self):
            if (found := self.find_optima(self, _PATIENCE)) is None:
                return ""
            vars(self)["optima"] = found[0]  # as the cached property keeps it
        others = [one for one in vars(self).get("optima", ()) if one.explains and (one.z != self.z).any()]
        if not others:
            return ""
        fit = f"{p_value_text(others[0].p_value)}, " if self.problem.noise.stated else ""
        more = f", and {len(others) - 1} more" if len(others) > 1 else ""
        where = code_text(others[0].z.ravel(), self.problem.names)
        return f"another one explains y as well: {fit}at {where}{more}; see r.optima"

    def _by_part(self, unit: str) -> str:
        """Format the residual's root mean square in each observed part of one observation, in units of stated noise.

        Empty if the output has no named parts, a matrix or function mixed them, or the stated noise has no size.
        """
        problem = self.problem.stated
        sizes = stated_sizes(problem.noise, problem.operator, 1)
        if not problem.operator.output_shaped or (sizes is None and problem.noise.stated):
            return ""
        seen = known_entries(problem.noise, problem.operator, 1)[0]
        relative = problem.differences_of(self.batch.reconstruction)[0] / (1.0 if sizes is None else sizes[0])
        parts = {name: relative[place][seen[place]] for name, place in problem.names.places.items()}
        said = [f"{name} {number(float(np.sqrt(np.mean(part**2))))}" for name, part in parts.items() if part.size]
        return f"{listed(said, _NAMED_PARTS)} ({unit}, root mean square)" if said else ""

    def _explained(self) -> str:
        """Describe the fit of one observation whose noise is not stated."""
        text, size = "no noise was stated, so there is no p-value", float(np.square(self.problem.y[0]).sum())
        if self.status in (Status.EXACT_FIT, Status.NOT_UNIQUE) or not size:
            return text
        part = share(self._explained_shares()[0])
        return f"{text}: the code explains {part} of |y|^2, and nothing is known of the rest"

    def _explained_shares(self) -> Array:
        """Compute the share of |y|^2 that each code explains, (B,)."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            unexplained = np.square(self._differences("l2")) / np.square(self.problem.y).sum(axis=1)
        return np.asarray(np.maximum(1 - unexplained, 0.0))

    def _chi_square(self) -> str:
        """Format chi-square for one observation under Gaussian noise, its degrees of freedom and its own p-value."""
        level, left = self.problem.noise.dispersion_parameter, float(self.problem.observed[0] - self.used)
        if self.problem.noise.likelihood is not None or not level > 0:
            return ""
        value = float(np.square(self.problem.residual_of(self.batch.reconstruction)).sum() / level)
        if not math.isfinite(value):
            return ""
        of = f"for {left:.4g} degrees of freedom" if left >= 0.5 else "and no degree of freedom left"
        if np.any(self.problem.noise.size_fitted):
            return f"chi-square {number(value)} {of}, by the fitted level; "
        return f"chi-square {number(value)} {of}, {p_value_text(self.p_size)}; "

"""The result of a method, as its caller sees it: codes with their verdict in words, pictures, files and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.display.text_tables import Printed
from unrelu.errors import InputError
from unrelu.measurements.objectives import norms
from unrelu.measurements.whitening import known_entries, stated_sizes
from unrelu.result._judged_codes import JudgedCodes
from unrelu.result._residual_tests import TESTS
from unrelu.result.laplace_approximation import Laplace, laplace_approximation
from unrelu.result.result_file import write_result_file
from unrelu.result.status import p_values
from unrelu.result.verdict_text import (
    IMAGES,
    TOO_LARGE,
    VerdictTable,
    bounds_text,
    chi_square_text,
    code_text,
    confidence_text,
    data_frame,
    parts_text,
    uniqueness,
    with_parameters,
)
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.words import count, duration, number, probability
from unrelu.thresholds import RADIUS

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
class Inversion(JudgedCodes):
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
            would be (:func:`~unrelu.diagnostics._goodness_of_fit.chance`), and the residual is not an outlier of the
            batch.
        p_value: goodness of fit: the probability that the stated noise leaves a residual as unlikely as that of z, by
            its size, its largest entry and its structure. The effective degrees of freedom that the fit used up are
            taken into account (:mod:`unrelu.diagnostics._goodness_of_fit`). NaN without stated noise or without a code;
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
        verdict: the status of each observation, or an :class:`~unrelu.result.Ending` that says more.
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
        used: u, the effective degrees of freedom that the fit used up (:mod:`unrelu.diagnostics._goodness_of_fit`).
        options: the options of the method, defaults included.
        norm: the norm of ``fun``: "l2", "l1", "linf"; or "huber" or "loss" (:mod:`unrelu.measurements.objectives`).
        pool: whether the noise level was estimated from the residuals of the batch, see :meth:`of`.
        ended: how the method ended, (B,), before the residual was judged.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> r = unrelu.invert(net, [[1.0, 0.0, 0.5], [1.0, 0.0, 0.7]], noise=unrelu.Uniform(0.01))
    >>> r.success, r.p_value, r.residual("linf").round(3)
    (array([ True, False]), array([1., 0.]), array([0.   , 0.133]))
    >>> r[r.success]
    <Inversion: 1 observation, 1 successful>
    """

    _called = ("result", "r", "r.z, r.status")

    # --- printing, pictures, files ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        if self.problem.single:
            return f"<Inversion: one observation, {self.status.name}, {'success' if self.success else 'no success'}>"
        return f"<Inversion: {count(self.problem.size, 'observation')}, {int(self.success.sum())} successful>"

    def _printed(self, notebook: bool = False) -> Printed:
        problem, columns = self.problem.given or self.problem, self._columns()
        noise = str(problem.noise) if problem.noise.stated else ""
        at_bounds = int(np.any(problem.bounds.active(self._codes) != 0, axis=1).sum())
        table = VerdictTable(columns, self.method, noise, self._norm, at_bounds)
        if not self.problem.single:
            if not notebook:
                return table.printed()
            return table.printed(_DRAWN, self._thumbnails(table.worst_first()[:_DRAWN]))
        excess = f"; {TOO_LARGE}" if self.message.startswith(TOO_LARGE) else ""
        title = f"One observation, method {self.method}: {'successful' if self.success else 'no success'}{excess}"
        pictures = [("", IMAGES, self._thumbnails(np.arange(1)))] if notebook else []
        return Printed(title, self._entries(noise), pictures)

    def _thumbnails(self, rows: Index) -> Any:
        from unrelu.display.answer_figures import thumbnails  # noqa: PLC0415 -- Matplotlib, where it is used

        outputs = self.batched()["reconstruction"][rows]
        return thumbnails(self._panels(rows, outputs, [""] * len(rows)), rows) if len(rows) else []

    def _entries(self, noise: str) -> list[tuple[str, str]]:
        """The lines about one observation, as names and texts."""
        problem, network, z = self.problem, self.problem.names, self._codes[0]
        names, named = [network.name_of(j) for j in range(len(z))], set(network.coordinate_names)
        own = {name: value for name, value in self.parameters.items() if name in named}
        fit = p_values(self.p_value, *(getattr(self, name) for name in TESTS), under=f" under {noise}")
        left = f"residual {number(self._differences(self._norm)[0])} ({self._norm}), "
        left += f"largest entry {number(self._differences('linf')[0])}; "
        left += chi_square_text(*self._chi_square(), self.p_size)
        left += fit if noise else "no noise was stated, so there is no p-value"
        reach = "" if problem.bounds.none else " within the bounds"
        if problem.bounds.none and self.method == "auto" and self.confidence < 1:
            radius = float(self.options.get("radius", RADIUS))
            reach = f" up to {radius:g} sqrt(k) long, or as long as this one,"
        known = bool(np.isfinite(z).all())
        return [
            (self.status.name, self.message),
            ("code", code_text(z, names, own) if known else ""),
            ("fit", left if known else "no code, so no fit"),
            ("by part", parts_text(self._misfits(), "residual / noise" if noise else "residual")),
            ("confidence", confidence_text(self.confidence, self.method, reach)),
            ("uniqueness", uniqueness(self.identifiable, self.rank, self.freedom, len(z))),
            ("active bounds", bounds_text(problem.bounds.active(z), names)),
            ("effort", f"{count(self.nit, 'iteration')}, {duration(self.seconds)}"),
        ]

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
        from unrelu.display.answer_figures import drawn_rows  # noqa: PLC0415 -- Matplotlib, where it is used

        columns, single, size = self.batched(), self.problem.single, self.problem.size
        rows = drawn_rows(size, single, observations, max_observations)
        labels = [_label(columns, i, numbered=not single) for i in rows.tolist()]
        title = f"method {self.method}" if single else f"{len(rows)} of {size} observations, method {self.method}"
        if part is not None:
            self._place(part)
            title = f"{part}, {title}"
        return self._panels(rows, columns["reconstruction"][rows], labels, shape, part).figure(title)

    def save(self, path: str | Path) -> None:
        """Write the result to a ``.npz`` file, which :func:`unrelu.load_result` reads and verifies.

        The file contains codes, reconstructions, the verdict, y, noise, bounds, norm, prior, operator, options, the
        version, the network's fingerprint and a digest. Nothing is pickled. The file appears complete or not at all.
        For a measurement given as code, A G(z) at the codes is written.

        Raises:
            InputError: the suffix is not .npz, or the folder does not exist.
            StorageError: the disk is full or cannot be written to.
        """
        write_result_file(Path(path), vars(self) | self.batched())

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
        batch = self.batched()
        batch["status"] = np.array([status.name for status in batch["status"]], dtype=object)
        batch["residual"] = self._differences(self._norm)
        return {name: batch[name] for name in _COLUMNS}

    # --- what follows from the codes ----------------------------------------------------------------------------------

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
        return self._each(norms(differences, norm))

    def _place(self, part: str) -> slice:
        problem = self.problem.given or self.problem
        places = problem.names.places if problem.operator.output_shaped else {}
        if part not in places:
            named = ", ".join(places) or "none: the output has no named parts, or operator= mixed them"
            raise InputError(f"part={part!r} is unknown; those of the observation are {named}")
        return places[part]

    @property
    def _norm(self) -> str:
        """The norm in which residuals are printed: l2 for a loss that is no norm."""
        return self.norm if self.norm in ("l1", "linf") else "l2"

    def _differences(self, norm: str) -> Array:
        """``|y - A G(z)|`` from the reconstructions, (B,)."""
        return norms(self.problem.differences_of(self.batched()["reconstruction"]), norm)

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


def _label(columns: Mapping[str, Any], i: int, numbered: bool) -> str:
    """The text beside the pictures of an observation."""
    lines = [str(i), columns["status"][i].name] if numbered else [columns["status"][i].name]
    if math.isfinite(columns["p_value"][i]):
        lines.append(f"p = {probability(columns['p_value'][i])}")
    elif math.isfinite(columns["confidence"][i]):
        lines.append(f"confidence {probability(columns['confidence'][i])}")
    return "\n".join(lines)

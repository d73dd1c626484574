"""An inversion problem: observations, noise and objective. All arguments are validated once, here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import InputError, OptionError, UnsupportedModelError
from unrelu.measurements import ClippedOperator, Operator, read_operator
from unrelu.measurements.additive_noise import RoundingNoise
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.losses import Huber, Loss, OwnLoss
from unrelu.measurements.named_parts import joined
from unrelu.measurements.noise import Fit, Noise, UnknownNoise
from unrelu.measurements.noise_arguments import parse_noise
from unrelu.measurements.picture_scale import Scaling, check_scale, dtype_of
from unrelu.measurements.whitening import known_entries, whitened
from unrelu.measurements.working_units import Coordinates, WorkingUnits, in_working_units, on_coordinates
from unrelu.models.code_prior import Normal
from unrelu.models.generator import Generator, as_generator, numbers
from unrelu.models.names import Names
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.host import computing, flush_subnormals
from unrelu.runtime.streams import stream
from unrelu.runtime.words import nearest, reshaping, shown
from unrelu.runtime.work_clock import now
from unrelu.thresholds import EXACT_FIT_TOLERANCE, OUT_OF_RANGE_TOLERANCE

Jacobians = Callable[[], Iterator[tuple[Index, Array]]]

# Squares and products of data and noise overflow if these are this many times larger than the generator's outputs.
_LARGEST = 1e100
# Up to this exponent of two, numbers a million times smaller than the largest still have 53 binary digits.
_REPRESENTED = 940

_NORMS = ("l2", "l1", "linf", "huber", "huber:D")

# The power of the unit of y in each objective.
DEGREES = {"l2": 2, "l1": 1, "linf": 1, Huber.name: Huber.degree, OwnLoss.name: OwnLoss.degree}


@dataclass(frozen=True)
class Progress:
    """The argument of a callback, which returns True to stop the run.

    During the first search on a generator, while ``auto`` learns its confidence, reports repeat unchanged.

    Attributes:
        method: the name of the method.
        nit: iterations so far (layer-wise methods: of the current observation).
        done, total: number of finished observations, and of all observations.
        z: the codes so far, ``(B, *latent_shape)``; NaN where there is none yet. It is a copy.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.invert(net, [1.0, 0.0, 0.5], "lm", callback=lambda progress: progress.nit >= 1).status.name
    'STOPPED'
    """

    method: str
    nit: int
    done: int
    total: int
    z: Array


@dataclass(frozen=True, eq=False)
class Control:
    """The limits of one run: a clock that starts when it is made, and a callback."""

    time_limit: float = math.inf
    callback: Callable[[Progress], Any] | None = None
    _start: float = field(default_factory=now)
    _stops: list[bool] = field(default_factory=list)
    _raised: list[BaseException] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the callback, which often cannot be pickled."""
        return {**self.__dict__, "callback": None, "_raised": []}

    def elapsed(self) -> float:
        """Seconds since the start."""
        return now() - self._start

    def remaining(self) -> float:
        """Seconds left; not below 0."""
        return max(0.0, self.time_limit - self.elapsed())

    def expired(self) -> bool:
        """Whether the time limit is reached."""
        return self.elapsed() >= self.time_limit

    @property
    def halted(self) -> bool:
        """Whether the callback has asked to stop."""
        return bool(self._stops)

    def stopped(self, progress: Callable[[], Progress]) -> bool:
        """Report to the callback, if any, and return whether to stop. After a stop it is not called again."""
        if self.callback is None or self.halted:
            return self.halted
        try:
            with flush_subnormals(False):
                stop = self.callback(progress())
        except BaseException as error:
            self._raised.append(error)
            raise
        if stop:
            self._stops.append(True)
        return self.halted

    def raised(self, error: BaseException) -> bool:
        """Whether the callback raised this error; it is then the caller's error, not the method's."""
        return any(error is known for known in self._raised)

    def part(self, report: Callable[[Progress], Progress]) -> Control:
        """A control for a part of the run, with the remaining time; ``report`` converts progress for the callback."""
        reporting = (lambda progress: self.stopped(lambda: report(progress))) if self.callback else None
        return Control(self.remaining(), reporting, _stops=self._stops, _raised=self._raised)


@dataclass(frozen=True, eq=False)
class Problem:
    """The problem to find z with A G(z) close to y.

    Build it with :meth:`build`. Inside, everything is a batch of flat vectors, codes included.

    Attributes:
        network: G, without names.
        y: observations, (B, m), float64, read-only; 0 at hidden entries.
        noise: the model of e = y - A G(z*).
        norm: the norm of the objective, with r = y - A G(z): ``|r|_2^2 + prior |z|^2`` ("l2"), ``|r|_1`` ("l1"),
            ``|r|_inf`` ("linf"); "huber" or "loss" where ``stated_loss`` takes the place of ``|r|_2^2``.
        operator: A.
        prior: weight of ``|z|^2`` in the l2 objective, or of ``|(z - mean) / std|^2`` with ``normal``.
        single: whether y is one observation without a batch axis.
        z0: starting codes (B, k), or None.
        seed: seed of every random choice.
        bounds: bounds of the codes.
        control: time limit and callback.
        units: the units of y, the outputs, the noise and the codes, if they are not those of the user.
        names: what the stated generator's coordinates and parts are called; of the user's codes, not of working units.
        given: the problem as it was stated, if this one was whitened (:mod:`unrelu.measurements.whitening`).
        stated_loss: the Huber loss or the user's own; None for a norm or a deviance.
        normal: the distribution of codes, if it was stated; ``prior`` is then the dispersion parameter of the noise. In
            working units it is N(0, I), or flat in some coordinates.

    If the noise has a deviance, residuals are its signed square roots, and the objective in l2 is the deviance.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> problem = unrelu.Problem.build(net, [1.0, 0.0, 0.5], noise="uniform:0.1")
    >>> problem.norm, problem.objective([[0.4]])
    ('linf', array([0.2]))
    """

    network: Generator
    y: Array
    noise: Noise
    norm: str
    operator: Operator
    prior: float = 0.0
    single: bool = False
    z0: Array | None = None
    seed: int = 0
    bounds: Bounds = field(kw_only=True)
    control: Control = field(default_factory=Control)
    units: WorkingUnits = field(default_factory=WorkingUnits)
    given: Problem | None = None
    names: Names = field(kw_only=True)
    stated_loss: Loss | None = None
    normal: Normal | None = None

    @classmethod
    @computing()
    @flush_subnormals(False)
    def build(
        cls,
        network: Generator,
        y: npt.ArrayLike,
        *,
        noise: Noise | str | None = None,
        norm: str | None = None,
        loss: Callable[..., Any] | None = None,
        operator: Any = None,
        bounds: Any = None,
        prior: float | Normal = 0.0,
        z0: npt.ArrayLike | None = None,
        seed: int = 0,
        time_limit: float | None = None,
        callback: Callable[[Progress], Any] | None = None,
        scale: str | tuple[float, float] | Scaling | None = None,
    ) -> Problem:
        """Check all arguments and make a problem; the parameters are those of :func:`unrelu.invert`.

        Raises:
            InputError: a shape, value, operator, noise level, norm, prior or bound cannot be used.
            OptionError: a seed, prior, time limit or callback has the wrong type.
        """
        names, network = as_generator(network).names, network.plain
        y, noise, operator = joined(names, y, noise, operator)
        array, dtype, scaling = numbers(y, "y"), dtype_of(y), Scaling.parse(scale)
        stated, box = parse_noise(noise), Bounds.parse(bounds, network.latent_shape, names.latent_names)
        norm, stated_loss = _norm(norm, loss, stated)
        normal = prior.of_names(names) if isinstance(prior, Normal) else None
        if normal is not None:
            _refuse_prior(normal, stated, norm)
        weight = _weight(prior, norm) if not isinstance(prior, Normal) else 0.0
        tried = searched(network, box, normal or prior)
        measurement = read_operator(operator, network.output_shape, array.shape, tried)
        values, single, seen = _observations(measurement, scaling.apply(array, dtype), stated)
        if scaling.ends is not None and not (measurement.selects or measurement.output_shaped):
            raise InputError(
                f"scale={scale!r} maps values of the output, and operator= mixes them: measure outputs of the "
                "generator's own scale, or scale y and the operator together"
            )
        if measurement.output_shaped:
            check_scale(tried, values, seen, dtype=dtype, scaling=scaling, trim=stated.outliers)
        # Of outputs that a matrix picks, it is not known what black and white cut off.
        if noise is None and (measurement.output_shaped or (measurement.selects and scaling.ends is None)):
            stated = _rounding(network, values, scaling, dtype)
            if scaling.ends is not None and stated.stated:
                measurement = ClippedOperator.of(measurement, tried, scaling.ends, stated.size)
        if stated.likelihood is not None:
            if isinstance(network, Network) and measurement.selects:
                stated.likelihood.check_range(*network.layers[-1].activation.range)
            if norm != "l2":
                argument = "loss=" if norm == "loss" else "norm="
                raise InputError(
                    f"norm={norm!r}: noise={stated} compares observations by their deviance; leave {argument} out"
                )
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
            raise OptionError(f"seed={shown(seed)} must be an integer of at least 0, below 2**63; pass e.g. seed=0")
        if network.dtype not in (torch.float32, torch.float64):
            raise InputError(f"the network computes in {network.dtype}; use network.to(torch.float64) or float32")
        if callback is not None and not callable(callback):
            raise OptionError(f"callback={callback!r} is not callable")
        starts = _starts(network, z0, len(values))
        if starts is not None:
            box.check(starts)
        control = Control(_seconds(time_limit), callback and _in_latent_shape(callback, network))
        problem = cls(
            network, values, stated, norm, measurement, weight, single, starts, int(seed), control, bounds=box,
            names=names, stated_loss=stated_loss,
        )  # fmt: skip
        whitened = problem.whitened() if loss is None else problem.with_loss(loss)
        return whitened if normal is None else whitened.with_normal(normal)

    def whitened(self) -> Problem:
        """The whitened problem, see :mod:`unrelu.measurements.whitening`; itself if it needs no whitening.

        Raises:
            InputError: the noise has another shape than y, or is correlated and observations have different masks.
        """
        if not self.noise.entrywise:
            return self
        alike, measured, y = whitened(self.noise, self.operator, self.y)
        y.setflags(write=False)
        return replace(self, noise=alike, operator=measured, y=y, given=self)

    def with_loss(self, function: Callable[..., Any]) -> Problem:
        """The same problem, in which a function of (reconstruction, y) is minimised.

        Raises:
            OptionError: it cannot be called.
            InputError: it is no loss (:meth:`~unrelu.measurements.losses.OwnLoss.read`), or errors differ by entry.
        """
        if self.noise.entrywise:
            raise InputError(
                f"loss= compares y and the reconstruction as they are, and noise={self.noise} weighs their entries: "
                "state one number, or use norm='huber'"
            )
        y = torch.from_numpy(self.y[[0, -1]])
        return replace(
            self, stated_loss=OwnLoss.read(function, y, torch.from_numpy(self._usual[:2]), self.operator.shape)
        )

    def with_normal(self, normal: Normal) -> Problem:
        """The same whitened problem with this distribution of codes, of arrays (k,), which asks for the most probable.

        Raises:
            InputError: the noise has no density.
        """
        _refuse_prior(normal, self.noise, self.norm)
        weight = self.noise.dispersion_parameter
        given = self.given and replace(self.given, normal=normal, prior=weight)
        return replace(self, normal=normal, prior=weight, given=given)

    @cached_property
    def weights(self) -> Array:
        """The weights of ``((z_j - mean_j) / std_j)^2`` in the objective, (k,): 0 where the std is infinite."""
        std = 1.0 if self.normal is None else self.normal.std
        return np.where(np.broadcast_to(np.isfinite(std), self.network.latent_dim), self.prior, 0.0)

    @property
    def stated_prior(self) -> str:
        """The prior as messages show it."""
        return f"{self.prior:g}" if self.normal is None else "Normal"

    @property
    def loss(self) -> Loss | None:
        """What is minimised in place of the sum of squares; None for norms."""
        return self.stated_loss or self.noise.likelihood

    @property
    def differentiable(self) -> bool:
        """Whether descents minimise the objective itself; in l1 and linf, they minimise that of l2 first."""
        return self.norm not in ("l1", "linf")

    @property
    def descent_norm(self) -> str:
        """The norm of what methods by gradients minimise."""
        return self.norm if self.stated_loss else "l2"

    @property
    def size(self) -> int:
        """B, the number of observations."""
        return len(self.y)

    @flush_subnormals(False)
    def rescaled(self, value: float, power: int) -> float:
        """Convert a number from the user's units of y^power to the units of this problem."""
        return float(self.units.scaled(value, power))

    def start(self, number: int = 0) -> Array:
        """Starting codes (B, k), a fresh copy: z0, or a draw for each observation from the seed.

        Coordinates with two finite bounds are uniform between them, the others from N(0, 1). Further starts have
        ``number`` above 0, and are always drawn.
        """
        if self.z0 is not None and not number:
            return self.z0.copy()
        key = ("starts", self.seed, number) if number else ("starts", self.seed)
        return self.bounds.draw(stream(*key), (self.size,))

    @flush_subnormals(False)
    def equilibrated(self) -> Problem:
        """The problem in working units, see :mod:`unrelu.measurements.working_units`; itself if these are the user's.

        Methods solve this problem, so their tolerances do not depend on units.

        Raises:
            InputError: y or the noise is 1e100 times larger than the generator's outputs, y is 1e100 times smaller and
                not 0, or the outputs themselves are too large or too small for double precision.
        """
        latent = Coordinates.of(self.bounds, self.normal, self.prior)
        # Data with a deviance, such as counts, have a fixed unit.
        found = in_working_units(self.network, self.operator, latent, scaled=self.noise.likelihood is None)
        units, data = found.units, found.units.data
        if abs(data) > _REPRESENTED:
            raise InputError(
                f"the generator's outputs, as they are measured, are of the size 1e{-data * math.log10(2):+.0f}, where "
                "double precision has few digits or none; scale the weights of its layers, or state bounds= of codes"
            )
        noise = self.noise.times_power_of_two(data) if data else self.noise
        y = units.scaled(self.y) if data else self.y
        prior = noise.dispersion_parameter if self.normal else float(units.scaled(self.prior, DEGREES[self.norm]))
        if not np.abs(y).max() <= _LARGEST:
            first = int(np.argmin(np.abs(y).max(axis=1) <= _LARGEST))
            largest = float(np.abs(self.y[first]).max())
            raise InputError(
                f"y has entries up to {largest:.1e} in observation {first}, more than {_LARGEST:.0e} times what the "
                "generator puts out, so that squares overflow; scale it, or leave it out"
            )
        tiny = np.asarray(y.any(axis=1) & ~(np.abs(y) >= 1 / _LARGEST).any(axis=1))
        if tiny.any():
            first = int(np.flatnonzero(tiny)[0])
            raise InputError(
                f"y has no entry above {float(np.abs(self.y[first]).max()):.1e} in observation {first}, less than "
                f"{1 / _LARGEST:.0e} times what the generator puts out, so that squares vanish; scale it"
            )
        if noise.size > _LARGEST:
            raise InputError(
                f"noise={self.noise} is more than {_LARGEST:.0e} times what the generator "
                "puts out, so that squares overflow; state the noise in the units of y"
            )
        if self.normal is not None and not prior > 0:
            raise InputError(
                f"noise={self.noise} is so far below what the generator puts out that its square underflows, and the "
                "prior would weigh nothing beside it; state larger noise, or no prior"
            )
        if not prior < math.inf:
            raise InputError(f"prior={self.prior:g} times |z|^2 overflows beside |y|^2; state it in the units of y^2")
        if found.network is self.network and found.operator is self.operator:
            return self
        if data:
            y.setflags(write=False)
        changed = replace(
            self, network=found.network, operator=found.operator, y=y, noise=noise, prior=prior, units=units,
            stated_loss=self.stated_loss and self.stated_loss.times_power_of_two(data),
        )  # fmt: skip
        if latent is None:
            return changed
        return replace(
            changed, bounds=latent.standard, normal=self.normal and self.normal.in_units,
            z0=None if self.z0 is None else units.coordinates(self.z0),
            control=self.control.part(lambda progress: replace(progress, z=units.codes(progress.z))),
        )  # fmt: skip

    def refuse_loss(self, method: str) -> None:
        """Refuse what is no norm, on behalf of a method for additive errors.

        Raises:
            UnsupportedModelError: the noise has a deviance, as counts have, or a loss is stated.
        """
        if self.stated_loss is not None:
            stated = "loss=" if self.norm == "loss" else f"norm={self.norm!r}"
            raise UnsupportedModelError(
                f"method={method!r} does not minimise {stated}: use 'auto', 'lm', 'adam' or 'gradient_descent'"
            )
        if self.noise.likelihood is not None:
            raise UnsupportedModelError(
                f"method={method!r} is for errors that are added to the output and compared in a norm; "
                f"noise={self.noise} has a deviance: use 'auto', 'lm', 'adam' or 'gradient_descent'"
            )

    def part(self, observations: Index, control: Control | None = None, z0: Array | None = None) -> Problem:
        """The problem of some observations, with its own control if one is given; ``z0`` replaces the starts."""
        return replace(
            self, y=self.y[observations], operator=self.operator.take(observations), single=False, z0=z0,
            noise=self.noise.take(observations, self.operator.shape, self.size), control=control or self.control,
            given=self.given and self.given.part(observations),
        )  # fmt: skip

    def residual(self, z: Array) -> Array:
        """The residuals at codes (B, k), (B, m), see :meth:`residual_of`."""
        return self.residual_of(self.network.outputs(z))

    def residual_of(self, x: Array) -> Array:
        """y - A x, (B, m), for outputs x (B, ...), or signed roots of deviances; 0 at hidden entries."""
        return self._residual(self.mean_of(x))

    def _residual(self, mean: Array) -> Array:
        r = self.noise.residuals(self.y, mean)
        return r if self.noise.likelihood is None else np.where(self.operator.seen(len(r)), r, 0.0)

    def mean_of(self, x: Array) -> Array:
        """A x, (B, m), for outputs x (B, ...)."""
        return self.operator.values(x.reshape(len(x), self.network.output_dim))

    def differences_of(self, x: Array) -> Array:
        """y - A x, (B, m), for outputs x (B, ...), without whitening; 0 at hidden entries."""
        stated = self.given or self
        r = stated.y - stated.mean_of(x)
        return np.where(known_entries(stated.noise, stated.operator, len(r)), r, 0.0) if self.given else r

    def objective(self, z: Array, norm: str | None = None) -> Array:
        """The objective at codes (B, k), (B,), in the norm of the problem or another one, see :attr:`norm`."""
        return self.objective_of(self.residual(z), z, norm)

    def objective_of(self, residual: Array, z: Array, norm: str | None = None) -> Array:
        """The objective at codes (B, k) with these residuals, (B, m)."""
        r, norm = np.abs(residual), norm or self.norm
        if norm == "linf":
            return np.asarray(r.max(axis=1))
        with np.errstate(over="ignore"):  # a diverged code may be astronomically large
            if norm == "l1":
                return np.asarray(r.sum(axis=1))
            misfit = np.asarray((r * r).sum(axis=1)) if norm == "l2" else self._losses(self.y - residual)
            t = z if self.normal is None else self.normal.standardised(z)
            return misfit + self.prior * (t * t).sum(axis=1) if self.prior else misfit

    def _losses(self, mean: Array) -> Array:
        """The stated losses of measurements (B, m), (B,); NaN where none is known, as in a result from a file."""
        if self.stated_loss is None:
            return np.full(len(mean), np.nan)
        y, seen = (torch.tensor(each, dtype=torch.float64) for each in (self.y, self.operator.seen(len(mean))))
        with torch.no_grad():
            return self.stated_loss.total(y, torch.tensor(mean), seen).numpy()

    @cached_property
    def tolerance(self) -> Array:
        """The largest residual of an exact fit as a fraction of max|y|, (B,): 1e-8, or 100 times single precision.

        Single precision holds for data with its rounding errors: if the network computes in it, or if all entries of an
        observation are numbers of single precision and not all are whole numbers.
        """
        single = 100 * torch.finfo(torch.float32).eps
        if self.network.dtype == torch.float32:
            return np.full(self.size, single)
        with np.errstate(over="ignore"):
            stored = (self.y == self.y.astype(np.float32)).all(axis=1) & (self.y != np.rint(self.y)).any(axis=1)
        return np.where(stored, single, EXACT_FIT_TOLERANCE)

    def fits_exactly(self, z: Array) -> Flags:
        """Whether codes (B, k) fit exactly, (B,), see :meth:`is_exact`."""
        return self.is_exact(self.residual(z))

    def is_exact(self, residual: Array) -> Flags:
        """Whether ``|r|_inf <= 1e-8 max|y|``, (B,); for data of single precision :attr:`tolerance` is larger.

        If all entries of y are 0, the limit is the rounding error of typical outputs.
        """
        allowed = self.tolerance * self.scale
        if not allowed.all():
            allowed[allowed == 0] = 10 * torch.finfo(self.network.dtype).eps * self._typical
        return np.asarray(np.abs(residual).max(axis=1) <= allowed)

    def fit_of(self, x: Array, used: Array | None = None, jacobians: Jacobians | None = None) -> Fit:
        """The fit with outputs x (B, ...), which p-values are computed from.

        Args:
            x: G(z).
            used: the degrees of freedom that the fit used up, (B,); None for none.
            jacobians: see :class:`~unrelu.measurements.noise.Fit`.
        """
        mean = self.mean_of(x)
        # The largest |y| may be an outlier; the size of outputs is not affected by outliers.
        size = np.minimum(self.scale, self._typical)
        used = np.zeros(len(mean)) if used is None else used
        return Fit(self._residual(mean), mean, self.operator.seen(len(mean)), used, size, self.weights, jacobians)

    def p_value(self, fit: Fit) -> Array:
        """Goodness of fit under the noise, (B,): :meth:`unrelu.measurements.noise.Noise.p_value`.

        NaN if no noise was stated, and for an observation without a code. 0 for a code whose output is not finite. 1
        for an exact fit if the noise is below the rounding errors of the data.
        """
        r = fit.residual
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            p = self.noise.p_value(fit)
        without_code = np.isnan(r).all(axis=1) | (not self.noise.stated)
        p = np.where(np.isfinite(r).all(axis=1), p, np.where(without_code, np.nan, 0.0))
        rounding = np.where(self.tolerance > EXACT_FIT_TOLERANCE, self.tolerance, 100 * np.finfo(np.float64).eps)
        below = self.noise.size <= rounding * self.scale
        return np.where(self.is_exact(r) & below & ~np.isnan(p), 1.0, p)

    @cached_property
    def energy(self) -> Array:
        """The size of the objective for codes that explain nothing, (B,), see :meth:`Noise.energy`."""
        if self.stated_loss is None:
            return self.noise.energy(self.y)
        losses = self._losses(np.where(self.operator.seen(self.size), self._usual[: self.size], 0.0))
        return np.maximum(losses, np.finfo(np.float64).tiny)

    @cached_property
    def scale(self) -> Array:
        """max|y| of every observation, (B,)."""
        return np.asarray(np.abs(self.y).max(axis=1))

    @cached_property
    def looks_noiseless(self) -> Flags:
        """Whether no entry shows noise, (B,): all are in the range of the output's activation, up to rounding.

        All False if that says nothing about noise: the range has no lower end, the layers are not known, A mixes
        entries, or noise was stated.
        """
        nothing = np.zeros(self.size, dtype=bool)
        if not isinstance(self.network, Network) or not self.operator.selects or self.noise.noisy:
            return nothing
        low, high = self.network.layers[-1].activation.range
        if not np.isfinite(low).all():
            return nothing
        room = OUT_OF_RANGE_TOLERANCE * self.scale
        inside = self.y.min(axis=1) >= low.min() - room
        return np.asarray(inside & (self.y.max(axis=1) <= high.max() + room))

    @property
    def tells_level(self) -> bool:
        """Whether least-squares residuals can estimate the noise level: none is stated, and there is no prior."""
        return not self.noise.stated and self.norm == "l2" and not self.prior

    @cached_property
    def observed(self) -> Integers:
        """The number of observed entries of each observation, (B,)."""
        return np.asarray(self.operator.seen(self.size).sum(axis=1), dtype=np.int64)

    @cached_property
    def _typical(self) -> float:
        """The size of A x for typical outputs x, to which rounding errors are relative."""
        if self.operator.linear:
            x = np.full((self.size, self.network.output_dim), self.network.typical_output)
        else:
            x = self.network.typical_outputs
            if self.operator.count:  # each observation has its own operator, so each needs an output
                x = x[np.arange(self.size) % len(x)]
        return float(np.abs(self.operator.values(x)).max())

    @cached_property
    def _usual(self) -> Array:
        """A x for typical outputs x, one for each observation, at least two, (B, m)."""
        x, operator = self.network.typical_outputs, self.operator
        if self.size == 1:
            operator = operator.take(np.zeros(2, dtype=np.int64))
        return operator.values(x[np.arange(max(2, self.size)) % len(x)])


def searched(network: Generator, bounds: Bounds, prior: float | Normal = 0.0) -> Generator:
    """The generator on the coordinates that are searched, with typical outputs of codes within the bounds."""
    normal = prior.of_names(network.names) if isinstance(prior, Normal) else None
    latent = Coordinates.of(bounds, normal, 0.0 if isinstance(prior, Normal) else prior)
    return network.plain if latent is None else on_coordinates(network.plain, latent)


def norms(r: Array, norm: str) -> Array:
    """The norm of each residual r (B, m), (B,), in "l2", "l1" or "linf"; squares do not overflow or underflow."""
    if norm == "linf":
        return np.asarray(np.abs(r).max(axis=1))
    if norm == "l1":
        with np.errstate(over="ignore"):  # a diverged code may be astronomically large
            return np.asarray(np.abs(r).sum(axis=1))
    scale = np.abs(r).max(axis=1)
    scale[~((scale > 0) & (scale < np.inf))] = 1.0
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(scale * np.linalg.norm(r / scale[:, None], axis=1))


def _observations(operator: Operator, array: Array, noise: Noise) -> tuple[Array, bool, Flags]:
    """Return observations as (B, m), whether it was one without a batch axis, and which entries are known, (B, m)."""
    shape, m = operator.shape, operator.m
    single = array.shape in (shape, (m,))
    if not single and array.shape[1:] not in (shape, (m,)):
        call = reshaping("y", array.shape, shape)
        if operator.output_shaped:
            whole = f"one observation of that shape or a batch (B, {', '.join(map(str, shape))})"
            if not operator.count and array.shape == (operator.seen(1).sum(),):
                call = "y with all entries, x = numpy.zeros(mask.shape); x[mask] = y, as those under a 0 are ignored"
            raise InputError(
                f"y has shape {array.shape}, the network ends in {shape}; pass {call or whole}; for other measurements "
                "of the output pass operator="
            )
        measured = f"what it measures, {'A @ y' if operator.linear else 'operator(y)'}"
        whole = measured if math.prod(array.shape) == operator.n else "that shape or a batch of it"
        raise InputError(f"y has shape {array.shape}, operator= gives {shape}; pass {call or whole}")
    if array.size == 0:
        raise InputError(f"y has shape {array.shape}: there is no observation in it")
    values = array.reshape(-1, m)
    if operator.count not in (0, len(values)):
        raise InputError(
            f"operator= has {operator.count} masks for {len(values)} observations; pass one for all, or one for each"
        )
    seen = known_entries(noise, operator, len(values))
    values = np.where(seen, values, 0.0)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        first = int(np.flatnonzero(~np.isfinite(values[bad[0]]))[0])
        raise InputError(
            f"y has NaN or infinite entries in {len(bad)} of {len(values)} observations, first in observation "
            f"{bad[0]}, entry {first} ({values[bad[0], first]}); remove or replace them, or hide them by "
            "operator=unrelu.Mask(numpy.isfinite(y))"
        )
    if noise.likelihood is not None:
        noise.likelihood.check(values)
    values.setflags(write=False)
    return values, single, seen


def _rounding(network: Generator, values: Array, scaling: Scaling, dtype: npt.DTypeLike) -> Noise:
    """The noise that the observations tell: rounding errors of their type; unknown noise if they tell none."""
    step, own = scaling.step(dtype), network.rounding
    if step is not None:
        return RoundingNoise.of_integers(step, dtype)
    if own is not None and scaling.ends is None and own.stored(values):
        numbers_of = f"numbers of {own.name}, in which the module computes"
        return RoundingNoise(own.level, precision=numbers_of, given=own.level)
    return UnknownNoise()


def _norm(norm: str | None, loss: object, noise: Noise) -> tuple[str, Loss | None]:
    """The norm, by default that of the noise, and the Huber loss if it is that."""
    if loss is not None:
        if norm is not None:
            raise InputError(f"norm={norm!r}: loss= is minimised in its place; leave one of them out")
        return "loss", None
    if norm is not None and str(norm).partition(":")[0] not in _NORMS[:4]:
        raise InputError(f"norm={norm!r} is unknown; use 'l2', 'l1', 'linf' or 'huber:D'{nearest(norm, _NORMS)}")
    if norm is None or not norm.startswith(Huber.name):
        return norm or noise.norm, None
    known = math.sqrt(noise.mean_square) if not noise.entrywise else 1.0  # whitening follows
    return Huber.name, Huber.parse(norm, known)


def _refuse_prior(normal: Normal, noise: Noise, norm: str) -> None:
    """Refuse noise and objectives for which the most probable code is not defined."""
    asks = f"prior={shown(str(normal))} asks for the most probable code"
    if noise.without_density:
        raise InputError(
            f"{asks}, and noise={noise} {noise.without_density}; state 'gaussian:S' or counts, or pass a number, the "
            "weight of |z|^2"
        )
    if norm != "l2":
        stated = "loss=" if norm == "loss" else f"norm={norm!r}"
        raise InputError(
            f"{asks}, and {stated} is not the likelihood of noise={noise}; leave it out, or pass a number, the weight "
            "of |z|^2"
        )


def _weight(prior: float, norm: str) -> float:
    weight = _number("prior", prior, "a number, the weight of |z|^2, or unrelu.Normal(mean, std)")
    if not 0 <= weight < math.inf:
        raise InputError(f"prior={weight:g} must be finite and at least 0")
    if weight and norm in ("l1", "linf"):
        raise InputError(f"prior={weight:g} is a term of the l2 objective; the norm here is {norm!r}, pass norm='l2'")
    return weight


def _starts(network: Generator, z0: npt.ArrayLike | None, size: int) -> Array | None:
    if z0 is None:
        return None
    array = network.flat_codes(z0, "z0")
    if array.ndim == 2 and len(array) != size:
        one, each = network.latent_shape, (size, *network.latent_shape)
        raise InputError(f"z0 has {len(array)} codes; pass {one} for all observations or {each}, one for each")
    if not np.isfinite(array).all():
        raise InputError("z0 has NaN or infinite entries; start from finite codes")
    return np.array(np.broadcast_to(array, (size, network.latent_dim)))


def _in_latent_shape(callback: Callable[[Progress], Any], network: Generator) -> Callable[[Progress], Any]:
    """The callback, which is given codes in the shape of codes; methods report flat ones."""
    return lambda progress: callback(replace(progress, z=progress.z.reshape(-1, *network.latent_shape)))


def _seconds(time_limit: float | None) -> float:
    if time_limit is None:
        return math.inf
    seconds = _number("time_limit", time_limit, "a number of seconds or None")
    if not seconds > 0:
        raise InputError(f"time_limit={seconds:g} must be above 0 seconds")
    return seconds


def _number(name: str, value: Any, what: str) -> float:
    """Return a number as a float; an integer beyond the range of floats becomes infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise OptionError(f"{name}={value!r} must be {what}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf

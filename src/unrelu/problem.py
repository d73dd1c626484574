"""An inversion problem: what was observed, and how the misfit is measured. All arguments are validated here, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import torch

from unrelu.display.progress_bar import reporting
from unrelu.errors import InputError
from unrelu.measurements import Operator
from unrelu.measurements.named_parts import joined
from unrelu.measurements.noise import Fit, Loss, Noise, parse_noise
from unrelu.measurements.objectives import DEGREES, Huber, read_norm, read_prior, refuse_prior
from unrelu.measurements.observation_arguments import read_y, read_z0
from unrelu.measurements.picture_scale import Scaling
from unrelu.measurements.whitening import known_entries, whitened
from unrelu.measurements.working_units import Coordinates, WorkingUnits, in_working_units, searched
from unrelu.models.generator import Generator, as_generator, placed
from unrelu.models.network import Network, small
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import whole_number
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.host import computing, flush_subnormals
from unrelu.runtime.run_control import Control, Progress
from unrelu.runtime.streams import stream
from unrelu.thresholds import EXACT_FIT_TOLERANCE, OUT_OF_RANGE_TOLERANCE

Jacobians = Callable[[], Iterator[tuple[Index, Array]]]

# Squares and products overflow if data or noise are this many times larger than the generator's outputs.
_LARGEST = 1e100
# For exponents of two up to this one, numbers a million times smaller than the largest still have 53 binary digits.
_REPRESENTED = 940


@dataclass(frozen=True, eq=False)
class Problem:
    """An inversion problem: find z with A G(z) close to y.

    Build it with :meth:`build`. Internally, all arrays are batches of flat vectors, codes included.

    Attributes:
        network: G, without names.
        y: observations, (B, m), float64, read-only; 0 at hidden entries.
        noise: the model of e = y - A G(z*).
        norm: the norm of the objective, with r = y - A G(z): ``|r|_2^2 + prior |z|^2`` ("l2"), ``|r|_1`` ("l1"),
            ``|r|_inf`` ("linf"); "huber" where ``stated_loss`` takes the place of ``|r|_2^2``.
        operator: A.
        prior: weight of ``|z|^2`` in the l2 objective, or of ``|(z - mean) / std|^2`` with ``normal``.
        single: whether y is one observation without a batch axis.
        z0: starting codes (B, k), or None.
        seed: seed of every random choice.
        bounds: bounds of the codes.
        control: time limit and callback.
        units: the working units of this problem; by default, the user's units.
        names: the names of the user's coordinates and parts of the output.
        given: the problem as it was stated, if this one was whitened (:mod:`unrelu.measurements.whitening`).
        stated_loss: the Huber loss; None for a norm or a deviance.
        learned: what searches have learned about the user's generator, see :attr:`~unrelu.Generator.learned`.
        alike: a problem in working units whose generator is nearly the same. This problem uses its samples and what is
            learned on it. None if the problem uses its own.
        normal: the prior distribution of codes, if it was stated; ``prior`` is then the dispersion parameter of the
            noise. In working units, each coordinate has the prior N(0, 1) or a flat one.

    If the noise has a deviance, residuals are its signed square roots, and the l2 objective is the deviance.

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
    stated_loss: Huber | None = None
    normal: Normal | None = None
    learned: dict[str, Any] = field(default_factory=dict)
    alike: Problem | None = None

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
        operator: Any = None,
        bounds: Any = None,
        fixed: Any = None,
        prior: float | Normal = 0.0,
        z0: npt.ArrayLike | Mapping[Any, float] | None = None,
        seed: int = 0,
        time_limit: float | None = None,
        callback: Callable[[Progress], Any] | None = None,
        scale: str | tuple[float, float] | Scaling | None = None,
    ) -> Problem:
        """Check all arguments and build a problem. Arguments and errors are as in :func:`unrelu.invert`."""
        box = as_generator(network).bounds(bounds, fixed)
        names, network = network.names, network.plain
        y, noise, operator = joined(names, y, noise, operator)
        stated = parse_noise(noise)
        norm, stated_loss = read_norm(norm, stated)
        weight, normal = read_prior(prior, names, stated, norm)
        tried = searched(network, box, normal or weight)
        values, single, measurement, stated = read_y(y, network, tried, operator, stated, scale, noise is None)
        if network.dtype not in (torch.float32, torch.float64):
            raise InputError(f"the network computes in {network.dtype}; use network.to(torch.float64) or float32")
        problem = cls(
            network, values, stated, norm, measurement, weight, single, read_z0(network, z0, len(values), box, names),
            whole_number("seed", seed, 0, 2**63 - 1), Control.of(time_limit, callback, network.latent_shape),
            bounds=box, names=names, stated_loss=stated_loss, learned=network.learned,
        )  # fmt: skip
        return problem.whitened(normal)

    def whitened(self, normal: Normal | None = None) -> Problem:
        """Whiten the noise, see :mod:`unrelu.measurements.whitening`. Return ``self`` if nothing changes.

        If ``normal``, a prior distribution with arrays (k,), is given, the problem asks for the most probable code.
        """
        problem = self
        if self.noise.level_unknown:  # the levels are fitted first, see with_noise
            if self.norm != "l2":
                raise InputError(f"norm={self.norm!r}: noise={self.noise} is fitted by its likelihood; leave norm= out")
        elif self.noise.entrywise:
            alike, measured, y = whitened(self.noise, self.operator, self.y)
            y.setflags(write=False)
            problem = replace(self, noise=alike, operator=measured, y=y, given=self)
        if normal is None:
            return problem
        refuse_prior(normal, problem.noise, self.norm)
        known: dict[str, Any] = {"normal": normal, "prior": problem.noise.dispersion_parameter}
        return replace(problem, given=problem.given and replace(problem.given, **known), **known)

    def with_noise(self, noise: Noise) -> Problem:
        """Replace noise with an unknown level by noise with a known one, and whiten it."""
        weight = 0.0 if self.normal else self.prior
        return replace(self, noise=noise, normal=None, prior=weight).whitened(self.normal)

    @cached_property
    def weights(self) -> Array:
        """The weights of ``((z_j - mean_j) / std_j)^2`` in the objective, (k,): 0 where the std is infinite."""
        std = 1.0 if self.normal is None else self.normal.std
        return np.where(np.broadcast_to(np.isfinite(std), self.network.latent_dim), self.prior, 0.0)

    @property
    def stated(self) -> Problem:
        """The problem as it was stated, before whitening."""
        return self.given or self

    @property
    def loss(self) -> Loss | None:
        """The loss that is minimised in place of the sum of squares; None for norms."""
        return self.stated_loss or self.noise.likelihood

    @property
    def differentiable(self) -> bool:
        """Whether descents minimise the objective itself. For l1 and linf, they minimise the l2 objective first."""
        return self.norm not in ("l1", "linf")

    @property
    def descent_norm(self) -> str:
        """The norm that gradient-based methods minimise."""
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
        """Return a new array of starting codes (B, k): z0, or codes drawn within the bounds from the seed.

        Additional starts have ``number`` above 0, and are always drawn.
        """
        if self.z0 is not None and not number:
            return self.z0.copy()
        key = ("starts", self.seed, number) if number else ("starts", self.seed)
        return self.bounds.draw(stream(*key), (self.size,))

    @flush_subnormals(False)
    def equilibrated(self) -> Problem:
        """Convert the problem to working units, see :mod:`unrelu.measurements.working_units`.

        Methods solve the converted problem, so their tolerances do not depend on units. If the working units are the
        user's, ``self`` is returned. Numbers that would overflow or underflow raise an
        :class:`~unrelu.errors.InputError`.
        """
        latent = Coordinates.of(self.bounds, self.normal, self.prior)
        # Data that are compared by a deviance, such as counts, have a fixed unit.
        found = in_working_units(self.network, self.operator, latent, scaled=self.noise.likelihood is None)
        units, data = found.units, found.units.data
        noise = self.noise.times_power_of_two(data) if data else self.noise
        working = replace(
            self, network=found.network, operator=found.operator, y=units.scaled(self.y) if data else self.y,
            noise=noise, units=units, stated_loss=self.stated_loss and self.stated_loss.times_power_of_two(data),
            prior=noise.dispersion_parameter if self.normal else float(units.scaled(self.prior, DEGREES[self.norm])),
        )  # fmt: skip
        _refuse_extremes(self, working)
        if found.network is self.network and found.operator is self.operator:
            return self
        working.y.setflags(write=False)
        if latent is None:
            return working
        return replace(
            working, bounds=latent.standard, normal=self.normal and self.normal.subset(~self.bounds.fixed).in_units,
            z0=None if self.z0 is None else units.coordinates(self.z0),
            control=self.control.part(lambda progress: replace(progress, z=units.codes(progress.z))),
        )  # fmt: skip

    def part(self, observations: Index, control: Control | None = None, z0: Array | None = None) -> Problem:
        """Restrict the problem to some observations. ``control`` and ``z0`` replace the present ones if given."""
        if z0 is None and self.z0 is not None:
            z0 = self.z0[observations]
        return replace(
            self, y=self.y[observations], operator=self.operator.take(observations), single=False, z0=z0,
            noise=self.noise.take(observations, self.operator.shape, self.size), control=control or self.control,
            given=self.given and self.given.part(observations),
        )  # fmt: skip

    def residual(self, z: Array) -> Array:
        """Compute the residuals, (B, m), at codes (B, k), see :meth:`residual_of`."""
        return self.residual_of(self.network.outputs(z))

    def residual_of(self, x: Array) -> Array:
        """Compute y - A x, (B, m), for outputs x (B, ...), or signed roots of deviances; 0 at hidden entries."""
        return self._residual(self.mean_of(x))

    def _residual(self, mean: Array) -> Array:
        r = self.noise.residuals(self.y, mean)
        return r if self.noise.likelihood is None else np.where(self.operator.seen(len(r)), r, 0.0)

    def mean_of(self, x: Array) -> Array:
        """Compute A x, (B, m), for outputs x (B, ...)."""
        return self.operator.values(x.reshape(len(x), self.network.output_dim))

    def differences_of(self, x: Array) -> Array:
        """Compute y - A x, (B, m), for outputs x (B, ...), without whitening; 0 at hidden entries."""
        stated = self.stated
        r = stated.y - stated.mean_of(x)
        return np.where(known_entries(stated.noise, stated.operator, len(r)), r, 0.0) if self.given else r

    def objective(self, z: Array, norm: str | None = None) -> Array:
        """Compute the objective, (B,), at codes (B, k), in the problem's norm or another one, see :attr:`norm`."""
        return self.objective_of(self.residual(z), z, norm)

    def objective_of(self, residual: Array, z: Array, norm: str | None = None) -> Array:
        """Compute the objective, (B,), at codes (B, k) with these residuals, (B, m)."""
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
        """Compute the Huber losses, (B,), for predicted measurements A G(z) = ``mean``, (B, m)."""
        assert self.stated_loss is not None
        y, seen = (torch.tensor(each, dtype=torch.float64) for each in (self.y, self.operator.seen(len(mean))))
        return self.stated_loss.total(y, torch.tensor(mean), seen).numpy()

    @cached_property
    def tolerance(self) -> Array:
        """The largest residual of an exact fit as a fraction of max|y|, (B,): 1e-8, or 100 times single precision.

        Single precision counts if the network computes in it, or if all entries of an observation are representable in
        it and some are not integers.
        """
        single = 100 * torch.finfo(torch.float32).eps
        if self.network.dtype == torch.float32:
            return np.full(self.size, single)
        with np.errstate(over="ignore"):
            stored = (self.y == self.y.astype(np.float32)).all(axis=1) & (self.y != np.rint(self.y)).any(axis=1)
        return np.where(stored, single, EXACT_FIT_TOLERANCE)

    def fits_exactly(self, z: Array) -> Flags:
        """Check whether codes (B, k) fit exactly, (B,), see :meth:`is_exact`."""
        return self.is_exact(self.residual(z))

    def is_exact(self, residual: Array) -> Flags:
        """Check whether ``|r|_inf`` is at most :attr:`tolerance` times max|y|, (B,).

        If all entries of y are 0, the limit is the rounding error of typical outputs.
        """
        allowed = self.tolerance * self.scale
        if not allowed.all():
            allowed[allowed == 0] = 10 * torch.finfo(self.network.dtype).eps * self._typical
        return np.asarray(np.abs(residual).max(axis=1) <= allowed)

    def fit_of(self, x: Array, used: Array | None = None, jacobians: Jacobians | None = None) -> Fit:
        """Make the :class:`~unrelu.measurements.noise.Fit` for outputs x (B, ...), from which p-values are computed.

        ``used`` are the degrees of freedom that the fit used up, (B,); None means 0.
        """
        mean = self.mean_of(x)
        # The largest |y| may be an outlier; the size of outputs is not affected by outliers.
        size = np.minimum(self.scale, self._typical)
        used = np.zeros(len(mean)) if used is None else used
        return Fit(self._residual(mean), mean, self.operator.seen(len(mean)), used, size, self.weights, jacobians)

    def p_value(self, fit: Fit) -> Array:
        """Compute the p-values of fits under the noise, (B,): :meth:`unrelu.measurements.noise.Noise.p_value`.

        The p-value is NaN if no noise was stated, or if an observation has no code. It is 0 if the output of the code
        is not finite. It is 1 for an exact fit if the noise is below the rounding errors of the data.
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
        """The size of the objective for a code that explains nothing, (B,), see :meth:`Noise.energy`."""
        if self.stated_loss is None:
            return self.noise.energy(self.y)
        x = self.network.typical_outputs[np.arange(self.size) % len(self.network.typical_outputs)]
        losses = self._losses(np.where(self.operator.seen(self.size), self.operator.values(x), 0.0))
        return np.maximum(losses, np.finfo(np.float64).tiny)

    @cached_property
    def scale(self) -> Array:
        """The maximum of |y| for each observation, (B,)."""
        return np.asarray(np.abs(self.y).max(axis=1))

    @cached_property
    def looks_noiseless(self) -> Flags:
        """Whether an observation looks noiseless, (B,): all entries are in the last activation's range, up to rounding.

        All values are False if this range tells nothing about noise: it has no lower end, the layers are not known, A
        mixes entries, or noise was stated.
        """
        if isinstance(self.network, Network) and self.operator.selects and not self.noise.noisy:
            low, high = self.network.layers[-1].activation.range
            if np.isfinite(low).all():
                room, y = OUT_OF_RANGE_TOLERANCE * self.scale, self.y
                return np.asarray((y.min(axis=1) >= low.min() - room) & (y.max(axis=1) <= high.max() + room))
        return np.zeros(self.size, dtype=bool)

    @property
    def tells_level(self) -> bool:
        """Whether least-squares residuals can estimate the noise level: no noise is stated, and there is no prior."""
        return not self.noise.stated and self.norm == "l2" and not self.prior

    @cached_property
    def observed(self) -> Integers:
        """The number of observed entries of each observation, (B,)."""
        return np.asarray(self.operator.seen(self.size).sum(axis=1), dtype=np.int64)

    @cached_property
    def _typical(self) -> float:
        """The size of A x for typical outputs x. Rounding errors are relative to it."""
        x = self.network.typical_outputs
        if self.operator.linear:
            x = np.full((self.size, self.network.output_dim), self.network.typical_output)
        elif self.operator.count:  # each observation has its own operator, so each needs an output
            x = x[np.arange(self.size) % len(x)]
        return float(np.abs(self.operator.values(x)).max())


def _refuse_extremes(stated: Problem, working: Problem) -> None:
    """Raise an InputError for problems whose squares overflow or underflow in working units."""
    data = working.units.data
    if abs(data) > _REPRESENTED:
        raise InputError(
            f"the generator's outputs, as they are measured, are of the size 1e{-data * math.log10(2):+.0f}, where "
            "double precision has few digits or none; scale the weights of its layers, or state bounds= of codes"
        )
    sizes, what = np.abs(working.y).max(axis=1), ""
    lost = np.flatnonzero(~(sizes <= _LARGEST) | (working.y.any(axis=1) & (sizes < 1 / _LARGEST)))
    if len(lost):
        what = f"y, up to {stated.scale[lost[0]]:.1e} in observation {lost[0]},"
    elif working.noise.size > _LARGEST or (stated.normal is not None and not working.prior > 0):
        what = f"noise={stated.noise}"
    elif not working.prior < math.inf:
        what = f"prior={stated.prior:g}"
    if what:
        raise InputError(
            f"{what} is more than {_LARGEST:.0e} times what the generator puts out, or so much less, so that squares "
            "overflow or vanish; scale it, or leave it out"
        )


class Stated(TypedDict, total=False):
    """What a user states about an observation, as arguments of :func:`unrelu.invert`."""

    noise: Noise | str | None
    norm: str | None
    operator: Any
    bounds: Any
    fixed: Any
    prior: float | Normal
    z0: npt.ArrayLike | Mapping[Any, float] | None
    seed: int
    time_limit: float | None
    scale: str | tuple[float, float] | Scaling | None


@contextmanager
def problem_of(
    network: Generator, y: npt.ArrayLike, what: str, device: Any, progress: Any, callback: Any,
    **stated: Unpack[Stated],
) -> Iterator[Problem]:  # fmt: skip
    """Build the problem for a function such as :func:`unrelu.invert`, which takes the same arguments.

    Within this context, the settings of the process apply, and a progress bar shows ``what`` is done.
    """
    place = placed(network, device)
    with reporting(progress, what, callback) as reported, computing(one_thread=small(place)):
        yield Problem.build(place, y, callback=reported, **stated)

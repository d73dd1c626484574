"""Noise that is added to A G(z): bounded errors, Gaussian errors, and outliers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse
from scipy.special import bdtrc, chdtr, chdtrc

from unrelu.errors import InputError
from unrelu.measurements.noise import Fit, Noise
from unrelu.models.generator import read_only
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.words import shown

# The noise is classified as smaller than stated, or stated in another unit, if it leaves such a small residual with a
# lower probability than this.
_ONE_OF_A_MILLION = 1e-6
# An entry is an outlier if its residual exceeds this fraction of the size of outputs.
_OUTLIER = 1e-6
# The most entries of an observation that may have a covariance matrix: 128 MiB.
CORRELATED = 4096


@dataclass(frozen=True, eq=False)
class SizedNoise(Noise):
    """Noise of a given size. The level is a number, or an array with one per entry, infinite for unknown entries."""

    def __post_init__(self) -> None:
        if np.ndim(self.level):
            self._set(level=_sizes(self.level, self.name), entrywise=True, noisy=True)
        else:
            super().__post_init__()
        self._set(size=float(np.max(self.level, where=np.isfinite(self.level), initial=0.0)))

    def spread(self, observation: tuple[int, ...], size: int) -> Array:
        """Return the size of the error of every entry, see :meth:`Noise.spread`.

        Raises:
            InputError: the level has neither the shape of one observation nor of all observations.
        """
        m, given = math.prod(observation), np.shape(self.level)
        if not given:
            return np.asarray(self.level)
        if given in (observation, (m,)):
            return np.reshape(self.level, m)
        if given in ((size, *observation), (size, m)):
            return np.reshape(self.level, (size, m))
        raise InputError(
            f"noise={self}: the level has shape {given}, an observation has shape {observation}; pass an array of "
            f"that shape, or {(size, *observation)}, one for each of the {size} observations"
        )

    def times_power_of_two(self, exponent: int) -> Self:
        """Return the model of 2^exponent e. A size that underflows becomes the smallest positive number."""
        with np.errstate(over="ignore", under="ignore"):
            return replace(self, level=float(np.ldexp(self.level, exponent)) or self.noisy * math.ulp(0.0))

    def take(self, observations: Index, observation: tuple[int, ...], size: int) -> Noise:
        shared = self.spread(observation, size).ndim < 2
        return self if shared else replace(self, level=self.level[observations])

    def of_one_size(self, size: float) -> Noise:
        return type(self)(size)

    def _errors(self, standard: Array) -> Array:
        """Scale standard errors, (B, m), to the sizes of the entries; 0 where the size is infinite."""
        level = np.reshape(self.level, (-1, standard.shape[1])) if self.entrywise else self.level
        return np.where(np.isfinite(level), level, 0.0) * standard


@dataclass(frozen=True, eq=False)
class Uniform(SizedNoise):
    r"""Errors of at most A: :math:`|e_j| \le A_j`.

    The objective is :math:`|r|_\infty`, or :math:`\max_j |r_j| / A_j` if A is an array. The p-value is 1 if
    :math:`|r_j| \le A_j` for all j, else 0.

    Args:
        level: A, in units of y: a number, or an array with the shape of one observation or of all observations. It is
            infinite for entries about which nothing is known.

    Raises:
        InputError: A is not a finite number of at least 0, or not an array of numbers above 0.

    >>> import unrelu
    >>> unrelu.Uniform(0.1)
    Uniform(level=0.1)
    """

    name: ClassVar[str] = "uniform"
    norm: ClassVar[str] = "linf"
    without_density: ClassVar[str] = "makes all errors up to its bound equally probable"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(bound=self.size, ceiling=self.size, mean_square=1 / 3 * (self.size * self.size))

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Add errors U(-A, A)."""
        return clean + self._errors(rng.uniform(-1.0, 1.0, clean.shape))

    def p_value(self, fit: Fit) -> Array:
        """Return 1 if all residuals are at most A, else 0."""
        return np.where(np.abs(fit.residual).max(axis=1) <= self.level * (1 + 1e-9), 1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Gaussian(SizedNoise):
    r"""Independent errors with the distribution N(0, S^2), or N(0, C) with a covariance C.

    If S is an array, observations and the rows of A are divided by it: :math:`y_j / S_j`. With a covariance
    :math:`C = L L^T` they are multiplied by :math:`L^{-1}` (generalised least squares). The objective is then
    :math:`\chi^2 = \sum_j r_j^2 / S_j^2` or :math:`r^T C^{-1} r`, and the noise has unit variance. An array whose
    finite entries are all the same counts as one number S. The objective is then :math:`|r|_2^2`, and the relative
    weight of a ``prior`` is larger by the factor :math:`1 / S^2`.

    The p-value of the residual's size is :math:`P(\chi^2_{m - u} \ge |r|_2^2 / S^2)`: a least-squares fit uses up u
    of the m degrees of freedom of the noise. If it uses up all of them, the fit cannot be tested. With u = 0, the
    p-value then says whether the noise at the true code could be as large. The p-value of a result also tests the shape
    of the residual (:mod:`unrelu.diagnostics._goodness_of_fit`).

    **A level that is not known.** With ``extra`` or ``relative``, the standard deviation of entry j is

    .. math:: \sqrt{S_j^2 + \tau^2} \quad \text{or} \quad \sqrt{S_j^2 + f^2 (A G(z))_j^2}

    with tau or f within a range; S is the part of the noise that is known. :func:`unrelu.invert` estimates the level
    together with the code, :func:`unrelu.posterior` integrates over it (:mod:`unrelu.measurements.unknown_level`).

    The sum of two models describes the sum of independent errors: variances and covariances add. Terms may be numbers,
    arrays and covariances, such as the result of :func:`unrelu.emulator_error`.

    Args:
        level: S, the standard deviation, in units of y: a number, or an array with the shape of one observation or of
            all observations. It is infinite for entries about which nothing is known.
        covariance: C in place of S, (m, m), the same for all observations: an array, a sparse matrix or a SciPy or
            PyLops ``LinearOperator``, which is made dense; symmetric and positive definite, at most 4096 x 4096.
        extra: the range (lowest, highest) of tau, in units of y; or a range for each of some named parts of the output,
            each of which has its own tau.
        relative: the range (lowest, highest) of f.
        members, parts: which range each entry has, (m,), -1 for none, and the names of the ranges. They follow from
            ``extra`` by part.

    Raises:
        InputError: S is not a number above 0, C is not a covariance, or neither or both were passed; or a range is not
            two numbers from 0 up, or is passed with a covariance or another range.

    Source: Aitken, "On least squares and linear combinations of observations", Proc. Royal Society of Edinburgh 55
    (1935).

    >>> import numpy as np
    >>> import unrelu
    >>> print(unrelu.Gaussian(0.1), unrelu.Gaussian(np.full((28, 28), 0.1)))
    gaussian:0.1 gaussian:array(28, 28)
    >>> unrelu.Gaussian(3.0) + unrelu.Gaussian(4.0)
    Gaussian(level=5.0)
    >>> unrelu.Gaussian(0.01, extra=(0, 1))
    Gaussian(level=0.01, extra=(0.0, 1.0))
    """

    level: Any = None
    covariance: Any = field(default=None, repr=False)
    extra: Any = field(default=None, kw_only=True)
    relative: Any = field(default=None, kw_only=True)
    members: Any = field(default=None, kw_only=True)
    parts: Any = field(default=None, kw_only=True)
    name: ClassVar[str] = "gaussian"
    shaped: ClassVar[bool] = True
    without_density: ClassVar[str] = ""
    instead_of_zero: ClassVar[str | None] = "; state none where y has no errors, or 'uniform:0'"
    factor: ClassVar[Array | None] = None

    def __post_init__(self) -> None:
        if (self.level is None) == (self.covariance is None):
            stated = " S of the errors that are known, beside the range" if self.level_unknown else ""
            raise InputError(f"noise=gaussian: pass the standard deviation{stated} or covariance=, one of them")
        self._read_ranges()
        if self.covariance is not None:
            covariance = _covariance(self.covariance)
            self._set(covariance=covariance, factor=_factored(covariance), noisy=True, entrywise=True)
            self._set(mean_square=float(np.diag(covariance).mean()))
            return
        super().__post_init__()
        self._set(ceiling=2 * self.size, mean_square=self.size * self.size)
        if self.level_unknown:  # the objective is chi-square at the fitted level
            self._set(entrywise=True, dispersion_parameter=1.0)
        if not (self.entrywise or self.without_density):
            self._set(dispersion_parameter=self.level * self.level)

    @property
    def on_misfit(self) -> str:  # type: ignore[override]
        if self.level_unknown or self.covariance is not None:
            return ""
        return "if the level is not known, have it fitted: noise=unrelu.Gaussian(S, extra=(0, 1))"

    def _read_ranges(self) -> None:
        """Check ``extra`` and ``relative``, and convert the stated one to an array (P, 2)."""
        stated = {name: getattr(self, name) for name in ("extra", "relative") if getattr(self, name) is not None}
        if not stated:
            return
        if len(stated) > 1 or self.covariance is not None:
            both = " and ".join([*stated, "covariance"][:2])
            raise InputError(f"noise=gaussian: {both} were passed; one unknown level is fitted, beside a known S")
        (name, given) = stated.popitem()
        if isinstance(given, Mapping):
            if name == "relative" or not given:
                raise InputError(f"{name}={shown(given)}: pass one range, such as {name}=(0, 0.2)")
            self._set(parts=tuple(map(str, given)))
            given = [_range(each, f"extra[{part!r}]") for part, each in given.items()]
        elif np.ndim(given) < 2:
            given = [_range(given, name)]
        ranges = read_only(np.array([_range(each, name) for each in given]))
        if len(ranges) != len(self.parts or ("",)):
            raise InputError(f"{name}={shown(given)}: pass one range, or a dictionary of ranges by part of the output")
        self._set(**{name: ranges})

    @property
    def by_part(self) -> bool:
        """Whether there are ranges by part, and the entries of the parts are not known yet."""
        return bool(self.parts) and self.members is None

    @property
    def level_unknown(self) -> bool:  # type: ignore[override]
        """Whether part of the noise has an unknown level."""
        return self.extra is not None or self.relative is not None

    @property
    def ranges(self) -> Array:
        """The ranges of the unknown levels, (P, 2)."""
        return np.asarray(self.relative if self.extra is None else self.extra)

    @property
    def level_names(self) -> tuple[str, ...]:
        """The names of the unknown levels: parts of the output, or the argument that states the range."""
        return self.parts or ("relative" if self.extra is None else "extra",)

    def __str__(self) -> str:
        if self.covariance is not None:
            return f"{self.name}:covariance{self.covariance.shape}"
        return super().__str__() + (f" with {self._ranges_text()}" if self.level_unknown else "")

    def __repr__(self) -> str:
        known = f"level={self.level!r}" if self.covariance is None else f"covariance=array{self.covariance.shape}"
        return f"{type(self).__name__}({known}{f', {self._ranges_text()}' if self.level_unknown else ''})"

    def _ranges_text(self) -> str:
        ranges = [tuple(each) for each in self.ranges.tolist()]
        name = "relative" if self.extra is None else "extra"
        return f"{name}={dict(zip(self.parts, ranges, strict=True)) if self.parts else ranges[0]}"

    def __add__(self, other: object) -> Noise:
        """Return the model of the sum of independent errors; InputError for other models or mismatched shapes."""
        if not type(self) is type(other) is Gaussian:
            return super().__add__(other)
        if self.level_unknown or other.level_unknown:
            raise InputError(
                f"noise={self} and noise={other} cannot be summed: sum the known errors first, and state the range of "
                "the unknown level of the sum, such as unrelu.Gaussian(S, extra=(0, 1))"
            )
        for term in (self, other):
            if term.covariance is not None:
                return Gaussian(covariance=self._matrix(len(term.covariance)) + other._matrix(len(term.covariance)))
        few, many = sorted((np.asarray(self.level), np.asarray(other.level)), key=np.ndim)
        if few.shape != many.shape[many.ndim - few.ndim :]:
            raise InputError(
                f"noise={self} and noise={other} cannot be summed: each must be of one observation's shape, or (B, ...)"
            )
        return Gaussian(np.hypot(few, many))

    def _matrix(self, m: int) -> Array:
        """Return the covariance of m entries, (m, m)."""
        known = self.covariance if self.level is None else np.ravel(self.level)
        if len(known) not in ((m,) if self.level is None else (1, m)) or not np.isfinite(known).all():
            raise InputError(
                f"noise={self} cannot be added to a covariance of {m} entries: it must be of as many, finite, and the "
                "same for all observations; hide entries of which nothing is known by operator="
            )
        return np.asarray(known) if self.level is None else np.diag(np.broadcast_to(known, m) ** 2)

    def cholesky(self) -> Array | None:
        return self.factor

    def spread(self, observation: tuple[int, ...], size: int) -> Array:
        """Return the standard deviation of every entry, see :meth:`Noise.spread`."""
        if self.covariance is None:
            return super().spread(observation, size)
        if len(self.covariance) != (m := math.prod(observation)):
            raise InputError(
                f"noise={self} is of {len(self.covariance)} entries, an observation has {m} (shape {observation})"
            )
        return np.sqrt(np.diag(self.covariance))

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Add errors N(0, S^2) or N(0, C)."""
        standard = rng.standard_normal(clean.shape)
        return clean + (self._errors(standard) if self.factor is None else standard @ self.factor.T)

    def _squares(self, fit: Fit) -> Array:
        """Compute chi^2, (B,)."""
        return np.asarray(np.square(fit.residual / self.level).sum(axis=1))

    def p_value(self, fit: Fit) -> Array:
        """Compute the p-value of chi-square with m - u degrees of freedom."""
        return np.asarray(chdtrc(fit.left, self._squares(fit)))

    def too_large_for(self, fit: Fit) -> Flags:
        """Test as :meth:`Noise.too_large_for` does; False if the fit uses up half of the entries or more."""
        left = fit.observed - fit.used
        with np.errstate(over="ignore", invalid="ignore"):
            small = chdtr(np.maximum(left, 1.0), self._squares(fit)) < _ONE_OF_A_MILLION
        return np.asarray(self.shaped & (left > fit.used) & small)


@dataclass(frozen=True, eq=False)
class RoundingNoise(Gaussian):
    r"""Rounding errors of at most A. For a picture, A is one grey level, which is 1/255 of the range for 8 bits.

    A picture does not say whether its values were rounded or truncated: the error is half a level in some programs, and
    a whole one in others. The distribution of the errors depends on the picture: an even background has the same error
    everywhere. The objective is :math:`|r|_2^2`. The p-value assumes Gaussian errors with the standard deviation A,
    the largest possible root mean square of the errors. It is near 1 for most pictures. The shape of the residual is
    not tested.

    ``noise=None`` selects this model if the rounding follows from y: integers of 8 or 16 bits that ``scale`` maps to
    the range of the generator's outputs; or half precision or bfloat16 numbers, for a module that computes in it.

    Args:
        level: A, in units of y.
        note: what messages say about the noise, if the rounding was inferred from y; empty if it was stated.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> r = unrelu.invert(net, [0.667, 0.0, 0.333], noise="rounding:0.0005")
    >>> r.status.name, r.success
    ('NOISE_LEVEL', True)
    """

    note: str = ""
    name: ClassVar[str] = "rounding"
    shaped: ClassVar[bool] = False
    on_misfit: ClassVar[str] = ""  # type: ignore[misc]
    without_density: ClassVar[str] = "does not say how its errors are distributed"

    @classmethod
    def told(cls, level: float, made_of: str) -> RoundingNoise:
        """Make the model of rounding errors that were inferred from y, in the user's units. ``made_of`` describes y."""
        return cls(
            level,
            note=f"; noise= was not passed, so the noise is what y tells, the rounding of {made_of}, "
            f"'rounding:{level:.2g}'; pass noise= if y has other errors",
        )


@dataclass(frozen=True, eq=False)
class Outliers(Noise):
    r"""A fraction P of the entries is arbitrarily wrong; the others are exact.

    The p-value is :math:`P(\mathrm{Binomial}(m, P) \ge t)`, where t is the number of entries whose residuals exceed
    1e-6 of the size of outputs.

    Args:
        level: P, at least 0 and below 1.

    Raises:
        InputError: P is out of this range.

    >>> import unrelu
    >>> unrelu.Outliers(0.05).level
    0.05
    """

    name: ClassVar[str] = "outliers"
    norm: ClassVar[str] = "l1"
    without_density: ClassVar[str] = "leaves the size of its errors open"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level >= 1:
            raise InputError(f"noise={self}: the share of outliers must be below 1, got {self.level:g}")
        self._set(outliers=self.level)

    def p_value(self, fit: Fit) -> Array:
        """Compute the p-value of the number of outliers."""
        outliers = (np.abs(fit.residual) > _OUTLIER * fit.scale[:, None]).sum(axis=1)
        return np.asarray(bdtrc(outliers - 1.0, fit.observed, self.level))


def _sizes(level: Any, name: str) -> Array:
    """Return a read-only copy of an array of numbers above 0, which may be infinite.

    Raises:
        InputError: an entry is not above 0.
    """
    array = read_only(numbers(level, f"noise={name}"))
    bad = np.argwhere(~(array >= np.finfo(float).tiny))  # 1 / S of smaller ones overflows
    if len(bad):
        first = tuple(map(int, bad[0]))
        square = array.ndim == 2 and np.array_equal(array, array.T)
        covariance = "; a covariance is unrelu.Gaussian(covariance=array)" if square else ""
        raise InputError(
            f"noise={name}:array{array.shape}: every entry must be above 0, at least {np.finfo(float).tiny:.1e}, and "
            f"infinite where nothing is known; {len(bad)} are not, the first at {first}: {array[first]:g}{covariance}"
        )
    return array


def _range(given: Any, name: str) -> Array:
    """Read the range of an unknown level: two numbers, 0 <= lowest < highest.

    Raises:
        InputError: it is something else.
    """
    ends = numbers(given, name)
    if ends.shape != (2,) or not 0 <= ends[0] < ends[1] < math.inf:
        raise InputError(f"{name}={shown(given)}: pass (lowest, highest), finite, with 0 <= lowest < highest")
    return ends


def _covariance(given: Any) -> Array:
    """Return a covariance as a read-only dense array.

    Raises:
        InputError: the covariance is not square, too large, not finite or not symmetric.
    """
    shape = tuple(np.shape(given)) or tuple(getattr(given, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise InputError(
            f"covariance= has shape {shape}; pass a square one, (m, m), of the m entries of an observation; by part, "
            "noise={part: unrelu.Gaussian(covariance=...), ...}"
        )
    if shape[0] > CORRELATED:
        raise InputError(
            f"covariance= is {shape[0]} x {shape[0]}, and is factored up to {CORRELATED} x {CORRELATED}: whiten y "
            "and operator= yourself, as L^-1 y and L^-1 A, with noise='gaussian:1'"
        )
    if sparse.issparse(given) or callable(getattr(given, "matvec", None)):
        given = np.asarray(given @ np.eye(shape[0]))
    array = read_only(numbers(given, "covariance"))
    with np.errstate(invalid="ignore"):
        off = np.abs(array - array.T).max()
    if not off <= 1e-10 * np.abs(array).max() < math.inf:
        raise InputError(
            f"covariance= is not symmetric and finite: C and C^T differ by {off:.1e}; if that is rounding, pass "
            "(C + C^T) / 2; hide entries of which nothing is known by operator="
        )
    return array


def _factored(covariance: Array) -> Array:
    """Compute the Cholesky factor L of the covariance L L^T, read-only."""
    # The square of a weight 1 / L_jj must not overflow in double precision. The ratio of a weight to the least weight
    # must not overflow in single precision.
    tiny, least = np.finfo(np.float32).tiny, float(np.finfo(np.float64).tiny) ** 0.5
    try:
        factor = read_only(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        factor = np.zeros(covariance.shape)
    if np.diag(factor).min() < max(least, float(tiny * np.diag(factor).max())):
        eigenvalues = np.linalg.eigvalsh(covariance)
        raise InputError(
            f"covariance= is not positive definite: its eigenvalues go from {eigenvalues[0]:.2g} to "
            f"{eigenvalues[-1]:.2g}; add the variance of the independent errors that every measurement has to its "
            "diagonal, or state y in larger units"
        )
    return factor

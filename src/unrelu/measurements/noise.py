"""What is known about the noise e of an observation y = A G(z*) + e, and how well it explains a residual."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, chdtrc, chdtri

from unrelu.errors import InputError

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# A residual that the stated noise would exceed this rarely is not explained by it.
SIGNIFICANCE = 0.01
# An entry is an outlier if it is off by more than this fraction of the size of outputs.
_OUTLIER = 1e-6


@dataclass(frozen=True)
class Noise(ABC):
    """A noise model; everything that depends on which one it is, is a member of its class.

    Attributes:
        level: its parameter, finite and at least 0.
        name: how its text begins: ``str(Gaussian(0.1))`` is "gaussian:0.1", which :meth:`parse` reads.
        norm: the norm that suits it.
        stated: whether anything is known of e.
    """

    level: float
    name: ClassVar[str]
    norm: ClassVar[str] = "l2"
    stated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "level", float(self.level))
        except (TypeError, ValueError):
            raise InputError(
                f"noise={self.name}: the level {self.level!r} is not a number; write e.g. '{self.name}:0.1'"
            ) from None
        if not math.isfinite(self.level) or self.level < 0:
            raise InputError(f"noise={self}: the level must be finite and at least 0, got {self.level:g}")

    def __str__(self) -> str:
        return f"{self.name}:{self.level!r}"

    @staticmethod
    def parse(noise: Noise | str | None) -> Noise:
        """The model of None, "uniform:0.1", "gaussian:0.1", "outliers:0.05" or an object, which is returned as it is.

        Raises:
            InputError: another kind, or a level that is not a non-negative number (below 1 for outliers).
        """
        if isinstance(noise, Noise):
            return noise
        if noise is None:
            return UnknownNoise()
        kind, _, level = str(noise).partition(":")
        if kind not in _MODELS:
            raise InputError(
                f"noise={noise!r}: use 'uniform:A', 'gaussian:S' or 'outliers:P', e.g. 'uniform:0.1', or unrelu.Uniform"
            )
        try:
            number = float(level)
        except ValueError:
            raise InputError(f"noise={noise!r}: the level {level!r} is not a number; write e.g. '{kind}:0.1'") from None
        return _MODELS[kind](number)

    def times_power_of_two(self, exponent: int) -> Self:
        """The model of 2^exponent e."""
        with np.errstate(over="ignore"):
            return replace(self, level=float(np.ldexp(self.level, exponent)))

    @property
    def size(self) -> float:
        """The level as a size of errors, in units of y; 0 where it is none."""
        return self.level

    @property
    def bound(self) -> float:
        """The largest error of an entry that the model allows; NaN where it allows any."""
        return math.nan

    @property
    def outliers(self) -> float:
        """The fraction of entries that may be arbitrarily wrong."""
        return 0.0

    @property
    def mean_square(self) -> float:
        """The mean of e_j^2; NaN where it is not known."""
        return math.nan

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Errors of this shape, where :attr:`mean_square` is known."""
        raise InputError(f"noise={self} does not say how errors are distributed")

    @property
    def threshold(self) -> float | None:
        """The threshold eps of the observed layer's constraints, for the layer methods; None where none is known."""
        return None

    @property
    def ceiling(self) -> float:
        """What all errors, or nearly all, are below; 0 where that is not known."""
        return 0.0

    def energy(self, observed: Counts) -> Array:
        """The mean of ``|e|_2^2`` over ``observed`` entries, (B,); -1 where it is not known."""
        return np.asarray(np.nan_to_num(self.mean_square * observed, nan=-1.0))

    def accepted_energy(self, observed: Counts, used: Array) -> Array:
        """The largest ``|r|_2^2`` with a p-value of 1%, (B,); infinite where the p-value is one of another norm.

        Args:
            observed: m, (B,).
            used: the degrees of freedom of the fit, (B,).
        """
        return np.full(len(observed), np.inf)

    def p_value(self, residual: Array, observed: Counts, used: Array, scale: Array) -> Array:
        """The probability that such noise leaves a residual at least as large as this one, (B,).

        NaN where no noise is stated, and without a code. A code whose output is not finite explains nothing: 0.

        Args:
            residual: r = y - A G(z), (B, m), 0 where nothing was observed; NaN without a code.
            observed: the number of observed entries m, (B,).
            used: u, the degrees of freedom that the fit used up, (B,).
            scale: the size of entries without noise, (B,). No outlier may set it, or it would hide itself.
        """
        r = np.abs(residual)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            p = self._p_value(r, observed, used, scale)
        without_code = np.isnan(r).all(axis=1) | (not self.stated)
        return np.asarray(np.where(np.isfinite(r).all(axis=1), p, np.where(without_code, np.nan, 0.0)))

    @abstractmethod
    def _p_value(self, r: Array, observed: Counts, used: Array, scale: Array) -> Array:
        """The p-value of finite absolute residuals."""


@dataclass(frozen=True)
class UnknownNoise(Noise):
    """Nothing is known of e: what ``noise=None`` stands for."""

    level: float = math.nan
    name: ClassVar[str] = "unknown"
    stated: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pass

    def _p_value(self, r: Array, observed: Counts, used: Array, scale: Array) -> Array:
        return np.full(len(r), np.nan)


@dataclass(frozen=True)
class Uniform(Noise):
    r"""Errors of at most A: :math:`|e_j| \le A`.

    The p-value is 1 if :math:`|r|_\infty \le A`, else 0.

    Args:
        level: A, in units of y.

    Raises:
        InputError: A is no finite number of at least 0.

    >>> import unrelu
    >>> unrelu.Uniform(0.1)
    Uniform(level=0.1)
    """

    name: ClassVar[str] = "uniform"
    norm: ClassVar[str] = "linf"

    @property
    def bound(self) -> float:
        """A."""
        return self.level

    @property
    def mean_square(self) -> float:
        """A^2 / 3."""
        return 1 / 3 * self.level**2

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Errors U(-A, A)."""
        return rng.uniform(-self.level, self.level, shape)

    @property
    def threshold(self) -> float | None:
        """A."""
        return self.level or None

    @property
    def ceiling(self) -> float:
        """A."""
        return self.level

    def _p_value(self, r: Array, observed: Counts, used: Array, scale: Array) -> Array:
        return np.where(r.max(axis=1) <= self.level * (1 + 1e-9), 1.0, 0.0)


@dataclass(frozen=True)
class Gaussian(Noise):
    r"""Independent errors with the distribution N(0, S^2).

    The p-value is :math:`P(\chi^2_{m - u} \ge |r|_2^2 / S^2)`: a least-squares fit of u free parameters to m entries
    takes u degrees of freedom from the noise. Where it takes all of them the fit can be tested no more, and what is
    asked is whether noise of the true code could be as large: u = 0.

    Args:
        level: S, the standard deviation, in units of y.

    Raises:
        InputError: S is no finite number of at least 0.

    >>> import unrelu
    >>> print(unrelu.Gaussian(0.1))
    gaussian:0.1
    """

    name: ClassVar[str] = "gaussian"

    @property
    def mean_square(self) -> float:
        """S^2."""
        return self.level**2

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """Errors N(0, S^2)."""
        return self.level * rng.standard_normal(shape)

    @property
    def threshold(self) -> float | None:
        """One standard deviation."""
        return self.level or None

    @property
    def ceiling(self) -> float:
        """Two standard deviations."""
        return 2 * self.level

    def accepted_energy(self, observed: Counts, used: Array) -> Array:
        """The largest ``|r|_2^2`` with a p-value of 1%, (B,): S^2 times a quantile of chi-square."""
        return np.asarray(self.level**2 * chdtri(_degrees_left(observed, used), SIGNIFICANCE))

    def _p_value(self, r: Array, observed: Counts, used: Array, scale: Array) -> Array:
        squares = np.where(r > 0, r / self.level, 0.0) ** 2
        return np.asarray(chdtrc(_degrees_left(observed, used), squares.sum(axis=1)))


@dataclass(frozen=True)
class Outliers(Noise):
    r"""A fraction P of the entries is arbitrarily wrong, the others are exact.

    The p-value is :math:`P(\mathrm{Binomial}(m, P) \ge t)` with t the number of entries that are off by more than 1e-6
    of the size of outputs.

    Args:
        level: P, at least 0 and below 1.

    Raises:
        InputError: P is no such number.

    >>> import unrelu
    >>> unrelu.Outliers(0.05).level
    0.05
    """

    name: ClassVar[str] = "outliers"
    norm: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level >= 1:
            raise InputError(f"noise={self}: the share of outliers must be below 1, got {self.level:g}")

    def times_power_of_two(self, exponent: int) -> Self:
        """The same: a fraction has no unit."""
        return self

    @property
    def size(self) -> float:
        """0: outliers have any size."""
        return 0.0

    @property
    def outliers(self) -> float:
        """P."""
        return self.level

    def _p_value(self, r: Array, observed: Counts, used: Array, scale: Array) -> Array:
        outliers = (r > _OUTLIER * scale[:, None]).sum(axis=1)
        return np.asarray(bdtrc(outliers - 1.0, observed, self.level))


_MODELS: dict[str, type[Noise]] = {model.name: model for model in (Uniform, Gaussian, Outliers)}


def _degrees_left(observed: Counts, used: Array) -> Array:
    """m - u, or m where the fit takes them all."""
    return np.where(observed > used, observed - used, observed)

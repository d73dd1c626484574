"""What is known about the noise e of an observation y = A G(z*) + e, and how well it explains a residual.

A model is one class: :class:`Noise` for errors that are added and compared in a norm, :class:`Likelihood` for
observations that are compared by a deviance of their own. The class has everything that depends on the model:
objective, residuals, p-value, draws, text, and what a file keeps. Its ``name`` makes it known.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.special import bdtrc, chdtr, chdtrc, gammaincc
from torch import Tensor

from unrelu.errors import InputError
from unrelu.models.generator import numbers
from unrelu.runtime.streams import stream
from unrelu.runtime.words import nearest, shown

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

# A residual that the stated noise would exceed this rarely is not explained by it.
SIGNIFICANCE = 0.01
# Noise that leaves so little so rarely is smaller than stated, or in another unit.
_ONE_OF_A_MILLION = 1e-6
# An entry is an outlier if it is off by more than this fraction of the size of outputs.
_OUTLIER = 1e-6
# Entries of an observation up to which a covariance is written out: 128 MiB.
_CORRELATED = 4096
# Draws from which the deviance that a likelihood leaves is known.
_DRAWS = 200
# The models by name.
_MODELS: dict[str, type[Noise]] = {}


def _meant(noise: object) -> str:
    """What may have been meant by noise that is none, for the end of a message."""
    if isinstance(noise, type) and issubclass(noise, Noise):
        return f"; {noise.__name__} is the class, make an object of it: unrelu.{noise.__name__}(0.1)"
    if isinstance(noise, int | float | np.number) and not isinstance(noise, bool):
        level = f"{float(noise):g}"
        return f"; is it a standard deviation, 'gaussian:{level}', or the largest error, 'uniform:{level}'?"
    if isinstance(noise, np.ndarray | list):
        return "; of standard deviations one an entry, pass unrelu.Gaussian(array)"
    words = [str(word) for word in noise] if isinstance(noise, tuple) else re.split(r"[=:\s,(]+", str(noise))
    found = nearest(words[0], _MODELS)
    return found[:-2] + f":{words[1].rstrip(')')}'?" if found and len(words) > 1 and words[1] else found


@dataclass(frozen=True, eq=False)
class Fit:
    """The codes of a batch, as a p-value looks at them.

    Attributes:
        residual: what :meth:`Noise.residuals` gives, (B, m), 0 where nothing was observed; NaN without a code.
        mean: A G(z), (B, m).
        seen: which entries were observed, (B, m).
        used: u, the degrees of freedom that the fit used up, (B,).
        scale: the size of entries without noise, (B,). No outlier may set it, or it would hide itself.
        prior: the weight of ``|z|^2`` in the fit.
        jacobians: of A G, for some observations after another: which, (b,), and the derivatives along the directions
            that the fit used, (b, k, m). None takes nothing off for them.
    """

    residual: Array
    mean: Array
    seen: Flags
    used: Array
    scale: Array
    prior: float = 0.0
    jacobians: Callable[[], Iterator[tuple[Rows, Array]]] | None = None

    @property
    def observed(self) -> Counts:
        """The number of observed entries m, (B,)."""
        return np.asarray(self.seen.sum(axis=1))

    @property
    def left(self) -> Array:
        """m - u, or m where the fit takes them all but half of one, (B,)."""
        left = self.observed - self.used
        return np.where(left >= 0.5, left, self.observed)

    @property
    def deviance(self) -> Array:
        """The sum of squared residuals, (B,)."""
        return np.asarray(np.square(self.residual).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Noise(ABC):
    """A noise model; everything that depends on which one it is, is a member of its class.

    Attributes:
        level: its parameter: a number, or an array of y's shape, one entry's own, for the models that take one.
        name: how its text begins: ``str(Gaussian(0.1))`` is "gaussian:0.1", which :meth:`parse` reads.
        norm: the norm that suits it.
        stated: whether anything is known of e.
        shaped: whether the shape of a residual, its largest entry and its structure, is tested beside its size.
    """

    level: Any = None
    name: ClassVar[str]
    norm: ClassVar[str] = "l2"
    stated: ClassVar[bool] = True
    shaped: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "name" not in cls.__dict__ or not cls.stated:
            return
        known = _MODELS.get(cls.name)
        if known is not None and known.built_in():
            raise InputError(f"name={cls.name!r} of {cls.__name__} is that of unrelu.{known.__name__}; take another")
        _MODELS[cls.name] = cls

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", _number(self.level, self.name))
        if not math.isfinite(self.level) or self.level < 0:
            raise InputError(f"noise={self}: the level must be finite and at least 0, got {self.level:g}")

    @property
    def likelihood(self) -> Likelihood | None:
        """The model itself, if observations are compared by a deviance of its own; None if by a norm of y - A G(z)."""
        return None

    # --- text and files -----------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        if isinstance(self.level, np.ndarray):
            return f"{self.name}:array{self.level.shape}"
        return self.name if self.level is None else f"{self.name}:{self.level!r}"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            a is b or np.array_equal(a, b)
            for a, b in ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        )

    def __hash__(self) -> int:
        return hash((type(self), *(np.asarray(getattr(self, f.name)).tobytes() for f in fields(self))))

    @staticmethod
    def parse(noise: Noise | str | None) -> Noise:
        """The model of None, "uniform:0.1", "poisson", ... or an object, which is returned as it is.

        Raises:
            InputError: another kind, or a level that it cannot have.
        """
        if isinstance(noise, Noise):
            return noise
        if noise is None:
            return UnknownNoise()
        kind, colon, level = str(noise).partition(":")
        model = _MODELS.get(kind)
        if model is None:
            raise InputError(
                f"noise={shown(noise)}: use 'uniform:A', 'gaussian:S', 'outliers:P', 'poisson' or "
                f"'negative-binomial:R', e.g. 'uniform:0.1', or an object such as unrelu.Uniform(0.1){_meant(noise)}"
            )
        levelled = any(f.name == "level" and f.init for f in fields(model))
        if not levelled:
            if colon:
                raise InputError(f"noise={noise!r}: {kind} has no level; write {kind!r}")
            return model()
        try:
            number = float(level)
        except ValueError:
            raise InputError(f"noise={noise!r}: the level {level!r} is not a number; write e.g. '{kind}:0.1'") from None
        return model(number)

    @classmethod
    def built_in(cls) -> bool:
        """Whether it is a model of this package, which every process knows."""
        return cls.__module__.startswith("unrelu.")

    @property
    def told_by_text(self) -> bool:
        """Whether :meth:`parse` makes the same model of its text."""
        try:
            return Noise.parse(str(self) if self.stated else None) == self
        except InputError:
            return False

    def saved(self) -> tuple[str, dict[str, Any]]:
        """What a file keeps: its text, or its name and the fields that it was made with."""
        own = {} if self.built_in() else {"class": f"{type(self).__module__}.{type(self).__qualname__}"}
        if self.told_by_text:
            return str(self) if self.stated else "", own
        made = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return self.name, own | {name: value for name, value in made.items() if value is not None}

    @staticmethod
    def restored(text: str, kept: Mapping[str, Any]) -> Noise:
        """The model of what :meth:`saved` gave, looked up by its name among the classes that are defined.

        Raises:
            InputError: no such class is defined, or it does not take these values.
        """
        model, values = _MODELS.get(text.partition(":")[0]), dict(kept)
        own = values.pop("class", None)
        if own is not None and model is None:
            raise InputError(
                f"noise={text} is of the class {own}, which is not defined here: import it, then load the result again"
            )
        return model.of_fields(text, values) if model is not None and values else Noise.parse(text or None)

    @classmethod
    def of_fields(cls, text: str, values: Mapping[str, Any]) -> Noise:
        """The model with the values of fields that a file keeps beside its text."""
        return cls(**values)

    # --- units --------------------------------------------------------------------------------------------------------

    def times_power_of_two(self, exponent: int) -> Self:
        """The model of 2^exponent e."""
        with np.errstate(over="ignore"):
            return replace(self, level=float(np.ldexp(self.level, exponent)))

    # --- what is known of single entries, see measurements.whitening --------------------------------------------------

    @property
    def entrywise(self) -> bool:
        """Whether entries differ in what is known of them, or depend on each other: whitening makes them alike."""
        return isinstance(self.level, np.ndarray)

    def cholesky(self) -> Array | None:
        """L, lower triangular, of the covariance L L^T of all entries where they depend on each other, else None."""
        return None

    def of_one_size(self, level: float) -> Noise:
        """The model of independent errors of one size."""
        return type(self)(level)

    def spread(self, observation: tuple[int, ...], size: int) -> Array:
        """The level of every entry, flat, (m,), or (B, m) where observations have levels of their own.

        Raises:
            InputError: it is an array neither of an observation's shape, nor of that of all of them.
        """
        m = math.prod(observation)
        given = np.asarray(self.level).shape
        if given in (observation, (m,)):
            return np.reshape(self.level, m)
        if given in ((size, *observation), (size, m)):
            return np.reshape(self.level, (size, m))
        raise InputError(
            f"noise={self}: the level has shape {given}, an observation has shape {observation}; pass an array of "
            f"that shape, or {(size, *observation)}, one for each of the {size} observations"
        )

    def take(self, rows: npt.NDArray[np.intp], observation: tuple[int, ...], size: int) -> Noise:
        """The model of some of ``size`` observations; itself where all share one."""
        shared = (observation, (math.prod(observation),))
        if not isinstance(self.level, np.ndarray) or self.level.shape in shared:
            return self
        return replace(self, level=self.level[rows])

    def _finite(self, clean: Array) -> Array:
        """The levels of entries, 0 where they are infinite, for observations (B, m)."""
        level = np.asarray(self.level, dtype=np.float64)
        level = level.reshape(clean.shape if level.size == clean.size else -1) if level.ndim else level
        return np.where(np.isfinite(level), level, 0.0)

    # --- the objective ------------------------------------------------------------------------------------------------

    def residuals(self, y: Array, mean: Array) -> Array:
        """What is squared, (B, m), of observations whose outputs without noise would be ``mean``: y - mean."""
        return y - mean

    def energy(self, y: Array) -> Array:
        """The size of the objective in l2 of codes that explain nothing, (B,): ``|y|_2^2``."""
        return np.asarray(np.square(y).sum(axis=1))

    def check(self, y: Array) -> None:  # noqa: B027 -- most noise may leave any number
        """Refuse observations (B, m) that cannot have such noise.

        Raises:
            InputError: they are no counts, of count noise.
        """

    def check_range(self, low: Array, high: Array) -> None:  # noqa: B027 -- most noise suits any output
        """Refuse a generator whose outputs, which are observed as they are, go from ``low`` to ``high``.

        Raises:
            InputError: observations with such noise cannot have these means.
        """

    # --- what methods ask of it ---------------------------------------------------------------------------------------

    @property
    def size(self) -> float:
        """The level as a size of errors, in units of y; 0 where it is none."""
        return float(np.max(self.level, where=np.isfinite(self.level), initial=0.0))

    @property
    def noisy(self) -> bool:
        """Whether it is known that y has errors."""
        return bool(self.level > 0)

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

    def variance(self, y: Array) -> Array:
        """About the mean of e_j^2 in each of the observations (B, m), (B,); 0 where nothing is known."""
        return np.full(len(y), float(np.nan_to_num(self.mean_square)))

    @property
    def note(self) -> str:
        """What messages say of a model that the user did not state."""
        return ""

    @property
    def drawable(self) -> bool:
        """Whether :meth:`draw` can."""
        return self.mean_square > 0

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Observations, with noise, of A G(z) = ``clean``, (B, m)."""
        raise InputError(f"noise={self} does not say how errors are distributed")

    @property
    def threshold(self) -> float | None:
        """The threshold eps of the observed layer's constraints, for the layer methods; None where none is known."""
        return None

    @property
    def ceiling(self) -> float:
        """What all errors, or nearly all, are below; 0 where that is not known."""
        return 0.0

    # --- goodness of fit ----------------------------------------------------------------------------------------------

    def p_value(self, fit: Fit) -> Array:
        """The probability that such noise leaves a residual at least as large as that of a fit, (B,).

        It is asked of finite residuals: codes that are lost are judged by :meth:`~unrelu.problem.Problem.p_value`.
        """
        raise NotImplementedError

    def too_large_for(self, fit: Fit) -> Flags:
        """Whether it leaves residuals so small in at most one of a million observations, (B,)."""
        return np.zeros(len(fit.residual), dtype=bool)


@dataclass(frozen=True, eq=False)
class Likelihood(Noise):
    r"""Observations that are compared with their means mu = A G(z) by a deviance, twice the loss of log-likelihood.

    .. math:: D(y, \mu) = \sum_j d(y_j, \mu_j), \qquad d(y, \mu) = 2 \max_m \log p(y | m) - 2 \log p(y | \mu)

    It is minimised by Gauss-Newton steps with a weight for every entry, Fisher scoring or iteratively reweighted least
    squares. A model of your own is a dataclass with a ``name`` that defines :meth:`deviance`, :meth:`scoring` and
    :meth:`Noise.draw`. Its parameters are numbers, or arrays (m,), and the same for all observations.

    Source: McCullagh and Nelder, Generalized Linear Models (1989), sections 2.3 (deviance) and 2.5 (Fisher scoring).
    """

    @abstractmethod
    def deviance(self, y: Tensor, mean: Tensor) -> Tensor:
        """D's terms d, at least 0, of the shape of y; differentiable by PyTorch."""

    @abstractmethod
    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Half the derivative of d by the mean, and the weight of its Gauss-Newton step, above 0, of the shape of y."""

    @property
    def likelihood(self) -> Likelihood:
        """Itself."""
        return self

    def residuals(self, y: Array, mean: Array) -> Array:
        """Signed square roots of the deviance, (B, m)."""
        d = self.deviance(torch.from_numpy(np.array(y)), torch.from_numpy(np.array(mean))).numpy()
        return np.asarray(np.sign(y - mean) * np.sqrt(d))

    def energy(self, y: Array) -> Array:
        """The size of the deviance of codes that explain nothing, (B,): of a few for every entry."""
        return np.full(len(y), float(y.shape[1]))

    @property
    def entrywise(self) -> bool:
        """Entries are not made alike: the deviance knows how they differ."""
        return False

    @property
    def size(self) -> float:
        """0: the errors depend on the mean."""
        return 0.0

    @property
    def noisy(self) -> bool:
        """Whether it is known that y has errors: it has."""
        return True

    @property
    def drawable(self) -> bool:
        """Whether :meth:`draw` can: of any means."""
        return True

    def p_value(self, fit: Fit) -> Array:
        r"""The probability that a deviance is at least as large, (B,), by simulation.

        Observations are drawn at the fitted means. A fit with u degrees of freedom takes :math:`\chi^2_u` of their
        deviance (Wilks' theorem), so what is left has the mean :math:`E D - u`. Its distribution is taken to be a gamma
        distribution of this mean, with the share (m - u) / m of the variance.
        """
        p, share = np.ones(len(fit.mean)), fit.left / np.maximum(fit.observed, 1)
        for i in np.flatnonzero(np.isfinite(fit.mean).all(axis=1)):
            mean = np.broadcast_to(fit.mean[i], (_DRAWS, fit.mean.shape[1]))
            drawn = np.square(self.residuals(self.draw(mean, stream("p-value")), mean))[:, fit.seen[i]].sum(axis=1)
            left = max(drawn.mean() - fit.observed[i] * (1 - share[i]), share[i] * drawn.mean() / 2)
            p[i] = gammaincc(left**2 / (share[i] * drawn.var()), fit.deviance[i] * left / (share[i] * drawn.var()))
        return p


@dataclass(frozen=True, eq=False)
class UnknownNoise(Noise):
    """Nothing is known of e: what ``noise=None`` stands for."""

    level: float = math.nan
    name: ClassVar[str] = "unknown"
    stated: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pass

    def p_value(self, fit: Fit) -> Array:
        """NaN."""
        return np.full(len(fit.residual), np.nan)


@dataclass(frozen=True, eq=False)
class Uniform(Noise):
    r"""Errors of at most A: :math:`|e_j| \le A_j`.

    The objective is :math:`\max_j |r_j| / A_j` where entries have limits of their own, and :math:`|r|_\infty` where
    they share one. The p-value is 1 if :math:`|r_j| \le A_j` for all j, else 0.

    Args:
        level: A, in units of y: a number, or an array of an observation's shape or that of all of them, infinite where
            an entry says nothing.

    Raises:
        InputError: A is no finite number of at least 0, or has entries that are not above 0.

    >>> import unrelu
    >>> unrelu.Uniform(0.1)
    Uniform(level=0.1)
    """

    name: ClassVar[str] = "uniform"
    norm: ClassVar[str] = "linf"

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", _sizes(self.level, self.name))
        if not isinstance(self.level, np.ndarray):
            super().__post_init__()

    @property
    def bound(self) -> float:
        """A."""
        return self.size

    @property
    def mean_square(self) -> float:
        """A^2 / 3."""
        return 1 / 3 * self.size**2

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Errors U(-A, A)."""
        return clean + self._finite(clean) * rng.uniform(-1.0, 1.0, clean.shape)

    @property
    def threshold(self) -> float | None:
        """A."""
        return self.size or None

    @property
    def ceiling(self) -> float:
        """A."""
        return self.size

    def p_value(self, fit: Fit) -> Array:
        """1 if all errors are at most A, else 0."""
        return np.where(np.abs(fit.residual).max(axis=1) <= self.level * (1 + 1e-9), 1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Gaussian(Noise):
    r"""Errors with the distribution N(0, S^2), independent, or N(0, C) with a covariance C.

    Entries with standard deviations of their own are divided by them, :math:`y_j / S_j` and the rows of A alike, and
    correlated ones are multiplied by :math:`L^{-1}`, :math:`C = L L^T` (generalised least squares). The objective is
    then :math:`\chi^2 = \sum_j r_j^2 / S_j^2` or :math:`r^T C^{-1} r`, and the noise has unit variance. An array whose
    finite sizes are all the same is one number S: the objective is then :math:`|r|_2^2`, beside which a ``prior``
    weighs :math:`1 / S^2` times as much.

    The p-value of the residual's size is :math:`P(\chi^2_{m - u} \ge |r|_2^2 / S^2)`: a least-squares fit takes u
    effective degrees of freedom from the noise of m entries. Where it takes all of them the fit can be tested no more,
    and what is asked is whether noise of the true code could be as large: u = 0. The verdict's also looks at the
    residual's shape (:mod:`unrelu.diagnostics.goodness_of_fit`).

    Args:
        level: S, the standard deviation, in units of y: a number, or an array of an observation's shape or that of all
            of them, infinite where an entry says nothing.
        covariance: C in place of S, (m, m), the same for all observations: an array, a sparse matrix or a SciPy or
            PyLops ``LinearOperator``, which is written out; symmetric and positive definite, at most 4096 x 4096.

    Raises:
        InputError: S is not above 0 or is no number, C is no covariance, or none or both were given.

    Source: Aitken, "On least squares and linear combinations of observations", Proc. Royal Society of Edinburgh 55
    (1935).

    >>> import numpy as np
    >>> import unrelu
    >>> print(unrelu.Gaussian(0.1), unrelu.Gaussian(np.full((28, 28), 0.1)))
    gaussian:0.1 gaussian:array(28, 28)
    """

    level: Any = None
    covariance: Any = field(default=None, repr=False)
    factor: Any = field(default=None, init=False, repr=False)
    name: ClassVar[str] = "gaussian"
    shaped: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.level is None) == (self.covariance is None):
            raise InputError("noise=gaussian: pass the standard deviation or covariance=, one of them")
        if self.covariance is not None:
            object.__setattr__(self, "covariance", _covariance(self.covariance))
            object.__setattr__(self, "factor", _factored(self.covariance))
            return
        object.__setattr__(self, "level", _sizes(self.level, self.name))
        if not isinstance(self.level, np.ndarray) and not 0 < self.level < math.inf:
            raise InputError(
                f"noise={self}: the standard deviation must be finite and above 0, got {self.level:g}; "
                "state none where y has no errors, or 'uniform:0'"
            )

    def __str__(self) -> str:
        return super().__str__() if self.covariance is None else f"gaussian:covariance{self.factor.shape}"

    @classmethod
    def of_fields(cls, text: str, values: Mapping[str, Any]) -> Noise:
        """See :meth:`Noise.of_fields`; that of a module's rounding has its ``precision``."""
        if "precision" not in values:
            return cls(**values)
        level = Noise.parse(text).level
        return RoundingNoise(level, precision=str(values["precision"]), given=level)

    def times_power_of_two(self, exponent: int) -> Self:
        """The model of 2^exponent e; a standard deviation that vanishes is the smallest number there is."""
        with np.errstate(over="ignore", under="ignore"):
            level = float(np.ldexp(self.level, exponent))
        return replace(self, level=level or math.ulp(0.0))

    @property
    def entrywise(self) -> bool:
        """See :attr:`Noise.entrywise`."""
        return self.covariance is not None or super().entrywise

    def cholesky(self) -> Array | None:
        """See :meth:`Noise.cholesky`."""
        factor: Array | None = self.factor
        return factor

    @property
    def mean_square(self) -> float:
        """S^2."""
        return self.size**2 if self.covariance is None else float(np.diag(self.covariance).mean())

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Errors N(0, S^2) or N(0, C)."""
        drawn = rng.standard_normal(clean.shape)
        return clean + (self._finite(clean) * drawn if self.factor is None else drawn @ self.factor.T)

    @property
    def threshold(self) -> float | None:
        """One standard deviation."""
        return self.size

    @property
    def ceiling(self) -> float:
        """Two standard deviations."""
        return 2 * self.size

    def _squares(self, fit: Fit) -> Array:
        """chi^2, (B,)."""
        r = np.abs(fit.residual)
        return np.asarray((np.where(r > 0, r / self.level, 0.0) ** 2).sum(axis=1))

    def p_value(self, fit: Fit) -> Array:
        """That of chi-square with m - u degrees of freedom."""
        return np.asarray(chdtrc(fit.left, self._squares(fit)))

    def too_large_for(self, fit: Fit) -> Flags:
        """See :meth:`Noise.too_large_for`; of no fit that uses half of the entries or more."""
        left = fit.observed - fit.used
        small = chdtr(np.maximum(left, 1.0), self._squares(fit)) < _ONE_OF_A_MILLION
        return np.asarray(self.shaped & (left > fit.used) & small)


@dataclass(frozen=True, eq=False)
class RoundingNoise(Gaussian):
    """The rounding of a module that computes in half precision or bfloat16: what ``noise=None`` stands for there.

    It holds where y was computed by the module: where all its entries are numbers of the module's type.

    Args:
        level: see :class:`~unrelu.models.generator.Rounding`.
        precision: the type in words.
        given: the level in the units of y.
    """

    precision: str = ""
    given: float = math.nan
    shaped: ClassVar[bool] = False  # rounding errors are no normal ones

    def saved(self) -> tuple[str, dict[str, Any]]:
        """See :meth:`Noise.saved`."""
        return str(self), {"precision": self.precision}

    @property
    def note(self) -> str:
        """What a message says of it."""
        return (
            f"; noise= was not stated, and y is made of numbers of {self.precision}, in which the module computes: "
            f"noise was taken to be its rounding, 'gaussian:{self.given:.2g}'; state noise= if y has other errors"
        )


@dataclass(frozen=True, eq=False)
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
        return float(self.level)

    def p_value(self, fit: Fit) -> Array:
        """That of the number of entries that are off."""
        outliers = (np.abs(fit.residual) > _OUTLIER * fit.scale[:, None]).sum(axis=1)
        return np.asarray(bdtrc(outliers - 1.0, fit.observed, self.level))


def _number(level: Any, name: str) -> float:
    try:
        return float(level)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"noise={name}: the level {level!r} is not a number; write e.g. '{name}:0.1'") from None


def _sizes(level: Any, name: str) -> float | Array:
    """A number, or an array of numbers above 0, infinite ones among them; the array is a copy that cannot change.

    Raises:
        InputError: it is none of these; a single number is not looked at.
    """
    if np.ndim(level) == 0:
        return _number(level, name)
    array = np.array(numbers(level, f"noise={name}"))
    bad = np.argwhere(~(array >= np.finfo(float).tiny))  # 1 / S of smaller ones overflows
    if len(bad):
        first = tuple(map(int, bad[0]))
        raise InputError(
            f"noise={name}:array{array.shape}: every entry must be above 0, at least {np.finfo(float).tiny:.1e}, and "
            f"infinite where nothing is known; {len(bad)} are not, the first at {first}: {array[first]:g}"
        )
    array.setflags(write=False)
    return array


def _covariance(given: Any) -> Array:
    """A covariance, written out.

    Raises:
        InputError: it is not square, too large, not finite or not symmetric.
    """
    shape = tuple(np.shape(given)) or tuple(getattr(given, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise InputError(
            f"covariance= has shape {shape}; pass a square one, (m, m), of the m entries of an observation"
        )
    if shape[0] > _CORRELATED:
        raise InputError(
            f"covariance= is {shape[0]} x {shape[0]}, and is factored up to {_CORRELATED} x {_CORRELATED}: whiten y "
            "and operator= yourself, as L^-1 y and L^-1 A, with noise='gaussian:1'"
        )
    if sparse.issparse(given):
        given = given.toarray()
    elif callable(getattr(given, "matvec", None)):
        given = np.stack([np.asarray(given.matvec(unit)).ravel() for unit in np.eye(shape[0])], axis=1)
    array = np.array(numbers(given, "covariance"))
    if not np.isfinite(array).all():
        raise InputError("covariance= has NaN or infinite entries; hide entries of which nothing is known by operator=")
    off = np.abs(array - array.T).max()
    if off > 1e-10 * np.abs(array).max():
        raise InputError(
            f"covariance= is not symmetric: C and C^T differ by {off:.1e}; if that is rounding, pass (C + C^T) / 2"
        )
    array.setflags(write=False)
    return array


def _factored(covariance: Array) -> Array:
    try:
        factor: Array = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(covariance)[0])
        raise InputError(
            f"covariance= is not positive definite: its least eigenvalue is {least:.2g}; add the variance of the "
            "independent errors that every measurement has to its diagonal"
        ) from None
    factor.setflags(write=False)
    return factor

"""Models of the noise e in y = A G(z*) + e, and reading ``noise=``.

Each model is a class. :class:`Noise` compares y and A G(z) in a norm, :class:`Likelihood` by a deviance. The class
contains everything that depends on the model: objective, draws, p-value and text. A class registers itself by its
``name``.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.special import gammaincc
from torch import Tensor

from unrelu.errors import InputError
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.streams import stream
from unrelu.runtime.words import nearest, shown

# The least deviance of an entry is 0, up to this rounding. Means beyond the limit come from diverged codes.
_ROUNDING, _LARGEST_MEAN = 1e-6, 1e100
# The number of simulated observations from which the distribution of a deviance is estimated.
_DRAWS = 200
# The models by name.
MODELS: dict[str, type[Noise]] = {}


@dataclass(frozen=True, eq=False)
class Fit:
    """The fits of a batch of observations, with everything that p-values need.

    Attributes:
        residual: the value of :meth:`Noise.residuals`, (B, m); 0 at hidden entries, NaN if there is no code.
        mean: A G(z), (B, m).
        seen: which entries were observed, (B, m).
        used: u, the degrees of freedom that the fit used up, (B,).
        scale: the size of entries without noise, (B,). It must be robust: if outliers increased it, they would not be
            recognised.
        prior: the weights of the squared coordinates in the fit, (k,), or one weight.
        jacobians: yields Jacobians of A G, for some observations at a time: their indices, (b,), and the derivatives
            along the directions that the fit used, (b, k, m). If it is None, no correction is made for the fit.
    """

    residual: Array
    mean: Array
    seen: Flags
    used: Array
    scale: Array
    prior: Array | float = 0.0
    jacobians: Callable[[], Iterator[tuple[Index, Array]]] | None = None

    @property
    def observed(self) -> Integers:
        """The number of observed entries m, (B,)."""
        return np.asarray(self.seen.sum(axis=1))

    @property
    def left(self) -> Array:
        """The remaining degrees of freedom m - u, or m if m - u is below one half, (B,)."""
        left = self.observed - self.used
        return np.where(left >= 0.5, left, self.observed)

    @property
    def deviance(self) -> Array:
        """The sum of squared residuals, (B,)."""
        return np.asarray(np.square(self.residual).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Noise(ABC):
    """A noise model. Its parameters are the fields of the class, which files keep.

    Attributes:
        level: the parameter after the colon in the model's text; None for models without a parameter.
        name: the name of the model in text, files and messages.
        norm: the norm in which the model is fitted.
        stated: whether anything is known about e.
        shaped: whether the residual is tested for the shape of independent Gaussian errors.
        without_density: why the model has no posterior, for messages; empty if it has a density.
        by_text: whether users can state the model by its name.
        note: what messages say about noise that was not stated.
        on_misfit: what messages advise where no code explains y.
        level_unknown: whether part of the noise has an unknown level (:mod:`unrelu.measurements.unknown_level`).
        size_fitted: whether the size of the errors was fitted to the residuals, so that they cannot test it, (B,).
        noisy: whether it is known that y has errors.
        entrywise: whether errors differ in size or are correlated. If so, they are whitened
            (:mod:`unrelu.measurements.whitening`).
        size: the size of errors, in units of y; 0 if the model states none.
        bound: the largest error of an entry that the model allows; NaN if it has no limit.
        ceiling: an upper limit of nearly all errors; 0 if it is not known.
        outliers: the fraction of entries that may be arbitrarily wrong.
        mean_square: the mean of e_j^2; NaN if it is not known.
        dispersion_parameter: phi, where -2 log p(y | z) is the l2 objective divided by phi, up to a constant; NaN
            without a density.
    """

    level: Any = None
    name: ClassVar[str]
    norm: ClassVar[str] = "l2"
    stated: ClassVar[bool] = True
    shaped: ClassVar[bool] = False
    without_density: ClassVar[str] = "does not say how probable an error is"
    instead_of_zero: ClassVar[str | None] = None  # what messages advise; None if the level may be 0
    by_text: ClassVar[bool] = True
    note = on_misfit = ""
    level_unknown = size_fitted = False
    # Properties of errors that follow from the level. They are not fields, as files do not keep them.
    noisy = entrywise = False
    size = ceiling = outliers = 0.0
    bound = mean_square = dispersion_parameter = math.nan

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "name" not in cls.__dict__ or not cls.stated:
            return
        known = MODELS.get(cls.name)
        if known is not None and known.built_in():
            raise InputError(f"name={cls.name!r} of {cls.__name__} is that of unrelu.{known.__name__}; take another")
        MODELS[cls.name] = cls

    def __post_init__(self) -> None:
        try:
            self._set(level=float(self.level))
        except (TypeError, ValueError, OverflowError):
            text = f"{self.name}:{self.level:.40}" if isinstance(self.level, str) and self.level else self.name
            raise InputError(
                f"noise={text!r}: the level {self.level!r} is not a number; write e.g. '{self.name}:0.1'"
            ) from None
        advice = self.instead_of_zero
        if not 0 <= self.level < math.inf or (advice is not None and not self.level):
            least = "at least" if advice is None else "above"
            raise InputError(f"noise={self}: its level must be finite and {least} 0, got {self.level:g}{advice or ''}")
        self._set(noisy=self.noisy or self.level > 0)

    def _set(self, **found: Any) -> None:
        for name, value in found.items():
            object.__setattr__(self, name, value)

    # --- the objective ------------------------------------------------------------------------------------------------

    @property
    def likelihood(self) -> Likelihood | None:
        """The model itself if it compares observations by a deviance; None if it uses a norm of y - A G(z)."""
        return None

    def residuals(self, y: Array, mean: Array) -> Array:
        """Compute the residuals y - mean, (B, m), where ``mean`` is A G(z). The l2 objective sums their squares."""
        return y - mean

    def energy(self, y: Array) -> Array:
        """Compute the size of the l2 objective for a code that explains nothing, (B,): ``|y|_2^2``."""
        with np.errstate(over="ignore"):  # outputs that are exponentials may be of any size
            return np.asarray(np.square(y).sum(axis=1))

    # --- how large errors are -----------------------------------------------------------------------------------------

    def spread(self, observation: tuple[int, ...], size: int) -> Array:
        """Return the error size of every entry of ``size`` observations: (m,) or (B, m), or () if all are equal."""
        return np.asarray(self.size)

    def variance(self, y: Array) -> Array:
        """Estimate the mean of e_j^2 for each observation, (B,); 0 if nothing is known."""
        return np.full(len(y), float(np.nan_to_num(self.mean_square)))

    def times_power_of_two(self, exponent: int) -> Self:
        """Return the model of 2^exponent e; ``self`` if the model states no size."""
        return self

    def cholesky(self) -> Array | None:
        """Return the lower triangular L for correlated errors with the covariance L L^T; None if independent."""
        return None

    def take(self, observations: Index, observation: tuple[int, ...], size: int) -> Noise:
        """Return the model for some of ``size`` observations; ``self`` if all observations share it."""
        return self

    def of_one_size(self, size: float) -> Noise:
        """Return the model of whitened errors, which all have the same size."""
        raise InputError(f"noise={self} has no size")

    # --- draws and goodness of fit ------------------------------------------------------------------------------------

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Draw observations with noise, (B, m), for A G(z) = ``clean``."""
        raise InputError(f"noise={self} does not say how errors are distributed")

    @abstractmethod
    def p_value(self, fit: Fit) -> Array:
        """Compute the probability that such noise leaves a residual at least as large as the fit's, (B,).

        Residuals are finite here: :meth:`~unrelu.problem.Problem.p_value` handles observations without a code.
        """

    def too_large_for(self, fit: Fit) -> Flags:
        """Check whether such noise leaves a residual this small in at most one of a million observations, (B,)."""
        return np.zeros(len(fit.residual), dtype=bool)

    # --- sums ---------------------------------------------------------------------------------------------------------

    def __add__(self, other: object) -> Noise:
        """Raise an InputError. Models that can be summed override this method."""
        one, two = (f"noise={term}" if isinstance(term, Noise) else shown(term) for term in (self, other))
        raise InputError(
            f"{one} and {two} cannot be summed; independent Gaussian errors can: unrelu.Gaussian(0.1) + "
            "unrelu.Gaussian(covariance=C), each a number, an array or a covariance"
        )

    __radd__ = __add__

    # --- text and files -----------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        if isinstance(self.level, np.ndarray):
            return f"{self.name}:array{self.level.shape}"
        return self.name if self.level is None else f"{self.name}:{self.level!r}"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all(a is b or np.array_equal(a, b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))

    @classmethod
    def built_in(cls) -> bool:
        """Check whether the model belongs to this package, so every process can import it."""
        return cls.__module__.startswith("unrelu.")

    def saved(self) -> tuple[str, dict[str, Any]]:
        """Return what a file keeps: the name and the arguments of the model. For unknown noise, both are empty."""
        if not self.stated:
            return "", {}
        made = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return self.name, {name: value for name, value in made.items() if value is not None}

    @staticmethod
    def restored(name: str, kept: Mapping[str, Any]) -> Noise:
        """Make the model from the value of :meth:`saved`. The class is looked up by name.

        Raises:
            InputError: no class with this name is defined, or it does not accept the values.
        """
        if name and name not in MODELS:
            raise InputError(f"noise={name} has a class that is not defined here: import it, then load the file again")
        return MODELS[name](**kept) if name else UnknownNoise()


class Loss(ABC):
    """A loss function that is minimised in place of the sum of squares."""

    @abstractmethod
    def total(self, y: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
        """Compute the losses, (b,), of A G(z) = ``mean`` against y, (b, m) each; at least 0, differentiable.

        ``seen`` is 1 at observed entries, and 0 at others.
        """

    @abstractmethod
    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Compute half the derivative by ``mean``, and the positive weights of a Gauss-Newton step, (b, m) each."""


@dataclass(frozen=True, eq=False)
class Likelihood(Noise, Loss):
    r"""A model that compares observations with their means mu = A G(z) by a deviance.

    .. math:: D(y, \mu) = \sum_j d(y_j, \mu_j), \qquad d(y, \mu) = 2 \max_m \log p(y | m) - 2 \log p(y | \mu) \ge 0

    The deviance is minimised by Gauss-Newton steps with a weight for every entry (Fisher scoring, or iteratively
    reweighted least squares). To define your own model, write a dataclass with a ``name`` and the methods
    :meth:`deviance`, :meth:`scoring` and :meth:`Noise.draw`. Its parameters are numbers or arrays (m,), which all
    observations share.

    Source: McCullagh and Nelder, Generalized Linear Models (1989), sections 2.3 (deviance) and 2.5 (Fisher scoring).
    """

    without_density: ClassVar[str] = ""
    noisy = True
    dispersion_parameter = 1.0

    @abstractmethod
    def deviance(self, y: Tensor, mean: Tensor) -> Tensor:
        """Compute the terms d of D, at least 0, in the shape of y; differentiable by PyTorch."""

    @abstractmethod
    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Compute half the derivative of d by the mean, and the positive Gauss-Newton weight, in the shape of y."""

    @property
    def likelihood(self) -> Likelihood:
        """The model itself."""
        return self

    def check(self, y: Array, ends: tuple[Array, Array] | None = None) -> None:
        """Check that observations (B, m) can have such noise, and that outputs in the range ``ends`` can be means.

        Raises:
            InputError: one of these is impossible.
        """

    def fisher_information(self, mean: Tensor) -> Tensor:
        """Compute the Fisher information of entries with these means, (b, m) each.

        By default, it is the mean square of the score over 200 simulated observations.
        """
        clean, rng, total = mean.numpy(), stream("fisher information"), torch.zeros_like(mean)
        for _ in range(_DRAWS):
            total += self.scoring(torch.from_numpy(self.draw(clean, rng)), mean)[0].square()
        return total / _DRAWS

    def total(self, y: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
        """Compute the deviances D of observations, (b,)."""
        return (seen * self.deviance(y, mean)).sum(dim=1)

    def residuals(self, y: Array, mean: Array) -> Array:
        """Compute signed square roots of the deviance, (B, m).

        Raises:
            InputError: the deviance of a finite mean is NaN, infinite, or below 0 by more than rounding.
        """
        d = self.deviance(torch.from_numpy(np.array(y)), torch.from_numpy(np.array(mean))).numpy()
        wrong = np.argwhere((np.abs(mean) < _LARGEST_MEAN) & ~((d >= -_ROUNDING) & (d < np.inf)))
        if len(wrong):
            at = tuple(wrong[0])
            raise InputError(
                f"noise={self}: {type(self).__name__}.deviance is {d[at]:.4g} for y = {y[at]:.4g} and a mean of "
                f"{mean[at]:.4g}. A deviance is 2 (max over m of log p(y|m) - log p(y|mean)): finite, and never "
                "negative, as -2 log p(y|mean) may be"
            )
        return np.asarray(np.sign(y - mean) * np.sqrt(np.maximum(d, 0.0)))

    def energy(self, y: Array) -> Array:
        """Return the scale of the objective, (B,): the number of entries. A good fit has about this deviance."""
        return np.full(len(y), float(y.shape[1]))

    def p_value(self, fit: Fit) -> Array:
        r"""Estimate by simulation the probability that a deviance is at least as large as the fit's, (B,).

        Observations are drawn at the fitted means. A fit with u degrees of freedom reduces their deviance by
        :math:`\chi^2_u` (Wilks' theorem), to a mean of :math:`E D - u`. The p-value assumes a gamma distribution with
        this mean and the fraction (m - u) / m of the variance.
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
    """The model for noise about which nothing is known; ``noise=None`` means this model."""

    level: float = math.nan
    name: ClassVar[str] = "unknown"
    stated: ClassVar[bool] = False
    without_density: ClassVar[str] = "is not stated"

    def __str__(self) -> str:
        return "None"

    def __post_init__(self) -> None:
        pass

    def p_value(self, fit: Fit) -> Array:
        """Return NaN."""
        return np.full(len(fit.residual), np.nan)


def parse_noise(given: object) -> Noise:
    """Make a model from its text, "uniform:0.1" or "poisson"; None means unknown noise. Models are returned unchanged.

    Raises:
        InputError: the model is unknown, or the level is out of range.
    """
    if isinstance(given, Noise):
        return given
    if given is None:
        return UnknownNoise()
    if isinstance(given, Mapping):
        raise InputError(
            f"noise={shown(given)}: noise by part goes with invert, posterior, run and certify; state a model of all "
            "entries here, such as unrelu.Gaussian(array)"
        )
    kind, colon, level = str(given).partition(":")
    known = {name: model for name, model in MODELS.items() if model.by_text}
    levelled = {name: any(f.name == "level" and f.init for f in fields(model)) for name, model in known.items()}
    if kind not in known:
        forms = ", ".join(f"'{name}:LEVEL'" if levelled[name] else f"'{name}'" for name in known)
        objects = "" if isinstance(given, str) else ", or an object such as unrelu.Uniform(0.1)"
        raise InputError(f"noise={shown(given)}: use one of {forms}, e.g. 'uniform:0.1'{objects}{_meant(given)}")
    if colon and not levelled[kind]:
        raise InputError(f"noise={given!r}: {kind} has no level; write {kind!r}")
    return MODELS[kind](level) if levelled[kind] else MODELS[kind]()


def _meant(noise: object) -> str:
    """Suggest what an unknown ``noise`` may mean, for the end of a message."""
    if isinstance(noise, type) and issubclass(noise, Noise):
        return f"; {noise.__name__} is the class, make an object of it: unrelu.{noise.__name__}(0.1)"
    if isinstance(noise, np.ndarray | list):
        return "; of standard deviations one an entry, pass unrelu.Gaussian(array)"
    if isinstance(noise, int | float | np.number | str) and not isinstance(noise, bool):
        with suppress(ValueError):
            level = f"{float(noise):g}"
            return f"; is it a standard deviation, 'gaussian:{level}', or the largest error, 'uniform:{level}'?"
    words = re.split(r"[=:\s,(]+", str(noise))
    found = nearest(words[0], MODELS)
    return found[:-2] + f":{words[1].rstrip(')')}'?" if found and len(words) > 1 and words[1] else found

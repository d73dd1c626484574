r"""Gaussian noise with an unknown level: its estimate for known residuals, and the likelihood without the level.

The variance of entry j in part p is :math:`v_j = S_j^2 + \theta_p f_j`, with the known standard deviation :math:`S_j`.
For ``extra``, :math:`\theta = \tau^2` and :math:`f_j = 1`; for ``relative``, :math:`\theta` is the squared fraction and
:math:`f_j = (A G(z))_j^2`.

**The estimate.** A fit leaves the share :math:`\kappa_j` of the noise in the residual :math:`r_j`
(:mod:`unrelu.diagnostics._goodness_of_fit`). The level solves the equation of restricted maximum likelihood (REML),

.. math:: \sum_{j \in p} \frac{f_j}{v_j^2} (r_j^2 - \kappa_j v_j) = 0,

within its range. Its standard error follows from the expected information,
:math:`\tfrac12 \sum_j \kappa_j f_j^2 / v_j^2` for :math:`\theta`.

**The likelihood without the level.** The level has a flat prior on its range, and is integrated out:

.. math:: D(y, \mu) = -2 \sum_p \log \int \prod_{j \in p} N(y_j; \mu_j, v_j) \, d\tau_p.

Sources: Patterson and Thompson, "Recovery of inter-block information when block sizes are unequal", Biometrika 58
(1971); Harville, "Maximum likelihood approaches to variance component estimation", JASA 72 (1977).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from unrelu.errors import InputError
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.noise import Fit, Likelihood, Noise
from unrelu.runtime.array_types import Array, Flags, Index, Integers

# The points of a quadrature in each interval, and the length of an interval in standard deviations of the level.
_POINTS, _LENGTH = 8, 5.0


class FittedLevel(NamedTuple):
    """An unknown level of noise that was fitted: its value and standard error, in units of y or as a fraction."""

    value: Any
    error: Any


def refuse_unknown_level(noise: Noise, what: str) -> None:
    """Check that the level of the noise is known.

    Raises:
        InputError: it is not.
    """
    if noise.level_unknown:
        raise InputError(
            f"noise={noise}: {what} needs a known level; fit it with unrelu.invert, and pass the noise with the fitted "
            "level, such as unrelu.Gaussian(numpy.hypot(S, r.levels['extra'].value))"
        )


@dataclass(frozen=True)
class Variances:
    """The variances of one observation's entries as functions of the levels.

    Attributes:
        known: S^2, (m,); infinite for entries that are not observed.
        factor: f, (m,).
        ranges: the ranges of the levels, (P, 2).
        members: the part of each entry, (m,); -1 for entries without an unknown level.
    """

    known: Array
    factor: Array
    ranges: Array
    members: Integers

    @classmethod
    def of(cls, noise: Gaussian, shape: tuple[int, ...], mean: Array, seen: Flags) -> list[Variances]:
        """Make the variances of each observation for predicted measurements A G(z) = ``mean``, (B, m)."""
        size, m = mean.shape
        known = np.where(seen, np.broadcast_to(noise.spread(shape, size), mean.shape), np.inf) ** 2
        factor = np.ones_like(mean) if noise.relative is None else np.where(seen, mean, 0.0) ** 2
        members = np.zeros(m, dtype=np.int64) if noise.members is None else np.asarray(noise.members)
        return [cls(*each, noise.ranges, members) for each in zip(known, factor, strict=True)]

    def at(self, levels: Array) -> Array:
        """Compute the variances, (m,), at levels (P,)."""
        return np.asarray(self.known + np.append(np.square(levels), 0.0)[self.members] * self.factor)

    def fitted(self, r: Array, kept: Array) -> tuple[Array, Array]:
        """Estimate the levels and their standard errors, (P,) each, from residuals r, (m,).

        Args:
            r: y - A G(z), (m,).
            kept: the share of the noise that the fit leaves in each entry, (m,).
        """
        value, error = np.empty(len(self.ranges)), np.empty(len(self.ranges))
        for p, (low, high) in enumerate(self.ranges):
            part = (self.members == p) & np.isfinite(self.known)
            square, share, factor, known = (each[part] for each in (np.square(r), kept, self.factor, self.known))
            unit = max(high**2, np.finfo(float).tiny)

            def slope(theta: float, known: Array = known, factor: Array = factor, square: Array = square,
                      share: Array = share) -> float:  # fmt: skip
                v = known + theta * factor
                return float((factor / v * (square / v - share)).sum())

            if slope(low**2) <= 0 or not part.any():
                value[p] = low
            elif slope(high**2) >= 0:
                value[p] = high
            else:
                value[p] = brentq(slope, low**2, high**2, xtol=1e-12 * unit, rtol=1e-10) ** 0.5
            information = 0.5 * float((share * np.square(factor / (known + value[p] ** 2 * factor))).sum())
            # At a level of 0, the error of its square is what the observation tells.
            deviation = information**-0.5 if information > 0 else np.inf
            error[p] = min(deviation / (2 * value[p]) if value[p] else np.inf, deviation**0.5)
        return value, error


@dataclass(frozen=True, eq=False)
class FittedGaussian(Gaussian):
    """Gaussian noise whose unknown level was fitted; the problem of a result has it in place of the stated noise.

    Attributes:
        values, errors: the levels and their standard errors, (B, P).
        size_fitted: whether all entries have unknown levels, which are within their ranges, (B,). The residual then has
            the size of the noise by construction. Otherwise, as at an end of a range, its size is tested.
    """

    values: Any = None
    errors: Any = None
    size_fitted: Any = False
    name: ClassVar[str] = "fitted-gaussian"
    by_text: ClassVar[bool] = False
    level_unknown: ClassVar[bool] = False  # type: ignore[misc]
    on_misfit: ClassVar[str] = ""  # type: ignore[misc]

    @classmethod
    def at(cls, noise: Gaussian, variances: list[Variances], values: Array, errors: Array) -> FittedGaussian:
        """Make the model for levels (B, P) of noise with an unknown level."""
        level = np.sqrt([own.at(levels) for own, levels in zip(variances, values, strict=True)])
        within = np.all((values > noise.ranges[:, 0]) & (values < noise.ranges[:, 1]), axis=1)
        every = [bool((own.members[np.isfinite(own.known)] >= 0).all()) for own in variances]
        known: dict[str, Any] = {name: getattr(noise, name) for name in ("extra", "relative", "parts")}
        return cls(level, values=values, errors=errors, size_fitted=np.logical_and(within, every), **known)

    def by_name(self) -> dict[str, tuple[Array, Array]]:
        """Return the levels and their errors, (B,) each, by name."""
        return dict(zip(self.level_names, zip(self.values.T, self.errors.T, strict=True), strict=True))

    def of_one_size(self, size: float) -> Noise:
        return replace(self, level=size)

    def take(self, observations: Index, observation: tuple[int, ...], size: int) -> Noise:
        level = self.level[observations] if np.ndim(self.level) else self.level
        of_each = ("values", "errors", "size_fitted")
        return replace(self, level=level, **{name: getattr(self, name)[observations] for name in of_each})

    def p_value(self, fit: Fit) -> Array:
        """Compute the p-value of chi-square; NaN where the size of the noise was fitted."""
        return np.where(self.size_fitted, np.nan, super().p_value(fit))

    def too_large_for(self, fit: Fit) -> Flags:
        return np.asarray(super().too_large_for(fit) & ~self.size_fitted)

    def __str__(self) -> str:
        return f"gaussian with fitted {self._ranges_text()}"

    def __repr__(self) -> str:
        return f"<FittedGaussian with {self._ranges_text()}>"


@dataclass(frozen=True, eq=False)
class MarginalGaussian(Likelihood):
    r"""The likelihood of one observation whose levels are integrated out.

    Attributes:
        variances: the variances as functions of the levels.
        nodes, weights: the points and log weights of a quadrature over each level, (P, N).
        floor: D of an exact fit, which is subtracted.
    """

    variances: Any = None
    nodes: Any = field(init=False)
    weights: Any = field(init=False)
    floor: float = field(init=False)
    name: ClassVar[str] = "marginal-gaussian"
    by_text: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._set(**dict(zip(("nodes", "weights"), quadrature(self.variances), strict=True)), floor=0.0)
        nothing = torch.zeros(1, len(self.variances.known), dtype=torch.float64)
        self._set(floor=float(self.total(nothing, nothing, nothing)))

    def deviance(self, y: Tensor, mean: Tensor) -> Tensor:
        """Raise an error: entries of a part depend on each other, so there are no terms for single entries."""
        raise NotImplementedError

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Draw the levels from their ranges, and errors with these levels."""
        low, high = self.variances.ranges.T
        levels = rng.uniform(low, high, (len(clean), len(low)))
        deviations = np.sqrt([self.variances.at(each) for each in levels])
        return clean + np.where(np.isfinite(deviations), deviations, 0.0) * rng.standard_normal(clean.shape)

    def total(self, y: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
        """Compute D, (b,), as far as it exceeds that of an exact fit."""
        square = (y - mean).square()
        total = (square * self._precisions(-1).to(y)).sum(dim=1) - self.floor
        for p in range(len(self.nodes)):
            total = total - 2 * torch.logsumexp(self.log_terms(square, p), dim=1)
        return total

    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Compute half the derivative of D by the mean, and the mean precision of each entry."""
        square = (y - mean).square()
        precision = self._precisions(-1).to(y).expand_as(square)
        for p in range(len(self.nodes)):
            share = torch.softmax(self.log_terms(square, p), dim=1)
            precision = precision + share @ self._precisions(p).to(y)
        return precision * (mean - y), precision

    def log_terms(self, square: Tensor, p: int) -> Tensor:
        """Compute the log of the integrand over level p, with the weights of the quadrature, (b, N)."""
        precisions = self._precisions(p).to(square)
        logs = torch.where(precisions > 0, precisions, 1.0).log().sum(dim=1)
        weights = torch.from_numpy(self.weights[p]).to(square)
        return -0.5 * (square @ precisions.T) + 0.5 * logs + weights

    def drawn_levels(self, r: Array, rng: np.random.Generator) -> Array:
        """Draw the levels, (b, P), given residuals r, (b, m): from the quadrature, by the inverse distribution."""
        square, levels = torch.from_numpy(np.square(r)), np.empty((len(r), len(self.nodes)))
        for p, nodes in enumerate(self.nodes):
            share = torch.softmax(self.log_terms(square, p), dim=1).numpy()
            ends = np.concatenate([[self.variances.ranges[p, 0]], (nodes[1:] + nodes[:-1]) / 2])
            ends = np.append(ends, self.variances.ranges[p, 1])
            for i, (u, below) in enumerate(zip(rng.random(len(r)), np.cumsum(share, axis=1), strict=True)):
                levels[i, p] = np.interp(u * below[-1], np.append(0.0, below), ends)
        return levels

    def _precisions(self, p: int) -> Tensor:
        """Compute 1 / v at all points of the quadrature, (N, m); 0 for entries of other parts.

        For entries without an unknown level, p = -1, there is one point.
        """
        own, theta = self.variances, np.zeros((1, 1)) if p < 0 else np.square(self.nodes[p])[:, None]
        part = (own.members == p) & np.isfinite(own.known)
        return torch.from_numpy(np.where(part, 1 / np.where(part, own.known + theta * own.factor, 1.0), 0.0))


def quadrature(variances: Variances) -> tuple[Array, Array]:
    r"""Return points and log weights, (P, N), for integrals over each level with a flat prior on its range.

    Given m entries, the likelihood of a level :math:`\tau` far above the known noise S has the relative width
    :math:`1 / \sqrt{2 m}`. It is as smooth in :math:`\mathrm{asinh}(\tau / S)`, in which the Gauss-Legendre rule is
    composed of intervals of a few widths.
    """
    seen = np.isfinite(variances.known)
    x, w = np.polynomial.legendre.leggauss(_POINTS)
    rules = []
    for p, (low, high) in enumerate(variances.ranges):
        part = (variances.members == p) & seen & (variances.factor > 0)
        ratio = np.sqrt(variances.known[part] / variances.factor[part])
        least = max(float(ratio.min(initial=np.inf)), 1e-6 * high) if part.any() else high
        begin, end = np.arcsinh(np.array([low, high]) / least)
        count = int(np.ceil((end - begin) * np.sqrt(2 * max(part.sum(), 1)) / _LENGTH))
        rules.append((least, np.linspace(begin, end, max(count, 1) + 1)))
    most = max(len(edges) for _, edges in rules) - 1
    nodes, weights = np.empty((len(rules), most * _POINTS)), np.empty((len(rules), most * _POINTS))
    for p, (least, edges) in enumerate(rules):
        own = np.interp(np.linspace(0, 1, most + 1), np.linspace(0, 1, len(edges)), edges)
        at = (own[:-1, None] + np.diff(own)[:, None] * (x + 1) / 2).ravel()
        nodes[p] = least * np.sinh(at)
        each = np.outer(np.diff(own) / 2, w).ravel() * least * np.cosh(at)
        weights[p] = np.log(each / np.diff(variances.ranges[p])[0])
    return nodes, weights

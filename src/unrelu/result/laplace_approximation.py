r"""The Laplace approximation: how far the truth can be from z, as far as the linear region of z goes.

Within the region around the most probable code, :math:`-2 \log p(z | y)` is a quadratic. It corresponds to a normal
posterior of z with the covariance
.. math:: C = (J^T W J + P)^{-1},

where J is the Jacobian of A G at z, W the Fisher information of each observed entry about its mean, and P the inverse
covariance of the prior. For Gaussian errors, W = 1 / S^2 or the inverse of their covariance; for counts, W = 1 / V with
V their variance. Where A G is curved (sigmoid, tanh, nonlinear measurements), :math:`J^T W J` is the mean of the second
derivative over y, as in Fisher scoring. The reconstruction has the covariance :math:`J_G C J_G^T`.

Without a prior, C is the limit for ever wider priors. Coordinates that the data leave open have infinite variances. All
numbers that do not depend on these coordinates stay finite.

If a coordinate is at a bound, its distance s >= 0 from the bound has the density exp(-g s - h s^2 / 2). Here g is the
slope at the bound, and h the curvature once the free coordinates have followed. C takes the mean of s^2 as the
variance, so the standard deviation is one-sided. Several such coordinates are treated one at a time.

Importance sampling from the density itself estimates whether C holds. Codes are drawn along the principal axes of C
from N(0, 1), and a few from distributions up to fifteen times as wide, to cover the tails. Newton steps then move them
to where G is what it would be if it were linear (implicit sampling, without its Jacobian determinant). Their weights
give the shares of the posterior within the ellipsoids of 68.3, 90, 99 and 99.99%. The error of the same estimate for
N(z, C) is subtracted (a control variate), so the shares are exact where C is. C holds if every share p' is within
.2 sqrt(p (1 - p)) of its level p: at most .002 of the posterior is beyond the last ellipsoid.

Source: Tierney and Kadane, "Accurate approximations for posterior moments and marginal densities", J. American
Statistical Association 81 (1986); MacKay, "A practical Bayesian framework for backpropagation networks", Neural
Computation 4 (1992); Hesterberg, "Weighted average importance sampling and defensive mixture distributions",
Technometrics 37 (1995); Chorin, Morzfeld and Tu, "Implicit particle filters for data assimilation", Communications in
Applied Mathematics and Computational Science 5 (2010).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import hyperu, softmax
from scipy.stats import chi2

from unrelu.display.text_tables import Printed
from unrelu.errors import InputError
from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.result.answers import squeezed
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.runtime.words import count, listed, number, rounded, share
from unrelu.thresholds import COVERAGE_SHORTFALL

# Singular values below this share of the largest count as zero, as in `identifiability`.
_RANK = 1e-10
# The probabilities of the ellipsoids whose posterior shares are estimated. The first is that of one standard deviation.
LEVELS = (0.6827, 0.9, 0.99, 0.9999)
# The number of draws, the standard deviations of the normal mixture of each coordinate, and the number of Newton steps.
# On average, one of k coordinates comes from a wider one. Chosen on the emulators of COVERAGE_SHORTFALL.
_DRAWS, _DEVIATIONS, _STEPS = 256, np.array([1.0, 2.5, 6.0, 15.0]), 2
# The accuracy of null vectors: about eps / 1e-10. Smaller movements along them count as none.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Laplace:
    r"""The normal approximation of the posterior at a code, made by :meth:`unrelu.Inversion.laplace`.

    It describes the linear region of z, and nothing about codes far away. It takes the noise as stated, and means
    nothing for a code that does not explain y (``MISFIT``).

    Arrays describe one code, or have a leading axis B for a batch, as in the result. They are NaN without a code.

    Attributes:
        z: the codes, ``latent_shape``.
        covariance: C, (k, k), of the flat code; infinite where the data leave the code open and there is no prior.
        std: the standard deviations of z, ``latent_shape``. A coordinate at a bound has the root mean square of its
            one-sided distance from the bound.
        reconstruction_std: the standard deviations of G(z), the output's shape.
        held: which coordinates are at a bound, ``latent_shape``.
        intervals: one standard deviation to either side of z (68.3%), within the bounds: (lower, upper) for each named
            coordinate, each a number or (B,); empty if no coordinate has a name. For a nuisance parameter
            (:func:`unrelu.extend`), they are the ends for the parameter itself.
        decrement: the distance of z from the optimum of the region's quadratic, in standard deviations: the Newton
            decrement :math:`\sqrt{g^T C g}`, with g half the gradient of :math:`-2 \log p`. It should be far below 1.
            It is larger if z is no optimum, or an optimum at a kink.
        shares: the estimated probabilities that the truth is within the ellipsoids of 68.3, 90, 99 and 99.99%,
            :math:`(z' - z)^T C^{-1} (z' - z) \le \chi^2_k`, among codes around z; (4,).
        holds: whether every share p' is within .2 sqrt(p (1 - p)) of its level p: .093, .06, .02 and .002. If it is
            False, use :func:`unrelu.posterior`.
    """

    z: Array
    covariance: Array
    std: Array
    reconstruction_std: Array
    held: Flags
    intervals: dict[str, tuple[Any, Any]]
    decrement: Any
    shares: Array
    holds: Any

    def __repr__(self) -> str:
        batch = self.covariance.shape[:-2]
        what = count(batch[0], "observation") if batch else "one observation"
        return f"<Laplace: {what}, {count(self.covariance.shape[-1], 'coordinate')}>"

    def __str__(self) -> str:
        """Format the standard deviations in a few lines; for one observation, named coordinates one by one."""
        single, held = self.covariance.ndim == 2, int(self.held.sum())
        ends = {name: (low, high, (high - low) / 2) for name, (low, high) in self.intervals.items()} if single else {}
        named = [f"{name} {rounded(low, half)} to {rounded(high, half)}" for name, (low, high, half) in ends.items()]
        within = "its 68.3, 90, 99 and 99.99% have " + listed([share(each) for each in self.shares]) if single else ""
        missed = [str(i) for i in np.flatnonzero(~np.atleast_1d(self.holds) & np.isfinite(self.decrement))]
        holds = f"yes, {within}" if single else "everywhere"
        if missed:
            holds = f"no, {within}" if single else f"not at {count(len(missed), 'observation')} ({listed(missed, 8)})"
            holds += ": kinks or curvature are in reach of the noise; ask unrelu.posterior how far the truth can be"
        entries = [
            ("intervals", f"of {share(LEVELS[0])} each: {listed(named)}" if named else ""),
            ("code", _deviations(self.std) + (f"; {held} at a bound, to one side" if held else "")),
            ("reconstruction", _deviations(self.reconstruction_std)),
            ("optimum", f"{_range(self.decrement)} standard deviations from z; unless near 0, z is at a kink or no "
             "optimum"),
            ("holds", holds),
        ]  # fmt: skip
        return str(
            Printed("Laplace approximation, from the linear region of z alone: it knows no other optimum", entries)
        )


def _range(values: Any) -> str:
    """Format the least and the largest finite value."""
    finite = np.ravel(values)[np.isfinite(np.ravel(values))]
    ends = dict.fromkeys(number(float(end)) for end in (finite.min(), finite.max())) if finite.size else ["unknown"]
    return " to ".join(ends)


def _deviations(std: Array) -> str:
    open_ = int(np.isinf(std).sum())
    left = f"; {open_} of {std.size} infinite: nothing determines them" if open_ else ""
    return f"standard deviations {_range(std)}{left}"


@computing()
def laplace_approximation(problem: Problem, z: Array, norm: str) -> Laplace:
    """Compute the approximation at codes (B, k) of a problem that minimise this norm.

    Raises:
        InputError: the noise has no density, or the codes do not minimise its deviance.
    """
    noise = problem.stated.noise
    if noise.without_density:
        raise InputError(
            f"how far the truth can be from a code follows from the noise, and noise={noise} {noise.without_density}; "
            "state 'gaussian:S' or counts"
        )
    if norm != "l2":
        raise InputError(
            f"laplace() is about the most probable code, and these codes minimise {norm!r}: invert with norm='l2' and "
            "a method that minimises it, such as 'auto' or 'lm'"
        )
    normal, names = problem.equilibrated(), problem.names
    if not normal.noise.dispersion_parameter > 0:
        raise InputError(
            f"noise={problem.noise} is so far below what the generator puts out that its square underflows; state "
            "larger noise"
        )
    latent, network, (batch, k) = normal.units.latent, problem.network, z.shape
    t, factor = (z, np.ones(k)) if latent is None else (latent.coordinates(z), latent.factor)
    free = ~problem.bounds.fixed
    covariance, of_outputs = np.full((batch, k, k), np.nan), np.full((batch, network.output_dim), np.nan)
    exact = normal.network.to(torch.float64, "cpu")
    decrement, shares, levels = np.full(batch, np.nan), np.full((batch, len(LEVELS)), np.nan), np.array(LEVELS)
    for i in np.flatnonzero(np.isfinite(t).all(axis=1)):
        # Nothing is known where slopes are not finite. The outputs of codes far away may overflow.
        with suppress(np.linalg.LinAlgError), np.errstate(over="ignore", invalid="ignore"):
            region = _Region(normal.part(np.array([i])), exact, t[i])
            covariance[i], of_outputs[i] = 0.0, region.deviations()
            covariance[i][np.ix_(free, free)] = region.covariance(factor)
            decrement[i], shares[i] = region.decrement, region.shares()
    deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    of_outputs = normal.units.outputs(of_outputs).reshape(batch, *network.output_shape)
    columns: dict[str, Any] = {
        "z": network.shaped(z),
        "covariance": covariance,
        "std": network.shaped(deviation),
        "reconstruction_std": of_outputs,
        "held": network.shaped(problem.bounds.active(z).astype(np.float64)) != 0,
        "decrement": decrement,
        "shares": shares,
        "holds": (np.abs(shares - levels) <= COVERAGE_SHORTFALL * np.sqrt(levels * (1 - levels))).all(axis=1),
    }
    lower, upper = (names.parameters_of(problem.bounds.clip(z + side * deviation)) for side in (-1, 1))
    named = zip(names.coordinate_names, squeezed(problem, lower).T, squeezed(problem, upper).T, strict=False)
    columns = {name: squeezed(problem, column) for name, column in columns.items()}
    return Laplace(**columns, intervals={name: (low, high) for name, low, high in named if name})


class _Region:
    """The linear region of a code and its normal distribution, in working units.

    Attributes:
        problem, t: the problem of one observation, and its code, (k,). The network ``exact``, in double precision,
            computes derivatives.
        outputs: the transposed Jacobian of G, (k, n).
        weighted: J^T W^(1/2), (k, m).
        precision: W^(1/2), (m,).
        slope: half the gradient of -2 log p, (k,).
        root: L with C = L L^T, (k, r).
        null: a basis of the directions of infinite variance, (k, s).
        both: the number of leading columns of L that extend to both sides. The others lead away from a bound.
    """

    def __init__(self, problem: Problem, exact: Generator, t: Array) -> None:
        self.problem, self.t = problem, t
        noise, prior = problem.noise, problem.weights / problem.noise.dispersion_parameter
        x, outputs = exact.linearize(torch.from_numpy(t[None]))
        mean, tangents = problem.operator.linearize(x, outputs)
        y = torch.from_numpy(problem.y.copy())  # PyTorch takes no arrays that are read-only
        if noise.likelihood is None:
            precision = torch.full_like(mean, 1 / math.sqrt(noise.dispersion_parameter))
            half = (mean - y) * precision**2
        else:
            precision = noise.likelihood.fisher_information(mean).sqrt()
            half = noise.likelihood.scoring(y, mean)[0]
        self.outputs, jacobian, self.precision = outputs[0].numpy(), tangents[0].numpy(), precision[0].numpy()
        self.weighted, self.slope = jacobian * self.precision, jacobian @ half[0].numpy() + prior * t
        self._spread(prior)

    def _spread(self, prior: Array) -> None:
        """Factorise (J^T W J + diag(p))^-1, where p (k,) are the precisions of the prior."""
        (side,), bounds = self.problem.bounds.active(self.t[None]), self.problem.bounds
        root, null = _factors(self.weighted, prior, side == 0)
        self.both, axes = root.shape[1], np.eye(len(side))
        for j in np.flatnonzero(side):
            # One column leads away from the bound, and along it the free coordinates follow.
            inwards = -side[j] * axes[j]
            free = root[:, : self.both]
            inwards -= free @ (free.T @ (self.weighted @ (self.weighted.T @ inwards)))
            curvature = np.square(self.weighted.T @ inwards).sum() + prior @ np.square(inwards)
            room = bounds.upper[j] - bounds.lower[j]
            distance = _one_sided(max(float(self.slope @ inwards), 0.0), float(curvature), room)
            if math.isfinite(distance):
                root = np.column_stack([root, distance * inwards])
            else:
                null = np.column_stack([null, axes[j]])
        self.root, self.null = root, null

    @property
    def decrement(self) -> float:
        """Compute the Newton decrement of the coordinates that are not at a bound."""
        return float(np.linalg.norm(self.root[:, : self.both].T @ self.slope))

    def covariance(self, factor: Array) -> Array:
        """Compute the covariance of the coordinates, multiplied by factors, (k, k)."""
        root, open_ = factor[:, None] * self.root, self.null @ self.null.T
        length = np.linalg.norm(self.null, axis=1)
        moved = (length > _ROUNDING) & (length > _ROUNDING)[:, None]
        moved &= np.abs(open_) > _ROUNDING * length * length[:, None]
        return np.where(moved, np.copysign(np.inf, open_), root @ root.T)

    def deviations(self) -> Array:
        """Compute the standard deviations of outputs, (n,)."""
        size = np.linalg.norm(self.root.T @ self.outputs, axis=0)
        open_ = np.linalg.norm(self.null.T @ self.outputs, axis=0) > _ROUNDING * np.linalg.norm(self.outputs, axis=0)
        return np.where(open_, np.inf, size)

    def shares(self) -> Array:
        """Estimate the posterior's shares within the ellipsoids of :data:`LEVELS`, for codes around z.

        Draws u become codes t + L u. Where G is bent, these leave the valley of the posterior and have no weight. Each
        is therefore moved back by Newton steps with the Jacobian at t, which keep what G would be if it were linear.
        The shares are estimated after each step, and the smallest estimate counts.
        """
        both, size = self.both, self.root.shape[1]
        if not size:  # all is open, and there is no ellipsoid
            return np.full(len(LEVELS), np.nan)
        rng, wide = stream("draws of the Laplace approximation"), 1 / (1 + size)
        odds = np.array([1 - wide, *np.full(len(_DEVIATIONS) - 1, wide / (len(_DEVIATIONS) - 1))])
        drawn = rng.choice(_DEVIATIONS, (_DRAWS, size), p=odds) * rng.standard_normal((_DRAWS, size))
        drawn[:, both:] = np.abs(drawn[:, both:])
        square = np.square(drawn).sum(axis=1)
        density = np.exp(-0.5 * np.square(drawn[:, :, None] / _DEVIATIONS)) @ (odds / _DEVIATIONS)
        mixture = -2 * np.log(density).sum(axis=1)
        expected = softmax(0.5 * (mixture - square))
        limits = chi2.ppf(LEVELS, size)[:, None]
        slopes = self.weighted.T @ self.root
        rest = np.eye(size)[:, :both] - slopes.T @ slopes[:, :both]
        origin, lowest = self._evaluated(self.t[None])
        found, u = np.ones(len(LEVELS)), drawn
        for step in range(1 + _STEPS):
            mean, energy = self._evaluated(self.t + u @ self.root.T)
            if step:
                weight = softmax(0.5 * (mixture - energy + lowest)) if np.isfinite(energy).any() else np.zeros(_DRAWS)
                within = (np.square(u).sum(axis=1) <= limits) @ weight - (square <= limits) @ expected
                found = np.minimum(found, np.maximum(LEVELS + within, 0.0))
            bent = np.nan_to_num(mean - origin - drawn @ slopes.T, posinf=0.0, neginf=0.0)
            u = u.copy()
            u[:, :both] -= bent @ slopes[:, :both] + (u - drawn) @ rest
        return found

    def _evaluated(self, codes: Array) -> tuple[Array, Array]:
        """Compute W^(1/2) A G(z), (b, m), and -2 log p, (b,), at codes (b, k); infinite out of the bounds."""
        several = self.problem.part(np.zeros(len(codes), dtype=np.int64))
        inside = ((codes >= several.bounds.lower) & (codes <= several.bounds.upper)).all(axis=1)
        x = several.network.outputs(codes)
        energy = several.objective_of(several.residual_of(x), codes, "l2") / several.noise.dispersion_parameter
        return several.mean_of(x) * self.precision, np.where(inside & np.isfinite(energy), energy, np.inf)


def _factors(weighted: Array, precision: Array, free: Flags) -> tuple[Array, Array]:
    """Compute a root, (k, r), and null vectors of (J^T W J + diag(p))^-1; both are 0 for coordinates not free."""
    weighted, precision, axes = weighted[free], precision[free], np.eye(len(free))[:, free]
    least = float(precision.min()) if len(precision) else 0.0
    # The part of the prior that all coordinates share is added to the squares of the singular values. The singular
    # values do not come from a matrix of squares, as that would lose digits.
    rows = np.vstack([weighted.T, np.diag(np.sqrt(precision - least))])
    triangular = np.linalg.qr(rows, mode="r")
    _, found, vectors = np.linalg.svd(triangular, full_matrices=True)
    values = np.zeros(len(weighted))
    values[: len(found)] = found
    kept = (values > _RANK * values.max(initial=0.0)) | (least > 0)
    return axes @ (vectors[kept].T / np.hypot(values[kept], math.sqrt(least))), axes @ vectors[~kept].T


def _one_sided(slope: float, curvature: float, room: float) -> float:
    """Return the RMS of s >= 0 with the density exp(-slope s - curvature s^2 / 2); at most that of s in [0, room]."""
    bend = slope * slope / (2 * curvature) if curvature > 0 else math.inf
    if bend < 1e8:
        found = math.sqrt(hyperu(1.5, 0.5, bend) / hyperu(0.5, 0.5, bend) / curvature)
    else:  # exponential, or uniform
        found = math.sqrt(2) / slope if slope > 0 else math.inf
    return min(found, room / math.sqrt(3))

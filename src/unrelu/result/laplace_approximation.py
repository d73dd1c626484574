r"""The Laplace approximation: how far the truth can be from z, as far as the linear region of z goes.

Around the most probable code, :math:`-2 \log p(z | y)` is a quadratic within the region, and the posterior of z that it
stands for is normal, with the covariance

.. math:: C = (J^T W J + P)^{-1},

where J is the Jacobian of A G at z, W the Fisher information of each observed entry about its mean, and P the inverse
covariance of the prior. For Gaussian errors, W = 1 / S^2 or the inverse of their covariance; for counts, W = 1 / V with
V their variance. Where A G is curved (sigmoid, tanh, measurements that are not linear), :math:`J^T W J` is the mean of
the second derivative over y, as in Fisher scoring. The reconstruction has the covariance :math:`J_G C J_G^T`.

Without a prior, C is the limit for a prior that gets ever wider: coordinates that the data leave open have infinite
variances, and all that does not move with them stays finite.

Source: Tierney and Kadane, "Accurate approximations for posterior moments and marginal densities", J. American
Statistical Association 81 (1986); MacKay, "A practical Bayesian framework for backpropagation networks", Neural
Computation 4 (1992).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from unrelu.display.text_tables import named_lines
from unrelu.errors import InputError
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.host import computing
from unrelu.runtime.memory_limits import JACOBIAN_NUMBERS, at_once
from unrelu.runtime.words import count, listed, number

# Singular values below this share of the largest count as zero, as in `identifiability`.
_RANK = 1e-10
# Null vectors are known to about this: eps / 1e-10. What moves less along them counts as not moved.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class Laplace:
    r"""The normal approximation of the posterior at a code, made by :meth:`unrelu.Inversion.laplace`.

    It is local: it knows the linear region of z, and neither the kinks around it nor any other optimum. Where the noise
    can carry z across a kink, or other codes explain y as well, the truth may be farther away than it says. It
    takes the noise as stated, and means nothing for a code that does not explain y (``MISFIT``).

    Arrays are of one code, or have a leading axis B for a batch, as in the result. They are NaN without a code.

    Attributes:
        z: the codes, ``latent_shape``.
        covariance: C, (k, k), of the flat code; infinite where the data leave the code open and there is no prior.
        std: the standard deviations of z, ``latent_shape``. A coordinate at a bound is held there: its own is 0.
        reconstruction_std: the standard deviations of G(z), the output's shape.
        held: which coordinates are at a bound, ``latent_shape``.
        intervals: one standard deviation to either side of z, (lower, upper) by the names of the coordinates, each a
            number or (B,); empty if none has a name. For a nuisance parameter (:func:`unrelu.extend`), they are the
            ends of the parameter.
        decrement: the distance of z from the optimum of the region's quadratic, in standard deviations: the Newton
            decrement :math:`\sqrt{g^T C g}`, with g half the gradient of :math:`-2 \log p`. It should be far below 1.
            It is not where z is no optimum, or an optimum at a kink.
    """

    z: Array
    covariance: Array
    std: Array
    reconstruction_std: Array
    held: Flags
    intervals: dict[str, tuple[Any, Any]]
    decrement: Any

    def __repr__(self) -> str:
        batch = self.covariance.shape[:-2]
        what = count(batch[0], "observation") if batch else "one observation"
        return f"<Laplace: {what}, {count(self.covariance.shape[-1], 'coordinate')}>"

    def __str__(self) -> str:
        """The standard deviations in a few lines; of one observation, those of coordinates with names one by one."""
        ends = self.intervals if self.covariance.ndim == 2 else {}
        named = [f"{name} {low:.5g} to {high:.5g}" for name, (low, high) in ends.items()]
        held = int(self.held.sum())
        least, most = _range(np.atleast_1d(self.decrement))
        far = least if least == most else f"{least} to {most}"
        return "\n".join([
            "Laplace approximation, from the linear region of z alone: it knows no kink and no other optimum",
            *named_lines([
                ("intervals", listed(named)),
                ("code", _deviations(self.std) + (f"; {held} at a bound, held there" if held else "")),
                ("reconstruction", _deviations(self.reconstruction_std)),
                ("optimum", f"{far} standard deviations from z; unless near 0, z is at a kink or no optimum"),
            ]),
        ])  # fmt: skip


def _range(values: Array) -> tuple[str, str]:
    """The least and the largest finite value as text."""
    finite = values[np.isfinite(values)]
    return (number(float(finite.min())), number(float(finite.max()))) if finite.size else ("unknown", "unknown")


def _deviations(std: Array) -> str:
    (least, most), open_ = _range(std), int(np.isinf(std).sum())
    left = f"; {open_} of {std.size} infinite: nothing determines them" if open_ else ""
    return f"standard deviations {least} to {most}{left}"


class _Linearised(NamedTuple):
    """-2 log p(y | z) at some codes, to second order.

    Attributes:
        part: their indices, (b,).
        outputs: the transposed Jacobian of G, (b, k, n).
        weighted: J^T W^(1/2), (b, k, m).
        gradient: half the gradient, (b, k).
    """

    part: Index
    outputs: Array
    weighted: Array
    gradient: Array


def _linearised(problem: Problem, z: Array) -> Iterator[_Linearised]:
    """Linearise an equilibrated problem at the finite codes, in chunks."""
    exact, likelihood = problem.network.to(torch.float64, "cpu"), problem.noise.likelihood
    together = at_once(JACOBIAN_NUMBERS, exact.latent_dim * max(exact.width, problem.operator.width))
    finite = np.flatnonzero(np.isfinite(z).all(axis=1))
    for begin in range(0, len(finite), together):
        part = finite[begin : begin + together]
        x, outputs = exact.linearize(torch.from_numpy(z[part]))
        mean, tangents = problem.operator.take(part).linearize(x, outputs)
        y = torch.from_numpy(problem.y[part])
        if likelihood is None:
            level = math.sqrt(problem.noise.dispersion_parameter)
            weighted, slope = tangents / level, (mean - y) / level
            gradient = weighted @ slope[:, :, None]
        else:
            weighted = tangents * likelihood.fisher_information(mean).sqrt()[:, None, :]
            gradient = tangents @ likelihood.scoring(y, mean)[0][:, :, None]
        yield _Linearised(part, outputs.numpy(), weighted.numpy(), gradient[:, :, 0].numpy())


def _refuse(problem: Problem) -> None:
    stated = problem.given or problem
    if stated.noise.without_density:
        raise InputError(
            f"how far the truth can be from a code follows from the noise, and noise={stated.noise} "
            f"{stated.noise.without_density}; state 'gaussian:S' or counts"
        )


@computing()
def laplace_approximation(problem: Problem, z: Array, norm: str) -> Laplace:
    """The approximation at the codes (B, k) of a problem, which minimise this norm.

    Raises:
        InputError: the noise has no density, or the codes do not minimise its deviance.
    """
    _refuse(problem)
    if norm != "l2":
        raise InputError(
            f"laplace() is about the most probable code, and these codes minimise {norm!r}: invert with norm='l2' and "
            "a method that minimises it, such as 'auto' or 'lm'"
        )
    normal = problem.equilibrated()
    if not normal.noise.dispersion_parameter > 0:
        raise InputError(
            f"noise={problem.noise} is so far below what the generator puts out that its square underflows; state "
            "larger noise"
        )
    latent, size, (batch, k) = normal.units.latent, problem.network.output_dim, z.shape
    t, factor = (z, np.ones(k)) if latent is None else (latent.coordinates(z), latent.factor)
    held = normal.bounds.active(t) != 0
    covariance, deviations = np.full((batch, k, k), np.nan), np.full((batch, size), np.nan)
    decrement = np.full(batch, np.nan)
    precision = normal.weights / normal.noise.dispersion_parameter
    for linear in _linearised(normal, t):
        for i, outputs, weighted, gradient in zip(*linear, strict=True):
            free = ~held[i]
            spread = _Spread.of(weighted[free], precision[free])
            covariance[i] = 0.0
            covariance[i][np.ix_(free, free)] = spread.covariance(factor[free])
            deviations[i] = spread.deviations(outputs[free])
            decrement[i] = np.linalg.norm(spread.root.T @ (gradient + precision * t[i])[free])
    first: Any = 0 if problem.single else slice(None)
    std = deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    of_outputs = np.ldexp(deviations, -normal.units.output).reshape(batch, *problem.network.output_shape)
    codes, std, of_code = (problem.network.shaped(each)[first] for each in (z, std, held.astype(np.float64)))
    off = float(decrement[0]) if problem.single else decrement
    network = problem.network
    lower, upper = (network.parameters_of(z + sign * deviation)[first].T for sign in (-1, 1))
    named = zip(network.coordinate_names, lower, upper, strict=False)
    intervals = {name: (low, high) for name, low, high in named if name}
    return Laplace(codes, covariance[first], std, of_outputs[first], of_code > 0, intervals, off)


class _Spread(NamedTuple):
    """A covariance in factors, of some coordinates.

    Attributes:
        root: L with C = L L^T, (k, r).
        null: an orthonormal basis of the directions of infinite variance, (k, k - r).
    """

    root: Array
    null: Array

    @classmethod
    def of(cls, weighted: Array, precision: Array) -> _Spread:
        """(J^T W J + diag(p))^-1 for J^T W^(1/2), (k, m), and p; from singular values, since squares lose digits."""
        least = float(precision.min()) if len(precision) else 0.0
        # The part of the prior that is the same for all coordinates is added to the squares of the singular values.
        rows = np.vstack([weighted.T, np.diag(np.sqrt(precision - least))])
        triangular = np.linalg.qr(rows, mode="r")
        _, found, vectors = np.linalg.svd(triangular, full_matrices=True)
        values = np.zeros(len(weighted))
        values[: len(found)] = found
        kept = (values > _RANK * values.max(initial=0.0)) | (least > 0)
        return cls(vectors[kept].T / np.hypot(values[kept], math.sqrt(least)), vectors[~kept].T)

    def covariance(self, factor: Array) -> Array:
        """The covariance of coordinates that are multiplied by factors, (k, k)."""
        root, open_ = factor[:, None] * self.root, self.null @ self.null.T
        length = np.linalg.norm(self.null, axis=1)
        moved = (length > _ROUNDING) & (length > _ROUNDING)[:, None]
        moved &= np.abs(open_) > _ROUNDING * length * length[:, None]
        return np.where(moved, np.copysign(np.inf, open_), root @ root.T)

    def deviations(self, outputs: Array) -> Array:
        """The standard deviations of outputs with these derivatives (k, n), (n,)."""
        size = np.linalg.norm(self.root.T @ outputs, axis=0)
        open_ = np.linalg.norm(self.null.T @ outputs, axis=0) > _ROUNDING * np.linalg.norm(outputs, axis=0)
        return np.where(open_, np.inf, size)

"""The starts and perturbations of a search: samples, and the Gaussian model that estimates codes from samples."""

from __future__ import annotations

import functools
import math
import weakref
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from unrelu.local_search.squared_error import SquaredError
from unrelu.measurements import IdentityOperator, Operator, WeightedOperator
from unrelu.measurements.operators import normalised
from unrelu.models.generator import Generator
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.memory_limits import SAMPLE_NUMBERS, at_once
from unrelu.runtime.streams import stream, torch_stream

# From this many multiplications on, a verdict does without a Jacobian in double precision.
_EXPENSIVE = 10**9
# The number of samples. There are fewer if their outputs exceed SAMPLE_NUMBERS entries (256 MiB), or take more than
# _WORK multiplications, some tenths of a second, but at least _FEWEST.
_SAMPLES = 4096
_FEWEST = 64
# The number of samples in double precision. With 1,024, the structure of residuals distinguishes no more real digits
# from the generator's own outputs, on two decoders.
_EXACT = 256
_WORK = 4 * 10**9
# The number of principal directions of the outputs, and the number of power iterations that find them.
_DIRECTIONS, _SWEEPS = 128, 2
# Squares of numbers outside this range overflow or vanish in single precision.
_SINGLE = (1e-12, 1e12)
# The Gaussian model adds this fraction of the outputs' variance to the noise.
_ESTIMATE_NOISE = 1e-2
# Variances are rounded to powers of this, so that observations share the model's factorisations.
_VARIANCE_STEP = 4.0
# One of _RANDOM starts is random and up to _FURTHEST times as long, in case the Gaussian model misleads all others: the
# best code of few noisy outputs may be far from the codes that the generator was trained with.
_RANDOM, _FURTHEST = 4, 3.0
# The length of starts on a large generator, as a multiple of N(0, I) draws. Descents from there take half as many steps
# as from N(0, I), and end in the best optimum as often.
_SHORT = 0.3
# The shortest and the longest perturbation, as multiples of the length of the code. Long perturbations are for real
# data, whose best codes are long, short ones for optima nearby (tuned on the tuning families).
_SHORTEST, _LONGEST = 0.1, 10.0


def fits_single(size: float) -> bool:
    """Check whether numbers of this size have squares in single precision; NaN has none."""
    return size == 0 or _SINGLE[0] <= size <= _SINGLE[1]


def is_expensive(network: Generator) -> bool:
    """Check whether a Jacobian in double precision costs more than the search."""
    return network.latent_dim * network.cost >= _EXPENSIVE


def _values(function: Generator | Operator, x: Tensor) -> Tensor:
    """Compute the values of a generator or a measurement, a bounded number at a time."""
    parts = torch.split(x, at_once(SAMPLE_NUMBERS, 4 * function.width, x.device))
    return torch.cat([function.forward(part) for part in parts])


def _bounded(x: Tensor) -> Tensor:
    """Clip x so that its fourth power is finite."""
    largest = torch.finfo(x.dtype).max ** 0.25
    return x.nan_to_num(0.0).clamp(-largest, largest)


@dataclass(frozen=True, eq=False)
class GaussianModel:
    r"""A Gaussian linear model of samples: codes z_i with their outputs x_i, or with measurements x_i of the outputs.

    With the principal directions F of x, scaled to their standard deviations, the model is

    .. math:: x \approx \bar x + F s + \epsilon, \quad z \approx \bar z + P s, \quad s \sim N(0, I)

    Attributes:
        z, x: the samples, (N, k) and (N, n).
    """

    z: Tensor
    x: Tensor
    _measured: weakref.WeakKeyDictionary[Operator, GaussianModel] = field(default_factory=weakref.WeakKeyDictionary)

    @cached_property
    def spread(self) -> float:
        """The mean variance of an entry of x."""
        return float(self.x.var(dim=0).mean())

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        """Means of x (n,) and z (k,), F^T (r, n), P^T (r, k), and the mean variance of x that F does not explain."""
        count, n = self.x.shape
        mean_x, mean_z = self.x.mean(dim=0), self.z.mean(dim=0)
        x, z = self.x - mean_x, self.z - mean_z
        r = min(_DIRECTIONS, n, count - 1)
        basis = torch.randn(n, r, generator=torch_stream("principal directions"), dtype=torch.float32).to(x)
        for _ in range(_SWEEPS):
            basis = torch.linalg.qr(x.T @ (x @ basis))[0]
        scores = x @ basis
        variances, rotation = torch.linalg.eigh(scores.T @ scores / count)
        deviations = variances.clamp_min(1e-12 * float(variances.max()) + torch.finfo(x.dtype).tiny).sqrt()
        scores = scores @ (rotation / deviations)
        left = float((x.square().sum() / count - variances.sum()).clamp_min(0) / n)
        return mean_x, mean_z, (rotation * deviations).T @ basis.T, scores.T @ z / count, left

    def posterior(self, operator: Operator, y: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        r"""Compute the mean (B, k) and covariance (B or 1, k, k) of the codes of observations y (B, m) under the model.

        The mean is the linear minimum mean square error estimate,

        .. math:: \hat z = \bar z + P S C^T (y - A \bar x) / \sigma^2, \qquad S = (I + C^T C / \sigma^2)^{-1}, C = A F,

        and the covariance is :math:`P S P^T + I - P P^T`, from s given y (first term) and from z given s (the others).

        Args:
            operator: A.
            y: (B, m).
            noise: sigma^2, the variance of y - A x; the variance that F does not explain is added to it.

        Source: the conditional distribution of a Gaussian, Bishop, Pattern Recognition and Machine Learning (2006),
        section 2.3.3.
        """
        mean_x, mean_z, _, codes, left = self.parts
        # Each observation has its own measured directions; a bounded number of them is held at a time.
        size = at_once(SAMPLE_NUMBERS, 4 * operator.m * _DIRECTIONS)
        if operator.count and len(y) > size:
            parts = torch.split(torch.arange(len(y), device=y.device), size)
            found = zip(*(self.posterior(operator.take(part), y[part], noise) for part in parts), strict=True)
            mean, covariance = (torch.cat(each) for each in found)
            return mean, covariance
        y = _bounded(y.to(self.x.dtype))
        r = y - operator.to(self.x.dtype, self.x.device).forward(mean_x.expand(len(y), -1))
        variance = max(noise + left, torch.finfo(y.dtype).tiny)
        measured = self._measured_directions(operator, len(y))
        gram = _information_matrix(measured, torch.tensor(variance, dtype=measured.dtype).to(measured))
        solved = torch.linalg.solve(gram, codes.expand(len(gram), -1, -1))  # S P^T
        right = (measured @ r[:, :, None])[:, :, 0] if operator.count else r @ measured[0].T
        mean = mean_z + (right[:, None, :] @ solved)[:, 0] / variance
        covariance = torch.eye(self.z.shape[1]).to(codes) - codes.T @ codes + codes.T @ solved
        return mean.nan_to_num(0.0, 0.0, 0.0), covariance.nan_to_num(0.0, 0.0, 0.0)

    def measured_by(self, operator: Operator) -> tuple[GaussianModel, Operator]:
        """Return a model, and a linear operator on its x, which together describe how ``operator`` measures outputs.

        If ``operator`` is not linear, x are its measurements of the samples, and the linear operator is the identity.
        """
        if operator.linear:
            return self, operator
        if isinstance(operator, WeightedOperator) and operator.before is None:
            model, inner = self.measured_by(operator.inner)
            return model, WeightedOperator(inner, operator.weight)
        if operator not in self._measured:
            values = _values(operator.to(self.x.dtype, self.x.device), self.x)
            self._measured[operator] = GaussianModel(self.z, _bounded(values))
        return self._measured[operator], IdentityOperator(operator.shape)

    def information(self, operator: Operator, values: float) -> Array:
        r"""Compute the information that measurements give about the code, in bits for each coordinate.

        .. math:: \frac{1}{2 k} \log_2 \det(I + C^T C / \sigma^2)

        Return one number for each observation, (B,), or (1,) if they share ``operator``. :math:`\sigma^2` is 1% of the
        mean variance of the measurements; ``values`` is their number.

        Source: Cover and Thomas, Elements of Information Theory (2006), section 9.4 (parallel Gaussian channels).
        """
        measured = self._measured_directions(operator, max(1, operator.count))
        variance = _ESTIMATE_NOISE * measured.square().sum(dim=(1, 2), keepdim=True) / values
        bits = torch.linalg.slogdet(_information_matrix(measured, variance).double()).logabsdet.nan_to_num()
        return np.asarray(bits.cpu().numpy() / (2 * math.log(2) * self.z.shape[1]))

    def _measured_directions(self, operator: Operator, count: int) -> Tensor:
        """Return C^T, (count, r, m), or (1, r, m) if all observations share the operator."""
        operator = operator.to(self.x.dtype, self.x.device)
        return operator.tangents(self.parts[2].expand(count if operator.count else 1, -1, -1))


def _information_matrix(measured: Tensor, variance: Tensor) -> Tensor:
    """Return I + C^T C / s^2, (B, r, r), for measured directions (B, r, m) and variances (B, 1, 1)."""
    gram = measured @ measured.transpose(1, 2) / variance.clamp_min(torch.finfo(measured.dtype).tiny)
    gram.diagonal(dim1=1, dim2=2).add_(1.0)
    return gram


class SampleCache:
    r"""Samples z_i ~ N(0, I), or uniform between two bounds, their outputs x_i = G(z_i), and their Gaussian model.

    The samples do not depend on the seed of a search: they describe the generator, and new samples for every chunk of a
    data set would cost as much as inverting the chunk.

    Attributes:
        large: see :attr:`Generator.large`.
        fits: whether single precision works: layers and outputs stay in its range.
        model: the model of the samples, in float32 if ``fits``, else in the generator's precision.
    """

    def __init__(self, network: Generator, bounds: Bounds | None = None) -> None:
        self.large = network.large
        count = max(_FEWEST, min(_SAMPLES, SAMPLE_NUMBERS // network.output_dim, _WORK // max(network.cost, 1)))
        if bounds is None or bounds.none:
            codes = torch.randn(count, network.latent_dim, generator=torch_stream("samples"), dtype=torch.float32)
        else:
            codes = torch.tensor(bounds.draw(stream("samples in bounds"), (count,)), dtype=torch.float32)
        z = codes.to(network.device)
        try:
            x = _values(single(network), z)
            self.fits = bool(x.isfinite().all()) and fits_single(float(x.abs().max()))
        except RuntimeError:  # a module with constants of its own in double precision
            self.fits = False
        if not self.fits:
            z = z.to(network.dtype)
            x = _values(network, z)
        self.model = GaussianModel(z, _bounded(x))

    @classmethod
    def of(cls, problem: Problem) -> SampleCache:
        """Return the samples of a problem's generator, or of the one in ``alike``; they are kept with that generator.

        Bounds need no key: a network on the coordinates of bounded codes is an object of its own
        (:func:`~unrelu.measurements.working_units.on_coordinates`).
        """
        owner = problem.alike or problem
        return owner.network.once("samples", lambda: cls(owner.network, owner.bounds))

    def measured(self, operator: Operator) -> list[Tensor]:
        """Return the samples measured by each observation's operator, (N, m) each; one array if all share it."""
        x = self.model.x
        each = [operator.take(np.array([i])) for i in range(operator.count)] or [operator]
        return [_values(one.to(x.dtype, x.device), x) for one in each]


def single(network: Generator) -> Generator:
    """Return the generator in single precision."""
    return network.once("in single precision", lambda: network.to(torch.float32))


def exact_model(problem: Problem) -> GaussianModel:
    """Return the model of some samples in double precision, on the CPU; it is the same in all units."""

    def made() -> GaussianModel:
        z = SampleCache.of(problem).model.z[:_EXACT].to("cpu", torch.float64)
        return GaussianModel(z, _bounded(_values(problem.network.to(torch.float64, "cpu"), z)))

    return problem.network.once("samples in double precision", made)


class SearchStarts:
    r"""The starts of one search, and the perturbations of codes.

    The first start of an observation is its posterior mean under the :class:`GaussianModel` of the samples. One of four
    starts is drawn from :math:`N(0, s^2 I)`, s from 1 to 3, log-uniform, and the others from the posterior. For a large
    generator, the model would cost more than descents, so the other starts are drawn from :math:`N(0, 0.3^2 I)`. For
    descents by tempering, they are the samples with the nearest measurements at the first noise level. A
    perturbation of a code z is :math:`t \, |z|_2 / \sqrt k \; \xi`, :math:`\xi \sim N(0, I)`, t log-uniform.
    Coordinates beyond a bound are reflected at it, and random starts are uniform between two bounds. Each observation
    has its own random stream, so its starts do not depend on the other observations.
    """

    def __init__(
        self, problem: Problem, cache: SampleCache, objective: SquaredError, tempered: SquaredError | None = None
    ) -> None:
        self.problem, self.cache, self.objective, self.tempered = problem, cache, objective, tempered
        self._samples, self._operator = cache.model.measured_by(objective.operator)
        self._y, known = objective.y, problem.noise.variance(problem.y)
        self._operator, gain = normalised(self._operator)  # the Gaussian model is in the units of outputs
        self._y, known = self._y / gain.to(self._y), known / gain.square().cpu().double().numpy()[..., 0]
        self._stream = functools.cache(functools.partial(stream, "search", problem.seed))
        with np.errstate(divide="ignore"):
            exponent = np.rint(np.log(known + _ESTIMATE_NOISE * self._samples.spread) / np.log(_VARIANCE_STEP))
        self._variance = _VARIANCE_STEP**exponent

    def codes(self, observations: Index, first: int, count: int) -> Array:
        """Return ``count`` starts of some observations, from number ``first`` on, (b, count, k)."""
        (drawn, size), bounds = self._draws(observations, count, 1.0, _FURTHEST), self.problem.bounds
        number = np.arange(first, first + count)[None, :, None]
        if self.tempered:
            inside = self._nearest(observations, first, count)
        else:
            inside = _SHORT * drawn if self.cache.large else self._posterior(observations, number, drawn)
        random = np.where(bounds.uniform, bounds.quantile(ndtr(drawn)), size * drawn)
        return bounds.reflect(np.where(number % _RANDOM == _RANDOM - 1, random, inside))

    def perturbations(self, observations: Index, restarts: int, count: int) -> Array:
        """Draw perturbations, in units of the root mean square of the perturbed code, (b, restarts, count, k)."""
        drawn, size = self._draws(observations, restarts * count, _SHORTEST, _LONGEST)
        return (size * drawn).reshape(len(observations), restarts, count, drawn.shape[2])

    def _draws(self, observations: Index, count: int, least: float, most: float) -> tuple[Array, Array]:
        """Draw codes from N(0, I), (b, count, k), and log-uniform sizes, (b, count, 1), one stream per observation."""
        rngs, shape = [self._stream(i) for i in observations.tolist()], (count, self.problem.network.latent_dim)
        drawn = np.array([rng.standard_normal(shape) for rng in rngs])
        return drawn, np.exp([rng.uniform(np.log(least), np.log(most), (count, 1)) for rng in rngs])

    def _nearest(self, observations: Index, first: int, count: int) -> Array:
        """Return ``count`` samples in the order of the tempered objective, from number ``first`` on, (b, count, k)."""
        tempered, measured, z = self.tempered, self.objective.operator, self.cache.model.z
        assert tempered is not None
        assert isinstance(tempered.operator, WeightedOperator)
        # The samples are measured once, not for each observation, unless each observation has its own operator.
        shared = None if measured.count else self.cache.measured(measured)[0]
        found = []
        for i in observations.tolist():
            x = self.cache.measured(measured.take(np.array([i])))[0] if shared is None else shared
            f = (tempered.operator.weight[i] * x - tempered.y[i]).square().sum(dim=1) + tempered.penalty(z)
            found.append(z[f.argsort()[np.arange(first, first + count) % len(z)]])
        return torch.stack(found).cpu().double().numpy()

    def _posterior(self, observations: Index, number: Index, drawn: Array) -> Array:
        """Return the posterior mean as start number 0, and draws from the posterior as the others, (b, count, k)."""
        codes, variances = np.empty_like(drawn), self._variance[observations]
        for variance in np.unique(variances):
            some = np.flatnonzero(variances == variance)
            at = self.objective.index(observations[some])
            model = self._samples.posterior(self._operator.take(at), self._y[at], float(variance))
            mean, covariance = (t.cpu().double().numpy() for t in model)
            values, vectors = np.linalg.eigh(covariance)
            factor = vectors * np.sqrt(np.clip(values, 0.0, None))[:, None, :]
            codes[some] = mean[:, None] + np.where(number == 0, 0.0, drawn[some] @ factor.transpose(0, 2, 1))
        return codes

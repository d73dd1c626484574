r"""Kinds of measurements that share a learned prior of the confidence, and the canonical measurements of a kind.

The prior learned on a generator must not depend on which user's measurement came first. It is therefore learned on
measurements that are drawn for the kind from a random stream of their own. A kind states what is measured, the number
of values, the spread of their weights, and their information about the code, all in steps of a quarter
(:meth:`~unrelu.search.sample_cache.GaussianModel.information`).

- Masks and weights of outputs: the canonical measurements are random masks.
- Other linear measurements: the canonical measurement is a random matrix.
- A nonlinear measurement is a kind of its own. Its canonical measurement is itself, with random masks if entries are
  hidden. Under a likelihood, which may have a parameter for each entry, only masks share a kind.

In a canonical measurement, the squared weights :math:`w^2` of n values are log-normal, :math:`\log w^2 \sim N(0, s^2)`.
They have about the user's effective sample size, :math:`(\sum_j w_j^2)^2 / \sum_j w_j^4 = n e^{-s^2}`. Random masks and
matrices are tilted until they give as much information as the kind. To give less, they measure entries that vary
together. To give more, they measure the directions in which outputs vary least (leverage scores, whitening).

Sources: Kish, Survey Sampling (1965), section 11.7 (effective sample size); Mahoney and Drineas, "CUR matrix
decompositions for improved data analysis", PNAS 106 (2009) (leverage scores).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import rankdata

from unrelu.measurements import IdentityOperator, Operator, WeightedOperator
from unrelu.measurements.operators import MatrixOperator, normalised
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array
from unrelu.runtime.memory_limits import DENSE_NUMBERS, SAMPLE_NUMBERS, at_once
from unrelu.runtime.streams import stream
from unrelu.search.sample_cache import GaussianModel, SampleCache

# Within a kind, the numbers of values differ by at most this factor, and so does the information. For random masks of
# half of 64 pixels, the standard deviations of both are 12% and 7%.
_STEP = 1.25
# Smaller numbers are raised to this one before their logarithm is taken.
_LEAST = 1e-2
# The information is averaged over at most this many operators of a batch.
_OPERATORS = 256
# The number of masks drawn. The quarter of them whose information is nearest to the kind's is canonical.
_MASKS, _OF = 64, 4
# The number of bisections of the tilt.
_BISECTIONS = 5


@dataclass(frozen=True)
class MeasurementKind:
    """A kind of measurements: the properties that measurements with the same prior have in common.

    Attributes:
        measured: "outputs", "matrix", or the digest of a measurement that is a kind of its own.
        values: the logarithm of the number of measured values, in steps; None if all are measured alike.
        spread: the variance of the logarithms of squared weights, in steps.
        information: the logarithm of the information, in steps.
    """

    measured: str
    values: int | None
    spread: int
    information: int

    @classmethod
    def of(cls, problem: Problem) -> MeasurementKind:
        """Return the kind of a problem's measurements, averaged over the observations if each has its own operator."""
        operator = problem.operator
        some = normalised(cycled(operator, min(operator.count, _OPERATORS)))[0]
        (core, shares), own = _split(some), problem.noise.likelihood is not None
        values = float((shares > 0).sum(axis=1).mean())
        spread = _steps(values / float((shares.sum(axis=1) ** 2 / np.square(shares).sum(axis=1)).mean()))
        model, linear = SampleCache.of(problem).model.measured_by(some)
        measured, information = _measured(core, own), _steps(model.information(linear, values).mean())
        alike = measured != "matrix" and not spread and values == (core.n if measured == "outputs" else core.m)
        return cls(measured, None if alike else _steps(values), spread, information)

    def canonical(self, problem: Problem) -> Operator:
        """Return canonical measurements of this kind for the generator of a problem of the same kind."""
        core, _ = _split(problem.operator)
        if self.measured == "outputs":
            core = IdentityOperator(problem.network.output_shape)
        if self.values is None:
            return core
        samples = SampleCache.of(problem).model
        model, draw = samples.measured_by(core)[0], _masks
        count, most = round(_STEP**self.values), core.m
        if self.measured == "matrix":
            model, draw, most = samples, _matrix, max(1, DENSE_NUMBERS // core.n)
        count = min(max(count, 1), most)
        # The quantiles of weights, the largest first.
        weights = np.exp(ndtri((np.arange(count)[::-1] + 0.5) / count) * math.sqrt(self.spread * math.log(_STEP)) / 2)

        def tilted(tilt: float) -> tuple[Operator, float]:
            """Return the drawn measurements with information nearest to the kind's, and its mean excess, in steps."""
            rng = stream("canonical measurements", str(self))
            drawn = draw(model, core, weights, tilt, rng)
            excess = _logarithms(model.information(samples.measured_by(drawn)[1], count)) - self.information
            nearest = np.argsort(np.abs(excess), kind="stable")[: max(1, len(excess) // _OF)]
            return drawn.take(np.sort(nearest)), float(excess[nearest].mean())

        found, excess = tilted(0.0)
        low, high, sign = 0.0, 1.0, -math.copysign(1.0, excess)
        for _ in range(_BISECTIONS):
            if abs(excess) <= 1 / 2:
                break
            middle = (low + high) / 2
            found, excess = tilted(sign * middle)
            low, high = (middle, high) if sign * excess < 0 else (low, middle)
        return found


def cycled(operator: Operator, count: int) -> Operator:
    """Return the operator for ``count`` outputs by cycling through the operators of the observations."""
    return operator.take(np.arange(count) % operator.count) if operator.count else operator


def _logarithms(numbers: Array) -> Array:
    return np.asarray(np.log(np.maximum(numbers, _LEAST)) / math.log(_STEP))


def _steps(number: float) -> int:
    return round(float(_logarithms(np.asarray(number))))


def _split(operator: Operator) -> tuple[Operator, Array]:
    """Return the measurement without weights and masks, and the squared weights, (B, m), or (1, m) if shared by all."""
    squares = np.ones((1, operator.m))
    while isinstance(operator, WeightedOperator) and operator.before is None:
        squares = squares * np.square(operator.weight.cpu().double().numpy())
        operator = operator.inner
    return operator, squares


def _measured(core: Operator, own: bool) -> str:
    """Return what ``core`` measures, see :class:`MeasurementKind`; if ``own``, all but masks are kinds of their own."""
    if core.linear and (not own or core.output_shaped):
        return "outputs" if core.selects else "matrix"
    values = core.values(stream("a fixed output").standard_normal((1, core.n)))
    return sha256(type(core).__name__.encode() + values.tobytes()).hexdigest()


# --- canonical measurements; a tilt from -1 to 1 lowers or raises their information -----------------------------------


def _masks(model: GaussianModel, core: Operator, weights: Array, tilt: float, rng: np.random.Generator) -> Operator:
    """Draw random masks of what ``core`` measures: the entries with the highest scores get ``weights``, the others 0.

    Scores are normal. A negative tilt mixes in random combinations of principal directions, a positive one leverage.
    """
    directions = _directions(model)
    masks = min(_MASKS, at_once(SAMPLE_NUMBERS, directions.size))
    scores = (1 - abs(tilt)) * rng.standard_normal((masks, core.m))
    if tilt < 0:
        lengths = np.linalg.norm(directions, axis=0)
        along = directions / np.where(lengths > 0, lengths, 1.0)
        scores -= tilt * (rng.standard_normal((masks, len(along))) @ along)
    elif tilt > 0:
        leverage = np.square(directions / np.linalg.norm(directions, axis=1, keepdims=True)).sum(axis=0)
        scores += tilt * ndtri((rankdata(leverage) - 0.5) / core.m)
    masked = np.zeros(scores.shape)
    np.put_along_axis(masked, np.argsort(-scores, axis=1, kind="stable")[:, : len(weights)], weights[None], axis=1)
    return WeightedOperator(core, torch.from_numpy(masked))


def _matrix(model: GaussianModel, core: Operator, weights: Array, tilt: float, rng: np.random.Generator) -> Operator:
    """Draw a matrix of weighted normal rows. A tilt scales each principal direction by a power of its deviation."""
    count = len(weights)
    directions = _directions(model)
    deviations = np.linalg.norm(directions, axis=1)
    power = -tilt if tilt > 0 else -2 * tilt
    rows, units = rng.standard_normal((count, core.n)), directions / deviations[:, None]
    gains = (deviations / np.sqrt(np.square(deviations).mean())) ** power - 1
    rows += (rows @ units.T * gains) @ units
    # Measurements are about as large as outputs.
    size = np.square(rows @ directions.T).sum() / count
    rows *= weights[:, None] * np.sqrt(np.square(directions).sum() / core.n / size)
    return MatrixOperator(torch.from_numpy(rows), (count,))


def _directions(model: GaussianModel) -> Array:
    """Return the principal directions of the measured values, scaled to their standard deviations, (r, n)."""
    directions = model.parts[2].cpu().double().numpy()
    lengths = np.linalg.norm(directions, axis=1)
    return np.asarray(directions[lengths > np.finfo(np.float32).eps * lengths.max(initial=np.finfo(float).tiny)])

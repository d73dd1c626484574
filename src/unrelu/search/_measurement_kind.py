r"""Kinds of measurements, which share what is learned of the confidence, and the canonical measurements of a kind.

What is learned on a generator must not depend on whose measurement came first. It is learned on measurements that are
drawn for the kind, from a stream of its own, never on the user's. A kind is what is measured, how many values, how far
their weights differ, and how much they tell of the code, all in steps of a quarter
(:meth:`~unrelu.search.sample_cache.GaussianModel.information`).

- Masks and weights of outputs: the canonical ones are random masks.
- Other linear measurements: the canonical one is a random matrix.
- A nonlinear measurement is a kind of its own: the canonical one is itself, with random masks if entries are hidden.
  Under a likelihood, which may have a parameter for each entry, so is every measurement but a mask.

Squared weights :math:`w^2` of n values are log-normal in a canonical measurement, :math:`\log w^2 \sim N(0, s^2)`, with
about the same effective sample size :math:`(\sum_j w_j^2)^2 / \sum_j w_j^4 = n e^{-s^2}`. Random masks and matrices are
tilted until they tell as much as the kind does. To tell less, they measure what varies together. To tell more, they
measure the directions in which outputs vary least (leverage scores, whitening).

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

# The numbers of values of a kind differ at most by this factor, and so does the information. Random masks of half of
# 64 pixels have standard deviations of 12 and 7%.
_STEP = 1.25
# Numbers below this count as so much.
_LEAST = 1e-2
# The most operators of a batch whose information is measured.
_OPERATORS = 256
# Masks that are drawn; one of four is canonical, those whose information is nearest to the kind's.
_MASKS, _OF = 64, 4
# Bisections of the tilt.
_BISECTIONS = 5


@dataclass(frozen=True)
class MeasurementKind:
    """What measurements that share a prior have in common.

    Attributes:
        measured: "outputs", "matrix", or the digest of a measurement of its own kind.
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
        """The kind of a problem's measurements; a mean over the observations, if each has its own."""
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
        """Measurements of this kind for the generator of a problem that has it."""
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
            """The measurements drawn whose information is nearest to the kind's, and their mean excess, in steps."""
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
    """The operator for ``count`` outputs; those of the observations take turns."""
    return operator.take(np.arange(count) % operator.count) if operator.count else operator


def _logarithms(numbers: Array) -> Array:
    return np.asarray(np.log(np.maximum(numbers, _LEAST)) / math.log(_STEP))


def _steps(number: float) -> int:
    return round(float(_logarithms(np.asarray(number))))


def _split(operator: Operator) -> tuple[Operator, Array]:
    """The measurement without weights and masks, and their squares, (B, m); (1, m) if all observations share them."""
    squares = np.ones((1, operator.m))
    while isinstance(operator, WeightedOperator) and operator.before is None:
        squares = squares * np.square(operator.weight.cpu().double().numpy())
        operator = operator.inner
    return operator, squares


def _measured(core: Operator, own: bool) -> str:
    """What a measurement without weights measures, see :class:`MeasurementKind`; ``own`` ones are like themselves."""
    if core.linear and (not own or core.output_shaped):
        return "outputs" if core.selects else "matrix"
    values = core.values(stream("a fixed output").standard_normal((1, core.n)))
    return sha256(type(core).__name__.encode() + values.tobytes()).hexdigest()


# --- canonical measurements; a tilt from -1 to 1 makes them tell less or more -----------------------------------------


def _masks(model: GaussianModel, core: Operator, weights: Array, tilt: float, rng: np.random.Generator) -> Operator:
    """Random masks of what ``core`` measures. Entries of the highest scores have ``weights``, others 0.

    Scores are normal. Tilted, they are a random combination of principal directions, or those of leverage.
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
    """A matrix of weighted normal rows. Tilted, principal directions have a gain, a power of their deviations."""
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
    """The principal directions of what is measured, scaled to their deviations, (r, n)."""
    directions = model.parts[2].cpu().double().numpy()
    lengths = np.linalg.norm(directions, axis=1)
    return np.asarray(directions[lengths > np.finfo(np.float32).eps * lengths.max(initial=np.finfo(float).tiny)])

"""Chains in exact rational arithmetic, and random ones whose bounds are as tight as rounding allows."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region

__all__ = ["Exact", "exact", "fractions", "random_case"]


def fractions(values):
    return [Fraction(float(value)) for value in values]


class Exact:
    """u of all neurons counted through, h of the hidden ones, the errors and F, at one code."""

    def __init__(self, chain, z):
        h, self.u, self.h = fractions(z), [], []
        for weight, bias, slope in zip(chain.weights, chain.biases, chain.slopes, strict=True):
            rows = [fractions(row) for row in weight]
            u = [
                sum((w * x for w, x in zip(row, h, strict=True)), Fraction(b))
                for row, b in zip(rows, bias, strict=True)
            ]
            h = [x if x > 0 else Fraction(float(c)) * x for x, c in zip(u, slope, strict=True)]
            self.u += u
            self.h += h
        self.errors = [abs(y - x) for y, x in zip(fractions(chain.y), h, strict=True)]
        self.value = max(self.errors) if chain.norm == "linf" else sum(self.errors)

    def within(self, region):
        """Whether the pre-activations lie in a region."""
        ends = zip(region.low, self.u, region.high, strict=True)
        return all(
            (low == -np.inf or Fraction(low) <= u) and (high == np.inf or u <= Fraction(high)) for low, u, high in ends
        )

    def functional(self, total, towards, z):
        """total . h + towards . z; total of hidden layers only."""
        value = Fraction(0)
        for weights, values in ((total, self.h), (towards, fractions(z))):
            if weights is not None:
                value += sum((w * x for w, x in zip(fractions(weights), values, strict=True)), Fraction(0))
        return value


def exact(chain, z):
    return Exact(chain, z)


def _scaled(rng, shape, widest):
    """Numbers of all sizes up to 10^widest, some of them zero or of few digits."""
    values = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, widest, shape)
    few = rng.random(shape)
    return np.where(few < 0.15, 0.0, np.where(few < 0.3, np.round(values), values))


def _around(rng, exact_values, kind):
    """An interval around each number: the number itself as far as floats go, a wide one, or an unbounded one."""
    low, high = (np.array([float(value) for value in exact_values]) for _ in range(2))
    low = np.where([Fraction(x) > v for x, v in zip(low, exact_values, strict=True)], np.nextafter(low, -np.inf), low)
    high = np.where(
        [Fraction(x) < v for x, v in zip(high, exact_values, strict=True)], np.nextafter(high, np.inf), high
    )
    if kind != "point":
        low, high = low - rng.exponential(1, len(low)), high + rng.exponential(1, len(high))
    if kind == "unbounded":
        low = np.where(rng.random(len(low)) < 0.3, -np.inf, low)
        high = np.where(rng.random(len(high)) < 0.3, np.inf, high)
    return low, high


def random_case(seed, norm):
    """(rng, chain, z, region, multipliers): the region holds z, which has all coordinates at the radius."""
    rng = np.random.default_rng(seed)
    sizes = [int(rng.integers(1, 3)), *(int(rng.integers(1, 5)) for _ in range(int(rng.integers(1, 4))))]
    widest = float(rng.choice([0.5, 0.5, 4.0]))
    weights = tuple(_scaled(rng, (n, m), widest) for m, n in pairwise(sizes))
    biases = tuple(_scaled(rng, n, widest) for n in sizes[1:])
    slopes = tuple(rng.choice([0.0, 0.1, 1 / 3, 1.0], n) for n in sizes[1:])
    y = _scaled(rng, sizes[-1], widest)
    chain = CertifiedChain(weights, biases, slopes, y, norm)
    radius = float(10.0 ** rng.uniform(-2, 2))
    z = radius * rng.choice([-1.0, 1.0], sizes[0])
    region = Region(*_around(rng, Exact(chain, z).u, str(rng.choice(["point", "point", "wide", "unbounded"]))), radius)
    kappa = rng.random(sizes[-1])
    if norm == "linf":
        kappa = kappa / kappa.sum() * rng.choice([0.5, 1 - 1e-15])
    multipliers = Multipliers(kappa, _scaled(rng, int(chain.ends[-1]), float(rng.choice([0.0, 3.0, 12.0]))))
    return rng, chain, z, region, multipliers

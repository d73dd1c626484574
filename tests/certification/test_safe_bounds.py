"""Bounds that must hold whatever the multipliers: compared in rational arithmetic, where nothing is rounded."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.certification.exact import exact, random_case
from unrelu.certification.bound_propagation import Lemmas, forward_propagation, level_set, region_of
from unrelu.certification.bound_tightening import backward_bounds
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region, Value, lower_bound, safe_multipliers

NORMS = st.sampled_from(["linf", "l1"])
SEEDS = st.integers(0, 2**32)


def below(bound, truth, z, radius):
    """Whether a bound in both of its forms is at most the exact truth."""
    assert not np.isnan([bound.constant, bound.tilt]).any()
    assert bound.constant < np.inf
    assert bound.tilt >= 0
    value = bound.within(radius)
    if np.isinf(bound.constant) or np.isinf(bound.tilt):
        return value == -np.inf
    far = Fraction(float(np.abs(z).max()))
    return Fraction(bound.constant) - Fraction(bound.tilt) * far <= truth and (
        value == -np.inf or Fraction(value) <= truth
    )


@settings(max_examples=600)
@given(SEEDS, NORMS)
def test_bounds_hold_for_any_multipliers(seed, norm):
    _, chain, z, region, multipliers = random_case(seed, norm)
    truth = exact(chain, z)
    assert truth.within(region)
    assert below(lower_bound(chain, region, multipliers), truth.value, z, region.radius)


@settings(max_examples=600)
@given(SEEDS, NORMS)
def test_bounds_of_functionals_hold_for_any_multipliers(seed, norm):
    rng, chain, z, region, multipliers = random_case(seed, norm)
    truth, neurons, hidden = exact(chain, z), int(chain.ends[-1]), int(chain.ends[-2])
    level = np.nextafter(float(truth.value), np.inf)
    total, towards = (
        10.0 ** rng.uniform(-6, 9) * rng.standard_normal(size) if rng.random() < 0.6 else None
        for size in (neurons, chain.latent_dim)
    )
    if total is None and towards is None:
        towards = np.ones(chain.latent_dim)
    if total is not None:
        total[hidden:] = 0.0
    multipliers = replace(multipliers, kappa=multipliers.kappa * 10.0 ** rng.uniform(-3, 6))
    bound = lower_bound(chain, region, multipliers, level, total=total, towards=towards)
    assert below(bound, truth.functional(total, towards, z), z, region.radius)


@settings(max_examples=300)
@given(SEEDS, NORMS)
def test_settled_multipliers_give_a_bound_in_unbounded_regions(seed, norm):
    rng, chain, z, region, multipliers = random_case(seed, norm)
    # Hidden neurons on one side only: with c < 0 a free one has no bound for any slope.
    side, output = rng.integers(-1, 2, len(region.low)), np.arange(len(region.low)) >= chain.ends[-2]
    below_, above_ = (side < 0) | (output & (side == 0)), (side > 0) | (output & (side == 0))
    low = np.where(np.isinf(region.low), np.minimum(-1e6, region.high - 1), region.low)
    high = np.where(np.isinf(region.high), np.maximum(1e6, region.low + 1), region.high)
    region = Region(np.where(below_, -np.inf, low), np.where(above_, np.inf, high), region.radius)
    bound = lower_bound(chain, region, safe_multipliers(chain, region, multipliers))
    assert np.isfinite(bound.constant)
    assert below(bound, exact(chain, z).value, z, region.radius)


@settings(max_examples=300)
@given(SEEDS, NORMS)
def test_level_sets_hold_every_code_below_the_level(seed, norm):
    rng, chain, z, _, _ = random_case(seed, norm)
    truth = exact(chain, z)
    start = int(chain.ends[-2])
    for level in (np.nextafter(float(truth.value), np.inf), float(truth.value) * (1 + rng.random()) + 1e-300):
        if Fraction(level) <= truth.value:
            continue
        low, high = level_set(chain, level)
        assert exact_inside(low, truth.u[start:], high)


def exact_inside(low, values, high):
    return all(
        (a == -np.inf or Fraction(a) <= v) and (b == np.inf or v <= Fraction(b))
        for a, v, b in zip(low, values, high, strict=True)
    )


@settings(max_examples=200)
@given(SEEDS)
def test_interval_arithmetic_holds_every_code_up_to_the_radius(seed):
    rng, chain, z, region, _ = random_case(seed, "linf")
    nothing = Region(np.full_like(region.low, -np.inf), np.full_like(region.low, np.inf), region.radius)
    for given_region in (nothing, region):
        assert exact(chain, z).within(forward_propagation(chain, given_region))
    for corner in rng.uniform(-region.radius, region.radius, (5, len(z))):
        assert exact(chain, corner).within(forward_propagation(chain, nothing))


def two_layers(rng, norm, slope=0.0):
    """Layers k -> n -> 8 that often prove a radius, and an observation that a code z is near to."""
    k = int(rng.integers(1, 3))
    sizes = (k, k + int(rng.integers(1, 4)), 8)
    weights = tuple(rng.standard_normal((n, m)) for m, n in pairwise(sizes))
    biases = tuple(0.3 * rng.standard_normal(n) for n in sizes[1:])
    slopes = (np.full(sizes[1], slope), rng.choice([0.0, 1.0] if slope == 0 else [0.2, 1.0], sizes[2]))
    chain = CertifiedChain(weights, biases, slopes, np.zeros(sizes[2]), norm)
    z = rng.standard_normal(k)
    v = chain.pre_activations(z)[-1]
    return replace(chain, y=np.where(v > 0, v, slopes[-1] * v) + rng.uniform(-0.1, 0.1, sizes[2])), z


@settings(max_examples=60)
@given(SEEDS, NORMS)
def test_lemmas_hold_for_every_code_below_the_level(seed, norm):
    """With the solver's multipliers, and with those spoilt: then they prove less, not something wrong."""
    rng = np.random.default_rng(seed)
    chain, z = two_layers(rng, norm, float(rng.choice([0.0, 0.0, 0.1, 1.0])))
    level = float(exact(chain, z).value) * (1 + 10.0 ** rng.uniform(-9, 0))
    lemmas = backward_bounds(chain, level)
    sums = tuple(replace(sum_, slopes=sum_.slopes * rng.uniform(0.5, 2)) for sum_ in lemmas.sums)
    spoilt = Lemmas(sums, lemmas.balance * rng.uniform(0.5, 2, len(lemmas.balance)))
    codes = [z, *(z + step for step in rng.standard_normal((20, len(z))) * 10.0 ** rng.uniform(-4, 2, (20, 1)))]
    inside = [code for code in codes if exact(chain, code).value < Fraction(level)]
    for found in (lemmas, spoilt):
        regions = region_of(chain, level, found)
        for code in inside:
            if regions.proven:
                assert np.abs(code).max() <= regions.full.radius
            if np.abs(code).max() <= regions.full.radius:
                assert exact(chain, code).within(regions.full)
                assert exact(chain, code).within(regions.sharp)


def tiny_chain(norm="linf"):
    weights = (np.array([[1.0], [1.0]]), np.array([[1.0, 1.0]]))
    return CertifiedChain(weights, (np.zeros(2), np.zeros(1)), (np.zeros(2), np.zeros(1)), np.array([1.0]), norm)


@pytest.mark.parametrize("options", [{}, {"towards": np.ones(1)}, {"total": np.array([1.0, 1.0, 0.0])}])
def test_numbers_that_overflow_prove_nothing(options):
    """Sums of them cancel, while what they may be off by is infinite, and infinity times zero is no number."""
    slopes = np.array([1.7e308, -1.7e308, 0.0])
    region = Region(np.zeros(3), np.zeros(3), 0.0)
    bound = lower_bound(tiny_chain(), region, Multipliers(np.zeros(1), slopes), 1.0, **options)
    assert bound.within(0.0) == -np.inf
    weights = (np.ones((1, 1)), np.array([[1.0], [1.0]]))
    chain = CertifiedChain(weights, (np.zeros(1), np.zeros(2)), (np.zeros(1), np.zeros(2)), np.ones(2), "linf")
    bound = lower_bound(chain, region, Multipliers(np.zeros(2), np.array([0.0, 1.7e308, -1.7e308])), 1.0)
    assert bound.within(0.0) == -np.inf


def test_rounding_counts_where_a_bound_is_subtracted():
    """1 - 1 is below the truth only if the rounding of the product counts, not that of the difference."""
    for exponent in range(-40, 40):
        radius, tilt = 1 / 3 * 2.0**exponent, 3.3
        constant = tilt * radius
        value = Value(constant, tilt).within(radius)
        assert Fraction(value) <= Fraction(constant) - Fraction(tilt) * Fraction(radius)

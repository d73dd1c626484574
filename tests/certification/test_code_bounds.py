"""Certificates of codes within bounds: against HiGHS with the same box, brute force, exact arithmetic and forgers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import unrelu
from tests.certification.brute_force import error_at, layers_of, optimum
from tests.certification.exact import exact, random_case
from tests.certification.problems import problem
from tests.support import random_network
from unrelu.certification.bound_propagation import forward_propagation
from unrelu.certification.safe_bounds import Region, lower_bound
from unrelu.errors import InputError
from unrelu.parameters.latent_bounds import Bounds

CLOSED = ("OPTIMAL", "EXACT_FIT")


def box_of(rng, k):
    """Bounds of codes, of which some hold the best codes of all and others none; of different lengths."""
    center = rng.standard_normal(k) * rng.choice([0.3, 1.0, 3.0])
    half = 10.0 ** rng.uniform(-1.5, 1.0, k)
    return center - half, center + half


def check(number, norm, **options):
    """Certify a problem within bounds, compare with HiGHS, and return the certificate."""
    rng, net, y, name = problem(number)
    layers, (lower, upper) = layers_of(net), box_of(rng, net.latent_dim)
    start = lower + (upper - lower) * rng.random(net.latent_dim)
    found = unrelu.certify(net, y, start, norm=norm, bounds=(lower, upper), **options)
    assert math.isinf(found.radius), name
    assert ((found.z >= lower) & (found.z <= upper)).all(), name
    reached = error_at(layers, y, found.z, norm)
    least, best = optimum(layers, y, norm, start=reached, bounds=(lower, upper))
    size = 1e-9 * np.abs(y).max(initial=1e-6)
    assert found.lower <= best * (1 + 1e-7) + 1e-9, name
    assert found.upper == pytest.approx(reached, rel=1e-12, abs=1e-15), name
    assert found.upper >= least * (1 - 1e-7) - size, name
    assert found.verify(net, y), (name, found.flaw(net, y))
    if found.status.name in CLOSED:
        assert found.upper <= best * (1 + 1e-6) + 10 * size, name
    return found


@pytest.mark.parametrize("chunk", [0, 1, *(pytest.param(i, marks=pytest.mark.long) for i in (2, 3))])
def test_eighty_networks(chunk):
    """Of every kind, with both norms; all are closed, also those whose code nothing bounds without the box."""
    left, at_bounds = set(), 0
    for number, norm in itertools.product(range(20 * chunk, 20 * (chunk + 1)), ("linf", "l1")):
        found = check(number, norm)
        at_bounds += bool(((found.z == found.bounds[:, 0]) | (found.z == found.bounds[:, 1])).any())
        if found.status.name not in CLOSED:
            left.add((number, norm))
    assert not left
    assert at_bounds >= 10


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("seed", range(4))
def test_no_code_of_a_grid_or_a_descent_is_better(seed, norm):
    rng, net = np.random.default_rng(seed), random_network((2, 6, 5), seed=seed, bias=True)
    layers, y = layers_of(net), 2 * rng.standard_normal(5)
    lower, upper = box_of(rng, 2)
    found = unrelu.certify(net, y, norm=norm, bounds=(lower, upper))
    assert found.status.name == "OPTIMAL"
    points = np.stack(np.meshgrid(*(np.linspace(*ends, 60) for ends in zip(lower, upper, strict=True))), -1)
    codes = points.reshape(-1, 2)
    values = np.array([error_at(layers, y, z, norm) for z in codes])
    best = values.min()
    for z in codes[np.argsort(values)[:5]]:
        ended = minimize(
            lambda t: error_at(layers, y, t, norm), z, method="Nelder-Mead",
            bounds=list(zip(lower, upper, strict=True)), options={"xatol": 1e-10, "fatol": 1e-10},
        )  # fmt: skip
        best = min(best, ended.fun)
    assert found.lower <= best * (1 + 1e-9)
    assert found.upper <= best * (1 + 1e-4)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_a_bound_that_is_active_closes_the_gap_at_the_root(norm):
    """G(z) = 2 z1 + z2 and y = 10: the best code in the box is its corner, which only the bounds' multipliers show."""
    net = unrelu.from_arrays([[[2.0, 1.0]]], activation="identity")
    found = unrelu.certify(net, [10.0], norm=norm, bounds=([0, -1], [3, 0.5]))
    assert found.z.tolist() == [3.0, 0.5]
    assert found.upper == 3.5
    assert found.upper - found.lower <= 2e-6 * 3.5
    assert found.nodes == 1
    assert found.identifiable
    assert "among codes within the bounds" in found.message
    assert unrelu.certify(net, [10.0], norm=norm).status.name == "EXACT_FIT"


def far(noise):
    """A network of parameters in units far apart, and the observation of a code with two coordinates at a bound."""
    lower, upper = np.array([4000.0, -2.5e-7, 1e6]), np.array([8000.0, 5e-8, 1e6 + 10])
    inner, rng = random_network((3, 10, 14), seed=2, bias=True), np.random.default_rng(1)
    first, last = inner.layers
    weight = first.matrix() / ((upper - lower) / 2)
    bias = first.bias() - weight @ (lower + (upper - lower) / 2)
    net = unrelu.from_arrays([weight, last.matrix()], [bias, last.bias()], activation="relu")
    truth = np.array([8000.0, 1e-8, 1e6])
    return net, net(truth).ravel() + rng.uniform(-noise, noise, 14), (lower, upper), truth


def test_no_code_within_the_bounds_explains_the_observation():
    net = random_network((2, 8, 10), seed=1, bias=True)
    y = net(np.array([0.5, 2.0])).ravel()
    assert unrelu.certify(net, y, noise="uniform:0.01").status.name == "EXACT_FIT"
    found = unrelu.certify(net, y, noise="uniform:0.01", bounds=([-1, -1], [1, 1]))
    assert found.status.name == "OUT_OF_RANGE"
    assert found.out_of_range
    assert found.lower > 0.01
    assert found.verify(net, y)


def test_bounds_are_those_of_the_result_unless_stated():
    net, y, bounds, _ = far(0.02)
    result = unrelu.invert(net, y[None], norm="linf", bounds=bounds)
    assert unrelu.certify(net, y[None], result)[0].bounds is not None
    assert unrelu.certify(net, y[None], result, bounds=(-np.inf, np.inf), max_nodes=5)[0].bounds is None
    wider = unrelu.certify(net, y[None], result, bounds=(bounds[0] - 1, bounds[1] + 1), max_nodes=50)[0]
    assert wider.bounds[0].tolist() == [3999.0, 8001.0]
    with pytest.raises(InputError, match=r"result of observation 0 has .* outside of bounds \[4000, 5000\]"):
        unrelu.certify(net, y[None], result, bounds=(bounds[0], np.array([5000.0, 5e-8, 1e6 + 10])))
    lost = unrelu.certify(net, y, np.full(3, math.nan), bounds=bounds)
    assert lost.status.name == "OPTIMAL"


def test_entries_of_infinite_size_are_hidden_by_a_mask_or_have_to_be_left_out():
    net, level = random_network((2, 8, 10), seed=1, bias=True), np.full(10, 0.1)
    y, level[0] = net(np.array([0.3, 0.4])).ravel(), np.inf
    y[0] += 5.0
    found = unrelu.certify(net, y, noise=unrelu.Uniform(level), bounds=(-1, 1))
    assert found.upper <= 1e-7
    assert found.verify(net, y, level < np.inf)
    assert not found.verify(net, y)
    matrix = np.eye(10)[::-1]
    with pytest.raises(
        InputError, match="hide entries that say nothing by a mask, or leave them out of y and of the rows of operator="
    ):
        unrelu.certify(net, matrix @ y, operator=matrix, noise=unrelu.Uniform(level[::-1]), bounds=(-1, 1))
    rows = matrix[level[::-1] < np.inf]
    found = unrelu.certify(net, rows @ y, operator=rows, noise="uniform:0.1", bounds=(-1, 1))
    assert found.verify(net, rows @ y, rows)


def boxed_case(seed, norm):
    """A random chain whose bounds have the code as a corner, on one side of 0 or on both."""
    rng, chain, z, region, multipliers = random_case(seed, norm)
    length = np.abs(z) * 10.0 ** rng.uniform(-3, 1, len(z))
    above = rng.random(len(z)) < 0.5
    bounds = Bounds(np.where(above, z, z - length), np.where(above, z + length, z))
    return rng, replace(chain, bounds=bounds), z, region, multipliers


@settings(max_examples=300)
@given(st.integers(0, 2**31), st.sampled_from(["linf", "l1"]))
def test_bounds_hold_for_any_multipliers(seed, norm):
    rng, chain, z, region, multipliers = boxed_case(seed, norm)
    truth = exact(chain, z)
    assert truth.within(region)
    found = lower_bound(chain, region, multipliers)
    assert found.tilt == 0
    assert not math.isfinite(found.constant) or Fraction(found.constant) <= truth.value
    towards = rng.standard_normal(len(z))
    level = float(truth.value) * (1 + 1e-15) + 1e-300
    of_code = lower_bound(chain, region, multipliers, level, towards=towards)
    value = truth.functional(None, towards, z)
    assert not math.isfinite(of_code.constant) or Fraction(of_code.constant) <= value


@settings(max_examples=100)
@given(st.integers(0, 2**31))
def test_intervals_hold_every_code_within_the_bounds(seed):
    rng, chain, z, region, _ = boxed_case(seed, "linf")
    nothing = Region(
        np.full_like(region.low, -np.inf),
        np.full_like(region.low, np.inf),
        float(np.abs([chain.bounds.lower, chain.bounds.upper]).max()),
    )
    full = forward_propagation(chain, nothing)
    corners = np.where(rng.random((5, len(z))) < 0.5, chain.bounds.lower, chain.bounds.upper)
    for code in (z, *corners):
        assert exact(chain, code).within(full)

"""Bounds against searching every sign pattern: no error below the lower bound, none above the upper, and no gap."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unrelu
from tests.certification.brute_force import error_at, layers_of, optimum
from tests.certification.problems import problem
from unrelu.certification.certified_chain import chain_of
from unrelu.problem import Problem

CLOSED = ("OPTIMAL", "EXACT_FIT")


def check(number, norm, **options):
    """Certify a problem, compare with the reference, and return the certificate."""
    rng, net, y, name = problem(number)
    layers = layers_of(net)
    found = unrelu.certify(net, y, rng.standard_normal(net.latent_dim), norm=norm, **options)
    reached = error_at(layers, y, found.z, norm)
    lower, upper = optimum(layers, y, norm, start=reached, radius=found.radius)
    size = 1e-9 * np.abs(y).max(initial=1e-6)
    assert found.lower <= upper * (1 + 1e-7) + 1e-9, name
    assert found.upper == pytest.approx(reached, rel=1e-12, abs=1e-15), name
    assert found.upper >= lower * (1 - 1e-7) - size, name
    assert found.verify(net, y), (name, found.flaw(net, y))
    # History is about the same minimum, and never goes back.
    lows, highs = [m.lower for m in found.history], [m.upper for m in found.history]
    assert lows == sorted(lows), name
    assert highs == sorted(highs, reverse=True), name
    assert all(low <= found.lower * (1 + 1e-9) + 1e-15 for low in lows), (name, lows, found.lower)
    if found.status.name in CLOSED:
        assert found.upper <= upper * (1 + 1e-6) + 10 * size, name
        assert found.gap <= 1e-6 or found.upper <= max(1e-8 * np.abs(y).max(initial=0), 1e-14), name
    for share in (1.001, 2.0, 10.0):
        assert raised(found, net, y, share) <= reached * (1 + 1e-12), name
    return found


def raised(found, net, y, share):
    """What the leaves' multipliers prove of codes with errors up to ``share`` times the level.

    A proof's bound is never above its level, which is just below the error of a known code; here there is room for a
    bound to be too high.
    """
    stated = Problem.build(net, y, scale="none")
    chain = chain_of(net, stated.operator, stated.y[0], found.norm)
    proof = found.proof and replace(found.proof, level=share * found.proof.level)
    if proof is None or np.abs(found.z).max() > proof.radius(chain):
        return 0.0
    assert proof.flaw(chain) is None
    return proof.lower(chain)


@pytest.mark.parametrize("chunk", [*range(2), *(pytest.param(i, marks=pytest.mark.long) for i in range(2, 20))])
def test_five_hundred_networks(chunk):
    """Of every kind; each with both norms. Fifty of them are not long."""
    left = set()
    for number, norm in itertools.product(range(25 * chunk, 25 * (chunk + 1)), ("linf", "l1")):
        if check(number, norm).status.name not in CLOSED:
            left.add((number, norm))
    assert not left


@settings(max_examples=10)
@given(st.integers(1000, 2**31), st.sampled_from(["linf", "l1"]), st.integers(1, 12))
def test_bounds_are_valid_wherever_the_search_stops(number, norm, nodes):
    found = check(number, norm, max_nodes=nodes)
    assert found.nodes <= nodes + 2

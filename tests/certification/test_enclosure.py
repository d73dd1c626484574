"""The box of all codes that explain an observation: the true one is always in it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import unrelu
from tests.certification.brute_force import Brute, layers_of
from tests.certification.problems import WEIGHTS, small_network
from tests.support import random_network
from unrelu.certification.certified_chain import chain_of
from unrelu.certification.certifying import enclosure
from unrelu.certification.node_program import Limits
from unrelu.certification.proof import ProofStatus
from unrelu.measurements import read_operator
from unrelu.problem import Problem

LEVELS = (1e-12, 1e-6, 0.01, 0.1, 1.0, 30.0)


def operator_of(rng, kind, n):
    """Nothing, a mask that hides a third, rows of the identity, or a matrix that mixes outputs."""
    if kind == "mask":
        return (rng.random(n) < 0.7) | (np.arange(n) == 0)
    if kind == "selection":
        return np.eye(n)[rng.permutation(n)[: max(1, n // 2)]]
    return rng.standard_normal((max(1, n - 1), n)) if kind == "matrix" else None


def observed_chain(net, y, operator, norm):
    problem = Problem.build(net, y, operator=operator, scale="none")
    return chain_of(net, problem.operator, problem.y[0], norm)


def observed(rng, net, kind, noise):
    """(operator, y, z): uniform noise, of which a part is at its very end."""
    z = 10.0 ** rng.uniform(-1, 1) * rng.standard_normal(net.latent_dim)
    x = np.asarray(net(z)).ravel()
    operator = operator_of(rng, kind, len(x))
    shape = net.output_shape if operator is None or operator.ndim == 1 else operator.shape[:1]
    measured = read_operator(operator, net.output_shape, shape)
    clean = measured.values(x[None])[0]
    error = np.where(
        rng.random(len(clean)) < 0.3, rng.choice([-noise, noise], len(clean)), rng.uniform(-noise, noise, len(clean))
    )
    return operator, clean + error, z


def contained(net, y, operator, eps, z, where):
    """Assert that the box of a proof holds z; returns whether it says something of every coordinate."""
    chain = observed_chain(net, y, operator, "linf")
    proof = enclosure(chain, eps, Limits())
    box = proof.box(chain)
    if np.abs(z).max() > proof.radius(chain):
        return False
    assert (box[:, 0] <= z).all(), (where, box, z)
    assert (z <= box[:, 1]).all(), (where, box, z)
    return bool(np.isfinite(box).all() and (box[:, 1] - box[:, 0] < 1e3).all())


@pytest.mark.parametrize("chunk", [*range(3), *(pytest.param(i, marks=pytest.mark.long) for i in range(3, 10))])
def test_the_true_code_is_in_the_box(chunk):
    """190 trials on small networks of every kind, with every form of measurement and noise from tiny to huge."""
    told = 0
    for trial in range(190 * chunk, 190 * (chunk + 1)):
        rng = np.random.default_rng(10_000 + trial)
        net = small_network(rng, WEIGHTS[trial // 2 % 5])
        if trial % 2:
            net = random_network((int(rng.integers(1, 4)), 6, 10), seed=trial, bias=trial % 4 == 1)
        noise = LEVELS[trial // 6 % len(LEVELS)]
        kind = ("all", "mask", "selection", "matrix")[trial // 3 % 4]
        operator, y, z = observed(rng, net, kind, noise)
        # What is stated is the level itself; y - G(z) may be off it by the rounding of the addition.
        eps = max(noise, noise + 4e-16 * float(np.abs(y).max(initial=0.0)))
        told += contained(net, y, operator, eps, z, (trial, kind, noise))
    assert told > 40


def test_the_front_door_gives_the_box_and_a_proof_of_it():
    net = random_network((2, 5, 9), seed=1, bias=True)
    for trial in range(12):
        rng = np.random.default_rng(trial)
        operator, y, z = observed(rng, net, ("all", "mask", "selection", "matrix")[trial % 4], 0.1)
        found = unrelu.certify(net, y, z, operator=operator, noise="uniform:0.1", norm=("linf", "l1")[trial % 2])
        assert found.verify(net, y, operator), found.flaw(net, y, operator)
        assert found.eps == 0.1
        assert ((found.box[:, 0] <= z) & (z <= found.box[:, 1])).all()
        assert found.status is not ProofStatus.OUT_OF_RANGE
    assert unrelu.certify(net, y, z, operator=operator, noise="uniform:0.1", box=False).box is None
    assert unrelu.certify(net, y, z, operator=operator, noise="gaussian:0.1").box is None


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_out_of_range_is_said_only_where_no_code_explains_the_observation(norm):
    """The sum of errors is above eps where no single one is."""
    net = random_network((2, 5, 9), seed=1, bias=True)
    z = np.array([0.4, -0.7])
    y = np.asarray(net(z)).ravel() + 0.1 * np.array([1, -1] * 4 + [1])
    inside = unrelu.certify(net, y, z, noise="uniform:0.1", norm=norm)
    assert inside.status is not ProofStatus.OUT_OF_RANGE
    assert ((inside.box[:, 0] <= z) & (z <= inside.box[:, 1])).all()
    without = unrelu.certify(net, y, z, noise="uniform:0.1", norm=norm, box=False)
    assert without.status is not ProofStatus.OUT_OF_RANGE
    outside = unrelu.certify(net, y - 5, z, noise="uniform:0.1", norm=norm)
    assert outside.status is ProofStatus.OUT_OF_RANGE
    assert (outside.box == [math.inf, -math.inf]).all()
    assert outside.verify(net, y - 5)
    assert "no code explains" in outside.message


def extremes(net, y, eps, radius):
    """The smallest and largest z_i with F(z) <= eps, (k, 2), by a program for each pattern; (inf, -inf) if none."""
    search = Brute(layers_of(net), y, "linf", (-radius, radius))
    search.bounds[-1] = 0.0, eps
    ends = np.tile([math.inf, -math.inf], (search.k, 1))
    patterns = list(leaves(search, {}))
    for coordinate in range(search.k):
        for end, sign in ((0, 1.0), (1, -1.0)):
            cost = sign * np.eye(1, len(search.cost), coordinate)[0]
            points = [point for signs in patterns if (point := search.solve(signs, cost)) is not None]
            ends[coordinate, end] = sign * min([value for value, _ in points], default=math.inf)
    return ends


def leaves(search, signs):
    """The patterns of all neurons, outputs too, for which the constraints can be met."""
    if search.solve(signs) is None:
        return
    undecided = [i for i in range(len(search.slopes)) if search.slopes[i] < 1 and i not in signs]
    if not undecided:
        yield signs
        return
    for sign in (1, -1):
        yield from leaves(search, {**signs, undecided[0]: sign})


def test_the_box_holds_the_extreme_codes():
    """Of the set of codes with F(z) <= eps on tiny networks, found for each sign pattern; empty where that is empty."""
    empty = full = 0
    for trial in range(30):
        rng = np.random.default_rng(trial)
        net = random_network((2, 4, 5), ("relu", "leaky_relu")[trial % 2], seed=trial, bias=True)
        y = np.asarray(net(rng.standard_normal(2))).ravel() + rng.uniform(-0.4, 0.4, 5) * (1 + 3 * (trial % 3 == 0))
        chain = observed_chain(net, y, None, "linf")
        proof = enclosure(chain, 0.3, Limits())
        box, ends = proof.box(chain), extremes(net, y, 0.3, proof.regions(chain).full.radius)
        room = 1e-7 * (1 + np.abs(np.where(np.isfinite(ends), ends, 0)))
        assert (box[:, 0] <= ends[:, 0] + room[:, 0]).all(), trial
        assert (box[:, 1] >= ends[:, 1] - room[:, 1]).all(), trial
        shut = bool((box[:, 0] > box[:, 1]).any())
        assert not shut or (ends[:, 0] > ends[:, 1]).all()
        empty += shut
        full += bool(np.isfinite(ends).all())
    assert empty >= 3
    assert full >= 7


def test_a_limit_leaves_a_wider_box_that_is_proved():
    net = random_network((3, 12, 20), seed=2, bias=True)
    rng = np.random.default_rng(0)
    _, y, z = observed(rng, net, "all", 0.05)
    chain = observed_chain(net, y, None, "linf")
    sharp = enclosure(chain, 0.05, Limits()).box(chain)
    for limits in (Limits(end=0.0), Limits(nodes=1), Limits(stop=lambda nodes: True)):
        box = enclosure(chain, 0.05, limits).box(chain)
        assert ((box[:, 0] <= sharp[:, 0] + 1e-9) & (box[:, 1] >= sharp[:, 1] - 1e-9)).all()
        assert ((box[:, 0] <= z) & (z <= box[:, 1])).all()

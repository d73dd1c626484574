"""The front door: results, batches, measurements, limits, and what is refused."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

import unrelu
from tests.certification.brute_force import error_at, layers_of, optimum
from tests.support import random_network
from unrelu import zoo
from unrelu.certification.proof import ProofStatus
from unrelu.errors import InputError, OptionError, UnsupportedModelError

NET = random_network((3, 7, 10), seed=2, bias=True)
RNG = np.random.default_rng(0)
Y = np.maximum(np.asarray(NET(RNG.standard_normal((4, 3)))) + RNG.uniform(-0.2, 0.2, (4, 10)), 0)


def test_a_result_gives_codes_operator_and_noise():
    mask = np.ones(10, dtype=bool)
    mask[[2, 5]] = False
    result = unrelu.invert(NET, Y, operator=mask, noise="uniform:0.2")
    found = unrelu.certify(NET, Y, result)
    assert len(found) == 4
    for one, y, z in zip(found, Y, result.z, strict=True):
        assert one.eps == 0.2
        assert one.norm == "linf"
        assert one.verify(NET, y, mask)
        assert one.upper <= np.abs(y - np.asarray(NET(z)).ravel())[mask].max() * (1 + 1e-12)
        assert one.status is ProofStatus.OPTIMAL


def test_without_a_result_y_is_inverted():
    found, again = (unrelu.certify(NET, Y[0], seed=3) for _ in range(2))
    assert found.status is ProofStatus.OPTIMAL
    assert (found.lower, found.upper) == (again.lower, again.upper)
    from_zero = unrelu.certify(NET, Y[0], np.zeros(3))
    assert found.upper == pytest.approx(from_zero.upper, rel=2e-6)


def test_codes_of_every_shape():
    shared = unrelu.certify(NET, Y[:1], np.zeros(3))
    assert isinstance(shared, unrelu.Certificates)
    single = unrelu.certify(NET, Y[0], np.zeros((1, 3)))
    assert single.upper == shared[0].upper
    lost = unrelu.certify(NET, Y, np.full((4, 3), math.nan))
    assert all(one.status is ProofStatus.OPTIMAL for one in lost)
    half = np.zeros((4, 3))
    half[1, 1] = math.inf
    assert unrelu.certify(NET, Y, half)[1].verify(NET, Y[1])


def test_a_batch_is_one_object():
    masks = np.random.default_rng(3).random(Y.shape) < 0.8
    found = unrelu.certify(NET, Y, np.zeros((4, 3)), operator=masks)
    assert len(found) == 4
    for name in ("lower", "upper", "gap", "status"):
        assert getattr(found, name).tolist() == [getattr(c, name) for c in found]
    assert found[-1] is found[3]
    assert [c is d for c, d in zip(found[1:3], list(found)[1:3], strict=True)] == [True, True]
    best = found[found.lower == found.lower.max()]
    assert isinstance(best, unrelu.Certificates)
    assert best.lower.tolist() == [found.lower.max()]
    assert len(found[found.lower < 0]) == 0
    assert found[[2, 0]][1] is found[0]
    assert repr(found) == f"<Certificates: 4, 4 {found[0].status}>"
    assert found.verify(NET, Y, masks)
    assert found[:1].verify(NET, Y[:1], masks[0])
    assert not found.verify(NET, Y[::-1], masks)
    with pytest.raises(InputError, match=r"y has shape \(3, 10\); pass the 4 observations that were certified"):
        found.verify(NET, Y[:3], masks[:3])
    with pytest.raises(IndexError):
        found[4]


MEASUREMENTS = {
    "mask": np.arange(10) % 3 > 0,
    "selection": np.eye(10)[[7, 2, 0, 4, 9]],
    "matrix": np.random.default_rng(1).standard_normal((8, 10)),
}


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("kind", MEASUREMENTS)
def test_measurements_agree_with_the_reference(kind, norm):
    """A mask and a selection leave outputs out; a matrix is one more layer."""
    operator = MEASUREMENTS[kind]
    layers = layers_of(NET)
    if kind == "matrix":
        y = Y[0] @ operator.T
        layers = [*layers, (operator, np.zeros(len(operator)), np.ones(len(operator)))]
        seen = y
    else:
        picked = np.flatnonzero(operator) if kind == "mask" else operator.argmax(axis=1)
        weight, bias, slope = layers[-1]
        layers[-1] = weight[picked], bias[picked], slope[picked]
        y, seen = (np.where(operator, Y[0], math.nan) if kind == "mask" else Y[0][picked]), Y[0][picked]
    found = unrelu.certify(NET, y, np.zeros(3), operator=operator, norm=norm)
    assert found.verify(NET, y, operator), found.flaw(NET, y, operator)
    assert found.status is ProofStatus.OPTIMAL
    lower, upper = optimum(layers, seen, norm, start=error_at(layers, seen, found.z, norm), radius=found.radius)
    assert found.lower <= upper * (1 + 1e-7)
    assert found.upper >= lower * (1 - 1e-7)
    assert found.upper <= upper * (1 + 1e-6)


def leaky():
    """An observation of a network whose proof takes far more than a second."""
    net = zoo.load("mnist-leaky")
    rng = np.random.default_rng(0)
    return net, np.asarray(net(rng.standard_normal(net.latent_dim))).ravel() + rng.uniform(-0.3, 0.3, 784)


def test_the_time_limit_is_honoured_with_valid_bounds():
    net, y = leaky()
    start = unrelu.invert(net, y, "lm").z
    unrelu.certify(net, y, start, time_limit=0.01)
    begin = time.perf_counter()
    found = unrelu.certify(net, y, start, noise="uniform:0.3", time_limit=1.0)
    assert time.perf_counter() - begin < 60  # without the limit it takes many minutes
    assert found.status in (ProofStatus.TIME_LIMIT, ProofStatus.OPTIMAL)
    assert found.verify(net, y)
    assert 0 <= found.lower <= found.upper
    assert found.lower <= np.abs(y - np.asarray(net(start)).ravel()).max()


def hard():
    """Where a search has a few hundred nodes, and its smallest error."""
    net = random_network((4, 12, 14), seed=5, bias=True)
    y = 2 * np.random.default_rng(4).standard_normal(14)
    best = unrelu.certify(net, y, np.zeros(4), norm="l1")
    assert best.nodes > 60
    return net, y, best


def test_nodes_are_limited_and_bounds_grow_with_them():
    net, y, best = hard()
    before = -1.0
    for nodes in (1, 5, 20, 50):
        found = unrelu.certify(net, y, np.zeros(4), norm="l1", max_nodes=nodes)
        assert found.status is ProofStatus.NODE_LIMIT
        assert "raise max_nodes" in found.message
        assert found.nodes <= nodes + 2
        assert found.verify(net, y)
        assert before <= found.lower <= best.upper
        assert found.upper >= best.lower
        before = found.lower


def test_a_callback_stops_and_sees_the_nodes():
    net, y, best = hard()
    seen = []

    def stop(progress):
        seen.append(progress)
        return progress.nit >= 7

    found = unrelu.certify(net, y, np.zeros(4), norm="l1", callback=stop)
    # Asked between programs too, where the nodes are as many as before.
    nodes = [p.nit for p in seen]
    assert nodes == sorted(nodes)
    assert nodes[-1] >= 7
    assert max(nodes[:-1]) < 7
    assert {(p.method, p.done, p.total) for p in seen} == {("certify", 0, 1)}
    assert seen[0].z.shape == (1, 4)
    assert found.status is ProofStatus.STOPPED
    assert found.verify(net, y)
    assert found.lower <= best.upper


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": "l2"}, InputError, r"norm='l2': certificates bound the largest error, 'linf', or the sum"),
        ({"max_nodes": 0}, OptionError, r"max_nodes=0 must be a whole number of at least 1"),
        ({"max_nodes": 2.5}, OptionError, r"max_nodes=2.5"),
        ({"max_nodes": True}, OptionError, r"max_nodes=True"),
        ({"noise": "uniform:-1"}, InputError, r"uniform:-1"),
        ({"operator": np.ones(9, dtype=bool)}, InputError, r"9"),
        ({"result": np.zeros(4)}, InputError, r"result has shape \(4,\); this network takes codes of shape \(3,\)"),
        ({"result": np.zeros((2, 3))}, InputError, r"result has 2 codes, y 1 observation: pass \(1, 3\)"),
        ({"time_limit": -1.0}, ValueError, r"time_limit"),
    ],
)
def test_options_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        unrelu.certify(NET, Y[0], **options)


@pytest.mark.parametrize(
    ("activation", "reason"), [("sigmoid", "layer 2 ends in sigmoid"), ("tanh", "layer 2 ends in tanh")]
)
def test_networks_with_curved_layers(activation, reason):
    net = random_network((3, 7, 10), seed=2, last=activation)
    with pytest.raises(UnsupportedModelError, match=reason):
        unrelu.certify(net, np.full(10, 0.5))
    certificate = unrelu.certify(NET, Y[0], np.zeros(3))
    with pytest.raises(UnsupportedModelError, match=reason):
        certificate.verify(net, Y[0])


def test_a_network_that_cannot_be_certified_is_not_inverted_first(monkeypatch):
    monkeypatch.setattr("unrelu._certify.invert", lambda *args, **options: pytest.fail("it was inverted"))
    with pytest.raises(UnsupportedModelError, match="layer 2 ends in sigmoid"):
        unrelu.certify(random_network((3, 7, 10), seed=2, last="sigmoid"), np.full(10, 0.5))

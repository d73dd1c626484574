"""A certificate with any number changed is refused: by its digest, and by the mathematics where that is recomputed."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import unrelu
from tests.certification.problems import problem
from tests.support import random_network
from unrelu.certification.certificate import Certificate, table_of
from unrelu.certification.certified_chain import chain_of
from unrelu.certification.proof import ProofStatus
from unrelu.errors import InputError
from unrelu.measurements import read_operator
from unrelu.runtime.archives import digest

NET = random_network((3, 8, 12), seed=1, bias=True)
RNG = np.random.default_rng(0)
Y = np.maximum(np.asarray(NET(RNG.standard_normal(3))).ravel() + RNG.uniform(-0.3, 0.3, 12), 0)


@cache
def certificate(**options):
    """Of Y, made once."""
    return unrelu.certify(NET, Y, **options)


def closed():
    return certificate(noise="uniform:0.3")


def of_sums():
    return certificate(norm="l1")


def stopped():
    return certificate(norm="l1", max_nodes=3)


def test_the_certificates_have_all_parts():
    """Against tests of parts that are empty."""
    assert closed().status is ProofStatus.OPTIMAL
    assert len(closed().proof.parent) >= 2
    assert len(closed().proof.pointer) == 1 + 1 + len(closed().proof.closed)  # a lemma, and the leaves
    assert len(closed().proof.balance)
    assert closed().box_proof.open_leaf >= 0
    assert np.isfinite(closed().box).all()
    assert math.isinf(closed().radius)
    assert len(of_sums().proof.closed) >= 3
    assert stopped().status is ProofStatus.NODE_LIMIT
    for found in (closed(), of_sums(), stopped()):
        assert found.flaw(NET, Y) is None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("certificates") / "c.npz"
    closed().save(path)
    return path


def test_what_was_saved_verifies(saved):
    loaded = Certificate.load(saved)
    assert loaded.flaw(NET, Y) is None
    for name, value in table_of(closed()).items():
        np.testing.assert_array_equal(table_of(loaded)[name], value)
    assert loaded.history == closed().history
    assert loaded.message == closed().message


def flawed(found, **changes):
    return replace(found, **changes).flaw(NET, Y)


def with_values(proof, change, part=slice(None)):
    """The proof with the values of its multipliers changed; ``part`` says which."""
    value = proof.value.copy()
    change(value[part])
    return value


@pytest.mark.parametrize("found", [closed, of_sums, stopped])
def test_a_higher_bound_does_not_follow(found):
    found = found()
    for share in (1e-12, 1e-6, 1.0):
        assert "prove a lower bound" in flawed(found, lower=found.lower * (1 + share) + 1e-15)
    assert "lower bound" in flawed(found, lower=math.nan)
    assert "lower bound" in flawed(found, lower=math.inf)
    if found.lower > 0:
        assert "prove a lower bound of 0," in flawed(found, proof=None)


def test_a_smaller_box_does_not_follow():
    for coordinate in range(3):
        for end, sign in ((0, 1), (1, -1)):
            box = closed().box.copy()
            box[coordinate, end] += sign * 1e-9 * (1 + abs(box[coordinate, end]))
            assert "another box" in flawed(closed(), box=box)
    assert "another box" in flawed(closed(), box=np.tile([math.inf, -math.inf], (3, 1)))
    assert "another box" in flawed(closed(), box=closed().box[:2])
    assert "another box" in flawed(closed(), box=closed().box * math.nan)
    assert "box" in flawed(closed(), box_proof=None)


def test_a_status_that_the_bounds_do_not_show():
    assert "OPTIMAL" in flawed(stopped(), status=ProofStatus.OPTIMAL)
    assert "EXACT_FIT" in flawed(closed(), status=ProofStatus.EXACT_FIT)
    assert "OUT_OF_RANGE" in flawed(closed(), status=ProofStatus.OUT_OF_RANGE)


def without_row(proof, place):
    """The pointer, index and value of a proof without one of its rows."""
    start, end = proof.pointer[place : place + 2]
    pointer = np.delete(proof.pointer, place + 1)
    pointer[place + 1 :] -= end - start
    kept = np.r_[0:start, end : len(proof.index)]
    return {"pointer": pointer, "index": proof.index[kept], "value": proof.value[kept]}


def changes_of_proofs():
    """Names and changes of a proof that must not pass."""
    proof = closed().proof
    last = len(proof.parent) - 1
    other, twice, forward = proof.neuron.copy(), proof.parent.copy(), proof.parent.copy()
    other[last] = (other[last] + 1) % 8
    twice[last] = 0
    forward[0] = 1
    lemma, leaves = slice(*proof.pointer[:2]), slice(proof.pointer[1], None)
    return {
        "level raised": {"level": proof.level * 2},
        "level infinite": {"level": math.inf},
        "level without a number": {"level": math.nan},
        "level below 0": {"level": -proof.level},
        "row of a leaf dropped": without_row(proof, 1),
        "rows dropped": {"pointer": proof.pointer[:2], "index": proof.index[lemma], "value": proof.value[lemma]},
        "no rows": {"pointer": proof.pointer[:0]},
        "leaf named open": {"open_leaf": int(proof.closed[0])},
        "inner node open": {"open_leaf": 0},
        "open leaf that does not exist": {"open_leaf": 10**6},
        "split of another neuron": {"neuron": other},
        "split of one node twice": {"parent": twice},
        "split of a node that comes later": {"parent": forward},
        "split of a node before the root": {"parent": np.full_like(proof.parent, -1)},
        "splits dropped": {"parent": proof.parent[:0], "neuron": proof.neuron[:0]},
        "split without a neuron": {"neuron": proof.neuron[:-1]},
        "decision of no neuron": {"neuron": proof.neuron + 10**6},
        "decision of a negative neuron": {"neuron": -1 - proof.neuron},
        "lemma of another length": {"balance": proof.balance[1:]},
        "lemmas dropped": {**without_row(proof, 0), "balance": proof.balance[:0]},
        "balance of no number": {"balance": proof.balance * math.nan},
        "index out of range": {"index": proof.index + 10**6},
        "negative index": {"index": proof.index - 10**6},
        "pointer turned": {"pointer": proof.pointer[::-1].copy()},
        "pointer beyond the end": {"pointer": proof.pointer + 1},
        "values dropped": {"value": proof.value[:-1]},
        "shares doubled": {"value": with_values(proof, lambda value: value.__imul__(2), leaves)},
        "signs of multipliers": {"value": with_values(proof, lambda value: value.__imul__(-1), leaves)},
        "no number": {"value": with_values(proof, lambda value: value.__setitem__(0, math.nan), leaves)},
        "huge": {"value": with_values(proof, lambda value: value.fill(1.7e308), leaves)},
        "lemmas' numbers": {"value": with_values(proof, lambda value: value.fill(1.7e308), lemma)},
    }


def test_a_proof_changed_proves_nothing_or_less():
    """Either a flaw, or numbers from which a valid bound follows: never a bound above the best error."""
    chain = chain_of(NET, read_operator(None, (12,), (12,)), Y, "linf")
    for name, change in changes_of_proofs().items():
        proof = replace(closed().proof, **change)
        assert flawed(closed(), proof=proof) is not None, name
        if proof.flaw(chain) is None:
            assert proof.lower(chain) <= closed().upper, name


def test_other_multipliers_never_prove_more_than_is_true():
    """Whatever stands in the rows, what follows is at most the best error, and the box holds the best code."""
    rng, chain = np.random.default_rng(0), chain_of(NET, read_operator(None, (12,), (12,)), Y, "linf")
    for size in 10.0 ** rng.uniform(-12, 3, 60):

        def spoil(value, size=size):
            value *= 1 + size * rng.standard_normal(len(value))

        proof, inside = (replace(one, value=with_values(one, spoil)) for one in (closed().proof, closed().box_proof))
        assert proof.flaw(chain) is None
        assert proof.lower(chain) <= closed().upper
        box = inside.box(chain)
        assert (box[:, 0] <= closed().z).all()
        assert (closed().z <= box[:, 1]).all()


def test_a_radius_that_was_not_proved():
    """The first layer has rank 1 of 4: along three directions nothing bounds the code."""
    _, net, y, _ = problem(9)
    found = unrelu.certify(net, y, norm="linf", noise="uniform:1", seed=0)
    assert found.radius == 1e4
    assert "among codes" in found.message
    assert found.verify(net, y)
    for radius in (math.inf, 1e5, math.nan):
        assert "about codes up to" in replace(found, radius=radius).flaw(net, y)


def test_another_network_or_observation_does_not_verify():
    assert not closed().verify(random_network((3, 8, 12), seed=4, bias=True), Y)
    assert not closed().verify(random_network((3, 9, 12), seed=3, bias=True), Y)
    assert not closed().verify(random_network((3, 8, 12), "leaky_relu", seed=3, bias=True), Y)
    assert not closed().verify(NET, Y + 1e-6)
    assert not closed().verify(NET, Y[::-1].copy())
    errors = np.abs(Y - np.asarray(NET(closed().z)).ravel())
    assert not closed().verify(NET, Y + 1e-6 * (errors == errors.max()))


def test_another_operator_does_not_verify():
    mask = np.ones(12, dtype=bool)
    mask[3] = False
    found = unrelu.certify(NET, Y, operator=mask, seed=0)
    assert found.verify(NET, Y, mask)
    assert found.verify(NET, np.where(mask, Y, math.nan), mask)
    assert not found.verify(NET, Y)
    assert not found.verify(NET, Y, ~mask)
    assert not closed().verify(NET, Y, mask)
    assert not closed().verify(NET, Y, np.roll(np.eye(12), 1, axis=0))
    assert closed().verify(NET, Y, read_operator(None, (12,), (12,)))


@pytest.mark.parametrize(
    "wrong", ["x", np.zeros(0), np.zeros((2, 3)), True, math.nan, -1, 0.5, np.array([2**62])], ids=repr
)
def test_entries_of_other_types_are_refused_or_prove_no_more(saved, wrong, tmp_path):
    """With the digest of the changed values; a lower bound or an eps below those that were proved still follow."""
    with np.load(saved) as data:
        table, path = {name: data[name] for name in data.files}, tmp_path / "wrong.npz"
    for name in table.keys() - {"digest", "version", "history", "nodes", "seconds"}:
        changed = {**table, name: np.asarray(wrong)}
        np.savez(path, **{**changed, "digest": np.array(digest(changed))})
        try:
            found = Certificate.load(path)
        except InputError:
            continue
        if found.verify(NET, Y):
            assert 0 <= found.lower <= closed().upper, name
            assert found.upper == closed().upper, name
            assert 0 <= found.eps <= closed().eps, name
            assert found.status is closed().status, name


def test_files_that_are_no_certificates(saved, tmp_path):
    path, content = tmp_path / "damaged.npz", saved.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"PK\x03\x04"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=path.name):
            Certificate.load(path)
    with pytest.raises(InputError, match="does not exist"):
        Certificate.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"save a certificate as \.npz"):
        closed().save(tmp_path / "c.txt")

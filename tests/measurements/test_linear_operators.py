"""The last layer under a measurement: the layers that replace it give what was observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import sparse

import unrelu
from tests.support import random_network
from unrelu import measurements
from unrelu.measurements import read_operator
from unrelu.measurements.folding import FoldedChain, is_one_layer, observed_outputs
from unrelu.result.fingerprint import fingerprint

RNG = np.random.default_rng(5)
N, B = 9, 4
MASKS = RNG.random((B, N)) < 0.6
MIXING = RNG.standard_normal((5, N))
X = RNG.standard_normal((B, N))


@pytest.mark.parametrize("given", [None, MASKS[0], MASKS, np.eye(N)[[4, 1, 1]], sparse.csr_array(np.eye(N)[[7, 0]])])
def test_what_is_picked_is_what_was_observed(given):
    shape = (B, N) if given is None or given.dtype == bool else (B, given.shape[0])
    operator = read_operator(given, (N,), shape)
    shown = observed_outputs(operator, operator.values(X))
    assert operator.selects
    assert len(shown) == B
    for (rows, values), x in zip(shown, X, strict=True):
        np.testing.assert_array_equal(values, x[rows])
    assert (len({id(rows) for rows, _ in shown}) == 1) == (operator.count == 0)
    if operator.count:
        assert [len(values) for _, values in shown] == MASKS.sum(axis=1).tolist()


@pytest.mark.parametrize(
    "given",
    [MIXING, sparse.csr_array(MIXING), (lambda x: MIXING @ x, lambda r: MIXING.T @ r)],
    ids=["dense", "sparse", "code"],
)
def test_what_mixes_is_a_matrix_before_or_behind_the_activation(given):
    operator = read_operator(given, (N,), (B, 5))
    weight, bias = RNG.standard_normal((N, 3)), RNG.standard_normal(N)
    network = unrelu.from_arrays([weight], [bias], activation="identity")
    (layer,), _ = FoldedChain(network, operator, np.zeros((B, 5))).of(0)
    assert observed_outputs(operator, np.zeros((B, 5))) is None
    np.testing.assert_allclose(layer.matrix, MIXING @ weight, rtol=1e-12)
    np.testing.assert_allclose(layer.bias, MIXING @ bias, rtol=1e-12)
    np.testing.assert_array_equal(operator.matrix(), MIXING)
    assert not is_one_layer(random_network((3, N)), operator)
    assert is_one_layer(random_network((3, N), "identity"), operator)


class Sums(measurements.Operator):
    """Sums of neighbouring outputs, as a class of one's own."""

    def __init__(self, n):
        self.n, self.m, self.shape = n, n // 2, (n // 2,)

    def forward(self, x):
        return x.reshape(len(x), self.m, 2).sum(dim=2)

    def adjoint(self, r):
        return r.repeat_interleave(2, dim=1)


class Magnitudes(Sums):
    """One that is not linear."""

    linear = False

    def forward(self, x):
        return super().forward(x).square()

    def linearize(self, x, t):
        return self.forward(x), 2 * super().forward(x)[:, None, :] * t.reshape(*t.shape[:2], self.m, 2).sum(dim=3)


@pytest.mark.parametrize("size", [1.0, 1e-8])
def test_an_operator_of_ones_own_is_measured_in_other_units(size, tmp_path):
    network = unrelu.from_arrays([np.random.default_rng(0).normal(size=(20, 3)), size * np.eye(20)], biases=None)
    z = np.array([[0.5, -1.0, 0.7]])
    operator = Sums(20)
    y = operator.values(network(z))
    found = unrelu.invert(network, y, operator=operator)
    np.testing.assert_allclose(found.z, z, atol=1e-6)
    assert found.success.all()
    found.save(tmp_path / "result.npz")
    assert unrelu.load_result(tmp_path / "result.npz", network, operator=operator).success.all()
    magnitudes = Magnitudes(20)
    found = unrelu.invert(network, magnitudes.values(network(z)), "lm", operator=magnitudes, z0=z + 0.01)
    np.testing.assert_allclose(found.z, z, atol=1e-6)


@dataclass(frozen=True, eq=False)
class Applied(measurements.Operator):
    """A function of a user, as a dataclass."""

    function: Callable[[torch.Tensor], torch.Tensor]
    shape: tuple[int, ...] = (20,)

    def forward(self, x):
        return self.function(x)

    def adjoint(self, r):
        return self.function(r)


def test_the_fingerprint_of_a_class_of_ones_own_is_what_it_does():
    doubled, again, tripled = Applied(lambda x: 2 * x), Applied(lambda x: x + x), Applied(lambda x: 3 * x)
    assert fingerprint(doubled) == fingerprint(again) != fingerprint(tripled)

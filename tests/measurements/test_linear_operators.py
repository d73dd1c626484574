"""The last layer under a measurement: the layers that replace it give what was observed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tests.support import random_network
from unrelu.measurements import read_operator

RNG = np.random.default_rng(5)
N, B = 9, 4
MASKS = RNG.random((B, N)) < 0.6
MIXING = RNG.standard_normal((5, N))
X = RNG.standard_normal((B, N))


@pytest.mark.parametrize("given", [None, MASKS[0], MASKS, np.eye(N)[[4, 1, 1]], sparse.csr_array(np.eye(N)[[7, 0]])])
def test_what_is_picked_is_what_was_observed(given):
    shape = (B, N) if given is None or given.dtype == bool else (B, given.shape[0])
    operator = read_operator(given, (N,), shape)
    shown = operator.observed_outputs(operator.values(X))
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
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_what_mixes_is_a_matrix_before_or_behind_the_activation(given, form):
    operator = read_operator(given, (N,), (B, 5))
    weight, bias = RNG.standard_normal((N, 3)), RNG.standard_normal(N)
    matrix, constant = operator.folded(form(weight), bias)
    assert operator.observed_outputs(np.zeros((B, 5))) is None
    np.testing.assert_allclose(matrix, MIXING @ weight, rtol=1e-12)
    np.testing.assert_allclose(constant, MIXING @ bias, rtol=1e-12)
    np.testing.assert_array_equal(operator.matrix(), MIXING)
    assert not operator.is_layer_of(random_network((3, N)))
    assert operator.is_layer_of(random_network((3, N), "identity"))

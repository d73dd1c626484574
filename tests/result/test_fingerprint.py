"""Fingerprints: equal for what is equal, in any process, and different for any change."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import sparse

import unrelu
from unrelu.measurements import MatrixFreeOperator, read_operator
from unrelu.result.fingerprint import fingerprint

MATRIX = np.random.default_rng(1).standard_normal((5, 20))
DENSE = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]])
TWICE = sparse.coo_array(([1.0, 1.0, 1.0, 3.0], ([0, 0, 1, 1], [1, 1, 0, 2])), shape=(2, 3)).tocsr()


def code(forward, matrix):
    return MatrixFreeOperator(forward, lambda r: matrix.T @ r, 20, 5, (5,))


def read(matrix):
    return read_operator(matrix, (20,), (1, 5))


def test_networks_of_the_zoo_differ_and_keep_theirs_when_they_are_sent():
    found = set()
    for name in unrelu.zoo.names():
        network = unrelu.zoo.load(name)
        assert fingerprint(pickle.loads(pickle.dumps(network))) == fingerprint(network)
        found |= {fingerprint(network), fingerprint(network.to(torch.float32))}
    assert len(found) == 2 * len(unrelu.zoo.names())


def test_every_weight_and_activation_counts():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((8, 3)), rng.standard_normal((20, 8))]
    before = fingerprint(unrelu.from_arrays(weights))
    assert fingerprint(unrelu.from_arrays([w.copy() for w in weights])) == before
    for i, place in ((0, (0, 0)), (1, (19, 7))):
        changed = [w.copy() for w in weights]
        changed[i][place] = np.nextafter(changed[i][place], 9)
        assert fingerprint(unrelu.from_arrays(changed)) != before
    assert fingerprint(unrelu.from_arrays(weights, activation="leaky_relu:0.1")) != before
    assert fingerprint(unrelu.from_arrays(weights, [np.zeros(8), np.zeros(20)])) != before


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, z):
        return z + torch.relu(self.inner(z))


def test_modules_count_with_their_parameters():
    torch.manual_seed(0)
    module = Residual()
    before = fingerprint(unrelu.from_torch(module, latent_shape=(3,)))
    assert fingerprint(unrelu.from_torch(copy.deepcopy(module), latent_shape=(3,))) == before
    with torch.no_grad():
        module.inner.bias[1] += 1e-3
    assert fingerprint(unrelu.from_torch(module, latent_shape=(3,))) != before


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (read(MATRIX), read(MATRIX.copy()), read(2 * MATRIX)),
        (code(lambda x: MATRIX @ x, MATRIX), code(lambda x: (MATRIX * 1.0) @ x, MATRIX),
         code(lambda x: MATRIX[::-1] @ x, MATRIX[::-1])),
        (sparse.csr_array(DENSE), TWICE, sparse.csr_array(2 * DENSE)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}),
        *((one, copy.deepcopy(one), other) for one, other in (
            (1, 1.0), (True, 1), ("1", 1), (None, 0), ([1, [2]], [[1], 2]), ({"a": 1}, {"b": 1}),
            (np.zeros(4), np.zeros((2, 2))), (np.zeros(2), np.zeros(2, np.float32)), (np.float64(1), np.float32(1)),
            (["ab", "c"], ["a", "bc"]),
        )),
    ],
)  # fmt: skip
def test_content_counts_with_its_type_and_shape_however_it_is_stored(one, same, other):
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


def test_what_has_no_content_is_told():
    with pytest.raises(TypeError, match="a function has no fingerprint"):
        fingerprint(lambda: None)

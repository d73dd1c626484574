"""Measurements: every form a user may pass, their adjoints, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pylops
import pytest
import scipy.sparse.linalg
import torch
from scipy import sparse

import unrelu
from unrelu.errors import InputError
from unrelu.measurements import IdentityOperator, MatrixFreeOperator, MatrixOperator, read_operator

IMAGE = (1, 4, 6)
N = 24
RNG = np.random.default_rng(0)
A = RNG.standard_normal((7, N))


class Physics:
    """What deepinv calls a LinearPhysics: A and A_adjoint on tensors with a batch axis."""

    def A(self, x):
        return x[..., ::2, :].float()

    def A_adjoint(self, r):
        x = torch.zeros(len(r), *IMAGE)
        x[..., ::2, :] = r
        return x


class Precise(torch.nn.Module):
    """A physics with a matrix of its own, which takes images of that type only."""

    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(A).to(dtype))

    def A(self, x):
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, r):
        return (r @ self.matrix).reshape(-1, *IMAGE)


def linear_operator():
    return scipy.sparse.linalg.LinearOperator((7, N), matvec=lambda x: A @ x, rmatvec=lambda r: A.T @ r)


FORMS = {
    "nothing": (None, IMAGE, "identity"),
    "mask": (RNG.random(IMAGE) < 0.5, IMAGE, "mask"),
    "mask_of_numbers": ((RNG.random(IMAGE) < 0.5).astype(float), IMAGE, "mask"),
    "flat_mask": (RNG.random(N) < 0.5, (5, N), "mask"),
    "masks": (RNG.random((5, *IMAGE)) < 0.5, (5, *IMAGE), "mask"),
    "flat_masks": ((RNG.random((5, N)) < 0.5) * 1.0, (5, N), "mask"),
    "matrix": (A, (7,), "matrix"),
    "matrix_of_as_many_rows_as_observations": (A, (7, 7), "matrix"),
    "square_matrix": (RNG.standard_normal((N, N)), (N, N), "matrix"),
    "tensor": (torch.from_numpy(A), (7,), "matrix"),
    "sparse": (sparse.random_array((9, N), density=0.2, rng=0), (9,), "matrix"),
    "sparse_coo_matrix": (sparse.coo_matrix(A), (7,), "matrix"),
    "scipy_operator": (linear_operator(), (7,), "matrix"),
    "pair": ((lambda x: A @ x, lambda r: A.T @ r), (7,), "matrix"),
    "wide_pair": ((lambda x: np.tile(x, 2), lambda r: r[:N] + r[N:]), (2 * N,), "matrix"),
    "physics": (Physics(), (1, 2, 6), "matrix"),
    "physics_of_float32": (Precise(torch.float32), (5, 7), "matrix"),
    "physics_of_float64": (Precise(torch.float64), (5, 7), "matrix"),
    "pylops": (pylops.MatrixMult(A), (7,), "matrix"),
}
forms = pytest.mark.parametrize("form", FORMS)


def read(form):
    given, y_shape, kind = FORMS[form]
    operator = read_operator(given, IMAGE, y_shape)
    assert operator.kind == kind
    return operator


def large(kind):
    """The operators that are too large to write out."""
    csr = sparse.random_array((30, N), density=0.3, rng=1).tocsr()
    if kind == "sparse":
        return MatrixOperator.of(sparse.csr_array(csr), (30,))
    return MatrixFreeOperator(lambda x: csr @ x, lambda r: csr.T @ r, N, 30, (30,))


@forms
def test_the_adjoint_is_one(form):
    check_adjoint(read(form), 3)


@pytest.mark.parametrize("kind", ["sparse", "mapped"])
def test_the_adjoint_of_large_ones_is_one(kind):
    check_adjoint(large(kind), 3)


def check_adjoint(operator, seed):
    rng = np.random.default_rng(seed)
    x, r = torch.from_numpy(rng.standard_normal((5, N))), torch.from_numpy(rng.standard_normal((5, operator.m)))
    ax, atr = operator.forward(x), operator.adjoint(r)
    assert ax.shape == (5, operator.m)
    torch.testing.assert_close((ax * r).sum(dim=1), (x * atr).sum(dim=1), rtol=1e-9, atol=1e-9)


@forms
def test_directions_derivatives_and_single_precision_agree_with_forward(form):
    check_forms(read(form))


@pytest.mark.parametrize("kind", ["sparse", "mapped"])
def test_large_ones_agree_with_themselves(kind):
    check_forms(large(kind))


def check_forms(operator):
    x = torch.from_numpy(RNG.standard_normal((5, N))).requires_grad_()
    t = torch.from_numpy(RNG.standard_normal((5, 3, N)))
    each = torch.stack([operator.forward(t[:, i]) for i in range(3)], dim=1)
    torch.testing.assert_close(operator.tangents(t), each)
    r = torch.from_numpy(RNG.standard_normal((5, operator.m)))
    (gradient,) = torch.autograd.grad((operator.forward(x) * r).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(r))
    single = operator.to(torch.float32, torch.device("cpu"))
    torch.testing.assert_close(
        single.forward(x.detach().float()).double(), operator.forward(x).detach(), rtol=1e-5, atol=1e-5
    )
    some = operator.take(np.array([3, 0]))
    torch.testing.assert_close(some.forward(x.detach()[[3, 0]]), operator.forward(x).detach()[[3, 0]])


def test_rows_with_a_single_one_are_a_selection():
    picks = np.array([3, 3, 20])
    rows = np.eye(N)[picks]
    np.testing.assert_array_equal(read_operator(rows, IMAGE, (3,)).selection(), picks)
    np.testing.assert_array_equal(read_operator(sparse.csr_array(rows), IMAGE, (3,)).selection(), picks)
    assert read_operator(2 * rows, IMAGE, (3,)).selection() is None
    assert read("matrix").selection() is None
    assert read("mask").selection() == slice(None)


@pytest.mark.parametrize(
    ("given", "y_shape", "message"),
    [
        (np.ones((3, 5)), (3,), r"has shape \(3, 5\); pass a 0/1 mask of shape \(1, 4, 6\).*or a matrix \(m, 24\)"),
        (np.full(IMAGE, 0.5), IMAGE, "read as a mask, but has entries like 0.5; a mask is made of 0 and 1"),
        (np.full(IMAGE, np.nan), IMAGE, "entries like nan"),
        (np.zeros(IMAGE), IMAGE, "the mask is 0 everywhere"),
        (np.eye(2, N) > 0, (2, N), None),
        (np.vstack([np.ones(N), np.zeros(N)]) > 0, (2, N), "the mask of observation 1 is 0 everywhere"),
        (np.full((3, N), np.inf), (3,), "operator= has 72 entries that are not finite"),
        (sparse.csr_array(np.full((3, N), np.nan)), (3,), "operator= has 72 entries that are not finite"),
        (sparse.csr_array(np.ones((3, 5))), (3,), r"is a matrix of shape \(3, 5\); the network's output has 24"),
        (scipy.sparse.linalg.aslinearoperator(np.ones((3, 5))), (3,), r"of shape \(3, 5\); the network's output"),
        (lambda x: x @ np.ones((3, 2)), IMAGE, r"operator= is a function that cannot .* pair of functions"),
        ((lambda x: A @ x, lambda r: A[::-1].T @ r), (7,), "fails the dot test: <A x, r> = .* the adjoint of the"),
        ((np.abs, np.abs), (N,), "operator= is not linear"),
        ((np.abs,), (N,), r"operator= has 1 function; a linear map is a pair, .* passed alone"),
        ([np.abs] * 3, (N,), "operator= has 3 functions; a linear map is a pair"),
        ((lambda x: x + 1, lambda r: r), (N,), "operator= is not linear"),
        ((lambda x: A @ x, lambda r: r), (7,), r"gives array.* for A\^T r; it must be 24 finite real numbers"),
        ((lambda x: x * 1j, lambda r: r), (N,), "gives array.*j.* for A x; it must be 24 finite real numbers"),
        ((lambda x: x * np.nan, lambda r: r), (N,), "gives array.*nan.* for A x; it must be 24 finite real"),
        ((lambda x: 1 / 0, lambda r: r), (N,), r"fails on a vector of 24 entries \(A x\): division by zero"),
        ("blur", (N,), "operator='blur' is text; pass the numbers"),
        (IdentityOperator((3,)), (3,), "operator= takes 3 entries; the network's output has 24"),
    ],
)  # fmt: skip
def test_operators_of_another_kind_are_refused(given, y_shape, message):
    if message is None:
        assert read_operator(given, IMAGE, y_shape).kind == "mask"
        return
    with pytest.raises(InputError, match=message):
        read_operator(given, IMAGE, y_shape)


def test_square_arrays_of_zeros_and_ones_may_be_masks_or_a_matrix():
    array = (RNG.random((N, N)) < 0.5).astype(float)
    with pytest.raises(InputError, match="may be one mask for each of the 24 observations, or one matrix") as caught:
        read_operator(array, IMAGE, (N, N))
    calls = re.findall(r"operator=(unrelu\.\w+\(array\))", str(caught.value))
    kinds = [read_operator(eval(c, {"unrelu": unrelu, "array": array}), IMAGE, (N, N)).kind for c in calls]
    assert kinds == ["mask", "matrix"]
    assert read_operator(sparse.csr_array(array), IMAGE, (N, N)).kind == "matrix"
    assert read_operator(array, IMAGE, (3, N)).kind == "matrix"


@pytest.mark.parametrize(
    ("given", "kind", "shape"),
    [
        (unrelu.Mask(np.ones(N)), "mask", IMAGE),
        (unrelu.Mask(torch.ones(IMAGE, dtype=torch.bool)), "mask", IMAGE),
        (unrelu.Mask(np.ones((5, *IMAGE))), "mask", IMAGE),
        (unrelu.Matrix(np.ones((3, N))), "matrix", (3,)),
        (unrelu.Matrix(sparse.eye_array(N)), "matrix", (N,)),
    ],
)
def test_typed_arrays_are_what_they_say(given, kind, shape):
    operator = read_operator(given, IMAGE, (1, N))
    assert (operator.kind, operator.shape) == (kind, shape)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (unrelu.Mask(np.ones(5)), r"a mask of shape \(5,\); .*\(1, 4, 6\) or \(24,\), or a batch, one"),
        (unrelu.Mask(np.full(N, 0.5)), "has entries like 0.5; a mask is made of 0 and 1"),
        (unrelu.Matrix(np.ones(N)),
         r"operator= is a matrix of shape \(24,\); .* has 24 entries, pass one of \(m, 24\)"),
        (unrelu.Matrix(np.full((2, N), np.nan)), "operator= has 48 entries that are not finite"),
    ],
)  # fmt: skip
def test_typed_arrays_of_other_shapes_and_values_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        read_operator(given, IMAGE, (N,))


def test_code_that_reuses_or_writes_into_its_arrays_is_read_as_the_map_it_is():
    out, back = np.empty(7), np.empty(N)

    def forward(x):
        np.matmul(A, x, out=out)
        x[:] = 0
        return out

    def backward(r):
        np.matmul(A.T, r, out=back)
        r[:] = 0
        return back

    assert read_operator((forward, backward), IMAGE, (7,)).kind == "matrix"
    large, x = MatrixFreeOperator(forward, backward, N, 7, (7,)), torch.from_numpy(RNG.standard_normal((3, N)))
    before = x.clone()
    np.testing.assert_allclose(large.forward(x), before.numpy() @ A.T)
    assert torch.equal(x, before)

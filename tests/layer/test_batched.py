"""The batched interior point is right where it says so, in any order and company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import least_violation as reference_violation
from scipy import sparse

from unrelu.activations import Activation
from unrelu.errors import SolverError
from unrelu.layer import LayerSystem, Rows, batched, interior, rows
from unrelu.layer.batched import least_violation_batch
from unrelu.layer.convex import least_violation
from unrelu.layer.highs import LpStatus
from unrelu.layer.proof import ZERO

BOXES = ((-np.inf, np.inf), (0.0, np.inf), (-1.0, 1.0))
NORMS = pytest.mark.parametrize("norm", ["linf", "l1"])


def make(rng, n, k, activation="relu", box=BOXES[0], bias=0.0, noises=(1e-2,) * 4, special=False):
    """A layer, its rows at noisy outputs of random inputs, these inputs, and the noise levels."""
    matrix = rng.normal(size=(n, k))
    if special:  # repeated and zero rows
        matrix[rng.integers(n)] = matrix[rng.integers(n)]
        matrix[rng.integers(n)] = 0
    bounds = (np.full(k, side) for side in box)
    system = LayerSystem(matrix, bias * rng.normal(size=n), Activation.parse(activation), *bounds)
    inputs = [np.clip(rng.normal(size=k), *box) for _ in noises]
    outputs = [system.value(h) + noise * rng.uniform(-1, 1, n) for h, noise in zip(inputs, noises, strict=True)]
    return system, [rows(system, x, noise) for x, noise in zip(outputs, noises, strict=True)], inputs, noises


@st.composite
def batches(draw):
    """Batches of four with noise from 1e-6 to 1e-1, also with fewer rows, or fewer two-sided ones, than inputs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(1, 8))
    n = draw(st.integers(max(1, k - 2), k + 20))
    activation = draw(st.sampled_from(("relu", "leaky_relu:0.1", "identity", "sigmoid", "tanh")))
    box, bias = draw(st.sampled_from(BOXES)), draw(st.sampled_from((0.0, 0.3)))
    return make(rng, n, k, activation, box, bias, tuple(10.0 ** rng.integers(-6, 0, 4)), draw(st.booleans()))


def scale(one: Rows) -> float:
    """What a difference of zero is measured by: the observation and what is subtracted from it."""
    sides = one.high[np.isfinite(one.high)]
    return max(np.abs(one.target).max(), np.abs(sides).max(initial=0))


@NORMS
@given(batch=batches())
def test_agrees_with_other_solvers(norm, batch):
    system, batch_rows, inputs, noises = batch
    answers = least_violation_batch(system, batch_rows, norm)
    for answer, one, truth, noise in zip(answers, batch_rows, inputs, noises, strict=True):
        assert answer.status is LpStatus.OPTIMAL
        np.testing.assert_array_equal(answer.h, system.inside(answer.h))
        # No point is better than the minimum, so another solver's objective bounds it from above, rounding aside.
        other = least_violation(system, one, norm)
        assert answer.bound <= other.objective * (1 + 1e-8) + 2 * ZERO * scale(one)
        reference = reference_violation(system, one, norm, truth, noise)
        assert answer.objective == pytest.approx(reference, rel=1e-6, abs=1e-8 * noise + 1e-9 * scale(one))


@NORMS
@given(batch=batches(), seed=st.integers(0, 2**32 - 1))
def test_the_bound_is_below_the_objective_of_any_point(norm, batch, seed):
    system, batch_rows, inputs, _ = batch
    rng = np.random.default_rng(seed)
    for answer, one, truth in zip(least_violation_batch(system, batch_rows, norm), batch_rows, inputs, strict=True):
        for point in (truth, answer.h, answer.h + 1e-3 * rng.normal(size=system.n_in), rng.normal(size=system.n_in)):
            errors = one.violation(system.matrix @ system.inside(point))
            value = errors.max() if norm == "linf" else errors.sum()
            assert answer.bound <= value * (1 + 1e-8) + ZERO * scale(one)


@NORMS
def test_order_and_company_do_not_matter(norm):
    system, batch_rows, _, _ = make(np.random.default_rng(5), 60, 12, box=BOXES[1], noises=(1e-6, 1e-4, 1e-2, 1e-1) * 3)
    together = least_violation_batch(system, batch_rows, norm)
    backwards = least_violation_batch(system, batch_rows[::-1], norm)[::-1]
    alone = [least_violation_batch(system, [one], norm)[0] for one in batch_rows]
    for a, b, c in zip(together, backwards, alone, strict=True):
        np.testing.assert_allclose([b.objective, c.objective], a.objective, rtol=1e-8)
        np.testing.assert_allclose([b.h, c.h], [a.h, a.h], rtol=0, atol=1e-7)


@NORMS
@pytest.mark.parametrize("box", BOXES)
def test_a_middle_sized_layer(norm, box):
    system, batch_rows, _, _ = make(np.random.default_rng(6), 200, 40, box=box, noises=(1e-6, 1e-3, 1e-1))
    for answer, one in zip(least_violation_batch(system, batch_rows, norm), batch_rows, strict=True):
        assert answer.status is LpStatus.OPTIMAL
        assert answer.objective == pytest.approx(least_violation(system, one, norm).objective, rel=1e-8)


@NORMS
def test_gross_outliers(norm):
    rng = np.random.default_rng(7)
    system, _, (h,), _ = make(rng, 100, 10, "identity", noises=(1e-3,))
    x = system.value(h) + np.where(rng.random(100) < 0.1, 10 * rng.normal(size=100), 1e-6 * rng.normal(size=100))
    one = rows(system, x, 1e-3)
    (answer,) = least_violation_batch(system, [one], norm)
    assert answer.status is LpStatus.OPTIMAL
    assert answer.objective == pytest.approx(least_violation(system, one, norm).objective, rel=1e-8)


@NORMS
def test_observations_of_zero_and_exact_ones(norm):
    system, (exact,), _, _ = make(np.random.default_rng(8), 30, 5, noises=(1e-15,))
    dark = rows(system, np.zeros(30), 1e-3)
    for answer, one in zip(least_violation_batch(system, [exact, dark], norm), [exact, dark], strict=True):
        assert answer.status is LpStatus.OPTIMAL
        assert answer.bound == 0
        assert answer.objective <= ZERO * np.abs(one.target).max()


@NORMS
def test_a_row_of_zeros_decides(norm):
    """The dark row of a bias of 1 has an error of 1 whatever h is; the multipliers of the others vanish."""
    matrix, bias = np.vstack([np.eye(3), np.zeros((1, 3))]), np.array([0, 0, 0, 1.0])
    system = LayerSystem(matrix, bias, Activation("relu"), np.full(3, -np.inf), np.full(3, np.inf))
    (answer,) = least_violation_batch(system, [rows(system, np.array([1.0, 2.0, 0.0, 0.0]), 1e-3)], norm)
    assert answer.status is LpStatus.OPTIMAL
    assert answer.objective == pytest.approx(1.0)
    assert answer.bound == pytest.approx(1.0)


def test_extreme_columns():
    """The scale of a coordinate of h does not matter."""
    rng = np.random.default_rng(9)
    system, batch_rows, _, _ = make(rng, 60, 8, box=BOXES[1])
    factor = 10.0 ** rng.integers(-9, 9, 8)
    scaled = LayerSystem(system.matrix * factor, system.bias, system.activation, system.lower, system.upper)
    expected = least_violation_batch(system, batch_rows, "l1")
    for a, b in zip(least_violation_batch(scaled, batch_rows, "l1"), expected, strict=True):
        assert a.status is b.status is LpStatus.OPTIMAL
        np.testing.assert_allclose(a.h * factor, b.h, rtol=1e-6, atol=1e-9)


@NORMS
def test_nan_is_never_optimal_and_does_not_spread(norm):
    system, batch_rows, _, _ = make(np.random.default_rng(10), 40, 6)
    broken = Rows(*(np.full(40, np.nan),) * 2, *(np.ones(40),) * 2, np.full(40, np.nan), 1e-2)
    answers = least_violation_batch(system, [batch_rows[0], broken, batch_rows[1]], norm)
    assert [a.status is LpStatus.OPTIMAL for a in answers] == [True, False, True]


@NORMS
def test_out_of_time(norm):
    system, batch_rows, _, _ = make(np.random.default_rng(11), 300, 50)
    answers = least_violation_batch(system, batch_rows, norm, time_limit=0.0)
    assert all(a.status is LpStatus.LIMIT and np.isfinite(a.objective) and a.bound == 0 for a in answers)


@NORMS
def test_memory_is_bounded_by_solving_in_parts(norm, monkeypatch):
    system, batch_rows, _, _ = make(np.random.default_rng(14), 40, 6, noises=(1e-2,) * 9)
    expected = [answer.objective for answer in least_violation_batch(system, batch_rows, norm)]
    # Four programs at a time, and two copies of W.
    monkeypatch.setattr(batched, "MOST_ENTRIES", 4 * (2 * 46 + 36))
    monkeypatch.setattr(interior, "MOST_ENTRIES", 2 * 40 * 6)
    found = [answer.objective for answer in least_violation_batch(system, batch_rows, norm)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_both_ways_to_the_normal_matrices(monkeypatch):
    system, _, _, _ = make(np.random.default_rng(15), 40, 6)
    shared = interior.Shared.of(system, "l1", torch.device("cpu"))
    weight = torch.rand(10, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("ni,bn,nj->bij", shared.matrix, weight, shared.matrix)
    for products in (0, 2**22):
        monkeypatch.setattr(interior, "_PRODUCTS", products)
        torch.testing.assert_close(shared.gram(weight), expected, rtol=1e-12, atol=1e-12)


def test_a_singular_normal_matrix_is_factorised():
    normal = torch.stack([torch.ones(3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)])
    normal = torch.cat([normal, torch.zeros(1, 3, 3, dtype=torch.float64)])
    factor = interior.factorise(normal.clone())
    torch.testing.assert_close(factor @ factor.mT, normal, rtol=0, atol=1e-5)


def test_an_empty_batch_and_sparse_matrices():
    system, batch_rows, _, _ = make(np.random.default_rng(12), 20, 4)
    assert least_violation_batch(system, [], "l1") == []
    thin = LayerSystem(sparse.csr_array(system.matrix), system.bias, system.activation, system.lower, system.upper)
    dense = least_violation_batch(system, batch_rows, "l1")
    for a, b in zip(least_violation_batch(thin, batch_rows, "l1"), dense, strict=True):
        assert a.objective == pytest.approx(b.objective, rel=1e-9)
    sides = (np.zeros(5000), Activation("relu"), np.full(2000, -np.inf), np.full(2000, np.inf))
    huge = LayerSystem(sparse.csr_array((5000, 2000)), *sides)
    with pytest.raises(SolverError, match="5000 x 2000"):
        least_violation_batch(huge, [rows(huge, np.zeros(5000), 1e-3)], "l1")


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@NORMS
def test_every_device_gives_the_minimum(norm, device):
    system, batch_rows, _, _ = make(np.random.default_rng(13), 200, 20, box=BOXES[1])
    for answer, one in zip(least_violation_batch(system, batch_rows, norm, device=device), batch_rows, strict=True):
        assert answer.status is LpStatus.OPTIMAL
        assert answer.objective == pytest.approx(least_violation(system, one, norm).objective, rel=1e-8)

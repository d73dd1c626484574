"""``exact``: unique inputs, polytopes of inputs and their dimension, outputs that no input has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrelu.layerwise import Exact, LayerSystem
from unrelu.models.activations import Activation
from unrelu.result import Ending, Status


def system_of(matrix, kind="relu", bias=None, lower=-np.inf):
    n, k = np.shape(matrix)
    return LayerSystem(
        np.array(matrix, dtype=float),
        np.zeros(n) if bias is None else np.array(bias, dtype=float),
        Activation.parse(kind),
        np.full(k, lower),
        np.full(k, np.inf),
    )


@pytest.mark.parametrize("kind", ["relu", "leaky_relu:0.1", "sigmoid", "tanh", "identity"])
@given(seed=st.integers(0, 10**6))
def test_an_expanding_layer_is_inverted_exactly(kind, seed):
    rng = np.random.default_rng(seed)
    system = system_of(rng.normal(size=(40, 6)) / 3, kind, rng.normal(size=40) * 0.1)
    h = rng.normal(size=6)
    solution = Exact()(system, system.value(h))
    assert solution.status is Status.EXACT_FIT
    assert solution.freedom == 0
    np.testing.assert_allclose(solution.h, h, rtol=0, atol=1e-9 * np.abs(h).max())


@given(seed=st.integers(0, 10**6), k=st.integers(3, 12), nonnegative=st.booleans())
def test_few_active_rows_leave_a_polytope_of_dimension_k_minus_rank(seed, k, nonnegative):
    rng = np.random.default_rng(seed)
    system = system_of(rng.normal(size=(k, k)), lower=0.0 if nonnegative else -np.inf)
    h = np.abs(rng.normal(size=k)) + 0.1
    x = system.value(h)
    solution = Exact()(system, x)
    active = int((x > 0).sum())
    assert solution.freedom == k - active
    assert solution.status is (Status.EXACT_FIT if active == k else Status.NOT_UNIQUE)
    np.testing.assert_allclose(system.value(solution.h), x, atol=1e-8 * max(x.max(), 1))
    assert (solution.h >= system.lower - 1e-12).all()


def test_inequalities_that_always_hold_with_equality_lower_the_dimension():
    # h1 + h2 = 1 is on; h3 <= 0 and -h3 <= 0 are both off: h3 = 0 although no row says so with an equation.
    system = system_of([[1, 1, 0], [0, 0, 1], [0, 0, -1]])
    solution = Exact()(system, np.array([1.0, 0.0, 0.0]))
    assert solution.status is Status.NOT_UNIQUE
    assert solution.freedom == 1
    assert solution.h[2] == pytest.approx(0, abs=1e-9)


def test_an_output_without_an_input_is_said_to_have_none():
    system = system_of([[1, 0], [0, 1], [1, 1]])
    solution = Exact()(system, np.array([1.0, 1.0, 3.0]))
    assert solution.status is Ending.NOT_REALIZABLE
    assert solution.freedom == -1
    # The least-squares solution of the active rows, not zeros.
    np.testing.assert_allclose(solution.h, [4 / 3, 4 / 3])


def test_contradicting_inequalities_are_found():
    # h >= 1 from the active row, but the other row wants h <= 0.
    solution = Exact()(system_of([[1], [2]]), np.array([1.0, 0.0]))
    assert solution.status is Ending.NOT_REALIZABLE


def test_running_out_of_time_is_not_taken_for_a_proof():
    rng = np.random.default_rng(0)
    system = system_of(rng.normal(size=(300, 200)))
    solution = Exact()(system, system.value(rng.normal(size=200)), time_limit=1e-9)
    assert solution.status is Status.TIME_LIMIT
    assert solution.freedom == -1


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_scale_of_the_weights_does_not_matter(scale):
    rng = np.random.default_rng(1)
    for n in (6, 40):  # with and without free dimensions
        system = system_of(scale * rng.normal(size=(n, 6)))
        target = system.value(rng.normal(size=6))
        solution = Exact()(system, target)
        assert solution.freedom == max(0, 6 - int((target > 0).sum()))
        np.testing.assert_allclose(system.value(solution.h), target, atol=1e-8 * target.max())


def test_a_row_in_the_span_of_the_active_ones_is_no_constraint_of_its_own():
    """c.h = 0 on the whole polytope, as c is a combination of active rows: rounding must not count it as a rank."""
    rng = np.random.default_rng(0)
    active = rng.normal(size=(5, 6))
    h = rng.normal(size=6)
    active *= np.sign(active @ h)[:, None]
    x = active @ h
    system = system_of(np.vstack([active, active[0] * x[1] - active[1] * x[0]]))
    solution = Exact()(system, np.append(x, 0.0))
    assert solution.freedom == 1
    assert solution.status is Status.NOT_UNIQUE

"""The convex engines agree with an independent solver and satisfy their optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layerwise.reference import largest_response as reference_response
from tests.layerwise.reference import least_violation as reference_violation
from unrelu.layerwise import LayerSystem, rows
from unrelu.layerwise.layer_program import largest_response, largest_violation, least_violation, sum_of_violations
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.lp.lp_status import LpStatus
from unrelu.models.activations import Activation

ACTIVATIONS = ("relu", "leaky_relu:0.1", "identity", "sigmoid", "tanh")


@st.composite
def layer_problems(draw, activations=ACTIVATIONS):
    """A random layer, a noisy output of it, a threshold, with and without h >= 0 (or a box)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(1, 8))
    n = k + draw(st.integers(0, 25))
    activation = Activation.parse(draw(st.sampled_from(activations)))
    matrix = rng.normal(size=(n, k))
    if draw(st.booleans()):  # repeated and zero rows
        matrix[rng.integers(n)] = matrix[rng.integers(n)]
        matrix[rng.integers(n)] = 0
    bias = rng.normal(size=n) * draw(st.sampled_from((0.0, 0.3)))
    box = draw(st.sampled_from(((-np.inf, np.inf), (0.0, np.inf), (0.0, 1.0))))
    h = np.clip(np.abs(rng.normal(size=k)), *box)
    system = LayerSystem(matrix, bias, activation, np.full(k, box[0]), np.full(k, box[1]))
    noise = draw(st.sampled_from((1e-6, 1e-3, 1e-1)))
    scale = draw(st.sampled_from((1e-3, 1.0, 1e3))) if not activation.smooth and not bias.any() else 1.0
    if box[1] == 1.0:
        scale = 1.0
    target = scale * (system.value(h) + noise * rng.uniform(-1, 1, n))
    threshold = scale * noise * draw(st.sampled_from((0.3, 1.0, 3.0)))
    return system, rows(system, target, threshold), h * scale, scale * noise


def zero(layer_rows):
    """What counts as zero: 1e-9 of the observation, or of what is subtracted from it."""
    finite = layer_rows.high[np.isfinite(layer_rows.high)]
    return 1e-9 * max(np.abs(layer_rows.target).max(), np.abs(finite).max(initial=0))


@pytest.mark.parametrize("norm", ["linf", "l1"])
@given(problem=layer_problems())
def test_linear_programs_agree_with_an_interior_point_solver(norm, problem):
    system, layer_rows, truth, noise = problem
    answer = least_violation(system, layer_rows, norm)
    assert answer.status is LpStatus.OPTIMAL
    reference = reference_violation(system, layer_rows, norm, truth, noise)
    assert answer.objective == pytest.approx(reference, rel=1e-6, abs=1e-8 * noise + zero(layer_rows))
    np.testing.assert_array_equal(answer.h, system.inside(answer.h))


@given(problem=layer_problems())
def test_least_squares_agrees_with_an_interior_point_solver(problem):
    system, layer_rows, truth, noise = problem
    h, objective, *_ = one_sided_least_squares(system, layer_rows)
    reference = reference_violation(system, layer_rows, "l2", truth, noise)
    # The reference's feasibility is relative to the largest slack, so it resolves about 1e-4 of the squared noise; the
    # optimality conditions below are the sharp test.
    assert objective == pytest.approx(reference, rel=1e-6, abs=1e-4 * noise**2 + zero(layer_rows) ** 2)
    np.testing.assert_array_equal(h, system.inside(h))


@given(problem=layer_problems(("relu", "leaky_relu:0.1", "identity")))
def test_relaxation_agrees_with_an_interior_point_solver(problem):
    system, layer_rows, _, noise = problem
    answer = largest_response(system, layer_rows)
    if answer.status is LpStatus.INFEASIBLE:
        assert answer.objective > layer_rows.threshold * (1 - 1e-6)
        return
    assert answer.status is LpStatus.OPTIMAL
    side = layer_rows.high + layer_rows.high_slope * layer_rows.threshold
    assert ((system.matrix @ answer.h - side) / layer_rows.high_slope).max() <= 1e-6 * noise
    # Solutions may lie far from the truth, so the reference looks for a better point around ours.
    reference = reference_response(system, layer_rows, answer.h, noise)
    weight = np.abs(layer_rows.target).sum()
    assert answer.objective == pytest.approx(reference, rel=1e-6, abs=1e-6 * noise * weight)


@given(problem=layer_problems())
def test_least_squares_gradient_vanishes_off_the_bounds(problem):
    system, layer_rows, _, _ = problem
    h, objective, *_ = one_sided_least_squares(system, layer_rows)
    wh = system.matrix @ h
    over = np.maximum(0, (wh - layer_rows.high) / layer_rows.high_slope) / layer_rows.high_slope
    under = np.maximum(0, (layer_rows.low - wh) / layer_rows.low_slope) / layer_rows.low_slope
    gradient = system.matrix.T @ (over - under)
    # Rounding of W h by eps |x| moves the objective by sqrt(f) eps |x|, which hides gradients of the root of that.
    scale = np.abs(layer_rows.target).max()
    hidden = np.sqrt(np.sqrt(objective) * np.finfo(float).eps * scale)
    size = np.abs(system.matrix).max() * len(wh) * (1e-9 * np.sqrt(objective) + 10 * hidden + 1e-14 * scale)
    free = (h > system.lower) & (h < system.upper)
    assert np.abs(gradient[free]).max(initial=0) <= size
    assert gradient[h <= system.lower].min(initial=0) >= -size
    assert gradient[h >= system.upper].max(initial=0) <= size


def test_a_program_can_be_built_and_inspected_without_a_solver():
    system = LayerSystem(
        np.eye(2), np.zeros(2), Activation("relu"), np.array([-np.inf, 0.0]), np.array([np.inf, np.inf])
    )
    layer_rows = rows(system, np.array([1.0, 0.0]), 0.1)
    around = system.matrix, -layer_rows.center, system.lower, system.upper, *layer_rows.box
    program, _ = sum_of_violations(*around)[0].dual()
    # One boxed multiplier for the row that is on, one of [0, 1] for the row that is off, one for the bound of h_2.
    np.testing.assert_array_equal(program.col_lower, [-1, 0, -np.inf])
    np.testing.assert_array_equal(program.col_upper, [1, 1, 0])
    np.testing.assert_array_equal(program.cost, [1, 0, 0])
    np.testing.assert_array_equal(program.matrix.toarray(), [[1, 0, 0], [0, 1, 1]])
    program, _ = largest_violation(*around)[0].dual()
    # Two upper sides, a lower one, the bounds of h_2 and of d; the multipliers of the sides sum to at most 1.
    np.testing.assert_array_equal(program.matrix.toarray(), [[1, 0, -1, 0, 0], [0, 1, 0, 1, 0], [-1, -1, -1, 0, 1]])
    np.testing.assert_array_equal(program.row_lower, [0, 0, -1])
    np.testing.assert_array_equal(program.row_upper, [0, 0, -1])


def test_noise_far_below_the_solver_tolerance_is_resolved():
    """A general LP solver with an absolute tolerance of 1e-7 cannot see errors of 1e-7; shift and scale can."""
    rng = np.random.default_rng(0)
    system = LayerSystem(
        rng.normal(size=(60, 10)), np.zeros(60), Activation("identity"), np.full(10, -np.inf), np.full(10, np.inf)
    )
    h = rng.normal(size=10)
    noise = rng.uniform(-1, 1, 60)
    coarse = least_violation(system, rows(system, system.value(h) + noise, 1.0), "linf").objective
    fine = least_violation(system, rows(system, system.value(h) + 1e-7 * noise, 1e-7), "linf").objective
    assert fine == pytest.approx(1e-7 * coarse, rel=1e-5)

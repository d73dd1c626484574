"""The engines of layer programs against each other, their warm starts, and what happens when they are wrong."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from unrelu.errors import SolverError
from unrelu.layerwise import LayerSystem, layer_program, rows
from unrelu.layerwise.layer_program import largest_response, least_squares_start, least_violation
from unrelu.layerwise.optimality import prove
from unrelu.lp import exchange_simplex, interior_point
from unrelu.lp.lp_status import LpStatus
from unrelu.models.activations import Activation

NORMS = pytest.mark.parametrize("norm", ["linf", "l1"])
BOXES = ((-np.inf, np.inf), (0.0, np.inf), (-1.0, 1.0), (-np.inf, 0.0))


@contextmanager
def engine(name):
    """The usual choice ("auto"), or every program by HiGHS ("highs")."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "highs":
            patch.setattr(layer_program, "WIDEST", 0)
        yield


# --- start and interior-point steps ---------------------------------------------------------------------------------


def layer(seed=0, n=40, k=6, activation="relu", box=BOXES[0], noise=0.1, bias=0.1):
    """A layer and a noisy output of it, with the true input."""
    rng = np.random.default_rng(seed)
    bounds = (np.full(k, side) for side in box)
    system = LayerSystem(rng.normal(size=(n, k)), bias * rng.normal(size=n), Activation.parse(activation), *bounds)
    h = np.clip(rng.normal(size=k), *box)
    return system, rows(system, system.value(h) + noise * rng.uniform(-1, 1, n), noise), h


def test_the_start_is_the_least_squares_point_of_two_sided_rows():
    system, one, _ = layer(n=60)
    two = one.two_sided
    expected = np.linalg.lstsq(system.matrix[two], one.center[two], rcond=None)[0]
    np.testing.assert_allclose(least_squares_start(system, one), expected, atol=1e-8)
    lower = expected + np.where(np.arange(6) < 2, 0.05, -1.0)
    h = least_squares_start(replace(system, lower=lower), one)
    assert (h >= lower).all()
    np.testing.assert_allclose(h[:2], lower[:2], rtol=1e-10)


# --- the exchange against HiGHS ---------------------------------------------------------------------------------------


def floor(one, norm):
    """What counts as zero of an objective."""
    return 1e-9 * one.scale * (len(one.center) if norm == "l1" else 1)


def agree(one, norm, *answers):
    for answer in answers:
        assert answer.status is LpStatus.OPTIMAL
        assert answer.objective == pytest.approx(answers[0].objective, rel=1e-7, abs=floor(one, norm))


def compare(one, norm, answer, other):
    """HiGHS may stop short of a proof; then its point is no better, and its bound no higher."""
    if other.status is LpStatus.FAILED:
        assert answer.status is LpStatus.OPTIMAL
        assert other.bound <= answer.objective * (1 + 1e-7) + floor(one, norm)
        assert answer.objective <= other.objective * (1 + 1e-7) + floor(one, norm)
    else:
        agree(one, norm, answer, other)


def by_highs(system, one, norm):
    with engine("highs"):
        answer = least_violation(system, one, norm)
    assert answer.engine in ("highs", "least squares")
    return answer


@st.composite
def problems(draw, activations=("relu", "leaky_relu:0.1", "identity", "sigmoid", "tanh")):
    """Layers of any shape, with bounds of every kind, equal rows and columns, columns of zeros, outputs of zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(1, 8))
    n = draw(st.integers(1, 4 * k + 4))
    activation = Activation.parse(draw(st.sampled_from(activations)))
    kind = draw(st.sampled_from(("plain", "integers", "columns", "zero columns", "dark", "rank", "mostly off")))
    matrix, bias = rng.normal(size=(n, k)), 0.2 * rng.normal(size=n)
    if kind == "integers":
        matrix, bias = rng.integers(-1, 2, (n, k)).astype(float), np.zeros(n)
    if kind == "columns":
        matrix = matrix[:, rng.integers(0, max(1, k // 2), k)]
    if kind == "zero columns":
        matrix[:, rng.random(k) < 0.5] = 0.0
    if kind == "rank":
        matrix = np.outer(matrix[:, 0], rng.normal(size=k))
    if kind == "mostly off":
        bias -= 2.0
    lower, upper = -rng.uniform(0, 2, k), rng.uniform(0, 2, k)
    sides = rng.integers(0, 5, k)
    lower[(sides == 0) | (sides == 2)] = -np.inf
    upper[(sides == 0) | (sides == 1)] = np.inf
    upper[sides == 4] = lower[sides == 4]
    system = LayerSystem(matrix, bias, activation, lower, upper)
    noise = draw(st.sampled_from((0.0, 1e-6, 1e-3, 0.1)))
    target = system.value(np.clip(rng.normal(size=k), lower, upper)) + noise * rng.uniform(-1, 1, n)
    if kind == "integers":
        target = np.round(target) + rng.integers(-1, 2, n)
    if kind == "dark":
        target = np.zeros(n)
    return system, rows(system, target, max(noise, 1e-6) * draw(st.sampled_from((0.3, 1.0, 3.0)))), rng


@NORMS
@given(problem=problems())
def test_the_engines_agree(norm, problem):
    system, one, _ = problem
    answer = least_violation(system, one, norm)
    compare(one, norm, answer, by_highs(system, one, norm))
    assert prove(system, one, norm, answer.h, answer.multipliers).holds
    np.testing.assert_array_equal(answer.h, system.inside(answer.h))


def test_highs_proves_the_minimum_of_a_small_layer():
    """A row that is off by 1e-7 of the errors is feasible to HiGHS; the gap is then five times what a proof accepts."""
    matrix = np.array([
        [0, -0.12056376, 0, -0.39735038, -0.05117922],
        [0, 1.48614215, 0, 0.55468838, 0.30304676],
        [0, -0.28227587, 0, 1.71102538, 0.29400929],
        [0, -0.57665514, 0, -0.70940375, -1.14376433],
        [0, 0.69876153, 0, 0.77774127, -2.1047936],
    ])  # fmt: skip
    bias = np.array([-0.26099272, 0.01867891, 0.01504403, -0.05353783, 0.08292216])
    lower = np.array([-0.29194581, -1.18564601, -np.inf, -np.inf, -1.27453577])
    upper = np.array([-0.29194581, -1.18564601, 0.65922841, 1.18345798, -1.27453577])
    system = LayerSystem(matrix, bias, Activation("relu"), lower, upper)
    one = rows(system, np.array([3.19383259e-07, 9.27373021e-07, 0.0, 2.13555317, 1.88487294]), 3e-7)
    agree(one, "l1", least_violation(system, one, "l1"), by_highs(system, one, "l1"))


@NORMS
@given(problem=problems())
def test_a_sparse_matrix_gives_the_same_minimum(norm, problem):
    system, one, _ = problem
    other = least_violation(replace(system, matrix=sparse.csr_array(system.matrix)), one, norm)
    assert other.engine != "exchange"
    compare(one, norm, least_violation(system, one, norm), other)


@NORMS
@given(problem=problems(("relu", "leaky_relu:0.1", "identity")), power=st.sampled_from((-6, -2, 3, 6)))
def test_the_unit_of_the_output_is_that_of_the_minimum(norm, problem, power):
    system, one, _ = problem
    size = 10.0**power
    scaled = replace(
        system, bias=system.bias * size, lower=system.lower * size, upper=system.upper * size
    )  # W h + b and h in other units
    other = least_violation(scaled, rows(scaled, one.target * size, one.threshold * size), norm)
    agree(one, norm, least_violation(system, one, norm), replace(other, objective=other.objective / size))


@NORMS
@given(problem=problems(), factor=st.sampled_from((0.1, 0.8, 1.0, 1.2, 10.0)))
def test_a_warm_start_changes_nothing(norm, problem, factor):
    system, one, _ = problem
    first = least_violation(system, one, norm)
    other = rows(system, one.target, one.threshold * factor)
    agree(other, norm, least_violation(system, other, norm), least_violation(system, other, norm, warm_start=first))


@NORMS
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.1", "sigmoid", "tanh"])
@pytest.mark.parametrize("box", BOXES)
def test_an_output_of_zero(norm, activation, box):
    system, _, _ = layer(activation=activation, box=box, bias=1.0)
    one = rows(system, np.zeros(system.n_out), 1e-3)
    answer = least_violation(system, one, norm)
    agree(one, norm, answer, by_highs(system, one, norm))
    assert np.isfinite(answer.h).all()


@NORMS
def test_one_row_and_one_column(norm):
    free = np.full(1, np.inf)
    system = LayerSystem(np.array([[2.0]]), np.zeros(1), Activation("relu"), -free, free)
    answer = least_violation(system, rows(system, np.array([3.0]), 0.1), norm)
    assert answer.h == pytest.approx([1.5])
    # 2 h = 3 and 2 h = 5: the error is 1 in each, or 2 in all.
    system = LayerSystem(np.full((2, 1), 2.0), np.zeros(2), Activation("relu"), -free, free)
    answer = least_violation(system, rows(system, np.array([3.0, 5.0]), 0.1), norm)
    assert answer.objective == pytest.approx(1.0 if norm == "linf" else 2.0)
    # h <= 1 leaves errors of 1 and 3.
    system = replace(system, upper=np.ones(1))
    answer = least_violation(system, rows(system, np.array([3.0, 5.0]), 0.1), norm)
    assert answer.objective == pytest.approx(3.0 if norm == "linf" else 4.0)
    assert answer.h == pytest.approx([1.0])


# --- engines, sabotage and limits -----------------------------------------------------------------------------------


SABOTAGE = {
    "wrong point": lambda found, _: found._replace(v=found.v + 1.0),
    "wrong multipliers": lambda found, _: found._replace(multipliers=-found.multipliers),
    "no multipliers": lambda found, _: found._replace(multipliers=np.zeros_like(found.multipliers)),
    "nan multipliers": lambda found, _: found._replace(multipliers=np.full_like(found.multipliers, np.nan)),
    "huge multipliers": lambda found, _: found._replace(multipliers=1e9 + found.multipliers),
    "nan point": lambda found, _: found._replace(v=np.full_like(found.v, np.nan)),
    "wrong, then nan": lambda found, call: found._replace(v=found.v + (1.0 if call == 0 else np.nan)),
    "nan, then wrong": lambda found, call: found._replace(v=found.v + (1.0 if call == 1 else np.nan)),
    "not optimal": lambda found, _: found._replace(v=np.zeros_like(found.v), status=LpStatus.FAILED),
}
# The most attempts of the exchange before HiGHS is asked.
ATTEMPTS = 2


@contextmanager
def sabotaged(how, attempts=ATTEMPTS):
    """Spoil what the kernel finds in its first attempts; yields a list with an entry for each attempt."""
    calls, optimise = [], layer_program.optimise

    def spoiled(*arguments):
        found = optimise(*arguments)
        calls.append(how)
        return SABOTAGE[how](found, len(calls) - 1) if len(calls) <= attempts else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_program, "optimise", spoiled)
        yield calls


@NORMS
@pytest.mark.parametrize("how", SABOTAGE)
def test_a_sabotaged_kernel_is_never_believed(norm, how):
    system, one, _ = layer()
    honest = least_violation(system, one, norm)
    with sabotaged(how) as calls:
        answer = least_violation(system, one, norm)
    assert 1 <= len(calls) <= ATTEMPTS
    assert answer.engine == "highs"
    assert answer.status is LpStatus.OPTIMAL
    assert answer.objective == pytest.approx(honest.objective, rel=1e-8)
    assert answer.bound == pytest.approx(honest.objective, rel=1e-7)


@pytest.mark.parametrize("how", SABOTAGE)
def test_a_sabotaged_kernel_is_never_believed_about_the_relaxation(how):
    system, one, _ = layer()
    honest = largest_response(system, one)
    # The programs that tell whether there is a feasible point come after those of the relaxation.
    with sabotaged(how):
        answer = largest_response(system, one)
    assert (answer.engine, answer.status) == ("highs", LpStatus.OPTIMAL)
    assert answer.objective == pytest.approx(honest.objective, rel=1e-7)


@pytest.fixture
def hurried(monkeypatch):
    """A kernel that looks at the clock as often as it can, and a layer that takes more pivots than that."""
    monkeypatch.setattr(exchange_simplex, "_REFRESH", 20)
    monkeypatch.setattr(interior_point, "_STEPS", 0)
    return layer(n=300, k=80)[:2]


@NORMS
@pytest.mark.parametrize("name", ["auto", "highs"])
def test_no_time_gives_a_point_with_the_status(hurried, norm, name):
    system, one = hurried
    with engine(name):
        answer = least_violation(system, one, norm, 0.0)
    assert answer.status is LpStatus.LIMIT
    assert np.isfinite(answer.h).all()
    errors = one.violation(system.matrix @ answer.h)
    assert answer.objective == pytest.approx(errors.max() if norm == "linf" else errors.sum())
    assert answer.bound <= least_violation(system, one, norm).objective * (1 + 1e-8)


@NORMS
def test_an_abandoned_program_ends_soon(monkeypatch, norm):
    system, one, _ = layer(n=300, k=80)
    monkeypatch.setattr(exchange_simplex, "abandoned", lambda: True)
    monkeypatch.setattr(exchange_simplex, "_REFRESH", 20)
    monkeypatch.setattr(interior_point, "_STEPS", 0)
    answer = least_violation(system, one, norm)
    assert answer.status is LpStatus.LIMIT
    assert answer.pivots <= 20


@NORMS
def test_a_solver_that_refuses_leaves_the_point_found_before(monkeypatch, norm):
    system, one, _ = layer()
    honest = least_violation(system, one, norm)

    def refuse(*arguments):
        raise SolverError("no")

    monkeypatch.setattr(layer_program, "solve", refuse)
    with sabotaged("no multipliers"):
        answer = least_violation(system, one, norm)
    assert answer.status is LpStatus.FAILED
    assert answer.objective == pytest.approx(honest.objective)
    with engine("highs"), pytest.raises(SolverError, match="no"):
        least_violation(system, one, norm)


@NORMS
@pytest.mark.parametrize("wild", [np.nan, np.inf])
def test_interior_point_steps_that_break_down_do_no_harm(monkeypatch, norm, wild):
    system, one, _ = layer()
    honest = least_violation(system, one, norm)
    steps = interior_point.interior_point
    monkeypatch.setattr(interior_point, "interior_point", lambda *a: (np.full_like(a[0].v, wild), *steps(*a)[1:]))
    answer = least_violation(system, one, norm)
    assert (answer.status, answer.engine) == (LpStatus.OPTIMAL, "exchange")
    assert answer.objective == pytest.approx(honest.objective, rel=1e-8)


# --- the relaxation -------------------------------------------------------------------------------------------------


def response_scale(one):
    """What the objective changes by when every row moves by the threshold."""
    weight = np.where(np.isfinite(one.high), np.abs(one.target) / one.high_slope, 0.0)
    return one.threshold * weight.sum()


def same_response(one, a, b):
    assert a.status is b.status
    if a.status is LpStatus.OPTIMAL:
        tolerance = 1e-5 * response_scale(one) + 1e-8 * abs(a.objective)
        assert a.objective == pytest.approx(b.objective, rel=0, abs=tolerance + 1e-12)
        assert a.bound >= a.objective - tolerance
    else:
        assert a.objective == pytest.approx(b.objective, rel=1e-6)


@given(problem=problems(("relu", "leaky_relu:0.1", "identity")))
def test_the_engines_agree_on_the_relaxation(problem):
    system, one, _ = problem
    answer = largest_response(system, one)
    with engine("highs"):
        other = largest_response(system, one)
    same_response(one, answer, other)
    if answer.status is LpStatus.OPTIMAL:
        side = one.high + one.high_slope * one.threshold
        assert (system.matrix @ answer.h <= side + 2e-6 * one.threshold + 1e-14 * one.scale).all()
    same_response(one, answer, largest_response(replace(system, matrix=sparse.csr_array(system.matrix)), one))


@pytest.mark.parametrize("name", ["auto", "highs"])
def test_an_infeasible_relaxation_is_proved_to_be(monkeypatch, name):
    """Without a lower bound on the smallest feasible eps nothing is claimed."""
    free = np.full(1, np.inf)
    system = LayerSystem(np.array([[1.0], [-1.0]]), np.ones(2), Activation("relu"), -free, free)
    one, closest = rows(system, np.zeros(2), 0.5), layer_program.least_violation
    with engine(name):
        answer = largest_response(system, one)
        assert answer.status is LpStatus.INFEASIBLE
        monkeypatch.setattr(layer_program, "least_violation", lambda *a: replace(closest(*a), bound=0.4))
        assert largest_response(system, one).status not in (LpStatus.INFEASIBLE, LpStatus.OPTIMAL)

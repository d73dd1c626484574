"""The rows of a layer output describe the inputs that explain it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from unrelu.errors import InputError
from unrelu.layerwise import L1, Exact, LayerSystem, LeastSquares, LInf, Relaxed, rows
from unrelu.models.activations import Activation

KINDS = ("relu", "leaky_relu:0.1", "leaky_relu:0.7", "identity", "sigmoid", "tanh")


def scalar_system(kind):
    """phi(h): one row, weight 1, no bias."""
    return LayerSystem(np.ones((1, 1)), np.zeros(1), Activation.parse(kind), np.full(1, -np.inf), np.full(1, np.inf))


def plain(matrix, /, **changes):
    """A ReLU layer without bias or bounds, or with what is given."""
    n, k = np.shape(matrix)
    free = np.full(k, np.inf)
    return LayerSystem(**{"matrix": matrix, "bias": np.zeros(n), "activation": Activation("relu"), "lower": -free,
                          "upper": free, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": np.ones((3, 0))}, r"W has shape \(3, 0\)"),
        ({"bias": np.ones(2)}, r"bias has shape \(2,\), W of shape \(3, 2\) needs \(3,\)"),
        ({"lower": np.zeros(3)}, r"lower has shape \(3,\)"),
        ({"upper": np.array(1.0)}, r"upper has shape \(\)"),
        ({"matrix": np.full((3, 2), np.nan)}, "not finite"),
        ({"matrix": sparse.csr_array(np.full((3, 2), np.inf))}, "not finite"),
        ({"bias": np.array([0, np.nan, 0])}, "not finite"),
        ({"lower": np.array([0, 3.0]), "upper": np.array([1.0, 2.0])}, "coordinate 1 has bounds 3.0 and 2.0"),
        ({"lower": np.array([0, np.nan])}, "coordinate 1 has bounds nan"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        plain(np.ones((3, 2)), **changes)


@pytest.mark.parametrize("method", [Exact(), L1(), LInf(), LeastSquares(), Relaxed()])
def test_a_target_that_cannot_be_is_refused(method):
    """Also by the methods that look for a threshold, which a NaN would keep looking for ever."""
    system = plain(np.random.default_rng(0).normal(size=(30, 3)))
    with pytest.raises(InputError, match=r"30 outputs, the target has shape \(29,\)"):
        method(system, np.ones(29))
    with pytest.raises(InputError, match="2 entries that are not finite"):
        method(system, np.r_[np.ones(28), np.nan, np.inf])


@pytest.mark.parametrize("threshold", [0.0, -1.0, np.nan, np.inf])
def test_a_threshold_that_cannot_be_is_refused(threshold):
    with pytest.raises(InputError, match=f"threshold={threshold}"):
        rows(plain(np.ones((3, 2))), np.ones(3), threshold)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1.0, 1e155, 1e200])
@pytest.mark.parametrize("form", [np.array, sparse.csr_array])
def test_norms_neither_vanish_nor_overflow(scale, form):
    matrix = np.array([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0]])
    system = plain(form(scale * matrix))
    np.testing.assert_allclose(system.norms, [5 * scale, 1, scale])
    assert system.gain == pytest.approx(scale * (np.sqrt(10) + 4) / 2)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e100])
@pytest.mark.parametrize("method", [L1(), LInf()])
def test_codes_are_recovered_at_any_scale(method, scale):
    rng = np.random.default_rng(2)
    system = plain(scale * rng.normal(size=(30, 5)))
    truth = rng.normal(size=5)
    np.testing.assert_allclose(method(system, system.value(truth)).h, truth, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(
    u=st.floats(-4, 4),
    x=st.floats(-0.9, 0.9),
    eps=st.sampled_from((1e-6, 1e-3, 0.1, 0.3)),
    bias=st.sampled_from((0, 0.5)),
)
def test_at_delta_eps_the_rows_are_the_outputs_within_eps(kind, u, x, eps, bias):
    """Constraints (6) and Remark 1: lo - q eps <= u <= hi + p eps if and only if |phi(u) - x| <= eps."""
    system = scalar_system(kind)
    system = LayerSystem(system.matrix, np.array([float(bias)]), system.activation, system.lower, system.upper)
    target = np.array([x])
    clipped = system.activation.clip(target)
    made = rows(system, target, eps)
    wh = np.array([u - bias])
    inside = made.violation(wh)[0] <= eps * (1 + 1e-9)
    error = abs(system.activation.value(np.array([u])) - clipped)[0]
    if abs(error - eps) > 1e-6 * eps + 1e-12:
        assert inside == (error < eps)


@pytest.mark.parametrize(("x", "low_slope", "high_slope"), [(0.5, 1, 1), (-0.5, 10, 10)])
def test_leaky_rows_away_from_the_kink_are_those_of_remark_1(x, low_slope, high_slope):
    made = rows(scalar_system("leaky_relu:0.1"), np.array([x]), 0.1)
    assert made.low[0] == pytest.approx(x if x > 0 else x / 0.1)
    assert (made.low_slope[0], made.high_slope[0]) == pytest.approx((low_slope, high_slope))


@pytest.mark.parametrize("x", [0.05, -0.05, 0.0])
def test_leaky_rows_at_the_kink_admit_the_noiseless_input_at_delta_zero(x):
    """Remark 1's middle rows need a delta of almost |x| there; the chords do not."""
    system = scalar_system("leaky_relu:0.1")
    made = rows(system, np.array([x]), 0.1)
    u = system.activation.inverse(np.array([x]))
    assert made.violation(u)[0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_saturated_outputs_give_half_lines(kind):
    system = scalar_system(kind)
    top = rows(system, np.array([1.2]), 0.01)
    assert np.isfinite(top.low[0])
    assert top.high[0] == np.inf
    bottom = rows(system, np.array([-1.2]), 0.01)
    assert bottom.low[0] == -np.inf
    assert np.isfinite(bottom.high[0])

"""Values, derivatives, inverses and preimages of every activation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support import ACTIVATIONS, MONOTONE
from unrelu.errors import ModelError
from unrelu.models.activations import Activation

each = pytest.mark.parametrize("kind", ACTIVATIONS)
monotone = pytest.mark.parametrize("kind", MONOTONE)
vectors = arrays(np.float64, 4, elements=st.floats(-8, 8))
radii = arrays(np.float64, 4, elements=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 3.0]))


@each
@given(u=arrays(np.float64, (3, 4), elements=st.floats(-800, 800)))
def test_numpy_and_pytorch_agree(kind, u):
    activation = ACTIVATIONS[kind]
    # A GELU is rounded by an epsilon of u, not of itself.
    rounding = 1e-15 * np.abs(u).max(initial=1)
    np.testing.assert_allclose(activation.value(u), activation.forward(torch.from_numpy(u)), rtol=1e-13, atol=rounding)


@each
@given(u=vectors)
def test_derivative_is_that_of_pytorch(kind, u):
    tensor = torch.tensor(u[None], requires_grad=True)
    x = ACTIVATIONS[kind].forward(tensor)
    x.sum().backward()
    derivative = ACTIVATIONS[kind].derivative(tensor.detach(), x.detach())
    np.testing.assert_allclose(derivative, tensor.grad, rtol=1e-12, atol=1e-8)


def values_of(activation, u):
    """phi and phi' of pre-activations (..., n), by PyTorch."""
    u = torch.from_numpy(np.asarray(u, dtype=np.float64))
    x = activation.forward(u)
    return x.numpy(), activation.derivative(u, x).numpy()


@pytest.mark.parametrize("kind", ["tanh", "exp", "gelu", "softplus", "elu", "hardsigmoid"])
def test_where_the_slope_is_1_a_value_passes_through_unchanged(kind):
    activation = Activation(kind, [0.0, 1.0])
    u = np.array([[0.3, 1e4], [-2.0, -1e4]])
    x, slopes = values_of(activation, u)
    np.testing.assert_array_equal(x[:, 1], u[:, 1])
    np.testing.assert_array_equal(activation.value(u)[:, 1], u[:, 1])
    np.testing.assert_array_equal(slopes[:, 1], 1)
    np.testing.assert_array_equal(x[:, 0], Activation(kind).forward(torch.from_numpy(u[:, 0])))
    np.testing.assert_array_equal(np.isnan(activation.slopes(2)), [True, False])
    assert activation.of([1]).linear
    low, high = activation.range
    assert (low[1], high[1]) == (-np.inf, np.inf)


NAMED = [
    (Activation("gelu"), torch.nn.GELU()), (Activation("gelu_tanh"), torch.nn.GELU("tanh")),
    (Activation("mish"), torch.nn.Mish()), (Activation("silu"), torch.nn.SiLU()),
    (Activation("hardsigmoid"), torch.nn.Hardsigmoid()), (Activation("hardswish"), torch.nn.Hardswish()),
    (Activation("hardtanh"), torch.nn.Hardtanh()), (Activation("hardtanh", steepness=0.5), torch.nn.Hardtanh(-2, 2)),
    (Activation("softplus"), torch.nn.Softplus()), (Activation("softplus", steepness=3.0), torch.nn.Softplus(beta=3.0)),
    (Activation("elu"), torch.nn.ELU()), (Activation("elu", steepness=0.4), torch.nn.CELU(2.5)),
    (Activation("selu"), torch.nn.SELU()), (Activation("sin"), torch.sin), (Activation("sine"), torch.sin),
]  # fmt: skip


@pytest.mark.parametrize(("activation", "function"), NAMED)
def test_names_and_steepnesses_are_those_of_pytorch(activation, function):
    u = torch.linspace(-9, 9, 200, dtype=torch.float64)
    np.testing.assert_allclose(activation.forward(u), function(u), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [("relu", "leaky_relu:0.1", "prelu"), ("relu", "identity", "prelu"), ("gelu", "identity", "gelu"),
     ("relu", "relu", "relu"), ("tanh", "tanh", "tanh"), ("identity", "identity", "identity")],
)  # fmt: skip
def test_activations_of_one_base_function_are_joined(first, second, name):
    both = [Activation.parse(text) for text in (first, second)]
    joined, u = Activation.joined(both, [2, 1]), np.array([-1.5, 0.5, -0.7])
    assert joined.name == name
    np.testing.assert_array_equal(joined.value(u), np.concatenate([both[0].value(u[:2]), both[1].value(u[2:])]))


@pytest.mark.parametrize(("kind", "slope"), [("relu", 0.0), ("leaky_relu", 0.1), ("identity", 1.0)])
def test_derivative_at_the_kink_is_the_lower_slope(kind, slope):
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert ACTIVATIONS[kind].derivative(zero, zero).item() == slope


# --- kinks that are rounded off ---------------------------------------------------------------------------------------

kinked = pytest.mark.parametrize("kind", ["relu", "leaky_relu", "prelu", "prelu_negative"])
widths = st.floats(0.01, 5)


@kinked
@given(u=vectors, width=widths)
def test_beyond_its_width_a_smoothed_kink_is_the_kink(kind, u, width):
    activation = ACTIVATIONS[kind]
    outside = np.abs(u) >= width
    (x, slope), (sharp, sharp_slope) = values_of(activation.smoothed(width), u), values_of(activation, u)
    np.testing.assert_allclose(x[outside], sharp[outside], rtol=1e-12)
    np.testing.assert_allclose(slope[outside], sharp_slope[outside], rtol=1e-12)
    if kind == "relu":
        assert (x[u <= -width] == 0).all()
        assert (slope[u <= -width] == 0).all()


@kinked
@given(u=vectors, width=widths)
def test_within_it_is_the_parabola_that_joins_both_slopes(kind, u, width):
    activation, u = ACTIVATIONS[kind], u * width / 8
    x, slope = values_of(activation.smoothed(width), u)
    c = activation.slope
    np.testing.assert_allclose(x, c * u + (1 - c) * (u + width) ** 2 / (4 * width), atol=1e-12)
    np.testing.assert_allclose(slope, c + (1 - c) * (u + width) / (2 * width), atol=1e-12)
    # The largest distance from the kink, at 0, is |1 - c| w / 4.
    assert (np.abs(x - activation.value(u)) <= np.abs(1 - c) * width / 4 + 1e-12).all()
    assert ((x >= activation.value(u) - 1e-12) | (c > 1)).all()


# --- inverses and preimages -------------------------------------------------------------------------------------------


@monotone
@given(u=vectors)
def test_inverse_gives_a_preactivation_of_the_output(kind, u):
    activation = ACTIVATIONS[kind]
    x = activation.value(u)
    inverse = activation.inverse(x)
    np.testing.assert_allclose(activation.value(inverse), x, rtol=1e-12, atol=1e-15)
    if activation.invertible:
        np.testing.assert_allclose(inverse, u, rtol=1e-10, atol=1e-12)


@monotone
@given(u=vectors, center=vectors, below=radii, above=radii)
def test_preimage_holds_exactly_the_preactivations_of_the_interval(kind, u, center, below, above):
    activation = ACTIVATIONS[kind]
    x = activation.value(center)
    low, high = activation.preimage(x - below, x + above)
    assert (low <= high).all()
    # Within rounding of an end, either answer is right.
    clear = (np.abs(u - low) > 1e-9) & (np.abs(u - high) > 1e-9)
    assume(clear.any())
    value = activation.value(u)
    inside, fits = (low <= u) & (u <= high), (x - below <= value) & (value <= x + above)
    np.testing.assert_array_equal(inside[clear], fits[clear])


def test_preimage_is_infinite_where_the_activation_is_flat_or_saturates():
    zero, one = np.zeros(1), np.ones(1)
    assert ACTIVATIONS["relu"].preimage(zero, one) == (-np.inf, 1)
    assert ACTIVATIONS["leaky_relu"].preimage(-one, one) == (-10, 1)
    assert ACTIVATIONS["sigmoid"].preimage(-one, one / 2) == (-np.inf, 0)
    assert ACTIVATIONS["sigmoid"].preimage(one / 2, one) == (0, np.inf)
    assert ACTIVATIONS["tanh"].preimage(-one, one) == (-np.inf, np.inf)
    assert ACTIVATIONS["identity"].preimage(np.full(1, -np.inf), one) == (-np.inf, 1)


@monotone
@given(x=vectors, margin=st.sampled_from([0.0, 1e-6, 0.25]))
def test_clip_moves_into_the_range_and_no_further(kind, x, margin):
    activation = ACTIVATIONS[kind]
    low, high = activation.range
    clipped = activation.clip(x, margin)
    keep = 0.0 if not activation.smooth or "hard" in kind else np.minimum(margin, (high - low) / 4)
    assert (clipped >= low + keep).all()
    assert (clipped <= high - keep).all()
    np.testing.assert_allclose(activation.clip(clipped, margin), clipped, rtol=1e-15)
    inside = (x >= low + keep) & (x <= high - keep)
    np.testing.assert_array_equal(clipped[inside], x[inside])


@each
@given(u=vectors)
def test_values_stay_in_the_range(kind, u):
    activation = ACTIVATIONS[kind]
    low, high = activation.range
    value = activation.value(u)
    assert (value >= low).all()
    assert (value <= high).all()


# What activations are, and which ones.
PROPERTIES = {
    "convex monotone": ["relu"],
    "convex invertible monotone": ["leaky_relu"],
    "monotone": ["prelu"],
    "": ["prelu_negative"],
    "linear convex invertible monotone": ["identity"],
    "smooth invertible monotone": ["sigmoid", "tanh", "exp", "softplus", "elu_passing"],
    "smooth monotone": ["hardtanh", "hardsigmoid_passing"],
    "smooth": ["tanh_mixed", "gelu", "sin", "swish", "swish_learned"],
}


@pytest.mark.parametrize(("kind", "words"), [(kind, words) for words, kinds in PROPERTIES.items() for kind in kinds])
def test_properties(kind, words):
    names = ("smooth", "linear", "convex", "invertible", "monotone")
    assert [name for name in names if getattr(ACTIVATIONS[kind], name)] == words.split()


@each
def test_slopes_and_kinks_of_single_outputs(kind):
    activation, u = ACTIVATIONS[kind], np.full(4, -1e-9)
    slopes, kinks = activation.slopes(4), activation.kinks(4)
    if activation.smooth:
        np.testing.assert_array_equal(np.isnan(slopes), np.broadcast_to(activation.slope != 1, 4))
        assert not kinks.any()
    else:
        np.testing.assert_allclose(activation.value(u), slopes * u)
        np.testing.assert_array_equal(kinks, slopes != 1)
    some = activation.of(np.array([2, 0]))
    np.testing.assert_array_equal(some.slopes(2), slopes[[2, 0]])


@pytest.mark.parametrize(
    "text", ["relu", "leaky_relu:0.1", "leaky_relu:0.25", "sigmoid", "tanh", "identity", "swish", "exp"]
)
def test_parse_and_str_are_inverse(text):
    assert str(Activation.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gelo", "unknown activation 'gelo'; use one of relu, leaky_relu, identity, prelu, sigmoid, tanh, exp, swish"),
        ("", "unknown activation ''"),
        ("leaky_relu:x", "slope='x'.* are not numbers"),
        ("leaky_relu:nan", "slope='nan'.* pass finite"),
        ("leaky_relu:0", r"slope='0'.*'relu' has the slope 0, 'identity' 1, 'leaky_relu' one in \(0, 1\)"),
        ("leaky_relu:1", r"slope='1'.*'leaky_relu' one in \(0, 1\)"),
        ("relu:0.3", "slope='0.3'.*'relu' has the slope 0"),
        ("prelu", "'prelu' with slope=None.*pass finite numbers"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(ModelError, match=message):
        Activation.parse(text)


@pytest.mark.parametrize(
    ("name", "slope", "steepness", "message"),
    [
        ("prelu", [0.1, np.inf], None, "pass finite numbers"),
        ("prelu", [], None, "pass finite numbers"),
        ("prelu", "steep", None, "slope='steep'.* are not numbers"),
        ("leaky_relu", [0.1, 0.2], None, r"one in \(0, 1\)"),
        ("identity", 0.5, None, "'identity' 1,"),
        (None, None, None, "unknown activation None"),
        ("swish", [0.1, np.nan], None, "pass finite numbers"),
        ("swish", 0.1, [np.inf], r"steepness=\[inf\].*pass finite"),
        ("relu", None, 2.0, "steepness=2.0 takes no steepness"),
        ("softplus", None, [1, 0], r"steepness=\[1, 0\]: pass a steepness other than 0"),
        ("swish", None, "steep", "'swish' .*steepness='steep'.* are not numbers"),
    ],
)
def test_constructor_refuses(name, slope, steepness, message):
    with pytest.raises(ModelError, match=message):
        Activation(name, slope, steepness=steepness)


@each
def test_pickling_keeps_the_values(kind):
    activation = ACTIVATIONS[kind]
    copy = pickle.loads(pickle.dumps(activation))
    u = np.array([[-2.0, -1.0, -0.5, 3.0], [1.0, -1.0, 2.0, -3.0]])
    assert str(copy) == str(activation)
    np.testing.assert_array_equal(copy.value(u), activation.value(u))


@given(u=arrays(np.float64, (3, 4), elements=st.floats(-50, 50)))
def test_swish_is_the_formula_of_emulators(u):
    alpha, beta = np.array([-0.4, 0.0, 3.0, 40.0]), np.array([-1.1, 0.2, 0.0, 1.7])
    with np.errstate(over="ignore"):
        formula = (beta + (1 - beta) / (1 + np.exp(-alpha * u))) * u
    np.testing.assert_allclose(Activation("swish", beta, steepness=alpha).value(u), formula, rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(
        Activation("swish").value(u), torch.nn.functional.silu(torch.tensor(u)), rtol=1e-13, atol=1e-300
    )


@pytest.mark.parametrize("kind", [name for name, activation in ACTIVATIONS.items() if activation.scalable])
@given(u=vectors, exponent=st.integers(-40, 40))
def test_scaling_is_exact(kind, u, exponent):
    u = np.where(np.abs(u) < 1e-290, 0.0, u)
    activation = ACTIVATIONS[kind].smoothed(0.5)
    (x, slope), (scaled, scaled_slope) = (
        values_of(each, v) for each, v in ((activation, u), (activation.scaled(exponent), np.ldexp(u, exponent)))
    )
    np.testing.assert_array_equal(scaled, np.ldexp(x, exponent))
    np.testing.assert_array_equal(scaled_slope, slope)


def test_slopes_are_copied_and_read_only():
    slopes = np.array([0.1, 0.2])
    activation = Activation("prelu", slopes)
    slopes[:] = 9
    np.testing.assert_array_equal(activation.slope, [0.1, 0.2])
    with pytest.raises(ValueError, match="read-only"):
        activation.slope[0] = 9

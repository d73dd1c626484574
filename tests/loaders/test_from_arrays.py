"""Plain matrices: shapes, activations and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from tests.loaders.loader_checks import codes, layers_reproduce
from unrelu import loaders
from unrelu.errors import ModelError, OptionError
from unrelu.loaders import from_arrays
from unrelu.models.activations import Activation


def _matrices(widths, seed=0):
    random = np.random.default_rng(seed)
    weights = [random.standard_normal((n, k)) for k, n in itertools.pairwise(widths)]
    return weights, [random.standard_normal(n) for n in widths[1:]]


def test_exports():
    assert loaders.__all__ == ["from_arrays", "from_torch", "load"]
    assert all(hasattr(loaders, name) for name in loaders.__all__)


@settings(max_examples=10, deadline=None)
@given(
    widths=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    name=st.sampled_from(["relu", "leaky_relu:0.1", "sigmoid", "tanh", "identity"]),
    seed=st.integers(0, 2**31),
)
def test_is_the_formula(widths, name, seed):
    weights, biases = _matrices(widths, seed)
    net = from_arrays(weights, biases, name)
    x = z = codes(net, seed=seed)
    for w, b in zip(weights, biases, strict=True):
        x = Activation.parse(name).value(x @ w.T + b)
    np.testing.assert_allclose(net(z), x, atol=1e-10, rtol=1e-10)


def test_activation_for_each_layer_and_missing_biases():
    weights, (bias, _) = _matrices([3, 5, 4])
    net = from_arrays(weights, [bias, None], ["leaky_relu:0.2", Activation("sigmoid")])
    assert [str(layer.activation) for layer in net.layers] == ["leaky_relu:0.2", "sigmoid"]
    assert not net.layers[1].bias().any()
    layers_reproduce(net)
    assert not from_arrays(weights).layers[0].bias().any()


@pytest.mark.parametrize(
    "convert", [np.asarray, np.ndarray.tolist, torch.from_numpy, lambda w: torch.from_numpy(w).half()]
)
def test_takes_lists_arrays_and_tensors(convert):
    weights = [np.array([[1.0, -2.0], [0.5, 4.0]])]
    net = from_arrays([convert(w) for w in weights], None, "identity")
    np.testing.assert_array_equal(net.layers[0].matrix(), weights[0])


def test_the_callers_arrays_are_copied():
    weights, biases = _matrices([2, 3])
    net = from_arrays(weights, biases)
    before = net([1.0, 1.0])
    weights[0][:] = 0
    biases[0][:] = 0
    np.testing.assert_array_equal(net([1.0, 1.0]), before)
    tensor = torch.ones(2, 2, dtype=torch.float64)
    net = from_arrays([tensor])
    tensor.zero_()
    np.testing.assert_array_equal(net([1.0, 1.0]), [2, 2])


def _dense(k, n, seed):
    random = np.random.default_rng(seed)
    return {"kernel": random.standard_normal((k, n)), "bias": random.standard_normal(n)}


def _relu_chain(layers, x):
    for layer in layers:
        x = np.maximum(x @ layer["kernel"] + layer.get("bias", 0.0), 0)
    return x


LAYERS = [_dense(3 + (seed > 8), 3 + (seed > 7), seed) for seed in range(12)]
SORTED_AS_TEXT = {f"Dense_{i}": LAYERS[i] for i in sorted(range(12), key=str)}

TREES = {
    "Flax": SORTED_AS_TEXT,
    "params": {"params": SORTED_AS_TEXT},
    "module": {"params": {"decoder": SORTED_AS_TEXT}},
    "dots": {f"layers.{i}.{key}": value for i, layer in enumerate(LAYERS) for key, value in layer.items()},
    "Keras": {f"dense{'_' * (i > 0)}{i or ''}/{key}:0": v for i, each in enumerate(LAYERS) for key, v in each.items()},
    "weights": {f"layers_{i}": {"weight": each["kernel"].T.tolist(), "bias": each["bias"]}
                for i, each in enumerate(LAYERS)},
    "list": LAYERS,
    "list of modules": [{"params": {"any": layer}} for layer in LAYERS],
    "list within": {"layers": LAYERS},
}  # fmt: skip


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_dictionaries_of_layers(tree):
    net = from_arrays(tree, activation="relu")
    z = codes(net)
    np.testing.assert_allclose(net(z), _relu_chain(LAYERS, z), rtol=1e-10)


def _named(shapes):
    """Layers of these shapes; the numbers, or names, say how they are stored."""
    return {name: _dense(*shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(
    "shapes",
    [
        {"out": (5, 9), "hidden": (3, 5)},
        {"Dense_0": (5, 9), "Dense_1": (3, 5)},
        {"Dense_0": (3, 5), "Dense_1": (5, 3)},  # from 3 to 3, or from 5 to 5
        {"Dense_0": (5, 5), "Dense_1": (5, 5)},
        {"Dense_0": (3, 5), "out": (5, 9)},
    ],
)
def test_an_order_that_numbers_do_not_say_is_asked_for(shapes):
    """Of nested calls, Flax makes the outer layer first. Shapes are not looked at for an order."""
    layers = _named(shapes)
    with pytest.raises(ModelError, match=r"nothing says in which order its layers, .*; pass layers=\[...\]") as caught:
        from_arrays({"params": layers}, activation="relu")
    assert all(f"{name} {shape}" in str(caught.value) for name, shape in shapes.items())
    order = list(shapes)[::-1]
    order = order if shapes[order[0]][1] == shapes[order[1]][0] else order[::-1]
    net = from_arrays(layers, activation="relu", layers=order)
    z = np.ones((2, len(layers[order[0]]["kernel"])))
    np.testing.assert_allclose(net(z), _relu_chain([layers[name] for name in order], z), rtol=1e-10)


def test_layers_of_a_dictionary_are_picked():
    parts = {"Dense_0": (3, 5), "Dense_1": (5, 9)}
    both = {"params": {"encoder": {"Dense_0": _dense(9, 3, 0)}, "decoder": _named(parts)}}
    z, decoder = np.ones((2, 3)), both["params"]["decoder"]
    for layers in ("decoder", "decoder/", ["decoder/Dense_0", "decoder/Dense_1"]):
        net = from_arrays(both, activation="relu", layers=layers)
        np.testing.assert_allclose(net(z), _relu_chain(list(decoder.values()), z), rtol=1e-10)


X = np.random.default_rng(0).standard_normal((60, 3)) * [0.1, 1.0, 10.0] + 5
Y = np.tanh(X @ np.random.default_rng(1).standard_normal((3, 9)) / 5) * 100

PERCEPTRON = MLPRegressor(max_iter=20)
OUTPUTS = make_pipeline(StandardScaler(), PCA(4, whiten=True))
MODELS = {
    **{name: MLPRegressor(hidden_layer_sizes=(8, 7), activation=name, max_iter=20)
       for name in ("relu", "logistic", "tanh", "identity")},
    "pipeline": make_pipeline(StandardScaler(), PCA(2), PERCEPTRON),
    "target": TransformedTargetRegressor(PERCEPTRON, transformer=MinMaxScaler()),
    "plain target": TransformedTargetRegressor(PERCEPTRON),
    "all": make_pipeline(StandardScaler(), TransformedTargetRegressor(
        make_pipeline(MinMaxScaler(), PERCEPTRON), transformer=OUTPUTS, check_inverse=False
    )),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_multilayer_perceptrons_of_scikit_learn(model):
    net = from_arrays(model.fit(X, Y))
    np.testing.assert_allclose(net(X), model.predict(X), rtol=1e-9, atol=1e-9)
    assert len(net.layers) in (2, 3)
    with pytest.raises(ModelError, match=r"does not go with MLPRegressor.*, which has its own"):
        from_arrays(model, activation="relu")


W, B = np.ones((4, 3)), np.ones(4)
MATRICES = [
    (([],), "there is no weight matrix"),
    ((W,), r"'weights\[0\]' holds weight \(3,\), which is no matrix"),
    (([W], [np.ones(3)]), r"'weights\[0\]' holds weight \(4, 3\), bias \(3,\), which is no"),
    (([W], [B, B]), "1 weights but 2 biases"),
    (([W], [np.array([1, np.inf, 2, 3])]), r"1 of 4 entries of layer 'weights\[0\]' bias are NaN"),
    (([[["a"]]],), r"weights\[0\] has text entries; pass real numbers"),
    (([torch.ones(2, 2, dtype=torch.complex64)],), r"weights\[0\] has complex entries"),
    (([W], None, "leaky_relu:x"), "slope='x'.* are not numbers"),
    (([W], None, ["relu", "tanh"]), "1 layers but activations"),
    (([W], 5), "biases is a int; pass a list"),
    (([[[10**400]]],), r"weights\[0\] cannot be read as numbers"),
    (([W], None, [3]), "1 layers but activations .3."),
    ((SORTED_AS_TEXT,), r"its layers are Dense_0 \(3, 3\), Dense_1 .*Pass .*activation="),
    ((SORTED_AS_TEXT, [None], "relu"), "biases do not go with a dict"),
]
# Dictionaries, the layers that are picked, and the message.
DICTIONARIES = [
    ({"a": LAYERS[0], "b": LAYERS[1]}, None,
     r"nothing says in which order its layers, a \(3, 3\), b .*; pass layers=\[...\] in that order"),
    (_named({"Dense_0": (3, 4), "Dense_1": (3, 4)}), None,
     r"weight of shape \(4, 3\) .* does not fit an input of shape \(4,\).* by layers=\[...\]"),
    ({"a": {"kernel": [["x"]]}}, None, "a/kernel has text entries"),
    ({}, None, "no weight matrix"),
    (SORTED_AS_TEXT, ["fc"], "its layers are Dense_0, Dense_1"),
    (SORTED_AS_TEXT, "generator", "no layer as in layers='generator'"),
    (SORTED_AS_TEXT, [1], "layers must be a list of layer names"),
    (LAYERS, ["Dense_0"], "picks from a dictionary; weights is a list"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MATRICES)
def test_refused_matrices(arguments, message):
    with pytest.raises(ModelError, match=message):
        from_arrays(*arguments)


@pytest.mark.parametrize(("tree", "layers", "message"), DICTIONARIES)
def test_refused_dictionaries(tree, layers, message):
    with pytest.raises((ModelError, OptionError), match=message):
        from_arrays(tree, activation="relu", layers=layers)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        (MLPRegressor(), None, "MLPRegressor is not fitted, or no MLPRegressor, alone or in a Pipeline"),
        (MLPClassifier(max_iter=20), Y[:, 0] > 0, "MLPClassifier is not fitted, or no MLPRegressor"),
        (
            TransformedTargetRegressor(
                MLPRegressor(max_iter=20), func=np.exp, inverse_func=np.log, check_inverse=False
            ),
            Y / 100,
            "transformer_: FunctionTransformer is not fitted, clips, or is no",
        ),
    ],
)
def test_refused_estimators(model, targets, message):
    with pytest.raises(ModelError, match=message):
        from_arrays(model if targets is None else model.fit(X, targets))

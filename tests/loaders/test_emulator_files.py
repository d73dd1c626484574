"""Emulators in the layouts of CosmoPower, CosmoPower-JAX, speculator and The Payne, beside their own formulas."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import unrelu
from tests.loaders import emulator_layouts as layouts
from tests.loaders.loader_checks import layers_reproduce
from unrelu.errors import ModelError, OptionError
from unrelu.models.network import Network

Z = np.random.default_rng(1).normal(size=(7, 3))
PLAIN, PCA = layouts.drawn(False), layouts.drawn(True)
# Whether there are components in the file, and what it holds.
LAYOUTS = {
    "cosmopower": (False, layouts.cosmopower(PLAIN)),
    "cosmopower pca": (True, layouts.cosmopower_pca(PCA)),
    "cosmopower-jax": (False, layouts.cosmopower_jax(PLAIN)),
    "speculator": (True, layouts.speculator(PCA)),
    "photulator": (False, layouts.photulator(PLAIN)),
    "converted": (False, layouts.converted(PLAIN)),
    "converted pca": (True, layouts.converted(PCA, True)),
    "by layer": (False, layouts.by_layer(PLAIN)),
    "by layer pca": (True, layouts.by_layer(PCA, True)),
}

FORMS = {
    ".pkl": lambda path, contents: path.write_bytes(pickle.dumps(contents, 2)),
    ".pickle": lambda path, contents: path.write_bytes(pickle.dumps(contents, 5)),
    ".npz with a pickled dictionary": np.savez,
    ".npz of arrays": lambda path, contents: np.savez_compressed(path, **contents),
}


@pytest.mark.parametrize(
    ("layout", "form"),
    [
        *((layout, form) for layout in LAYOUTS for form in (".pkl", ".pickle")),
        *((layout, ".npz with a pickled dictionary") for layout in LAYOUTS if layout.startswith(("converted", "by"))),
        *((layout, ".npz of arrays") for layout in LAYOUTS if layout.startswith("by")),
    ],
)
def test_files_of_emulators(tmp_path, layout, form):
    pca, contents = LAYOUTS[layout]
    path = tmp_path / f"emulator{form.split()[0]}"
    FORMS[form](path, contents)
    net = unrelu.load(path)
    np.testing.assert_allclose(net(Z), layouts.outputs(PCA if pca else PLAIN, Z, pca), rtol=1e-11, atol=1e-11)
    layers_reproduce(net)
    without = layout in ("speculator", "photulator")
    assert isinstance(net, Network) if without else net.coordinate_names == tuple(layouts.NAMES)


def test_only_the_last_entry_of_the_last_bias_may_be_trained(tmp_path):
    """CosmoPower-JAX adds it to every output."""
    held = layouts.drawn(False)
    held["biases"][-1] = np.array([0, 0, 0, 0, 0.7], dtype=np.float32)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(layouts.cosmopower_jax(held)))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(layouts.cosmopower(held)))
    everywhere = {**held, "biases": [*held["biases"][:-1], np.full(5, held["biases"][-1][-1])]}
    np.testing.assert_allclose(unrelu.load(tmp_path / "a.pkl")(Z), layouts.outputs(everywhere, Z, False), rtol=1e-11)
    np.testing.assert_allclose(unrelu.load(tmp_path / "b.pkl")(Z), layouts.outputs(held, Z, False), rtol=1e-11)


def test_components_beside_the_file_and_logarithms(tmp_path):
    path, rng = tmp_path / "a.pkl", np.random.default_rng(2)
    path.write_bytes(pickle.dumps(layouts.cosmopower(PLAIN)))
    matrix, std, mean = rng.normal(size=(5, 20)), rng.uniform(0.5, 2, 20), rng.normal(size=20)
    spectra = (layouts.outputs(PLAIN, Z, False) @ matrix) * std + mean
    net = unrelu.load(path, output_basis=(matrix * std, mean))
    np.testing.assert_allclose(net(Z), spectra, rtol=1e-10, atol=1e-10)
    powers = unrelu.load(path, output_basis=(matrix * std * 0.1, mean * 0.1), output_log=10)
    np.testing.assert_allclose(powers(Z), 10 ** (0.1 * spectra), rtol=1e-10)
    assert powers.layers[-1].activation.name == "exp"
    assert len(powers.layers) == len(net.layers)
    assert powers.coordinate_names == tuple(layouts.NAMES)
    layers_reproduce(powers)


def test_an_emulator_is_inverted_in_its_own_units(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(layouts.cosmopower_pca(PCA)))
    tiny = np.log10(1e-12)
    net = unrelu.load(path, output_basis=None, output_log=10, output_scale=(tiny, 0.05))
    truth = PCA["parameters_mean"] + PCA["parameters_std"] * np.array([0.3, -0.8, 0.5])
    bounds = (PCA["parameters_mean"] - 2 * PCA["parameters_std"], PCA["parameters_mean"] + 2 * PCA["parameters_std"])
    y = net(truth)
    assert 1e-15 < y.mean() < 1e-9
    r = unrelu.invert(net, y, bounds=bounds)
    assert r.status.name == "EXACT_FIT"
    assert set(r.parameters) == set(layouts.NAMES)
    with pytest.raises(unrelu.errors.UnsupportedModelError, match=r"layer 1 has the activation swish.*method='lm'"):
        unrelu.invert(net, y, "linf")


@pytest.mark.parametrize("activation", ["sigmoid", "leaky_relu:0.01"])
def test_the_payne(tmp_path, activation):
    held = layouts.payne()
    np.savez(tmp_path / "payne.npz", **held)
    labels = np.array([[4500.0, 2.0, -1.0], [7000.0, 5.0, 0.5]])
    x = (labels - held["x_min"]) / (held["x_max"] - held["x_min"]) - 0.5
    for i in range(3):
        x = x @ held[f"w_array_{i}"].T + held[f"b_array_{i}"]
        if i < 2:
            x = 1 / (1 + np.exp(-x)) if activation == "sigmoid" else np.maximum(x, 0.01 * x)
    for given in (activation, [activation, activation, "identity"]):
        net = unrelu.load(tmp_path / "payne.npz", activation=given)
        np.testing.assert_allclose(net(labels), x, rtol=1e-11)
    with pytest.raises(ModelError, match=r"do not say what their activations are; its layers are W0 \(8, 3\)"):
        unrelu.load(tmp_path / "payne.npz")


ENDS = {"x_min": np.zeros(3), "x_max": np.ones(3)}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        *(({**layouts.payne(), **ENDS, missing: None}, "not a network of The Payne, with x_min and x_max")
          for missing in ENDS),
    ],
    ids=["no x_min", "no x_max"],
)  # fmt: skip
def test_refused_networks_of_the_payne(tmp_path, held, message):
    np.savez(tmp_path / "payne.npz", **{name: array for name, array in held.items() if array is not None})
    with pytest.raises(ModelError, match=message):
        unrelu.load(tmp_path / "payne.npz", activation="sigmoid")


def test_pickled_dictionaries_of_arrays(tmp_path):
    """As from_arrays takes them: Flax's parameters, for example."""
    params = {"params": {"Dense_0": {"kernel": np.ones((2, 4)), "bias": np.arange(4.0)}}}
    (tmp_path / "flax.pkl").write_bytes(pickle.dumps(params))
    net = unrelu.load(tmp_path / "flax.pkl", activation="relu")
    np.testing.assert_array_equal(net([1.0, 2.0]), unrelu.from_arrays(params, activation="relu")([1.0, 2.0]))


def changed(**entries):
    """A pickle of CosmoPower's list with other entries, by their names."""
    return {**layouts.by_layer(PLAIN), **entries}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (changed(W_1=np.ones((8, 7))), r"'weights\[1\]' holds weight \(7, 8\), bias \(6,\)"),
        (changed(W_1=np.ones((8, 6), dtype=complex)), r"weights\[1\] has complex entries"),
        (changed(alphas_0=np.ones(5)), r"swish slopes of shape \(8,\) and steepnesses of shape \(5,\) do not fit"),
        (changed(features_std=np.zeros(5)), "output_scale: std has 5 entries that are not positive"),
        (changed(parameters=["a"]), "the names of its parameters: names="),
        ({k: v for k, v in changed().items() if k != "alphas_1"}, "3 weights, 3 biases, 1 alphas and 2 betas"),
        (changed(pca_transform_matrix=np.ones((4, 5)), pca_mean=np.ones(1), pca_std=np.ones(1)),
         r"output_basis.* does not fit <.*of shape \(5, 4\)"),
        ([*layouts.cosmopower(PLAIN), 0], "a list, no emulator that is known"),
        ({"a": 3}, "the entry 'a' of the file is a int, not an array"),
        ({}, "holds no weights"),
    ],
)  # fmt: skip
def test_refused_emulators(tmp_path, contents, message):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(contents))
    with pytest.raises(ModelError, match=message) as caught:
        unrelu.load(tmp_path / "a.pkl")
    assert str(tmp_path / "a.pkl") in str(caught.value)


@pytest.mark.parametrize("option", [{"activation": "relu"}, {"layers": ["W_0"]}])
def test_options_that_the_file_states(tmp_path, option):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(layouts.cosmopower(PLAIN)))
    with pytest.raises(OptionError, match="does not go with a file of an emulator, which says it"):
        unrelu.load(tmp_path / "a.pkl", **option)

"""Keras 3 models with the torch backend: as they are, and as the ONNX files that they export."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from unrelu.models.network import Network

# Keras and the trace for its export warn about their own use of PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore")
Z = np.random.default_rng(0).standard_normal((3, 4))


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,)), layers.Dense(32, activation="relu"), layers.BatchNormalization(),
            layers.Reshape((4, 4, 2)), layers.Conv2DTranspose(4, 4, strides=2, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="tanh"),
        ]
    )  # fmt: skip


def test_a_model_is_inverted_as_it_is(model):
    wanted = model.predict(Z.astype(np.float32), verbose=0)
    net = unrelu.from_torch(model, 4)
    assert isinstance(net, Network)
    np.testing.assert_allclose(net(Z), wanted, rtol=1e-4, atol=1e-6)
    r = unrelu.invert(net, wanted.astype(float), noise="gaussian:0.01", learn=False)
    np.testing.assert_allclose(net(r.z), wanted, atol=0.05)


def test_a_model_is_exported_and_loaded(model, tmp_path):
    wanted = model.predict(Z.astype(np.float32), verbose=0)
    path = tmp_path / "model.onnx"
    model.export(str(path), format="onnx", verbose=False)
    net = unrelu.load(path)
    np.testing.assert_allclose(net(Z).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-6)

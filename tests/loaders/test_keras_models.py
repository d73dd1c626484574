"""Keras 3 models with the torch backend: as they are, and as the ONNX files that they export."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import unrelu
from unrelu.models.network import Network

# Keras and the trace for its export warn about their own use of PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore")
Z = np.random.default_rng(0).standard_normal((3, 4))
_MODELS = """
import json, sys
import keras
import numpy as np
import unrelu
from keras import layers

model = keras.Sequential([
    layers.Input((3,)), layers.Dense(12, activation="relu"), layers.BatchNormalization(),
    layers.Dense(24, activation="sigmoid"),
])
z = np.random.default_rng(0).normal(size=(5, 3))
wanted, folder, found = model.predict(z, verbose=0), sys.argv[1], {}
for name in ("model.keras", "model.h5"):
    model.save(f"{folder}/{name}")
    opened = keras.saving.load_model(f"{folder}/{name}", compile=False)
    opened(z)
    opened.export(f"{folder}/m.onnx", format="onnx", verbose=False)
    net = unrelu.load(f"{folder}/m.onnx")
    found[name] = type(net).__name__, float(abs(net(z) - wanted).max())
net = unrelu.from_torch(model, latent_shape=3)
found["the model itself"] = type(net).__name__, float(abs(net(z) - wanted).max())
found["inverted"] = float(unrelu.invert(net, net(z[0])).fun)
print(json.dumps(found))
"""


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


@pytest.mark.parametrize("called", [lambda m: m, lambda m: lambda z: m(z)])  # noqa: PLW0108 -- a function around it
def test_a_model_is_inverted_as_it_is(model, called):
    wanted = model.predict(Z.astype(np.float32), verbose=0)
    net = unrelu.from_torch(called(model), 4)
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


def test_a_model_of_keras_is_exported_or_passed_on(tmp_path):
    """In a process of its own, as Keras chooses its backend where it is imported. It predicts in single precision."""
    command = [sys.executable, "-c", _MODELS, str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": "torch"}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("model.keras", "model.h5", "the model itself"):
        assert found[name][1] < 1e-6, name
    assert found["model.keras"][0] == found["model.h5"][0] == "Network"
    assert found["inverted"] < 1e-8

"""The two lines of the page for models of Keras 3: its export to ONNX, and the model itself on the torch backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

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


@pytest.mark.skipif(find_spec("keras") is None, reason="needs keras")
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

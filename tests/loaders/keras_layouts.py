"""A small model in the layouts of the files that Keras 2 and Keras 3 write, and its outputs by NumPy.

Written after the files of Keras 3.15 (two of which are in ``data``) and the sources of tf-keras.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

RANDOM = np.random.default_rng(0)


class Layer(NamedTuple):
    kind: str
    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def dense(name: str, k: int, n: int, activation: Any = "linear", bias: bool = True) -> Layer:
    settings = {"name": name, "units": n, "activation": activation, "use_bias": bias}
    return Layer("Dense", settings, {"kernel": normal(k, n) / 2} | ({"bias": normal(n)} if bias else {}))


def norm(name: str, n: int) -> Layer:
    arrays = {"gamma": normal(n), "beta": normal(n), "moving_mean": normal(n), "moving_variance": normal(n) ** 2}
    return Layer(
        "BatchNormalization", {"name": name, "axis": [1], "epsilon": 0.01, "center": True, "scale": True}, arrays
    )


# Everything that is supported, the names of the layers not in the order of the alphabet.
LAYERS = [
    Layer("Normalization", {"name": "z", "axis": [-1], "mean": None, "variance": None}, {
        "mean": normal(3), "variance": np.float32([0.5, 2.0, 1.5]), "count": np.array(7)}),
    dense("y", 3, 7, "relu"),
    norm("x", 7),
    dense("w", 7, 6, bias=False),
    Layer("LeakyReLU", {"name": "v", "alpha": 0.25}, {}),
    Layer("Dropout", {"name": "u", "rate": 0.5}, {}),
    dense("t", 6, 8),
    Layer("PReLU", {"name": "s", "shared_axes": None}, {"alpha": normal(8) ** 2}),
    Layer("Rescaling", {"name": "r", "scale": 0.5, "offset": [1, 2, 3, 4, 5, 6, 7, 8]}, {}),
    dense("q", 8, 12, "sigmoid"),
    Layer("Normalization", {"name": "p", "axis": [-1], "mean": 0.5, "variance": 4.0, "invert": True}, {}),
    Layer("Reshape", {"name": "o", "target_shape": [-1, 2, 3]}, {}),
    Layer("Activation", {"name": "n", "activation": "tanh"}, {}),
    Layer("ReLU", {"name": "m", "max_value": None, "negative_slope": 0.125, "threshold": 0.0}, {}),
    Layer("Flatten", {"name": "l", "data_format": "channels_last"}, {}),
]  # fmt: skip
FUNCTIONS = {
    "linear": lambda u: u,
    "relu": lambda u: np.maximum(u, 0),
    "sigmoid": lambda u: 1 / (1 + np.exp(-u)),
    "tanh": np.tanh,
    "leaky_relu": lambda u: np.where(u > 0, u, 0.2 * u),
}


def evaluated(layers: list[Layer], x: np.ndarray) -> np.ndarray:
    """What Keras' documentation says of each layer."""
    for kind, s, held in layers:
        a = {name: array.astype(float) for name, array in held.items()}
        if kind == "Dense":
            x = FUNCTIONS[s["activation"]](x @ a["kernel"] + a.get("bias", 0.0))
        elif kind == "BatchNormalization":
            scaled = (x - a["moving_mean"]) / np.sqrt(a["moving_variance"] + s["epsilon"])
            x = a["gamma"] * scaled + a["beta"]
        elif kind == "Normalization":
            mean, std = a.get("mean", s["mean"]), np.maximum(np.sqrt(a.get("variance", s["variance"])), 1e-7)
            x = x * std + mean if s.get("invert") else (x - mean) / std
        elif kind == "Rescaling":
            x = x * s["scale"] + np.array(s["offset"])
        elif kind in ("LeakyReLU", "PReLU", "ReLU"):
            x = np.where(x > 0, x, x * a.get("alpha", s.get("alpha", s.get("negative_slope"))))
        elif kind == "Activation":
            x = FUNCTIONS[s["activation"]](x)
        elif kind in ("Reshape", "Flatten"):
            x = x.reshape(len(x), *s.get("target_shape", [-1]))
    return x


def config(layers: list[Layer], layout: str, width: int = 3) -> dict[str, Any]:
    """Sequential, or Functional where the layout says so."""
    three, functional = "Keras 3" in layout, "functional" in layout
    shape = [None, width]
    entries: list[dict[str, Any]] = [
        {"class_name": "InputLayer", "config": {"name": "code", "batch_shape" if three else "batch_input_shape": shape}}
    ] + [{"class_name": layer.kind, "config": dict(layer.settings)} for layer in layers]
    if "without input layer" in layout:
        entries = entries[1:]
        entries[0]["config"]["batch_input_shape"] = shape
    for entry in entries:
        if three or layout.endswith(".keras"):
            entry |= {"module": "keras.layers", "registered_name": None}
    if not functional:
        return {"class_name": "Sequential", "config": {"name": "decoder", "layers": entries}}
    names = [entry["config"]["name"] for entry in entries]
    for before, name, entry in zip([None, *names], names, entries, strict=False):
        tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
        call = {"args": [tensor], "kwargs": {"training": False}} if three else [[before, 0, 0, {}]]
        entry |= {"name": name, "inbound_nodes": [] if before is None else [call]}
    ends = [[name, 0, 0] for name in (names[0], names[-1])]
    settings = {"name": "decoder", "layers": entries}
    settings |= {key: end if three else [end] for key, end in zip(("input_layers", "output_layers"), ends, strict=True)}
    return {"class_name": "Functional", "config": settings}


def written(path: Path, layers: list[Layer], layout: str, **changed: Any) -> Path:
    """The file of a model or of its weights."""
    text = json.dumps(config(layers, layout) | changed)
    stored = io.BytesIO()
    with h5py.File(stored, "w") as file:
        if path.name.endswith((".keras", ".weights.h5")):
            count_by_class(file, layers, layout)
        else:
            root = file
            if "weights alone" not in layout:
                file.attrs["model_config"] = text if "Keras 3" in layout else text.encode()
                file["optimizer_weights/Adam/iteration:0"] = 5
                root = file.create_group("model_weights")
            root.attrs["layer_names"] = [layer.settings["name"].encode() for layer in layers]
            for layer in layers:
                name = layer.settings["name"]
                root.create_group(name)
                for key, array in layer.arrays.items():
                    scope, end = (f"decoder/{name}", "") if "Keras 3" in layout else (name, ":0")
                    root[f"{name}/{scope}/{key}{end}"] = array
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", "{}")
            archive.writestr("config.json", text)
            archive.writestr("model.weights.h5", stored.getvalue())
    else:
        path.write_bytes(stored.getvalue())
    return path


def count_by_class(file: h5py.File, layers: list[Layer], layout: str) -> None:
    """``layers/dense_1/vars/0``; Keras 2.12 counted layers with weights twice, and called the list otherwise."""
    two = "Keras 2" in layout
    counts: dict[str, int] = {}
    file.create_group("vars")
    file["optimizer/vars/0"] = 5
    for layer in layers:
        kind = {"PReLU": "p_re_lu", "ReLU": "re_lu", "LeakyReLU": "leaky_re_lu"}.get(layer.kind)
        kind = kind or re.sub(r"(.)([A-Z])", r"\1_\2", layer.kind).lower()
        count = counts.get(kind, 0)
        counts[kind] = count + (2 if two and layer.arrays else 1)
        group = ("_layer_checkpoint_dependencies" + ("\\" if "Windows" in layout else "/")) if two else "layers/"
        held = file.create_group(group + kind + (f"_{count}" if count else "")).create_group("vars")
        for i, array in enumerate(layer.arrays.values()):
            held[str(i)] = array

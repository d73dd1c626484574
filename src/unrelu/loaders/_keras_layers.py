"""Turn the configuration and arrays of a Keras model into a graph of PyTorch functions.

The configuration is JSON that names Keras' own classes. It is read, never run. A Lambda layer, which holds Python
bytecode, is refused, as is every class that is not in the table ``_READERS``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from unrelu.errors import ModelError, ModelFileError, UnsupportedModelError
from unrelu.loaders._chain_reader import errors_at, read_chain
from unrelu.loaders._graph_recorder import Recorder
from unrelu.loaders._torch_operations import BATCHES, float64, normalisation, sloped
from unrelu.loaders._weight_arrays import Entry, Named, natural
from unrelu.loaders.file_checks.keras_file import Arrays
from unrelu.models.affine import Scale, Shape, check_finite
from unrelu.models.network import Network
from unrelu.runtime.file_reading import shown_size

Config = Mapping[str, Any]

_MODELS = ("Sequential", "Functional", "Model")
# The most layers of a configuration: each is searched for among the arrays of the file.
_LAYERS = 2000
# Names of the list of a model's layers in a file of weights, in Keras 3 and Keras 2.
CONTAINERS = ("layers", "_layers", "_layer_checkpoint_dependencies")


def from_keras(config: Any, arrays: Arrays, max_bytes: int) -> Network:
    """Return the network that a configuration describes.

    Raises:
        ModelFileError: the configuration is not one that Keras writes, or arrays are missing.
        UnsupportedModelError: a layer is not an affine map or a known activation, or the model branches.
        ModelError: shapes do not fit, or weights are not finite.

    Source: https://keras.io/guides/serialization_and_saving/ and the files of Keras 2 and 3.
    """
    try:
        model = _Layer.read(config)
        if model.kind not in _MODELS:
            raise UnsupportedModelError(
                f"is a {model.kind}, a custom class, whose code is not in the file. Save its decoder alone, "
                "vae.decoder.save('decoder.keras'), or pick its weights with layers=[...] and activation="
            )
        if (count := model.count()) > _LAYERS:
            raise ModelFileError(f"its configuration has {count:,} layers; at most {_LAYERS:,} are read")
        shape = _input_shape(model)
        if 8 * math.prod(shape) > max_bytes:
            raise ModelFileError(f"states codes of shape {shape}, {shown_size(8 * math.prod(shape))}")
        recorder = Recorder((BATCHES[0], *shape), "the input", max_bytes)
        output: Any = _output(model, recorder.code, _Weights.of_file(arrays), recorder)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelFileError(
            f"its configuration is not what Keras writes ({type(error).__name__}: {str(error)[:200]}); save it anew"
        ) from error
    found = read_chain([recorder.graph_of(output)], shape, BATCHES[:1])
    if not isinstance(found, Network):
        raise found
    return found


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of a configuration, or a model used as a layer."""

    kind: str
    name: str
    settings: Config
    nodes: Sequence[Any]

    @classmethod
    def read(cls, config: Config) -> _Layer:
        kind, settings = str(config["class_name"]), config["config"]
        if isinstance(settings, list):  # Sequential of Keras before 2.2.3
            settings = {"name": kind, "layers": settings}
        name = str(settings.get("name", config.get("name", kind)))
        module, registered = str(config.get("module") or "keras"), str(config.get("registered_name") or "")
        if not re.match(r"(tf_|tensorflow\.)?(keras|python\.keras)\b", module) or ">" in registered:
            kind = registered.rpartition(">")[2] or kind
            raise UnsupportedModelError(
                f"layer {name!r} ({kind}) is a custom class, whose code is not in the file; use Keras' own layers"
            )
        return cls(kind, name, settings, config.get("inbound_nodes") or [])

    @property
    def layers(self) -> list[_Layer]:
        """The layers of a model."""
        return [_Layer.read(config) for config in self.settings["layers"]]

    def count(self) -> int:
        """The number of layers, those of nested models included."""
        return sum(1 + (layer.count() if layer.kind in _MODELS else 0) for layer in self.layers)

    def __str__(self) -> str:
        return f"layer {self.name!r} ({self.kind})"

    def inbound(self) -> list[str]:
        """The names of the layers whose outputs it takes."""
        if len(self.nodes) != 1:
            raise UnsupportedModelError(
                f"{self} is applied {len(self.nodes)} times; only chains of layers can be inverted"
            )
        node = self.nodes[0]
        if isinstance(node, Mapping):  # Keras 3
            return list(_histories(node))
        return [str(call[0]) for call in node]


def _histories(node: Any) -> list[str]:
    """The names of the layers whose outputs are arguments of a call, in a configuration of Keras 3."""
    if isinstance(node, Mapping):
        if node.get("class_name") == "__keras_tensor__":
            return [str(node["config"]["keras_history"][0])]
        return [name for value in node.values() for name in _histories(value)]
    return [name for value in node for name in _histories(value)] if isinstance(node, list) else []


def _input_shape(model: _Layer) -> Shape:
    """The shape of one code."""
    layers = model.layers
    first = next((layer for layer in layers if layer.kind == "InputLayer"), layers[0])
    stated = [first.settings.get(key) for key in ("batch_shape", "batch_input_shape")]
    full = next((shape for shape in [*stated, model.settings.get("build_input_shape")] if shape), None)
    if full is None and first.kind in _MODELS:
        return _input_shape(first)
    if full is None or None in full[1:] or len(full) < 2:
        problem = "does not say the shape of a code" if full is None else f"takes codes of shape {tuple(full[1:])}"
        raise ModelError(f"the model {problem}; build it with keras.Input(shape=(k,)) and save it anew")
    shape = tuple(full[1:])
    if any(type(n) is not int or n < 1 for n in shape):
        raise ModelFileError(f"its configuration states codes of shape {shape}; these are positive numbers")
    return shape


def _output(model: _Layer, code: Any, weights: _Weights, recorder: Recorder) -> Any:
    """Record a model, or a model used as a layer, and return its output."""
    functional, last, found = model.kind != "Sequential", "", {"": code}
    if functional:
        for key in ("input_layers", "output_layers"):
            if len(ends := _ends(model.settings[key])) != 1:
                raise UnsupportedModelError(f"the model has {len(ends)} {key[:-7]}s, {ends}; a generator has one")
    for layer in model.layers:
        if functional:
            given = [""] if layer.kind == "InputLayer" else layer.inbound()
            if missing := [name for name in given if name not in found]:
                raise ModelFileError(f"{layer} takes the output of {missing[0]!r}, which is not before it")
        inputs = [found[name] for name in (given if functional else [last])]
        last = layer.name
        found[last] = _applied(layer, inputs, weights, recorder)
    weights.check_all_used()
    return found[_ends(model.settings["output_layers"])[0] if functional else last]


def _ends(given: Any) -> list[str]:
    """Names of the input or output layers: [[name, 0, 0], ...], or of a single one [name, 0, 0]."""
    return [str(given[0])] if given and isinstance(given[0], str) else [str(end[0]) for end in given]


def _applied(layer: _Layer, inputs: list[Any], weights: _Weights, recorder: Recorder) -> Any:
    """Record a layer and return its output."""
    if layer.kind in _MODELS and len(inputs) == 1:
        return _output(layer, inputs[0], weights.inside(layer), recorder)
    recorder.at(str(layer))
    with errors_at(str(layer), [x.shape[1:] for x in inputs]):
        if len(inputs) != 1:
            raise UnsupportedModelError("joins two branches; only chains of layers can be inverted")
        if layer.kind == "Lambda":
            raise UnsupportedModelError(
                "holds Python code, which is not run; replace it by layers of Keras, or use ONNX"
            )
        if layer.kind not in _READERS:
            raise UnsupportedModelError(
                f"is not supported; supported are {', '.join(_READERS)}. Convolutions are read from ONNX: "
                "model.export('decoder.onnx', format='onnx')"
            )
        return _READERS[layer.kind](layer, inputs[0], weights)


# --- arrays -----------------------------------------------------------------------------------------------------------


class _Weights:
    """The arrays of a model, handed out layer by layer.

    ``model.save("model.h5")`` stores them by the names of layers and arrays: ``dense_1/dense_1/kernel:0``. A ``.keras``
    file of Keras 3 and late versions of Keras 2 numbers the layers of each class and the arrays of each layer:
    ``layers/dense_1/vars/0`` is the kernel of the second Dense layer, whatever its name is.
    """

    def __init__(self, arrays: Arrays, counted: bool) -> None:
        self._arrays, self._counted = arrays, counted
        self._used: dict[str, int] = {}

    @classmethod
    def of_file(cls, arrays: Arrays) -> _Weights:
        counted = {path: array for path, array in arrays.items() if path.split("/")[0] in CONTAINERS}
        below = {path.partition("/")[2]: array for path, array in counted.items()}
        return cls(below, True) if counted else cls(arrays, False)

    def of(self, layer: _Layer, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a layer by name; ``names`` are in the order of Keras' numbers, and some may be missing."""
        if self._counted:
            below = self._below(self._group(layer))
            found = {names[i]: below[f"vars/{i}"] for i in range(len(names)) if f"vars/{i}" in below}
        else:
            inside = self._below(layer.name)
            paths = inside or {
                path: array for path, array in self._arrays.items() if layer.name in path.split("/")[:-1]
            }
            found = {}
            for path, array in paths.items():
                name = path.split("/")[-1].partition(":")[0]
                if name in found:
                    raise ModelFileError(f"{layer} has several arrays called {name!r}")
                found[name] = array
        for name, array in found.items():
            if array.dtype.kind != "f" and name != "count":
                raise UnsupportedModelError(
                    f"has a {name} of type {array.dtype}, as quantized and bfloat16 layers have; save it as float32"
                )
        return found

    def inside(self, layer: _Layer) -> _Weights:
        """The arrays of a model used as a layer."""
        below = self._below(self._group(layer) if self._counted else layer.name)
        return _Weights.of_file(below) if self._counted else _Weights(below, False)

    def check_all_used(self) -> None:
        """Refuse a file that has another number of layers of a class than the configuration."""
        for kind, used in self._used.items():
            if len(groups := self._groups(kind)) != used:
                raise ModelFileError(f"the configuration has {used} layers {kind!r}, the file {len(groups)}: {groups}")

    def _below(self, group: str) -> Arrays:
        return {path[len(group) + 1 :]: array for path, array in self._arrays.items() if path.startswith(f"{group}/")}

    def _group(self, layer: _Layer) -> str:
        """The next group of the layer's class, in the order of their numbers (which may have gaps)."""
        kind = _snake_case(layer.kind)
        self._used[kind] = self._used.get(kind, 0) + 1
        groups = self._groups(kind)
        if self._used[kind] > len(groups):
            raise ModelFileError(f"{layer} has no weights in the file, which has {len(groups)} of {kind!r}")
        return groups[self._used[kind] - 1]

    def _groups(self, kind: str) -> list[str]:
        numbered = {
            int(m[1] or 0): name
            for name in {path.split("/")[0] for path in self._arrays}
            if (m := re.fullmatch(rf"{re.escape(kind)}(?:_(\d{{1,9}}))?", name))
        }
        return [numbered[i] for i in sorted(numbered)]


def by_layer(arrays: Arrays) -> Named:
    """Return the arrays of a file without a configuration, by layer: ``dense_1``, or ``decoder/dense_1`` in a model.

    Where arrays are numbered (``layers/dense_1/vars/0``), their shapes tell which is which.
    """
    layers: dict[str, dict[str, Entry]] = {}
    for path in sorted(arrays, key=natural):
        *folders, name = path.split("/")
        if "vars" in folders:
            folders = [folder for folder in folders[: folders.index("vars")] if folder not in CONTAINERS]
        else:
            folders, name = folders[1:] or folders, name.partition(":")[0]
        if "seed_generator" not in folders:
            layers.setdefault("/".join(folders), {})[name] = arrays[path]
    return {layer: _named(layer.rpartition("/")[2], held) for layer, held in layers.items()}


def _named(layer: str, held: dict[str, Entry]) -> dict[str, Entry]:
    """Name the numbered arrays of a Dense layer or a batch normalisation, which may lack gamma or beta."""
    if list(held) != [str(i) for i in range(len(held))]:
        return held
    axes = tuple(array.ndim for array in held.values())
    moments = ["moving_mean", "moving_variance"]
    if axes == (1,) * 4 or (layer.startswith("batch_normalization") and len(held) >= 2):
        names = [*["gamma", "beta"][: len(held) - 2], *moments]
    else:
        names = {(2,): ["kernel"], (2, 1): ["kernel", "bias"]}.get(axes, list(held))
    return dict(zip(names, held.values(), strict=True))


def _snake_case(kind: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", kind).lower()


# --- layers -----------------------------------------------------------------------------------------------------------


def _dense(layer: _Layer, x: Tensor, weights: _Weights) -> Tensor:
    """kernel^T x + bias; kernels of Keras are (inputs, outputs)."""
    found = weights.of(layer, ("kernel", "bias"))
    kernel = found["kernel"]
    if kernel.ndim != 2 or kernel.shape[1] != layer.settings.get("units", kernel.shape[1]):
        raise ModelError(f"has {layer.settings['units']} units but a kernel of shape {kernel.shape}")
    bias = float64(found["bias"], "its bias") if layer.settings.get("use_bias", True) else None
    return _activated(F.linear(x, float64(kernel.T, "its kernel"), bias), layer.settings.get("activation"))


def _batch_normalisation(layer: _Layer, x: Tensor, weights: _Weights) -> Tensor:
    settings = layer.settings
    _check_axis(settings.get("axis", -1), x)
    used = [name for name, flag in (("gamma", "scale"), ("beta", "center")) if settings.get(flag, True)]
    found = weights.of(layer, [*used, "moving_mean", "moving_variance"])
    gamma, beta = (None if name not in used else float64(found[name], name) for name in ("gamma", "beta"))
    mean, variance = (float64(found[name], name) for name in ("moving_mean", "moving_variance"))
    channels = tuple(x.shape[-1:])
    return normalisation(mean, variance, gamma, beta, eps=_number(settings, "epsilon", 1e-3), shape=channels).apply(x)


def _normalisation(layer: _Layer, x: Tensor, weights: _Weights) -> Tensor:
    """(x - mean) / max(std, 1e-7), or with ``invert`` mean + x max(std, 1e-7)."""
    settings = layer.settings
    _check_axis(settings.get("axis", -1), x)
    if settings.get("mean") is not None:
        found = {name: _values(settings[name]) for name in ("mean", "variance")}
    else:
        found = weights.of(layer, ("mean", "variance", "count"))
    mean, variance = (float64(found[name], name).squeeze() for name in ("mean", "variance"))
    check_finite(variance, "its variance")
    std = variance.sqrt().clamp_min(1e-7)
    return (Scale(std, mean) if settings.get("invert") else Scale(1 / std, -mean / std)).apply(x)


def _rescaling(layer: _Layer, x: Tensor, weights: _Weights) -> Tensor:
    scale, offset = (float64(_values(layer.settings[key]), key) for key in ("scale", "offset"))
    return Scale(scale, offset).apply(x)


def _activated(x: Tensor, given: Any) -> Tensor:
    """Apply an activation, given by its name or as a layer."""
    if isinstance(given, Mapping) and given.get("class_name") in ("ReLU", "LeakyReLU"):
        return _bent(x, given["class_name"], given["config"])
    if given is None or given == "linear":
        return x
    if not isinstance(given, str) or given not in _ACTIVATIONS:
        name = given.get("config", given.get("class_name")) if isinstance(given, Mapping) else given
        raise UnsupportedModelError(
            f"has the activation {str(name)[:80]!r}; known are linear, {', '.join(_ACTIVATIONS)}, and the layers ReLU, "
            "LeakyReLU and PReLU"
        )
    return _ACTIVATIONS[given](x)


def _bent(x: Tensor, kind: str, settings: Config) -> Tensor:
    """Apply ReLU or LeakyReLU, max(u, 0) + c min(u, 0)."""
    if settings.get("max_value") is not None or settings.get("threshold"):
        raise UnsupportedModelError(
            f"has max_value={settings.get('max_value')!r} and threshold={settings.get('threshold')!r}; only a ReLU "
            "that bends at 0 alone is supported"
        )
    default = 0.3 if kind == "LeakyReLU" else 0.0
    return F.leaky_relu(x, _number(settings, "negative_slope" if "negative_slope" in settings else "alpha", default))


def _number(settings: Config, key: str, default: float) -> float:
    value = _values(settings.get(key, default))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ModelFileError(f"has {key}={str(value)[:80]!r}, which is no number")
    return float(value)


def _values(given: Any) -> Any:
    """A number or list; Keras may wrap it in a record that says it was an array."""
    if isinstance(given, Mapping):
        return given["config"]["value"] if "config" in given else given["value"]
    return given


def _check_axis(axis: Any, x: Tensor) -> None:
    axes = axis if isinstance(axis, list) else [] if axis is None else [axis]
    if any(a not in (-1, x.dim() - 1) for a in axes):
        raise UnsupportedModelError(f"normalises along axis={axis}; only the last one is supported")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exponential": torch.exp,
    **dict.fromkeys(("silu", "swish"), F.silu),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
}
_READERS: dict[str, Callable[[_Layer, Tensor, _Weights], Tensor]] = {
    "Dense": _dense,
    "Activation": lambda layer, x, weights: _activated(x, layer.settings["activation"]),
    **dict.fromkeys(("ReLU", "LeakyReLU"), lambda layer, x, weights: _bent(x, layer.kind, layer.settings)),
    "PReLU": lambda layer, x, weights: sloped(x, float64(weights.of(layer, ("alpha",))["alpha"], "alpha")),
    "BatchNormalization": _batch_normalisation,
    "Normalization": _normalisation,
    "Rescaling": _rescaling,
    "Flatten": lambda layer, x, weights: x.reshape(x.shape[0], math.prod(x.shape[1:])),
    "Reshape": lambda layer, x, weights: x.reshape(x.shape[0], *layer.settings["target_shape"]),
    # Layers that act in training only.
    **dict.fromkeys(
        ("InputLayer", "Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization"),
        lambda layer, x, weights: x,
    ),
}

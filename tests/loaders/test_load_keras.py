"""Keras' files in all their layouts, against NumPy and against Keras itself; and what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.loaders.keras_layouts import LAYERS, Layer, config, dense, evaluated, norm, written
from tests.loaders.loader_checks import layers_reproduce
from unrelu.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from unrelu.loaders import load

DATA = Path(__file__).parent / "data"
CODES = np.random.default_rng(1).standard_normal((5, 3))

MODELS = {
    "Keras 2": "a.h5",
    "Keras 2, without input layer": "a.hdf5",
    "Keras 2, functional": "a.h5",
    "Keras 2.keras": "a.keras",
    "Keras 2, functional, Windows.keras": "a.keras",
    "Keras 3": "a.h5",
    "Keras 3, functional": "a.h5",
    "Keras 3.keras": "a.keras",
    "Keras 3, functional.keras": "a.keras",
}


def stored(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", MODELS)
def test_a_model_is_what_numpy_computes(tmp_path, layout):
    path = written(tmp_path / MODELS[layout], LAYERS, layout)
    net = load(path)
    np.testing.assert_allclose(net(CODES), evaluated(LAYERS, CODES), rtol=1e-10, atol=1e-10)
    assert net.latent_shape == (3,)
    layers_reproduce(net)


@pytest.mark.parametrize("name", ["decoder.keras", "decoder.h5"])
def test_files_of_keras_itself(name):
    """Both were written by Keras 3.15.1 on PyTorch, which put out these numbers in single precision::

    code = keras.Input((2,), name="code")
    x = layers.Dense(4, activation="relu", name="hidden")(code)
    x = layers.BatchNormalization()(x)
    x = layers.LeakyReLU(negative_slope=0.2)(layers.Dense(5, name="outputs")(x))
    model = keras.Model(code, x)
    rng = np.random.default_rng(0)
    model.set_weights([
        rng.uniform(0.2, 1.0, w.shape) * (rng.choice([-1, 1], w.shape) if w.ndim > 1 else 1)
        for w in model.get_weights()
    ])
    model.save("decoder.keras"), model.save("decoder.h5")
    model.predict([[0.5, -1.0], [2.0, 0.25]])
    """
    net = load(DATA / name)
    assert [str(layer.activation) for layer in net.layers] == ["relu", "leaky_relu:0.2"]
    wanted = [
        [0.4547099471092224, 2.2823212146759033, -0.23227958381175995, 0.3806309700012207, 1.149895191192627],
        [0.33727747201919556, 3.3499844074249268, -0.17730258405208588, 0.043222904205322266, 1.137884497642517],
    ]
    np.testing.assert_allclose(net([[0.5, -1.0], [2.0, 0.25]]), wanted, atol=1e-6)


@pytest.mark.parametrize("layout", ["Keras 2", "Keras 3", "Keras 3.keras"])
def test_a_model_within_a_model(tmp_path, layout):
    inner, outer = [dense("b", 4, 5, "relu"), dense("c", 5, 5)], [dense("a", 3, 4, "tanh"), dense("d", 5, 6, "relu")]
    path = written(tmp_path / ("a.keras" if "." in layout else "a.h5"), outer, layout)
    model = config(outer, layout)
    model["config"]["layers"].insert(2, config(inner, layout, width=4) | {"module": "keras"})
    model["config"]["layers"][2]["config"]["name"] = "inner"
    if path.suffix == ".keras":
        arrays = {
            f"layers/dense{'_1' * i}/vars/{j}": array
            for i, layer in enumerate(outer)
            for j, array in enumerate(layer.arrays.values())
        }
        arrays |= {
            f"layers/sequential/layers/dense{'_1' * i}/vars/{j}": array
            for i, layer in enumerate(inner)
            for j, array in enumerate(layer.arrays.values())
        }
        weights = io.BytesIO()
        stored(weights, **arrays)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(model))
            archive.writestr("model.weights.h5", weights.getvalue())
    else:
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = json.dumps(model)
            for layer in inner:
                for key, array in layer.arrays.items():
                    end = (
                        f"inner/{layer.settings['name']}/{key}"
                        if "3" in layout
                        else f"{layer.settings['name']}/{key}:0"
                    )
                    file[f"model_weights/inner/{end}"] = array
    np.testing.assert_allclose(load(path)(CODES), evaluated([outer[0], *inner, outer[1]], CODES), rtol=1e-10)


def test_an_activation_may_be_a_layer(tmp_path):
    bent = {"module": "keras.layers", "class_name": "LeakyReLU", "config": {"negative_slope": 0.4}}
    net = load(written(tmp_path / "a.keras", [dense("a", 3, 4, bent), dense("b", 4, 4, "leaky_relu")], "Keras 3"))
    assert [str(layer.activation) for layer in net.layers] == ["leaky_relu:0.4", "leaky_relu:0.2"]


def test_smooth_activations(tmp_path):
    ends = ["silu", "swish", "exponential"]
    layers = [dense(name, width, 3, end) for name, width, end in zip("abc", (3, 3, 3), ends, strict=True)]
    net = load(written(tmp_path / "a.keras", layers, "Keras 3"))
    assert [str(layer.activation) for layer in net.layers] == ["swish", "swish", "exp"]
    x = CODES
    for layer, end in zip(net.layers, ends, strict=True):
        u = x @ layer.matrix().T + layer.bias()
        x = np.exp(u) if end == "exponential" else u / (1 + np.exp(-u))
    np.testing.assert_allclose(net(CODES), x, rtol=1e-10)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([dense("a", 3, 4, "softmax")], r"layer 'a' \(Dense\) has the activation 'softmax'; known are linear, relu, "),
        ([dense("a", 3, 4, {"class_name": "function", "config": "mine"})], "has the activation 'mine'"),
        ([Layer("Lambda", {"name": "a"}, {})], r"layer 'a' \(Lambda\) holds Python code, which is not run"),
        ([Layer("Conv2D", {"name": "a"}, {})], r"layer 'a' \(Conv2D\) is not supported; supported are Dense.*ONNX"),
        ([Layer("ReLU", {"name": "a", "max_value": 6.0}, {})], r"max_value=6\.0.*only a ReLU that bends at 0 alone"),
        ([Layer("LeakyReLU", {"name": "a", "alpha": "x"}, {})], "has alpha='x', which is no number"),
        ([Layer("Reshape", {"name": "a", "target_shape": [2, 2]}, {})], r"layer 'a' .* does not fit an input of shape"),
        ([dense("a", 4, 4)], r"layer 'a' \(Dense\) does not fit an input of shape \(3,\): .*x3 and 4x4"),
        ([dense("a", 3, 4), norm("b", 5)], r"layer 'b' \(BatchNormalization\): normalises 5 channels"),
        ([Layer("Dense", {"name": "a", "units": 4}, {})], r"layer 'a' \(Dense\) .*no weights|'kernel'"),
        (
            [Layer("Dense", {"name": "a", "units": 4}, {"kernel": np.ones((3, 5)), "bias": np.ones(5)})],
            "has 4 units but",
        ),
        (
            [Layer("Dense", {"name": "a", "units": 4}, {"kernel": np.ones((3, 4), np.int8), "bias": np.ones(4)})],
            "has a kernel of type int8, as quantized",
        ),
        (
            [Layer("Dense", {"name": "a", "units": 1}, {"kernel": np.full((3, 1), np.nan), "bias": np.ones(1)})],
            "3 of 3 .*NaN",
        ),
        ([], "nothing|no layer|at least one layer"),
    ],
)
@pytest.mark.parametrize("layout", ["Keras 2", "Keras 3.keras"])
def test_layers_that_are_refused_by_name(tmp_path, layout, layers, message):
    path = written(tmp_path / MODELS[layout], layers, layout)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_branches_are_refused(tmp_path):
    layers = [dense("a", 3, 4), dense("b", 4, 4), Layer("Add", {"name": "c"}, {})]
    for layout in ("Keras 2, functional", "Keras 3, functional"):
        model = config(layers, layout)["config"]
        call = model["layers"][-1]["inbound_nodes"][0]
        (call["args"] if "3" in layout else call).append(
            {"class_name": "__keras_tensor__", "config": {"keras_history": ["a", 0, 0]}}
            if "3" in layout
            else ["a", 0, 0, {}]
        )
        with pytest.raises(UnsupportedModelError, match=r"layer 'c' \(Add\) joins two branches"):
            load(written(tmp_path / "a.h5", layers, layout, config=model))
    layers = [dense("a", 3, 3), dense("b", 3, 3)]
    model = config(layers[:2], "Keras 2, functional")["config"]
    model["layers"][-1]["inbound_nodes"][0][0][0] = "code"
    with pytest.raises(UnsupportedModelError, match=r"'b' .* and layer 'a' .* both take the output of the input"):
        load(written(tmp_path / "a.h5", layers[:2], "Keras 2, functional", config=model))
    model = config(layers[:2], "Keras 2, functional")["config"]
    model["layers"][-1]["inbound_nodes"] *= 2
    with pytest.raises(UnsupportedModelError, match=r"'b' .*is applied 2 times"):
        load(written(tmp_path / "a.h5", layers[:2], "Keras 2, functional", config=model))
    model["input_layers"] *= 2
    with pytest.raises(UnsupportedModelError, match="the model has 2 inputs"):
        load(written(tmp_path / "a.h5", layers[:2], "Keras 2, functional", config=model))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_name": "VAE"}, "is a VAE, a custom class, whose code is not in the file. Save its decoder"),
        ({"module": "mine", "registered_name": "mine>Sequential"}, "is a custom class"),
        ({"config": {}}, r"its configuration is not what Keras writes \(KeyError"),
        ({"config": 5}, "its configuration is not what Keras writes"),
        ({"config": {"layers": []}}, "its configuration is not what Keras writes"),
        ({"config": {"layers": [{"class_name": "Dense", "config": {}}]}}, "does not say the shape of a code"),
        (
            {"config": {"layers": [{"class_name": "InputLayer", "config": {"batch_shape": [None, None, 3]}}]}},
            r"takes codes of shape \(None, 3\); build it with keras.Input",
        ),
        (
            {"config": {"layers": [{"class_name": "InputLayer", "config": {"batch_shape": [None, 2**40]}}]}},
            "states codes of shape",
        ),
        (
            {"config": {"layers": [{"class_name": "InputLayer", "config": {"batch_shape": [None, -3]}}]}},
            "these are positive numbers",
        ),
    ],
)
def test_configurations_that_are_refused(tmp_path, changed, message):
    for name in ("a.h5", "a.keras"):
        with pytest.raises(ModelError, match=message):
            load(written(tmp_path / name, [dense("a", 3, 4)], "Keras 3", **changed))


def test_endless_models_are_refused(tmp_path):
    layers = [Layer("Dropout", {"name": "a"}, {})] * 2001
    with pytest.raises(ModelFileError, match="its configuration has 2,002 layers; at most 2,000 are read"):
        load(written(tmp_path / "a.keras", layers, "Keras 3"))


def test_more_layers_in_the_file_than_in_the_configuration(tmp_path):
    path = written(tmp_path / "a.keras", [dense("a", 3, 3), dense("b", 3, 3)], "Keras 3")
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config([dense("a", 3, 3)], "Keras 3")))
        archive.writestr("model.weights.h5", weights)
    with pytest.raises(ModelFileError, match=r"configuration has 1 layers 'dense', the file 2: \['dense', 'dense_1'\]"):
        load(path)


# --- weights ----------------------------------------------------------------------------------------------------------

CHAIN = [dense("dense" + f"_{i}" * (i > 0), 3, 3, "relu") for i in range(12)]


@pytest.mark.parametrize(("name", "layout"), [("a.h5", "Keras 2, weights alone"), ("a.weights.h5", "Keras 3")])
def test_weights_are_sorted_by_their_numbers(tmp_path, name, layout):
    path = written(tmp_path / name, CHAIN, layout)
    np.testing.assert_allclose(load(path, activation="relu")(CODES), evaluated(CHAIN, CODES), rtol=1e-10)
    picked = load(path, layers=["dense_2", "dense_10"], activation="relu")
    np.testing.assert_allclose(picked(CODES), evaluated([CHAIN[2], CHAIN[10]], CODES), rtol=1e-10)
    with pytest.raises(
        ModelError, match=r"does not say what its activations are; its layers are dense \(3, 3\), dense_1"
    ):
        load(path)


def test_names_without_an_order_are_asked_for(tmp_path):
    layers = [dense("hidden", 3, 4, "relu"), norm("norm", 4), dense("code", 4, 3, "relu")]
    path = written(tmp_path / "a.h5", layers, "Keras 2, weights alone")
    with pytest.raises(
        ModelError, match=r"nothing says in which order its layers, code \(4, 3\), hidden .*; pass layers="
    ):
        load(path, activation="relu")
    net = load(path, layers=["hidden", "code"], activation="relu")
    np.testing.assert_allclose(net(CODES), evaluated([layers[0], layers[2]], CODES), rtol=1e-10)
    with pytest.raises(
        UnsupportedModelError, match="'norm' is a batch normalisation, which acts before the activation"
    ):
        load(path, layers=["hidden", "norm", "code"], activation="relu")


@pytest.mark.parametrize("left_out", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_batch_normalisations_whose_arrays_are_only_counted_are_refused_by_name(tmp_path, left_out):
    kind, settings, arrays = norm("norm", 4)
    held = {name: array for name, array in arrays.items() if name not in left_out}
    layers = [dense("hidden", 3, 4, "relu"), Layer(kind, settings, held), dense("code", 4, 3, "relu")]
    path = written(tmp_path / "a.weights.h5", layers, "Keras 3")
    with pytest.raises(UnsupportedModelError, match="layer 'batch_normalization' is a batch normalisation, which acts"):
        load(path, layers=["dense", "batch_normalization", "dense_1"], activation="relu")


def test_a_decoder_is_picked_out_of_a_model_with_code_of_its_own(tmp_path):
    path = written(tmp_path / "a.keras", CHAIN[:3], "Keras 3", class_name="VAE")
    net = load(path, layers=["dense_1", "dense_2"], activation="relu")
    np.testing.assert_allclose(net(CODES), evaluated(CHAIN[1:3], CODES), rtol=1e-10)


def test_a_model_says_its_activations_itself(tmp_path):
    path = written(tmp_path / "a.keras", CHAIN[:2], "Keras 3")
    with pytest.raises(
        OptionError, match="activation='tanh' does not go with the file of a whole model, which stores it"
    ):
        load(path, activation="tanh")


# --- files made to do harm --------------------------------------------------------------------------------------------


def test_other_files_are_not_read(tmp_path):
    secret = stored(tmp_path / "secret.h5", **{"kernel:0": np.eye(3)})
    raw = tmp_path / "raw"
    raw.write_bytes(np.eye(3).tobytes())
    path = tmp_path / "a.h5"
    for name, message in {
        "external link": r"dense/kernel:0 is a link to another file, '.*secret.h5', which is not followed",
        "soft link": "dense/kernel:0 is a link to another place which is not followed",
        "external storage": "the array /dense/kernel:0 is stored in other files",
        "virtual": "the array /dense/kernel:0 is stored in other files",
    }.items():
        with h5py.File(path, "w") as file:
            group = file.create_group("dense")
            if name == "external link":
                group["kernel:0"] = h5py.ExternalLink(str(secret), "kernel:0")
            elif name == "soft link":
                file["other"] = np.eye(3)
                group["kernel:0"] = h5py.SoftLink("/other")
            elif name == "external storage":
                group.create_dataset("kernel:0", (3, 3), "f8", external=[(str(raw), 0, 72)])
            else:
                layout = h5py.VirtualLayout((3, 3), "f8")
                layout[:] = h5py.VirtualSource(str(secret), "kernel:0", (3, 3))
                group.create_virtual_dataset("kernel:0", layout)
        with pytest.raises(ModelFileError, match=message):
            load(path, activation="relu")


def test_circles_and_sizes_are_bounded(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["dense/dense"] = file.create_group("dense")
    with pytest.raises(ModelFileError, match=r"holds more than .* names, or 32 groups in one another"):
        load(path, activation="relu")
    with h5py.File(path, "w") as file:
        file.create_dataset("dense/kernel:0", (2**30, 2**20), "f4", chunks=(1, 2**10))  # nothing is stored
    with pytest.raises(ModelFileError, match=r"states the shape .* more than is stored"):
        load(path, activation="relu")
    with h5py.File(path, "w") as file:
        file.create_dataset("dense/kernel:0", data=np.zeros((2**10, 2**10)), compression="gzip")
    with pytest.raises(ModelFileError, match="the array /dense/kernel:0 is compressed, which Keras does not do"):
        load(path, activation="relu")
    stored(path, **{"dense/kernel:0": np.ones((100, 100), np.float32)})
    with pytest.raises(ModelFileError, match="its arrays take more than 50 KiB as float64"):
        load(path, activation="relu", max_bytes=51200)
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", " " * 2**20)
        archive.writestr("model.weights.h5", bytes(2**24))
    with pytest.raises(ModelFileError, match="would decompress to 17 MiB"):
        load(tmp_path / "a.keras", max_bytes=2**23)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config.json": b"{}"}, "holds no 'model.weights.h5', but config.json; save it anew"),
        ({"config.json": b"{", "model.weights.h5": b""}, "its configuration cannot be read as JSON"),
        ({"config.json": b"[" * 10**5, "model.weights.h5": b""}, "its configuration cannot be read as JSON"),
        ({"config.json": b"{}", "model.weights.h5": b"x"}, "not a readable HDF5 file"),
        ({"config.json": b"[1]", "model.weights.h5": None}, "its configuration is not what Keras writes"),
    ],
)
def test_damaged_members(tmp_path, members, message):
    empty = io.BytesIO()
    stored(empty)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, empty.getvalue() if content is None else content)
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "a.keras")


def test_other_hdf5_files(tmp_path):
    path = stored(tmp_path / "a.h5", words=np.array([b"abc"]))
    with pytest.raises(ModelFileError, match=r"the array /words has entries of type \|S3; save the model in float32"):
        load(path, activation="relu")
    with pytest.raises(ModelFileError, match="holds no weights"):
        load(stored(path), activation="relu")
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = ["{}", "{}"]
    with pytest.raises(ModelFileError, match="its attribute 'model_config' is no text"):
        load(path)

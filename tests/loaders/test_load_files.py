"""Checkpoints and weight files: what each format may hold, and what is refused without being run."""

from __future__ import annotations

import ast
import builtins
import io
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.loaders.loader_checks import check_same_as_module, evaluation
from tests.loaders.onnx_checks import node, write
from unrelu.errors import ModelError, ModelFileError, OptionError
from unrelu.loaders import from_arrays, load

RANDOM = np.random.default_rng(0)
WEIGHTS = [RANDOM.standard_normal(shape) for shape in ((5, 3), (7, 5), (2, 7))]
BIASES = [RANDOM.standard_normal(n) for n in (5, 7, 2)]
NUMBERED = {f"W{i}": weight for i, weight in enumerate(WEIGHTS)}
CODE = RANDOM.standard_normal((4, 3))


def same(net, activation="relu", biases=BIASES):
    np.testing.assert_allclose(net(CODE), from_arrays(WEIGHTS, biases, activation)(CODE), atol=1e-12)


def module(batch_norm=False):
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(5)] if batch_norm else []
    return evaluation(nn.Sequential(nn.Linear(3, 5), *norms, nn.ReLU(), nn.Linear(5, 4), nn.ReLU()))


def saved(path, value):
    if path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(tensor) for name, tensor in value.items()})
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(dict(value), path)
    else:
        torch.save(value, path)
    return path


KINDS = ["a.npz", "a.pt", "a.safetensors", "a.onnx"]
STATE_DICT_FILES = ["a.npz", "a.PTH", "a.safetensors"]


# --- any state_dict ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATE_DICT_FILES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_state_dict(tmp_path, name, batch_norm):
    m = module(batch_norm)
    path = saved(tmp_path / name, m.state_dict())
    check_same_as_module(load(path, activation="relu"), m)
    check_same_as_module(load(str(path), activation=["relu", "relu"]), m)
    assert [str(layer.activation) for layer in load(path, activation="tanh").layers] == ["tanh"] * 2


@pytest.mark.parametrize("name", STATE_DICT_FILES)
def test_layers_are_picked_by_what_their_names_begin_with(tmp_path, name):
    """Of a whole VAE's file, its decoder; ``decoder2`` does not begin with ``decoder.``."""
    decoder = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 9), nn.Sigmoid())
    vae = nn.ModuleDict({"encoder": nn.Linear(9, 6), "decoder": decoder, "decoder2": nn.Linear(3, 3)})
    path = saved(tmp_path / name, vae.double().state_dict())
    for prefix in ("decoder", "decoder."):
        check_same_as_module(load(path, layers=prefix, activation=["relu", "sigmoid"]), decoder)
    with pytest.raises(ModelError, match=r"no layer as in layers='dec\.'; its layers are "):
        load(path, layers="dec.")


@pytest.mark.parametrize("name", STATE_DICT_FILES)
def test_layers_are_picked_by_name(tmp_path, name):
    vae = nn.ModuleDict({k: nn.Linear(*shape) for k, shape in {
        "fc1": (9, 6), "fc21": (6, 3), "fc22": (6, 3), "fc3": (3, 6), "fc4": (6, 9)}.items()})  # fmt: skip
    path = saved(tmp_path / name, vae.double().state_dict())
    decoder = nn.Sequential(vae["fc3"], nn.ReLU(), vae["fc4"], nn.Sigmoid())
    check_same_as_module(load(path, layers=["fc3", "fc4"], activation=["relu", "sigmoid"]), decoder)
    with pytest.raises(ModelError, match=r"no layer as in layers=\['fc3', 'fc5'\]; its layers are fc1, .*fc4"):
        load(path, layers=["fc3", "fc5"])
    with pytest.raises(
        ModelError,
        match=r"Dense with a weight of shape .* does not fit an input of shape .*fc1 \(6, 9\).*fc4 \(9, 6\).* "
        r"pick layers, in the order in which they are applied, by layers=\[\.\.\.\]",
    ):
        load(path)


ALONE = "weights alone do not say what it computes"

STATES = [
    (nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 3)).state_dict(),
     rf"layer '2' holds .*\(2, 1, 3, 3\).*{ALONE}.*from_torch"),
    (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).state_dict(), rf"layer '1' holds .*weight \(4,\).*{ALONE}"),
    (nn.GRU(3, 4).state_dict(), rf"layer '' holds .*weight_ih_l0 \(12, 3\).*{ALONE}.*from_torch"),
    ({"a.weight": torch.ones(3, 3), "a.bias": torch.ones(4)}, rf"layer 'a' holds .*weight \(3, 3\).*{ALONE}"),
    ({"a.weight": torch.full((3, 3), torch.nan)}, "9 of 9 entries of layer 'a' weight are NaN"),
    ({"a.weight": torch.ones(3), "a.running_mean": torch.ones(3)}, rf"layer 'a' holds .*running_mean.*{ALONE}"),
    ({"a.running_var": torch.ones(2), "a.running_mean": torch.ones(2)}, "no weight matrix"),
    ({"a0.weight": torch.ones(2, 2), "a1.running_var": -torch.ones(2), "a1.running_mean": torch.ones(2)},
     r"entries of a (Scale scale|Dense weight) are NaN"),
    ({"a0.weight": torch.ones(3, 3), "a1.running_var": torch.ones(2), "a1.running_mean": torch.ones(2)},
     r"Scale with a scale of shape \(2,\) .* does not fit an input of shape \(3,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "message"), STATES)
@pytest.mark.parametrize("name", STATE_DICT_FILES)
def test_refusals_of_state_dicts(tmp_path, name, state, message):
    with pytest.raises(ModelError, match=message) as caught:
        load(saved(tmp_path / name, state))
    assert str(caught.value).startswith(str(tmp_path / name))


# --- activations that the file does not tell --------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATE_DICT_FILES)
def test_activations_are_asked_for_and_those_of_the_message_work(tmp_path, name):
    path = saved(tmp_path / name, module(batch_norm=True).state_dict())
    with pytest.raises(ModelError, match="weights do not say what their activations are") as caught:
        load(path)
    assert type(caught.value) is ModelError
    assert str(path) in str(caught.value)
    assert "--activation relu or relu,sigmoid" in str(caught.value)
    net = load(path, activation=ast.literal_eval(re.search(r"activation=(\[.*?\])", str(caught.value))[1]))
    assert [str(layer.activation) for layer in net.layers] == ["relu", "sigmoid"]


# --- .npz -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("w", "b"), [("W", "b"), ("weight", "bias"), ("weights_", "biases_")])
def test_numbered_arrays(tmp_path, first, w, b):
    arrays = {f"{w}{first + i}": weight for i, weight in enumerate(WEIGHTS)}
    arrays = {f"{b}{first + i}": bias for i, bias in enumerate(BIASES)} | dict(reversed(arrays.items()))
    np.savez(tmp_path / "a.npz", **arrays)
    same(load(tmp_path / "a.npz", activation="relu"))


def test_numbers_are_sorted_as_numbers(tmp_path):
    weights = [np.diag([i + 1.0, 1.0]) @ [[1, 1], [0, 1]] for i in range(12)]
    np.savez(tmp_path / "a.npz", **{f"W{i}": w for i, w in enumerate(weights)})
    np.testing.assert_allclose(load(tmp_path / "a.npz", activation="relu")([1, 1]), from_arrays(weights)([1, 1]))


def test_stored_activation(tmp_path):
    path = tmp_path / "a.npz"
    for stored in ("tanh", ["tanh", "relu", "leaky_relu:0.3"]):
        np.savez(path, **NUMBERED, activation=stored)
        same(load(path), stored, None)
        same(load(path, activation="sigmoid"), "sigmoid", None)


@pytest.mark.parametrize("separator", [".", "/"])
def test_kernels_are_transposed_and_sorted_by_their_numbers(tmp_path, separator):
    names = [f"decoder{separator}dense", *(f"decoder{separator}dense_{i}" for i in (2, 10))]
    pairs = list(zip(names, WEIGHTS, BIASES, strict=True))
    arrays = {f"{name}{separator}{key}": a for name, w, b in pairs[::-1] for key, a in (("bias", b), ("kernel", w.T))}
    np.savez(tmp_path / "a.npz", **arrays)
    same(load(tmp_path / "a.npz", activation="relu"))
    np.savez(tmp_path / "a.npz", **{name.replace("_2", "_x"): a for name, a in arrays.items()})
    with pytest.raises(ModelError, match=r"nothing says in which order its layers, .*dense_x \(5, 7\).*; pass layers="):
        load(tmp_path / "a.npz", activation="relu")
    same(load(tmp_path / "a.npz", layers=[name.replace("_2", "_x") for name in names], activation="relu"))


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "generator", "anything"])
def test_nested_state_dict(tmp_path, key):
    m = module()
    optimizer = torch.optim.Adam(m.parameters())
    m(torch.zeros(1, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, key: m.state_dict(), "optimizer": optimizer.state_dict(), "loss": 0.1, "args": {}}
    check_same_as_module(load(saved(tmp_path / "a.pt", checkpoint), activation="relu"), m)


def test_several_state_dicts(tmp_path):
    m = module()
    path = saved(tmp_path / "a.pt", {"epoch": 1, "generator": m.state_dict(), "critic": nn.Linear(4, 1).state_dict()})
    with pytest.raises(
        ModelFileError,
        match=r"a dict with 2 state_dicts; its keys are epoch, generator, critic\. Pick one by what its layers' names ",
    ):
        load(path)
    for layers in (["generator.0", "generator.2"], "generator."):
        check_same_as_module(load(path, layers=layers, activation="relu"), m)
    with pytest.raises(ModelError, match=r"its layers are generator\.0, generator\.2, critic"):
        load(path, layers=["0"])


@pytest.mark.parametrize("location", ["cpu", "cuda:0"])
def test_files_of_pytorch_before_1_6(tmp_path, location):
    """Those of the paper's authors were saved on a GPU; the place is a text in the pickle."""
    m, content = module(), io.BytesIO()
    torch.save(OrderedDict(m.state_dict()), content, _use_new_zipfile_serialization=False)
    before, after = (b"X" + len(place).to_bytes(4, "little") + place.encode() for place in ("cpu", location))
    assert content.getvalue().count(before) > 0
    (tmp_path / "a.pth").write_bytes(content.getvalue().replace(before, after))
    check_same_as_module(load(tmp_path / "a.pth", activation="relu"), m)


@pytest.mark.parametrize(("name", "zipped"), [("a.pth", True), ("a.pth", False), ("a.pkl", False), ("a.npz", True)])
def test_files_may_not_be_larger_than_allowed(tmp_path, monkeypatch, name, zipped):
    path, state = tmp_path / name, {"0.weight": torch.zeros(300, 200)}
    if name == "a.pth":
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    elif name == "a.pkl":
        path.write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    else:
        saved(path, state)
    monkeypatch.setenv("UNRELU_MAX_FILE_BYTES", "200000")
    said = r".* at most 195\.3 KiB are read: set .* UNRELU_MAX_FILE_BYTES=24\d{4} if you trust"
    with pytest.raises(ModelFileError, match=re.escape(str(path)) + said):
        load(path, activation="relu")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_states_more_numbers_than_it_holds_is_refused(tmp_path, zipped):
    def larger(content):
        return content.replace(b"K\x14", b"K\xfa").replace(b"K\x05K\x04", b"K\x32K\x05")

    content = io.BytesIO()
    torch.save({"0.weight": torch.zeros(5, 4, dtype=torch.uint8)}, content, _use_new_zipfile_serialization=zipped)
    (tmp_path / "a.pth").write_bytes(larger(content.getvalue()))
    if zipped:
        with zipfile.ZipFile(content) as old, zipfile.ZipFile(tmp_path / "a.pth", "w") as new:
            for name in old.namelist():
                new.writestr(name, larger(old.read(name)))
    with pytest.raises(ModelFileError, match="not a PyTorch file, or a truncated one"):
        load(tmp_path / "a.pth", activation="relu")


# --- files that could run code ----------------------------------------------------------------------------------------


class Payload:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (os.mkdir, (self.target,))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "protocol 0", "object array"])
def test_nothing_in_a_file_is_run(tmp_path, name, how):
    victim, path = tmp_path / "pwned", tmp_path / name
    hostile = {"a.weight": torch.ones(2, 2), "b": Payload(victim)}
    if how in ("zip", "legacy"):
        torch.save(hostile, path, _use_new_zipfile_serialization=how == "zip")
    elif how == "object array":
        with path.open("wb") as stream:
            np.savez(stream, W0=np.array([Payload(victim)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(hostile, protocol=0 if how == "protocol 0" else 2))
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert not victim.exists()
    assert str(path) in str(caught.value)
    pickle.loads(pickle.dumps(Payload(victim)))
    assert victim.exists()  # the payload is live; only the loader left it alone


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(module()).save(str(tmp_path / "a.pt"))
    with pytest.raises(
        ModelFileError, match=r"a program of TorchScript, which can read and write files.*torch\.jit\.load"
    ):
        load(tmp_path / "a.pt")


# --- files that are not what they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "content",
    [b"hello world, this is a text", b"\x00" * 64, b"\x80", b'{"a": 1}', b"PK\x03\x04 not a zip", b"\x80\x02"],
)
def test_foreign_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=r"not a (readable|PyTorch|valid|\.safetensors)") as caught:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", KINDS)
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    if name == "a.onnx":
        write(path, [node("MatMul", ["x", "w"], ["y"])], [4], {"w": np.ones((4, 4), np.float32)})
    else:
        saved(path, module().state_dict())
    message = {"a.onnx": "not a valid ONNX model, or a truncated one .*; export it again"}.get(name, "not a")
    whole = path.read_bytes()
    for length in {*range(1, len(whole), 7 if name == "a.onnx" else len(whole) // 4), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=message):
            load(path)


FOREIGN = r"a\.pt: the file holds pickled objects .*could run code: 'torch\.nn\.modules\.container\.Sequential'.*"
FOREIGN += r"save module\.state_dict\(\).*from_torch"
# A file's name, what is saved in it, and the message.
CONTENTS = [
    ("a.npz", {"W0": np.ones((2, 2)), "w0": np.ones((2, 2))}, "two arrays are the weight of 'W0': W0, w0"),
    ("a.npz", {"W0": np.ones((2, 3)), "b0": np.ones(3)}, r"weight \(2, 3\), bias \(3,\), .* kernels .* as kernel\.T"),
    ("a.npz", {"activation": "relu"}, "holds no weights"),
    ("a.npz", {"W0": np.array([["a"]])}, "layer 'W0' weight has text entries; pass real numbers"),
    ("a.npz", {**NUMBERED, "activation": 3}, "entry 'activation' must be a string or a list of strings, got int64"),
    ("a.npz", {**NUMBERED, "activation": ["relu"]}, r"3 layers but activations \['relu'\]"),
    ("a.pt", torch.ones(3, 3), r"holds a Tensor with 0 state_dicts.* save module.state_dict\(\)"),
    ("a.pt", [torch.ones(3, 3)], "holds a list with 0 state_dicts.*from_arrays"),
    ("a.pt", {"epoch": 3, "name": "x"}, "0 state_dicts; its keys are epoch, name"),
    ("a.pt", {}, "0 state_dicts; its keys are none"),
    ("a.pt", module(), FOREIGN),
    ("a.pt", {"model": module()}, FOREIGN),
    ("a.safetensors", {}, "holds no weights"),
]


@pytest.mark.parametrize(("name", "contents", "message"), CONTENTS)
def test_refused_contents(tmp_path, name, contents, message):
    with pytest.raises(ModelError, match=message):
        load(saved(tmp_path / name, contents))


def test_other_archives(tmp_path):
    for name in ("a.npz", "a.pt"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(ModelFileError, match=r"not a readable .npy array|not a PyTorch file"):
            load(tmp_path / name)
    np.save(tmp_path / "b.npy", np.ones((2, 2)))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(ModelFileError, match=r"not a readable \.npz archive .*; save it with numpy\.savez"):
        load(tmp_path / "b.npz")


def test_damaged_member(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, *WEIGHTS)
    damaged = bytearray(path.read_bytes())
    damaged[200:240] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(ModelFileError, match=r"not a readable \.np[yz]"):
        load(path)


@pytest.mark.parametrize("name", KINDS)
def test_empty_and_missing_files_folders_and_modules(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ModelFileError, match=rf"{name} does not exist"):
        load(path)
    path.touch()
    with pytest.raises(ModelFileError, match=rf"{name} is empty"):
        load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelFileError, match=rf"{name} is a folder; pass the model file itself"):
        load(path)
    with pytest.raises(ModelFileError, match=r"load takes a path, got Sequential; for modules use unrelu.from_torch"):
        load(module())


def test_unreadable(tmp_path, monkeypatch):
    (tmp_path / "a.npz").write_bytes(b"x")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unrelu.runtime.file_reading.open", refuse, raising=False)
    with pytest.raises(ModelFileError, match=r"a\.npz cannot be read: .*Permission denied"):
        load(tmp_path / "a.npz")


# --- suffixes, options and packages -----------------------------------------------------------------------------------

UNKNOWN = r"unknown suffix '.*'; model files end in \.onnx, \.npz, \.pkl, \.pickle, \.pt, \.pth, "
KERAS = r"If you trust its author.*keras\.saving\.load_model\('.*'\).*model\.export\('m\.onnx', format='onnx'\).*"
KERAS += r"unrelu\.from_torch\(model, latent_shape=\.\.\.\)"
NAMES = r"layers must be a list of layer names, or what .*, got "
# A file's name, options, and the message.
OPTIONS = [
    *((name, {}, UNKNOWN) for name in ("a.joblib", "a.dill", "model")),
    *((name, {}, KERAS) for name in ("a.keras", "a.h5", "a.HDF5")),
    ("a.pt2", {}, r"If you trust its author, unrelu\.from_torch\(torch\.export\.load\('.*a\.pt2'\)\.module\(\)\)"),
    ("a.onnx", {"layers": ["fc1"]},
     r"layers=\['fc1'\] does not go with a file of a graph, which says it: leave it out"),
    ("a.pt", {"latent_shape": 3}, "latent_shape=3 does not go with a file of weights, only with graphs: leave it"),
    ("a.pt", {"layers": 5}, NAMES + "5"),
    ("a.pt", {"layers": [1, 2]}, NAMES + r"\[1, 2\]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), OPTIONS)
def test_refused_names_and_options(tmp_path, name, options, message):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(OptionError if options else ModelFileError, match=message):
        load(tmp_path / name, **options)


@pytest.mark.parametrize("package", ["onnx", "safetensors"])
def test_missing_packages(tmp_path, monkeypatch, package):
    genuine = builtins.__import__

    def without(module, *arguments):
        if module.partition(".")[0] == package:
            raise ImportError(module)
        return genuine(module, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "unrelu.loaders._onnx_graph", raising=False)
    (tmp_path / f"a.{package}").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=f"pip install {package}"):
        load(tmp_path / f"a.{package}")

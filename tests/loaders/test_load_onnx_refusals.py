"""ONNX graphs that are no chain of layers, or no valid model: the message names the file, the node and the way out."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.loaders.onnx_checks import check_same_as_runtime, node, numbers, write
from unrelu.errors import ModelError, ModelFileError, UnsupportedModelError
from unrelu.loaders import load
from unrelu.opaque.opaque_network import OpaqueNetwork

M = numbers(4, 4)
C = numbers(4)
BN = {"w": C, "b": C, "m": C, "v": C**2}
SCALES = np.array([1, 1, 2, 2], np.float32)

CONSTANT = helper.make_graph(
    [node("Constant", [], ["c"], value=numpy_helper.from_array(C))],
    "b",
    [],
    [helper.make_tensor_value_info("c", 1, [4])],
)
BATCH_AXIS = "the batch axis must stay the first"
# nodes, shape of one code, constants, message
REFUSED = [
    ([node("Gemm", ["w", "x"], ["y"])], [4], {"w": M}, r"node .y. \(Gemm\) cannot be .*(reduction|multiplied)"),
    ([node("Gemm", ["x", "w", "c"], ["y"])], [4], {"w": M, "c": numbers(3, 4)}, BATCH_AXIS),
    ([node("MatMul", ["x", "w"], ["y"])], [4], {"w": M * np.float32(np.nan)}, "16 of 16 entries of .* are NaN"),
    ([node("MatMul", ["x", "w"], ["y"])], [4], {"w": M[None]}, BATCH_AXIS),
    ([node("Div", ["x", "c"], ["y"])], [4], {"c": C * 0}, "NaN or infinite"),
    ([node("Transpose", ["x"], ["y"], perm=[1, 0])], [4], {}, BATCH_AXIS),
    ([node("Conv", ["x", "w"], ["y"])], [3, 3, 3], {"w": numbers(2, 2, 1, 1)}, r"\(Conv\) cannot be computed"),
    ([node("Conv", ["x", "w"], ["y"])], [3, 3], {"w": numbers(2, 1, 1, 1)}, "has a kernel of 2 axes for elements of"),
    ([node("ConvTranspose", ["x", "w"], ["y"], output_shape=[9, 9])], [2, 3, 3], {"w": numbers(2, 2, 2, 2)},
     "give pads and output_padding instead"),
    ([node("BatchNormalization", ["x", *BN], ["y", "m1", "v1"], training_mode=1)], [4], BN, "'training_mode'"),
    ([node("Dropout", ["x", "p", "t"], ["y"])], [4], {"p": np.array(0.5, np.float32), "t": np.array(True)},
     "drops entries at random .training_mode.; export"),
    ([node("Dropout", ["x"], ["h", "mask"]), node("Cast", ["mask"], ["y"], to=1, name="c")], [4], {},
     r"node 'c' \(Cast\) cannot be computed: 'mask'"),
    ([node("Reshape", ["x", "s"], ["y"])], [4], {"s": np.array([2, -1])}, BATCH_AXIS),
    ([node("Slice", ["x", "s", "e"], ["y"])], [4], {"s": np.array([1]), "e": np.array([2])}, BATCH_AXIS),
    ([node("Resize", ["x", "", "s"], ["y"], mode="cubic")], [1, 2, 2], {"s": SCALES}, "resizes with mode='cubic'"),
    ([node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="tf_crop_and_resize")], [1, 2, 2],
     {"s": SCALES}, "coordinate_transformation_mode='tf_crop_and_resize'"),
    ([node("RandomNormalLike", ["x"], ["y"])], [4], {}, r"\(RandomNormalLike\) is not known; supported are Abs"),
    ([node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=1), node("Slice", ["f", "z", "o"], ["c"]),
      node("Mul", ["x", "c"], ["y"], name="m")], [4], {"z": np.array([0]), "o": np.array([1])},
     "its layers have other outputs: it depends on the batch size"),
    ([node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])], [4], {},
     "an input has another output alone than in a batch"),
    ([node("CumSum", ["c", "a"], ["k"], reverse=1), node("Add", ["x", "k"], ["y"])], [4], {"c": C, "a": np.array(0)},
     "'reverse'"),
    ([node("ScatterND", ["c", "i", "c"], ["k"], reduction="add"), node("Add", ["x", "k"], ["y"])], [4],
     {"c": C, "i": np.array([[0]] * 4)}, "'reduction'"),
    ([node("Cast", ["c"], ["k"], to=8), node("Add", ["x", "k"], ["y"])], [4], {"c": C},
     r"to a type \(number 8\) that is no real number"),
    ([node("Identity", ["w"], ["y"])], [4], {"w": M}, "the output 'y' does not depend on the input"),
    ([node("Identity", ["x"], ["y"])], [4], {}, "at least one layer"),
    ([node("Add", ["w", "c"], ["d"], name="k"), node("Add", ["x", "d"], ["y"])], [4], {"w": M, "c": numbers(3)},
     r"node 'k' \(Add\) cannot be computed"),
    ([node("If", ["t"], ["d"], then_branch=CONSTANT, else_branch=CONSTANT), node("Add", ["x", "d"], ["y"])], [4],
     {"t": np.array(True)}, r"node 'd' \(If\) is not known"),
    ([node("FusedGemm", ["x", "w"], ["y"], domain="com.microsoft")], [4], {"w": M}, r"\(FusedGemm\) is not known"),
]  # fmt: skip

# The same of graphs that are generators all the same.
KEPT = [
    ([node("Softsign", ["x"], ["y"], name="act")], [4], {},
     r"node 'act' \(Softsign\) calls abs\(\), which is not an affine map or a known activation$"),
    ([node("Softsign", ["x"], ["y"])], [4], {}, r"node 'y' \(Softsign\)"),
    (
        [node("Relu", ["x"], ["h"], name="r"), node("Mul", ["h", "x"], ["y"], name="mul_3")],
        [4], {}, r"node 'mul_3' \(Mul\) has branches, by mul\(\); only chains of layers can be inverted",
    ),
    (
        [node("Relu", ["x"], ["a"], name="r"), node("Tanh", ["x"], ["b"], name="t"), node("Mul", ["a", "b"], ["y"])],
        [4], {}, r"node 't' \(Tanh\) and node 'r' \(Relu\) both take the output of the code",
    ),
    ([node("Mul", ["x", "x"], ["y"])], [4], {}, r"has branches, by mul\(\)"),
    ([node("MatMul", ["x", "w"], ["y"])], [4], {"w": C}, r"calls mv\(\)"),
    ([node("Div", ["c", "x"], ["y"])], [4], {"c": C}, r"calls div\(\)"),
    ([node("Pad", ["x", "p", "c"], ["y"])], [4], {"p": np.array([0, 1, 0, 1]), "c": np.array(1, np.float32)},
     "only zeros"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "shape", "constants", "message"), REFUSED)
def test_refusals(tmp_path, nodes, shape, constants, message):
    path = write(tmp_path / "net.onnx", nodes, shape, constants)
    if any(n.domain for n in nodes):
        model = onnx.load(path)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        onnx.save(model, path)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("nodes", "shape", "constants", "message"), KEPT)
def test_no_chain_but_a_generator(tmp_path, nodes, shape, constants, message):
    """It computes what ONNX Runtime does, and says why it is no chain."""
    path = write(tmp_path / "net.onnx", nodes, shape, constants)
    net = check_same_as_runtime(path)
    assert isinstance(net, OpaqueNetwork)
    assert re.search(message, net.reason)


def value(name, shape=("b", 4), kind=1):
    return helper.make_tensor_value_info(name, kind, shape)


def with_function(model):
    nodes, imports = [node("Relu", ["a"], ["b"])], model.opset_import
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], nodes, imports))
    model.opset_import.append(helper.make_opsetid("local", 1))


def with_input(*arguments):
    return lambda model: model.graph.input[0].CopyFrom(value("x", *arguments))


INVALID = (ModelFileError, "not a valid ONNX model")
# Changes of the model relu(x w), options, the error and its message.
MODELS = [
    (lambda model: model.ClearField("ir_version"), {}, *INVALID),
    (lambda model: model.ClearField("opset_import"), {}, *INVALID),
    (lambda model: model.graph.node.append(node("NoSuchOperator", ["x"], ["q"])), {}, *INVALID),
    (lambda model: model.graph.node.append(node("Relu", ["nowhere"], ["q"])), {}, *INVALID),
    (lambda model: model.graph.initializer[0].dims.append(7), {}, *INVALID),
    (lambda model: setattr(model.opset_import[0], "version", 12), {}, UnsupportedModelError,
     r"opset 12, .*onnx\.version_converter\.convert_version\(onnx.load"),
    (with_function, {}, UnsupportedModelError, r"has functions, .*onnx\.inliner\.inline_local_functions"),
    (lambda model: model.graph.input.append(value("c")), {}, UnsupportedModelError,
     r"the graph has 2 inputs \(x, c\); a generator has one"),
    (lambda model: model.graph.initializer.append(numpy_helper.from_array(M, "x")), {}, UnsupportedModelError,
     r"the graph has 0 inputs \(none\)"),
    (lambda model: model.graph.output.append(value("h")), {}, UnsupportedModelError,
     r"the graph has 2 outputs \(y, h\); pass output='name' for one of them"),
    (with_input(["b", "k"]), {}, ModelError, r"leaves the input 'x' of shape \(\?, \?\) open; pass latent_shape="),
    (with_input(["b", -1]), {}, ModelError, r"of shape \(\?, \?\) open; pass latent_shape="),
    (with_input(), {"latent_shape": 5}, ModelError, r"latent_shape=5 does not fit the input 'x' of shape \(\?, 4\)"),
    (with_input(["b", "k"]), {"latent_shape": (2, 2)}, ModelError,
     r"latent_shape=\(2, 2\) does not fit the input 'x' of shape \(\?, \?\)"),
    (with_input(["b", "k", 3]), {"latent_shape": (2, 2)}, ModelError, r"latent_shape=\(2, 2\) does not fit"),
    (with_input(["b", "k"]), {"latent_shape": 0}, ModelError, "latent_shape must be a positive integer"),
    (with_input([4]), {}, ModelError, r"the input 'x' of shape \(4\) is no batch of codes"),
    (with_input(["b", 4], 7), {}, ModelError, "is no batch of codes, real numbers whose first axis is the batch"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "options", "error", "message"), MODELS)
def test_models(tmp_path, change, options, error, message):
    path = write(tmp_path / "a.onnx", [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])], [4], {"w": M})
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(error, match=message):
        load(path, **options)


@pytest.mark.parametrize("location", ["../secret.bin", "absolute", "link.bin", "missing.bin"])
def test_tensors_outside_the_folder_are_not_read(tmp_path, location):
    folder = tmp_path / "models"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(M.tobytes())
    (folder / "link.bin").symlink_to(secret)
    path = write(folder / "a.onnx", [node("MatMul", ["x", "w"], ["y"])], [4], {"w": M})
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=str(secret) if location == "absolute" else location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelFileError, match=r"tensor 'w' is in another file, .*; the only one that is read is a.onnx.data"
    ):
        load(path)

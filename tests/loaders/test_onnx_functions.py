"""ONNX operators of graphs that branch: each computes what ONNX Runtime does, and is differentiated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from hosts import default_dtype
from tests.loaders.onnx_checks import check_same_as_runtime, export, node, numbers, write
from tests.opaque_modules import GENERATORS, codes
from unrelu._invert import invert
from unrelu.loaders import load
from unrelu.opaque.opaque_network import OpaqueNetwork


def ints(*values):
    return np.array(values, np.int64)


# nodes from x to y, shape of one code, constants; of opset 20.
OPERATORS = {
    **{name: ([node(name, ["x"], ["y"])], [9], {}) for name in (
        "Abs", "Cos", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LogSoftmax", "Mish", "Selu", "Sin", "Softmax",
        "Softplus", "Softsign",
    )},
    **{name: ([node(name, ["x", "c"], ["y"])], [9], {"c": numbers(9)}) for name in ("Max", "Min")},
    **{name: ([node("Tanh", ["x"], ["h"]), node(name, ["x", "h", "h"], ["y"])], [4], {}) for name in ("Mean", "Sum")},
    **{name: ([node("Mul", ["x", "x"], ["h"]), node("Add", ["h", "c"], ["g"]), node(name, ["g"], ["y"])], [4],
              {"c": np.abs(numbers(4)) + 1}) for name in ("Log", "Reciprocal", "Sqrt")},
    "AveragePool": ([node("AveragePool", ["x"], ["h"], kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
                     node("Add", ["x", "h"], ["y"])], [2, 4, 4], {}),
    "Celu": ([node("Celu", ["x"], ["y"], alpha=0.5)], [4], {}),
    "Clip": ([node("Clip", ["x", "a", "b"], ["y"])], [9], {"a": np.float32(-0.6), "b": np.float32(0.7)}),
    "Concat": ([node("Tanh", ["x"], ["h"]), node("Concat", ["x", "h"], ["y"], axis=-1)], [4], {}),
    "Conv": (
        [node("Tanh", ["x"], ["h"]), node("Conv", ["h", "w", "b"], ["c"], pads=[1, 1, 1, 1], group=2),
         node("Add", ["x", "c"], ["y"])], [2, 4, 4], {"w": numbers(2, 1, 3, 3), "b": numbers(2)},
    ),
    "ConvTranspose": (
        [node("Abs", ["x"], ["h"]), node("ConvTranspose", ["h", "w", "b"], ["y"], strides=[2, 2], pads=[1, 0, 1, 0],
              output_padding=[1, 1])], [2, 3, 3], {"w": numbers(2, 3, 3, 3), "b": numbers(3)},
    ),
    "DepthToSpace": ([node("DepthToSpace", ["x"], ["y"], blocksize=2)], [8, 2, 3], {}),
    "Einsum": ([node("Einsum", ["x", "w"], ["y"], equation="bi,io->bo")], [4], {"w": numbers(4, 5)}),
    "Elu": ([node("Elu", ["x"], ["y"], alpha=0.7)], [4], {}),
    "Exp": ([node("Exp", ["x"], ["h"]), node("Add", ["h", "x"], ["y"])], [4], {}),
    "Expand": ([node("Expand", ["x", "s"], ["h"]), node("Mul", ["h", "w"], ["y"])], [1, 4],
               {"s": ints(1, 3, 4), "w": numbers(3, 4)}),
    "Gather": ([node("Gather", ["x", "i"], ["y"], axis=1)], [5], {"i": ints(0, -1, 2, 2)}),
    "Gemm": ([node("Tanh", ["x"], ["h"]), node("Gemm", ["h", "w", "b"], ["g"], transB=1, alpha=0.5, beta=2.0),
              node("Mul", ["g", "x"], ["y"])], [4], {"w": numbers(4, 4), "b": numbers(4)}),
    "InstanceNormalization": ([node("InstanceNormalization", ["x", "s", "b"], ["y"])], [2, 4, 3],
                              {"s": numbers(2), "b": numbers(2)}),
    "LayerNormalization": ([node("LayerNormalization", ["x", "s", "b"], ["y"])], [6],
                           {"s": numbers(6), "b": numbers(6)}),
    "MatMul": ([node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["t", "x"], ["y"])], [3, 2], {}),
    "MaxPool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 1, 0, 1])], [2, 4, 4], {}),
    "PRelu": ([node("Tanh", ["x"], ["h"]), node("PRelu", ["h", "s"], ["p"]), node("Add", ["p", "x"], ["y"])], [4],
              {"s": numbers(4)}),
    "Pad": ([node("Pad", ["x", "p"], ["y"], mode="reflect")], [2, 5], {"p": ints(0, 0, 2, 0, 0, 1)}),
    "Pow": ([node("Pow", ["x", "p"], ["y"])], [4], {"p": np.float32(3)}),
    "ReduceL2": ([node("ReduceL2", ["x", "a"], ["n"]), node("Div", ["x", "n"], ["y"])], [5], {"a": ints(1)}),
    "ReduceMax": ([node("ReduceMax", ["x", "a"], ["n"]), node("Sub", ["x", "n"], ["y"])], [5], {"a": ints(-1)}),
    "ReduceSum": ([node("ReduceSum", ["x", "a"], ["y"], keepdims=0)], [3, 4], {"a": ints(1)}),
    "Slice": ([node("Slice", ["x", "s", "e", "a", "t"], ["y"])], [6],
              {"s": ints(5), "e": ints(-100), "a": ints(1), "t": ints(-2)}),
    "Split": ([node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), node("Mul", ["a", "b"], ["y"])], [6], {}),
    "Tile": ([node("Tile", ["x", "r"], ["h"]), node("Mul", ["h", "w"], ["y"])], [3],
             {"r": ints(1, 2), "w": numbers(6)}),
    "Where": ([node("Greater", ["x", "c"], ["m"]), node("Tanh", ["x"], ["h"]), node("Where", ["m", "h", "x"], ["y"])],
              [9], {"c": numbers(9)}),
}  # fmt: skip

# Those that a chain of layers has.
LAYERS = {
    "Celu", "Clip", "Concat", "Exp", "Gather", "Gelu", "HardSigmoid", "HardSwish", "Mean", "Mish", "PRelu", "Pad",
    "AveragePool", "Conv", "DepthToSpace", "Expand", "ReduceSum", "Selu", "Sin", "Slice", "Softplus",
    "Sum", "Tile",
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(tmp_path, name):
    nodes, shape, constants = OPERATORS[name]
    path = write(tmp_path / "net.onnx", nodes, shape, constants, opset=20)
    net = check_same_as_runtime(path, batch=3)
    assert isinstance(net, OpaqueNetwork) == (name not in LAYERS)
    assert name in {step.op_type for step in nodes}


def value(array):
    return numpy_helper.from_array(np.asarray(array))


TRUE = np.array([True, False, True, True])
# Nodes that compute a constant k of shape (4,) from others, in the types of ONNX.
CONSTANTS = {
    "Cast": ([node("Cast", ["f"], ["i"], to=7), node("Cast", ["i"], ["k"], to=1)], {"f": 3 * numbers(4)}),
    "CastLike": ([node("CastLike", ["i", "f"], ["k"])], {"i": ints(1, 2, 3, 4), "f": numbers(1)}),
    "Ceil": ([node("Ceil", ["f"], ["k"])], {"f": numbers(4)}),
    "Constant": ([node("Constant", [], ["k"], value=value(numbers(4)))], {}),
    "Constant of floats": ([node("Constant", [], ["k"], value_floats=[0.1, 0.2, 0.3, 0.4])], {}),
    "ConstantOfShape": ([node("ConstantOfShape", ["s"], ["k"], value=value(np.full(1, 0.5, np.float32)))],
                        {"s": ints(4)}),
    "ConstantOfShape of zeros": ([node("ConstantOfShape", ["s"], ["k"])], {"s": ints(4)}),
    "CumSum": ([node("CumSum", ["f", "a"], ["k"])], {"f": numbers(4), "a": np.array(0)}),
    "DequantizeLinear": ([node("DequantizeLinear", ["q", "s", "z"], ["k"], axis=0)],
                         {"q": np.array([0, 3, 200, 255], np.uint8), "s": np.abs(numbers(4)),
                          "z": np.array([1, 2, 128, 0], np.uint8)}),
    "DequantizeLinear of a tensor": ([node("DequantizeLinear", ["q", "s"], ["k"])],
                                     {"q": np.array([0, -3, 100, -128], np.int8), "s": np.float32(0.5)}),
    "Div of integers": ([node("Div", ["i", "n"], ["d"]), node("Cast", ["d"], ["k"], to=1)],
                        {"i": ints(-7, 7, 8, -1), "n": ints(2)}),
    "Floor of a product in single precision": (
        [node("Mul", ["f", "t"], ["m"]), node("Floor", ["m"], ["k"])], {"f": np.float32([10, 20, 30, 40]),
                                                                        "t": np.float32(0.7)}),
    "Gather": ([node("Gather", ["f", "i"], ["k"])], {"f": numbers(9), "i": ints(0, -1, 3, 3)}),
    "GatherElements": ([node("GatherElements", ["f", "i"], ["k"])], {"f": numbers(9), "i": ints(0, -1, 3, 3)}),
    "ScatterElements": ([node("ScatterElements", ["f", "i", "u"], ["k"])],
                        {"f": numbers(4), "i": ints(-1, 0), "u": numbers(2)}),
    "ScatterND": ([node("ScatterND", ["f", "i", "u"], ["k"])],
                  {"f": numbers(4), "i": np.array([[3], [0]]), "u": numbers(2)}),
    "Mod": ([node("Mod", ["i", "n"], ["m"]), node("Cast", ["m"], ["k"], to=1)],
            {"i": ints(-7, 7, 8, -1), "n": ints(3)}),
    "Mod of floats": ([node("Mod", ["f", "n"], ["k"], fmod=1)], {"f": 9 * numbers(4), "n": np.float32(2)}),
    "Not, And, Or, Xor": (
        [node("Not", ["a"], ["b"]), node("And", ["a", "b"], ["c"]), node("Or", ["c", "a"], ["d"]),
         node("Xor", ["d", "b"], ["e"]), node("Where", ["e", "f", "g"], ["k"])],
        {"a": TRUE, "f": numbers(4), "g": numbers(4, seed=1)}),
    "Range": ([node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["k"], to=1)],
              {"a": np.array(2), "b": np.array(10), "c": np.array(2)}),
    "Range of floats": ([node("Range", ["a", "b", "c"], ["k"])],
                        {"a": np.float32(0.1), "b": np.float32(0.45), "c": np.float32(0.1)}),
    "Round": ([node("Round", ["f"], ["k"])], {"f": np.float32([0.5, 1.5, -0.5, 2.4])}),
    "Sign": ([node("Sign", ["f"], ["k"])], {"f": numbers(4)}),
    "Size": ([node("Size", ["f"], ["n"]), node("Cast", ["n"], ["c"], to=1), node("Mul", ["f", "c"], ["k"])],
             {"f": numbers(4)}),
    "Trilu": ([node("Trilu", ["f", "d"], ["t"], upper=0), node("ReduceSum", ["t", "a"], ["k"], keepdims=0)],
              {"f": numbers(4, 4), "d": np.array(1), "a": ints(1)}),
    "Where": ([node("GreaterOrEqual", ["f", "g"], ["m"]), node("Where", ["m", "f", "g"], ["k"])],
              {"f": numbers(4), "g": numbers(4, seed=1)}),
}  # fmt: skip


@pytest.mark.parametrize("default", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", CONSTANTS)
def test_constants(tmp_path, name, default):
    """They are computed in the types and the precision of the file, as ONNX Runtime does, whatever the default is."""
    nodes, constants = CONSTANTS[name]
    path = write(tmp_path / "net.onnx", [*nodes, node("Add", ["x", "k"], ["y"])], [4], constants, opset=20)
    with default_dtype(default):
        check_same_as_runtime(path, atol=1e-6)


@pytest.mark.parametrize(("name", "dynamic"), [("residual", True), ("attention", True), ("skip", True),
                                               ("modulated", False), ("attention", False)])  # fmt: skip
def test_exported_modules_that_branch(tmp_path, name, dynamic):
    """Residual blocks, attention, skip connections, and convolutions whose weights depend on the code."""
    module, shape, _ = GENERATORS[name]
    path = export(module, shape, tmp_path / "net.onnx", dynamic=dynamic, opset_version=17)
    net = check_same_as_runtime(path)
    assert isinstance(net, OpaqueNetwork)
    z = codes(net, 2, seed=3)
    r = invert(net, net(z), rounds=5)
    assert (r.residual() <= 1e-4 * np.linalg.norm(net(z).reshape(2, -1), axis=1)).all()


def test_a_graph_of_one_code_is_evaluated_for_batches(tmp_path):
    """Exported for a batch of one, with that number written into its reshapes."""
    nodes = [node("Reshape", ["x", "s"], ["h"]), node("Tanh", ["h"], ["g"]), node("Add", ["h", "g"], ["y"])]
    net = load(write(tmp_path / "net.onnx", nodes, [6], {"s": ints(1, 2, 3)}))
    z = codes(net, 4)
    np.testing.assert_allclose(net(z), (z + np.tanh(z)).reshape(4, 2, 3), rtol=1e-12)

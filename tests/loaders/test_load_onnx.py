"""ONNX graphs, exported by both of PyTorch's exporters and built by hand: outputs are those of ONNX Runtime."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.loaders.chains import BRANCHING, CHAINS
from tests.loaders.loader_checks import evaluation, layers_reproduce
from tests.loaders.onnx_checks import check_same_as_runtime, export, node, numbers, write
from unrelu.errors import OptionError, UnsupportedModelError
from unrelu.loaders import from_torch, load
from unrelu.models.affine import Conv, Dense
from unrelu.models.network import Network

EXPORTED = [
    "mlp with batch norms", "dcgan", "vae", "groups, dilation, output padding", "one axis", "average pooling",
    "pixel shuffle", "linear on the last axis", "functional", *BRANCHING,
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dynamo", "dynamic"),
    [*((n, False, False) for n in EXPORTED), *((n, True, True) for n in ("dcgan", "functional"))],
)
def test_exported(tmp_path, name, dynamic, dynamo):
    torch.manual_seed(0)
    shape, build = CHAINS[name]
    module = evaluation(build())
    reference = from_torch(copy.deepcopy(module), shape)
    net = check_same_as_runtime(export(module.float(), reference.latent_shape, tmp_path / "net.onnx", dynamo, dynamic))
    assert net.latent_shape == reference.latent_shape
    z = np.random.default_rng(1).standard_normal((3, net.latent_dim))
    np.testing.assert_allclose(net(z), reference(z), atol=1e-5)
    if not dynamic:
        layers_reproduce(net)
    if name == "dcgan":
        assert [[type(step) for step in layer.affine.steps] for layer in net.layers] == [[Conv]] * 3


# --- single nodes -----------------------------------------------------------------------------------------------------


C4, M34 = numbers(4), numbers(3, 4)

# name: nodes, shape of one code, constants
GRAPHS = {
    "Gemm": ([node("Gemm", ["x", "w", "c"], ["y"], transB=1, alpha=0.5, beta=2.0)], [3],
             {"w": M34.T.copy(), "c": numbers(1, 4)}),
    "MatMul Add": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["c", "h"], ["y"])], [3], {"w": M34, "c": C4}),
    "MatMul from the left": ([node("MatMul", ["w", "x"], ["y"])], [4, 2], {"w": M34}),
    "MatMul with a batch of one": ([node("MatMul", ["x", "w"], ["y"])], [2, 3], {"w": M34[None]}),
    "Sub from": ([node("Sub", ["c", "x"], ["y"])], [4], {"c": C4}),
    "Mul": ([node("Mul", ["c", "x"], ["y"])], [2, 4], {"c": numbers(1, 2, 1)}),
    "Div": ([node("Div", ["x", "c"], ["y"])], [3, 4], {"c": 1 + C4**2}),
    "Neg": ([node("Neg", ["x"], ["y"])], [4], {}),
    "BatchNormalization": (
        [node("BatchNormalization", ["x", "w", "b", "m", "v"], ["y"], epsilon=1e-2)], [4, 2],
        {"w": C4, "b": C4, "m": C4, "v": C4**2},
    ),
    "PRelu for each channel": ([node("PRelu", ["x", "c"], ["y"])], [3, 4], {"c": numbers(3, 1)}),
    "PRelu for each entry": ([node("PRelu", ["x", "c"], ["y"])], [3, 4], {"c": C4}),
    "PRelu scalar": ([node("PRelu", ["x", "c"], ["y"])], [3, 4], {"c": numbers(1)}),
    "Reshape": ([node("Relu", ["x"], ["r"]), node("Reshape", ["r", "s"], ["y"])], [3, 4],
                {"s": np.array([0, 2, -1, 1])}),
    "Squeeze": ([node("Relu", ["x"], ["r"]), node("Squeeze", ["r", "s"], ["y"])], [1, 4, 1],
                {"s": np.array([1, -1])}),
    "Unsqueeze": ([node("Relu", ["x"], ["r"]), node("Unsqueeze", ["r", "s"], ["y"])], [4], {"s": np.array([-1, 1])}),
    "Identity, Dropout, Cast": (
        [node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["a"]), node("Dropout", ["a"], ["b"]),
         node("Cast", ["b"], ["c"], to=11), node("Cast", ["c"], ["y"], to=1)], [4], {},
    ),
    "Pad": ([node("Pad", ["x", "p"], ["y"])], [3, 4], {"p": np.array([0, 1, 2, 0, 0, -1])}),
    "Slice": (
        [node("Slice", ["x", "s", "e", "a"], ["y"])], [3, 4],
        {"s": np.array([1, -3]), "e": np.array([2**60, -1]), "a": np.array([1, -1])},
    ),
    "AveragePool": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 1, 1])], [2, 4, 5], {},
    ),
    "AveragePool counting zeros": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3], pads=[0, 1], count_include_pad=1)], [2, 5], {},
    ),
    "AveragePool rounding up": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[2], strides=[2], ceil_mode=1)], [2, 5], {},
    ),
    "GlobalAveragePool": ([node("GlobalAveragePool", ["x"], ["y"])], [2, 3, 4], {}),
    "ReduceMean": ([node("ReduceMean", ["x"], ["y"], axes=[-1, 2], keepdims=0)], [2, 3, 4], {}),
    "DepthToSpace": ([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], [8, 2, 3], {}),
    "Resize by sizes": (
        [node("Shape", ["x"], ["f"]), node("Slice", ["f", "zero", "two"], ["n"]),
         node("Concat", ["n", "s"], ["t"], axis=0),
         node("Resize", ["x", "", "", "t"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        [2, 3, 3], {"zero": np.array([0]), "two": np.array([2]), "s": np.array([6, 5])},
    ),
    "ConvTranspose to a shape": (
        [node("ConvTranspose", ["x", "w", "c"], ["y"], strides=[2, 2], output_shape=[6, 7])], [2, 3, 3],
        {"w": numbers(2, 4, 4, 3), "c": C4},
    ),
    "ConvTranspose uneven": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2], pads=[0, 1], output_padding=[1], group=2)], [2, 4],
        {"w": numbers(2, 2, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_node(tmp_path, name):
    nodes, shape, constants = GRAPHS[name]
    layers_reproduce(check_same_as_runtime(write(tmp_path / "a.onnx", nodes, shape, constants)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 1.5, 0.5), (1, 1, 3, 1)])
def test_resize(tmp_path, mode, coordinates, scales):
    roundings = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"] if mode == "nearest" else ["floor"]
    for rounding in roundings:
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        nodes = [node("Resize", ["x", "", "s"], ["y"], **attributes)]
        path = write(tmp_path / "net.onnx", nodes, [2, 4, 6], {"s": np.array(scales, np.float32)})
        assert isinstance(check_same_as_runtime(path), Network)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_geometry(tmp_path_factory, data):
    """Convolutions with every way to say padding; what is refused is refused by ONNX Runtime, too, or stretches."""
    axes, groups = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2]))

    def sizes(low, high, count=1):
        return [data.draw(st.integers(low, high)) for _ in range(axes * count)]

    kernel, shape = sizes(1, 4), sizes(4, 6)
    transposed = data.draw(st.booleans())
    padding = data.draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    dilations = sizes(1, 1 if padding.startswith("SAME") else 2)  # ONNX Runtime has no other
    attributes = {"kernel_shape": kernel, "strides": sizes(1, 3), "dilations": dilations, "group": groups}
    attributes |= {"pads": sizes(0, 1, 2)} if padding == "pads" else {"auto_pad": padding}
    weight = numbers(4, 4 // groups, *kernel)
    operation = node("ConvTranspose" if transposed else "Conv", ["x", "w"], ["y"], **attributes)
    path = write(tmp_path_factory.mktemp("geometry") / "a.onnx", [operation], [4, *shape], {"w": weight})
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, attributes["dilations"], strict=True)]
    if (
        transposed
        and padding.startswith("SAME")
        and any(a < s for a, s in zip(spans, attributes["strides"], strict=True))
    ):
        with pytest.raises(UnsupportedModelError, match="stretches"):
            load(path)
    elif transposed or padding.startswith("SAME") or all(a <= n for a, n in zip(spans, shape, strict=True)):
        check_same_as_runtime(path)


# --- constants, names and batches -------------------------------------------------------------------------------------


def test_constant_subgraphs_are_folded(tmp_path):
    nodes = [
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(0.5, np.float32))),
        node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        node("Mul", ["wt", "k"], ["scaled"]),
        node("MatMul", ["x", "scaled"], ["h"]),
        node("Shape", ["h"], ["s"]),
        node("Gather", ["s", "zero"], ["b"]),
        node("Unsqueeze", ["b", "zeros"], ["bs"]),
        node("Concat", ["bs", "rest"], ["t"], axis=0),
        node("Reshape", ["h", "t"], ["y"]),
        node("Softplus", ["h"], ["unused"]),
    ]
    constants = {"w": numbers(4, 3), "zero": np.array(0), "zeros": np.array([0]), "rest": np.array([2, 2])}
    net = check_same_as_runtime(write(tmp_path / "a.onnx", nodes, [3], constants))
    assert net.output_shape == (2, 2)
    assert isinstance(net.layers[0].affine.steps[0], Dense)


def test_an_output_without_a_name_is_no_input_that_is_left_out(tmp_path):
    nodes = [node("Split", ["x"], ["", "b"], axis=1), node("Clip", ["b", "", "c"], ["y"])]
    net = load(write(tmp_path / "a.onnx", nodes, [4], {"c": np.float32(0.5)}))
    z = np.random.default_rng(1).standard_normal((3, 4))
    np.testing.assert_allclose(net(z), np.minimum(z[:, 2:], 0.5))


@pytest.mark.parametrize(("batch", "target"), [(1, [1, 2, 2]), (3, [3, 2, 2]), (3, [-1, 2, 2]), ("b", [1, 2, 2])])
def test_graphs_of_one_batch_size(tmp_path, batch, target):
    """The last one leaves the size open, but its reshape fits one code only."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 3])]
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Reshape", ["h", "s"], ["y"])]
    path = write(tmp_path / "a.onnx", nodes, [3], {"w": M34, "s": np.array(target)}, inputs=inputs)
    net = check_same_as_runtime(path, batch=1)
    assert isinstance(net, Network)
    assert net.output_shape == (2, 2)


def test_open_latent_shape(tmp_path):
    path = write(tmp_path / "a.onnx", [node("Relu", ["x"], ["y"])], ["k"])
    assert check_same_as_runtime(path, latent_shape=4).latent_dim == 4
    path = write(tmp_path / "a.onnx", [node("GlobalAveragePool", ["x"], ["y"])], [2, "h", "w"])
    assert check_same_as_runtime(path, latent_shape=(2, 3, 4)).latent_shape == (2, 3, 4)


@pytest.mark.parametrize("beside", ["a.onnx.data", "a.onnx_data"])
def test_tensors_in_a_file_next_to_the_model(tmp_path, beside):
    path = write(tmp_path / "a.onnx", [node("MatMul", ["x", "w"], ["y"])], [3], {"w": M34})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=beside, size_threshold=0)
    assert (tmp_path / beside).exists()
    check_same_as_runtime(path)


def test_a_tensor_inside_the_graph_is_an_output(tmp_path):
    """Up to the logits, for example, or without a layer that is not supported."""
    nodes = [node("MatMul", ["x", "w"], ["logits"]), node("Tanh", ["logits"], ["h"]), node("Det", ["h"], ["y"])]
    path = write(tmp_path / "a.onnx", nodes, [3], {"w": M34})
    net = load(path, output="logits")
    assert isinstance(net, Network)
    z = np.random.default_rng(1).standard_normal((3, 3))
    np.testing.assert_allclose(net(z), z @ M34.astype(float), rtol=1e-12)
    parts = load(path, output=["logits", "h"])
    assert parts.parts == {"logits": (4,), "h": (4,)}
    np.testing.assert_allclose(parts(z)[:, 4:], np.tanh(net(z)), rtol=1e-12)
    with pytest.raises(OptionError, match=r"output='g' is no name or number .*, y, and no name of a tensor inside"):
        load(path, output="g")


@pytest.mark.parametrize(
    ("shape", "kind", "given"),
    [
        (["b", 2], 1, [0.5, -1.0]),
        (["b", 2], 1, torch.tensor([[0.5, -1.0]])),
        ([1, 2], 1, np.array([[0.5, -1.0]])),
        ([2], 1, [0.5, -1.0]),
    ],
)
def test_further_inputs_are_held_fixed(tmp_path, shape, kind, given):
    inputs = [
        helper.make_tensor_value_info("z", 1, ["b", 3]), helper.make_tensor_value_info("c", kind, shape),
    ]  # fmt: skip
    nodes = [node("MatMul", ["z", "w"], ["h"]), node("MatMul", ["c", "v"], ["e"]), node("Add", ["h", "e"], ["y"])]
    constants = {"w": M34, "v": numbers(2, 4)}
    net = load(write(tmp_path / "a.onnx", nodes, [], constants, inputs=inputs), inputs={"c": given})
    z = np.random.default_rng(1).standard_normal((5, 3))
    np.testing.assert_allclose(
        net(z), z @ M34.astype(float) + np.array([0.5, -1]) @ constants["v"].astype(float), rtol=1e-6
    )
    assert isinstance(net, Network)


def test_a_label_is_held_fixed(tmp_path):
    """Looked up in an embedding, and put beside the code."""
    inputs = [
        helper.make_tensor_value_info("z", 1, ["b", 3]), helper.make_tensor_value_info("label", 7, ["b"]),
    ]  # fmt: skip
    nodes = [
        node("Gather", ["table", "label"], ["e"]), node("Concat", ["z", "e"], ["j"], axis=1),
        node("MatMul", ["j", "w"], ["y"]),
    ]  # fmt: skip
    constants = {"table": numbers(10, 2), "w": numbers(5, 4)}
    path = write(tmp_path / "a.onnx", nodes, [], constants, inputs=inputs)
    z = np.random.default_rng(1).standard_normal((5, 3))
    joined = np.concatenate([z, np.tile(constants["table"][7].astype(float), (5, 1))], axis=1)
    for label in (7, [7], torch.tensor([7])):
        net = load(path, inputs={"label": label})
        np.testing.assert_allclose(net(z), joined @ constants["w"].astype(float), rtol=1e-6)
    with pytest.raises(OptionError, match="inputs='labels' is no input of the graph; these are z, label"):
        load(path, inputs={"labels": 7})
    with pytest.raises(OptionError, match="'label' is 'seven', not a tensor of numbers"):
        load(path, inputs={"label": "seven"})
    with pytest.raises(UnsupportedModelError, match=r"has 2 inputs \(z, label\).*inputs=\{'name': value\}"):
        load(path)


@pytest.mark.parametrize("outputs", [1, 4])
def test_a_pipeline_of_skl2onnx(tmp_path, outputs):
    """StandardScaler and MLPRegressor: a Scaler of ONNX's operators for ML, and outputs of all codes in a column."""
    offset, scale = [1.0, -2.0, 0.5], [0.5, 2.0, 4.0]
    nodes = [
        node("Scaler", ["x"], ["u"], domain="ai.onnx.ml", offset=offset, scale=scale), node("Cast", ["u"], ["c"], to=1),
        node("MatMul", ["c", "w"], ["h"]), node("Add", ["h", "b"], ["a"]), node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "v"], ["p"]), node("Identity", ["p"], ["q"]), node("Reshape", ["q", "s"], ["y"]),
    ]  # fmt: skip
    constants = {"w": M34, "b": C4, "v": numbers(4, outputs), "s": np.array([-1, 1])}
    path = write(tmp_path / "a.onnx", nodes, [3], constants)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    onnx.save(model, path)
    net = load(path)
    assert isinstance(net, Network)
    z = np.random.default_rng(1).standard_normal((5, 3))
    hidden = np.maximum((z - offset) * scale @ M34.astype(float) + C4, 0)
    np.testing.assert_allclose(net(z), hidden @ constants["v"].astype(float), rtol=1e-10)
    assert net.output_shape == (outputs,)


def test_outputs_of_a_graph_become_named_parts(tmp_path):
    """Nodes that only lead to other outputs are left out, even if they are unknown."""
    names = [helper.make_tensor_value_info(name, 1, ["b", *shape]) for name, shape in
             (("mean", [6]), ("map", [2, 3]), ("other", [6]))]  # fmt: skip
    nodes = [
        node("MatMul", ["x", "W"], ["u"]), node("Tanh", ["u"], ["h"]), node("MatMul", ["h", "V"], ["mean"]),
        node("Reshape", ["h", "shape"], ["map"]), node("Hardmax", ["h"], ["other"]),
    ]  # fmt: skip
    constants = {"W": numbers(4, 6), "V": numbers(6, 6), "shape": np.array([-1, 2, 3])}
    path = write(tmp_path / "a.onnx", nodes, [4], constants, outputs=names)
    z = np.random.default_rng(1).standard_normal((3, 4))
    h = np.tanh(z @ constants["W"].astype(float))
    net = load(path, output=["map", "mean"])
    assert net.parts == {"map": (2, 3), "mean": (6,)}
    found = net.by_part(net(z))
    np.testing.assert_allclose(found["map"], h.reshape(3, 2, 3), rtol=1e-12)
    np.testing.assert_allclose(found["mean"], h @ constants["V"].astype(float), rtol=1e-10)
    for output in ("mean", 0):
        alone = load(path, output=output)
        assert isinstance(alone, Network)
        np.testing.assert_allclose(alone(z), found["mean"], rtol=1e-12)
    assert load(path, output={"m": 0}).parts == {"m": (6,)}
    for output in ("men", 3, -4, {"m": len}):
        with pytest.raises(OptionError, match="is no name or number of the graph's outputs, mean, map, other"):
            load(path, output=output)

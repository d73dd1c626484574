"""Models of parameters in their own units, from files and modules, and layouts of weights that others use."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from unrelu.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from unrelu.models.affine import Conv

onnx = pytest.importorskip("onnx")

RNG = np.random.default_rng(4)
LOW, HIGH = np.array([1000.0, 0.2, -5.0]), np.array([3000.0, 0.9, -1.0])
BOUNDS = dict(zip(("temperature", "fraction", "log_n"), np.stack([LOW, HIGH], axis=1).tolist(), strict=True))
MIDDLE = (LOW + HIGH) / 2


def graph_of_physical_units(path: Any, heads: int = 2) -> Any:
    """Write a graph that clips its parameters to the ranges of its training, and has several heads; return it."""
    first, last = RNG.standard_normal((20, 3)), RNG.standard_normal((heads, 4, 20))

    def evaluated(z: Any) -> Any:
        u = (np.clip(z, LOW, HIGH) - MIDDLE) / (HIGH - LOW)
        return np.concatenate([np.tanh(u @ first.T) @ head.T for head in last], axis=-1)

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    held = {"low": LOW, "high": HIGH, "mean": MIDDLE, "width": HIGH - LOW, "first": first.T}
    held |= {f"last{i}": head.T for i, head in enumerate(last)}
    nodes = [
        helper.make_node("Max", ["z", "low"], ["above"]), helper.make_node("Min", ["above", "high"], ["inside"]),
        helper.make_node("Sub", ["inside", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "width"], ["u"]), helper.make_node("MatMul", ["u", "first"], ["h"]),
        helper.make_node("Tanh", ["h"], ["a"]),
        *(helper.make_node("MatMul", ["a", f"last{i}"], [f"head{i}"]) for i in range(heads)),
    ]  # fmt: skip
    double = onnx.TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes, "physical", [helper.make_tensor_value_info("z", double, ["B", 3])],
        [helper.make_tensor_value_info(f"head{i}", double, ["B", 4]) for i in range(heads)],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return evaluated


def test_a_graph_of_physical_units_is_tried_within_its_bounds(tmp_path: Any) -> None:
    path = tmp_path / "heads.onnx"
    evaluated, names = graph_of_physical_units(path, 8), [f"head{i}" for i in range(8)]
    with pytest.raises(UnsupportedModelError):
        unrelu.load(path, output=names)  # N(0, I) is clipped to one code
    net = unrelu.load(path, output=names, bounds=BOUNDS)
    z = net.domain.draw(np.random.default_rng(1), (5,))
    np.testing.assert_allclose(net(z), evaluated(z), rtol=1e-9)
    assert list(net.parts) == names
    r = unrelu.invert(net, net(z[0]))
    assert r.success
    np.testing.assert_allclose(list(r.parameters.values()), z[0], rtol=1e-6)
    scaled = unrelu.load(path, output=names, input_scale=(MIDDLE, HIGH - LOW), bounds={
        name: tuple(end * width + middle for end in ends)
        for (name, ends), width, middle in zip(BOUNDS.items(), HIGH - LOW, MIDDLE, strict=True)
    })  # fmt: skip
    np.testing.assert_allclose(scaled(z * (HIGH - LOW) + MIDDLE), evaluated(z), rtol=1e-9)


def test_bounds_name_the_coordinates_of_every_file(tmp_path: Any) -> None:
    np.savez(tmp_path / "w.npz", W0=RNG.standard_normal((6, 3)), b0=np.zeros(6), note="trained on Tuesday")
    net = unrelu.load(tmp_path / "w.npz", activation="tanh", bounds=BOUNDS)
    assert list(net.names.parameter_names) == list(BOUNDS)
    assert np.array_equal(np.stack(net.domain.ends), [LOW, HIGH])
    with pytest.raises(OptionError, match="bounds= are of 1 coordinates, and codes have 3"):
        unrelu.load(tmp_path / "w.npz", activation="tanh", bounds={"a": (0, 1)})
    with pytest.raises(ModelFileError, match="a"):
        unrelu.load(tmp_path / "w.npz", activation="tanh", bounds={"a": (1, 0), "b": (0, 1), "c": (0, 1)})


def test_modules_with_scales() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 10)).double().eval()
    scale, output = (MIDDLE, HIGH - LOW), (np.full(10, 2.0), 0.5)
    net = unrelu.from_torch(module, bounds=BOUNDS, input_scale=scale, output_scale=output)
    assert isinstance(net.plain, unrelu.Network)
    z = net.domain.draw(np.random.default_rng(1), (5,))
    with torch.no_grad():
        expected = 2 + 0.5 * module(torch.from_numpy((z - MIDDLE) / (HIGH - LOW))).numpy()
    np.testing.assert_allclose(net(z), expected, rtol=1e-9)
    assert unrelu.invert(net, net(z[0])).status is unrelu.Status.EXACT_FIT

    def branching(u: Any) -> Any:
        if (u.abs() > 0.6).any():  # it is tried where it will be used
            raise ValueError("out of range")
        return module(u) * module(u).sin()

    opaque = unrelu.from_torch(branching, bounds=BOUNDS, input_scale=scale)
    inner = torch.from_numpy((z - MIDDLE) / (HIGH - LOW))
    with torch.no_grad():
        np.testing.assert_allclose(opaque(z), (module(inner) * module(inner).sin()).numpy(), rtol=1e-9)
    assert np.array_equal(np.stack(opaque.domain.ends), [LOW, HIGH])


def per_pixel(n: int = 30, hidden: int = 5) -> tuple[dict[str, Any], Any]:
    """Make the arrays of binspec's layout, with a function that evaluates them as its authors do."""
    w0, b0 = RNG.standard_normal((n, hidden, 3)), RNG.standard_normal((n, hidden))
    w1, b1 = RNG.standard_normal((n, hidden, hidden)), RNG.standard_normal((n, hidden))
    w2, b2 = RNG.standard_normal((n, hidden)), RNG.standard_normal(n)
    names = ("w_array_0", "w_array_1", "w_array_2", "b_array_0", "b_array_1", "b_array_2")
    arrays = dict(zip(names, (w0, w1, w2, b0, b1, b2), strict=True)) | {"x_min": LOW, "x_max": HIGH}

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    def spectrum(labels: Any) -> Any:
        scaled = (labels - LOW) / (HIGH - LOW) - 0.5
        inside = np.einsum("ijk,k->ij", w0, scaled) + b0
        outside = np.einsum("ijk,ik->ij", w1, sigmoid(inside)) + b1
        return np.einsum("ij,ij->i", w2, sigmoid(outside)) + b2

    return arrays, spectrum


def test_networks_of_one_pixel_each(tmp_path: Any) -> None:
    arrays, spectrum = per_pixel()
    np.savez(tmp_path / "binspec.npz", **arrays)
    net = unrelu.load(tmp_path / "binspec.npz", activation="sigmoid", bounds=BOUNDS)
    assert isinstance(net.plain, unrelu.Network)
    z = net.domain.draw(np.random.default_rng(1), (4,))
    np.testing.assert_allclose(net(z), [spectrum(each) for each in z], rtol=1e-12)
    r = unrelu.invert(net, net(z[0]) + 0.01 * np.random.default_rng(2).standard_normal(30), noise="gaussian:0.01")
    assert r.success
    np.savez(tmp_path / "bad.npz", **arrays | {"w_array_1": arrays["w_array_1"][:, :, :4]})
    with pytest.raises(ModelError, match=r"\(n, outputs, inputs\) for the same n pixels"):
        unrelu.load(tmp_path / "bad.npz", activation="sigmoid")
    with pytest.raises(ModelError, match="do not say what their activations are"):
        unrelu.load(tmp_path / "binspec.npz")


@pytest.mark.parametrize("bias", [True, False])
def test_groups_of_one_position_are_pytorchs(bias: bool) -> None:
    torch.manual_seed(1)
    own = nn.Conv1d(12, 8, 1, groups=4, bias=bias).double()
    step = Conv(own.weight.detach(), None if own.bias is None else own.bias.detach(), groups=4)
    x = torch.randn(5, 12, 1, dtype=torch.float64)
    torch.testing.assert_close(step.apply(x), own(x).detach())
    torch.testing.assert_close(step.apply(x.expand(-1, -1, 3)), own(x.expand(-1, -1, 3)).detach())


def test_the_first_layout_of_the_payne(tmp_path: Any) -> None:
    """A hidden neuron between the hidden layer of a pixel and its output."""
    w0, w1, w2 = RNG.standard_normal((9, 10, 3)), RNG.standard_normal((9, 10)), RNG.standard_normal(9)
    b0, b1, b2 = RNG.standard_normal((9, 10)), RNG.standard_normal(9), RNG.standard_normal(9)
    np.savez(
        tmp_path / "payne.npz", w_array_0=w0, w_array_1=w1, w_array_2=w2, b_array_0=b0, b_array_1=b1, b_array_2=b2,
        x_min=LOW, x_max=HIGH,
    )  # fmt: skip
    net, z = unrelu.load(tmp_path / "payne.npz", activation="sigmoid"), (0.3 * LOW + 0.7 * HIGH)
    inside = 1 / (1 + np.exp(-(w0 @ ((z - LOW) / (HIGH - LOW) - 0.5) + b0)))
    outside = 1 / (1 + np.exp(-((w1 * inside).sum(axis=1) + b1)))
    np.testing.assert_allclose(net(z), w2 * outside + b2, rtol=1e-12)


def test_params_of_flax(tmp_path: Any) -> None:
    """A dictionary of arrays beside what else its author kept, or in a FrozenDict of Flax."""
    params = {f"Dense_{i}": {"kernel": RNG.standard_normal(shape), "bias": np.zeros(shape[1])}
              for i, shape in enumerate([(3, 8), (8, 5)])}  # fmt: skip
    z, expected = [0.1, 0.2, 0.3], unrelu.from_arrays({"params": params}, activation="relu")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"params": params, "epochs": 40, "sizes": [8, 5]}))
    assert np.array_equal(unrelu.load(tmp_path / "plain.pkl", activation="relu")(z), expected(z))
    # FrozenDict(dictionary), as Flax pickles it: the class by name, its argument, and the call.
    call = b"\x80\x02cflax.core.frozen_dict\nFrozenDict\n" + pickle.dumps({"params": params}, 2)[2:-1] + b"\x85R."
    (tmp_path / "frozen.pkl").write_bytes(call)
    assert np.array_equal(unrelu.load(tmp_path / "frozen.pkl", activation="relu")(z), expected(z))


@pytest.mark.filterwarnings("ignore::UserWarning")  # it need not converge
def test_an_mlp_regressor_as_a_file(tmp_path: Any) -> None:
    neural_network = pytest.importorskip("sklearn.neural_network")
    x = RNG.standard_normal((60, 3))
    model = neural_network.MLPRegressor(hidden_layer_sizes=(7,), max_iter=50, random_state=1).fit(
        x, x @ np.ones((3, 2))
    )
    matrices = {f"W{i}": each.T for i, each in enumerate(model.coefs_)}
    vectors = {f"b{i}": each for i, each in enumerate(model.intercepts_)}
    np.savez(tmp_path / "mlp.npz", **matrices, **vectors, activation=[model.activation, model.out_activation_])
    np.testing.assert_allclose(unrelu.load(tmp_path / "mlp.npz")(x), model.predict(x), rtol=1e-9, atol=1e-12)

"""Hand-built ONNX graphs, and ONNX Runtime as the judge of what they compute."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import nn

from unrelu.loaders import load
from unrelu.models.network import Network

node = helper.make_node


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[Any],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    **graph: Any,
) -> Path:
    """A model with the input ``x`` of shape (b, *shape) and the output ``y``, whose stated axes do not matter."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["b", *shape])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None])]
    weights = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    arguments = {"inputs": inputs, "outputs": outputs, "initializer": weights} | graph
    model = helper.make_model(
        helper.make_graph(nodes, "test", **arguments), opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    )
    path.write_bytes(model.SerializeToString())
    return path


def export(
    module: nn.Module, shape: tuple[int, ...], path: Path, dynamo: bool = False, dynamic: bool = True, **options: Any
) -> Path:
    """The module as one of PyTorch's exporters writes it, for batches of any size or of one code."""
    name = {"dynamic_shapes": ({0: torch.export.Dim("b")},)} if dynamo else {"dynamic_axes": {"z": {0: "b"}}}
    options |= {"input_names": ["z"], "verbose": False} | (name if dynamic else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both exporters warn about themselves
        torch.onnx.export(module, (torch.randn(2 if dynamic else 1, *shape),), path, dynamo=dynamo, **options)
    return path


def check_same_as_runtime(path: Path, latent_shape: Any = None, batch: int = 2, atol: float = 1e-4) -> Network:
    """The loaded network agrees with ONNX Runtime in single precision."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    net = load(path, latent_shape=latent_shape)
    first = session.get_inputs()[0]
    batch = first.shape[0] if isinstance(first.shape[0], int) else batch
    z = np.random.default_rng(0).standard_normal((batch, net.latent_dim)).astype(np.float32)
    (wanted,) = session.run(None, {first.name: z.reshape(batch, *net.latent_shape)})
    np.testing.assert_allclose(net(z), wanted, atol=atol, rtol=atol)
    return net

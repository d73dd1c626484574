"""Read an ONNX file as a network: its graph is recorded as one of ``torch.fx``, and constants are folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from unrelu.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from unrelu.loaders._chain_reader import LayerGraph, code_shape, errors_at, read_chain
from unrelu.loaders._graph_recorder import FixedBatchModule, Recorder, StandIn
from unrelu.loaders._onnx_functions import FUNCTIONS, Call
from unrelu.loaders._pass_through import read_branches
from unrelu.loaders._torch_operations import BATCHES
from unrelu.models.affine import Shape
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import Pick, concatenated
from unrelu.models.torch_opaque import opaque
from unrelu.runtime.file_reading import MAX_BYTES
from unrelu.runtime.streams import stream

try:
    import onnx
    import onnx.helper
    import onnx.numpy_helper
    from onnx.reference import ReferenceEvaluator

    from unrelu.loaders.file_checks.onnx_file import ConstantSizes, read_model
except ImportError:
    raise ModelFileError('reading .onnx needs a package: pip install "unrelu[onnx]"') from None


# Before opset 7, arithmetic broadcast by an attribute and batch normalisation had a test mode.
_OLDEST = 7

# Operators that draw random numbers.
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}

# Operators on constants that exporters leave in a graph. They are cheap, and shape inference knows the size of their
# outputs. Convolutions take ONNX's reference implementation hours; decoders of text and images parse further formats.
_FOLDED = {
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "CumSum",
    "DequantizeLinear", "Div", "Dropout", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gemm", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less",
    "LessOrEqual", "Log", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad",
    "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape",
    "Sigmoid", "Sign", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where", "Xor",
}  # fmt: skip


def from_onnx(
    file: Path,
    latent_shape: int | tuple[int, ...] | None = None,
    max_bytes: int = MAX_BYTES,
    output: Pick | Mapping[str, Pick] | None = None,
    inputs: Mapping[str, object] | None = None,
) -> Network | OpaqueNetwork:
    """Return the chain of layers that an ONNX graph computes, or a generator without layers if it branches.

    ``latent_shape`` is needed if the graph leaves it open. ``max_bytes`` limits all constants together, and each
    tensor. ``output`` picks outputs, as :class:`~unrelu.models.torch_callables.GeneratorCall` has it.

    Raises:
        ModelFileError: the file is truncated, not a valid ONNX model, or would take more than ``max_bytes``.
        UnsupportedModelError: the graph is not a chain of layers; and a node is unknown, or the graph is not a
            differentiable generator.
        ModelError: shapes do not fit, or weights are not finite.

    Source: https://onnx.ai/onnx/operators/
    """
    graph = _Graph(read_model(file, max_bytes), max_bytes, output)
    shape, batch = _input_shape(graph.input, latent_shape)
    try:
        batches = BATCHES if batch is None else (batch,)
        graphs = [graph.recorded(shape, count) for count in batches]
    except ModelError as error:
        if batch is not None:
            raise
        try:  # some graphs have shapes that fit one code only, although they leave the batch size open
            batch, batches, graphs = 1, (1,), [graph.recorded(shape, 1)]
        except ModelError:
            raise error from None
    found = read_chain(graphs, shape, batches)
    branching = found if isinstance(found, Network) else read_branches(graphs, shape, batches)
    network = branching if isinstance(branching, Network) else _opaque(graph, shape, batch, str(found))
    return network.with_parts(graph.parts) if graph.parts else network


def _opaque(graph: _Graph, shape: Shape, batch: int | None, reason: str) -> OpaqueNetwork:
    """Return the graph as a generator without known layers."""
    module = FixedBatchModule(graph.module(shape, batch or 1), batch or 1)
    module.title = "ONNX graph"
    try:
        for count in [1, 2] if batch is None else [batch]:
            _check_batch(module, graph.module(shape, count), (count, *shape))
    except ModelError as error:
        raise UnsupportedModelError(f"{reason}; as a generator without known layers it fails too: {error}") from error
    return opaque(module, shape, reason)


def _check_batch(module: FixedBatchModule, together: fx.GraphModule, shape: Shape) -> None:
    """Refuse a graph that mixes codes: each code must have the same output in a batch as alone."""
    count = shape[0]
    z = torch.from_numpy(stream("codes of a batch").standard_normal(shape))
    with torch.no_grad():
        found: Tensor = together(z)
        if not found.dim() or len(found) != count:
            what = f"{count} codes" if count > 1 else "a code"
            raise UnsupportedModelError(
                f"it maps {what} to a tensor of shape {tuple(found.shape)}; the batch axis must stay the first"
            )
        alone = module(z)
    if found.shape != alone.shape or not torch.allclose(found, alone, rtol=1e-5, atol=1e-8, equal_nan=True):
        raise UnsupportedModelError(
            f"{count} codes have another output in a batch than alone; each output must depend on its own code only"
        )


def _input_shape(value: onnx.ValueInfoProto, latent_shape: int | tuple[int, ...] | None) -> tuple[Shape, int | None]:
    """Return the shape of one code, and the batch size if the graph fixes it."""
    kind = value.type.tensor_type
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if kind.elem_type not in floats:
        raise UnsupportedModelError(f"the input {value.name!r} is not a tensor of real numbers")
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    batch, rest = (dims[0], dims[1:]) if dims else (None, [])
    shown = f"({', '.join('?' if d is None else str(d) for d in dims)})"
    if len(dims) == 1:
        raise UnsupportedModelError(f"the input {value.name!r} has shape {shown}; its first axis must be the batch")
    if rest and None not in rest:
        if latent_shape is not None:
            raise ModelError(
                f"the graph fixes the input {value.name!r} to {shown}; leave latent_shape={latent_shape} out"
            )
        return tuple(int(d) for d in rest if d is not None), batch
    if latent_shape is None:
        raise ModelError(f"the graph leaves the input {value.name!r} of shape {shown} open; pass latent_shape=")
    shape = code_shape(latent_shape)
    fits = not rest or (len(rest) == len(shape) and all(d in (None, n) for d, n in zip(rest, shape, strict=True)))
    if not fits:
        raise ModelError(f"latent_shape={latent_shape} does not fit the input {value.name!r} of shape {shown}")
    return shape, batch


class _Graph:
    """An ONNX graph with one input.

    Attributes:
        outputs: the names of the outputs that are used, by the name of the part that each becomes; one is the output.
        parts: the shapes of the parts, once the graph was recorded; empty if the output is no part.
    """

    def __init__(self, model: onnx.ModelProto, max_bytes: int, output: Pick | Mapping[str, Pick] | None) -> None:
        graph = model.graph
        self.opsets = list(model.opset_import)
        self.opset = next((o.version for o in self.opsets if o.domain in ("", "ai.onnx")), 0)
        if self.opset < _OLDEST:
            raise UnsupportedModelError(
                f"uses ONNX opset {self.opset}; export it again with opset {_OLDEST} or later, e.g. 17"
            )
        self._max_bytes = max_bytes
        self.constants = {t.name: _array(t) for t in graph.initializer}
        if graph.sparse_initializer:
            raise UnsupportedModelError("the graph has sparse weights; store them as dense tensors")
        inputs = [v for v in graph.input if v.name not in self.constants]
        if len(inputs) != 1:
            names = ", ".join(v.name for v in inputs) or "none"
            raise UnsupportedModelError(f"the graph has {len(inputs)} inputs ({names}); a generator has one")
        self.input, self.parts = inputs[0], dict[str, Shape]()
        self._named = isinstance(output, Mapping)
        self.outputs = _chosen([v.name for v in graph.output], output)
        self.nodes = _needed(graph.node, set(self.outputs.values()))

    def module(self, shape: Shape, batch: int) -> fx.GraphModule:
        """The graph for batches of this size as a module; a batch, too, must not make a tensor above the limit."""
        graph = self.recorded(shape, batch, self._max_bytes // batch)
        return fx.GraphModule(graph.root, graph.graph, "OnnxGraph").eval()

    def recorded(self, shape: Shape, batch: int, max_bytes: int | None = None) -> LayerGraph:
        """The graph for batches of this size; no tensor in it takes more than ``max_bytes`` for one code."""
        limit = self._max_bytes if max_bytes is None else max_bytes
        recorder = Recorder((batch, *shape), f"the input {self.input.name!r}", limit)
        sizes = ConstantSizes(self.opsets, self.opset, self._max_bytes)
        sizes.add(list(self.constants.values()))
        values: dict[str, Any] = {"": None, **self.constants, self.input.name: recorder.code}
        for node in self.nodes:
            place = f"node {node.name or node.output[0]!r} ({node.op_type})"
            held = [value for name in node.input if (value := values.get(name)) is not None]
            live = [value.shape[1:] for value in held if isinstance(value, StandIn)]
            recorder.at(place)
            with errors_at(place, live, [value.shape for value in held if not isinstance(value, StandIn)]):
                if node.domain not in ("", "ai.onnx"):
                    raise UnsupportedModelError(
                        f"belongs to the operator set {node.domain!r}; only ONNX's own is supported"
                    )
                if missing := [name for name in node.input if name not in values]:
                    raise UnsupportedModelError(
                        f"takes {missing[0]!r}, a second output such as Dropout's mask, which is not supported"
                    )
                inputs = [values[name] for name in node.input]
                found = self._called(node, inputs, recorder) if live else self._fold(node, inputs, sizes)
            values |= zip(node.output, found, strict=False)
        ends: dict[str, StandIn] = {}
        for part, name in self.outputs.items():
            if not isinstance(value := values.get(name), StandIn):
                raise UnsupportedModelError(f"the output {name!r} does not depend on the input")
            ends[part] = value
        recorder.at("the output")
        self.parts = {part: value.shape[1:] for part, value in ends.items()} if self._named else {}
        return recorder.graph_of(concatenated(ends) if self._named else next(iter(ends.values())))

    def _called(self, node: onnx.NodeProto, inputs: list[Any], recorder: Recorder) -> Sequence[Any]:
        """Record a node that depends on the code, and return its outputs."""
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
        if node.op_type in ("Shape", "Size"):
            full = np.array(inputs[0].shape, dtype=np.int64)
            size = node.op_type == "Size"
            return [np.asarray(full.prod()) if size else full[attributes.get("start", 0) : attributes.get("end")]]
        if node.op_type not in FUNCTIONS:
            raise UnsupportedModelError(f"is not known; supported are {', '.join(sorted(FUNCTIONS))}")
        call = Call(attributes, self.opset, inputs, len(node.output), recorder)
        result: Any = FUNCTIONS[node.op_type](call)
        several = isinstance(result, StandIn) and isinstance(result.value, tuple | list)
        return [result[i] for i in range(len(node.output))] if several else [result]

    def _fold(self, node: onnx.NodeProto, inputs: list[Any], sizes: ConstantSizes) -> Sequence[Any]:
        """Compute the outputs of a node with constant inputs, by ONNX's own reference implementation."""
        if node.op_type in _RANDOM:
            raise UnsupportedModelError("draws random numbers; a generator must be deterministic")
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UnsupportedModelError("is control flow, which has no place in a chain of layers; export without it")
        if node.op_type not in _FOLDED:
            raise UnsupportedModelError(
                "computes a constant in a way that is not supported; export it with constant folding"
            )
        sizes.check(node, inputs)
        names = [onnx.ValueInfoProto(name=name) for name in node.input if name]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "constant", names, outputs)
        evaluator = ReferenceEvaluator(graph, opsets={o.domain: o.version for o in self.opsets})
        feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        found = evaluator.run(None, feeds)
        sizes.add([np.asarray(value) for value in found])
        values = iter(found)
        return [next(values) if name else None for name in node.output]


def _array(tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:  # raised by NumPy, protobuf or the table of types
        raise ModelFileError(f"tensor {tensor.name!r} is damaged: {error}; export it again") from error


def _chosen(names: Sequence[str], output: Pick | Mapping[str, Pick] | None) -> dict[str, str]:
    """Return the names of the outputs that are used, by the name of the part that each becomes."""
    if output is None and len(names) != 1:
        raise UnsupportedModelError(
            f"the graph has {len(names)} outputs ({', '.join(names) or 'none'}); pass output='name' for one of them, "
            f"or several as named parts, output={list(names)}"
        )
    chosen = {}
    for part, pick in output.items() if isinstance(output, Mapping) else [("", output or 0)]:
        if isinstance(pick, int) and -len(names) <= pick < len(names):
            chosen[part] = names[pick]
        elif isinstance(pick, str) and pick in names:
            chosen[part] = pick
        else:
            raise OptionError(f"output={pick!r} is no name or number of the graph's outputs, {', '.join(names)}")
    return chosen


def _needed(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs depend on, in the order of the graph."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value

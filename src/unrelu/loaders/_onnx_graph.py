"""Read an ONNX file as a network: its graph is recorded as one of ``torch.fx``, and constants are computed."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from unrelu.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from unrelu.loaders._chain_reader import LayerGraph, code_shape, errors_at, read_chain
from unrelu.loaders._graph_recorder import FixedBatchModule, Recorder, StandIn
from unrelu.loaders._onnx_functions import FUNCTIONS, TYPES
from unrelu.loaders._onnx_layers import Call
from unrelu.loaders._pass_through import read_branches
from unrelu.loaders._torch_operations import BATCHES
from unrelu.models.affine import Shape
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import Pick, concatenated
from unrelu.models.torch_opaque import opaque
from unrelu.runtime.file_reading import shown_size
from unrelu.runtime.streams import stream

try:
    import onnx
    import onnx.helper
    import onnx.numpy_helper

    from unrelu.loaders.file_checks.onnx_file import read_model
except ImportError:
    raise ModelFileError('reading .onnx needs a package: pip install "unrelu[onnx]"') from None


# Before opset 7, arithmetic broadcast by an attribute and batch normalisation had a test mode.
_OLDEST = 7
# Operators that draw random numbers.
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
# Operators whose time, on constants, the size of their output does not bound; and how many multiplications of a matrix
# product take as long as writing one number.
_LONG = {"AveragePool", "Conv", "ConvTranspose", "Einsum", "MaxPool", "Resize", "Upsample"}
_PRODUCTS = 50


def from_onnx(
    file: Path,
    latent_shape: int | tuple[int, ...] | None,
    max_bytes: int,
    output: Pick | Mapping[str, Pick] | None,
    inputs: Mapping[str, object],
) -> Network | OpaqueNetwork | NamedGenerator:
    """Return the chain of layers that an ONNX graph computes, or a generator without layers if it branches.

    ``latent_shape`` is needed if the graph leaves it open. ``max_bytes`` limits all constants together, and each
    tensor. ``output`` picks outputs, as :class:`~unrelu.models.torch_callables.GeneratorCall` has it, or tensors inside
    the graph; ``inputs`` are values of all inputs but one.

    Raises:
        ModelFileError: the file is truncated, not a valid ONNX model, or would take more than ``max_bytes``.
        UnsupportedModelError: the graph is not a chain of layers; and a node is unknown, or the graph is not a
            differentiable generator.
        ModelError: shapes do not fit, or weights are not finite.

    Source: https://onnx.ai/onnx/operators/
    """
    graph = _Graph(read_model(file, max_bytes), max_bytes, output, inputs)
    shape, batch = _input_shape(graph.input, latent_shape)
    batch = 1 if batch is None and inputs else batch  # values of further inputs are those of one code
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
    """An ONNX graph with one input, the code.

    Attributes:
        outputs: the names of the outputs that are used, by the name of the part that each becomes; one is the output.
        parts: the shapes of the parts, once the graph was recorded; empty if the output is no part.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        max_bytes: int,
        output: Pick | Mapping[str, Pick] | None,
        inputs: Mapping[str, object],
    ) -> None:
        graph = model.graph
        self._opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if self._opset < _OLDEST:
            raise UnsupportedModelError(
                f"uses ONNX opset {self._opset}; export it again with opset {_OLDEST} or later, e.g. 17"
            )
        self._max_bytes = max_bytes
        self._constants = {t.name: _tensor(t) for t in graph.initializer}
        if graph.sparse_initializer:
            raise UnsupportedModelError("the graph has sparse weights; store them as dense tensors")
        free = {v.name: v for v in graph.input if v.name not in self._constants}
        if unknown := [name for name in inputs if name not in free]:
            raise OptionError(f"inputs={unknown[0]!r} is no input of the graph; these are {', '.join(free)}")
        self._held = {name: (free.pop(name), value) for name, value in inputs.items()}
        if len(free) != 1:
            raise UnsupportedModelError(
                f"the graph has {len(free)} inputs ({', '.join(free) or 'none'}); a generator has one, the code: pass "
                "values of the others, inputs={'name': value}"
            )
        (self.input,), self.parts = free.values(), dict[str, Shape]()
        self._named = isinstance(output, Mapping)
        inner = {name for node in graph.node for name in node.output if name}
        self.outputs = _chosen([v.name for v in graph.output], inner, output)
        self._nodes = _needed(graph.node, set(self.outputs.values()))

    def module(self, shape: Shape, batch: int) -> fx.GraphModule:
        """The graph for batches of this size as a module; a batch, too, must not make a tensor above the limit."""
        graph = self.recorded(shape, batch, self._max_bytes // batch)
        return fx.GraphModule(graph.root, graph.graph, "OnnxGraph").eval()

    def recorded(self, shape: Shape, batch: int, max_bytes: int | None = None) -> LayerGraph:
        """The graph for batches of this size; no tensor in it takes more than ``max_bytes`` for one code."""
        limit = self._max_bytes if max_bytes is None else max_bytes
        recorder = Recorder((batch, *shape), f"the input {self.input.name!r}", limit)
        held = {name: _row(info, value, batch) for name, (info, value) in self._held.items()}
        values: dict[str, Any] = {"": None, **self._constants, **held, self.input.name: recorder.code}
        budget = _Budget(self._max_bytes)
        budget.spend(
            sum(tensor.numel() for tensor in self._constants.values()), "the constants of the model would take"
        )
        for node in self._nodes:
            place = f"node {node.name or node.output[0]!r} ({node.op_type})"
            given = [value for name in node.input if (value := values.get(name)) is not None]
            live = [value.shape[1:] for value in given if isinstance(value, StandIn)]
            recorder.at(place)
            with errors_at(place, live, [tuple(value.shape) for value in given if not isinstance(value, StandIn)]):
                if missing := [name for name in node.input if name not in values]:
                    raise UnsupportedModelError(
                        f"takes {missing[0]!r}, a second output such as Dropout's mask, which is not supported"
                    )
                call = self._call(node, [values[name] for name in node.input], recorder)
                found = _outputs(node, call) if live else budget.constants(node, call)
            values |= dict(zip(node.output, found, strict=False)) | {"": None}  # outputs that are left out have no name
        ends: dict[str, StandIn] = {}
        for part, name in self.outputs.items():
            if not isinstance(value := values.get(name), StandIn):
                raise UnsupportedModelError(f"the output {name!r} does not depend on the input")
            ends[part] = value
        recorder.at("the output")
        self.parts = {part: value.shape[1:] for part, value in ends.items()} if self._named else {}
        return recorder.graph_of(concatenated(ends) if self._named else next(iter(ends.values())))

    def _call(self, node: onnx.NodeProto, inputs: list[Any], recorder: Recorder) -> Call:
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) != ("ai.onnx.ml", "Scaler"):
            raise UnsupportedModelError(f"belongs to the operator set {node.domain!r}; only ONNX's own is supported")
        if node.op_type in _RANDOM:
            raise UnsupportedModelError("draws random numbers; a generator must be deterministic")
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UnsupportedModelError("is control flow, which has no place in a chain of layers; export without it")
        if node.op_type not in FUNCTIONS:
            raise UnsupportedModelError(f"is not known; supported are {', '.join(sorted(FUNCTIONS))}")
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
        last = bool(set(node.output) & set(self.outputs.values()))
        return Call(attributes, self._opset, inputs, len(node.output), recorder, last)


class _Budget:
    """Limits the bytes of all constants of a model together, which are learned before any is computed."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._entries = max_bytes, 0

    def spend(self, entries: int, what: str) -> None:
        """Count entries, at 8 bytes each, and refuse too many."""
        self._entries += entries
        if (size := 8 * self._entries) > self._max_bytes:
            raise UnsupportedModelError(
                f"{what} {shown_size(size)}; at most {shown_size(self._max_bytes)} are allowed, pass a larger "
                "max_bytes= (--max-bytes) if you trust the file"
            )

    def constants(self, node: onnx.NodeProto, call: Call) -> Sequence[Any]:
        """Compute the outputs of a node whose inputs are constants."""
        if node.op_type in _LONG:
            raise UnsupportedModelError(
                "computes a constant in a way that is not supported; export it with constant folding"
            )
        most = _most_entries(node, call)
        self.spend(most, "computes a constant; with it the model would take")
        if node.op_type in ("MatMul", "Gemm"):
            work = most * max(call.x.shape, default=1) // _PRODUCTS
            self.spend(work, "computes a constant; with the time for it the model would take")
        found = _outputs(node, call)
        self._entries += sum(x.numel() for x in found) - most
        return found


def _most_entries(node: onnx.NodeProto, call: Call) -> int:
    """A bound of the entries of a node's outputs, whose inputs are constants."""
    shapes = [tuple(x.shape) for x in call.inputs if x is not None]
    sizes = [math.prod(shape) for shape in shapes]
    if node.op_type == "ConstantOfShape":
        return math.prod(call.integers(0, "") or [])
    if node.op_type == "Expand":
        return math.prod(np.broadcast_shapes(shapes[0], tuple(call.integers(1, "") or ())))
    if node.op_type == "Tile":
        return sizes[0] * math.prod(call.integers(1, "") or ())
    if node.op_type == "NonZero":
        return sizes[0] * len(shapes[0])
    if node.op_type == "Pad":
        return math.prod(n + sum(map(abs, call.integers(1, "pads") or ())) for n in shapes[0])
    if node.op_type == "Range":
        first, end, step = (call.tensor(i).item() for i in range(3))
        return max(0, math.ceil((end - first) / step))
    if node.op_type in ("MatMul", "Gemm"):
        inner = shapes[0][call.get("transA", 0) - 1] if shapes[0] else 1
        return math.prod(sizes[:2]) // max(1, inner) ** 2 + sum(sizes)
    if node.op_type in ("Gather", "GatherND"):
        inner = shapes[0][call.get("axis", 0)] if node.op_type == "Gather" and shapes[0] else 1
        return math.prod(sizes) // max(1, inner)
    with suppress(ValueError):  # of shapes that do not broadcast, as those of a tensor and its new shape
        return max(sum(sizes), math.prod(np.broadcast_shapes(*shapes)))
    return sum(sizes)


def _outputs(node: onnx.NodeProto, call: Call) -> Sequence[Any]:
    """The outputs of a node."""
    result: Any = FUNCTIONS[node.op_type](call)
    if isinstance(result, StandIn) and isinstance(result.value, tuple | list):
        return [operator.getitem(result, i) for i in range(len(node.output))]
    return result if isinstance(result, tuple | list) else [result]


def _row(info: onnx.ValueInfoProto, value: object, batch: int) -> Tensor:
    """The value of a further input, which is repeated for each code if it is that of one."""
    kind, dims = info.type.tensor_type.elem_type, info.type.tensor_type.shape.dim
    try:
        given = torch.as_tensor(value, dtype=TYPES[kind])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise OptionError(f"inputs: {info.name!r} is {value!r:.80}, not a tensor of numbers ({error})") from error
    given = given[None] if given.dim() == len(dims) - 1 else given
    rows = given.shape[0] if given.dim() else 0
    return given.expand(batch, *given.shape[1:]) if rows == 1 and dims and dims[0].dim_value in (0, batch) else given


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    try:
        array = np.array(onnx.numpy_helper.to_array(tensor))
        if array.dtype.kind not in "biuf":  # bfloat16, and numbers of fewer bits
            array = array.astype(np.float32)
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" and array.itemsize > 1 else array)
    except Exception as error:  # raised by NumPy, protobuf or the table of types
        raise ModelFileError(f"tensor {tensor.name!r} is damaged: {error}; export it again") from error


def _chosen(names: Sequence[str], inner: Set[str], output: Pick | Mapping[str, Pick] | None) -> dict[str, str]:
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
        elif isinstance(pick, str) and (pick in names or pick in inner):
            chosen[part] = pick
        else:
            raise OptionError(
                f"output={pick!r} is no name or number of the graph's outputs, {', '.join(names)}, and no name of a "
                "tensor inside"
            )
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
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    return value.decode() if isinstance(value, bytes) else value

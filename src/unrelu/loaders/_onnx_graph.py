"""Read an ONNX file as a network: its graph becomes a module of PyTorch, and the module is read as any other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from unrelu.loaders import _onnx_layers as layers
from unrelu.loaders._chain_reader import code_shape
from unrelu.loaders._onnx_functions import FUNCTIONS, TYPES
from unrelu.loaders._onnx_layers import Call, GraphNode
from unrelu.loaders._recording import at_place
from unrelu.loaders._torch_graph import BATCH, FixedBatchModule, network_of
from unrelu.models.affine import Shape
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import Pick, concatenated
from unrelu.runtime.file_reading import shown_size

try:
    import onnx
    import onnx.helper
    import onnx.numpy_helper

    from unrelu.loaders.file_checks.onnx_file import read_model
except ImportError:
    raise ModelFileError("reading .onnx needs a package: pip install onnx") from None


# Before opset 7, arithmetic broadcast by an attribute and batch normalisation had a test mode.
_OLDEST = 7
# Operators that draw random numbers.
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
# Operators whose time, on constants, the size of their output does not bound; and how many multiplications of a matrix
# product take as long as writing one number.
_LONG = {"AveragePool", "Conv", "ConvTranspose", "Einsum", "MaxPool", "Resize", "Upsample"}
_PRODUCTS = 50
# Operators whose outputs depend on the shape of their input alone.
_SHAPES = ("Shape", "Size")


def from_onnx(
    file: Path,
    latent_shape: int | tuple[int, ...] | None,
    max_bytes: int,
    output: Pick | Mapping[str, Pick] | None,
    inputs: Mapping[str, object],
) -> Network | OpaqueNetwork | NamedGenerator:
    """Return the chain of layers that an ONNX graph computes, or a generator without layers if it branches.

    ``latent_shape`` is needed if the graph leaves it open. ``max_bytes`` limits all constants together with the tensors
    of a few codes. ``output`` picks outputs, as :class:`~unrelu.models.torch_callables.GeneratorCall` has it, or
    tensors inside the graph; ``inputs`` are values of all inputs but one.

    Raises:
        ModelFileError: the file is truncated, not a valid ONNX model, or would take more than ``max_bytes``.
        UnsupportedModelError: a node is unknown, or the graph is not a differentiable generator.
        ModelError: shapes do not fit, or weights are not finite.

    Source: https://onnx.ai/onnx/operators/
    """
    graph = _Graph(read_model(file, max_bytes), output, inputs)
    shape, batch = _input_shape(graph.input, latent_shape)
    batch = 1 if batch is None and inputs else batch  # values of further inputs are those of one code
    module = OnnxModule(graph, shape, max_bytes, batch or 1)
    given = torch.zeros(batch or BATCH, *shape, dtype=torch.float64)
    with torch.no_grad():
        try:
            ends = module.ends(given, named=True)
        except UnsupportedModelError:
            raise
        except ModelError as error:
            try:  # some graphs have shapes that fit one code only, although they leave the batch size open
                ends, batch = module.ends(given[:1], named=True), 1
            except ModelError:
                raise error from None
    network = network_of(module if batch is None else FixedBatchModule(module, batch), shape)
    if not isinstance(output, Mapping):
        return network
    return network.with_parts({part: tuple(end.shape[1:]) for part, end in ends.items()})


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
        constants: tensors by name.
        held: further inputs, each with its value.
        nodes: the nodes that the outputs depend on, in order.
    """

    def __init__(
        self, model: onnx.ModelProto, output: Pick | Mapping[str, Pick] | None, inputs: Mapping[str, object]
    ) -> None:
        graph = model.graph
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if self.opset < _OLDEST:
            raise UnsupportedModelError(
                f"uses ONNX opset {self.opset}; export it again with opset {_OLDEST} or later, e.g. 17"
            )
        self.constants = {t.name: _tensor(t) for t in graph.initializer}
        if graph.sparse_initializer:
            raise UnsupportedModelError("the graph has sparse weights; store them as dense tensors")
        free = {v.name: v for v in graph.input if v.name not in self.constants}
        if unknown := [name for name in inputs if name not in free]:
            raise OptionError(f"inputs={unknown[0]!r} is no input of the graph; these are {', '.join(free)}")
        self.held = {name: (free.pop(name), value) for name, value in inputs.items()}
        if len(free) != 1:
            raise UnsupportedModelError(
                f"the graph has {len(free)} inputs ({', '.join(free) or 'none'}); a generator has one, the code: pass "
                "values of the others, inputs={'name': value}"
            )
        (self.input,) = free.values()
        inner = {name for node in graph.node for name in node.output if name}
        self.outputs = _chosen([v.name for v in graph.output], inner, output)
        self.nodes = [self._node(node) for node in _needed(graph.node, set(self.outputs.values()))]

    def _node(self, node: onnx.NodeProto) -> GraphNode:
        place = f"node {node.name or node.output[0]!r} ({node.op_type})"
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) != ("ai.onnx.ml", "Scaler"):
            raise UnsupportedModelError(
                f"{place} belongs to the operator set {node.domain!r}; only ONNX's own is supported"
            )
        if node.op_type in _RANDOM:
            raise UnsupportedModelError(f"{place} draws random numbers; a generator must be deterministic")
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UnsupportedModelError(
                f"{place} is control flow, which has no place in a chain of layers; export without it"
            )
        if node.op_type not in FUNCTIONS:
            raise UnsupportedModelError(f"{place} is not known; supported are {', '.join(sorted(FUNCTIONS))}")
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
        last = bool(set(node.output) & set(self.outputs.values()))
        return GraphNode(node.op_type, place, attributes, tuple(node.input), tuple(node.output), self.opset, last)


class OnnxModule(nn.Module):
    """An ONNX graph as a module from codes (B, ...) to its output, or to its outputs one after the other.

    What does not depend on the code is computed at once.

    Args:
        graph: the graph.
        shape: the shape of one code.
        max_bytes: the most bytes that all constants may take, together with the tensors of a few codes.
        batch: the size of batches, which the values of further inputs have.
    """

    def __init__(self, graph: _Graph, shape: Shape, max_bytes: int, batch: int) -> None:
        super().__init__()
        self.title, self.training = "ONNX graph", False
        self._input, self._outputs, self._max_bytes = graph.input.name, graph.outputs, max_bytes
        self._spent, self._nodes, self._names = 0, list[GraphNode](), dict[str, str]()
        held = {name: _row(info, value, batch) for name, (info, value) in graph.held.items()}
        values: dict[str, Tensor | None] = {"": None, **graph.constants, **held}
        self._spend(sum(x.numel() for x in graph.constants.values()), "the constants of the model would take")
        live, later = {self._input}, {self._input}  # what depends on the code, and what on the batch
        for node in graph.nodes:
            if not later.isdisjoint(node.inputs):
                later.update(node.outputs)
                live.update(node.outputs if node.kind not in _SHAPES and not live.isdisjoint(node.inputs) else ())
                self._nodes.append(node)
                continue
            with _errors_at(node, values, live):
                values |= self._constants(Call(node, [self._found(values, name) for name in node.inputs]))
        if missing := [name for name in graph.outputs.values() if name not in live]:
            raise UnsupportedModelError(f"the output {missing[0]!r} does not depend on the input")
        used = {name for node in self._nodes for name in node.inputs}
        for name in sorted(used & values.keys() - {""}):
            value = values[name]
            self._names[name] = f"constant_{len(self._names)}"
            self.register_buffer(self._names[name], value)
        self._live = live
        # By node: the names that no later node takes.
        self._spare: list[list[str]] = []
        wanted = set(graph.outputs.values())
        for node in reversed(self._nodes):
            self._spare.append([name for name in node.inputs if name not in wanted and name])
            wanted.update(node.inputs)
        self._spare.reverse()

    def forward(self, z: Tensor) -> Tensor:
        """The output for codes, (B, ...) -> (B, ...)."""
        ends = self.ends(z)
        return next(iter(ends.values())) if list(ends) == [""] else concatenated(ends)

    def ends(self, z: Tensor, named: bool = False) -> dict[str, Tensor]:
        """The outputs for codes by the names of their parts.

        Errors of PyTorch become ones that name the node if ``named``; searches know what PyTorch's own mean.

        Raises:
            UnsupportedModelError: a tensor would take too much memory.
            ModelError: a node does not fit its inputs.
        """
        values: dict[str, Tensor | None] = {"": None, **{n: getattr(self, held) for n, held in self._names.items()}}
        values[self._input] = z
        alive = 0  # entries of the tensors that are kept
        for node, spare in zip(self._nodes, self._spare, strict=True):
            with at_place(node.place), _errors_at(node, values, self._live) if named else nullcontext():
                inputs = [self._found(values, name) for name in node.inputs]
                call = Call(node, inputs, frozenset(i for i, name in enumerate(node.inputs) if name in self._live))
                codes = BATCH / max(BATCH, len(z))  # larger batches are divided by those who ask for them
                size = int(8 * (self._spent + codes * (alive + _most_entries(call))))
                if size > self._max_bytes:
                    raise UnsupportedModelError(
                        f"would take {shown_size(size)} for {BATCH} codes, with the constants of the model; at most "
                        f"{shown_size(self._max_bytes)} are allowed, pass a larger max_bytes= (--max-bytes) if you "
                        "trust the file"
                    )
                found = _results(call)
            values |= found
            gone = [values.pop(name, None) for name in spare]
            alive += sum(x.numel() for x in found.values()) - sum(x.numel() for x in gone if x is not None)
        return {part: self._found(values, name) for part, name in self._outputs.items()}  # type: ignore[misc] # no None

    def _found(self, values: Mapping[str, Tensor | None], name: str) -> Tensor | None:
        if name not in values:
            raise UnsupportedModelError(
                f"takes {name!r}, a second output such as Dropout's mask, which is not supported"
            )
        return values[name]

    def _spend(self, entries: int, what: str) -> None:
        """Count entries of constants, at 8 bytes each, and refuse too many."""
        self._spent += entries
        if (size := 8 * self._spent) > self._max_bytes:
            raise UnsupportedModelError(
                f"{what} {shown_size(size)}; at most {shown_size(self._max_bytes)} are allowed, pass a larger "
                "max_bytes= (--max-bytes) if you trust the file"
            )

    def _constants(self, call: Call) -> dict[str, Tensor]:
        """The outputs of a node whose inputs are constants."""
        kind = call.node.kind
        if kind in _LONG:
            raise UnsupportedModelError(
                "computes a constant in a way that is not supported; export it with constant folding"
            )
        most = _most_entries(call)
        self._spend(most, "computes a constant; with it the model would take")
        if kind in ("MatMul", "Gemm"):
            work = most * max(call.x.shape, default=1) // _PRODUCTS
            self._spend(work, "computes a constant; with the time for it the model would take")
        found = _results(call)
        self._spent += sum(x.numel() for x in found.values()) - most
        return found


@contextmanager
def _errors_at(node: GraphNode, values: Mapping[str, Tensor | None], live: Set[str]) -> Iterator[None]:
    """Name the node in errors, with the shapes of its data and constants where these do not fit."""
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{node.place} {error}") from error
    except ModelError as error:
        raise ModelError(f"{node.place}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        shapes = {name: tuple(x.shape) for name in node.inputs if (x := values.get(name)) is not None}
        data = [shape[1:] for name, shape in shapes.items() if name in live]
        constants = [str(shape) for name, shape in shapes.items() if name not in live]
        what = f"does not fit an input of shape {data[0]}" if data else "cannot be computed"
        beside = f", with constants of shapes {', '.join(constants)}" if data and constants else ""
        raise ModelError(f"{node.place} {what}{beside}: {error}") from error


def _results(call: Call) -> dict[str, Tensor]:
    """The outputs of a node by name; those that are left out have none."""
    found = FUNCTIONS[call.node.kind](call)
    several = found if isinstance(found, tuple | list) else (found,)
    return {name: x for name, x in zip(call.node.outputs, several, strict=False) if name}


def _most_entries(call: Call) -> int:
    """A bound of the entries of a node's outputs, before they are computed."""
    kind, shapes = call.node.kind, [tuple(x.shape) for x in call.inputs if x is not None]
    sizes = [math.prod(shape) for shape in shapes]
    if kind == "ConstantOfShape":
        return math.prod(call.integers(0, "") or [])
    if kind == "Expand":
        return math.prod(np.broadcast_shapes(shapes[0], tuple(call.integers(1, "") or ())))
    if kind == "Tile":
        return sizes[0] * math.prod(call.integers(1, "") or ())
    if kind == "NonZero":
        return sizes[0] * len(shapes[0])
    if kind == "Pad":
        return math.prod(n + sum(map(abs, call.integers(1, "pads") or ())) for n in shapes[0])
    if kind == "Range":
        first, end, step = (call.tensor(i).item() for i in range(3))
        return max(0, math.ceil((end - first) / step))
    if kind in ("MatMul", "Gemm"):
        inner = shapes[0][call.get("transA", 0) - 1] if shapes[0] else 1
        return math.prod(sizes[:2]) // max(1, inner) ** 2 + sum(sizes)
    if kind in ("Gather", "GatherND"):
        inner = shapes[0][call.get("axis", 0)] if kind == "Gather" and shapes[0] else 1
        return math.prod(sizes) // max(1, inner)
    if kind in layers.SPATIAL:
        return math.prod(layers.SPATIAL[kind](call))
    if kind == "Einsum":  # its steps may be as large as all axes together
        axes = call.get("equation", "").partition("->")[0].replace(" ", "").replace(",", "")
        return math.prod(sizes if "." in axes else dict(zip(axes, sum(shapes, ()), strict=True)).values())
    with suppress(ValueError):  # of shapes that do not broadcast, as those of a tensor and its new shape
        return max(sum(sizes), math.prod(np.broadcast_shapes(*shapes)))
    return sum(sizes)


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

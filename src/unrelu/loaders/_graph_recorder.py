"""Graphs of other formats as ``torch.fx`` graphs: recorded on stand-ins for tensors, or translated from programs."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from operator import attrgetter, itemgetter
from typing import Any, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.proxy import GraphAppendingTracer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from unrelu.errors import UnsupportedModelError
from unrelu.loaders._chain_reader import LayerGraph
from unrelu.loaders._operation_tables import FUNCTIONS, METHODS
from unrelu.loaders._torch_operations import sloped
from unrelu.models.affine import Shape
from unrelu.models.opaque_network import plain_attention
from unrelu.runtime.file_reading import shown_size

# To infer the shapes of these functions' outputs, PyTorch would load its compiler or SymPy, which takes seconds.
_ARITHMETIC = (
    torch.add, torch.sub, torch.mul, torch.div, operator.add, operator.sub, operator.mul, operator.truediv, sloped,
)  # fmt: skip
_LAYERS = (
    F.linear, torch.matmul, F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d, F.batch_norm, F.interpolate,
    F.avg_pool1d, F.avg_pool2d, F.pixel_shuffle, F.leaky_relu, torch.relu, torch.sigmoid, torch.tanh, torch.neg,
)  # fmt: skip
# Name of a buffer of a program whose type is that of all computations: copies convert it together with the weights.
_REAL = "real"


class StandIn(fx.Proxy):
    """Stands for a tensor. It has the tensor's node, and as ``value`` a meta tensor of the same shape."""

    value: Any

    @property
    def shape(self) -> Shape:
        """The shape of the whole tensor, batch axis included."""
        return tuple(self.value.shape)

    def dim(self) -> int:
        """The number of axes."""
        return len(self.value.shape)

    def is_floating_point(self) -> bool:
        """Whether it holds real numbers."""
        return bool(self.value.is_floating_point())


class Recorder(GraphAppendingTracer):
    """Records what functions do to ``code``, a stand-in for a batch of codes.

    Shapes are known at once, because every call is also run on meta tensors, which have no entries. Constants become
    buffers of the graph.

    Args:
        shape: the shape of the batch.
        place: the name of the code in messages.
        max_bytes: the most bytes that a tensor may take for one code.
    """

    def __init__(self, shape: Shape, place: str, max_bytes: int) -> None:
        super().__init__(fx.Graph())
        self.root = nn.Module()
        self._known: dict[int, str] = {}
        self._limit = SizeLimit(max_bytes, shape[0])
        self.at(place)
        self.code: StandIn = self.create_proxy("placeholder", "z", (), {})
        with self._limit:
            self.code.value = torch.empty(shape, dtype=torch.float64, device="meta")

    def at(self, place: str) -> None:
        """Begin the node of the model that messages call ``place``."""
        self._meta = {"place": place, "reason": "is not an affine map or a known activation"}

    def not_a_layer(self, reason: str) -> None:
        """Mark what follows in this node of the model as not a layer, for this reason."""
        self._meta = self._meta | {"reason": reason}

    def allow(self, shape: Sequence[int]) -> None:
        """Refuse a shape that is too large, before a tensor of that size is computed."""
        with self._limit:
            torch.empty(*shape, device="meta")

    def graph_of(self, output: StandIn) -> LayerGraph:
        """The recorded graph, ending in this output."""
        self.create_node("output", "output", (output.node,), {})
        return LayerGraph(self.root, self.graph)

    def proxy(self, node: fx.Node) -> StandIn:
        """The stand-in for the output of a node."""
        return StandIn(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Create a node that knows its place in the model."""
        node = super().create_node(*args, **kwargs)
        node.meta |= self._meta
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        """Create a node, and run its call on meta tensors."""
        made: Any = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if kind != "placeholder":
            shape = None if kind == "call_method" else _known_shape(target, args, kwargs)
            given, options = fx.node.map_aggregate((args, kwargs), _as_meta)
            with self._limit:
                if shape is not None:
                    made.value = torch.empty(*shape, dtype=torch.float64, device="meta")
                elif kind == "call_method":
                    made.value = getattr(given[0], target)(*given[1:], **options)
                else:
                    made.value = target(*given, **options)
        return made

    def create_arg(self, a: Any) -> Any:
        """Convert an argument of a node: tensors become buffers."""
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        if id(a) not in self._known:
            self._known[id(a)] = name = f"constant_{len(self._known)}"
            self.root.register_buffer(name, a)
        return self.create_node("get_attr", self._known[id(a)], (), {})


def _known_shape(function: Any, args: Sequence[Any], options: dict[str, Any]) -> Shape | None:
    """The output shape of arithmetic (by broadcasting) and of layers (by a run on an empty batch), else None."""
    if function in _ARITHMETIC:
        return np.broadcast_shapes(*(tuple(x.shape) for x in args if isinstance(x, StandIn | Tensor)))
    if function not in _LAYERS or [i for i, x in enumerate(args) if isinstance(x, StandIn)] != [0]:
        return None
    batch, *shape = args[0].shape
    rows, *found = function(torch.empty(0, *shape, dtype=torch.float64), *args[1:], **options).shape
    return None if rows or 0 in found else (batch, *found)


def _as_meta(value: Any) -> Any:
    if isinstance(value, StandIn):
        return value.value
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


class SizeLimit(TorchDispatchMode):
    """Makes meta tensors only, and refuses one of more than ``max_bytes`` for each of ``count`` codes."""

    def __init__(self, max_bytes: int, count: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.max_bytes, self.count = max_bytes, count

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under this mode, so PyTorch need not load its compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = [argument.name for argument in getattr(func, "_schema", func).arguments]
        own = {"device": torch.device("meta")} if "device" in arguments else {}
        result = func(*args, **{**(kwargs or {}), **own})
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and (size := 8 * x.numel() // self.count) > self.max_bytes:
                raise UnsupportedModelError(
                    f"makes a tensor that would take {shown_size(size)} for one code, by {func}; at most "
                    f"{shown_size(self.max_bytes)} are allowed, pass a larger max_bytes= (--max-bytes) if you trust "
                    "the file"
                )
        return result


class FixedBatchModule(nn.Module):
    """Makes a module that takes batches of one size take any: each code, repeated, is a batch of its own."""

    body: nn.Module
    batch: int

    def __init__(self, body: nn.Module, batch: int) -> None:
        super().__init__()
        self.body, self.batch, self.training, self.title = body, batch, False, type(body).__name__

    def forward(self, z: Tensor) -> Any:
        """The outputs of the codes."""
        with plain_attention():
            return torch.func.vmap(self._of_one)(z)

    def _of_one(self, code: Tensor) -> Any:
        return tree_map(itemgetter(0), self.body(code.expand(self.batch, *code.shape)))


# --- programs of torch.export -----------------------------------------------------------------------------------------


def is_program(module: object) -> TypeGuard[fx.GraphModule]:
    """Whether a module is that of a program, ``program.module()``: its graph says what shape its inputs have."""
    inputs = module.graph.find_nodes(op="placeholder") if isinstance(module, fx.GraphModule) else []
    return bool(inputs) and all("val" in node.meta for node in inputs)


def read_program(program: fx.GraphModule) -> tuple[nn.Module, Shape]:
    """A program as a module of PyTorch's own functions, for batches of any size, and the shape of a code.

    Operators become the functions and methods of the same name, from which layers are read. Where numbers are
    converted to a type that the program names, they get that of the weights. Checks of the inputs are left out.
    """
    graph = copy.deepcopy(program.graph)
    graph.eliminate_dead_code(_has_effect)
    shapes = [tuple(x.shape) for n in graph.find_nodes(op="placeholder") if isinstance(x := n.meta["val"], Tensor)]
    if len(shapes) != 1 or len(shapes[0]) < 2 or not all(isinstance(n, int) for n in shapes[0][1:]):
        raise UnsupportedModelError(
            f"the program takes inputs of shapes {', '.join(map(str, shapes))}; export one that takes codes (B, ...) "
            "alone, with all axes but the first fixed, and further inputs held fixed in its forward"
        )
    batch, *shape = shapes[0]
    held = {node.target: attrgetter(node.target)(program) for node in graph.find_nodes(op="get_attr")}
    if any(not isinstance(value, Tensor) for value in held.values()):
        what = "a graph of its own, as torch.cond, torch.autocast and torch.no_grad leave them"
        raise UnsupportedModelError(f"the program has {what}; pass the module itself")
    for node in graph.nodes:
        if node.op == "call_function" and str(node.target).startswith("aten."):
            _translate(node, graph)
    module = fx.GraphModule(held | {_REAL: torch.zeros((), dtype=torch.float64)}, graph, "ExportedProgram").eval()
    return FixedBatchModule(module, batch) if isinstance(batch, int) else module, tuple(shape)


def _has_effect(node: fx.Node) -> bool:
    """Whether a node must be kept even if its result is not used."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


def _translate(node: fx.Node, graph: fx.Graph) -> None:
    """Make a node call the function or method of PyTorch that does the same as its operator, if layers have it."""
    _, name, overload = str(node.target).replace("sym_size", "size").split(".")
    if name == "batch_norm":
        x, weight, bias, mean, variance, *options = node.args
        node.args = (x, mean, variance, weight, bias, *options[:3])
    elif (name, overload) == ("upsample_nearest2d", "vec"):
        name, node.args = "interpolate", node.args[:3]
    elif name in ("to", "_to_copy"):
        name, node.kwargs = "to", {}
        with graph.inserting_before(node):
            node.args = (node.args[0], graph.get_attr(_REAL))
    function: Any = getattr(F, name, getattr(torch, name, None))
    if function in FUNCTIONS:
        node.target = function
    elif name in METHODS or name == "size":
        node.op, node.target = "call_method", name

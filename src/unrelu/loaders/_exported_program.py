"""Turn programs of ``torch.export``, graphs of ATen operators, into modules.

An operator becomes the function of PyTorch that does the same, if there is one, so that layers are recognised. All
other operators are kept.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from unrelu.errors import UnsupportedModelError
from unrelu.loaders._graph_recorder import FixedBatchModule
from unrelu.models.affine import Shape

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add.Tensor": torch.add, "avg_pool2d.default": F.avg_pool2d, "conv1d.default": F.conv1d, "conv1d.padding": F.conv1d,
    "conv2d.default": F.conv2d, "conv2d.padding": F.conv2d, "conv_transpose1d.default": F.conv_transpose1d,
    "conv_transpose2d.input": F.conv_transpose2d, "div.Tensor": torch.div, "dropout.default": F.dropout,
    "flatten.using_ints": torch.flatten, "leaky_relu.default": F.leaky_relu, "linear.default": F.linear,
    "matmul.default": torch.matmul, "mul.Tensor": torch.mul, "neg.default": torch.neg, "pad.default": F.pad,
    "pixel_shuffle.default": F.pixel_shuffle, "prelu.default": F.prelu, "relu.default": torch.relu,
    "relu_.default": torch.relu, "leaky_relu_.default": F.leaky_relu, "sigmoid_.default": torch.sigmoid,
    "tanh_.default": torch.tanh,
    "sigmoid.default": torch.sigmoid, "sub.Tensor": torch.sub, "tanh.default": torch.tanh,
    "unsqueeze.default": torch.unsqueeze,
}  # fmt: skip
_METHODS = {
    "view.default": "view",
    "reshape.default": "reshape",
    "sym_size.int": "size",
    "clone.default": "clone",
    "unflatten.int": "unflatten",
}
# Python functions by which programs compute sizes.
SIZES = {name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "neg", "getitem")}
# Name of a buffer whose type is that of all computations: copies of a module convert it together with the weights.
_REAL = "real"


class Program:
    """A program with one input, built node by node; ``shape`` is the shape of one code.

    Args:
        inputs: the names of its inputs.
        sizes: returns the sizes of an input, given its name; None where a size is open.
    """

    def __init__(self, inputs: Sequence[str], sizes: Callable[[str], Sequence[int | None]]) -> None:
        if len(inputs) != 1:
            raise UnsupportedModelError(
                f"the program takes {len(inputs)} inputs ({', '.join(inputs)}); export one that takes the code alone, "
                "with the others held fixed in its forward"
            )
        self._batch, *rest = sizes(inputs[0]) or [None]
        if not rest or None in rest:
            shown = ", ".join("?" if n is None else str(n) for n in (self._batch, *rest))
            raise UnsupportedModelError(
                f"the program takes inputs of shape ({shown}); all but the first axis must be fixed"
            )
        self.shape: Shape = tuple(n for n in rest if n is not None)
        self._graph, self._root = fx.Graph(), nn.Module()
        self._root.register_buffer(_REAL, torch.zeros((), dtype=torch.float64))
        self.nodes = {inputs[0]: self._graph.placeholder("z")}

    def add_constant(self, name: str, tensor: Tensor) -> None:
        """Add a weight or another constant.

        Raises:
            UnsupportedModelError: it is no tensor.
        """
        if not isinstance(tensor, Tensor):
            raise UnsupportedModelError(
                f"the program has a graph of its own at node {name!r}, as torch.cond, torch.autocast and torch.no_grad "
                "leave them; pass the module itself"
            )
        own = f"own_{len(self.nodes)}"
        self._root.register_buffer(own, tensor.detach().clone())
        self.nodes[name] = self._graph.get_attr(own)

    def add_call(
        self, name: str, target: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Add a node that calls an operator. An operator given by name is unknown: the output must not need it."""
        if isinstance(target, str):
            self.nodes[name] = self._graph.call_function(_refused)
            self.nodes[name].meta["reason"] = f"node {name!r} calls {target}, which is not among known operators"
        else:
            self.nodes[name] = _node(self._graph, target, args, kwargs)

    def module(self, outputs: Sequence[str]) -> nn.Module:
        """The program with these outputs, as a module for batches of any size."""
        found = tuple(self.nodes[name] for name in outputs)
        self._graph.output(found[0] if len(found) == 1 else found)
        self._graph.eliminate_dead_code(_has_effect)  # drops guards and assertions
        for node in self._graph.nodes:
            if node.target is _refused:
                raise UnsupportedModelError(node.meta["reason"])
        module = fx.GraphModule(self._root, self._graph, "ExportedProgram").eval()
        return module if self._batch is None else FixedBatchModule(module, self._batch)


def _refused() -> None:
    """Placeholder for an operator that must not be called."""


def _has_effect(node: fx.Node) -> bool:
    """Whether a node must be kept even if its result is not used."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


def is_program(module: object) -> TypeGuard[fx.GraphModule]:
    """Whether a module is that of a program, ``program.module()``: its graph says what shape its inputs have."""
    if not isinstance(module, fx.GraphModule):
        return False
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    return bool(inputs) and all("val" in node.meta for node in inputs)


def read_program(program: fx.GraphModule) -> tuple[nn.Module, Shape]:
    """Return the module of a program that this process exported or loaded as one of ours, and the shape of a code."""
    nodes = {node.name: node for node in program.graph.nodes}
    codes = [name for name, node in nodes.items() if node.op == "placeholder" and isinstance(node.meta["val"], Tensor)]
    found = Program(codes, lambda name: [n if isinstance(n, int) else None for n in nodes[name].meta["val"].shape])
    for name, node in nodes.items():
        if node.op == "get_attr":
            found.add_constant(name, attrgetter(node.target)(program))
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: found.nodes.get(n.name))
            found.add_call(name, node.target, args, dict(kwargs))
    outputs: Any = program.graph.output_node().args[0]
    return found.module([node.name for node in outputs if isinstance(node, fx.Node)]), found.shape


def _node(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    """A node that calls ``target``, or the function of PyTorch that does the same."""
    name = str(target).removeprefix("aten.")
    if name == "batch_norm.default":
        x, weight, bias, mean, variance, training, momentum, eps = args[:8]
        return graph.call_function(F.batch_norm, (x, mean, variance, weight, bias, training, momentum, eps))
    if name == "upsample_nearest2d.vec":
        return graph.call_function(F.interpolate, args[:3])
    if name in _METHODS:
        return graph.call_method(_METHODS[name], args, kwargs)
    if name.startswith(("_to_copy.", "to.")):
        return _converted(graph, args, kwargs)
    return graph.call_function(_FUNCTIONS.get(name, target), args, kwargs)


def _converted(graph: fx.Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    """A node that converts to the type of the buffer ``_REAL``, whichever floating type the program names."""
    dtype = next((a for a in (*args[1:], *kwargs.values()) if isinstance(a, torch.dtype)), None)
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedModelError(f"the program converts data to {dtype}, which is not a real number")
    real = graph.call_method("to", (args[0], graph.get_attr(_REAL)))
    return graph.call_method("clone", (real,))

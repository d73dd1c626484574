"""Programs of ``torch.export`` as modules: their graphs of ATen operators, written in PyTorch's functions.

Operators that do what one of PyTorch's functions does become that function, so that a program of layers is read as
layers. All others are kept.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from unrelu.errors import UnsupportedModelError
from unrelu.loaders.graph_recorder import AloneModule
from unrelu.models.affine import Shape

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add.Tensor": torch.add, "avg_pool2d.default": F.avg_pool2d, "conv1d.default": F.conv1d, "conv1d.padding": F.conv1d,
    "conv2d.default": F.conv2d, "conv2d.padding": F.conv2d, "conv_transpose1d.default": F.conv_transpose1d,
    "conv_transpose2d.input": F.conv_transpose2d, "div.Tensor": torch.div, "dropout.default": F.dropout,
    "flatten.using_ints": torch.flatten, "leaky_relu.default": F.leaky_relu, "linear.default": F.linear,
    "matmul.default": torch.matmul, "mul.Tensor": torch.mul, "neg.default": torch.neg, "pad.default": F.pad,
    "pixel_shuffle.default": F.pixel_shuffle, "prelu.default": F.prelu, "relu.default": torch.relu,
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


# A number of the type that all is computed in, which copies of a module convert as they convert weights.
REAL = "real"


@dataclass(frozen=True)
class ProgramStep:
    """A node of a program: ``name = target(*args, **kwargs)``, in which :class:`Name` stands for other nodes.

    A target that is text is an operator that must not be called.
    """

    name: str
    target: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Name:
    """The value of another node."""

    node: str


@dataclass(frozen=True)
class Program:
    """A program of one input.

    Attributes:
        steps: its nodes, in order.
        tensors: its weights and constants, by the name of the node that stands for them.
        code: the name of the input.
        shape: of one code.
        batch: the size of the batch that it was exported for; None where it takes any.
        outputs: the names of its outputs.
    """

    steps: Sequence[ProgramStep]
    tensors: Mapping[str, Tensor]
    code: str
    shape: Shape
    batch: int | None
    outputs: Sequence[str]

    def module(self) -> nn.Module:
        """The program as a module of batches of any size.

        Raises:
            UnsupportedModelError: an operator must not be called.
        """
        graph, root = fx.Graph(), nn.Module()
        root.register_buffer(REAL, torch.zeros((), dtype=torch.float64))
        nodes: dict[str, fx.Node] = {self.code: graph.placeholder("z")}
        used = self._used()
        for name in [name for name in self.tensors if name in used]:
            tensor = self.tensors[name].detach()
            own = f"own_{len(nodes)}"
            root.register_buffer(own, tensor.clone())
            nodes[name] = graph.get_attr(own)
        for step in self.steps:
            if step.name in used:
                if isinstance(step.target, str):
                    raise UnsupportedModelError(
                        f"node {step.name!r} calls {step.target}, which is not among known operators"
                    )
                args, kwargs = _filled(step.args, nodes), _filled(dict(step.kwargs), nodes)
                nodes[step.name] = _node(graph, step.target, args, kwargs)
        found = tuple(nodes[name] for name in self.outputs)
        graph.output(found[0] if len(found) == 1 else found)
        module = fx.GraphModule(root, graph, "ExportedProgram").eval()
        return module if self.batch is None else AloneModule(module, self.batch)

    def _used(self) -> set[str]:
        """The nodes that the outputs are computed from: guards and assertions are none of them."""
        used = set(self.outputs)
        for step in reversed(self.steps):
            schema = getattr(step.target, "_schema", None)
            if step.name in used or (schema is not None and schema.is_mutable):
                used.add(step.name)
                used.update(_names((step.args, dict(step.kwargs))))
        return used


def read_program(program: torch.export.ExportedProgram) -> Program:
    """A program that was exported in this process, or loaded by ``torch.export.load``.

    Raises:
        UnsupportedModelError: it takes several inputs.
    """
    signature = program.graph_signature
    tensors: dict[str, Tensor] = {}
    codes: list[str] = []
    for spec in signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            codes += [] if isinstance(spec.arg, ConstantArgument) else [spec.arg.name]
        elif isinstance(spec.arg, TensorArgument):
            held = program.constants if spec.target in program.constants else program.state_dict
            tensors[spec.arg.name] = held[str(spec.target)]
    nodes = {node.name: node for node in program.graph.nodes}
    full = [n if isinstance(n, int) else None for n in nodes[one_input(codes)].meta["val"].shape]
    steps = [_step(node) for node in program.graph.nodes if node.op == "call_function"]
    outputs = [s.arg.name for s in signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
    return Program(steps, tensors, codes[0], code_of(full), full[0], outputs)


def one_input(names: Sequence[str]) -> str:
    """The name of the input.

    Raises:
        UnsupportedModelError: there are several, or none.
    """
    if len(names) != 1:
        raise UnsupportedModelError(
            f"the program takes {len(names)} inputs ({', '.join(names)}); export one that takes the code alone, with "
            "the others held fixed in its forward"
        )
    return names[0]


def code_of(full: Sequence[int | None]) -> Shape:
    """The shape of one code, of that of a batch.

    Raises:
        UnsupportedModelError: more than the batch is left open.
    """
    if len(full) < 2 or None in full[1:]:
        shown = ", ".join("?" if n is None else str(n) for n in full)
        raise UnsupportedModelError(
            f"the program takes inputs of shape ({shown}); all but the first axis must be fixed"
        )
    return tuple(n for n in full[1:] if n is not None)


def _step(node: fx.Node) -> ProgramStep:
    def named(value: Any) -> Any:
        return Name(value.name)

    target: Any = node.target
    return ProgramStep(node.name, target, fx.node.map_arg(node.args, named), fx.node.map_arg(dict(node.kwargs), named))


def _names(value: Any) -> set[str]:
    if isinstance(value, Name):
        return {value.node}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return {name for part in parts for name in _names(part)}


def _filled(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, Name):
        return nodes[value.node]
    if isinstance(value, dict):
        return {key: _filled(part, nodes) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_filled(part, nodes) for part in value)
    return value


def _node(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    """A node that does the same, in PyTorch's functions where one does."""
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
    """A conversion to a floating type is one to the type of ``REAL``, in which all is computed here."""
    dtype = next((a for a in (*args[1:], *kwargs.values()) if isinstance(a, torch.dtype)), None)
    if dtype is not None and not dtype.is_floating_point:
        raise UnsupportedModelError(f"the program converts data to {dtype}, which is not a real number")
    real = graph.call_method("to", (args[0], graph.get_attr(REAL)))
    return graph.call_method("clone", (real,))


# Functions of Python that programs compute sizes with.
SIZES = {name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "neg", "getitem")}

"""A ``torch.fx`` graph as a chain of layers: the one reader, whatever the graph was made from.

The graph is followed from the code to the output with the shapes of tensors alone. What does not depend on the code is
computed.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders import _torch_operations as torch_operations
from unrelu.loaders._torch_operations import BATCHES, Flow, Part
from unrelu.models.affine import Affine, Shape, Step
from unrelu.models.network import Network

# What PyTorch and NumPy raise where shapes and arguments do not fit.
_COMPLAINTS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@contextmanager
def told(place: str, shapes: Sequence[Shape], constants: Sequence[Shape] = ()) -> Iterator[None]:
    """What goes wrong at the node ``place``, told with its name and the shapes of the data and constants that it takes.

    Raises:
        UnsupportedModelError, ModelError: raised within, or in place of the complaints of PyTorch and NumPy.
    """
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{place} {error}") from error
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from error
    except _COMPLAINTS as error:
        what = f"does not fit an input of shape {shapes[0]}" if shapes else "cannot be computed"
        beside = f", with constants of shapes {', '.join(map(str, constants))}" if constants else ""
        raise ModelError(f"{place} {what}{beside}: {_without_batch(str(error))}") from error


def code_shape(latent_shape: object) -> Shape:
    """The shape of one latent code as a tuple; an integer k means (k,)."""
    entries = tuple(latent_shape) if isinstance(latent_shape, Iterable) else (latent_shape,)
    try:
        shape = tuple(operator.index(n) for n in entries)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1 or any(isinstance(n, bool) for n in entries):
        raise ModelError(f"latent_shape must be a positive integer or a tuple of them, got {latent_shape!r}")
    return shape


def _without_batch(text: str) -> str:
    return functools.reduce(lambda said, batch: said.replace(str(batch), "B"), BATCHES, text)


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A graph with what it refers to.

    A node's ``meta`` may have its ``place``, its name in messages, and a ``reason`` why it is no layer.

    Attributes:
        root: has its modules, parameters and buffers.
        graph: all of it matters for the output.
        constants: further tensors by the names of their nodes' targets.
    """

    root: nn.Module
    graph: fx.Graph
    constants: Mapping[str, Any] = field(default_factory=dict)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def code(self) -> fx.Node:
        """The node of the code."""
        inputs: list[fx.Node] = [node for node in self.graph.nodes if node.op == "placeholder" and node.users]
        if len(inputs) != 1:
            names = [str(node.target) for node in inputs]
            raise UnsupportedModelError(
                f"the output depends on {len(names)} inputs {names}; a generator has one, the code"
            )
        return inputs[0]

    def constant(self, name: str) -> Any:
        """A parameter, a buffer or another constant, copied."""
        known = name in self.constants
        value = self.constants[name] if known else functools.reduce(getattr, name.split("."), self.root)
        return value.detach().clone() if isinstance(value, Tensor) else value


def read_chain(graphs: Sequence[LayerGraph], shape: Shape, batches: Sequence[int]) -> Network | UnsupportedModelError:
    """The network that graphs of one model describe, made for batches of these sizes; or why it is no chain of layers.

    With two, what depends on the batch size or on random numbers is seen from their difference.

    Raises:
        UnsupportedModelError: the graphs differ, by the batch size or by random numbers.
        ModelError: shapes do not fit, or weights are not finite.
    """
    try:
        walks = [_Walk(graph, shape, batch) for graph, batch in zip(graphs, batches, strict=True)]
    except UnsupportedModelError as error:
        return error
    one, two = walks[0].parts, walks[-1].parts
    place = next((place for (a, place), (b, _) in zip(one, two, strict=False) if not _same(a, b)), None)
    if place is not None or len(one) != len(two):
        raise UnsupportedModelError(
            f"{place or 'the model'} depends on the batch size or on random numbers; it must not"
        )
    return Network.chain([part for part, _ in one], shape)


def _same(one: Part, two: Part) -> bool:
    """Whether two parts are the same, tensor by tensor."""
    if type(one) is not type(two):
        return False
    pairs = [(getattr(one, f.name), getattr(two, f.name)) for f in fields(one)]
    arrays = Tensor | np.ndarray
    # Smooth activations carry NaN as their slope.
    return all(np.array_equal(a, b, equal_nan=True) if isinstance(a, arrays) else a == b for a, b in pairs)


class _Walk:
    """One walk along a graph, with the ``parts`` of the chain, each with its place in the model."""

    def __init__(self, graph: LayerGraph, shape: Shape, batch: int) -> None:
        self.graph = graph
        self.parts: list[tuple[Part, str]] = []
        code = graph.code()
        self._head = Flow(shape, batch, code.meta.get("place", "the input"))
        self._takers: dict[Flow, str] = {}
        values: dict[fx.Node, Any] = {code: self._head}
        for node in graph.graph.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                self._finish(args[0])
            elif node.op != "placeholder":
                values[node] = self._value(node, args, dict(kwargs))

    def _value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a node: a :class:`Flow`, or whatever a constant expression gives."""
        m = self.graph.module(node)
        named = f"node {node.name!r}" if m is None else f"module {str(node.target)!r} ({type(m).__name__})"
        place = node.meta.get("place", named)
        flows: list[Flow] = []
        fx.node.map_aggregate((args, kwargs), lambda a: flows.append(a) if isinstance(a, Flow) else None)
        with told(place, [flow.shape for flow in flows]):
            if len(flows) > 1:
                raise UnsupportedModelError("joins two branches; only chains of layers can be inverted")
            if not flows:
                return self._constant(node, args, kwargs) if m is None else m(*args, **kwargs)
            asked = args[1] if node.target is getattr else node.target
            if m is None and asked in torch_operations.QUERIES:
                return _answer(flows[0], asked, node.target is getattr, args[1:], kwargs)
            parts = _parts_of_call(node, args, kwargs) if m is None else _parts_of_module(m, args, kwargs)
            return self._advance(flows[0], parts, place)

    def _constant(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "get_attr":
            return self.graph.constant(str(node.target))
        if torch_operations.mutates(node.target, kwargs):
            raise UnsupportedModelError("changes a constant in place")
        method = node.op == "call_method"
        function: Any = getattr(args[0], str(node.target)) if method else node.target
        return function(*args[method:], **kwargs)

    def _advance(self, flow: Flow, parts: Sequence[Part], place: str) -> Flow:
        """Append the parts that the node ``place`` makes of ``flow``; returns what leaves it."""
        if flow is not self._head:
            raise UnsupportedModelError(
                f"and {self._takers[flow]} both take the output of {flow.origin}, where the model branches; "
                "only chains of layers can be inverted"
            )
        shape = flow.shape
        for part in parts:
            shape = Affine.compose([part], shape).out_shape if isinstance(part, Step) else shape
        self.parts.extend((part, place) for part in parts)
        self._takers[flow] = place
        self._head = Flow(shape, flow.batch, place)
        return self._head

    def _finish(self, output: Any) -> None:
        """Check that the output of the model is what leaves the last part."""
        # A trace with containers among the default arguments returns a list.
        if isinstance(output, list | tuple) and len(output) == 1:
            output = output[0]
        if not isinstance(output, Flow):
            several = isinstance(output, tuple | list | dict)
            what = "several values" if several else "a value that its input does not affect"
            raise UnsupportedModelError(f"the module returns {what}; a generator returns one tensor")
        if output is not self._head:
            raise UnsupportedModelError(
                f"{self._takers[output]} takes the output of {output.origin}, which is also the output of the model; "
                "only chains of layers can be inverted"
            )


def _parts_of_module(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
    if not torch_operations.known(m):
        names = ", ".join(sorted(base.__name__ for base in torch_operations.MODULES))
        raise UnsupportedModelError(f"is not an affine map or a known activation; supported modules are {names}")
    if len(args) != 1 or kwargs:
        raise UnsupportedModelError(f"is called with more than its input: {args[1:]}, {kwargs}")
    return torch_operations.read_module(m, args[0])


def _parts_of_call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
    table: dict[Any, Any] = torch_operations.METHODS if node.op == "call_method" else torch_operations.FUNCTIONS
    name = getattr(node.target, "__name__", node.target)
    if node.target not in table:
        what = f"calls x.{args[1]}" if node.target is getattr else f"calls {name}()"
        names = ", ".join(torch_operations.NAMES)
        unknown = f"{what}, not an affine map or a known activation; supported are {names}"
        raise UnsupportedModelError(node.meta.get("reason", unknown))
    if "input" in kwargs:
        args = (kwargs.pop("input"), *args)
    function = table[node.target]
    if not isinstance(args[0], Flow) and function not in torch_operations.EITHER_SIDE:
        raise UnsupportedModelError(
            f"calls {name}() with weights or options taken from the data; they must be constant"
        )
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise UnsupportedModelError(f"calls {name}() with arguments that are not supported: {error}") from None
    return list(function(*args, **kwargs))


def _answer(flow: Flow, asked: str, attribute: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``x.shape``, ``x.size(0)`` and the like say about a flow."""
    if asked == "device":
        return torch.device("cpu")
    value = getattr(flow.meta(), asked)
    return value if attribute else value(*args, **kwargs)

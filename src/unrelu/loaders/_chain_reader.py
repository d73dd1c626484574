"""Read a ``torch.fx`` graph as a chain of layers. Graphs of all formats are read here.

The graph is walked from the code to the output. Tensors that depend on the code are followed by their shapes alone;
all others are computed.
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders._gated_activations import replace_gated_activations
from unrelu.loaders._operation_tables import QUERIES, answer, parts_of_call, parts_of_module
from unrelu.loaders._torch_operations import BATCHES, Flow, Part
from unrelu.models.affine import Affine, Shape, Step
from unrelu.models.network import Network
from unrelu.models.torch_opaque import FIX_DRAWS

# Errors that PyTorch and NumPy raise when shapes or arguments do not fit.
_MISFITS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@contextmanager
def errors_at(place: str, shapes: Sequence[Shape], constants: Sequence[Shape] = ()) -> Iterator[None]:
    """Name the node ``place`` in errors, with the shapes of its data and constants where these do not fit.

    Raises:
        UnsupportedModelError, ModelError: in place of the same error without the name, or of PyTorch's and NumPy's own.
    """
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{place} {error}") from error
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from error
    except _MISFITS as error:
        what = f"does not fit an input of shape {shapes[0]}" if shapes else "cannot be computed"
        beside = f", with constants of shapes {', '.join(map(str, constants))}" if constants else ""
        raise ModelError(f"{place} {what}{beside}: {_without_batch(str(error))}") from error


def code_shape(latent_shape: object) -> Shape:
    """Return the shape of one latent code as a tuple; an integer k means (k,)."""
    entries = tuple(latent_shape) if isinstance(latent_shape, Iterable) else (latent_shape,)
    try:
        shape = tuple(operator.index(n) for n in entries)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1 or any(isinstance(n, bool) for n in entries):
        raise ModelError(f"latent_shape must be a positive integer or a tuple of them, got {latent_shape!r}")
    return shape


def _without_batch(text: str) -> str:
    return functools.reduce(lambda message, batch: message.replace(str(batch), "B"), BATCHES, text)


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A graph with the modules and tensors that it refers to.

    A node's ``meta`` may hold its ``place`` (its name in messages) and a ``reason`` why it is not a layer.

    Attributes:
        root: the module that owns the modules, parameters and buffers.
        graph: the graph, without nodes that do not affect the output.
    """

    root: nn.Module
    graph: fx.Graph

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None if it calls none."""
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def code(self) -> fx.Node:
        """The node that is the latent code."""
        inputs: list[fx.Node] = [node for node in self.graph.nodes if node.op == "placeholder" and node.users]
        if len(inputs) != 1:
            names = [str(node.target) for node in inputs]
            raise UnsupportedModelError(
                f"the output depends on {len(names)} inputs {names}; a generator has one, the code"
            )
        return inputs[0]

    @property
    def code_place(self) -> str:
        """The name of the code in messages."""
        return str(self.code().meta.get("place", "the input"))

    def constant(self, name: str) -> Any:
        """A copy of a parameter, buffer or other attribute."""
        value: Any = functools.reduce(getattr, name.split("."), self.root)
        return value.detach().clone() if isinstance(value, Tensor) else value


def read_chain(
    graphs: Sequence[LayerGraph], shape: Shape, batches: Sequence[int], walk: type[Walk] | None = None
) -> Network | UnsupportedModelError:
    """Return the network that the graphs describe, or the error that says why the model is not a chain of layers.

    The graphs are of one model, each for one of the batch sizes. Two graphs that differ reveal a dependence on the
    batch size or on random numbers. ``walk`` says how layers are read from them; None is a :class:`ChainWalk`.

    Raises:
        UnsupportedModelError: the graphs differ, by the batch size or by random numbers.
        ModelError: shapes do not fit, or weights are not finite.
    """
    for graph in graphs:
        replace_gated_activations(graph.graph, graph.module, graph.constant)
    try:
        walks = [(walk or ChainWalk).along(graph, shape, batch) for graph, batch in zip(graphs, batches, strict=True)]
    except UnsupportedModelError as error:
        return error
    one, two = walks[0], walks[-1]
    place = next((place for (a, place), (b, _) in zip(one, two, strict=False) if not _same(a, b)), None)
    if place is not None or len(one) != len(two):
        raise UnsupportedModelError(
            f"{place or 'the model'} depends on the batch size or on random numbers; it must not: {FIX_DRAWS}"
        )
    return Network.chain([part for part, _ in one], shape)


def _same(one: Part, two: Part) -> bool:
    """Whether two parts are the same, tensor by tensor."""
    if type(one) is not type(two):
        return False
    pairs = [(getattr(one, f.name), getattr(two, f.name)) for f in fields(one)]
    arrays = Tensor | np.ndarray
    return all(np.array_equal(a, b) if isinstance(a, arrays) else a == b for a, b in pairs)


class Walk(ABC):
    """One walk along a graph, which collects the parts of the chain.

    Attributes:
        graph: the graph.
        parts: the parts, each with its place in the model.
        values: what nodes are: constants, flows, or sequences of flows.
        left: nodes whose arguments are not known yet, in the order of the graph.
    """

    def __init__(self, graph: LayerGraph, start: Flow) -> None:
        self.graph = graph
        self.parts: list[tuple[Part, str]] = []
        self.values: dict[fx.Node, Any] = {graph.code(): start}
        self.left = [node for node in graph.graph.nodes if node.op != "placeholder"]

    @classmethod
    @abstractmethod
    def along(cls, graph: LayerGraph, shape: Shape, batch: int) -> Sequence[tuple[Part, str]]:
        """The parts of the chain that a graph is, for a batch of this size."""

    def evaluate(self) -> Any:
        """Compute all nodes that are known; return what the model returns if that is known."""
        left, self.left = self.left, []
        for node in left:
            if any(each not in self.values for each in node.all_input_nodes):
                self.left.append(node)
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
            if node.op == "output":
                return _single_output(args[0])
            self.keep(node, self.value(node, args, dict(kwargs)))
        return None

    def keep(self, node: fx.Node, value: Any) -> None:
        """Keep what a node is."""
        self.values[node] = value

    @abstractmethod
    def advance(self, flow: Flow, parts: Sequence[Part], place: str) -> Any:
        """What the parts that the node ``place`` applies to ``flow`` give."""

    def joined(self, node: fx.Node, flows: Sequence[Flow], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a node that takes several flows.

        Raises:
            UnsupportedModelError: it cannot be read.
        """
        raise UnsupportedModelError("joins two branches; only chains of layers can be inverted")

    def value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a node: a :class:`Flow` if it depends on the code, else the constant."""
        m = self.graph.module(node)
        named = f"node {node.name!r}" if m is None else f"module {str(node.target)!r} ({type(m).__name__})"
        place = node.meta.get("place", named)
        flows: list[Flow] = []
        fx.node.map_aggregate((args, kwargs), lambda a: flows.append(a) if isinstance(a, Flow) else None)
        with errors_at(place, [flow.shape for flow in flows]):
            if len(flows) > 1:
                return self.joined(node, flows, args, kwargs)
            if not flows:
                return self._constant(node, args, kwargs) if m is None else m(*args, **kwargs)
            query = args[1] if node.target is getattr else node.target
            if m is None and query in QUERIES:
                return answer(flows[0], query, node.target is getattr, args[1:], kwargs)
            parts = parts_of_call(node, args, kwargs) if m is None else parts_of_module(m, args, kwargs)
            return self.advance(flows[0], parts, place)

    def _constant(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "get_attr":
            return self.graph.constant(str(node.target))
        method = node.op == "call_method"
        function: Any = getattr(args[0], str(node.target)) if method else node.target
        return function(*args[method:], **kwargs)


class ChainWalk(Walk):
    """A walk along a graph without branches."""

    def __init__(self, graph: LayerGraph, start: Flow) -> None:
        super().__init__(graph, start)
        self._head = start
        self._consumers: dict[Flow, str] = {}

    @classmethod
    def along(cls, graph: LayerGraph, shape: Shape, batch: int) -> Sequence[tuple[Part, str]]:
        """See :meth:`Walk.along`."""
        walk = cls(graph, Flow(shape, batch, graph.code_place))
        output = walk.evaluate()
        if output is not walk._head:
            raise UnsupportedModelError(
                f"{walk._consumers[output]} takes the output of {output.origin}, which is also the output of the "
                "model; only chains of layers can be inverted"
            )
        return walk.parts

    def advance(self, flow: Flow, parts: Sequence[Part], place: str) -> Flow:
        """Append the parts that the node ``place`` applies to ``flow``; return its output."""
        if flow is not self._head:
            raise UnsupportedModelError(
                f"and {self._consumers[flow]} both take the output of {flow.origin}, where the model branches; "
                "only chains of layers can be inverted"
            )
        shape = flow.shape
        for part in parts:
            shape = Affine.compose([part], shape).out_shape if isinstance(part, Step) else shape
        self.parts.extend((part, place) for part in parts)
        self._consumers[flow] = place
        self._head = Flow(shape, flow.batch, place)
        return self._head


def _single_output(output: Any) -> Flow:
    """The flow that a model returns.

    Raises:
        UnsupportedModelError: it returns something else.
    """
    # A trace with containers among the default arguments returns a list.
    if isinstance(output, list | tuple) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Flow):
        several = isinstance(output, tuple | list | dict)
        what = "several values" if several else "a value that its input does not affect"
        raise UnsupportedModelError(f"the module returns {what}; a generator returns one tensor")
    return output

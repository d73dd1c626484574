"""Read what a module does to its codes as a chain of layers.

The recorded graph (:mod:`~unrelu.loaders._recording`) is followed from the code to the output. Each node is read as
affine steps and activations (:mod:`~unrelu.loaders._torch_operations`). Graphs of dense layers that branch are read by
:mod:`~unrelu.loaders._pass_through`.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import fx

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders._recording import name_of
from unrelu.loaders._torch_operations import Flow, Part, element, parts_of, shape_of
from unrelu.models.affine import Affine, Step, check_finite
from unrelu.runtime.array_types import Shape

# Operators that give several tensors.
SEVERAL = ("split", "split_with_sizes", "unbind", "chunk")


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


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Name the part of the model in errors."""
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{place} {error}") from error
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from error


class Walk(ABC):
    """One walk along a graph, which collects the parts of the chain.

    Attributes:
        parts: the parts.
        values: what nodes are, once they are known.
        left: nodes whose arguments are not known yet, in the order of the graph.
    """

    def __init__(self, shape: Shape, batch: int) -> None:
        self.shape, self.batch = shape, batch
        self.parts: list[Part] = []
        self.values: dict[fx.Node, Any] = {}
        self.left: list[fx.Node] = []

    @abstractmethod
    def along(self, graph: fx.Graph) -> Sequence[Part]:
        """The parts of the chain that a graph is."""

    def evaluate(self) -> Any:
        """Read all nodes whose arguments are known; return what the model returns if that is known."""
        left, self.left = self.left, []
        for node in left:
            if any(each not in self.values for each in node.all_input_nodes):
                self.left.append(node)
                continue
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self.values.__getitem__)
            if node.op == "output":
                return args[0]
            with errors_at(node.meta.get("place", node.name)):
                self.keep(node, self.value(node, tuple(args), dict(kwargs)))
        return None

    def keep(self, node: fx.Node, value: Any) -> None:
        """Keep what a node is."""
        self.values[node] = value

    def value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a node is."""
        if node.target is operator.getitem:
            return args[0][args[1]] if isinstance(args[0], tuple) else args[0]
        flows = [x for x in (*args, *kwargs.values()) if isinstance(x, Flow)]
        flows += [x for several in args if isinstance(several, list | tuple) for x in several if isinstance(x, Flow)]
        inside = not any(x is flows[0] for x in (*args, *kwargs.values()))
        if len(flows) != 1 or inside or name_of(node) in SEVERAL:
            return self.joined(node, flows, args, kwargs)
        return self.advance(flows[0], parts_of(node, args, kwargs, self.batch), node)

    @abstractmethod
    def advance(self, flow: Flow, parts: Sequence[Part], node: fx.Node) -> Any:
        """What the parts that the node applies to ``flow`` give."""

    def joined(self, node: fx.Node, flows: Sequence[Flow], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a node that takes several flows, or one in a list, or gives several.

        Raises:
            UnsupportedModelError: it cannot be read.
        """
        raise UnsupportedModelError(f"has branches, by {name_of(node)}(); only chains of layers can be inverted")


def out_shape(step: Step, shape: Shape) -> Shape:
    """The shape of a step's output.

    Raises:
        ModelError: it has a weight that is not finite.
        UnsupportedModelError: it does not fit the input, so the model does something else.
    """
    for name, tensor in step.tensors().items():
        check_finite(tensor, f"a {step.kind} {name}")
    try:
        return Affine.compose([step], shape).out_shape
    except ModelError as error:
        raise UnsupportedModelError(str(error)) from error


class ChainWalk(Walk):
    """A walk along a graph without branches."""

    def along(self, graph: fx.Graph) -> Sequence[Part]:
        """See :meth:`Walk.along`."""
        self._consumers: dict[Flow, str] = {}
        code, *self.left = graph.nodes
        self._head = self.values[code] = Flow(self.shape, code.meta["place"])
        output = self.evaluate()
        if output is not self._head:
            raise UnsupportedModelError(
                f"{self._consumers[output]} takes the output of {output.origin}, which is also the output of the "
                "model; only chains of layers can be inverted"
            )
        return self.parts

    def advance(self, flow: Flow, parts: Sequence[Part], node: fx.Node) -> Flow:
        """Append the parts that the node applies to ``flow``; return its output."""
        place = node.meta["place"]
        if flow is not self._head:
            raise UnsupportedModelError(
                f"and {self._consumers[flow]} both take the output of {flow.origin}, where the model branches; "
                "only chains of layers can be inverted"
            )
        shape = flow.shape
        for part in parts:
            shape = out_shape(part, shape) if isinstance(part, Step) else shape
        if (wanted := element(shape_of(node), self.batch)) != shape:
            raise UnsupportedModelError(
                f"makes elements of shape {wanted} from {flow.shape} in a way that is not known"
            )
        self.parts.extend(parts)
        self._consumers[flow] = place
        self._head = Flow(shape, place)
        return self._head

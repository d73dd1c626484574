"""Read the recorded graph of a module as a chain of layers.

The reader follows the graph (:mod:`~unrelu.loaders._recording`) from the code to the output. It reads each node as
affine steps and activations (:mod:`~unrelu.loaders._torch_operations`). :mod:`~unrelu.loaders._pass_through` reads
graphs of dense layers that branch.
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

# Operators that return several tensors.
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
    """Prefix errors raised inside with the place in the model."""
    try:
        yield
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{place} {error}") from error
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from error


class Walk(ABC):
    """A walk along a graph that collects the parts of the chain.

    Attributes:
        parts: the parts collected so far.
        values: the values of the nodes that have been read.
        left: the nodes whose arguments are not known yet, in graph order.
    """

    def __init__(self, shape: Shape, batch: int) -> None:
        self.shape, self.batch = shape, batch
        self.parts: list[Part] = []
        self.values: dict[fx.Node, Any] = {}
        self.left: list[fx.Node] = []

    @abstractmethod
    def along(self, graph: fx.Graph) -> Sequence[Part]:
        """Return the parts of the chain that the graph computes."""

    def evaluate(self) -> Any:
        """Read all nodes whose arguments are known; return the value of the model's output once it is known."""
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
        """Store the value of a node."""
        self.values[node] = value

    def value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of a node, given the values of its arguments."""
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
        """Apply the parts that the node stands for to ``flow`` and return the result."""

    def joined(self, node: fx.Node, flows: Sequence[Flow], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value of a node that takes several flows, takes a flow in a list, or returns several flows.

        Raises:
            UnsupportedModelError: the node cannot be read.
        """
        raise UnsupportedModelError(f"has branches, by {name_of(node)}(); only chains of layers can be inverted")


def out_shape(step: Step, shape: Shape) -> Shape:
    """Return the shape of a step's output.

    Raises:
        ModelError: the step has a weight that is not finite.
        UnsupportedModelError: the step does not fit its input, so the model must compute something else.
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
        """Append the parts that the node applies to ``flow``; return the flow after them."""
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

"""Graphs of other formats as ``torch.fx`` graphs: functions of tensors run on stand-ins, and are recorded."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.proxy import GraphAppendingTracer
from torch.utils._python_dispatch import TorchDispatchMode

from unrelu.errors import UnsupportedModelError
from unrelu.loaders._chain_reader import LayerGraph
from unrelu.loaders._torch_operations import sloped
from unrelu.models.affine import Shape
from unrelu.models.opaque_network import plain_attention
from unrelu.runtime.file_reading import shown_size

# For these, PyTorch would load its compiler or SymPy to tell shapes without numbers, which takes seconds.
_ARITHMETIC = (
    torch.add, torch.sub, torch.mul, torch.div, operator.add, operator.sub, operator.mul, operator.truediv, sloped,
)  # fmt: skip
_LAYERS = (
    F.linear, torch.matmul, F.conv1d, F.conv2d, F.conv_transpose1d, F.conv_transpose2d, F.batch_norm, F.interpolate,
    F.avg_pool1d, F.avg_pool2d, F.pixel_shuffle, F.leaky_relu, torch.relu, torch.sigmoid, torch.tanh, torch.neg,
)  # fmt: skip


class StandIn(fx.Proxy):
    """What stands for a tensor: its node, and as ``value`` a tensor of its shape without numbers."""

    value: Any

    @property
    def shape(self) -> Shape:
        """Of the whole tensor, batch axis included."""
        return tuple(self.value.shape)

    def dim(self) -> int:
        """The number of axes."""
        return len(self.value.shape)

    def is_floating_point(self) -> bool:
        """Whether it holds real numbers."""
        return bool(self.value.is_floating_point())


class Recorder(GraphAppendingTracer):
    """Records what functions do to ``code``, a stand-in for a batch of codes.

    Shapes are known at once, since everything is computed without numbers as well. Tensors become buffers of the graph,
    in float64 if they are real.

    Args:
        shape: of the batch.
        place: what the code is called in messages.
        max_bytes: that a tensor of one code may take.
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
        """From here on, the node of the model at ``place`` is recorded."""
        self._meta = {"place": place, "reason": "is not an affine map or a known activation"}

    def no_layer(self, reason: str) -> None:
        """What is recorded next, up to another place, is no layer, for this reason."""
        self._meta = self._meta | {"reason": reason}

    def allow(self, shape: Sequence[int]) -> None:
        """Refuse a tensor of this shape if it is too large, before anything of that size is computed."""
        with self._limit:
            torch.empty(*shape, device="meta")

    def graph_of(self, output: StandIn) -> LayerGraph:
        """What was recorded, up to this output."""
        self.create_node("output", "output", (output.node,), {})
        return LayerGraph(self.root, self.graph)

    def proxy(self, node: fx.Node) -> StandIn:
        """The stand-in for what a node gives."""
        return StandIn(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that knows its place in the model."""
        node = super().create_node(*args, **kwargs)
        node.meta |= self._meta
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        """A node, and what it gives without numbers."""
        made: Any = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if kind != "placeholder":
            shape = None if kind == "call_method" else _known_shape(target, args, kwargs)
            given, options = fx.node.map_aggregate((args, kwargs), _without_numbers)
            with self._limit:
                if shape is not None:
                    made.value = torch.empty(*shape, dtype=torch.float64, device="meta")
                elif kind == "call_method":
                    made.value = getattr(given[0], target)(*given[1:], **options)
                else:
                    made.value = target(*given, **options)
        return made

    def create_arg(self, a: Any) -> Any:
        """An argument of a node: tensors become buffers."""
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        if id(a) not in self._known:
            self._known[id(a)] = name = f"constant_{len(self._known)}"
            self.root.register_buffer(name, a)
        return self.create_node("get_attr", self._known[id(a)], (), {})


def _known_shape(function: Any, args: Sequence[Any], options: dict[str, Any]) -> Shape | None:
    """The shape of what a function gives where it is found quickly: of arithmetic, and of layers for no code at all."""
    if function in _ARITHMETIC:
        return np.broadcast_shapes(*(tuple(x.shape) for x in args if isinstance(x, StandIn | Tensor)))
    if function not in _LAYERS or [i for i, x in enumerate(args) if isinstance(x, StandIn)] != [0]:
        return None
    batch, *shape = args[0].shape
    none, *found = function(torch.empty(0, *shape, dtype=torch.float64), *args[1:], **options).shape
    return None if none or 0 in found else (batch, *found)


def _without_numbers(value: Any) -> Any:
    if isinstance(value, StandIn):
        return value.value
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value


class SizeLimit(TorchDispatchMode):
    """Makes tensors without numbers only, none of more than ``max_bytes`` for each of ``count`` codes."""

    def __init__(self, max_bytes: int, count: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.max_bytes, self.count = max_bytes, count

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: PyTorch need not load its compiler, which would take seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = [argument.name for argument in getattr(func, "_schema", func).arguments]
        own = {"device": torch.device("meta")} if "device" in arguments else {}
        result = func(*args, **{**(kwargs or {}), **own})
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and (size := 8 * x.numel() // self.count) > self.max_bytes:
                raise UnsupportedModelError(
                    f"makes of one code a tensor that would take {shown_size(size)}, by {func}; at most "
                    f"{shown_size(self.max_bytes)} are allowed, pass a larger max_bytes= (--max-bytes) if you trust "
                    "the file"
                )
        return result


class AloneModule(nn.Module):
    """A module that takes batches of one size, for batches of any size: each code is computed alone."""

    body: nn.Module
    batch: int

    def __init__(self, body: nn.Module, batch: int) -> None:
        super().__init__()
        self.body, self.batch, self.training, self.title = body, batch, False, type(body).__name__

    def forward(self, z: Tensor) -> Any:
        """The outputs of the codes."""
        with plain_attention():
            return torch.func.vmap(self._alone)(z)

    def _alone(self, row: Tensor) -> Any:
        result = self.body(row.expand(self.batch, *row.shape))
        return tuple(x[0] for x in result) if isinstance(result, tuple) else result[0]

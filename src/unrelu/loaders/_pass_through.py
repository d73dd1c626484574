"""Convert branching graphs of dense layers to chains whose layers also pass through the values needed later.

A residual block adds its input to the output of its layers. A skip connection joins an early value to a late one.
Branches may differ in depth. Every value of such a graph is an affine map of the outputs of the previous layer. Sums,
concatenations, slices, batch normalisations and matrices only compose these maps. Each activation becomes part of a new
layer. The new layer also passes through all values that later nodes take: their activation has slope 1, so it is the
identity. Activations with different base functions go into successive layers.

A layer passes through the value itself or the outputs in its map, whichever takes fewer numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from unrelu.errors import UnsupportedModelError
from unrelu.loaders._chain_reader import SEVERAL, Walk
from unrelu.loaders._recording import name_of
from unrelu.loaders._torch_operations import Flow, Part, float64, shape_of
from unrelu.models.activations import Activation
from unrelu.models.affine import Affine, Dense, Reshape, Step
from unrelu.models.network import LARGEST_COMPILED
from unrelu.runtime.array_types import Shape

# Operators that are linear in all their tensor arguments jointly.
_JOINING = ("add", "sub", "cat", "stack", *SEVERAL)


@dataclass(frozen=True, eq=False)
class _Map(Flow):
    """A value v = M h + b of the outputs h of the last layer, (w,).

    Attributes:
        rows: b, then the columns of M, each with the shape of the value: (1 + w, *shape).
    """

    rows: Tensor

    @property
    def matrix(self) -> Tensor:
        """M, (n, w)."""
        return self.rows[1:].reshape(len(self.rows) - 1, -1).T

    @property
    def bias(self) -> Tensor:
        """b, (n,)."""
        return self.rows[0].reshape(-1)

    def of(self, rows: Tensor) -> _Map:
        """Return the map with other rows."""
        return replace(self, shape=tuple(rows.shape[1:]), rows=rows)

    def outputs(self, count: int, begin: int, block: Tensor | None = None) -> _Map:
        """Return a map of ``count`` outputs with a block of columns from ``begin`` on; None is the identity block."""
        n = self.bias.numel()
        block = torch.eye(n, dtype=torch.float64).reshape(n, *self.shape) if block is None else block
        rows = torch.zeros(1 + count, *self.shape, dtype=torch.float64)
        rows[1 + begin : 1 + begin + len(block)] = block
        return self.of(rows)


class _Waiting(NamedTuple):
    """A value, the activation to apply to it next, and the parts after the activation."""

    value: _Map
    activation: Activation
    parts: Sequence[Part]


class BranchWalk(Walk):
    """A walk along a graph of dense layers, layer by layer; ``values`` are maps of the last layer's outputs.

    Attributes:
        waiting: activation nodes whose arguments are known.
        size: how many numbers the matrices of the chain hold.
    """

    def __init__(self, shape: Shape, batch: int) -> None:
        super().__init__(shape, batch)
        self.waiting: dict[fx.Node, _Waiting] = {}
        self.size = 0

    def along(self, graph: fx.Graph) -> Sequence[Part]:
        """See :meth:`Walk.along`."""
        code, *self.left = graph.nodes
        k, place = math.prod(self.shape), code.meta["place"]
        rows = torch.cat([torch.zeros(1, k, dtype=torch.float64), torch.eye(k, dtype=torch.float64)])
        self.values[code] = _Map(self.shape, place, rows.reshape(1 + k, *self.shape))
        if len(self.shape) != 1:
            self.parts.append(Reshape((k,)))
        while (output := self.evaluate()) is None:
            self._add_layer()
        self._finish(output)
        return self.parts

    def keep(self, node: fx.Node, value: Any) -> None:
        """Store the value of a node, or mark its activation as waiting."""
        kept: dict[fx.Node, Any] = self.waiting if isinstance(value, _Waiting) else self.values
        kept[node] = value

    def advance(self, flow: Flow, parts: Sequence[Part], node: fx.Node) -> _Map | _Waiting:
        """Apply the parts before the first activation; return a waiting activation if there is one."""
        assert isinstance(flow, _Map)
        return self._advanced(flow, parts)

    def _advanced(self, value: _Map, parts: Sequence[Part]) -> _Map | _Waiting:
        for i, part in enumerate(parts):
            if isinstance(part, Step):
                value = self._stepped(value, part)
            elif not part.linear:
                return _Waiting(value, part.on(value.shape), parts[i + 1 :])
        return value

    def _stepped(self, value: _Map, step: Step) -> _Map:
        """Compose the map with an affine step."""
        affine = Affine.compose([step], value.shape)
        self._check_size(len(value.rows) * affine.n_out)
        rows = value.rows.reshape(len(value.rows), -1)
        moved = torch.cat([affine.apply(rows[:1]), affine.apply(rows[1:], constant=False)])
        return value.of(moved.reshape(-1, *affine.out_shape))

    def joined(self, node: fx.Node, flows: Sequence[Flow], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add, concatenate or split values by doing the same to the columns of their maps."""
        first = flows[0]
        assert isinstance(first, _Map)
        if name_of(node) not in _JOINING:
            return super().joined(node, flows, args, kwargs)
        if name_of(node) not in ("add", "sub") and any(shape_of(x)[0] != self.batch for x in node.all_input_nodes):
            raise UnsupportedModelError(f"calls {name_of(node)}() on elements put below each other")
        args = fx.node.map_aggregate(args, lambda a: self._rows(a, len(first.rows)))
        function: Any = node.target
        found = function(*args, **kwargs)
        maps = tuple(first.of(rows) for rows in (found if isinstance(found, tuple | list) else (found,)))
        if any(len(each.rows) != len(first.rows) for each in maps):
            raise UnsupportedModelError("mixes the batch axis with the others")
        self._check_size(sum(each.rows.numel() for each in maps))
        return maps if isinstance(found, tuple | list) else maps[0]

    def _rows(self, value: Any, count: int) -> Any:
        """Return the rows of a map; treat a constant that is equal for all codes as a map without matrix."""
        if isinstance(value, _Map):
            return value.rows
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if not value.dim() or not (value == value[:1]).all():
            raise UnsupportedModelError("joins the data to a constant that differs between codes of a batch")
        row = float64(value[:1], "a constant")
        return torch.cat([row, torch.zeros(count - 1, *row.shape[1:], dtype=torch.float64)])

    def _check_size(self, numbers: int) -> None:
        if numbers > LARGEST_COMPILED:
            raise UnsupportedModelError(f"makes a matrix of {numbers} numbers in a model that branches")

    # --- layers -------------------------------------------------------------------------------------------------------

    def _add_layer(self) -> None:
        """Append a layer with the waiting activations of one base function; values needed later pass through."""
        kind = next(iter(self.waiting.values())).activation.kind
        taken = {node: each for node, each in self.waiting.items() if each.activation.kind == kind}
        self.waiting = {node: each for node, each in self.waiting.items() if node not in taken}
        left = set(self.left)
        self.values = {
            node: value
            for node, value in self.values.items()
            if not isinstance(value, _Map | tuple) or not left.isdisjoint(node.users)
        }
        needed = [each for each in self.values.values() if isinstance(each, _Map)]
        columns, whole = _narrowest([*needed, *(each.value for each in self.waiting.values())])
        # Order in the layer: activations, outputs of the last layer that pass through, values that pass through.
        bends = [each.value for each in taken.values()]
        unit = torch.eye(len(bends[0].rows) - 1, dtype=torch.float64)[columns]
        matrix = torch.cat([*(each.matrix for each in bends), unit, *(each.matrix for each in whole)])
        begins = [0, *accumulate(each.bias.numel() for each in bends)]
        bent, count = begins[-1], len(matrix)
        bias = torch.cat([*(each.bias for each in bends), torch.zeros(count - bent, dtype=torch.float64)])
        activations = [*(each.activation for each in taken.values()), Activation("identity")]
        sizes = [*(each.bias.numel() for each in bends), count - bent]
        self._append(matrix, bias, Activation.joined(activations, sizes))
        passing = accumulate([bent + len(columns), *(each.bias.numel() for each in whole)])
        places = dict(zip(whole, passing, strict=False))

        def moved(value: _Map) -> _Map:
            """Rewrite a remaining value as a map of the outputs of the new layer."""
            known = value in places
            begin, block = (places[value], None) if known else (bent, value.rows[1:][columns])
            found = value.outputs(count, begin, block)
            found.rows[0] = value.rows[0]
            return found

        self.values = {node: moved(each) if isinstance(each, _Map) else each for node, each in self.values.items()}
        self.waiting = {node: each._replace(value=moved(each.value)) for node, each in self.waiting.items()}
        for begin, (node, each) in zip(begins, taken.items(), strict=False):
            self.keep(node, self._advanced(each.value.outputs(count, begin), each.parts))

    def _append(self, matrix: Tensor, bias: Tensor, *activation: Activation) -> None:
        self.size += matrix.numel()
        self._check_size(self.size)
        self.parts += [Dense(matrix.contiguous(), bias), *activation]

    def _finish(self, output: _Map) -> None:
        """Append the layer that computes the output, or merge it into the last layer if possible."""
        last = _combined(self.parts[-2:], output)
        if last is None:
            self._append(output.matrix, output.bias)
        else:
            self.parts[-2:] = last
        if len(output.shape) != 1:
            self.parts.append(Reshape(output.shape))


def _combined(last: Sequence[Part], output: _Map) -> list[Part] | None:
    """Merge the output map into the last layer; return None if it combines nonlinear outputs of that layer."""
    if not last or not isinstance(last[-1], Activation):
        return None
    dense, activation = last
    assert isinstance(dense, Dense)
    assert dense.bias is not None
    assert isinstance(activation, Activation)
    matrix, n = output.matrix, len(dense.weight)
    slopes, steepnesses = (np.broadcast_to(v, n) for v in (activation.slope, activation.steepness))
    linear = ~matrix[:, torch.from_numpy(slopes != 1)].any(dim=1)
    chosen = matrix.argmax(dim=1)
    single = (matrix == torch.eye(n, dtype=torch.float64)[chosen]).all(dim=1) & (output.bias == 0)
    if not (linear | single).all():
        return None
    changed = activation.of_parameters(np.where(linear, 1.0, slopes[chosen]), steepnesses[chosen])
    return [Dense(matrix @ dense.weight, matrix @ dense.bias + output.bias), changed]


def _narrowest(values: Iterable[_Map]) -> tuple[list[int], list[_Map]]:
    """Choose what to pass through for these values: outputs of the last layer, by number, and whole values."""
    used = [(set(torch.nonzero(each.matrix.any(dim=0)).ravel().tolist()), each) for each in values]
    columns: set[int] = set()
    whole = []
    for own, each in sorted(used, key=lambda pair: len(pair[0])):
        if len(own - columns) <= each.bias.numel():
            columns |= own
        else:
            whole.append(each)
    return sorted(columns), whole

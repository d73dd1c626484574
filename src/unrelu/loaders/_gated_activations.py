"""Find activations that a graph writes out as a product, such as x * sigmoid(x), and replace each by one node.

SiLU, GELU, Mish and hardswish are x times a gate g(x). Programs and exported graphs often compute both factors node by
node: the error function of a GELU, the learned sigmoids of an emulator. Such a product, or a sum of x and a product,
acts on each entry of x alone, so its values on a grid identify the activation. Far from 0, where a gate is constant,
they must agree up to rounding. This excludes gates with clipped arguments, x * sigmoid(clamp(x)).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from scipy.special import logit
from torch import Tensor, fx

from unrelu.loaders._recording import name_of
from unrelu.models.activations import Activation
from unrelu.models.affine import Scale
from unrelu.runtime.array_types import Array

# Elementwise operators.
_ELEMENTWISE = {
    "add", "sub", "rsub", "mul", "div", "neg", "pow", "square", "exp", "erf", "tanh", "sigmoid", "softplus", "log",
    "log1p", "relu", "clamp", "clamp_min", "clamp_max", "hardtanh", "hardsigmoid", "silu", "_to_copy", "reciprocal",
}  # fmt: skip
# The grid on which products and activations are compared: near 0, and far on both sides, where a gate is 0 or 1.
_NEAR = np.linspace(-9.3, 9.1, 93)
_FAR = 2.0 ** np.arange(4, 21)
_LINE = torch.from_numpy(np.concatenate([-_FAR[::-1], _NEAR, _FAR]))[:, None]
# The largest allowed difference of gates near 0, where graphs may hold constants in single precision, and far from 0.
_TOLERANCE = float(np.finfo(np.float32).eps)
_ROUNDING = 1e-12
# The largest number of nodes between x and the product.
_MOST_NODES = 12


def gated(x: Tensor, parts: tuple[Activation | Scale, ...]) -> None:
    """Mark a product in a graph. The reader takes its parts and never calls it."""


def replace_gated_activations(graph: fx.Graph) -> float:
    """Replace each product or sum in a recorded graph that equals an activation by one node.

    Returns the largest difference between a gate in the graph and the gate of its activation.
    """
    most = 0.0
    for node in list(graph.nodes):
        if name_of(node) not in ("mul", "add") or len(node.all_input_nodes) != 2:
            continue
        for source in _origins(node):
            with suppress(_NotElementwise, RuntimeError, TypeError):
                if (found := _activation(_of_entries(node, source, _LINE).numpy())) is not None:
                    parts, error = found
                    node.target, node.args, node.kwargs = gated, (source, parts), {}
                    most = max(most, error)
                    break
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return most


def _origins(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that may be the x of a product: its factors, then their arguments, and so on backwards."""
    front = list(node.all_input_nodes)
    for _ in range(_MOST_NODES):
        yield from front
        front = [before for each in front for before in each.all_input_nodes][:_MOST_NODES]


class _NotElementwise(Exception):
    """Raised if a node is not an elementwise function of x."""


def _of_entries(node: fx.Node, source: fx.Node, t: Tensor) -> Tensor:
    """Evaluate a node for values t (p, 1) of ``source``, as (p, 1), or (p, n) with constants of n entries."""
    values: dict[fx.Node, Any] = {source: t.clone()}  # a node may write into it

    def value(each: fx.Node) -> Any:
        if each not in values:
            if len(values) > _MOST_NODES or name_of(each) not in _ELEMENTWISE:
                raise _NotElementwise
            values[each] = None  # counted before its arguments
            args, kwargs = fx.node.map_aggregate((each.args, dict(each.kwargs)), argument)
            function: Any = each.target
            values[each] = function(*args, **kwargs)
        return values[each]

    def argument(x: Any) -> Any:
        return value(x) if isinstance(x, fx.Node) else _row(x)

    return torch.as_tensor(value(node), dtype=t.dtype) + torch.zeros_like(t)


def _row(value: Any) -> Any:
    """Convert a constant to one row of entries in double precision."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() > 1 and value.numel() != value.shape[-1]:
        raise _NotElementwise
    return value.detach().double().reshape(() if value.numel() == 1 else (1, -1))


@np.errstate(all="ignore")
def _activation(f: Array) -> tuple[tuple[Activation | Scale, ...], float] | None:
    r"""Identify the activation that has the values f on :data:`_LINE`; return None if there is none.

    The model is f = k t (c + (1 - c) g(a t)). A gate g is 0 at one end of the line and 1 at the other, so f / t is k c
    at one end and k at the other. The result is the activation, with a scale k unless k = 1, and the largest error.

    Args:
        f: the values, (p, n).
    """
    t = _LINE.numpy()
    left, right = (f[[i]] / t[[i]] for i in (0, -1))
    forward = np.abs(right) >= np.abs(left)
    sign = np.where(forward, 1.0, -1.0)
    k, other = np.where(forward, right, left), np.where(forward, left, right)
    if not (np.isfinite(k).all() and (k != 0).all() and np.isfinite(f).all()):
        return None
    c = other / k
    if (c == 1).any():
        return None  # a line: the product of x and a constant
    logits = np.asarray(logit((f / (k * t) - c) / (1 - c)))  # a t of a sigmoid; most accurate where it is about 1
    away = np.nan_to_num(np.abs(np.abs(logits) - 1), nan=np.inf)
    steepness = np.take_along_axis(logits / t, away.argmin(axis=0)[None], axis=0)
    for name, a in (("swish", steepness), *((name, sign) for name in ("gelu", "gelu_tanh", "mish", "hardswish"))):
        if not np.isfinite(a).all() or (a == 0).any():
            continue
        activation = Activation(name, _single(c), steepness=_single(a))
        errors = np.abs(activation.value(t) - f / k) / np.maximum(np.abs(t), 1)
        if (errors <= np.where(np.abs(t) < _FAR[0], _TOLERANCE, _ROUNDING)).all():
            scale = Scale(torch.tensor(_single(k)), torch.zeros((), dtype=torch.float64))
            return (activation,) if (_single(k) == 1).all() else (activation, scale), float(errors.max())
    return None


def _single(values: Array) -> Array:
    """Flatten (1, n) to (n,), or to one number if all are equal; round numbers that are almost whole."""
    row = np.asarray(values).ravel()
    near = np.round(row)
    row = np.where(np.abs(row - near) < _ROUNDING, near, row)
    return row[0] if np.ptp(row) == 0 else row

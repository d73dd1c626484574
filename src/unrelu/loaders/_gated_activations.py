"""Find activations that a graph writes out as a product, such as x * sigmoid(x), and write them as one node.

SiLU, GELU, Mish and hardswish are x times a gate g(x). Programs and exported graphs often compute both factors node by
node: the error function of a GELU, the learned sigmoids of an emulator. Such a product is a function of each entry of x
alone, so its values on a line of numbers tell which activation it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logit
from torch import Tensor, fx, nn

from unrelu.models.activations import Activation
from unrelu.models.affine import Scale
from unrelu.runtime.array_types import Array

_NAMES = (
    "add", "sub", "rsub", "mul", "div", "true_divide", "truediv", "neg", "pow", "square", "exp", "erf", "tanh",
    "sigmoid", "softplus", "log", "log1p", "relu", "relu6", "clamp", "hardtanh", "hardsigmoid",
)  # fmt: skip
# Functions of each entry alone.
_ELEMENTWISE = {getattr(space, name) for space in (torch, F, operator) for name in _NAMES if hasattr(space, name)}
_MODULES = (nn.Sigmoid, nn.Tanh, nn.Softplus, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid)
_PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "multiply", "mul_")
# Arguments at which a product is compared with activations, and one beyond which a gate is 0 or 1.
_LINE = torch.linspace(-9.3, 9.1, 93, dtype=torch.float64)[:, None]
_FAR = 1e6
# The most that they may differ, as a share of the largest value: graphs may hold constants in single precision.
_TOLERANCE = 1e-6
_ROUNDING = 1e-12
# The most nodes between x and the product.
_MOST_NODES = 12


def gated(x: Tensor, parts: tuple[Activation, Scale]) -> Tensor:
    """The activation and the scale after it, which stand for a product."""
    return parts[1].apply(parts[0].forward(x))


def replace_gated_activations(
    graph: fx.Graph, module: Callable[[fx.Node], nn.Module | None], constant: Callable[[str], Any]
) -> None:
    """Put nodes that call :func:`gated` in place of the products in a graph that are activations.

    ``module`` gives the module that a node calls, and ``constant`` a constant by its name.
    """
    for node in list(graph.nodes):
        inputs = node.all_input_nodes
        if node.target not in _PRODUCTS or len(inputs) != 2 or any(each.op == "get_attr" for each in inputs):
            continue
        for source in _origins(node):
            with suppress(_NotElementwise, RuntimeError, TypeError):
                function = _function_of_entries(node, source, module, constant)
                far = (torch.full((1, 1), t, dtype=torch.float64) for t in (-_FAR, _FAR))
                values, low, high = (function(t).numpy() for t in (_LINE, *far))
                if (parts := _activation(values, -low / _FAR, high / _FAR)) is not None:
                    with graph.inserting_after(node):
                        single = graph.call_function(gated, cast(Any, (source, parts)))
                    single.meta = dict(node.meta)
                    node.replace_all_uses_with(single)
                    break
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))


def _origins(node: fx.Node) -> Iterator[fx.Node]:
    """Nodes that may be the x of a product: its factors, and what these are computed from one after the other."""
    front = list(node.all_input_nodes)
    for _ in range(_MOST_NODES):
        yield from front
        front = [before for each in front for before in each.all_input_nodes][:_MOST_NODES]


class _NotElementwise(Exception):
    """A node is not a function of each entry of x alone."""


def _function_of_entries(
    node: fx.Node, source: fx.Node, module: Callable[[fx.Node], nn.Module | None], constant: Callable[[str], Any]
) -> Callable[[Tensor], Tensor]:
    """A node as a function of the entries t of ``source``, (p, 1): (p, 1), or (p, n) with constants of n entries."""

    def function(t: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {source: t}

        def value(each: fx.Node) -> Any:
            if each not in values:
                values[each] = None  # counted before those that it is computed from
                values[each] = computed(each)
            return values[each]

        def computed(each: fx.Node) -> Any:
            called = module(each)
            if each.op == "get_attr":
                return _row(constant(str(each.target)))
            known = each.target in _ELEMENTWISE or (each.op == "call_method" and each.target in _NAMES)
            if len(values) > _MOST_NODES + 1 or not (known or isinstance(called, _MODULES)):
                raise _NotElementwise
            args, kwargs = fx.node.map_arg((each.args, dict(each.kwargs)), value)
            if each.op == "call_method":
                return getattr(torch.as_tensor(args[0]), str(each.target))(*args[1:], **kwargs)
            of: Any = each.target if called is None else called
            return of(*args, **kwargs)

        return torch.as_tensor(value(node)) + torch.zeros_like(t)

    return function


def _row(value: Any) -> Any:
    """A constant as one row of entries, in double precision."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() > 1 and value.numel() != value.shape[-1]:
        raise _NotElementwise
    return value.detach().double().reshape(() if value.numel() == 1 else (1, -1))


def _activation(f: Array, left: Array, right: Array) -> tuple[Activation, Scale] | None:
    r"""The activation and the scale k with values f, (p, n), on :data:`_LINE`; None if there is none.

    A gate g(a t) is 0 at one end and 1 at the other. So k (c + (1 - c) g(a t)) is k c at one end and k at the other,
    where f is k t times this.

    Args:
        f: the values.
        left, right: f(t) / t at -infinity and at infinity, (1, n).
    """
    t = _LINE.numpy()
    forward = np.abs(right) >= np.abs(left)
    sign = np.where(forward, 1.0, -1.0)
    k, other = np.where(forward, right, left), np.where(forward, left, right)
    if not (np.isfinite(k).all() and (k != 0).all() and np.isfinite(f).all()):
        return None
    c = other / k
    if (c == 1).any():
        return None  # a line: the product of x and a constant
    with np.errstate(all="ignore"):
        logits = np.asarray(logit((f / (k * t) - c) / (1 - c)))  # a t of a sigmoid, best known where it is about 1
        away = np.nan_to_num(np.abs(np.abs(logits) - 1), nan=np.inf)
        steepness = np.take_along_axis(logits / t, away.argmin(axis=0)[None], axis=0)
    for name, a in (("swish", steepness), *((name, sign) for name in ("gelu", "gelu_tanh", "mish", "hardswish"))):
        if not np.isfinite(a).all() or (a == 0).any():
            continue
        activation = Activation(name, _single(c), steepness=_single(a))
        if (np.abs(k * activation.value(t) - f) <= _TOLERANCE * np.abs(f).max()).all():
            return activation, Scale(torch.tensor(_single(k)), torch.zeros((), dtype=torch.float64))
    return None


def _single(values: Array) -> Array:
    """(1, n) as (n,), whole numbers without rounding errors; as a number if all are the same."""
    row = np.asarray(values).ravel()
    near = np.round(row)
    row = np.where(np.abs(row - near) < _ROUNDING, near, row)
    return row[0] if np.ptp(row) == 0 else row

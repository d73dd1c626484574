"""The shape of a latent code, where the trace of a PyTorch module leaves one reading only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import fx, nn

from unrelu.affine import Shape
from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.opaque import frozen

__all__ = ["one_reading"]

_ELEMENTWISE_MODULES = (
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.BatchNorm1d, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Sigmoid, nn.Tanh,
    nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardtanh,
)  # fmt: skip
# Methods of tensors and functions that leave the shape alone, and those that reshape.
_ELEMENTWISE = {
    "relu", "relu_", "leaky_relu", "leaky_relu_", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid", "dropout",
    "contiguous", "to", "float", "double", "clone",
}  # fmt: skip
_RESHAPES = {"view", "reshape"}
# Height and width, or length, of a code that are tried for a module that begins with a convolution.
_SIDES = range(1, 17)

_Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
Submodule = Callable[[fx.Node], nn.Module | None]


def one_reading(module: nn.Module, graph: fx.Graph, submodule: Submodule, needed: set[fx.Node]) -> Shape:
    """(k,), if the number k of latent coordinates follows from the trace.

    It does where what enters a ``Linear(in_features=k)`` is the code itself, flattened or put through functions of
    single entries, and where the code is first reshaped to sizes that are written out. A convolution accepts codes of
    any height and width, so it tells nothing.

    Args:
        module: the generator, in evaluation mode.
        graph: its trace.
        submodule: the module that a node calls, or None.
        needed: the nodes that the output depends on.

    Raises:
        ModelError: other numbers are possible; the message has readings that the module accepts.
        UnsupportedModelError: there is not one input.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node in needed]
    if len(inputs) != 1:
        names = [str(node.target) for node in inputs]
        raise UnsupportedModelError(f"the output depends on {len(names)} inputs {names}; a generator has one, the code")
    found: set[int] = set()
    # Nodes that hold the entries of the code, and whether as a vector.
    front = [(inputs[0], True)]
    while front:
        node, flat = front.pop()
        for user in node.users:
            if user not in needed or not user.args or user.args[0] is not node:
                continue
            if (count := _count(user, submodule(user), flat)) is not None:
                found.add(count)
            elif (shaped := _still_the_code(user, submodule(user), flat)) is not None:
                front.append((user, shaped))
    if len(found) == 1:
        return (found.pop(),)
    if found:
        sizes = " and ".join(map(str, sorted(found)))
        raise ModelError(f"layers that take the code itself ask for {sizes} entries; pass latent_shape=")
    raise ModelError(_readings(module, graph, submodule))


def _count(node: fx.Node, module: nn.Module | None, flat: bool) -> int | None:
    """How many entries the code has, if the node that takes it says so."""
    if isinstance(module, nn.Linear):
        return module.in_features if flat else None
    sizes: tuple[Any, ...] = ()
    if isinstance(module, nn.Unflatten) and flat and module.dim in (1, -1):
        sizes = tuple(module.unflattened_size)
    elif module is None and _name(node) in _RESHAPES:
        sizes = _asked(node)[1:]
    known = bool(sizes) and all(isinstance(n, int) and n > 0 for n in sizes)
    return math.prod(sizes) if known else None


def _still_the_code(node: fx.Node, module: nn.Module | None, flat: bool) -> bool | None:
    """Whether a node gives the entries of the code as a vector; None if it gives something else than its entries."""
    if isinstance(module, nn.Flatten):
        return True if (module.start_dim, module.end_dim) == (1, -1) else None
    if isinstance(module, nn.Unflatten):
        return False
    if module is not None:
        return flat if isinstance(module, _ELEMENTWISE_MODULES) else None
    name = _name(node)
    if name == "flatten":
        return True if node.args[1:] == (1,) else None
    if name in _RESHAPES:
        return True if _asked(node)[1:] == (-1,) else None
    return flat if name in _ELEMENTWISE else None


def _name(node: fx.Node) -> str:
    return str(node.target if node.op == "call_method" else getattr(node.target, "__name__", node.target))


def _asked(node: fx.Node) -> tuple[Any, ...]:
    """The sizes of a view or reshape, as several arguments or one tuple."""
    sizes = node.args[1:]
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else tuple(sizes)


def _readings(module: nn.Module, graph: fx.Graph, submodule: Submodule) -> str:
    """What the first layer with weights says, and shapes that the module accepts."""
    layers = ((node, m) for node in graph.nodes if isinstance(m := submodule(node), nn.Linear | _Convolution))
    node, first = next(layers, (None, None))
    if node is None or first is None:
        return "no Linear or convolution module tells the shape of a latent code; pass latent_shape="
    place = f"the first layer with weights, module {str(node.target)!r} ({type(first).__name__})"
    if isinstance(first, nn.Linear):
        k = first.in_features
        known = f"latent_shape={k} if the code has {k} entries too" if _accepts(module, (k,)) else "latent_shape="
        return f"{place}, takes {k} entries that are computed from the code, not the code itself; pass {known}"
    axes = 2 if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) else 1
    wanted = (first.in_channels, *(("height", "width") if axes == 2 else ("length",)))
    shapes = ((first.in_channels, *(side,) * axes) for side in _SIDES)
    accepted = list(islice(_which(module, shapes), 2))
    examples = " or ".join(f"latent_shape={shape}" for shape in accepted) or "latent_shape="
    known = ", which the module accepts" if len(accepted) == 1 else ", or another: what it was trained with"
    return (
        f"{place}, takes codes of shape ({', '.join(map(str, wanted))}) and does not say of which size; pass "
        f"{examples}{known}"
    )


def _which(module: nn.Module, shapes: Iterator[Shape]) -> Iterator[Shape]:
    return (shape for shape in shapes if _accepts(module, shape))


def _accepts(module: nn.Module, shape: Shape) -> bool:
    """Whether the module maps codes of this shape to something."""
    trial = frozen(module, torch.float64, torch.device("cpu"))
    try:
        with torch.no_grad():
            trial(torch.zeros(2, *shape, dtype=torch.float64))
    # The module's own forward runs here; whatever it raises means that it does not.
    except Exception:
        return False
    return True

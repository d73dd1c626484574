"""Which handler translates which function, tensor method and module of PyTorch into parts of a chain of layers."""

from __future__ import annotations

import inspect
import operator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from unrelu.errors import UnsupportedModelError
from unrelu.loaders import _shape_operations as shapes
from unrelu.loaders import _torch_operations as operations
from unrelu.loaders._gated_activations import gated
from unrelu.loaders._torch_operations import Flow, Handler, Part

# Queries of the shape or type, which do not consume the data.
QUERIES = ("size", "dim", "ndimension", "numel", "nelement", "shape", "ndim", "dtype", "device")

_HANDLERS: dict[str, Handler] = {
    **{
        name: partial(operations.activation, name)
        for name in ("relu", "sigmoid", "tanh", "exp", "silu", "selu", "mish", "hardsigmoid", "hardswish", "sin")
    },
    **{
        name: getattr(operations, name)
        for name in (
            "gelu", "elu", "celu", "softplus", "hardtanh", "relu6", "leaky_relu", "prelu", "linear", "batch_norm",
            "rsub",
        )
    },
    **dict.fromkeys(("clamp", "clip"), operations.clamp),
    **dict.fromkeys(("matmul", "mm"), operations.matmul),
    **dict.fromkeys(("conv1d", "conv2d"), operations.conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), operations.conv_transpose),
    **dict.fromkeys(("interpolate", "upsample"), operations.interpolate),
    **{f"avg_pool{n}d": partial(operations.avg_pool, n) for n in (1, 2)},
    **{f"adaptive_avg_pool{n}d": partial(operations.adaptive_avg_pool, n) for n in (1, 2)},
    **dict.fromkeys(
        ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_alpha_dropout"), operations.dropout
    ),
    **dict.fromkeys(("add", "iadd"), operations.add),
    **dict.fromkeys(("sub", "subtract", "isub"), operations.sub),
    **dict.fromkeys(("mul", "multiply", "imul"), operations.mul),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv", "itruediv"), operations.div),
    **dict.fromkeys(("neg", "negative"), operations.neg),
    **{name: getattr(shapes, name) for name in ("pad", "pixel_shuffle", "getitem")},
    **{n: partial(shapes.reshape, n) for n in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")},
    **dict.fromkeys(("contiguous", "clone", "detach", "float", "double", "to", "cpu", "cuda"), shapes.unchanged),
}  # fmt: skip

# Handlers by function object, not by name: a user's own function may be called ``relu``.
FUNCTIONS: dict[Any, Handler] = {
    getattr(space, spelled): handler
    for name, handler in _HANDLERS.items()
    for space in (torch, F, operator)
    for spelled in (name, name + "_")
    if hasattr(space, spelled) and not isinstance(getattr(space, spelled), type)
}
FUNCTIONS |= {operations.sloped: operations.sloped_parts, gated: operations.gated_parts}
METHODS: dict[str, Handler] = {
    spelled: handler
    for name, handler in _HANDLERS.items()
    for spelled in (name, name + "_")
    if hasattr(Tensor, spelled)
}

# Handlers that take the data as either operand. All others take it as their first argument.
_EITHER_SIDE = (
    operations.add, operations.sub, operations.rsub, operations.mul, operations.div, operations.matmul,
)  # fmt: skip

# Names of what is supported, for messages; one spelling each.
_NAMES = tuple(sorted(name for name in _HANDLERS if not (name[0] == "i" and name[1:] in _HANDLERS)))


# --- modules ----------------------------------------------------------------------------------------------------------

# Modules whose forward pass is one call of a function above.
MODULES: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d,
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Identity,
    nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout,
    nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.PixelShuffle, nn.ZeroPad1d, nn.ZeroPad2d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Unflatten,
)  # fmt: skip


def known(module: nn.Module) -> bool:
    """Whether a module is one of :data:`MODULES`. A subclass counts as its base only if it inherits ``forward``."""
    base = next((base for base in type(module).__mro__ if base in MODULES), None)
    return base is not None and type(module).forward is base.forward


class _Data:
    """Stands for x in the forward pass of a module: the function that is called with it returns the parts."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.flatten, self.unflatten = (partial(METHODS[name], flow) for name in ("flatten", "unflatten"))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> list[Part]:
        flow, *others = (a.flow if isinstance(a, cls) else a for a in args)
        return FUNCTIONS[function](flow, *others, **(kwargs or {}))

    def dim(self) -> int:
        """The number of axes, which batch normalisations check."""
        return 1 + len(self.flow.shape)


# --- nodes of a graph -------------------------------------------------------------------------------------------------


def parts_of_module(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
    """The parts that a module of :data:`MODULES` applies to its input.

    Raises:
        UnsupportedModelError: it is another module, or is called with more than its input.
    """
    if not known(m):
        names = ", ".join(sorted(base.__name__ for base in MODULES))
        raise UnsupportedModelError(f"is not an affine map or a known activation; supported modules are {names}")
    if len(args) != 1 or kwargs:
        raise UnsupportedModelError(f"is called with more than its input: {args[1:]}, {kwargs}")
    # The module is called, not its forward, so that hooks of ``weight_norm`` and ``spectral_norm`` write its weight.
    parts = m(_Data(args[0]))
    return [] if isinstance(parts, _Data) else list(parts)


def parts_of_call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
    """The parts that a node applies to the one flow among its arguments by a function or method.

    Raises:
        UnsupportedModelError: there is no such function in the table, or it has other arguments.
    """
    table: dict[Any, Any] = METHODS if node.op == "call_method" else FUNCTIONS
    name = getattr(node.target, "__name__", node.target)
    if node.target not in table:
        what = f"calls x.{args[1]}" if node.target is getattr else f"calls {name}()"
        names = ", ".join(_NAMES)
        unknown = f"{what}, not an affine map or a known activation; supported are {names}"
        raise UnsupportedModelError(node.meta.get("reason", unknown))
    if "input" in kwargs:
        args = (kwargs.pop("input"), *args)
    function = table[node.target]
    if not isinstance(args[0], Flow) and function not in _EITHER_SIDE:
        raise UnsupportedModelError(
            f"calls {name}() with weights or options taken from the data; they must be constant"
        )
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise UnsupportedModelError(f"calls {name}() with arguments that are not supported: {error}") from None
    return list(function(*args, **kwargs))


def answer(flow: Flow, query: str, attribute: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The value of ``x.shape``, ``x.size(0)`` and the like for a flow x."""
    if query == "device":
        return torch.device("cpu")
    value = getattr(flow.meta(), query)
    return value if attribute else value(*args, **kwargs)

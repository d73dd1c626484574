"""Translate PyTorch operators to parts of a chain of layers: affine steps and activations.

PyTorch's functions, methods and modules all call these operators, so one table covers them all. An entry of
:data:`_PARTS` takes the operator's arguments, with a :class:`Flow` in place of the tensor that depends on the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from unrelu.errors import InputError, ModelError, UnsupportedModelError
from unrelu.loaders._recording import name_of
from unrelu.models.activations import SELU_ALPHA, SELU_SCALE, Activation
from unrelu.models.affine import Conv, Dense, LinearOperation, Reshape, Scale, Step
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Shape

Part = Step | Activation
# Linear operators that keep the batch axis first and do not use its size; they are called unchanged.
_LINEAR = {
    "permute", "transpose", "slice", "select", "index", "index_select", "flip", "roll", "diagonal", "cumsum", "tril",
    "triu", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "col2im",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "mean", "sum",
}  # fmt: skip
# Operators that return the same numbers in the same order.
_SAME = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "clone", "detach", "alias",
    "contiguous", "lift_fresh", "_to_copy", "to", "native_dropout",
}  # fmt: skip
# Operators that are a x + b for each entry if the other arguments are constants.
_ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "neg", "native_batch_norm", "_native_batch_norm_legit_no_training"}
# Operators that are W x + b on the last axis.
_PRODUCTS = {"linear", "mm", "addmm"}
# Operators that depend on axes, so they must not get the stacked rows of all elements, (B t, n).
_OF_AXES = {*_LINEAR, "expand", "repeat", "convolution", "native_batch_norm", "_native_batch_norm_legit_no_training",
            "baddbmm", "copy", "_prelu_kernel"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Flow:
    """A tensor that depends on the code.

    Attributes:
        shape: the shape of one element, without the batch axis.
        origin: the place in the model that computes it, for messages.
    """

    shape: Shape
    origin: str


def float64(value: object, what: str) -> Tensor:
    """Copy a tensor, an array or nested lists of real numbers to a float64 tensor on the CPU."""
    try:
        dense = value.to_dense() if isinstance(value, Tensor) else value
        return torch.from_numpy(numbers(dense, what)).contiguous()  # type: ignore[arg-type] # checked there
    except (InputError, NotImplementedError) as error:  # the latter for tensors without data
        raise ModelError(str(error)) from None


def element(full: Shape, batch: int) -> Shape:
    """Return the shape of one element of a tensor for a batch.

    Matrix products of elements with several axes stack the rows of all elements, (B t, n).

    Raises:
        UnsupportedModelError: the first axis is not made of whole elements.
    """
    if not full or full[0] % batch or not full[0]:
        raise UnsupportedModelError(f"mixes the batch axis with others, in a tensor of shape {full} for {batch} codes")
    return full[1:] if full[0] == batch else (full[0] // batch, *full[1:])


def shape_of(node: fx.Node) -> Shape:
    """Return the shape of the tensor that a node computes; of several tensors, the shape of the first one used."""
    shape: Shape = node.meta["shape"] if "shape" in node.meta else next(iter(node.users)).meta["shape"]
    return shape


def parts_of(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> list[Part]:
    """Return the parts that a node applies to the only :class:`Flow` among its arguments.

    Args:
        node: a node of a recording.
        args, kwargs: its arguments, constants or the flow.
        batch: the size of the recorded batch.

    Raises:
        UnsupportedModelError: the operator is neither an affine map nor a known activation.
    """
    function: Any = node.target
    name = name_of(node)
    flow = next(x for x in (*args, *kwargs.values()) if isinstance(x, Flow))
    out, kind = element(shape_of(node), batch), node.meta.get("dtype", torch.float64)
    if name in _OF_AXES and any(shape_of(each)[0] != batch for each in node.all_input_nodes):
        raise UnsupportedModelError(f"calls {name}() on elements put below each other, where axes are not known")
    if not kind.is_floating_point:
        raise UnsupportedModelError(f"gives numbers of type {kind}; only real ones can be inverted")
    first = bool(args) and args[0] is flow
    still = name == "permute" and [*args[1]] == [*range(len(args[1]))]
    if (name in _SAME and first) or name == "copy" or still:
        return [Reshape(out)]
    if name in _LINEAR and first:
        return [_linear(function, name, args[1:], kwargs)]
    if name == "expand" and first and len(args[1]) == 1 + len(out):
        return [LinearOperation(str(function), ((-1, *args[1][1:]),))]
    if name == "repeat" and first and len(args[1]) == 1 + len(out) and args[1][0] == 1:
        return [LinearOperation(str(function), (tuple(args[1]),))]
    if name == "native_batch_norm" and (args[5] or any(x is None for x in args[3:5])):
        raise UnsupportedModelError(
            "normalises by the statistics of the batch, so the output of one code depends on the others; "
            "use module.eval() and track_running_stats=True"
        )
    if name in _ARITHMETIC and not (name == "div" and (not first or kwargs.get("rounding_mode"))):
        return _scaled(function, args, kwargs, flow, out, shape_of(node.all_input_nodes[0]))
    if name in _PRODUCTS and not (name == "mm" and not first) and not (name == "addmm" and args[1] is not flow):
        return _product(function, args, kwargs, flow)
    if name == "bmm":
        return _matrices(flow, args, first)
    if name not in _PARTS:
        raise UnsupportedModelError(f"calls {name}(), which is not an affine map or a known activation")
    try:
        return _PARTS[name](flow, *args[1:], **kwargs)
    except (TypeError, AttributeError) as error:
        raise UnsupportedModelError(f"calls {name}() with arguments that are not supported: {error}") from error


def _linear(function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LinearOperation:
    """Convert a linear operator to a step."""
    if name == "constant_pad_nd" and len(args) > 1 and args[1]:
        raise UnsupportedModelError(f"pads with {args[1]}; only zeros are supported")
    kwargs = {key: value for key, value in kwargs.items() if key != "dtype"}
    own = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, args)  # indices
    return LinearOperation(str(function), tuple(own), tuple(kwargs.items()))


def _along(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], flow: Flow, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute b and A d of an operator A x + b, as its value and derivative at 0, which are exact."""

    def called(x: Tensor) -> Tensor:
        held = tree_map(lambda v: float64(v, "a constant") if isinstance(v, Tensor) else v, (args, kwargs))
        given, named = tree_map(lambda v: x.clone() if v is flow else v, held)  # some operators write into their input
        found = function(*given, **named)
        return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]

    try:
        return torch.autograd.functional.jvp(called, torch.zeros_like(direction), direction)  # type: ignore[no-any-return, no-untyped-call]
    except RuntimeError as error:
        raise UnsupportedModelError(f"combines the data with a constant that does not fit: {error}") from error


def _scaled(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], flow: Flow, out: Shape, full: Shape
) -> list[Part]:
    """Return a scale and a shift of each entry; if a constant has a larger shape, expand the entries first."""
    shift, scale = _along(function, args, kwargs, flow, torch.ones(full, dtype=torch.float64))
    rows = [x.reshape(-1, *out) if x.numel() else x for x in (scale, shift)]
    if any(not torch.allclose(x, x[:1].expand_as(x), rtol=0, atol=0, equal_nan=True) for x in rows):
        raise UnsupportedModelError("combines the data with a constant that differs between codes of a batch")
    step = Scale(*(_narrow(x[0]) for x in rows))
    if out == flow.shape:
        return [step]
    shape = (1,) * (len(out) - len(flow.shape)) + flow.shape
    same: list[Part] = [Reshape(shape)] if shape != flow.shape else []
    return [*same, LinearOperation("aten.expand.default", ((-1, *out),)), step]


def _narrow(x: Tensor) -> Tensor:
    """Shrink x to one entry along each axis in which it is constant; the result broadcasts to x."""
    for axis in range(x.dim()):
        first = x.narrow(axis, 0, 1)
        x = first if torch.equal(x, first.expand_as(x)) else x
    return x.reshape(()).clone() if x.numel() == 1 else x.clone()


def _product(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], flow: Flow) -> list[Part]:
    """Return a dense layer on the last axis: a matrix and a bias."""
    unit = torch.eye(flow.shape[-1], dtype=torch.float64)
    bias, columns = _along(function, args, kwargs, flow, unit)
    if columns.dim() != 2 or len(columns) != len(unit) or not torch.equal(bias, bias[:1].expand_as(bias)):
        raise UnsupportedModelError("multiplies in a way that is no matrix on the last axis of each element")
    return [Dense(columns.mT.contiguous(), bias[0].clone() if bias.any() else None)]


def _matrices(flow: Flow, args: tuple[Any, ...], first: bool) -> list[Part]:
    """Return the steps of x W or M x for elements with two axes; the matrix must be the same for all codes."""
    held = args[first]
    if not isinstance(held, Tensor) or not (first or len(flow.shape) == 2) or not (held == held[:1]).all():
        raise UnsupportedModelError("multiplies the data by itself, or by a matrix that differs between codes")
    matrix = float64(held[0], "a matrix")
    if first:
        return [Dense(matrix.mT.contiguous())]
    swap = LinearOperation("aten.transpose.int", (1, 2))
    return [swap, Dense(matrix), swap]


# --- layers -----------------------------------------------------------------------------------------------------------


def _convolution(
    flow: Flow, weight: Any, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, *_: Any,
) -> list[Part]:  # fmt: skip
    held = None if bias is None else float64(bias, "bias")
    kernel, around = float64(weight, "weight"), tuple(output_padding)
    return [Conv(kernel, held, tuple(stride), tuple(padding), tuple(dilation), groups, transposed, around)]


# --- activations ------------------------------------------------------------------------------------------------------


def _plain(name: str) -> Callable[..., list[Part]]:
    """Return a reader of an activation without parameters."""
    return lambda flow: [Activation(name)]


def _elu(flow: Flow, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> list[Part]:
    if (alpha, scale, input_scale) == (1, 1, 1):
        return [Activation("elu")]
    if input_scale == 1 and math.isclose(alpha, SELU_ALPHA) and math.isclose(scale, SELU_SCALE):
        return [Activation("selu")]
    raise UnsupportedModelError(f"is an ELU with alpha={alpha:g}, which has a kink at 0; only alpha=1 is supported")


def _softplus(flow: Flow, beta: float = 1.0, threshold: float = 20.0) -> list[Part]:
    """Read log(1 + exp(beta x)) / beta. PyTorch returns x where beta x > threshold, an error of at most exp(-20)."""
    if threshold < 20:
        raise UnsupportedModelError(f"is a softplus that jumps at its threshold={threshold}; at least 20 is supported")
    return [Activation("softplus", steepness=beta)]


def _clamp(flow: Flow, low: Any = None, high: Any = None) -> list[Part]:
    """Read a clamp below, above or on both sides as affine maps around a ReLU, hardtanh or hardsigmoid."""

    def scaled(factor: float, shift: float) -> Scale:
        return Scale(*(torch.tensor(value, dtype=torch.float64) for value in (factor, shift)))

    ends = [None if end is None else float64(end, "a limit") for end in (low, high)]
    if any(end is not None and end.numel() > 1 for end in ends):
        raise UnsupportedModelError("cuts outputs off at limits of their own; only one for all is supported")
    low, high = (None if end is None or end.isinf().all() else float(end.reshape(())) for end in ends)
    if low is None and high is None:
        return []
    if high is None or low is None:
        end, sign = (low, 1.0) if high is None else (high, -1.0)  # low + relu(x - low), high - relu(high - x)
        if end == 0 and sign > 0:
            return [Activation("relu")]
        return [scaled(sign, -sign * end), Activation("relu"), scaled(sign, end)]
    if not low < high:
        raise UnsupportedModelError(f"cuts outputs off at {low} and {high}, which leaves one value or none")
    if low == -high:
        return [Activation("hardtanh", steepness=1 / high)]
    # low + r min(max(v / 6 r + 1/2, 0), 1), where r = high - low
    middle: list[Part] = [
        scaled(6.0, -6 * low - 3 * (high - low)),
        Activation("hardsigmoid", steepness=1 / (high - low)),
    ]
    return [*middle, scaled(1.0, low)] if low else middle


def _sloped(flow: Flow, slope: Any = 0.01) -> list[Part]:
    """Read max(x, 0) + slope min(x, 0), with one slope, or one for each entry of an element."""
    held = float64(slope, "a slope")
    if held.dim() > len(flow.shape) and held.dim():
        held = held[0]
    return [Activation.of_slope(held.numpy())]


_PARTS: dict[str, Callable[..., list[Part]]] = {
    "convolution": _convolution,
    **{
        name: _plain(name)
        for name in ("relu", "sigmoid", "tanh", "exp", "silu", "mish", "hardsigmoid", "hardswish", "sin")
    },
    "gelu": lambda flow, approximate="none": [Activation("gelu" if approximate == "none" else "gelu_tanh")],
    "elu": _elu,
    "celu": lambda flow, alpha=1.0: [Activation("elu", steepness=1 / alpha)],
    "softplus": _softplus,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda flow, high: _clamp(flow, None, high),
    "hardtanh": lambda flow, low=-1.0, high=1.0: _clamp(flow, low, high),
    "leaky_relu": _sloped,
    "_prelu_kernel": _sloped,
    "gated": lambda flow, parts: list(parts),
}

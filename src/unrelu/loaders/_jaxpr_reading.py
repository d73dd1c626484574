"""Run a JAX program (a jaxpr) by PyTorch, so that its layers can be read.

The program takes one code. Here it runs on a batch of codes: every value that depends on the code has the batch axis
first. JAX computes all other values. JAX's own implementation also shows where a primitive moves entries.

Source: https://docs.jax.dev/en/latest/jaxpr.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from jax.extend.core import ClosedJaxpr, Literal
from torch import Tensor

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders._recording import at_place

# Primitives that call a program. The reader reads the program instead.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}
# Primitives that move or repeat entries of their first argument. The other arguments say where.
_MOVES = {"broadcast_in_dim", "copy", "copy_p", "dynamic_slice", "expand_dims", "gather", "reshape", "rev", "slice",
          "split", "squeeze", "transpose"}  # fmt: skip


def as_torch(closed: ClosedJaxpr) -> Callable[[Tensor], Tensor]:
    """Convert a program for one code to a PyTorch function from codes (B, ...) to outputs (B, ...)."""
    return lambda z: _carried_out(closed.jaxpr, closed.consts, [z])[0]


def _carried_out(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Run a program and return its results: tensors if they depend on the code, else JAX arrays."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def value(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else values[v]

    for eqn in jaxpr.eqns:
        given = [value(v) for v in eqn.invars]
        with at_place(f"primitive {eqn.primitive.name!r} of its jaxpr"):
            found = _results(eqn, given) if any(isinstance(x, Tensor) for x in given) else _bound(eqn, given)
        values.update(zip(eqn.outvars, found, strict=True))
    return [value(v) for v in jaxpr.outvars]


def _bound(eqn: Any, given: Sequence[Any]) -> Sequence[Any]:
    """Compute the results of a primitive by JAX."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # before JAX 0.10
    found = eqn.primitive.bind(*functions, *given, **params)
    return found if eqn.primitive.multiple_results else [found]


def _results(eqn: Any, given: list[Any]) -> Sequence[Any]:
    """Compute the results of a primitive that has an argument depending on the code."""
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS:
        called = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
        if (known := _NAMED.get(params.get("name", ""))) is not None and _is_of_jax(eqn, called):
            return [known(*given)]
        return _carried_out(getattr(called, "jaxpr", called), getattr(called, "consts", ()), given)
    if name in _MOVES and not any(isinstance(x, Tensor) for x in given[1:]):
        return _moved(eqn, given)
    if name not in _FUNCTIONS:
        raise UnsupportedModelError(f"primitive {name!r} of its jaxpr is neither an affine map nor a known activation")
    try:
        return [_FUNCTIONS[name](*given, **params)]
    except (ModelError, RuntimeError, TypeError) as error:
        raise UnsupportedModelError(f"primitive {name!r} of its jaxpr is not read as it is used: {error}") from error


def _is_of_jax(eqn: Any, called: Any) -> bool:
    """Check whether a program equals the ``jax.nn`` function of the same name, rather than one of the user's."""
    double = eqn.invars[0].aval.dtype == np.float64
    with jax.enable_x64(True) if double else nullcontext():
        arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
        own = jax.make_jaxpr(getattr(jax.nn, eqn.params["name"]))(*arguments)
    return str(own.eqns[0].params.get("jaxpr")) == str(called)


def _constant(x: Any) -> Any:
    """Convert a constant to double precision: to a number if all entries are equal, else to a tensor."""
    array = np.array(x, dtype=np.float64)
    same = array.size > 0 and (array == array.flat[0]).all()
    return float(array.flat[0]) if same else torch.from_numpy(array)


def _moved(eqn: Any, given: list[Any]) -> list[Tensor]:
    """Apply a primitive that moves entries to x. JAX applies it to the indices of entries to find the order."""
    x = given[0]
    size = math.prod(x.shape[1:])
    places = _bound(eqn, [jax.numpy.arange(size).reshape(x.shape[1:]), *given[1:]])
    return [_taken(x, np.asarray(place)) for place in places]


def _taken(x: Tensor, places: Any) -> Tensor:
    """Pick entries of each row of x, (B, ...), by their flat indices."""
    size, flat = math.prod(x.shape[1:]), places.ravel()
    if not flat.size or flat.min() < 0 or flat.max() >= size:
        raise UnsupportedModelError("an index of its jaxpr is out of bounds")
    if not np.array_equal(flat, np.arange(size)):
        x = x.flatten(1).index_select(1, torch.tensor(flat))
    return x.reshape(len(x), *places.shape)


# --- primitives -------------------------------------------------------------------------------------------------------
#
# Arguments that depend on the code are tensors with a batch axis; constants are arrays without. Parameters are by name.


def _of_entries(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap an elementwise function for broadcasting between its arguments; drop parameters such as the accuracy."""

    def of_entries(*given: Any, **_: Any) -> Tensor:
        axes = max(x.dim() if isinstance(x, Tensor) else np.ndim(x) + 1 for x in given)
        return function(*(_with_axes(x, axes) if isinstance(x, Tensor) else _constant(x) for x in given))

    return of_entries


def _with_axes(x: Tensor, axes: int) -> Tensor:
    return x if x.dim() == axes else x.reshape(len(x), *[1] * (axes - 1))


def _limited(function: Callable[..., Tensor], end: str) -> Callable[..., Tensor]:
    """Wrap the maximum or minimum of two arguments; if one is a number, clamp at that end."""

    def limited(x: Any, y: Any) -> Tensor:
        x, y = (y, x) if isinstance(x, float) else (x, y)
        return function(x, y) if isinstance(y, Tensor) else torch.clamp(x, **{end: y})

    return limited


def _power(x: Any, y: Any) -> Tensor:
    return torch.exp(y * math.log(x)) if isinstance(x, float) and x > 0 else x**y


def _dot_general(x: Any, y: Any, *, dimension_numbers: Any, **_: Any) -> Tensor:
    """Contract pairs of axes of a tensor and a constant; the remaining axes of x come first, then those of y."""
    over, (batched, _batched) = dimension_numbers
    if batched or (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise TypeError("it multiplies the data by itself, or by a batch of matrices")
    first = isinstance(x, Tensor)
    (live, along), (held, summed) = ((x, over[0]), (y, over[1])) if first else ((y, over[1]), (x, over[0]))
    weight = torch.from_numpy(np.array(held, dtype=np.float64))
    product: Tensor = torch.tensordot(live, weight, ([axis + 1 for axis in along], list(summed)))
    free = [*range(1, live.dim() - len(along))]
    return product if first else product.movedim(free, [*range(-len(free), 0)])


_ENTRIES: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg, "exp": torch.exp,
    "log": torch.log, "log1p": torch.log1p, "tanh": torch.tanh, "logistic": torch.sigmoid, "sin": torch.sin,
    "erf": torch.erf, "erfc": lambda x: 1 - torch.erf(x), "square": torch.square, "pow": _power,
    "max": _limited(torch.maximum, "min"), "min": _limited(torch.minimum, "max"),
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    **{name: _of_entries(function) for name, function in _ENTRIES.items()},
    "concatenate": lambda *given, dimension: torch.cat(given, dimension + 1),
    "convert_element_type": lambda x, *, new_dtype, **_: x.to(getattr(torch, str(np.dtype(new_dtype)))),
    "dot_general": _dot_general,
    "integer_pow": lambda x, *, y, **_: x**y,
    "reduce_sum": lambda x, *, axes, **_: x.sum([axis + 1 for axis in axes]),
}
# Functions of jax.nn that branch on each entry, found as programs with these names.
_NAMED: dict[str, Callable[..., Tensor]] = {
    "celu": lambda x, alpha=1.0: F.celu(x, float(alpha)),
    "elu": lambda x, alpha=1.0: F.elu(x, float(alpha)),
    "hard_tanh": F.hardtanh,
    "leaky_relu": lambda x, slope=0.01: F.leaky_relu(x, float(slope)),
    "selu": F.selu,
    "softplus": F.softplus,
}

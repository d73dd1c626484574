"""A function of JAX as a generator: JAX evaluates and differentiates it, and PyTorch calls it with batches of codes.

The function is traced once. What is traced is mapped over the batch (``jax.vmap``), differentiated (``jax.jvp`` and
``jax.vjp``) and compiled for each shape that is asked for; batches are filled up to one of five sizes, so that these are
few. Results are shared with PyTorch (DLPack), not copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import MissingPackageError, UnsupportedModelError
from unrelu.models.affine import Shape
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import GeneratorCall, described, picked
from unrelu.runtime.host import forkable_lock
from unrelu.runtime.memory_limits import TANGENT_BYTES, at_once
from unrelu.runtime.work_clock import standing_still

try:
    import cloudpickle
    import jax
    import jax.numpy as jnp
    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
except ImportError as error:
    raise MissingPackageError(f"from_jax needs a package ({error}): pip install jax cloudpickle", name="jax") from None

# Held while compiling: a process forked at that time would wait for the compiler forever.
_compiling = forkable_lock()
# The sizes that batches are filled up to; larger ones are split. A search asks for all sizes, and JAX compiles for each.
_SIZES = (1, 4, 16, 64, 256)
# Outputs in single and in double precision differ by less than this share of the largest one by rounding.
_DRAWN = 0.01


class JaxFunction:
    """A function of JAX of one code, called with a batch of codes by PyTorch, which can differentiate it once.

    Args:
        function: from one code to an array, or to a structure of arrays.
        shape: the shape of one code.
        call: which of its outputs is used.

    Attributes:
        double: whether it is evaluated in double precision; if not, as JAX is configured.
    """

    def __init__(self, function: Callable[..., Any], shape: Shape, call: GeneratorCall) -> None:
        self.function, self.shape, self.call, self.double = function, shape, call, True
        self.title = str(getattr(function, "__name__", type(function).__name__))
        self._made: dict[Any, Any] = {}

    def __reduce__(self) -> Any:
        return _unpickled, (cloudpickle.dumps((self.function, self.shape, self.call, self.double)),)

    def precision(self) -> AbstractContextManager[Any]:
        """Double precision within, whatever the user's configuration of JAX is; or that configuration."""
        return jax.enable_x64(True) if self.double else nullcontext()

    @property
    def _widened(self) -> Callable[..., Any]:
        """The function; a model that JAX knows as a tree of arrays, in double precision."""

        def widened(x: Any) -> Any:
            return x.astype(jnp.float64) if isinstance(x, jax.Array) and x.dtype == jnp.float32 else x

        return jax.tree.map(widened, self.function) if self.double else self.function  # type: ignore[no-any-return]

    @property
    def traced(self) -> ClosedJaxpr:
        """What the function does to one code, traced once."""
        if (key := ("traced", self.double)) not in self._made:
            with self.precision():
                kind = jnp.float64 if self.double else jnp.float32
                self._made[key] = jax.make_jaxpr(self._chosen)(jax.ShapeDtypeStruct(self.shape, kind))
        return self._made[key]

    def _chosen(self, z: Any) -> Any:
        """The chosen output of one code, or all parts, flat."""
        result = self._widened(z)
        if not isinstance(self.call.output, Mapping):
            return picked(result, self.call.output)
        parts = {name: jnp.asarray(picked(result, pick)) for name, pick in self.call.output.items()}
        self.call.parts.update({name: part.shape for name, part in parts.items()})
        return jnp.concatenate([part.ravel() for part in parts.values()])

    def structure(self) -> Any:
        """What the function returns for one code, as tensors without numbers."""
        with self.precision():
            found = jax.eval_shape(self.function, jax.ShapeDtypeStruct(self.shape, jnp.float32))
        return jax.tree.map(lambda x: torch.empty(x.shape, device="meta"), found)

    @property
    def output_shape(self) -> Shape:
        """The shape of one output."""
        return tuple(self.traced.out_avals[0].shape)

    def __call__(self, z: Tensor) -> Tensor:
        """Outputs (B, *output_shape) for codes (B, *shape), differentiable by PyTorch."""
        if z.dtype != (torch.float64 if self.double else torch.float32):
            raise TypeError(f"{self.title} takes no codes of type {z.dtype}")
        x: Tensor = _Batch.apply(self, "values", z.flatten(1))  # type: ignore[no-untyped-call]
        return x.reshape(len(x), *self.output_shape)

    def batch(self, kind: str, *rows: Tensor) -> tuple[Tensor, ...]:
        """Evaluate a batch: one of :meth:`_kinds` by its name, of rows (B, ...)."""
        count, device = len(rows[0]), rows[0].device
        if count > _SIZES[-1]:
            parts = zip(*(x.split(_SIZES[-1]) for x in rows), strict=True)
            return tuple(map(torch.cat, zip(*(self.batch(kind, *part) for part in parts), strict=True)))
        size = next(n for n in _SIZES if n >= count)
        given = [x.detach().cpu().numpy() for x in rows]
        if size > count:
            given = [np.resize(x, (size, *x.shape[1:])) for x in given]  # repeated from the first one on
        with self.precision():
            results = self._compiled(kind, given)(*given)
        return tuple(_shared(x)[:count].to(device) for x in results)

    def _compiled(self, kind: str, given: list[Any]) -> Callable[..., Any]:
        key = (kind, self.double, *(x.shape for x in given))
        if key not in self._made:
            with _compiling, standing_still():
                function = jax.jit(jax.vmap(self._kinds()[kind]))
                self._made[key] = function.lower(*given).compile()
        return self._made[key]

    def _kinds(self) -> dict[str, Callable[..., Any]]:
        """What is evaluated for each code: x = G(z), beside J t for vectors t (m, k), or J^T v for v (m, n)."""
        traced = jaxpr_as_fun(self.traced)

        def value(z: Any) -> Any:
            return traced(z.reshape(self.shape))[0].ravel()

        def push(z: Any, vectors: Any) -> Any:
            return jax.vmap(lambda t: jax.jvp(value, (z,), (t,)), out_axes=(None, 0))(vectors)

        def pull(z: Any, vectors: Any) -> Any:
            x, back = jax.vjp(value, z)
            return x, jax.vmap(lambda v: back(v.astype(x.dtype))[0])(vectors)

        return {"values": lambda z: (value(z),), "push": push, "pull": pull}

    @cached_property
    def width(self) -> int:
        """The size of the largest array in the evaluation of one code."""
        return max(math.prod(self.shape), _width(self.traced.jaxpr))

    @cached_property
    def work(self) -> int:
        """The multiplications of one evaluation, as JAX estimates them."""
        with self.precision():
            code = jax.ShapeDtypeStruct(self.shape, self.traced.in_avals[0].dtype)
            cost = jax.jit(jaxpr_as_fun(self.traced)).lower(code).cost_analysis()
        return int((cost or {}).get("flops", 0)) // 2


def _unpickled(content: bytes) -> JaxFunction:
    *arguments, double = cloudpickle.loads(content)
    function = JaxFunction(*arguments)
    function.double = double
    return function


def _shared(x: Any) -> Tensor:
    """An array of JAX as a tensor on the CPU, in the same memory if it is there."""
    return torch.from_dlpack(x if x.device.platform == "cpu" else np.array(x))  # type: ignore[attr-defined, no-any-return]


def inner_jaxpr(value: Any) -> Any:
    """The program in a parameter of a primitive, without constants; None if it is something else."""
    value = getattr(value, "jaxpr", value)
    return value if hasattr(value, "eqns") else None


def _width(jaxpr: Any) -> int:
    """The size of the largest array that a program computes, also in the programs that it calls."""
    sizes = [math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
    given = (x for eqn in jaxpr.eqns for p in eqn.params.values() for x in (p if isinstance(p, tuple) else (p,)))
    return max([1, *sizes, *(_width(inner) for inner in map(inner_jaxpr, given) if inner is not None)])


class _Batch(torch.autograd.Function):
    """Evaluates a batch by JAX, ``apply(function, kind, *rows)``, so that PyTorch can differentiate and map it."""

    @staticmethod
    def forward(function: JaxFunction, kind: str, *rows: Tensor) -> Tensor:
        if kind == "values":
            return function.batch(kind, *rows)[0]
        z, vector = rows
        return function.batch(kind, z, vector[:, None])[1][:, 0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.function, kind, z, *_ = inputs
        if kind != "values":  # there are no second derivatives
            ctx.mark_non_differentiable(output)
        ctx.save_for_backward(z)
        ctx.save_for_forward(z)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        return None, None, _Batch.apply(ctx.function, "pull", *ctx.saved_tensors, v)  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, _function: None, _kind: None, t: Tensor) -> Any:
        return _Batch.apply(ctx.function, "push", *ctx.saved_tensors, t)  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], function: JaxFunction, kind: str, *rows: Tensor) -> Any:
        """All batches as one."""
        whole = (
            x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
            for axis, x in zip(in_dims[2:], rows, strict=True)
        )
        x: Tensor = _Batch.apply(function, kind, *(x.flatten(0, 1) for x in whole))  # type: ignore[no-untyped-call]
        return x.unflatten(0, (info.batch_size, -1)), 0


@dataclass(frozen=True, eq=False, repr=False)
class JaxNetwork(OpaqueNetwork):
    """A generator that JAX evaluates; :func:`unrelu.from_jax` makes it.

    Its Jacobian is computed in forward mode where it has at most as many columns as rows, otherwise in reverse mode.

    Attributes:
        function: the function; :attr:`module` calls it.
    """

    function: JaxFunction = field(kw_only=True)

    def push(self, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OpaqueNetwork.push`."""
        return self._products("push", z, directions.transpose(0, 1).expand(len(z), -1, -1))

    def along(self, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OpaqueNetwork.along`."""
        if self.forward_mode and self.latent_dim <= self.output_dim:
            return self._products("push", z, directions)
        unit = torch.eye(self.output_dim, dtype=z.dtype, device=z.device).expand(len(z), -1, -1)
        x, rows = self._products("pull", z, unit)
        return x, directions @ rows.mT

    def _products(self, kind: str, z: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """G(z), and products of the Jacobian with vectors (B, m, ...)."""
        dtype = torch.float64 if self.function.double else torch.float32
        codes = z.to(dtype)
        together = at_once(TANGENT_BYTES, self.dtype.itemsize * self.width * len(z), self.device)
        found = [self.function.batch(kind, codes, part) for part in vectors.to(dtype).split(together, dim=1)]
        return found[0][0].to(z), torch.cat([products for _, products in found], dim=1).to(z)

    @cached_property
    def work(self) -> int:
        """See :attr:`Generator.work`."""
        return self.function.work


def checked(function: JaxFunction, codes: Tensor) -> JaxFunction:
    """The function in the precision that it takes: it is traced, and evaluated at codes (B, *shape).

    Raises:
        UnsupportedModelError: it cannot be traced, or does not return one array of real numbers.
    """
    for double in (True, False):
        function.double = double
        try:
            found = function.traced.out_avals
            break
        except UnsupportedModelError:  # the output is not there
            raise UnsupportedModelError(f"it returns {described(function.structure())}; output= names none of it") from None
        except Exception as error:  # the user's function runs here
            refusal = error
    else:
        raise UnsupportedModelError(_refused(refusal, function.shape)) from refusal
    if len(found) != 1:
        raise UnsupportedModelError(
            f"for one code it returns {described(function.structure())}; pass output=, the name or number of one of "
            "them, or a list of several as named parts"
        )
    if not jnp.issubdtype(found[0].dtype, jnp.floating):
        raise UnsupportedModelError(f"it returns numbers of type {found[0].dtype}; a generator returns real ones")
    if function.double and not jax.config.jax_enable_x64:
        # Random numbers that it draws, by a fixed key, are others in double precision.
        x = function(codes)
        function.double = False
        own = function(codes.float()).double()
        function.double = not bool(((x - own).abs() > _DRAWN * own.abs().max()).any())
    return function


def _refused(error: Exception, shape: Shape) -> str:
    said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.ConcretizationTypeError):
        return (
            f"JAX cannot trace it ({said}): it decides by numbers that depend on the code, or passes them to NumPy or "
            "Python; use jax.numpy, jnp.where and jax.lax.cond"
        )
    return (
        f"for one code of shape {shape} it raises {said}. It is called with one code, and batched by JAX: for a "
        "function of a batch, pass lambda z: function(z[None])[0]"
    )

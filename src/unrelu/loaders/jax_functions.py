"""Read a JAX function as a network: as layers, or as a generator that JAX evaluates and differentiates.

The function is traced once. The traced program is mapped over batches (``vmap``), differentiated (``jvp``, ``vjp``) and
compiled for each batch size. Batches are padded to powers of four to keep the number of sizes small.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrelu.errors import HostError, MissingPackageError, ModelError, UnreluError, UnsupportedModelError
from unrelu.loaders._torch_graph import CPU, code_arguments, network_of, with_names
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_callables import FunctionModule, GeneratorCall, Output, picked
from unrelu.opaque.torch_opaque import trial_codes
from unrelu.runtime.argument_checks import known_arguments
from unrelu.runtime.array_types import Shape
from unrelu.runtime.host import computing, forkable_lock
from unrelu.runtime.memory_limits import TANGENT_BYTES, at_once
from unrelu.runtime.run_control import standing_still

try:
    import cloudpickle
    import jax
    import jax.numpy as jnp
    from jax.extend.core import jaxpr_as_fun

    from unrelu.loaders._jaxpr_reading import as_torch
except ImportError as error:
    raise MissingPackageError(f"from_jax needs packages ({error}): pip install jax cloudpickle", name="jax") from None

# Held while compiling: a process forked meanwhile would wait for the compiler forever.
_compiling = forkable_lock()
# Rounding changes outputs between single and double precision by less than this share of the largest output.
_ROUNDING = 0.01


@known_arguments
@computing()
def from_jax(
    function: Callable[..., Any],
    latent_shape: int | tuple[int, ...] | None = None,
    *,
    bounds: Mapping[str, Any] | None = None,
    output: Output = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    r"""Read a JAX function of one code, :math:`G: R^k \to R^n`, as a network.

    If the traced program is a chain of layers, it is read and computed without JAX from then on. Otherwise JAX maps the
    function over batches, differentiates and compiles it, after the trial of :func:`~unrelu.from_torch`. It runs in
    double precision whatever ``jax_enable_x64`` is. If it does not support double precision, as with single-precision
    weights in convolutions, it runs as JAX is configured.

    JAX compiles once for each of a few batch sizes; the clocks of time limits stop meanwhile. JAX computes without the
    GIL in its own threads, which settings of PyTorch or OpenMP do not limit. It would wait forever in a forked process,
    so a call there raises a :class:`~unrelu.errors.HostError`. Workers of :func:`unrelu.run` are fresh processes; they
    receive the function by cloudpickle.

    Args:
        function: maps one code of shape ``latent_shape`` to one array, such as ``lambda z: model.apply(weights, z)``;
            or an Equinox model itself.
        latent_shape: shape of one code; an integer k means (k,).
        bounds, output: as in :func:`~unrelu.from_torch`; with ``bounds``, the function takes a vector (k,).

    Raises:
        OptionError: ``output`` has a wrong type, or ``latent_shape`` and ``bounds`` do not fit together.
        InputError: ``bounds`` are not pairs of increasing numbers by name.
        UnsupportedModelError: JAX cannot trace or differentiate it, or it does not return one array of finite numbers.
        ModelError: ``function`` is no function, or ``latent_shape`` is needed.
        MissingPackageError: JAX or cloudpickle is not installed.

    >>> import jax.numpy as jnp, unrelu
    >>> net = unrelu.from_jax(lambda p: p[0] * jnp.cos(jnp.arange(3) * p[1]), bounds={"a": (1, 2), "w": (0.5, 1)})
    >>> {name: round(value, 6) for name, value in unrelu.invert(net, net([1.5, 0.8])).parameters.items()}
    {'a': 1.5, 'w': 0.8}
    """
    if not callable(function):
        raise ModelError(f"from_jax takes a function of one code, or a model that is one, got {function!r:.60}")
    call = GeneratorCall.parse(output)
    shape, names, domain = code_arguments(latent_shape, bounds)
    if shape is None:
        raise ModelError("pass latent_shape=, the shape of one latent code, or bounds={'name': (lower, upper), ...}")
    traced = _in_its_precision(function, shape, call, trial_codes(shape, domain))
    with traced.precision():
        read = FunctionModule(as_torch(traced.program))
        network = network_of(read, shape, CPU, domain, original=FunctionModule(traced))
    if isinstance(network, OpaqueNetwork):
        held = {each.name: getattr(network, each.name) for each in fields(network)}
        held |= {"width": max(network.width, traced.width), "forward_mode": traced.has_forward_mode}
        network = JaxNetwork(**held, function=traced)
    return with_names(network, call, names)


class JaxFunction:
    """A JAX function of one code, wrapped as a PyTorch function of batches that can be differentiated once.

    Args:
        function: maps one code to an array, or to a structure of arrays.
        shape: the shape of one code.
        call: which output is used.
        double: True evaluates in double precision, False as JAX is configured.
    """

    def __init__(self, function: Callable[..., Any], shape: Shape, call: GeneratorCall, double: bool) -> None:
        self._given = function, shape, call, double
        self.shape, self.dtype = shape, torch.float64 if double else torch.float32
        self.title = str(getattr(function, "__name__", type(function).__name__))
        self._compiled, self._process = dict[Any, Callable[..., Any]](), os.getpid()

        def widened(x: Any) -> Any:
            return x.astype(jnp.float64) if double and getattr(x, "dtype", None) == jnp.float32 else x

        def chosen(z: Any) -> Any:
            result = jax.tree.map(widened, function)(z)  # a model is a tree of arrays, a function is its own leaf
            if not isinstance(call.output, Mapping):
                return picked(result, call.output)
            parts = {name: jnp.asarray(picked(result, pick)) for name, pick in call.output.items()}
            call.parts.update({name: part.shape for name, part in parts.items()})
            return jnp.concatenate([part.ravel() for part in parts.values()])

        with self.precision():
            code = jax.ShapeDtypeStruct(shape, jnp.float64 if double else jnp.float32)
            self.program, returned = jax.make_jaxpr(chosen, return_shape=True)(code)
        if len(self.program.out_avals) != 1 or not jnp.issubdtype(self.program.out_avals[0].dtype, jnp.floating):
            found = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", returned)
            raise UnsupportedModelError(
                f"for one code it returns {found}; a generator returns one array of real numbers: pass output=, the "
                "name or number of one of several, or a list for named parts"
            )
        self.output_shape = tuple(self.program.out_avals[0].shape)
        self.width = max((math.prod(v.aval.shape) for eqn in self.program.eqns for v in eqn.outvars), default=1)

    def __reduce__(self) -> Any:
        content = cloudpickle.dumps(self._given)
        again = _unpickled(content).program
        constants = zip(self.program.consts, again.consts, strict=False)
        if str(again) != str(self.program) or not all(np.array_equal(*pair, equal_nan=True) for pair in constants):
            raise ModelError(
                f"{self.title} is no longer what from_jax has read: what it uses was changed since; call from_jax again"
            )
        return _unpickled, (content,)

    def precision(self) -> AbstractContextManager[Any]:
        """Return a context that sets the precision of JAX for this thread."""
        return jax.enable_x64(True) if self.dtype == torch.float64 else nullcontext()

    @property
    def has_forward_mode(self) -> bool:
        """Whether to compute Jacobians column by column: JAX supports it, and there are no more columns than rows."""
        z = torch.zeros(1, math.prod(self.shape), dtype=self.dtype)
        try:
            with self.precision():
                jax.eval_shape(self._push, z[0].numpy(), z.numpy())
        except Exception:  # JAX does not document what it raises for functions with derivatives of their own
            return False
        return bool(z.numel() <= math.prod(self.output_shape))

    def __call__(self, z: Tensor) -> Tensor:
        """Compute outputs (B, *output_shape) for codes (B, *shape)."""
        if z.dtype != self.dtype:
            raise TypeError(f"{self.title} takes codes of type {self.dtype}, not {z.dtype}")
        x: Tensor = _Values.apply(self, z.flatten(1))
        return x.reshape(-1, *self.output_shape)

    def batch(self, kind: str, *rows: Tensor) -> list[Tensor]:
        """Compute G(z), (B, n), for codes (B, k); "push" adds J t for t (B, m, k), "pull" J^T v for v (B, m, n)."""
        if os.getpid() != self._process:
            raise HostError("JAX would wait forever in a forked process; start processes by 'spawn' or 'forkserver'")
        count, device = len(rows[0]), rows[0].device
        size = 4 ** -(-max(count - 1, 0).bit_length() // 2)
        arrays = [x.detach().cpu().numpy() for x in rows]
        if size > count:
            arrays = [np.resize(x, (size, *x.shape[1:])) for x in arrays]  # repeated from the first one on
        key = (kind, *(x.shape for x in arrays))
        with self.precision():
            if key not in self._compiled:
                with _compiling, standing_still():
                    self._compiled[key] = jax.jit(jax.vmap(getattr(self, f"_{kind}"))).lower(*arrays).compile()
            found = self._compiled[key](*arrays)
        shared = (x if x.device.platform == "cpu" else np.array(x) for x in found)  # in memory that PyTorch can use
        return [torch.from_dlpack(x)[:count].to(device) for x in shared]  # type: ignore[attr-defined]

    def _values(self, z: Any) -> Any:
        return (jaxpr_as_fun(self.program)(z.reshape(self.shape))[0].ravel(),)

    def _push(self, z: Any, vectors: Any) -> Any:
        return jax.vmap(lambda t: sum(jax.jvp(self._values, (z,), (t,)), ()), out_axes=(None, 0))(vectors)

    def _pull(self, z: Any, vectors: Any) -> Any:
        (x,), pulled = jax.vjp(self._values, z)
        return x, jax.vmap(lambda v: pulled((v,))[0])(vectors)


def _unpickled(content: bytes) -> JaxFunction:
    return JaxFunction(*cloudpickle.loads(content))


class _Values(torch.autograd.Function):
    """A PyTorch function that computes outputs (B, n) for codes (B, k) by JAX; it has first derivatives only."""

    @staticmethod
    def forward(ctx: Any, function: JaxFunction, z: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(z)
        return function.batch("values", z)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        return None, ctx.function.batch("pull", *ctx.saved_tensors, v[:, None])[1][:, 0]


@dataclass(frozen=True, eq=False, repr=False)
class JaxNetwork(OpaqueNetwork):
    """A generator that JAX evaluates. Its Jacobian takes one tangent per column, or one gradient per row.

    Attributes:
        function: the function that :attr:`module` calls.
    """

    function: JaxFunction = field(kw_only=True, repr=False)

    def along(self, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OpaqueNetwork.along`."""
        if self.forward_mode:
            return self._products("push", z, directions)
        unit = torch.eye(self.output_dim, dtype=z.dtype, device=z.device)
        x, rows = self._products("pull", z, unit.expand(len(z), -1, -1))
        return x, directions @ rows.mT

    def _products(self, kind: str, z: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        dtype, together = self.function.dtype, at_once(TANGENT_BYTES, z.itemsize * self.width * len(z), self.device)
        parts = [self.function.batch(kind, z.to(dtype), part.to(dtype)) for part in vectors.split(together, dim=1)]
        return parts[0][0].to(z), torch.cat([products for _, products in parts], dim=1).to(z)


def _in_its_precision(function: Callable[..., Any], shape: Shape, call: GeneratorCall, codes: Tensor) -> JaxFunction:
    """Trace the function in double precision; if that fails or changes its values, as JAX is configured.

    Raises:
        UnsupportedModelError: JAX cannot trace the function, or it does not return one array of real numbers.
    """
    enabled = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
    try:
        own = JaxFunction(function, shape, call, double=enabled)
    except UnreluError:
        raise
    except Exception as error:  # the user's function runs here
        raise UnsupportedModelError(_refused(error, shape)) from error
    with suppress(Exception):
        double = own if enabled else JaxFunction(function, shape, call, double=True)
        # A function that draws random numbers with its own key gets different ones in double precision.
        x, rounded = double(codes), own(codes.to(own.dtype)).double()
        return own if ((x - rounded).abs() > _ROUNDING * rounded.abs().max()).any() else double
    return own


def _refused(error: Exception, shape: Shape) -> str:
    said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.ConcretizationTypeError):
        return (
            f"it decides by numbers that depend on the code, or gives them to NumPy or Python, and JAX cannot trace "
            f"that ({said}); use jax.numpy, jnp.where and jax.lax.cond"
        )
    return (
        f"for one code of shape {shape} it raises {said}. JAX batches the function; of one that takes batches, pass "
        "lambda z: function(z[None])[0]"
    )

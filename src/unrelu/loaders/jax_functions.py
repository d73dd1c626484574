"""A function of JAX as a network: its layers, or a generator that JAX evaluates and differentiates.

The function is traced once. What is traced is mapped over batches (``vmap``), differentiated (``jvp``, ``vjp``) and
compiled for each size of batch; batches are filled up to powers of four, so that these are few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import MissingPackageError, ModelError, UnreluError, UnsupportedModelError
from unrelu.loaders._torch_graph import CPU, code_arguments, network_of, with_names
from unrelu.models.affine import Shape
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import FunctionModule, GeneratorCall, Output, picked
from unrelu.models.torch_opaque import trial_codes
from unrelu.runtime.host import computing, forkable_lock
from unrelu.runtime.work_clock import standing_still

try:
    import cloudpickle
    import jax
    import jax.numpy as jnp
    from jax.extend.core import jaxpr_as_fun

    from unrelu.loaders._jaxpr_reading import as_torch
except ImportError as error:
    raise MissingPackageError(f"from_jax needs packages ({error}): pip install jax cloudpickle", name="jax") from None

# Held while compiling: a process forked at that time would wait for the compiler forever.
_compiling = forkable_lock()
# By rounding, outputs in single and in double precision differ by less than this share of the largest one.
_ROUNDING = 0.01


@computing()
def from_jax(
    function: Callable[..., Any],
    latent_shape: int | tuple[int, ...] | None = None,
    *,
    bounds: Mapping[str, Any] | None = None,
    output: Output = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    r"""Read a function of JAX of one code, :math:`G: R^k \to R^n`, as a network.

    A chain of layers is read from what JAX traces, and computed without JAX from then on. Anything else is evaluated by
    JAX, which maps the function over batches, differentiates and compiles it; the trial of
    :func:`~unrelu.from_torch` comes first. It is evaluated in double precision, whatever ``jax_enable_x64`` is, or as
    JAX is configured if it does not take that, as with weights in single precision in convolutions.

    JAX compiles for each of few sizes of batches, once; clocks of time limits stand still meanwhile. It computes
    without the GIL, in threads of its own, which settings of PyTorch or OpenMP do not limit. A forked process must not
    call it; worker processes of :func:`unrelu.run` are fresh ones, to which the function is sent by cloudpickle.

    Args:
        function: of one code of shape ``latent_shape`` to one array, such as ``lambda z: model.apply(weights, z)``, or
            an Equinox model itself.
        latent_shape: shape of one code; an integer k means (k,).
        bounds, output: those of :func:`~unrelu.from_torch`; with ``bounds``, the function takes a vector (k,).

    Raises:
        OptionError: ``output`` has a wrong type, or ``latent_shape`` and ``bounds`` do not fit together.
        InputError: ``bounds`` are not pairs of increasing numbers by name.
        UnsupportedModelError: JAX cannot trace or differentiate it, or it does not return one array of finite numbers.
        ModelError: it is no function, or ``latent_shape`` is needed.
        MissingPackageError: JAX or cloudpickle is not installed.

    >>> import jax.numpy as jnp, unrelu
    >>> net = unrelu.from_jax(lambda p: p[0] * jnp.cos(jnp.arange(3) * p[1]), bounds={"a": (1, 2), "w": (0.5, 1)})
    >>> unrelu.invert(net, net([1.5, 0.8])).parameters
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
        network = replace(network, width=max(network.width, traced.width))
    return with_names(network, call, names)


class JaxFunction:
    """A function of JAX of one code, called by PyTorch with batches, which PyTorch can map and differentiate once.

    Args:
        function: from one code to an array, or to a structure of arrays.
        shape: the shape of one code.
        call: which of its outputs is used.
        double: whether it is evaluated in double precision; if not, as JAX is configured.
    """

    def __init__(self, function: Callable[..., Any], shape: Shape, call: GeneratorCall, double: bool) -> None:
        self._given = function, shape, call, double
        self.shape, self.dtype = shape, torch.float64 if double else torch.float32
        self.title = str(getattr(function, "__name__", type(function).__name__))
        self._compiled: dict[Any, Callable[..., Any]] = {}

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
        self.width = max(math.prod(v.aval.shape) for eqn in self.program.eqns for v in eqn.outvars)

    def __reduce__(self) -> Any:
        return _unpickled, (cloudpickle.dumps(self._given),)

    def precision(self) -> AbstractContextManager[Any]:
        """The precision of JAX within, for this thread."""
        return jax.enable_x64(True) if self.dtype == torch.float64 else nullcontext()

    def __call__(self, z: Tensor) -> Tensor:
        """Outputs (B, *output_shape) for codes (B, *shape)."""
        if z.dtype != self.dtype:
            raise TypeError(f"{self.title} takes codes of type {self.dtype}, not {z.dtype}")
        x: Tensor = _Batch.apply(self, "values", z.flatten(1))  # type: ignore[no-untyped-call]
        return x.reshape(-1, *self.output_shape)

    def batch(self, kind: str, *rows: Tensor) -> Tensor:
        """G(z), (B, n), for codes (B, k); or "push", J t for t (B, m, k); or "pull", J^T v for v (B, m, n)."""
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
            x = self._compiled[key](*arrays)
        # On the CPU, the memory is shared.
        return torch.from_dlpack(x if x.device.platform == "cpu" else np.array(x))[:count].to(device)  # type: ignore[attr-defined, no-any-return]

    def _values(self, z: Any) -> Any:
        return jaxpr_as_fun(self.program)(z.reshape(self.shape))[0].ravel()

    def _push(self, z: Any, vectors: Any) -> Any:
        return jax.vmap(lambda t: jax.jvp(self._values, (z,), (t,))[1])(vectors)

    def _pull(self, z: Any, vectors: Any) -> Any:
        return jax.vmap(jax.vjp(self._values, z)[1])(vectors)[0]


def _unpickled(content: bytes) -> JaxFunction:
    return JaxFunction(*cloudpickle.loads(content))


class _Batch(torch.autograd.Function):
    """``apply(function, kind, *rows)`` is :meth:`JaxFunction.batch` for PyTorch, also under ``torch.func``."""

    @staticmethod
    def forward(function: JaxFunction, kind: str, *rows: Tensor) -> Tensor:
        return function.batch(kind, *rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.function, kind, z, *_ = inputs
        if kind != "values":  # there are no second derivatives
            ctx.mark_non_differentiable(output)
        ctx.save_for_backward(z)
        ctx.save_for_forward(z)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        return None, None, _Batch.apply(ctx.function, "pull", *ctx.saved_tensors, v[:, None])[:, 0]  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, _function: None, _kind: None, t: Tensor) -> Any:
        return _Batch.apply(ctx.function, "push", *ctx.saved_tensors, t[:, None])[:, 0]  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], function: JaxFunction, kind: str, *rows: Tensor) -> Any:
        """Several vectors at the same codes, or all batches as one."""
        n = info.batch_size
        if kind != "values" and axes[2] is None:
            z, vectors = rows[0], rows[1].movedim(axes[3] or 0, 1)  # (B, n, m, ...)
            x: Tensor = _Batch.apply(function, kind, z, vectors.flatten(1, 2))  # type: ignore[no-untyped-call]
            return x.unflatten(1, (n, -1)), 1
        each = zip(rows, axes[2:], strict=True)
        whole = (x.expand(n, *x.shape) if axis is None else x.movedim(axis, 0) for x, axis in each)
        x = _Batch.apply(function, kind, *(x.flatten(0, 1) for x in whole))  # type: ignore[no-untyped-call]
        return x.unflatten(0, (n, -1)), 0


def _in_its_precision(function: Callable[..., Any], shape: Shape, call: GeneratorCall, codes: Tensor) -> JaxFunction:
    """The function in double precision, or as JAX is configured if it does not take that, or is another one there.

    Raises:
        UnsupportedModelError: JAX cannot trace it, or it does not return one array of real numbers.
    """
    enabled = bool(jax.config.jax_enable_x64)
    try:
        own = JaxFunction(function, shape, call, double=enabled)
    except UnreluError:
        raise
    except Exception as error:  # the user's function runs here
        raise UnsupportedModelError(_refused(error, shape)) from error
    with suppress(Exception):
        double = own if enabled else JaxFunction(function, shape, call, double=True)
        # Random numbers that it draws with a key of its own are others in double precision.
        x, rounded = double(codes), own(codes.to(own.dtype)).double()
        return own if ((x - rounded).abs() > _ROUNDING * rounded.abs().max()).any() else double
    return own


def _refused(error: Exception, shape: Shape) -> str:
    said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.ConcretizationTypeError):
        return (
            f"it decides by numbers that depend on the code, or gives them to NumPy or Python, and JAX cannot trace "
            f"that ({said}); use jax.numpy, jnp.where and jax.lax.cond"
        )
    return (
        f"for one code of shape {shape} it raises {said}. JAX batches the function; of one that takes batches, pass "
        "lambda z: function(z[None])[0]"
    )

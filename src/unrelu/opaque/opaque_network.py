"""A generator that is not a chain of layers: it can only be evaluated and differentiated."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.overrides import TorchFunctionMode

from unrelu.errors import UnsupportedModelError
from unrelu.models.activations import Activation
from unrelu.models.generator import Generator, by, evaluation_lines
from unrelu.models.network import Network
from unrelu.models.rounding_error import Rounding
from unrelu.opaque.torch_callables import frozen, replica
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Shape
from unrelu.runtime.host import Shared, computing, forkable_lock
from unrelu.runtime.memory_limits import TANGENT_BYTES, at_once

# Up to this number of outputs times the size of the largest tensor, the overhead of PyTorch calls dominates the cost of
# a Jacobian: for 200 Runge-Kutta steps, it takes 120 ms in reverse mode and 880 ms in forward mode.
_SMALL_JACOBIAN = 4096
# A replacement for phi(u): a function of the index of the call within one evaluation, u, and phi.
Substitute = Callable[[int, Tensor, Activation], Tensor]

# The names of PyTorch's rectifiers; in-place versions end in an underscore.
_RECTIFIERS = ("relu", "leaky_relu")
# PyTorch's default slope of a LeakyReLU.
_SLOPE = 0.01


@dataclass(frozen=True, eq=False, repr=False)
class OpaqueNetwork(Generator):
    r"""A differentiable generator G: R^k -> R^n whose layers are not known, as made by :func:`unrelu.from_torch`.

    The Jacobian comes from forward-mode differentiation (``torch.func.jvp``), with one tangent for each direction:

    .. math:: J e_i = \frac{d}{dt} G(z + t e_i) \Big|_{t=0}.

    All k tangents are pushed forward at once (``torch.func.vmap``), while G(z) is computed once. If PyTorch lacks a
    forward-mode formula, J is assembled row by row from n reverse passes instead, at about n / k times the work.
    Attention is computed by its formula, because PyTorch's fused kernels have no forward-mode derivative.

    Args:
        module: the generator, frozen, in evaluation mode, in ``dtype`` on ``device``. It maps (B, \*latent_shape) to
            (B, \*output_shape), each code independently. It is not copied: pass a copy.
        latent_shape: shape of one latent code.
        reason: why it is not a chain of layers, with the name of the node that breaks the chain.
        output_shape: shape of one output.
        width: the size of the largest tensor in the evaluation of one code.
        forward_mode: whether PyTorch has forward-mode derivatives for all operations of the module.
        dtype, device: precision and device of the evaluation; float64 on the CPU unless :meth:`to` was called.
        rounding, domain: see :class:`~unrelu.Generator`.
        substitute: a function that replaces each call of a rectifier; None leaves them unchanged.

    Raises:
        AttributeError: on access to ``layers``.

    Source: Griewank and Walther, "Evaluating Derivatives" (2008), chapter 3.
    """

    module: nn.Module = field(repr=False)
    latent_shape: Shape
    reason: str
    output_shape: Shape
    width: int
    forward_mode: bool = True
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rounding: Rounding | None = field(default=None, kw_only=True)
    domain: Bounds | None = field(default=None, kw_only=True)
    substitute: Substitute | None = field(default=None, kw_only=True, repr=False)

    @property
    def layers(self) -> NoReturn:
        """Raise an AttributeError that says why the layers are not known."""
        raise AttributeError(f"an OpaqueNetwork has no layers: {self.reason}")

    @computing()
    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> OpaqueNetwork:
        dtype, device = self._place(dtype, device)
        return replace(self, module=frozen(self.module, dtype, device), dtype=dtype, device=device)

    def forward(self, z: Tensor) -> Tensor:
        """Compute G(z) as (B, n) for z of shape (B, k), differentiable by PyTorch; NaN where z is not finite."""
        # A module may raise an error for NaN. Observations that the search has not reached yet have NaN codes.
        known = z.isfinite().all(dim=1, keepdim=True)
        with plain_attention():
            x = self._flat(torch.where(known, z, torch.zeros_like(z)), self._fast)
        # Weights in a function may require gradients. Detached tensors have no forward-mode derivative.
        x = x.detach() if x.requires_grad and not z.requires_grad else x
        return torch.where(known, x, torch.full_like(x, torch.nan))

    def linearize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.check_size()
        return self.along(z, torch.eye(self.latent_dim, dtype=z.dtype, device=z.device).expand(len(z), -1, -1))

    def push(self, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute G(z) as (B, n) and J d for m directions d, as (B, m, n), by forward-mode differentiation.

        Args:
            z: codes, (B, k).
            directions: (m, B, k), or (m, 1, k) for the same directions at all codes.

        Raises:
            NotImplementedError, RuntimeError: PyTorch has no forward-mode formula for an operation of the module.
        """

        def along(direction: Tensor) -> Any:
            return torch.func.jvp(function, (z,), (direction.expand_as(z),))

        function = partial(self._flat, module=self._running)
        together = at_once(TANGENT_BYTES, self.dtype.itemsize * self.width * len(z), self.device)
        with torch.no_grad(), plain_attention(), _forward_mode, _Normalisations():
            _load_formulas()
            parts = [torch.func.vmap(along, out_dims=(0, 1))(part) for part in torch.split(directions, together)]
        # Only tangents differ between directions, so x is the same for all.
        return parts[0][0][0], torch.cat([tangents for _, tangents in parts], dim=1)

    def along(self, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute G(z), (B, n), and J d for m directions d of each code, (B, m, k) -> (B, m, n), in the supported mode.

        If outputs are few and tensors small, one reverse pass for all outputs is faster.
        """
        if self.output_dim * self.width <= _SMALL_JACOBIAN:
            with suppress(RuntimeError):  # an operation may have no derivative for several outputs at once
                return self._pull(z, directions, together=True)
        if self.forward_mode:
            with suppress(NotImplementedError):  # in this precision, an operation may have no forward-mode formula
                return self.push(z, directions.transpose(0, 1))
        return self._pull(z, directions, together=False)

    def _pull(self, z: Tensor, directions: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        """Do the work of :meth:`along` in reverse mode, for all outputs together or one after another."""
        with plain_attention(), torch.enable_grad():
            codes = z.detach().requires_grad_(True)
            x = self._flat(codes, self._running)
            # Each output depends on its own code only, so a sum over the batch keeps the gradients apart.
            each = torch.eye(self.output_dim, dtype=x.dtype, device=x.device)[:, None].expand(-1, *x.shape)
            if together:
                (rows,) = torch.autograd.grad(x, codes, each, is_grads_batched=True)
            else:
                rows = torch.stack([torch.autograd.grad(x, codes, one, retain_graph=True)[0] for one in each])
        return x.detach(), directions @ rows.permute(1, 2, 0)

    def smoothed(self, share: float, codes: Tensor | None = None) -> OpaqueNetwork:
        """See :meth:`Generator.smoothed`; the size of each rectifier call is the root mean square of max(u, 0).

        Some modules process one code at a time by ``torch.func.vmap``; sizes cannot be measured within it.
        """
        z, fast = self.as_codes(self.typical_codes) if codes is None else codes, self._fast  # made before the calls
        sizes: list[float] = []

        def measure(call: int, u: Tensor, activation: Activation) -> Tensor:
            sizes.append(float(torch.relu(u).square().mean().sqrt()))  # a RuntimeError within vmap
            return activation.forward(u)

        def smooth(call: int, u: Tensor, activation: Activation) -> Tensor:
            if call >= len(sizes) or not sizes[call]:
                return activation.forward(u)
            # The derivative is one product here; PyTorch would differentiate seven operations.
            smoothed, at = activation.smoothed(share * sizes[call]), u.detach()
            x = smoothed.forward(at)
            return (u - at) * smoothed.derivative(at, x) + x

        with torch.no_grad(), suppress(RuntimeError), RectifierCalls(measure):
            self._flat(z, fast)
            if any(sizes):
                other = replace(self, substitute=smooth)
                vars(other).update(_running=self._running, _fast=fast)  # the same weights in memory
                return other
        return self

    def _flat(self, z: Tensor, module: nn.Module) -> Tensor:
        with nullcontext() if self.substitute is None else RectifierCalls(self.substitute):
            # A clone, as the module may change its input in place.
            x: Tensor = module(z.reshape(len(z), *self.latent_shape).clone())
        return x.reshape(len(z), self.output_dim).to(z.dtype)

    @cached_property
    def _running(self) -> nn.Module:
        """The copy of ``module`` that is run, as a forward pass may change a module."""
        return replica(self.module)

    @cached_property
    def _fast(self) -> nn.Module:
        """The faster copy, for calls without forward-mode derivatives.

        Convolutions in single precision are up to twice as fast with the channels last in memory, if the module runs in
        this layout. Some of PyTorch's forward-mode formulas do not, because they use ``view``.
        """
        kernels = any(parameter.ndim == 4 for parameter in self.module.parameters())
        if self.dtype == torch.float32 and self.device.type == "cpu" and kernels:
            module: Any = frozen(self.module, self.dtype, self.device)
            module.to(memory_format=torch.channels_last)
            with suppress(RuntimeError), torch.no_grad():
                module(torch.zeros(2, *self.latent_shape, dtype=self.dtype))
                return cast(nn.Module, module)
        return self._running

    def __str__(self) -> str:
        mode = "forward-mode" if self.forward_mode else "reverse-mode"
        name = getattr(self.module, "title", type(self.module).__name__)
        return (
            f"OpaqueNetwork {by(self.latent_shape)} -> {by(self.output_shape)}: {name}, {mode} Jacobian\n"
            f"  no chain of layers: {self.reason}{evaluation_lines(self)}"
        )


def as_chain(network: Generator, method: str) -> Network:
    """Return the network if it is a chain of layers; else raise an UnsupportedModelError that says why it is not."""
    if isinstance(network, Network):
        return network
    raise UnsupportedModelError(
        f"{unchained(network)}; method={method!r} needs a chain of layers, use method='auto' or 'lm'"
    )


def unchained(network: Generator) -> str | None:
    """Say why the network is not a chain of layers; return None if it is one."""
    if isinstance(network, Network):
        return None
    return str(getattr(network, "reason", f"a {type(network).__name__} has no layers"))


# --- rectifiers inside ------------------------------------------------------------------------------------------------
#
# PyTorch passes every call of its functions to a mode, wherever the module makes it. So calls of ReLU and LeakyReLU can
# be counted and replaced. Calls within a torch.jit program do not reach the mode.


class RectifierCalls(TorchFunctionMode):
    """A mode that replaces each call of ReLU and LeakyReLU by a substitute, for one evaluation."""

    def __init__(self, substitute: Substitute) -> None:
        super().__init__()
        self._substitute, self._count = substitute, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a PyTorch function, or the substitute if it is a rectifier."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "").removesuffix(".default")
        if name.removesuffix("_") not in _RECTIFIERS:
            return func(*args, **kwargs)
        u, *others = args or [kwargs.get("input", kwargs.get("self"))]
        slope = 0.0
        if name.startswith("leaky"):
            slope = others.pop(0) if others else kwargs.get("negative_slope", _SLOPE)
        changed = name.endswith("_") or (others[0] if others else kwargs.get("inplace", False))
        x = self._substitute(self._count, u.clone() if changed else u, Activation.of_slope(slope))
        self._count += 1
        return u.copy_(x) if changed else x


# --- PyTorch's derivatives -----------------------------------------------------------------------------------------


@cache
def _load_formulas() -> None:
    """Compile PyTorch's forward-mode formulas. PyTorch warns here about its own use of a deprecated function."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")  # its category depends on the version of PyTorch
        one = torch.ones(1)
        torch.func.jvp(torch.neg, (one,), (one,))


class _Normalisations(TorchFunctionMode):
    """A mode that makes the input of group normalisation contiguous: PyTorch's forward-mode formula uses ``view``.

    The output of attention between pixels, for example, has its channels last.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a PyTorch function; PyTorch calls this method instead of the function."""
        if func in (nn.functional.group_norm, torch.group_norm):
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch fused attention off in the whole process.

    ``torch.nn.attention.sdpa_kernel`` is not used: from PyTorch 2.15 on, the thread that enters it must also leave it.
    """
    kernels = torch.backends.cuda  # these switches hold for the CPU as well
    switches: tuple[tuple[Callable[[], bool], Callable[[bool], Any], bool], ...] = (
        (mha.get_fastpath_enabled, mha.set_fastpath_enabled, False),
        (kernels.flash_sdp_enabled, kernels.enable_flash_sdp, False),
        (kernels.mem_efficient_sdp_enabled, kernels.enable_mem_efficient_sdp, False),
        (kernels.cudnn_sdp_enabled, kernels.enable_cudnn_sdp, False),
        (kernels.math_sdp_enabled, kernels.enable_math_sdp, True),
    )
    before = [enabled() for enabled, _, _ in switches]
    try:
        for _, enable, wanted in switches:
            enable(wanted)
        yield
    finally:
        for (_, enable, _), value in zip(switches, before, strict=True):
            enable(value)


plain_attention = Shared(_plain_attention)
# Lets one thread in at a time, because the whole process shares the levels of forward mode.
_forward_mode = forkable_lock()

"""Make an opaque generator, or a part of one, from a PyTorch module or function after a trial that it works."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from unrelu.errors import HostError, UnsupportedModelError
from unrelu.models.affine import check_finite
from unrelu.models.watched_operations import Operations, tensors
from unrelu.opaque.opaque_network import OpaqueNetwork, plain_attention
from unrelu.opaque.output_comparison import difference
from unrelu.opaque.torch_callables import as_module, described, evaluated, frozen, outputs, replica
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Array, Shape
from unrelu.runtime.file_reading import shown_size
from unrelu.runtime.machine import total_memory
from unrelu.runtime.streams import stream

# Outputs that should be equal may differ by this share of the largest: a module may use float32 inside.
_SAME = 1e-5
# Derivatives must agree with central differences for one of the steps, up to this share of the largest. Long steps have
# errors from curvature and kinks, short steps from rounding.
_CLOSE = 1e-3
_STEPS = (1e-6, 1e-8, 1e-4, 1e-3, 1e-2)
# Measure the memory of a gradient only if weights times coordinates reach this number: for the meta device, PyTorch
# loads its compiler, which takes a second or more. Gradients of smaller generators take some 50 MB.
_LARGE = 10**9
# How many codes are tried, since one may be close to a kink by chance, and the relative change of coordinates between
# tries. Each coordinate changes by its own factor: without biases, multiples of a code are close to the same kinks.
_TRIALS, _CHANGE = 4, 0.1
# Advice for generators that draw random numbers.
_FIX_DRAWS = (
    "draw them once, before the call, and pass them: as an input, inputs={'noise': noise}, or in a function, lambda z: "
    "module(z, noise). Of a module in training mode, call module.eval() first"
)


def opaque(
    module: nn.Module, latent_shape: Shape, reason: str, device: torch.device | None = None,
    domain: Bounds | None = None,
) -> OpaqueNetwork:  # fmt: skip
    """Make an opaque generator from a module after a trial at two codes by :func:`tried`.

    Args:
        module: a module, which is copied to double precision, or a function; see
            :func:`~unrelu.opaque.torch_callables.evaluated`.
        latent_shape: shape of one code.
        reason: why it is not a chain of layers.
        device: the device of the codes passed to a function; None is the CPU.
        domain: see :class:`~unrelu.Generator`.

    Raises:
        UnsupportedModelError: the trial failed; the message contains ``reason`` as well.
        ModelError: weights are not finite.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.layout is torch.strided:  # attention masks are infinite on purpose
            check_finite(tensor if isinstance(tensor, nn.Parameter) else tensor.nan_to_num(torch.nan, 0, 0), repr(name))
    try:
        network = tried(module, trial_codes(latent_shape, domain).to(device), reason, domain=domain)
        if where := difference(network, replica(network.module), network.device):
            raise UnsupportedModelError(f"it does not take each code alone: {where}")
        return network
    except UnsupportedModelError as error:
        if str(error) in reason:  # it cannot be run
            raise UnsupportedModelError(reason) from error
        raise UnsupportedModelError(f"{reason}; as a generator without known layers it fails too: {error}") from error


def trial_codes(latent_shape: Shape, domain: Bounds | None = None) -> Tensor:
    """Draw two codes, (2, *latent_shape), within the domain."""
    z = stream("trial codes").standard_normal((1, int(np.prod(latent_shape))))
    # The codes have opposite signs, so a module that branches on the sum of a batch behaves differently for each alone.
    codes = np.concatenate([z, -0.7 * z])
    return torch.from_numpy(codes if domain is None else domain.trial()[0].of_normal(codes)).reshape(2, *latent_shape)


def check_memory(module: nn.Module, codes: Tensor) -> None:
    """Raise a HostError if the gradient of a module does not fit into the memory of this machine."""
    if sum(p.numel() for p in module.parameters()) * codes[0].numel() < _LARGE:
        return
    needed, memory = gradient_memory(module, codes), total_memory(codes.device)
    if needed > memory:
        raise HostError(
            f"the gradient at one code of shape {tuple(codes.shape[1:])} takes {shown_size(needed)} in double "
            f"precision, and this machine has {shown_size(memory)} of memory; use a smaller latent_shape=, or a larger "
            "machine"
        )


def gradient_memory(module: nn.Module, codes: Tensor) -> int:
    """Return the bytes of a module's weights plus the tensors that PyTorch saves for the gradient at one code.

    The codes set the precision. The module runs on the meta device, where tensors have shapes but take no memory; the
    result is 0 if it cannot run there. Tensors that do not depend on the code cancel in a difference.
    """

    def kept(meta: nn.Module, z: Tensor) -> int:
        found: dict[StorageWeakRef, Tensor] = {}

        def keep(x: Tensor) -> Tensor:
            return found.setdefault(StorageWeakRef(x.untyped_storage()), x)

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            meta(z.to("meta").requires_grad_())
        return sum(x.untyped_storage().nbytes() for x in found.values())

    with suppress(Exception), torch.random.fork_rng(devices=[]), plain_attention():  # the user's forward runs here
        meta = frozen(module, codes.dtype, torch.device("meta")).eval()
        return kept(meta, codes[:2]) - kept(meta, codes[:1]) + sum(p.nbytes for p in meta.parameters())
    return 0


# --- the trial --------------------------------------------------------------------------------------------------------


def tried(
    function: Callable[..., Any], z: Tensor, reason: str, lengths: Tensor | float = 1.0, what: str = "generator",
    domain: Bounds | None = None,
) -> OpaqueNetwork:  # fmt: skip
    """Try a module or function at z, (2, ...), and return it as an opaque network if it passes.

    Copies of modules are run, because they may store what they compute.

    Args:
        function: the module or function.
        z: two inputs for the trial.
        reason: why it is not a chain of layers.
        lengths: scales of the entries of test directions for derivatives, (2, k) or one for all.
        what: the word for the function in messages.
        domain: see :class:`~unrelu.Generator`.

    Raises:
        UnsupportedModelError: the results are not one finite real tensor for each input, change between calls or depend
            on other inputs of the batch, or derivatives do not agree with finite differences.
    """
    module = evaluated(function if isinstance(function, nn.Module) else as_module(function), z)
    trial = replica(module)
    x = _consistent(trial, z, what)
    width = max(_width(trial, z), z[0].numel(), x[0].numel())
    network = OpaqueNetwork(
        module, tuple(z.shape[1:]), reason, tuple(x.shape[1:]), width, device=z.device, domain=domain
    )
    if domain is not None:
        lengths = torch.from_numpy(domain.trial()[1]).to(z.device)
    return _differentiated(network, z.flatten(1), lengths)


def _consistent(module: nn.Module, z: Tensor, what: str) -> Tensor:
    """Return the outputs after a check that they are repeatable and that each depends only on its own input."""
    generator = torch.random.get_rng_state()
    x = _output(module, z, what)
    if not torch.equal(generator, torch.random.get_rng_state()):
        raise UnsupportedModelError(f"it draws random numbers; a {what} must be deterministic; {_FIX_DRAWS}")
    if not _equal(x, _output(module, z, what)):
        raise UnsupportedModelError(f"a second evaluation gives another output; a {what} must be deterministic")
    if not all(_equal(x[i : i + 1], _output(module, row, what)) for i, row in enumerate(torch.split(z, 1))):
        raise UnsupportedModelError("an input has another output alone than in a batch; each must depend on its own")
    if torch.equal(x[0], x[1]):
        raise UnsupportedModelError("two random inputs have the same output; it does not depend on the input")
    return x


def _output(module: Callable[[Tensor], Any], z: Tensor, what: str) -> Tensor:
    """Return the module's output after a check that it is one finite real tensor with one entry per input."""
    shape = tuple(z.shape)
    try:
        with torch.no_grad():
            x = module(z.clone())
    except UnsupportedModelError:  # the chosen output does not exist
        raise
    except Exception as error:  # the user's forward runs here
        raise UnsupportedModelError(raised(error, shape)) from error
    if not isinstance(x, Tensor):
        found = outputs(x) if what == "generator" else []
        keys = [key for key, value in found if value.dim() and len(value) == len(z)] or [key for key, _ in found[:1]]
        call = f"; say which: unrelu.from_torch(module, latent_shape={shape[1:]}, output={keys[0]!r})" if keys else ""
        several = f"; or all of them as named parts, output={keys}" if len(keys) > 1 else ""
        if isinstance(getattr(getattr(module, "body", module), "decoder", None), torch.nn.Module):
            several += "; or, of an autoencoder, its decoder: unrelu.from_torch(module.decoder)"
        raise UnsupportedModelError(
            f"for {len(z)} inputs it returns {described(x)}; a {what} returns one tensor{call}{several}"
        )
    if x.is_meta or x.layout is not torch.strided or not x.is_floating_point():
        kind = "meta" if x.is_meta else f"{x.dtype}, {x.layout}"
        raise UnsupportedModelError(f"it returns a tensor of kind {kind}; a {what} returns a dense one of real numbers")
    if x.dim() == 0 or len(x) != len(z) or not x.numel():
        raise UnsupportedModelError(
            f"it maps inputs of shape {shape} to a tensor of shape {tuple(x.shape)}; the batch axis must stay the first"
        )
    if not x.isfinite().all():
        source = "codes drawn from N(0, I)" if what == "generator" else "outputs of the generator"
        raise UnsupportedModelError(f"it maps {source} to NaN or infinite numbers")
    return x


def raised(error: Exception, shape: Shape) -> str:
    """Return a message for an error raised by the user's function; a TypeError may mean a missing input."""
    further = "; further inputs are held fixed by inputs={'name': tensor}" if isinstance(error, TypeError) else ""
    return f"for float64 inputs of shape {shape} it raises {type(error).__name__}: {error}{further}"


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= _SAME * float(a.abs().max())


def longest(x: Array) -> Tensor:
    """Return the two outputs with the largest norms from (B, n), for the trial of a function of outputs."""
    rows = torch.tensor(x)
    return rows[rows.norm(dim=1).argsort(descending=True)[:2]]


def _width(module: nn.Module, z: Tensor) -> int:
    """Measure the size per code of the largest tensor that the module computes.

    Sizes are compared between two batch sizes; tensors that do not depend on the code cancel in the difference.
    """

    def sizes(codes: Tensor) -> list[int]:
        found: list[int] = []
        with torch.no_grad(), Operations(lambda *_, result: found.extend(x.numel() for x in tensors(result))):
            module(codes.clone())
        return found

    pairs = zip(sizes(z), sizes(torch.cat([z, z])), strict=False)
    return max(((b - a) // len(z) for a, b in pairs), default=0)


# --- derivatives ------------------------------------------------------------------------------------------------------


def _differentiated(network: OpaqueNetwork, z: Tensor, lengths: Tensor | float) -> OpaqueNetwork:
    """Find the differentiation mode that works; try a few codes until one has no kink nearby."""
    rng = stream("trial changes")
    for _ in range(_TRIALS - 1):
        with suppress(UnsupportedModelError):
            return _differentiated_at(network, z, lengths)
        z = z * torch.from_numpy(1 + _CHANGE * rng.uniform(-1, 1, z.shape)).to(z.device)
        if network.domain is not None:
            z = z.clamp(*(torch.from_numpy(end).to(z.device) for end in network.domain.trial()[0].ends))
    return _differentiated_at(network, z, lengths)


def _differentiated_at(network: OpaqueNetwork, z: Tensor, lengths: Tensor | float) -> OpaqueNetwork:
    """Find the differentiation mode that works at codes z by comparison with finite differences.

    For directions d and weights v, forward mode gives J d, reverse mode gives J^T v, and v . J d = J^T v . d.
    """
    rng = stream("trial directions")
    d = torch.from_numpy(rng.standard_normal((2, 1, z.shape[1]))).to(z.device) * lengths
    v = torch.from_numpy(rng.standard_normal((len(z), network.output_dim))).to(z.device)
    pulled = (_gradient(network, z, v) * d[0]).sum(dim=1)
    steps = ((h, h * d[0]) for h in _STEPS)
    slopes = ((network.forward(z + step) - network.forward(z - step)) / (2 * h) for h, step in steps)
    try:
        along = network.push(z, d)[1][:, 0]
    # PyTorch does not document what it raises if it has no forward-mode formula.
    except Exception:
        size = pulled.abs().max()
        _agree((((s * v).sum(dim=1) - pulled), torch.maximum(size, s.norm() * v.norm())) for s in slopes)
        return replace(network, forward_mode=False)
    size = along.abs().max()
    _agree((s - along, torch.maximum(size, s.abs().max())) for s in slopes)
    _agree([((along * v).sum(dim=1) - pulled, along.norm() * v.norm())])
    return network


def _agree(errors: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Check that one of the (error, size) pairs has an error that is small relative to its size."""
    for error, size in errors:
        if error.abs().max() <= _CLOSE * size:
            if size:
                return
            break
    if not size:
        raise UnsupportedModelError("its derivative is zero at random inputs, though its output changes with them")
    raise UnsupportedModelError(
        f"its derivative is off by {float(error.abs().max() / size):.1g} of that of finite differences: rounding, "
        "detach() or no_grad() in forward hide it, or the output changes too fast at the codes tried, from N(0, I); "
        "wrap a module of codes in other units in one that takes standardised codes"
    )


def _gradient(network: OpaqueNetwork, z: Tensor, v: Tensor) -> Tensor:
    """Compute J^T v, (B, k), one code at a time, since gradients need the most memory."""
    try:
        with torch.enable_grad():
            codes = [row.clone().requires_grad_(True) for row in z.split(1)]
            values = ((network.forward(row) * u).sum() for row, u in zip(codes, v.split(1), strict=True))
            gradients = [torch.autograd.grad(value, row)[0] for value, row in zip(values, codes, strict=True)]
    except Exception as error:
        raise UnsupportedModelError(f"it cannot be differentiated: {type(error).__name__}: {error}") from error
    return torch.cat(gradients)

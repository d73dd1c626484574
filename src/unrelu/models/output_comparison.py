"""Whether a module has the outputs of the network that was read from it, at codes that reading has not seen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.models._watched_operations import Operations, tensors
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.streams import stream, torch_stream

# Batches in which outputs are compared: the number of codes, and whether gradients are enabled.
_RUNS = ((1, False), (1, True), (7, False), (7, True), (40, False), (40, True), (300, False))
# The first of them, which are compared whatever they cost, and the codes at which rounding errors are estimated.
_FEWEST, _FEW = 3, 40
# The most multiplications of all batches together; each number of the largest tensor counts for so many.
_MOST_WORK, _WORK_OF_NUMBER = 2 * 10**10, 1000
# Lengths of the codes of a chain in turn, in units of N(0, I).
_LENGTHS = (0.3, 1.0, 3.0, 10.0)
# Equal outputs in double precision may differ by this share of their size. Rounding errors add up to this share of
# it, and this one of the largest output.
EXACT = 1e-9
_MOST_ROUNDING, _ROUNDING_OF_LARGEST = 1e-5, 1e-12
# Errors that are put in are so many times the roundings. Those of a repeated evaluation must be a small share of them.
_ROUNDINGS, _REPEATED = 1000, 0.1


def difference(network: Generator, module: nn.Module, device: torch.device, share: float = EXACT) -> str | None:
    r"""Where the outputs of a module differ from those of the network that was read from it; None if they do not.

    They are compared in batches of 1, 7, 40 and 300 codes, with and without gradients. Batches beyond a budget of
    multiplications are left out. The codes of a chain have lengths of .3 to 10 times those of N(0, I), or fill the
    domain. An entry x_j may differ by :math:`s \max |x_j| + \min(\max |\delta_j|, r_j)`, with maxima over codes of one
    length. Here :math:`\delta` is the change of the module's output if each operation is off by up to a thousand
    roundings, at random, and r_j is :math:`10^{-5} \max |x_j| + 10^{-12} \max |x|`, more in lower precision.

    An opaque network is compared with itself, as each output must be a function of its code alone. In smaller batches,
    its outputs may differ by 1e-5 of the largest: the adaptive steps of a solver depend on the batch.

    Args:
        network: the network.
        module: what it was read from, as it is called.
        device: where the module is given its codes.
        share: s.

    Source: Parker, Pierce and Eggert, "Monte Carlo arithmetic" (2000).
    """
    lengths = _LENGTHS if isinstance(network, Network) else (1.0,)
    most = _MOST_WORK // max(1, network.work + _WORK_OF_NUMBER * network.width)
    sums = np.cumsum([size for size, _ in _RUNS])
    runs = [run for run, total in zip(_RUNS, sums, strict=True) if total <= most] or _RUNS[:_FEWEST]
    count = max(size for size, _ in runs)
    draws = stream("compared codes").standard_normal((count, network.latent_dim))
    z = torch.from_numpy(network.within(draws * np.resize(lengths, (count, 1))))

    def largest(x: Tensor) -> Tensor:
        """The largest size of each entry among codes of the same length, for each code."""
        sizes = [x[i :: len(lengths)].nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=0) for i in range(len(lengths))]
        return torch.stack(sizes)[torch.arange(count) % len(lengths)]

    def outputs(codes: Tensor, gradients: bool = False) -> Tensor:
        given = codes.reshape(-1, *network.latent_shape).to(device, copy=True).requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            x: Tensor = module(given.clone())  # which it may change in place
        return x.detach().to(codes).reshape(len(codes), network.output_dim)

    where = ""
    try:  # the user's forward runs here
        with torch.no_grad():
            x = network.forward(z.to(network.device)).to(z)
            size, reached = largest(x), torch.zeros_like(x)
            with suppress(Exception):  # it may refuse numbers that are slightly off
                (changed, eps), few = _with_errors(outputs, z), z[:_FEW]
                effect, repeated = largest(changed - outputs(z)), largest(outputs(few) - outputs(few))
                most = max(_MOST_ROUNDING, eps**0.5) * size + max(_ROUNDING_OF_LARGEST, 10 * eps) * size.max()
                reached = torch.where(repeated <= _REPEATED * effect, effect, 0.0).minimum(most)
            for batch, gradients in runs:
                where = f"in a batch of {batch}" + (" with gradients enabled" if gradients else "")
                found, wanted = outputs(z[:batch], gradients), x[:batch]
                off = torch.where(wanted.isfinite(), (found - wanted).abs(), 0.0)
                allowed = share * size[:batch] + reached[:batch]
                if not isinstance(network, Network) and (batch < count or gradients):
                    allowed = allowed + _MOST_ROUNDING * size.max()
                if not torch.equal(wanted.isfinite(), found.isfinite()) or (off > allowed).any():
                    return f"{where} they differ by up to {float(off.max()):.1g}, and are up to {float(size.max()):.1g}"
    except Exception as error:  # Python does not say what it raises
        return f"{where} it raises {type(error).__name__}: {error}"
    return None


def watched(function: Callable[[Tensor], Tensor], codes: Tensor, look: Callable[[Tensor], Any]) -> Tensor:
    """The outputs of a function; ``look`` is called with each new tensor of real numbers of the batch."""

    def each(operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        if not any(returned.alias_info for returned in operation._schema.returns):  # noqa: SLF001 -- its public name
            for x in tensors(result):
                if x.is_floating_point() and x.dim() and not len(x) % len(codes):
                    look(x)

    with torch.no_grad(), Operations(each):
        return function(codes)


def _with_errors(function: Callable[[Tensor], Tensor], codes: Tensor) -> tuple[Tensor, float]:
    """The outputs where all that is computed is off by random errors, and the coarsest rounding error inside."""
    rng, coarsest = torch_stream("rounding errors"), 0.0

    def change(x: Tensor) -> Tensor:
        nonlocal coarsest
        eps = torch.finfo(x.dtype).eps
        coarsest = max(coarsest, eps)
        errors = torch.empty(x.shape, dtype=torch.float64).uniform_(-1, 1, generator=rng).to(x.device)
        return x.copy_(x.double() * (1 + min(_ROUNDINGS * eps, eps**0.5) * errors))

    return watched(function, change(codes.clone()), change), coarsest

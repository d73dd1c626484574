"""Compare the outputs of a module and of the network read from it, at codes not used for reading."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.models.watched_operations import Operations, tensors
from unrelu.runtime.streams import stream, torch_stream

# The compared batches: the number of codes, and whether gradients are enabled. The first three are always compared.
_RUNS, _ALWAYS = ((1, False), (1, True), (7, False), (7, True), (40, False), (300, False)), 3
# The largest number of multiplications in all batches, and how many each entry of the largest tensor counts for.
_MOST_WORK, _WORK_OF_NUMBER = 5 * 10**9, 100
# Lengths of successive codes for a chain, relative to draws from N(0, I).
_LENGTHS = (0.3, 1.0, 3.0, 10.0)
# The relative difference allowed between equal outputs in double precision.
EXACT = 1e-9
# Rounding errors are estimated at 40 codes, from perturbations a thousand times as large.
_FEW, _ROUNDINGS = 40, 1000
# An estimate is at most 1e-5 of an output plus 1e-12 of the largest. Two evaluations may differ by a tenth of it.
_MOST_ROUNDING, _ROUNDING_OF_LARGEST, _REPEATED = 1e-5, 1e-12, 0.1


def difference(
    network: Generator, module: nn.Module, device: torch.device, share: float = EXACT, program: nn.Module | None = None
) -> str | None:
    """Say where the outputs of a module and of the network read from it differ; return None if they agree.

    The batches have 1, 7, 40 and 300 codes; the first two are also compared with gradients enabled. Batches beyond the
    work limit are left out. Codes of a chain are 0.3 to 10 times as long as draws from N(0, I), or fill the
    domain. The size of an entry is its largest value among codes of one length. An entry may differ by ``share`` of
    its size, plus the estimated rounding error of the module (:func:`_rounding`).

    An opaque network is compared with itself, as each output must be a function of its code alone. Its outputs may
    differ by 1e-5 between batches of different sizes: the adaptive steps of a solver depend on the batch.

    Args:
        network: the network.
        module: the module that the network was read from.
        device: the device of the codes passed to the module.
        share: the allowed relative difference.
        program: a PyTorch version of a module that another package computes; its rounding errors count, too.
    """
    lengths = _LENGTHS if isinstance(network, Network) else (1.0,)
    sums = np.cumsum([size for size, _ in _RUNS]) * (network.work + _WORK_OF_NUMBER * network.width)
    runs = _RUNS[: max(_ALWAYS, int((sums <= _MOST_WORK).sum()))]
    count = runs[-1][0]
    draws = stream("compared codes").standard_normal((count, network.latent_dim))
    z = torch.from_numpy(network.within(draws * np.resize(lengths, (count, 1))))

    def outputs(codes: Tensor, gradients: bool = False, module: nn.Module = module) -> Tensor:
        given = codes.reshape(-1, *network.latent_shape).to(device, copy=True).requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            x: Tensor = module(given.clone())  # the module may change its input in place
        return x.detach().to(codes).reshape(len(codes), network.output_dim)

    where = f"in a batch of {count}"
    try:  # the user's forward runs here
        with torch.no_grad():
            x = network.forward(z.to(network.device)).to(z)
        size = _sizes(x, len(lengths))
        rounding = _rounding(outputs, z[:_FEW], size)
        if program is not None:
            rounding = rounding.maximum(_rounding(partial(outputs, module=program), z[:_FEW], size))
        for batch, gradients in runs:
            where = f"in a batch of {batch}" + (" with gradients enabled" if gradients else "")
            found, wanted = outputs(z[:batch], gradients), x[:batch]
            solver = _MOST_ROUNDING * size.max() if len(lengths) == 1 and (batch < count or gradients) else 0.0
            allowed = (share * size + rounding + solver)[torch.arange(batch) % len(lengths)]
            off = torch.where(wanted.isfinite(), (found - wanted).abs(), 0.0)
            if not torch.equal(wanted.isfinite(), found.isfinite()) or (off > allowed).any():
                return f"{where} outputs of up to {float(size.max()):.1g} differ by up to {float(off.max()):.1g}"
    except Exception as error:  # Python does not say what it raises
        return f"{where} it raises {type(error).__name__}: {error}"
    return None


def _sizes(x: Tensor, groups: int) -> Tensor:
    """Return the largest absolute value of each entry, over rows i, i + groups, ... of x for group i, (groups, n)."""
    finite = x.nan_to_num(0.0, 0.0, 0.0).abs()
    return torch.stack([finite[i::groups].amax(dim=0) for i in range(groups)])


def _rounding(outputs: Callable[[Tensor], Tensor], codes: Tensor, size: Tensor) -> Tensor:
    """Estimate the accumulated rounding errors of outputs of these sizes, (groups, n), with a margin.

    Every tensor computed from the batch is perturbed at random by up to a thousand roundings. The relative changes of
    the outputs give the estimate. It is limited to 1e-5, or to the square root of the rounding error in lower
    precision. It is 0 for a function whose outputs change without perturbation.

    Source: Parker, Pierce and Eggert, "Monte Carlo arithmetic" (2000).
    """
    rng, eps = torch_stream("rounding errors"), 0.0

    def change(x: Tensor) -> Tensor:
        nonlocal eps
        own = torch.finfo(x.dtype).eps
        eps = max(eps, own)
        errors = torch.empty(x.shape, dtype=torch.float64).uniform_(-1, 1, generator=rng).to(x.device)
        return x.copy_(x.double() * (1 + min(_ROUNDINGS * own, own**0.5) * errors))

    with suppress(Exception):  # the user's forward may refuse numbers that are slightly off
        x = outputs(codes)
        effect, repeated, seen = (
            _sizes(each, len(size))
            for each in (watched(outputs, change(codes.clone()), change) - x, outputs(codes) - x, x)
        )
        effect = torch.where(repeated <= _REPEATED * effect, effect, 0.0)
        share = torch.where(seen > 0, effect / seen, 0.0)
        # Entries that are 0 at these codes, after a ReLU, get the largest share.
        reached = size * torch.where(seen > 0, share, share.amax(dim=1, keepdim=True))
        most = max(_MOST_ROUNDING, eps**0.5) * size + max(_ROUNDING_OF_LARGEST, 10 * eps) * size.max()
        return torch.maximum(reached, effect).minimum(most)
    return torch.zeros_like(size)


def watched(function: Callable[[Tensor], Tensor], codes: Tensor, look: Callable[[Tensor], Any]) -> Tensor:
    """Run a function and return its outputs; call ``look`` on each new real tensor that has the batch axis."""

    def each(operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        if not any(returned.alias_info for returned in operation._schema.returns):  # noqa: SLF001 -- its public name
            for x in tensors(result):
                if x.is_floating_point() and x.dim() and not len(x) % len(codes):
                    look(x)

    with torch.no_grad(), Operations(each):
        return function(codes)

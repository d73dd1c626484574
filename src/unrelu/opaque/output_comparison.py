"""Whether a module has the outputs of the network that was read from it, at codes that reading has not seen."""

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

# Batches that are compared: the number of codes, and whether gradients are enabled. The first are compared always.
_RUNS, _ALWAYS = ((1, False), (1, True), (7, False), (7, True), (40, False), (300, False)), 3
# The most multiplications of all batches together; each number of the largest tensor counts for so many.
_MOST_WORK, _WORK_OF_NUMBER = 5 * 10**9, 100
# Lengths of the codes of a chain in turn, in units of N(0, I).
_LENGTHS = (0.3, 1.0, 3.0, 10.0)
# Equal outputs in double precision may differ by this share of their size.
EXACT = 1e-9
# Rounding errors are estimated at 40 codes, from errors that are a thousand times as large.
_FEW, _ROUNDINGS = 40, 1000
# They add up to at most 1e-5 of an output, and 1e-12 of the largest. Between two evaluations there is a tenth of them.
_MOST_ROUNDING, _ROUNDING_OF_LARGEST, _REPEATED = 1e-5, 1e-12, 0.1


def difference(
    network: Generator, module: nn.Module, device: torch.device, share: float = EXACT, program: nn.Module | None = None
) -> str | None:
    """Where the outputs of a module differ from those of the network that was read from it; None if they do not.

    They are compared in batches of 1, 7, 40 and 300 codes, the first two also with gradients enabled. Batches beyond a
    budget of multiplications are left out. The codes of a chain have lengths of .3 to 10 times those of N(0, I), or
    fill the domain. An entry may differ by ``share`` of its size, which is its largest value among codes of one length,
    and by what rounding errors of the module add up to (:func:`_rounding`).

    An opaque network is compared with itself, as each output must be a function of its code alone. In other batches
    than the largest, its outputs may differ by 1e-5: the adaptive steps of a solver depend on the batch.

    Args:
        network: the network.
        module: what it was read from, as it is called.
        device: where the module is given its codes.
        share: see above.
        program: what was made of a module that PyTorch does not compute: its rounding errors count, too.
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
            x: Tensor = module(given.clone())  # which it may change in place
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
    """The largest absolute value of each entry, in rows i, i + groups, ... of x for each group i, (groups, n)."""
    finite = x.nan_to_num(0.0, 0.0, 0.0).abs()
    return torch.stack([finite[i::groups].amax(dim=0) for i in range(groups)])


def _rounding(outputs: Callable[[Tensor], Tensor], codes: Tensor, size: Tensor) -> Tensor:
    """What rounding errors add up to in outputs of these sizes, (groups, n), with a margin.

    All that is computed of the batch is made wrong by up to a thousand roundings, at random. The outputs then change by
    a share of their size. This is limited to 1e-5, in lower precision to the square root of its rounding error. It is
    0 for a function whose outputs change without this.

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
        # Entries that are 0 at these codes, behind a ReLU, count as the worst.
        reached = size * torch.where(seen > 0, share, share.amax(dim=1, keepdim=True))
        most = max(_MOST_ROUNDING, eps**0.5) * size + max(_ROUNDING_OF_LARGEST, 10 * eps) * size.max()
        return torch.maximum(reached, effect).minimum(most)
    return torch.zeros_like(size)


def watched(function: Callable[[Tensor], Tensor], codes: Tensor, look: Callable[[Tensor], Any]) -> Tensor:
    """The outputs of a function; ``look`` is called with each new tensor of real numbers of the batch."""

    def each(operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        if not any(returned.alias_info for returned in operation._schema.returns):  # noqa: SLF001 -- its public name
            for x in tensors(result):
                if x.is_floating_point() and x.dim() and not len(x) % len(codes):
                    look(x)

    with torch.no_grad(), Operations(each):
        return function(codes)

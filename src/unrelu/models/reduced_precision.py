r"""The rounding of a module that computes in half precision or bfloat16, as a noise level of its outputs.

unrelu evaluates a module in double precision. The module itself rounds after every operation, so its own outputs are
:math:`x_{16} = G(z) + e`. With 8 or 11 bits, e is larger than any tolerance and often larger than the measurement
noise, so it is treated as noise. Its size is found by computing in double precision and rounding every result to the
module's type. Hardware that accumulates in single precision and stores in half precision does the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unrelu.models._rounding_error import Rounding
from unrelu.models._watched_operations import Operations, tensors
from unrelu.models.module_copies import in_double, replica
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork

_REDUCED = (torch.bfloat16, torch.float16)
# The stated level is this multiple of the largest error of the draws: errors of single outputs differ by less.
_MARGIN = 2.0


def with_rounding(network: Network | OpaqueNetwork, module: nn.Module) -> Network | OpaqueNetwork:
    """The network with the rounding error of its module, if the module has weights in reduced precision."""
    held = {tensor.dtype for tensor in module.state_dict().values() if isinstance(tensor, Tensor)}
    dtype = next((dtype for dtype in _REDUCED if dtype in held), None)  # the coarser of the two, if both are held
    if dtype is None:
        return network
    copy = in_double(module).eval()
    z = torch.from_numpy(network.typical_codes).reshape(-1, *network.latent_shape).to(dtype).double()

    def round_result(*_: Any, result: Any) -> None:
        for x in tensors(result):
            # Expanded tensors are views of numbers that have been rounded already.
            if x.dtype == torch.float64 and 0 not in x.stride():
                x.copy_(x.to(dtype).double())

    with torch.no_grad():
        exact = replica(copy)(z.clone())
        with Operations(round_result):
            rounded = replica(copy)(z.clone())
    errors = (rounded - exact).flatten(1).square().mean(dim=1).sqrt()
    level = _MARGIN * float(errors.max())
    return replace(network, rounding=Rounding(dtype, level)) if 0 < level < float("inf") else network

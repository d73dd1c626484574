r"""The rounding of a module that computes in half precision or bfloat16, as a noise level of its outputs.

unrelu evaluates a module in double precision. The module itself rounds after every operation, so its own outputs are
:math:`x_{16} = G(z) + e`. With 8 or 11 bits, e is larger than any tolerance and often larger than the measurement
noise, so it is treated as noise. Its size is that of the difference between both at typical codes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from unrelu.models._module_copies import replica
from unrelu.models._rounding_error import Rounding
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import FunctionModule, evaluated

_REDUCED = (torch.bfloat16, torch.float16)
# The stated level is this multiple of the largest error of the draws: errors of single outputs differ by less.
_MARGIN = 2.0


def with_rounding(network: Network | OpaqueNetwork, module: nn.Module) -> Network | OpaqueNetwork:
    """The network with the rounding error of its module, if the module computes in reduced precision."""
    z = torch.from_numpy(network.typical_codes).reshape(-1, *network.latent_shape).to(network.device)
    own = _in_reduced_precision(module, z)
    if own is None or own.dtype is None:
        return network
    z = z.to(own.dtype).to(network.device, torch.float64)
    level = 0.0
    with suppress(RuntimeError), torch.no_grad():  # PyTorch has no half precision for some functions on some devices
        errors = own(z).flatten(1) - network.forward(z.flatten(1))
        level = _MARGIN * float(errors.square().mean(dim=1).sqrt().max())
    return replace(network, rounding=Rounding(own.dtype, level)) if 0 < level < float("inf") else network


def _in_reduced_precision(module: nn.Module, z: Tensor) -> FunctionModule | None:
    """The module in its own precision, if that is a reduced one."""
    if any(isinstance(m, FunctionModule) for m in module.modules()):
        function = evaluated(module, z)
        return function if isinstance(function, FunctionModule) and function.dtype in _REDUCED else None
    held = {x.dtype: x.device for x in module.state_dict().values() if isinstance(x, Tensor)}
    dtype = next((dtype for dtype in _REDUCED if dtype in held), None)  # the coarser of the two, if both are held
    return None if dtype is None else FunctionModule(replica(module).eval(), dtype, held[dtype])

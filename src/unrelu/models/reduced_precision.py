r"""The rounding of a module that computes in half precision or bfloat16, as a noise level of its outputs.

A module is read in double precision, while what it computed itself is off by the rounding of every one of its
operations, :math:`x_{16} = G(z) + e`. With 8 or 11 bits nothing of that is below a tolerance: it is noise, and larger
than much of what is measured. Its size is found by computing in double precision with every result rounded to the
module's own type, as hardware does that accumulates in single precision and stores in half.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unrelu.models.generator import Operations, Rounding, tensors
from unrelu.models.module_copies import in_double, replica

_REDUCED = (torch.bfloat16, torch.float16)
# The stated level is this multiple of the largest that was seen: errors of single outputs differ by less than that.
_MARGIN = 2.0


def reduced_type(module: nn.Module) -> torch.dtype | None:
    """The reduced precision that a module has weights in, the coarser one of two; None of other modules."""
    found = {tensor.dtype for tensor in module.state_dict().values() if isinstance(tensor, Tensor)}
    return next((dtype for dtype in _REDUCED if dtype in found), None)


def rounding_of(module: nn.Module, dtype: torch.dtype, codes: Tensor) -> Rounding | None:
    """How far outputs of the module are off in this type; None where it cannot be computed so.

    Args:
        module: the generator; not changed.
        dtype: the type that it computes in.
        codes: typical codes, (B, *latent_shape).
    """
    copy = in_double(module).eval()
    z = codes.to(dtype).double()

    def round_result(*_: Any, result: Any) -> None:
        for x in tensors(result):
            # Expanded tensors are views of numbers that are rounded already.
            if x.dtype == torch.float64 and 0 not in x.stride():
                x.copy_(x.to(dtype).double())

    with torch.no_grad():
        exact = replica(copy)(z.clone())
        with Operations(round_result):
            rounded = replica(copy)(z.clone())
    errors = (rounded - exact).flatten(1).square().mean(dim=1).sqrt()
    level = _MARGIN * float(errors.max())
    return Rounding(dtype, level) if 0 < level < float("inf") else None

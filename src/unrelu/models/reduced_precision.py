r"""The rounding of a module that computes in half precision or bfloat16, as a noise level of its outputs.

A module is read in double precision, while what it computed itself is off by the rounding of every one of its
operations, :math:`x_{16} = G(z) + e`. With 8 or 11 bits nothing of that is below a tolerance: it is noise, and larger
than much of what is measured. Its size is found by computing in double precision with every result rounded to the
module's own type, as hardware does that accumulates in single precision and stores in half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from unrelu.models.module_copies import frozen, replica

Array = npt.NDArray[np.float64]
_REDUCED = (torch.bfloat16, torch.float16)
# The stated level is this multiple of the largest that was seen: errors of single outputs differ by less than that.
_MARGIN = 2.0


@dataclass(frozen=True)
class Rounding:
    """What the outputs of a module are off by, where it computes in reduced precision.

    Attributes:
        dtype: torch.float16 or torch.bfloat16.
        level: twice the largest root mean square of the error of an output, over 16 typical codes.
    """

    dtype: torch.dtype
    level: float

    @property
    def name(self) -> str:
        """The type in words."""
        return "half precision (float16)" if self.dtype == torch.float16 else "bfloat16"

    def stored(self, y: Array) -> bool:
        """Whether all entries are numbers of this type, and not all of them whole."""
        given = torch.tensor(y)
        return bool((given.to(self.dtype).double() == given).all()) and bool((given != given.round()).any())


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
    copy = frozen(module, torch.float64, torch.device("cpu")).eval()
    z = codes.to(dtype).double()
    with torch.no_grad():
        exact = replica(copy)(z.clone())
        with _Rounded(dtype):
            rounded = replica(copy)(z.clone())
    errors = (rounded - exact).flatten(1).square().mean(dim=1).sqrt()
    level = _MARGIN * float(errors.max())
    return Rounding(dtype, level) if 0 < level < float("inf") else None


class _Rounded(TorchDispatchMode):
    """Rounds the results of everything that PyTorch computes in double precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            # Expanded tensors are views of numbers that are rounded already.
            if isinstance(x, Tensor) and x.dtype == torch.float64 and 0 not in x.stride():
                x.copy_(x.to(self.own).double())
        return result

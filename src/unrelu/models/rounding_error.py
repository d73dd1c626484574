"""The rounding error of modules that compute in half precision, bfloat16 or 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unrelu.runtime.array_types import Array


@dataclass(frozen=True)
class Rounding:
    """The rounding error in the outputs of a module that computes at least partly in reduced precision.

    Attributes:
        dtype: the coarsest type in the module, such as torch.float16 or torch.bfloat16.
        level: twice the largest root mean square error of an output, among 16 typical codes.
    """

    dtype: torch.dtype
    level: float

    @property
    def name(self) -> str:
        """The name of the type in messages."""
        return "half precision (float16)" if self.dtype == torch.float16 else str(self.dtype).removeprefix("torch.")

    def stored(self, y: Array) -> bool:
        """Check whether all entries of y are representable in this type, and at least one is not an integer."""
        given = torch.tensor(y)
        return bool((given.to(self.dtype).double() == given).all()) and bool((given != given.round()).any())

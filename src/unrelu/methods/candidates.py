"""The best code of each observation in a search, and how often its objective was found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.methods.newton import DampedNewton, on_plateau

__all__ = ["Candidates"]

Array = npt.NDArray[np.float64]

# Objectives this close relative to each other are the same optimum, found again.
_SAME = 1e-2
# So are all below the rounding of outputs that are off by so many units of the precision: exact fits to it.
_UNITS = 20


class Candidates:
    """Best codes of a batch.

    Attributes:
        z, f: best code (B, k) and its misfit (B,), infinite before the first.
        gram: J^T J there, (B, k, k).
        found: how often the best misfit was found, (B,).
        steps: steps spent, (B,).
        size, zero: |y|^2 and the misfit that is rounding, (B,).
        double: the codes in double precision, (B, k); NaN before the first.
    """

    def __init__(self, y: Tensor, k: int) -> None:
        batch = len(y)
        self.size = y.square().sum(dim=1)
        self.zero = (_UNITS * torch.finfo(y.dtype).eps) ** 2 * self.size
        self.z, self.gram = y.new_zeros(batch, k), y.new_zeros(batch, k, k)
        self.f = y.new_full((batch,), torch.inf)
        self.counted = self.f.clone()  # the misfit that ``found`` began to count at
        self.found = torch.zeros(batch, dtype=torch.int64, device=y.device)
        self.steps = torch.zeros(batch, dtype=torch.int64, device=y.device)
        self.double = np.full((batch, k), np.nan)

    def add(self, state: DampedNewton, steps: Tensor, counts: bool = True) -> None:
        """Take the ends of some descents, several to an observation if need be; ``counts``: as optima that were found.

        Ends on a plateau, where the output does not change with the code, are no optima that could be found again: dead
        neurons bring many starts there.
        """
        self.steps.index_add_(0, state.rows, steps)
        known = torch.isfinite(state.f)
        counted = torch.full_like(known, counts) & known & ~state.flat()
        # Reductions, since of several values written to one place PyTorch keeps any.
        values = torch.where(known, state.f, torch.inf)
        f = torch.full_like(self.f, torch.inf).scatter_reduce_(0, state.rows, values, "amin")
        ends = torch.nonzero(known & (values == f[state.rows]))[:, 0]
        index = torch.zeros_like(self.found).scatter_reduce_(0, state.rows[ends], ends, "amax")
        lower = torch.nonzero(f < self.f)[:, 0]
        chosen = index[lower]
        state.refresh(chosen)
        self.f[lower], self.z[lower], self.gram[lower] = f[lower], state.z[chosen], state.gram[chosen]
        self.double[lower.cpu().numpy()] = state.z[chosen].cpu().double().numpy()
        # What was found before counts on if the new best is the same optimum.
        another = (self.f < (1 - _SAME) * self.counted) & (self.counted > self.zero)
        self.found[another], self.counted[another] = 0, self.f[another]
        again = counted & (state.f <= torch.maximum((1 + _SAME) * self.f, self.zero)[state.rows])
        self.found.index_add_(0, state.rows, again.long())

    def replace(self, rows: Tensor, z: Array) -> None:
        """The same codes, refined."""
        self.double[rows.cpu().numpy()] = z
        self.z[rows] = torch.as_tensor(z, dtype=self.z.dtype, device=self.z.device)

    def flat(self) -> Tensor:
        """The best codes that are on a plateau."""
        return on_plateau(self.z, self.f, self.gram)

    def codes(self) -> Array:
        """A copy of the codes."""
        return self.double.copy()

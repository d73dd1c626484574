"""From a code found in single precision to the same optimum in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

from unrelu.methods.misfit import Misfit

__all__ = ["polish"]

_STEPS = 8
# A decrease by less than this share of f is the last.
_TINY = 1e-13


def polish(misfit: Misfit, z: Tensor, rows: Tensor, gram: Tensor, exact: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Gauss-Newton steps with the exact gradient and one fixed, approximate matrix H ~ J^T J.

    .. math:: z \leftarrow z - H^{-1} J^T (A G(z) - y)

    Near an optimum H in single precision is good enough: each step gains about as many digits as H has. It costs a
    reverse pass, a small part of a Jacobian.

    Args:
        misfit: f, in double precision.
        z: codes, (b, k), double precision, near a local optimum.
        rows: (b,), the observation of each.
        gram: H, (b, k, k), with the prior's weight on its diagonal.
        exact: values of f that are as good as 0, (b,).

    Returns:
        Codes, their f, and whether each arrived: no further step is predicted to gain anything.
    """
    system = gram.to(z.dtype)
    floor = 1e-7 * system.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(torch.finfo(z.dtype).tiny)
    system = system + floor[:, None, None] * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    factor, info = torch.linalg.cholesky_ex(system)
    z, (f, slope) = z.clone(), misfit.gradient(z, rows)
    gradient = 0.5 * slope
    arrived = f <= exact
    at = torch.nonzero(~arrived & (info == 0))[:, 0]
    for _ in range(_STEPS):
        if not len(at):
            break
        step = -torch.cholesky_solve(gradient[at][:, :, None], factor[at])[:, :, 0]
        predicted = -(step * gradient[at]).sum(dim=1)
        trial = z[at] + step
        f_trial, slope = misfit.gradient(trial, rows[at])
        better = f_trial < f[at]
        tiny = (predicted <= _TINY * f[at]) | (f_trial <= exact[at])
        z[at] = torch.where(better[:, None], trial, z[at])
        gradient[at] = torch.where(better[:, None], 0.5 * slope, gradient[at])
        f[at] = torch.where(better, f_trial, f[at])
        arrived[at] = tiny
        at = at[better & ~tiny]
    return z, f, arrived

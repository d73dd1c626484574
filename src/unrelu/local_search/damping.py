r"""The damping rule of Levenberg-Marquardt steps, which two implementations share.

:mod:`~unrelu.local_search.descent_kernel` makes steps on small dense networks, in compiled code, code by code.
:mod:`~unrelu.local_search.levenberg_marquardt` makes steps on any generator, a batch at a time in PyTorch. A step s
from z is

.. math:: (H + \mu I) s = -g, \qquad H = J^T J + \lambda I, \quad g = \tfrac12 \nabla f(z),

without the coordinates held at a bound. It ends at the nearest code within the bounds, and is accepted if f falls. Its
quadratic model promises the decrease :math:`s^T (\mu s - g)`. An accepted step multiplies mu by :func:`factor`. A
rejected step multiplies it by nu, which begins at 2 and doubles until a step is accepted. The mean diagonal of H is
the unit of mu. The functions below take numbers from compiled code and tensors from PyTorch.

Source: Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), section 3.2; with bounds
Kanzow, Yamashita and Fukushima, "Levenberg-Marquardt methods with strong local convergence properties for solving
nonlinear equations with convex constraints", J. Computational and Applied Mathematics 172 (2004).
"""

from __future__ import annotations

from typing import Any

# The first mu, as a fraction of the mean diagonal of H. The steepest directions dominate this mean. In flat directions,
# which an ill-conditioned emulator has, only steps with little damping move.
FIRST_DAMPING = 1e-4
# The least factor of mu after a good step. Both numbers were tuned on the trained families of ``unrelu_studies``.
LEAST_FACTOR = 0.03
# A descent has arrived only at a damping below this fraction of the mean: a strongly damped step is short anywhere.
UNDAMPED = 0.1
# A step is tiny if it is shorter than this fraction of the code, or if mu is this multiple of the mean.
TINY_STEP, LARGEST_DAMPING = 1e-9, 1e12
# A descent ends after so many tiny steps in a row.
TINY_STEPS = 2
# The number of steps before a descent may be given up, and the multiple of its promise that a step may gain at most.
PATIENCE, TRUST = 2, 2.0


def factor(fall: Any, promised: Any) -> Any:
    """Return Nielsen's factor of mu after an accepted step, 1 - (2 rho - 1)^3, where rho is ``fall`` / ``promised``.

    The caller clips it to the range from :data:`LEAST_FACTOR` to 1.
    """
    gain = 2 * fall / promised - 1
    return 1 - gain * gain * gain


def arrived(damping: Any, mean: Any, promised: Any, enough: Any) -> Any:
    """Check whether a descent ends because a hardly damped step promises at most the decrease ``enough``."""
    return (damping <= UNDAMPED * mean) & (promised <= enough)


def hopeless(steps: Any, f: Any, promised: Any, ceiling: Any) -> Any:
    """Check whether to give up a descent: even a multiple of its next promised decrease leaves f above the ceiling."""
    return (steps > PATIENCE) & (f - TRUST * promised > ceiling)


def tiny(fall: Any, enough: Any, length: Any, size: Any, damping: Any, mean: Any) -> Any:
    """Check whether a step is tiny: its decrease, or its squared ``length`` relative to the code's squared ``size``."""
    short = (length < TINY_STEP * TINY_STEP * size) | (damping > LARGEST_DAMPING * mean)
    return short | ((fall > 0) & (fall < enough))

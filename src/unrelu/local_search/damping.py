r"""The rule of Levenberg-Marquardt steps, for both of their executions.

:mod:`~unrelu.local_search.descent_kernel` makes the steps of small dense networks, compiled and code by code, and
:mod:`~unrelu.local_search.levenberg_marquardt` those of any generator, a batch at a time in PyTorch. A step s from z is

.. math:: (H + \mu I) s = -g, \qquad H = J^T J + \lambda I, \quad g = \tfrac12 \nabla f(z),

without the coordinates held at a bound. It ends at the nearest code within the bounds, and is accepted if f falls. Its
quadratic model promises the decrease :math:`s^T (\mu s - g)`. After an accepted step, mu is multiplied by
:func:`factor`, after others by nu, which begins at 2 and doubles until a step is accepted. The mean diagonal of H is
the unit of mu. The functions below take numbers in the one execution and tensors in the other.

Source: Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), section 3.2; with bounds
Kanzow, Yamashita and Fukushima, "Levenberg-Marquardt methods with strong local convergence properties for solving
nonlinear equations with convex constraints", J. Computational and Applied Mathematics 172 (2004).
"""

from __future__ import annotations

from typing import Any

# The first mu, as a fraction of the mean diagonal of H. The mean is that of the steepest directions: in others, which
# an ill-conditioned emulator has, only steps of little damping move.
FIRST_DAMPING = 1e-4
# The least factor of mu after a good step. Both numbers were tuned on the trained families of ``unrelu_studies``.
LEAST_FACTOR = 0.03
# A descent has arrived only at a damping below this fraction of the mean: a strongly damped step is short anywhere.
UNDAMPED = 0.1
# A step is tiny if it is shorter than this fraction of the code, or if mu is this multiple of the mean.
TINY_STEP, LARGEST_DAMPING = 1e-9, 1e12
# A descent ends after so many tiny steps in a row.
TINY_STEPS = 2
# The steps before a descent may be given up, and the multiple of a promise that a step is trusted to keep.
PATIENCE, TRUST = 2, 2.0


def factor(fall: Any, promised: Any) -> Any:
    """Nielsen's factor of mu after an accepted step, 1 - (2 rho - 1)^3, rho the share of the promise that was kept.

    It is to be cut off at :data:`LEAST_FACTOR` and 1.
    """
    gain = 2 * fall / promised - 1
    return 1 - gain * gain * gain


def arrived(damping: Any, mean: Any, promised: Any, enough: Any) -> Any:
    """Whether a descent ends because a hardly damped step promises at most the decrease ``enough``."""
    return (damping <= UNDAMPED * mean) & (promised <= enough)


def hopeless(steps: Any, f: Any, promised: Any, ceiling: Any) -> Any:
    """Whether a descent is given up: a multiple of the promise of its next step does not bring f to the ceiling."""
    return (steps > PATIENCE) & (f - TRUST * promised > ceiling)


def tiny(fall: Any, enough: Any, length: Any, size: Any, damping: Any, mean: Any) -> Any:
    """Whether a step is tiny: in its decrease, or in its squared ``length`` beside the squared ``size`` of the code."""
    short = (length < TINY_STEP * TINY_STEP * size) | (damping > LARGEST_DAMPING * mean)
    return short | ((fall > 0) & (fall < enough))

r"""Why inversion is hard: 3SAT as a ReLU network (Theorem 1), and a preimage that is not convex (Example 1).

**The network.** A formula of n variables and the clauses :math:`C_1, \dots, C_m` becomes :math:`G : R^n \to R^2` of
layers with 2n, 2n + m, 2 and 2 neurons, every one a ReLU, :math:`[u]_+ = \max(u, 0)`:

.. math::

    p_i &= [z_i - \tfrac12]_+, \quad q_i = [\tfrac12 - z_i]_+ \\
    o_i &= [p_i + q_i - \tfrac12]_+, \quad s_i = [\tfrac12 - p_i - q_i]_+, \quad
    v_j = \Big[1 - \sum_{\ell \in C_j} \ell(z)\Big]_+ \\
    g &= \Big[\sum_i (o_i + s_i)\Big]_+, \quad v = \Big[\sum_j v_j\Big]_+ \\
    G(z) &= ([1 + g]_+, [1 + v]_+)

The literal of variable i is :math:`z_i = \tfrac12 + p_i - q_i`, its negation :math:`1 - z_i`; one that a clause repeats
counts once. The observation is y = (1, 1).

**G(z) = y exactly where z is a satisfying assignment.** As :math:`p_i + q_i = |z_i - \tfrac12|`, the sum
:math:`o_i + s_i` is the distance of :math:`z_i` from {0, 1}, and g is the distance of z from the nearest assignment in
the 1-norm. g and v are not negative, so G(z) = y means g = v = 0: z is an assignment, and in no clause do the literals
sum to 0. To decide whether some z has G(z) = y is therefore NP-hard. It is in NP: the ReLU pattern of a solution leaves
a linear program.

**A gap of 1/2.** :math:`|y - G(z)|_\infty = \max(g, v)`. Let a be an assignment nearest to z, so that
:math:`|z - a|_1 = g`. If a violates the clause C, its literals are 0 at a; they belong to different variables (a clause
with a literal and its negation is never violated), so at z they sum to at most g, and :math:`v \ge 1 - g`. Hence
:math:`\max(g, v) \ge \tfrac12`. A residual below 1/2 proves that the code decodes to a satisfying assignment, and the
residual of an unsatisfiable formula is at least 1/2 everywhere, however many its clauses and however often a variable
occurs. No larger constant would do: the eight clauses on three variables have :math:`g = v = \tfrac12` at
:math:`z = (\tfrac16, \tfrac16, \tfrac16)`.

**Bounded one layer at a time, from the output.** Let :math:`|y - G(z)|_\infty \le t`. The fourth layer then says that
:math:`g, v \le t`; the third, whose weights are not negative, that :math:`o_i, s_i, v_j \le t`; the second, that
:math:`p_i + q_i \le \tfrac12 + t`; and the first, that :math:`-t \le z_i \le 1 + t`. Beside a layer's outputs, each
step uses only that its inputs are not negative.

**Exact in floating point.** Weights are 0, 1 and -1 and biases are multiples of 1/2, so at an assignment nothing is
rounded.

The first two layers are what makes it hard; the neurons of the others never switch off, so the residual has a slope
wherever g or v has one. Two layers with one output would do, :math:`[1 + g + \sum_j v_j]_+ = 1` with
:math:`g = \sum_i ([z_i]_+ + [-z_i]_+ - 2 [z_i - \tfrac12]_+ + 2 [z_i - 1]_+)`, but there the output does not bound the
activations.
"""

from __future__ import annotations

from unrelu_studies.paper.hardness.formula import Formula, random_formula
from unrelu_studies.paper.hardness.networks import SEPARATION, Example, Reduction, example_1, reduction

__all__ = ["SEPARATION", "Example", "Formula", "Reduction", "example_1", "random_formula", "reduction"]

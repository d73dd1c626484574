r"""The paper's assumptions and bounds as functions, for networks of given sizes, given weights or given constants.

**Random weights.** :func:`expansion` is the sizes' part of Assumption 1. What Theorem 2 bounds by :math:`1 -
e^{-\Omega(k)}` has a closed form, :func:`layerwise_recovery_probability`; :func:`identifiable_probability` is its
counterpart for any method.

**Given weights.** Assumptions 2 and 3 ask that a layer extends every vector, :math:`|W_I v| \ge c |v|`. For one set of
rows, :func:`c_inf` and :func:`c_1` enclose the best constant between a certified lower bound and the value at a vector.
Over all sets of m rows, :func:`c_inf_upper` and :func:`c_1_upper` search for the worst: nothing larger is a constant
of the assumption.

**Error bounds.** :func:`theorem_3`, :func:`theorem_4` and :func:`corollary_1` are the paper's, from constants.
:func:`recovery_bound` takes the certified constants of the rows that one code makes bright, layer by layer: a proof
for this network, this code and ``method="linf"``.

>>> from unrelu_studies.paper import theory
>>> theory.ASSUMED_EXPANSION
2.1
"""

from __future__ import annotations

from unrelu._inspect import ASSUMED_EXPANSION
from unrelu_studies.paper.theory.bounds import (
    Corollary,
    ErrorBound,
    RecoveryBound,
    corollary_1,
    recovery_bound,
    theorem_3,
    theorem_4,
)
from unrelu_studies.paper.theory.constants import Bracket, Worst, c_1, c_1_upper, c_inf, c_inf_upper
from unrelu_studies.paper.theory.random_weights import (
    Expansion,
    active_rows_probability,
    expansion,
    identifiable_probability,
    layerwise_recovery_probability,
)

__all__ = [
    "ASSUMED_EXPANSION",
    "Bracket",
    "Corollary",
    "ErrorBound",
    "Expansion",
    "RecoveryBound",
    "Worst",
    "active_rows_probability",
    "c_1",
    "c_1_upper",
    "c_inf",
    "c_inf_upper",
    "corollary_1",
    "expansion",
    "identifiable_probability",
    "layerwise_recovery_probability",
    "recovery_bound",
    "theorem_3",
    "theorem_4",
]

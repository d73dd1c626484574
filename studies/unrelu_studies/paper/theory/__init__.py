r"""The paper's assumptions and bounds as functions, for networks of given sizes or given weights.

**Random weights.** What Theorem 2 bounds by :math:`1 - e^{-\Omega(k)}` has a closed form,
:func:`layerwise_recovery_probability`; :func:`identifiable_probability` is its counterpart for any method.

**Given weights.** Assumptions 2 and 3 ask that a layer extends every vector, :math:`|W_I v| \ge c |v|`. For one set of
rows, :func:`c_inf` and :func:`c_1` enclose the best constant between a certified lower bound and the value at a vector.

**Error bounds.** :func:`recovery_bound` is Theorem 3 with the certified constants of the rows that one code makes
bright, layer by layer: a proof for this network, this code and ``method="linf"``.
"""

from __future__ import annotations

from unrelu_studies.paper.theory.bounds import RecoveryBound, recovery_bound
from unrelu_studies.paper.theory.constants import Bracket, c_1, c_inf
from unrelu_studies.paper.theory.random_weights import (
    active_rows_probability,
    identifiable_probability,
    layerwise_recovery_probability,
)

__all__ = [
    "Bracket",
    "RecoveryBound",
    "active_rows_probability",
    "c_1",
    "c_inf",
    "identifiable_probability",
    "layerwise_recovery_probability",
    "recovery_bound",
]

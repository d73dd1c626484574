"""What can be proved about a code that was found."""

from __future__ import annotations

from unrelu.certification.branch_and_bound import GAP, BoundsAt
from unrelu.certification.certificate import Certificate, ProofStatus
from unrelu.certification.certified_chain import certifiable, obstacle
from unrelu.certification.certifying import prove
from unrelu.certification.node_program import Limits
from unrelu.lp.compilation import compile_simplex

__all__ = [
    "GAP",
    "BoundsAt",
    "Certificate",
    "Limits",
    "ProofStatus",
    "certifiable",
    "compile_simplex",
    "obstacle",
    "prove",
]

"""What can be proved about a code that was found."""

from __future__ import annotations

from unrelu.proofs.branch_and_bound import GAP, Moment
from unrelu.proofs.certificate import Certificate, ProofStatus
from unrelu.proofs.chain import certifiable, obstacle
from unrelu.proofs.compiling import compile_simplex
from unrelu.proofs.identifiability import Identifiability, degrees_of_freedom, freedom, local_rank, unique
from unrelu.proofs.limits import Limits
from unrelu.proofs.proving import prove

__all__ = [
    "GAP",
    "Certificate",
    "Identifiability",
    "Limits",
    "Moment",
    "ProofStatus",
    "certifiable",
    "compile_simplex",
    "degrees_of_freedom",
    "freedom",
    "local_rank",
    "obstacle",
    "prove",
    "unique",
]

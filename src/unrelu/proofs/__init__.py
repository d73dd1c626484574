"""What can be proved about a code that was found."""

from __future__ import annotations

from unrelu.proofs.identifiability import Identifiability, freedom, local_rank, unique

__all__ = ["Identifiability", "freedom", "local_rank", "unique"]

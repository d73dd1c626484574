"""What can be proved about a code that was found."""

from __future__ import annotations

from unrelu.proofs.identifiability import freedom

__all__ = ["freedom"]

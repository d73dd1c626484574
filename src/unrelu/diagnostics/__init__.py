"""What can be said of a code that was found: its linear region, and whether the observation determines it there."""

from __future__ import annotations

from unrelu.diagnostics.identifiability import Identifiability, degrees_of_freedom, freedom, local_rank, unique

__all__ = ["Identifiability", "degrees_of_freedom", "freedom", "local_rank", "unique"]

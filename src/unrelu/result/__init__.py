"""What a method returns: codes with their verdict, how it is judged, shown and kept.

What was tried and why it is as it is: docs/notes/verdict.md.
"""

from __future__ import annotations

from unrelu.result._inversion import Inversion
from unrelu.result.status import Status, message_of

__all__ = ["Inversion", "Status", "message_of"]

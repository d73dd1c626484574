"""The result of a method: codes and their verdict, with printing, pictures and files.

Design notes: docs/notes/verdict.md.
"""

from __future__ import annotations

from unrelu.result._inversion import Inversion
from unrelu.result.status import Status, message_of

__all__ = ["Inversion", "Status", "message_of"]

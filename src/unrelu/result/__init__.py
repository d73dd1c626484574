"""The result of a method: codes and their verdict, with printing, pictures and files.

Design notes: studies/notes/verdict.md.
"""

from __future__ import annotations

from unrelu.result._inversion import Inversion
from unrelu.result.residual_tests import TESTS, deciding
from unrelu.result.status import TELLING, Ending, Status, message_of

__all__ = ["TELLING", "TESTS", "Ending", "Inversion", "Status", "deciding", "message_of"]

"""The result of a method: codes and their verdict, with printing, pictures and files.

Design notes: studies/notes/verdict.md.
"""

from __future__ import annotations

from unrelu.result._inversion import Inversion
from unrelu.result._judged_codes import COLUMNS, JudgedCodes
from unrelu.result.residual_tests import TESTS, deciding
from unrelu.result.status import TELLING, Ending, Status, message_of

__all__ = ["COLUMNS", "TELLING", "TESTS", "Ending", "Inversion", "JudgedCodes", "Status", "deciding", "message_of"]

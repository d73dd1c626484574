"""Whole data sets: runs that resume, scale out and explain themselves.

What was tried and why it is as it is: studies/notes/runs.md.
"""

from unrelu.runs.journal import Record
from unrelu.runs.run_folder import Run, open_run
from unrelu.runs._running import RunProgress, run

__all__ = ["Record", "Run", "RunProgress", "open_run", "run"]

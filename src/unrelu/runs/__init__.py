"""Whole data sets: runs that resume, scale out and explain themselves.

Experiments and reasons for the design: studies/notes/runs.md.
"""

from unrelu.runs._running import RunProgress, run
from unrelu.runs.journal import Record
from unrelu.runs.run_folder import Run, open_run

__all__ = ["Record", "Run", "RunProgress", "open_run", "run"]

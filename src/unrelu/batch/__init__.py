"""Whole data sets: runs that resume, scale out and explain themselves."""

from unrelu.batch.folder import Run, open_run
from unrelu.batch.journal import Record
from unrelu.batch.running import Moment, run
from unrelu.batch.work import Settled

__all__ = ["Moment", "Record", "Run", "Settled", "open_run", "run"]

"""Commands of the command line that have files of their own."""

from unrelu.commands.datasets import report, run, status

__all__ = ["report", "run", "status"]

"""Commands of the command line that have files of their own."""

from unrelu.commands.datasets import run, status

__all__ = ["run", "status"]

"""A run as one HTML page that needs no network: its arguments, its results, and what needs attention."""

from unrelu.report._writing import write_report

__all__ = ["write_report"]

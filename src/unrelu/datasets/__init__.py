"""Observations in, results out.

What was tried and why it is as it is: docs/notes/runs.md.
"""

from unrelu.datasets.opening import open_masks, open_source
from unrelu.datasets.sources import Batch, Source

__all__ = ["Batch", "Source", "open_masks", "open_source"]

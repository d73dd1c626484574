"""Measurements of the package against its peers: ``unrelu benchmark``.

Every number is a time or a ratio of times taken in one process on one thread, unless it says otherwise. The modules are
imported when a measurement is asked for.
"""

from __future__ import annotations

__all__: list[str] = []

"""When a search has to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        end: by ``time.perf_counter()``.
        nodes: at most.
        stop: asked at every node and within long programs; called with the nodes so far, or -1. True stops.
    """

    end: float = math.inf
    nodes: int = 50_000
    stop: Callable[[int], bool] | None = None

    def reached(self, nodes: int, needed: float = 0.0) -> str | None:
        """Which limit is reached: "callback", "time", "nodes" or None; ``needed`` seconds are still to be spent."""
        if self.stop is not None and self.stop(nodes):
            return "callback"
        if time.perf_counter() + needed >= self.end:
            return "time"
        return "nodes" if nodes >= self.nodes else None

    def over(self) -> bool:
        """Whether there is nothing to be done any more, in the middle of a node."""
        return time.perf_counter() >= self.end or (self.stop is not None and self.stop(-1))

"""Settings of every test: reproducible examples, and no time limit that a busy machine would miss."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unrelu", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("unrelu")

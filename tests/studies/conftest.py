"""What tests of studies share."""

from __future__ import annotations

import pytest

from unrelu_studies.paper import load


@pytest.fixture(scope="session")
def fig2a():
    """The quick numbers of Figure 2(a), which tests of figures and of the command share."""
    return load("fig2a").run(quick=True)

"""The confidence of searches by other optimisers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import unrelu


def test_agreement() -> None:
    ends: Any = [31.2] * 8 + [58.0, np.inf]
    assert unrelu.agreement(ends[:3]) < unrelu.agreement(ends) < 1
    np.testing.assert_allclose(unrelu.agreement([ends, [np.nan] * 10]), [unrelu.agreement(ends), 0.0])
    np.testing.assert_allclose(unrelu.agreement([1.0, 1.04, 1.02], within=0.05), unrelu.agreement([1.0, 1.0, 1.0]))
    # One restart in the best optimum says less than many.
    assert unrelu.agreement([1.0] + [2.0] * 9) < unrelu.agreement([1.0] * 10)


@pytest.mark.parametrize(
    ("objectives", "within", "message"),
    [
        ([1.0, 1.0], 0.01, r"shape \(2,\); pass the objectives of at least 3"),
        ([1.0, -2.0, 1.0], 0.01, "has -2; objectives are at least 0"),
        ([1.0, 1.0, 1.0], 2.0, "within=2.0"),
        (["a", "b", "c"], 0.01, "objectives"),
    ],
)
def test_objectives_that_are_refused(objectives: Any, within: float, message: str) -> None:
    with pytest.raises(unrelu.errors.InputError, match=message):
        unrelu.agreement(objectives, within)

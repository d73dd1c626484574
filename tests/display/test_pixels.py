"""Which outputs are pictures, what their colours say, and that meanings are not cut within a clause."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu.display.pixels import differences, drawn_shape, values
from unrelu.display.text_tables import first_clauses
from unrelu.result import Status


@pytest.mark.parametrize(
    ("shape", "picture"),
    [
        ((28, 28), (1, 28, 28)), ((1, 3, 4), (1, 3, 4)), ((3, 8, 6), (3, 8, 6)), ((784,), (1, 28, 28)),
        ((1, 1, 64), (1, 8, 8)), ((49,), None), ((20,), None), ((2, 8, 8), None), ((1, 1, 50), None),
    ],
)  # fmt: skip
def test_which_outputs_are_pictures(shape, picture):
    assert drawn_shape(shape) == picture


def test_colours_of_pictures():
    shape = (1, 2, 2)
    grey = values(np.array([0.0, 1.0, 2.0, np.nan]), shape, 0.0, 2.0)
    assert grey[..., 0].tolist() == [[0, 128], [255, 0x9E]]
    below, zero, above, beyond = differences(np.array([-1.0, 0.0, 1.0, np.inf]), shape, 1.0).reshape(4, 3).tolist()
    assert below[2] > below[0]
    assert min(zero) > 240
    assert above[0] > above[2]
    assert beyond == above
    colour = differences(np.array([0.1, 0.0, -0.9, 0.5, 0.2, 0.1]).reshape(3, 1, 2)[:, :, :], (3, 1, 2), 1.0)
    assert (colour[0, 0, 2] > colour[0, 0, 0], colour[0, 1, 0] > colour[0, 1, 2]) == (True, True)
    large = values(np.zeros(3 * 1024 * 512), (3, 1024, 512), 0.0, 1.0)
    assert large.shape == (256, 128, 3)


def test_meanings_end_with_a_clause():
    assert first_clauses("no fit: raise rounds, or state noise", 22) == "no fit: raise rounds"
    assert first_clauses("a clause of its own: more", 5) == "a clause of its own"
    for status in Status:
        cut = first_clauses(status.value, 66)
        assert len(cut) <= 66
        assert cut == status.value or status.value[len(cut)] in ",;:"

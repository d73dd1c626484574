"""Statuses and endings: what users see of how a method ended, and what only its message says."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.result import Ending, Inversion, Status, message_of
from unrelu.result.status import JUDGED, SEARCHED, ending_of, meaning_of, status_of

NET = random_network((3, 8, 20), bias=True)
EVERY = [*Status, *Ending]


@pytest.mark.parametrize("ending", EVERY, ids=str)
def test_files_name_every_ending_and_its_message_is_a_sentence_of_its_own(ending):
    status, text = status_of(ending), meaning_of(ending)
    assert isinstance(status, Status)
    assert (text == meaning_of(status)) == (ending is status) == isinstance(ending, Status)
    assert isinstance(ending, Status) or len(text.split()) >= 6
    assert not text.endswith(".")
    assert ending_of(ending.name) is ending
    assert str(ending) == ending.name


@pytest.mark.parametrize("ending", [e for e in EVERY if e not in JUDGED and e not in (Status.MIXED, Status.NOT_MIXED)])
def test_a_result_has_the_status_and_the_message_of_its_ending(ending):
    z = np.ones((2, 3))
    problem = unrelu.Problem.build(NET, NET(z) + np.cos(np.arange(20)) - 5)  # what shows noise, and is no exact fit
    result = Inversion.of(problem, z, method="mine", status=ending, confidence=0.5)
    assert set(result.verdict) == {ending}
    assert set(result.status) == {status_of(ending)}
    assert all(message.startswith(meaning_of(ending)) for message in result.message)
    assert (result[0].verdict, result[0].status) == (ending, status_of(ending))
    numbers = (np.nan, 0.5, -1, np.nan, np.nan, np.nan)
    assert ("confidence 0.5" in message_of(ending, *numbers)) == (ending in SEARCHED)

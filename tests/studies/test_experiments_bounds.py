"""The paper's bounds beside measured errors, on a small scale."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu_studies.kit.numbers_file import Numbers
from unrelu_studies.paper import load
from unrelu_studies.paper.experiment import SEED, Verdict
from unrelu_studies.paper.theorems import theorem_bounds


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    return load("bounds").run(quick=True)


def test_no_error_is_above_its_certified_bound(numbers):
    seen = 0
    for norm, k, depth, network, level in {row[:5] for row in numbers.rows}:
        these = numbers.where(norm=norm, k=k, depth=depth, network=network, noise=level)
        (bound,) = np.nan_to_num(these.column("value", what="certified").astype(float), nan=np.inf)
        drawn = these.column("value", what="random noise")
        assert len(drawn) == 10
        assert drawn.max() <= bound
        seen += np.isfinite(bound)
    assert seen >= 8


def test_a_unit_gives_equal_rows_again(numbers):
    for unit in (("linf", 4, 2, 0), ("l1", 4, 1, 0)):
        again = load("bounds").numbers(load("bounds").measure(unit, SEED, True), True, SEED)
        assert again.rows == tuple(row for row in numbers.rows if row[:4] == unit)


def test_a_bound_below_an_error_would_be_reported(numbers):
    place = numbers.columns.index("value")
    spoiled = [(*row[:place], row[place] * 1e-3) if "certified" in row and row[place] else row for row in numbers.rows]
    claims = theorem_bounds._claims(load("bounds").numbers(spoiled, True, SEED))
    assert claims[0].verdict is Verdict.FAILS
    assert not claims[0].measured.startswith("0 of")


def test_claims_and_pictures_come_from_numbers(numbers, tmp_path):
    numbers.save(tmp_path / "held.json")
    held, experiment = Numbers.load(tmp_path / "held.json"), load("bounds")
    claims = experiment.claims(held)
    assert claims == experiment.claims(numbers)
    assert all("nan" not in claim.measured for claim in claims)
    assert all(claim.reason for claim in claims if claim.verdict is not Verdict.HOLDS)
    png, svg = experiment.plot(held, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.stat().st_size > 10_000

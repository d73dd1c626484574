"""What the paper says beside its figures: the quick versions run, have the right shape, and decide their claims."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu_studies.kit.measures import errors, medians
from unrelu_studies.kit.numbers_file import plain_row
from unrelu_studies.paper import load
from unrelu_studies.paper.experiment import SEED, Verdict
from unrelu_studies.paper.theorems.theorem2 import _failure

NAMES = ("relaxed", "leaky", "theorem1", "theorem2", "example1")
# The smallest unit of each, to be measured twice.
UNITS = {
    "relaxed": ("trained", "gaussian", 0),
    "leaky": ("random", 0, 0.0),
    "theorem1": (8, 0),
    "theorem2": (2, 10, 2.1),
    "example1": ("grid",),
}


@pytest.fixture(scope="module")
def numbers():
    """The quick numbers of each experiment, measured when first asked for."""
    held = {}

    def measured(name):
        if name not in held:
            held[name] = load(name).run(quick=True)
        return held[name]

    return measured


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_claims(name, numbers, tmp_path):
    experiment = load(name)
    png, svg = experiment.plot(numbers(name), tmp_path)
    assert png.stat().st_size > 5_000
    assert svg.stat().st_size > 5_000
    claims = experiment.claims(numbers(name))
    assert claims
    for claim in claims:
        assert isinstance(claim.verdict, Verdict)
        assert claim.measured
        assert "nan" not in claim.measured
        assert claim.reason or claim.verdict is Verdict.HOLDS or claim.source.startswith("unrelu"), claim.says


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_same_unit_gives_the_same_rows(name, numbers):
    experiment = load(name)
    unit = UNITS[name]
    assert unit in experiment.units(True)
    timed = [i for i, column in enumerate(experiment.columns) if column == "seconds"]

    def bare(rows):
        return [tuple(v for i, v in enumerate(row) if i not in timed) for row in rows]

    again = bare(map(plain_row, experiment.measure(unit, SEED, True)))
    known = bare(numbers(name).rows)
    assert again
    assert all(row in known for row in again)


@pytest.mark.long
def test_the_relaxation_is_worse_than_l1_and_errors_follow_the_noise(numbers):
    part = numbers("relaxed").where(network="random", kind="uniform")
    levels = np.array(part.distinct("noise"))
    for method in ("l1", "least_squares", "linf"):
        found = medians(part, "noise", method=method)
        assert np.polyfit(np.log(levels), np.log(found), 1)[0] == pytest.approx(1, abs=0.15)
        assert (found < medians(part, "noise", method="relaxed")).all()


@pytest.mark.long
def test_layers_lose_what_a_joint_search_keeps(numbers):
    leaky = numbers("leaky").where(network="trained")
    for level in (1e-5, 1e-3):
        found = {m: np.median(errors(leaky, noise=level, method=m)) for m in ("linf", "auto", "oracle")}
        assert found["auto"] == pytest.approx(found["oracle"], rel=0.1)
        assert found["linf"] > 20 * found["oracle"]
    assert (errors(leaky, noise=0.0, method="exact") < 1e-3).all()


@pytest.mark.long
def test_networks_decide_formulas(numbers):
    part = numbers("theorem1")
    models, best = part.column("models"), part.column("assignment")
    assert part.column("same").all()
    np.testing.assert_array_equal(models > 0, best == 0)
    assert (part.column("found")[models == 0] >= 0.5 - 1e-9).all()
    assert (part.column("lower") <= part.column("upper") + 1e-9).all()


@pytest.mark.long
def test_enough_neurons_on_is_enough(numbers):
    part = numbers("theorem2")
    enough, success = part.column("enough"), part.column("success")
    assert success[enough].all()
    assert 0 < enough.sum() < len(enough)


def test_the_probability_of_enough_neurons():
    # One layer of two neurons, one input: at least one is on.
    assert _failure((1, 2, 4)) == pytest.approx(1 - 3 / 4 * 11 / 16)
    assert _failure((3000, 6300)) < _failure((2000, 4200)) < 0.01


@pytest.mark.long
def test_the_midpoint_is_outside(numbers):
    part = numbers("example1")
    assert (part.column("residual", what="code") == 0).all()
    assert (part.column("residual", what="midpoint") == 1).all()

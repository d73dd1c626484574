"""Decoders as people train them, and the search that judges a search on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrelu_studies.benchmarks.benchmark import Command
from unrelu_studies.benchmarks.searches import families
from unrelu_studies.benchmarks.searches.families import sure_and_wrong
from unrelu_studies.kit.families import trained_families
from unrelu_studies.kit.families.family_observations import DRAWN, MEASURED, NOISE, observe
from unrelu_studies.kit.families.heavy_search import ObservedChain, least_objectives
from unrelu_studies.kit.families.trained_families import REPORT, TUNE, TrainedFamily, held_out_data, training_data

SEED, EPOCHS = 3, 8


@pytest.fixture(autouse=True)
def hardly_trained(monkeypatch):
    """Networks of a few epochs: what is tested here is the measurement."""
    trained_families.family_network.cache_clear()
    build = TrainedFamily.build
    monkeypatch.setattr(TrainedFamily, "build", lambda self: build(_shorter(self)))
    yield
    trained_families.family_network.cache_clear()


def _shorter(family):
    return TrainedFamily(**{**{name: getattr(family, name) for name in family.__dataclass_fields__}, "epochs": EPOCHS})


def test_nothing_that_is_reported_was_tuned_on():
    assert len(REPORT) >= 22
    assert not set(TUNE) & set(REPORT)
    assert not {family.seed for family in TUNE.values()} & {family.seed for family in REPORT.values()}
    convolutional = [f for f in REPORT.values() if isinstance(f, TrainedFamily) and f.convolutional]
    assert len(convolutional) == 4


@pytest.mark.parametrize("data", trained_families.DATA_SETS)
def test_held_out_data_are_not_trained_on(data):
    train, held_out = training_data(data), held_out_data(data)
    assert train.shape[1] == held_out.shape[1] == 64
    assert min(train.min(), held_out.min()) >= 0
    assert max(train.max(), held_out.max()) <= 1
    seen = {row.tobytes() for row in train}
    assert not any(row.tobytes() in seen for row in held_out)


def test_training_is_decided_by_the_seed_and_leaves_the_users_stream_alone():
    family = TrainedFamily((3, 8), 1, dropout=0.1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again = family.build(), family.build()
    assert torch.rand(1) == expected
    z = np.ones(3)
    np.testing.assert_array_equal(first(z), again(z))
    assert not np.array_equal(TrainedFamily((3, 8), 2, dropout=0.1).build()(z), first(z))


@pytest.mark.parametrize("measured", MEASURED)
@pytest.mark.parametrize("name", ["sigmoid out, dropout, 12-64-128", "convolutional, 8-16-8", "random, 9-36-64"])
def test_the_objective_is_that_of_the_search(name, measured):
    observed = observe(name, measured, 6, SEED)
    result = observed.invert("lm")
    # The search evaluates the same sum in another order: m terms of about its size.
    np.testing.assert_allclose(observed.objective(result.z), result.fun, rtol=1e3 * np.finfo(float).eps * 64)
    chain = ObservedChain(observed, torch.float64)
    z = torch.tensor(result.z)
    x = chain.linearise(z)[0]
    np.testing.assert_allclose(
        np.square(x.numpy() - observed.measured).sum(axis=1), result.fun, rtol=1e3 * np.finfo(float).eps * 64
    )


@pytest.mark.parametrize("name", ["sigmoid out, dropout, 12-64-128", "convolutional, 8-16-8", "random, 9-36-64"])
def test_derivatives_are_those_of_finite_differences(name):
    """At codes drawn at random, which lie inside of linear regions; a step of 1e-7 meets few kinks."""
    observed = observe(name, "gauss", 20, SEED)
    chain, z = ObservedChain(observed, torch.float64), torch.tensor(observed.truth)
    direction = np.random.default_rng(0).standard_normal(z.shape[1])
    step = 1e-7 * torch.tensor(direction)
    difference = (chain.linearise(z + step)[0] - chain.linearise(z - step)[0]).numpy() / 2e-7
    slope = (torch.tensor(direction) @ chain.linearise(z)[1]).numpy()
    # Rounding of x, divided by the step, and no more: eps / 1e-7 times the sums of a few hundred terms.
    close = np.abs(difference - slope).max(axis=1) <= 1e3 * np.finfo(float).eps / 1e-7 * np.abs(slope).max()
    assert close.mean() >= 0.8


@pytest.mark.parametrize("source", ["own", "real", "others"])
def test_noise_is_a_tenth_of_what_is_measured(source):
    observed = observe("digits 0 to 4, 8-40-80", "half", DRAWN, SEED, source)
    assert observed.measured.shape == (DRAWN, 32)
    # Signal and noise are independent: the variance of y is (1 + NOISE^2) of the signal's, up to sampling.
    assert observed.size == pytest.approx(NOISE * observed.measured.std() / np.hypot(1, NOISE), rel=0.02)
    assert (observed.truth is not None) == (source == "own")


@pytest.mark.parametrize("source", ["own", "real", "others"])
def test_fewer_observations_are_the_first_of_more(source):
    """Bit for bit, with the noise that is stated, and of those that no generator made."""
    name = "digits 0 to 4, 8-40-80"
    few, many = (observe(name, "half", count, SEED, source) for count in (6, 50))
    np.testing.assert_array_equal(few.y, many.y[:6])
    assert few.size == many.size
    like = observe(name, "all", 50, SEED, source).measured
    for kind in families.STRANGERS:
        few, many = (families._strange(kind, like, count, np.random.default_rng(SEED)) for count in (3, 9))
        np.testing.assert_array_equal(few, many[:3])


def test_the_heavy_search_is_as_low_as_the_truth_and_as_given_codes():
    observed = observe("random leaky .01, 9-36-14-64", "half", 10, SEED)
    few = np.random.default_rng(0).standard_normal((10, 9))
    f, z = least_objectives(observed, SEED, [few], rounds=2)
    assert (f <= observed.objective(observed.truth)).all()
    assert (f <= observed.objective(few)).all()
    np.testing.assert_array_equal(f, observed.objective(z))


def test_longer_codes_do_not_count_in_the_heavy_search():
    """Without noise a code near the truth has an objective near 0, which no code of half its length reaches."""
    observed = observe("random leaky .01, 9-36-14-64", "all", 6, SEED)
    half = np.linalg.norm(observed.truth, axis=1) / 2
    f, z = least_objectives(observed, SEED, [observed.truth / 2], 1, half)
    assert (np.linalg.norm(z, axis=1) <= half * (1 + 1e-12)).all()
    assert (f <= observed.objective(observed.truth / 2)).all()
    assert (f > observed.objective(observed.truth)).all()
    assert np.isinf(observed.objective(observed.truth, half)).all()
    np.testing.assert_allclose(observed.longest(100 * observed.truth), 200 * half)
    np.testing.assert_allclose(observed.longest(observed.truth), 10 * np.sqrt(9))


def test_data_that_a_family_did_not_make_are_measured_in_every_way_where_outputs_saturate():
    units = families._units(Command("families", 5, False, SEED))

    def measured(name):
        return {of for question, family, of, *source in units if family == name and source in (["real"], ["others"])}

    assert measured("patches, sigmoid out, 10-60-120") == measured("leaky .1, tanh out, 10-64") == set(MEASURED)
    assert measured("weak KL, 6-40-80") == {"half"}


def test_wrong_answers_are_counted_among_sure_ones():
    rows = [{"confidence": [0.99, 0.98, 1.0], "best": [True, False, False]}, {"confidence": [0.995], "best": [True]}]
    assert sure_and_wrong(rows) == (3, 1)


@pytest.mark.long
def test_the_quick_version_fills_every_table(monkeypatch):
    """Two families, each question of each of them."""
    monkeypatch.setattr(families, "STARTS", 2)
    monkeypatch.setattr(families, "FEW", 2)
    names = ("leaky .01, 8-30-60", "random leaky .01, 9-36-14-64")
    monkeypatch.setattr(families, "QUICK_FAMILIES", names)
    command = Command("families", 5, True, SEED)
    parts = [families.BENCHMARK.measure(command, unit) for unit in families.BENCHMARK.units(command)]
    results = families.BENCHMARK.collect(command, parts)
    assert {row["family"] for row in results["search"]} == set(names)
    own = [row for row in results["search"] if row["source"] == "own"]
    assert [len(row["best"]) for row in own] == [5] * len(own)
    assert all(0 <= c <= 1 for row in own for c in row["confidence"])
    assert all(len(row["p"]) == 5 and min(row["p"]) >= 0 and max(row["p"]) <= 1 for row in own)
    # 1% is what counts as better, and both are rounded to 6 digits.
    assert all(
        known <= f * (1 + 1e-5) and best == (known >= 0.99 * f)
        for row in own for f, known, best in zip(row["objective"], row["known"], row["best"], strict=True)
    )  # fmt: skip
    for name, render in families.BENCHMARK.blocks.items():
        assert render(results).count("|") > 20, name

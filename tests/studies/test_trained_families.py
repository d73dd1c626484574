"""Decoders as people train them, and the search that judges a search on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrelu.search.learned_prior import LearnedConfidence
from unrelu_studies.benchmarks.benchmark import Command
from unrelu_studies.benchmarks.trained_decoders import families
from unrelu_studies.benchmarks.trained_decoders.family_tables import BLOCKS, chance, sure_and_wrong
from unrelu_studies.kit.families import trained_families
from unrelu_studies.kit.families.family_observations import MEASURED, NOISE, observe
from unrelu_studies.kit.families.heavy_search import ObservedChain, gains_by_lbfgs, least_objectives
from unrelu_studies.kit.families.trained_families import (
    FAMILIES,
    REPORT,
    TUNE,
    RandomFamily,
    TrainedFamily,
    family_network,
    held_out_data,
    others,
    training_data,
)

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


def test_training_lowers_the_error():
    """Of the best code of held-out data, against the mean of the data."""
    name = "weak KL, 6-40-80"
    observed = observe(name, "all", 20, SEED, "real")
    _, z = least_objectives(observed, SEED, rounds=1)
    error = np.square(observed.measured - observed.network(z)).sum()
    assert error < 0.7 * np.square(observed.measured - observed.measured.mean(axis=0)).sum()


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
    observed = observe("digits 0 to 4, 8-40-80", "half", 100, SEED, source)
    assert observed.measured.shape == (100, 32)
    # Signal and noise are independent: the variance of y is (1 + NOISE^2) of the signal's, up to sampling.
    assert observed.size == pytest.approx(NOISE * observed.measured.std() / np.hypot(1, NOISE), rel=0.02)
    assert (observed.truth is not None) == (source == "own")


def test_others_are_of_the_same_list_and_size():
    for name in (*TUNE, *REPORT):
        group = TUNE if name in TUNE else REPORT
        assert name not in others(name)
        assert set(others(name)) <= set(group)
        assert all(type(FAMILIES[other]) is type(FAMILIES[name]) for other in others(name))
    assert others("random, 9-36-64")


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


def test_wrong_answers_on_foreign_data_are_counted_by_outputs_and_confidence():
    head = {"measured": "half", "source": "real"}
    rows = [
        {
            **head,
            "family": "patches, sigmoid out, 10-60-120",
            "confidence": [0.9, 0.94, 0.1],
            "best": [False, True, True],
        },
        {**head, "family": "weak KL, 6-40-80", "confidence": [0.93], "best": [True]},
        {**head, "family": "weak KL, 6-40-80", "source": "own", "confidence": [0.93], "best": [False]},
    ]
    text = BLOCKS["families foreign"]({"search": rows})
    assert "| sigmoid | 0.9 to 0.95 | 2 | 1 | 0.2 |" in text
    assert "| sigmoid | 0 to 0.5 | 1 | 0 | 0.9 |" in text
    assert "| identity | 0.9 to 0.95 | 1 | 0 | 0.1 |" in text


def test_calls_with_new_measurements_learn_anew_in_each_study_and_not_when_repeated(monkeypatch):
    learned, learn = [], LearnedConfidence.learn
    monkeypatch.setattr(
        LearnedConfidence, "learn", lambda self, *at: learned.append(self.problem.network) or learn(self, *at)
    )
    name = "random leaky .01, 9-36-14-64"
    row = families.measured_anew(name, "half", 2, SEED, 1)
    assert len(row["seconds"]) == len(row["again"]) == 2
    assert len(row["confidence"]) == len(row["best"]) == 2 * families.EACH
    before = len(learned)
    families.measured_anew(name, "half", 2, SEED, 1)
    assert len(learned) > before  # neither the family's own network nor the first study has taught it anything
    assert family_network(name) not in learned[before:]
    text = BLOCKS["families anew"](
        {"anew": [{**row, "family": name, "measured": "half", "seconds": [9, 3], "again": [1, 2]}]}
    )
    assert "| 9.0 | 3.00 | 1.50 | 1.50 | 0 |" in text.replace("3.0 |", "3.00 |").replace("1.5 |", "1.50 |")


def test_lbfgs_gains_at_a_random_code_and_nothing_at_an_optimum():
    observed = observe("random, 9-36-64", "all", 5, SEED)
    _, z = least_objectives(observed, SEED, rounds=1)
    assert (gains_by_lbfgs(observed, z) <= 1e-3).all()
    assert (gains_by_lbfgs(observed, z + 0.5) >= 0.1).all()


def test_wrong_answers_are_counted_among_sure_ones():
    rows = [{"confidence": [0.99, 0.98, 1.0], "best": [True, False, False]}, {"confidence": [0.9995], "best": [True]}]
    assert sure_and_wrong(rows) == (3, 1)
    assert sure_and_wrong(rows, 0.999) == (2, 1)
    # 1 - .99^3 for one or more of three; all of them for none.
    assert chance(3, 1) == pytest.approx(1 - 0.99**3)
    assert chance(3, 0) == 1.0


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
    for row in results["p_values"]:
        assert 0 <= row["rejected"] <= 1
    for name, render in BLOCKS.items():
        text = render(results)
        assert text.count("|") > 10, name
        if name not in ("families aims", "families anew", "families foreign"):
            assert all(family in text for family in names), name
    assert [(row["family"], len(row["best"])) for row in results["anew"]] == [(names[0], 24)] * 2


def test_a_random_family_keeps_the_size_of_its_outputs():
    network = RandomFamily((9, 36, 64), SEED).build()
    x = network(np.random.default_rng(0).standard_normal((500, 9)))
    # E x^2 = 2 E h^2 and E h^2 = E u^2 / 2 = 1, for weights N(0, 2 / n), on average over nets.
    assert 0.5 < x.std() < 4

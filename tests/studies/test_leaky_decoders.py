"""The benchmark of larger decoders on a small net, and the comparison with NUTS without NUTS."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import random_network
from unrelu_studies.benchmarks.benchmark import Command
from unrelu_studies.benchmarks.posterior import nuts_comparison
from unrelu_studies.benchmarks.searches import leaky_decoders
from unrelu_studies.zoo.train_plain_vaes import LEAKY_VAES


@pytest.fixture
def small(monkeypatch):
    network = random_network((4, 20, 70), seed=3, activation="leaky_relu:0.1")
    monkeypatch.setattr(leaky_decoders, "leaky_vae", lambda name: network)


@pytest.mark.usefixtures("small")
def test_noise_is_a_share_of_what_is_measured():
    observed = leaky_decoders.observations("leaky-vae-1", 400, 5)
    clean = observed.network.outputs(observed.truth) @ observed.matrix.T
    assert observed.measured.shape == (400, 60)
    noise = (observed.measured - clean).std() / np.sqrt(np.square(clean).mean())
    assert noise == pytest.approx(0.3, rel=5 / np.sqrt(2 * clean.size))


@pytest.mark.usefixtures("small")
def test_a_unit_judges_codes_with_and_without_stated_noise():
    rows = leaky_decoders._measure(Command("leaky_decoders", 3, True, 5), ("leaky-vae-1",))
    assert [row["stated"] for row in rows] == [False, True]
    for row in rows:
        assert row["observations"] == len(row["confidence"]) == len(row["was best"]) == 3
        assert row["best"] == row["below truth"] == 1  # a net of four coordinates is easy
    assert "best codes: 85% | 100% | yes" in leaky_decoders._aims({"rows": rows})
    assert "| leaky-vae-1 | stated | 3 | 100% | 100% |" in leaky_decoders._table({"rows": rows})


def test_the_decoder_that_is_tuned_on_is_not_reported():
    assert leaky_decoders.TUNED not in leaky_decoders.REPORT
    assert {leaky_decoders.TUNED, *leaky_decoders.REPORT} == set(LEAKY_VAES)
    assert len({recipe.seed for recipe in LEAKY_VAES.values()}) == 3


def test_what_is_not_installed_is_said():
    assert "pip install mlxtend" in leaky_decoders._table({"rows": []})
    assert "pip install numpyro" in nuts_comparison._table({"rows": []})


def test_chains_in_different_places_have_a_large_rhat():
    rng = np.random.default_rng([8, 1])
    draws = rng.standard_normal((4, 2000, 2))
    alike = nuts_comparison._split_rhat(draws)
    draws[0, :, 1] += 3
    apart = nuts_comparison._split_rhat(draws)
    assert alike.max() < 1.01
    assert apart[0] == alike[0]
    assert apart[1] > 1.3


def test_only_observations_on_which_nuts_mixed_are_judged():
    def row(rhat, mean, ratio):
        return {
            "emulator": "a", "parameters": 2, "status": "MIXED", "r-hat": rhat, "means": [0.01, mean],
            "deviations": [1.0, ratio], "seconds": {"unrelu.posterior": 1.0, "NumPyro NUTS": 2.0},
        }  # fmt: skip

    text = nuts_comparison._aims({"rows": [row(1.001, 0.05, 0.96), row(1.5, 3.0, 9.0)]})
    assert "0.050 at most | yes" in text
    assert "4.0% at most | yes" in text
    assert "1 of 2" in text
    assert "mixed on none" in nuts_comparison._aims({"rows": [row(1.5, 3.0, 9.0)]})

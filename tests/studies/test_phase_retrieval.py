"""The benchmark of phase retrieval on a small scale: what is measured, what counts as found, and its table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from unrelu_studies.benchmarks.benchmark import Command, load
from unrelu_studies.benchmarks.measurements import phase_retrieval
from unrelu_studies.benchmarks.measurements.phase_retrieval import KINDS, METHODS, NOISES, draw, rows


def test_frequencies_are_those_of_the_transform_and_none_is_measured_twice():
    side = 6
    picture = np.random.default_rng(0).standard_normal((side, side))
    every = np.abs(np.fft.fft2(picture)).ravel() / side
    seen = np.abs(rows("fourier", 20, side, np.random.default_rng(1)) @ picture.ravel())
    places = [int(np.abs(every - value).argmin()) for value in seen]
    np.testing.assert_allclose(every[places], seen, atol=1e-12)
    assert len({round(value, 9) for value in seen}) == 20  # 36 frequencies have 20 magnitudes


@pytest.mark.parametrize("kind", KINDS)
def test_observations_are_magnitudes_with_the_noise_that_is_stated(kind):
    network = unrelu.zoo.load(phase_retrieval.GENERATOR)
    instance = draw(network, kind, 0.02, 20, 3)
    clean = instance.magnitudes(torch.from_numpy(network(instance.z))).numpy()
    assert clean.shape == (20, 200)
    assert np.std(instance.y - clean) == pytest.approx(instance.sigma, rel=0.1)
    assert instance.sigma == pytest.approx(0.02 * np.sqrt(np.square(clean).mean()))
    assert np.array_equal(instance.first(5).y, instance.y[:5])


def test_a_cell_of_auto_finds_the_codes_and_the_table_says_so():
    command = Command("phase_retrieval", 2, True, 3)
    benchmark = load("phase_retrieval")
    assert [*benchmark.units(command)] == [(k, noise, m) for k in KINDS for noise in NOISES for m in METHODS]
    row = benchmark.measure(command, ("gaussian", 0.0, "auto"))
    assert max(row["error"]) < 1e-6
    worse = {**row, "method": "adam", "error": [0.5], "picture": [0.1], "fun": [1.0], "near": [0.0], "success": [False]}
    text = benchmark.blocks["phase_retrieval"]({"rows": [row, worse]})
    assert "| gaussian | 0% | `auto` | 2 | 100% | 100% |" in text
    assert "| gaussian | 0% | `adam` | 1 | 0% | 0% | 5.0e-01 | 1.0e-01 |" in text


def test_with_noise_the_lowest_objective_counts():
    about = {"kind": "gaussian", "noise": 0.02, "seconds": 1.0, "error": [0.1, 0.1], "picture": [0.0, 0.0]}
    auto = {**about, "method": "auto", "fun": [1.0, 1.2], "near": [1.1, 1.1], "success": [True, True]}
    adam = {**about, "method": "adam", "fun": [1.005], "near": [1.1], "success": [True], "error": [0.1], "picture": [0]}
    text = load("phase_retrieval").blocks["phase_retrieval"]({"rows": [auto, adam]})
    assert "`auto` | 2 | 50% | 100% |" in text
    assert "`adam` | 1 | 100% | 100% |" in text

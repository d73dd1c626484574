"""The emulators of the studies stand for their formulas, and SciPy's fits of them are given the exact Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrelu.errors import MissingPackageError
from unrelu_studies.benchmarks.benchmark import Command, load
from unrelu_studies.benchmarks.measurements import emulator_fits
from unrelu_studies.kit import gengli_decoder
from unrelu_studies.kit.emulators import EMULATORS, emulator, observed
from unrelu_studies.zoo.train_emulators import train


def drawn(name, count=200):
    about = EMULATORS[name]
    lower, upper = np.array(about.lower), np.array(about.upper)
    share = np.random.default_rng([4, len(lower)]).random((count, len(lower)))
    return lower, upper, lower + (upper - lower) * share


@pytest.mark.parametrize("name", EMULATORS)
def test_the_network_is_close_to_its_formula(name):
    _, _, theta = drawn(name)
    expected = EMULATORS[name].formula(torch.tensor(theta)).numpy()
    error = np.sqrt(np.square(emulator(name)(theta) - expected).mean()) / expected.std()
    assert 0 < error < 0.05  # an emulator, not the formula


@pytest.mark.parametrize("name", EMULATORS)
def test_the_peer_has_the_network_and_its_jacobian(name):
    lower, upper, theta = drawn(name, 3)
    sigma = np.linspace(0.5, 2.0, emulator(name).output_dim)
    peer = emulator_fits._Peer(emulator(name), lower, upper, sigma)
    for row in theta:
        t = (row - lower) / (upper - lower)
        np.testing.assert_allclose(peer.forward(t), emulator(name)(row) / sigma, rtol=1e-9, atol=1e-9)
        _, tangents = emulator(name).linearize(torch.tensor(row[None]))
        expected = tangents[0].numpy().T * (upper - lower) / sigma[:, None]
        np.testing.assert_allclose(peer.jacobian(t), expected, rtol=1e-9, atol=1e-9)


def test_training_lowers_the_error():
    name = "spectrum"
    _, early = train(name, EMULATORS[name], steps=5)
    _, late = train(name, EMULATORS[name], steps=60)
    assert late < 0.8 * early


@pytest.mark.parametrize("noisy", [False, True])
def test_a_unit_compares_all_methods(noisy):
    command = Command("emulators", 2, True, 5)
    row = emulator_fits._measure(command, ("stiff-b", noisy))
    assert list(row["milliseconds"]) == ["auto", "trf x1", "trf x2", "trf x4"]
    assert row["inside"]
    assert row["observations"] == 2
    assert all(0 <= share <= 1 for share in (*row["exact"].values(), *row["best"].values()))
    assert row["exact"]["trf x1"] <= row["exact"]["trf x2"] <= row["exact"]["trf x4"]
    assert row["below truth"] == 1 or not noisy
    text = emulator_fits._table({"rows": [row]})
    assert "stiff-b" in text
    assert ("best codes" if noisy else "exact fits") in text


def test_noise_of_observations_is_two_decades_apart():
    network = emulator("stiff-a")
    _, _, theta = drawn("stiff-a", 4000)
    y, sigma = observed(network, theta, True, 5, "stiff-a")
    np.testing.assert_allclose((y - network(theta)).std(axis=0) / sigma, 1.0, atol=0.05)
    share = sigma / np.sqrt(np.square(network(theta)).mean())
    assert 1e-3 <= share.min() < 3e-3
    assert 3e-2 < share.max() <= 1e-1


def test_the_table_of_gengli_says_how_to_get_it_where_it_was_not_measured():
    benchmark = load("emulators")
    assert "pip install gengli --no-deps" in benchmark.blocks["emulators gengli"]({"gengli": []})
    row = {
        "emulator": "gengli", "noisy": True, "observations": 2, "evaluations": 30,
        "residual": {"auto": [0.1, 0.2], "trf x1": [0.3, 0.3]}, "of truth": {"auto": [0.9, 0.95], "trf x1": [2.0, 3.5]},
        "milliseconds": {"auto": 13000.0, "trf x1": 90000.0},
    }  # fmt: skip
    results = benchmark.collect(Command("emulators", 2, True, 5), [row, {"emulator": "stiff-a"}])
    assert [r["emulator"] for r in results["rows"]] == ["stiff-a"]
    text = benchmark.blocks["emulators gengli"](results)
    assert "| stated | 2 | chi-square, of the truth's | 0.9 to 0.95, 13 s | 2 to 3.5, 90 s |" in text


def test_a_missing_gengli_is_named(monkeypatch):
    monkeypatch.setattr(gengli_decoder, "find_spec", lambda name: None)
    assert not gengli_decoder.installed()
    with pytest.raises(MissingPackageError, match="pip install gengli --no-deps"):
        gengli_decoder.gengli_decoder.__wrapped__()

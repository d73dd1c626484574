"""The emulators of the studies stand for their formulas, and SciPy's fits of them are given the exact Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrelu_studies.benchmarks.benchmark import Command
from unrelu_studies.benchmarks.measurements import emulator_fits
from unrelu_studies.kit.emulators import EMULATORS, emulator
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

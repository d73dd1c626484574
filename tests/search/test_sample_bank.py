"""The bank: its linear estimate against the textbook's formula, its nearest samples against a look at all of them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from tests.support import random_network
from unrelu import zoo
from unrelu.measurements import read_operator
from unrelu.search import sample_bank as bank_module
from unrelu.search.sample_bank import Bank

K, N, B = 4, 30, 6
NETWORK = random_network((K, 15, N), seed=1, bias=True)
CPU = torch.device("cpu")
RNG = np.random.default_rng(1)
MEASUREMENTS = {
    "whole": None,
    "mask": RNG.random(N) < 0.6,
    "masks": RNG.random((B, N)) < 0.6,
    "matrix": RNG.standard_normal((12, N)),
}
# A sum of n products in single precision is off by n + 1 roundings of 2^-24 of the sum of their sizes, and so is what
# reaches it from the layer below.
SINGLE = (K + 1 + 15 + 1) * 2.0**-24


def sizes(z):
    """|W_2| (|W_1| |z| + |b_1|) + |b_2|: the sums of the sizes of the terms of each output."""
    h = np.abs(z.numpy(), dtype=np.float64)
    for layer in NETWORK.layers:
        h = h @ np.abs(layer.matrix()).T + np.abs(layer.bias())
    return h


every_measurement = pytest.mark.parametrize("kind", MEASUREMENTS)


def measured(kind, network=NETWORK, seed=2):
    """The operator in single precision, its matrix for each observation, and noisy observations."""
    given = MEASUREMENTS[kind]
    m = 12 if kind == "matrix" else N
    operator = read_operator(given, (N,), (B, m)).to(torch.float32, CPU)
    kept = np.broadcast_to(np.ones(N) if given is None else given, (B, N)) if m == N else None
    matrices = [given] * B if kept is None else [np.eye(N)[row > 0] for row in kept]
    rng = np.random.default_rng(seed)
    x = network(rng.standard_normal((B, K))) + 0.1 * rng.standard_normal((B, N))
    y = np.stack([a @ row for a, row in zip(matrices, x, strict=True)]) if kept is None else x * kept
    return operator, matrices, torch.tensor(y, dtype=torch.float32), x


def textbook(bank, matrix, seen, noise):
    """The linear minimum mean square error estimate: mean z + C_zx A^T (A C_xx A^T + noise I)^-1 (y - A mean x)."""
    x, z = bank.x.double().numpy(), bank.z.double().numpy()
    deviations = x - x.mean(axis=0)
    c_xx, c_zx = deviations.T @ deviations / len(x), z.T @ deviations / len(x)
    gain = np.linalg.solve(matrix @ c_xx @ matrix.T + noise * np.eye(len(matrix)), matrix @ c_zx.T).T
    return z.mean(axis=0) + gain @ (seen - matrix @ x.mean(axis=0))


# --- the linear estimate ----------------------------------------------------------------------------------------------


@every_measurement
@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_the_estimate_is_the_textbooks(kind, noise):
    operator, matrices, y, x = measured(kind)
    bank = Bank.of(NETWORK)
    found = bank.estimate(operator, y, noise).numpy()
    expected = [textbook(bank, a, a @ row, noise) for a, row in zip(matrices, x, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(expected).max() > 0.3


def test_what_few_directions_leave_over_counts_as_noise(monkeypatch):
    monkeypatch.setattr(bank_module, "_DIRECTIONS", 5)
    bank = Bank(NETWORK)
    mean_x, mean_z, directions, codes, left = (np.asarray(part, dtype=np.float64) for part in bank.model)
    assert directions.shape == (5, N)
    assert (directions**2).sum() + N * left == pytest.approx(N * bank.spread, rel=1e-3)
    assert left > 0.05 * bank.spread
    operator, _, y, x = measured("whole")
    covariance = directions.T @ directions + (left + 0.1) * np.eye(N)
    expected = mean_z + (x - mean_x) @ np.linalg.solve(covariance, directions.T @ codes)
    np.testing.assert_allclose(bank.estimate(operator, y, 0.1), expected, atol=2e-4)


def test_directions_are_the_principal_ones(monkeypatch):
    monkeypatch.setattr(bank_module, "_DIRECTIONS", 5)
    network = random_network((K, N), activation="identity", seed=3)  # outputs in four dimensions
    bank = Bank(network)
    directions, x = bank.model[2].double().numpy(), bank.x.double().numpy()
    np.testing.assert_allclose(directions.T @ directions, np.cov(x.T, bias=True), atol=1e-4)


@every_measurement
def test_codes_of_an_affine_generator_are_found(kind):
    network = random_network((K, N), activation="identity", seed=3)
    bank = Bank(network)
    z = np.random.default_rng(4).standard_normal((B, K))
    operator, _, _, _ = measured(kind)
    y = operator.forward(torch.tensor(network(z), dtype=torch.float32))
    np.testing.assert_allclose(bank.estimate(operator, y, 1e-6), z, atol=2e-3)


def test_noise_without_bound_leaves_the_mean_code():
    operator, _, y, _ = measured("whole")
    bank = Bank.of(NETWORK)
    np.testing.assert_allclose(bank.estimate(operator, y, 1e12), bank.z.mean(dim=0).expand(B, -1), atol=1e-6)


def test_digits_are_explained_better_than_by_the_nearest_sample():
    network, rng = zoo.load("mnist-relu"), np.random.default_rng(5)
    k, n = network.latent_dim, network.output_dim
    z = rng.standard_normal((20, k))
    x = network(z).reshape(20, n)
    bank, operator = Bank(network), read_operator(None, (n,), (20, n))
    y = torch.tensor(x, dtype=torch.float32)

    def objective(codes):
        return ((network(codes.numpy()).reshape(20, n) - x) ** 2).sum(axis=1)

    estimate = bank.estimate(operator, y, 1e-2 * bank.spread)
    assert np.mean((estimate.numpy() - z) ** 2) < 0.35  # 1 without any knowledge
    assert (objective(estimate) < objective(bank.nearest(operator, y, 1)[:, 0])).mean() >= 0.9


# --- the samples ------------------------------------------------------------------------------------------------------


@every_measurement
def test_the_nearest_samples_are_the_nearest(kind):
    operator, matrices, y, x = measured(kind)
    bank = Bank.of(NETWORK)
    found = bank.nearest(operator, y, 3)
    assert found.shape == (B, 3, K)
    for i, (a, row) in enumerate(zip(matrices, x, strict=True)):
        distances = np.linalg.norm((bank.x.double().numpy() - row) @ a.T, axis=1)
        np.testing.assert_array_equal(found[i], bank.z[np.argsort(distances)[:3]])


def test_samples_are_outputs_of_normal_codes():
    bank = Bank.of(NETWORK)
    assert bank.single.dtype == bank.z.dtype == bank.x.dtype == torch.float32
    assert bank.z.shape == (4096, K)
    assert (np.abs(bank.x.numpy() - NETWORK(bank.z.numpy())) <= SINGLE * sizes(bank.z)).all()
    np.testing.assert_allclose(np.cov(bank.z.T), np.eye(K), atol=0.1)
    assert bank.spread == pytest.approx(bank.x.double().numpy().var(axis=0).mean(), rel=1e-3)


@pytest.mark.parametrize(("numbers", "count"), [(2**26, 4096), (N * 1000, 1000), (N, 64)])
def test_large_outputs_get_fewer_samples(monkeypatch, numbers, count):
    monkeypatch.setattr(bank_module, "_NUMBERS", numbers)
    bank = Bank(NETWORK)
    assert len(bank.z) == len(bank.x) == count
    assert (np.abs(bank.x.numpy() - NETWORK(bank.z.numpy())) <= SINGLE * sizes(bank.z)).all()


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_bank_is_built_once_for_a_network():
    network = random_network((3, 8, 12), seed=5)
    first = Bank.of(network)
    assert Bank.of(network) is first
    assert first.model is first.model
    assert Bank.of(random_network((3, 8, 12), seed=5)) is not first
    again = Bank(network)
    assert again is not first
    for one, two in ((first.z, again.z), (first.x, again.x), *zip(first.model[:4], again.model[:4], strict=True)):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_bank_goes_with_its_network():
    network = random_network((3, 8, 12), seed=6)
    bank = Bank.of(network)
    bank.rounded(0.1, network)
    gone = weakref.ref(bank)
    del network, bank
    gc.collect()
    assert gone() is None


def test_generators_with_rounded_kinks_are_kept_by_width_and_precision():
    bank = Bank.of(NETWORK)
    rounded = bank.rounded(0.1, bank.single)
    assert bank.rounded(0.1, bank.single) is rounded
    wide, double = bank.rounded(0.5, bank.single), bank.rounded(0.1, NETWORK)
    assert (wide.dtype, double.dtype) == (torch.float32, torch.float64)
    z = bank.z[:50]
    x = bank.single.forward(z)
    near, far = ((net.forward(z) - x).abs().max() for net in (rounded, wide))
    assert 0 < near < far
    torch.testing.assert_close(double.forward(z.double()).float(), rounded.forward(z), rtol=1e-4, atol=1e-4)

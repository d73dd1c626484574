"""The emulators of the studies stand for their formulas, and SciPy's fits of them are given the exact Jacobian."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from unrelu import extend
from unrelu.errors import MissingPackageError
from unrelu_studies.benchmarks.benchmark import Command, load
from unrelu_studies.benchmarks.measurements import emulator_fits, published_fits
from unrelu_studies.benchmarks.measurements.published_fits import PublishedCase, PublishedProblem
from unrelu_studies.benchmarks.measurements.trf_fits import TrfFits, confidence_error, dense_model, sure_and_wrong
from unrelu_studies.benchmarks.posterior import nuts_comparison
from unrelu_studies.kit import published_emulators
from unrelu_studies.kit.emulators import EMULATORS, emulator


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
    peer = TrfFits(dense_model(emulator(name)), lower, upper, 1 / sigma)
    for row in theta:
        t = (row - lower) / (upper - lower)
        np.testing.assert_allclose(peer.forward(t), emulator(name)(row) / sigma, rtol=1e-9, atol=1e-9)
        _, tangents = emulator(name).linearize(torch.tensor(row[None]))
        expected = tangents[0].numpy().T * (upper - lower) / sigma[:, None]
        np.testing.assert_allclose(peer.jacobian(t), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noisy", [False, True])
def test_fewer_observations_are_the_first_of_more(noisy):
    few, many = (emulator_fits.simulated("dust", noisy, count, 5) for count in (3, 40))
    np.testing.assert_array_equal(few[1], many[1][:3])
    np.testing.assert_array_equal(few[2], many[2])


def test_confidence_is_judged_by_bins_and_by_sure_answers_that_are_wrong():
    rows = [
        {"confidence": [0.995, 0.995, 0.5], "was best": [True, False, True]},
        {"confidence": [0.5], "was best": [False]},
    ]
    assert sure_and_wrong(rows) == (2, 1)
    assert confidence_error(rows) == pytest.approx(0.99 / 4)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.long
def test_a_unit_compares_all_methods(noisy):
    row = emulator_fits._measure(Command("emulators", 2, True, 5), ("stiff-b", noisy))
    assert list(row["milliseconds"]) == ["auto", "trf x1", "trf x2"]
    assert row["inside"]
    assert row["observations"] == len(row["confidence"]) == len(row["was best"]) == 2
    assert all(0 <= share <= 1 for share in row["best"].values())
    assert row["best"]["trf x1"] <= row["best"]["trf x2"]
    assert np.mean(row["was best"]) == row["best"]["auto"]
    assert row["below truth"] == 1 or not noisy
    assert len(row["extended"]["confidence"]) == row["extended"]["observations"] == 2
    text = emulator_fits._table({"rows": [row]})
    assert "stiff-b" in text
    assert ("best codes" if noisy else "exact fits") in text


@pytest.mark.parametrize("noisy", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_search_fits_a_scale_and_an_offset_as_well(noisy):
    found = emulator_fits._extended("spectrum", noisy, 2, 5)
    assert found["below truth" if noisy else "exact"] == 1
    assert found["exact"] == (not noisy)
    assert found["milliseconds"] > 0


def test_the_published_network_is_that_of_its_package(tmp_path, monkeypatch):
    """A package with random weights in its place: the first layer of the regressor has no activation."""
    sizes = (16, *[90] * 7, 28)
    linear = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    modules = [linear[0], *(m for layer in linear[1:-1] for m in (layer, torch.nn.ReLU())), linear[-1]]
    package = tmp_path / "nnero"
    (package / "nn_data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('nothing of it is imported')")
    network = torch.nn.Sequential(*modules)
    torch.save(network.state_dict(), package / "nn_data" / "DefaultRegressor_weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    assert published_emulators.installed("nnero")
    found = published_emulators.ionised_share.__wrapped__()
    t = np.random.default_rng([8, 1]).random((5, 16))
    expected = network(torch.tensor(t, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(found(t), expected, rtol=1e-4, atol=1e-6)
    assert ("NNERO", True) in emulator_fits._units(Command("emulators", 2, True, 5))


def test_what_is_reported_was_not_tuned_on():
    units = emulator_fits._units(Command("emulators", 2, True, 5))
    assert {name for name, _ in units} - {"NNERO"} == {"dust", "impedance", "relaxation"}


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(published_emulators, "find_spec", lambda name: None)
    assert not published_emulators.installed("gengli")
    with pytest.raises(MissingPackageError, match="pip install gengli --no-deps"):
        published_emulators.gengli_decoder.__wrapped__()
    with pytest.raises(MissingPackageError, match="pip install cosmopower-jax --no-deps"):
        published_emulators.cmb_spectrum.__wrapped__()
    text = load("published").blocks["published fits"]({"rows": []})
    assert "`pip install gengli --no-deps`" in text
    for package in ("cosmopower-jax", "py21cmemu"):
        assert f"`pip install {package} --no-deps`" in text


def test_a_published_case_is_fitted_with_its_covariance_and_nuisance(monkeypatch):
    monkeypatch.setitem(published_fits.PROBLEMS, "small", PublishedProblem("numpy", small_case, 3, 2, 2))
    row = published_fits._measure(Command("published", 3, False, 5), ("small",))
    assert row["reached"] == 1
    assert max(row["of truth"]) < 1
    assert (row["observations"], row["few"], row["starts"]) == (3, 2, 2)
    assert "x2, 2 observations" in published_fits._table({"rows": [row]})


def test_chains_in_different_places_have_a_large_rhat_and_are_not_shown():
    rng = np.random.default_rng([8, 1])
    draws = rng.standard_normal((4, 2000, 2))
    alike = nuts_comparison._split_rhat(draws)
    draws[0, :, 1] += 3
    apart = nuts_comparison._split_rhat(draws)
    assert alike.max() < 1.01
    assert apart[0] == alike[0]
    assert apart[1] > 1.3

    def row(name, rhat):
        return {
            "emulator": name, "parameters": 2, "status": "MIXED", "r-hat": rhat, "means": [0.01, 0.05],
            "deviations": [1.0, 0.96], "seconds": {"unrelu.posterior": 1.0, "NumPyro NUTS": 2.0},
        }  # fmt: skip

    text = nuts_comparison._table({"rows": [row("alike", 1.001), row("apart", 1.5)]})
    assert "| alike | 2 | MIXED | 0.050 | 0.96 to 1.00 |" in text
    assert "apart" not in text
    assert "pip install numpyro" in nuts_comparison._table({"rows": []})


def small_case():
    """Six measurements of the spectrum emulator in pairs of bins, correlated, with a calibration."""
    network = extend(emulator("spectrum"), scale=(0.9, 1.1))
    about = EMULATORS["spectrum"]
    matrix = np.kron(np.eye(25), np.full((1, 10), 0.1))
    covariance = 1e-4 * (np.eye(25) + 0.5)
    lower, upper = np.append(about.lower, -4.0), np.append(about.upper, 4.0)
    return PublishedCase(network, lower, upper, np.arange(6) < 5, matrix, covariance)


def test_the_objective_of_a_published_case_is_chi_square_under_its_covariance():
    case = small_case()
    z = case.drawn(np.random.default_rng([7, 3]), 2)
    y = case.clean(z) + np.linspace(-0.1, 0.1, 25)
    r = y - case.clean(z)
    expected = np.einsum("bi,ij,bj->b", r, np.linalg.inv(case.covariance), r)
    np.testing.assert_allclose(case.peer(None).objective(z, y), expected, rtol=1e-8)

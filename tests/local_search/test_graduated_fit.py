"""Graduated fits: codes of an ill-conditioned convolutional generator, against SciPy's trust region."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

import unrelu
from unrelu.local_search.graduated_fit import GraduatedFit
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.search.descents import LimitedMemoryDescents

K, B = 12, 3


@pytest.fixture(scope="module")
def generator():
    """Three convolutions along a code of 12 samples."""
    draw = torch.Generator().manual_seed(5)
    convolutions = [torch.nn.Conv1d(a, b, 5, dtype=torch.float64) for a, b in ((1, 16), (16, 8), (8, 1))]
    for layer in convolutions:
        layer.weight.data = torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64) / 3
        layer.bias.data = 0.3 * torch.randn(layer.bias.shape, generator=draw, dtype=torch.float64)
    first, second, last = convolutions
    leaky = torch.nn.LeakyReLU(0.2)
    module = torch.nn.Sequential(
        torch.nn.Upsample(size=24), first, leaky, torch.nn.Upsample(size=44), second, leaky, torch.nn.Upsample(size=84),
        last, torch.nn.Flatten(),
    )  # fmt: skip
    return unrelu.from_torch(module, latent_shape=(1, K))


@pytest.fixture(scope="module")
def measured(generator):
    """Weights of outputs as of bursts, loud in the middle; codes, observations and the deviations of the noise."""
    rng = np.random.default_rng(7)
    weight = 1e-2 + np.exp(-0.5 * ((np.arange(80) - 40) / 6) ** 2)
    truth = rng.standard_normal((B, K))
    sigma = 1e-2 * np.exp(rng.uniform(0, 3, 80)) * weight.max()
    return weight, truth, generator(truth) * weight + sigma * rng.standard_normal((B, 80)), sigma


def problem_of(generator, measured, rows=slice(None)):
    weight, _, y, sigma = measured
    return Problem.build(generator, y[rows], noise=unrelu.Gaussian(sigma), operator=np.diag(weight))


def fitted(problem, dtype=torch.float64, stop=lambda: False):
    network = problem.network.to(dtype)
    fit = GraduatedFit(
        SquaredError.of(problem),
        lambda t: network.smoothed(t) if t else network,
        float(problem.noise.variance(problem.y)[0]),
    )
    starts = np.random.default_rng(8).standard_normal((64, K))
    z = fit.run(fit.objective.tensor(starts), torch.arange(problem.size), stop)
    return z.numpy(), fit, starts


def chi_square(z, generator, measured):
    weight, _, y, sigma = measured
    return np.square((generator(z) * weight - y) / sigma).sum(axis=1)


def by_trust_region(generator, measured, start, i):
    weight, _, y, sigma = measured
    return least_squares(lambda z: (generator(z) * weight - y[i]) / sigma, start, max_nfev=30).x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_explain_what_a_trust_region_from_the_same_start_does_not(generator, measured, dtype):
    z, fit, starts = fitted(problem_of(generator, measured), dtype)
    at_truth = chi_square(measured[1], generator, measured)
    assert (chi_square(z, generator, measured) <= 1.1 * at_truth).all()
    _, first = next(iter(fit.stages(torch.arange(B))))
    choose = [first.values(first.y.new_tensor(starts), torch.full((64,), i)).argmin() for i in range(B)]
    others = [by_trust_region(generator, measured, starts[at], i) for i, at in enumerate(choose)]
    assert (chi_square(np.array(others), generator, measured) > 1.4 * at_truth).any()


def test_a_trust_region_hardly_lowers_the_last_objective(generator, measured):
    z, fit, _ = fitted(problem_of(generator, measured))
    *_, (_, last) = fit.stages(torch.arange(B))
    for i, reached in enumerate(last.values(torch.from_numpy(z), torch.arange(B)).tolist()):

        def residual(code, i=i):
            r = last.residual(torch.from_numpy(code[None]), torch.tensor([i]))[0]
            return np.concatenate([r.numpy(), last.prior.sqrt().numpy() * code])

        assert 2 * least_squares(residual, z[i], max_nfev=30).cost >= 0.99 * reached


def test_an_observation_is_fitted_alone_as_in_a_batch(generator, measured):
    together = fitted(problem_of(generator, measured))[0]
    alone = fitted(problem_of(generator, measured, slice(1, 2)))[0]
    one, other = (chi_square(z, generator, measured) for z in (together[1:2], alone))
    np.testing.assert_allclose(one[:1], other[:1], rtol=1e-2)


def test_stages_end_at_the_smallest_noise(generator, measured):
    _, _, y, sigma = measured
    fit = fitted(problem_of(generator, measured), stop=lambda: True)[1]
    stages = [stage for _, stage in fit.stages(torch.arange(B))]
    rms = np.sqrt(np.square(y).mean(axis=1))
    smallest = sigma.min() / rms.max()
    first, least, most = (1 / (1 + (t * rms[:, None] / sigma) ** 2) for t in (0.3, 1.47 * smallest, smallest))
    np.testing.assert_allclose(stages[0].operator.weight.square(), first, rtol=1e-9)
    last = stages[-2].operator.weight.square().numpy()
    assert ((least <= last) & (last <= most + 1e-12)).all()
    assert (stages[-1].operator.weight == 1).all()
    assert all((b.operator.weight > a.operator.weight).all() for a, b in pairwise(stages))


def test_a_fit_that_is_stopped_at_once_returns_the_best_start(generator, measured):
    z, _, starts = fitted(problem_of(generator, measured), stop=lambda: True)
    assert all((starts == code).all(axis=1).any() for code in z)


# --- in ``auto`` ------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch):
    """The generator is a large one, whose descents do not come to an end."""
    monkeypatch.setattr("unrelu.search.sample_cache._LARGE", 0)
    monkeypatch.setattr(LimitedMemoryDescents, "exact_steps", 5)


def invert(generator, measured, **options):
    weight, _, y, sigma = measured
    noise = unrelu.Gaussian(sigma)
    return unrelu.invert(generator, y, noise=noise, operator=np.diag(weight), learn=False, **options)


def test_auto_fits_what_its_descents_do_not_explain(large, generator, measured, monkeypatch):
    found = chi_square(invert(generator, measured).z, generator, measured)
    assert (found <= 1.2 * chi_square(measured[1], generator, measured)).all()
    monkeypatch.setattr(LimitedMemoryDescents, "exhausted", lambda self, steps, restarts: steps < 0)
    without = chi_square(invert(generator, measured, max_iterations=5).z, generator, measured)
    assert (found <= 1.01 * without).all()
    assert (found < 0.9 * without).any()


def test_the_callback_stops_a_fit(large, generator, measured, monkeypatch):
    calls = []
    run = GraduatedFit.run

    def counted(self, starts, observations, stop):
        calls.append(len(observations))
        return run(self, starts, observations, stop)

    monkeypatch.setattr(GraduatedFit, "run", counted)
    result = invert(generator, measured, callback=lambda progress: bool(calls))
    assert calls == [1]
    assert (result.status == Status.STOPPED).all()
    assert np.isfinite(result.z).all()


def test_a_fit_has_no_confidence_and_nothing_is_learned_for_it(large, generator, measured, monkeypatch):
    monkeypatch.setattr("unrelu.search.joint_search._SURELY", -np.inf)  # nothing is explained
    monkeypatch.setattr("unrelu.search.descents._EXHAUSTED", 0.0)
    monkeypatch.setattr("unrelu.search.learned_prior.LearnedConfidence.learn", None)  # nothing is learned
    weight, _, y, sigma = measured
    result = unrelu.invert(generator, y, noise=unrelu.Gaussian(sigma), operator=np.diag(weight))
    assert (result.confidence == 0).all()
    assert (result.nit <= 6 * 5).all()


def test_stated_rounds_and_many_coordinates_have_restarts_only(large, generator, measured, monkeypatch):
    monkeypatch.setattr(GraduatedFit, "run", None)
    assert np.isfinite(invert(generator, measured, rounds=3).fun).all()
    monkeypatch.setattr("unrelu.search.descents._GRADUATED", K - 1)
    assert np.isfinite(invert(generator, measured).fun).all()

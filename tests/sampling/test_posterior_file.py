"""Posteriors that are saved: what comes back, what is refused, and which numbers are computed again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.result.test_result_file import forged
from tests.sampling.known_posteriors import NET, chains_of, normal_draws
from tests.support import random_network
from unrelu import Status
from unrelu.errors import InputError, OptionError
from unrelu.sampling.sampled_chains import SampledChains

Y = NET(normal_draws(3, 3)) + 0.05 * normal_draws(3, 20)
CASES = {
    "gaussian": {"noise": "gaussian:0.3"},
    "sizes": {"noise": unrelu.Gaussian(0.3 + 0.1 * np.abs(normal_draws(3, 20)))},
    "covariance": {"noise": unrelu.Gaussian(covariance=0.1 * np.eye(20) + 0.01)},
    "counts": {"noise": "poisson"},
    "bounds": {"noise": "gaussian:0.3", "bounds": ([-9.0, -8.0, -7.0], 9.0)},
    "prior": {"noise": "gaussian:0.3", "prior": unrelu.Normal([0.5, 0.0, -0.5], 2.0)},
    "masks": {"noise": "gaussian:0.3", "operator": unrelu.Mask(normal_draws(3, 20) > -0.5)},
    "matrix": {"noise": "gaussian:0.3", "operator": normal_draws(7, 20)},
    "function": {"noise": "gaussian:0.3", "operator": torch.tanh},
}


def of_case(name: str, draws: int = 120) -> unrelu.Posterior:
    """A posterior with draws from no sampler, and the log-likelihoods that they have, plus a constant."""
    options, y, network = CASES[name], Y, NET
    if name == "matrix":
        y = Y @ options["operator"].T
    elif name == "function":
        y = np.tanh(Y)
    elif name == "counts":
        network, y = random_network((3, 8, 20), bias=True, last="sigmoid"), np.rint(np.abs(Y))
    problem = unrelu.Problem.build(network, y, seed=7, **options)
    z = normal_draws(3, 4, draws, 3)
    likelihood = np.zeros(z.shape[:3])
    for i in range(3):
        residual = problem.part(np.full(4 * draws, i)).residual(z[i].reshape(-1, 3))
        misfit = np.square(residual).sum(axis=1) / problem.noise.dispersion_parameter
        likelihood[i] = i - 0.5 * misfit.reshape(4, draws)
    chains = chains_of(
        z=z, log_likelihood=likelihood, mode=(z[..., 0] > 0).astype(int),
        best=[np.stack([-np.ones(3), np.ones(3)])] * 2 + [np.ones((3, 3))],
        log_evidence=[1.0, 2.0, np.nan], log_evidence_error=[0.1, 0.2, np.nan], seconds=[6.0] * 3,
        p_value=[0.3, 1e-40, np.nan],
    )  # fmt: skip
    return unrelu.Posterior(problem, chains)


PLAIN = of_case("gaussian")
READ = ("z", "log_likelihood", "rhat", "ess", "tail_ess", "status", "message", "log_evidence", "log_evidence_error",
        "seconds", "acceptance", "p_value")  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_comes_back(tmp_path, name):
    p, path = of_case(name), tmp_path / "posterior.npz"
    operator = {"operator": torch.tanh} if name == "function" else {}
    for part in (p, p[np.zeros(3, dtype=bool)], p[1], p[[2, 0]]):
        part.save(path)
        for network in (p.problem.network,) if operator else (None, p.problem.network):
            again = unrelu.load_posterior(path, network, **operator)
            for field in READ:
                np.testing.assert_array_equal(getattr(again, field), getattr(part, field))
            assert str(again) == str(part)
            assert again.problem.seed == 7
        np.testing.assert_array_equal(again.reconstructions(5), part.reconstructions(5))
    for one, other in zip(p[0].modes, again[1].modes, strict=True):
        assert (one.weight, one.weight_error) == (other.weight, other.weight_error)
        np.testing.assert_array_equal(one.covariance, other.covariance)


def test_observations_that_were_cut_short_or_failed_come_back(tmp_path):
    first, second, _ = PLAIN.chains
    short = {name: getattr(second, name)[:, :50] for name in ("z", "log_likelihood", "mode")}
    stopped = SampledChains(**short, best=second.best, ended=Status.STOPPED)
    failed = SampledChains.without_draws(4, 3, Status.ERROR)
    p = unrelu.Posterior(PLAIN.problem, [first, stopped, failed])
    p.save(tmp_path / "posterior.npz")
    for network in (None, NET):
        again = unrelu.load_posterior(tmp_path / "posterior.npz", network)
        assert again.status[1:].tolist() == [Status.STOPPED, Status.ERROR]
        assert again[1].z.shape == (4, 50, 3)
        assert str(again) == str(p)


def test_without_the_network_what_concerns_codes_is_there(tmp_path):
    path = tmp_path / "posterior.npz"
    PLAIN[0].save(path)
    loaded = unrelu.load_posterior(path)
    assert loaded.plot_corner()._repr_png_()
    for use in (loaded.plot, lambda: loaded.reconstructions(2)):
        with pytest.raises(InputError, match=r"posterior was loaded without its network, .*load_posterior\(path, net"):
            use()


def test_another_network_or_operator_is_told(tmp_path):
    path = tmp_path / "posterior.npz"
    PLAIN.save(path)
    with pytest.raises(InputError, match="posterior was found on another network: the fingerprint"):
        unrelu.load_posterior(path, random_network((3, 8, 20), "leaky_relu:0.1", bias=True))
    with pytest.raises(OptionError, match="network is a str"):
        unrelu.load_posterior(path, "decoder.onnx")
    with pytest.raises(InputError, match="operator= is in the file"):
        unrelu.load_posterior(path, NET, operator=torch.tanh)
    of_case("function").save(path)
    with pytest.raises(InputError, match="by an operator that is code"):
        unrelu.load_posterior(path, NET)
    with pytest.raises(InputError, match="not the one that the posterior was measured with"):
        unrelu.load_posterior(path, NET, operator=torch.sigmoid)


def test_a_changed_number_is_told_by_the_digest(tmp_path):
    path = tmp_path / "posterior.npz"
    PLAIN.save(path)
    forged(path, digest=False, log_likelihood=lambda a: 0.5 * a)
    with pytest.raises(InputError, match=r"damaged .its numbers are not those that it was written with"):
        unrelu.load_posterior(path, NET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "unrelu result 1"}, r"holds a result: unrelu\.load_result"),
        ({"z": np.zeros((4, 240, 3))}, "damaged .z has shape"),
        ({"z": np.full((4, 360, 3), np.nan)}, "damaged .a draw is outside of the bounds, or no number"),
        ({"mode": np.full((4, 360), 3)}, "mode goes up to 3"),
        ({"draws": np.array([120, 120, 121])}, "damaged .z has shape"),
        ({"acceptance": np.full(3, 1.5)}, "damaged .acceptance is 1.5"),
        ({"seconds": np.zeros(2)}, "seconds has shape"),
        ({"ended": np.array(["MIXED", "", ""])}, "damaged .'MIXED'"),
        ({"ended": np.array(["", ""])}, "ended has 2 entries"),
        ({"modes": np.array([2, 2, 4])}, "damaged .best has shape"),
        ({"y": np.zeros((3, 7))}, "damaged .y has shape"),
        ({"bounds": np.array([[0.0] * 3, [1.0] * 3])}, "damaged .a draw is outside of the bounds"),
    ],
)  # fmt: skip
def test_files_that_hold_something_else_are_refused(tmp_path, changes, message):
    path = tmp_path / "posterior.npz"
    PLAIN.save(path)
    forged(path, **{name.replace(".", "__"): value for name, value in changes.items()})
    with pytest.raises(InputError, match=message):
        unrelu.load_posterior(path)

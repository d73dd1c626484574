"""A normal prior of some coordinates and bounds of others: the most probable code, its verdict, and its posterior."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from scipy.special import logsumexp
from scipy.stats import norm

import unrelu
from unrelu import Normal
from unrelu.diagnostics._goodness_of_fit import goodness_of_fit
from unrelu.errors import InputError
from unrelu.result.uniqueness import Uniqueness

S = 0.3
RNG = np.random.default_rng([37, 2])
CURVED = unrelu.from_arrays(
    [RNG.normal(0, 1, (24, 2)), RNG.normal(0, 0.3, (15, 24))],
    [RNG.normal(0, 0.5, 24), np.zeros(15)], activation=["tanh", "identity"],
).named(["h", "w"])  # fmt: skip
Y = CURVED([0.3, 0.8]) + S * RNG.normal(size=15)
PRIOR = Normal({"h": 0.5}, {"h": 0.2})
MATRIX, SHIFT = RNG.normal(size=(12, 4)), RNG.normal(size=12)
MEAN, STD = np.array([1.0, 0.0, 5000.0, 0.0]), np.array([0.5, np.inf, 300.0, np.inf])
SCALED = unrelu.from_arrays([MATRIX / [1, 1, 500, 1]], [SHIFT], activation="identity")
THERE = SCALED([0.7, -1.0, 5100.0, 2.0]) + S * RNG.normal(size=12)


def penalised(z, y=Y, network=CURVED):
    return ((y - network(z)) ** 2).sum(axis=-1) + S**2 * ((z[..., 0] - 0.5) / 0.2) ** 2


@pytest.mark.parametrize("method", ["auto", "lm", "gradient_descent", "adam"])
@pytest.mark.parametrize("upper", [2.0, 0.5])
def test_the_most_probable_code_is_that_of_scipy(method, upper):
    options = {"learning_rate": 0.05, "max_iterations": 4000} if method in ("adam", "gradient_descent") else {}
    r = unrelu.invert(CURVED, Y, method, noise=f"gaussian:{S}", prior=PRIOR, bounds={"w": (-2, upper)}, **options)
    ends = [(None, None), (-2, upper)]
    starts = np.random.default_rng(1).uniform([0, -2], [1, upper], (20, 2)) if method == "auto" else r.z[None]
    best = min((optimize.minimize(penalised, z, bounds=ends, tol=1e-12) for z in starts), key=lambda found: found.fun)
    np.testing.assert_allclose(r.fun, best.fun, rtol=1e-6)
    np.testing.assert_allclose(r.z, best.x, atol=1e-3)
    np.testing.assert_allclose(r.problem.objective(r.z[None])[0], penalised(r.z), rtol=1e-12)
    assert r.active_bounds.tolist() == [0, 1 if upper == 0.5 else 0]


def test_of_a_linear_generator_it_solves_the_normal_equations():
    r = unrelu.invert(SCALED, THERE, noise=f"gaussian:{S}", prior=Normal(MEAN, STD))
    matrix = MATRIX / [1, 1, 500, 1]
    hessian = matrix.T @ matrix / S**2 + np.diag(1 / STD**2)
    right = matrix.T @ (THERE - SHIFT) / S**2 + MEAN / STD**2
    np.testing.assert_allclose(r.z / [1, 1, 500, 1], np.linalg.solve(hessian, right) / [1, 1, 500, 1], atol=1e-6)
    np.testing.assert_allclose(r.laplace().covariance, np.linalg.inv(hessian), rtol=1e-6, atol=1e-12)


def test_the_fit_uses_up_the_trace_of_the_hat_matrix():
    problem = unrelu.Problem.build(SCALED, THERE, noise=f"gaussian:{S}", prior=Normal(MEAN, STD)).equilibrated()
    r = unrelu.invert(SCALED, THERE, noise=f"gaussian:{S}", prior=Normal(MEAN, STD))
    t = problem.units.latent.coordinates(r.z[None])
    found = goodness_of_fit(problem, t, problem.residual(t), Uniqueness.unknown(1)).used[0]
    matrix = MATRIX / [1, 1, 500, 1]
    used = np.trace(matrix @ np.linalg.solve(matrix.T @ matrix + S**2 * np.diag(1 / STD**2), matrix.T))
    np.testing.assert_allclose(found, used, rtol=1e-5)


def grid(low, high, count=301):
    axes = [np.linspace(a, b, count) for a, b in zip(low, high, strict=True)]
    codes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(low))
    return codes, np.prod([axis[1] - axis[0] for axis in axes])


@pytest.mark.parametrize("truncated", [False, True])
def test_the_posterior_is_that_of_quadrature(truncated):
    bounds = {"w": (-2, 2)} | ({"h": (0.25, 0.4)} if truncated else {})
    p = unrelu.posterior(CURVED, Y, noise=f"gaussian:{S}", prior=PRIOR, bounds=bounds, draws=500)
    z, cell = grid([0.25, -2] if truncated else [-0.5, -2], [0.4, 2] if truncated else [1.2, 2])
    logs = -0.5 * ((Y - CURVED(z)) ** 2).sum(axis=1) / S**2 + norm.logpdf(z[:, 0], 0.5, 0.2) - np.log(4)
    if truncated:
        logs -= np.log(np.diff(norm.cdf([0.25, 0.4], 0.5, 0.2)))
    weight = np.exp(logs - logsumexp(logs))
    mean = weight @ z
    std = np.sqrt(weight @ (z - mean) ** 2)
    assert p.status.name == "MIXED"
    np.testing.assert_allclose((p.mean - mean) / std, 0, atol=5 / np.sqrt(p.ess.min()))
    np.testing.assert_allclose(p.std / std, 1, atol=0.06)
    edges = 0.01 if truncated else 0.0  # the grid counts cells at its edges in full
    assert abs(p.log_evidence - logsumexp(logs) - np.log(cell)) < 5 * p.log_evidence_error + edges
    assert "h N(0.5, 0.2^2), the others uniform, all within their bounds" in " ".join(str(p).split())


@pytest.mark.parametrize(
    ("prior", "bounds", "message"),
    [
        (PRIOR, None, r"coordinate 1 \(w\) has an infinite std and is between -inf and inf"),
        (PRIOR, {"w": (0, np.inf)}, r"coordinate 1 \(w\) has an infinite std and is between 0 and inf"),
        (Normal(0, np.inf), {"w": (0, 1)}, "has an infinite std everywhere"),
        (Normal(0, {}), {"w": (0, 1)}, "has an infinite std everywhere"),
        (Normal({"H": 0}, {"H": 1}), None, r"'H' is none of the 2 coordinates.*did you mean 'h'"),
    ],
)
def test_a_posterior_needs_a_distribution_of_every_coordinate(prior, bounds, message, tmp_path):
    with pytest.raises(InputError, match=message):
        unrelu.posterior(CURVED, Y, noise=f"gaussian:{S}", prior=prior, bounds=bounds)
    with pytest.raises(InputError, match=message):
        unrelu.run(
            CURVED, Y[None], tmp_path / "out", noise=f"gaussian:{S}", prior=prior, bounds=bounds, posterior=100,
            workers=1,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_by_name_is_by_place():
    assert PRIOR.of_names(CURVED.names) == Normal([0.5, 0.0], [0.2, np.inf])
    assert Normal(std={"w": 2}).of_names(CURVED.names) == Normal([0.0, 0.0], [np.inf, 2.0])
    assert hash(PRIOR) == hash(Normal({"h": 0.5}, {"h": 0.2}))
    one, other = (Normal(std=dict(pairs)) for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)]))
    assert one == other
    assert hash(one) == hash(other)
    assert str(PRIOR) == "Normal({h: 0.5}, {h: 0.2})"


def test_nuisance_parameters_keep_their_own_prior():
    wide = unrelu.extend(CURVED, offset=(-1, 1))
    assert PRIOR.of_names(wide.names) == Normal([0.5, 0.0, 0.0], [0.2, np.inf, 1.0])
    assert Normal(std={}).of_names(wide.names) == Normal(np.zeros(3), [np.inf, np.inf, 1.0])


def test_a_result_and_a_run_keep_it(tmp_path):
    options = {"noise": f"gaussian:{S}", "prior": PRIOR, "bounds": {"w": (-2, 2)}}
    r = unrelu.invert(CURVED, Y, "lm", z0=[0.3, 0.8], **options)
    r.save(tmp_path / "r.npz")
    again = unrelu.load_result(tmp_path / "r.npz", CURVED)
    assert again.fun == r.fun
    assert again.p_value == r.p_value
    run = unrelu.run(CURVED, Y[None], tmp_path / "out", "lm", workers=1, **options)
    assert run.manifest["prior"] == {"mean": [0.5, 0.0], "std": [0.2, "inf"]}
    np.testing.assert_allclose(run.read("objective"), r.fun, rtol=1e-6)
    resumed = unrelu.run(CURVED, Y[None], tmp_path / "out", "lm", workers=1, **options)
    assert resumed.finished

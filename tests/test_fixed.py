"""``fixed=``: coordinates held at a value, which no method meets, and which results keep."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

import unrelu
from unrelu.errors import InputError

K, N, SIGMA = 4, 25, 0.05
RNG = np.random.default_rng(49)
NET = unrelu.from_arrays(
    [RNG.normal(size=(12, K)), RNG.normal(size=(N, 12))], [RNG.normal(size=12), RNG.normal(size=N)],
    activation=["tanh", "identity"],
).named(["a", "b", "c", ""])  # fmt: skip
Z = np.array([0.4, -0.3, 0.2, 0.7])
Y = NET(Z) + SIGMA * RNG.normal(size=N)
NOISE = f"gaussian:{SIGMA}"


def chi_square(free: np.ndarray, held: dict[int, float], prior: float = 0.0) -> float:
    z = np.empty(K)
    z[[j for j in range(K) if j not in held]] = free
    z[list(held)] = list(held.values())
    return float(np.square(Y - NET(z)).sum() / SIGMA**2 + prior * np.square(z).sum())


@pytest.mark.parametrize("method", ["auto", "lm", "adam"])
def test_the_best_of_the_other_coordinates_is_found(method):
    held = {1: -0.1, 3: 0.5}
    wanted = optimize.minimize(chi_square, [0.0, 0.0], args=(held,), tol=1e-12)
    r = unrelu.invert(NET, Y, method, noise=NOISE, fixed={"b": -0.1, 3: 0.5})
    assert r.z[1] == -0.1
    assert r.z[3] == 0.5
    assert r.fun / SIGMA**2 == pytest.approx(wanted.fun, rel=1e-3 if method == "adam" else 1e-7)
    assert (r.rank, r.identifiable) == (2, True)
    assert not r.active_bounds.any()
    assert "b = -0.1, z[3] = 0.5" in str(r)


def test_equal_bounds_mean_the_same_and_the_prior_counts():
    prior = unrelu.Normal(0.0, 1.0)
    r = unrelu.invert(NET, Y, noise=NOISE, fixed={"b": -0.1}, prior=prior)
    lower, upper = np.full(K, -np.inf), np.full(K, np.inf)
    lower[1] = upper[1] = -0.1
    same = unrelu.invert(NET, Y, noise=NOISE, bounds=(lower, upper), prior=prior)
    np.testing.assert_array_equal(r.z, same.z)
    wanted = optimize.minimize(chi_square, np.zeros(3), args=({1: -0.1}, 1.0), tol=1e-12)
    assert r.fun / SIGMA**2 == pytest.approx(wanted.fun, rel=1e-7)


def test_laplace_is_that_of_the_other_coordinates():
    r = unrelu.invert(NET, Y, noise=NOISE, fixed={"c": 0.2})
    local, free = r.laplace(), [0, 1, 3]
    jacobian = NET.jacobian(r.z)[:, free]
    expected = np.linalg.inv(jacobian.T @ jacobian) * SIGMA**2
    np.testing.assert_allclose(local.covariance[np.ix_(free, free)], expected, rtol=1e-6)
    assert local.std[2] == 0
    assert not local.held.any()


def test_a_file_keeps_what_was_fixed(tmp_path):
    r = unrelu.invert(NET, Y, noise=NOISE, fixed={"c": 0.2})
    r.save(tmp_path / "r.npz")
    again = unrelu.load_result(tmp_path / "r.npz", NET)
    assert again.z[2] == 0.2
    assert (again.rank, again.fun, str(again)) == (r.rank, r.fun, str(r))


def test_a_posterior_is_that_of_the_other_coordinates(tmp_path):
    linear = unrelu.from_arrays([RNG.normal(size=(9, 3))], activation="identity")
    matrix, y = linear.layers[0].matrix(), RNG.normal(size=9)
    p = unrelu.posterior(linear, y, noise="gaussian:1", fixed={1: 0.5}, draws=500)
    free = matrix[:, [0, 2]]
    covariance = np.linalg.inv(free.T @ free + np.eye(2))
    mean = covariance @ free.T @ (y - 0.5 * matrix[:, 1])
    assert p.status.name == "MIXED"
    np.testing.assert_allclose(p.mean[[0, 2]], mean, atol=0.1)
    np.testing.assert_allclose(p.std[[0, 2]], np.sqrt(np.diag(covariance)), rtol=0.1)
    assert (p.z[..., 1] == 0.5).all()
    assert p.std[1] == 0
    evidence = stats.multivariate_normal(0.5 * matrix[:, 1], free @ free.T + np.eye(9)).logpdf(y)
    constant = -0.5 * 9 * np.log(2 * np.pi)
    assert p.log_evidence + constant == pytest.approx(evidence, abs=0.05)
    p.save(tmp_path / "p.npz")
    assert unrelu.load_posterior(tmp_path / "p.npz", linear).status.name == "MIXED"


def test_a_nuisance_parameter_is_fixed_and_bounded_in_its_own_units():
    extended = unrelu.extend(NET, scale=(0.5, 2.0), offset=unrelu.Normal(0.0, 0.1))
    y = 1.2 * NET(Z) + 0.05 + SIGMA * RNG.normal(size=N)
    r = unrelu.invert(extended, y, noise=NOISE, fixed={"scale": 1.2}, bounds={"offset": (0.0, 0.04)})
    assert r.parameters["scale"] == pytest.approx(1.2, abs=1e-12)
    assert 0.0 <= r.parameters["offset"] <= 0.04 + 1e-12
    free = unrelu.invert(extended, y, noise=NOISE, fixed={"scale": 1.2, "offset": 0.0})
    alone = unrelu.invert(NET, y / 1.2, noise=f"gaussian:{SIGMA / 1.2}")
    np.testing.assert_allclose(free.z[:K], alone.z, atol=1e-6)


def test_nuisance_parameters_alone_can_be_free():
    extended = unrelu.extend(NET, scale=(0.5, 2.0))
    y = 1.3 * NET(Z) + SIGMA * RNG.normal(size=N)
    r = unrelu.invert(extended, y, noise=NOISE, fixed=dict(enumerate(Z)))
    best = NET(Z) @ y / (NET(Z) @ NET(Z))
    assert r.parameters["scale"] == pytest.approx(best, rel=1e-6)


def test_a_proof_is_about_the_codes_with_the_fixed_coordinate():
    net = unrelu.from_arrays([RNG.normal(size=(5, 2)), RNG.normal(size=(6, 5))], activation=["relu", "identity"])
    y = RNG.normal(size=6)
    c = unrelu.certify(net, y, fixed={0: 0.3}, bounds=(-1.0, 1.0), box=False)
    grid = np.column_stack([np.full(4001, 0.3), np.linspace(-1, 1, 4001)])
    best = np.abs(y - net(grid)).max(axis=1).min()
    assert c.lower <= best
    assert c.upper == pytest.approx(best, abs=1e-3)
    assert c.verify(net, y)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"d": 1.0}, "'d' is none of the 4 coordinates.*those with names are a, b, c"),
        ({7: 1.0}, "7 is none of the 4 coordinates"),
        ({"a": [1.0, 2.0]}, "'a' has .*pass one finite number"),
        ({"a": np.nan}, "'a' has nan; pass one finite number"),
        ({"a": 3.0}, "'a' has 3.0; pass one finite number from -2 to 2"),
        (dict.fromkeys(range(K), 0.1), "all coordinates have a value"),
        ([1.0], "must be a dictionary of values by name or place"),
    ],
)
def test_what_cannot_be_fixed_is_refused(fixed, message):
    with pytest.raises(InputError, match=message):
        unrelu.invert(NET, Y, fixed=fixed, bounds=(-2, 2))


def test_a_run_keeps_coordinates_fixed(tmp_path):
    run = unrelu.run(NET, np.stack([Y, Y]), tmp_path / "out", noise=NOISE, fixed={"b": -0.1}, workers=1)
    r = unrelu.invert(NET, Y, noise=NOISE, fixed={"b": -0.1})
    np.testing.assert_allclose(run.column("codes"), np.stack([r.z, r.z]), atol=1e-7)

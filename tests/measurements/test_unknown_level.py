"""Gaussian noise with an unknown level: its estimate, its likelihood, verdicts, posteriors and profiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

import unrelu
from unrelu.errors import InputError, OptionError, UnreluError
from unrelu.measurements.unknown_level import MarginalGaussian, Variances

K = 2


@pytest.fixture(scope="module")
def design() -> Any:
    return np.random.default_rng(5).standard_normal((40, K))


@pytest.fixture(scope="module")
def linear(design: Any) -> Any:
    """A linear model G(z) = W z, for which everything is known in closed form."""
    return unrelu.from_arrays([design], activation="identity")


def observed(design: Any, deviation: Any, size: int | None = None, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    shape = (len(design),) if size is None else (size, len(design))
    return (design @ rng.standard_normal((K, size or 1))).T.reshape(shape) + deviation * rng.standard_normal(shape)


def variances(m: int, known: Any = 0.1, high: float = 3.0, members: Any = 0) -> Variances:
    return Variances(
        np.broadcast_to(known, m) ** 2.0, np.linspace(0.5, 2.0, m), np.array([[0.0, high]]),
        np.broadcast_to(members, m),
    )  # fmt: skip


# --- the estimate -----------------------------------------------------------------------------------------------------


def test_the_level_maximises_the_likelihood_where_nothing_was_fitted() -> None:
    own = variances(50, np.linspace(0.1, 0.6, 50))
    r = np.random.default_rng(2).standard_normal(50) * 0.8

    def value(level: float) -> float:
        v = own.at(np.array([level]))
        return float((r**2 / v + np.log(v)).sum())

    (level,), (error,) = own.fitted(r, np.ones(50))
    assert level == pytest.approx(optimize.minimize_scalar(value, bounds=(0, 3), method="bounded").x, rel=1e-4)
    # The error is that of the expected information; the observed one is near it for 50 entries.
    step = 1e-3
    curvature = (value(level + step) - 2 * value(level) + value(level - step)) / step**2 / 2
    assert error == pytest.approx(curvature**-0.5, rel=0.3)


def test_levels_beyond_a_range_are_at_its_end() -> None:
    r = np.random.default_rng(2).standard_normal(50)
    assert variances(50, high=0.2).fitted(r, np.ones(50))[0][0] == 0.2
    level, error = variances(50).fitted(1e-3 * r, np.ones(50))
    assert level[0] == 0.0
    assert 0 < error[0] < 0.1


def test_the_level_of_a_linear_model_is_the_residual_standard_error(design: Any, linear: Any) -> None:
    y = observed(design, 0.7)
    r = unrelu.invert(linear, y, noise=unrelu.Gaussian(0.3, extra=(0, 5)))
    z, residual, *_ = np.linalg.lstsq(design, y)
    assert np.allclose(r.z, z, atol=1e-6)
    variance = residual[0] / (len(y) - K)
    assert r.levels["extra"].value == pytest.approx((variance - 0.3**2) ** 0.5, rel=1e-3)
    assert r.levels["extra"].error == pytest.approx(
        variance / r.levels["extra"].value / (2 * (len(y) - K)) ** 0.5, rel=1e-3
    )
    assert r.success
    assert np.isnan(r.p_size)  # the size of the noise is fitted, so that it says nothing
    assert "noise level  extra = " in str(r)


def test_a_relative_level_is_the_weighted_estimate(design: Any, linear: Any) -> None:
    clean = observed(design, 0.0)
    y = clean * (1 + 0.1 * np.random.default_rng(4).standard_normal(len(clean)))
    r = unrelu.invert(linear, y, noise=unrelu.Gaussian(0.01, relative=(0, 1)))
    x = design @ r.z
    v = 0.01**2 + (r.levels["relative"].value * x) ** 2
    # The code is that of weighted least squares, and the squares of the residuals have their expected sum.
    assert np.allclose(r.z, np.linalg.lstsq(design / v[:, None] ** 0.5, y / v**0.5)[0], rtol=1e-2, atol=1e-3)
    assert r.levels["relative"].value == pytest.approx(0.1, abs=4 * r.levels["relative"].error)


def test_parts_have_levels_of_their_own(design: Any, linear: Any) -> None:
    deviations = np.repeat([0.2, 1.0], 20)
    parts = linear.with_parts({"a": 20, "b": 20})
    y = observed(design, deviations)
    both = unrelu.invert(parts, y, noise=unrelu.Gaussian(0.01, extra={"a": (0, 2), "b": (0, 3)}))
    # Part a determines the code, as its errors are some ten times smaller.
    of_a, residual, *_ = np.linalg.lstsq(design[:20], y[:20])
    assert both.levels["a"].value == pytest.approx((residual[0] / 18) ** 0.5, rel=0.03)
    assert both.levels["b"].value == pytest.approx(np.sqrt(np.mean((y[20:] - design[20:] @ of_a) ** 2)), rel=0.1)
    stated = {"a": 0.2, "b": unrelu.Gaussian(0.01, extra=(0, 3))}
    one = unrelu.invert(parts, {"a": y[:20], "b": y[20:]}, noise=stated)
    assert list(one.levels) == ["b"]
    assert np.isfinite(one.p_size)  # part a has a known size
    alone = unrelu.invert(parts, {"b": y[20:]}, noise=unrelu.Gaussian(0.01, extra={"b": (0, 3)}))
    residual = np.linalg.lstsq(design[20:], y[20:])[1][0]
    assert alone.levels["b"].value == pytest.approx((residual / 18 - 0.01**2) ** 0.5, rel=1e-3)


def test_small_p_values_are_uniform_with_the_level_fitted(design: Any, linear: Any) -> None:
    y = observed(design, 0.5, 400, seed=8)
    r = unrelu.invert(linear, y, "lm", noise=unrelu.Gaussian(0.01, extra=(0, 5)))
    for p in (0.02, 0.1, 0.2):  # above, Sidak's inequality is not sharp for shares of one sum
        assert stats.binomtest(int((r.p_value < p).sum()), 400, p).pvalue > 1e-3
    assert r.levels["extra"].value.shape == (400,)
    assert np.array_equal(r[3].levels["extra"].value, r.levels["extra"].value[3])


def test_a_stranger_is_a_misfit_where_the_level_would_exceed_its_range(design: Any, linear: Any) -> None:
    r = unrelu.invert(linear, observed(design, 3.0), noise=unrelu.Gaussian(0.1, extra=(0, 0.5)))
    assert r.status is unrelu.Status.MISFIT
    assert r.levels["extra"].value == 0.5
    assert r.p_size < 0.01


def test_a_misfit_of_stated_noise_says_how_to_fit_the_level(design: Any, linear: Any) -> None:
    r = unrelu.invert(linear, observed(design, 3.0), noise="gaussian:0.1")
    assert "extra=(0, 1)" in r.message
    assert "extra=(0, 1)" in str(r)


def test_results_keep_their_levels_in_files(design: Any, linear: Any, tmp_path: Any) -> None:
    parts = linear.with_parts({"a": 20, "b": 20})
    noise = unrelu.Gaussian(0.01, extra={"a": (0, 2), "b": (0, 3)})
    r = unrelu.invert(parts, observed(design, 0.5), noise=noise)
    r.save(tmp_path / "r.npz")
    assert unrelu.load_result(tmp_path / "r.npz").levels == r.levels
    p = unrelu.posterior(parts, observed(design, 0.5), noise=noise, draws=100, chains=2)
    p.save(tmp_path / "p.npz")
    again = unrelu.load_posterior(tmp_path / "p.npz", parts)
    assert all(np.array_equal(again.levels[name], p.levels[name]) for name in ("a", "b"))


# --- the likelihood without the level ---------------------------------------------------------------------------------


def test_the_marginal_likelihood_is_the_integral() -> None:
    own = variances(30, 0.4)
    r = np.random.default_rng(3).standard_normal((4, 30)) * np.array([[0.1], [0.5], [1.0], [3.0]])

    def integrand(level: float, square: Any) -> float:
        v = own.at(np.array([level]))
        return float(np.exp(-0.5 * (square / v + np.log(v)).sum())) / 3.0

    expected = [
        -2 * np.log(integrate.quad(integrand, 0, 3, (each,), epsabs=0, epsrel=1e-10, limit=500)[0]) for each in r**2
    ]
    marginal, y = MarginalGaussian(variances=own), torch.from_numpy(r)
    total = marginal.total(y, torch.zeros_like(y), torch.ones_like(y)).numpy() + marginal.floor
    assert total == pytest.approx(expected, abs=1e-3)


def test_the_scores_are_derivatives() -> None:
    marginal = MarginalGaussian(variances=variances(12, members=np.repeat([0, -1], 6)))
    y = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 12)))
    mean = torch.zeros_like(y, requires_grad=True)
    marginal.total(y, mean, torch.ones_like(y)).sum().backward()  # type: ignore[no-untyped-call]
    half, weight = marginal.scoring(y, mean.detach())
    assert torch.allclose(2 * half, mean.grad)
    assert (weight > 0).all()


def test_the_posterior_is_that_of_a_grid() -> None:
    """One coordinate and one level: all of their density is known on a grid."""
    w, rng = np.linspace(1, 2, 15), np.random.default_rng(6)
    y = 0.4 * w + 0.5 * rng.standard_normal(15)
    network = unrelu.from_arrays([w[:, None]], activation="identity")
    p = unrelu.posterior(network, y, noise=unrelu.Gaussian(0.2, extra=(0, 2)), draws=2000)
    z, level = np.linspace(-1.5, 2, 701)[:, None], np.linspace(0, 2, 801)[None]
    v, square = 0.2**2 + level**2, ((y - z[..., None] * w) ** 2).sum(axis=2)
    density = np.exp(-0.5 * (square / v + 15 * np.log(v) + z**2))
    total = density.sum()
    mean, mean_level = (density * z).sum() / total, (density * level).sum() / total
    std = ((density * z**2).sum() / total - mean**2) ** 0.5
    std_level = ((density * level**2).sum() / total - mean_level**2) ** 0.5
    assert p.status is unrelu.Status.MIXED
    # 16,000 draws that are nearly independent; five standard errors.
    assert p.mean[0] == pytest.approx(mean, abs=5 * std / 80)
    assert p.std[0] == pytest.approx(std, rel=0.08)
    levels = p.levels["extra"]
    assert levels.mean() == pytest.approx(mean_level, abs=5 * std_level / 80)
    assert levels.std() == pytest.approx(std_level, rel=0.08)
    # The evidence is relative to an exact fit under the known errors.
    scale = (2 * np.pi) ** 0.5 * 2 * 0.2**15
    steps = np.prod([np.diff(z[:2, 0])[0], np.diff(level[0, :2])[0]])
    evidence = np.log(total * steps) - np.log(scale) + 15 * np.log(0.2) * 2
    assert p.log_evidence == pytest.approx(evidence, abs=5 * p.log_evidence_error)
    assert "noise level  extra = " in str(p)


def test_hidden_entries_do_not_change_the_posterior(design: Any, linear: Any) -> None:
    y, mask = observed(design, 0.5), np.repeat([1, 0], 20)
    noise = unrelu.Gaussian(0.1, extra=(0, 2))
    hidden = unrelu.posterior(linear, y, noise=noise, operator=mask, draws=500)
    short = unrelu.posterior(unrelu.from_arrays([design[:20]], activation="identity"), y[:20], noise=noise, draws=500)
    assert np.allclose(hidden.mean, short.mean, atol=5 * short.std / 40)
    spread = short.levels["extra"].std()
    assert hidden.levels["extra"].mean() == pytest.approx(short.levels["extra"].mean(), abs=5 * spread / 40)


def test_profiles_fit_the_level_at_each_value(design: Any, linear: Any) -> None:
    y = observed(design, 0.7)
    best = unrelu.invert(linear, y, "lm", noise=unrelu.Gaussian(0.01, extra=(0, 5)))
    values = best.z[0] + np.array([-0.3, -0.1, 0.1, 0.3])
    f = unrelu.profile(linear, y, 0, values, noise=unrelu.Gaussian(0.01, extra=(0, 5)))

    def log_likelihood(value: float | None) -> float:
        rest = design if value is None else design[:, 1:]
        target = y if value is None else y - value * design[:, 0]
        square, free = np.linalg.lstsq(rest, target)[1][0], len(y) - rest.shape[1]
        return float(len(y) * np.log(square / free) + free)

    expected = [log_likelihood(value) - log_likelihood(None) for value in values]
    assert f.delta == pytest.approx(expected, abs=1e-2 * max(expected))


# --- bad input --------------------------------------------------------------------------------------------------------

REFUSED = {
    "level and range": (lambda: unrelu.Gaussian(extra=(0, 1)), InputError, "beside the range"),
    "both ranges": (lambda: unrelu.Gaussian(1.0, extra=(0, 1), relative=(0, 1)), InputError, "extra and relative"),
    "covariance": (lambda: unrelu.Gaussian(covariance=np.eye(2), extra=(0, 1)), InputError, "extra and covariance"),
    "below 0": (lambda: unrelu.Gaussian(1.0, extra=(-1, 1)), InputError, r"extra=\(-1, 1\): pass \(lowest, highest\)"),
    "reversed": (lambda: unrelu.Gaussian(1.0, relative=(1, 0)), InputError, "0 <= lowest < highest"),
    "a number": (lambda: unrelu.Gaussian(1.0, extra=0.5), InputError, "extra=0.5"),
    "infinite": (lambda: unrelu.Gaussian(1.0, extra=(0, np.inf)), InputError, "finite"),
    "a sum": (lambda: unrelu.Gaussian(1.0, extra=(0, 1)) + unrelu.Gaussian(1.0), InputError, "sum the known errors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_ranges_that_are_refused(case: str) -> None:
    make, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        make()


CALLS: dict[str, tuple[Any, type[UnreluError], str]] = {
    "no such part": (lambda g, y, n: unrelu.invert(g, y, noise=unrelu.Gaussian(1.0, extra={"c": (0, 1)})), InputError,
                     "'c'; those of the output are a, b"),
    "part not seen": (lambda g, y, n: unrelu.invert(g, {"a": y[:20]}, noise=unrelu.Gaussian(1.0, extra={"b": (0, 1)})),
                      InputError, "extra= has the part 'b', and y has not"),
    "method": (lambda g, y, n: unrelu.invert(g, y, "adam", noise=n), OptionError, "auto and lm"),
    "norm": (lambda g, y, n: unrelu.invert(g, y, noise=n, norm="l1"), InputError, "leave norm= out"),
    "certify": (lambda g, y, n: unrelu.certify(g, y, noise=n, bounds=(-1, 1)), InputError, "needs a known level"),
    "calibrate": (lambda g, y, n: unrelu.calibrate(g, noise=n), InputError, "needs a known level"),
    "run": (lambda g, y, n: unrelu.run(g, y[None], "/nonexistent", noise=n), InputError, "needs a known level"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_calls_that_are_refused(case: str, design: Any, linear: Any) -> None:
    call, error, text = CALLS[case]
    with pytest.raises(error, match=text):
        call(linear.with_parts({"a": 20, "b": 20}), observed(design, 0.5), unrelu.Gaussian(1.0, extra=(0, 1)))

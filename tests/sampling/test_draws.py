"""What a posterior says of its draws: means, intervals, modes, the verdict, and what is printed."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import norm

import unrelu
from tests.sampling.known_posteriors import NET, known, normal_draws
from tests.support import random_network
from unrelu import Status
from unrelu.errors import NotMixedWarning, OptionError
from unrelu.runtime.streams import stream
from unrelu.sampling.convergence import convergence_of


def mixture(weight: float = 0.7, correlation: float = 0.0) -> np.ndarray:
    """Draws (1, 8, 1000, 3) of a mixture of N(2, .5^2) with this weight and N(-2, .5^2); the other coordinates normal.

    ``correlation`` is that of successive indicators of the component.
    """
    z, uniform = normal_draws(1, 8, 1000, 3), stream("component").random((8, 1000))
    inside = uniform < weight
    keep = stream("kept component").random((8, 1000)) < correlation
    for t in range(1, 1000):
        inside[:, t] = np.where(keep[:, t], inside[:, t - 1], inside[:, t])
    z[0, :, :, 0] = 0.5 * z[0, :, :, 0] + np.where(inside, 2.0, -2.0)
    return z


GOOD = known(normal_draws(1, 8, 1000, 3), single=True)
APART = known(normal_draws(1, 8, 1000, 3) + np.arange(8)[:, None, None] * (np.arange(3) == 1), single=True)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_mean_std_covariance_and_intervals_are_those_of_all_draws():
    flat = GOOD.z.reshape(-1, 3)
    np.testing.assert_allclose(GOOD.mean, flat.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(GOOD.std, flat.std(axis=0, ddof=1))
    np.testing.assert_allclose(GOOD.covariance, np.cov(flat.T))
    lower, upper = GOOD.interval(0.9)
    inside = (flat >= lower) & (flat <= upper)
    np.testing.assert_allclose(inside.mean(axis=0), 0.9, atol=1e-3)
    np.testing.assert_allclose((flat < lower).mean(axis=0), 0.05, atol=1e-3)
    # Of N(0, 1): the mean is off by 1 / sqrt(8000), the quantiles by about twice that.
    np.testing.assert_allclose(GOOD.mean, 0, atol=5 / math.sqrt(8000))
    np.testing.assert_allclose(upper, 1.645, atol=10 / math.sqrt(8000))


def test_reconstructions_are_those_of_evenly_spaced_draws():
    made = GOOD.reconstructions(8)
    assert made.shape == (8, 20)
    np.testing.assert_array_equal(made, NET(GOOD.z[:, 500]))
    lower, upper = GOOD.interval(0.5, of="reconstruction")
    outputs = NET(GOOD.z.reshape(-1, 3))
    for beyond in (outputs < lower, outputs > upper):  # less where a ReLU is often 0
        assert (beyond.mean(axis=0) < 0.25 + 0.03).all()
    smooth = (outputs > 0).all(axis=0)
    np.testing.assert_allclose(((outputs < lower) | (outputs > upper)).mean(axis=0)[smooth], 0.5, atol=0.05)


def test_modes_have_weights_with_standard_errors():
    p = known(mixture(0.7), single=True)
    heavy, light = p.modes
    assert heavy.z.tolist() == [1, 1, 1]
    assert heavy.weight + light.weight == pytest.approx(1)
    assert abs(heavy.weight - 0.7) < 4 * heavy.weight_error
    assert heavy.weight_error == pytest.approx(math.sqrt(0.21 / 8000), rel=0.2)
    np.testing.assert_allclose(light.covariance, np.diag([0.25, 1, 1]), atol=6 * math.sqrt(2 / 2400))


def test_modes_without_draws_are_left_out():
    p = known(np.abs(normal_draws(1, 4, 200, 3)), single=True)
    (mode,) = p.modes
    assert (mode.weight, mode.weight_error) == (1, 0)
    assert "1; 1 further optimum without draws" in str(p)


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_chains_that_agree_are_mixed():
    assert GOOD.status is Status.MIXED
    statistics = convergence_of(GOOD.z)
    for name in ("rhat", "ess", "tail_ess"):
        np.testing.assert_array_equal(getattr(GOOD, name), getattr(statistics, name))
    assert f"{math.floor(min(statistics.ess)):,} effective draws" in GOOD.message or "log" in GOOD.message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(GOOD.mean).all()


def test_chains_at_other_places_are_not_mixed_and_warn():
    assert APART.status is Status.NOT_MIXED
    assert "R-hat is 2." in APART.message
    assert "at z[1], above 1.01" in APART.message
    for read, what in (
        (lambda p: p.mean, "means"),
        (lambda p: p.std, "standard deviations"),
        (lambda p: p.covariance, "covariances"),
        (lambda p: p.interval(0.9), "intervals"),
    ):
        with pytest.warns(NotMixedWarning, match=f"^{what} may not be those of the posterior; the chains") as found:
            read(APART)
        assert found[0].filename == __file__
    assert len(APART.modes) == 2  # without a warning


def test_too_few_draws_say_how_many_may_be_enough():
    p = known(normal_draws(1, 8, 30, 3), single=True)
    assert (p.rhat < 1.1).all()
    assert p.status is Status.NOT_MIXED
    assert ("the chains agree" in p.message) == (p.chains[0].worst("rhat")[0] <= 1.01)
    lines = np.stack([stream("permutation", i).permutation(norm.ppf((np.arange(96) + 0.5) / 96)) for i in range(12)])
    even = known(lines.reshape(1, 4, 3, 96).swapaxes(2, 3), single=True, log_likelihood=np.zeros((1, 4, 96)))
    assert "the chains agree, and draws=" in even.message


def test_draws_after_a_stop_and_failed_observations_are_left_out():
    z = normal_draws(3, 4, 500, 3)
    z[1, 2, 300:] = np.nan
    z[2] = np.nan
    p = known(z, ended=np.array([None, Status.STOPPED, Status.ERROR], dtype=object))
    assert [status.name for status in p.status] == ["MIXED", "MIXED", "ERROR"]
    assert p[1].z.shape == (4, 300, 3)
    np.testing.assert_allclose(p.chains[1].mean, z[1, :, :300].reshape(-1, 3).mean(axis=0), atol=1e-12)
    with pytest.warns(
        NotMixedWarning, match="means of 1 of 3 observations may .*; observation 2: could not be sampled"
    ):
        assert np.isnan(p.mean[2]).all()
    assert np.isnan(p.rhat[2]).all()
    assert p.modes[2] == ()
    assert np.isnan(p.reconstructions(4)[2]).all()
    assert "could not be sampled" in str(p[2])
    assert len(str(p).splitlines()) <= 15


def test_the_prior_is_printed():
    for fields, said in (
        ({}, "N(0, 1)"),
        ({"bounds": (-9, 9)}, "uniform within the bounds"),
        ({"bounds": (-9, np.inf)}, "N(0, 1) within the bounds"),
        ({"bounds": (-9, [9, np.inf, 9])}, "uniform between two bounds, N(0, 1) for coordinates without"),
    ):
        p = known(normal_draws(1, 4, 20, 3), single=True, **fields)
        assert any(" ".join(line.split()) == f"prior {said}" for line in str(p).replace("Normal", "N").splitlines())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "A_planck N(1, 0.0025^2), offset uniform from -1 to 1, the others Normal(0, 1)"),
        ({"bounds": {"h": (0, 1), "b": (0, 1)}}, "offset uniform from -1 to 1, the others uniform within the bounds"),
        ({"bounds": {"A_planck": (0.99, 1.01), "offset": (0, 0.5)}},
         "A_planck N(1, 0.0025^2) from 0.99 to 1.01, offset uniform from 0 to 0.5, the others Normal(0, 1)"),
        ({"prior": unrelu.Normal({"h": 0.5}, {"h": 0.1}), "bounds": {"b": (0, 1)}},
         "h N(0.5, 0.1^2), A_planck N(1, 0.0025^2), offset uniform from -1 to 1, the others uniform, all within their "
         "bounds"),
        ({"prior": unrelu.Normal(0.0, 2.0)}, "Normal(0, 2)"),
        ({"fixed": {"offset": 0.1}}, "prior A_planck N(1, 0.0025^2), the others Normal(0, 1)"),
        ({"fixed": {"h": 0.5}}, "fixed h = 0.5 modes"),
    ],
)  # fmt: skip
def test_the_prior_of_nuisance_parameters_is_printed(options, said):
    """In the parameters' own units, of those that are free."""
    net = unrelu.extend(
        random_network((2, 5), "identity").named(["h", "b"]), lambda x, A_planck: A_planck * x,
        A_planck=unrelu.Normal(1, 0.0025), offset=(-1, 1),
    )  # fmt: skip
    p = unrelu.posterior(net, net(np.full(4, 0.5)), noise="gaussian:1", draws=4, chains=2, **options)
    assert said in " ".join(str(p).split())


def test_a_batch_without_observations():
    p = known(normal_draws(2, 4, 20, 3))[np.zeros(2, dtype=bool)]
    assert len(p) == 0
    assert not p
    assert str(p) == "Posterior of no observation"
    assert p.mean.shape == p.std.shape == p.rhat.shape == (0, 3)
    assert p.interval(0.9)[0].shape == (0, 3)
    assert p.covariance.shape == (0, 3, 3)
    assert p.modes == []


# --- a batch ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_sequence_of_posteriors():
    z = normal_draws(5, 4, 300, 3)
    z[3, 1] += 3
    p = known(z)
    assert len(p) == 5
    assert [one.status for one in p] == list(p.status)
    one, some, good = p[3], p[1:4], p[p.status == Status.MIXED]
    np.testing.assert_array_equal(one.z, z[3])
    assert (one.log_evidence, one.seconds, one.acceptance) == (-3.25, 0.6, 0.8)
    np.testing.assert_array_equal(some.rhat, p.rhat[1:4])
    assert len(good) == 4
    assert repr(p) == "<Posterior: 5 observations, 4 mixed, 4 chains of 300 draws>"
    assert repr(one) == "<Posterior: one observation, NOT_MIXED, 4 chains of 300 draws>"
    assert str(p).splitlines()[5].split()[:2] == ["index", "status"]
    with pytest.raises(TypeError, match="cannot be indexed"):
        one[0]
    with pytest.raises(TypeError, match=r"no len\(\)"):
        len(one)
    with pytest.raises(IndexError):
        p[5]
    with pytest.raises(IndexError, match="indexed by observations"):
        p[np.zeros((2, 2), dtype=int)]


# --- printing ---------------------------------------------------------------------------------------------------------


def test_whether_the_chains_have_mixed_is_printed_first():
    good, bad = str(GOOD).splitlines(), str(APART).splitlines()
    assert good[0] == "Posterior of one observation, 8 chains of 1,000 draws: mixed"
    assert bad[0].endswith("not mixed, do not rely on these numbers")
    assert bad[1].startswith("  NOT_MIXED  ")
    assert any("log p(y) = -3.25 ± 0.05, up to a constant of y" in line for line in good)
    assert any("80.0% accepted, 3 s" in line for line in good)
    for lines in (good, bad):
        assert len(lines) <= 15
        assert max(map(len, lines)) <= 100


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, -0.1, 90, True, "0.9", None, math.nan])
def test_levels_that_are_no_probabilities_are_refused(level):
    with pytest.raises(OptionError, match="must be a probability between 0 and 1"):
        GOOD.interval(level)


def test_other_arguments_are_checked():
    with pytest.raises(OptionError, match="did you mean 'reconstruction'"):
        GOOD.interval(0.9, of="reconstructions")
    for count in (0, 1.5, True):
        with pytest.raises(OptionError, match="whole number of at least 1"):
            GOOD.reconstructions(count)

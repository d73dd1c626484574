"""A noise model of a user's own: Student's t, as docs/extending.md has it, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import unrelu
from tests.support import farthest, random_network
from unrelu.errors import InputError
from unrelu.measurements import Likelihood, noise
from unrelu.runs.chunk_work import chunk_seed
from unrelu.runtime.streams import stream

NET = random_network((3, 20, 80), bias=True)
TRUTH = stream("own noise").standard_normal((400, 3))


@dataclass(frozen=True, eq=False)
class StudentT(Likelihood):
    """Errors level * t, t with Student's distribution."""

    freedom: float = 3.0
    name = "heavy-tailed"

    def deviance(self, y, mean):
        return (self.freedom + 1) * torch.log1p(((y - mean) / self.level) ** 2 / self.freedom)

    def scoring(self, y, mean):
        weight = (self.freedom + 1) / (self.freedom * self.level**2 + (y - mean) ** 2)
        return weight * (mean - y), weight

    def draw(self, clean, rng):
        return clean + self.level * rng.standard_t(self.freedom, clean.shape)


NOISE = StudentT(0.05, 4.0)
Y = NOISE.draw(NET(TRUTH), stream("own noise", 1))


def test_the_optimum_is_that_of_scipy():
    found = unrelu.invert(NET, Y[:5], noise=NOISE)
    for y, z, f in zip(Y, found.z, found.fun, strict=False):

        def loss(z, y=y):
            return -2 * stats.t.logpdf((y - NET(z)) / 0.05, 4).sum() + 2 * stats.t.logpdf(0, 4) * len(y)

        best = optimize.minimize(loss, z, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10})
        assert f == pytest.approx(loss(z), rel=1e-9)
        assert f <= best.fun * (1 + 1e-3)


def test_p_values_of_fits_are_uniform():
    p = unrelu.invert(NET, Y, "lm", noise=NOISE, z0=TRUTH).p_value
    assert stats.kstest(p, "uniform").statistic < farthest(len(p))
    assert not unrelu.invert(NET, Y[:20] + 1.0, "lm", noise=NOISE, z0=TRUTH[:20]).success.any()


def test_hidden_entries_take_no_part():
    seen = stream("own noise", 2).random(80) < 0.6
    found = unrelu.invert(NET, np.where(seen, Y[:3], np.nan), "lm", noise=NOISE, operator=seen, z0=TRUTH[:3])
    d = NOISE.residuals(Y[:3], NET(found.z))[:, seen] ** 2
    np.testing.assert_allclose(found.fun, d.sum(axis=1))
    assert found.success.all()


@pytest.mark.parametrize("model", [NOISE, StudentT(0.05)], ids=str)
def test_a_result_comes_back_with_the_class_and_says_which_is_missing(tmp_path, monkeypatch, model):
    result = unrelu.invert(NET, Y[:3], "lm", noise=model, z0=TRUTH[:3])
    assert "under heavy-tailed:0.05" in str(result[0])
    result.save(tmp_path / "result.npz")
    for again in (unrelu.load_result(tmp_path / "result.npz"), unrelu.load_result(tmp_path / "result.npz", NET)):
        assert again.problem.noise == model
        assert str(again) == str(result)
    monkeypatch.delitem(noise.MODELS, "heavy-tailed")
    with pytest.raises(InputError, match="noise=heavy-tailed has a class that is not defined here: import it"):
        unrelu.load_result(tmp_path / "result.npz")


def test_names_of_the_library_are_taken():
    with pytest.raises(InputError, match=r"name='gaussian' of Mine is that of unrelu\.Gaussian; take another"):

        class Mine(Likelihood):
            name = "gaussian"


def test_what_has_a_deviance_is_refused_where_errors_are_compared_in_a_norm(tmp_path):
    with pytest.raises(InputError, match="certificates are of errors of one size"):
        unrelu.certify(NET, Y[0], TRUTH[0], noise=NOISE)
    run = unrelu.run(NET, Y[:5], tmp_path / "run", noise=NOISE, workers=1)
    assert run.manifest["about"]["noise"] == str(NOISE)
    alone = unrelu.invert(NET, Y[:5], noise=NOISE, seed=chunk_seed(0, 0))
    np.testing.assert_array_equal(run.read("p_value"), alone.p_value)
    assert unrelu.calibrate(random_network((2, 6, 12)), noise=NOISE, observations=20).observations == 20


@pytest.mark.parametrize(("offset", "value"), [(-1.0, "-1"), (np.nan, "nan"), (np.inf, "inf")])
def test_what_is_no_deviance_is_refused_with_what_one_is(monkeypatch, offset, value):
    """-2 log p(y|mean) differs from the deviance by a constant, and may be negative."""
    right = StudentT.deviance
    monkeypatch.setattr(StudentT, "deviance", lambda self, y, mean: 0 * right(self, y, mean) + offset)
    with pytest.raises(InputError, match=rf"StudentT\.deviance is {value} for y = .* 2 \(max over m of log p\(y\|m\)"):
        unrelu.invert(NET, Y[:2], noise=NOISE)


def test_rounding_is_no_negative_deviance(monkeypatch):
    right = StudentT.deviance
    monkeypatch.setattr(StudentT, "deviance", lambda self, y, mean: right(self, y, mean) - 1e-8)
    assert np.isfinite(NOISE.residuals(Y[:2], Y[:2])).all()

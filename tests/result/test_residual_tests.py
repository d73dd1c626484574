"""The noise level that a batch shares: against draws from chi-square and from other distributions."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu.result.residual_tests import FEWEST, too_large
from unrelu.runtime.streams import stream


def energies(name, size, freedom, level=1.0):
    """Squared residuals of Gaussian noise, and their degrees of freedom."""
    freedom = np.broadcast_to(np.asarray(freedom, dtype=float), (size,))
    return level**2 * stream(name).chisquare(freedom), freedom


@pytest.mark.parametrize("freedom", [5, 40, 764, np.geomspace(5, 764, 50)])
def test_batches_of_one_level_have_no_outliers(freedom):
    alarms = [too_large(*energies(f"batch {i}", 50, freedom, level=0.03)).any() for i in range(1000)]
    assert sum(alarms) <= 5  # 0.1% are to be expected


@pytest.mark.parametrize(
    "draw", [lambda rng, shape: rng.uniform(-1, 1, shape), lambda rng, shape: rng.laplace(size=shape)]
)
def test_noise_that_is_not_gaussian_has_few_outliers(draw):
    errors = draw(stream("other noise"), (200, 50, 60))
    assert sum(too_large((batch**2).sum(axis=1), np.full(50, 60.0)).any() for batch in errors) <= 4


@pytest.mark.parametrize(("freedom", "wrong"), [(20, 5), (40, 5), (764, 20), (np.geomspace(20, 764, 100), 10)])
def test_residuals_of_twice_the_level_stand_out(freedom, wrong):
    energy, freedom = energies("twice", 100, freedom)
    energy[:wrong] = 4 * freedom[:wrong]
    factor = too_large(energy, freedom)
    np.testing.assert_allclose(factor[:wrong], 2, rtol=0.1)
    assert (factor[wrong:] == 0).all()


@pytest.mark.parametrize("ratio", [1.05, 1.2, 2.0, 10.0])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_of_two_levels_neither_is_an_outlier(ratio, share):
    energy, freedom = energies("two levels", 100, 200)
    energy[: int(100 * share)] *= ratio**2
    assert (too_large(energy, freedom) > 0).sum() == 0


def test_few_observations_tell_no_level():
    energy, freedom = energies("few", FEWEST, 100)
    energy[0] *= 16
    assert too_large(energy, freedom)[0] == pytest.approx(4, rel=0.2)
    assert not too_large(energy[1:] * 16, freedom[1:]).any()
    assert not too_large(energy[: FEWEST - 1], freedom[: FEWEST - 1]).any()
    for kept_out in (np.nan, np.inf, 0.0):  # of no code, of one whose output overflows, of a perfect fit
        assert not too_large(np.r_[energy[:-1], kept_out], freedom).any()
    assert not too_large(energy, np.r_[freedom[:-1], 4]).any()


@pytest.mark.parametrize("unit", [1e-120, 1e120])
def test_units_do_not_matter(unit):
    energy, freedom = energies("units", 50, 30)
    energy[7] *= 9
    assert too_large(energy, freedom)[7] > 0
    np.testing.assert_allclose(too_large(unit * energy, freedom), too_large(energy, freedom))

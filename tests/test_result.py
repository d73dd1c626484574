"""Results: shapes, statuses, and numbers recomputed from the codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support import image_network, random_network
from unrelu.errors import InputError, OptionError
from unrelu.problem import Problem
from unrelu.result import Inversion, Status

NET = random_network((3, 8, 20), bias=True)
IMAGE = image_network()
FIELDS = ("z", "x", "fun", "success", "status", "message", "nit", "seconds", "freedom", "rank", "identifiable")


def judged(network=NET, batch=4, error=0.5, **options):
    """True codes, and the result that holds codes off by ``error``."""
    z = np.random.default_rng(0).standard_normal((batch, network.latent_dim))
    problem = Problem.build(network, network(z), **options)
    return z, Inversion.of(problem, z + error, method="mine", nit=7)


def test_everything_is_computed_from_the_codes():
    z, result = judged()
    np.testing.assert_array_equal(result.z, z + 0.5)
    np.testing.assert_array_equal(result.x, NET(z + 0.5))
    np.testing.assert_allclose(result.fun, ((NET(z) - result.x) ** 2).sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(result.nit, [7] * 4)
    np.testing.assert_array_equal(result.freedom, [-1] * 4)
    np.testing.assert_array_equal(result.rank, [-1] * 4)
    assert not result.identifiable.any()
    assert result.method == "mine"
    assert len(set(result.seconds)) == 1
    assert result.seconds.sum() <= result.problem.control.elapsed()


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("l1", 1), ("linf", np.inf)])
def test_the_residual_is_recomputed_and_never_a_stored_number(norm, order):
    z, result = judged()
    expected = np.linalg.norm(NET(z) - NET(result.z), order, axis=1)
    np.testing.assert_allclose(result.residual(norm), expected, rtol=1e-12)
    np.testing.assert_allclose(replace(result, z=z, x=result.x).residual(norm), 0, atol=1e-15)
    assert result.measured_in(norm).fun == pytest.approx(expected**2 if norm == "l2" else expected)


def test_fun_is_in_the_methods_norm_or_else_the_problems():
    z, _ = judged()
    problem = Problem.build(NET, NET(z), norm="l1")
    error = np.abs(NET(z) - NET(z + 1))
    np.testing.assert_allclose(Inversion.of(problem, z + 1, method="m").fun, error.sum(axis=1))
    np.testing.assert_allclose(Inversion.of(problem, z + 1, method="m", norm="linf").fun, error.max(axis=1))


def test_a_batch_has_arrays_and_one_observation_has_scalars():
    _, batch = judged(IMAGE)
    assert batch.shaped() is batch
    assert {name: np.shape(getattr(batch, name)) for name in FIELDS} == {
        "z": (4, 3), "x": (4, 1, 6, 6), **dict.fromkeys(FIELDS[2:], (4,)),
    }  # fmt: skip
    problem = Problem.build(IMAGE, IMAGE(np.ones(3)))
    one = Inversion.of(problem, np.zeros((1, 3)), method="mine").shaped()
    assert one.z.shape == (3,)
    assert one.x.shape == (1, 6, 6)
    types = {name: type(getattr(one, name)) for name in FIELDS[2:]}
    assert types == {
        "fun": float, "success": bool, "status": Status, "message": str, "nit": int, "seconds": float, "freedom": int,
        "rank": int, "identifiable": bool,
    }  # fmt: skip
    assert isinstance(one.residual(), float)
    assert one.residual() == pytest.approx(one.fun**0.5)


@pytest.mark.parametrize(
    ("noise", "status", "success"),
    [
        (None, Status.CONVERGED, False),
        ("gaussian:100", Status.NOISE_LEVEL, True),
        ("uniform:0", Status.CONVERGED, False),
    ],
)
def test_a_fit_to_the_noise_is_a_success(noise, status, success):
    _, result = judged(noise=noise)
    assert set(result.status) == {status}
    assert set(result.success) == {success}
    assert set(result.message) == {status.value}


@pytest.mark.parametrize("passed", [Status.CONVERGED, Status.ITERATION_LIMIT, Status.NOT_REALIZABLE])
def test_an_exact_fit_overrides_the_status_that_is_passed(passed):
    z, result = judged(error=0.0, noise="uniform:1")
    result = Inversion.of(result.problem, z, method="mine", status=passed)
    assert set(result.status) == {Status.EXACT_FIT}
    assert result.success.all()


def test_statuses_may_differ_and_missing_codes_fit_nothing():
    z, result = judged(noise="gaussian:100")
    z[1:] = np.nan
    passed = [Status.TIME_LIMIT, Status.TIME_LIMIT, Status.STOPPED, Status.REFOUND]
    result = Inversion.of(result.problem, z, method="mine", status=passed)
    # A method may not claim success for a code that it does not have.
    assert result.status.tolist() == [Status.EXACT_FIT, *passed[1:3], Status.NO_CODE]
    assert result.success.tolist() == [True, False, False, False]
    assert np.isnan(result.residual()).tolist() == [False, True, True, True]
    assert np.isnan(result.x[1:]).all()


def test_freedom_turns_an_exact_fit_into_one_of_many():
    _, result = judged(error=0.0)
    result = result.with_freedom(np.array([0, 2, -1, 0]))
    assert [str(s) for s in result.status] == ["EXACT_FIT", "NOT_UNIQUE", "EXACT_FIT", "EXACT_FIT"]
    assert result.message[1].endswith("more observed outputs would be needed (2 free dimensions)")
    assert result.success.all()


def test_identifiability_is_kept_beside_the_status():
    _, result = judged(error=0.0)
    told = result.with_identifiability(np.array([3, 2, -1, 3]), np.array([True, False, False, True]))
    assert told.rank.tolist() == [3, 2, -1, 3]
    assert told.identifiable.tolist() == [True, False, False, True]
    assert told.status.tolist() == result.status.tolist()


def test_codes_are_copied():
    z, result = judged(error=0.0)
    mine = z.copy()
    result = Inversion.of(result.problem, mine, method="mine")
    mine[:] = 9
    np.testing.assert_array_equal(result.z, z)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 2), (4, 3, 1)])
def test_codes_of_another_shape_are_refused(shape):
    _, result = judged()
    with pytest.raises(InputError, match=r"z has shape .*; a method returns one code a row, \(4, 3\)"):
        Inversion.of(result.problem, np.zeros(shape), method="mine")


def test_a_status_is_a_status():
    z, result = judged()
    with pytest.raises(OptionError, match="status='fine' must be a Status"):
        Inversion.of(result.problem, z, method="mine", status="fine")


def test_unknown_norms_are_refused():
    with pytest.raises(InputError, match="norm 'l0' is unknown; use 'l2', 'l1' or 'linf'"):
        judged()[1].residual("l0")


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_huge_codes_have_infinite_objectives_and_warn_of_nothing(size):
    _, result = judged(noise="gaussian:1")
    result = Inversion.of(result.problem, np.full((4, 3), size), method="mine", status=Status.DIVERGED)
    assert set(result.status) == {Status.DIVERGED}
    assert not (result.residual("l2") < np.inf).any()


@pytest.mark.parametrize("status", Status)
def test_statuses_are_sentences(status):
    assert str(status) == status.name
    assert len(status.value.split()) >= 6
    assert not status.value.endswith(".")

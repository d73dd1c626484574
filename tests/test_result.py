"""Results: shapes, statuses, and numbers recomputed from the codes."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import unrelu
from tests.support import image_network, random_network
from unrelu import zoo
from unrelu.diagnostics import code_diagnostics
from unrelu.diagnostics.identifiability import local_rank
from unrelu.errors import InputError, OptionError
from unrelu.problem import Problem
from unrelu.result import Ending, Inversion, Status
from unrelu.result.uniqueness import LocalUniqueness, Uniqueness
from unrelu.runtime.streams import stream

NET = random_network((3, 8, 20), bias=True)
IMAGE = image_network()
FIELDS = ("z", "reconstruction", "fun", "success", "p_value", "confidence", "status", "message", "nit", "seconds",
          "freedom", "rank",
          "identifiable")  # fmt: skip


def judged(network=NET, batch=4, error=0.5, **options):
    """True codes, and the result that holds codes off by ``error``."""
    z = np.random.default_rng(0).standard_normal((batch, network.latent_dim))
    problem = Problem.build(network, network(z), **options)
    return z, Inversion.of(problem, z + error, method="mine", nit=7)


def test_everything_is_computed_from_the_codes():
    z, result = judged()
    np.testing.assert_array_equal(result.z, z + 0.5)
    np.testing.assert_array_equal(result.reconstruction, NET(z + 0.5))
    np.testing.assert_allclose(result.fun, ((NET(z) - result.reconstruction) ** 2).sum(axis=1), rtol=1e-12)
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
    np.testing.assert_allclose(replace(result, batch=replace(result.batch, z=z)).residual(norm), 0, atol=1e-15)
    assert result.batch.in_units_of(result.problem, norm).fun == pytest.approx(
        expected**2 if norm == "l2" else expected
    )


def test_a_batch_has_arrays_and_one_observation_has_scalars():
    _, batch = judged(IMAGE)
    assert {name: np.shape(getattr(batch, name)) for name in FIELDS} == {
        "z": (4, 3, 1, 1), "reconstruction": (4, 1, 6, 6), **dict.fromkeys(FIELDS[2:], (4,)),
    }  # fmt: skip
    problem = Problem.build(IMAGE, IMAGE(np.ones(3)))
    one = Inversion.of(problem, np.zeros((1, 3)), method="mine")
    assert one.z.shape == (3, 1, 1)
    assert one.reconstruction.shape == (1, 6, 6)
    types = {name: type(getattr(one, name)) for name in FIELDS[2:]}
    assert types == {
        "fun": float, "success": bool, "p_value": float, "confidence": float, "status": Status,
        "message": str, "nit": int, "seconds": float, "freedom": int, "rank": int, "identifiable": bool,
    }  # fmt: skip
    assert isinstance(one.residual(), float)
    assert one.residual() == pytest.approx(one.fun**0.5)


@pytest.mark.parametrize(
    ("noise", "status", "success", "p_value"),
    [
        (None, Status.CONVERGED, False, np.nan),
        ("uniform:100", Status.NOISE_LEVEL, True, 1.0),
        ("uniform:0", Status.MISFIT, False, 0.0),
        ("gaussian:0.001", Status.MISFIT, False, 0.0),
    ],
)
def test_what_the_stated_noise_explains_is_a_success_and_nothing_else(noise, status, success, p_value):
    _, result = judged(noise=noise)
    assert set(result.status) == {status}
    assert set(result.success) == {success}
    np.testing.assert_allclose(result.p_value, p_value, atol=1e-9)
    assert np.isnan(result.confidence).all()
    suffix = "" if noise is None else f" (p = {p_value:.2g})"
    advice = f"; {result.problem.noise.on_misfit}" if status is Status.MISFIT and "gaussian" in noise else ""
    assert set(result.message) == {status.value + suffix + advice}


@pytest.mark.parametrize("passed", [Status.REFOUND, Ending.FOUND_ONCE, Status.CONVERGED, Status.NOT_UNIQUE])
def test_a_misfit_is_no_success_however_often_it_was_found(passed):
    z, result = judged(noise="gaussian:0.001")
    result = Inversion.of(result.problem, z + 0.5, method="mine", status=passed, confidence=1.0)
    assert set(result.status) == {Status.MISFIT}
    assert not result.success.any()
    assert (result.confidence == 1).all()  # which is another question


def batch_with_wrong_codes(**options):
    """Of 300 noisy outputs, the codes of each 20th are those of its neighbours."""
    network = zoo.load("mnist-relu")
    rng = stream("batch with wrong codes")
    z = rng.standard_normal((300, network.latent_dim))
    y = network(z) + rng.normal(0, 0.05, (300, network.output_dim)).reshape(300, *network.output_shape)
    wrong = np.arange(300) % 20 == 7
    z[wrong] = z[np.flatnonzero(wrong) + 1]
    return Problem.build(network, y, **options), z, wrong


def test_a_residual_far_above_the_batch_is_no_success_however_sure_the_search_is():
    problem, z, wrong = batch_with_wrong_codes()
    result = Inversion.of(problem, z, method="mine", status=Status.REFOUND, confidence=1.0, pool=True)
    np.testing.assert_array_equal(result.verdict == Ending.OUTLIER, wrong)
    np.testing.assert_array_equal(result.success, ~wrong)
    assert set(result.status[~wrong]) == {Status.REFOUND}
    for i in np.flatnonzero(wrong):
        factor = float(result.message[i].removeprefix(Ending.OUTLIER.value[1]).split()[0].strip("("))
        assert factor == pytest.approx(result.residual()[i] / (0.05 * np.sqrt(784)), rel=0.03)
        assert factor > 1.5
    late = Inversion.of(problem, z, method="mine", status=Status.TIME_LIMIT, confidence=1.0, pool=True)
    assert set(late.status) == {Status.TIME_LIMIT}
    np.testing.assert_array_equal(late.success, ~wrong)


@pytest.mark.parametrize("options", [{"prior": 0.01}, {"norm": "l1"}, {"noise": "gaussian:10"}])
def test_a_batch_tells_no_level_where_another_is_stated_or_residuals_are_no_sum_of_squares(options):
    problem, z, _ = batch_with_wrong_codes(**options)
    result = Inversion.of(problem, z, method="mine", status=Status.REFOUND, confidence=1.0, pool=True)
    assert result.success.all()
    assert Ending.OUTLIER not in result.verdict


@pytest.mark.parametrize(
    "claimed", [Status.EXACT_FIT, Status.NOT_UNIQUE, Status.NOISE_LEVEL, Status.NO_EXACT_FIT, Ending.OUTLIER]
)
def test_a_method_cannot_claim_a_fit(claimed):
    z, result = judged()
    claim = Inversion.of(result.problem, z + 0.5, method="mine", status=claimed)
    assert set(claim.status) == {Status.CONVERGED}
    assert not claim.success.any()


@pytest.mark.parametrize("confidence", [7.0, np.inf, -1, [0.5, 0.5, 0.5, 2.0]])
def test_a_confidence_is_a_probability(confidence):
    z, result = judged()
    with pytest.raises(OptionError, match="is a probability, from 0 to 1"):
        Inversion.of(result.problem, z, method="mine", confidence=confidence)


def test_a_misfit_of_a_method_that_was_not_done_says_so():
    z, result = judged(noise="gaussian:0.001")
    passed = [Ending.ITERATION_LIMIT, Status.TIME_LIMIT, Status.STOPPED, Ending.SOLVER_FAILED]
    result = Inversion.of(result.problem, z + 0.5, method="mine", status=passed)
    assert result.verdict.tolist() == [Status.MISFIT, *passed[1:]]
    assert result.status.tolist() == [Status.MISFIT, Status.TIME_LIMIT, Status.STOPPED, Status.ERROR]
    assert "(p = 0); stopped at the iteration limit before convergence: raise max_iterations; if" in result.message[0]
    assert (result.p_value == 0).all()
    assert not result.success.any()


@pytest.mark.parametrize(
    ("confidence", "shift", "success", "status"),
    [
        (0.989, 1, False, Status.REFOUND),
        (0.99, 1, True, Status.REFOUND),
        (0.99, 0, False, Status.NO_EXACT_FIT),
        (0.0, 0, False, Status.NO_EXACT_FIT),
    ],
)
def test_without_stated_noise_a_code_has_to_be_sure_and_the_observation_noisy(confidence, shift, success, status):
    z = np.random.default_rng(0).standard_normal((4, 3))
    y = NET(z)
    y[:, 0] += 0.1
    y[:, 1] = -shift  # outside the range of a ReLU, or in it
    problem = Problem.build(NET, y)
    result = Inversion.of(problem, z, method="mine", status=Status.REFOUND, confidence=confidence)
    assert set(result.success) == {success}
    assert set(result.status) == {status}
    assert result.message[0] == f"{status.value} (confidence {confidence:g})"


@pytest.mark.parametrize("passed", [Status.CONVERGED, Ending.ITERATION_LIMIT, Ending.NOT_REALIZABLE])
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
    assert result.verdict.tolist() == [Status.EXACT_FIT, *passed[1:3], Ending.NO_CODE]
    assert result.success.tolist() == [True, False, False, False]
    assert np.isnan(result.residual()).tolist() == [False, True, True, True]
    assert np.isnan(result.reconstruction[1:]).all()


def diagnosed(result, rank, freedom=(-1, -1, -1, -1), identifiable=(True, True, True, True)):
    local = LocalUniqueness(np.array(rank), np.array(freedom), np.array(identifiable))
    used = np.maximum(local.rank, 0).astype(float)
    return result.with_diagnostics(local.freedom, Uniqueness(lambda: local), used)


def test_freedom_turns_an_exact_fit_into_one_of_many():
    _, result = judged(error=0.0)
    assert (result.confidence == 1).all()
    result = diagnosed(result, [3, 1, 3, 3], [0, 2, -1, 0])
    assert [str(s) for s in result.status] == ["EXACT_FIT", "NOT_UNIQUE", "EXACT_FIT", "EXACT_FIT"]
    assert result.message[1].endswith("more observed outputs would be needed (2 free dimensions)")
    assert result.success.all()


def test_the_p_value_counts_the_degrees_of_freedom_that_the_fit_used_up():
    _, result = judged(noise="gaussian:0.5")
    told = diagnosed(result, [3, 0, -1, 20])
    energy = (result.residual() / 0.5) ** 2
    np.testing.assert_allclose(result.p_value, stats.chi2.sf(energy, 20))
    np.testing.assert_allclose(told.p_value, stats.chi2.sf(energy, [17, 20, 20, 20]))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 2), (4, 3, 1)])
def test_codes_of_another_shape_are_refused(shape):
    _, result = judged()
    with pytest.raises(InputError, match=r"z has shape .*; a method returns one code a row, \(4, 3\)"):
        Inversion.of(result.problem, np.zeros(shape), method="mine")


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_huge_codes_have_infinite_objectives_and_warn_of_nothing(size):
    _, result = judged(noise="gaussian:1")
    result = Inversion.of(result.problem, np.full((4, 3), size), method="mine", status=Ending.DIVERGED)
    assert set(result.verdict) == {Ending.DIVERGED}
    assert not (result.p_value > 0).any()
    assert not (result.fun < np.inf).any()
    assert not (result.residual("l2") < size).any()


def test_a_result_goes_to_another_process_without_its_callback():
    z = np.random.default_rng(0).standard_normal((2, 3))
    found = unrelu.invert(NET, NET(z), "lm", callback=lambda progress: False)
    copy = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copy.z, found.z)
    np.testing.assert_array_equal(copy.status, found.status)


def test_codes_of_another_scale_are_named_beside_a_misfit():
    rng = np.random.default_rng(4)
    weights = [1e4 * rng.standard_normal((12, 3)), rng.standard_normal((30, 12))]
    net = unrelu.from_arrays(weights, activation=["relu", "identity"])
    y = net(1e-4 * rng.standard_normal((3, 3)))
    r = unrelu.invert(net, y + 1.0, "lm", z0=np.zeros(3), noise="gaussian:0.01", max_iterations=1)
    for message in r.message:
        assert message.startswith("outputs of codes from N(0, I) are ")
        assert "times as large as y: state the scale of codes by bounds= or prior=; does not explain" in message
    bounded = unrelu.invert(net, y + 1.0, "lm", bounds=(-1e-3, 1e-3), noise="gaussian:0.01", max_iterations=1)
    assert not any("N(0, I)" in message for message in bounded.message)


def test_the_rank_is_computed_when_it_is_asked_for(monkeypatch):
    network = unrelu.zoo.load("mnist-relu")
    y = network(np.zeros((2, 20))) + 0.1 * np.random.default_rng(0).standard_normal((2, 784))
    asked = []
    monkeypatch.setattr(code_diagnostics, "local_rank", lambda *given: asked.append(given) or local_rank(*given))
    result = unrelu.invert(network, y, noise="gaussian:0.1")
    again = pickle.loads(pickle.dumps(result))
    assert not asked
    assert result[0].rank == 20
    assert result[1].identifiable
    assert len(asked) == 1
    assert again.rank.tolist() == result.rank.tolist() == [20, 20]
    assert len(asked) == 2

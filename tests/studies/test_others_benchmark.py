"""The benchmark of data and problems of others: simulators, digits and the classifier are right, bad folders are named.

What needs the data takes their folder from UNRELU_DATA.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from typer.testing import CliRunner

from unrelu.cli._app import app
from unrelu.errors import InputError, OptionError, UnreluError
from unrelu_studies.benchmarks.benchmark import Command
from unrelu_studies.benchmarks.others import inverse_design
from unrelu_studies.benchmarks.others.inverse_design import TASKS, Simulations, Size
from unrelu_studies.benchmarks.others.lotka_volterra import c2st, log_counts
from unrelu_studies.benchmarks.others.others import BENCHMARK
from unrelu_studies.benchmarks.others.reference_regressions import digits, measure_regression, read_regression

DATA = os.environ.get("UNRELU_DATA")
with_data = pytest.mark.skipif(not DATA, reason="UNRELU_DATA is not set")


def bench(*arguments: str):
    return CliRunner().invoke(app, ["benchmark", *arguments])


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_missing_is_named_with_what_belongs_there(tmp_path):
    for data, said in (((), "--data FOLDER is missing"), (("--data", str(tmp_path / "none")), "is no folder")):
        done = bench("others", *data, "-o", str(tmp_path / "out"))
        assert isinstance(done.exception, UnreluError)
        assert said in str(done.exception)
        assert "nist_strd (NIST" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_missing_is_named_with_its_source(tmp_path):
    done = bench("others", "--part", "posterior", "--data", str(tmp_path), "-o", str(tmp_path / "out"))
    assert isinstance(done.exception, InputError)
    said = "lotka_volterra_1_observation.csv is missing; get it from github.com/sbi-benchmark"
    assert said in str(done.exception)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "nist_strd").mkdir()
    (tmp_path / "nist_strd" / "Misra1a.dat").write_text("b1 = 1 2 3 4\nData: y x\n")
    with pytest.raises(ValueError, match=r"Misra1a\.dat does not hold two starts, certified values and data"):
        read_regression(str(tmp_path), "Misra1a")


def test_a_benchmark_without_data_refuses_a_folder(tmp_path):
    done = bench("prior", "--data", str(tmp_path), "-o", str(tmp_path / "out"))
    assert isinstance(done.exception, OptionError)
    assert "prior makes its own data" in str(done.exception)


# --- regressions and draws --------------------------------------------------------------------------------------------


def test_digits_are_of_the_worst_parameter_with_terms_in_any_order():
    certified = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert digits("Misra1a", certified[:2] * [1 + 1e-5, 1 + 1e-3], certified[:2]) == pytest.approx(3, abs=1e-6)
    assert digits("Lanczos3", np.array([5.0, 6.0, 1.0, 2.0, 3.0, 4.0]), certified) == 11
    assert digits("Lanczos3", np.array([6.0, 5.0, 1.0, 2.0, 3.0, 4.0]), certified) < 1


@with_data
def test_regressions_with_a_hard_finish_reach_ten_digits():
    row = measure_regression(DATA, "Rat42", 3, rounds=2)
    assert row["digits"] > 9
    assert row["of certified"] == pytest.approx(1, abs=1e-9)


def test_counts_are_those_of_another_solver():
    theta = np.array([0.69, 0.11, 0.89, 0.12])

    def rate(_, u):
        return [theta[0] * u[0] - theta[1] * u[0] * u[1], theta[3] * u[0] * u[1] - theta[2] * u[1]]

    found = log_counts(torch.tensor(np.log(theta))[None])[0].numpy()
    other = solve_ivp(rate, (0, 19), [30, 1], t_eval=2.1 * np.arange(10), rtol=1e-10, atol=1e-10, method="DOP853").y
    np.testing.assert_allclose(found, np.log(other).ravel(), atol=2e-3)


def test_the_classifier_tells_draws_apart_only_if_they_differ():
    rng = np.random.default_rng([8, 1])
    x, y = rng.standard_normal((2, 200, 1))
    assert abs(c2st(x, y) - 0.5) < 0.1
    assert c2st(x, y + 2) > 0.85


# --- inverse design ---------------------------------------------------------------------------------------------------


def test_a_ball_lands_where_its_equation_of_motion_says():
    z = np.array([[0.3, 1.2, 0.7, 1.1], [-0.5, 0.0, 1.3, 0.8]])

    def rate(_, u):
        return [u[2], u[3], -1.25 * u[2], -9.81 - 1.25 * u[3]]

    def height(t, u):
        return u[1] if t > 1e-6 else 1.0

    height.terminal, height.direction = True, -1
    for (x0, y0, angle, speed), landed in zip(z, inverse_design.ballistics(z), strict=True):
        start = [x0, y0, 15 * speed * np.cos(angle), 15 * speed * np.sin(angle)]
        end = solve_ivp(rate, (0, 20), start, events=height, rtol=1e-10, atol=1e-12, method="DOP853")
        assert landed[0] == pytest.approx(end.y_events[0][0][0], abs=1e-6)


def test_an_arm_that_is_straight_reaches_two():
    np.testing.assert_allclose(inverse_design.robotic_arm(np.array([[0.4, 0, 0, 0]])), [[2.0, 0.4]])


@pytest.mark.parametrize("name", TASKS)
def test_the_folded_network_is_the_trained_one_and_proposals_stay_in_the_box(name):
    task, rng = TASKS[name], np.random.default_rng([8, 2])
    z = task.prior(rng, 600)
    known = Simulations(z, task.simulate(z))
    module = inverse_design.trained(known, Size((20,), 2, 3, 1), 4)
    network = inverse_design.in_units(module, known)
    standard = torch.tensor((z - z.mean(0)) / z.std(0), dtype=torch.float32)
    own = module(standard).detach().numpy() * known.y.std(0) + known.y.mean(0)
    np.testing.assert_allclose(network.outputs(z), own, rtol=1e-3, atol=1e-3)
    y = task.simulate(z[task.inside(z)][:2])
    proposed, _ = inverse_design.corrected(network, known, task, y)
    assert proposed.shape == (2, 50, z.shape[1])
    assert task.inside(proposed.reshape(-1, z.shape[1])).all()
    # The target itself was simulated: its error is known, and the correction leaves the design as it is.
    np.testing.assert_allclose(task.simulate(proposed[:, 0]), y, atol=1e-6)


@with_data
def test_the_quick_run_prints_its_tables(tmp_path):
    parts = [word for part in ("regression", "design") for word in ("--part", part)]
    done = bench("others", "--quick", "--data", DATA, *parts, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    for title in ("Misra1a", "robotic arm", "neural adjoint", "NIST: at least 6 digits"):
        assert title in done.output


def test_designs_need_no_data():
    units = BENCHMARK.units(Command("others", None, True, 1, ("design",)))
    assert units == [("design", name) for name in TASKS]

"""The benchmark of data and problems of others: simulators, digits and the classifier are right, bad folders are named.

What needs the data takes their folder from UNRELU_DATA.
"""

from __future__ import annotations

import io
import os
import pickle
from itertools import pairwise

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
from unrelu_studies.benchmarks.others.kilonova import FILTERS, _metadata, read_photometry
from unrelu_studies.benchmarks.others.lotka_volterra import c2st, log_counts
from unrelu_studies.benchmarks.others.others import BENCHMARK, _present
from unrelu_studies.benchmarks.others.reference_regressions import digits, measure_regression, read_regression
from unrelu_studies.benchmarks.others.stellar_spectrum import LabelNetwork, _continuum, interpolated

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
    assert min(row["digits, 2-point"], row["digits, 3-point"]) > 4
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


def test_larger_data_are_measured_where_they_are(tmp_path):
    (tmp_path / "fiesta").mkdir()
    command = Command("others", None, False, 1, data=str(tmp_path))
    assert _present(command) == ("regression", "posterior", "planck", "kilonova", "design")
    assert "the folder `binspec` was not there" in BENCHMARK.blocks["others spectra"]({"rows": []})


# --- spectra and light curves -----------------------------------------------------------------------------------------


def test_points_between_a_grid_are_those_of_numpy():
    rng = np.random.default_rng([8, 2])
    grid, values, x = np.sort(rng.random(30)), rng.standard_normal((2, 30)), rng.uniform(-0.2, 1.2, (2, 40))
    found = interpolated(*(torch.tensor(each) for each in (x, grid, values)))
    expected = [np.interp(*each) for each in zip(x, [grid, grid], values, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_a_continuum_is_the_fit_of_binspec():
    rng = np.random.default_rng([8, 3])
    pixels, errors, flux = rng.random(7214) < 0.1, rng.uniform(0.1, 2, 7214), 1 + rng.random(7214)
    pieces, ends = [], (0, 2920, 5320, 7214)
    for a, b in pairwise(ends):
        x, own = np.linspace(-1, 1, b - a), pixels[a:b]
        fit = np.polynomial.Chebyshev.fit(x[own], flux[a:b][own], 4, w=1 / errors[a:b][own])
        pieces.append(fit(x))
    found = _continuum(pixels, errors)(torch.tensor(flux[None]))[0]
    np.testing.assert_allclose(found, np.concatenate(pieces), rtol=1e-10)


def test_a_network_for_each_pixel_is_one_for_each():
    rng = np.random.default_rng([8, 4])
    shapes = {"w_array_0": (6, 3, 2), "b_array_0": (6, 3), "w_array_1": (6, 3), "b_array_1": (6,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    network = LabelNetwork(arrays | {"x_min": np.array([1.0, 2.0]), "x_max": np.array([3.0, 6.0])})
    x = np.array([1.5, 5.0])
    for i, found in enumerate(network(torch.tensor(x[None]))[0]):
        hidden = arrays["w_array_0"][i] @ np.array([-0.25, 0.25]) + arrays["b_array_0"][i]
        expected = arrays["w_array_1"][i] @ (1 / (1 + np.exp(-hidden))) + arrays["b_array_1"][i]
        assert float(found) == pytest.approx(expected, rel=1e-12)


class Scaler:
    def __init__(self):
        self.low = np.arange(3.0)


class Runs:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


def test_metadata_hold_what_was_stored_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = _metadata(io.BytesIO(pickle.dumps({"scaler": Scaler(), "other": Runs()})))
    assert type(found["scaler"]) is not Scaler
    np.testing.assert_array_equal(found["scaler"].low, np.arange(3.0))
    assert not (tmp_path / "code-was-run").exists()


def test_magnitudes_are_ordered_by_filter_and_within_their_days(tmp_path):
    (tmp_path / "fiesta").mkdir()
    lines = [
        "2017-08-18T00:00:00.000 ps1::r 17.28 0.04",
        "2017-08-19T00:00:00.000 ps1::g 18.00 0.02",
        "2017-08-18T00:00:00.000 ps1::g 17.02 0.02",
        "2017-08-18T00:00:00.000 ps1::g 20.00 inf",  # an upper limit
        "2017-09-18T00:00:00.000 ps1::g 25.00 0.02",
    ]
    (tmp_path / "fiesta" / "AT2017gfo.dat").write_text("\n".join(lines))
    days, y, errors = read_photometry(str(tmp_path))
    assert list(days) == list(FILTERS[:2])
    np.testing.assert_allclose(days["ps1::g"], [1.4714763, 0.4714763], atol=1e-6)
    assert (y.tolist(), errors.tolist()) == ([18.0, 17.02, 17.28], [0.02, 0.02, 0.04])


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

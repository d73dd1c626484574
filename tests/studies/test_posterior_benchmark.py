"""The benchmark of posterior draws: its statistics find what they are for, and its references agree with each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import unrelu
from unrelu.cli._app import app
from unrelu_studies.benchmarks.benchmark import Command
from unrelu_studies.benchmarks.posterior import calibration, exact_comparison
from unrelu_studies.benchmarks.posterior.calibration import calibrated, summary
from unrelu_studies.benchmarks.posterior.compiled_walks import crank_nicolson, density_and_gradient, elliptical_slices
from unrelu_studies.benchmarks.posterior.control_samplers import CONTROLS, hmc_from, local_optima, one_mode_hmc
from unrelu_studies.benchmarks.posterior.exact_cases import (
    INDEPENDENT,
    StatedMode,
    compared_with_algebra,
    compared_with_grid,
    compared_with_symmetry,
    folded_cell,
    linear_cell,
    linear_posterior,
    small_cell,
)
from unrelu_studies.benchmarks.posterior.posterior_cells import CELLS, OURS, PosteriorCell, cell
from unrelu_studies.benchmarks.posterior.posterior_draws import BENCHMARK, PARTS
from unrelu_studies.benchmarks.posterior.quadrature import GridPosterior
from unrelu_studies.benchmarks.posterior.rank_statistics import (
    covered,
    ranks,
    same_distribution,
    same_mean,
    thinned,
    uniformity,
)
from unrelu_studies.kit.numbers_file import plain
from unrelu_studies.kit.random_instances import random

SEED = 4


# --- ranks ------------------------------------------------------------------------------------------------------------


def ranks_of(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of draws (N, L, q) and true values (N, q)."""
    rng = np.random.default_rng([5, 1])
    return np.array([ranks(d, t, rng) for d, t in zip(draws, truth, strict=True)])


@pytest.mark.parametrize(("shift", "scale", "right"), [(0, 1, True), (0.5, 1, False), (0, 1.5, False), (0, 0.7, False)])
def test_ranks_are_uniform_for_draws_of_the_posterior_alone(shift, scale, right):
    """y = z + e with both standard normal: z | y is N(y / 2, 1 / 2)."""
    rng = np.random.default_rng([5, 2])
    z = rng.standard_normal((400, 2))
    y = z + rng.standard_normal(z.shape)
    draws = y[:, None] / 2 + np.sqrt(0.5) * (shift + scale * rng.standard_normal((400, 99, 2)))
    found = ranks_of(draws, z)
    assert (uniformity(found) > 0.01).all() == right
    if right:
        assert abs(covered(found).mean() - 0.9) < 0.04
    assert ((found >= 0) & (found <= 99)).all()


def test_the_middle_ninety_of_a_hundred_ranks_are_covered():
    assert covered(np.arange(100)[:, None]).sum() == 90
    assert covered(np.array([[5, 4, 94, 95]])).tolist() == [[True, False, True, False]]


def test_equal_values_have_ranks_in_random_order():
    """A pixel that is 0 in nine draws of ten, and 0 in the truth: ranks are uniform on 0 to 90."""
    draws = np.repeat([[0.0] * 90 + [1.0] * 9], 2000, axis=0)[:, :, None]
    found = ranks_of(draws, np.zeros((2000, 1)))
    assert (found.min(), found.max()) == (0, 90)
    assert abs(found.mean() - 45) < 4 * 26.3 / np.sqrt(2000)


def test_thinned_draws_are_spread_over_all_chains():
    draws = np.arange(800.0).reshape(8, 100, 1)
    found = thinned(draws)
    assert found.shape == (99, 1)
    assert {int(value // 100) for value in found[:, 0]} == set(range(8))
    assert len(np.unique(found)) == 99


def test_pairs_of_draws_are_compared():
    rng = np.random.default_rng([5, 3])
    a, b = rng.standard_normal((2, 300, 3))
    b[:, 2] += 0.5
    for test in (same_mean, same_distribution):
        p = test(a, b)
        assert (p[:2] > 1e-3).all()
        assert p[2] < 1e-4


# --- quadrature -------------------------------------------------------------------------------------------------------


def mixture(z: np.ndarray) -> np.ndarray:
    """Likelihood whose posterior is .3 N(-2, .2^2) + .7 N(2, .2^2) in the first coordinate, and the prior's others."""
    parts = [np.log(w) - 0.5 * ((z[:, 0] - m) / 0.2) ** 2 for w, m in ((0.3, -2.0), (0.7, 2.0))]
    return np.logaddexp(*parts) - np.log(0.2) + 0.5 * z[:, 0] ** 2


@pytest.mark.parametrize("k", [1, 2])
def test_a_mixture_has_its_weights_and_its_evidence_on_a_grid(k):
    grid = GridPosterior.of(mixture, k)
    np.testing.assert_allclose(grid.weights, [0.7, 0.3], atol=1e-3)
    assert grid.log_evidence == pytest.approx(0.0, abs=1e-3)
    assert grid.mode_of(np.array([[2.1] + [0.0] * (k - 1), [-1.5] + [1.0] * (k - 1)])).tolist() == [0, 1]


def test_the_distance_of_independent_draws_is_that_of_their_number():
    rng = np.random.default_rng([5, 4])
    z = rng.standard_normal((20_000, 1)) * 0.2 + np.where(rng.random((20_000, 1)) < 0.3, -2.0, 2.0)
    grid = GridPosterior.of(mixture, 1)
    assert grid.marginal_distance(z, 20)[0] == pytest.approx(INDEPENDENT, rel=0.6)
    assert grid.marginal_distance(np.where(z > 0, z, -z), 20)[0] == pytest.approx(0.3, abs=0.02)
    assert grid.marginal_distance(z + 0.02, 20)[0] > 0.03


def test_little_maxima_are_no_modes():
    """Ripples of half a nat."""
    grid = GridPosterior.of(lambda z: 0.25 * np.cos(8 * z[:, 0]), 1)
    assert grid.weights.tolist() == pytest.approx([1.0])


def test_a_finer_grid_says_the_same():
    about = small_cell(2, 3, SEED)
    seen = about.seen(about.simulated(1, SEED, "grid").y)[0]
    grids = [GridPosterior.of(lambda z: about.log_likelihood(z, seen), 2, points) for points in (300, 600)]
    np.testing.assert_allclose(grids[0].log_evidence, grids[1].log_evidence, atol=5e-3)
    np.testing.assert_allclose(grids[0].weights[:2], grids[1].weights[:2], atol=5e-3)


# --- cases that are known ---------------------------------------------------------------------------------------------


def test_a_folded_net_forgets_the_signs_of_its_first_coordinates():
    about = folded_cell(2, 0, SEED)
    z = np.random.default_rng([5, 5]).standard_normal((20, 5))
    x = about.network(z)
    np.testing.assert_allclose(about.network(z * [-1, -1, 1, 1, 1]), x, atol=1e-12 * np.abs(x).max())
    assert (np.abs(about.network(z * [1, 1, -1, 1, 1]) - x).max(axis=1) > 1e-3).all()


def test_modes_of_a_folded_net_are_told_by_signs():
    z = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    even = compared_with_symmetry(2, z, [StatedMode(0.25, row) for row in z])
    assert even == {"modes": 4, "found": 4, "drawn": 0.0, "stated": 0.0}
    lost = compared_with_symmetry(2, z[[0, 0, 1, 2]], [StatedMode(0.5, z[0]), StatedMode(0.5, z[1])])
    assert lost == {"modes": 4, "found": 2, "drawn": 0.25, "stated": 0.25}


def test_the_posterior_of_a_linear_net_is_that_of_the_grid():
    about = linear_cell(2, 0, SEED)
    seen = about.seen(about.simulated(1, SEED, "linear").y)[0]
    mean, covariance, evidence = linear_posterior(about, seen)
    grid = GridPosterior.of(lambda z: about.log_likelihood(z, seen), 2)
    assert grid.log_evidence == pytest.approx(evidence, abs=1e-3)
    z = np.random.default_rng([5, 6]).multivariate_normal(mean, covariance, 20_000)
    assert grid.marginal_distance(z, 20).max() < 2 * INDEPENDENT
    found = compared_with_algebra(about, seen, z, np.full(2, len(z)))
    assert max(found["mean"], found["variance"]) < 4
    wrong = compared_with_algebra(about, seen, 1.1 * z, np.full(2, len(z)))
    assert wrong["variance"] > 4


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.long
def test_an_observation_does_not_depend_on_the_others(name):
    about = cell(name)
    several, one = about.simulated(3, SEED, name), about.simulated(1, SEED, name, 2)
    np.testing.assert_array_equal(several.truth[2], one.truth[0])
    np.testing.assert_allclose(about.seen(several.y)[2], about.seen(one.y)[0], rtol=1e-9, atol=1e-9)
    outputs = calibration.chosen_outputs(about, name)
    assert len(np.unique(outputs)) == 10


def test_the_noise_is_what_is_stated():
    assert np.shape(cell("emulator in bounds").noise.level) == (28,)
    for name in ("LeakyReLU, a tenth of the pixels", "emulator in bounds"):
        about = cell(name)
        truth, y = about.simulated(40, SEED, name)
        off = (about.seen(y) - about.measured(about.network.outputs(truth))) / about.noise.level
        assert off.std() == pytest.approx(1, abs=0.1)


# --- samplers beside each other ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_codes() -> tuple[PosteriorCell, np.ndarray, GridPosterior]:
    """A decoder relu(W_2 relu(W_1 z)) with two codes, an observation, and its grid."""
    rng = np.random.default_rng([5, 7])
    network = unrelu.from_arrays([rng.standard_normal((8, 2)), rng.standard_normal((6, 8)) / 2])
    about = PosteriorCell(network, unrelu.Gaussian(0.5))
    y = network(rng.standard_normal((1, 2))) + 0.5 * rng.standard_normal((1, 6))
    return about, y, GridPosterior.of(lambda z: about.log_likelihood(z, y[0]), 2)


@pytest.mark.parametrize("walk", [crank_nicolson, elliptical_slices])
@pytest.mark.long
def test_random_walks_have_the_posterior_of_the_grid(two_codes, walk):
    about, y, grid = two_codes
    w1, w2 = (np.ascontiguousarray(layer.matrix()) for layer in about.network.layers)
    z = walk(w1, w2, 0.5, y[0], np.zeros(2), random("test random walk"), 60_000, 5)
    assert z.shape == (6000, 2)
    assert grid.marginal_distance(z, 10).max() < 0.06


@pytest.mark.long
def test_the_compiled_density_is_that_of_the_cell(two_codes):
    about, y, _ = two_codes
    w1, w2 = (np.ascontiguousarray(layer.matrix()) for layer in about.network.layers)
    z, step = np.array([0.3, -0.8]), 1e-6
    value, gradient = density_and_gradient(z, w1, w2, 0.5, y[0])
    assert value == pytest.approx(about.log_likelihood(z[None], y[0])[0] - 0.5 * z @ z)
    moved = [density_and_gradient(z + step * e, w1, w2, 0.5, y[0])[0] for e in np.eye(2)]
    np.testing.assert_allclose((np.array(moved) - value) / step, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_controls_are_wrong_and_hmc_alone_is_right_within_a_mode(two_codes):
    about, y, grid = two_codes
    distance = {
        name: grid.marginal_distance(sampler(about, y, 40, 50, 1).reshape(-1, 2), 10).max()
        for name, sampler in CONTROLS.items()
    }
    assert distance["Laplace approximation"] > 0.1
    assert distance["unadjusted Langevin"] > 0.1
    start = local_optima(about, y, np.zeros((1, 2))).z
    here = grid.mode_of(start)[0]
    z = hmc_from(about, y, start, 40, 50, 1).reshape(-1, 2)
    assert (grid.mode_of(z) == here).mean() > grid.weights[here] - 0.05
    if len(grid.weights) == 1:
        assert distance["HMC in one mode"] < 0.06


def test_one_mode_is_all_that_local_chains_find():
    about = folded_cell(1, 0, SEED)
    y = about.simulated(1, SEED, "folded").y
    z = one_mode_hmc(about, y, 20, 20, 1).reshape(-1, 5)
    assert compared_with_symmetry(1, z, [StatedMode(1.0, z[0])])["drawn"] > 0.4


def test_a_grid_sees_what_is_missing(two_codes):
    about, y, grid = two_codes
    z = np.tile(np.array([[grid.axes[0][5], grid.axes[1][5]]]), (100, 1))
    found = compared_with_grid(about, y[0], z, [StatedMode(1.0, z[0])])
    assert min(found["distance"]) > 0.5
    assert found["evidence"] == grid.log_evidence


# --- units and tables -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_controls_fail_the_calibration_and_the_table_says_so():
    command = Command("posterior", 50, True, SEED)
    name = "plain VAE, 25 Gaussian measurements"
    parts = [calibration.measure(command, "Laplace approximation", name, first) for first in (0, 25)]
    (row,) = summary([r for part in parts for r in part["calibration"]])
    assert row["mixed"]["problems"] == 50
    assert not calibrated(row)
    text = calibration.controls_table({"calibration": [row]})
    assert f"| Laplace approximation; {name} | 50 |" in text


def test_every_unit_of_the_controls_can_be_measured():
    command = Command("posterior", 1, True, SEED)
    units = [unit for unit in exact_comparison.units(command) if unit[1] in CONTROLS]
    assert len(units) == 9
    (row,) = exact_comparison.measure(command, *units[1][1:])["exact"]
    assert (row["kind"], row["size"], row["found"]) == ("folded", 1, 1)
    assert exact_comparison.control_rows({"exact": [row]})[0] == ("Laplace approximation", "0 of 0", "0 of 1")


@pytest.mark.long
def test_every_part_has_its_units_and_the_sampler_is_measured_against_what_is_known():
    command = Command("posterior", 1, True, SEED)
    assert {unit[0] for unit in BENCHMARK.units(command)} == set(PARTS) == set(BENCHMARK.parts)
    units = [unit for unit in BENCHMARK.units(replace(command, parts=("exact",))) if unit[1] == OURS]
    assert {unit[0] for unit in units} == {"exact"}
    chosen = [unit for unit in units if unit[2:4] in (("folded", 1), ("linear", 4))]
    found = BENCHMARK.collect(command, [BENCHMARK.measure(command, unit) for unit in chosen])
    assert [row["status"] for row in found["exact"]] == ["MIXED", "MIXED"]
    folded, linear = found["exact"]
    assert folded["found"] == 2
    assert folded["stated"] < exact_comparison.WEIGHT
    assert max(linear["mean"], linear["variance"]) < 5
    assert BENCHMARK.blocks["posterior speed"](found) == "Not measured."


def test_the_sampler_is_calibrated_by_its_draws_that_mixed():
    command = Command("posterior", 2, True, SEED)
    name = "LeakyReLU, a tenth of the pixels"
    found = BENCHMARK.collect(command, [BENCHMARK.measure(command, ("calibration", OURS, name, 0))])
    (row,) = found["calibration"]
    assert row["mixed"]["problems"] + row["others"]["problems"] == 2
    assert f"| {name} | 2 |" in BENCHMARK.blocks["posterior calibration"](plain(found))


def test_laplace_is_wrong_where_its_deviations_are():
    rows = [{"share": 1.0, "sigma": sigma, "observations": 1, "ratios": [0.96, 1.0, off]}
            for sigma, off in ((0.1, 0.5), (0.01, 1.04))]  # fmt: skip
    render = BENCHMARK.blocks["posterior laplace"]
    text = render({"laplace": rows})
    assert "median | 0.0% off at most; 100% of the coordinates are within | yes |" in text
    assert "| 100% | 0.1 | 1 | 0.960 | 0.546 | 0.996 | 0.500 to 1.000 | 67% |" in text
    assert "nothing mixed | - |" in render({"laplace": [{**rows[1], "ratios": []}]})


def corner_row(status: str, off: float, shift: float) -> dict:
    rng = np.random.default_rng([5, 8, int(1000 * off)])
    pair = rng.standard_normal((2, 3)) + np.array([[0.0], [shift]])
    row = {"status": status, "seconds": 2.0, "ess": 500.0, "rhat": 1.0, "modes": 2, "generator": "a"}
    again = {"long": "MIXED", "across": 1.0, "off": off} if status == "MIXED" else {}
    return {**row, **again, "mean": pair.tolist(), "draw": pair.tolist()}


def test_the_hard_corner_says_what_mixed_and_what_a_longer_run_contradicts():
    render = BENCHMARK.blocks["posterior corner"]
    right = [corner_row("MIXED", 0.01 * i, 0.0) for i in range(19)] + [corner_row("NOT_MIXED", 0.5, 0.0)]
    text = render({"corner": right})
    assert "| `a`: mixed within 10 s: 90% | 95% | yes |" in text
    assert "times as long | 0 of 19 | yes |" in text
    assert text.count("| yes |") == 4
    wrong = [corner_row("MIXED", 6.0 + i, 3.0) for i in range(20)]
    assert "times as long | 20 of 20 | no |" in render({"corner": wrong})
    assert render({"corner": wrong}).count("| no |") == 3


def test_speed_is_compared_on_the_observations_that_both_had():
    def row(sampler: str, index: int, seconds: float, ess: float) -> dict:
        return {"sampler": sampler, "index": index, "seconds": seconds, "draws": 100, "ess": ess, "rhat": 1.0}

    rows = [row(OURS, i, 1.0, 600.0 * (i + 1)) for i in range(3)] + [
        row("pCN", 0, 2.0, 60.0),
        row("nutpie", 1, 1.0, 600.0),
    ]
    text = BENCHMARK.blocks["posterior speed"]({
        "speed": rows, "digits": [{"seconds": 1.0, "ess": 500.0, "status": "MIXED"}]
    })  # fmt: skip
    assert "| 20 times pCN | 20 | yes |" in text
    assert "| 5 times nutpie | 2 | no |" in text
    assert "| 5 times NumPyro NUTS | - | - |" in text
    assert "Not installed: NumPyro NUTS, elliptical slice." in text


def test_an_unknown_part_is_refused():
    done = CliRunner().invoke(app, ["benchmark", "posterior", "--part", "speeed"])
    assert "--part 'speeed' is unknown; use some of exact, calibration," in str(done.exception)
    done = CliRunner().invoke(app, ["benchmark", "layers", "--part", "exact"])
    assert "--part 'exact' is unknown; layers has none" in str(done.exception)

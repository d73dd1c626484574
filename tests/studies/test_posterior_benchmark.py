"""The benchmark of posterior draws: its statistics find what they are for, and its tables say it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import unrelu
from unrelu.cli._app import app
from unrelu_studies.benchmarks.benchmark import Command
from unrelu_studies.benchmarks.posterior import calibration
from unrelu_studies.benchmarks.posterior.posterior_cells import CELLS, OURS, PosteriorCell, cell
from unrelu_studies.benchmarks.posterior.posterior_draws import BENCHMARK, PARTS
from unrelu_studies.benchmarks.posterior.rank_statistics import covered, ranks, thinned, uniformity
from unrelu_studies.benchmarks.posterior.repeated_seeds import apart, disagrees
from unrelu_studies.benchmarks.posterior.sampler_peers import density_and_gradient
from unrelu_studies.kit.numbers_file import plain

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


def test_the_compiled_density_is_that_of_the_cell():
    rng = np.random.default_rng([5, 7])
    network = unrelu.from_arrays([rng.standard_normal((8, 2)), rng.standard_normal((6, 8)) / 2])
    about = PosteriorCell(network, unrelu.Gaussian(0.5))
    y = network(rng.standard_normal((1, 2))) + 0.5 * rng.standard_normal((1, 6))
    w1, w2 = (np.ascontiguousarray(layer.matrix()) for layer in network.layers)
    z, step = np.array([0.3, -0.8]), 1e-6
    value, gradient = density_and_gradient(z, w1, w2, 0.5, y[0])
    assert value == pytest.approx(about.log_likelihood(z[None], y[0])[0] - 0.5 * z @ z)
    moved = [density_and_gradient(z + step * e, w1, w2, 0.5, y[0])[0] for e in np.eye(2)]
    np.testing.assert_allclose((np.array(moved) - value) / step, gradient, rtol=1e-3, atol=1e-3)


# --- units and tables -------------------------------------------------------------------------------------------------


def test_every_part_has_its_units():
    command = Command("posterior", 1, True, SEED)
    assert {unit[0] for unit in BENCHMARK.units(command)} == set(PARTS) == set(BENCHMARK.parts)
    assert {unit[0] for unit in BENCHMARK.units(replace(command, parts=("speed",)))} == {"speed"}


@pytest.mark.long
def test_the_sampler_is_calibrated_by_its_draws_that_mixed_and_timed():
    command = Command("posterior", 2, True, SEED)
    name = "LeakyReLU, a tenth of the pixels"
    units = [("calibration", name, 0), ("speed", OURS)]
    found = BENCHMARK.collect(command, [BENCHMARK.measure(command, unit) for unit in units])
    (row,) = found["calibration"]
    assert row["mixed"]["problems"] + row["others"]["problems"] == 2
    assert f"| {name} | {row['mixed']['problems']} of 2 |" in BENCHMARK.blocks["posterior calibration"](plain(found))
    assert [(r["sampler"], r["index"]) for r in found["speed"]] == [(OURS, 0), (OURS, 1)]
    assert all(r["ess"] > 0 and r["seconds"] > 0 for r in found["speed"])


def test_a_cell_passes_by_coverage_and_by_uniform_ranks():
    ranks = {"problems": 49, "coverage": 0.9, "uniform": 1.0, "least": 0.2}
    none = {"problems": 1, "coverage": None, "uniform": None, "least": None}
    row = {"cell": "a", "mixed": ranks, "others": none, "interval": 0.9, "seconds": 1.0}
    off = [{**row, "mixed": {**ranks, **wrong}} for wrong in ({"coverage": 0.95}, {"uniform": 0.9})]
    render = BENCHMARK.blocks["posterior calibration"]
    assert "| a | 49 of 50 | 90% | 90% | 100% | yes | 1 |" in render({"calibration": [row]})
    assert render({"calibration": off}).count("| no |") == 2
    few = {**row, "mixed": {**ranks, "problems": 24}}
    assert "| a | 24 of 25 | 90% | 90% | 100% | - | 1 |" in render({"calibration": [few]})


def test_a_pair_disagrees_by_means_or_evidences_if_both_have_mixed():
    agreed = {"decoder": "a", "measurements": 20, "status": ["MIXED", "MIXED"], "means": 0.1, "evidence": 1.0,
              "seconds": 4.0}  # fmt: skip
    off = [{**agreed, **wrong} for wrong in ({"means": 0.6}, {"evidence": 3.5}, {"means": None})]
    unmixed = {**agreed, "status": ["MIXED", "NOT_MIXED"], "means": 9.0, "evidence": None}
    assert [disagrees(row) for row in (agreed, *off, unmixed)] == [False, True, True, True, False]
    text = BENCHMARK.blocks["posterior seeds"]({"seeds": [agreed] * 9 + [off[0], unmixed]})
    assert "| a | 20 | 21 of 22 | 10 of 11 | 1 (0.253% to 44.5%) | 0.60 | 1.00 | 2.0 |" in text
    assert BENCHMARK.blocks["posterior seeds"]({}) == "Not measured."


def test_posteriors_of_one_observation_are_compared_by_means_and_evidences():
    net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")
    pair = [unrelu.posterior(net, y, noise="gaussian:0.5") for y in ([1.0, 0.5], [1.5, 0.5])]
    same, other = apart(pair[0], pair[0]), apart(*pair)
    assert (same["status"], same["means"], same["evidence"]) == (["MIXED", "MIXED"], 0.0, 0.0)
    assert other["means"] == pytest.approx(1 / 5.25 / np.sqrt(1 / 21), abs=0.2)
    assert disagrees(other)


def test_speed_is_compared_on_the_observations_that_both_had():
    def row(sampler: str, index: int, seconds: float, ess: float) -> dict:
        return {"sampler": sampler, "index": index, "seconds": seconds, "draws": 100, "ess": ess, "rhat": 1.0}

    rows = [*(row(OURS, i, 1.0, 600.0 * (i + 1)) for i in range(3)), row("nutpie", 1, 2.0, 600.0)]
    text = BENCHMARK.blocks["posterior speed"]({"speed": rows})
    assert "| nutpie | 1 | 100 | 600 | 2.00 | 300 | 4 (4 to 4) |" in text
    assert "Not installed: NumPyro NUTS." in text


def test_an_unknown_part_is_refused():
    done = CliRunner().invoke(app, ["benchmark", "posterior", "--part", "speeed"])
    assert "--part 'speeed' is unknown; use some of calibration, seeds, speed" in str(done.exception)
    done = CliRunner().invoke(app, ["benchmark", "layers", "--part", "exact"])
    assert "--part 'exact' is unknown; layers has none" in str(done.exception)

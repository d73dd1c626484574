"""The prior of the confidence: learned on the generator, kept in memory and on disk, by all that it depends on."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

import unrelu
from tests.opaque_modules import Residual, made
from tests.support import random_network
from unrelu._calibrate import _judged
from unrelu.measurements.additive_noise import Gaussian
from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.runtime.archives import write_archive
from unrelu.runtime.streams import stream
from unrelu.search import learned_prior
from unrelu.search.confidence import FLAT, Prior, RestartCounts, confidence, learned
from unrelu.search.joint_search import JointSearch, flat_confidence
from unrelu.search.learned_prior import (
    NOISE_STEP,
    LearnedConfidence,
    NoiseLevel,
    Simulation,
    joint_prior,
    simulated,
    spread_of,
)

K, N, B = 3, 12, 6
STEP = NOISE_STEP
LEVEL = NoiseLevel(-2, 0)
RNG = np.random.default_rng(0)
MASKS = RNG.random((B, N)) < 0.7
MEASUREMENTS = {
    "whole": None,
    "mask": MASKS[0],
    "another mask": MASKS[1],
    "masks": MASKS,
    "matrix": RNG.standard_normal((7, N)),
    "another matrix": RNG.standard_normal((7, N)),
}


def rough(seed=0):
    """A tiny generator, whose landscape is rough."""
    return random_network((K, 6, N), seed=seed, bias=True)


def noisy(network, level=0.3, count=B, seed=1):
    """Own outputs with noise."""
    rng = np.random.default_rng(seed)
    x = network(rng.standard_normal((count, K)))
    return x + level * rng.standard_normal(x.shape)


def problem_of(network=None, kind="whole", seed=1, **options):
    network = network or rough()
    y = noisy(network, seed=seed)
    y = y @ MEASUREMENTS[kind].T if "matrix" in kind else y
    return Problem.build(network, y, operator=MEASUREMENTS[kind], **options)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A folder of this test."""
    monkeypatch.setenv("UNRELU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "priors"


@pytest.fixture
def learned_of(monkeypatch):
    """The levels that were learned, one after another."""
    levels, learn = [], LearnedConfidence.learn
    monkeypatch.setattr(LearnedConfidence, "learn", lambda self, *given: levels.append(given[0]) or learn(self, *given))
    return levels


def name_of(problem, level=LEVEL):
    """What a prior is known by."""
    return LearnedConfidence(problem).name(level)


# --- where it comes from ----------------------------------------------------------------------------------------------


def test_it_is_learned_once_for_a_generator_and_found_in_memory(learned_of, monkeypatch, cache):
    network = rough()
    y = noisy(network)
    first = unrelu.invert(network, y, noise="gaussian:0.3")
    assert len(learned_of) == 1
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setenv("UNRELU_CACHE", str(cache / "elsewhere"))
    again = unrelu.invert(network, y, noise="gaussian:0.3")
    assert len(learned_of) == 1
    assert first.confidence.tobytes() == again.confidence.tobytes()
    assert first.z.tobytes() == again.z.tobytes()


IN_ANOTHER_PROCESS = """
import numpy as np
import unrelu
from unrelu.search.learned_prior import LearnedConfidence

def inverted():
    rng = np.random.default_rng(0)
    network = unrelu.from_arrays([rng.standard_normal((6, 3)), rng.standard_normal((12, 6))])
    y = network(rng.standard_normal((5, 3))) + 0.3 * rng.standard_normal((5, 12))
    found = unrelu.invert(network, y)
    return (found.z.tobytes() + found.confidence.tobytes()).hex()
"""


def test_another_process_finds_it_and_answers_with_the_same_bytes(cache):
    here = {}
    exec(IN_ANOTHER_PROCESS, here)
    cold = here["inverted"]()
    assert list(cache.iterdir())
    code = IN_ANOTHER_PROCESS + "LearnedConfidence.learn = None  # to learn would be an error\nprint(inverted())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == cold


@pytest.mark.parametrize("options", [{"seed": 5}, {"noise": "gaussian:0.29"}, {"noise": "uniform:0.5"}])
def test_the_answer_does_not_depend_on_what_was_asked_before(options, monkeypatch, tmp_path):
    """A prior that another seed, or noise of nearly the same size, has learned first is the same prior."""
    y = noisy(rough())
    stated = {"noise": "gaussian:0.25"} if "noise" in options else {}
    alone = unrelu.invert(rough(), y, **stated)
    monkeypatch.setenv("UNRELU_CACHE", str(tmp_path / "other"))
    network = rough()
    unrelu.invert(network, y, **options)
    after = unrelu.invert(network, y, **stated)
    assert alone.confidence.tobytes() == after.confidence.tobytes()
    assert alone.z.tobytes() == after.z.tobytes()


# --- files ------------------------------------------------------------------------------------------------------------


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def a_folder(path):
    path.unlink()
    path.mkdir()


def test_files_that_are_none_of_a_prior_are_not_read(tmp_path):
    path, perturbed = tmp_path / "prior.npz", np.array([0.0, 0.5])
    learned_prior._write(path, Prior({4: FLAT}))
    np.testing.assert_array_equal(learned_prior._read(path).weights[4], FLAT)
    write_archive(path, "another kind", {"4": FLAT, "perturbed": perturbed})
    assert learned_prior._read(path) is None
    np.savez_compressed(path, **{"4": FLAT, "perturbed": perturbed})  # without a digest
    assert learned_prior._read(path) is None


@pytest.mark.parametrize("damage", [truncated, a_folder])
def test_a_damaged_file_is_learned_anew(damage, learned_of, cache):
    y = noisy(rough())
    before = unrelu.invert(rough(), y, noise="gaussian:0.3")
    [path] = cache.iterdir()
    damage(path)
    after = unrelu.invert(rough(), y, noise="gaussian:0.3")
    assert len(learned_of) == 2
    assert after.confidence.tobytes() == before.confidence.tobytes()
    unrelu.invert(rough(), y, noise="gaussian:0.3")
    assert len(learned_of) == (3 if path.is_dir() else 2)  # it was mended, where that could be done


def test_a_folder_that_cannot_be_written_is_no_error(learned_of, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.write_text("in the way")
    monkeypatch.setenv("UNRELU_CACHE", str(folder))
    network = rough()
    y = noisy(network)
    found = [unrelu.invert(network, y, noise="gaussian:0.3") for _ in range(2)]
    assert len(learned_of) == 1  # it is kept in memory all the same
    assert found[0].confidence.tobytes() == found[1].confidence.tobytes()


def test_it_is_kept_in_the_users_folder_of_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("UNRELU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert learned_prior._path("a").parent == tmp_path / "caches" / "unrelu" / "priors"
    assert name_of(problem_of()) != name_of(problem_of(), NoiseLevel(-2, None))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if os.name == "posix":
        assert learned_prior._path("a").parent == tmp_path / ".cache" / "unrelu" / "priors"


# --- what it depends on -----------------------------------------------------------------------------------------------


def test_names_tell_networks_measurements_bounds_priors_and_levels_apart():
    problems = [
        *(problem_of(kind=kind) for kind in ("whole", "mask", "matrix")),
        problem_of(prior=0.1),
        problem_of(prior=0.2),
        problem_of(bounds=(-1, 1)),
        problem_of(bounds=(-1, 2)),
        problem_of(bounds=(-1, np.inf)),
    ]
    keys = [name_of(problem) for problem in [*problems, problem_of(rough(1))]]
    assert len(set(keys)) == len(keys)
    counts = np.ones((2, N))
    kinds = ("poisson", "negative-binomial:10", "negative-binomial:3")
    of_counts = {name_of(Problem.build(rough(), counts, noise=noise)) for noise in kinds}
    assert len(of_counts) == 3
    assert not of_counts & set(keys)


@pytest.mark.parametrize("kind", ["whole", "masks"])
def test_names_do_not_depend_on_the_observation_its_noise_or_the_seed(kind):
    one, other = problem_of(kind=kind), problem_of(kind=kind, seed=3)
    assert name_of(one) == name_of(other)
    for options in ({"noise": "gaussian:0.3"}, {"noise": "uniform:0.3"}, {"z0": np.ones((B, K))}):
        assert name_of(problem_of(kind=kind, **options)) == name_of(one)


@pytest.mark.parametrize("kind", ["whole", "mask", "masks", "matrix"])
def test_the_measurements_that_are_simulated_are_those_of_the_kind_not_the_users(kind):
    """They have the user's kind themselves, so that every measurement of the kind learns on the same ones."""
    problem = problem_of(kind=kind)
    asked = LearnedConfidence(problem).canonical()
    again = LearnedConfidence(problem_of(kind=kind, seed=3, noise="gaussian:0.3")).canonical()
    np.testing.assert_array_equal(asked.operator.values(np.eye(N)[:1]), again.operator.values(np.eye(N)[:1]))
    assert name_of(asked) == name_of(problem)


def test_priors_go_with_their_network_and_travel_with_it():
    network, priors = rough(), []
    network.learned[name_of(problem_of(network))] = Prior({4: FLAT})
    for other in (network, pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        priors.append(other.learned[name_of(problem_of(other))])
    assert all(np.array_equal(prior.weights[4], FLAT) for prior in priors)
    unrelu.invert(network, noisy(network), bounds=(-2, 2))  # which keeps the network in other units, and samples
    gone = weakref.ref(network)
    del network, other
    gc.collect()
    assert gone() is None


def test_processes_that_need_a_prior_at_the_same_time_learn_it_once(cache, tmp_path):
    """The second waits for the first, and reads its file."""
    code = IN_ANOTHER_PROCESS + (
        "learned, learn = [], LearnedConfidence.learn\n"
        "LearnedConfidence.learn = lambda self, *given: learned.append(given[0]) or learn(self, *given)\n"
        "inverted()\nprint(len(learned))"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for path in cache.iterdir():
        path.unlink()
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sum(int(process.communicate()[0]) for process in both) == int(alone.stdout)


# --- when it is learned -----------------------------------------------------------------------------------------------


def test_where_time_is_short_nothing_is_learned_and_nothing_is_sure(learned_of):
    network = random_network((5, 30, 120), seed=4)
    rng = np.random.default_rng(4)
    y = network(rng.standard_normal((4, 5))) + 0.05 * rng.standard_normal((4, 120))
    short = unrelu.invert(network, y, time_limit=1.0)
    assert not learned_of
    assert (short.confidence < 0.95).all()
    assert not short.success.any()
    long = unrelu.invert(network, y, time_limit=1000.0)
    assert learned_of
    assert (long.confidence > 0.95).all()  # 0.9957 with each of eight seeds
    np.testing.assert_allclose(long.fun, short.fun, rtol=1e-4)
    again = unrelu.invert(network, y, time_limit=1.0)  # what is known takes no time
    assert (again.confidence > 0.95).all()


def test_without_learning_nothing_is_sure(learned_of, cache):
    network = rough()
    y = noisy(network)
    found = unrelu.invert(network, y, learn=False)
    assert not learned_of
    assert not cache.exists()
    assert (found.confidence < 0.99).all()
    assert not found.success.any()
    assert unrelu.invert(network, y, noise="gaussian:0.3", learn=False).success.all()  # the p-value tells


def test_where_no_confidence_is_asked_for_nothing_is_learned(learned_of):
    network = rough()
    for options in ({"norm": "l1"}, {"method": "lm"}):
        unrelu.invert(network, noisy(network), **options)
    assert unrelu.invert(network, network(np.random.default_rng(3).standard_normal((4, K)))).success.all()  # exact
    assert not learned_of


def test_generators_without_layers_are_learned_from_few_restarts_until_they_are_calibrated(learned_of):
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(K, N)

        def forward(self, z):
            return self.linear(z + torch.relu(z))

    torch.manual_seed(0)
    network = unrelu.from_torch(Shifted(), (K,))
    assert isinstance(network, Generator)
    y = noisy(network, 0.05)
    flat = unrelu.invert(network, y, noise="gaussian:0.05", learn=False)
    before = unrelu.invert(network, y, noise="gaussian:0.05")
    assert learned_of
    assert (before.confidence > flat.confidence).all()
    unrelu.calibrate(network, noise="gaussian:0.05", observations=60)
    after = unrelu.invert(network, y, noise="gaussian:0.05")
    assert (after.confidence > before.confidence).all()


def test_a_word_is_said_where_it_takes_long(monkeypatch, caplog):
    monkeypatch.setattr(learned_prior, "_PATIENCE", 0.0)
    learned_prior._say_once.cache_clear()  # it is said once a process
    network = rough()
    with caplog.at_level(logging.WARNING, "unrelu"):
        unrelu.invert(network, noisy(network))
    assert "learning how sure it can be" in caplog.text


# --- levels -----------------------------------------------------------------------------------------------------------


def test_levels_are_those_of_stated_noise_and_of_residuals_in_steps_of_three():
    """Stated noise has an excess above 1.5 times the noise; without it the residual tells, and there is no excess."""
    stated = problem_of(noise=Gaussian(STEP**-2 * spread_of(problem_of())))
    cases = [
        (stated, STEP**-2 * np.array([0.0, 1.0, 1.2, 1.49]), [(-2, 0)] * 4),
        (stated, STEP**-2 * 1.5 * np.array([1.01, 2.99, 3.01, 9.1]), [(-2, 1), (-2, 1), (-2, 2), (-2, 3)]),
        (problem_of(), STEP ** np.array([-2.0, -1.6, -1.0, -10.0]), [(n, None) for n in (-2, -2, -1, -10)]),
    ]
    for problem, residuals, expected in cases:
        f = np.square(residuals * spread_of(problem)) * (problem.observed[: len(residuals)] - K)
        levels = LearnedConfidence(problem).levels(f, np.arange(len(f)))
        assert [(level.noise, level.misfit) for level in levels] == expected
    for f in (0.0, 5e-324, 1e300, np.inf):
        assert abs(LearnedConfidence(problem_of()).levels(np.full(1, f), np.arange(1))[0].noise) <= 1100


# --- simulated observations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["whole", "masks", "matrix"])
def test_observations_are_own_outputs_with_noise_of_the_level(kind):
    problem = problem_of(kind=kind)
    made, z = simulated(problem, NoiseLevel(-3, 0), 2000)
    seen = made.operator.seen(2000)
    errors = (made.y - made.operator.values(problem.network(z)))[seen]
    assert errors.std() == pytest.approx(spread_of(problem) * STEP**-3, rel=0.03)
    assert (made.y[~seen] == 0).all()
    assert z.std() == pytest.approx(1, abs=0.05)
    assert (made.norm, made.z0, made.seed) == ("l2", None, 0)


def test_structured_errors_are_differences_of_outputs():
    problem = problem_of()
    made, z = simulated(problem, NoiseLevel(-10, 2), 500)
    errors = made.y - problem.network(z)
    size = spread_of(problem) * STEP**-10
    np.testing.assert_allclose(np.sqrt(np.square(errors).mean(axis=1)), 9 * size, rtol=0.25)
    # They are what a linear combination of outputs makes up to the white noise, and white noise is not.
    one, other = simulated(problem, NoiseLevel(-10, None), 500)
    unstated = np.sqrt(np.square(one.y - problem.network(other)).mean(axis=1))
    np.testing.assert_allclose(np.median(unstated), size, rtol=0.15)


def test_simulations_are_the_same_whoever_asks():
    for options in ({"seed": 3}, {"noise": "gaussian:0.2", "z0": np.ones((B, K))}):
        for level in (LEVEL, NoiseLevel(-2, None)):
            one, other = (simulated(problem_of(**given), level, 30)[0] for given in ({}, options))
            np.testing.assert_array_equal(one.y, other.y)
            ends = [Simulation(*simulated(problem_of(**given), level, 30)).ends for given in ({}, options)]
            assert ends[0].keys() == ends[1].keys()
            for rounds in ends[0]:
                np.testing.assert_array_equal(ends[0][rounds], ends[1][rounds])


def test_a_simulation_knows_the_best_codes_and_counts_the_chains_that_came_to_them():
    problem = problem_of()
    made, z = simulated(problem, NoiseLevel(-1, 0), 40)
    simulation = Simulation(made, z)
    assert (simulation.search.state.f <= 1.001 * made.objective(z)).all()
    for rounds, ends in simulation.ends.items():
        hits = simulation.counts(rounds)
        assert (hits.best <= simulation.counts(rounds, of_truth=False).best).all()
        assert (hits.best + hits.second <= hits.restarts).all()
        assert (simulation.search.state.f <= ends.min(axis=1)).all()
    prior = simulation.prior()
    assert prior.weights.keys() == simulation.ends.keys()
    judged = _judged(simulation)
    assert judged.observations == 40
    assert 0 <= judged.reached <= 1
    assert np.isnan(judged.wrong) == (judged.reached == 0)


def test_after_further_rounds_the_last_prior_holds_and_before_the_first_a_flat_one():
    hits = RestartCounts(*(np.array([n]) for n in (6, 0, 6)))
    one, other = (FLAT * np.where(np.arange(36)[:, None] == point, 36, 1e-9) for point in (3, 30))
    prior = Prior({4: one / one.sum(), 6: other / other.sum()})
    expected = [FLAT, one, one, other, other]
    for rounds, weights in zip((3, 4, 5, 6, 20), expected, strict=True):
        np.testing.assert_allclose(prior.confidence(rounds, hits), confidence(weights, hits))


def test_perturbations_that_find_nothing_raise_the_confidence_and_an_improved_code_has_that_of_its_kind():
    """By counting: of 1,000 codes 600 are the best; of the 400 others 300 are improved, 240 of these to the best."""
    prior = Prior({4: FLAT}, improves=300 / 400, reaches=240 / 300)
    unimproved, improved = prior.after_perturbations(np.full(2, 0.6), np.array([False, True]))
    np.testing.assert_allclose([unimproved, improved], [600 / (600 + 100), 240 / 300])
    nothing = Prior({4: FLAT})
    np.testing.assert_allclose(nothing.after_perturbations(np.array([0.3, 0.9]), np.zeros(2, dtype=bool)), [0.3, 0.9])


def test_how_often_perturbations_succeed_is_not_counted_among_their_successes_alone(monkeypatch):
    """Of data, better codes are known from other perturbations only."""
    chance, rng = 0.1, np.random.default_rng(3)

    def perturb_best(search, observations, most):
        search.state.perturbed[observations], search.state.improved[observations] = (
            True,
            rng.random(len(observations)) < chance,
        )
        search.state.f[observations] *= np.where(search.state.improved[observations], 0.5, 1.0)

    monkeypatch.setattr(JointSearch, "perturb_best", perturb_best)
    simulation = Simulation(Problem.build(rough(), 3 * rng.standard_normal((1000, N))), None, quick=True)
    prior, deviation = simulation.prior(), np.sqrt(chance * (1 - chance) / simulation.missed.sum())
    assert simulation.missed.sum() > 50
    assert abs(prior.improves - chance) < 3 * deviation
    assert prior.reaches > 0.9


def test_observations_are_judged_by_their_own_level_and_rounds():
    """As those that were asked for one by one."""
    network = rough()
    y = np.concatenate([noisy(network, 0.3), noisy(network, 0.02), 5 * stream("strangers").standard_normal((4, N))])
    problem = Problem.build(network, y)
    search, judge = JointSearch(problem), LearnedConfidence(problem)
    search.advance(np.arange(len(y)), 6, 0)
    search.state.rounds[:] = 4
    search.advance(np.arange(4), 6, 2)
    search.state.rounds[:4] = 5
    rows = np.arange(len(y))
    assert len(set(judge.levels(search.state.f, rows))) > 2
    together = judge(search, rows)
    one_by_one = np.concatenate([judge(search, rows[i : i + 1]) for i in rows])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-9)
    assert len(np.unique(together.round(9))) > 2


@pytest.mark.parametrize(
    ("length", "options", "learns"),
    [(9.0, {}, True), (11.0, {}, False), (11.0, {"bounds": (-99, 99)}, True), (11.0, {"radius": 12.0}, True),
     (1.1, {"radius": 1.0}, True), (4.0, {"radius": 1.0}, False)],
)  # fmt: skip
def test_nothing_is_learned_of_an_answer_beyond_the_radius(length, options, learns, learned_of):
    """No simulated code is as long. With bounds all codes are within them, and N(0, I) draws are learned always."""
    radius = {"radius": options["radius"]} if "radius" in options else {}
    problem = problem_of(bounds=options.get("bounds"))
    search, rows = JointSearch(problem), np.arange(B)
    search.advance(rows, 6, 0)
    search.state.rounds[:] = 4
    search.state.z *= length * np.sqrt(K) / np.linalg.norm(search.state.z, axis=1, keepdims=True)
    found = LearnedConfidence(problem, **radius)(search, rows)
    assert bool(learned_of) == learns
    assert (found.tobytes() == flat_confidence(search, rows).tobytes()) == (not learns)


def test_a_callback_stops_a_simulation_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("UNRELU_CACHE", str(tmp_path))
    network = random_network((4, 20, 40), bias=True)
    y = network(stream("stopped: truth").standard_normal((2, 4)))
    y = y + 0.1 * stream("stopped: noise").standard_normal(y.shape)
    begun, asked = [], []
    simulate = learned_prior.simulated
    monkeypatch.setattr(
        learned_prior, "simulated", lambda *given, **named: begun.append(1) or simulate(*given, **named)
    )

    def stop(progress):
        asked.append(progress.total)
        return bool(begun)

    r = unrelu.invert(network, y, noise="gaussian:0.1", callback=stop)
    assert begun == [1]
    assert r.success.all()  # what was found by then is returned
    assert set(asked) == {2}
    assert (r.confidence < 0.95).all()
    assert not any(path.stat().st_size for path in tmp_path.rglob("*.npz"))
    again = unrelu.invert(network, y, noise="gaussian:0.1")
    assert list(tmp_path.rglob("*.npz"))
    assert (again.confidence > 0.95).all()  # 0.991 to 0.995 with eight seeds


@pytest.mark.parametrize(("hard", "groups"), [(False, 4), (True, 1)])
def test_a_large_generator_is_simulated_until_so_many_restarts_were_made(monkeypatch, hard, groups):
    """Groups of eight: 32 observations where each first restart ends in the best code, eight where most miss it."""
    monkeypatch.setattr("unrelu.models.generator._LARGE", 1)
    sizes = []

    class Counted(Simulation):
        def __init__(self, problem, *given):
            sizes.append(problem.size)
            super().__init__(problem, *given)

        def _found(self, search, observations):
            super()._found(search, observations)
            self.sure[:] = not hard
            self.hopeless = hard
            return np.ones(len(observations))

    monkeypatch.setattr(learned_prior, "Simulation", Counted)
    network = made(Residual)
    found = unrelu.invert(unrelu.from_torch(network, (5,)), np.zeros(40), noise="gaussian:0.1")
    assert sizes == [8] * groups
    assert np.isfinite(found.confidence)


def test_a_prior_of_several_simulations_is_that_of_all_their_observations():
    problem = problem_of()
    level = NoiseLevel(-1, 0)
    y, z = simulated(problem, level, 16)
    parts = [Simulation(y.part(rows), z[rows]) for rows in np.split(np.arange(16), 2)]
    joint, last = joint_prior(parts), [max(part.ends) for part in parts]
    assert set(joint.weights) == set(parts[0].ends) | set(parts[1].ends)
    ends = [part.counts(rounds) for part, rounds in zip(parts, last, strict=True)]
    counts = RestartCounts(*map(np.concatenate, zip(*ends, strict=True)))
    np.testing.assert_array_equal(joint.weights[max(joint.weights)], learned(counts))

"""``auto``: never worse than its parts, honest about what it knows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import unrelu
from tests.support import EPS, random_network
from unrelu import zoo
from unrelu.errors import OptionError
from unrelu.problem import Problem
from unrelu.result import Ending, Status
from unrelu.runtime.streams import stream
from unrelu.search import _schedules
from unrelu.search.descents import BatchDescents, CompiledDescents
from unrelu.search.joint_search import JointSearch

SIZES = (5, 30, 120)
both = pytest.mark.parametrize("way", [CompiledDescents, BatchDescents])


def noisy(sizes, seed, noise, count=6, activation="relu"):
    network = random_network(sizes, activation=activation, seed=seed)
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((count, sizes[0]))
    clean = network(truth)
    return network, truth, clean + noise * rng.standard_normal(clean.shape)


@pytest.fixture
def rounds_of(monkeypatch):
    """Sets the rounds of a search, (restarts, perturbations) each, and says how many they are."""

    def set_rounds(*rounds):
        monkeypatch.setattr(_schedules, "ROUNDS", rounds)
        return len(rounds)

    return set_rounds


@pytest.fixture
def descending(monkeypatch):
    """Chooses how small networks are descended from."""

    def choose(way):
        monkeypatch.setattr("unrelu.local_search.packed_observations._SMALL", 0 if way is BatchDescents else 2**20)

    return choose


@pytest.mark.parametrize(("sizes", "share"), [((8, 40, 200), 0.95), ((6, 12, 30), 0.85)])
def test_it_is_at_least_as_good_as_lm_from_one_start(sizes, share):
    """Of tiny generators, whose landscape is rough, all starts may end in the same optimum that is not the best."""
    network, _, y = noisy(sizes, 1, 0.05, count=20)
    auto, lm = unrelu.invert(network, y, "auto"), unrelu.invert(network, y, "lm")
    assert (auto.fun <= lm.fun * (1 + 1e-4)).mean() >= share
    assert auto.fun.sum() <= (1 + 1e-3) * lm.fun.sum()


def test_an_exact_fit_stops_the_search():
    network, truth, y = noisy((10, 40, 160), 2, 0.0)
    result = unrelu.invert(network, y)
    assert all(s is Status.EXACT_FIT for s in result.status)
    np.testing.assert_allclose(result.z, truth, atol=1e-8)
    assert (result.nit <= 20).all()


def test_agreement_is_reported_for_unknown_noise():
    network, _, y = noisy(SIZES, 4, 0.01)
    result = unrelu.invert(network, y)
    assert all(s is Status.REFOUND for s in result.status)
    assert ((result.confidence > 0) & (result.confidence < 1)).all()
    assert (result.success == (result.confidence >= 0.99)).all()


@pytest.mark.parametrize("options", [{"norm": "l1"}, {"noise": "uniform:0.1"}])
def test_in_other_norms_the_confidence_is_not_known(options):
    network, _, y = noisy((5, 30, 120), 5, 0.01)
    found = unrelu.invert(network, y, **options)
    assert np.isnan(found.confidence).all()
    np.testing.assert_allclose(found.fun, found.residual("l1" if "norm" in options else "linf"))


def test_z0_is_the_first_start():
    network, truth, y = noisy((5, 30, 120), 7, 0.0)
    result = unrelu.invert(network, y, z0=truth)
    assert (result.nit == 0).all()
    assert all(s is Status.EXACT_FIT for s in result.status)


@pytest.mark.parametrize(
    "options", [{"rounds": 0}, {"max_iterations": 0}, {"max_programs": 0}, {"confidence": 0.0}, {"confidence": 1.1}]
)
def test_bad_options(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        unrelu.invert(random_network((3, 8), seed=0), np.zeros(8), **options)


@pytest.mark.parametrize("noise", ["uniform:0.05", "outliers:0.05"])
def test_the_end_in_another_norm_reports_as_auto_and_stops_when_asked(noise):
    network, _, y = noisy((5, 30, 120), 8, 0.02)
    seen = []
    unrelu.invert(network, y, noise=noise)  # what is learned of the generator is learned now, and reports no more
    unrelu.invert(network, y, noise=noise, callback=seen.append)
    assert {p.method for p in seen} == {"auto"}
    assert all(a.done <= b.done and b.total == len(y) for a, b in itertools.pairwise(seen))
    calls = len(seen)
    stopped = []
    result = unrelu.invert(network, y, noise=noise, callback=lambda p: stopped.append(p) or len(stopped) == calls - 1)
    assert Status.STOPPED in result.status
    assert len(stopped) < calls


# --- sizes, stops and what is left out --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "size"), [("whole", 1e-60), ("whole", 1e60), ("masks", 1e25), ("matrix", 1e-14)])
def test_observations_of_every_size_have_an_answer(kind, size):
    network = random_network((4, 20, 40), seed=0, bias=True)
    rng = np.random.default_rng(0)
    x = size * network(rng.standard_normal((3, 4)))
    operator = {"whole": None, "masks": rng.random((3, 40)) < 0.8, "matrix": rng.standard_normal((15, 40))}[kind]
    y = x @ operator.T if kind == "matrix" else x
    found = unrelu.invert(network, y, operator=operator)
    assert np.isfinite(found.z).all()
    assert np.isfinite(found.fun).all()


@both
@pytest.mark.parametrize("call", [1, 9, 30])
def test_descents_that_are_cut_off_are_no_evidence(call, way, rounds_of, descending):
    rounds_of((2, 0), (4, 1), (8, 1), (8, 4), (16, 4))
    descending(way)
    network = random_network((8, 20, 40), seed=8)
    rng = np.random.default_rng(8)
    y = network(rng.standard_normal((6, 8))) + rng.standard_normal((6, 40))
    calls, judged = [], [(0, np.full(6, np.inf), np.zeros(6))]

    class Recorded(JointSearch):
        def _judge(self, rows):
            super()._judge(rows)
            judged.append((len(calls), self.state.f.copy(), self.confidence()))

    def stop(progress):
        calls.append(progress)
        return len(calls) == call  # once: the search has to remember

    search = Recorded(Problem.build(network, y, callback=stop), rounds=5)
    search.search()
    search.refine(3000, 100)
    z, status = search.state.z, search.state.status
    assert len(calls) == call
    assert (status == Status.STOPPED).all()
    at, f, confidence = judged[-1]
    assert at < call
    assert (search.state.f <= f).all()
    bettered = search.state.f < 0.99 * f
    np.testing.assert_array_equal(search.confidence(), np.where(bettered, 0.0, confidence))
    assert np.isfinite(z[np.isfinite(search.state.f)]).all()


def test_an_observation_off_by_rounding_is_found_again_not_searched_for_ever():
    """Rounding to seven digits is no exact fit, and of objectives that are rounding no two agree to 1%."""
    network = zoo.load("mnist-relu")
    truth = np.random.default_rng(5).standard_normal((6, network.latent_dim))
    found = unrelu.invert(network, np.round(network(truth), 7))
    assert (found.status == Status.NO_EXACT_FIT).all()  # nor does it show its noise
    single = unrelu.invert(network, network(truth).astype(np.float32))
    assert (single.status == Status.EXACT_FIT).all()  # to the precision that it was stored in
    assert (single.residual("linf") > 1e-8 * network(truth).max()).all()
    assert (found.confidence > 0).all()
    np.testing.assert_allclose(found.z, truth, atol=1e-5)
    search = JointSearch(Problem.build(network, np.round(network(truth), 7)))
    search.advance(np.arange(6), 6, 0)
    assert (search.state.count_restarts().best >= 3).all()


@both
@pytest.mark.parametrize("rounds", [1, 6])
def test_as_many_rounds_are_made_as_were_stated(way, rounds, descending):
    descending(way)
    network, _, y = noisy((6, 12, 30), 4, 0.3)
    search = JointSearch(Problem.build(network, y), rounds=rounds)
    search.search()
    assert (search.state.rounds == rounds).all()
    assert (search.state.made == _schedules.effort(rounds)[0]).all()
    assert (search.state.perturbations == _schedules.effort(rounds)[1]).all()


# --- a batch knows its noise ------------------------------------------------------------------------------------------


def misled(monkeypatch, wrong, rounds):
    """Have all restarts of the ``wrong`` observations (B,) end at a code near 0 in the first ``rounds`` rounds.

    Refinement leads from there to a better one, but the search does not know.
    """
    advance = JointSearch.advance

    def near_zero(self, rows, restarts, perturbations):
        advance(self, rows, restarts, perturbations)
        lost = rows[wrong[rows] & (self.state.rounds[rows] < rounds)]
        self.state.restarts[lost] = self.state.z[lost] = 0.01  # at 0 itself, a generator without biases is on a plateau
        self.state.f[lost] = self.problem.energy[lost]
        self.state.ends[lost] = self.state.f[lost, None]

    monkeypatch.setattr(JointSearch, "advance", near_zero)


@pytest.fixture
def six_agree(monkeypatch):
    """Options with which a search ends after six restarts that agree: where nothing was learned they say 0.71."""
    monkeypatch.setattr("unrelu.result._judged_codes.CONFIDENT", 0.6)
    return {"confidence": 0.6, "learn": False}


def blurred(count=60):
    """Observations of which the search finds the codes, and every tenth of them."""
    network, _, y = noisy((5, 30, 120), 4, 0.05, count=count)
    return network, y, np.arange(count) % 10 == 3


def test_what_stands_out_from_the_batch_is_searched_again(monkeypatch, six_agree):
    network, y, wrong = blurred()
    right = unrelu.invert(network, y, **six_agree)
    misled(monkeypatch, wrong, 5)  # the first two that are made
    alone = unrelu.invert(network, y, pool=False, **six_agree)
    found = unrelu.invert(network, y, **six_agree)
    np.testing.assert_allclose(found.fun, right.fun, rtol=1e-3)
    assert set(found.status) == {Status.REFOUND}
    np.testing.assert_array_equal(found.nit > alone.nit, wrong)
    np.testing.assert_array_equal(found.nit[~wrong], right.nit[~wrong])


def test_what_stands_out_after_all_rounds_is_an_outlier_and_no_success(six_agree):
    network, y, wrong = blurred()
    y[wrong] += 0.2 * stream("no output").standard_normal((int(wrong.sum()), 120))
    found = unrelu.invert(network, y, **six_agree)
    np.testing.assert_array_equal(found.verdict == Ending.OUTLIER, wrong)
    assert not found.success[wrong].any()
    assert found.success[~wrong].mean() >= 0.8
    alone = unrelu.invert(network, y, pool=False, **six_agree)
    assert Ending.OUTLIER not in alone.verdict
    assert alone.success[wrong].any()
    assert found.nit[wrong].sum() > 2 * alone.nit[wrong].sum()
    few = unrelu.invert(network, y[:19], **six_agree)
    assert Ending.OUTLIER not in few.verdict


# --- honest about how it ended ----------------------------------------------------------------------------------------


def test_a_code_that_still_falls_is_not_called_found(monkeypatch, rounds_of):
    network, _, y = noisy((5, 30, 120), 4, 1.0)
    rounds_of((1, 0))
    monkeypatch.setattr(CompiledDescents, "schedule", replace(_schedules.COMPILED, widths=(), steps=1))
    cut = unrelu.invert(network, y, max_iterations=1, rounds=1)
    assert (cut.verdict == Ending.ITERATION_LIMIT).any()
    assert "raise max_iterations" in cut.message[cut.verdict == Ending.ITERATION_LIMIT][0]
    whole = unrelu.invert(network, y, max_iterations=1000, rounds=1)
    assert (whole.verdict == Ending.FOUND_ONCE).all()
    assert (whole.fun < cut.fun)[cut.verdict == Ending.ITERATION_LIMIT].all()


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_what_is_stopped_before_its_norm_claims_nothing(norm):
    network, _, y = noisy((5, 30, 120), 8, 0.02)
    told, calls = [], []
    unrelu.invert(network, y, norm=norm)  # what is learned of the generator is learned now, and reports no more
    unrelu.invert(network, y, norm=norm, callback=told.append)
    last = next(i for i, progress in enumerate(told) if progress.done)  # the search in l2 has ended before
    stopped = unrelu.invert(network, y, norm=norm, callback=lambda p: calls.append(p) or len(calls) == last)
    assert len(calls) == last
    assert (stopped.status == Status.STOPPED).all()
    assert not stopped.success.any()


def test_a_generator_without_layers_descends_in_another_norm():
    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 30)

        def forward(self, z):
            return self.last((z + torch.relu(self.first(z))).unsqueeze(1).amax(1))

    torch.manual_seed(0)
    network = unrelu.from_torch(Residual(), (4,))
    y = network(np.ones((2, 4))) + np.random.default_rng(0).uniform(-0.1, 0.1, (2, 30))
    found, squares = unrelu.invert(network, y, norm="linf"), unrelu.invert(network, y)
    assert (found.status == Status.CONVERGED).all()
    assert (found.fun < 0.95 * squares.residual("linf")).all()
    np.testing.assert_allclose(found.fun, found.residual("linf"))
    assert unrelu.invert(network, y, noise="uniform:0.1").success.all()


@both
def test_found_once_and_found_again_mean_what_they_say(way, rounds_of, descending):
    rounds_of((3, 0))
    descending(way)
    network, _, y = noisy((6, 12, 30), 4, 0.3, count=30)
    search = JointSearch(Problem.build(network, y), rounds=1)
    search.search()
    search.refine(3000, 100)
    status = search.state.status
    hits = search.state.count_restarts().best
    assert set(hits) == {1, 2, 3}
    np.testing.assert_array_equal(status == Status.REFOUND, hits > 1)
    np.testing.assert_array_equal(status == Ending.FOUND_ONCE, hits == 1)
    means = [search.confidence()[hits == n].mean() for n in (1, 2, 3)]
    assert means[0] < means[1] < means[2]


# --- restarts ---------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("kind", ["whole", "masks"])
def test_further_rounds_are_never_worse(way, kind, rounds_of, descending):
    levels = (1, 0), (3, 2), (6, 2), (6, 5)
    rounds_of(*levels)
    descending(way)
    network, _, y = noisy((6, 12, 30), 4, 0.3, count=10)
    operator = np.random.default_rng(0).random(y.shape) < 0.8 if kind == "masks" else None
    search = JointSearch(Problem.build(network, y, operator=operator))
    rows, f, ends = np.arange(10), np.full(10, np.inf), np.empty((10, 0))
    for restarts, perturbations in levels:
        search.advance(rows, restarts, perturbations)
        assert search.state.ends.shape == (10, restarts)
        assert (search.state.perturbations == perturbations).all()
        assert (search.state.ends[:, : ends.shape[1]] <= ends).all()
        assert (search.state.f <= f).all()
        np.testing.assert_array_equal(search.state.f, search.state.ends.min(axis=1))
        np.testing.assert_allclose(search.state.f, search.problem.objective(search.state.z), rtol=1e-4)
        f, ends = search.state.f.copy(), search.state.ends.copy()


@both
def test_starts_do_not_depend_on_the_observations_after_them(way, descending):
    """Each has starts of its own, up to the rounding of the Gaussian model, which is computed for all at once."""
    descending(way)
    network, _, y = noisy((6, 12, 30), 4, 0.3, count=10)
    drawn = []
    for count in (10, 3):
        starts, each = JointSearch(Problem.build(network, y[:count])).starts, np.arange(count)
        drawn.append((starts.codes(each, 0, 6)[:3], starts.perturbations(each, 6, 2)[:3]))
    for many, few in zip(*drawn, strict=True):
        np.testing.assert_allclose(many, few, rtol=1e-3, atol=1e-3)
    assert np.abs(np.diff(drawn[0][0], axis=1)).min() > 0


def test_the_search_ends_when_it_is_as_sure_as_it_was_asked_to_be(rounds_of):
    rounds = rounds_of((2, 0), (4, 2), (8, 2), (16, 4))
    network, _, y = noisy(SIZES, 2, 0.05)
    found = [unrelu.invert(network, y, confidence=sure, rounds=rounds, learn=False) for sure in (0.1, 0.6, 1.0)]
    steps = [result.nit.sum() for result in found]
    assert steps[0] <= steps[1] < 0.7 * steps[2]
    assert (found[1].confidence >= 0.6).any()


# --- what is no evidence ----------------------------------------------------------------------------------------------


@both
def test_codes_of_the_user_are_descended_from_but_are_no_evidence(way, rounds_of, descending):
    rounds_of((6, 0))
    descending(way)
    network, truth, y = noisy((6, 12, 30), 4, 0.3, count=20)
    searches = []
    for z0 in (None, truth):
        search = JointSearch(Problem.build(network, y, z0=z0), rounds=1)
        search.search()
        searches.append(search)
    alone, helped = searches
    np.testing.assert_array_equal(helped.state.ends, alone.state.ends)
    assert (helped.state.f <= alone.state.f).all()
    better = helped.state.f < 0.99 * alone.state.f
    assert better.any()
    assert (helped.state.count_restarts().best[better] == 0).all()  # nobody else came to the better code
    assert (helped.confidence()[better] <= alone.confidence()[better]).all()
    np.testing.assert_array_equal(
        helped.confidence()[helped.state.f == alone.state.f], alone.confidence()[helped.state.f == alone.state.f]
    )
    assert (helped.state.f <= 1.01 * helped.problem.objective(truth)).all()


@both
def test_plateaus_of_dead_neurons_are_flat_however_many_chains_end_there(way, rounds_of, descending):
    rounds = rounds_of((12, 2))
    descending(way)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((8, 3)), abs(rng.standard_normal((20, 8)))]  # a neuron that is on adds to the error
    network = unrelu.from_arrays(weights, biases=[np.full(8, -100.0), np.linspace(0.0, 1.0, 20)])
    found = unrelu.invert(network, -np.ones((4, 20)), rounds=rounds, learn=False)
    assert (found.verdict == Ending.FLAT).all()
    assert (found.confidence == 0).all()
    assert not found.success.any()


# --- special generators and observations ------------------------------------------------------------------------------


def test_hidden_values_beyond_single_precision_are_searched_in_double():
    rng = np.random.default_rng(0)
    shapes = [(30, 8, 1e20), (60, 30, 1e20), (60, 60, 1e-40)]
    network = unrelu.from_arrays([size * rng.standard_normal((n, m)) for n, m, size in shapes])
    truth = rng.standard_normal(8)
    np.testing.assert_allclose(unrelu.invert(network, network(truth)).z, truth, atol=1e-8)
    small = random_network((3, 12, 30), seed=3)
    assert np.isfinite(unrelu.invert(small, small(np.ones(3)), prior=1e39).z).all()


def test_exact_fits_tell_the_code_where_the_generator_is_badly_conditioned():
    """A square first layer: at condition numbers of 5e4 an exact fit of single precision can be off by 1e-3."""
    rng = np.random.default_rng(5)
    weights = [rng.normal(0, n_out**-0.5, (n_out, n_in)) for n_in, n_out in ((120, 120), (120, 300))]
    network = unrelu.from_arrays(weights, activation="leaky_relu:0.1")
    truth = rng.standard_normal((4, 120))
    result = unrelu.invert(network, network(truth), "auto")
    assert all(status is Status.EXACT_FIT for status in result.status)
    # The observation and the output of the fit are both rounded by eps for each of the 240 terms of their sums.
    for z, code in zip(result.z, truth, strict=True):
        y, sigma = network(code), np.linalg.svd(network.jacobian(code), compute_uv=False)
        assert np.linalg.norm(z - code) <= 2 * 240 * EPS * np.linalg.norm(y) / sigma[-1] < 1e-6


@pytest.mark.parametrize("case", ["one", "noiseless", "masked", "bounded", "float32", "stopped", "one step"])
def test_valleys_are_followed_whatever_is_measured(case):
    network = random_network((6, 8, 9, 30), "leaky_relu:0.1", seed=1, last="identity")
    if case == "float32":
        network = network.to(torch.float32)
    rng = np.random.default_rng(2)
    truth = rng.uniform(-1, 1, (1 if case == "one" else 12, 6))
    y = network(truth) + (0 if case == "noiseless" else 0.1) * rng.standard_normal((len(truth), 30))
    options = {
        "masked": {"operator": rng.random((12, 30)) < 0.8},
        "bounded": {"bounds": (-1, 1)},
        "stopped": {"callback": lambda progress: progress.nit > 0},
        "one step": {"max_iterations": 1},
    }.get(case, {})
    result = unrelu.invert(network, y, **options)
    assert np.isfinite(result.z).all()
    if case == "noiseless":
        assert (result.status == Status.EXACT_FIT).all()
    elif case == "stopped":
        assert (result.status == Status.STOPPED).all()
        assert not result.success.any()
    else:
        further = unrelu.invert(
            network, y, "lm", z0=result.z, **{k: v for k, v in options.items() if k != "max_iterations"}
        )
        sure = result.confidence >= 0.99
        assert np.sum(result.fun[sure] > 1.01 * further.fun[sure]) <= 1
        assert (np.abs(result.z) <= 1).all() or case != "bounded"

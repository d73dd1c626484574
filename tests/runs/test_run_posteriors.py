"""Posteriors of a run: the draws of every observation are its own, whatever is stopped, split, or fails beside it."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.runs.small_runs import NETWORK, Y, results, small_run
from unrelu.runs import chunk_work
from unrelu.runs.columns import INTERVAL

OF_DRAWS = ("mean", "std", "lower", "upper", "reconstruction_std", "posterior_status", "rhat", "ess", "tail_ess")
ASKED = {"data": Y[:4], "noise": "gaussian:0.01", "posterior": 150, "chunk": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> unrelu.Run:
    return small_run(tmp_path_factory.mktemp("finished") / "out", **ASKED)


def test_the_columns_are_the_numbers_of_the_function(finished):
    for i in range(4):
        p = unrelu.posterior(NETWORK, Y[i], noise="gaussian:0.01", draws=150, seed=7)
        assert finished.read("posterior_status")[i] == p.status.name == "MIXED"
        lower, upper = p.interval(INTERVAL)
        wanted = {"mean": p.mean, "std": p.std, "lower": lower, "upper": upper}
        for name, value in wanted.items():
            np.testing.assert_allclose(finished.read(name)[i], value, rtol=1e-9)
        deviation = p.reconstructions(1000).std(axis=0)
        np.testing.assert_allclose(finished.read("reconstruction_std")[i], deviation, rtol=1e-9)
        assert finished.read("rhat")[i] >= p.rhat.max()
        assert finished.read("ess")[i] <= p.ess.min()
        assert finished.read("tail_ess")[i] <= p.tail_ess.min()
    assert finished.mixed == 4
    assert str(finished).splitlines()[0].endswith("; 4 of 4 posteriors have mixed")


def test_draws_do_not_depend_on_chunks_or_stops(finished, tmp_path):
    other = small_run(tmp_path / "one", **ASKED | {"chunk": 4})
    for name in OF_DRAWS:
        assert other.store.read(name).tobytes() == finished.store.read(name).tobytes()
    stopped = small_run(tmp_path / "two", **ASKED, callback=lambda progress: progress.done > 0)
    assert (stopped.done, stopped.mixed) == (2, 2)
    assert results(small_run(tmp_path / "two", **ASKED)) == results(finished)


def test_rows_of_the_results_say_how_the_sampling_ended(finished):
    lines = list(finished.rows())
    assert [line["posterior_status"] for line in lines] == ["MIXED"] * 4
    assert [line["ess"] for line in lines] == finished.read("ess").tolist()
    assert "posterior_status" in finished.to_frame()


def test_another_number_of_draws_is_another_run(finished):
    with pytest.raises(unrelu.errors.InputError, match="posterior is 150, asked for is 0"):
        small_run(finished.folder, **ASKED | {"posterior": 0})


def test_what_cannot_be_read_or_sampled_has_no_numbers_and_stops_nothing(tmp_path, monkeypatch):
    y = Y[:3].copy()
    y[0, 3] = np.nan
    sampled, odd = chunk_work.posterior, y[1].copy()

    def breaks(network, *, y, **given):
        if np.array_equal(y[0], odd):
            raise FloatingPointError("the factorisation broke down")
        return sampled(network, y=y, **given)

    monkeypatch.setattr(chunk_work, "posterior", breaks)
    run = small_run(tmp_path / "out", **ASKED | {"data": y})
    assert run.read("posterior_status").tolist() == ["ERROR", "ERROR", "MIXED"]
    assert np.isnan(run.read("mean")[:2]).all()
    assert np.isnan(run.read("ess")[:2]).all()
    assert np.isfinite(run.read("std")[2]).all()
    messages = [row["message"] for row in run.rows()]
    assert "NaN or infinite" in messages[0]
    assert messages[1].startswith(unrelu.Status[run.read("status")[1]].value)
    assert "its posterior could not be sampled: FloatingPointError: the factorisation broke down" in messages[1]


def test_masks_are_those_of_each_observation(tmp_path):
    masks = np.ones((2, 20), dtype=bool)
    masks[1, 10:] = False
    run = small_run(tmp_path / "out", **ASKED | {"data": Y[[0, 0]], "masks": masks, "chunk": 2})
    alone = unrelu.posterior(NETWORK, Y[0], noise="gaussian:0.01", operator=masks[1], draws=150, seed=7)
    np.testing.assert_allclose(run.read("mean")[1], alone.chains[0].mean, rtol=1e-9)
    assert run.read("std")[1].max() > 1.3 * run.read("std")[0].max()


def test_a_time_limit_leaves_what_there_was_time_for(tmp_path):
    run = small_run(tmp_path / "out", **ASKED | {"time_limit": 1e-9})
    assert set(run.read("posterior_status")) == {"TIME_LIMIT"}
    assert run.mixed == 0


def test_posteriors_are_in_smaller_chunks_by_default(tmp_path):
    run = small_run(
        tmp_path / "out", **ASKED | {"chunk": None, "data": np.tile(Y, (45, 1))}, callback=lambda progress: True
    )
    assert (run.manifest["chunk"], run.done) == (16, 0)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"posterior": True}, unrelu.errors.OptionError, "posterior=True must be a whole number of at least 0"),
        ({"posterior": -1}, unrelu.errors.OptionError, "posterior=-1 must be a whole number of at least 0"),
        ({"posterior": 2}, unrelu.errors.OptionError, "draws=2 must be a whole number of at least 4"),
        ({"noise": None}, unrelu.errors.InputError, "noise=None .*state 'gaussian:S'"),
        ({"noise": "uniform:0.1"}, unrelu.errors.InputError, "noise=uniform:0.1 .*state 'gaussian:S'"),
        ({"prior": 0.1}, unrelu.errors.OptionError, r"prior=0.1 must be a distribution of codes, unrelu.Normal"),
    ],
)
def test_posteriors_that_cannot_be_sampled_are_refused_before_any_work(tmp_path, options, kind, said):
    with pytest.raises(kind, match=said):
        small_run(tmp_path / "out", **ASKED | options)
    assert not (tmp_path / "out").exists()

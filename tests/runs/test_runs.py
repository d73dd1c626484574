"""Runs over data sets: what they compute, and that they go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import unrelu
from tests.runs.small_runs import CHUNK, CODES, NETWORK, SIZE, WEIGHTS, Y, copy, recorded, results, small_run
from unrelu.errors import InputError, OptionError, SolverError
from unrelu.runs.chunk_work import chunk_seed
from unrelu.search.learned_prior import LearnedConfidence


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> unrelu.Run:
    return small_run(tmp_path_factory.mktemp("finished") / "out")


# --- what is computed -------------------------------------------------------------------------------------------------


def test_every_chunk_is_an_inversion_with_its_own_seed(finished):
    assert finished.finished
    assert (finished.size, finished.chunks, finished.done) == (SIZE, 5, SIZE)
    for chunk, start in enumerate(range(0, SIZE, CHUNK)):
        wanted = unrelu.invert(NETWORK, Y[start : start + CHUNK], "lm", seed=chunk_seed(7, chunk))
        stop = start + len(wanted.z)
        np.testing.assert_array_equal(finished.read("codes", start, stop), wanted.z)
        np.testing.assert_array_equal(finished.read("reconstructions", start, stop), wanted.reconstruction)
        np.testing.assert_array_equal(finished.read("objective", start, stop), wanted.fun)
        np.testing.assert_array_equal(finished.read("residual_linf", start, stop), wanted.residual("linf"))
        np.testing.assert_array_equal(finished.read("nit", start, stop), wanted.nit)
        np.testing.assert_array_equal(finished.read("p_value", start, stop), wanted.p_value)
        np.testing.assert_array_equal(finished.read("confidence", start, stop), wanted.confidence)
        assert finished.read("status", start, stop).tolist() == [status.name for status in wanted.status]
    assert sum(finished.counts.values()) == SIZE
    assert (finished.read("seconds") > 0).all()


def test_a_run_prints_its_verdict(finished):
    lines = str(finished).splitlines()
    assert lines[0] == f"Run in {finished.folder}"
    assert lines[1].startswith(f"{SIZE} observations, method lm")
    assert "<table" in finished._repr_html_()


def test_the_verdict_of_a_run_is_that_of_invert(tmp_path):
    """With stated noise, and of a search: an observation of its own, one that is too noisy, one that is no output."""
    y = np.stack([Y[0], Y[1] + 0.3 * np.cos(np.arange(20)), np.arange(20.0)])
    run = small_run(tmp_path / "out", data=y, method="auto", noise="gaussian:0.01")
    wanted = unrelu.invert(NETWORK, y, noise="gaussian:0.01", seed=chunk_seed(7, 0))
    for name in ("success", "p_value", "confidence"):
        np.testing.assert_array_equal(run.read(name), getattr(wanted, name))
    assert run.read("status").tolist() == ["NOISE_LEVEL", "MISFIT", "MISFIT"]
    assert run.read("success").tolist() == [True, False, False]
    rows = list(run.rows())
    assert [row["p_value"] for row in rows] == run.read("p_value").tolist()
    assert [row["confidence"] for row in rows] == run.read("confidence").tolist()
    assert list(rows[0])[:5] == ["index", "name", "status", "message", "success"]


def test_chunks_have_seeds_of_their_own():
    seeds = {chunk_seed(seed, chunk) for seed in range(30) for chunk in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert chunk_seed(2**63 - 1, 10**7) == chunk_seed(2**63 - 1, 10**7)


def test_two_workers_write_the_same_bytes(finished, tmp_path):
    assert results(small_run(tmp_path / "out", workers=2)) == results(finished)


@pytest.mark.parametrize("rows", [SIZE, 7])
def test_the_results_are_a_group_that_zarr_reads(finished, monkeypatch, tmp_path, rows):
    """Also where a column is in several files, and chunks of the run lie across their ends."""
    wanted = {name: finished.read(name) for name in ("codes", "residuals", "rank", "success", "status")}
    monkeypatch.setattr("unrelu.runs._store._CHUNK", rows * 24)
    run = small_run(tmp_path / "out")
    group = zarr.open_group(str(tmp_path / "out" / "results.zarr"), mode="r")
    assert set(group.array_keys()) == {column.name for column in run.store.columns}
    assert group["codes"].chunks == (rows, 3)
    assert group["codes"].metadata.dimension_names == ("observation", "codes_0")
    statuses = np.array(group.attrs["statuses"])
    for name, values in wanted.items():
        np.testing.assert_array_equal(statuses[group[name][:] - 1] if name == "status" else group[name][:], values)
        np.testing.assert_array_equal(run.read(name, 3, 20), values[3:20])


def test_residuals_and_reconstructions_give_the_observations_back(finished):
    assert finished.read("residuals").dtype == np.float32
    np.testing.assert_allclose(finished.read("reconstructions") + finished.read("residuals"), Y, atol=1e-6)
    with pytest.raises(InputError, match="there is no column 'predictions'"):
        finished.read("predictions")


def test_data_of_any_kind_or_shape_give_the_same(finished, tmp_path):
    np.save(tmp_path / "y.npy", Y)
    group = zarr.open_group(str(tmp_path / "y.zarr"), mode="w")
    for i, data in enumerate((
        str(tmp_path / "y.npy"), Y.reshape(SIZE, 1, 20, 1), np.load(tmp_path / "y.npy", mmap_mode="r"), torch.tensor(Y),
        Y.tolist(), group.create_array("y", data=Y), tmp_path / "y.zarr",
    )):  # fmt: skip
        assert small_run(tmp_path / str(i), data=data).column("codes").tobytes() == finished.column("codes").tobytes()


def test_measurements_are_those_of_invert(tmp_path):
    matrix = np.random.default_rng(3).standard_normal((12, 20))
    y = Y @ matrix.T
    wanted = unrelu.invert(NETWORK, y[:CHUNK], "lm", operator=matrix, seed=chunk_seed(7, 0))
    for i, operator in enumerate((matrix, sparse.csr_array(matrix), aslinearoperator(matrix))):
        run = small_run(tmp_path / str(i), data=y, operator=operator)
        np.testing.assert_array_equal(run.read("codes", 0, CHUNK), wanted.z)
        np.testing.assert_allclose(run.read("predictions"), run.read("reconstructions") @ matrix.T, atol=1e-4)
        np.testing.assert_allclose(run.read("predictions") + run.read("residuals"), y, atol=1e-5)


def test_a_mask_for_each_hides_what_was_not_observed(tmp_path):
    masks = np.random.default_rng(4).random((SIZE, 20)) < 0.8
    broken = np.where(masks, Y, np.nan)
    run = small_run(tmp_path / "out", data=broken, masks=masks)
    wanted = unrelu.invert(NETWORK, Y[:CHUNK], "lm", operator=masks[:CHUNK], seed=chunk_seed(7, 0))
    np.testing.assert_array_equal(run.read("codes", 0, CHUNK), wanted.z)
    assert not run.errors
    np.testing.assert_array_equal(np.isnan(run.read("residuals")), ~masks)
    shared = small_run(tmp_path / "shared", data=np.where(masks[0], Y, np.inf), operator=masks[0])
    assert not shared.errors


def test_options_and_limits_reach_the_method(tmp_path):
    run = small_run(tmp_path / "a", max_iterations=np.int64(2), noise="gaussian:0.01", norm="l1")
    assert run.read("nit").max() == 2
    assert run.manifest["options"]["max_iterations"] == 2
    assert run.manifest["options"]["damping"] == 1e-4
    wanted = unrelu.invert(NETWORK, Y[:CHUNK], "lm", noise="gaussian:0.01", norm="l1", max_iterations=2,
                           seed=chunk_seed(7, 0))  # fmt: skip
    np.testing.assert_array_equal(run.read("objective", 0, CHUNK), wanted.fun)
    limited = small_run(tmp_path / "b", time_limit=1e-9)
    assert limited.counts == {"TIME_LIMIT": SIZE}


def test_values_are_scaled_as_the_generator_expects(finished, tmp_path):
    stored = ((Y + 4) / 8).astype(np.float64)
    run = small_run(tmp_path / "out", data=stored, scale="-4,4")
    np.testing.assert_allclose(run.read("codes"), finished.read("codes"), rtol=0, atol=1e-6)


def test_integers_tell_their_rounding_as_they_do_in_invert(tmp_path):
    low, high = float(Y.min()), float(np.quantile(Y, 0.95))  # what is larger is cut off
    stored = np.rint(255 * np.clip((Y - low) / (high - low), 0, 1)).astype(np.uint8)
    masks = np.random.default_rng(5).uniform(size=Y.shape) < 0.8
    run = small_run(tmp_path / "out", data=stored, scale=(low, high), masks=masks, noise=None, method="auto")
    assert run.manifest["noise"] is None
    assert f"noise rounding:{(high - low) / 255!r}" in str(run)
    assert run.noise_stated
    alone = unrelu.invert(
        NETWORK, stored[:CHUNK], operator=unrelu.Mask(masks[:CHUNK]), scale=(low, high), seed=chunk_seed(7, 0)
    )
    np.testing.assert_array_equal(run.read("codes", 0, CHUNK), alone.z)
    np.testing.assert_array_equal(run.read("p_value", 0, CHUNK), alone.p_value)
    assert alone.success.any()


# --- observations that fail -------------------------------------------------------------------------------------------


def test_a_failing_observation_is_a_row_with_its_message(tmp_path):
    y = Y.copy()
    y[6, 3] = np.nan
    y[8] *= 1e200
    run = small_run(tmp_path / "out", data=y)
    assert run.finished
    assert set(run.errors) == {6, 8}
    assert run.errors[6] == "1 of 20 values are NaN or infinite"
    assert "so that squares overflow" in run.errors[8]
    assert run.counts["ERROR"] == 2
    bad = run.read("status") == "ERROR"
    assert np.flatnonzero(bad).tolist() == [6, 8]
    assert np.isnan(run.read("codes")[bad]).all()
    assert np.isnan(run.read("reconstructions")[bad]).all()
    assert np.isnan(run.read("objective")[bad]).all()
    assert np.isfinite(run.read("codes")[~bad]).all()
    assert run.read("rank")[bad].tolist() == [-1, -1]
    assert not run.read("success")[bad].any()
    row = list(run.rows())[6]
    assert (row["status"], row["message"], row["objective"]) == ("ERROR", run.errors[6], None)


def test_a_chunk_without_good_observations_is_finished(tmp_path):
    y = Y.copy()
    y[:CHUNK] = np.nan
    run = small_run(tmp_path / "out", data=y)
    assert run.finished
    assert list(run.errors) == list(range(CHUNK))


def test_odd_masks_are_problems_of_their_observations(tmp_path):
    masks = np.ones((SIZE, 20))
    masks[2], masks[3, 4] = 0, 0.5
    run = small_run(tmp_path / "out", masks=masks)
    assert set(run.errors) == {2, 3}
    assert "its mask is 0 everywhere" in run.errors[2]
    assert "its mask has entries like 0.5" in run.errors[3]


@pytest.mark.parametrize("options", [{"noise": "gaussian:1e-4", "max_iterations": 1}, {}, {"method": "auto"}])
def test_messages_are_those_of_the_inversion(tmp_path, options):
    run = small_run(tmp_path / "out", data=Y[:CHUNK], **options)
    wanted = unrelu.invert(NETWORK, Y[:CHUNK], seed=chunk_seed(7, 0), **{"method": "lm"} | options)
    assert [row["message"] for row in run.rows()] == list(wanted.message)
    if "noise" in options:  # a misfit since the iterations ended
        assert "p = " in wanted.message[0]
        assert "raise max_iterations" in wanted.message[0]


def test_codes_that_are_missing_are_counted(tmp_path):
    y = Y.copy()
    y[3] = np.nan
    assert small_run(tmp_path / "out", data=y).failed == 1
    late = small_run(tmp_path / "late", method="linf", time_limit=1e-9)
    assert (late.failed, late.counts) == (0, {"TIME_LIMIT": SIZE})  # they have starts


def test_a_breakdown_is_of_its_observation_only(tmp_path, monkeypatch):
    from unrelu.runs import chunk_work

    real = chunk_work.invert

    def breaking(network, *, y, **options):
        if (np.abs(y) > 50).any():
            raise np.linalg.LinAlgError("SVD did not converge")
        return real(network, y=y, **options)

    monkeypatch.setattr(chunk_work, "invert", breaking)
    y = Y.copy()
    y[11] += 100
    run = small_run(tmp_path / "out", data=y)
    assert list(run.errors) == [11]
    assert run.errors[11] == "LinAlgError: SVD did not converge"


# --- going on ---------------------------------------------------------------------------------------------------------


def computed_in(output: Path, **options) -> list[int]:
    """The chunks that a call computes."""
    seen = []
    small_run(output, callback=lambda progress: progress.record and seen.append(progress.record.chunk), **options)
    return seen


def test_a_stopped_run_goes_on(finished, tmp_path):
    out = tmp_path / "out"
    begun = small_run(out, callback=lambda progress: progress.done == 2 * CHUNK)
    assert not begun.finished
    assert (len(begun.records), begun.done) == (2, 10)
    assert begun.read("status", 10).tolist() == [""] * 13
    assert np.isnan(begun.read("codes", 10)).all()
    assert computed_in(out) == [2, 3, 4]
    assert results(unrelu.open_run(out)) == results(finished)
    assert computed_in(out) == []
    assert recorded(out) == [0, 1, 2, 3, 4]


def test_the_callback_hears_of_every_chunk(tmp_path):
    seen = []
    small_run(tmp_path / "out", callback=seen.append)
    assert [(progress.done, progress.size) for progress in seen] == [(n, 23) for n in (0, 5, 10, 15, 20, 23)]
    assert [progress.record.chunk for progress in seen[1:]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("damage", "lost"), [("torn", [4]), ("garbage", [0]), ("emptied", [0, 1, 2, 3, 4])])
def test_a_damaged_journal_costs_its_chunks_only(finished, tmp_path, damage, lost):
    out = copy(finished, tmp_path / "out")
    kept = (out / "chunks.jsonl").read_text().splitlines()
    text = {"torn": "\n".join(kept[:4]) + "\n" + kept[4][:-30], "garbage": "\n".join(["\0{]", *kept[1:]]) + "\n",
            "emptied": ""}[damage]  # fmt: skip
    (out / "chunks.jsonl").write_text(text)
    assert computed_in(out) == lost
    assert results(unrelu.open_run(out)) == results(finished)


@pytest.mark.parametrize("left", [0, 5, 100])
def test_a_file_that_was_being_made_when_the_process_died_is_filled_up(finished, tmp_path, left):
    """A chunk of an array is a file of rows: those of unrecorded chunks may hold anything, or not be there."""
    out = copy(finished, tmp_path / "out")
    (out / "chunks.jsonl").write_text("")
    os.truncate(out / "results.zarr" / "codes" / "c" / "0" / "0", left)
    assert computed_in(out) == [0, 1, 2, 3, 4]
    assert results(unrelu.open_run(out)) == results(finished)


def test_rows_that_a_power_cut_took_are_computed_again(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    with (out / "results.zarr" / "codes" / "c" / "0" / "0").open("r+b") as stream:
        stream.seek(7 * 24)
        stream.write(np.full(3, np.nan).tobytes())
    assert computed_in(out) == [1]
    assert results(unrelu.open_run(out)) == results(finished)


def test_bounds_hold_in_every_chunk_and_are_those_of_invert(tmp_path):
    bounds = (np.array([-0.5, -np.inf, 0.0]), 0.5)
    done = small_run(tmp_path / "out", bounds=bounds)
    codes = done.read("codes")
    alone = unrelu.invert(NETWORK, Y[:CHUNK], "lm", bounds=bounds, seed=chunk_seed(7, 0))
    np.testing.assert_array_equal(codes[:CHUNK], alone.z)
    assert ((codes >= bounds[0]) & (codes <= 0.5)).all()
    assert (codes[:, 2] == 0).any()
    json.dumps(done.manifest, allow_nan=False)
    again = small_run(tmp_path / "out", bounds=([-0.5, -np.inf, 0], [0.5, 0.5, 0.5]))
    assert results(again) == results(done)
    with pytest.raises(InputError, match="asked for is None"):
        small_run(tmp_path / "out")
    with pytest.raises(InputError, match="bounds: coordinate 0 has the lower bound 1"):
        small_run(tmp_path / "other", bounds=(1, 0))
    assert not (tmp_path / "other").exists()


def test_another_run_is_refused_with_the_differences(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    other = unrelu.from_arrays([w * 2 for w in (np.eye(8, 3), np.ones((20, 8)))])
    for change, said in (
        ({"seed": 8}, "seed is 7, asked for is 8"),
        ({"max_iterations": 9}, "options.max_iterations is 3000, asked for is 9"),
        ({"chunk": 6}, "chunk is 5, asked for is 6"),
        ({"data": Y[:-1]}, "data.size is 23, asked for is 22"),
        ({"data": Y + 1}, "data.sha256 is '"),
        ({"data": Y.astype(np.float32)}, "data.dtype is 'float64', asked for is 'float32'"),
        ({"operator": np.ones(20, bool)}, "operator is None, asked for is "),
        ({"method": "adam"}, "method is 'lm', asked for is 'adam'"),
        ({"bounds": (-1, [1, 2, np.inf])}, "bounds is None, asked for is [-1.0, [1.0, 2.0, 'inf']]"),
        ({"noise": "gaussian:0.1"}, "noise is None, asked for is 'gaussian:0.1'"),
        ({"scale": "0,1"}, "data.scale is 'none', asked for is '0,1'"),
    ):
        with pytest.raises(InputError, match="holds another run") as error:
            small_run(out, **change)
        assert said in str(error.value)
        assert "--overwrite" in str(error.value)
    with pytest.raises(InputError, match=r"model\.sha256 is"):
        unrelu.run(other, Y, out, "lm", seed=7, chunk=CHUNK, workers=1)
    assert results(unrelu.open_run(out)) == results(finished)


def test_overwriting_begins_again_and_leaves_what_is_of_no_run(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    again = small_run(out, seed=8, overwrite=True)
    assert again.finished
    assert again.manifest["seed"] == 8
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("left", [("chunks.jsonl",), ("chunks.jsonl", "manifest.json.draft"), ()])
def test_what_ended_before_it_had_begun_is_begun_again(tmp_path, left):
    (tmp_path / "out" / "results.zarr").mkdir(parents=True)
    for name in left:
        (tmp_path / "out" / name).write_text("")
    assert small_run(tmp_path / "out").finished


class Lost:
    """Data whose disk is lost after the third chunk."""

    shape, dtype = Y.shape, Y.dtype
    lost = False

    def __getitem__(self, rows):
        self.lost |= rows.start > 2 * CHUNK
        if self.lost:
            raise OSError("stale file handle")
        return Y[rows]


def test_a_lost_data_set_stops_the_run_which_goes_on_when_it_is_back(finished, tmp_path):
    with pytest.raises(InputError, match="data cannot be read any more: stale file handle; bring it back"):
        small_run(tmp_path / "out", data=Lost())
    assert recorded(tmp_path / "out") == [0, 1, 2]
    assert results(small_run(tmp_path / "out")) == results(finished)


def test_results_that_vanish_meanwhile_are_told(tmp_path):
    def callback(progress):
        if progress.done == CHUNK:
            shutil.rmtree(tmp_path / "out" / "results.zarr")
            (tmp_path / "out" / "results.zarr").write_text("")

    with pytest.raises(unrelu.errors.StorageError, match="what is finished is kept: mend that, and run it again"):
        small_run(tmp_path / "out", callback=callback)


# --- chunks by default ------------------------------------------------------------------------------------------------


def default_chunk(folder: Path, network: unrelu.Network, size: int, **options) -> int:
    """The length that a run records, which is stopped before its first chunk."""
    data = np.zeros((size, *network.output_shape))
    asked = {"scale": "none", "noise": "gaussian:0.1", "workers": 1, "overwrite": True} | options
    return unrelu.run(network, data, folder, callback=lambda progress: True, **asked).manifest["chunk"]


def test_chunks_are_a_16th_of_the_data_and_fewer_where_a_pass_is_long(tmp_path):
    decoder = unrelu.from_arrays([np.ones((1000, 1000))] * 5 + [np.ones((1, 1000))])
    assert decoder.work == 5 * 10**6 + 1000

    def length(network, size, **options):
        return default_chunk(tmp_path / "out", network, size, **options)

    assert length(NETWORK, 300) == 18  # 17 chunks, four for each of four workers
    assert [length(NETWORK, size) for size in (1, 31, 4096, 10**5)] == [1, 8, 256, 256]
    assert length(decoder, 300) == 11  # no chunk has more than 6e7 multiplications of a pass
    assert length(decoder, 300, posterior=10) == 1
    # At least as many observations as tell a noise level together, where they do.
    assert length(decoder, 300, noise=None) == 20
    assert [length(decoder, 300, noise=None, **alone) for alone in ({"pool": False}, {"method": "lm"})] == [11, 11]
    assert [length(NETWORK, 300, workers=n) for n in (2, 7)] == [18, 18]


# --- workers ----------------------------------------------------------------------------------------------------------


class Killing(torch.nn.Module):
    """A measurement that kills the process of a worker that computes it, so many times."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__()
        self.folder, self.times = folder, times

    def forward(self, x):
        deaths = len(list(self.folder.glob("death-*")))
        if multiprocessing.parent_process() and deaths < self.times:
            (self.folder / f"death-{deaths}").touch()
            os._exit(9)
        return x + 0.1 * x**3


@pytest.mark.long
def test_a_worker_that_dies_is_replaced(tmp_path):
    said, y = [], Y + 0.1 * Y**3
    alone = small_run(tmp_path / "a", data=y, operator=Killing(tmp_path, 0))
    run = small_run(tmp_path / "b", data=y, operator=Killing(tmp_path, 1), workers=2,
                    callback=lambda progress: said.append(progress.warning) and False)  # fmt: skip
    assert (tmp_path / "death-0").exists()
    assert "a worker process was killed; its chunks are computed again" in said
    assert results(run) == results(alone)


@pytest.mark.long
def test_a_chunk_that_kills_every_worker_ends_the_run(tmp_path):
    with pytest.raises(SolverError, match="were killed 3 times without finishing a chunk"):
        small_run(tmp_path / "out", operator=Killing(tmp_path, 99), workers=2)
    assert not unrelu.open_run(tmp_path / "out").finished


SCRIPT = """
import numpy as np, unrelu
network = unrelu.from_arrays([np.eye(8, 3), np.ones((20, 8))])
run = unrelu.run(network, np.ones((9, 20)), "out", "lm", chunk=1, workers=2)
"""


@pytest.mark.long
def test_a_script_without_its_guard_is_told_what_is_missing(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip
    assert done.returncode == 1
    assert "put what it does under if __name__ == '__main__':" in done.stderr
    assert "SolverError: worker processes were killed 3 times" in done.stderr


def learn_together(barrier, log: Path) -> None:
    """Begin with the other worker, and write a line for everything that is learned, which then takes a while."""
    learn = LearnedConfidence.learn

    def counted(self, level, search):
        with log.open("a") as stream:
            stream.write(self.name(level) + "\n")
        time.sleep(0.5)
        return learn(self, level, search)

    LearnedConfidence.learn = counted
    barrier.wait()


def test_two_workers_learn_what_is_to_be_learned_once(tmp_path, monkeypatch):
    monkeypatch.setenv("UNRELU_CACHE", str(tmp_path / "cache"))
    spawned, log, network = multiprocessing.get_context("spawn"), tmp_path / "learned", unrelu.from_arrays(WEIGHTS)
    with ProcessPoolExecutor(2, spawned, learn_together, (spawned.Barrier(2), log)) as executor:
        run = unrelu.run(network, Y, tmp_path / "out", noise="gaussian:0.01", chunk=6, executor=executor)
    assert len({record.worker for record in run.records.values()}) == 2
    names = log.read_text().split()
    assert len(names) == len(set(names)) == len(list((tmp_path / "cache" / "priors").iterdir())) > 0


class Counting(ThreadPoolExecutor):
    """An executor that counts the chunks which were handed out and are not finished."""

    most = at_work = 0

    def submit(self, *arguments):
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        future = super().submit(*arguments)
        future.add_done_callback(lambda _: setattr(self, "at_work", self.at_work - 1))
        return future


def test_any_executor_computes_the_same_bytes_and_few_chunks_wait(finished, tmp_path):
    with Counting(1) as executor:
        assert results(small_run(tmp_path / "out", executor=executor)) == results(finished)
    assert 1 <= executor.most <= 2


def test_an_executor_that_was_shut_down_is_refused(tmp_path):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(OptionError, match="executor= takes no chunk: cannot schedule new futures after shutdown"):
        small_run(tmp_path / "out", executor=executor)


def test_another_data_set_is_refused_although_a_picture_cannot_be_read(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(4):
        Image.fromarray(np.full((4, 5), 10 * i, np.uint8)).save(pictures / f"{i}.png")
    (pictures / "1.png").write_bytes(b"junk")
    run = small_run(tmp_path / "out", data=pictures, scale="none", chunk=4)
    assert list(run.errors) == [1]
    assert run.errors[1] == "1.png: is no PNG or JPEG file"
    Image.fromarray(np.full((4, 5), 99, np.uint8)).save(pictures / "2.png")
    with pytest.raises(InputError, match=r"data\.sha256 is"):
        small_run(tmp_path / "out", data=pictures, scale="none", chunk=4)


def test_what_an_executor_loses_is_told(tmp_path):
    class Losing(ThreadPoolExecutor):
        def submit(self, *arguments):
            return super().submit(divmod, 1, 0)

    with Losing(1) as executor, pytest.raises(SolverError, match="chunk 0 was lost by its executor: ZeroDivision"):
        small_run(tmp_path / "out", executor=executor)


def test_threads_of_this_process_are_as_before(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        small_run(tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_one_that_looks_does_not_keep_a_run_from_beginning(tmp_path):
    small_run(tmp_path / "out")
    looking = subprocess.Popen([sys.executable, "-c", f"""
import time
from pathlib import Path
from unrelu.runtime.file_writing import locked
end = time.monotonic() + 1
while time.monotonic() < end:
    locked(Path({str(tmp_path / "out" / "chunks.jsonl")!r}))
"""])  # fmt: skip
    try:
        while looking.poll() is None:
            assert small_run(tmp_path / "out").finished
    finally:
        looking.kill()
        looking.wait()


def test_true_codes_are_found(tmp_path):
    run = small_run(tmp_path / "out", data=NETWORK(CODES), method="auto")
    np.testing.assert_allclose(run.read("codes"), CODES, atol=1e-6)
    assert run.success == SIZE

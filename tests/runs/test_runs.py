"""Runs over data sets: what they compute, and that they go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import unrelu
from tests.runs.small_runs import CHUNK, CODES, NETWORK, SIZE, Y, copy, results, small_run
from unrelu.datasets.opening import open_source
from unrelu.datasets.sources import Source
from unrelu.errors import InputError
from unrelu.runs.chunk_work import chunk_seed


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> unrelu.Run:
    return small_run(tmp_path_factory.mktemp("finished") / "out")


def lines(folder: Path) -> list[str]:
    return (folder / "chunks.jsonl").read_text().splitlines()


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
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["p_value"] for row in rows] == run.read("p_value").tolist()
    assert [row["confidence"] for row in rows] == run.read("confidence").tolist()
    assert list(rows[0])[:6] == ["index", "name", "method", "seed", "status", "message"]
    assert list(rows[0])[6:12] == ["success", "p_value", "p_size", "p_largest", "p_structure", "confidence"]


def test_chunks_have_seeds_of_their_own():
    seeds = {chunk_seed(seed, chunk) for seed in range(30) for chunk in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert chunk_seed(2**63 - 1, 10**7) == chunk_seed(2**63 - 1, 10**7)


@pytest.mark.parametrize("options", [{"workers": 2}, {"results": "zarr"}])
def test_results_have_the_same_bits(finished, tmp_path, options):
    assert results(small_run(tmp_path / "out", **options)) == results(finished)


def test_small_runs_leave_files_that_numpy_and_scripts_read(finished):
    np.testing.assert_array_equal(np.load(finished.folder / "codes.npy"), finished.read("codes"))
    np.testing.assert_allclose(
        np.load(finished.folder / "reconstructions.npy"), NETWORK(finished.read("codes")), rtol=0, atol=1e-12
    )
    rows = [json.loads(line) for line in (finished.folder / "results.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(SIZE))
    assert [row["residual_l2"] for row in rows] == finished.read("residual_l2").tolist()
    assert {row["method"] for row in rows} == {"lm"}
    assert rows[0]["message"].startswith(unrelu.Status[rows[0]["status"]].value)


def test_zarr_results_are_a_group_that_others_read(tmp_path):
    import zarr

    run = small_run(tmp_path / "out", results="zarr")
    group = zarr.open_group(str(tmp_path / "out" / "results.zarr"), mode="r")
    assert set(group.array_keys()) == {column.name for column in run.table.columns}
    assert group["codes"].chunks == (CHUNK, 3)
    assert group["codes"].metadata.dimension_names == ("observation", "codes_0")
    np.testing.assert_array_equal(group["codes"][:], run.read("codes"))
    statuses = group.attrs["statuses"]
    assert [statuses[code - 1] for code in group["status"][:].tolist()] == run.read("status").tolist()


def test_data_in_any_store_or_shape_give_the_same(finished, tmp_path):
    np.save(tmp_path / "y.npy", Y)
    assert results(small_run(tmp_path / "a", data=str(tmp_path / "y.npy"))) == results(finished)
    assert results(small_run(tmp_path / "b", data=open_source(tmp_path / "y.npy"))) == results(finished)
    assert results(small_run(tmp_path / "c", data=Y.reshape(SIZE, 1, 20, 1))) == results(finished)


def test_measurements_are_those_of_invert(tmp_path):
    matrix = np.random.default_rng(3).standard_normal((12, 20))
    y = Y @ matrix.T
    wanted = unrelu.invert(NETWORK, y[:CHUNK], "lm", operator=matrix, seed=chunk_seed(7, 0))
    for i, operator in enumerate((matrix, sparse.csr_array(matrix), aslinearoperator(matrix))):
        run = small_run(tmp_path / str(i), data=y, operator=operator)
        np.testing.assert_array_equal(run.read("codes", 0, CHUNK), wanted.z)


def test_a_mask_for_each_hides_what_was_not_observed(tmp_path):
    masks = np.random.default_rng(4).random((SIZE, 20)) < 0.8
    broken = np.where(masks, Y, np.nan)
    run = small_run(tmp_path / "out", data=broken, masks=masks)
    wanted = unrelu.invert(NETWORK, Y[:CHUNK], "lm", operator=masks[:CHUNK], seed=chunk_seed(7, 0))
    np.testing.assert_array_equal(run.read("codes", 0, CHUNK), wanted.z)
    assert not run.errors
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
    assert str(run.noise) == f"rounding:{(high - low) / 255!r}"
    assert f"noise {run.noise}" in str(run)
    alone = unrelu.invert(
        NETWORK, stored[:CHUNK], operator=unrelu.Mask(masks[:CHUNK]), scale=(low, high), seed=chunk_seed(7, 0)
    )
    np.testing.assert_array_equal(run.read("codes", 0, CHUNK), alone.z)
    np.testing.assert_array_equal(run.read("p_value", 0, CHUNK), alone.p_value)
    assert alone.success.any()


def test_threads_of_this_process_are_as_before(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        small_run(tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- observations that fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_a_failing_observation_is_a_row_with_its_message(tmp_path, kind):
    y = Y.copy()
    y[6, 3] = np.nan
    y[8] *= 1e200
    run = small_run(tmp_path / "out", data=y, results=kind)
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
    if kind == "npy":
        rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
        assert (rows[6]["status"], rows[6]["message"], rows[6]["objective"]) == ("ERROR", run.errors[6], None)


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

    def breaking(network, y, *arguments, **options):
        if (np.abs(y) > 50).any():
            raise np.linalg.LinAlgError("SVD did not converge")
        return real(network, y, *arguments, **options)

    monkeypatch.setattr(chunk_work, "invert", breaking)
    y = Y.copy()
    y[11] += 100
    run = small_run(tmp_path / "out", data=y)
    assert list(run.errors) == [11]
    assert run.errors[11].startswith("LinAlgError: SVD did not converge (test_runs.py, line ")


# --- going on ---------------------------------------------------------------------------------------------------------


def stopped_after(output: Path, chunks: int, **options) -> unrelu.Run:
    seen = []

    def callback(moment):
        if moment.settled is not None:
            seen.append(moment)
        return len(seen) == chunks

    return small_run(output, callback=callback, **options)


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_a_stopped_run_goes_on(finished, tmp_path, kind):
    out = tmp_path / "out"
    begun = stopped_after(out, 2, results=kind)
    assert not begun.finished
    assert (len(begun.records), begun.done) == (2, 10)
    assert begun.read("status", 10).tolist() == [""] * 13
    assert not (out / "results.jsonl").exists()
    told = []
    ended = small_run(out, results=kind, callback=lambda m: m.settled and told.append(m.settled.how))
    assert told == ["kept"] * 2 + ["computed"] * 3
    assert results(ended) == results(finished)
    assert len(lines(out)) == 5
    small_run(out, results=kind, callback=lambda m: m.settled and told.append(m.settled.how))
    assert told[5:] == ["kept"] * 5
    assert len(lines(out)) == 5


@pytest.mark.parametrize("kind", ["npy", "zarr"])
@pytest.mark.parametrize("column", ["codes", "status", "seconds"])
def test_damaged_rows_are_found_and_computed_again(finished, tmp_path, kind, column):
    run = small_run(tmp_path / "out", results=kind)
    values = run.table.read_all(5, 10)
    values[column] = values[column].copy()
    values[column][2] = 3
    run.table.write(5, values)
    told = []
    again = small_run(tmp_path / "out", results=kind, callback=lambda m: m.settled and told.append(m.settled.how))
    assert told == ["kept", "repaired", "kept", "kept", "kept"]
    assert results(again) == results(finished)


def test_a_half_written_zarr_chunk_is_computed_again(finished, tmp_path):
    small_run(tmp_path / "out", results="zarr")
    chunk = tmp_path / "out" / "results.zarr" / "codes" / "c" / "3" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    assert results(small_run(tmp_path / "out", results="zarr")) == results(finished)


@pytest.mark.parametrize("gone", ["codes.npy", "columns/status.npy", "columns"])
def test_lost_columns_are_computed_again(finished, tmp_path, gone):
    out = copy(finished, tmp_path / "out")
    (out / gone).unlink() if (out / gone).is_file() else shutil.rmtree(out / gone)
    told = []
    assert results(small_run(out, callback=lambda m: m.settled and told.append(m.settled.how))) == results(finished)
    assert told == ["repaired"] * 5


@pytest.mark.parametrize("damage", ["torn", "garbage", "emptied"])
def test_a_damaged_journal_costs_its_chunks_only(finished, tmp_path, damage):
    out = copy(finished, tmp_path / "out")
    kept = lines(out)
    left = {"torn": 4, "garbage": 4, "emptied": 0}[damage]
    text = {"torn": "\n".join(kept[:4]) + "\n" + kept[4][:-30], "garbage": "\n".join(["\0{]", *kept[1:]]) + "\n",
            "emptied": ""}[damage]  # fmt: skip
    (out / "chunks.jsonl").write_text(text)
    told = []
    again = small_run(out, callback=lambda m: m.settled and told.append(m.settled.how))
    assert told.count("kept") == left
    assert results(again) == results(finished)


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
    with pytest.raises(InputError, match="asked for is null"):
        small_run(tmp_path / "out")
    with pytest.raises(InputError, match="bounds: coordinate 0 has the lower bound 1"):
        small_run(tmp_path / "other", bounds=(1, 0))
    assert not (tmp_path / "other").exists()


def test_a_run_of_a_version_without_bounds_goes_on(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["bounds"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert results(small_run(out)) == results(finished)


@pytest.mark.parametrize(
    "bounds", [3, [1], [0, [1, 2]], [0, "high"], [0, float("nan")], [0, {}], [0, None], [0, [[1]]]]
)
def test_a_manifest_with_bounds_that_are_none_is_damaged(finished, tmp_path, bounds):
    out = copy(finished, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"bounds": bounds}))
    with pytest.raises(InputError, match="is damaged"):
        unrelu.open_run(out)


def test_another_run_is_refused_with_the_differences(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    other = unrelu.from_arrays([w * 2 for w in (np.eye(8, 3), np.ones((20, 8)))])
    for change, said in (
        ({"seed": 8}, "seed is 7, asked for is 8"),
        ({"max_iterations": 9}, "options.max_iterations is 3000, asked for is 9"),
        ({"chunk": 6}, "chunk is 5, asked for is 6"),
        ({"data": Y[:-1]}, "data.size is 23, asked for is 22"),
        ({"data": Y + 1}, 'data.sha256 is "'),
        ({"data": Y.astype(np.float32)}, 'data.dtype is "float64", asked for is "float32"'),
        ({"operator": np.ones(20, bool)}, "operator is null, asked for is "),
        ({"method": "adam"}, 'method is "lm", asked for is "adam"'),
        ({"bounds": (-1, [1, 2, np.inf])}, 'bounds is null, asked for is [-1.0, [1.0, 2.0, "inf"]]'),
        ({"noise": "gaussian:0.1"}, 'noise is null, asked for is "gaussian:0.1"'),
        ({"scale": "0,1"}, 'data.scale is "none", asked for is "0,1"'),
        ({"results": "zarr"}, 'results is "npy", asked for is "zarr"'),
    ):
        with pytest.raises(InputError, match="holds another run") as error:
            small_run(out, **change)
        assert said in str(error.value)
        assert "--overwrite" in str(error.value)
    with pytest.raises(InputError, match=r"model\.sha256 is"):
        unrelu.run(other, Y, out, "lm", seed=7, chunk=CHUNK, workers=1)
    assert results(unrelu.open_run(out)) == results(finished)


def test_other_data_in_a_later_chunk_are_refused(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    changed = Y.copy()
    changed[12] += 1
    with pytest.raises(InputError, match="observations 10 to 14 of data are not those that the run began with"):
        small_run(out, data=changed)


@pytest.mark.parametrize("workers", [1, 2])
def test_data_that_changed_before_they_were_computed_are_refused(finished, tmp_path, workers):
    out = tmp_path / "out"
    stopped_after(out, 2)
    changed = Y.copy()
    changed[22, 3] += 1e-12
    told = []
    with pytest.raises(InputError, match="observations 20 to 22 of data are not those that the run began with"):
        small_run(out, data=changed, workers=workers, callback=lambda m: m.settled and told.append(m.settled.how))
    if workers == 1:
        assert told == ["kept"] * 2  # before any work
    assert results(small_run(out)) == results(finished)


@pytest.mark.parametrize("damage", ["torn", "gone", "other"])
def test_without_the_hashes_of_the_data_a_run_goes_on(finished, tmp_path, damage):
    out = tmp_path / "out"
    stopped_after(out, 2)
    text = (out / "data.json").read_text()
    first = json.loads(text)["sha256"]["4"][:8]
    left = {"torn": text[:-9], "gone": None, "other": text.replace(first, "0" * 8)}[damage]
    (out / "data.json").unlink() if left is None else (out / "data.json").write_text(left)
    assert results(small_run(out)) == results(finished)


class Changing(Source):
    """A data set that changes when its fourth chunk is read to be computed."""

    location, size, shape, dtype = "the data", SIZE, (20,), np.dtype(np.float64)

    def __init__(self):
        self.looked = 0

    def read(self, start, stop, seen=None):
        return open_source(Y).read(start, stop, seen)

    def digest(self, start, stop):
        self.looked += start == 3 * CHUNK
        return open_source(Y + (start == 3 * CHUNK and self.looked > 1)).digest(start, stop)


def test_data_that_change_while_it_runs_are_refused_and_not_recorded(tmp_path):
    with pytest.raises(InputError, match="observations 15 to 19 of the data are not those"):
        small_run(tmp_path / "out", data=Changing())
    assert list(unrelu.open_run(tmp_path / "out").records) == [0, 1, 2]


def test_overwriting_begins_again(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    again = small_run(out, seed=8, overwrite=True, results="zarr")
    assert again.finished
    assert again.manifest["seed"] == 8
    assert not (out / "codes.npy").exists()
    assert (out / "notes.txt").read_text() == "mine"


# --- data that are lost -----------------------------------------------------------------------------------------------


class Gone(Source):
    """A data set whose disk is lost after the first chunk."""

    location, size, shape, dtype = "the disk", SIZE, (20,), np.dtype(np.float64)

    def read(self, start, stop, seen=None):
        if start > 2 * CHUNK:
            raise InputError("the disk is gone; bring it back")
        return open_source(Y).read(start, stop, seen)

    def digest(self, start, stop):
        return open_source(Y).digest(start, stop)


def test_a_lost_data_set_stops_the_run_which_goes_on_when_it_is_back(finished, tmp_path):
    with pytest.raises(InputError, match="the disk is gone"):
        small_run(tmp_path / "out", data=Gone())
    assert len(unrelu.open_run(tmp_path / "out").records) == 3
    assert results(small_run(tmp_path / "out")) == results(finished)


# --- workers ----------------------------------------------------------------------------------------------------------


class Killing(Gone):
    """A data set that kills the process that reads its third chunk, the first time."""

    def __init__(self, marker: Path, always: bool = False) -> None:
        self.marker, self.always = marker, always

    def read(self, start, stop, seen=None):
        if start == 2 * CHUNK and multiprocessing.parent_process() and (self.always or not self.marker.exists()):
            self.marker.touch()
            os._exit(9)
        return open_source(Y).read(start, stop, seen)


@pytest.mark.long
def test_a_worker_that_dies_is_replaced(finished, tmp_path):
    run = small_run(tmp_path / "out", data=Killing(tmp_path / "marker"), workers=2)
    assert (tmp_path / "marker").exists()
    assert results(run) == results(finished)


@pytest.mark.long
def test_an_observation_that_kills_every_worker_ends_the_run(tmp_path):
    with pytest.raises(unrelu.errors.SolverError, match="were killed 3 times without finishing a chunk"):
        small_run(tmp_path / "out", data=Killing(tmp_path / "marker", always=True), workers=2)
    assert {0, 1} <= set(unrelu.open_run(tmp_path / "out").records) <= {0, 1, 3, 4}


def test_true_codes_are_found(tmp_path):
    run = small_run(tmp_path / "out", data=NETWORK(CODES), method="auto")
    np.testing.assert_allclose(run.read("codes"), CODES, atol=1e-6)
    assert run.success == SIZE

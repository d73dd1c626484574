"""Data sets read in parts: every kind of store, what is wrong in them, and how their values are scaled."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.datasets.store_kinds import (
    ARRAYS,
    COLOUR,
    FLOATS,
    Y,
    every_kind,
    hdf5,
    images,
    npy,
    npz,
    packed,
    zarr_array,
    zarr_group,
    zarr_memory,
)
from unrelu.datasets.opening import open_source
from unrelu.datasets.sources import Source
from unrelu.errors import InputError

# --- what is read -----------------------------------------------------------------------------------------------------


@every_kind
def test_parts_are_those_of_the_whole(tmp_path, kind):
    source = open_source(kind(tmp_path))
    assert (source.size, len(source), source.shape, source.dtype) == (7, 7, (3, 4), np.uint8)
    whole = source.read(0, 7)
    assert (whole.values.dtype, whole.problems) == (np.float64, {})
    np.testing.assert_array_equal(whole.values, Y)
    for start, stop in [(0, 0), (7, 7), (0, 1), (2, 5), (6, 7)]:
        part = source.read(start, stop)
        assert part.values.shape == (stop - start, 3, 4)
        np.testing.assert_array_equal(part.values, Y[start:stop])


@every_kind
def test_a_source_travels_without_its_data(tmp_path, kind):
    source = open_source(kind(tmp_path, np.tile(Y, (200, 1, 1))))
    source.read(0, 1400)
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert isinstance(received, Source)
    assert (received.size, received.shape, received.dtype) == (1400, (3, 4), np.uint8)
    assert received.name(3) == source.name(3)
    np.testing.assert_array_equal(received.read(1, 4).values, Y[1:4])
    assert received.digest(1, 4) == source.digest(1, 4)


@pytest.mark.parametrize("kind", [npy, npz, zarr_group, hdf5, images], ids=lambda kind: kind.__name__)
def test_a_source_is_opened_again_in_another_process(tmp_path, kind):
    source = open_source(kind(tmp_path))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(source.read, (2, 5)).values, Y[2:5])


@pytest.mark.parametrize("kind", [zarr_group, hdf5], ids=lambda kind: kind.__name__)
def test_handles_are_not_used_in_another_process(tmp_path, monkeypatch, kind):
    source = open_source(kind(tmp_path))
    before = source._opened
    monkeypatch.setattr(os, "getpid", lambda: -1)
    np.testing.assert_array_equal(source.read(2, 5).values, Y[2:5])
    assert source._opened[0] == -1
    assert source._opened[1] is not before[1]


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "i1", "<u2", ">i4", "?", "longdouble"])
@pytest.mark.parametrize("kind", [npy, zarr_group, hdf5], ids=lambda kind: kind.__name__)
def test_types_are_told_and_values_are_float64(tmp_path, kind, dtype):
    if kind is zarr_group and dtype == "longdouble":
        dtype = "<f8"
    y = np.arange(6).reshape(2, 3).astype(dtype)
    source = open_source(kind(tmp_path, y))
    # Zarr keeps the order of bytes to itself.
    assert source.dtype == (y.dtype.newbyteorder("=") if kind is zarr_group else y.dtype)
    values = source.read(0, 2).values
    assert values.dtype == np.dtype(float)
    np.testing.assert_array_equal(values, y.astype(float))


def test_images_are_sorted_by_name_and_named(tmp_path):
    source = open_source(images(tmp_path))
    assert [source.name(i) for i in (0, 1, 6)] == ["000.PNG", "001.png", "006.png"]
    assert open_source(npy(tmp_path)).name(3) == "3"


def test_colour_comes_first(tmp_path):
    source = open_source(images(tmp_path, COLOUR))
    assert (source.shape, source.dtype) == ((3, 5, 4), np.uint8)
    np.testing.assert_array_equal(source.read(0, 7).values, COLOUR)


@pytest.mark.parametrize("dtype", [np.uint16, bool])
def test_images_of_other_depths(tmp_path, dtype):
    y = (Y.astype(np.uint16) * 257).astype(dtype) if dtype is np.uint16 else Y > 100
    source = open_source(images(tmp_path, y))
    assert source.dtype == dtype
    np.testing.assert_array_equal(source.read(0, 7).values, y)


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8)
    for name in ("b.jpg", "a.JPEG"):
        Image.fromarray(smooth).save(tmp_path / name, "JPEG", quality=95)
    source = open_source(tmp_path)
    assert [source.name(i) for i in range(2)] == ["a.JPEG", "b.jpg"]
    np.testing.assert_allclose(source.read(0, 2).values, np.stack([smooth] * 2), atol=3)


def test_images_are_resized_when_asked(tmp_path):
    y = np.random.default_rng(0).integers(0, 256, (2, 8, 12)).astype(np.uint8)
    images(tmp_path, y)
    Image.fromarray(y[0, :6, :6]).save(tmp_path / "images" / "zzz.png")
    source = open_source(tmp_path / "images", size=(4, 6))
    batch = source.read(0, 3)
    assert (source.shape, batch.problems) == ((4, 6), {})
    expected = Image.fromarray(y[1]).resize((6, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(batch.values[1], np.asarray(expected))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(0, 3).values, batch.values)


# --- parts and digests ------------------------------------------------------------------------------------------------


@every_kind
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(cuts=st.sets(st.integers(1, 6)))
def test_any_partition_gives_the_same_values(tmp_path, kind, cuts):
    y = Y.copy()
    source = open_source(kind(tmp_path, y))
    ends = [0, *sorted(cuts), 7]
    parts = [source.read(a, b).values for a, b in pairwise(ends)]
    np.testing.assert_array_equal(np.concatenate(parts), source.read(0, 7).values)
    digests = [source.digest(a, b) for a, b in pairwise(ends)]
    assert len(set(digests)) == len(digests)


@every_kind
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=5)
@given(at=st.integers(0, Y.size - 1), bit=st.integers(0, 7))
def test_a_changed_byte_changes_the_digest_of_its_part_alone(tmp_path, kind, at, bit):
    before = [open_source(kind(tmp_path)).digest(i, i + 1) for i in range(7)]
    y = Y.copy()
    y.reshape(-1)[at] ^= 1 << bit
    changed = open_source(kind(tmp_path, y))
    after = [changed.digest(i, i + 1) for i in range(7)]
    assert [i for i in range(7) if before[i] != after[i]] == [at // 12]


@pytest.mark.parametrize("kind", ARRAYS, ids=lambda kind: kind.__name__)
def test_the_digest_is_that_of_the_stored_bytes(tmp_path, monkeypatch, kind):
    source = open_source(kind(tmp_path, FLOATS))
    expected = hashlib.sha256(FLOATS[1:6].tobytes()).hexdigest()
    assert source.digest(1, 6) == expected
    monkeypatch.setattr("unrelu.datasets.sources._PIECE", 50)
    assert source.digest(1, 6) == expected


def test_a_byte_beside_the_pixels_changes_the_digest_of_an_image(tmp_path):
    source = open_source(images(tmp_path))
    before = source.digest(2, 4)
    path = tmp_path / "images" / "003.png"
    path.write_bytes(path.read_bytes() + b"x")
    assert source.digest(2, 4) != before
    path.unlink()
    assert source.digest(3, 4) != before


# A mapping that is kept would be counted as well: its pages are memory of the process.
MEMORY = """
import resource, sys
import numpy as np
from unrelu.datasets.opening import open_source
source = open_source(sys.argv[1])
source.read(0, 10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, source.size, 1000):
    source.read(start, min(start + 1000, source.size))
source.digest(0, source.size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", ["c.npy", "fortran.npy", "y.zarr", "y.h5"])
def test_memory_is_that_of_a_part(tmp_path, name):
    """160 MiB, of which 1000 observations or 4 MiB are read at a time, and 8 MiB for the digest; small on the disk."""
    shape, path = (40960, 1024), tmp_path / name
    if name.endswith(".npy"):
        np.lib.format.open_memmap(path, "w+", np.float32, shape, fortran_order="fortran" in name)
    elif name == "y.zarr":
        zarr.create_array(str(path), data=np.ones(shape, np.float32), chunks=(1000, 1024))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("y", data=np.ones(shape, np.float32), chunks=(1000, 1024), compression="lzf")
    ran = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 110 * 1024


# --- observations that cannot be used ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ARRAYS, ids=lambda kind: kind.__name__)
def test_rows_with_nan_and_infinity_are_problems(tmp_path, kind):
    y = FLOATS.copy()
    y[2, 1], y[5, :2] = np.nan, (np.inf, -np.inf)
    source = open_source(kind(tmp_path, y))
    batch = source.read(1, 7)
    assert batch.problems == {1: "1 of 5 values are NaN or infinite", 4: "2 of 5 values are NaN or infinite"}
    good = [0, 2, 3, 5]
    np.testing.assert_array_equal(batch.values[good], FLOATS[1:][good])
    assert np.isnan(batch.values[[1, 4]]).all()


def test_numbers_beyond_float64_are_problems(tmp_path):
    y = np.ones((2, 3), np.longdouble)
    y[1] *= np.finfo(np.longdouble).max
    assert list(open_source(npy(tmp_path, y)).read(0, 2).problems) == [1]


def test_a_damaged_chunk_of_zarr_is_a_problem_of_its_rows(tmp_path):
    source = open_source(zarr_group(tmp_path))
    (tmp_path / "g.zarr" / "y" / "c" / "1" / "0" / "0").write_bytes(b"rubbish")
    batch = source.read(0, 7)
    assert list(batch.problems) == [2, 3]
    assert all(problem.startswith("cannot be read: ") for problem in batch.problems.values())
    assert np.isnan(batch.values[2:4]).all()
    np.testing.assert_array_equal(batch.values[4:], Y[4:])
    assert len({source.digest(0, 7), open_source(zarr_array(tmp_path)).digest(0, 7)}) == 2


@pytest.mark.parametrize("fill", [0, 7, np.nan])
def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path, fill):
    path = str(tmp_path / "a.zarr")
    array = zarr.create_array(path, shape=(6, 2), chunks=(2, 2), dtype=float, fill_value=fill)
    array[2:4] = 1
    batch = open_source(path).read(0, 6)
    np.testing.assert_array_equal(batch.values, np.repeat([fill, 1, fill], 2)[:, None] * np.ones(2))
    assert list(batch.problems) == ([0, 1, 4, 5] if np.isnan(fill) else [])


def test_a_damaged_chunk_of_hdf5_is_a_problem_of_its_rows(tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(path) as file:
        chunk = file["y"].id.get_chunk_info(1)
    with open(path, "r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\0" * chunk.size)
    batch = open_source(path).read(1, 7)
    assert list(batch.problems) == [1, 2]
    np.testing.assert_array_equal(batch.values[3:], Y[4:])


@every_kind
def test_a_data_set_that_is_gone_is_no_problem_of_observations(tmp_path, kind):
    path = kind(tmp_path)
    source = open_source(path)
    if kind is zarr_memory:
        store = zarr.open_group(path, mode="r+").store
        store.fs.sync_fs.rm(store.path, recursive=True)
    else:
        Path(path.removeprefix("file://")).rename(tmp_path / "elsewhere")
    if kind in (npz, packed):
        np.testing.assert_array_equal(source.read(2, 5).values, Y[2:5])
    else:
        with pytest.raises(InputError, match=r"does not exist|is gone; bring it back|holds no Zarr group or array"):
            source.read(2, 5)


def test_a_file_cut_short_after_opening_is_refused(tmp_path):
    path = npy(tmp_path)
    source = open_source(path)
    os.truncate(path, os.path.getsize(path) - 20)
    np.testing.assert_array_equal(source.read(0, 5).values, Y[:5])
    with pytest.raises(InputError, match="it is cut short or damaged"):
        source.read(0, 7)


def test_a_reader_that_fails_once_is_asked_again(tmp_path, monkeypatch):
    source = open_source(npy(tmp_path))
    read, failures = np.fromfile, [OSError("stale handle")]

    def fromfile(*args, **options):
        if failures:
            raise failures.pop()
        return read(*args, **options)

    monkeypatch.setattr(np, "fromfile", fromfile)
    batch = source.read(0, 7)
    assert batch.problems == {}
    np.testing.assert_array_equal(batch.values, Y)


def test_rows_that_the_disk_cannot_read_are_problems(tmp_path, monkeypatch):
    source = open_source(npy(tmp_path))
    read = np.fromfile

    def fromfile(path, dtype, count, offset):
        first = (offset - 128) // 12
        if first <= 4 < first + count // 12:
            raise OSError("input/output error")
        return read(path, dtype, count, offset=offset)

    monkeypatch.setattr(np, "fromfile", fromfile)
    batch = source.read(1, 7)
    assert batch.problems == {3: "cannot be read: input/output error"}
    np.testing.assert_array_equal(batch.values[[0, 1, 2, 4, 5]], Y[[1, 2, 3, 5, 6]])


def test_memory_that_runs_out_is_no_problem_of_an_observation(tmp_path, monkeypatch):
    source = open_source(npy(tmp_path))

    def full(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(np, "fromfile", full)
    with pytest.raises(MemoryError):
        source.read(0, 7)


def test_bad_images_among_many(tmp_path):
    images(tmp_path)
    folder = tmp_path / "images"
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(whole[:-30])
    Image.fromarray(Y[2, :2]).save(folder / "002.png")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(folder / "003.png")
    Image.fromarray(Y[4]).convert("P").save(folder / "004.png")
    (folder / "005.png").write_bytes(b"")
    Image.fromarray(Y[6]).save(folder / "006.png", "GIF")
    batch = open_source(folder).read(0, 7)
    np.testing.assert_array_equal(batch.values[0], Y[0])
    assert np.isnan(batch.values[1:]).all()
    assert list(batch.problems) == [1, 2, 3, 4, 5, 6]
    for i, text in {
        1: "cannot be read: ",
        2: "is 2x4 grey uint8; the first is 3x4 grey uint8: make them equal, or pass size=",
        3: "is 3x4 RGB uint8; the first is 3x4 grey uint8",
        4: "has Pillow's mode P; save it as grey or RGB",
        5: "cannot be read: cannot identify image file",
        6: "cannot be read: cannot identify image file",
    }.items():
        assert text in batch.problems[i]


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("share", np.linspace(0, 0.95, 8))
def test_truncated_images_are_problems(tmp_path, share, ending):
    large = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
    for i, values in enumerate(large):
        Image.fromarray(values).save(tmp_path / f"{i}.{ending}")
    whole = open_source(tmp_path).read(0, 2).values
    path = tmp_path / f"0.{ending}"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    batch = open_source(tmp_path).read(0, 2)
    assert list(batch.problems) == [0]
    assert batch.problems[0].startswith("cannot be read: ")
    np.testing.assert_array_equal(batch.values[1], whole[1])


def test_images_of_the_wrong_mode_are_not_helped_by_resizing(tmp_path):
    images(tmp_path)
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "images" / "003.png")
    problems = open_source(tmp_path / "images", size=(3, 4)).read(0, 7).problems
    assert problems == {3: "is 3x4 RGB uint8; the first is 3x4 grey uint8"}

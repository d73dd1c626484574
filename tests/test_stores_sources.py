"""Data sets read in parts: every kind of store, what is wrong in them, and how their values are scaled."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unrelu.errors import InputError, MissingPackageError
from unrelu.stores import Source, open_masks, open_source

Y = np.random.default_rng(0).integers(0, 256, (7, 3, 4)).astype(np.uint8)
FLOATS = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
COLOUR = np.random.default_rng(2).integers(0, 256, (7, 3, 5, 4)).astype(np.uint8)


def npy(folder: Path, y=Y) -> str:
    np.save(folder / "y.npy", y)
    return str(folder / "y.npy")


def fortran(folder: Path, y=Y) -> str:
    return npy(folder, np.asfortranarray(y))


def npz(folder: Path, y=Y) -> str:
    np.savez(folder / "y.npz", y=y, labels=np.arange(3))
    return str(folder / "y.npz")


def packed(folder: Path, y=Y) -> str:
    np.savez_compressed(folder / "packed.npz", anything=y)
    return str(folder / "packed.npz")


def zarr_group(folder: Path, y=Y) -> str:
    group = zarr.open_group(str(folder / "g.zarr"), mode="w", zarr_format=3)
    group.create_array("y", data=y, chunks=(2, *y.shape[1:]))
    group.create_array("labels", data=np.arange(3))
    return str(folder / "g.zarr")


def zarr_array(folder: Path, y=Y) -> str:
    zarr.create_array(str(folder / "a.zarr"), data=y, chunks=(3, *y.shape[1:]), zarr_format=3, overwrite=True)
    return str(folder / "a.zarr")


def zarr_folder(folder: Path, y=Y) -> str:
    """A store whose folder is not called .zarr."""
    zarr.open_group(str(folder / "store"), mode="w").create_array("anything", data=y)
    return str(folder / "store")


def zarr_memory(folder: Path, y=Y) -> str:
    url = f"memory://{folder.name}/y.zarr"
    zarr.open_group(url, mode="w").create_array("y", data=y, chunks=(4, *y.shape[1:]))
    return url


def zarr_file_url(folder: Path, y=Y) -> str:
    return f"file://{zarr_group(folder, y)}"


def hdf5(folder: Path, y=Y) -> str:
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("y", data=y, chunks=(2, *y.shape[1:]), compression="gzip")
        file.create_dataset("labels", data=np.arange(3))
    return str(folder / "y.h5")


def images(folder: Path, y=Y) -> str:
    (folder / "images").mkdir(exist_ok=True)
    for i, values in enumerate(y):
        picture = Image.fromarray(values.transpose(1, 2, 0) if values.ndim == 3 else values)
        picture.save(folder / "images" / f"{i:03}.{'PNG' if i == 0 else 'png'}")
    (folder / "images" / "labels.csv").write_text("1,2,3")
    (folder / "images" / "more.png").mkdir(exist_ok=True)
    return str(folder / "images")


ARRAYS = (npy, fortran, npz, packed, zarr_group, zarr_array, zarr_folder, zarr_memory, zarr_file_url, hdf5)
KINDS = (*ARRAYS, images)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


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
    monkeypatch.setattr("unrelu.stores.arrays._PIECE", 50)
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
from unrelu.stores import open_source
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
        with pytest.raises(InputError, match=r"cannot be opened|is gone; bring it back|holds no Zarr group or array"):
            source.read(2, 5)


def test_a_file_cut_short_after_opening_is_refused(tmp_path):
    path = npy(tmp_path)
    source = open_source(path)
    os.truncate(path, os.path.getsize(path) - 20)
    np.testing.assert_array_equal(source.read(0, 5).values, Y[:5])
    with pytest.raises(InputError, match="cannot be opened"):
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


# --- stores that cannot be used ---------------------------------------------------------------------------------------


def refuses(message, location, **options):
    with pytest.raises(InputError, match=message) as caught:
        open_source(location, **options)
    assert str(location) in str(caught.value)


@pytest.mark.parametrize("kind", [npz, zarr_group, hdf5, zarr_memory], ids=lambda kind: kind.__name__)
def test_a_missing_array_is_named_with_those_that_are_there(tmp_path, kind):
    path = kind(tmp_path)
    held = "y" if kind is zarr_memory else "(y, labels|labels, y)"
    refuses(rf"has no array 'images'; it holds {held}", path, array="images")
    np.testing.assert_array_equal(open_source(path, array="y").read(0, 7).values, Y)


@pytest.mark.parametrize("kind", [packed, zarr_folder], ids=lambda kind: kind.__name__)
def test_of_several_arrays_one_has_to_be_named(tmp_path, kind):
    path = kind(tmp_path)
    if kind is packed:
        np.savez(path, a=Y, b=Y)
    else:
        group = zarr.open_group(path, mode="w")
        for name in "ab":
            group.create_array(name, data=Y)
    refuses(r"holds the arrays (a, b|b, a); say which with array=, or name it 'y'", path)
    np.testing.assert_array_equal(open_source(path, array="b").read(0, 7).values, Y)


def test_arrays_in_groups_of_groups(tmp_path):
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_group("train").create_array("y", data=Y)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/y"] = Y
    for name in ("a.zarr", "a.h5"):
        np.testing.assert_array_equal(open_source(tmp_path / name, array="train/y").read(0, 7).values, Y)
        refuses("holds no arrays; pass a store with an array 'train'", tmp_path / name, array="train")
        refuses("holds no arrays", tmp_path / name)


def test_damaged_and_foreign_zarr(tmp_path):
    path = Path(zarr_group(tmp_path))
    (path / "zarr.json").write_text("{broken")
    refuses("cannot be opened: ", path)
    (tmp_path / "empty.zarr").mkdir()
    refuses("holds no Zarr group or array of format 3", tmp_path / "empty.zarr")
    refuses("holds no Zarr group or array", "memory://nothing/there")
    refuses("cannot be opened: Protocol not known: nothing", "nothing://bucket/y.zarr")
    refuses("is one array, so it has none called 'y'", zarr_array(tmp_path), array="y")


def test_older_zarr_is_not_read_as_it_may_run_code(tmp_path):
    zarr.create_array(str(tmp_path / "old.zarr"), data=Y, zarr_format=2)
    refuses("format 3.*zarr migrate v3", tmp_path / "old.zarr")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("y.npy", b"", "cannot be opened"),
        ("y.npz", b"PK\x03\x04 and no more", "cannot be opened"),
        ("y.h5", b"\x89HDF\r\n\x1a\n", "cannot be opened"),
        ("y.hdf5", b"rubbish", "cannot be opened"),
        ("y.npy", b"cos\nsystem\n(S'touch stolen'\ntR.", "cannot be opened"),
        ("y.csv", b"1,2,3", "is no data set; pass a .npy, .npz, .h5"),
    ],
)
def test_damaged_and_foreign_files(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    refuses(message, tmp_path / name)
    assert not Path("stolen").exists()


@pytest.mark.parametrize("kind", [npy, npz], ids=lambda kind: kind.__name__)
def test_objects_are_never_unpickled(tmp_path, kind):
    refuses("cannot be opened: ", kind(tmp_path, np.array([[{}], [None]])))


def test_a_truncated_npy_is_refused_at_once(tmp_path):
    path = npy(tmp_path)
    os.truncate(path, os.path.getsize(path) - 1)
    refuses("cannot be opened", path)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(5), r"has shape \(5,\); a data set is a batch .* reshape a single observation to \(1, ...\)"),
        (np.zeros((0, 5)), r"has shape \(0, 5\), so it holds no values"),
        (np.zeros((5, 0)), "so it holds no values"),
        (np.zeros((2, 2), complex), "entries of type complex128; save real numbers"),
        (np.array([["a", "b"]]), "save real numbers"),
    ],
)
def test_arrays_that_are_no_batch_of_numbers(tmp_path, y, message):
    refuses(message, npy(tmp_path, y))


def test_large_npz_files_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = packed(tmp_path)
    monkeypatch.setattr("unrelu.stores.arrays._LARGEST_NPZ", 100)
    refuses(r"anything has 0.0 GiB; .npz files are read as a whole, up to 0 GiB; save it as .npy or Zarr", path)


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as file:
        file.writestr("y.npy", b"not an array")
    refuses("y is no array; save it with numpy.savez", tmp_path / "y.npz")


def test_folders_without_images(tmp_path):
    refuses("holds no files that end in .png, .jpg, .jpeg; pass a folder of images", tmp_path)
    (tmp_path / "a.png").write_bytes(b"rubbish")
    refuses("holds no image that can be read: a.png cannot be read", tmp_path)


@pytest.mark.parametrize("size", [(0, 4), (3, -1), (3,), (3, 4, 5)])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(InputError, match=r"is no size of an image; pass \(height, width\)"):
        open_source(images(tmp_path), size=size)


def test_places_that_are_none(tmp_path):
    refuses("does not exist; pass a .npy", tmp_path / "y.npy")
    refuses("does not exist; pass a .npy", tmp_path / "y.zarr")
    refuses("only Zarr stores are read from URLs; copy the .npy file", "s3://bucket/y.npy")
    refuses("has no array|so there is no 'x'; leave array= out", npy(tmp_path), array="x")
    refuses("so it has no array 'x'; leave array= out", images(tmp_path), array="x")
    refuses("resizes images only", npy(tmp_path), size=(3, 4))


@every_kind
def test_ranges_have_to_be_within(tmp_path, kind):
    source = open_source(kind(tmp_path))
    for start, stop in [(-1, 2), (3, 2), (0, 8)]:
        for call in (source.read, source.digest):
            with pytest.raises(InputError, match=f"has observations 0 to 6; {start}:{stop} is not within them"):
                call(start, stop)


def test_data_sets_must_not_change_their_size(tmp_path):
    arrays, folder = (pickle.dumps(open_source(kind(tmp_path))) for kind in (npy, images))
    npy(tmp_path, Y[:5])
    (tmp_path / "images" / "003.png").unlink()
    with pytest.raises(InputError, match=r"now has shape \(5, 3, 4\) .* do not change a data set while it is read"):
        pickle.loads(arrays).read(0, 2)
    with pytest.raises(InputError, match="now holds 6 images, it held 7; do not change"):
        pickle.loads(folder).read(0, 2)
    (tmp_path / "y.npy").unlink()
    with pytest.raises(InputError, match="cannot be opened"):
        pickle.loads(arrays).read(0, 2)


@pytest.mark.parametrize(
    ("kind", "module", "message"),
    [
        (zarr_group, "zarr", r'Zarr stores need zarr: pip install "unrelu\[zarr\]"'),
        (hdf5, "h5py", r'HDF5 files need h5py: pip install "unrelu\[hdf5\]"'),
        (images, "PIL", r'images need PIL: pip install "unrelu\[images\]"'),
    ],
)
def test_missing_packages(tmp_path, monkeypatch, kind, module, message):
    path = kind(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "PIL.Image")
    with pytest.raises(MissingPackageError, match=message) as caught:
        open_source(path)
    assert caught.value.name == module


def test_missing_file_systems(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match=r"s3://bucket/y.zarr needs one more package: Install s3fs"):
        open_source("s3://bucket/y.zarr")


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_masks_are_zero_and_one(tmp_path, dtype):
    np.savez(tmp_path / "m.npz", mask=(Y > 100).astype(dtype), y=Y)
    masks = open_masks(tmp_path / "m.npz")
    assert (masks.size, masks.shape, masks.dtype, masks.name(2)) == (7, (3, 4), bool, "2")
    batch = pickle.loads(pickle.dumps(masks)).read(1, 5)
    assert batch.problems == {}
    np.testing.assert_array_equal(batch.values, (Y > 100)[1:5])
    assert masks.digest(0, 7) == open_source(tmp_path / "m.npz", array="mask").digest(0, 7)


def test_masks_with_other_entries_are_problems(tmp_path):
    y = (Y > 100).astype(float)
    y[2, 0, 1], y[4, 1, 1] = 0.5, np.nan
    batch = open_masks(npy(tmp_path, y)).read(1, 7)
    assert batch.problems == {
        1: "has entries like 0.5; a mask is made of 0 and 1",
        3: "1 of 12 values are NaN or infinite",
    }
    assert np.isnan(batch.values[[1, 3]]).all()
    np.testing.assert_array_equal(batch.values[4], y[5])


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_white_is_one_in_images(tmp_path, dtype):
    known = Y > 100
    path = images(tmp_path, known if dtype is bool else known * np.uint8(255))
    if dtype is np.uint8:
        Image.fromarray(known[3] * np.uint8(1)).save(tmp_path / "images" / "003.png")
    batch = open_masks(path).read(0, 7)
    expected = {} if dtype is bool else {3: "has entries like 1; a mask is made of black and white, 0 and 255"}
    assert batch.problems == expected
    good = [0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(batch.values[good], known[good])


def test_masks_in_images_stay_masks_when_resized(tmp_path):
    path = images(tmp_path, (Y > 100) * np.uint8(255))
    assert open_masks(path, size=(5, 7)).read(0, 7).problems == {}
    assert open_source(path, size=(5, 7)).read(0, 7).values.max() <= 255

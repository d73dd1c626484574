"""Data sets read in parts: every kind of store, what is wrong in them, and masks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from tests.datasets.store_kinds import ARRAYS, COLOUR, FLOATS, Y, every_kind, hdf5, images, npy, zarr_array, zarr_group
from unrelu.datasets.data_set import Observations
from unrelu.datasets.opening import open_data
from unrelu.errors import InputError
from unrelu.measurements import read_operator
from unrelu.measurements.picture_scale import Scaling

# --- what is read -----------------------------------------------------------------------------------------------------


@every_kind
def test_parts_are_those_of_the_whole(tmp_path, kind):
    source = open_data(kind(tmp_path))
    assert (source.size, source.shape, source.dtype) == (7, (3, 4), np.uint8)
    for start, stop in [(0, 7), (0, 1), (2, 5), (6, 7)]:
        values, problems = source.read(start, stop)
        assert (values.dtype, problems) == (np.float64, {})
        np.testing.assert_array_equal(values, Y[start:stop])


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "i1", "<u2", ">i4", "?", "longdouble"])
@pytest.mark.parametrize("kind", [npy, zarr_group, hdf5], ids=lambda kind: kind.__name__)
def test_types_are_told_and_values_are_float64(tmp_path, kind, dtype):
    if kind is zarr_group and dtype == "longdouble":
        dtype = "<f8"
    y = np.arange(6).reshape(2, 3).astype(dtype)
    source = open_data(kind(tmp_path, y))
    # Zarr keeps the order of bytes to itself.
    assert source.dtype == (y.dtype.newbyteorder("=") if kind is zarr_group else y.dtype)
    values, _ = source.read(0, 2)
    assert values.dtype == np.dtype(float)
    np.testing.assert_array_equal(values, y.astype(float))


def test_what_has_slices_is_taken_as_it_is(tmp_path):
    with h5py.File(hdf5(tmp_path)) as file:
        for given in (Y, file["y"], zarr.open(zarr_array(tmp_path)), np.load(npy(tmp_path), mmap_mode="r")):
            np.testing.assert_array_equal(open_data(given).read(1, 4)[0], Y[1:4])
    np.testing.assert_array_equal(open_data(Y.tolist()).read(1, 4)[0], Y[1:4])


def test_images_are_sorted_by_name_and_named(tmp_path):
    folder = Path(images(tmp_path))
    source = open_data(folder)
    assert [source.names[i] for i in (0, 1, 6)] == ["000.PNG", "001.png", "006.png"]
    listed = open_data([folder / "003.png", folder / "001.png"])
    assert listed.names == ["003.png", "001.png"]
    np.testing.assert_array_equal(listed.read(0, 2)[0], Y[[3, 1]])
    assert list(open_data(npy(tmp_path)).names) == []


@pytest.mark.parametrize(
    "y", [COLOUR, Y.astype(np.uint16) * 257, Y > 100], ids=["colour", "16 bits", "1 bit"]
)  # fmt: skip
def test_images_of_other_kinds(tmp_path, y):
    source = open_data(images(tmp_path, y))
    assert (source.shape, source.dtype) == (y.shape[1:], y.dtype)
    np.testing.assert_array_equal(source.read(0, 7)[0], y)


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8)
    for name in ("b.jpg", "a.JPEG"):
        Image.fromarray(smooth).save(tmp_path / name, "JPEG", quality=95)
    source = open_data(tmp_path)
    assert source.names == ["a.JPEG", "b.jpg"]
    np.testing.assert_allclose(source.read(0, 2)[0], np.stack([smooth] * 2), atol=3)


def test_images_are_resized_when_asked(tmp_path):
    y = np.random.default_rng(0).integers(0, 256, (2, 8, 12)).astype(np.uint8)
    images(tmp_path, y)
    Image.fromarray(y[0, :6, :6]).save(tmp_path / "images" / "zzz.png")
    source = open_data(tmp_path / "images", size=(4, 6))
    values, problems = source.read(0, 3)
    assert (source.shape, problems) == ((4, 6), {})
    expected = Image.fromarray(y[1]).resize((6, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(values[1], np.asarray(expected))


# A mapping that is kept would be counted as well: its pages are memory of the process.
MEMORY = """
import resource, sys
import numpy as np
from unrelu.datasets.opening import open_data
source = open_data(sys.argv[1])
source.read(0, 10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, source.size, 1000):
    source.read(start, min(start + 1000, source.size))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", ["c.npy", "fortran.npy", "y.zarr", "y.h5"])
def test_memory_is_that_of_a_part(tmp_path, name):
    """160 MiB, of which 1000 observations or 4 MiB are read at a time; small on the disk."""
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


def observed(source, masks=None, start=0, stop=7):
    operator = read_operator(None, source.shape, (1, *source.shape))
    return Observations(source, masks, operator, Scaling()).read(start, stop)


@pytest.mark.parametrize("kind", ARRAYS, ids=lambda kind: kind.__name__)
def test_rows_with_nan_and_infinity_are_problems(tmp_path, kind):
    y = FLOATS.copy()
    y[2, 1], y[5, :2] = np.nan, (np.inf, -np.inf)
    values, seen, problems = observed(open_data(kind(tmp_path, y)), start=1)
    assert problems == {1: "1 of 5 values are NaN or infinite", 4: "2 of 5 values are NaN or infinite"}
    np.testing.assert_array_equal(values[[0, 2, 3, 5]], FLOATS[1:][[0, 2, 3, 5]])
    assert np.isnan(values[[1, 4]]).all()
    assert seen.all()


def test_numbers_beyond_float64_are_problems(tmp_path):
    y = np.ones((2, 3), np.longdouble)
    y[1] *= np.finfo(np.longdouble).max
    assert list(observed(open_data(npy(tmp_path, y)), stop=2)[2]) == [1]


@pytest.mark.parametrize("kind", [zarr_group, hdf5], ids=lambda kind: kind.__name__)
def test_a_damaged_chunk_is_a_problem_of_its_rows(tmp_path, kind):
    path = kind(tmp_path)
    source = open_data(path)
    if kind is zarr_group:
        (tmp_path / "g.zarr" / "y" / "c" / "1" / "0" / "0").write_bytes(b"rubbish")
    else:
        with h5py.File(path) as file:
            chunk = file["y"].id.get_chunk_info(1)
        with open(path, "r+b") as stream:
            stream.seek(chunk.byte_offset)
            stream.write(b"\0" * chunk.size)
    values, problems = source.read(0, 7)
    assert list(problems) == [2, 3]
    assert np.isnan(values[2:4]).all()
    np.testing.assert_array_equal(values[4:], Y[4:])
    # Also where nothing else is read: the first observation of the data set can be.
    assert list(source.read(2, 4)[1]) == [0, 1]


@pytest.mark.parametrize("fill", [0, 7, np.nan])
def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path, fill):
    path = str(tmp_path / "a.zarr")
    array = zarr.create_array(path, shape=(6, 2), chunks=(2, 2), dtype=float, fill_value=fill)
    array[2:4] = 1
    values, _ = open_data(path).read(0, 6)
    np.testing.assert_array_equal(values, np.repeat([fill, 1, fill], 2)[:, None] * np.ones(2))


@every_kind
def test_a_data_set_that_is_gone_is_no_problem_of_observations(tmp_path, kind):
    path = kind(tmp_path)
    source = open_data(path)
    Path(path).rename(tmp_path / "elsewhere")
    if path.endswith(".npz"):
        np.testing.assert_array_equal(source.read(2, 5)[0], Y[2:5])
    else:
        with pytest.raises(InputError, match=r"cannot be read any more: .*bring it back. What is finished is kept"):
            source.read(2, 5)


def test_memory_that_runs_out_is_no_problem_of_an_observation(tmp_path, monkeypatch):
    source = open_data(npy(tmp_path))

    def full(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr(np, "load", full)
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
    values, problems = open_data(folder).read(0, 7)
    np.testing.assert_array_equal(values[0], Y[0])
    assert np.isnan(values[1:]).all()
    for i, text in {
        1: "cannot be read: ",
        2: "it is 2x4 grey uint8; the first is 3x4 grey uint8: make them equal, or pass size=",
        3: "it is 3x4 RGB uint8; the first is 3x4 grey uint8",
        4: "has Pillow's mode P; save it as grey or RGB",
        5: "is no PNG or JPEG file",
        6: "is no PNG or JPEG file",
    }.items():
        assert text in problems.pop(i)
    assert not problems


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_truncated_images_are_problems(tmp_path, share, ending):
    large = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
    for i, values in enumerate(large):
        Image.fromarray(values).save(tmp_path / f"{i}.{ending}")
    path = tmp_path / f"1.{ending}"
    path.write_bytes(path.read_bytes()[: int(share * os.path.getsize(path))])
    assert list(open_data(tmp_path).read(0, 2)[1]) == [1]


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_masks_are_zero_and_one_and_hide_what_is_stored(tmp_path, dtype):
    np.savez(tmp_path / "m.npz", mask=(Y > 100).astype(dtype), y=Y)
    masks = open_data(tmp_path / "m.npz", what="masks")
    values, seen, problems = observed(open_data(np.where(Y > 100, Y, np.nan)), masks)
    assert problems == {}
    np.testing.assert_array_equal(seen, (Y > 100).reshape(7, 12))
    np.testing.assert_array_equal(values, np.where(Y > 100, Y, 0).reshape(7, 12))


def test_masks_with_other_entries_are_problems_of_their_observations(tmp_path):
    y = (Y > 100).astype(float)
    y[2, 0, 1], y[4, 1, 1], y[5] = 0.5, np.nan, 0
    values, _, problems = observed(open_data(Y), open_data(npy(tmp_path, y), what="masks"))
    assert problems == {
        2: "its mask has entries like 0.5; a mask is made of 0 and 1",
        4: "its mask has entries like nan; a mask is made of 0 and 1",
        5: "its mask is 0 everywhere: nothing is observed",
    }
    assert np.isnan(values[[2, 4, 5]]).all()


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_white_is_one_in_images(tmp_path, dtype):
    known = Y > 100
    path = images(tmp_path, known if dtype is bool else known * np.uint8(255))
    if dtype is np.uint8:
        Image.fromarray(known[3] * np.uint8(1)).save(tmp_path / "images" / "003.png")
    seen, problems = open_data(path, what="masks").read_masks(0, 7)
    text = "its mask has entries like 1; a mask is made of black and white, 0 and 255"
    assert problems == ({} if dtype is bool else {3: text})
    good = [0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(seen[good], known[good].reshape(6, 12))
    # Resized by the nearest pixel, masks stay masks.
    assert list(open_data(path, size=(5, 7), what="masks").read_masks(0, 3)[1]) == []

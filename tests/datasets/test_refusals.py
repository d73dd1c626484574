"""Stores that cannot be used, each named with what to do; and masks."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from tests.datasets.store_kinds import (
    Y,
    every_kind,
    hdf5,
    images,
    npy,
    npz,
    packed,
    zarr_array,
    zarr_folder,
    zarr_group,
    zarr_memory,
)
from unrelu.datasets.opening import open_masks, open_source
from unrelu.errors import InputError, MissingPackageError

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
        ("y.npy", b"", "not a readable .npy array"),
        ("y.npz", b"PK\x03\x04 and no more", "not a readable .npz archive"),
        ("y.h5", b"\x89HDF\r\n\x1a\n", "cannot be opened"),
        ("y.hdf5", b"rubbish", "cannot be opened"),
        ("y.npy", b"cos\nsystem\n(S'touch stolen'\ntR.", "not a readable .npy array"),
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
    refuses("holds Python objects, which could run code", kind(tmp_path, np.array([[{}], [None]])))


def test_a_truncated_npy_is_refused_at_once(tmp_path):
    path = npy(tmp_path)
    os.truncate(path, os.path.getsize(path) - 1)
    refuses("states the shape .*: it is cut short or damaged", path)


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


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as file:
        file.writestr("y.npy", b"not an array")
    refuses("y is not a readable .npy array .*; save it with numpy.save", tmp_path / "y.npz")


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
    with pytest.raises(InputError, match="does not exist"):
        pickle.loads(arrays).read(0, 2)


@pytest.mark.parametrize(
    ("kind", "module", "message"),
    [
        (zarr_group, "zarr", r'Zarr stores need zarr: pip install "zarr>=3"'),
        (hdf5, "h5py", r'HDF5 files need h5py: pip install "h5py"'),
        (images, "PIL", r'images need PIL: pip install "pillow"'),
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

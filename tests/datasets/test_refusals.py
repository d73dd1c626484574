"""Stores that cannot be used, each named with what to do."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from tests.datasets.store_kinds import Y, hdf5, images, npy, npz, zarr_array, zarr_group
from unrelu.datasets.opening import open_data
from unrelu.errors import InputError, MissingPackageError
from unrelu.runtime.file_reading import LIMIT_VARIABLE


def refuses(message, location, **options):
    with pytest.raises(InputError, match=message):
        open_data(location, **options)


@pytest.mark.parametrize("kind", [npz, zarr_group, hdf5], ids=lambda kind: kind.__name__)
def test_a_missing_array_is_named_with_those_that_are_there(tmp_path, kind):
    path = kind(tmp_path)
    refuses(r"has no array 'images'; it holds (y, labels|labels, y)", path, array="images")
    np.testing.assert_array_equal(open_data(path, array="y").read(0, 7)[0], Y)


def test_of_several_arrays_one_has_to_be_named(tmp_path):
    np.savez(tmp_path / "y.npz", a=Y, b=Y)
    group = zarr.open_group(str(tmp_path / "y.zarr"), mode="w")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        for name in ("a", "train/b"):
            group.create_array(name.rpartition("/")[2], data=Y)
            file[name] = Y
    for name in ("y.npz", "y.zarr", "y.h5"):
        refuses(r"holds the arrays .*; say which with array= \(--array\), or name it 'y'", tmp_path / name)
        array = "train/b" if name == "y.h5" else "b"
        np.testing.assert_array_equal(open_data(tmp_path / name, array=array).read(0, 7)[0], Y)


def test_damaged_and_foreign_zarr(tmp_path):
    path = Path(zarr_group(tmp_path))
    (path / "zarr.json").write_text("{broken")
    refuses("cannot be opened: ", path)
    (tmp_path / "empty.zarr").mkdir()
    refuses("holds no file that ends in .png, .jpg, .jpeg; pass a .npy", tmp_path / "empty.zarr")
    refuses("has no array 'y'; it holds none", zarr_array(tmp_path), array="y")
    zarr.create_array(str(tmp_path / "old.zarr"), data=Y, zarr_format=2)
    refuses("is Zarr of format 2; format 3 is read", tmp_path / "old.zarr")  # format 2 may name pickle as a codec


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("y.npy", b"", "not a readable .npy array"),
        ("y.npz", b"PK\x03\x04 and no more", "not a readable .npz archive"),
        ("y.h5", b"\x89HDF\r\n\x1a\n", "cannot be opened"),
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


def test_files_that_are_cut_short_or_hold_no_array(tmp_path):
    path = npy(tmp_path)
    os.truncate(path, os.path.getsize(path) - 1)
    refuses("states the shape .*: it is cut short or damaged", path)
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as file:
        file.writestr("y.npy", b"not an array")
    refuses("y is not a readable .npy array .*; save it with numpy.save", tmp_path / "y.npz")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(5), r"has shape \(5,\); a data set is a batch .* reshape a single observation to \(1, ...\)"),
        (np.zeros((0, 5)), r"has shape \(0, 5\), so it holds no values"),
        (np.zeros((2, 2), complex), "entries of type complex128; save real numbers"),
        (np.array([["a", "b"]]), "save real numbers"),
    ],
)
def test_arrays_that_are_no_batch_of_numbers(tmp_path, y, message):
    refuses(message, npy(tmp_path, y))
    refuses(message, y)


def test_images_that_are_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"rubbish")
    refuses("no image can be read: a.png is no PNG or JPEG file", tmp_path)
    for size in [(0, 4), (3,), (3, 4, 5)]:
        refuses(r"is no size of an image; pass \(height, width\)", images(tmp_path), size=size)


def test_places_that_are_none(tmp_path):
    refuses("does not exist; pass a .npy", tmp_path / "y.npy")
    refuses("is a URL: open it in Python and pass the array", "s3://bucket/y.zarr")
    refuses("so there is no 'x'; leave array= out", npy(tmp_path), array="x")
    refuses(r"images have no array 'x'; leave array= \(--array\) out", images(tmp_path), array="x")
    refuses("resizes images only", npy(tmp_path), size=(3, 4))
    refuses("are for data in files", Y, size=(3, 4))


def test_without_h5py_it_is_said_what_to_install(tmp_path, monkeypatch):
    path = hdf5(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.delitem(sys.modules, "unrelu.datasets._hdf5_reading", raising=False)
    with pytest.raises(MissingPackageError, match="HDF5 files need h5py: pip install h5py") as caught:
        open_data(path)
    assert caught.value.name == "h5py"


# --- stores that strangers made ---------------------------------------------------------------------------------------


def test_links_out_of_hdf5_files_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["y"] = Y
    (tmp_path / "y.bin").write_bytes(Y.tobytes())
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["y"] = h5py.ExternalLink("secret.h5", "y")
        file["soft"] = h5py.SoftLink("/y")
    refuses("holds no arrays", tmp_path / "links.h5")
    refuses("has no array 'y'", tmp_path / "links.h5", array="y")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("y", Y.shape, Y.dtype, external=[("y.bin", 0, Y.nbytes)])
    refuses("is stored in other files, which are not read", tmp_path / "external.h5")
    layout = h5py.VirtualLayout(Y.shape, Y.dtype)
    layout[:] = h5py.VirtualSource("secret.h5", "y", Y.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("y", layout)
    refuses("is stored in other files, which are not read", tmp_path / "virtual.h5")


def test_other_filters_and_codecs_are_refused(tmp_path):
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset("y", data=Y, chunks=(2, 3, 4), scaleoffset=4)
    refuses("is compressed by HDF5's filter 6; gzip, LZF, shuffle", tmp_path / "y.h5")
    zarr.create_array(str(tmp_path / "y.zarr"), data=Y, chunks=(2, 3, 4), shards=(4, 3, 4))
    refuses(r"has chunks of codec sharding_indexed; .*data=zarr.open", tmp_path / "y.zarr")


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_chunks_have_a_limit(tmp_path, monkeypatch, ending):
    path, size = tmp_path / f"y.{ending}", 64 * 4096 * 8
    if ending == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("y", data=np.zeros((64, 4096)), chunks=(64, 4096), compression="gzip")
    else:
        zarr.create_array(str(path), data=np.zeros((64, 4096)), chunks=(64, 4096))
    monkeypatch.setenv(LIMIT_VARIABLE, str(size))
    assert open_data(path).read(0, 64)[1] == {}
    monkeypatch.setenv(LIMIT_VARIABLE, str(size - 1))
    refuses(f"has chunks of 2 MiB; at most 2 MiB .* write it in smaller ones, or set .* {LIMIT_VARIABLE}={size}", path)


def test_an_observation_in_too_many_chunks_is_refused(tmp_path):
    zarr.create_array(str(tmp_path / "y.zarr"), shape=(4, 2**15), chunks=(1, 1), dtype=float)
    refuses("keeps an observation in 32,768 chunks; write it in larger ones", tmp_path / "y.zarr")


def test_links_and_pipes_in_zarr_are_refused(tmp_path):
    path = Path(zarr_array(tmp_path))
    chunk = path / "c" / "1" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret")
    refuses("is a link or no file; only files in the store itself are read", path)
    chunk.unlink()
    os.mkfifo(chunk)
    refuses("is a link or no file", path)


def test_a_link_among_images_does_not_lead_out(tmp_path):
    folder = Path(images(tmp_path))
    (folder / "003.png").rename(tmp_path / "secret.png")
    (folder / "003.png").symlink_to(tmp_path / "secret.png")
    assert "is a link that leads out of" in open_data(folder).read(0, 7)[1][3]


def test_one_observation_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "95")
    refuses(f"one observation takes 96 bytes; at most 95 bytes are read: set .* {LIMIT_VARIABLE}=96 if", npy(tmp_path))
    monkeypatch.setenv(LIMIT_VARIABLE, "96")
    assert open_data(npy(tmp_path)).size == 7

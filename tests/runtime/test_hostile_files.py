"""Files made to do harm: each is refused by a named error, and nothing beside it is read or run."""

from __future__ import annotations

import json
import sys
import warnings

import h5py
import numpy as np
import pytest
import scipy.sparse
import zarr

import files
import unrelu
from crafted import CRAFTED, READERS
from unrelu.certification.certificate import Certificate
from unrelu.cli.argument_files import read_measurement, read_observations
from unrelu.datasets.opening import open_data
from unrelu.errors import InputError, ModelFileError, OptionError, UnreluError
from unrelu.runtime.file_reading import inflated_size, read_bytes, shown_size

Y = np.random.default_rng(0).standard_normal((6, 4, 5))
SECRET = np.arange(200.0) + 123456.0


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "outside" / "canary"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["secret"] = SECRET
    return path


@pytest.mark.parametrize("name", CRAFTED)
def test_it_is_refused_with_a_reason(tmp_path, canary, name):
    kind, message, make = CRAFTED[name]
    (tmp_path / "named").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that make it
        path = make(tmp_path / "named", canary)
    with pytest.raises(UnreluError, match=message) as caught:
        READERS[kind](path)
    assert str(path) in str(caught.value) or path.is_dir()  # of pictures, their names are told
    assert len(str(caught.value)) < 4500 + len(str(tmp_path))
    assert not (canary.parent / "code-was-run").exists()


def test_characters_that_no_text_has(tmp_path):
    for order in "<>":
        odd = np.full(2, 0x7FFFFFFF, dtype=f"{order}u4").view(f"{order}U2")
        np.savez(tmp_path / "a.npz", W0=np.ones((3, 2)), activation=odd)
        with pytest.raises(ModelFileError, match="activation holds text with characters beyond 0x10ffff: it is dam"):
            unrelu.load(tmp_path / "a.npz")


def test_the_fuzzer_finds_nothing_and_says_what_it_read(tmp_path, monkeypatch, capsys):
    """All crafted and valid files, and few mutations; the whole run is `python fuzz/files.py`."""
    asked = ["files.py", "--files", str(len(CRAFTED) + 60), "--output", str(tmp_path / "files.json")]
    monkeypatch.setattr(sys, "argv", asked)
    assert files.main() == 0, capsys.readouterr()
    found = json.loads((tmp_path / "files.json").read_text())
    *formats, total = found["rows"]
    assert (found["script"], found["quick"], found["failures"]) == ("files", False, [])
    assert total["tried"] == sum(row["tried"] for row in formats) == len(CRAFTED) + 60
    assert total["refused"] + total["read"] == total["tried"]
    assert next(row for row in formats if row["what"] == "crafted")["refused"] == len(CRAFTED)


def test_the_limit_is_that_of_what_is_read(tmp_path):
    np.savez_compressed(tmp_path / "y.npz", y=np.zeros((10, 100)), large=np.zeros(10**6))
    read_observations(tmp_path / "y.npz", max_bytes=8128)  # with its header
    open_data(tmp_path / "y.npz", max_bytes=8128)
    with pytest.raises(InputError, match="would decompress to"):
        read_observations(tmp_path / "y.npz", max_bytes=8127)
    with pytest.raises(InputError, match="pass a larger max_bytes="):
        open_data(tmp_path / "y.npz", max_bytes=8127)
    np.savez(tmp_path / "a.npz", W0=np.zeros((10, 100), dtype=np.float32))
    unrelu.load(tmp_path / "a.npz", activation="relu", max_bytes=8000)
    with pytest.raises(ModelFileError, match=r"its layers take .* as float64"):
        unrelu.load(tmp_path / "a.npz", activation="relu", max_bytes=7999)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "4 GiB", None])
def test_limits_are_whole_numbers(tmp_path, limit):
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "a.npz", Y[0])
    for call in (
        lambda: unrelu.load(tmp_path / "a.npz", max_bytes=limit),
        lambda: open_data(tmp_path / "y.npy", max_bytes=limit),
        lambda: open_data(tmp_path / "y.npy", max_bytes=limit),
        lambda: read_observations(tmp_path / "y.npy", max_bytes=limit),
        lambda: Certificate.load(tmp_path / "c.json", limit),
    ):
        with pytest.raises(OptionError, match=r"max_bytes=.* must be a whole number"):
            call()


def test_links_that_the_user_names_are_followed(tmp_path):
    np.save(tmp_path / "real.npy", Y)
    (tmp_path / "y.npy").symlink_to(tmp_path / "real.npy")
    np.testing.assert_array_equal(open_data(tmp_path / "y.npy").read(0, 6)[0], Y)
    zarr.create_array(str(tmp_path / "real.zarr"), data=Y, zarr_format=3)
    (tmp_path / "y.zarr").symlink_to(tmp_path / "real.zarr")
    np.testing.assert_array_equal(open_data(tmp_path / "y.zarr").read(0, 6)[0], Y)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": zarr.codecs.ZstdCodec(level=3)},
        {"compressors": zarr.codecs.GzipCodec()},
        {"compressors": zarr.codecs.BloscCodec()},
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
        {"compressors": None},
        {"filters": [zarr.codecs.TransposeCodec(order=(2, 0, 1))]},
    ],
    ids=["zstd", "gzip", "blosc", "checksum", "none", "transposed"],
)
def test_every_codec_that_is_read_gives_the_values(tmp_path, options):
    zarr.create_array(str(tmp_path / "y.zarr"), data=Y, chunks=(2, 4, 2), zarr_format=3, **options)
    source = open_data(tmp_path / "y.zarr", max_bytes=2**20)
    np.testing.assert_array_equal(source.read(1, 6)[0], Y[1:6])
    np.testing.assert_array_equal(source.read(0, 1)[0], Y[:1])


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "dia", "bsr"])
@pytest.mark.parametrize("made", ["array", "matrix"])
def test_sparse_operators_are_those_that_scipy_saved(tmp_path, kind, made):
    dense = np.round(Y[0]) * (np.abs(Y[0]) > 0.5)
    scipy.sparse.save_npz(tmp_path / "a.npz", getattr(scipy.sparse, f"{kind}_{made}")(dense))
    np.testing.assert_array_equal(read_measurement(None, tmp_path / "a.npz").array.toarray(), dense)


def test_sizes_of_compressed_streams():
    import gzip
    import zlib

    content = bytes(range(256)) * 50
    assert inflated_size(zlib.compress(content), 20_000) == len(content)
    assert inflated_size(gzip.compress(content) * 3, 10**6) == 3 * len(content)
    assert inflated_size(gzip.compress(content) * 3, 15_000) == 15_001
    assert inflated_size(zlib.compress(content)[:20], 10**6) <= len(content)
    with pytest.raises(zlib.error):
        inflated_size(b"no stream", 100)


def test_sizes_in_messages(tmp_path):
    assert [shown_size(n) for n in (0, 1023, 1536, 2**26, 2**32)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "64 MiB", "4 GiB"
    ]  # fmt: skip
    (tmp_path / "a").write_bytes(bytes(2000))
    assert len(read_bytes(tmp_path / "a", 2000)) == 2000
    with pytest.raises(InputError, match=r"has 1\.953 KiB; at most 1\.952 KiB are read"):
        read_bytes(tmp_path / "a", 1999)
    with pytest.raises(InputError, match="is no path of a file"):
        read_bytes("a\0b")

"""Files made to do harm: each is refused by a named error, and nothing beside it is read or run."""

from __future__ import annotations

import json
import sys
import warnings

import h5py
import numpy as np
import pytest

import files
import unrelu
from crafted import CRAFTED, READERS
from unrelu.certification.certificate import Certificate
from unrelu.errors import InputError, ModelFileError, OptionError, UnreluError
from unrelu.runtime.file_reading import read_bytes, read_json_lines, read_npy, read_npz, shown_size


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "outside" / "canary"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["secret"] = np.arange(200.0) + 123456.0
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
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 4500 + len(str(tmp_path))
    assert not (canary.parent / "code-was-run").exists()


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


def test_characters_that_no_text_has(tmp_path):
    for order in "<>":
        odd = np.full(2, 0x7FFFFFFF, dtype=f"{order}u4").view(f"{order}U2")
        np.savez(tmp_path / "a.npz", W0=np.ones((3, 2)), activation=odd)
        with pytest.raises(ModelFileError, match="activation holds text with characters beyond 0x10ffff: it is dam"):
            unrelu.load(tmp_path / "a.npz")


def test_the_limit_is_that_of_what_is_read(tmp_path):
    np.savez_compressed(tmp_path / "y.npz", y=np.zeros((10, 100)), large=np.zeros(10**6))
    assert read_npz(tmp_path / "y.npz", 8128, lambda names: ["y"])["y"].shape == (10, 100)  # with its header
    with pytest.raises(InputError, match=r"would decompress to 7\.938 KiB .*; at most .* pass a larger max_bytes="):
        read_npz(tmp_path / "y.npz", 8127, lambda names: ["y"])
    np.savez(tmp_path / "a.npz", W0=np.zeros((10, 100), dtype=np.float32))
    unrelu.load(tmp_path / "a.npz", activation="relu", max_bytes=8000)
    with pytest.raises(ModelFileError, match=r"its arrays take .* as float64"):
        unrelu.load(tmp_path / "a.npz", activation="relu", max_bytes=7999)


def test_what_deflate_makes_small_is_read_up_to_five_hundred_times(tmp_path):
    """A pruned layer, one entry of a thousand of which is not zero, is no bomb; the limit counts from 64 MiB."""
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    pruned = np.where(rng.random((4200, 4200)) < 1e-3, rng.standard_normal((4200, 4200)), 0).astype(np.float32)
    np.savez_compressed(path, W0=pruned)
    assert 100 < pruned.nbytes / path.stat().st_size < 500
    np.testing.assert_array_equal(read_npz(path)["W0"], pruned)
    np.savez_compressed(path, W0=np.zeros(2**26, np.uint8))
    with pytest.raises(InputError, match=r"would decompress to 64 MiB, 1,02\d times as much, .* at most 500 times"):
        read_npz(path)


@pytest.mark.parametrize("limit", [0, 1.5, True, "4 GiB", None])
def test_limits_are_whole_numbers(tmp_path, limit):
    np.savez(tmp_path / "a.npz", np.ones((3, 2)))
    for call in (unrelu.load, Certificate.load):
        with pytest.raises(OptionError, match=r"max_bytes=.* must be a whole number"):
            call(tmp_path / "a.npz", max_bytes=limit)


def test_links_that_the_user_names_are_followed_and_those_out_of_a_folder_are_not(tmp_path):
    np.save(tmp_path / "real.npy", np.arange(3.0))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "y.npy").symlink_to(tmp_path / "real.npy")
    np.testing.assert_array_equal(read_npy(tmp_path / "in" / "y.npy"), np.arange(3.0))
    with pytest.raises(InputError, match="is a link that leads out of"):
        read_bytes(tmp_path / "in" / "y.npy", within=tmp_path / "in")


def test_lines_that_are_no_json_are_none(tmp_path):
    (tmp_path / "lines").write_bytes(b'{"a": 1}\n{"a": \n' + b"[" * 10**5 + b'\n"\xff"\n')
    assert list(read_json_lines(tmp_path / "lines", 10**6, tmp_path)) == [{"a": 1}, None, None, "\ufffd"]


def test_sizes_in_messages(tmp_path):
    assert [shown_size(n) for n in (0, 1023, 1536, 2**32)] == ["0 bytes", "1023 bytes", "1.5 KiB", "4 GiB"]
    (tmp_path / "a").write_bytes(bytes(2000))
    assert len(read_bytes(tmp_path / "a", 2000)) == 2000
    with pytest.raises(InputError, match=r"has 1\.953 KiB; at most 1\.952 KiB are read"):
        read_bytes(tmp_path / "a", 1999)
    for path, said in (("a\0b", "is no path of a file"), (tmp_path / "b", "does not exist"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=said):
            read_bytes(path)

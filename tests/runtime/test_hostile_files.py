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
from crafted import CRAFTED, MAX_BYTES, READERS
from unrelu.datasets.opening import open_data
from unrelu.errors import InputError, ModelFileError, OptionError, UnreluError
from unrelu.runtime.file_reading import (
    LIMIT_VARIABLE,
    check_stated_size,
    read_bytes,
    read_json_lines,
    read_npy,
    read_npz,
    shown_size,
)

REMEDY = r"set the environment variable UNRELU_MAX_FILE_BYTES=\d+ if you trust the file"


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "outside" / "canary"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["secret"] = np.arange(200.0) + 123456.0
    return path


@pytest.mark.parametrize("name", CRAFTED)
def test_it_is_refused_with_a_reason(tmp_path, monkeypatch, canary, name):
    kind, message, make = CRAFTED[name]
    (tmp_path / "named").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that make it
        path = make(tmp_path / "named", canary)
    monkeypatch.setenv(LIMIT_VARIABLE, str(MAX_BYTES))
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


def test_what_is_read_of_an_archive_has_the_limit_of_the_setting(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "y.npz", y=np.zeros((10, 100)), large=np.zeros(10**6))
    monkeypatch.setenv(LIMIT_VARIABLE, "8128")
    assert read_npz(tmp_path / "y.npz", lambda names: ["y"])["y"].shape == (10, 100)  # with its header
    monkeypatch.setenv(LIMIT_VARIABLE, "8127")
    with pytest.raises(
        InputError, match=r"y.npz would decompress to 7\.938 KiB; at most 7\.937 KiB are read: " + REMEDY
    ):
        read_npz(tmp_path / "y.npz", lambda names: ["y"])


def test_weights_have_the_limit_as_float64(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", W0=np.zeros((10, 100), dtype=np.float32))
    monkeypatch.setenv(LIMIT_VARIABLE, "8000")
    unrelu.load(tmp_path / "a.npz", activation="relu")
    monkeypatch.setenv(LIMIT_VARIABLE, "7999")
    with pytest.raises(ModelFileError, match=r"take, as float64, 7.* are read: pick layers with layers=, or " + REMEDY):
        unrelu.load(tmp_path / "a.npz", activation="relu")


@pytest.mark.parametrize("limit", ["0", "1.5", "4 GiB", "-1", "1" * 5000])
def test_the_setting_is_a_whole_number(tmp_path, monkeypatch, limit):
    np.savez(tmp_path / "a.npz", np.ones((3, 2)))
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    said = (
        rf"the environment variable UNRELU_MAX_FILE_BYTES='{limit[:40]}' must be a whole number of bytes, of at least 1"
    )
    for call in (unrelu.load, open_data):
        with pytest.raises(OptionError, match=said):
            call(tmp_path / "a.npz")


def test_the_setting_is_four_gib_by_default(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "")
    check_stated_size("a.npy holds", 2**32)
    with pytest.raises(InputError, match=r"^a.npy holds 4 GiB; at most 4 GiB are read: set .*=4294967297 if you trust"):
        check_stated_size("a.npy holds", 2**32 + 1)


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


def test_sizes_in_messages(tmp_path, monkeypatch):
    assert [shown_size(n) for n in (0, 1023, 1536, 2**32)] == ["0 bytes", "1023 bytes", "1.5 KiB", "4 GiB"]
    (tmp_path / "a").write_bytes(bytes(2000))
    assert len(read_bytes(tmp_path / "a")) == 2000
    monkeypatch.setenv(LIMIT_VARIABLE, "1999")
    with pytest.raises(InputError, match=r"has 1\.953 KiB; at most 1\.952 KiB are read: " + REMEDY):
        read_bytes(tmp_path / "a")
    for path, said in (("a\0b", "is no path of a file"), (tmp_path / "b", "does not exist"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=said):
            read_bytes(path)

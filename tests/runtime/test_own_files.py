"""What the library writes: as a whole or not at all, by one writer; changes and other kinds are told."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from unrelu.errors import InputError, StorageError
from unrelu.runtime.archives import columns_of, read_archive, shape_of, texts_of, write_archive
from unrelu.runtime.file_writing import check_own_files, locked, sole_writer, storing, write_whole

TABLE = {"numbers": np.arange(3.0), "text": "a word", "flag": True, "names": np.array(["x", "two"])}


def test_errors_of_the_system_name_the_place_and_the_way_out(tmp_path):
    full = "No space left on device"
    for where, said in (
        ("results", f"results cannot be written: {full}; free some"),
        (tmp_path, f"npy cannot.*{full}"),
    ):
        with pytest.raises(StorageError, match=said), storing(where, "free some"):
            raise OSError(errno.ENOSPC, full, str(tmp_path / "codes.npy"))
    with pytest.raises(StorageError, match=r"^said before$"), storing(tmp_path, "free some"):
        raise StorageError("said before")


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines"
    write_whole(path, ["a\n", "b\n"], "free some")

    def breaking():
        yield "c\n"
        raise InputError("a line cannot be made")

    with pytest.raises(InputError, match="a line cannot be made"):
        write_whole(path, breaking(), "free some")
    assert path.read_text() == "a\nb\n"
    assert [file.name for file in tmp_path.iterdir()] == ["lines"]
    with pytest.raises(StorageError, match="cannot be written: No such file or directory; free some"):
        write_whole(tmp_path / "missing" / "lines", ["a\n"], "free some")


def test_a_second_writer_and_a_folder_with_links_are_refused(tmp_path):
    path = tmp_path / "journal"
    assert not locked(path)
    with path.open("ab") as stream, sole_writer(stream.fileno(), path):
        assert locked(path)
        refused = pytest.raises(InputError, match="is being written by another run")
        with path.open("ab") as other, refused, sole_writer(other.fileno(), path):
            pass
    assert not locked(path)
    check_own_files(tmp_path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(InputError, match="link is a link or no file; results are written there"):
        check_own_files(tmp_path)


def test_archives_come_back_and_another_kind_and_changes_are_told(tmp_path):
    path = tmp_path / "kept.npz"
    write_archive(path, "result", TABLE)
    found = read_archive(path, "result", dict)
    for name, value in TABLE.items():
        np.testing.assert_array_equal(found[name], value)
    with pytest.raises(InputError, match=r"holds a result: unrelu\.load_result"):
        read_archive(path, "prior", dict)
    for name, other in (("numbers", np.arange(3)), ("names", np.array(["xt", "wo"])), ("flag", np.array([True]))):
        np.savez(path, **found | {name: other})
        with pytest.raises(InputError, match=r"damaged .its numbers are not those that it was written with"):
            read_archive(path, "result", dict)
    for name, text in (("format", "unrelu result 2"), ("format", "other")):
        np.savez(path, **found | {name: text})
        with pytest.raises(InputError, match=f"holds no result; its format is '{text}', .* reads 'unrelu result 1'"):
            read_archive(path, "result", dict)


def test_entries_have_their_types_and_ranges():
    ranges = {"p": (np.float64, 0, 1), "seconds": (np.float64, 0, np.inf), "any": (np.float64, np.nan, np.nan)}
    table = {"p": np.array([0.5, np.nan]), "seconds": np.array([1.0, 2.0]), "any": np.array([-np.inf, np.inf])}
    assert columns_of(table, ranges, 2, {}).keys() == table.keys()
    for name, values, said in (
        ("p", [0.5, 1.5], "p is 1.5, which is not from 0 to 1"), ("seconds", [np.nan, 1.0], "seconds is nan"),
        ("seconds", [np.inf, 1.0], "seconds is inf"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            columns_of(table | {name: np.array(values)}, ranges, 2, {})
    with pytest.raises(TypeError, match="entries are int64, not float64"):
        columns_of(table | {"p": np.array([0, 1])}, ranges, 2, {})
    for bad in (np.array([0, 2]), np.array([2**40, 2**40])):
        with pytest.raises(ValueError, match="a shape is"):
            shape_of(bad)
    assert texts_of(np.array(["a\x1b[2J\nb"])) == ["a?[2J\nb"]
    with pytest.raises(TypeError, match="not text"):
        texts_of(np.arange(2))

"""Writing files: errors of the system name the place and the way out, and a file is there as a whole or not at all."""

from __future__ import annotations

import errno

import pytest

from unrelu.errors import InputError, StorageError
from unrelu.runtime.file_writing import locked, sole_writer, storing, write_whole


def test_errors_of_the_system_name_the_place_and_the_way_out(tmp_path):
    full = "No space left on device"
    with (
        pytest.raises(StorageError, match=f"results cannot be written: {full}; free some"),
        storing("results", "free some"),
    ):
        raise OSError(errno.ENOSPC, full, "results/codes.npy")
    with pytest.raises(StorageError, match=f"npy cannot be written: {full}; free some"), storing(tmp_path, "free some"):
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


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "journal"
    assert not locked(path)
    with path.open("ab") as stream, sole_writer(stream.fileno(), path):
        assert locked(path)
        refused = pytest.raises(InputError, match="is being written by another run")
        with path.open("ab") as other, refused, sole_writer(other.fileno(), path):
            pass
    assert not locked(path)

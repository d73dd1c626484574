"""Columns of results: what is written in parts is read back, in any format, and damage shows."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from unrelu.datasets.tables import FORMATS, NpyTable, ZarrTable, columns_of
from unrelu.errors import InputError, StorageError

SIZE, CHUNK = 11, 4
COLUMNS = columns_of((3,), (2, 5))


def table(kind, folder):
    made = FORMATS[kind](str(folder), SIZE, CHUNK, COLUMNS)
    made.create({"statuses": ["A"]})
    return made


def rows(start, stop, seed=0):
    rng = np.random.default_rng([seed, start])
    return {c.name: (rng.standard_normal((stop - start, *c.shape)) * 100).astype(c.dtype) for c in COLUMNS}


kinds = pytest.mark.parametrize("kind", sorted(FORMATS))


@kinds
@given(order=st.permutations(range(3)), seed=st.integers(0, 9))
def test_rows_written_in_any_order_are_read_back(tmp_path_factory, kind, order, seed):
    made = table(kind, tmp_path_factory.mktemp("table"))
    copied = pickle.loads(pickle.dumps(made))
    spans = [(0, 4), (4, 8), (8, 11)]
    for i in order:
        made.write(spans[i][0], rows(*spans[i], seed))
    for start, stop in spans:
        found = copied.read_all(start, stop)
        assert copied.digests(found) == made.digests(rows(start, stop, seed))
        for name, values in rows(start, stop, seed).items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype


@pytest.mark.parametrize("size", [3, 4, 9])
def test_zarr_reads_the_chunks_that_are_written_without_it(tmp_path, size):
    """Also where all rows are fewer than a chunk."""
    made = ZarrTable(str(tmp_path), size, CHUNK, COLUMNS)
    made.create({})
    written = rows(0, size)
    for start in range(0, size, CHUNK):
        made.write(start, {name: values[start : start + CHUNK] for name, values in written.items()})
    group = zarr.open_group(tmp_path / "results.zarr", mode="r")
    for column in COLUMNS:
        np.testing.assert_array_equal(group[column.name][:], written[column.name])
        files = [p for p in (tmp_path / "results.zarr" / column.name / "c").rglob("*") if p.is_file()]
        assert len(files) == -(-size // CHUNK)
        if column.name != "reconstructions":
            assert {p.stat().st_size for p in files} == {CHUNK * column.row_bytes}


@kinds
def test_what_was_not_written_has_status_0(tmp_path, kind):
    made = table(kind, tmp_path)
    made.write(4, rows(4, 8))
    assert not made.read("status", 0, 4).any()
    assert not made.read("status", 8).any()
    assert made.read("codes").shape == (SIZE, 3)
    assert made.read("reconstructions", 2, 6).shape == (4, 2, 5)


@kinds
def test_digests_tell_any_change(tmp_path, kind):
    made = table(kind, tmp_path)
    before = made.digests(rows(0, 4))
    for column in COLUMNS:
        changed = rows(0, 4)
        changed[column.name].flat[1] = 77 if column.dtype != "|b1" else ~changed[column.name].flat[1]
        after = made.digests(changed)
        differs = "seconds" if column.name == "seconds" else "result"
        assert {name for name in before if before[name] != after[name]} == {differs}


@kinds
def test_only_columns_that_are_missing_are_made_again(tmp_path, kind):
    made = table(kind, tmp_path)
    made.write(0, rows(0, 4))
    gone = tmp_path / {"npy": "columns/nit.npy", "zarr": "results.zarr/nit/zarr.json"}[kind]
    gone.unlink()
    made.create({"statuses": ["B"]})
    found = made.read_all(0, 4)
    for name, values in rows(0, 4).items():
        if name != "nit":
            np.testing.assert_array_equal(found[name], values)
    assert found["nit"].shape == (4,)


def test_a_column_that_is_no_file_leaves_the_others_as_they_are(tmp_path):
    made = table("npy", tmp_path)
    made.write(0, rows(0, 4))
    (tmp_path / "columns" / "nit.npy").unlink()
    (tmp_path / "columns" / "nit.npy").mkdir()
    with pytest.raises(StorageError, match="cannot be written: Is a directory"):
        made.create({})
    np.testing.assert_array_equal(made.read("codes", 0, 4), rows(0, 4)["codes"])


@kinds
def test_unknown_columns_are_told(tmp_path, kind):
    with pytest.raises(InputError, match="there is no column 'code'; there are codes, reconstructions, status"):
        table(kind, tmp_path).read("code")


@kinds
def test_a_folder_that_cannot_be_written_is_told(tmp_path, kind):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        table(kind, tmp_path / "file")


def test_a_file_cut_short_is_told(tmp_path):
    made = table("npy", tmp_path)
    whole = (tmp_path / "codes.npy").read_bytes()
    (tmp_path / "codes.npy").write_bytes(whole[:-8])
    with pytest.raises(InputError, match="it is cut short or damaged"):
        made.read("codes")
    with pytest.raises(InputError, match="it is cut short or damaged"):
        made.write(0, rows(0, 4))
    (tmp_path / "codes.npy").write_bytes(whole + bytes(8))
    with pytest.raises(InputError, match="has 400 bytes instead of 392"):
        made.read("codes")
    (tmp_path / "codes.npy").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"codes\.npy is not a readable \.npy array"):
        made.read("codes")


def test_numpy_reads_the_files(tmp_path):
    made = table("npy", tmp_path)
    for start, stop in ((0, 4), (4, 8), (8, 11)):
        made.write(start, rows(start, stop))
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), made.read("codes"))
    np.testing.assert_array_equal(np.load(tmp_path / "columns" / "nit.npy"), made.read("nit"))


def test_what_will_not_fit_is_refused(tmp_path):
    huge = NpyTable(str(tmp_path), 10**12, CHUNK, COLUMNS)
    with pytest.raises(StorageError, match=r"the results need [\d,]+ MiB, [\d,]+ MiB are free"):
        huge.create({})

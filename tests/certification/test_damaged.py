"""Files that are no certificates: an InputError that names them, whatever is in them, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.certification.certificate import Certificate
from unrelu.errors import InputError
from unrelu.runtime.archives import digest

NET = random_network((2, 4, 6), seed=1, bias=True)
Y = np.maximum(np.asarray(NET([0.5, -0.4])).ravel() + 0.1 * np.random.default_rng(0).standard_normal(6), 0)


@cache
def certificate():
    return unrelu.certify(NET, Y, noise="uniform:0.3")


class Trap:
    """Unpickling it leaves a mark."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def good(folder):
    path = folder / "good.npz"
    certificate().save(path)
    return path


def refused(path):
    with pytest.raises(InputError, match=path.name):
        Certificate.load(path)


def test_truncated_files(tmp_path):
    content = good(tmp_path).read_bytes()
    path = tmp_path / "damaged.npz"
    for length in [*range(0, len(content) - 1, max(1, len(content) // 40)), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path)


def test_bytes_changed(tmp_path):
    """Wherever it is hit, a zip is refused or verifies: some of its bytes, as dates, mean nothing."""
    content = good(tmp_path).read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "damaged.npz"
    errors = 0
    for place in rng.integers(0, len(content), 400):
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            found = Certificate.load(path)
        except InputError:
            errors += 1
            continue
        assert not found.verify(NET, Y) or found.lower == certificate().lower
    assert errors > 100


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b"[]", b"null", b"1", b'{"format": 3}', b"PK\x03\x04", b"\xff\xfe{}"]
)
def test_other_contents(content, tmp_path):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    refused(path)


WRONG = (
    "x",
    np.zeros(0),
    np.zeros((2, 3)),
    np.ones((1, 1), dtype=np.int64),
    True,
    math.nan,
    math.inf,
    -1,
    0.5,
    np.array([2**62]),
    np.array(["a"]),
    np.array([1 + 2j]),
    np.array([0.5], dtype=np.float32),
)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_values_of_wrong_types(wrong, tmp_path):
    """With the digest of the changed values: where they can be read all the same, the certificate does not verify.

    What is said of the effort is a remark. A lower bound or an eps below those that were proved still follow, and so
    does a bound from a region of a higher level.
    """
    with np.load(good(tmp_path)) as data:
        table, path = {name: data[name] for name in data.files}, tmp_path / "wrong.npz"
    for name, value in table.items():
        wrong_one = np.asarray(wrong)
        if np.array_equal(value.ravel(), wrong_one.ravel()) or name in (
            "digest",
            "version",
            "history",
            "nodes",
            "seconds",
        ):
            continue
        changed = {**table, name: wrong_one}
        np.savez(path, **{**changed, "digest": np.array(digest(changed))})
        try:
            found = Certificate.load(path)
        except InputError:
            continue
        if found.verify(NET, Y):
            assert 0 <= found.lower <= certificate().upper, name
            assert found.upper == certificate().upper, name
            assert 0 <= found.eps <= certificate().eps, name
            assert found.status is certificate().status, name


def members(table, path):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in table.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(value, allow_pickle=False):
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=allow_pickle)
    return stream.getvalue()


def test_pickled_arrays_are_not_read(tmp_path):
    with np.load(good(tmp_path)) as data:
        table = {name: npy(data[name]) for name in data.files}
    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    for name in table:
        refused(members({**table, name: npy(trap, allow_pickle=True)}, tmp_path / "pickled.npz"))
        refused(members({**table, name: pickle.dumps(Trap())}, tmp_path / "pickled.npz"))
    path = tmp_path / "pickle.npz"
    path.write_bytes(pickle.dumps(Trap()))
    refused(path)
    path.write_bytes(npy(trap, allow_pickle=True))
    refused(path)
    assert not Trap.sprung


def test_archives_that_are_not_ours(tmp_path):
    path = tmp_path / "other.npz"
    path.write_bytes(npy(np.zeros(3)))
    refused(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    refused(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("format", "unrelu certificate 1")
    refused(path)
    np.savez(path, format=np.array("unrelu certificate 1"))
    refused(path)
    np.savez(path, format=np.array(["unrelu certificate 1"] * 2))
    refused(path)


def test_an_array_that_claims_to_be_huge(tmp_path):
    """Its header asks for 8 TB; the file has a few bytes."""
    with np.load(good(tmp_path)) as data:
        table = {name: npy(data[name]) for name in data.files}
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    start = b"\x93NUMPY\x01\x00"
    huge = start + len(header).to_bytes(2, "little") + header + b"\x00" * 16
    refused(members({**table, "z": huge}, tmp_path / "huge.npz"))


def test_no_file_or_no_format(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Certificate.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match="is a folder; pass a regular file"):
        Certificate.load(tmp_path)
    with pytest.raises(InputError, match=r"save a certificate as \.npz"):
        certificate().save(tmp_path / "c.txt")
    assert not (tmp_path / "c.txt").exists()


def test_paths_may_be_strings(tmp_path):
    certificate().save(str(tmp_path / "c.npz"))
    assert Certificate.load(str(Path(tmp_path) / "c.npz")).verify(NET, Y)

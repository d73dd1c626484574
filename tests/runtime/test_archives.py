"""Archives: what is written comes back, and what was changed, or is of another kind, is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unrelu.errors import InputError
from unrelu.runtime.archives import (
    columns_of,
    digest,
    read_archive,
    sealed,
    shape_of,
    texts_of,
    unsealed,
    write_archive,
)

TABLE = {"numbers": np.arange(3.0), "text": "a word", "flag": True, "names": np.array(["x", "two"])}


def test_arrays_texts_and_numbers_come_back(tmp_path):
    path = tmp_path / "kept.npz"
    write_archive(path, "result", TABLE)
    found = read_archive(path, "result", 2**20, dict)
    for name, value in TABLE.items():
        np.testing.assert_array_equal(found[name], value)
    assert found["format"] == "unrelu result 1"


def test_another_kind_and_another_format_are_told(tmp_path):
    path = tmp_path / "kept.npz"
    write_archive(path, "prior", TABLE)
    with pytest.raises(InputError, match="holds no result; its format is 'unrelu prior 1'"):
        read_archive(path, "result", 2**20, dict)
    write_archive(path, "noise", TABLE)
    with pytest.raises(InputError, match=r"holds a noise: unrelu\.open_run\(folder\)\.noise"):
        read_archive(path, "prior", 2**20, dict)


def test_a_digest_is_of_names_types_shapes_and_numbers():
    a = {"x": np.arange(4), "y": np.array(["a", "bc"])}
    same = digest(a)
    assert digest({"y": np.array(["a", "bc"], dtype="<U9"), "x": np.arange(4), "digest": np.array("old")}) == same
    others = [
        {"x": np.arange(4)}, a | {"x": np.arange(4.0)}, a | {"x": np.arange(4).reshape(2, 2)},
        a | {"x": np.array([0, 1, 2, 4])}, {"z": a["x"], "y": a["y"]}, a | {"y": np.array(["ab", "c"])},
    ]  # fmt: skip
    for other in others:
        assert digest(other) != same


def test_columns_have_their_types_and_ranges():
    ranges = {"p": (np.float64, 0, 1), "seconds": (np.float64, 0, np.inf), "any": (np.float64, np.nan, np.nan)}
    table = {"p": np.array([0.5, np.nan]), "seconds": np.array([1.0, 2.0]), "any": np.array([-np.inf, np.inf])}
    assert columns_of(table, ranges).keys() == table.keys()
    for name, values, said in (
        ("p", [0.5, 1.5], "p is 1.5, which is not from 0 to 1"), ("seconds", [np.nan, 1.0], "seconds is nan"),
        ("seconds", [np.inf, 1.0], "seconds is inf"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            columns_of(table | {name: np.array(values)}, ranges)
    with pytest.raises(TypeError, match="entries are int64, not float64"):
        columns_of(table | {"p": np.array([0, 1])}, ranges)


def test_shapes_and_texts_that_are_none_are_refused():
    for bad in (np.array([0, 2]), np.array([2**40, 2**40])):
        with pytest.raises(ValueError, match="a shape is"):
            shape_of(bad)
    assert texts_of(np.array(["a\x1b[2J\nb"])) == ["a?[2J\nb"]
    with pytest.raises(TypeError, match="not text"):
        texts_of(np.arange(2))


def test_a_line_that_was_changed_is_noticed():
    line = json.loads(sealed({"chunk": 3, "errors": {7: "lost"}}))
    assert unsealed(line) == {"chunk": 3, "errors": {"7": "lost"}}
    with pytest.raises(ValueError, match="was changed"):
        unsealed(line | {"chunk": 4})
    with pytest.raises(KeyError):
        unsealed({"chunk": 3})

"""Files of observations and folders of results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import image_network, random_network
from unrelu.cli.argument_files import options_of, read_observations, size_of
from unrelu.cli.result_folders import prepare_output, records, write_result
from unrelu.errors import InputError, OutputExistsError
from unrelu.problem import Problem
from unrelu.result import Inversion, Status
from unrelu.runtime.file_writing import write_records

NET = random_network((3, 8, 20))
Y = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def result():
    z = np.random.default_rng(0).standard_normal((3, 3))
    problem = Problem.build(NET, NET(z), seed=5)
    z[1] += 1
    z[2] = np.nan
    return Inversion.of(problem, z, method="mine", status=Status.TIME_LIMIT, nit=7, seconds=[0.5, 0.25, np.inf])


@pytest.mark.parametrize("arrays", [{"anything": Y}, {"y": Y}, {"y": Y, "labels": np.arange(2)}])
def test_npz_with_one_array_or_one_called_y(tmp_path, arrays):
    np.savez(tmp_path / "y.npz", **arrays)
    np.testing.assert_array_equal(read_observations(tmp_path / "y.npz"), Y)


def write(path: Path, content: object) -> Path:
    """Bytes as they are, a dictionary as .npz, an array as .npy (pickled if it holds objects)."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("y.npz", {"a": Y, "b": Y}, "holds a, b; name the array 'y'"),
        ("y.npz", {}, "holds no arrays"),
        ("y.npy", np.array([{}, None]), "holds Python objects, which could run code"),
        ("y.npz", {"y": np.array([{}, None])}, "holds Python objects, which could run code"),
        ("y.npy", b"", "not a readable .npy"),
        ("y.npy", b"\x93NUMPY\x01\x00", "not a readable .npy"),
        ("y.npz", b"PK\x03\x04 and no more", "not a readable .npz"),
        ("y.npy", b"cos\nsystem\n(S'touch stolen'\ntR.", "not a readable .npy"),
        ("y.csv", b"1,2,3", "observations are read from files that end in .npy or .npz"),
        ("y", b"1,2,3", "observations are read from files that end in .npy or .npz"),
    ],
)
def test_files_that_are_not_observations_are_refused(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_observations(path)
    assert str(path) in str(caught.value)
    assert not Path("stolen").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("true", True), ("lm", "lm"), ("64,1,1", [64, 1, 1]), ("a, b", ["a", "b"]), ("", "")],
)
def test_values_of_options(text, value):
    assert options_of([f"name={text}"]) == {"name": value}


def test_sizes_of_pictures():
    assert (size_of(None), size_of("28,30")) == (None, (28, 30))
    for text in ("28", "0,28", "28,28,3", "a,b"):
        with pytest.raises(InputError, match=r"is not HEIGHT,WIDTH; pass two whole numbers such as 28,28"):
            size_of(text)


def test_an_existing_folder_is_kept_unless_asked(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists; choose another folder, or pass --overwrite"):
        prepare_output(tmp_path, overwrite=False)
    prepare_output(tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "out"
    path.touch()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is a file; name a folder for the results"):
            prepare_output(path, overwrite)
    with pytest.raises(InputError, match="is no folder for results: Not a directory"):
        prepare_output(path / "deeper", overwrite=False)


def test_records_say_what_happened_to_each_observation(result):
    rows = list(records(result))
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["status"] for row in rows] == ["EXACT_FIT", "TIME_LIMIT", "TIME_LIMIT"]
    assert [row["success"] for row in rows] == [True, False, False]
    assert [row["p_value"] for row in rows] == [None, None, None]  # no noise was stated
    assert [row["confidence"] for row in rows] == [1.0, None, None]  # the method did not search
    assert [row["seconds"] for row in rows] == [0.5, 0.25, None]
    second = rows[1]
    assert (second["method"], second["seed"], second["nit"], second["freedom"]) == ("mine", 5, 7, -1)
    assert (second["rank"], second["identifiable"]) == (-1, False)
    assert second["message"] == Status.TIME_LIMIT.value
    assert second["objective"] == result.fun[1]
    assert [second[f"residual_{n}"] for n in ("l2", "l1", "linf")] == [
        result.residual(n)[1] for n in ("l2", "l1", "linf")
    ]
    assert rows[2]["objective"] is rows[2]["residual_l1"] is None


def test_json_lines_are_valid_and_nan_is_null(tmp_path, result):
    def no_constants(name):
        pytest.fail(f"{name} is not JSON")

    path = tmp_path / "results.jsonl"
    write_records(path, records(result))
    rows = [json.loads(line, parse_constant=no_constants) for line in path.read_text().splitlines()]
    assert rows == list(records(result))
    types = {"index": int, "status": str, "success": bool, "objective": float, "nit": int, "freedom": int, "seed": int}
    types |= {"rank": int, "identifiable": bool}
    assert {name: type(rows[0][name]) for name in types} == types


@pytest.mark.parametrize("single", [True, False])
def test_a_result_is_written_as_its_caller_sees_it(tmp_path, single):
    network = image_network()
    z = np.random.default_rng(0).standard_normal((2, 3, 1, 1))
    y = network(z)
    problem = Problem.build(network, y[0] if single else y)
    result = Inversion.of(problem, z[:1] if single else z, method="mine")
    write_result(tmp_path, result, list(records(result)))
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), z[0] if single else z)
    reconstructions = np.load(tmp_path / "reconstructions.npy")
    np.testing.assert_allclose(reconstructions, y[0] if single else y, atol=1e-12)  # of a batch, rounded otherwise
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == (1 if single else 2)

"""``unrelu profile`` and ``--fixed``: what the library finds, in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import unrelu
from tests.cli.conftest import lines

NOISE = ("--noise", "gaussian:0.05")


def test_the_folder_has_the_profile_of_the_library(run):
    code, out, _ = run("profile", "net.npz", "one.npy", "-o", "out", "--along", "1=-0.6,0.2,3", *NOISE)
    assert code == 0
    assert "Profile of z1, 3 values" in out
    assert sorted(path.name for path in Path("out").iterdir()) == ["codes.npy", "profile.png", "results.jsonl"]
    found = unrelu.profile(unrelu.load("net.npz"), np.load("one.npy"), 1, [-0.6, -0.2, 0.2], noise="gaussian:0.05")
    np.testing.assert_allclose([row["z1"] for row in lines()], found.values[0], rtol=1e-12)
    np.testing.assert_allclose([row["fun"] for row in lines()], found.fun)
    np.testing.assert_allclose(np.load("out/codes.npy"), found.z)
    same = ("profile", "net.npz", "one.npy", "-o", "out", "--overwrite", "--along", "1=-0.6,0.2,3", *NOISE)
    _, document, _ = run(*same, "--json")
    assert json.loads(document)["observations"] == lines()


@pytest.mark.parametrize(
    ("along", "message"),
    [("1=0,1", "write LOW,HIGH,COUNT, such as 1=0.6,0.8,15"), ("h=0,1,3", "'h' is none of the 3 coordinates")],
)
def test_values_that_are_none_are_refused(run, along, message):
    code, _, err = run("profile", "net.npz", "one.npy", "-o", "out", "--along", along, *NOISE)
    assert code == 2
    assert message in err
    assert not Path("out").exists()


def test_a_coordinate_is_fixed(run):
    code, _, _ = run("invert", "net.npz", "y.npy", "-o", "out", "--method", "lm", "--fixed", "2=0.25")
    assert code == 0
    assert (np.load("out/codes.npy")[:, 2] == 0.25).all()
    code, _, err = run("invert", "net.npz", "y.npy", "-o", "other", "--fixed", "h=0.25")
    assert code == 2
    assert "fixed: 'h' is none of the 3 coordinates" in err

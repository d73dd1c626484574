"""``unrelu certify``: certificates in a folder that verify without the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unrelu
from tests.cli.conftest import lines

PROOFS = ["bounds.png", "box.png", "certificate-0.npz", "certificates.jsonl", "codes.npy"]
UNIFORM = ("--noise", "uniform:0.1")


def test_it_writes_certificates_that_verify(run):
    code, out, err = run("certify", "net.npz", "noisy.npy", "-o", "out", *UNIFORM)
    assert code == 0
    assert "Smallest linf error over all codes\n4 certificates: 4 OPTIMAL; the largest gaps:\n" in out
    assert "certify" in err
    network, y = unrelu.load("net.npz"), np.load("noisy.npy")
    assert np.load("out/codes.npy").shape == (4, 3)
    for i, (row, one) in enumerate(zip(lines("out/certificates.jsonl"), y, strict=True)):
        certificate = unrelu.Certificate.load(f"out/certificate-{i}.npz")
        assert certificate.verify(network, one)
        assert (row["index"], row["status"], row["lower"]) == (i, certificate.status.name, certificate.lower)
        np.testing.assert_array_equal(row["box"], certificate.box)


def test_it_takes_the_codes_of_a_folder_and_replaces_all_of_an_earlier_run(run):
    run("invert", "net.npz", "one.npy", "-o", "codes")
    run("certify", "net.npz", "noisy.npy", "-o", "out", *UNIFORM, "-q")
    asked = ("certify", "net.npz", "one.npy", "-o", "out", "--codes", "codes", "--overwrite", "-q")
    assert run(*asked, *UNIFORM) == (0, "", "")
    assert sorted(p.name for p in Path("out").iterdir()) == PROOFS
    assert np.load("out/codes.npy").shape == (3,)
    assert run(*asked, "--norm", "l1")[0] == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [name for name in PROOFS if name != "box.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mnist-sigmoid", "noisy.npy"), "error: "),
        (("net.npz", "noisy.npy", "--norm", "l2"), "error: norm='l2'"),
        (("net.npz", "noisy.npy", "--bounds", "0,inf"), "proofs need two finite ends of every coordinate"),
    ],
)
def test_what_is_refused_leaves_no_folder(run, arguments, said):
    code, _, err = run("certify", *arguments, "-o", "out")
    assert (code, said in err) == (2, True)
    assert not Path("out").exists()


def test_certificates_within_bounds(run):
    status, out, _ = run("certify", "net.npz", "noisy.npy", "-o", "out", *UNIFORM, "--bounds", "-0.5,0.5")
    assert status == 0
    assert "error over codes within the bounds" in out
    assert unrelu.Certificate.load("out/certificate-0.npz").verify(unrelu.load("net.npz"), np.load("noisy.npy")[0])
    line = lines("out/certificates.jsonl")[0]
    assert line["bounds"] == [[-0.5, 0.5]] * 3

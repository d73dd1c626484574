"""A device whose tensors do not mix with those of the CPU: what inverts, samples and proves runs on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def seen() -> dict:
    """What ``second_device_checks`` found in a process with a second device."""
    pytest.importorskip("torch.utils.backend_registration")
    script = Path(__file__).parent / "second_device_checks.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_outputs_and_jacobians_are_those_of_the_cpu(seen):
    assert set(seen["kinds"]) >= {"dense", "convolutional", "branching", "extended", "function"}
    for off in seen["kinds"].values():
        assert off["outputs"] < 1e-12
        assert off["jacobian"] < 1e-10


def test_every_method_inverts_there_with_the_same_verdict(seen):
    for name, found in seen["inversions"].items():
        assert found["device"] == "second:0", name
        assert found["here"] == found["there"], name
        assert found["off"] < 1e-5, name


def test_the_host_waits_two_or_three_times_a_step(seen):
    """It has to know which codes go on, which have moved, and which steps are worth making; of ``adam`` if one ends."""
    for method, most in (("Levenberg-Marquardt", 3), ("L-BFGS", 2), ("adam", 1)):
        waits, steps = seen["waits"][method]
        assert steps > 5
        assert waits <= most * steps + 3, method


def test_posteriors_are_sampled_there(seen):
    found = seen["posteriors"]
    assert found["statuses"] == ["MIXED", "MIXED"]
    assert found["device"] == "second:0"
    assert found["means"] < 0.3  # two samples of at least 400 effective draws


def test_proofs_and_diagnostics_take_a_network_that_is_there(seen):
    assert seen["verified"]
    assert seen["identifiable"]
    assert seen["deviations"] < 1e-5


def test_results_are_saved_and_loaded_without_the_device(seen):
    assert seen["loaded"] == ["EXACT_FIT"] * 3
    assert seen["fingerprints"][0] == seen["fingerprints"][1]
    assert seen["priors"][0] != seen["priors"][1], "it is searched in another way there"
    assert "computed on second:0" in seen["printed"]
    assert seen["cached"]
    assert seen["learned together"]

"""The fuzzers, a few cases of each: they run, write what the page shows, and find nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hosts import HOSTS, trials
from unrelu_studies.tables.fuzz_tables import FUZZERS

FOLDER = Path(__file__).parents[2] / "fuzz"
SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]
# The hosts below, test_scales and test_hostile_files run what these are made of.
OF_TESTS = {"hosts", "scales", "files"}


@pytest.mark.long
@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.stem not in OF_TESTS], ids=lambda path: path.stem)
def test_a_quick_run_finds_nothing(script, tmp_path):
    output = tmp_path / "numbers.json"
    asked = [sys.executable, str(script), "--quick", "--seed", "1", "--output", str(output)]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads(output.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (numbers["script"], numbers["seed"], numbers["quick"]) == (script.stem, 1, True)
    assert all(row["what"] and row["tried"] > 0 for row in numbers["rows"])
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


def test_every_fuzzer_has_its_place_on_the_page():
    assert SCRIPTS
    assert {script.stem for script in SCRIPTS} <= set(FUZZERS)


# Without a process of their own to start. The others are a long test; `make fuzz` also tries those that start slowly.
QUICK = [
    "a plain process",
    "multiprocessing, fork",
    "fork while a thread inverts",
    "several threads at once",
    "torch.autocast",
]
SLOW = ["multiprocessing, spawn", "multiprocessing, forkserver"]
# Seconds for all hosts together, which take a quarter of a minute on an idle core: only a hang takes so long.
PATIENCE = 900.0


@pytest.mark.parametrize(
    "names",
    [QUICK, pytest.param([name for name in HOSTS if name not in QUICK + SLOW], marks=pytest.mark.long)],
    ids=["quick", "others"],
)
def test_every_host_has_its_answers_and_its_settings_back(names):
    assert trials(names, 1, PATIENCE) == {name: [[]] for name in names}

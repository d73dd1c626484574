"""The pages of the benchmarks are what the committed numbers give, and nothing in their tables comes from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp

from unrelu.errors import InputError
from unrelu_studies.kit.binomial import OPEN, at_least, at_most, counted, interval, share
from unrelu_studies.kit.markdown_tables import aims
from unrelu_studies.tables.comparison import comparison, time_ratio
from unrelu_studies.tables.fuzz_tables import FUZZERS, NOT_RUN
from unrelu_studies.tables.page import BLOCKS, OVER_ALL, PAGES, RESULTS, filled, names, render

ROOT = Path(__file__).parents[2]
PAGE = PAGES[0]
BENCH = ROOT / "scripts" / "bench"
# What ``scripts/bench`` takes.
BENCHMARKS = set(re.findall(r"^names=\((.*?)\)$", BENCH.read_text(encoding="utf-8"), re.M | re.S)[0].split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_is_what_the_committed_numbers_give(page):
    text = page.read_text(encoding="utf-8")
    assert names(text)
    assert filled(text, RESULTS) == text


def outside(text: str) -> str:
    """A page without its generated blocks."""
    return re.sub(r"<!-- table: .*?<!-- end -->", "", text, flags=re.DOTALL)


def test_no_table_is_written_by_hand():
    text = PAGE.read_text(encoding="utf-8")
    assert not [line for line in outside(text).splitlines() if line.startswith("|")]
    assert text.count("<!-- table: ") == text.count("<!-- end -->") == len(names(text))


def test_every_block_is_on_one_page_and_its_command_exists():
    shown = [name for page in PAGES for name in names(page.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted([*BLOCKS, *OVER_ALL])
    assert {name.split()[0] for name in BLOCKS} == BENCHMARKS | {f"fuzz-{name}" for name in FUZZERS}


def test_every_block_stands_under_the_name_of_its_benchmark():
    """The last heading that has names of benchmarks in brackets has that of the block."""
    named = ""
    for heading, block in re.findall(r"^##+ .*\((`.*`)\)$|^<!-- table: (\S+)", PAGE.read_text(encoding="utf-8"), re.M):
        named = heading or named
        assert block in ("", *OVER_ALL) or f"`{block}`" in named


def test_the_page_is_short():
    """A section has at most 300 words, the marks of tables and intervals not counted."""
    text = re.sub(r" \([\d.e-]+ to [\d.e-]+\)", "", PAGE.read_text(encoding="utf-8"))
    sections = [
        [word for word in part.split() if re.search(r"\w", word)] for part in re.split("^## ", text, flags=re.M)
    ]
    assert all(len(words) <= 300 for words in sections[1:-1]), [len(words) for words in sections]
    assert len(text.split()) <= 6000


def test_what_is_not_reached_is_said(tmp_path):
    numbers = json.loads((RESULTS / "verdict.json").read_text(encoding="utf-8"))
    numbers["noiseless"][0]["false"] = 2
    (tmp_path / "verdict.json").write_text(json.dumps(numbers), encoding="utf-8")
    count = sum(row["count"] for row in numbers["noiseless"])
    assert f"| no false success in {count:,} observations without noise | 2 | no |" in render("verdict", tmp_path)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_results_say_how_they_were_made(name):
    numbers = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert set(numbers) >= {"command", "machine"}
    assert numbers["command"]["measurement"] == name
    assert isinstance(numbers["command"]["seed"], int)
    assert numbers["machine"]["processor"]


def test_the_page_names_one_commit_or_says_that_there_are_several(tmp_path):
    def write(**commits: str | None) -> str:
        for name, commit in commits.items():
            numbers = json.loads((RESULTS / "startup.json").read_text(encoding="utf-8"))
            (tmp_path / f"{name}.json").write_text(json.dumps({**numbers, "commit": commit}), encoding="utf-8")
        return render("provenance", tmp_path)

    assert write(startup="abc1234", hard="abc1234", large="abc1234").startswith("All numbers are of commit abc1234. ")
    text = write(hard="def5678+", large=None, search="abc1234")
    several = "most are of abc1234, but `hard` of def5678 with uncommitted changes; `large` of no known commit"
    assert text.startswith(f"**Not of one commit**: {several}. `make bench` measures all of them again.")
    # Numbers of the fuzzers are of other commands, with a page of their own.
    (tmp_path / "fuzz-runs.json").write_text(json.dumps({"commit": "000"}), encoding="utf-8")
    text = write(startup="abc1234+", hard="abc1234+", large="abc1234+", search="abc1234+")
    assert text.startswith("All numbers are of commit abc1234 with uncommitted changes. ")


def test_an_interval_holds_the_probability_as_often_as_it_says():
    """Clopper and Pearson's, for any probability; of no and of all successes the ends have closed forms."""
    for count in (7, 60):
        ends = np.array([interval(found, count) for found in range(count + 1)])
        np.testing.assert_allclose(ends[0], [0, 1 - 0.025 ** (1 / count)])
        np.testing.assert_allclose(ends[-1], [0.025 ** (1 / count), 1])
        for p in np.linspace(0.01, 0.99, 49):
            inside = (ends[:, 0] <= p) & (p <= ends[:, 1])
            assert binom.pmf(np.arange(count + 1), count, p)[inside].sum() >= 0.95 - 1e-12
    assert share(0, 0) == "-"
    assert counted(3, 1000) == "3 of 1,000: 0.3% (0.0619 to 0.874)"


def test_an_aim_is_open_where_the_interval_holds_both_answers():
    assert at_most(0, 1000, 0.01) is True
    assert at_most(30, 1000, 0.01) is False
    assert at_most(10, 1000, 0.01) == at_least(990, 1000, 0.99) == OPEN
    assert aims([("a", "b", OPEN), ("c", "d", True), ("e", "f", None)]).splitlines()[2:] == [
        "| a | b | open |", "| c | d | yes |", "| e | f | - |",
    ]  # fmt: skip


# --- two commits ------------------------------------------------------------------------------------------------------


def written(folder: Path, **changed: Any) -> Path:
    """A file of `hard` with one cell of four observations."""
    row = {
        "generator": "a", "measured": "half", "noise": 0.1, "best": [True, True, True, False],
        "objective": [1.0, 1.0, 1.0, 2.0], "known": [1.0, 1.0, 1.0, 1.0], "confidence": [0.995, 0.995, 0.5, None],
        "milliseconds": {"auto": 2.0}, **changed,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    numbers = {"command": {"seed": 3}, "commit": folder.name, "rows": [row]}
    (folder / "hard.json").write_text(json.dumps(numbers), encoding="utf-8")
    return folder


def test_two_commits_are_compared_on_the_observations_that_both_have(tmp_path):
    """The second one has three of the four, and a better code of the second: the first was sure and wrong."""
    after = written(
        tmp_path / "after", objective=[1.0, 0.5, 1.5], known=[1.0, 0.5, 1.0], best=[True, True, False],
        confidence=[0.9, 1.0, 0.5], milliseconds={"auto": 3.0},
    )  # fmt: skip
    text = comparison(written(tmp_path / "before"), after)
    assert text.startswith("## hard: before and after, 1 cells")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "| 66.7% (9.43 to 99.2) | 66.7% (9.43 to 99.2) | lost 1, won 1, p = 1 |" in rows["best codes"]
    assert "| 1 of 2: 50% (1.26 to 98.7) | 0 of 1: 0% (0 to 97.5) | -1 |" in rows["sure and wrong"]
    assert "| 2.0 | 3.0 | of the sums 1.500 |" in rows["ms an observation, sum over cells"]
    assert "p < .01" not in rows


def test_the_ratio_of_times_has_students_interval():
    before, after = np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.2, 4.0])
    ends = ttest_1samp(np.log(after / before), 0).confidence_interval(0.95)
    low, high = np.exp(ends.low), np.exp(ends.high)
    assert (
        time_ratio(before, after) == f"ratio {1.21 ** (1 / 3):.3f} ({low:.3f} to {high:.3f}), of the sums {7.3 / 7:.3f}"
    )


def test_other_observations_are_not_compared(tmp_path):
    before, after = (written(tmp_path / name) for name in ("before", "after"))
    with pytest.raises(InputError, match="none of families, hard, emulators"):
        comparison(before, tmp_path)
    numbers = json.loads((after / "hard.json").read_text(encoding="utf-8"))
    numbers["command"]["seed"] = 4
    (after / "hard.json").write_text(json.dumps(numbers), encoding="utf-8")
    with pytest.raises(InputError, match="seeds 3 and 4"):
        comparison(before, after)


def test_another_number_changes_the_page(tmp_path):
    """Against a page that is compared with itself."""
    numbers = json.loads((RESULTS / "startup.json").read_text(encoding="utf-8"))
    numbers["rows"][0]["seconds"] = 123.45
    (tmp_path / "startup.json").write_text(json.dumps(numbers), encoding="utf-8")
    assert "| `unrelu --help` | 123.45 |" in render("startup", tmp_path)
    text = "before\n<!-- table: startup -->\nold\n<!-- end -->\nafter\n"
    assert filled(text, tmp_path) == filled(filled(text, tmp_path), tmp_path)
    assert "old" not in filled(text, tmp_path)


def test_what_a_fuzzer_found_is_shown_whatever_its_columns(tmp_path):
    assert render("fuzz-runs", tmp_path) == NOT_RUN
    rows = [{"what": "a", "tried": 12345, "lost": 0}, {"what": "b", "tried": 1, "worst": 0.5, "first": ["x|y", "z"]}]
    numbers = {"script": "runs", "seed": 3, "quick": False, "commit": "abc", "seconds": 90.0, "rows": rows}
    (tmp_path / "fuzz-runs.json").write_text(json.dumps(numbers), encoding="utf-8")
    text = render("fuzz-runs", tmp_path)
    assert text.startswith("Full run, seed 3, commit abc, 1.5 minutes, 2 kinds of cases.")
    assert "| tried | lost | worst | first |" in text
    assert "| 12,346 | 0 | 0.5 | x\\|y; z |" in text


def test_an_unknown_benchmark_is_refused_before_anything_runs():
    done = subprocess.run([BENCH, "startup", "serach"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "benchmark 'serach' is unknown; use some of" in done.stderr
    assert not done.stdout

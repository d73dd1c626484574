"""The pages of the benchmarks are what the committed numbers give, and nothing in their tables comes from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

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
    """A section has at most 300 words, the marks of tables not counted."""
    text = PAGE.read_text(encoding="utf-8")
    sections = [
        [word for word in part.split() if re.search(r"\w", word)] for part in re.split("^## ", text, flags=re.M)
    ]
    assert all(len(words) <= 300 for words in sections[1:-1]), [len(words) for words in sections]
    assert len(text.split()) <= 6000


def test_what_is_not_reached_is_said(tmp_path):
    numbers = json.loads((RESULTS / "verdict.json").read_text(encoding="utf-8"))
    numbers["noiseless"][0]["false"] = 2
    (tmp_path / "verdict.json").write_text(json.dumps(numbers), encoding="utf-8")
    assert "| no false success in 1,020 observations without noise | 2 | no |" in render("verdict", tmp_path)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_results_say_how_they_were_made(name):
    numbers = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert set(numbers) >= {"command", "machine"}
    assert numbers["command"]["measurement"] == name
    assert isinstance(numbers["command"]["seed"], int)
    assert numbers["machine"]["processor"]


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

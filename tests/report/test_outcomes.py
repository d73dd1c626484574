"""Times in which several workers were busy are added up once."""

from __future__ import annotations

from pathlib import Path

from tests.report.report_runs import observations, run, saved
from unrelu.report._outcomes import speed
from unrelu.runs import Record, Run


def test_times_in_which_several_workers_were_busy_count_once(tmp_path):
    whole = run(tmp_path / "out", saved(tmp_path, observations()))

    def record(chunk, begin, end, worker):
        return Record(chunk, 5 * chunk, 5 * chunk + 5, "", "", "", {}, 0, 0, end - begin, worker, 1000.0 + end)

    records = [record(0, 0, 4, "a:1"), record(1, 1, 5, "b:1"), record(2, 3, 6, "a:1"), record(3, 106, 108, "a:2")]
    assert speed(Run(Path("out"), whole.manifest, {r.chunk: r for r in records}, whole.table)) == {
        "busy": 8, "rate": 20 / 8, "left": 0, "parallel": 13 / 8, "workers": 3,
    }  # fmt: skip
    part = speed(Run(Path("out"), whole.manifest, {0: records[0]}, whole.table))
    assert part["left"] == 15 / (5 / 4)
    assert speed(Run(Path("out"), whole.manifest, {}, whole.table)) is None

"""``--json``: one document on standard output, whatever happens, with the keys that the page lists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import unrelu
from tests.cli.conftest import lines

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.partition("## JSON")[2], re.M))
LM = ("--method", "lm", "--json")


def keys(row: str) -> set[str]:
    of_status = keys("status") if row == "run" else set()
    return of_status | set(re.findall(r"`(\w+)`", re.sub(r"\([^()]*\)|those of `status`", "", ROWS[row])))


def one_document(out: str) -> dict:
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_every_document_has_the_documented_keys(run):
    documents = {
        "inspect": run("inspect", "net.npz", "--json"),
        "posterior": run("posterior", "net.npz", "y.npy", "-o", "draws", "--noise", "gaussian:0.1", "--json"),
        "invert": run("invert", "net.npz", "y.npy", "-o", "out", *LM),
        "certify": run("certify", "net.npz", "y.npy", "-o", "proofs", "--time-limit", "0.1", "--json"),
        "run": run("run", "net.npz", "y.npy", "-o", "run", "--workers", "1", "--chunk", "3", *LM),
        "status": run("status", "run", "--json"),
        "report": run("report", "run", "--json"),
    }
    found = {}
    for command, (code, out, _) in documents.items():
        found[command] = one_document(out)
        assert code == 0
        assert set(found[command]) == {"command", "version"} | keys(command)
        assert (found[command]["command"], found[command]["version"]) == (command, unrelu.__version__)
    for command, folder in (
        ("invert", "out/results"),
        ("posterior", "draws/results"),
        ("certify", "proofs/certificates"),
    ):
        rows = found[command]["observations"]
        assert found[command]["size"] == len(rows) == 4
        written = lines(f"{folder}.jsonl")
        assert [{key: row[key] for key in written[0]} for row in rows] == written
    np.testing.assert_array_equal([row["z"] for row in found["invert"]["observations"]], np.load("out/codes.npy"))
    assert {"z", *found["invert"]["observations"][0]} == keys("observations")
    assert found["run"]["records"][1]["stop"] == 4
    assert found["report"]["page"].endswith("report.html")


def test_progress_goes_to_standard_error(run):
    _, out, err = run("run", "net.npz", "y.npy", "-o", "out", "--workers", "1", *LM)
    assert "chunk 0: observations 0 to 3" in err
    assert [record["stop"] for record in one_document(out)["records"]] == [4]
    _, again, _ = run("run", "net.npz", "y.npy", "-o", "out", "--workers", "1", *LM, "-q")
    assert (one_document(again)["records"], one_document(again)["finished"]) == ([], True)


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("invert", "net.npz", "net.npz", "-o", "out", "--json"), "InputError", "net.npz holds W0, W1, activation"),
        (("--json", "invert", "net.npz"), "NoSuchOption", "No such option: --json"),
        (("invert", "net.npz", "y.npy", "--json"), "MissingParameter", "Missing option '--output'"),
        (("invert", "net.npz", "y.npy", "-o", "out", "--seed", "x", "--json"), "BadParameter", "--seed"),
        (("status", "nowhere", "--json"), "InputError", "nowhere holds no manifest.json"),
        (("invert", "net.npz", "y.npy", "-o", "out", "--norm", "l3", "--json"), "InputError", "line: --norm"),
    ],
)
def test_an_error_is_a_document_and_keeps_the_exit_status(run, arguments, kind, said):
    code, out, err = run(*arguments)
    error = one_document(out)["error"]
    assert (code, error["status"], error["type"]) == (2, 2, kind)
    assert said in error["message"]
    assert error["message"] in err
    assert not Path("out").exists()


def test_observations_that_failed_are_counted(run):
    code, out, _ = run("run", "net.npz", "hole.npy", "-o", "out", "--workers", "1", "-q", *LM)
    found = one_document(out)
    assert (code, found["failed"], found["finished"]) == (1, 1, True)
    code, out, _ = run(
        "invert", "net.npz", "y.npy", "-o", "codes", "--method", "linf", "--time-limit", "1e-9", "--json"
    )
    found = one_document(out)
    assert (code, found["failed"], found["counts"]) == (0, 0, {"TIME_LIMIT": 4})


def test_without_the_option_there_is_no_document(run):
    assert "{" not in run("invert", "net.npz", "y.npy", "-o", "out", "--method", "lm")[1]

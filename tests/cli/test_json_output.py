"""``--json``: one document on standard output, whatever happens, with the keys that the page lists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import unrelu
from unrelu.cli._app import app

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.partition("## JSON")[2].partition("An error")[0], re.M))
OBSERVATION = re.findall(r"`(\w+)`", PAGE.partition("An observation of `invert`")[2].partition("`name` is that")[0])


POSTERIOR = re.findall(
    r"`(\w+)`", PAGE.partition("One of `certify`")[2].partition("best code. One")[2].partition("\n\n")[0]
)


def documented(command: str) -> set[str]:
    of_status = re.findall(r"`(\w+)`", ROWS["status"]) if command == "run" else []
    words = re.sub(r"\([^()]*\)|those of `status`", "", ROWS[command])
    return {"command", "version", *re.findall(r"`(\w+)`", words), *of_status}


def one_document(out: str) -> dict:
    assert out.count("\n") == 1
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_every_command_of_the_library_is_documented_and_has_the_option(run):
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names == set(ROWS)
    for name in names:
        assert "--json" in run(name, "--help")[1]


def test_every_document_has_the_documented_keys(run):
    small = ("--method", "lm", "--json")
    documents = {
        "inspect": run("inspect", "net.npz", "--json"),
        "posterior": run("posterior", "net.npz", "y.npy", "-o", "draws", "--noise", "gaussian:0.1", "--json"),
        "invert": run("invert", "net.npz", "y.npy", "-o", "codes", *small),
        "certify": run("certify", "net.npz", "y.npy", "-o", "proofs", "--codes", "codes", "--max-nodes", "2", "--json"),
        "run": run("run", "net.npz", "y.npy", "-o", "run", "--workers", "1", "--chunk", "3", *small),
        "status": run("status", "run", "--json"),
        "report": run("report", "run", "--json"),
    }
    found = {}
    for command, (code, out, _) in documents.items():
        found[command] = one_document(out)
        assert code == 0
        assert set(found[command]) == documented(command)
        assert (found[command]["command"], found[command]["version"]) == (command, unrelu.__version__)
    rows = found["invert"]["observations"]
    assert {"command", *rows[0]} == {"command", *OBSERVATION} - {"invert"}
    assert [row["name"] for row in rows] == [None] * 4
    np.testing.assert_array_equal([row["z"] for row in rows], np.load("codes/codes.npy"))
    lines = [json.loads(line) for line in Path("codes/results.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "z"} for row in rows] == lines
    assert found["invert"]["size"] == 4
    assert found["certify"]["observations"][1]["lower"] is not None
    assert [record["how"] for record in found["run"]["records"]] == ["computed"] * 2
    assert found["report"]["page"].endswith("report.html")
    assert {"posterior", *found["posterior"]["observations"][0], "weight", "weight_error", "z"} == {*POSTERIOR}


def test_progress_goes_to_standard_error(run):
    _, out, err = run("run", "net.npz", "y.npy", "-o", "out", "--method", "lm", "--workers", "1", "--json")
    assert "chunk 0: observations 0 to 3" in err
    one_document(out)
    _, again, _ = run("run", "net.npz", "y.npy", "-o", "out", "--method", "lm", "--workers", "1", "--json", "-q")
    assert [record["how"] for record in one_document(again)["records"]] == ["kept"]


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("invert", "net.npz", "gone.npy", "-o", "out", "--json"), "InputError", "gone.npy does not exist"),
        (("--json", "invert", "net.npz"), "NoSuchOption", "No such option: --json"),
        (("invert", "net.npz", "y.npy", "--json"), "MissingParameter", "Missing option '--output'"),
        (("invert", "net.npz", "y.npy", "-o", "out", "--seed", "x", "--json"), "BadParameter", "--seed"),
        (("status", "nowhere", "--json"), "InputError", "nowhere holds no manifest.json"),
        (("invert", "net.npz", "y.npy", "-o", "out", "--method", "lmm", "--json"), "OptionError", "did you mean 'lm'?"),
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
    arguments = ("run", "net.npz", "hole.npy", "-o", "out", "--method", "lm", "--workers", "1", "--json", "-q")
    code, out, _ = run(*arguments)
    found = one_document(out)
    assert (code, found["failed"], found["finished"]) == (1, 1, True)
    arguments = ("invert", "net.npz", "y.npy", "-o", "codes", "--method", "linf", "--time-limit", "1e-9", "--json")
    code, out, _ = run(*arguments)
    found = one_document(out)
    assert (code, found["failed"], found["counts"]) == (0, 0, {"TIME_LIMIT": 4})
    assert None not in found["observations"][0]["z"]


def test_an_interrupt_is_a_document(run, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt  # as of a second Ctrl-C

    monkeypatch.setattr("unrelu.inspect", interrupted)
    code, out, _ = run("inspect", "net.npz", "--json")
    assert code == 130
    assert one_document(out)["error"] == {"type": "Interrupted", "message": "interrupted", "status": 130}


def test_without_the_option_there_is_no_document(run):
    assert "{" not in run("invert", "net.npz", "y.npy", "-o", "out", "--method", "lm")[1]


def test_names_of_coordinates_come_with_their_values(run):
    arguments = ("net.npz", "y.npy", "-o", "codes", "--method", "lm", "--names", "h, omega_b,n_s", "--json")
    rows = one_document(run("invert", *arguments)[1])["observations"]
    assert [list(row["parameters"]) for row in rows] == [["h", "omega_b", "n_s"]] * 4
    assert [list(row["parameters"].values()) for row in rows] == [row["z"] for row in rows]
    arguments = ("net.npz", "y.npy", "-o", "out", "--names", "h,h,n_s", "--json")
    assert "'h' is that of two coordinates" in one_document(run("invert", *arguments)[1])["error"]["message"]
    arguments = ("net.npz", "y.npy", "-o", "out", "--names", "h,,n_s", "--json")
    assert "--names h,,n_s: name 2 of 3 is empty" in one_document(run("invert", *arguments)[1])["error"]["message"]

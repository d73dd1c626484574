"""``unrelu run``, ``status`` and ``report``: what they print, and every bad input by its name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image
from rich.console import Console

import unrelu
from unrelu.cli.run_progress import Watcher, work_of
from unrelu.display.progress_bar import bar_of
from unrelu.runs import Record, RunProgress

SIZE = 12
RUN = ("run", "net.npz", "y.npy", "-o", "out", "--chunk", "5", "--workers", "1")


@pytest.fixture
def files(files) -> Path:
    """Twelve observations."""
    y = unrelu.load("net.npz")(np.random.default_rng(0).standard_normal((SIZE, 3)))
    np.save("y.npy", y)
    return files


def test_a_run_says_a_line_a_chunk_and_how_it_ended(run):
    code, out, err = run(*RUN)
    assert (code, out) == (0, "")
    assert [line.split(" in ")[0] for line in err.splitlines() if line.startswith("chunk")] == [
        "chunk 0: observations 0 to 4", "chunk 1: observations 5 to 9", "chunk 2: observations 10 to 11",
    ]  # fmt: skip
    assert "12/12" in err
    assert "0:00:00 left" in err
    assert "12 observations, 12 with success" in err
    assert " s of work by 1 worker, " in err
    assert err.endswith("written to out/: results.zarr; `unrelu report out` writes a page on them\n")
    code, again, _ = run("status", "out")
    assert code == 0
    assert "out: net.npz on " in again
    assert "finished: 12 of 12 observations, 3 of 3 chunks" in again
    assert again.splitlines()[-5:] == err.splitlines()[-5:]


def test_the_time_of_work_is_that_of_all_workers_and_wall_time_leaves_out_stops():
    def record(worker: str, seconds: float, at: float) -> Record:
        return Record(0, 0, 1, {}, 0, 0, seconds, worker, at)

    spans = [record("a", 4.0, 14.0), record("b", 4.0, 15.0), record("a", 2.0, 16.0), record("c", 1.0, 101.0)]
    assert work_of(spans) == "11.0 s of work by 3 workers, 7.0 s of wall time"
    assert work_of(spans[:1]) == "4.0 s of work by 1 worker, 4.0 s of wall time"


def test_a_watcher_shows_warnings_and_the_first_errors_and_stops_after_an_interrupt(capsys):
    import threading

    interrupted = threading.Event()
    bar = bar_of(Console(width=100), "observations", None)
    watcher = Watcher(bar, interrupted)
    errors = {i: f"no. {i}" for i in range(7)}
    record = Record(3, 30, 40, {"ERROR": 7, "EXACT_FIT": 3}, 3, 7, 0.5, "here", 1.0, errors)
    assert watcher(RunProgress(done=0, size=100)) is False
    assert watcher(RunProgress(warning="a worker died", done=0, size=100)) is False
    interrupted.set()
    assert watcher(RunProgress(record=record, done=10, size=100)) is True
    bar.stop()
    shown = capsys.readouterr().out
    assert "warning: a worker died\n" in shown
    assert "chunk 3: observations 30 to 39 in 0.50 s: 7 ERROR, 3 EXACT_FIT\n" in shown
    assert "  observation 4: no. 4\n  and 2 more; the report has them all\n" in shown
    assert "10/100" in shown
    assert (watcher.warnings, watcher.records[0]["errors"]) == (["a worker died"], errors)


def test_quiet_says_nothing_but_errors_and_another_run_is_refused(run):
    assert run(*RUN, "-q") == (0, "", "")
    assert run(*RUN, "-q") == (0, "", "")
    code, out, err = run(*RUN, "-q", "--seed", "2")
    assert (code, out) == (2, "")
    assert err.startswith("error: out holds another run: seed is 0, asked for is 2; ")
    assert run(*RUN, "-q", "--seed", "2", "--overwrite") == (0, "", "")


def test_columns_are_exported_when_the_run_is_finished(run):
    exports = ("--export", "codes.npy", "--export", "p_value.npy", "--export", "status.npy")
    assert run(*RUN, "-q", *exports, "--noise", "gaussian:0.1") == (0, "", "")
    found = unrelu.open_run("out")
    for name in ("codes", "p_value", "status"):
        np.testing.assert_array_equal(np.load(f"{name}.npy"), found.column(name))
    for wrong, said in (("none/codes.npy", "name a .npy file in a folder"), ("codes.txt", "name a .npy file")):
        code, _, err = run(*RUN, "--export", wrong, "-o", "other")
        assert (code, said in err) == (2, True)
        assert not Path("other").exists()
    code, _, err = run(*RUN, "-q", "--noise", "gaussian:0.1", "--export", "speed.npy")
    assert (code, "speed" in err) == (2, True)
    assert not Path("speed.npy").exists()


def test_a_failed_observation_is_exit_status_1_each_time_and_looking_at_it_is_no_failure(run):
    asked = ("run", "net.npz", "hole.npy", "-o", "out", "--method", "lm", "--workers", "1", "-q")
    said = "1 of 4 observations failed, `unrelu report out` has their messages\n"
    assert run(*asked) == (1, "", said)
    assert run(*asked) == (1, "", said)
    code, out, _ = run("status", "out")
    assert (code, "  observation 1: " in out) == (0, True)
    assert run("report", "out")[::2] == (0, "")


def test_a_stopped_run_says_how_to_resume_it(run):
    run(*RUN)
    journal = Path("out/chunks.jsonl")
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:1]))
    _, out, _ = run("status", "out")
    assert "stopped: 5 of 12 observations, 1 of 3 chunks" in out
    resume = out.splitlines()[-1].removeprefix("resume with: ")
    assert shlex.split(resume) == ["unrelu", *RUN]
    code, _, err = run(*shlex.split(resume)[1:])
    assert (code, "chunk 0" in err, "chunk 2" in err) == (0, False, True)


def test_an_interrupted_run_ends_with_status_130(run, monkeypatch):
    whole = Watcher.__call__
    monkeypatch.setattr(
        Watcher, "__call__", lambda self, progress: whole(self, progress) or progress.record is not None
    )
    code, _, err = run(*RUN)
    assert code == 130
    assert err.splitlines()[-1] == "stopped: 1 of 3 chunks are finished; run the same command again to resume"


def test_what_a_manifest_says_does_not_steer_the_terminal(run):
    run(*RUN)
    path = Path("out/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["about"]["data"] = "\x1b[2J\x9b1m[bold]"
    path.write_text(json.dumps(manifest))
    assert "net.npz on \\x1b[2J\\x9b1m[bold]" in run("status", "out")[1]


def test_status_of_what_is_no_run(run):
    code, _, err = run("status", "nowhere")
    assert code == 2
    assert err == "error: nowhere holds no manifest.json, so it is no folder of `unrelu run`; check the path\n"


def test_masks_one_for_all_or_one_for_each(run):
    y, rng = np.load("y.npy"), np.random.default_rng(1)
    each = rng.random((SIZE, 20)) < 0.8
    np.save("each.npy", each)
    np.save("one.npy", each[0])
    np.save("holes.npy", np.where(each, y, np.nan))
    network = unrelu.load("net.npz")
    for mask, operator, data in (("each.npy", each, "holes.npy"), ("one.npy", each[0], "y.npy")):
        options = ("--mask", mask, "--method", "lm", "--workers", "1", "-q")
        assert run("run", "net.npz", data, "-o", mask[:-4], *options)[0] == 0
        found = unrelu.open_run(mask[:-4])
        assert not found.errors
        x = network(found.read("codes"))
        seen = np.broadcast_to(operator, x.shape)
        assert np.abs(np.where(seen, x - y, 0)).max(axis=1).min() < 1e-8


def bad_images(folder: Path, count: int) -> None:
    """Images of 28 x 28, of which one is truncated, one of another size, and one no image."""
    folder.mkdir()
    pictures = (unrelu.zoo.digits()[0].reshape(-1, 28, 28) * 255).round().astype(np.uint8)
    for i in range(count):
        Image.fromarray(pictures[i % len(pictures)]).save(folder / f"{i:02}.png")
    whole = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((27, 28), np.uint8)).save(folder / "05.png")
    (folder / "09.png").write_text("no image")


def test_bad_images_are_named_and_the_run_goes_on(run):
    bad_images(Path("images"), 30)
    limits = ("--method", "lm", "-O", "max_iterations=3", "--workers", "1")
    code, _, err = run("run", "mnist-relu", "images", "-o", "out", *limits)
    assert code == 1
    assert err.endswith("3 of 30 observations failed, `unrelu report out` has their messages\n")
    assert "observation 5: " in err
    assert "27x28" in err
    found = unrelu.open_run("out")
    assert (found.finished, sorted(found.errors), found.counts["ERROR"]) == (True, [3, 5, 9], 3)
    assert run("run", "mnist-relu", "images", *limits, "--size", "28,28", "-o", "resized", "-q")[0] == 1
    assert sorted(unrelu.open_run("resized").errors) == [3, 9]


@pytest.fixture
def stores(files) -> None:
    Path("empty").mkdir()
    Path("torn.npy").write_bytes(Path("y.npy").read_bytes()[:300])
    Path("data.csv").write_text("1,2,3")
    group = zarr.open_group("several.zarr", mode="w", zarr_format=3)
    for name in "ab":
        group.create_array(name, data=np.ones((2, 20)))


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("net.npz", "empty"), "holds no file that ends in .png, .jpg, .jpeg"),
        (("net.npz", "torn.npy"), "torn.npy states the shape (12, 20) of float64"),
        (("net.npz", "nowhere.zarr"), "nowhere.zarr does not exist"),
        (("net.npz", "data.csv"), "data.csv"),
        (("net.npz", "several.zarr"), "holds the arrays a, b; say which with array="),
        (("net.npz", "several.zarr", "--array", "c"), "'c'"),
        (("nonsense", "y.npy"), "nonsense: no such file; the bundled generators are"),
        (("mnist-relu", "y.npy"), "has observations of shape (20,), and the generator puts out (784,)"),
        (("net.npz", "y.npy", "--method", "lmm"), "method 'lmm' is unknown"),
        (("net.npz", "y.npy", "-O", "rounds"), "--option 'rounds': write NAME=VALUE"),
        (("net.npz", "y.npy", "--size", "28"), "--size '28' is not HEIGHT,WIDTH"),
        (("net.npz", "y.npy", "--chunk", "0"), "chunk=0 must be"),
        (("net.npz", "y.npy", "--mask", "y.npy", "--operator", "y.npy"), "were both given"),
    ],
)
def test_bad_input_is_named(run, arguments, said):
    code, out, err = run("run", *arguments, "-o", "out")
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")
    assert not Path("out").exists()

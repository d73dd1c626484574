"""Experiments: what they share, how they go on after a stop, the command, and the committed numbers."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unrelu.cli._app import app
from unrelu.errors import InputError, OptionError
from unrelu.methods import make
from unrelu_studies.kit.measures import oracle
from unrelu_studies.kit.method_labels import METHODS
from unrelu_studies.kit.numbers_file import Numbers
from unrelu_studies.kit.picture_style import STYLES, panels
from unrelu_studies.kit.random_instances import gaussian_network, random
from unrelu_studies.kit.unit_runner import forget
from unrelu_studies.paper import MODULES, ON_A_NETWORK, load
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict, execute
from unrelu_studies.paper.figures import figure1, figure2
from unrelu_studies.paper.reproduction_page import page, together

DOCS = Path(__file__).parents[2] / "docs"


# --- a small experiment -----------------------------------------------------------------------------------------------


def counted(calls: list) -> Experiment:
    """Four units of two rows; notes which units are run."""

    def measure(unit, seed, quick):
        calls.append(unit)
        rng = random("test", seed, *unit)
        return [(unit[0], i, np.float64(rng.standard_normal()), math.nan) for i in range(2)]

    def draw(numbers):
        figure, (axis,) = panels()
        axis.plot(numbers.column("value"))
        return figure

    return Experiment(
        "counted", "a count", "Counts.", ("unit", "i", "value", "missing"),
        lambda quick: [(u,) for u in range(2 if quick else 4)], measure, draw,
        lambda numbers: [Claim("here", "it counts", f"{len(numbers.rows)} rows", Verdict.HOLDS)],
    )  # fmt: skip


def stop_after(count: int):
    return lambda done, total: done >= count


def test_a_run_writes_numbers_and_pictures(tmp_path):
    experiment = counted(calls := [])
    numbers = execute(experiment, tmp_path, False, 7, 1)
    assert sorted(calls) == [(0,), (1,), (2,), (3,)]
    assert {p.name for p in tmp_path.iterdir()} == {"counted.json", "counted.png", "counted.svg"}
    assert [row[:2] for row in numbers.rows] == [(u, i) for u in range(4) for i in range(2)]
    assert numbers == Numbers.load(tmp_path / "counted.json")
    assert numbers.machine["unrelu"]
    assert numbers.rows == experiment.run(seed=7).rows
    assert np.isnan(numbers.column("missing")).all()
    assert numbers.rows[0][3] is None


def test_finished_numbers_are_drawn_again_without_running(tmp_path):
    experiment = counted(calls := [])
    numbers = execute(experiment, tmp_path, False, 7, 1)
    (tmp_path / "counted.png").unlink()
    calls.clear()
    assert execute(experiment, tmp_path, False, 7, 1) == numbers
    assert not calls
    assert (tmp_path / "counted.png").exists()


@pytest.mark.parametrize("stopped", range(4))
def test_a_stopped_run_goes_on(tmp_path, stopped):
    whole = counted([]).run(seed=7).rows
    assert execute(counted(first := []), tmp_path, False, 7, 1, stop_after(stopped)) is None
    assert len(first) == stopped
    numbers = execute(counted(second := []), tmp_path, False, 7, 1)
    assert sorted(first + second) == [(0,), (1,), (2,), (3,)]
    assert numbers.rows == whole
    assert not (tmp_path / "counted.partial.jsonl").exists()


def test_a_line_that_was_being_written_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "plot", lambda *_: [])
    execute(counted([]), tmp_path, False, 7, 1, stop_after(2))
    journal = tmp_path / "counted.partial.jsonl"
    content = journal.read_bytes()
    for cut in range(0, len(content), 29):
        journal.write_bytes(content[:cut])
        numbers = execute(counted(calls := []), tmp_path, False, 7, 1)
        assert len(set(calls)) == len(calls)
        assert numbers.rows == counted([]).run(seed=7).rows
        forget("counted", tmp_path)


def test_a_damaged_line_is_an_error(tmp_path):
    execute(counted([]), tmp_path, False, 7, 1, stop_after(2))
    journal = tmp_path / "counted.partial.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], "{}", *lines[1:]]) + "\n")
    with pytest.raises(InputError, match=r"counted\.partial\.jsonl, line 2 is damaged.*remove the file"):
        execute(counted([]), tmp_path, False, 7, 1)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("quick", "seed", "said"), [(True, 7, "quick"), (False, 8, "seed is 7, asked for is 8")])
def test_another_run_in_the_folder_is_an_error(tmp_path, finished, quick, seed, said):
    execute(counted([]), tmp_path, False, 7, 1, stop_after(9 if finished else 2))
    with pytest.raises(InputError, match=rf"is of another run: .*{said}.*--overwrite"):
        execute(counted([]), tmp_path, quick, seed, 1)


def test_a_folder_that_another_run_writes_in_is_an_error(tmp_path):
    execute(counted([]), tmp_path, False, 7, 1, stop_after(1))
    with (tmp_path / "counted.partial.jsonl").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being written by another run"):
            execute(counted([]), tmp_path, False, 7, 1)
    assert len(execute(counted([]), tmp_path, False, 7, 1).rows) == 8


def test_what_cannot_be_written_is_an_error_and_what_is_finished_is_kept(tmp_path):
    (tmp_path / "counted.json.draft").mkdir()
    with pytest.raises(InputError, match=r"counted\.json\.draft: Is a directory; what is finished is kept"):
        execute(counted([]), tmp_path, False, 7, 1)
    (tmp_path / "counted.json.draft").rmdir()
    assert len(execute(counted(calls := []), tmp_path, False, 7, 1).rows) == 8
    assert not calls


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"experiment": "a", "rows": 3}'])
def test_a_file_without_numbers_is_an_error(tmp_path, text):
    (tmp_path / "counted.json").write_text(text)
    with pytest.raises(InputError, match="does not hold the numbers of an experiment"):
        execute(counted([]), tmp_path, False, 7, 1)


# --- what experiments share -------------------------------------------------------------------------------------------


def test_the_oracle_undoes_small_noise_along_its_jacobian():
    network = gaussian_network((4, 20, 60), random("test", 1))
    truth = random("test", 2).standard_normal((3, 4))
    off = 1e-6 * random("test", 3).standard_normal((3, 4))
    e = network(truth + off) - network(truth)
    np.testing.assert_allclose(oracle(network, truth, e), truth + off, atol=1e-12)


def test_every_label_has_a_method_and_a_style_of_its_own():
    for method, options in METHODS.values():
        make(method, options)
    assert METHODS.keys() <= STYLES.keys()
    for line in (figure1._RANDOM, figure1._ON_TRAINED, figure2._METHODS):
        looks = [(STYLES[label].color, STYLES[label].marker) for label in line]
        assert len(set(looks)) == len(looks)


def claim(source: str, verdict: Verdict, reading: str = "") -> Claim:
    return Claim(source, "it is so", "1", verdict, "for a reason", reading)


@pytest.mark.parametrize(
    ("source", "verdicts", "whole"),
    [
        # A paper's stands as its figure has it, and partly if it does in another reading; ours has to in all.
        ("Figure 9", ("holds", "does not hold"), "holds"),
        ("Figure 9", ("does not hold", "holds"), "holds partly"),
        ("Figure 9", ("does not hold", "holds partly"), "holds partly"),
        ("Figure 9", ("does not hold", "does not hold"), "does not hold"),
        ("unrelu", ("holds", "holds"), "holds"),
        ("unrelu", ("holds", "does not hold"), "holds partly"),
        ("unrelu", ("does not hold", "does not hold"), "does not hold"),
    ],
)
def test_a_claim_is_judged_from_its_readings(source, verdicts, whole):
    readings = [claim(source, Verdict(verdict), f"reading {i}" * bool(i)) for i, verdict in enumerate(verdicts)]
    assert together(readings).value == whole


def test_the_page_counts_a_claim_once_and_says_which_readings_were_tried(tmp_path, monkeypatch):
    made = {
        "fig1a": [claim("Figure 9", Verdict.FAILS), claim("Figure 9", Verdict.HOLDS, "other steps")],
        "fig1b": [claim("unrelu", Verdict.HOLDS), claim("unrelu", Verdict.HOLDS, "on the other")],
        "fig2a": [claim("Figure 10", Verdict.PARTLY)],
    }
    for name, claims in made.items():
        experiment = dataclasses.replace(counted([]), name=name, claims=lambda numbers, claims=claims: claims)
        experiment.run(seed=7).save(tmp_path / f"{name}.json")
        made[name] = experiment
    monkeypatch.setattr("unrelu_studies.paper.reproduction_page.load", lambda name, generator: made[name])
    text = page(tmp_path, "")
    assert "| claims of the paper | 0 | 2 | 0 |" in text
    assert "| claims of unrelu | 1 | 0 | 0 |" in text
    tried = "**holds partly** (as run: does not hold; other steps: holds): for a reason"
    assert f"| Figure 9 | it is so | 1 | {tried} |" in text
    assert "| unrelu | it is so | 1 | **holds** in 2 readings |" in text
    assert "| Figure 10 | it is so | 1 | **holds partly**: for a reason |" in text


# --- the registry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_an_experiment_is_what_its_name_says(name):
    experiment = load(name)
    assert experiment.name == name
    for quick in (True, False):
        units = [json.dumps(unit) for unit in experiment.units(quick)]
        assert len(set(units)) == len(units) > 0
        # A unit read back from a journal is the unit.
        assert all(json.dumps(json.loads(unit)) == unit for unit in units)
    assert len(experiment.units(True)) <= len(experiment.units(False))
    for text in (experiment.title, experiment.about):
        assert text
        assert "\n" not in text


def test_an_unknown_experiment_is_an_error():
    with pytest.raises(OptionError, match=r"experiment 'fig9' is unknown; use one of fig1a, .*fig2b"):
        load("fig9")


# --- the command ------------------------------------------------------------------------------------------------------


def same_but_for_seconds(first: Numbers, second: Numbers) -> None:
    place = first.columns.index("seconds")
    for a, b in zip(first.rows, second.rows, strict=True):
        assert a[:place] + a[place + 1 :] == b[:place] + b[place + 1 :]


def units_in(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else -1


def begun(folder: Path, units: int, *more: str, name: str = "fig2a") -> subprocess.Popen:
    """A run of the command line, when it has finished so many units."""
    code = "from unrelu.cli.process import main; main()"
    arguments = [sys.executable, "-c", code, "reproduce", name, "--quick", "-o", str(folder), *more]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while units_in(folder / f"{name}.partial.jsonl") < units:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.long
def test_a_killed_run_goes_on_and_gives_the_same_numbers(tmp_path, fig2a):
    process = begun(tmp_path, 2, "--workers", "2")
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    process.kill()
    process.communicate()
    done = units_in(tmp_path / "fig2a.partial.jsonl")
    assert done >= 2
    # The workers end with their parent.
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    seen = []
    numbers = execute(load("fig2a"), tmp_path, True, 2026, 2, lambda done, total: seen.append(done))
    assert seen == list(range(done, 7))
    same_but_for_seconds(numbers, fig2a)


@pytest.mark.long
def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    process = begun(tmp_path, 1, "--workers", "1")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "run it again with the same command to go on" in " ".join(output.split())
    assert 1 <= units_in(tmp_path / "fig2a.partial.jsonl") < 6
    assert not (tmp_path / "fig2a.json").exists()


def test_a_second_interrupt_ends_at_once(tmp_path):
    process = begun(tmp_path, 0, "--workers", "2", name="fig1c")  # its units take seconds
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT)
    # Whatever was finished by then is there.
    kept, seen = units_in(tmp_path / "fig1c.partial.jsonl"), []
    assert execute(load("fig1c"), tmp_path, True, 2026, 2, lambda done, total: seen.append(done) or True) is None
    assert seen == [kept]


def test_the_command_prints_the_claims_and_writes_the_page(tmp_path, fig2a):
    fig2a_named = dataclasses.replace(fig2a, machine={"unrelu": "0.1.0", "processor": "a processor"})
    fig2a_named.save(tmp_path / "fig2a.json")
    result = CliRunner().invoke(app, ["reproduce", "fig2a", "--quick", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "holds" in result.output
    assert {p.name for p in tmp_path.iterdir()} == {"fig2a.json", "fig2a.png", "fig2a.svg", "reproduction.md"}
    text = (tmp_path / "reproduction.md").read_text()
    assert "![Figure 2(a)" in text
    assert "unrelu reproduce fig2a --quick" in text
    assert load("fig2a").claims(fig2a)[0].measured in text


# --- the committed numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_committed_numbers_are_whole_and_full(name):
    numbers = Numbers.load(DOCS / "reproduction" / f"{name}.json")
    assert not numbers.quick
    assert numbers.experiment == name
    assert numbers.machine["processor"]
    for suffix in ("png", "svg"):
        assert (DOCS / "reproduction" / f"{name}.{suffix}").stat().st_size > 0


def test_the_committed_page_is_short():
    assert len((DOCS / "reproduction.md").read_text(encoding="utf-8").split()) <= 6000


def test_the_committed_page_is_that_of_our_networks():
    assert not any(Numbers.load(DOCS / "reproduction" / f"{name}.json").network for name in ON_A_NETWORK)


def test_the_committed_page_is_that_of_the_committed_numbers():
    assert (DOCS / "reproduction.md").read_text(encoding="utf-8") == page(DOCS / "reproduction", "reproduction/")


def test_a_unit_of_the_committed_numbers_can_be_run_again(monkeypatch):
    """The cheapest check that the numbers are what the code gives: one network of Figure 1(a).

    Its programs and least squares have one solution, far from kinks: only the fourth digit, which is rounded, may
    differ on another processor. Descents that stop at a number of steps are left out, and so not run.
    """
    monkeypatch.setattr(figure1, "_RANDOM", ("linf", "l1"))
    numbers, experiment = Numbers.load(DOCS / "reproduction" / "fig1a.json"), load("fig1a")
    again = experiment.numbers(experiment.measure((0,), numbers.seed, False), False, numbers.seed)
    for method in ("linf", "l1", "oracle"):
        kept, now = numbers.where(network=0, method=method), again.where(method=method)
        assert len(kept.rows) == len(now.rows) > 0
        np.testing.assert_allclose(now.column("error"), kept.column("error"), rtol=2e-3)

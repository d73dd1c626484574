"""Options: declared once, found in the help, completed by the shell, and named by errors as they are typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import unrelu
from unrelu.cli import options
from unrelu.cli._app import app, options_in
from unrelu.errors import ModelFileError
from unrelu.measurements.noise import MODELS
from unrelu.methods import METHODS

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="completes in bash")
COMMANDS = typer.main.get_command(app).commands
OURS = [name for name in COMMANDS if name not in ("reproduce", "benchmark")]


def test_the_names_are_those_of_the_registries():
    assert list(options.METHODS) == list(METHODS)
    assert unrelu.zoo.names() == options.ZOO
    assert set(options.NOISE) == {name for name, model in MODELS.items() if model.built_in() and model.by_text}


def test_the_first_two_panels_are_what_a_first_user_needs(run):
    code, shown, _ = run("--help")
    assert code == 0
    panels = re.findall(r"╭─ (.+?) ─.*?\n(.*?)╰", shown, re.S)
    found = {name: re.findall(r"^│ (\w+)", text, re.M) for name, text in panels}
    assert found["Invert"] == ["invert", "run", "posterior", "profile"]
    assert found["Look at results"] == ["status", "report"]
    assert list(found)[1:] == ["Invert", "Look at results", "Others"]


@pytest.mark.parametrize("name", OURS)
def test_help_explains_every_option_and_ends_with_an_example_that_the_command_understands(run, name):
    code, shown, _ = run(name, "--help")
    assert code == 0
    parameters = COMMANDS[name].params
    assert all(p.help for p in parameters)
    (example,) = re.findall(rf"Example: unrelu {name} (.*)", shown)
    given = {word for word in example.split() if word.startswith("-")}
    assert given <= {option for p in parameters for option in p.opts}


def test_an_option_means_the_same_in_every_command():
    """``--time-limit`` and ``--output`` say what they apply to; ``reproduce`` has its own seed."""
    said: dict[str, set[str]] = {}
    for name in OURS:
        for p in COMMANDS[name].params:
            said.setdefault(p.name, set()).add(p.help)
    differing = {name for name, texts in said.items() if len(texts) > 1}
    assert differing == {"time_limit", "output", "data", "model", "seed"}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("noise='gaus:1': use one of ...", "On the command line: --noise"),
        ("pass unrelu.load('dec.pth', activation=\"relu\")", "On the command line: --activation"),
        ("load(latent_shape=(20,)); or norm=`l2`", "On the command line: --norm, --model-option latent_shape="),
        ("pass operator=unrelu.Mask(...) or time_limit=3", "On the command line: --operator, --time-limit"),
        ("set the environment variable UNRELU_MAX_FILE_BYTES=5 if you trust the file", ""),
        ("model=3, z0= and y = G(z) have no options", ""),
    ],
)
def test_a_message_is_followed_by_the_options_that_it_mentions(message, said):
    assert options_in(message, COMMANDS["invert"].params) == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--noise", "0.1"), "error: noise='0.1'"),
        (("--norm", "l3"), "error: norm='l3' is unknown"),
        (("--prior", "1", "--method", "linf"), "error: prior=1"),
        (("--time-limit", "0"), "error: time_limit=0 must be above 0"),
        (("--seed", "-1"), "error: seed=-1 must be a whole number"),
    ],
)
def test_errors_of_the_library_are_printed_as_they_are_and_name_the_option(run, arguments, said):
    code, out, err = run("invert", "net.npz", "one.npy", "-o", "out", *arguments)
    assert (code, out) == (2, "")
    message, option = err.splitlines()
    assert message.startswith(said)
    assert arguments[0] in option
    assert option.startswith("On the command line: --")
    assert not Path("out").exists()


def test_every_file_that_is_read_is_completed(tmp_path):
    with pytest.raises(ModelFileError, match="model files end in") as error:
        unrelu.load(tmp_path / "model.txt")
    suffixes = re.findall(r"\.\w+", str(error.value).partition("end in")[2])
    files = sorted(str(tmp_path / f"model{suffix}") for suffix in suffixes)
    for file in [*files, str(tmp_path / "model.txt")]:
        Path(file).touch()
    assert options.models(str(tmp_path / "model")) == files


@needs_bash
def test_bash_completes_commands_methods_and_models(files, monkeypatch):
    program = files / "bin" / "unrelu"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unrelu "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def completed(*words: str) -> list[str]:
        script = f"""
eval "$(_UNRELU_COMPLETE=source_bash unrelu)"
COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
COMP_CWORD={len(words) - 1}
_unrelu_completion unrelu
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        return subprocess.run([BASH, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert completed("unrelu", "in") == ["invert", "inspect"]
    methods = ["linf", "l1", "least_squares", "lm"]
    assert completed("unrelu", "invert", "mnist-relu", "y.npy", "--method", "l") == methods
    Path("mnist.onnx").touch()
    Path("mnist.txt").touch()
    assert completed("unrelu", "invert", "mnist") == [*unrelu.zoo.names(), "mnist.onnx"]


def test_python_m_unrelu_is_the_command(files):
    done = subprocess.run([sys.executable, "-m", "unrelu", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"unrelu {unrelu.__version__}\n"
    wrong = subprocess.run([sys.executable, "-m", "unrelu", "frob"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "Usage: unrelu" in wrong.stderr) == (2, True)

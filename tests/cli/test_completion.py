"""Completion by the shell, ``python -m unrelu``, and the examples of the help."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unrelu
from unrelu.cli import options, process
from unrelu.errors import ModelFileError
from unrelu.measurements.noise import MODELS
from unrelu.methods import METHODS

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="completes in bash")


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """``unrelu`` on the path, as an installation has it, and a home of its own."""
    path = tmp_path / "bin" / "unrelu"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m unrelu "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(unrelu.__file__).parents[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return path


def completed(*words: str) -> list[str]:
    """What bash offers for the last word."""
    script = f"""
eval "$(_UNRELU_COMPLETE=source_bash unrelu)"
COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
COMP_CWORD={len(words) - 1}
_unrelu_completion unrelu
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.run([BASH, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_the_names_are_those_of_the_registries():
    assert list(options.METHODS) == list(METHODS)
    assert unrelu.zoo.names() == options.ZOO
    assert set(options.NOISE) == {name for name, model in MODELS.items() if model.built_in()}


def test_every_file_that_is_read_is_completed(tmp_path):
    with pytest.raises(ModelFileError, match="model files end in") as error:
        unrelu.load(tmp_path / "model.txt")
    suffixes = re.findall(r"\.\w+", str(error.value).partition("end in")[2])
    files = sorted(str(tmp_path / f"model{suffix}") for suffix in suffixes)
    for file in [*files, str(tmp_path / "model.txt")]:
        Path(file).touch()
    assert options.models(str(tmp_path / "model")) == files


@needs_bash
def test_bash_completes_commands_methods_and_models(program):
    assert completed("unrelu", "in") == ["invert", "inspect"]
    assert completed("unrelu", "invert", "mnist-relu", "y.npy", "--method", "l") == [
        "linf", "l1", "least_squares", "lm",
    ]  # fmt: skip
    Path("mnist.onnx").touch()
    Path("mnist.txt").touch()
    assert completed("unrelu", "invert", "mnist") == [*unrelu.zoo.names(), "mnist.onnx"]


@needs_bash
def test_completion_is_shown_and_installed(program, monkeypatch, tmp_path):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = subprocess.run([program, "--show-completion", "bash"], capture_output=True, text=True, check=True)
    assert "complete -o default -F _unrelu_completion unrelu" in shown.stdout
    subprocess.run([program, "--install-completion", "bash"], capture_output=True, check=True)
    assert "unrelu" in (tmp_path / ".bashrc").read_text()


def test_python_m_unrelu_is_the_command(program):
    done = subprocess.run([sys.executable, "-m", "unrelu", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"unrelu {unrelu.__version__}\n"
    wrong = subprocess.run([sys.executable, "-m", "unrelu", "frob"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "Usage: unrelu" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("name", ["invert", "certify", "inspect", "run", "status", "report", "demo", "play"])
def test_help_ends_with_an_example_that_the_command_understands(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "argv", ["unrelu", name, "--help"])
    with pytest.raises(SystemExit):
        process.main()
    shown = capsys.readouterr().out
    lines = re.findall(rf"unrelu {name} [^\n]*? -- [^\n]*\d+ s", shown)
    assert len(lines) == (3 if name == "invert" else 1)
    options = set(re.findall(r"(?<= )--?[a-z][\w-]*", " ".join(line.partition(" -- ")[0] for line in lines)))
    assert options <= set(re.findall(r"--?[a-z][\w-]*", shown.partition("Example")[0]))

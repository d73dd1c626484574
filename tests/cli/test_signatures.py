"""Options that are parameters of the library's functions: read from the source, the same as in Python."""

from __future__ import annotations

import inspect

import pytest
import typer

import unrelu
from unrelu.cli._signatures import library_options


@pytest.mark.parametrize(
    ("file", "function", "names"),
    [
        ("_invert.py", unrelu.invert, "method noise norm prior seed time_limit scale"),
        ("_certify.py", unrelu.certify, "noise norm box max_nodes seed"),
        ("_inspect.py", unrelu.inspect, "samples"),
        ("runs/running.py", unrelu.run, "seed time_limit chunk workers scheduler array results overwrite"),
    ],
)
def test_defaults_are_those_of_the_function(file, function, names):
    parameters = inspect.signature(function).parameters
    options = library_options(file, function.__name__, names)
    assert [option.name for option in options] == names.split()
    for option in options:
        assert isinstance(option.default, typer.models.OptionInfo)
        assert option.default.default == parameters[option.name].default


def test_help_is_the_first_clause_of_the_docstring_without_markup():
    options = library_options("_invert.py", "invert", "noise norm time_limit") + library_options(
        "runs/running.py", "run", "workers"
    )
    noise, norm, time_limit, workers = (option.default.help for option in options)
    assert '"uniform:A" (|e_j| <= A)' in noise
    assert "`" not in noise + norm
    assert 'By default, "auto" uses the norm of the noise' in norm
    assert time_limit == "Seconds for the whole batch."
    assert workers.startswith("Processes on this machine, of one thread each; by default one a core")
    assert [option.annotation for option in options] == [str | None, str | None, float | None, int | None]

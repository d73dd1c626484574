"""Commands whose options are parameters of the library's functions, with their defaults and documentation.

Signatures and docstrings are read from the source files, because importing the functions would load PyTorch and delay
``--help``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from functools import cache
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any

import typer

from unrelu.cli.options import COMPLETED
from unrelu.errors import UnreluError

_LIBRARY = Path(__file__).parent.parent
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.M)
_CLAUSE = re.compile(r"(; |\. |\.$)(?![Bb]y default)(?=[A-Z]|$)|; (?!by default)")
# What an option takes beside the values of its parameter.
_FILES = {"noise": " Or a .npz with an array std or covariance."}
_PLAIN = (
    (r":math:`([^`]*)`", r"\1"),
    (r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1"),
    (r"``", ""),
    (r"\\le\b", "<="),
    (r"_\\infty", "_inf"),
)


def in_options(message: str, names: Sequence[str]) -> str:
    """A message of the library with its arguments as options: ``noise=0.1`` as ``--noise 0.1``."""
    message = re.sub(r"\b\w+=\S* \((--[a-z-]+)\)", r"\1", message)  # messages that name the option themselves
    spelt = {name: f"--{name.replace('_', '-')}" for name in names}
    pattern = rf"(?<![\w.-])({'|'.join(names)})=(\S?)"
    return re.sub(
        pattern, lambda m: f"{spelt[m[1]]}{' ' if m[2] not in ('', ';', ',', ':', ')') else ''}{m[2]}", message
    )


@cache
def _parsed(file: str) -> ast.Module:
    return ast.parse((_LIBRARY / file).read_text(encoding="utf-8"))


def library_options(file: str, function: str, names: str) -> list[Parameter]:
    """The named parameters of a function as options. The help of each is the first clause of its docstring entry."""
    definition = next(
        node for node in _parsed(file).body if isinstance(node, ast.FunctionDef) and node.name == function
    )
    arguments = [*definition.args.args, *definition.args.kwonlyargs]
    defaults = [*definition.args.defaults, *definition.args.kw_defaults]
    known = {
        argument.arg: (argument, default) for argument, default in zip(arguments[::-1], defaults[::-1], strict=False)
    }
    entries = dict(_ENTRY.findall(ast.get_docstring(definition) or ""))
    return [_option(*known[name], _clause(entries[name]) + _FILES.get(name, "")) for name in names.split()]


def _option(argument: ast.arg, default: Any, words: str) -> Parameter:
    written = ast.unparse(argument.annotation or ast.Constant(None)).split(" | ")
    kind: Any = next((kind for kind in (bool, int, float) if kind.__name__ in written), str)
    value = ast.literal_eval(default)
    option = typer.Option(value, help=words, autocompletion=COMPLETED.get(argument.arg))
    return Parameter(
        argument.arg, Parameter.KEYWORD_ONLY, default=option, annotation=kind | None if value is None else kind
    )


def _clause(entry: str) -> str:
    """The first clause of a docstring entry, as a sentence of plain text."""
    text = " ".join(entry.split())
    for markup, plain in _PLAIN:
        text = re.sub(markup, plain, text)
    first = _CLAUSE.split(text, 1)[0]
    return f"{first[0].upper()}{first[1:]}."


def command(
    app: typer.Typer, *library: tuple[str, str, str], examples: Sequence[str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function into a command.

    The command's options are the function's own parameters and those of the library, passed as ``**keywords``. A
    parameter whose type is a dataclass stands for a group of options, one for each field.

    Args:
        app: the application to which the command is added.
        library: the arguments of :func:`library_options`, for each function of the library.
        examples: arguments, their effect and the time they take, for the end of the help.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in signature(function, eval_str=True).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        groups: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}
        fields = {name: list(signature(group, eval_str=True).parameters.values()) for name, group in groups.items()}
        taken = [option for each in library for option in library_options(*each)]
        extra = [option for p in own for option in fields.get(p.name, [p])]

        def run(**values: Any) -> None:
            made = {name: group(**{p.name: values.pop(p.name) for p in fields[name]}) for name, group in groups.items()}
            try:
                function(**made, **values)
            except UnreluError as error:
                error.args = (in_options(str(error), [p.name for p in options]),)
                raise

        required = [p for p in extra if p.default is Parameter.empty]
        options = [*required, *taken, *(p for p in extra if p.default is not Parameter.empty)]
        run.__signature__ = Signature([p.replace(kind=Parameter.KEYWORD_ONLY) for p in options])  # type: ignore[attr-defined]
        name = function.__name__
        title = "Examples, with about how long they take on two cores:"
        lines = [f"unrelu {name} {example}" for example in examples]
        app.command(name, help=function.__doc__, epilog="\n\n".join([title, *lines]))(run)
        return function

    return register

"""The run as a Python script that computes the same results."""

from __future__ import annotations

import os
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

from unrelu import zoo
from unrelu.runs import Run

_INDENT = "    "


def script(run: Run) -> str:
    """A whole script; it goes on with the run if that is not finished.

    What the folder does not keep, such as a generator that was built in Python, is left as ``...`` with a comment.
    """
    about = run.manifest["about"]
    flags = _flags(about.get("command"))
    workers = flags.get("workers", "")
    imports, body = ["import unrelu"], [f"network = {_network(run, flags)}"]
    opened = {"data": about["data"], "masks": about.get("masks"), **about.get("opened", {})}
    data, masks = (_stored(opened[name], name, body) for name in ("data", "masks"))
    if run.manifest["operator"] is not None:
        body.append(f"operator = {_operator(run, imports)}")
    given = _given(run)
    if workers.isdigit():
        given["workers"] = int(workers)
    words = [f"network, {data}, {os.path.abspath(run.folder)!r}, {run.manifest['method']!r}"]
    words += ["operator=operator"] if run.manifest["operator"] is not None else []
    words += [f"masks={masks}"] if run.manifest["masks"] else []
    words += [f"{name}={value!r}" for name, value in given.items()]
    body += ["unrelu.run(", *(f"{_INDENT}{word}," for word in words), ")"]
    if workers != "1":  # workers are processes, which import this script
        body = ['if __name__ == "__main__":', *(_INDENT + line for line in body)]
    return "\n".join([*imports, "", *body])


def _network(run: Run, flags: dict[str, str]) -> str:
    model = run.manifest["about"].get("model")
    if not model:
        return "...  # the generator, which was made in Python"
    if model in zoo.names():
        return f"unrelu.zoo.load({model!r})"
    at = Path(run.manifest["about"].get("opened", {}).get("directory", "."), model)
    words = [repr(str(at if at.exists() else model))]
    if "layers" in flags:
        words.append(f"layers={[name.strip() for name in flags['layers'].split(',')]!r}")
    if "activation" in flags:
        each = flags["activation"].split(",")
        words.append(f"activation={each if len(each) > 1 else each[0]!r}")
    if re.fullmatch(r"[0-9, ]+", flags.get("latent-shape", "")):
        words.append(f"latent_shape=({flags['latent-shape']},)")
    return f"unrelu.load({', '.join(words)})"


def _stored(location: str | None, name: str, body: list[str]) -> str:
    """How a data set is given: by its location, or as an array, which has to be made before."""
    if location != name:  # the name that an array has
        return repr(location)
    body.append(f"{name} = ...  # an array, which the folder does not keep")
    return name


def _operator(run: Run, imports: list[str]) -> str:
    """How A is read; what that needs is added to the imports."""
    about = run.manifest["about"]
    for place, name in enumerate(("mask", "operator")):
        if about.get(name):
            imports[:0] = ["from pathlib import Path", ""]
            imports.append("from unrelu.datasets import read_measurement")
            path = f"Path({about[name]!r})"
            return f"read_measurement({', '.join((path, 'None') if place == 0 else ('None', path))})"
    return "...  # A, of which the folder keeps only a hash"


def _given(run: Run) -> dict[str, Any]:
    """The arguments by name, those of the method among them."""
    manifest, opened = run.manifest, run.manifest["about"].get("opened", {})
    stated = {name: manifest[name] for name in ("noise", "norm", "prior", "time_limit")}
    given: dict[str, Any] = {name: value for name, value in stated.items() if value}
    given |= {"seed": manifest["seed"], "chunk": manifest["chunk"], "results": manifest["results"]}
    given["scale"] = manifest["data"]["scale"]
    given |= {"array": opened["array"]} if opened.get("array") else {}
    given |= {"size": tuple(opened["size"])} if opened.get("size") else {}
    given |= manifest["options"]
    return given


def _flags(command: str | None) -> dict[str, str]:
    """The options ``--name value`` of the command that began the run."""
    try:
        words = shlex.split(command or "")
    except ValueError:
        return {}
    found = {}
    for word, after in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            found[name[2:]] = value if equals else after
    return found

"""``manifest.json``: what a run computes, so that no other run goes on with it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unrelu._version import __version__
from unrelu.datasets.tables import FORMATS, Table, columns_of
from unrelu.errors import InputError, OptionError
from unrelu.measurements.noise import Noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.runs.chunk_work import STATUSES, Work
from unrelu.runs.fingerprint import fingerprint
from unrelu.runtime.file_reading import read_json
from unrelu.runtime.file_writing import write_whole
from unrelu.runtime.machine import describe

MANIFEST = "manifest.json"
_FORMAT = "unrelu run 1"

_TEXT, _NUMBER = (str, type(None)), (int, float, type(None))
# What a manifest says, and of which types: a damaged or forged one is told at once, not by what it leads to.
_ENTRIES: dict[str, tuple[type, ...]] = {
    "version": (str,), "model": (dict,), "model.sha256": (str,), "data": (dict,), "data.dtype": (str,),
    "data.scale": (str,), "data.sha256": (str,), "operator": _TEXT, "masks": (bool,), "method": (str,),
    "options": (dict,), "noise": _TEXT, "norm": _TEXT, "prior": (int, float), "time_limit": _NUMBER, "seed": (int,),
    "results": (str,), "statuses": (list,), "about": (dict,), "about.data": (str,),
}  # fmt: skip
# Of the rest of "about", what is there.
_ABOUT: dict[str, tuple[type, ...]] = {
    "model": _TEXT, "masks": _TEXT, "mask": _TEXT, "operator": _TEXT, "command": _TEXT, "opened": (dict,),
    "machine": (dict,),
}  # fmt: skip
_OPENED: dict[str, tuple[type, ...]] = {
    "data": _TEXT, "masks": _TEXT, "array": _TEXT, "size": (list, type(None)), "directory": (str,), "operator": _TEXT
}  # fmt: skip


def manifest_of(work: Work, names: dict[str, Any]) -> dict[str, Any]:
    """All that decides the results of a run, as JSON has it, with hashes of the network and of the data's first chunk.

    Every chunk records a hash of its own data; that of the first tells another data set before any work.

    Args:
        work: what is computed.
        names: under which the user knows the model, data and masks: not part of what has to be equal, like the machine.

    Raises:
        OptionError: ``names`` holds what no manifest has.
    """
    network, source = work.network, work.source
    found = {
        "format": _FORMAT,
        "version": __version__,
        "model": {
            "sha256": fingerprint(network),
            "latent_dim": network.latent_dim,
            "output_shape": network.output_shape,
        },
        "data": {
            "size": source.size,
            "shape": source.shape,
            "dtype": str(source.dtype),
            "resized": source.resized,
            "scale": str(work.scaling),
            "sha256": work.data_digest(*work.span(0)),
        },
        "operator": None if work.operator is None else fingerprint(work.measured),
        "masks": work.masks is not None,
        "method": work.method,
        "options": work.options,
        **work.stated,
        "seed": work.seed,
        "chunk": work.chunk,
        "results": next(name for name, kind in FORMATS.items() if isinstance(work.table, kind)),
        "statuses": STATUSES,
        "about": {**names, "machine": describe()},
    }
    try:
        manifest: dict[str, Any] = json.loads(json.dumps(found))
        _check(manifest)
    except (ValueError, TypeError, KeyError) as error:
        raise OptionError(f"names={names!r} cannot be written to {MANIFEST}: {error}; pass texts") from error
    return manifest


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is not equal in two manifests, a line each, such as "seed is 0, asked for is 1"."""
    return list(_differences(found, wanted, ""))


def _differences(found: dict[str, Any], wanted: dict[str, Any], within: str) -> Iterator[str]:
    for name in sorted({*found, *wanted} - {"about"}):
        full, one, other = within + name, found.get(name), wanted.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, full + ".")
        elif one != other:
            yield f"{full} is {_short(one)}, asked for is {_short(other)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:40] + "..."


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    if not os.path.exists(path):  # False also where there can be no such file
        raise InputError(f"{folder} holds no {MANIFEST}, so it is no folder of `unrelu run`; check the path")
    manifest: dict[str, Any] = read_json(path, within=folder)
    try:
        if manifest["format"] != _FORMAT:
            raise InputError(f"{path} is of format {manifest['format']!r}; this version reads {_FORMAT!r}")
        _check(manifest)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error!r}; restore it, or pass --overwrite to begin again") from error
    return manifest


def _check(manifest: dict[str, Any]) -> None:
    """Refuse a manifest that says what no run writes.

    Raises:
        KeyError, TypeError, ValueError: it does.
    """
    for name, kinds in _ENTRIES.items():
        outer, _, inner = name.partition(".")
        _check_kind(name, manifest[outer][inner] if inner else manifest[outer], kinds)
    about, opened = manifest["about"], manifest["about"].get("opened", {})
    _check_kind("about.opened", opened, (dict,))
    for held, known in ((about, _ABOUT), (opened, _OPENED)):
        for name in known.keys() & held.keys():
            _check_kind(name, held[name], known[name])
    sizes = {"output_shape": manifest["model"]["output_shape"], "shape": manifest["data"]["shape"]}
    sizes |= {"resized": manifest["data"]["resized"] or [1], "opened.size": opened.get("size") or [1]}
    sizes |= {"latent_dim": [manifest["model"]["latent_dim"]], "size": [manifest["data"]["size"]]}
    sizes |= {"chunk": [manifest["chunk"]]}
    for name, shape in sizes.items():
        _check_kind(name, shape, (list,))
        if not all(type(n) is int and 0 < n < 2**48 for n in shape) or math.prod(shape) >= 2**48:
            raise ValueError(f"{name} is {_short(shape)}")
    if not all(isinstance(name, str) for name in manifest["statuses"]) or len(manifest["statuses"]) > 255:
        raise ValueError(f"statuses are {_short(manifest['statuses'])}")
    if odd := [name for name in manifest["options"] if not name.isidentifier()]:
        raise ValueError(f"options has {odd[0]!r}")
    for name in ("prior", "time_limit", "seed"):
        if not abs(manifest[name] or 0) < 2**1000:
            raise ValueError(f"{name} is {_short(manifest[name])}")
    if manifest["results"] not in FORMATS:
        raise ValueError(f"results is {_short(manifest['results'])}")
    Noise.parse(manifest["noise"])
    Scaling.parse(manifest["data"]["scale"])


def _check_kind(name: str, value: Any, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{name} is {_short(value)}")


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write it as a whole or not at all (see :func:`write_whole`)."""
    write_whole(folder / MANIFEST, [json.dumps(manifest, indent=2), "\n"], "free space, or name another folder")


def table_of(folder: Path, manifest: dict[str, Any]) -> Table:
    """The table that a manifest speaks of."""
    columns = columns_of(int(manifest["model"]["latent_dim"]), tuple(manifest["model"]["output_shape"]))
    kind = FORMATS[manifest["results"]]
    return kind(str(folder), int(manifest["data"]["size"]), int(manifest["chunk"]), columns)

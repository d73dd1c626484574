"""``manifest.json``: what a run computes, so that no other run resumes it."""

from __future__ import annotations

import json
import math
import os
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from unrelu._version import __version__
from unrelu.datasets.tables import FORMATS
from unrelu.errors import InputError, OptionError
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.noise import parse_noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.models.code_prior import Normal
from unrelu.result.fingerprint import fingerprint
from unrelu.runs.chunk_work import STATUSES, Work
from unrelu.runtime.file_reading import read_json
from unrelu.runtime.machine import describe
from unrelu.runtime.words import is_name

MANIFEST = "manifest.json"
_FORMAT = "unrelu run 1"

_TEXT, _NUMBER = (str, type(None)), (int, float, type(None))
# What a manifest says, and of which types: a damaged or forged one is told at once, not by what it leads to.
_ENTRIES: dict[str, tuple[type, ...]] = {
    "version": (str,), "model": (dict,), "model.sha256": (str,), "model.latent_shape": (list,),
    "model.output_shape": (list,), "data": (dict,), "data.size": (int,), "data.shape": (list,), "data.dtype": (str,),
    "data.resized": (list, type(None)), "data.scale": (str,), "data.sha256": (str,), "operator": _TEXT,
    "masks": (bool,), "method": (str,), "options": (dict,), "noise": _TEXT, "norm": _TEXT, "prior": (int, float, dict),
    "posterior": (int,), "time_limit": _NUMBER, "seed": (int,), "chunk": (int,), "results": (str,),
    "statuses": (list,), "about": (dict,), "about.data": (str,),
}  # fmt: skip
# What may be missing: names of coordinates, the bounds, which manifests of earlier versions do not have, and most of
# "about".
_OPTIONAL: dict[str, tuple[type, ...]] = {
    "bounds": (list, type(None)), "model.names": (list,), "noise_sha256": (str,),
    "about.model": _TEXT, "about.masks": _TEXT, "about.mask": _TEXT, "about.operator": _TEXT, "about.command": _TEXT,
    "about.machine": (dict,), "about.opened": (dict,), "about.opened.data": _TEXT, "about.opened.masks": _TEXT,
    "about.opened.array": _TEXT, "about.opened.size": (list, type(None)), "about.opened.directory": (str,),
    "about.opened.operator": _TEXT,
}  # fmt: skip
# Those that memory is taken by.
_SIZES = {
    "model.latent_shape", "model.output_shape", "data.size", "data.shape", "data.resized", "chunk", "about.opened.size"
}  # fmt: skip


def manifest_of(work: Work, names: dict[str, Any]) -> dict[str, Any]:
    """All that decides the results of a run, as JSON has it, with hashes of the network and of the data's first chunk.

    Every chunk records a hash of its own data; that of the first tells another data set before any work. A run can be
    resumed with other ``names``, those of the user for model, data and masks, and on another machine.
    """
    network, source = work.network, work.source
    found = {
        "format": _FORMAT,
        "version": __version__,
        "model": {
            "sha256": fingerprint(network),
            "latent_shape": network.latent_shape,
            "output_shape": network.output_shape,
            **({"names": network.names.parameter_names} if network.names.coordinate_names else {}),
        },
        "data": {
            "size": source.size,
            "shape": source.shape,
            "dtype": str(source.dtype),
            "resized": source.resized,
            "scale": str(work.scaling),
            "sha256": work.observations.digest(*work.span(0)),
        },
        "operator": None if work.operator is None else fingerprint(work.measured),
        "masks": work.masks is not None,
        "method": work.method,
        "options": work.options,
        **work.stated,
        **({} if work.arrays is None else {"noise_sha256": fingerprint(work.arrays)}),
        "posterior": work.draws,
        "seed": work.seed,
        "chunk": work.chunk,
        "results": work.table.format,
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
    said: list[str] = []
    for name in sorted({*found, *wanted} - {"about"}):
        one, other = found.get(name), wanted.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            said += [f"{name}.{inner}" for inner in differences(one, other)]
        elif one != other:
            said.append(f"{name} is {_short(one)}, asked for is {_short(other)}")
    return said


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:40] + "..."


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a folder."""
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
        raise InputError(
            f"{path} is damaged: {error!r}; restore it, or pass overwrite=True (--overwrite) to begin again"
        ) from error
    return manifest


def _check(manifest: dict[str, Any]) -> None:
    """Refuse a manifest that says what no run writes, with a KeyError, TypeError or ValueError."""
    for name, kinds in (_ENTRIES | _OPTIONAL).items():
        *outer, last = name.split(".")
        held: dict[str, Any] = reduce(lambda entry, part: entry.get(part, {}), outer, manifest)
        if name in _OPTIONAL and last not in held:
            continue
        value = held[last]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name} is {_short(value)}")
        if name in _SIZES and value is not None:
            shape = value if isinstance(value, list) else [value]
            if not all(type(n) is int and 0 < n < 2**48 for n in shape) or math.prod(shape) >= 2**48:
                raise ValueError(f"{name} is {_short(value)}")
    if not all(isinstance(name, str) for name in manifest["statuses"]) or len(manifest["statuses"]) > 255:
        raise ValueError(f"statuses are {_short(manifest['statuses'])}")
    _check_names(manifest["model"].get("names", []), math.prod(manifest["model"]["latent_shape"]))
    if odd := [name for name in manifest["options"] if not name.isidentifier()]:
        raise ValueError(f"options has {odd[0]!r}")
    for name in ("prior", "time_limit", "seed", "posterior"):
        value = manifest[name]
        known = value.keys() == {"mean", "std"} if isinstance(value, dict) else abs(value or 0) < 2**1000
        if not known:
            raise ValueError(f"{name} is {_short(value)}")
    if isinstance(manifest["prior"], dict):
        Normal.of_plain(manifest["prior"]).of_shape(tuple(manifest["model"]["latent_shape"]))
    if manifest["results"] not in FORMATS:
        raise ValueError(f"results is {_short(manifest['results'])}")
    _check_bounds(manifest.get("bounds"), math.prod(manifest["model"]["latent_shape"]))
    if "noise_sha256" not in manifest:
        parse_noise(manifest["noise"])
    np.dtype(manifest["data"]["dtype"])
    Scaling.parse(manifest["data"]["scale"])


def _check_bounds(bounds: list[Any] | None, k: int) -> None:
    """Refuse what are no two ends, each a number or one for every coordinate; nothing is made that is not there."""
    ends = Bounds.of_plain(bounds) or ()
    if bounds is not None and (len(ends) != 2 or any(e.shape not in ((), (k,)) or np.isnan(e).any() for e in ends)):
        raise ValueError(f"bounds are {_short(bounds)}")


def _check_names(names: list[Any], k: int) -> None:
    """Refuse what are no names of k coordinates."""
    each = all(isinstance(name, str) and is_name(name) for name in names) and len(set(names)) == len(names)
    if names and not (each and len(names) == k):
        raise ValueError(f"model.names are {_short(names)}")

"""``manifest.json``: what a run computes, so that no other run goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unrelu import __version__
from unrelu.batch.fingerprint import fingerprint
from unrelu.batch.work import STATUSES, Work
from unrelu.errors import InputError, StorageError
from unrelu.machine import describe
from unrelu.stores import FORMATS, Table, columns_of

__all__ = ["MANIFEST", "differences", "manifest_of", "read_manifest", "table_of", "write_manifest"]

MANIFEST = "manifest.json"
_FORMAT = "unrelu run 1"


def manifest_of(work: Work, names: dict[str, Any]) -> dict[str, Any]:
    """All that decides the results of a run, with hashes of the network and of the first chunk of the data.

    Every chunk records a hash of its own data; that of the first tells another data set before any work.

    Args:
        work: what is computed.
        names: under which the user knows the model, data and masks: not part of what has to be equal, like the machine.
    """
    network, source = work.network, work.source
    results = next(name for name, kind in FORMATS.items() if isinstance(work.table, kind))
    return {
        "format": _FORMAT,
        "version": __version__,
        "model": {
            "sha256": fingerprint(network),
            "latent_dim": network.latent_dim,
            "output_shape": list(network.output_shape),
        },
        "data": {
            "size": source.size,
            "shape": list(source.shape),
            "dtype": str(source.dtype),
            "resized": None if source.resized is None else list(source.resized),
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
        "results": results,
        "statuses": list(STATUSES),
        "about": {**names, "machine": describe()},
    }


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
    if not path.is_file():
        raise InputError(f"{folder} holds no {MANIFEST}, so it is no folder of `unrelu run`; check the path")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise InputError(f"{path} is of format {manifest['format']!r}; this version reads {_FORMAT!r}")
        table_of(folder, manifest)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is damaged: {error!r}; restore it, or pass --overwrite to begin again") from error
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write it as a whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    path, draft = folder / MANIFEST, folder / (MANIFEST + ".draft")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(manifest, indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())  # a power cut would leave a name without content
        os.replace(draft, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; free space, or name another folder") from error


def table_of(folder: Path, manifest: dict[str, Any]) -> Table:
    """The table that a manifest speaks of."""
    columns = columns_of(int(manifest["model"]["latent_dim"]), tuple(manifest["model"]["output_shape"]))
    kind = FORMATS[manifest["results"]]
    return kind(str(folder), int(manifest["data"]["size"]), int(manifest["chunk"]), columns)

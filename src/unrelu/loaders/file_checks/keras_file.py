"""Read the arrays and the configuration of a model from Keras' ``.keras`` and ``.h5`` files, without running code.

The files are not trusted: an HDF5 file may name other files, hold circular links, or state sizes that exceed the
memory. Keras writes plain groups of plain arrays, so anything else is refused.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, ModelFileError
from unrelu.loaders.file_checks import readable
from unrelu.runtime.file_reading import (
    check_members,
    check_names,
    json_limit,
    opened,
    read_bytes,
    shown_size,
    zip_members,
)

Arrays = dict[str, npt.NDArray[Any]]

# The most names in a file, and levels of nested groups.
_NODES, _DEPTH = 20_000, 32
# Groups that hold the state of training, not the model.
_TRAINING = ("optimizer", "optimizer_weights")
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"


def read_keras(file: Path, max_bytes: int) -> tuple[Arrays, Any | None]:
    """Return the arrays of a model by their path in the file, and its configuration (None if the file has none).

    Args:
        file: ``.keras`` (a zip file with a configuration and an HDF5 file), or ``.h5`` (of a model, or of weights).
        max_bytes: the most bytes that the arrays may take together, as float64.

    Raises:
        ModelFileError: h5py is not installed, the file is damaged, or Keras did not write it.
        InputError: see :mod:`unrelu.runtime.file_reading`; or arrays are stored elsewhere, linked or compressed.
    """
    try:
        import h5py  # noqa: PLC0415 -- an optional dependency
    except ImportError:
        raise ModelFileError(f'reading {file.suffix} files needs a package: pip install "unrelu[hdf5]"') from None
    zipped = file.suffix.lower() == ".keras"
    config, content = _unzipped(file, max_bytes) if zipped else (None, read_bytes(file, max_bytes))
    with readable("readable HDF5 file", "save the model anew"), h5py.File(io.BytesIO(content), "r") as stored:
        if not zipped:
            config = _stored_config(stored, max_bytes)
        root = stored["model_weights"] if "model_weights" in _children(stored) else stored
        return _arrays(root, len(content), max_bytes), config


def _unzipped(file: Path, max_bytes: int) -> tuple[Any, bytes]:
    """Return the configuration in a ``.keras`` file, and the bytes of the HDF5 file in it."""
    way_out = f"save it anew with model.save({file.name!r})"
    kind = readable("readable .keras file", way_out)
    with kind, opened(file) as (stream, size), zipfile.ZipFile(stream) as archive:
        members = zip_members(archive, file)
        if missing := [name for name in (_CONFIG, _WEIGHTS) if name not in members]:
            raise ModelFileError(f"holds no {missing[0]!r}, but {', '.join(members) or 'nothing'}; {way_out}")
        check_members([members[name] for name in (_CONFIG, _WEIGHTS)], file, size, max_bytes)
        return _parsed(archive.read(_CONFIG), max_bytes), archive.read(_WEIGHTS)


def _stored_config(stored: Any, max_bytes: int) -> Any | None:
    """Return the configuration that ``model.save("model.h5")`` stores as an attribute; files of weights have none."""
    if "model_config" not in stored.attrs:
        return None
    # A single string is no longer than the file; an array may refer to one string any number of times.
    text = stored.attrs["model_config"] if stored.attrs.get_id("model_config").shape == () else None
    if not isinstance(text, str | bytes):
        raise ModelFileError("its attribute 'model_config' is no text; save it anew with model.save")
    return _parsed(text.encode() if isinstance(text, str) else text, max_bytes)


def _parsed(text: bytes, max_bytes: int) -> Any:
    if len(text) > json_limit(max_bytes):
        raise InputError(
            f"its configuration has {shown_size(len(text))}; pass a larger max_bytes= if you trust the file"
        )
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"its configuration cannot be read as JSON: {error}") from error


def _children(group: Any) -> list[str]:
    """Return the names in a group; each must be a group or array stored there, not a link."""
    import h5py  # noqa: PLC0415

    names = list(group)
    check_names(names, "the file")
    for name in names:
        if not isinstance(link := group.get(name, getlink=True), h5py.HardLink):
            target = getattr(link, "filename", None)
            where = f"another file, {target!r}," if target is not None else "another place"
            raise InputError(f"{group.name}/{name} is a link to {where} which is not followed; save the model anew")
    return names


def _arrays(root: Any, file_size: int, max_bytes: int) -> Arrays:
    """Return every array below a group, by its path in the group."""
    import h5py  # noqa: PLC0415

    found: Arrays = {}
    pending: list[tuple[tuple[str, ...], Any]] = [((), root)]
    nodes = size = 0
    while pending:
        place, group = pending.pop()
        names = _children(group)
        nodes += len(names)
        if nodes > _NODES or len(place) > _DEPTH:
            raise InputError(
                f"holds more than {_NODES:,} names, or {_DEPTH} groups in one another; save the model anew"
            )
        for name in names:
            if not place and name in _TRAINING:
                continue
            node = group[name]
            path = (*place, *name.replace("\\", "/").split("/"))  # Keras 2 on Windows
            if isinstance(node, h5py.Group):
                pending.append((path, node))
                continue
            size += _stated_size(node, file_size)
            if size > max_bytes:
                raise InputError(
                    f"its arrays take more than {shown_size(max_bytes)} as float64; pass a larger max_bytes= "
                    "(--max-bytes) if you trust the file"
                )
            found["/".join(path)] = np.asarray(node[()])
    return found


def _stated_size(node: Any, file_size: int) -> int:
    """Return the bytes that an array takes as float64; refuse one that Keras would not write."""
    where = f"the array {node.name}"
    if node.external or node.is_virtual:
        raise InputError(f"{where} is stored in other files, which are not read; save the model anew")
    if node.id.get_create_plist().get_nfilters():
        raise InputError(f"{where} is compressed, which Keras does not do; h5repack -f NONE decompresses it")
    if node.shape is None or node.dtype.kind not in "biuf":
        raise InputError(f"{where} has entries of type {str(node.dtype)[:80]}; save the model in float32")
    entries: int = math.prod(node.shape)
    if entries * node.dtype.itemsize > min(file_size, node.id.get_storage_size()):
        raise InputError(f"{where} states the shape {node.shape}, more than is stored: it is cut short or damaged")
    return 8 * entries

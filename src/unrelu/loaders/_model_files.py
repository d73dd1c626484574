"""Read model files as networks. The suffix of a file selects its reader."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError, ModelError, ModelFileError, OptionError
from unrelu.loaders._emulator_files import emulator, emulator_entries
from unrelu.loaders._pickled_arrays import read_checkpoint, read_pickle, readable, unpickled
from unrelu.loaders._torch_graph import code_arguments
from unrelu.loaders._torch_operations import float64
from unrelu.loaders._weight_arrays import (
    Activations,
    Entry,
    Layers,
    by_layer,
    by_pixel,
    check_layers,
    chosen,
    flattened,
    from_names,
)
from unrelu.models.activations import Activation
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_callables import GeneratorCall, Output
from unrelu.runtime.argument_checks import known_arguments
from unrelu.runtime.file_reading import check_stated_size, opened, read_npz
from unrelu.runtime.host import computing
from unrelu.runtime.machine import usable
from unrelu.wrappers.standardisation import before_scaling, meant_for, standardised

# The longest error message, in characters.
_LONGEST = 4000
_CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt")
_SUFFIXES = (".onnx", ".npz", ".pkl", ".pickle", *_CHECKPOINTS, ".safetensors")

# What to do instead with files that are not read, by suffix.
_REPLACED = {
    **dict.fromkeys(
        (".keras", ".h5", ".hdf5"),
        "files of Keras are not read. If you trust its author, open it by model = keras.saving.load_model({0!r}) (or "
        "build the model and call model.load_weights), call it once, and unrelu.load what model.export('m.onnx', "
        "format='onnx') writes; with the torch backend, pass unrelu.from_torch(model, latent_shape=...)",
    ),
    ".pt2": "programs of torch.export are not read from files, since torch.export.load can run code. If you trust its "
    "author, unrelu.from_torch(torch.export.load({0!r}).module()) runs it; else ask for an ONNX file",
}


@known_arguments
@computing()
def load(
    path: str | os.PathLike[str],
    layers: Layers = None,
    activation: Activations | None = None,
    latent_shape: int | tuple[int, ...] | None = None,
    input_scale: object = None,
    output_scale: object = None,
    output_basis: object = None,
    output_log: float | None = None,
    output: Output = None,
    inputs: Mapping[str, object] | None = None,
    bounds: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    """Read a network from a file. No file can run code or make unrelu read other files.

    The suffix selects the format:

    - ``.onnx``: a whole graph (needs the package onnx). Tensors may be in a second file beside it, whose name is that
      of the model followed by ``.data`` or ``_data``.
    - ``.pt``, ``.pth``, ``.bin``, ``.ckpt``: a state_dict of fully connected layers, alone or the only one in a
      checkpoint. ``.safetensors``: the same (needs the package of this name), without an order of its own.
    - ``.npz``: ``fc1.weight, fc1.bias, ...`` or ``W0, b0, W1, b1, ...``; an entry ``activation`` may hold the name of
      the activation, or one for each layer; other entries of text are notes. With ``w_array_0, b_array_0, ..., x_min,
      x_max`` it is a network of The Payne, whose codes are labels in their own units, and whose last layer is linear.
      Weights (n, outputs, inputs) are those of a small network for each of n pixels, as in The Payne and binspec.
    - ``.pkl``, ``.pickle``, ``.npz``: emulators of CosmoPower, CosmoPower-JAX and speculator, with all that the file
      holds; or nested dictionaries of arrays, such as the ``params`` of Flax.

    Weight files do not store activations: pass them. They do not store the epsilon of a batch normalisation: 1e-5 is
    used. They do not store the geometry of convolutions: these are refused. A batch normalisation acts between a matrix
    and its activation. A ``weight`` is (outputs, inputs), a ``kernel`` of Keras or Flax (inputs, outputs). Layers whose
    names differ only in numbers are sorted by number, others keep the file order; if it has none, pass ``layers``.

    Args:
        path: the file.
        layers: names of layers to pick from a file of weights, in the order in which they are applied,
            ``["fc3", "fc4"]``; or a prefix of their names, ``"decoder."``; None takes all layers.
        activation: as in :func:`unrelu.from_arrays`: one for all layers, ``"relu"``, or one for each,
            ``["relu", "sigmoid"]``. None takes those stored in an ``.npz``; every other file of weights needs one.
        latent_shape: shape of one latent code, for an ONNX file that leaves it open.
        input_scale, output_scale, output_basis, output_log: as in :func:`unrelu.from_arrays`; on top of what the file
            holds.
        output, inputs: for an ONNX graph, as in :func:`unrelu.from_torch`: names or numbers of outputs, or names of
            tensors inside the graph; values of further inputs by name.
        bounds: ``{"h": (0.5, 0.9), ...}``, the parameters that the network takes, in their own units, with the ends of
            the ranges that it was trained on; in order, or by the names that the file holds. They are the
            :attr:`~unrelu.Generator.domain`: searches stay within them, and a graph is tried there. State them for a
            graph of parameters far from N(0, I).
        device: where the network and searches on it are computed, e.g. "cuda"; None is the CPU.

    Raises:
        ModelFileError: the file is missing, truncated, too large, not of the format of its suffix, or holds objects
            that are not read.
        UnsupportedModelError: a layer or node cannot be part of a chain.
        ModelError: weights are not finite, layers do not chain, their order is not known, a layer's name is unknown,
            or ``activation`` is needed.
        OptionError: an option does not apply to this kind of file, ``bounds`` are of another number of coordinates, or
            ``device`` is not available.

    Source: none; file formats are those of ONNX, PyTorch, safetensors, NumPy and the emulators' packages.

    >>> import os, tempfile
    >>> import numpy as np
    >>> import unrelu
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "decoder.npz")
    ...     np.savez(path, W1=np.ones((3, 2)), b1=np.zeros(3))
    ...     print(unrelu.load(path, activation="relu"))
    Network 2 -> 3, 9 parameters
      layer  kind   shape   activation  parameters  expansion
          1  Dense  2 -> 3  relu                 9        1.5
    """
    place = None if device is None else usable(device)
    file = _path(path)
    onnx = file.suffix.lower() == ".onnx"
    if onnx:
        _refuse(file, "a graph, which says it", layers=layers, activation=activation)
    else:
        _refuse(file, "weights, only with graphs", latent_shape=latent_shape, output=output, inputs=inputs)
    check_layers(layers)
    try:
        with opened(file) as (_, size):
            if size == 0:
                raise InputError(f"{file} is empty")
        if onnx:
            from unrelu.loaders._onnx_graph import from_onnx  # noqa: PLC0415 -- an optional dependency

            shape, _, domain = code_arguments(latent_shape, bounds)
            shape, tried = shape if bounds else latent_shape, before_scaling(domain, input_scale)  # type: ignore[assignment]
            network = from_onnx(file, shape, GeneratorCall.parse(output).output, inputs or {}, tried)
        else:
            network = _of_weights(file, layers, activation)
        found = standardised(network, input_scale, output_scale, output_basis, output_log)
        found = meant_for(found, bounds)
    except MemoryError as error:
        raise ModelFileError(f"{file} asks for more memory than there is; check that it is not damaged") from error
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error}") from error
    except (ModelError, InputError) as error:
        text, kind = str(error), ModelFileError if isinstance(error, InputError) else type(error)
        if len(text) > _LONGEST:  # it may list all layers
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
        where = "" if text.startswith(str(file)) else f"{file}: "
        raise kind(f"{where}{text}") from error
    return found if place is None else found.to(device=place)


def _path(path: object) -> Path:
    """Check that a path names a file of a known format; return it as a Path."""
    if not isinstance(path, str | os.PathLike):
        raise ModelFileError(
            f"load takes a path, got {type(path).__name__}; for modules use unrelu.from_torch, for "
            "arrays and fitted models unrelu.from_arrays"
        )
    file = Path(path)
    suffix = file.suffix.lower()
    if os.path.isdir(file):  # False, not an error, for an impossible path
        raise ModelFileError(
            f"{file} is a folder; pass the model file itself, or what a package loads of it to unrelu.from_torch"
        )
    if suffix not in _SUFFIXES:
        unknown = f"unknown suffix {suffix!r}; model files end in {', '.join(_SUFFIXES)}"
        raise ModelFileError(f"{file}: {_REPLACED.get(suffix, '').format(str(file)) or unknown}")
    return file


def _refuse(file: Path, what: str, **options: object) -> None:
    """Raise an OptionError for options that do not apply to this kind of file."""
    for name, value in options.items():
        if value is not None:
            raise OptionError(f"{file}: {name}={value!r} does not go with a file of {what}: leave it out")


def _contents(file: Path, picked: bool) -> Any:
    """Read the contents of a weight file: arrays by name, possibly nested, or the lists of an emulator."""
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        return _safetensors(file)
    if suffix in _CHECKPOINTS:
        return _state_dict(read_checkpoint(file), picked)
    if suffix != ".npz":
        return read_pickle(file)
    held = read_npz(file, unpickle=unpickled)
    return held["arr_0"] if held.keys() == {"arr_0"} and not isinstance(held["arr_0"], np.ndarray) else held


def _of_weights(file: Path, layers: Layers, activation: Activations | None) -> Network | NamedGenerator:
    """Read a weight file: a self-describing emulator, or named arrays."""
    contents, suffix = _contents(file, layers is not None), file.suffix.lower()
    if (held := emulator_entries(contents)) is not None:
        _refuse(file, "an emulator, which says it", layers=layers, activation=activation)
        return emulator(held)
    if not isinstance(contents, Mapping):
        raise ModelFileError(
            f"the file holds a {type(contents).__name__}, no emulator that is known, no dictionary of arrays; pass "
            "lists of arrays to unrelu.from_arrays"
        )
    with readable("list of activations"):
        stored = np.asarray(contents.get("activation", ()))
    if isinstance(contents.get("params"), Mapping):  # of Flax, beside what else the author kept
        contents = {name: contents[name] for name in ("params", "x_min", "x_max") if name in contents}
    flat = flattened(
        {n: value for n, value in contents.items() if n != "activation" and not _is_note(n, value)}, _array
    )
    if stored.size and stored.dtype.kind != "U":
        raise ModelFileError(f"the entry 'activation' must be a string or a list of strings, got {stored.dtype}")
    ends = [float64(flat.pop(name), name).numpy() for name in ("x_min", "x_max") if name in flat]
    picked = chosen(by_layer(flat), layers, ordered=suffix != ".safetensors")
    if not picked:
        raise ModelFileError("the file holds no weights")
    size = 8 * sum(math.prod(array.shape) for held in picked.values() for array in held.values())
    check_stated_size("its arrays take, as float64,", size, "pick layers with layers=")
    if activation is None and stored.size:
        activation = stored.tolist()
    read = by_pixel if any(np.ndim(held.get("weight", 0)) == 3 for held in picked.values()) else from_names
    if not ends:
        return read(picked, activation)
    # The Payne (Ting et al. 2019): (x - x_min) / (x_max - x_min) - 1/2
    with readable("network of The Payne, with x_min and x_max"):
        low, high = ends
    if isinstance(activation, str | Activation):
        activation = [activation] * (len(picked) - 1) + ["identity"]
    return standardised(read(picked, activation), ((low + high) / 2, high - low), None, None)


def _is_note(name: str, value: object) -> bool:
    """Check whether an entry is a note in words, which is not read: text that has not the name of a weight."""
    text = isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind in "US")
    return text and not any(character.isdigit() for character in name)


def _array(value: object, name: str) -> Entry:
    if not isinstance(value, np.ndarray | Tensor):
        raise ModelFileError(f"the entry {name[:80]!r} of the file is a {type(value).__name__}, not an array")
    return value


def _safetensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name; the format keeps no order."""
    try:
        from safetensors import safe_open  # noqa: PLC0415 -- an optional dependency
    except ImportError:
        raise ModelFileError("reading .safetensors needs a package: pip install safetensors") from None
    with opened(file) as (_, size):  # safetensors refuses a header that states more than the file holds
        check_stated_size(f"{file} has", size)
    with readable(".safetensors file", "save it again"), safe_open(file, framework="pt") as archive:
        return {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 -- not a dictionary


def _state_dict(held: object, picked: bool) -> Mapping[str, Tensor]:
    """Find the tensors in a checkpoint: the checkpoint itself, or the only dictionary of tensors inside it.

    If it has several dictionaries and layers are ``picked``, merge them, with their keys as prefixes of the names.
    """
    items = held.items() if isinstance(held, Mapping) else ()
    found = {"": {name: value for name, value in items if isinstance(value, Tensor)}}
    for key, value in items:
        if isinstance(value, Mapping) and all(isinstance(tensor, Tensor) for tensor in value.values()):
            found[f"{key}."] = dict(value)
    found = {start: part for start, part in found.items() if part}
    if len(found) == 1 or (found and picked):
        several = len(found) > 1
        return {f"{start * several}{name}": value for start, part in found.items() for name, value in part.items()}
    keys = ", ".join(str(key) for key, _ in items) or "none"
    raise ModelFileError(
        f"the file holds a {type(held).__name__} with {len(found)} state_dicts; its keys are {keys}. Pick one by what "
        "its layers' names begin with, layers='decoder.', save module.state_dict() alone, or pass lists of arrays to "
        "unrelu.from_arrays"
    )

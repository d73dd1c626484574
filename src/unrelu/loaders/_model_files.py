"""Read model files as networks. The suffix of a file selects its reader."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from unrelu.errors import InputError, ModelError, ModelFileError, OptionError
from unrelu.loaders import _emulator_files as emulator_files
from unrelu.loaders._emulator_21cm import PARAMETERS, SUMMARIES, is_emulator_21cm, read_emulator_21cm
from unrelu.loaders._torch_graph import from_torch
from unrelu.loaders._torch_operations import float64
from unrelu.loaders._weight_arrays import (
    Activations,
    Entry,
    Layers,
    Named,
    NamedLayer,
    check_layers,
    chosen,
    from_names,
    grouped,
    matrices,
    names_and_shapes,
    natural,
    numbered,
    tensors,
    under,
    unnamed,
)
from unrelu.loaders.file_checks.checkpoint import check_tensors, read_checkpoint
from unrelu.loaders.file_checks.pickled_arrays import read_pickle, unpickled
from unrelu.models.activations import Activation
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.standardisation import standardised
from unrelu.models.torch_callables import GeneratorCall, Output
from unrelu.runtime.devices import usable
from unrelu.runtime.file_reading import MAX_BYTES, check_limit, check_names, opened, read_npz, shown_size
from unrelu.runtime.host import computing

# The most characters of a message.
_LONGEST = 4000
_CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt")

# How the names of files begin that packages save in a folder, and the call that reads the decoder of such a folder.
_FOLDERS = {
    "diffusion_pytorch_model": "diffusers.AutoModel.from_pretrained({!r}).decode, latent_shape=(channels, height, "
    "width), output='sample'",
    "model_config.json": "pythae.models.AutoModel.load_from_folder({!r}).eval().decoder, output='reconstruction'",
}

# What to call for files that are not read, by suffix.
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


class Contents(NamedTuple):
    """The tensors of a file by layer, and what else it stores.

    Attributes:
        named: the tensors.
        activations: one for all layers, or one for each.
        inputs: the mean and standard deviation of its inputs; its last layer is then linear.
    """

    named: Named
    activations: str | list[str] | None = None
    inputs: tuple[object, object] | None = None


@computing()
def load(
    path: str | os.PathLike[str],
    layers: str | Sequence[str] | None = None,
    activation: Activations | None = None,
    latent_shape: int | tuple[int, ...] | None = None,
    max_bytes: int = MAX_BYTES,
    input_scale: object = None,
    output_scale: object = None,
    output_basis: object = None,
    output_log: float | None = None,
    output: Output = None,
    device: torch.device | str | None = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    """Read a network from a file. No file can run code, have other files read, or fill the memory.

    The suffix selects the format. A file is refused before it is read if it holds pickled objects other than arrays,
    states more than it holds, or would take more than ``max_bytes`` once decompressed.

    - ``.onnx``: the whole graph, as ``torch.onnx.export`` and others write it (needs ``unrelu[onnx]``). Tensors may be
      in a second file beside it, with the name of the model followed by ``.data`` or ``_data``. A graph that branches
      becomes an :class:`~unrelu.OpaqueNetwork`, if all its operators are known.
    - ``.pt``, ``.pth``, ``.bin``, ``.ckpt``: a state_dict, alone or as the only one in a checkpoint; fully connected
      layers.
    - ``.safetensors``: the same (needs ``unrelu[safetensors]``); layers are sorted by name, ``fc2`` before ``fc10``.
    - ``.npz``: ``fc1.weight, fc1.bias, ...`` or ``W0, b0, W1, b1, ...`` or unnamed arrays; an entry ``activation`` may
      hold the name of the activation, or one name for each layer. With ``w_array_0, b_array_0, ..., x_min, x_max`` it
      is a network of The Payne: codes are labels in their own units, the last layer is linear, and one ``activation``
      is that of the others: ``"sigmoid"`` at first, ``"leaky_relu:0.01"`` later.
    - ``.pkl``, ``.pickle``, ``.npz``: emulators of CosmoPower, CosmoPower-JAX and speculator, with their activation,
      standardisation, components and names of parameters; or nested dictionaries of arrays. A pickle is read by our own
      reader, of numbers, text, containers and arrays. The network puts out what it was trained on, which may be
      logarithms: with ``output_log=10``, their powers. If components are in other files, pass ``output_basis``.
    - ``.keras``, ``.h5``, ``.pt2``: refused, with the calls that open them and pass the model on.

    Files of weights do not store activations, which must be passed, nor the epsilon of a batch normalisation (1e-5 is
    used), nor the geometry of convolutions, which are refused. A batch normalisation acts before the activation of the
    matrix that it follows; that of Keras or Flax may act after it, and is refused. A ``weight`` is (outputs, inputs), a
    ``kernel`` of Keras or Flax (inputs, outputs). Layers with kernels are sorted by number: ``dense``, ``dense_1``,
    ..., ``dense_10``. If they do not chain so, or if their names differ in more than numbers, they are in the only
    order in which their shapes chain; if there are several, ``layers`` must state it.

    Args:
        path: the file.
        layers: names of layers to pick from a larger file of weights, in the order in which they are applied, e.g.
            ``["fc3", "fc4"]``; or a prefix of their names, ``"decoder."``, in the order of the file; None takes all
            layers.
        activation: as in :func:`unrelu.from_arrays`: one for all layers, ``"relu"``, or one for each,
            ``["relu", "sigmoid"]``. None takes those stored in an ``.npz``; every other file of weights needs one.
        latent_shape: shape of one latent code, for an ONNX file that leaves it open.
        max_bytes: the most bytes that the tensors may take, as stored and as float64; 4 GiB by default.
        input_scale, output_scale, output_basis, output_log: how inputs and outputs were standardised or projected for
            training, and the base of the logarithms that outputs are; see :func:`unrelu.from_arrays`. They come on top
            of what the file holds. If the output has named parts, output_scale and output_log may be dictionaries by
            part, ``{"tau": 10}``.
        output: picks one output, or several as named parts, of a graph with several, as in :func:`unrelu.from_torch`:
            names or numbers.
        device: where the network and searches on it are computed, e.g. "cuda"; None is the CPU.

    Raises:
        ModelFileError: the file is missing, truncated, too large, not of the format of its suffix, or not a regular
            file; or it holds pickled objects, links to other files, tensors that are quantized, sparse or without
            data, or an emulator with entries missing.
        UnsupportedModelError: a layer or node cannot be part of a chain.
        ModelError: weights are not finite, layers do not chain, a layer's name is unknown, or ``activation`` is needed.
        OptionError: an option does not apply to this kind of file, ``max_bytes`` is not a number of bytes, or
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
    suffix = file.suffix.lower()
    if suffix in _REPLACED:
        raise ModelFileError(f"{file}: {_REPLACED[suffix].format(str(file))}")
    if suffix not in (known := (".onnx", *_ARRAYS, *_CHECKPOINTS, ".safetensors")):
        raise ModelFileError(
            f"{file}: unknown suffix {suffix!r}; model files end in {', '.join(known)}{_of_package(file.parent)}"
        )
    call = GeneratorCall.parse(output)
    _check_options(file, suffix, layers, activation, latent_shape, output)
    max_bytes = check_limit(max_bytes)
    try:
        with opened(file) as (_, size):
            if size == 0:
                raise InputError(f"{file} is empty")
        network = _read(file, suffix, layers, activation, latent_shape, max_bytes, call)
        found = standardised(network, input_scale, output_scale, output_basis, output_log)
    except ModelError as error:
        raise type(error)(f"{file}: {_shortened(error)}{_of_package(file.parent)}") from error
    except InputError as error:  # raised by runtime.file_reading
        text = _shortened(error)
        raise ModelFileError(text if text.startswith(str(file)) else f"{file}: {text}") from error
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error}") from error
    return found if place is None else found.to(device=place)


def _read(
    file: Path,
    suffix: str,
    layers: Layers,
    activation: Activations | None,
    latent_shape: int | tuple[int, ...] | None,
    max_bytes: int,
    call: GeneratorCall,
) -> Network | OpaqueNetwork | NamedGenerator:
    if suffix == ".onnx":
        from unrelu.loaders._onnx_graph import from_onnx  # noqa: PLC0415 -- an optional dependency

        return from_onnx(file, latent_shape, max_bytes, call.output)
    if suffix in _ARRAYS:
        contents = _ARRAYS[suffix](file, max_bytes)
        if (held := emulator_files.named(contents)) is not None:
            _refuse_stated(file, layers, activation)
            return emulator_files.emulator(held, max_bytes)
        read = _arrays(contents)
    elif suffix in _CHECKPOINTS:
        checkpoint = read_checkpoint(file, max_bytes)
        if is_emulator_21cm(checkpoint):
            _refuse_stated(file, layers, activation)
            return _emulator_21cm(checkpoint, max_bytes, call)
        read = _checkpoint(checkpoint, file, layers is not None, call)
    else:
        read = _safetensors(file, max_bytes)
    if not read.named:
        raise ModelFileError("the file holds no weights")
    activation = _of_picked(read.activations, read.named, layers) if activation is None else activation
    if read.inputs is not None:
        _refuse_stated(file, layers, None)
        activation = _last_linear(activation, len(read.named))
    return standardised(_of_weights(file, read.named, layers, activation, max_bytes), read.inputs, None, None)


def _last_linear(activation: Activations | None, count: int) -> Activations | None:
    """One activation as one for each layer, the last of which is linear; a list stays as it is."""
    return [activation] * (count - 1) + ["identity"] if isinstance(activation, str | Activation) else activation


def _refuse_stated(file: Path, *options: object) -> None:
    for name, value in zip(("layers", "activation"), options, strict=True):
        if value is not None:
            raise OptionError(f"{file}: {name}={value!r} does not go with this emulator, whose file says it")


def _of_weights(file: Path, named: Named, layers: Layers, activation: Activations | None, max_bytes: int) -> Network:
    """Return the network of named weights; ``activation`` was passed, or is stored in the file for these layers."""
    read = chosen(named, layers)
    _check_size(read, max_bytes)
    try:
        # Errors of the tensors come first, so that the call that the message below suggests works.
        network = from_names(read, "relu" if activation is None else activation)
    except ModelError as error:
        if layers is not None:
            raise
        contents = f"The file holds {names_and_shapes(read)}; pass layers=[...] to pick the decoder's layers"
        raise type(error)(f"{error}. {contents}") from error
    if activation is not None:
        return network
    read = matrices(read)
    each = ["relu"] * (len(read) - 1) + ["sigmoid"]
    written = str(each).replace("'", '"') if len(read) == 2 else f'["relu"] * {len(read) - 1} + ["sigmoid"]'
    call = f'unrelu.load({str(file)!r}, {"" if layers is None else f"layers={layers!r}, "}activation="relu")'
    raise ModelError(
        f"a {file.suffix} file like this one holds weights and does not say what its activations are; its layers are "
        f"{names_and_shapes(read)}. Pass {call} if they are all ReLU"
        f"{f', or one for each layer, activation={written}' if len(read) > 1 else ''} (on the command line, "
        f"--activation relu or {','.join(each)})"
    )


def _of_picked(stored: str | list[str] | None, named: Named, layers: Layers) -> str | list[str] | None:
    """Return the stored activations of the layers that are picked from a file."""
    own = [name for name, _ in matrices(list(named.items()))]
    if isinstance(stored, str) or stored is None or layers is None or len(stored) != len(own):
        return stored
    picked = list(under(named, layers)) if isinstance(layers, str) else layers
    return [stored[own.index(name)] for name in picked if name in own]


def _shortened(error: Exception) -> str:
    """Return a message, shortened: a file with many layers would make one that lists them arbitrarily long."""
    text = str(error)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def _path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ModelFileError(
            f"load takes a path, got {type(path).__name__}; for modules use unrelu.from_torch, for "
            "arrays and fitted models unrelu.from_arrays"
        )
    file = Path(path)
    if os.path.isdir(file):  # False, not an error, for an impossible path
        raise ModelFileError(f"{file} is a folder; pass the model file itself{_of_package(file)}")
    return file


def _of_package(folder: Path) -> str:
    """The end of a message about a file in a folder that a package saved: the call that reads its decoder.

    Only the names of files are looked at.
    """
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(folder)
    for start, call in _FOLDERS.items():
        if any(name.startswith(start) for name in names):
            return f". A package saved this folder, and reads it: unrelu.from_torch({call.format(str(folder))})"
    return ""


def _check_size(layers: Sequence[NamedLayer], max_bytes: int) -> None:
    """Refuse layers that are not plain numbers, or would take more than ``max_bytes`` as float64."""
    tensors = {f"{layer}.{name}": value for layer, held in layers for name, value in held.items()}
    check_tensors(tensors)
    size = 8 * sum(math.prod(value.shape) for value in tensors.values())
    if size > max_bytes:
        raise ModelFileError(
            f"its layers take {shown_size(size)} as float64; at most {shown_size(max_bytes)} are read, pick some with "
            "layers=, or pass a larger max_bytes= (--max-bytes) if you trust the file"
        )


def _check_options(
    file: Path, suffix: str, layers: Layers, activation: Activations | None, latent_shape: object, output: object
) -> None:
    for name, value, fits in (
        ("layers", layers, suffix != ".onnx"),
        ("activation", activation, suffix != ".onnx"),
        ("latent_shape", latent_shape, suffix == ".onnx"),
        ("output", output, suffix in (".onnx", *_CHECKPOINTS)),
    ):
        if value is not None and not fits:
            what = f"does not go with a {suffix} file: the {'graph' if suffix == '.onnx' else 'file'} says it"
            raise OptionError(f"{file}: {name}={value!r} {what}; leave it out")
    check_layers(layers)


def _npz(file: Path, max_bytes: int) -> object:
    """The arrays of an archive; the object itself if it holds one that is pickled."""
    held = read_npz(file, max_bytes, unpickle=unpickled)
    return held if held.keys() != {"arr_0"} or isinstance(held["arr_0"], np.ndarray) else held["arr_0"]


def _arrays(contents: object) -> Contents:
    """The tensors of a dictionary of arrays, by the names that arrays have in a .npz, or nested."""
    if not isinstance(contents, Mapping):
        size = f" of {len(contents)} entries" if isinstance(contents, list | tuple) else ""
        raise ModelFileError(
            f"the file holds a {type(contents).__name__}{size}, no emulator that is known and no dictionary of arrays; "
            "pass lists of arrays to unrelu.from_arrays"
        )
    flat = _flat(contents)
    stored = flat.pop("activation", None)
    array = np.asarray("" if stored is None else stored)
    if array.dtype.kind != "U" or array.ndim > 1:
        raise ModelFileError(
            f"the entry 'activation' must be a string or a list of strings, got {array.dtype} {array.shape}"
        )
    low, high = (flat.pop(name, None) for name in ("x_min", "x_max"))
    named = unnamed(flat) or numbered(flat) or grouped(flat)
    if low is None and high is None:
        return Contents(named, array.tolist() or None)
    if low is None or high is None:
        raise ModelFileError("the file holds one of x_min and x_max; a network of The Payne needs both")
    # The Payne: (x - x_min) / (x_max - x_min) - 1/2
    low, high = (float64(end, name).numpy() for end, name in ((low, "x_min"), (high, "x_max")))
    return Contents(named, array.tolist() or None, ((low + high) / 2, high - low))


def _flat(contents: Mapping[str, object]) -> dict[str, Entry]:
    """Nested dictionaries of arrays as one, ``params/Dense_0/kernel``. No dictionary is gone through twice."""
    flat: dict[str, Entry] = {}
    left, seen = [("", contents)], set[int]()
    while left:
        path, held = left.pop()
        if id(held) in seen:
            raise ModelFileError(f"the file holds a dictionary twice, {path[:80]!r}; save each array once")
        seen.add(id(held))
        for key, value in held.items():
            name = f"{path}/{key}" if path else key
            check_names([name], "the file")
            if isinstance(value, Mapping):
                left.append((name, value))
            elif isinstance(value, np.ndarray) or name == "activation":
                flat[name] = np.asarray(value)
            else:
                raise ModelFileError(f"the entry {name[:80]!r} of the file is a {type(value).__name__}, not an array")
    return flat


def _safetensors(file: Path, max_bytes: int) -> Contents:
    try:
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 -- an optional dependency
    except ImportError:
        raise ModelFileError('reading .safetensors needs a package: pip install "unrelu[safetensors]"') from None
    with opened(file) as (stream, size):
        header = int.from_bytes(stream.read(8), "little")
        if size < 8 or header > size - 8:
            raise ModelFileError("not a readable .safetensors file, or a truncated one: its header is cut short")
        # The header is JSON; its parsed form takes up to about 32 times its size.
        if max(size, header * 32) > max_bytes:
            raise ModelFileError(
                f"has {shown_size(size)}, {shown_size(header)} of them its header; at most {shown_size(max_bytes)} are "
                "read, pass a larger max_bytes= (--max-bytes) if you trust the file"
            )
    try:
        with safe_open(file, framework="pt") as archive:
            names = list(archive.keys())
            check_names(names, file)
            flat = {name: archive.get_tensor(name) for name in sorted(names, key=natural)}
    except (InputError, OSError, MemoryError):
        raise
    except SafetensorError as error:
        raise ModelFileError(f"not a readable .safetensors file, or a truncated one ({error})") from error
    except Exception as error:  # raised for types and shapes that PyTorch does not know
        raise ModelFileError(f"not a readable .safetensors file ({type(error).__name__}: {error})") from error
    if not flat:
        raise ModelFileError("the file holds no tensors")
    return Contents(grouped(flat))


def _checkpoint(held: object, file: Path, several: bool, call: GeneratorCall) -> Contents:
    if call.output is not None:
        raise OptionError(f"{file}: output={call.output!r} is for graphs and emulators, not for weights; leave it out")
    flat = tensors(held, several)
    check_names(flat, file)
    return Contents(grouped(flat))


def _emulator_21cm(held: Mapping[str, Any], max_bytes: int, call: GeneratorCall) -> NamedGenerator:
    module = read_emulator_21cm(held)
    _check_size(list(grouped(module.state_dict()).items()), max_bytes)
    output: Output = SUMMARIES if call.output is None else call.output
    return from_torch(module, len(PARAMETERS), output=output).named(PARAMETERS)


_ARRAYS: dict[str, Callable[[Path, int], object]] = {".npz": _npz, ".pkl": read_pickle, ".pickle": read_pickle}

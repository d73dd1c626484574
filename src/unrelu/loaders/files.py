"""Model files as networks: which reader a file goes to, and what each format promises."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from unrelu.activations import Activation
from unrelu.errors import ModelError, ModelFileError, OptionError
from unrelu.host import computing
from unrelu.loaders.arrays import Activations
from unrelu.loaders.state_dict import Entry, Named, from_names, grouped, matrices, natural, numbered, tensors, unnamed
from unrelu.network import Network

__all__ = ["load"]

Layers = Sequence[str] | None
# The tensors of a file by layer, and the activations that it stores.
Contents = tuple[Named, Activations | None]


@computing()
def load(
    path: str | os.PathLike[str],
    layers: Sequence[str] | None = None,
    activation: Activations | None = None,
    latent_shape: int | tuple[int, ...] | None = None,
) -> Network:
    """A network from a file, read by its suffix. No file can run code: pickled objects are refused.

    - ``.onnx``: the whole graph, as ``torch.onnx.export`` and others write it (needs ``unrelu[onnx]``).
    - ``.pt``, ``.pth``: a state_dict, alone or as the only one in a checkpoint; fully connected layers.
    - ``.safetensors``: the same (needs ``unrelu[safetensors]``); layers are sorted by name, ``fc2`` before ``fc10``.
    - ``.npz``: ``fc1.weight, fc1.bias, ...`` or ``W0, b0, W1, b1, ...`` or unnamed arrays; an entry ``activation`` may
      hold the activation's name, or one for each layer.

    A state_dict stores neither activations, which have to be passed, nor the epsilon of a batch normalisation (1e-5 is
    used), nor the geometry of convolutions, which are refused. Batch normalisations act before the activation of the
    matrix they follow.

    Args:
        path: the file.
        layers: names of layers to pick out of a larger state_dict, in the order in which they are applied, e.g.
            ``["fc3", "fc4"]``; None takes all of them in the order of the file.
        activation: as in :func:`unrelu.from_arrays`: one for every layer, ``"relu"``, or one for each,
            ``["relu", "sigmoid"]``. None takes those stored in an ``.npz``; every other file of weights needs it.
        latent_shape: shape of one latent code, for an ONNX file that leaves it open.

    Raises:
        ModelFileError: the file is missing, truncated, not what its suffix says, or holds pickled objects.
        UnsupportedModelError: a layer or node cannot be part of a chain.
        ModelError: weights are not finite, layers do not chain, a layer's name is unknown, or ``activation`` is needed.
        OptionError: an option that does not go with this kind of file.

    Source: none; file formats are those of ONNX, PyTorch, safetensors and NumPy.
    """
    file = _existing(path)
    suffix = file.suffix.lower()
    if suffix != ".onnx" and suffix not in _READERS:
        raise ModelFileError(f"{file}: unknown suffix {suffix!r}; model files end in .onnx, {', '.join(_READERS)}")
    _check_options(file, suffix, layers, activation, latent_shape)
    if file.stat().st_size == 0:
        raise ModelFileError(f"{file} is empty")
    try:
        if suffix == ".onnx":
            from unrelu.loaders.onnx_graph import from_onnx  # noqa: PLC0415 -- an optional dependency

            return from_onnx(file, latent_shape)
        named, stored = _READERS[suffix](file, layers is not None)
        return _network(file, named, layers, _of_layers(stored, named, layers) if activation is None else activation)
    except ModelError as error:
        raise type(error)(f"{file}: {error}") from error
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error}") from error


def _existing(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise ModelFileError(f"load takes a path, got {type(path).__name__}; for modules use unrelu.from_torch")
    file = Path(path)
    if file.is_dir():
        raise ModelFileError(f"{file} is a folder; pass the model file itself")
    if not file.exists():
        raise ModelFileError(f"{file} does not exist")
    return file


def _check_options(
    file: Path, suffix: str, layers: Layers, activation: Activations | None, latent_shape: object
) -> None:
    for name, value, fits in (
        ("layers", layers, suffix != ".onnx"),
        ("activation", activation, suffix != ".onnx"),
        ("latent_shape", latent_shape, suffix == ".onnx"),
    ):
        if value is not None and not fits:
            why = "the graph says it" if suffix == ".onnx" else "the first weight says it"
            raise OptionError(f"{file}: {name}={value!r} does not go with a {suffix} file: {why}; leave it out")
    if layers is not None and (
        isinstance(layers, str) or not layers or any(not isinstance(name, str) for name in layers)
    ):
        raise OptionError(f"layers must be a list of layer names, got {layers!r}")


def _network(file: Path, named: Named, layers: Layers, activation: Activations | None) -> Network:
    """The network of these tensors, if it is known what its activations are.

    What is wrong with the tensors is said first: then the call that the message asks for works.

    Raises:
        ModelError: they are not known; or see :func:`~unrelu.loaders.state_dict.from_names`.
    """
    network = from_names(named, layers, "relu" if activation is None else activation)
    if activation is not None:
        return network
    read = matrices(named, layers)
    picked = "" if layers is None else f"layers={list(layers)!r}, "
    last = '["relu", "sigmoid"]' if len(read) == 2 else f'["relu"] * {len(read) - 1} + ["sigmoid"]'
    each = f", or one for each layer, activation={last}" if len(read) > 1 else ""
    words = ",".join(["relu"] * (len(read) - 1) + ["sigmoid"])
    raise ModelError(
        f"a {file.suffix} file like this one holds weights and does not say what its activations are; its layers are "
        f"{', '.join(f'{name} {shape}' for name, shape in read)}. Pass unrelu.load({str(file)!r}, {picked}"
        f'activation="relu") if they are all ReLU{each} (on the command line, --activation relu or {words})'
    )


def _of_layers(stored: Activations | None, named: Named, layers: Layers) -> Activations | None:
    """The stored activations of the layers that are picked."""
    own = [name for name, _ in matrices(named, None)]
    if stored is None or isinstance(stored, str | Activation) or layers is None or len(stored) != len(own):
        return stored
    missing = [name for name in layers if name not in named]  # said by from_names
    return stored if missing else [stored[own.index(name)] for name, _ in matrices(named, layers)]


def _npz(file: Path, several: bool) -> Contents:
    try:
        with file.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ModelFileError("the file holds a single array, as a .npy does; save weights with numpy.savez")
            flat: dict[str, Entry] = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, LookupError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"not a readable .npz archive of numeric arrays ({error}); save it with numpy.savez"
        ) from error
    if foreign := [name for name, value in flat.items() if not isinstance(value, np.ndarray)]:
        raise ModelFileError(f"the archive holds {foreign[0]!r}, which is not an array; save weights with numpy.savez")
    stored = flat.pop("activation", None)
    if not flat:
        raise ModelFileError("the archive holds no weights")
    named = unnamed(flat) or numbered(flat) or grouped(flat)
    return named, None if stored is None else _stored_activation(stored)


def _stored_activation(stored: object) -> Activations:
    array = np.asarray(stored)
    if array.dtype.kind != "U" or array.ndim > 1:
        raise ModelFileError(
            f"the entry 'activation' must be a string or a list of strings, got {array.dtype} {array.shape}"
        )
    names: Activations = array.tolist()
    return names


def _safetensors(file: Path, several: bool) -> Contents:
    try:
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 -- an optional dependency
    except ImportError:
        raise ModelFileError('reading .safetensors needs a package: pip install "unrelu[safetensors]"') from None
    try:
        with safe_open(file, framework="pt") as archive:
            flat = {name: archive.get_tensor(name) for name in sorted(archive.keys(), key=natural)}
    except SafetensorError as error:
        raise ModelFileError(f"not a readable .safetensors file, or a truncated one ({error})") from error
    if not flat:
        raise ModelFileError("the file holds no tensors")
    return grouped(flat), None


def _checkpoint(file: Path, several: bool) -> Contents:
    return grouped(tensors(_unpickled(file), several)), None


def _unpickled(file: Path) -> object:
    """The tensors and plain containers of a PyTorch file; anything else is refused, never run."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ModelFileError(f"the file is a TorchScript program; {_WAY_OUT}")
    try:
        with warnings.catch_warnings():
            # PyTorch warns about pickle protocols that its restricted reader may not know; it refuses them by itself.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with file.open("rb") as stream:
            first = stream.read(1)
        if not zipfile.is_zipfile(file) and first != pickle.PROTO:
            raise ModelFileError(f"not a PyTorch file; {_WAY_OUT}") from error
        raise ModelFileError(
            f"the file holds pickled objects other than tensors, which could run code; {_WAY_OUT}"
        ) from error
    except OSError:
        raise
    # The reader meets damaged bytes with whatever exception they lead to (KeyError, EOFError, RuntimeError, ...).
    except Exception as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise ModelFileError(
            f"not a PyTorch file, or a truncated one ({type(error).__name__}: {reason}); {_WAY_OUT}"
        ) from error


_WAY_OUT = "save module.state_dict() with torch.save, export to ONNX, or build the module and use unrelu.from_torch"
_READERS: dict[str, Callable[[Path, bool], Contents]] = {
    ".npz": _npz,
    ".pt": _checkpoint,
    ".pth": _checkpoint,
    ".safetensors": _safetensors,
}

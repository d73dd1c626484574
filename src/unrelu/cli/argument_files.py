"""Reading options as arguments of the library: models, observations, masks, matrices, noise, numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu import zoo
from unrelu.cli.options import MODEL_OPTIONS, Measured, Question, Reading
from unrelu.errors import InputError, OptionError, UnreluError
from unrelu.loaders import load
from unrelu.measurements import Mask, Matrix
from unrelu.measurements.additive_noise import Gaussian
from unrelu.models.generator import Generator
from unrelu.parameters.code_prior import Normal
from unrelu.runtime.file_reading import check_stated_size, npy_header, opened, read_npy, read_npz
from unrelu.runtime.machine import usable

# --- models and values ------------------------------------------------------------------------------------------------


def read_model(model: str, reading: Reading, device: str | None = None) -> Generator:
    """Load a network of the zoo by its name, or from a file."""
    place, given = None if device is None else usable(device), options_of(reading.model_option, "--model-option")
    layers, activation = reading.layers, reading.activation
    if unknown := given.keys() - set(MODEL_OPTIONS):
        raise OptionError(f"--model-option {min(unknown)} is unknown; use one of {', '.join(MODEL_OPTIONS)}")
    names = given.pop("names", None)
    if model in zoo.names() and not Path(model).exists():
        if layers or activation or given:
            raise OptionError(f"{model} is a bundled generator; --layers, --activation and such are for files")
        network: Generator = zoo.load(model)
    elif not Path(model).suffix and not Path(model).exists():
        raise InputError(f"{model}: no such file; the bundled generators are {', '.join(zoo.names())}")
    else:
        shape = given.pop("latent_shape", None)
        network = load(
            model,
            layers=layers.split(",") if layers and not layers.endswith(".") else layers,
            activation=activation.split(",") if activation and "," in activation else activation,
            latent_shape=tuple(shape) if isinstance(shape, list) else shape,
            **given,
        )
    if names is not None:
        network = network.named([str(name) for name in (names if isinstance(names, list) else [names])])
    return network if place is None else network.to(device=place)


def options_of(pairs: list[str] | None, option: str = "--option") -> dict[str, Any]:
    """Parse ``name=value`` pairs. Values are numbers, JSON, lists with commas, or text."""
    options: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals or not name or name in options:
            raise OptionError(f"{option} {pair!r}: write NAME=VALUE, e.g. alpha=1.5, and each name once")
        options[name] = _value(text)
    return options


def _value(text: str) -> Any:
    for read in (int, float, json.loads):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return [_value(part.strip()) for part in text.split(",")] if "," in text else text


def size_of(text: str | None) -> tuple[int, int] | None:
    """Parse the value of ``--size``: (height, width)."""
    size = None if text is None else _value(text)
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise InputError(f"--size {text!r} is not HEIGHT,WIDTH; pass two whole numbers such as 28,28")
    return size[0], size[1]


# --- arrays -----------------------------------------------------------------------------------------------------------


def read_observations(path: Path, what: str = "observations", name: str = "y") -> npt.NDArray[Any]:
    """Read the array in a ``.npy`` file, or in a ``.npz`` file the only array, else the one called ``name``.

    Messages call the content ``what``.
    """
    if path.is_dir() or path.suffix.lower() not in (".npy", ".npz"):
        others = "; `unrelu run` reads folders of pictures, HDF5 and Zarr" if what == "observations" else ""
        raise InputError(f"{path}: {what} are read from files that end in .npy or .npz{others}")
    array = read_npy(path) if path.suffix.lower() == ".npy" else _arrays(path, name)[0]
    check_stated_size(f"{path} as float64 has", 8 * array.size, "use unrelu.run, which reads in parts")
    return array


def _arrays(path: str | Path, *names: str) -> list[npt.NDArray[Any]]:
    """Read the arrays of these names from a ``.npz`` file. For one name, a single array may be called anything."""

    def chosen(held: list[str]) -> Sequence[str]:
        if len(held) == len(names) == 1:
            return held
        if missing := [name for name in names if name not in held]:
            raise InputError(f"{path} holds {', '.join(held) or 'no arrays'}; name the array {missing[0]!r}")
        return names

    return list(read_npz(path, chosen).values())


# --- the question -----------------------------------------------------------------------------------------------------


def read_question(asked: Measured) -> dict[str, Any]:
    """Return the arguments of :func:`unrelu.invert` that options state, without the scale and omitted options."""
    stated: dict[str, Any] = {"noise": asked.noise, "operator": read_measurement(asked.mask, asked.operator)}
    if asked.noise is not None and _is_npz(asked.noise):
        held = read_npz(asked.noise, lambda held: [name for name in held if name in ("std", "covariance")])
        stated["noise"] = Gaussian(held.get("std"), covariance=held.get("covariance"))
    if asked.bounds is not None:
        stated["bounds"] = _pair("--bounds", asked.bounds, ("lower", "upper"))
    if asked.fixed:
        stated["fixed"] = {_place(name): value for name, value in options_of(asked.fixed, "--fixed").items()}
    if isinstance(asked, Question) and asked.prior is not None:
        weight = _value(asked.prior)
        normal = None if isinstance(weight, int | float) else _pair("--prior", asked.prior, ("mean", "std"))
        stated["prior"] = weight if normal is None else Normal(*normal)
    return {name: value for name, value in stated.items() if value is not None}


def read_along(texts: list[str]) -> tuple[list[str | int], list[Any]]:
    """Parse names and values for :func:`unrelu.profile` from texts such as ``h=0.6,0.8,15``."""
    names: list[str | int] = []
    values = []
    for name, given in options_of(texts, "--along").items():
        whole = isinstance(given, list) and len(given) == 3 and isinstance(given[2], int)
        if not whole or not all(isinstance(each, int | float) for each in given) or given[2] < 2:
            raise InputError(f"--along {name}={given!r}: write LOW,HIGH,COUNT, such as {name}=0.6,0.8,15")
        names.append(_place(name))
        values.append(np.linspace(*given))
    return names, values


def _place(name: str) -> str | int:
    """Return the place of a coordinate if the text is a whole number, else its name."""
    return int(name) if name.removeprefix("-").isdecimal() else name


def read_measurement(mask: Path | None, operator: Path | None) -> Mask | Matrix | None:
    """Read ``operator=`` of :func:`unrelu.invert` from a file: 0/1 masks, or a dense or SciPy sparse matrix."""
    if mask is not None and operator is not None:
        raise InputError(f"--mask {mask} and --operator {operator} were both given; pass one of them")
    if mask is not None:
        array = read_observations(mask, "masks", "mask")
        odd = array[(array != 0) & (array != 1)]
        if odd.size:
            raise InputError(f"{mask} has entries like {odd[0]}; a mask is made of 0 and 1")
        return Mask(array.astype(bool))
    if operator is None:
        return None
    # Every array is read and checked before SciPy reads the file.
    if _is_npz(operator) and read_npz(operator, lambda held: held if "format" in held else []):
        return Matrix(_sparse(operator))
    return Matrix(read_observations(operator, "operators", "operator"))


def read_masks(asked: Measured, network: Generator) -> dict[str, Any]:
    """Return masks as an argument of :func:`unrelu.run`: one ``.npy`` mask as ``operator``, many masks as ``masks``."""
    if asked.mask is not None and asked.mask.suffix.lower() == ".npy":
        with opened(asked.mask) as (stream, size):  # only the header, since the file may hold many masks
            shape = npy_header(stream, size, str(asked.mask)).shape
        if shape in (network.output_shape, (network.output_dim,)):
            return {"operator": read_measurement(asked.mask, asked.operator)}
    return {} if asked.mask is None else {"masks": str(asked.mask)}


def _is_npz(path: str | Path) -> bool:
    return str(path).lower().endswith(".npz")


def _pair(option: str, text: str, names: tuple[str, str]) -> Sequence[Any]:
    """Parse two numbers, or read two arrays of these names from a ``.npz`` file."""
    if _is_npz(text):
        return _arrays(text, *names)
    pair = _value(text)
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(number, int | float) for number in pair):
        raise InputError(
            f"{option} {text!r}: write two numbers for all coordinates, such as -1,1, or name a .npz file with arrays "
            f"{names[0]} and {names[1]}"
        )
    return tuple(map(float, pair))


def _sparse(path: Path) -> sparse.csr_array:
    """Read the matrix that ``scipy.sparse.save_npz`` wrote, and check every index, since SciPy does not check later."""
    try:
        made = sparse.load_npz(path)
        if len(made.shape) != 2 or min(made.shape) < 1:
            raise ValueError(f"its shape is {made.shape}")
        check_stated_size(f"{path} has rows and columns whose indices take", 8 * sum(made.shape))
        if made.format in ("csr", "csc", "bsr"):
            made.check_format(full_check=True)
        return sparse.csr_array(made)
    except UnreluError:
        raise
    except Exception as error:  # SciPy and NumPy raise ValueError, TypeError, KeyError, IndexError, ...
        raise InputError(f"{path} is no sparse matrix of SciPy ({error!s:.200}); use scipy.sparse.save_npz") from error

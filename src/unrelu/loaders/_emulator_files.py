"""Emulators as CosmoPower, CosmoPower-JAX and speculator save them.

They have dense layers with the activation swish, whose parameters are learned neuron by neuron, and a linear last
layer. Means and standard deviations of parameters and outputs, and maybe principal components, are beside them in the
file, as a list whose entries have no names, or by name.

Source: Spurio Mancini et al., "CosmoPower" (2022); Piras and Spurio Mancini, "CosmoPower-JAX" (2023); Alsing et al.,
"SPECULATOR" (2020); and what these packages read and write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unrelu.errors import ModelFileError, OptionError
from unrelu.loaders._torch_operations import float64
from unrelu.loaders._weight_arrays import from_arrays
from unrelu.models.activations import Activation
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.standardisation import standardised
from unrelu.runtime.file_reading import shown_size

# The entries of a list, by its length; sizes, and the modes or wavelengths of the outputs, are not used.
_LAYERS, _STANDARDISED = ("weights_", "biases_", "alphas_", "betas_"), ("parameters_mean", "parameters_std")
_FEATURES, _COMPONENTS = ("features_mean", "features_std"), ("pca_mean", "pca_std")
_ENTRIES: dict[int, tuple[str, ...]] = {
    13: ("weights", "hyper_params", *_STANDARDISED, *_FEATURES, "", "parameters"),  # CosmoPower-JAX
    14: (*_LAYERS, *_STANDARDISED, *_FEATURES),  # speculator, magnitudes
    15: (*_LAYERS, *_STANDARDISED, *_FEATURES, "", "parameters"),  # CosmoPower
    18: (*_LAYERS, *_STANDARDISED, *_COMPONENTS, *_FEATURES, "pca_transform_matrix"),  # speculator, spectra
    19: (
        *_LAYERS, *_STANDARDISED, *_COMPONENTS, *_FEATURES, "parameters", "", "", "", "", "pca_transform_matrix",
    ),  # CosmoPower with PCA
}  # fmt: skip
# Names that mean the same.
_ALIASES = {
    "param_train_mean": "parameters_mean", "param_train_std": "parameters_std", "feature_train_mean": "features_mean",
    "feature_train_std": "features_std", "pca_matrix": "pca_transform_matrix",
}  # fmt: skip


def emulator_entries(contents: object) -> dict[str, Any] | None:
    """The entries of an emulator of CosmoPower or speculator by name; None if the file holds something else."""
    if isinstance(contents, list) and len(contents) in _ENTRIES and isinstance(contents[0], list):
        return {name: value for name, value in zip(_ENTRIES[len(contents)], contents, strict=False) if name}
    if not (isinstance(contents, Mapping) and {"alphas_", "alphas_0", "hyper_params"} & contents.keys()):
        return None
    held = {_ALIASES.get(name) or name: value for name, value in contents.items()}
    if "training_mean" in held and "pca_mean" not in held:  # then those of the features are of components
        held |= {"pca_mean": held.get("features_mean"), "pca_std": held.get("features_std")}
        held |= {"features_mean": held["training_mean"], "features_std": held.get("training_std")}
    return held


def emulator(held: Mapping[str, Any], max_bytes: int) -> Network | NamedGenerator:
    """The network of named entries, in the units of its parameters and of what it was trained to put out.

    Those are spectra or their logarithms, which the file does not say. The latent coordinates have the names of the
    parameters, if the file holds them.

    Raises:
        ModelFileError: an entry is missing, the arrays take more than ``max_bytes`` as float64, or the parameters have
            no proper names.
        ModelError: shapes do not fit, or a number is not finite.
    """
    weights, biases, alphas, betas = _layers(held)
    if not len(weights) == len(biases) == len(alphas) + 1 == len(betas) + 1:
        raise ModelFileError(
            f"the file holds {len(weights)} weights, {len(biases)} biases, {len(alphas)} alphas and {len(betas)} "
            "betas; every layer has a weight and a bias, and all but the last an alpha and a beta"
        )
    parts = [*weights, *biases, *alphas, *betas, *(value for value in held.values() if isinstance(value, np.ndarray))]
    if (size := 8 * sum(part.size for part in parts)) > max_bytes:
        raise ModelFileError(
            f"its arrays take {shown_size(size)} as float64; at most {shown_size(max_bytes)} are read, pass a larger "
            "max_bytes= (--max-bytes) if you trust the file"
        )
    swish = [
        Activation("swish", float64(beta, f"beta {i}").numpy(), steepness=float64(alpha, f"alpha {i}").numpy())
        for i, (alpha, beta) in enumerate(zip(alphas, betas, strict=True))
    ]
    network = from_arrays(weights, biases, [*swish, "identity"])
    inputs, outputs = (_entries(held, names) for names in (_STANDARDISED, _FEATURES))
    basis = None
    if "pca_transform_matrix" in held:
        mean, std = outputs
        (components,) = _entries(held, ("pca_transform_matrix",))
        if components.ndim != 2 or std.size not in (1, components.shape[1]):
            raise ModelFileError(
                f"pca_transform_matrix has shape {components.shape} and features_std {std.shape}; pass (m, n) and (n,)"
            )
        outputs = _entries(held, _COMPONENTS)
        basis = (components * float64(std, "features_std").numpy().reshape(-1), mean)
    network = standardised(network, inputs, outputs, basis)
    names = held.get("parameters")
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return network
    try:
        return network.named(names)
    except OptionError as error:
        raise ModelFileError(f"the names of its parameters: {error}") from error


def _layers(held: Mapping[str, Any]) -> tuple[list[Any], ...]:
    """Weights (outputs, inputs), biases, alphas and betas, in any of the layouts."""
    if "hyper_params" in held:
        pairs = [pair for name in ("weights", "hyper_params") for pair in _pairs(held, name)]
        weights, biases, alphas, betas = pairs
        if biases and biases[-1].size and not np.any(biases[-1][:-1]):
            # CosmoPower-JAX adds the last entry of the last bias to every output, and trains no other entry of it.
            biases[-1] = np.full_like(biases[-1], biases[-1][-1])
        return weights, biases, alphas, betas
    found = []
    for every, each in zip(_LAYERS, ("W_", "b_", "alphas_", "betas_"), strict=True):
        count = next(i for i in range(len(held) + 1) if f"{each}{i}" not in held)
        found.append(_arrays(held.get(every, [held[f"{each}{i}"] for i in range(count)]), every))
    return [weight.T for weight in found[0]], *found[1:]


def _pairs(held: Mapping[str, Any], name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first and the second arrays of a list of pairs."""
    pairs = held.get(name)
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ModelFileError(f"the entry {name!r} of the emulator must be a list of pairs of arrays")
    return _arrays([pair[0] for pair in pairs], name), _arrays([pair[1] for pair in pairs], name)


def _arrays(values: object, name: str) -> list[np.ndarray]:
    """The arrays of a list, or of an array of objects."""
    listed: list[Any] = list(values) if isinstance(values, list | tuple | np.ndarray) else [None]
    if any(not isinstance(value, np.ndarray) or not value.ndim for value in listed):
        raise ModelFileError(f"the entry {name!r} of the emulator must be a list of arrays")
    return listed


def _entries(held: Mapping[str, Any], names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """The arrays of these names."""
    if odd := [name for name in names if not isinstance(held.get(name), np.ndarray)]:
        found = "is missing" if held.get(odd[0]) is None else f"is a {type(held[odd[0]]).__name__}, not an array"
        raise ModelFileError(f"the entry {odd[0]!r} of the emulator {found}")
    return tuple(held[name] for name in names)

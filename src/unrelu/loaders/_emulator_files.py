"""Read emulator files saved by CosmoPower, CosmoPower-JAX and speculator.

These emulators have dense layers with the activation swish, whose parameters are learned for each neuron, and a linear
last layer. The file also holds the means and standard deviations of parameters and outputs, and possibly principal
components. It stores everything either in a list without names or by name.

Source: Spurio Mancini et al., "CosmoPower" (2022); Piras and Spurio Mancini, "CosmoPower-JAX" (2023); Alsing et al.,
"SPECULATOR" (2020); and the reading and writing code of these packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unrelu.errors import ModelFileError, OptionError
from unrelu.loaders._pickled_arrays import readable
from unrelu.loaders._torch_operations import float64
from unrelu.loaders._weight_arrays import from_arrays
from unrelu.models.activations import Activation
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.wrappers.standardisation import standardised

# The names of the list entries, by the length of the list. Unnamed ones (sizes, modes, wavelengths) are not used.
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
# Alternative names of entries.
_ALIASES = {
    "param_train_mean": "parameters_mean", "param_train_std": "parameters_std", "feature_train_mean": "features_mean",
    "feature_train_std": "features_std", "pca_matrix": "pca_transform_matrix",
}  # fmt: skip


def emulator_entries(contents: object) -> dict[str, Any] | None:
    """Return the entries of a CosmoPower or speculator emulator by name; None if the file holds something else."""
    if isinstance(contents, list) and len(contents) in _ENTRIES and isinstance(contents[0], list):
        return {name: value for name, value in zip(_ENTRIES[len(contents)], contents, strict=False) if name}
    if not (isinstance(contents, Mapping) and {"alphas_", "alphas_0", "hyper_params"} & contents.keys()):
        return None
    held = {_ALIASES.get(name) or name: value for name, value in contents.items()}
    if "training_mean" in held and "pca_mean" not in held:  # then features_mean describes the components
        held |= {"pca_mean": held.get("features_mean"), "pca_std": held.get("features_std")}
        held |= {"features_mean": held["training_mean"], "features_std": held.get("training_std")}
    return held


def emulator(held: Mapping[str, Any]) -> Network | NamedGenerator:
    """Build the network from named entries, in the physical units of its parameters and training outputs.

    The outputs are spectra or their logarithms; the file does not say which. The latent coordinates are named after
    the parameters if the file holds their names.

    Raises:
        ModelFileError: an entry is missing or is not an array, or the names of the parameters are not valid.
        ModelError: shapes do not fit, or a number is not finite.
    """
    with readable("emulator of CosmoPower or speculator", "save it again by its package"):
        weights, biases, alphas, betas = _layers(held)
        projected = "pca_transform_matrix" in held
        named = (*_STANDARDISED, *_FEATURES, *((*_COMPONENTS, "pca_transform_matrix") if projected else ()))
        scales = {name: held[name] for name in named}
    if not len(weights) == len(biases) == len(alphas) + 1 == len(betas) + 1:
        raise ModelFileError(
            f"the file holds {len(weights)} weights, {len(biases)} biases, {len(alphas)} alphas and {len(betas)} "
            "betas; every layer has a weight and a bias, and all but the last an alpha and a beta"
        )
    swish = [
        Activation("swish", float64(beta, f"beta {i}").numpy(), steepness=float64(alpha, f"alpha {i}").numpy())
        for i, (alpha, beta) in enumerate(zip(alphas, betas, strict=True))
    ]
    network = from_arrays(weights, biases, [*swish, "identity"])
    basis = None
    if projected:
        components, std = (float64(scales[name], name) for name in ("pca_transform_matrix", "features_std"))
        with readable("emulator with components (m, n) and features_std (n,)"):
            basis = (components.mul_(std.reshape(-1)), scales["features_mean"])
    inputs, outputs = (
        tuple(scales[name] for name in names) for names in (_STANDARDISED, _COMPONENTS if projected else _FEATURES)
    )
    network = standardised(network, inputs, outputs, basis)
    names = held.get("parameters")
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return network
    try:
        return network.named(names)
    except OptionError as error:
        raise ModelFileError(f"the names of its parameters: {error}") from error


def _layers(held: Mapping[str, Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Return weights (outputs, inputs), biases, alphas and betas from any of the layouts."""
    if "hyper_params" in held:
        (weights, biases), (alphas, betas) = (
            map(list, zip(*held[name], strict=True)) for name in ("weights", "hyper_params")
        )
        if not np.any(biases[-1][:-1]):
            # CosmoPower-JAX trains only the last entry of the last bias, and adds it to every output.
            biases[-1] = np.full_like(biases[-1], biases[-1][-1])
        return weights, biases, alphas, betas
    found: list[list[Any]] = []
    for every, each in zip(_LAYERS, ("W_", "b_", "alphas_", "betas_"), strict=True):
        count = next(i for i in range(len(held) + 1) if f"{each}{i}" not in held)
        found.append(list(held.get(every, [held[f"{each}{i}"] for i in range(count)])))
    weights, biases, alphas, betas = found
    return [weight.T for weight in weights], biases, alphas, betas

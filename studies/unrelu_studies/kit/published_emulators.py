"""Emulators and a decoder that others have trained and published, read from their packages where they are installed.

* ``cosmopower-jax``: the spectrum of temperatures of the cosmic microwave background, 2,507 multipoles of six
  parameters (Piras and Spurio Mancini, Open Journal of Astrophysics 6, 2023).
* ``nnero``: the regressor of NNERO, the ionised share of hydrogen against redshift in 28 principal components, of 16
  parameters in [0, 1]; six hidden ReLU layers of 90 (Facchinetti, arXiv:2503.11261, 2025).
* ``py21cmemu``: the default emulator of 21cmEMU, of which the brightness temperature of hydrogen against redshift is
  used: eight shared layers of 1,000 and eight of its own, LeakyReLU, nine parameters (Breitman et al., MNRAS 527,
  2024).
* ``gengli``: noise bursts of gravitational wave detectors, 938 samples of one from 100 latent coordinates; six
  convolutions of up to 1,024 channels with LeakyReLU between, and tanh at the end (Lopez et al., Physical Review D 106,
  2022, 023027).

Three are under the GPL, and nothing of them is here. Weights come with the packages: nothing is downloaded when a study
runs. What else the packages import, and need, is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unrelu
from unrelu.errors import MissingPackageError
from unrelu.loaders import from_torch
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array

# Modules with the commands that install them.
PACKAGES = {
    "cosmopower_jax": "pip install cosmopower-jax --no-deps",
    "gengli": "pip install gengli --no-deps",
    "nnero": "pip install nnero --no-deps",
    "py21cmemu": "pip install py21cmemu --no-deps",
}
GENGLI_COORDINATES = 100
# The box of a fit: omega_b, omega_cdm, h, tau, n_s, log of 10^10 A_s.
CMB_LOWER, CMB_UPPER = (0.019, 0.09, 0.55, 0.02, 0.88, 2.7), (0.025, 0.15, 0.85, 0.12, 1.06, 3.4)


def installed(module: str) -> bool:
    """Whether Python finds a package."""
    return find_spec(module) is not None


def not_measured(modules: Iterable[str]) -> str:
    """A sentence about packages that were not installed, and how to install them; nothing if there are none."""
    commands = [f"`{PACKAGES[module]}`" for module in modules]
    return f"Not measured: what needs {', '.join(commands)}." if commands else ""


def _folder(module: str) -> Path:
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        how = PACKAGES.get(module, f"pip install {module}")
        raise MissingPackageError(f"{module} is not installed: {how}", name=module)
    return Path(found.submodule_search_locations[0])


def _module_in(file: Path, name: str) -> Any:
    """A module of a package, without the package, which imports what is not needed."""
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def cmb_spectrum() -> Generator:
    """The spectrum, (6,) to (2507,).

    Raises:
        MissingPackageError: cosmopower-jax is not installed.
    """
    return unrelu.load(_folder("cosmopower_jax") / "trained_models" / "cmb_tt.pkl", output_log=10)


@cache
def cmb_spectra() -> dict[str, Generator]:
    """The spectra of temperatures, of polarisation and across, "tt", "te" and "ee", each (6,) to (2507,).

    Raises:
        MissingPackageError: cosmopower-jax is not installed.
    """
    folder = _folder("cosmopower_jax")
    names = ("pca_transform_matrix", "training_std", "training_mean")
    matrix, std, mean = (np.load(folder / "pca_utils" / f"cmb_te_{name}.npy") for name in names)
    te = unrelu.load(folder / "trained_models" / "cmb_te.pkl", output_basis=(matrix * std, mean))
    return {"tt": cmb_spectrum(), "te": te, "ee": unrelu.load(folder / "trained_models" / "cmb_ee.pkl", output_log=10)}


def hydrogen_box() -> tuple[Array, Array]:
    """Lower and upper limits of the nine parameters of 21cmEMU."""
    with np.load(_folder("py21cmemu") / "emulator_constants.npz", allow_pickle=False) as constants:
        return constants["limits"][:, 0], constants["limits"][:, 1]


@cache
def ionised_share() -> Network:
    """Principal components of NNERO, (16,) to (28,).

    Raises:
        MissingPackageError: nnero is not installed.
    """
    weights = _folder("nnero") / "nn_data" / "DefaultRegressor_weights.pth"
    network = unrelu.load(weights, activation=["identity", *["relu"] * 6, "identity"])
    assert isinstance(network, Network)
    return network


@cache
def hydrogen_brightness() -> Generator:
    """T_b in mK at 84 redshifts, (9,) to (84,).

    Raises:
        MissingPackageError: py21cmemu is not installed.
    """
    folder, (low, high) = _folder("py21cmemu"), hydrogen_box()
    with np.load(folder / "emulator_constants.npz", allow_pickle=False) as constants:
        mean, std = torch.tensor(constants["Tb_mean"]), torch.tensor(constants["Tb_std"])
    architecture = _module_in(folder / "models" / "acg" / "v1_pytorch.py", "emulator_21cm_architecture")
    model = architecture.load_converted_model(str(folder / "models" / "acg" / "default_model.pt")).double()
    lower, width = torch.tensor(low), torch.tensor(high - low)
    names = [*(f"shared_{i}" for i in range(8)), *(f"tb_{i}" for i in range(7))]

    def brightness(theta: torch.Tensor) -> torch.Tensor:
        h = (theta - lower) / width
        for name in names:
            h = torch.nn.functional.leaky_relu(model.get_submodule(name)(h), model.negative_slope)
        outputs: torch.Tensor = model.tb_final(h)
        return mean + std * outputs

    return from_torch(brightness, latent_shape=9)


@cache
def gengli_decoder() -> Generator:
    """The generator of blips of the detector at Hanford, (100,) to (938,).

    Raises:
        MissingPackageError: gengli is not installed.
    """
    folder = _folder("gengli") / "ctgan"
    architecture = _module_in(folder / "model.py", "gengli_architecture")
    weights = torch.load(folder / "weights" / "blip_H1_CTGAN_state_G.pth", map_location="cpu", weights_only=True)
    module = architecture.GenerativeNet(weights["conv5.1.weight"].shape[0])
    module.load_state_dict(weights)
    return from_torch(torch.nn.Sequential(module.eval(), torch.nn.Flatten()), latent_shape=(1, GENGLI_COORDINATES))

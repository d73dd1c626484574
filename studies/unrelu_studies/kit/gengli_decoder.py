"""gengli's decoder: noise bursts of gravitational wave detectors, 938 samples of one from 100 latent coordinates.

Six convolutions of up to 1,024 channels with LeakyReLU between, and tanh at the end. gengli is under the GPL, and
nothing of it is here: who has installed it (``pip install gengli --no-deps``) has its architecture and weights, which
are read from there; its other modules, and what they need, are not imported.

Source: M. Lopez, V. Boudart, K. Buijsman, A. Reza and S. Caudill, "Simulating transient noise bursts in LIGO with
generative adversarial networks", Physical Review D 106 (2022) 023027.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from unrelu.errors import MissingPackageError
from unrelu.loaders import from_torch
from unrelu.models.generator import Generator

GENGLI, COORDINATES = "gengli", 100
MISSING = "gengli's decoder was not measured, as it was not installed: `pip install gengli --no-deps`"


def installed() -> bool:
    """Whether Python finds gengli."""
    return find_spec(GENGLI) is not None


@cache
def gengli_decoder() -> Generator:
    """The generator of blips of the detector at Hanford, (100,) to (938,).

    Raises:
        MissingPackageError: gengli is not installed.
    """
    found = find_spec(GENGLI)
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError("gengli's decoder needs gengli: pip install gengli --no-deps", name=GENGLI)
    folder = Path(found.submodule_search_locations[0]) / "ctgan"
    spec = spec_from_file_location("gengli_architecture", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    architecture = module_from_spec(spec)
    spec.loader.exec_module(architecture)
    weights = torch.load(folder / "weights" / "blip_H1_CTGAN_state_G.pth", map_location="cpu", weights_only=True)
    module = architecture.GenerativeNet(weights["conv5.1.weight"].shape[0])
    module.load_state_dict(weights)
    return from_torch(torch.nn.Sequential(module.eval(), torch.nn.Flatten()), latent_shape=(1, COORDINATES))

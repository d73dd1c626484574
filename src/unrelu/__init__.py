"""unrelu: invert deep ReLU generative models, one layer at a time and jointly.

The public names are imported when they are first used, so that ``import unrelu`` and ``unrelu --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrelu import adapters, errors, hardness, theory, zoo
    from unrelu.adapters import LatentInverter as LatentInverter
    from unrelu.batch import Run, open_run, run
    from unrelu.certification import certify
    from unrelu.generator import Generator
    from unrelu.inspection import inspect
    from unrelu.loaders import from_arrays, from_torch, load
    from unrelu.network import Layer, Network
    from unrelu.opaque import OpaqueNetwork
    from unrelu.operators import Mask, Matrix
    from unrelu.problem import Problem, Progress
    from unrelu.proofs import Certificate, ProofStatus
    from unrelu.proofs.identifiability import Identifiability, identifiability
    from unrelu.result import Inversion, Status
    from unrelu.solve import invert

__version__ = "0.1.0"

# Names that need an optional package are importable, but not in __all__: ``from unrelu import *`` does without it.
__all__ = [
    "Certificate",
    "Generator",
    "Identifiability",
    "Inversion",
    "Layer",
    "Mask",
    "Matrix",
    "Network",
    "OpaqueNetwork",
    "Problem",
    "Progress",
    "ProofStatus",
    "Run",
    "Status",
    "adapters",
    "certify",
    "errors",
    "from_arrays",
    "from_torch",
    "hardness",
    "identifiability",
    "inspect",
    "invert",
    "load",
    "open_run",
    "run",
    "theory",
    "zoo",
]

_HOME = {
    "Certificate": "unrelu.proofs",
    "Generator": "unrelu.generator",
    "Identifiability": "unrelu.proofs.identifiability",
    "Inversion": "unrelu.result",
    "LatentInverter": "unrelu.adapters",
    "Layer": "unrelu.network",
    "Mask": "unrelu.operators",
    "Matrix": "unrelu.operators",
    "Network": "unrelu.network",
    "OpaqueNetwork": "unrelu.opaque",
    "Problem": "unrelu.problem",
    "Progress": "unrelu.problem",
    "ProofStatus": "unrelu.proofs",
    "Run": "unrelu.batch",
    "Status": "unrelu.result",
    "certify": "unrelu.certification",
    "from_arrays": "unrelu.loaders",
    "from_torch": "unrelu.loaders",
    "identifiability": "unrelu.proofs.identifiability",
    "inspect": "unrelu.inspection",
    "invert": "unrelu.solve",
    "load": "unrelu.loaders",
    "open_run": "unrelu.batch",
    "run": "unrelu.batch",
}


def __getattr__(name: str) -> Any:
    if name in ("adapters", "errors", "hardness", "theory", "zoo"):
        value: Any = import_module(f"unrelu.{name}")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'unrelu' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""unrelu: invert deep ReLU generative models, one layer at a time and jointly.

The public names are imported when they are first used, so that ``import unrelu`` and ``unrelu --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unrelu._version import __version__ as __version__

if TYPE_CHECKING:
    from unrelu import adapters, errors, hardness, measurements, theory, zoo
    from unrelu._certify import certify
    from unrelu._inspect import inspect
    from unrelu._invert import invert
    from unrelu.adapters import LatentInverter as LatentInverter
    from unrelu.certification.certificate import Certificate, Certificates, ProofStatus
    from unrelu.diagnostics.identifiability import Identifiability, identifiability
    from unrelu.loaders import from_arrays, from_torch, load
    from unrelu.measurements import Mask, Matrix
    from unrelu.models.generator import Generator
    from unrelu.models.network import Layer, Network
    from unrelu.models.opaque_network import OpaqueNetwork
    from unrelu.problem import Problem, Progress
    from unrelu.result import Inversion, Status
    from unrelu.runs import Run, open_run, run

# Names that need an optional package are importable, but not in __all__: ``from unrelu import *`` does without it.
__all__ = [
    "Certificate",
    "Certificates",
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
    "measurements",
    "open_run",
    "run",
    "theory",
    "zoo",
]

_HOME = {
    "Certificate": "unrelu.certification.certificate",
    "Certificates": "unrelu.certification.certificate",
    "Generator": "unrelu.models.generator",
    "Identifiability": "unrelu.diagnostics.identifiability",
    "Inversion": "unrelu.result",
    "LatentInverter": "unrelu.adapters",
    "Layer": "unrelu.models.network",
    "Mask": "unrelu.measurements",
    "Matrix": "unrelu.measurements",
    "Network": "unrelu.models.network",
    "OpaqueNetwork": "unrelu.models.opaque_network",
    "Problem": "unrelu.problem",
    "Progress": "unrelu.problem",
    "ProofStatus": "unrelu.certification.certificate",
    "Run": "unrelu.runs",
    "Status": "unrelu.result",
    "certify": "unrelu._certify",
    "from_arrays": "unrelu.loaders",
    "from_torch": "unrelu.loaders",
    "identifiability": "unrelu.diagnostics.identifiability",
    "inspect": "unrelu._inspect",
    "invert": "unrelu._invert",
    "load": "unrelu.loaders",
    "open_run": "unrelu.runs",
    "run": "unrelu.runs",
}


def __getattr__(name: str) -> Any:
    if name in ("adapters", "errors", "hardness", "measurements", "theory", "zoo"):
        value: Any = import_module(f"unrelu.{name}")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'unrelu' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

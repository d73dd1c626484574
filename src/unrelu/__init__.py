"""unrelu: invert deep ReLU generative models, one layer at a time and jointly.

The public names are imported when they are first used, so that ``import unrelu`` and ``unrelu --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unrelu._version import __version__ as __version__

if TYPE_CHECKING:
    from unrelu import adapters as adapters
    from unrelu import errors, measurements, methods, zoo
    from unrelu._calibrate import calibrate
    from unrelu._certify import certify
    from unrelu._inspect import inspect
    from unrelu._invert import invert
    from unrelu._load_result import load_result
    from unrelu.adapters import LatentInverter as LatentInverter
    from unrelu.certification.certificate import Certificate, Certificates, ProofStatus
    from unrelu.diagnostics.identifiability import Identifiability, identifiability
    from unrelu.loaders import from_arrays, from_torch, load
    from unrelu.measurements import Mask, Matrix
    from unrelu.measurements.count_noise import NegativeBinomial, Poisson
    from unrelu.measurements.noise import Gaussian, Outliers, Uniform
    from unrelu.models.generator import Generator
    from unrelu.models.network import Network
    from unrelu.models.nuisance_parameters import extend
    from unrelu.problem import Problem, Progress
    from unrelu.result import Inversion, Status
    from unrelu.runs import Run, open_run, run

# What needs an optional package is importable, but not in __all__: ``import *`` does without.
__all__ = [
    "Certificate",
    "Certificates",
    "Gaussian",
    "Generator",
    "Identifiability",
    "Inversion",
    "Mask",
    "Matrix",
    "NegativeBinomial",
    "Network",
    "Outliers",
    "Poisson",
    "Problem",
    "Progress",
    "ProofStatus",
    "Run",
    "Status",
    "Uniform",
    "calibrate",
    "certify",
    "errors",
    "extend",
    "from_arrays",
    "from_torch",
    "identifiability",
    "inspect",
    "invert",
    "load",
    "load_result",
    "measurements",
    "methods",
    "open_run",
    "run",
    "zoo",
]

_HOME = {
    "Certificate": "unrelu.certification.certificate",
    "Certificates": "unrelu.certification.certificate",
    "Gaussian": "unrelu.measurements.noise",
    "Generator": "unrelu.models.generator",
    "Identifiability": "unrelu.diagnostics.identifiability",
    "Inversion": "unrelu.result",
    "LatentInverter": "unrelu.adapters",
    "Mask": "unrelu.measurements",
    "Matrix": "unrelu.measurements",
    "NegativeBinomial": "unrelu.measurements.count_noise",
    "Network": "unrelu.models.network",
    "Outliers": "unrelu.measurements.noise",
    "Poisson": "unrelu.measurements.count_noise",
    "Problem": "unrelu.problem",
    "Progress": "unrelu.problem",
    "ProofStatus": "unrelu.certification.certificate",
    "Run": "unrelu.runs",
    "Status": "unrelu.result",
    "Uniform": "unrelu.measurements.noise",
    "calibrate": "unrelu._calibrate",
    "certify": "unrelu._certify",
    "extend": "unrelu.models.nuisance_parameters",
    "from_arrays": "unrelu.loaders",
    "from_torch": "unrelu.loaders",
    "identifiability": "unrelu.diagnostics.identifiability",
    "inspect": "unrelu._inspect",
    "invert": "unrelu._invert",
    "load": "unrelu.loaders",
    "load_result": "unrelu._load_result",
    "open_run": "unrelu.runs",
    "run": "unrelu.runs",
}


def __getattr__(name: str) -> Any:
    if name in ("adapters", "errors", "measurements", "methods", "zoo"):
        value: Any = import_module(f"unrelu.{name}")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'unrelu' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

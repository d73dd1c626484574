"""unrelu inside other libraries: a scikit-learn transformer and a deepinv reconstructor.

Each needs its library, which is an optional one, so they are imported when they are first used. Without the library
that is a :class:`~unrelu.errors.MissingPackageError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrelu.adapters._deepinv_reconstructor import GeneratorReconstructor
    from unrelu.adapters._sklearn_inverter import LatentInverter

__all__ = ["GeneratorReconstructor", "LatentInverter"]

_HOME = {"GeneratorReconstructor": "deepinv_reconstructor", "LatentInverter": "sklearn_inverter"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unrelu.adapters' has no attribute {name!r}")
    return getattr(import_module(f"unrelu.adapters.{_HOME[name]}"), name)
